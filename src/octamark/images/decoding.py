"""Decode pictures: which formats, within which limits, and how each kind of pixel becomes RGB uint8."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from octamark.errors import ConfigError, PictureError, listed
from octamark.geometry import Picture, ReducedPicture
from octamark.images import metadata
from octamark.images.conversion import TRANSPOSED, array_to_rgb, image_to_rgb
from octamark.images.reduced import JpegPicture, first_factor

PictureLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[np.generic]

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
)  # fmt: skip
"""Suffixes of the files that are read, in lower case."""

_FORMATS = {
    "JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "AVIF": "Avif", "TIFF": "Tiff", "BMP": "Bmp", "GIF": "Gif",
    "PPM": "Ppm",
}  # fmt: skip
"""PIL's formats that are decoded, and the modules that do it. MPO comes with JPEG, PGM, PBM and PFM with PPM."""

_ROW_POINTER = 8
"""Bytes that PIL takes for each row of a picture, beside its pixels."""

_HEADER = 1 << 24
"""Bytes in which the size of a picture with broken metadata is looked for."""


@dataclass(frozen=True)
class Limits:
    """How large a picture may be. Larger ones are refused before they are decoded.

    Attributes:
        bytes: of the encoded file or stream; no more than this is read.
        pixels: width times height.
        memory: bytes that decoding and conversion to RGB take at their peak, estimated from the picture's header: its
            pixels as PIL holds them (1 to 4 bytes each, and 8 for each row), what the format's decoder needs beside
            them, and the result (3 bytes per pixel). The encoded bytes are not counted. Arrays are held to ``pixels``
            only.

    Raises:
        ConfigError: a limit that is no whole number above 0.

    Examples:
        >>> Limits(pixels=25_000_000).pixels
        25000000
    """

    bytes: int = 1_000_000_000
    pixels: int = 178_000_000
    memory: int = 2_000_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"Limits({field.name}={value!r}): a whole number above 0 is needed")


DEFAULT_LIMITS = Limits()


def read_picture(source: PictureLike, *, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """A picture as RGB uint8 (H, W, 3), EXIF orientation applied.

    Formats: JPEG (and MPO), PNG, WebP, AVIF (with Pillow 11.3 or later), TIFF, BMP, GIF, and PPM, PGM, PBM, PFM. Of
    animations and files with several pictures the first is taken. Metadata that cannot be read is passed over.

    Transparent pixels are laid on white. Palettes, CMYK and other colours become RGB. Deeper pixels are scaled to
    0..255: 16-bit integers from 0..65535; 32-bit integers (PIL's mode ``I``) from 0..255 if no pixel is above 255, else
    from 0..65535, except in PNG and PGM files, where they stand for 16 bits; real numbers (``F``) from 0..1, 0..255 or
    0..65535, the first of these that holds them all.

    Args:
        source: path, encoded bytes, binary stream (such as ``sys.stdin.buffer``), PIL image, or array: (H, W),
            (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of uint8, uint16 (0..65535), bool, or float in 0..1. RGB uint8
            is returned as it is, without a copy.
        limits: how large the picture may be.

    Raises:
        PictureError: a missing, unreadable, damaged or empty file, another format, a picture beyond the limits or the
            memory at hand, or an array of another shape, type or range. The message names the file.
    """
    picture = _open_source(source, limits, reduce=False)
    assert isinstance(picture, np.ndarray)
    return picture


def open_picture(source: PictureLike, *, limits: Limits = DEFAULT_LIMITS) -> Picture | ReducedPicture:
    """A picture as ``read_picture`` gives it, or a large JPEG that is decoded no larger than its parts are needed.

    JPEG files, and the bytes of some, that are larger than about 3,200 pixels become a ``ReducedPicture``. It is
    decoded at once at a half, a quarter or an eighth of its size, and again where a finer part is asked for.

    Args:
        source, limits: as in ``read_picture``; the limits hold for the full size.

    Raises:
        PictureError: as ``read_picture``; ``ReducedPicture.part`` raises it too if the memory is too small.
    """
    return _open_source(source, limits, reduce=True)


def _open_source(source: PictureLike, limits: Limits, *, reduce: bool) -> Picture | ReducedPicture:
    if isinstance(source, np.ndarray):
        if source.ndim in (2, 3):
            _check_pixels(source.shape[1], source.shape[0], "array", limits)
        with _errors("array"):
            return array_to_rgb(source)
    if isinstance(source, Image.Image):
        with _errors("PIL image"):
            _check_image(source, "PIL image", limits)
            source.load()
            return image_to_rgb(source, _orientation(source, None), "PIL image")
    data, name = _encoded(source, limits)
    if not data:
        raise PictureError(f"{name}: empty, no picture")
    return _decode(data, name, limits, reduce=reduce)


def held_pixels(source: PictureLike, *, reduce: bool) -> int:
    """How many pixels ``read_picture``, or with ``reduce`` ``open_picture``, will decode; 0 if unknown.

    Like ``picture_size``, it reads the header alone and raises no error.
    """
    width, height = picture_size(source) or (0, 0)
    factor = first_factor(width, height) if reduce and _starts_like_jpeg(source) else 1
    return -(-width // factor) * -(-height // factor)


def decoding_needs(data: bytes) -> tuple[int, int, int] | None:
    """Width and height of a picture, and the bytes that decoding takes at its peak, as ``Limits.memory`` counts them.

    They come from the header alone; None if it cannot be read as it is. Nothing is decoded and no error is raised.
    """
    try:
        with io.BytesIO(data) as stream:
            image = _open(stream, "")
            return image.width, image.height, decoded_bytes(image)
    except Exception:
        return None


def _starts_like_jpeg(source: PictureLike) -> bool:
    try:
        if isinstance(source, bytes | bytearray | memoryview):
            return bytes(source[:2]) == b"\xff\xd8"
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                return file.read(2) == b"\xff\xd8"
    except (OSError, ValueError):
        pass
    return False


def picture_size(source: PictureLike) -> tuple[int, int] | None:
    """Width and height in pixels that ``read_picture`` would return, from the header alone; None if unknown.

    Nothing is decoded and no error is raised. Streams and special files (pipes, devices) give None, as reading them
    would use them up.
    """
    try:
        if isinstance(source, np.ndarray):
            return (source.shape[1], source.shape[0]) if source.ndim in (2, 3) else None
        if isinstance(source, Image.Image):
            return _upright_size(source, None)
        if isinstance(source, bytes | bytearray | memoryview):
            with io.BytesIO(source) as stream:
                return _header_size(stream)
        if isinstance(source, str | os.PathLike) and stat.S_ISREG(os.stat(source).st_mode):
            with open(source, "rb") as file:
                return _header_size(file)
    except Exception:
        return None
    return None


def read_text_entries(path: Path) -> dict[str, str]:
    """The text entries before the pixels of a picture file, such as ``Software``; empty if there are none to read."""
    try:
        with path.open("rb") as file:
            image = _open(file, str(path))
            return {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except Exception:
        return {}


def _header_size(stream: IO[bytes]) -> tuple[int, int]:
    try:
        image, removed = _open(stream, ""), dict[str, bytes]()
        if image.format == "PNG" and "exif" not in image.info:
            removed = metadata.png_exif(stream)
    except Exception:
        stream.seek(0)
        plain = metadata.without_metadata(stream.read(_HEADER))
        if plain is None:
            raise
        image, removed = _open(io.BytesIO(plain[0]), ""), plain[1]
    return _upright_size(image, removed)


def _upright_size(image: Image.Image, removed: Mapping[str, bytes] | None) -> tuple[int, int]:
    (width, height), orientation = image.size, _orientation(image, removed)
    if isinstance(image, TiffImageFile) and image.tile:  # not loaded; releases of PIL differ in what its size is then
        width, height, orientation = (image.tag_v2.get(tag, 1) for tag in (256, 257, 274))
    return (height, width) if orientation in TRANSPOSED else (width, height)


def _encoded(source: Any, limits: Limits) -> tuple[bytes | bytearray | memoryview, str]:
    """The encoded bytes of a source that is neither array nor PIL image, and its name for messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        if size > limits.bytes:
            raise _too_many_bytes("bytes", limits)
        return source, "bytes"
    stream = callable(getattr(source, "read", None))
    if not stream and not isinstance(source, str | os.PathLike):
        kinds = "a path, bytes, binary stream, PIL image or array, or a list or tuple of them"
        raise PictureError(f"a {type(source).__name__} is no picture; give {kinds}")
    name = str(getattr(source, "name", "stream") if stream else source) or "an empty path"
    name = "standard input" if name == "<stdin>" else name
    try:
        if stream:
            return _read(source, name, limits), name
        with open(source, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > limits.bytes:
                raise _too_many_bytes(name, limits)
            return _read(file, name, limits, status.st_size), name
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _read(stream: IO[bytes], name: str, limits: Limits, expected: int = 0) -> bytes:
    """All bytes of a stream, which may have no end: at most one byte more than the limit is read."""
    parts, count = list[bytes](), 0
    while count <= limits.bytes:
        part = stream.read(min(max(expected - count, 1 << 20), limits.bytes - count) + 1)
        if not part:
            return b"".join(parts) if len(parts) != 1 else parts[0]
        if not isinstance(part, bytes):
            raise PictureError(f"{name}: gives {type(part).__name__}, not bytes; give a binary stream")
        parts.append(part)
        count += len(part)
    raise _too_many_bytes(name, limits)


def _too_many_bytes(name: str, limits: Limits) -> PictureError:
    return PictureError(f"{name}: more than {limits.bytes:,} bytes; {_how_to_raise('bytes')}")


def _how_to_raise(limit: str) -> str:
    if limit == "pixels":
        return "to allow more, give limits=octamark.images.Limits(pixels=...), or --max-megapixels on the command line"
    return f"to allow more, call read_picture with limits=octamark.images.Limits({limit}=...)"


@cache
def decoders() -> Mapping[str, tuple[Callable[[IO[bytes], str], Image.Image], Callable[[bytes], bool | str]]]:
    """PIL's decoders for the formats that are read, by name: a reader of headers, and a test of the first bytes.

    They are called directly because ``Image.open`` warns of every picture above PIL's own limit (89 megapixels), which
    is an error under ``python -W error``, and refuses those above twice that limit. ``Limits`` replaces both. No
    other decoder is tried: the one for EPS would start Ghostscript.
    """
    found: dict[str, Any] = {}
    for name, module in _FORMATS.items():
        with contextlib.suppress(ImportError):  # AVIF before Pillow 11.3
            importlib.import_module(f"PIL.{module}ImagePlugin")
            found[name] = Image.OPEN[name]
    return found


def _open(stream: IO[bytes], name: str) -> Image.Image:
    """A picture whose header was read, its pixels not yet.

    Raises:
        PictureError: a format that is not read. Many other exceptions: a damaged header.
    """
    start = stream.read(16)
    for reader, accepts in decoders().values():
        if accepts(start) is True:  # a text says which library is missing
            stream.seek(0)
            return reader(stream, "")
    raise PictureError(f"{name}: not a picture in a known format ({listed(decoders())})")


def _decode(
    data: bytes | bytearray | memoryview, name: str, limits: Limits, *, reduce: bool
) -> Picture | ReducedPicture:
    """The picture; if decoding fails with its metadata, it is decoded again without them."""
    try:
        with _errors(name):
            return _decode_as_it_is(data, name, limits, {}, reduce, silent=False)
    except PictureError as error:
        cause = error.__cause__
        try:
            if cause is None or isinstance(cause, MemoryError):  # refused, not damaged
                raise
            plain = metadata.without_metadata(bytes(data))
            silent = isinstance(cause, Warning)  # which is an error under python -W error
            if plain is None and not silent:
                raise
            encoded, removed = plain or (data, {})
            try:
                with _errors(name), _without_warnings() if silent else contextlib.nullcontext():
                    return _decode_as_it_is(encoded, name, limits, removed, reduce, silent=silent)
            except PictureError as second:
                raise error if isinstance(second.__cause__, Exception) else second from cause
        finally:
            del cause  # its traceback leads to this frame, and so to what the callers hold: a cycle of whole pictures


def _decode_as_it_is(
    data: bytes | bytearray | memoryview,
    name: str,
    limits: Limits,
    removed: Mapping[str, bytes],
    reduce: bool,
    *,
    silent: bool,
) -> Picture | ReducedPicture:
    """The picture of encoded bytes.

    Args:
        removed: blocks of metadata that were taken out of the file.
        silent: whether warnings are to be ignored when the bytes are decoded again.
    """
    image = _open(io.BytesIO(data), name)
    _check_image(image, name, limits)
    size = image.size
    factor = first_factor(*size) if reduce and image.format in ("JPEG", "MPO") else 1
    if factor == 1:
        image.load()  # before the orientation is read: a PNG may name it behind its pixels
        return image_to_rgb(image, _orientation(image, removed), name)

    def decode(factor: int) -> Image.Image:
        with _errors(name), _without_warnings() if silent else contextlib.nullcontext():
            return _load_reduced(_open(io.BytesIO(data), name), factor)

    return JpegPicture(name, size, _orientation(image, removed), decode, {factor: _load_reduced(image, factor)})


def _load_reduced(image: Image.Image, factor: int) -> Image.Image:
    """An opened JPEG, decoded at a ``factor``-th (1, 2, 4 or 8) of its size, rounded up."""
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
        image.decodermaxblock = 1 << 18  # type: ignore[attr-defined]  # bytes; with PIL's 2^16 it takes 1.2 times as long
    image.load()
    return image


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Every exception becomes a PictureError with the original as its cause; PIL raises many kinds on damaged bytes."""
    try:
        yield
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError(f"{name}: too large for the memory at hand") from error
    except Exception as error:
        raise PictureError(f"{name}: damaged or truncated picture ({error})") from error


_WARNINGS = threading.Lock()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Warnings are ignored in here. One thread at a time, because warning filters are global."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_image(image: Image.Image, name: str, limits: Limits) -> None:
    """Refuse an image whose header was read and whose full size is beyond the limits."""
    width, height = image.size
    _check_pixels(width, height, name, limits)
    needed = decoded_bytes(image)
    if needed > limits.memory:
        raise PictureError(
            f"{name}: {width}x{height} pixels ({image.mode}) take {needed / 1e6:,.0f} MB to decode, the limit is "
            f"{limits.memory / 1e6:,.0f} MB; {_how_to_raise('memory')}"
        )


def _orientation(image: Image.Image, removed: Mapping[str, bytes] | None) -> int:
    """The EXIF orientation (1 to 8) that is still to be applied.

    Args:
        removed: blocks of metadata that were taken out of the file; None for an image of the caller's.
    """
    if isinstance(image, TiffImageFile):
        return 1  # PIL applies it when it loads the pixels
    if removed is None:
        with contextlib.suppress(Exception):  # broken EXIF
            value = image.getexif().get(0x0112, 1)  # the caller may have set it
            return value if value in range(1, 9) else 1
    segments = (body for _, body in getattr(image, "applist", ()) if body.startswith(b"http://ns.adobe.com/xap/"))
    return metadata.orientation({"xmp": next(segments, None), **image.info, **(removed or {})})  # not in PIL 10's info


def _check_pixels(width: int, height: int, name: str, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise PictureError(
            f"{name}: {width}x{height} is more than {limits.pixels / 1e6:,.4g} megapixels; {_how_to_raise('pixels')}"
        )


def decoded_bytes(image: Image.Image) -> int:
    """Bytes that decoding an opened picture and converting it to RGB take at their peak; see ``Limits``."""
    mode, per_pixel = image.mode, 3.0  # the result, which replaces what the decoder held
    held = 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4
    if image.format in ("JPEG", "MPO") and "progressive" in image.info:
        per_pixel = max(3, 2 * len(image.getbands()))  # all coefficients
    elif image.format == "WEBP":
        per_pixel = 12  # two canvases and a copy
    elif image.format == "AVIF":
        per_pixel = 10  # planes of up to 16 bits, their RGB, and a copy
    elif isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(258, (8,))
        per_pixel = max(held, sum(bits) / 8)  # a strip may be the whole picture; turning it takes a copy
    rows = image.height * _ROW_POINTER
    return round(image.width * image.height * (held + max(3, per_pixel))) + rows
