"""Large JPEG pictures, decoded at the size at which their parts are needed.

JPEG stores squares of 8 by 8 pixels as frequencies. A decoder that leaves out the high ones gives the picture at a
half, a quarter or an eighth of its size, in less time and memory than the picture itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from PIL import Image

from octamark.geometry import MAX_ENLARGEMENT, Part
from octamark.images.conversion import MIRRORED_X, MIRRORED_Y, TRANSPOSED, image_to_rgb, stored_window

FACTORS = (8, 4, 2)
"""By how much the decoder can reduce a JPEG."""

LEAST_SIDE = 1600
"""Longest side, in pixels, that a picture keeps when it is first decoded. The face detector needs 1280; the rest spares
most portraits a second decoding, because larger faces are cut out of the same pixels."""


def first_factor(width: int, height: int) -> int:
    """By how much a JPEG of that size is reduced when it is first decoded; 1 for small ones, which are not."""
    longest, shortest = max(width, height), min(width, height)
    return next((factor for factor in FACTORS if longest >= LEAST_SIDE * factor and shortest >= factor), 1)


class JpegPicture:
    """A large JPEG whose parts are decoded no larger than they are needed; a ``ReducedPicture``.

    It keeps what was decoded, 4 bytes for each pixel of the reduced picture, and the encoded bytes. Safe to share
    between threads.

    Args:
        name: of the picture in messages.
        size: width and height as stored.
        orientation: EXIF orientation, 1 to 8.
        decode: from a factor (1, 2, 4 or 8) to the picture reduced by it, as stored.
        decoded: what is decoded already, by factor.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        orientation: int,
        decode: Callable[[int], Image.Image],
        decoded: dict[int, Image.Image],
    ) -> None:
        self._name, self._orientation, self._decode, self._decoded = name, orientation, decode, dict(decoded)
        self._first = max(decoded)
        self._lock = threading.Lock()
        width, height = reversed(size) if orientation in TRANSPOSED else size
        self.shape = (height, width, 3)

    def part(self, left: int, top: int, right: int, bottom: int, factor: float) -> Part:
        """The part that covers a rectangle of the picture; see ``ReducedPicture``.

        It is averaged from what the decoder gives, which is reduced by no more than the first time.

        Raises:
            PictureError: the memory is too small for a finer part than was decoded before.
        """
        height, width = self.shape[:2]
        decoded_factor = next((n for n in FACTORS if n <= min(factor * MAX_ENLARGEMENT, self._first)), 1)
        rest = max(1, int(factor / decoded_factor))
        total = decoded_factor * rest
        x1, x2, x = _reduced_range(left, right, width, total, self._orientation in MIRRORED_X)
        y1, y2, y = _reduced_range(top, bottom, height, total, self._orientation in MIRRORED_Y)
        image, window = self._reduced(decoded_factor), (x1, y1, x2, y2)
        if rest == 1:
            return Part(image_to_rgb(image, self._orientation, self._name, window), total, x, y)
        size = (-(-width // total), -(-height // total))
        stored = [rest * side for side in stored_window(window, size, self._orientation)]
        box = (stored[0], stored[1], min(stored[2], image.width), min(stored[3], image.height))
        return Part(image_to_rgb(image.reduce(rest, box), self._orientation, self._name), total, x, y)

    def _reduced(self, factor: int) -> Image.Image:
        with self._lock:
            if factor not in self._decoded:
                self._decoded[factor] = self._decode(factor)
            return self._decoded[factor]


def _reduced_range(start: int, stop: int, length: int, factor: int, mirrored: bool) -> tuple[int, int, int]:
    """The pixels, along one axis of a reduced picture, that cover ``start`` to ``stop`` - 1 of the full length.

    The last pixel in the order of the file covers less than ``factor`` pixels if the length is no multiple of it. In a
    picture that is stored mirrored it is the first one.

    Returns:
        First pixel, the one behind the last, and where the first begins in the full length.
    """
    count = -(-length // factor)
    origin = length - factor * count if mirrored else 0
    first, last = (start - origin) // factor, min(count, -((origin - stop) // factor))
    return first, last, origin + factor * first
