"""Recall, precision and milliseconds of the face detector on whole pictures, beside those of another version.

    pip install --no-deps scikit-image     (for pictures without a face)
    python -m benchmarks.detection DATA [--before OTHER/src] [--count 100] [--update]

DATA holds 300w/ (train and val), unlabelled/ (portraits and video frames of one person each) and heads/hdri/
(environments without people). The other pictures are made from them with a fixed seed: collages of faces of 12 to 400
pixels on backgrounds without a face, and faces of 300W's training split that are occluded, dark, blurred or turned.

A face counts as found if a box overlaps the box around its points by an IoU of at least 0.2. Where somebody is in the
picture, but nobody has labelled where, any box counts. Boxes on no labelled face are false; in 300W's pictures most of
them lie on other people. Where the detector finds nothing, ``small`` may still confirm a face; its result counts.

With --before, the source of another version runs in a process of its own, and the two take turns picture by picture.
Milliseconds are those of the detector alone, on one thread: the lesser of two calls, then the mean over pictures."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

import cv2
import numpy as np
from benchmarks.measurements import ROOT, Measurement, Value, add_update_option, finish
from rich.progress import track

import octamark
from octamark.datasets import Sample, read
from octamark.geometry import apply, crop, crop_transform, invert, landmark_boxes

SIZES = ((512, 512), (640, 480), (1024, 768), (1280, 960), (1920, 1280), (3000, 2000))
"""Width and height of the collages."""

FACELESS = (
    "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "color.png", "grass.png",
    "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png", "microaneurysms.png", "moon.png",
    "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
"""scikit-image's pictures without a face."""

CLASSES = {"under 16": (0, 16), "16 to 32": (16, 32), "32 to 64": (32, 64), "64 and more": (64, np.inf)}
"""Sides of the faces in collages, in pixels where the picture's longer side has 640."""

HARD = ("occluded", "dark", "blurred", "turned", "turned and occluded")


NO_FACE, UNLABELLED = ("no face", "below the chin"), ("portraits", "video frames")
"""Kinds of pictures without a face, and of pictures in which nobody has labelled where the face is."""

TEXT = (
    "*Before* is version 0.1.0, which ran YuNet in OpenCV at 640 pixels, and tried 320 pixels with a border, 1,280 "
    "pixels and quarter turns where it found nothing. A face is found if a box overlaps the box around its points by "
    "an IoU of at least 0.2; in portraits and video frames, whose faces have no labels, if there is a box. False "
    "boxes lie on no labelled face; in 300W's pictures and in those of hard faces, which are made from them, many lie "
    "on other people. Where the detector finds nothing, `small` may confirm a less certain face. Milliseconds are "
    "the detector's alone, on one thread: the lesser of two calls in alternating turns, mean over pictures."
)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture whose faces are known.

    Attributes:
        kind: of the picture.
        picture: (H, W, 3) uint8 RGB.
        boxes: (n, 4) xyxy around the 68 points of each face; None where somebody is in the picture, but not where.
    """

    kind: str
    picture: np.ndarray
    boxes: np.ndarray | None


def backgrounds(data: Path) -> list[np.ndarray]:
    """Pictures without a face: scikit-image's, and the environments that the renderer uses."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the backgrounds come with scikit-image: pip install --no-deps scikit-image")
    pictures = [octamark.read_picture(Path(spec.origin).parent / "data" / name) for name in FACELESS]
    for path in sorted((data / "heads" / "hdri").glob("*.exr")):
        light = np.clip(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1], 0, None)
        pictures.append((np.clip(light / np.quantile(light, 0.95), 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))
    return pictures


def fitted(picture: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, at least half of it, scaled to a width and height."""
    rows, columns = picture.shape[:2]
    share = rng.uniform(0.5, 1) * min(columns / width, rows / height)
    w, h = max(2, int(width * share)), max(2, int(height * share))
    left, top = int(rng.integers(columns - w + 1)), int(rng.integers(rows - h + 1))
    part = picture[top : top + h, left : left + w]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if w > width else cv2.INTER_CUBIC)


def collage(kind: str, samples: Sequence[Sample], grounds: Sequence[np.ndarray], rng: np.random.Generator) -> Scene:
    """Faces of known size on a background without one: ``many``, ``one large and small ones`` or ``few``."""
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = fitted(grounds[rng.integers(len(grounds))], width, height, rng).astype(np.float32)
    largest = min(400.0, 0.45 * height)
    count = {"many": int(rng.integers(8, 31)), "mixed": int(rng.integers(2, 8)), "few": int(rng.integers(1, 5))}.get(
        kind, 2
    )
    sides = np.exp(rng.uniform(np.log(12), np.log(largest), count))
    if kind == "small":
        sides = np.exp(rng.uniform(np.log(12), np.log(48), int(rng.integers(1, 5))))
    if kind == "mixed":
        sides[0] = rng.uniform(0.6, 1.0) * largest
        sides[1:] = np.exp(rng.uniform(np.log(12), np.log(0.25 * largest), count - 1))
    taken: list[tuple[float, float, float]] = []
    boxes = []
    for side in np.sort(sides)[::-1]:
        reach = 0.9 * side  # about the head
        for _ in range(50):
            x, y = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
            if all(np.hypot(x - a, y - b) > 1.1 * (reach + r) for a, b, r in taken):
                break
        else:
            continue
        taken.append((x, y, reach))
        sample = samples[rng.integers(len(samples))]
        boxes.append(paste(canvas, sample, x, y, side))
    return Scene(f"collage, {kind}", canvas.round().astype(np.uint8), np.array(boxes))


def paste(canvas: np.ndarray, sample: Sample, x: float, y: float, side: float) -> np.ndarray:
    """Put a head on a canvas (H, W, 3) float32, its face centred at (x, y); returns the box around its points (4,)."""
    box = landmark_boxes(sample.landmarks)
    scale = side / np.sqrt(np.prod(box[2:] - box[:2]))
    size = int(np.ceil(2.2 * side))
    left, top = round(x - size / 2), round(y - size / 2)
    centre = (box[:2] + box[2:]) / 2
    transform = crop_transform(np.array([*centre, size / scale]), size)
    head = crop(sample.read(), transform, size).astype(np.float32)
    rows, columns = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    distance = np.hypot((columns - middle) / (0.72 * side), (rows - middle + 0.15 * side) / (0.92 * side))
    mask = np.clip((1.1 - distance) / 0.2, 0, 1)[..., None].astype(np.float32)
    h, w = canvas.shape[:2]
    part = np.s_[max(0, top) : min(h, top + size), max(0, left) : min(w, left + size)]
    inner = np.s_[max(0, -top) : size - max(0, top + size - h), max(0, -left) : size - max(0, left + size - w)]
    canvas[part] = mask[inner] * head[inner] + (1 - mask[inner]) * canvas[part]
    points = apply(invert(transform), sample.landmarks) + np.array([left, top])
    return landmark_boxes(points)


def hard(kind: str, sample: Sample, rng: np.random.Generator) -> Scene:
    """A face that is occluded, dark, blurred or turned, in the picture around it."""
    picture, landmarks = sample.read(), sample.landmarks.astype(np.float64)
    scale = rng.uniform(240, 900) / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    landmarks = (landmarks + 0.5) * scale - 0.5
    box = landmark_boxes(landmarks)
    w, h = box[2:] - box[:2]
    if "occluded" in kind:
        colour = rng.integers(0, 256, 3).tolist()
        place = rng.integers(4)
        share = rng.uniform(0.35, 0.55)
        x1, y1, x2, y2 = box + np.array([-0.1 * w, -0.3 * h, 0.1 * w, 0.1 * h])
        if place == 0:  # a hat
            y2 = box[1] + share * 0.6 * h
        elif place == 1:  # goggles
            y1, y2 = box[1] - 0.02 * h, box[1] + 0.4 * h
        elif place == 2:  # a scarf
            y1 = box[3] - share * h
        elif rng.random() < 0.5:  # hair, a hand
            x1 = box[2] - share * w
        else:
            x2 = box[0] + share * w
        cv2.rectangle(picture, (int(x1), int(y1)), (int(x2), int(y2)), colour, -1)
    if kind == "dark":
        ramp = np.linspace(rng.uniform(0, 1), rng.uniform(0, 1), picture.shape[1])[None, :, None]
        light = picture * rng.uniform(0.06, 0.25) * (0.4 + ramp) + rng.normal(0, rng.uniform(2, 8), picture.shape)
        picture = np.clip(light, 0, 255).astype(np.uint8)
    if kind == "blurred":
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.04, 0.1) * np.sqrt(w * h)))
    if "turned" in kind:
        rows, columns = picture.shape[:2]
        matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), float(rng.uniform(0, 360)), 1.0)
        side = int(np.hypot(rows, columns))
        matrix[:, 2] += (side - columns) / 2, (side - rows) / 2
        picture = cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        landmarks = apply(matrix, landmarks)
    return Scene(f"hard, {kind}", picture, landmark_boxes(landmarks)[None])


def filling(sample: Sample, rng: np.random.Generator) -> Scene:
    """A face that fills the picture: a margin of at most a tenth around its points."""
    picture = sample.read()
    box = landmark_boxes(sample.landmarks)
    sides = box[2:] - box[:2]
    left, top = np.maximum(0, box[:2] - rng.uniform(0, 0.1, 2) * sides).astype(int)
    right, bottom = np.ceil(box[2:] + rng.uniform(0, 0.1, 2) * sides).astype(int)
    return Scene("fills the picture", picture[top:bottom, left:right], (box - [left, top, left, top])[None])


def shoulders(sample: Sample) -> np.ndarray | None:
    """The part of a picture below the chin; None if it is not 48 pixels high."""
    picture = sample.read()
    bottom = int(landmark_boxes(sample.landmarks)[3])
    part = picture[int(bottom + 0.06 * len(picture)) :]
    return part if len(part) >= 48 else None


def empty(ground: np.ndarray, rng: np.random.Generator) -> Scene:
    width, height = SIZES[rng.integers(len(SIZES))]
    return Scene("no face", fitted(ground, width, height, rng), np.zeros((0, 4)))


def scenes(data: Path, count: int) -> Iterator[Scene]:
    """All pictures of the benchmark, about ``count`` of each kind, the same at every call."""
    val = read("300w", data / "300w", "val")
    held_out = {sample.name for sample in val}
    train = [sample for sample in read("300w", data / "300w", "train") if sample.name not in held_out]
    rng = np.random.default_rng(17)
    order = rng.permutation(len(train))
    for sample in [*val, *(train[i] for i in order[:count])]:
        yield Scene("300W", sample.read(), landmark_boxes(sample.landmarks)[None])
    for kind, pattern in (("portraits", "congress_*.jpg"), ("video frames", "ytf_*.jpg")):
        paths = sorted((data / "unlabelled").glob(pattern))
        for i in rng.permutation(len(paths))[:count]:
            yield Scene(kind, octamark.read_picture(paths[i]), None)
    for i in rng.permutation(len(train))[:count]:
        yield filling(train[i], rng)
    grounds = backgrounds(data)
    for kind in ("few", "mixed", "many", "small"):
        for _ in range(count):
            yield collage(kind, train, grounds, rng)
    for kind in HARD:
        for i in rng.permutation(len(train))[:count]:
            yield hard(kind, train[i], rng)
    for _ in range(count):
        yield empty(grounds[rng.integers(len(grounds))], rng)
    for i in rng.permutation(len(train))[:count]:
        if (strip := shoulders(train[i])) is not None:
            yield Scene("below the chin", strip, np.zeros((0, 4)))


Row = Mapping[str, Any]
"""What was found in a picture: ``hits``, a truth value for each face, ``false``, ``any`` and ``ms``."""


def observe(scene: Scene, detector: octamark.FaceDetector, landmarker: octamark.Landmarker) -> Row:
    """What is found in a picture, and how long the detector takes."""
    milliseconds = []
    for _ in range(2):
        start = time.perf_counter()
        boxes, scores = detector(scene.picture)
        milliseconds.append((time.perf_counter() - start) * 1000)
    if not len(boxes):
        faces = landmarker(scene.picture)
        boxes, scores = faces.boxes, faces.scores
    truth = np.zeros((0, 4)) if scene.boxes is None else scene.boxes
    hits, false = matched(boxes, scores, truth)
    return {"hits": hits, "false": 0 if scene.boxes is None else false, "any": len(boxes) > 0, "ms": min(milliseconds)}


def matched(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> tuple[list[bool], int]:
    """Whether each of the faces (n, 4) is found, and the number of boxes that lie on none of them."""
    hits, false = [False] * len(truth), 0
    for box in boxes[np.argsort(-scores)]:
        low, high = np.maximum(box[:2], truth[:, :2]), np.minimum(box[2:], truth[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        iou = shared / (np.prod(box[2:] - box[:2]) + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared)
        free = np.where(hits, 0, iou)
        if len(free) and free.max() >= 0.2:
            hits[int(free.argmax())] = True
        elif not (iou >= 0.2).any():
            false += 1
    return hits, false


def other_version(source: Path, data: Path, count: int) -> tuple[subprocess.Popen[str], Callable[[], Row]]:
    """A process that runs the version in a source folder, and a function that has it observe the next picture."""
    command = [sys.executable, "-m", "benchmarks.detection", str(data), "--count", str(count), "--serve"]
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pipe_in, pipe_out = process.stdin, process.stdout
    assert pipe_in is not None
    assert pipe_out is not None

    def following() -> Row:
        pipe_in.write("next\n")
        pipe_in.flush()
        return json.loads(pipe_out.readline())

    return process, following


def serve(data: Path, count: int) -> None:
    """Observe one picture for each line of standard input."""
    detector, landmarker = octamark.FaceDetector(), octamark.load("small", refine="never", threads=1)
    for scene in scenes(data, count):
        if not sys.stdin.readline():
            return
        print(json.dumps(observe(scene, detector, landmarker)), flush=True)


def kinds_table(kinds: Mapping[str, list[tuple[Row, ...]]]) -> Measurement:
    """The entry with a row for each kind of picture."""
    rows: list[list[Value]] = []
    for kind, pictures in kinds.items():
        row: list[Value] = [kind, len(pictures), sum(len(versions[0]["hits"]) for versions in pictures)]
        for version in range(len(pictures[0])):
            observed = [versions[version] for versions in pictures]
            hits = [hit for one in observed for hit in one["hits"]]
            found = None if kind in NO_FACE else 100 * float(np.mean(hits or [one["any"] for one in observed]))
            false = None if kind in UNLABELLED else sum(one["false"] for one in observed)
            row += [found, false, float(np.mean([one["ms"] for one in observed]))]
        rows.append(row)
    names = ("before", "after") if len(rows[0]) > 6 else ("",)
    measured = [
        (title.format(name).strip(), form)
        for name in names
        for title, form in (("recall {}, %", ".1f"), ("false boxes {}", "d"), ("ms {}", ".2f"))
    ]
    return Measurement(
        name="detection",
        page="detection",
        title="Recall, false boxes and milliseconds by kind of picture",
        text=TEXT,
        columns=(("", ""), ("pictures", "d"), ("faces", "d"), *measured),
        rows=rows,
        command="python -m benchmarks.detection DATA --before OTHER/src",
        data="300W train and val, unlabelled pictures, collages",
    )


def classes_table(sizes: Mapping[str, list[tuple[bool, ...]]]) -> Measurement:
    """The entry with the recall of faces in collages by size."""
    rows: list[list[Value]] = [
        [name, len(faces), *(100 * float(np.mean(version)) for version in zip(*faces, strict=True))]
        for name, faces in sizes.items()
    ]
    names = ("recall before, %", "recall after, %") if len(rows[0]) > 3 else ("recall, %",)
    return Measurement(
        name="detection-sizes",
        page="detection",
        title="Recall in collages by size of the face",
        text="Side of the box around the points, in pixels where the picture's longer side has 640.",
        columns=(("side", ""), ("faces", "d"), *((name, ".1f") for name in names)),
        rows=rows,
        command="python -m benchmarks.detection DATA --before OTHER/src",
        data="collages of 300W faces",
    )


def agreement(data: Path, count: int) -> Measurement:
    """The entry that compares YuNet in ONNX Runtime with YuNet in OpenCV, on pictures of 640 pixels."""
    from octamark.inference.yunet import MAX_IOU, find_faces, yunet_weights  # older versions have no such module

    paths = [*sorted((data / "300w").rglob("*.jpg")), *sorted((data / "unlabelled").glob("*.jpg"))]
    chosen = np.random.default_rng(17).permutation(len(paths))[:count]
    weights = np.frombuffer(yunet_weights(), np.uint8)
    network = cv2.FaceDetectorYN.create("onnx", weights, np.zeros(0, np.uint8), (640, 640), 0.6, MAX_IOU)
    rows: list[list[Value]] = []
    for threshold in (0.6, 0.1):
        network.setScoreThreshold(threshold)
        counts, distances, differences, others = 0, [0.0], [0.0], 0
        for i in track(chosen, "comparing with OpenCV", transient=True):
            picture = octamark.read_picture(paths[i])
            scale = 640 / max(picture.shape[:2])
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            network.setInputSize((picture.shape[1], picture.shape[0]))
            faces = network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
            expected = np.zeros((0, 15), np.float32) if faces is None else faces
            ((boxes, scores),) = find_faces(picture[None], threshold)
            if len(boxes) != len(expected):
                others += 1
                continue
            corners = np.concatenate([expected[:, :2], expected[:, :2] + expected[:, 2:4]], axis=1)
            counts += len(boxes)
            distances.append(float(np.abs(boxes - corners).max(initial=0)))
            differences.append(float(np.abs(scores - expected[:, -1]).max(initial=0)))
        rows.append([threshold, counts, others, max(distances), max(differences)])
    return Measurement(
        name="detection-opencv",
        page="detection",
        title="YuNet in ONNX Runtime and in OpenCV",
        text="The same network on the same pixels: largest differences of a box's side and of a score.",
        columns=(
            ("threshold", ".1f"), ("boxes", "d"), ("pictures with another number of boxes", "d"),
            ("box, pixels", ".4f"), ("score", ".6f"),
        ),
        rows=rows,
        command="python -m benchmarks.detection DATA --before OTHER/src",
        data=f"{count} pictures of 300W and without labels, longer side 640",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds 300w, unlabelled and heads")
    parser.add_argument("--before", type=Path, help="src folder of another version of octamark, with its weight files")
    parser.add_argument("--count", type=int, default=100, help="pictures of each kind")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    add_update_option(parser)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.serve:
        serve(arguments.data, arguments.count)
        return
    process, before = (
        other_version(arguments.before, arguments.data, arguments.count) if arguments.before else (None, None)
    )
    detector, landmarker = octamark.FaceDetector(), octamark.load("small", refine="never", threads=1)
    kinds: dict[str, list[tuple[Row, ...]]] = {}
    sizes: dict[str, list[tuple[bool, ...]]] = {name: [] for name in CLASSES}
    for scene in track(scenes(arguments.data, arguments.count), "looking for faces", transient=True):
        versions = (*((before(),) if before else ()), observe(scene, detector, landmarker))
        kinds.setdefault(scene.kind, []).append(versions)
        if scene.kind.startswith("collage"):
            assert scene.boxes is not None
            sides = np.sqrt((scene.boxes[:, 2:] - scene.boxes[:, :2]).prod(axis=1)) * 640 / max(scene.picture.shape)
            for side, *hits in zip(sides, *(version["hits"] for version in versions), strict=True):
                (name,) = (name for name, (low, high) in CLASSES.items() if low <= side < high)
                sizes[name].append(tuple(hits))
    if process is not None:
        process.kill()
        process.wait()
    finish([kinds_table(kinds), classes_table(sizes), agreement(arguments.data, 500)], arguments.update)


if __name__ == "__main__":
    main()
