"""Recall, precision and milliseconds of the face detector on whole pictures."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

import cv2
import numpy as np

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

HARD = ("occluded", "dark", "blurred", "turned", "turned and occluded")


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
    points = apply(invert(transform), sample.landmarks) + (left, top)
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
    """All pictures of the benchmark, about ``count`` of each kind; they depend on nothing but ``data`` and ``count``."""
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
