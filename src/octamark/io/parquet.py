"""Parquet: a row per face, a row per picture without faces, and a row per picture that failed.

The columns are those of ``COLUMNS``. A result is one file or a folder of files (parts), which pyarrow, pandas, DuckDB,
Polars, Spark and Ray read. It needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError
from octamark.io.places import Place, place, pyarrow
from octamark.io.records import FaceEntry, PictureEntry, Record, resolve_layout
from octamark.layouts import Layout

VERSION = 1
"""Of the columns; it rises when a column is renamed, removed or changes its meaning. New columns do not raise it."""

VERSION_KEY = b"octamark.columns"
"""Key of the version in the metadata of each file."""

SUFFIX = ".parquet"

_ROWS = 1000  # that are in memory together when a result is read


class Column(NamedTuple):
    """A column: its type, and one line about it."""

    type: str
    text: str


COLUMNS: dict[str, Column] = {
    "file": Column("string", "path or URI of the picture or video"),
    "frame": Column("int64", "index of the frame in its video, from 0; null for pictures"),
    "time": Column("double", "of the frame in its video, seconds; null for pictures"),
    "face": Column("int32", "index of the face in its picture, from 0; null where there is none"),
    "faces": Column("int32", "how many faces the picture has; null where it failed"),
    "id": Column("int64", "number of the face's track in its video; null for pictures"),
    "error": Column("string", "why the picture or video failed; null where it did not"),
    "width": Column("int32", "of the picture, pixels; null where it failed"),
    "height": Column("int32", "of the picture, pixels; null where it failed"),
    "model": Column("string", "name of the model"),
    "layout": Column("string", "which landmarks these are, such as ibug68"),
    "box": Column("list<float>", "4 numbers x1, y1, x2, y2: the detector's box, pixels"),
    "score": Column("float", "of the detector, 0 to 1"),
    "mean_confidence": Column("float", "mean of confidence; weighted by visible where that is known"),
    "landmarks": Column("list<float>", "2 M numbers x, y, x, y, ...: the M points, pixels"),
    "spread": Column("list<float>", "2 M numbers x, y, x, y, ...: expected absolute errors, pixels"),
    "confidence": Column("list<float>", "M numbers, 0 to 1"),
    "visible": Column("list<float>", "M numbers, 0 to 1; null where the model does not tell them"),
}
"""Name -> column, in their order. The last seven are null where there is no face."""

OPTIONAL = ("visible",)
"""Columns that files of earlier versions of octamark lack. They are read as null."""

_SPARK = {"string": "string", "int64": "bigint", "int32": "int", "double": "double", "float": "float"}


@dataclass(frozen=True)
class Failure:
    """A picture or video whose faces are not known.

    Attributes:
        file: as the caller named it.
        error: one sentence.
        model, layout: names of those that were to be used.
    """

    file: str
    error: str
    model: str
    layout: str


def schema() -> Any:
    """The columns as a ``pyarrow.Schema``."""
    pa = pyarrow()
    types = {name: getattr(pa, "float64" if name == "double" else "float32" if name == "float" else name)()
             for name in ("string", "int64", "int32", "double", "float")}  # fmt: skip
    types["list<float>"] = pa.list_(pa.float32())
    return pa.schema([(name, types[column.type]) for name, column in COLUMNS.items()])


def spark_schema() -> str:
    """The columns as Spark writes them: ``file string, frame bigint, ...``."""
    named = {name: column.type.removeprefix("list<").removesuffix(">") for name, column in COLUMNS.items()}
    return ", ".join(
        f"{name} array<{_SPARK[kind]}>" if COLUMNS[name].type.startswith("list") else f"{name} {_SPARK[kind]}"
        for name, kind in named.items()
    )


def table(outcomes: Iterable[Record | Failure]) -> Any:
    """The rows of these pictures and failures as a ``pyarrow.Table``, in their order.

    Numbers are rounded as in the other formats: pixels to 0.01, spreads to 0.001, shares to 0.0001.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}

    def add(**cells: Any) -> None:
        for name, values in columns.items():
            values.append(cells.get(name))

    for outcome in outcomes:
        file = printable(outcome.file)
        if isinstance(outcome, Failure):
            add(file=file, error=printable(outcome.error), model=outcome.model, layout=outcome.layout)
            continue
        faces = outcome.faces
        shared = {
            "file": file, "frame": outcome.frame, "time": outcome.time, "faces": len(faces), "model": outcome.model,
            "layout": faces.layout.name, "width": int(faces.size[0]), "height": int(faces.size[1]),
        }  # fmt: skip
        if not len(faces):
            add(**shared)
            continue
        numbers = {
            "box": _rounded(faces.boxes, 2),
            "score": _rounded(faces.scores, 4),
            "mean_confidence": _rounded(faces.mean_confidence, 4),
            "landmarks": _rounded(faces.landmarks.reshape(len(faces), -1), 2),
            "spread": _rounded(faces.spread.reshape(len(faces), -1), 3),
            "confidence": _rounded(faces.confidence, 4),
        }
        if faces.visible is not None:
            numbers["visible"] = _rounded(faces.visible, 4)
        for index in range(len(faces)):
            track = None if faces.ids is None else int(faces.ids[index])
            add(**shared, face=index, id=track, **{name: values[index] for name, values in numbers.items()})
    return pyarrow().table(columns, schema=schema())


def _rounded(values: NDArray[np.floating], digits: int) -> NDArray[np.float32]:
    return np.round(np.asarray(values, np.float64), digits).astype(np.float32)


def printable(text: str) -> str:
    """The text, with escapes for what is not valid Unicode, as file names may be."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_part(target: Place) -> Any:
    """A ``pyarrow.parquet.ParquetWriter`` of a new file with these columns."""
    from pyarrow import parquet

    with_version = schema().with_metadata({VERSION_KEY: str(VERSION).encode()})
    numbers = [name for name, column in COLUMNS.items() if column.type in ("float", "list<float>")]
    texts = [name for name, column in COLUMNS.items() if column.type == "string"]
    return parquet.ParquetWriter(
        target.path,
        with_version,
        filesystem=target.filesystem,
        compression="zstd",
        use_dictionary=texts,
        use_byte_stream_split=[
            f"{name}.list.element" if COLUMNS[name].type.startswith("list") else name for name in numbers
        ],
    )


def parts(result: Place) -> list[Place]:
    """The files of a result, sorted: the file itself, or those of a folder. Names with ``_`` or ``.`` in front are
    unfinished or not of the result.

    Raises:
        DataError: there is nothing, or a folder without such files.
    """
    from pyarrow.fs import FileSelector

    kind = result.kind()
    if kind == "file":
        return [result]
    entries = result.filesystem.get_file_info(FileSelector(result.path)) if kind == "folder" else ()
    names = sorted(entry.base_name for entry in entries if entry.is_file)
    names = [name for name in names if name.endswith(SUFFIX) and not name.startswith(("_", "."))]
    if not names:
        raise DataError(f"{result.name}: no {SUFFIX} files here")
    return [result / name for name in names]


def read_batches(result: str | Place, columns: Sequence[str] = tuple(COLUMNS), rows: int = _ROWS) -> Iterator[Any]:
    """The rows of a result as ``pyarrow.RecordBatch``, a few at a time and in the order of its files.

    Args:
        result: path or URI of a file, or of the folder that ``octamark batch`` wrote.
        columns: which are read. Those of ``OPTIONAL`` that a file lacks come last, and are null.
        rows: at most as many are in a batch.

    Raises:
        DataError: a file that is missing, is not Parquet, lacks another column, or has those of another version.
    """
    from pyarrow import ArrowException, parquet

    for part in parts(place(result) if isinstance(result, str) else result):
        try:
            with parquet.ParquetFile(part.path, filesystem=part.filesystem) as file:
                _check_columns(part.name, file.schema_arrow, columns)
                lacking = [name for name in columns if name not in file.schema_arrow.names]
                for batch in file.iter_batches(rows, columns=[name for name in columns if name not in lacking]):
                    for name in lacking:
                        batch = batch.append_column(name, pyarrow().nulls(len(batch), schema().field(name).type))
                    yield batch
        except (OSError, ArrowException) as error:
            raise DataError(f"{part.name}: cannot be read ({error})") from error


def _check_columns(name: str, found: Any, columns: Iterable[str]) -> None:
    """Check that a file has these columns, in this version or without one, as other programs write them.

    Raises:
        DataError: it has not.
    """
    version = (found.metadata or {}).get(VERSION_KEY, str(VERSION).encode()).decode()
    if version != str(VERSION):
        raise DataError(f"{name}: columns of version {version}; this octamark reads version {VERSION}")
    if missing := [column for column in columns if column not in found.names and column not in OPTIONAL]:
        raise DataError(f"{name}: no column {missing[0]!r}; octamark batch writes {', '.join(COLUMNS)}")


def read(path: Path, layout: Layout | None) -> list[PictureEntry]:
    """The pictures of a file or folder, without those that failed.

    Raises:
        DataError: as ``read_batches``; rows of another form.
        LayoutError: see ``octamark.io.records.resolve_layout``.
    """
    entries: list[PictureEntry] = []
    faces: list[FaceEntry] = []
    last: tuple[str, int | None] | None = None
    count = 0
    for batch in read_batches(str(path)):
        for row in batch.to_pylist():
            if row["error"] is not None:
                continue
            where = f"{path}: {row['file']}"
            points = resolve_layout(row["layout"], layout, where)
            if (row["file"], row["frame"]) != last:
                last, faces = (row["file"], row["frame"]), []
                size = (row["width"], row["height"]) if row["width"] and row["height"] else None
                entries.append(
                    PictureEntry(row["file"], faces, points, where, size, row["model"], row["frame"], row["time"])
                )
            if row["face"] is not None:
                faces.append(_face(row, points, where, count))
                count += 1
    return entries


def _face(row: dict[str, Any], points: Layout, where: str, index: int) -> FaceEntry:
    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        values = row[name]
        if values is None or len(values) != np.prod(shape):
            received = "none" if values is None else len(values)
            raise DataError(f"{where}: {received} numbers in {name}; layout {points.name} needs {np.prod(shape)}")
        return np.array(values, np.float64).reshape(shape)

    return FaceEntry(
        numbers("landmarks", points.count, 2),
        where,
        index,
        spread=numbers("spread", points.count, 2),
        confidence=numbers("confidence", points.count),
        visible=None if row["visible"] is None else numbers("visible", points.count),
        box=numbers("box", 4),
        score=row["score"],
        id=row["id"],
    )
