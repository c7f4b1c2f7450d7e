"""Face detection: the protocol that any detector follows, and the built-in detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octamark.errors import BoxError, ConfigError
from octamark.geometry import Picture, ReducedPicture, check_boxes, in_steps, whole
from octamark.inference.search import SECOND_SIDE, Candidates, Views, merged, search
from octamark.inference.session import check_threads
from octamark.inference.yunet import Detections, yunet_weights

_OVERLAP = 160
"""Pixels that neighbouring tiles share. Faces up to about nine tenths of this size lie whole in one of the tiles."""


class Detector(Protocol):
    """Finds faces: any callable of this form can be passed to a Landmarker.

    The arguments and results are those of ``FaceDetector.__call__``. A detector has to be picklable if the
    landmarker that uses it is sent to other processes, and safe to share between threads if the landmarker is.

    Examples:
        >>> def whole_picture(picture: Picture) -> Detections:
        ...     height, width = picture.shape[:2]
        ...     return np.array([[0, 0, width - 1, height - 1]], np.float32), np.ones(1, np.float32)
        >>> detector: Detector = whole_picture
    """

    def __call__(self, picture: Picture, /) -> Detections:
        """Boxes (n, 4) float32, xyxy in pixels, and scores (n,) float32 of the faces in a picture.

        Args:
            picture: (H, W, 3) uint8, RGB.
        """
        ...


@dataclass(frozen=True)
class FaceDetector:
    """Finds faces with YuNet. Immutable, picklable, and safe to share between threads.

    Args:
        threshold: least score of a face, between 0 and 1. Where no face reaches it, a Landmarker keeps a less certain
            one if its landmark network is sure (see octamark.inference.last_look).
        tiles: also search pictures larger than 640 pixels in overlapping tiles, at full resolution and at each halving
            of it. This finds small faces in large pictures, such as panoramas; each tile takes as long as a picture.
        threads: processor threads of the network.

    Raises:
        ConfigError: a threshold that is not between 0 and 1.
        DeviceError: an impossible number of threads.
        WeightsError: the network's weight file is missing or damaged.

    Examples:
        >>> boxes, scores = FaceDetector()(np.zeros((64, 64, 3), np.uint8))
        >>> boxes.shape
        (0, 4)
    """

    threshold: float = 0.6
    tiles: bool = field(default=False, kw_only=True)
    threads: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Real | np.floating) or not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"threshold {self.threshold!r}; allowed: numbers between 0 and 1")
        check_threads(self.threads)
        yunet_weights()

    def __call__(self, picture: Picture | ReducedPicture, /) -> Detections:
        """Boxes (n, 4) float32, xyxy in pixels, and scores (n,) float32 of the faces in a picture, largest face first.

        The boxes are rounded to sixteenths of a pixel, so that they are the same on all processors.

        Args:
            picture: (H, W, 3) uint8, RGB; or one that gives its parts reduced, as ``octamark.images.open_picture``
                makes it of a large JPEG.
        """
        faces = self.candidates(picture).of_score(self.threshold)
        return faces.boxes, faces.scores

    def candidates(self, picture: Picture | ReducedPicture) -> Candidates:
        """The faces in a picture, largest first; where there are none, the places where one may be, by lower scores.

        Args:
            picture: as in calling the detector.
        """
        found = search(picture, self.threshold, self.threads)
        if self.tiles and max(picture.shape[:2]) > SECOND_SIDE:
            found = merged(self.threshold, found, *self._tiles(whole(picture)))
        found = replace(found, boxes=in_steps(found.boxes))
        return found.select(np.argsort(-found.sides, kind="stable"))

    def _tiles(self, picture: Picture) -> Iterator[Candidates]:
        """The faces in each of the picture's tiles."""
        height, width = picture.shape[:2]
        side = SECOND_SIDE
        while side < max(height, width):
            for top in _tile_starts(height, side):
                for left in _tile_starts(width, side):
                    tile = picture[top : top + side, left : left + side]
                    found = Views(tile, self.threads).look(SECOND_SIDE)
                    boxes = found.boxes + np.array([left, top, left, top], np.float32)
                    inside = _lie_whole_in_tile(boxes, left, top, side, width, height)
                    yield replace(found, boxes=boxes).select(inside)
            side *= 2


def detections(detector: Detector, picture: Picture | ReducedPicture) -> Detections:
    """What a detector finds in a picture: boxes (n, 4) and scores (n,), both float32.

    Raises:
        BoxError: a detector of one's own that returns something else, boxes that are not finite, without area or
            outside the picture, or scores that are not finite. What the detector itself raises is passed on.
    """
    if type(detector) is FaceDetector:
        return detector(picture)
    picture = whole(picture)
    found = detector(picture)
    if isinstance(detector, FaceDetector):
        return found
    where = f"detector {getattr(detector, '__name__', type(detector).__name__)}: "
    try:
        boxes, scores = found
    except (TypeError, ValueError) as error:
        raise BoxError(
            f"{where}returned {type(found).__name__}; expected a pair, boxes (n, 4) and scores (n,)"
        ) from error
    checked = check_boxes(boxes, picture, where)
    try:
        values = np.asarray(scores, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise BoxError(f"{where}scores must be a number for each box ({error})") from error
    if values.shape != (len(checked),) and values.size + len(checked):
        raise BoxError(f"{where}scores must have shape ({len(checked)},), one for each box; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise BoxError(f"{where}scores must be finite; got {values}")
    return checked, values.reshape(-1)


def _tile_starts(length: int, side: int) -> list[int]:
    """The coordinates at which tiles of that side begin along a length; the last tile ends where the length ends."""
    step = side - _OVERLAP * side // SECOND_SIDE
    return sorted({min(start, max(0, length - side)) for start in range(0, max(1, length - side + step), step)})


def _lie_whole_in_tile(
    boxes: NDArray[np.float32], left: int, top: int, side: int, width: int, height: int
) -> NDArray[np.bool_]:
    """Whether each box keeps clear of the tile's borders, except where they are the picture's borders; (n,)."""
    edge = 0.01 * side
    clear = (boxes[:, 0] > left + edge) | (left == 0)
    clear &= (boxes[:, 1] > top + edge) | (top == 0)
    clear &= (boxes[:, 2] < left + side - 1 - edge) | (left + side >= width)
    clear &= (boxes[:, 3] < top + side - 1 - edge) | (top + side >= height)
    return np.asarray(clear)
