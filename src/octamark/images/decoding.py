"""Read and write pictures: RGB, uint8, (H, W, 3), EXIF orientation applied."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from octamark.errors import OutputError, PictureError
from octamark.geometry import Picture

PictureLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.generic]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
"""What a folder is searched for."""

MAX_PIXELS = 178_000_000
"""Larger pictures are refused before they are decoded; this is where PIL refuses too."""

MAX_BYTES = 1_000_000_000
"""Larger files are refused before they are read."""

_UMASK = os.umask(0)
os.umask(_UMASK)


def read_picture(source: PictureLike) -> Picture:
    """A picture as RGB uint8 (H, W, 3).

    Args:
        source: path, encoded bytes, PIL image, or array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of
            uint8, uint16 (scaled by 1/257), bool, or float in 0..1. Transparency is laid on white; 16-bit and palette
            pictures and CMYK are converted; of animations the first frame is taken.

    Raises:
        PictureError: missing, unreadable, truncated or empty file, more than 178 megapixels, an array of another
            shape, type or range. The message names the file.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _guarded(lambda: _from_pil(source, "PIL image"), "PIL image")
    if isinstance(source, bytes | bytearray | memoryview):
        if not source:
            raise PictureError("bytes: empty, no picture")
        return _decode(bytes(source), "bytes")
    if not isinstance(source, str | os.PathLike):
        kinds = "a path, bytes, PIL image or array, or a list or tuple of them"
        raise PictureError(f"a {type(source).__name__} is no picture; give {kinds}")
    try:
        path = Path(source)
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise PictureError(f"{path}: the file has more than {MAX_BYTES // 1_000_000} MB")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise PictureError(f"{str(source) or 'an empty path'}: cannot be read ({said})") from error
    if not data:
        raise PictureError(f"{path}: the file is empty")
    return _decode(data, str(path))


def _decode(data: bytes, name: str) -> Picture:
    def decoded() -> Picture:
        with Image.open(io.BytesIO(data)) as image:
            return _from_pil(image, name)

    return _guarded(decoded, name)


def _guarded(decoded: Callable[[], Picture], name: str) -> Picture:
    """What ``decoded`` returns; whatever PIL raises on damaged pictures becomes a PictureError."""
    try:
        return decoded()
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{name}: not a picture in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF, ...)") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: more than {MAX_PIXELS // 1_000_000} megapixels") from error
    except Exception as error:  # on damaged bytes PIL's many decoders raise nearly anything
        raise PictureError(f"{name}: damaged or truncated picture ({error})") from error


def _from_pil(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(f"{name}: {image.width}x{image.height} is more than {MAX_PIXELS // 1_000_000} megapixels")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return _from_array(np.asarray(upright), name)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _from_array(array: NDArray[np.generic], name: str = "array") -> Picture:
    shape = array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise PictureError(f"{name}: shape {shape}; allowed: (H, W), (H, W, 1), (H, W, 3) RGB, (H, W, 4) RGBA")
    if 0 in shape:
        raise PictureError(f"{name}: shape {shape} holds no pixels")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise PictureError(f"{name}: {shape[1]}x{shape[0]} is more than {MAX_PIXELS // 1_000_000} megapixels")
    pixels: NDArray[np.uint8]
    if array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif array.dtype == np.uint8:
        pixels = array.astype(np.uint8, copy=False)
    elif (array.dtype.kind == "u" and array.dtype.itemsize == 2) or (array.dtype.kind in "iu" and name != "array"):
        if array.min() < 0 or array.max() > 65535:
            raise PictureError(f"{name}: values {array.min()}..{array.max()}; 16-bit pictures hold 0..65535")
        pixels = np.round(array.astype(np.float32) / 257).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
            raise PictureError(f"{name}: values {low:g}..{high:g}; pictures of real numbers hold 0..1, none missing")
        top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
        if name == "array" and top != 1.0:
            raise PictureError(f"{name}: values {low:g}..{high:g}; float arrays hold 0..1")
        pixels = np.round(array.astype(np.float32) * (255 / top)).astype(np.uint8)
    else:
        raise PictureError(f"{name}: type {array.dtype}; allowed: uint8, uint16, bool, float in 0..1")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 4:
        opacity = pixels[:, :, 3:].astype(np.uint16)
        pixels = ((pixels[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a neighbour first, then renamed over ``path``.

    Raises:
        OutputError: a folder that does not exist or is read-only, a full disk.
    """
    try:
        path = Path(os.path.realpath(path))  # a link keeps pointing where it did
        handle, name = tempfile.mkstemp(prefix=".octamark-", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_UMASK)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_picture(path: Path, picture: Picture) -> None:
    """Write RGB uint8 (H, W, 3) as PNG or JPEG, by the suffix, atomically.

    Raises:
        OutputError: another suffix, or a file that cannot be written.
    """
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in formats:
        raise OutputError(f"{path}: pictures are written as .png, .jpg or .jpeg")
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, formats[path.suffix.lower()], quality=92)
    except (OSError, ValueError) as error:  # a side too long for JPEG, say
        raise OutputError(f"{path}: cannot be encoded ({error})") from error
    write_atomically(path, buffer.getvalue())
