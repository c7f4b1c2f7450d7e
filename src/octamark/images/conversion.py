"""Turn decoded pixels of any kind into RGB uint8, a small part at a time, so that no second full copy is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octamark.errors import PictureError
from octamark.geometry import Picture

_BAND = 1 << 18
"""Pixels of an array that are converted at once."""

_TILE = 128
"""Side of the squares of an image that are converted at once. Their copies stay in the processor's cache, and are small
enough for the allocator to use the same memory again: with 2^18 pixels, conversion took five times as long."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first pixels outside."""

_TURNS: dict[int, Callable[[NDArray[np.uint8]], Any]] = {
    1: lambda stored: stored,
    2: lambda stored: cv2.flip(stored, 1),
    3: lambda stored: cv2.flip(stored, -1),
    4: lambda stored: cv2.flip(stored, 0),
    5: cv2.transpose,
    6: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE),
    7: lambda stored: cv2.flip(cv2.transpose(stored), -1),
    8: lambda stored: cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""By EXIF orientation: pixels (h, w) or (h, w, 3) as the file stores them -> the same pixels upright."""

MIRRORED_X, MIRRORED_Y, TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)
"""EXIF orientations whose files store the columns of the upright picture from right to left, those that store its rows
from bottom to top, and those that store its columns as rows."""


def upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Width and height of an image after it was turned upright by its EXIF orientation (1 to 8)."""
    return (image.height, image.width) if orientation in TRANSPOSED else (image.width, image.height)


def image_to_rgb(image: Image.Image, orientation: int, name: str, window: Window | None = None) -> Picture:
    """A loaded PIL image as RGB uint8 (H, W, 3), turned upright by its EXIF orientation (1 to 8).

    Args:
        window: the part of the upright picture that is wanted; None for all.

    Raises:
        PictureError: integers or real numbers outside 0..65535, or missing ones; ``name`` begins the message.
    """
    size = upright_size(image, orientation)
    left, top, right, bottom = window or (0, 0, *size)
    upright: Picture = np.empty((bottom - top, right - left, 3), np.uint8)
    convert, turn = _converter(image, name), _TURNS[orientation]
    for y in range(top, bottom, _TILE):
        for x in range(left, right, _TILE):
            tile = (x, y, min(x + _TILE, right), min(y + _TILE, bottom))
            pixels = turn(convert(image.crop(stored_window(tile, size, orientation))))
            upright[y - top : tile[3] - top, x - left : tile[2] - left] = (
                pixels if pixels.ndim == 3 else pixels[:, :, None]
            )
    return upright


def stored_window(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """Where a file stores a window of the upright picture, which has the given width and height."""
    left, top, right, bottom = window
    if orientation in MIRRORED_X:
        left, right = size[0] - right, size[0] - left
    if orientation in MIRRORED_Y:
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if orientation in TRANSPOSED else (left, top, right, bottom)


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BAND // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _converter(image: Image.Image, name: str) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """What makes RGB (h, w, 3), or grey (h, w), uint8 of a part of an image."""
    if image.mode.startswith(("I", "F")):
        top = _greatest_value(image, name)
        return lambda part: _scaled(np.asarray(part), top)
    if image.has_transparency_data:
        return lambda part: np.asarray(_on_white(part.convert("RGBA")).convert("RGB"))
    if image.mode == "RGB":
        return lambda part: np.asarray(part)
    return lambda part: np.asarray(part.convert("RGB"))


def _on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _greatest_value(image: Image.Image, name: str) -> float:
    """The value that stands for white in an image of integers or real numbers."""
    extremes = []
    for top, bottom in _bands(image.height, image.width):
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        extremes += [values.min(), values.max()]
    low, high = float(np.min(extremes)), float(np.max(extremes))
    if not (low >= 0 and high <= 65535):  # NaN is neither
        raise PictureError(f"{name}: values {low:g}..{high:g}; deep pixels hold 0..65535, none missing")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 65535.0
    if image.mode == "F" and high <= 1:
        return 1.0
    return 255.0 if high <= 255 else 65535.0


def _scaled(values: NDArray[np.generic], top: float) -> NDArray[np.uint8]:
    """Values 0..top as uint8 0..255."""
    if values.dtype.kind == "f":
        return np.round(values.astype(np.float32) * np.float32(255 / top)).astype(np.uint8)
    return np.round(values.astype(np.float32) / np.float32(top / 255)).astype(np.uint8)


def array_to_rgb(array: NDArray[np.generic]) -> Picture:
    """An array as RGB uint8 (H, W, 3); see ``octamark.images.read_picture`` for what is allowed.

    Raises:
        PictureError: another shape, type or range.
    """
    shape, kind = array.shape, array.dtype
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise PictureError(f"array: shape {shape}; allowed: (H, W), (H, W, 1), (H, W, 3) RGB, (H, W, 4) RGBA")
    if 0 in shape:
        raise PictureError(f"array: shape {shape} holds no pixels")
    if kind == np.bool_:
        top = 1.0
    elif kind == np.uint8:
        if shape[2:] == (3,):
            return np.ascontiguousarray(array, np.uint8)
        top = 255.0
    elif kind.kind == "u" and kind.itemsize == 2:
        top = 65535.0
    elif kind.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise PictureError(f"array: values {low:g}..{high:g}; float arrays hold 0..1, none missing")
        top = 1.0
    else:
        raise PictureError(f"array: type {kind}; allowed: uint8, uint16, bool, float in 0..1")
    picture = np.empty((*shape[:2], 3), np.uint8)
    for start, stop in _bands(*shape[:2]):
        values = array[start:stop]
        pixels = values.astype(np.uint8, copy=False) if kind == np.uint8 else _scaled(values, top)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.shape[2] == 4:
            opacity = pixels[:, :, 3:].astype(np.uint16)
            picture[start:stop] = (pixels[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255
        else:
            picture[start:stop] = pixels
    return picture
