"""A landmarker over a labelled set: one decoding per picture, any number of crops of it, flat memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.errors import DataError, PictureError
from octamark.geometry import Picture, best_overlap, crop_transform, detector_squares, landmark_boxes, squares
from octamark.inference.detector import FaceDetector
from octamark.inference.landmarker import Landmarker
from octamark.models import CropRule

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Boxes = Literal["labels", "detector", "own"]
BOXES: dict[Boxes, str] = {
    "labels": "tight boxes around the labels",
    "detector": "boxes of the YuNet detector",
    "own": "the set's own face boxes",
}
Detect = Callable[[Picture], tuple[F32, F32]]
"""Boxes (n, 4) and scores (n,) of the faces in a picture, as FaceDetector gives them."""

Square = Callable[[Sample, Picture], "Spot | None"]
"""Where to look in a picture for a sample's face; None: not found."""

_AHEAD = 4  # pictures decoded before they are needed


@dataclass(frozen=True)
class Spot:
    """A place to look: (3,) centre x, centre y and side of the crop, and (2,) the centre of the box behind it."""

    square: F64
    centre: F64


@dataclass(frozen=True)
class View:
    """One way to place the crop: a square, then moved by shares of its side, scaled and turned (degrees)."""

    square: Square
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    angle: float = 0.0

    def place(self, spot: Spot, size: int) -> tuple[F64, F64]:
        """The crop's (2, 3) similarity to the picture, and the box's centre (2,)."""
        x, y, side = spot.square
        moved = np.array([x + self.shift[0] * side, y + self.shift[1] * side, side * self.scale])
        return crop_transform(moved, size, self.angle), spot.centre + np.array(self.shift) * side


@dataclass(frozen=True)
class Predictions:
    """What a detector found for n faces of a set, in the set's order.

    Attributes:
        landmarks: (n, M, 2) pixels; NaN for a face that was not found.
        spread, confidence: (n, M, 2) and (n, M), NaN likewise; None from a detector that gives none.
        scale: (n,) picture pixels per pixel of the network's input, NaN likewise; None where there is no such thing.
    """

    landmarks: F32
    spread: F32 | None = None
    confidence: F32 | None = None
    scale: F64 | None = None

    def take(self, kept: NDArray[np.bool_]) -> Predictions:
        """Those of some faces, by a mask (n,)."""
        parts = (self.landmarks, self.spread, self.confidence, self.scale)
        return Predictions(*(None if part is None else part[kept] for part in parts))  # type: ignore[arg-type]

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.landmarks).any(axis=(1, 2)))


def label_square(rule: CropRule) -> Square:
    """The crop that training used, from the labels."""

    def square(sample: Sample, picture: Picture) -> Spot:
        box = landmark_boxes(sample.landmarks)
        return _spot(squares(box, rule.margin)[0], box, sample)

    return square


def own_square(rule: CropRule) -> Square:
    """From the set's own face box, read as a detector's box.

    Raises (when called):
        DataError: a sample without a box.
    """

    def square(sample: Sample, picture: Picture) -> Spot:
        if sample.box is None:
            raise DataError(
                f"{sample.name} ({sample.picture}): the set gives no face box; use boxes labels or detector"
            )
        return _spot(detector_squares(sample.box, rule.detector_scale, rule.detector_shift)[0], sample.box, sample)

    return square


def detected_box(find: Detect, sample: Sample, picture: Picture) -> F32 | None:
    """The detected box (4,) that overlaps the labels' box most, by an IoU of at least 0.2; None where there is none."""
    boxes, _ = find(picture)
    index = best_overlap(boxes, landmark_boxes(sample.landmarks))
    return None if index is None else boxes[index]


def detector_square(rule: CropRule, detector: Detect | None = None) -> Square:
    """From the detected box that overlaps the labels' box most, by an IoU of at least 0.2."""
    find = detector or FaceDetector()

    def square(sample: Sample, picture: Picture) -> Spot | None:
        box = detected_box(find, sample, picture)
        if box is None:
            return None
        return _spot(detector_squares(box, rule.detector_scale, rule.detector_shift)[0], box, sample)

    return square


def square_for(boxes: Boxes, rule: CropRule) -> Square:
    """The square for a kind of boxes."""
    makers = {"labels": label_square, "detector": detector_square, "own": own_square}
    return makers[boxes](rule)


def _spot(square: F64, box: NDArray[np.floating], sample: Sample) -> Spot:
    if not square[2] > 0:
        raise DataError(f"{sample.name} ({sample.picture}): its box has no extent; try other boxes")
    return Spot(square, np.asarray(box[:2] + box[2:], np.float64) / 2)


def predict(
    landmarker: Landmarker,
    samples: Sequence[Sample],
    views: Mapping[str, View],
    *,
    broken: Callable[[Sample, str], None] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Predictions]:
    """Read every sample's face through each view.

    Args:
        views: name -> view; views that share a ``square`` share its computation (a detector runs once a picture).
        broken: told of each picture that cannot be read, whose face then counts as not found; None raises instead.
        advance: called for each sample, for a progress bar.

    Returns:
        Name -> predictions for all samples.

    Raises:
        PictureError: a picture that cannot be read. DataError: a sample without what the view needs.
    """
    count, points = len(samples), landmarker.layout.count
    arrays = {
        name: (
            np.full((count, points, 2), np.nan, np.float32),
            np.full((count, points, 2), np.nan, np.float32),
            np.full((count, points), np.nan, np.float32),
            np.full(count, np.nan),
        )
        for name in views
    }
    for index, (sample, picture) in enumerate(_pictures(samples, broken)):
        advance()
        if picture is None or not (placed := _placed(views, sample, picture, landmarker.card.crop.size)):
            continue
        transforms, centres = zip(*placed.values(), strict=True)
        faces = landmarker.read_crops(picture, np.array(transforms), np.array(centres))
        for row, name in enumerate(placed):
            landmarks, spread, confidence, scale = arrays[name]
            landmarks[index], spread[index] = faces.landmarks[row], faces.spread[row]
            confidence[index] = faces.confidence[row]
            assert faces.crops is not None
            scale[index] = np.hypot(*faces.crops[row, :, 0])
    return {name: Predictions(*parts) for name, parts in arrays.items()}


def _placed(views: Mapping[str, View], sample: Sample, picture: Picture, size: int) -> dict[str, tuple[F64, F64]]:
    found = {square: square(sample, picture) for square in dict.fromkeys(view.square for view in views.values())}
    spots = {name: found[view.square] for name, view in views.items()}
    return {name: views[name].place(spot, size) for name, spot in spots.items() if spot is not None}


def _pictures(
    samples: Iterable[Sample], broken: Callable[[Sample, str], None] | None
) -> Iterator[tuple[Sample, Picture | None]]:
    """Samples with their pictures, decoded a few ahead on a second thread."""
    waiting: deque[tuple[Sample, Future[Picture]]] = deque()

    def first() -> tuple[Sample, Picture | None]:
        sample, future = waiting.popleft()
        try:
            return sample, future.result()
        except PictureError as error:
            if broken is None:
                raise
            broken(sample, str(error))
            return sample, None

    with ThreadPoolExecutor(1) as pool:
        try:
            for sample in samples:
                waiting.append((sample, pool.submit(sample.read)))
                if len(waiting) > _AHEAD:
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(cancel_futures=True)
