"""Face detection: the protocol that any detector follows, and the YuNet network run through OpenCV."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import BoxError, ConfigError, WeightsError
from octamark.geometry import Picture, ReducedPicture, check_boxes, reduced, whole
from octamark.models.registry import MISSING_FILES

Detections = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (n, 4), xyxy in pixels of the picture, and scores (n,)."""

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

LONGEST_SIDE = 640
"""Larger pictures are reduced to this longest side for detection."""

_ATTEMPTS = ((LONGEST_SIDE, 0.0, 0), (320, 0.4, 0), (1280, 0.0, 0), (LONGEST_SIDE, 0.0, 1), (LONGEST_SIDE, 0.0, 3))
"""Longest side, border (share of the longest side) and quarter turns (counter-clockwise) of each attempt. The next
attempt is made only if the last one found nothing.

The second finds faces that fill the picture, the third small faces in large pictures, the last two faces that lie on
their side.
"""

_OVERLAP = 160
"""Pixels that neighbouring tiles share. Faces up to about nine tenths of this size lie whole in one of the tiles."""

_DUPLICATE_OVERLAP = 0.5
"""Two boxes show the same face if they share this part of the smaller one's area."""

_SPARE = 1.5
"""A picture that is reduced when it is decoded keeps this many times the longest side of the look. With 1, its second
reduction, by less than 2, moves boxes by 0.6 % of their side on average, with 1.5 by 0.2 %."""

_MIN_SIDE = 64
"""A thinner picture is padded to this side, because YuNet reports faces in very thin pictures where there are none."""

_local = threading.local()  # holds one network per thread: cv2.FaceDetectorYN is not safe to share


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
        threshold: least score of a face, between 0 and 1.
        tiles: also search pictures larger than 640 pixels in overlapping tiles, at full resolution and at each halving
            of it. This finds small faces in large pictures, such as panoramas; each tile takes as long as a picture.

    Raises:
        ConfigError: a threshold that is not between 0 and 1.
        WeightsError: the network's weight file is missing or damaged.

    Examples:
        >>> boxes, scores = FaceDetector()(np.zeros((64, 64, 3), np.uint8))
        >>> boxes.shape
        (0, 4)
    """

    threshold: float = 0.6
    tiles: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Real | np.floating) or not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"threshold {self.threshold!r}; allowed: numbers between 0 and 1")
        yunet_weights()

    def __call__(self, picture: Picture | ReducedPicture, /) -> Detections:
        """Boxes (n, 4) float32, xyxy in pixels, and scores (n,) float32 of the faces in a picture, largest face first.

        Args:
            picture: (H, W, 3) uint8, RGB; or one that gives its parts reduced, as ``octamark.images.open_picture``
                makes it of a large JPEG.
        """
        longest = max(picture.shape[:2])
        for side, border, turns in _ATTEMPTS:
            if side > LONGEST_SIDE and longest <= LONGEST_SIDE:
                continue
            part = reduced(picture, _SPARE * side)
            boxes, scores = self._detect(np.ascontiguousarray(np.rot90(part.pixels, turns)), side, border)
            if len(boxes):
                boxes = part.to_picture(_turn_back(boxes, turns, part.pixels.shape[1], part.pixels.shape[0]))
                break
        if self.tiles and longest > LONGEST_SIDE:
            boxes, scores = self._detect_in_tiles(whole(picture), boxes, scores)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        order = np.argsort(-areas, kind="stable")
        return boxes[order], scores[order]

    def _detect_in_tiles(self, picture: Picture, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Detections:
        """The given faces and those found in the picture's tiles, each face once."""
        all_boxes, all_scores = [boxes], [scores]
        height, width = picture.shape[:2]
        side = LONGEST_SIDE
        while side < max(height, width):
            for top in _tile_starts(height, side):
                for left in _tile_starts(width, side):
                    tile = picture[top : top + side, left : left + side]
                    tile_boxes, tile_scores = self._detect(np.ascontiguousarray(tile), LONGEST_SIDE, 0.0)
                    tile_boxes = tile_boxes + np.array([left, top, left, top], np.float32)
                    inside = _lie_whole_in_tile(tile_boxes, left, top, side, width, height)
                    all_boxes.append(tile_boxes[inside])
                    all_scores.append(tile_scores[inside])
            side *= 2
        return _without_duplicates(np.concatenate(all_boxes), np.concatenate(all_scores))

    def _detect(self, picture: Picture, side: int, border: float) -> Detections:
        """Faces found by one run of the network on the picture, scaled to the longest side, with a black border."""
        height, width = picture.shape[:2]
        scale = min(side / max(height, width), 2.0)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.cvtColor(cv2.resize(picture, size, interpolation=interpolation), cv2.COLOR_RGB2BGR)
        edge = round(border * max(size))
        right, bottom = (edge + max(0, _MIN_SIDE - side) for side in size)
        if right or bottom:
            small = cv2.copyMakeBorder(small, edge, bottom, edge, right, cv2.BORDER_CONSTANT)
        network = _thread_network()
        network.setScoreThreshold(self.threshold)
        network.setInputSize((small.shape[1], small.shape[0]))
        rows = network.detect(small)[1]  # x, y, width, height, five points, score
        if rows is None:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1) - edge
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        inside = ((centres >= 0) & (centres <= size)).all(axis=1)
        rows, corners = rows[inside], corners[inside]
        scales = np.array([width / size[0], height / size[1]] * 2)
        return (corners * scales - 0.5).astype(np.float32), rows[:, -1].astype(np.float32)


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


@cache
def yunet_weights() -> NDArray[np.uint8]:
    """The bytes of YuNet's weight file, checked against its sha256 once per process.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(__file__).with_name(YUNET_FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {MISSING_FILES}") from error
    if hashlib.sha256(data).hexdigest() != YUNET_SHA256:
        raise WeightsError(f"{path}: damaged (its sha256 is not the released one); install octamark again")
    return np.frombuffer(data, np.uint8)


def _thread_network() -> cv2.FaceDetectorYN:
    """The YuNet network of the current thread, made when the thread first needs it."""
    if not hasattr(_local, "network"):
        _local.network = cv2.FaceDetectorYN.create("onnx", yunet_weights(), np.zeros(0, np.uint8), (320, 320), 0.6, 0.3)
    network: cv2.FaceDetectorYN = _local.network
    return network


def _turn_back(boxes: NDArray[np.float32], turns: int, width: int, height: int) -> NDArray[np.float32]:
    """Boxes in the picture of (width, height), given boxes in that picture after quarter turns counter-clockwise."""
    x1, y1, x2, y2 = boxes.T
    if turns == 1:
        return np.stack([width - 1 - y2, x1, width - 1 - y1, x2], axis=1)
    if turns == 3:
        return np.stack([y1, height - 1 - x2, y2, height - 1 - x1], axis=1)
    return boxes


def _tile_starts(length: int, side: int) -> list[int]:
    """The coordinates at which tiles of that side begin along a length; the last tile ends where the length ends."""
    step = side - _OVERLAP * side // LONGEST_SIDE
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


def _without_duplicates(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Detections:
    """Boxes and scores without the boxes that overlap one with a higher score."""
    selected: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in np.argsort(-scores, kind="stable"):
        low = np.maximum(boxes[selected, :2], boxes[index, :2])
        high = np.minimum(boxes[selected, 2:], boxes[index, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        if not (shared > _DUPLICATE_OVERLAP * np.minimum(areas[selected], areas[index])).any():
            selected.append(int(index))
    return boxes[selected], scores[selected]
