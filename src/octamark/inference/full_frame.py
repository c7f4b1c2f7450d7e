"""A face that fills its picture, such as a drawing in which the detector sees none: of several guesses the surest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from octamark.geometry import Picture, crop_transform, landmark_boxes, squares
from octamark.inference.rotation import Look, Shot
from octamark.models import CropRule

PICTURE = "picture"
"""Given in place of boxes: the face fills the picture."""

_SIZES = (0.5, 0.65, 0.8, 0.95)
"""Guesses of the longer side of the box around the landmarks, as shares of the picture's shorter side."""

_HEIGHTS = (0.5, 0.58)
"""Guesses of that box's middle, as shares of the picture's height: foreheads have no landmarks."""

_ROUNDS = 2
"""How often the crop then follows the points that were found."""


def framed(picture: Picture, look: Callable[[list[Shot]], list[Look]], rule: CropRule) -> Shot:
    """Where the face of a picture is, taking for granted that it is there and alone.

    Args:
        look: reads crops.
        rule: of the network that reads them.
    """
    height, width = picture.shape[:2]
    shots = []
    for size in _SIZES:
        for middle in _HEIGHTS:
            centre = np.array([width / 2 - 0.5, height * middle - 0.5])
            side = size * min(height, width) * rule.margin
            shots.append(Shot(picture, crop_transform(np.array([*centre, side]), rule.size), centre))
    looks = look(shots)
    best = int(np.argmax([one.sureness for one in looks]))
    shot, seen = shots[best], looks[best]
    for _ in range(_ROUNDS):
        square = squares(landmark_boxes(seen.landmarks), rule.margin)[0]
        if square[2] <= 1:
            break
        following = Shot(picture, crop_transform(square, rule.size), square[:2])
        (again,) = look([following])
        if again.sureness <= seen.sureness:
            break
        shot, seen = following, again
    return shot
