"""Finding a face that fills its picture, such as a drawing in which the detector sees none."""

from __future__ import annotations

import numpy as np

from octamark.geometry import Crop, Picture, ReducedPicture, crop_transform, landmark_boxes, squares
from octamark.inference.rotation import Read
from octamark.models import CropRule

_SIZES = (0.5, 0.65, 0.8, 0.95)
"""Guesses of the longer side of the box around the landmarks, as shares of the picture's shorter side."""

_HEIGHTS = (0.5, 0.58)
"""Guesses of that box's middle, as shares of the picture's height: foreheads have no landmarks."""

_ROUNDS = 2
"""How often the crop then follows the landmarks that were found."""


def search_full_frame(picture: Picture | ReducedPicture, read: Read, rule: CropRule) -> Crop:
    """The crop of the face that fills a picture. The best guess is returned in any case, also where there is no face.

    Several guesses are read. The crop of the one with the highest mean confidence then moves to its own landmarks, as
    long as the confidence rises.

    Args:
        picture: (H, W, 3) uint8 RGB, or one that gives its parts reduced.
        read: the network.
        rule: how the network's crops are cut.
    """
    height, width = picture.shape[:2]
    guesses = []
    for size in _SIZES:
        for middle in _HEIGHTS:
            centre = np.array([width / 2 - 0.5, height * middle - 0.5])
            side = size * min(height, width) * rule.margin
            guesses.append(Crop(picture, crop_transform(np.array([*centre, side]), rule.size), centre))
    crop, landmarks = max(zip(guesses, read(guesses), strict=True), key=lambda guess: guess[1].mean_confidence)
    for _ in range(_ROUNDS):
        square = squares(landmark_boxes(landmarks.points), rule.margin)[0]
        if square[2] <= 1:
            break
        following = Crop(picture, crop_transform(square, rule.size), square[:2])
        (reread,) = read([following])
        if reread.mean_confidence <= landmarks.mean_confidence:
            break
        crop, landmarks = following, reread
    return crop
