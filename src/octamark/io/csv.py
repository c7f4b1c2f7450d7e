"""CSV: one row per point. A picture without faces has one row with empty cells from ``face`` on. ``id`` is the number
of the face's track in a video, and empty outside video. ``visible`` is empty where the model does not tell it. The
frames of a video have two more columns: ``frame``, and ``time`` in seconds.

Also read: one row per face, with columns ``file, x0, y0, x1, y1, ...`` and, optionally, ``box_x1, box_y1, box_x2,
box_y2``. Columns may come in any order; of the first form ``file, point, x, y`` must be there. Coordinates are 0-based.
Empty x and y, or a missing row, mean that a point has no label.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from octamark.errors import DataError, OutputError, listed
from octamark.io.jsonl import check_same_run
from octamark.io.pts import numbers, read_text
from octamark.io.records import F64, FaceEntry, PictureEntry, Record, resolve_layout, rounded
from octamark.io.writers import LineWriter, Target
from octamark.layouts import Layout

NAME = "predictions.csv"

BOX = ("box_x1", "box_y1", "box_x2", "box_y2")
COLUMNS = (
    "file", "width", "height", "layout", "model", "face", "id", "score", "mean_confidence", *BOX,
    "point", "name", "x", "y", "spread_x", "spread_y", "confidence", "visible",
)  # fmt: skip
_IN_VIDEO = ("frame", "time")
VIDEO_COLUMNS = (*COLUMNS, *_IN_VIDEO)
_BY_POINT = ("file", "point", "x", "y")

_Row = tuple[str, dict[str, str]]  # file:line, and the cells by column


def _text(rows: list[list[object]], quoting: Literal[0, 1] = csv.QUOTE_MINIMAL) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # file names are bytes and come out as they went in


def picture_rows(record: Record, video: bool = False) -> bytes:
    """The rows of one picture: points to 0.01 pixels, spread to 0.001, shares to 0.0001, time to 0.00001 s."""
    faces, rows = record.faces, []
    picture = [record.file, *faces.size, faces.layout.name, record.model]
    place: list[object] = [record.frame, None if record.time is None else round(record.time, 5)] if video else []
    if not len(faces):
        rows.append(picture + [""] * (len(COLUMNS) - len(picture)) + place)
    count = faces.layout.count
    for number, face in enumerate(faces):
        scores = [rounded(np.float64(value), 4) for value in (face.score, face.mean_confidence)]
        track = "" if face.id is None else face.id
        cells = [*picture, number, track, *scores, *(rounded(face.box, 2) or [None] * 4)]
        points = rounded(face.landmarks, 2) or [[None, None]] * count
        spreads = rounded(face.spread, 3) or [[None, None]] * count
        confidences = rounded(face.confidence, 4) or [None] * count
        visible = (None if face.visible is None else rounded(face.visible, 4)) or [None] * count
        for index, name in enumerate(faces.layout.point_names):
            shares = confidences[index], visible[index]
            rows.append([*cells, index, name, *points[index], *spreads[index], *shares, *place])
    # not every version of the csv module quotes a carriage return of its own accord
    return _text(rows, csv.QUOTE_ALL if "\r" in record.file else csv.QUOTE_MINIMAL)


def writer(target: Target, resume: bool, model: str | None, layout: Layout | None, video: bool = False) -> LineWriter:
    """A writer that appends the rows of each picture; with ``resume`` to what is already in the folder.

    The last picture of an existing file is written again, since its rows may be incomplete.

    Raises:
        OutputError: an existing file that is not of this format, or of another model or layout.
    """

    columns: list[object] = list(VIDEO_COLUMNS if video else COLUMNS)

    def existing(path: Path) -> tuple[int, set[str]]:
        return _finished(path, model, layout, columns)

    return LineWriter(
        target, NAME, lambda record: picture_rows(record, video), _text([columns]), existing if resume else None
    )


def _finished(path: Path, model: str | None, layout: Layout | None, columns: list[object]) -> tuple[int, set[str]]:
    """Number of bytes before the rows of the last picture, and the pictures before it."""
    expected = {"model": model, "layout": None if layout is None else layout.name}
    keep = size = 0
    files: dict[str, None] = {}
    last = None
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(_whole_rows(file), 1):
                where = f"{path}: row {number}"
                cells = next(csv.reader(io.StringIO(raw.decode("utf-8", "surrogateescape"), newline="")), [])
                if number == 1 and cells != columns:
                    missing = [name for name in columns if name not in cells]
                    lacks = f" (no {listed(missing)})" if set(cells) < set(columns) else ""
                    raise OutputError(f"{where}: not the columns of octamark predict{lacks}; resume from another file")
                if number > 1:
                    if len(cells) != len(columns):
                        raise OutputError(f"{where}: not a row of octamark predict; resume from another file")
                    check_same_run(where, expected, {"model": cells[4], "layout": cells[3]})
                    if cells[0] != last:
                        keep, last = size, cells[0]
                        files[last] = None
                size += len(raw)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    files.pop(last or "", None)
    return keep, set(files)


def _whole_rows(file: IO[bytes]) -> Iterator[bytes]:
    """The rows of a file, but for an unfinished last one. A row ends with a line break outside quotes."""
    row = b""
    for line in file:
        row += line
        if row.endswith(b"\n") and row.count(b'"') % 2 == 0:
            yield row
            row = b""


def read(path: Path, layout: Layout | None) -> list[PictureEntry]:
    """The pictures of a .csv file, in the order in which the file first names them.

    Raises:
        DataError: a file that cannot be read, other columns, or a value of another form (the message names the line).
        LayoutError: see ``octamark.io.records.resolve_layout``.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "a .csv file", newline=""), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a .csv file ({error})") from error
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{path}:1: more than one column is called {listed(twice)}")
    for where, row in rows:
        if None in row or None in row.values():
            raise DataError(f"{where}: the number of cells differs from the number of columns ({len(columns)})")
    if not set(_IN_VIDEO) <= set(columns):  # alone, these names mean something else
        for _, row in rows:
            for name in _IN_VIDEO:
                row.pop(name, None)
    if not set(_BY_POINT) <= set(columns) and not {"file", "x0", "y0"} <= set(columns):
        raise DataError(
            f"{path}:1: columns {listed(columns) or 'missing'}; expected file, x0, y0, ... or {listed(_BY_POINT)}"
        )
    pictures: dict[str, list[_Row]] = {}
    for where, row in rows:
        if not row["file"].strip():
            raise DataError(f"{where}: names no file")
        pictures.setdefault(row["file"], []).append((where, row))
    if not pictures:
        return []
    faces_of = _faces_by_point
    if not set(_BY_POINT) <= set(columns):
        faces_of = _faces_by_row
        _check_columns(path, columns, resolve_layout(None, layout, str(path)))
    entries: list[PictureEntry] = []
    count = 0
    for file, members in pictures.items():
        chosen = {resolve_layout(row.get("layout") or None, layout, where) for where, row in members}
        if len(chosen) > 1:
            raise DataError(f"{members[0][0]}: the faces of {file} have several layouts")
        (layout_of_faces,) = chosen
        faces = list(faces_of(members, count, layout_of_faces))
        count += len(faces)
        where, row = members[0]
        frame, time = _number(where, row.get("frame", "")), _number(where, row.get("time", ""))
        entries.append(
            PictureEntry(
                file,
                faces,
                layout_of_faces,
                where,
                _size(where, row),
                row.get("model") or None,
                None if np.isnan(frame) else int(frame),
                None if np.isnan(time) else time,
            )
        )
    return entries


def _check_columns(path: Path, columns: list[str], layout: Layout) -> None:
    expected = {f"{axis}{index}" for index in range(layout.count) for axis in "xy"}
    found = {name for name in columns if name[0:1] in ("x", "y") and name[1:].isdigit()}
    if found != expected:
        odd = sorted(found ^ expected)
        raise DataError(
            f"{path}:1: {len(found) / 2:g} points; layout {layout.name} has {layout.count} "
            f"({'missing' if odd[0] in expected else 'unknown'}: {listed(odd[:3])})"
        )


def _faces_by_row(rows: list[_Row], first: int, layout: Layout) -> Iterator[FaceEntry]:
    for index, (where, row) in enumerate(rows, first):
        points = [_pair(where, row[f"x{i}"], row[f"y{i}"]) for i in range(layout.count)]
        yield FaceEntry(np.array(points), where, index, box=_box(where, row))


def _faces_by_point(rows: list[_Row], first: int, layout: Layout) -> Iterator[FaceEntry]:
    groups: dict[str, list[_Row]] = {}
    for where, row in rows:
        if row["point"].strip():  # a picture without faces has a row without a point
            groups.setdefault(row.get("face", ""), []).append((where, row))
    for number, members in enumerate(groups.values(), first):
        landmarks = np.full((layout.count, 2), np.nan)
        spread, confidence, visible = landmarks.copy(), landmarks[:, 0].copy(), landmarks[:, 0].copy()
        seen: set[int] = set()
        for where, row in members:
            (index,) = numbers([row["point"]], where)
            if index not in range(layout.count) or index in seen:
                problem = " of this face a second time" if index in seen else f"; allowed: 0 to {layout.count - 1}"
                raise DataError(f"{where}: point {row['point']}{problem}")
            seen.add(point := int(index))
            landmarks[point] = _pair(where, row["x"], row["y"])
            spread[point] = _pair(where, row.get("spread_x", ""), row.get("spread_y", ""))
            confidence[point] = _number(where, row.get("confidence", ""))
            visible[point] = _number(where, row.get("visible", ""))
        where, row = members[0]
        yield FaceEntry(
            landmarks,
            where,
            number,
            spread=None if np.isnan(spread).all() else spread,
            confidence=None if np.isnan(confidence).all() else confidence,
            visible=None if np.isnan(visible).all() else visible,
            box=_box(where, row),
            score=None if np.isnan(score := _number(where, row.get("score", ""))) else score,
            id=_track(where, row.get("id", "")),
        )


def _number(where: str, cell: str) -> float:
    """NaN for an empty cell."""
    return numbers([cell], where)[0] if cell.strip() else np.nan


def _track(where: str, cell: str) -> int | None:
    """The id in a cell; None for an empty one."""
    value = _number(where, cell)
    if np.isnan(value):
        return None
    if value != int(value):
        raise DataError(f"{where}: id {cell}; allowed: a whole number")
    return int(value)


def _pair(where: str, x: str, y: str) -> list[float]:
    """Two coordinates; NaN if both cells are empty."""
    return numbers([x, y], where) if x.strip() or y.strip() else [np.nan, np.nan]


def _box(where: str, row: dict[str, str]) -> F64 | None:
    cells = [row.get(name, "").strip() for name in BOX]
    return np.array(numbers(cells, where)) if any(cells) else None


def _size(where: str, row: dict[str, str]) -> tuple[int, int] | None:
    width, height = (_number(where, row.get(name, "")) for name in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None
