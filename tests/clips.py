"""Clips made of the portrait of the documentation: it moves, leaves, and blinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark import read_picture
from octamark.io.video import VideoWriter

Picture = NDArray[np.uint8]

PORTRAIT = Path(__file__).parent.parent / "docs" / "portrait.jpg"
SIDE = 400  # of the portrait, pixels


def moved(picture: Picture, shift: float) -> Picture:
    """The picture moved to the right."""
    matrix = np.array([[1.0, 0, shift], [0, 1, 0]])
    size = (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def write_clip(path: Path, count: int, frame: Callable[[int], Picture], *, rate: float = 25.0) -> Path:
    """A file with ``count`` frames."""
    return write_frames(path, ((frame(number), number / rate) for number in range(count)), rate)


def write_frames(path: Path, frames: Iterable[tuple[Picture, float]], rate: float = 25.0) -> Path:
    with VideoWriter(path, rate=rate) as film:
        for picture, time in frames:
            film.write(picture, time)
    return path


def portrait_clip(path: Path, count: int = 20) -> Path:
    """The portrait, which moves one pixel to the right from frame to frame."""
    portrait = read_picture(PORTRAIT)
    return write_clip(path, count, lambda number: moved(portrait, number))
