"""Steadiness: does a detector find the same places in a picture that was moved by a known amount? Needs no labels.

A picture is warped by a small similarity at its full size; both pictures are read; the second reading should be the
first one moved. The distance between them is what makes points tremble in video.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.geometry import Picture

F64 = NDArray[np.float64]

DEGREES, SCALE, SHIFT = 2.0, 0.02, 3.0
"""Largest rotation, logarithm of the scale, and shift in pixels, each drawn uniformly."""


def nudge(picture: Picture, rng: np.random.Generator) -> tuple[Picture, F64]:
    """The picture after a random small similarity about its middle, and that similarity (2, 3), points to points.

    Resampled with a Lanczos kernel, places counted in 32nds of a pixel; the border repeats the picture's last pixels.
    """
    angle, scale = np.deg2rad(rng.uniform(-DEGREES, DEGREES)), np.exp(rng.uniform(-SCALE, SCALE))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    height, width = picture.shape[:2]
    middle = np.array([width, height]) / 2 - 0.5
    matrix = np.column_stack([linear, middle - linear @ middle + rng.uniform(-SHIFT, SHIFT, 2)])
    warped = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8), matrix
