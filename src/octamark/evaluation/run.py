"""A landmarker run on a labelled set: each picture is decoded once, whatever the number of crops, in flat memory."""

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
from octamark.geometry import Crop, Picture, best_overlap, landmark_boxes
from octamark.inference.detector import Detector, FaceDetector, detections
from octamark.inference.landmarker import BoxKind, Landmarker, crops_of_boxes
from octamark.models import CropRule

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Boxes = Literal["labels", "detector", "own"]
BOXES: dict[Boxes, str] = {
    "labels": "tight boxes around the labels",
    "detector": "boxes of the YuNet detector",
    "own": "the set's own face boxes",
}
Placement = Callable[[Sample, Picture], Crop | None]
"""Where in a picture a sample's face is read; None if it was not found."""

_AHEAD = 4  # pictures decoded before they are needed


@dataclass(frozen=True)
class View:
    """One way to read a face: the crop of a placement, then moved as by ``octamark.geometry.Crop.moved``."""

    placement: Placement
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    angle: float = 0.0


@dataclass(frozen=True)
class Predictions:
    """What a detector found for n faces of a set, in the set's order.

    Attributes:
        landmarks: (n, M, 2) pixels; NaN for a face that was not found.
        spread, confidence: (n, M, 2) and (n, M), NaN likewise; None from a detector that gives none.
        scale: (n,) picture pixels per pixel of the network's input, NaN likewise; None where there is no such thing.
        visible: (n, M) as in ``octamark.faces.Faces``, NaN likewise; None from a detector that does not tell it.
    """

    landmarks: F32
    spread: F32 | None = None
    confidence: F32 | None = None
    scale: F64 | None = None
    visible: F32 | None = None

    def take(self, mask: NDArray[np.bool_]) -> Predictions:
        """The predictions for the faces that a mask (n,) selects."""
        parts = (self.landmarks, self.spread, self.confidence, self.scale, self.visible)
        return Predictions(*(None if part is None else part[mask] for part in parts))  # type: ignore[arg-type]

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """(n,) whether each face was found."""
        return np.asarray(np.isfinite(self.landmarks).any(axis=(1, 2)))


def label_crop(rule: CropRule) -> Placement:
    """A placement at the crop that training used, which follows from the labels."""

    def place(sample: Sample, picture: Picture) -> Crop:
        return _crop(sample, picture, landmark_boxes(sample.landmarks), rule, "landmarks")

    return place


def own_box_crop(rule: CropRule) -> Placement:
    """A placement at the set's own face box, which is treated as a detector's box.

    Raises (when called):
        DataError: a sample without a box.
    """

    def place(sample: Sample, picture: Picture) -> Crop:
        if sample.box is None:
            raise DataError(
                f"{sample.name} ({sample.picture}): the set gives no face box; use boxes labels or detector"
            )
        return _crop(sample, picture, sample.box, rule, "detector")

    return place


def detected_box(detector: Detector, landmarks: F32, picture: Picture) -> F32 | None:
    """The detected box (4,) that overlaps the box of labels (M, 2) most, by an IoU of at least 0.2, or None."""
    boxes, _ = detections(detector, picture)
    index = best_overlap(boxes, landmark_boxes(landmarks))
    return None if index is None else boxes[index]


def detector_crop(rule: CropRule, detector: Detector | None = None) -> Placement:
    """A placement at the detected box that overlaps the labels' box most, by an IoU of at least 0.2."""
    find = detector or FaceDetector()

    def place(sample: Sample, picture: Picture) -> Crop | None:
        box = detected_box(find, sample.landmarks, picture)
        return None if box is None else _crop(sample, picture, box, rule, "detector")

    return place


def placement_for(boxes: Boxes, rule: CropRule) -> Placement:
    """The placement for a kind of boxes."""
    makers = {"labels": label_crop, "detector": detector_crop, "own": own_box_crop}
    return makers[boxes](rule)


def _crop(sample: Sample, picture: Picture, box: NDArray[np.floating], rule: CropRule, box_kind: BoxKind) -> Crop:
    (crop,) = crops_of_boxes(picture, box, rule, box_kind)
    if not crop.side(rule.size) > 0:
        raise DataError(f"{sample.name} ({sample.picture}): its box has no extent; try other boxes")
    return crop


def predict(
    landmarker: Landmarker,
    samples: Sequence[Sample],
    views: Mapping[str, View],
    *,
    broken: Callable[[Sample, str], None] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Predictions]:
    """The predictions for all samples, by the name of each view.

    Args:
        views: name -> view; views of the same placement share its computation (a detector runs once a picture).
        broken: called with each sample whose picture cannot be read, and the reason; its face then counts as not
            found. None raises the error.
        advance: called for each sample, for a progress bar.

    Returns:
        Name -> predictions for all samples.

    Raises:
        PictureError: a picture that cannot be read, without ``broken``.
        DataError: a sample without the box that a view needs.
    """
    count, points = len(samples), landmarker.layout.count
    arrays = {
        name: (
            np.full((count, points, 2), np.nan, np.float32),
            np.full((count, points, 2), np.nan, np.float32),
            np.full((count, points), np.nan, np.float32),
            np.full(count, np.nan),
            np.full((count, points), np.nan, np.float32),
        )
        for name in views
    }
    tells_visible = False
    for index, (sample, picture) in enumerate(_pictures(samples, broken)):
        advance()
        if picture is None or not (crops := _crops(views, sample, picture, landmarker.card.crop.size)):
            continue
        transforms, centres = (
            np.array([getattr(crop, part) for crop in crops.values()]) for part in ("transform", "centre")
        )
        faces = landmarker.read_crops(picture, transforms, centres)
        for row, name in enumerate(crops):
            landmarks, spread, confidence, scale, visible = arrays[name]
            landmarks[index], spread[index] = faces.landmarks[row], faces.spread[row]
            confidence[index] = faces.confidence[row]
            assert faces.crops is not None
            scale[index] = np.hypot(*faces.crops[row, :, 0])
            if faces.visible is not None:
                tells_visible, visible[index] = True, faces.visible[row]
    return {
        name: Predictions(landmarks, spread, confidence, scale, visible if tells_visible else None)
        for name, (landmarks, spread, confidence, scale, visible) in arrays.items()
    }


def _crops(views: Mapping[str, View], sample: Sample, picture: Picture, size: int) -> dict[str, Crop]:
    """The crop of each view whose face was found."""
    placements = dict.fromkeys(view.placement for view in views.values())
    placed = {placement: placement(sample, picture) for placement in placements}
    return {
        name: crop.moved(size, view.shift, view.scale, view.angle)
        for name, view in views.items()
        if (crop := placed[view.placement]) is not None
    }


def _pictures(
    samples: Iterable[Sample], broken: Callable[[Sample, str], None] | None
) -> Iterator[tuple[Sample, Picture | None]]:
    """Samples with their pictures, decoded a few ahead on a second thread."""
    waiting: deque[tuple[Sample, Future[Picture]]] = deque()

    def next_picture() -> tuple[Sample, Picture | None]:
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
                    yield next_picture()
            while waiting:
                yield next_picture()
        finally:
            pool.shutdown(cancel_futures=True)
