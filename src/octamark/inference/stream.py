"""Many pictures through one landmarker: in order, in bounded memory, decoded ahead of the network."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from octamark.errors import ConfigError, OctamarkError, PictureError, PredictionError
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.images import DEFAULT_LIMITS, Limits, PictureLike, picture_size, read_picture
from octamark.inference.landmarker import Landmarker

MAX_PIXELS = 30_000_000
"""Pixels that may wait for the network, of all decoded pictures together; a larger picture is decoded alone."""


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

    While the network runs, the next pictures are decoded on other threads, as far ahead as ``batch`` pictures or
    ``MAX_PIXELS`` pixels. What goes wrong with one input is the ``error`` of its result, and the others go on.

    What the iterable of inputs itself raises is passed on.

    Args:
        inputs: paths, bytes, PIL images or arrays; a generator is read as far ahead as pictures are decoded.
        batch: pictures that share the network's runs.
        decoders: threads that decode.
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

    def predicted(chunk: list[tuple[int, PictureLike, Picture]]) -> Iterator[Result]:
        """The results of a chunk. If the chunk fails, its pictures are predicted one by one."""
        try:
            pictures = [picture for *_, picture in chunk]
            results = landmarker.predict(pictures, full_frame=full_frame, heatmaps=heatmaps)
        except Exception as error:  # whatever cv2, ONNX Runtime or a detector of one's own raises
            if len(chunk) == 1:
                index, source, _ = chunk[0]
                yield Result(index, source, None, _explained(error, source))
                return
            del error
            gc.collect()
            for part in chunk:
                yield from predicted([part])
            return
        for (index, source, picture), faces in zip(chunk, results, strict=True):
            yield Result(index, source, faces, None, picture if keep_pictures else None)

    if isinstance(inputs, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray | Image.Image):
        raise ConfigError(f"inputs are one {type(inputs).__name__}; give a list, or another iterable, of pictures")
    chunk: list[tuple[int, PictureLike, Picture]] = []
    pixels = 0
    for index, source, picture in _decoded(inputs, max(1, batch), max(1, decoders), limits):
        if isinstance(picture, OctamarkError):
            yield from predicted(chunk) if chunk else ()
            chunk, pixels = [], 0
            yield Result(index, source, None, picture)
            continue
        chunk.append((index, source, picture))
        pixels += picture.shape[0] * picture.shape[1]
        del picture
        if len(chunk) >= batch or pixels > MAX_PIXELS:
            yield from predicted(chunk)
            chunk, pixels = [], 0
    if chunk:
        yield from predicted(chunk)


def _decoded(
    inputs: Iterable[PictureLike], ahead: int, threads: int, limits: Limits
) -> Iterator[tuple[int, PictureLike, Picture | OctamarkError]]:
    """The inputs in order, each with its index and its picture, or the error where it cannot be read."""
    waiting: deque[tuple[int, PictureLike, int, Future[Picture | OctamarkError]]] = deque()
    pixels = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="octamark-decode") as pool:
        try:
            for index, source in enumerate(inputs):
                size = picture_size(source) or (0, 0)
                area = size[0] * size[1]
                while waiting and (len(waiting) >= ahead or pixels + area > MAX_PIXELS):
                    done_index, done_source, done_area, future = waiting.popleft()
                    pixels -= done_area
                    yield done_index, done_source, future.result()
                    del future
                waiting.append((index, source, area, pool.submit(_read, source, limits)))
                pixels += area
            while waiting:
                done_index, done_source, _, future = waiting.popleft()
                yield done_index, done_source, future.result()
                del future
        finally:
            pool.shutdown(cancel_futures=True)


def _read(source: PictureLike, limits: Limits) -> Picture | OctamarkError:
    try:
        return read_picture(source, limits=limits)
    except Exception as error:
        return _explained(error, source)


def _explained(error: Exception, source: PictureLike) -> OctamarkError:
    """The error as one of octamark's, without the frames that would keep pictures in memory."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else f"a picture given as {type(source).__name__}"
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
        return PictureError(f"{name}: too large for the memory at hand")
    if isinstance(error, OctamarkError):
        return error.with_traceback(None)
    return PredictionError(f"{name}: {type(error).__name__}: {error}")
