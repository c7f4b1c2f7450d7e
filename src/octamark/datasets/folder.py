"""A plain folder of pictures: with a .pts beside each, or with one .csv.

A folder that holds a .csv is read by it (ROOT may name the .csv); otherwise every .pts in it and in its folders is a
face of the picture of the same name beside it (1-based, as 300W's). The .csv is 0-based, has a first row of column
names in any order, and one of two forms:

    one row a face:  file, x0, y0, x1, y1, ... and, if you have them, box_x1, box_y1, box_x2, box_y2
    one row a point: file, point, x, y and, if you have them, face, layout, box_x1, ...: what octamark predict writes

``file`` is a picture's path, from the .csv. Empty x and y, or a missing row, say that a point has no label.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.datasets.samples import Sample, face_names, numbers, picture_named, read_pts, read_text
from octamark.errors import DataError, listed
from octamark.layouts import Layout

_BOX = ("box_x1", "box_y1", "box_x2", "box_y2")
_POINTWISE = ("file", "point", "x", "y")
Row = tuple[str, dict[str, str]]  # file:line, and the row's cells


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of the folder: by name with .pts files, in the order of the .csv with one.

    Raises:
        DataError: neither .pts files nor a .csv, both, or several .csv; a .pts without its picture; a .csv with other
            columns; another number of points; a value that is no finite number (named by its line); another layout.
    """
    tables = [root] if root.is_file() else sorted(root.glob("*.csv"))
    labels = [] if root.is_file() else sorted(root.rglob("*.pts"))
    if len(tables) > 1 or (tables and labels):
        more = [*tables, *labels][:3]
        raise DataError(
            f"{root}: holds {listed(path.relative_to(root) for path in more)}; one .csv, or only .pts files"
        )
    if tables:
        return _from_csv(tables[0], layout)
    if not labels:
        raise DataError(f"{root}: holds neither a .csv nor .pts files")
    return [
        Sample(
            path.relative_to(root).with_suffix("").as_posix(),
            picture_named(path.with_suffix(""), path),
            read_pts(path, layout.count),
        )
        for path in labels
    ]


def _from_csv(path: Path, layout: Layout) -> list[Sample]:
    reader = csv.DictReader(io.StringIO(read_text(path, "a .csv file"), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a .csv file ({error})") from error
    for where, row in rows:
        if None in row or None in row.values():
            raise DataError(f"{where}: another number of cells than columns ({len(columns)})")
    if set(_POINTWISE) <= set(columns):
        faces = list(_faces_by_point(rows, layout))
    elif {"file", "x0", "y0"} <= set(columns):
        expected = {f"{axis}{index}" for index in range(layout.count) for axis in "xy"}
        found = {name for name in columns if name[0:1] in ("x", "y") and name[1:].isdigit()}
        if found != expected:
            odd = sorted(found ^ expected)
            raise DataError(
                f"{path}:1: {len(found) / 2:g} points; layout {layout.name} has {layout.count} "
                f"({'misses' if odd[0] in expected else 'unknown'}: {listed(odd[:3])})"
            )
        faces = [_face_of_row(where, row, layout.count) for where, row in rows]
    else:
        raise DataError(f"{path}:1: columns {listed(columns)}; expected file, x0, y0, ... or {listed(_POINTWISE)}")
    names = face_names(file for file, _, _ in faces)
    return [
        Sample(name, path.parent / file, landmarks, None, box, index=index)
        for index, (name, (file, landmarks, box)) in enumerate(zip(names, faces, strict=True))
    ]


Face = tuple[str, NDArray[np.float32], NDArray[np.float32] | None]


def _face_of_row(where: str, row: dict[str, str], count: int) -> Face:
    landmarks = np.stack([_point(where, row[f"x{i}"], row[f"y{i}"]) for i in range(count)])
    return _file(where, row), landmarks, _box(where, row)


def _faces_by_point(rows: list[Row], layout: Layout) -> Iterator[Face]:
    """Faces of rows that hold one point each; rows of the same file and face belong together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for where, row in rows:
        if row.get("layout", layout.name) != layout.name:
            raise DataError(f"{where}: layout {row['layout']}; asked for {layout.name}")
        if row["point"].strip():  # a picture without faces has a row without a point
            groups.setdefault((_file(where, row), row.get("face", "")), []).append((where, row))
    for (file, _), members in groups.items():
        landmarks = np.full((layout.count, 2), np.nan, dtype=np.float32)
        seen: set[int] = set()
        for where, row in members:
            (index,) = numbers([row["point"]], where)
            if index not in range(layout.count) or index in seen:
                problem = " of this face a second time" if index in seen else f"; allowed: 0 to {layout.count - 1}"
                raise DataError(f"{where}: point {row['point']}{problem}")
            seen.add(int(index))
            landmarks[int(index)] = _point(where, row["x"], row["y"])
        yield file, landmarks, _box(*members[0])


def _file(where: str, row: dict[str, str]) -> str:
    if not (file := row["file"].strip()):
        raise DataError(f"{where}: names no file")
    return file


def _point(where: str, x: str, y: str) -> NDArray[np.float32]:
    """A point as (2,) float32; NaN where both cells are empty."""
    empty = not x.strip() and not y.strip()
    return np.array([np.nan, np.nan] if empty else numbers([x, y], where), dtype=np.float32)


def _box(where: str, row: dict[str, str]) -> NDArray[np.float32] | None:
    cells = [row.get(name, "").strip() for name in _BOX]
    return np.array(numbers(cells, where), dtype=np.float32) if any(cells) else None
