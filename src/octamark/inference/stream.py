"""Many pictures through one landmarker: in order, in bounded memory, on several threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from octamark.errors import ConfigError, OctamarkError, PictureError, PredictionError
from octamark.faces import Faces
from octamark.geometry import Picture, whole
from octamark.images import DEFAULT_LIMITS, Limits, PictureLike, held_pixels
from octamark.inference.detector import FaceDetector
from octamark.inference.landmarker import Landmarker, Located

MAX_PIXELS = 30_000_000
"""Pixels of all pictures together that wait for the network, and of those that the network reads; a larger picture is
alone. Reduced pictures wait with the pixels that are decoded, and are read with those of their full size."""


@dataclass(frozen=True, eq=False)
class Result:
    """The faces of one input, or the error that took their place.

    Attributes:
        index: of the input, from 0.
        source: the input as it was given.
        faces: the prediction; None where there is an error.
        error: why there are no faces; its message names the input. None where there are.
        picture: (H, W, 3) uint8 RGB where ``keep_pictures`` asks for it.
    """

    index: int
    source: Any
    faces: Faces | None
    error: OctamarkError | None = None
    picture: Picture | None = None


def stream(
    landmarker: Landmarker,
    inputs: Iterable[PictureLike],
    *,
    batch: int = 8,
    decoders: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    full_frame: bool = False,
    heatmaps: bool = False,
    keep_pictures: bool = False,
) -> Iterator[Result]:
    """One ``Result`` for each input, in the order of the inputs.

    Pictures are decoded, searched for faces and read on other threads, some ahead of the result that is yielded. What
    goes wrong with one input is the ``error`` of its result, and the others go on. What the iterable of inputs itself
    raises is passed on.

    Memory does not grow with the number of inputs: at most ``(decoders + 2) * batch`` pictures are held, and about
    ``MAX_PIXELS`` pixels wait while as many are read. Large JPEGs are decoded at reduced size
    (``octamark.images.open_picture``), unless ``keep_pictures`` or a detector of one's own needs them whole.

    Args:
        inputs: paths, bytes, PIL images or arrays; a generator is read as far ahead as pictures are decoded.
        batch: pictures that share the network's runs.
        decoders: threads that decode, look for faces and run the networks. Each run takes the processor threads that
            the landmarker's option ``threads`` says: most pictures per second come from ``threads=1`` and as many
            decoders as there are processors. A detector of one's own is always called on the thread of the caller, on
            one picture at a time.
        limits: how large a picture may be.
        full_frame, heatmaps: as in calling the ``Landmarker``.
        keep_pictures: keep each decoded picture in its result, for drawing on it.

    Raises:
        ConfigError: one picture in place of an iterable of them.

    Examples:
        >>> import numpy as np
        >>> from octamark import load
        >>> pictures = [np.zeros((64, 64, 3), np.uint8), "missing.jpg"]
        >>> for result in stream(load("nano"), pictures):
        ...     print(result.index, result.error or len(result.faces))
        0 0
        1 missing.jpg: cannot be read (No such file or directory)
    """
    if isinstance(inputs, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray | Image.Image):
        raise ConfigError(f"inputs are one {type(inputs).__name__}; give a list, or another iterable, of pictures")
    batch, decoders = max(1, batch), max(1, decoders)
    locates_ahead = full_frame or type(landmarker.detector) is FaceDetector
    reduce = not keep_pictures and (full_frame or landmarker.detects_reduced)

    def prepare(source: PictureLike) -> Located | Picture | OctamarkError:
        """The located faces of an input; without ``locates_ahead`` the picture; or why there is neither."""
        try:
            picture = landmarker.decode(source, reduce=reduce, limits=limits)
            return landmarker.locate(picture, full_frame=full_frame) if locates_ahead else whole(picture)
        except Exception as error:  # whatever cv2, ONNX Runtime or PIL raises
            return _explained(error, source)

    def located(source: PictureLike, prepared: Located | Picture | OctamarkError) -> Located | OctamarkError:
        """What ``prepare`` left to the thread of the caller: a detector of one's own."""
        if not isinstance(prepared, np.ndarray):
            return prepared
        try:
            return landmarker.locate(prepared)
        except Exception as error:
            return _explained(error, source)

    def read(chunk: list[_Input]) -> list[Result]:
        """The results of inputs. If reading them together fails, they are read one by one."""
        good = [item.located for item in chunk if isinstance(item.located, Located)]
        try:
            faces = iter(landmarker.read_located(good, heatmaps))
        except Exception as error:
            if len(chunk) == 1:
                (item,) = chunk
                return [Result(item.index, item.source, None, _explained(error, item.source))]
            del error
            gc.collect()
            return [result for item in chunk for result in read([item])]
        return [
            Result(item.index, item.source, None, item.located)
            if isinstance(item.located, OctamarkError)
            else Result(
                item.index, item.source, next(faces), None, whole(item.located.picture) if keep_pictures else None
            )
            for item in chunk
        ]

    waiting: deque[tuple[int, PictureLike, int, Future[Located | Picture | OctamarkError]]] = deque()
    reading: deque[tuple[int, Future[list[Result]]]] = deque()
    chunk: list[_Input] = []
    with ThreadPoolExecutor(decoders, thread_name_prefix="octamark-stream") as pool:

        def next_results() -> Iterator[Result]:
            """Move the first input that waits into the chunk; results come out where others must make room for it."""
            index, source, _, future = waiting.popleft()
            item = _Input(index, source, located(source, future.result()))
            if chunk and (len(chunk) >= batch or sum(other.pixels for other in chunk) + item.pixels > MAX_PIXELS):
                yield from submit()
            chunk.append(item)

        def submit() -> Iterator[Result]:
            """Hand the chunk to the pool, after results of earlier chunks made room for it."""
            pixels = sum(item.pixels for item in chunk)
            while reading and (len(reading) >= decoders or sum(other for other, _ in reading) + pixels > MAX_PIXELS):
                yield from reading.popleft()[1].result()
            reading.append((pixels, pool.submit(read, chunk.copy())))
            chunk.clear()

        try:
            for index, source in enumerate(inputs):
                pixels = held_pixels(source, reduce=reduce)
                while waiting and (len(waiting) >= batch or sum(item[2] for item in waiting) + pixels > MAX_PIXELS):
                    yield from next_results()
                waiting.append((index, source, pixels, pool.submit(prepare, source)))
                while reading and reading[0][1].done():
                    yield from reading.popleft()[1].result()
            while waiting:
                yield from next_results()
            if chunk:
                yield from submit()
            while reading:
                yield from reading.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Input:
    """An input whose faces are located, or whose error is known."""

    index: int
    source: PictureLike
    located: Located | OctamarkError

    @property
    def pixels(self) -> int:
        if isinstance(self.located, OctamarkError):
            return 0
        height, width, _ = self.located.picture.shape
        return int(height * width)


def _explained(error: Exception, source: PictureLike) -> OctamarkError:
    """The error as one of octamark's, without the frames that would keep pictures in memory."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else f"a picture given as {type(source).__name__}"
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
        return PictureError(f"{name}: too large for the memory at hand")
    if isinstance(error, OctamarkError):
        return error.with_traceback(None)
    return PredictionError(f"{name}: {type(error).__name__}: {error}")


def give_back_memory() -> None:
    """Let glibc return the memory that it keeps for reuse to the system, so that long batches stay as small as short
    ones. With ``mallopt`` it does so for every picture at once, and a picture then takes twice as long."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
