"""Turn decoded pixels of any kind into RGB uint8, a band of rows at a time, so that no second full copy is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octamark.errors import PictureError
from octamark.geometry import Picture

_BAND = 1 << 18
"""Pixels that are converted at once."""

_STORED: dict[int, Callable[[Picture], Picture]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""By EXIF orientation: the upright picture -> a view of it in the order in which the file stores its pixels."""


def image_to_rgb(image: Image.Image, orientation: int, name: str) -> Picture:
    """A loaded PIL image as RGB uint8 (H, W, 3), turned upright by its EXIF orientation (1 to 8).

    Raises:
        PictureError: integers or real numbers outside 0..65535, or missing ones; ``name`` begins the message.
    """
    turned = orientation >= 5
    upright: Picture = np.empty((image.width, image.height, 3) if turned else (image.height, image.width, 3), np.uint8)
    stored = _STORED[orientation](upright)
    convert = _converter(image, name)
    for top, bottom in _bands(image.height, image.width):
        stored[top:bottom] = convert(image.crop((0, top, image.width, bottom)))
    return upright


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BAND // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _converter(image: Image.Image, name: str) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """What makes RGB (h, w, 3), or grey (h, w, 1), uint8 of some rows of an image."""
    if image.mode.startswith(("I", "F")):
        top = _greatest_value(image, name)
        return lambda rows: _scaled(np.asarray(rows), top)[:, :, None]
    if image.has_transparency_data:
        return lambda rows: np.asarray(_on_white(rows.convert("RGBA")).convert("RGB"))
    return lambda rows: np.asarray(rows.convert("RGB"))


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
