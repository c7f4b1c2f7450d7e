"""Encode pictures, and write files whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from octamark.errors import OutputError
from octamark.geometry import Picture

SOFTWARE = "octamark"
"""What the PNG files of ``write_picture`` name as their software."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

_UMASK = os.umask(0)
os.umask(_UMASK)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which then replaces ``path``.

    Raises:
        OutputError: the folder does not exist or is read-only, or the disk is full.
    """
    try:
        path = Path(os.path.realpath(path))  # a link still points to the same file afterwards
        handle, temporary = tempfile.mkstemp(prefix=".octamark-", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_picture(path: Path, picture: Picture) -> None:
    """Write RGB uint8 (H, W, 3) as PNG or JPEG, by the suffix, atomically.

    PNG files carry the text ``Software: octamark``, by which ``octamark.images.find_pictures`` knows octamark's
    own drawings.

    Raises:
        OutputError: another suffix, a picture that the format cannot hold, or a file that cannot be written.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise OutputError(f"{path}: pictures are written as .png, .jpg or .jpeg")
    software = PngInfo()
    software.add_text("Software", SOFTWARE)
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, form, quality=92, pnginfo=software)
    except (OSError, ValueError) as error:  # such as a side that is too long for JPEG
        raise OutputError(f"{path}: cannot be encoded ({error})") from error
    write_atomically(path, buffer.getvalue())
