"""Milliseconds per face, one thread, warm: octamark's sizes beside dlib and MediaPipe, in one run, as ratios.

    pip install dlib-bin face_recognition_models "setuptools<81" ai-edge-litert     (a missing peer is said)
    pip install --no-deps mediapipe==0.10.21 scikit-image     (for the network's file and the photograph alone)
    python benchmarks/speed.py [--runs 200]

The face is already found: only the landmark step is timed, from the picture's pixels to points (crop included for
octamark; dlib reads the picture itself; MediaPipe's mesh gets a crop). Rounds of all contestants alternate, so that a
busy machine is unfair to none; the figure is the median of a contestant's rounds. Detection is timed apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

import octamark
from octamark.geometry import crop, crop_transform, detector_squares

Task = tuple[str, int, Callable[[], object]]  # name, faces per call, one call


def photograph() -> np.ndarray:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the photograph comes with scikit-image: pip install --no-deps scikit-image")
    return octamark.read_picture(Path(spec.origin).parent / "data" / "astronaut.png")


def ours(picture: np.ndarray, box: np.ndarray) -> list[Task]:
    tasks: list[Task] = []
    for name in ("nano", "tiny", "small"):
        landmarker = octamark.load(name, threads=1)
        for batch in (1, 16):
            boxes = np.repeat(box[None], batch, axis=0)
            tasks.append((f"octamark {name}, batch {batch}", batch, lambda m=landmarker, b=boxes: m(picture, b)))
    return tasks


def dlib_task(picture: np.ndarray, box: np.ndarray) -> Task:
    import dlib
    import face_recognition_models

    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    rectangle = dlib.rectangle(*(int(side) for side in box))
    return "dlib 68", 1, lambda: predictor(picture, rectangle)


def mediapipe_task(picture: np.ndarray, box: np.ndarray) -> Task:
    """MediaPipe's face mesh network on its 192x192 crop, run by the LiteRT interpreter."""
    spec = importlib.util.find_spec("mediapipe")
    model = Path(spec.origin or "").parent / "modules/face_landmark/face_landmark.tflite" if spec else Path()
    if not model.is_file():
        raise ImportError("no mediapipe with face_landmark.tflite; releases up to 0.10.21 carry it")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    side = int(entry["shape"][1])
    square = detector_squares(box, 1.5, (0.0, 0.0))[0]

    def call() -> object:
        pixels = crop(picture, crop_transform(square, side), side).astype(np.float32)[None] / 255
        interpreter.set_tensor(entry["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return "MediaPipe face mesh, 468 points", 1, call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="calls of each contestant")
    runs = parser.parse_args().runs
    cv2.setNumThreads(1)
    console = Console(width=100)
    picture = photograph()
    detector = octamark.FaceDetector()
    box = detector(picture)[0][0]
    tasks = ours(picture, box)
    for peer in (dlib_task, mediapipe_task):
        try:
            tasks.append(peer(picture, box))
        except ImportError as error:
            console.print(f"left out: {peer.__name__.removesuffix('_task')} ({error})", markup=False)
    tasks.append(("detection (YuNet, 512x512)", 1, lambda: detector(picture)))

    times: dict[str, list[float]] = {name: [] for name, _, _ in tasks}
    for _, _, call in tasks:  # warm
        for _ in range(5):
            call()
    for _ in range(runs):
        for name, faces, call in tasks:
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1000 / faces)

    base = statistics.median(times.get("dlib 68", times["octamark nano, batch 1"]))
    table = Table(title=f"ms per face, one thread, median of {runs} alternating calls", title_justify="left")
    for column in ("", "ms", "10th to 90th percentile", "times dlib" if "dlib 68" in times else "times nano"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in times.items():
        low, high = np.percentile(values, [10, 90])
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{low:.2f} to {high:.2f}", f"{median / base:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
