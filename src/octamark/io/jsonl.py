"""JSON lines: one object per picture, in the form of ``octamark.io.json``, each on a line of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octamark.errors import DataError, OutputError
from octamark.io.json import picture_line, pictures
from octamark.io.records import PictureEntry
from octamark.io.writers import LineWriter, Target
from octamark.layouts import Layout

NAME = "predictions.jsonl"


def writer(target: Target, resume: bool, model: str | None, layout: Layout | None) -> LineWriter:
    """A writer that appends a line per picture; with ``resume`` to what is already in the folder.

    Raises:
        OutputError: an existing file that is not of this format, or of another model or layout.
    """

    def existing(path: Path) -> tuple[int, set[str]]:
        return _finished(path, model, layout)

    return LineWriter(
        target, NAME, lambda record: picture_line(record).encode() + b"\n", resume=existing if resume else None
    )


def _finished(path: Path, model: str | None, layout: Layout | None) -> tuple[int, set[str]]:
    """Number of bytes in whole lines, and the pictures they are about."""
    size, files = 0, set()
    expected = {"model": model, "layout": None if layout is None else layout.name}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    name = value["file"]
                    found = {key: value[key] for key in expected}
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise OutputError(
                        f"{path}:{number}: not a line of octamark predict; resume from another file, or delete it"
                    ) from error
                check_same_run(f"{path}:{number}", expected, found)
                files.add(name)
                size += len(line)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    return size, files


def check_same_run(where: str, expected: dict[str, str | None], found: dict[str, Any]) -> None:
    """Refuse to go on from results of another model or layout; None in ``expected`` allows any.

    Raises:
        OutputError: they differ.
    """
    for key, value in expected.items():
        if value is not None and found[key] != value:
            raise OutputError(
                f"{where}: written with {key} {found[key]}, not {value}; resume with the same {key}, or name another "
                "folder"
            )


def read(path: Path, layout: Layout | None) -> list[PictureEntry]:
    """The pictures of a .jsonl file; blank lines are skipped.

    Raises:
        DataError: a file that cannot be read, or a line of another form (the message names it).
        LayoutError: see ``octamark.io.records.resolve_layout``.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    values = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                values.append((f"{path}:{number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            hint = "" if number < len(lines) else "; the last line is unfinished: predict --resume replaces it"
            raise DataError(f"{path}:{number}: not JSON ({error}){hint}") from error
    return pictures(values, layout)
