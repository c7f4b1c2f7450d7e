"""A process that decodes pictures for the service: ``python -m octamark.serving.decoder PIXELS MEMORY BYTES SECONDS``.

It reads pictures from standard input and writes pixels to standard output. It may take no more address space than a
picture within the limits needs, and no more than SECONDS of processor time for each; it may write no files, and ends
when its standard input does. What an evil picture can do is to end this process.

For each picture it reads the number of bytes (``LENGTH``) and the bytes, and answers with a ``HEADER``: ``NEEDS``, the
size and the memory that decoding will take, or a refusal and the length of the reason that follows. After ``NEEDS``
it reads one byte: to ``GO`` it answers with ``PICTURE`` and the pixels, or with a refusal; ``SKIP`` has no answer.
"""

from __future__ import annotations

import enum
import io
import math
import os
import struct
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from octamark.errors import PictureError, listed
from octamark.images import Limits, picture_size, read_picture
from octamark.images.decoding import decoders, decoding_needs

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LENGTH = struct.Struct("<Q")
HEADER = struct.Struct("<BIIQ")
"""Kind; height and width of a picture; memory needed, or length of a reason."""

GO, SKIP = b"g", b"s"

SPARE = 64_000_000
"""Bytes of address space beyond those of a picture and its file."""

MAX_REASON = 300
"""Characters of a reason."""


class Kind(enum.IntEnum):
    """What an answer says. Those from 100 on are refusals, by their status in HTTP."""

    READY, NEEDS, PICTURE = 1, 2, 3
    DAMAGED, TOO_LARGE, UNKNOWN_FORMAT = 100, 113, 115

    @property
    def status(self) -> int:
        """The HTTP status of a refusal: 400, 413 or 415."""
        return self.value + 300


class _RefusedError(Exception):
    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def needed(data: bytes, limits: Limits) -> tuple[int, int, int]:
    """Height and width of a picture (0 if unknown) and the bytes that decoding it takes, from its header.

    Raises:
        _RefusedError: another format, or a picture beyond the limits.
    """
    if not any(accepts(data[:16]) is True for _, accepts in decoders().values()):
        raise _RefusedError(Kind.UNKNOWN_FORMAT, f"not a picture in a known format ({listed(decoders())})")
    needs = decoding_needs(data)
    width, height = needs[:2] if needs else picture_size(data) or (0, 0)
    if width * height > limits.pixels:
        allowed = f"at most {limits.pixels / 1e6:,.4g} megapixels are allowed"
        raise _RefusedError(Kind.TOO_LARGE, f"{width}x{height} pixels; {allowed}")
    memory = needs[2] if needs else limits.memory
    if memory > limits.memory:
        reason = f"decoding takes {memory / 1e6:,.0f} MB; at most {limits.memory / 1e6:,.0f} MB are allowed"
        raise _RefusedError(Kind.TOO_LARGE, reason)
    return height, width, memory


def answer(source: io.FileIO, target: io.FileIO, limits: Limits, seconds: float) -> bool:
    """Read one picture from a stream and write its pixels, or why there are none, to another; False at its end."""
    length = read_exactly(source, LENGTH.size)
    if length is None:
        return False
    restrict_time(seconds)
    encoded = read_exactly(source, LENGTH.unpack(length)[0])
    if encoded is None:
        return False
    data = bytes(encoded)
    del encoded
    try:
        write_all(target, HEADER.pack(Kind.NEEDS, *needed(data, limits)))
        order = bytes(read_exactly(source, 1) or b"")
        if order != GO:
            return order == SKIP
        picture = np.ascontiguousarray(read_picture(data, limits=limits))
    except PictureError as error:
        kind, reason = refusal_of(error)
    except _RefusedError as error:
        kind, reason = error.kind, str(error)
    except Exception as error:  # MemoryError, and whatever else
        kind, reason = Kind.DAMAGED, f"cannot be decoded ({type(error).__name__})"
    else:
        height, width, _ = picture.shape
        write_all(target, HEADER.pack(Kind.PICTURE, height, width, picture.nbytes))
        write_all(target, picture.data.cast("B"))
        return True
    encoded_reason = reason[:MAX_REASON].encode("utf-8", "backslashreplace")
    write_all(target, HEADER.pack(kind, 0, 0, len(encoded_reason)) + encoded_reason)
    return True


def refusal_of(error: PictureError) -> tuple[Kind, str]:
    """The kind of refusal of a picture that could not be decoded, and its reason."""
    if error.__cause__ is None or isinstance(error.__cause__, MemoryError):
        return Kind.TOO_LARGE, "decoding takes more memory than is allowed"
    return Kind.DAMAGED, str(error).removeprefix("bytes: ")


def read_exactly(source: io.FileIO, count: int) -> bytearray | None:
    """So many bytes of a stream; None if it ends before."""
    data = bytearray(count)
    return data if read_into(source, memoryview(data)) else None


def read_into(source: io.FileIO, view: memoryview) -> bool:
    """Fill memory from a stream; whether there were enough bytes."""
    while len(view):
        count = source.readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def write_all(target: io.FileIO, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes to a stream."""
    view = memoryview(data)
    while len(view):
        view = view[target.write(view) :]


def restrict(memory: int) -> None:
    """Let this process take so many bytes of address space beyond those that it has, and write no files."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    pages = Path("/proc/self/statm")
    if pages.is_file():  # Linux
        space = int(pages.read_text().split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def restrict_time(seconds: float) -> None:
    """Let the system end this process after so many seconds of processor time from now, rounded up to whole ones."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), most))


def main() -> None:
    """Answer until standard input ends."""
    pixels, memory, size = map(int, sys.argv[1:4])
    seconds = float(sys.argv[4])
    limits = Limits(bytes=size, pixels=pixels, memory=memory)
    warnings.simplefilter("ignore")
    source, target = io.FileIO(os.dup(0), "rb"), io.FileIO(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    decoders()
    restrict(memory + 3 * size + SPARE)
    write_all(target, HEADER.pack(Kind.READY, 0, 0, 0))
    while answer(source, target, limits, seconds):
        pass


if __name__ == "__main__":
    main()
