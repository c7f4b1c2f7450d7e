"""JSON: one list of objects, one object per picture.

A face has ``visible`` (M numbers) if its model tells which points can be seen.

Also read: a plain list of ``{"image": name, "landmarks": [[x, y], ...]}``, in which ``spread`` (M pairs),
``confidence`` and ``visible`` (M numbers), ``box`` (4) and ``score`` may stand beside the landmarks; null landmarks
mean that no face was found, null coordinates that a point has no label.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from octamark.errors import DataError, listed
from octamark.io.records import (
    FaceEntry,
    PictureEntry,
    Record,
    face_from_values,
    frame_from_values,
    resolve_layout,
    size_from_values,
)
from octamark.io.writers import Target, WholeFileWriter
from octamark.layouts import Layout

NAME = "predictions.json"


def picture_object(record: Record) -> dict[str, Any]:
    """A record as plain values: points to 0.01 pixels, spread to 0.001, shares to 0.0001, time to 0.00001 s."""
    values = record.faces.to_dict()
    faces = values.pop("faces")
    place = {"frame": record.frame, "time": None if record.time is None else round(record.time, 5)}
    known = {key: value for key, value in place.items() if value is not None}
    return {"file": record.file, **known, **values, "model": record.model, "faces": faces}


def picture_line(record: Record) -> str:
    """``picture_object`` as one line of JSON, ASCII only."""
    return json.dumps(picture_object(record), allow_nan=False)


def writer(target: Target) -> WholeFileWriter:
    """A writer of one ``predictions.json``."""
    lines: list[str] = []
    return WholeFileWriter(
        target, NAME, lambda record: lines.append(picture_line(record)), lambda: "[\n" + ",\n".join(lines) + "\n]\n"
    )


def read(path: Path, layout: Layout | None) -> list[PictureEntry]:
    """The pictures of a .json file that holds a list.

    Raises:
        DataError: a file that cannot be read, or an entry of another form (the message names it).
        LayoutError: see ``octamark.io.records.resolve_layout``.
    """
    return parse(load(path), path, layout)


def parse(content: Any, path: Path, layout: Layout | None) -> list[PictureEntry]:
    """As ``read``, from the content of the file."""
    if not isinstance(content, list):
        raise DataError(f'{path}: expected a list of {{"image": name, "landmarks": [[x, y], ...]}}')
    return pictures(((f"{path}: entry {number}", entry) for number, entry in enumerate(content, 1)), layout)


def load(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON (the message says in which line).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # not text; numbers of thousands of digits; endless nesting
        raise DataError(f"{path}: not a JSON file ({error})") from error


def pictures(values: Iterable[tuple[str, Any]], layout: Layout | None) -> list[PictureEntry]:
    """Entries from the objects of a file, each with its place in the file.

    Raises:
        DataError: an object of another form, or a picture named twice.
        LayoutError: see ``octamark.io.records.resolve_layout``.
    """
    entries: dict[str, PictureEntry] = {}
    count = 0
    for where, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object with image and landmarks, got {type(value).__name__}")
        name = value.get("image", value.get("file"))
        if not isinstance(name, str) or not name:
            raise DataError(f'{where}: needs "image", the name of the picture; it has {listed(value) or "nothing"}')
        if name in entries:
            raise DataError(f"{where}: picture {name!r} is listed twice")
        entries[name] = _picture(name, value, f"{where} ({name})", layout, count)
        count += len(entries[name].faces)
    return list(entries.values())


def _picture(name: str, value: dict[str, Any], where: str, layout: Layout | None, first: int) -> PictureEntry:
    for key in ("layout", "model"):
        if not isinstance(value.get(key), str | None):
            raise DataError(f"{where}: {key} {value[key]!r}; allowed: a name")
    chosen = resolve_layout(value.get("layout"), layout, where)
    faces: list[FaceEntry] = []
    given = value.get("faces", [value])
    if not isinstance(given, list):
        raise DataError(f"{where}: faces must be a list")
    for face in given:
        if not isinstance(face, dict) or "landmarks" not in face:
            raise DataError(f'{where}: needs "landmarks", a list of {chosen.count} pairs (null: no face was found)')
        entry = face_from_values(face, chosen.count, where, first + len(faces))
        if entry is not None:
            faces.append(entry)
    size, frame_and_time = size_from_values(value, where), frame_from_values(value)
    return PictureEntry(name, faces, chosen, where, size, value.get("model") or None, *frame_and_time)
