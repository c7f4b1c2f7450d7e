"""Milliseconds per face on one thread: octamark's models beside dlib and MediaPipe, in one run.

    pip install dlib-bin face_recognition_models "setuptools<81" ai-edge-litert     (missing peers are left out)
    pip install --no-deps mediapipe==0.10.21 scikit-image     (only for the mesh network's file and the photograph)
    python -m benchmarks.speed [--runs 200] [--update]

Only the landmark step is timed, from the picture's pixels to points: the face is already found. octamark's time
includes the crop, dlib reads the picture itself, MediaPipe's mesh gets a crop. The tasks take turns of ten timed calls
on ten different views of a face, after two untimed ones; the figure is the median. Detection is timed apart."""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.mediapipe_mesh import load_mesh
from benchmarks.timing import take_turns

import octamark
from octamark import models
from octamark.geometry import crop_transform, detector_squares

UNTIMED, TIMED = 2, 10  # calls in a task's turn
DLIB = "dlib 68"

Task = tuple[int, Callable[[int], object]]
"""How many faces a call reads, and the call, on the view of a number."""


def measurement(rows: Sequence[Sequence[Value]], runs: int) -> Measurement:
    """The entry for results.json."""
    return Measurement(
        name="speed",
        page="speed",
        title="Milliseconds per face",
        text="One thread, the face already found, crop included; medians of calls in alternating turns. dlib is the "
        "68-point model of `face_recognition_models`, MediaPipe its face mesh; neither tells how far off a "
        "point is. dlib's time depends on its 100 MB of trees being in the processor's cache: where all "
        "detectors alternate face by face ([peers](peers.md)), it takes more than twice as long.",
        columns=(
            ("", ""), ("ms", ".2f"), ("10th percentile", ".2f"), ("90th percentile", ".2f"), ("times dlib", ".2f"),
        ),
        rows=rows,
        command=f"python -m benchmarks.speed --runs {runs}",
        data="one portrait, twelve views",
    )  # fmt: skip


def photograph() -> np.ndarray:
    """NASA's portrait of Eileen Collins, public domain, from scikit-image."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the photograph comes with scikit-image: pip install --no-deps scikit-image")
    return octamark.read_picture(Path(spec.origin).parent / "data" / "astronaut.png")


def views(picture: np.ndarray) -> list[np.ndarray]:
    """The portrait turned, scaled, shifted and lit differently each time: detectors rarely see one picture twice."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(UNTIMED + TIMED):
        matrix = cv2.getRotationMatrix2D((224, 115), rng.uniform(-20, 20), rng.uniform(0.8, 1.6))
        matrix[:, 2] += rng.uniform(-20, 20, 2)
        turned = cv2.warpAffine(picture, matrix, (512, 512))
        pictures.append(cv2.convertScaleAbs(turned, alpha=rng.uniform(0.6, 1.2), beta=rng.uniform(-20, 20)))
    return pictures


def octamark_tasks(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> dict[str, Task]:
    """Every shipped model, and the refined reading, one face and 16 faces at a time."""
    configurations = [(name, name, "never") for name in models.available()]
    configurations.append((f"{models.REGIONS_MODEL} refined", models.REGIONS_MODEL, "always"))
    tasks: dict[str, Task] = {}
    for title, model, refine in configurations:
        landmarker = octamark.load(model, refine=refine, threads=1)  # type: ignore[arg-type]
        for batch in (1, 16):

            def call(view: int, landmarker: octamark.Landmarker = landmarker, batch: int = batch) -> object:
                return landmarker(pictures[view], np.repeat(boxes[view][None], batch, axis=0))

            tasks[f"octamark {title}, batch {batch}"] = (batch, call)
    return tasks


def dlib_task(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> dict[str, Task]:
    """dlib's 68-point model."""
    import dlib
    import face_recognition_models

    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    rectangles = [dlib.rectangle(*(int(side) for side in box)) for box in boxes]
    return {DLIB: (1, lambda view: predictor(pictures[view], rectangles[view]))}


def mediapipe_task(pictures: list[np.ndarray], boxes: list[np.ndarray]) -> dict[str, Task]:
    """MediaPipe's face mesh network on its 192x192 crop, run by the LiteRT interpreter."""
    vertices, side = load_mesh()

    def call(view: int) -> object:
        square = detector_squares(boxes[view], 1.5, (0.0, 0.0))[0]
        return vertices(pictures[view], crop_transform(square, side))

    return {"MediaPipe face mesh, 468 points": (1, call)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="calls of each task")
    add_update_option(parser)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    pictures = views(photograph())
    detector = octamark.FaceDetector()
    boxes = [detector(picture)[0][0] for picture in pictures]
    tasks = octamark_tasks(pictures, boxes)
    for peer in (dlib_task, mediapipe_task):
        try:
            tasks |= peer(pictures, boxes)
        except ImportError as error:
            print(f"left out: {peer.__name__.removesuffix('_task')} ({error})")
    tasks["detection (YuNet, 512x512)"] = (1, lambda view: detector(pictures[view]))

    calls = {name: call for name, (_, call) in tasks.items()}
    times = take_turns(calls, max(1, arguments.runs // TIMED), TIMED, UNTIMED)
    per_face = {name: [ms / tasks[name][0] for ms in values] for name, values in times.items()}
    dlib_time = statistics.median(per_face[DLIB]) if DLIB in per_face else None
    rows: list[list[Value]] = []
    for name, values in per_face.items():
        low, high = np.percentile(values, [10, 90]).tolist()
        middle = statistics.median(values)
        rows.append([name, middle, low, high, middle / dlib_time if dlib_time else None])
    finish([measurement(rows, arguments.runs)], arguments.update)


if __name__ == "__main__":
    main()
