"""Steadiness: whether a detector finds the same points in a picture that was moved by a known amount. Needs no labels.

A picture is warped by a small similarity at full size. The points found in it should be those of the original, moved in
the same way; the distance between the two is how much points would jitter in video.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.geometry import Picture

F64 = NDArray[np.float64]

DEGREES, SCALE, SHIFT = 2.0, 0.02, 3.0
"""Largest rotation, logarithm of the scale, and shift in pixels; each is drawn uniformly up to these."""


def nudge(picture: Picture, rng: np.random.Generator) -> tuple[Picture, F64]:
    """The picture after a random small similarity about its centre, and that similarity (2, 3), from old to new points.

    The picture is resampled with a Lanczos kernel at positions rounded to 1/32 pixel; its border pixels are repeated.
    """
    angle, scale = np.deg2rad(rng.uniform(-DEGREES, DEGREES)), np.exp(rng.uniform(-SCALE, SCALE))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    height, width = picture.shape[:2]
    middle = np.array([width, height]) / 2 - 0.5
    matrix = np.column_stack([linear, middle - linear @ middle + rng.uniform(-SHIFT, SHIFT, 2)])
    warped = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8), matrix
