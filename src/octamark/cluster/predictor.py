"""LandmarkPredictor: a batch of paths in, a table of landmarks out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from octamark import models
from octamark.cluster.inputs import is_video
from octamark.errors import ConfigError, DataError, OctamarkError, PredictionError, listed
from octamark.images import DEFAULT_LIMITS, Limits
from octamark.inference.detector import Detector
from octamark.inference.landmarker import Landmarker
from octamark.inference.motion import Smoothing
from octamark.inference.stream import give_back_memory, stream
from octamark.io.parquet import Failure, table
from octamark.io.places import Place, is_uri, place, pyarrow
from octamark.io.records import Record
from octamark.tracking import track

_PICTURES_BETWEEN_TRIMS = 8

_READ_AHEAD = 4
"""Pictures of an object store that are fetched while others are read."""

Outcome = Record | Failure


class LandmarkPredictor:
    """Finds the landmarks in pictures and videos that are given by path or URI.

    It takes and gives batches as Ray Data, Spark and Dask have them. It can be pickled; the networks are then built
    again where it arrives. It uses one thread of the networks unless told otherwise. The result for a picture does not
    depend on the other pictures of the batch.

    Args:
        model: as for ``octamark.load``. A file is read here and travels with the predictor.
        column: of the batches, which holds the paths and URIs.
        full_frame: as in calling the ``Landmarker``; for pictures.
        limits: how large a picture may be.
        smoothing: of videos, as in ``octamark.track``.
        detector: finds faces, as for ``octamark.load``.
        options: those of ``InferenceOptions``, by name.

    Attributes:
        landmarker: the predictor inside.

    Raises:
        WeightsError, DeviceError, ConfigError: as ``Landmarker``.
        OctamarkError: pyarrow is not installed.

    Examples:
        >>> predictor = LandmarkPredictor("nano")
        >>> predictor({"file": ["missing.jpg"]}).column("error").to_pylist()
        ['missing.jpg: cannot be read (No such file or directory)']
    """

    def __init__(
        self,
        model: str | Path | bytes = "small",
        *,
        column: str = "file",
        full_frame: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        smoothing: Smoothing = "low",
        detector: Detector | None = None,
        **options: Any,
    ) -> None:
        pyarrow()
        options = {"threads": 1, **options}
        if isinstance(regions := options.get("regions"), str | Path) and str(regions) != models.REGIONS:
            options["regions"] = models.read(regions)
        model = model if isinstance(model, str) and model in models.available() else models.read(model)
        self.landmarker = Landmarker(model, detector=detector, **options)
        self._column, self._full_frame, self._limits, self._smoothing = column, full_frame, limits, smoothing

    def __call__(self, batch: Any) -> Any:
        """The rows of a batch; the columns are those of ``octamark.io.parquet.COLUMNS``.

        Args:
            batch: a mapping of columns (Ray Data), a ``pyarrow.Table``, or a ``pandas.DataFrame`` (Spark, Dask). Its
                other columns are not looked at.

        Returns:
            A ``pandas.DataFrame`` for a data frame, else a ``pyarrow.Table``.

        Raises:
            DataError: no such column, or one that holds something else than text.
        """
        pa = pyarrow()
        is_table = isinstance(batch, pa.Table)
        names = batch.column_names if is_table else list(batch)
        if self._column not in names:
            raise DataError(f"the batch has no column {self._column!r}; columns: {listed(names)}")
        values = batch.column(self._column).to_pylist() if is_table else list(batch[self._column])
        files = [_text(value, self._column) for value in values]
        rows = table(self.outcomes(files))
        return rows if is_table or isinstance(batch, Mapping) else _data_frame(rows)

    def outcomes(self, files: Iterable[str]) -> Iterator[Outcome]:
        """A ``Record`` for each picture and each frame of a video, and a ``Failure`` for each that failed, in order.

        Args:
            files: paths and URIs. Those that end as videos do are read as such.
        """
        pictures: list[str] = []
        for file in files:
            if not is_video(file):
                pictures.append(file)
                continue
            yield from self._pictures(pictures)
            pictures.clear()
            yield from self._video(file)
        yield from self._pictures(pictures)

    def _pictures(self, files: Sequence[str]) -> Iterator[Outcome]:
        # One picture per run of the networks: in larger runs they give slightly other numbers, so that the result would
        # depend on how pictures are dealt out to workers.
        results = stream(
            self.landmarker, _sources(files, self._limits), batch=1, decoders=1, limits=self._limits,
            full_frame=self._full_frame,
        )  # fmt: skip
        for result in results:
            file = files[result.index]
            if result.faces is None:
                yield self._failure(file, result.error)
            else:
                yield Record(file, "", self.landmarker.card.name, replace(result.faces, heatmaps=None))
            if result.index % _PICTURES_BETWEEN_TRIMS == 0:
                give_back_memory()

    def _video(self, file: str) -> Iterator[Outcome]:
        try:
            source = place(file)
            if source.is_local:
                yield from self._frames(file, source.path)
                return
            with tempfile.TemporaryDirectory(prefix="octamark-") as folder:
                copy = os.path.join(folder, os.path.basename(source.path))
                with source.filesystem.open_input_stream(source.path) as remote, open(copy, "wb") as local:
                    shutil.copyfileobj(remote, local, 1 << 20)
                yield from self._frames(file, copy)
        except Exception as error:  # what FFmpeg and file systems raise
            yield self._failure(file, error)

    def _frames(self, file: str, path: str) -> Iterator[Record]:
        for frame in track(path, self.landmarker, smoothing=self._smoothing, pictures=False):
            faces = replace(frame.faces, heatmaps=None)
            yield Record(file, "", self.landmarker.card.name, faces, frame.index, frame.time)
            if frame.index % _PICTURES_BETWEEN_TRIMS == 0:
                give_back_memory()

    def _failure(self, file: str, error: Exception | None) -> Failure:
        explained = error if isinstance(error, OctamarkError) else PredictionError(f"{type(error).__name__}: {error}")
        text = str(explained)
        return Failure(
            file, text if text.startswith(file) else f"{file}: {text}", self.landmarker.card.name,
            self.landmarker.layout.name,
        )  # fmt: skip


class _Fetched:
    """A picture of an object store as a binary stream, fetched on another thread; what went wrong is raised by
    ``read``."""

    def __init__(self, name: str, data: Future[bytes]) -> None:
        self.name, self._data, self._position = name, data, 0

    def read(self, size: int = -1) -> bytes:
        data = self._data.result()
        start, end = self._position, len(data) if size < 0 else self._position + size
        self._position = min(end, len(data))
        return data[start:end]


def _sources(files: Sequence[str], limits: Limits) -> Iterator[Any]:
    """What ``stream`` reads for each file: paths, and those of object stores as streams of fetched bytes."""
    if not any(map(is_uri, files)):
        yield from files
        return

    def fetch(source: Place) -> bytes:
        try:
            return source.read(limits.bytes)
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise OSError(error.errno, reason) if error.errno else OSError(reason) from error

    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="octamark-fetch") as pool:
        waiting: deque[Any] = deque()
        try:
            for file in files:
                waiting.append(_source(file, pool, fetch))
                if len(waiting) > _READ_AHEAD:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _source(file: str, pool: ThreadPoolExecutor, fetch: Any) -> Any:
    if not is_uri(file):
        return file
    try:
        source = place(file)
    except ConfigError as error:  # a failure of this picture alone
        failed: Future[bytes] = Future()
        failed.set_exception(OSError(str(error).removeprefix(f"{file}: ")))
        return _Fetched(file, failed)
    return source.path if source.is_local else _Fetched(file, pool.submit(fetch, source))


def _text(value: Any, column: str) -> str:
    """A cell of the column of paths.

    Raises:
        DataError: it is something else than text.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str):
        raise DataError(f"column {column!r} holds {value!r} ({type(value).__name__}); allowed: paths and URIs as text")
    return value


def _data_frame(rows: Any) -> Any:
    """A table as a data frame, in which whole numbers that may be missing stay whole numbers."""
    import pandas as pd
    import pyarrow as pa

    return rows.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}.get)
