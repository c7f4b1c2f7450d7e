"""Where to look for faces: at which sizes, turned how, and when to stop.

The network sees faces of about 10 to 300 pixels that stand more or less upright. A look takes time in proportion to its
area, so the first one is small, and its weak candidates tell whether another is worth it:

1. The picture with its longer side at 320 pixels. If the faces are large and sure, and nothing hints at further ones,
   they are the result.
2. The picture at 640 pixels, and its small weak candidates a second time, each enlarged in a small window. Small weak
   candidates of the first look are tested in the same way: if nothing shows in their windows, they do not count.
3. If there is still no face, but a candidate: the picture at 192 pixels with a border, where blurred and dark faces and
   those that fill the picture are seen, and turned by 90, 270 and 180 degrees.

``benchmarks/detection.py`` measures recall, precision and time.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.geometry import Part, Picture, ReducedPicture, crop, part_of
from octamark.inference.yunet import Detections, find_faces

FIRST_SIDE = 320
"""Longer side of the first look, and of the turned ones."""

SECOND_SIDE = 640
"""Longer side of the second look."""

BORDERED_SIDE, BORDER = 192, 64
"""Longer side of the look with a black border, and the width of the border."""

MAX_ENLARGEMENT = 2.0
"""Smaller pictures are enlarged for a look, but not by more than this factor."""

MIN_SIDE = 64
"""A thinner picture is padded to this side, because the network reports faces in very thin ones that hold none."""

WEAK, FAINT = 0.02, 0.01
"""Least score of a candidate; the second value where no other candidate is a face."""

SURE = 0.7
"""Least score of each face of a first look that is enough, and of a face that is seen only in a window."""

LARGE = 0.15
"""Least side of each of its faces, as a share of the picture's longer side."""

HINT = 0.2
"""A large candidate of at least this score calls for the second look."""

CLOSER_HINT = 0.35
"""So does a small one of which a closer look shows anything of at least this score."""

CLOSER_SIDE = 48
"""Candidates of the second look with a smaller side, in pixels of that look, are seen a second time in a window."""

WINDOW = 96
"""Side of the window in which a small candidate is read again."""

MARGIN = 2.0
"""Least side of a window, relative to the candidate's."""

ZOOM, LARGER_ZOOM = 2.0, 3.0
"""Size of the picture in a window relative to the second look's; the second value where the first shows no face."""

MAX_WINDOWS = 12
"""Small candidates that are read again, those of the highest scores."""

EVIDENCE = 0.1
"""Least score of a candidate for which the third step is made."""

TURNED_EVIDENCE = 0.2
"""Least score of a candidate in a turned picture for which that picture is also searched at ``SECOND_SIDE``."""

MAX_UNSURE = 50
"""Candidates of a picture without a face, those of the highest scores."""

DUPLICATE_OVERLAP = 0.5
"""Two boxes show the same face if they share this part of the smaller one's area."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places in a picture where a face may be.

    Attributes:
        boxes: (n, 4) float32 xyxy, in pixels of the picture.
        scores: (n,) float32.
        turns: (n,) quarter turns of the picture, counter-clockwise, in which each was seen.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    turns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Candidates:
        """The candidates of a mask or of indices, in their order."""
        return Candidates(self.boxes[index], self.scores[index], self.turns[index])

    def of_score(self, least: float) -> Candidates:
        """The candidates of at least that score."""
        return self.select(self.scores >= least)

    @property
    def sides(self) -> NDArray[np.float32]:
        """The square root of each box's area, pixels; (n,)."""
        return np.asarray(np.sqrt((self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)))

    def inside(self, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the centre of each candidate lies in one of the boxes (m, 4); (n,)."""
        centres = (self.boxes[:, None, :2] + self.boxes[:, None, 2:]) / 2
        within = (centres >= boxes[:, :2]) & (centres <= boxes[:, 2:])
        return np.asarray(np.any(np.all(within, axis=2), axis=1))


def search(picture: Picture | ReducedPicture, threshold: float, threads: int = 1) -> Candidates:
    """The faces in a picture; where there are none, the places where one may be.

    Args:
        picture: (H, W, 3) uint8 RGB, or one that gives its parts reduced.
        threshold: least score of a face.
        threads: processor threads of the network.
    """
    views = Views(picture, threads, min(FAINT, threshold))
    first = views.look(FIRST_SIDE)
    if _is_enough(first, threshold, views):
        return first.of_score(threshold)
    second = views.look(SECOND_SIDE)
    sure = max(threshold, SURE)
    small = _small_and_unsure(second, threshold, CLOSER_SIDE * views.second_pixel)
    closer = views.closer(second, small & (second.scores >= WEAK), ZOOM)
    candidates = merged(threshold, first, second, closer.of_score(sure))
    if _best_score(candidates) < threshold:
        candidates = merged(threshold, candidates, views.closer(second, small, LARGER_ZOOM).of_score(sure))
    if _best_score(candidates) >= threshold or _best_score(candidates) < EVIDENCE:
        return candidates
    candidates = merged(threshold, candidates, views.look(BORDERED_SIDE, border=BORDER))
    if _best_score(candidates) >= threshold:
        return candidates
    turned = max((views.look(FIRST_SIDE, turns=turns) for turns in (1, 3, 2)), key=_best_score)
    if _best_score(turned) >= TURNED_EVIDENCE:
        turned = merged(threshold, turned, views.look(SECOND_SIDE, turns=int(turned.turns[0])))
    return merged(threshold, candidates, turned)


class Views:
    """A picture at the sizes in which it is looked at.

    Args:
        picture: (H, W, 3) uint8 RGB, or one that gives its parts reduced.
        threads: processor threads of the network.
        least: score of a candidate.

    Attributes:
        second_pixel: side of a pixel of the second look, in pixels of the picture.
    """

    def __init__(self, picture: Picture | ReducedPicture, threads: int, least: float = FAINT) -> None:
        self.picture, self.threads, self.least = picture, threads, least
        height, width = picture.shape[:2]
        halvings = max(0, (max(height, width) // SECOND_SIDE).bit_length() - 1)
        part = part_of(picture, 0, 0, width, height, 2.0**halvings)
        pixels, factor = _halved(part.pixels, SECOND_SIDE)
        self.base = Part(pixels, part.factor * factor, part.left, part.top)
        self.second_pixel = max(max(height, width) / SECOND_SIDE, 1 / MAX_ENLARGEMENT)

    def look(self, side: int, *, border: int = 0, turns: int = 0) -> Candidates:
        """The candidates in the picture with that longer side, turned counter-clockwise by quarters of a circle."""
        view, factor = _halved(self.base.pixels, side)
        height, width = view.shape[:2]
        scale = min(side / max(height, width), MAX_ENLARGEMENT / (factor * self.base.factor))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (width, height):
            view = np.asarray(cv2.resize(view, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        boxes, scores = _bordered(np.rot90(view, turns), border, self.least, self.threads)
        pixels = self.base.factor * factor * np.array([width / size[0], height / size[1]] * 2)
        boxes = _turned_back(boxes, turns, *size) * pixels - 0.5 + np.array([self.base.left, self.base.top] * 2)
        return Candidates(boxes.astype(np.float32), scores, np.full(len(boxes), turns))

    def closer(self, candidates: Candidates, chosen: NDArray[np.bool_], zoom: float) -> Candidates:
        """What is seen in a window around each of the best of the chosen candidates, a mask (n,).

        Args:
            zoom: size of the windows' pictures, relative to the second look; less where a candidate needs a larger
                window.
        """
        best = np.flatnonzero(chosen)
        best = best[np.argsort(-candidates.scores[best], kind="stable")[:MAX_WINDOWS]]
        if not len(best):
            return candidates.select(best)
        pixels = np.maximum(self.second_pixel / zoom, candidates.sides[best] * (MARGIN / WINDOW))
        centres = (candidates.boxes[best, :2] + candidates.boxes[best, 2:]).astype(np.float64) / 2
        corners = centres - (WINDOW / 2 - 0.5) * pixels[:, None]
        windows = [
            crop(self.picture, np.array([[pixel, 0, left], [0, pixel, top]]), WINDOW)
            for pixel, (left, top) in zip(pixels.tolist(), corners.tolist(), strict=True)
        ]
        boxes, scores = [], []
        found = find_faces(np.stack(windows), self.least, self.threads)
        for pixel, corner, (window_boxes, window_scores) in zip(pixels, corners, found, strict=True):
            whole = (window_boxes[:, :2] > 1).all(axis=1) & (window_boxes[:, 2:] < WINDOW - 1).all(axis=1)
            boxes.append((window_boxes[whole] - 0.5) * pixel + np.tile(corner, 2))
            scores.append(window_scores[whole])
        count = sum(map(len, scores))
        return Candidates(np.concatenate(boxes).astype(np.float32), np.concatenate(scores), np.zeros(count, np.int64))


def _halved(picture: Picture, side: int) -> tuple[Picture, int]:
    """The picture after it was halved as long as its longer side stays at least ``side``, and by what it was divided.

    The mean of four pixels costs a tenth of OpenCV's area averages at other factors. The last row and column of an odd
    picture are left out.
    """
    factor = 1
    while max(picture.shape[:2]) >= 2 * side and min(picture.shape[:2]) >= 2:
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * height, : 2 * width]
        picture = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        factor *= 2
    return picture, factor


def _bordered(view: Picture, border: int, least: float, threads: int) -> Detections:
    """The candidates in a picture with a black border; boxes are OpenCV's, in the picture without the border."""
    height, width = view.shape[:2]
    bottom, right = (border + max(0, MIN_SIDE - side) for side in (height, width))
    if bottom or right:
        view = np.asarray(
            cv2.copyMakeBorder(np.ascontiguousarray(view), border, bottom, border, right, cv2.BORDER_CONSTANT), np.uint8
        )
    ((boxes, scores),) = find_faces(view[None], least, threads)
    boxes = boxes - border
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres <= (width, height))).all(axis=1)
    return boxes[inside], scores[inside]


def _turned_back(boxes: NDArray[np.float32], turns: int, width: int, height: int) -> NDArray[np.float32]:
    """Boxes in the picture of (width, height), given boxes in that picture after quarter turns counter-clockwise.

    All boxes are OpenCV's, which measure from the picture's corner.
    """
    x1, y1, x2, y2 = boxes.T
    match turns:
        case 1:
            return np.stack([width - y2, x1, width - y1, x2], axis=1)
        case 2:
            return np.stack([width - x2, height - y2, width - x1, height - y1], axis=1)
        case 3:
            return np.stack([y1, height - x2, y2, height - x1], axis=1)
    return boxes


def _is_enough(candidates: Candidates, threshold: float, views: Views) -> bool:
    """Whether the candidates of the first look are large, sure faces, and a closer look shows no other beside them."""
    faces = candidates.scores >= threshold
    if not faces.any() or (candidates.scores[faces] < SURE).any():
        return False
    small = LARGE * max(views.picture.shape[:2])
    hints = ~faces & (candidates.scores >= HINT) & ~candidates.inside(candidates.boxes[faces])
    if (candidates.sides[faces] < small).any() or hints.any():
        return False
    weak = _small_and_unsure(candidates, threshold, small) & (candidates.scores >= WEAK)
    return weak.sum() <= MAX_WINDOWS and _best_score(views.closer(candidates, weak, ZOOM)) < CLOSER_HINT


def _small_and_unsure(candidates: Candidates, threshold: float, side: float) -> NDArray[np.bool_]:
    """Whether each candidate is smaller than ``side``, and neither a face nor part of one; (n,)."""
    faces = candidates.scores >= threshold
    return (candidates.sides < side) & ~faces & ~candidates.inside(candidates.boxes[faces])


def merged(threshold: float, *parts: Candidates) -> Candidates:
    """The faces of several looks, highest score first, each place once; where there are none, the other candidates."""
    together = Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.turns for part in parts]),
    )
    if _best_score(together) >= threshold:
        together = together.of_score(threshold)
    else:
        together = together.select(np.argsort(-together.scores, kind="stable")[:MAX_UNSURE])
    selected: list[int] = []
    boxes, areas = together.boxes, together.sides**2
    for index in np.argsort(-together.scores, kind="stable"):
        low = np.maximum(boxes[selected, :2], boxes[index, :2])
        high = np.minimum(boxes[selected, 2:], boxes[index, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        if not (shared > DUPLICATE_OVERLAP * np.minimum(areas[selected], areas[index])).any():
            selected.append(int(index))
    return together.select(np.array(selected, np.int64))


def _best_score(candidates: Candidates) -> float:
    return float(candidates.scores.max(initial=0))
