"""Milliseconds per face, one thread, warm: octamark's sizes beside dlib and MediaPipe, in one run, as ratios.

    pip install dlib-bin face_recognition_models "setuptools<81" ai-edge-litert     (a missing peer is said)
    pip install --no-deps mediapipe==0.10.21 scikit-image     (for the network's file and the photograph alone)
    python benchmarks/speed.py [--runs 200]

The face is already found: only the landmark step is timed, from the picture's pixels to points (crop included for
octamark; dlib reads the picture itself; MediaPipe's mesh gets a crop). The contestants take turns of ten calls on ten
different views of a face, two before them untimed, so that a busy machine is unfair to none and no cache holds the
answer; the figure is the median. Detection is timed apart.
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
from mediapipe_mesh import load_mesh
from rich.console import Console
from rich.table import Table

import octamark
from octamark import models
from octamark.geometry import crop_transform, detector_squares

WARM, ROUND = 2, 10  # calls of a contestant's turn: untimed, timed

Task = tuple[str, int, Callable[[int], object]]  # name, faces per call, a call on one of the views


def photograph() -> np.ndarray:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the photograph comes with scikit-image: pip install --no-deps scikit-image")
    return octamark.read_picture(Path(spec.origin).parent / "data" / "astronaut.png")


def views(picture: np.ndarray) -> list[np.ndarray]:
    """The portrait turned, scaled, shifted and lit differently each time: a detector rarely sees one face twice."""
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(WARM + ROUND):
        matrix = cv2.getRotationMatrix2D((224, 115), rng.uniform(-20, 20), rng.uniform(0.8, 1.6))
        matrix[:, 2] += rng.uniform(-20, 20, 2)
        turned = cv2.warpAffine(picture, matrix, (512, 512))
        seen.append(cv2.convertScaleAbs(turned, alpha=rng.uniform(0.6, 1.2), beta=rng.uniform(-20, 20)))
    return seen


def ours(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> list[Task]:
    tasks: list[Task] = []
    looks = [(name, name, "never") for name in models.available()]
    looks.append((f"{models.REGIONS_MODEL} refined", models.REGIONS_MODEL, "always"))
    for name, model, refine in looks:
        landmarker = octamark.load(model, refine=refine, threads=1)  # type: ignore[arg-type]
        for batch in (1, 16):

            def call(turn: int, landmarker: octamark.Landmarker = landmarker, batch: int = batch) -> object:
                return landmarker(pictures[turn], np.repeat(boxes[turn][None], batch, axis=0))

            tasks.append((f"octamark {name}, batch {batch}", batch, call))
    return tasks


def dlib_task(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> Task:
    import dlib
    import face_recognition_models

    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    rectangles = [dlib.rectangle(*(int(side) for side in box)) for box in boxes]
    return "dlib 68", 1, lambda turn: predictor(pictures[turn], rectangles[turn])


def mediapipe_task(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> Task:
    """MediaPipe's face mesh network on its 192x192 crop, run by the LiteRT interpreter."""
    vertices, side = load_mesh()

    def call(turn: int) -> object:
        square = detector_squares(boxes[turn], 1.5, (0.0, 0.0))[0]
        return vertices(pictures[turn], crop_transform(square, side))

    return "MediaPipe face mesh, 468 points", 1, call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="calls of each contestant")
    runs = parser.parse_args().runs
    cv2.setNumThreads(1)
    console = Console(width=100)
    pictures = views(photograph())
    detector = octamark.FaceDetector()
    boxes = [detector(picture)[0][0] for picture in pictures]
    tasks = ours(pictures, boxes)
    for peer in (dlib_task, mediapipe_task):
        try:
            tasks.append(peer(pictures, boxes))
        except ImportError as error:
            console.print(f"left out: {peer.__name__.removesuffix('_task')} ({error})", markup=False)
    tasks.append(("detection (YuNet, 512x512)", 1, lambda turn: detector(pictures[turn])))

    times: dict[str, list[float]] = {name: [] for name, _, _ in tasks}
    for _ in range(max(1, runs // ROUND)):
        for name, faces, call in tasks:
            for turn in range(WARM + ROUND):
                start = time.perf_counter()
                call(turn)
                if turn >= WARM:
                    times[name].append((time.perf_counter() - start) * 1000 / faces)

    base = statistics.median(times.get("dlib 68", times["octamark nano, batch 1"]))
    table = Table(title=f"ms per face, one thread, median of {runs} calls in alternating turns", title_justify="left")
    for column in ("", "ms", "10th to 90th percentile", "times dlib" if "dlib 68" in times else "times nano"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in times.items():
        low, high = np.percentile(values, [10, 90])
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{low:.2f} to {high:.2f}", f"{median / base:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
