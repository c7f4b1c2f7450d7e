"""Text files of points (.pts), as 300W uses them: one face each, 1-based coordinates, nothing else.

A picture's first face is ``NAME.pts``, further ones are ``NAME#2.pts``, ``NAME#3.pts``, ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, OutputError
from octamark.images import write_atomically
from octamark.io.files import find_files
from octamark.io.records import FaceEntry, PictureEntry, Record, further_face, resolve_layout
from octamark.io.writers import Writer
from octamark.layouts import Layout

F32 = NDArray[np.float32]


def pts_text(landmarks: NDArray[np.floating]) -> str:
    """Landmarks (M, 2) as the text of a .pts file: 1-based points between braces, after a header."""
    points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in landmarks.astype(np.float64))
    return f"version: 1\nn_points: {len(landmarks)}\n{{\n{points}\n}}\n"


class PtsWriter(Writer):
    """Writes a file for each face at once, atomically. A picture without faces leaves no file; a face with points that
    are missing (NaN) is refused, since the format has no place for them."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder, self._resume = folder, resume

    def write(self, record: Record) -> None:
        if not np.isfinite(record.faces.landmarks).all():
            raise OutputError(f"{record.file}: .pts files cannot hold points that are missing; write jsonl or csv")
        names = [further_face(record.stem, number) for number in range(1, len(record.faces) + 1)]
        for name, face in reversed(
            list(zip(names, record.faces, strict=True))
        ):  # the first face marks the picture done
            write_atomically(self._folder / f"{name}.pts", pts_text(face.landmarks).encode())

    def close(self) -> None:
        pass

    def is_done(self, file: str, stem: str) -> bool:
        return self._resume and (self._folder / f"{stem}.pts").is_file()


def read(folder: Path, layout: Layout | None, *, further_faces: bool = True) -> list[PictureEntry]:
    """The pictures of a folder of .pts files, searched to the bottom, by name. ``file`` is the path of the .pts file
    from the folder without its suffix.

    Args:
        further_faces: read ``NAME#2.pts`` as a face of ``NAME``; False gives each file as a picture of its own.

    Raises:
        DataError: a malformed file.
        LayoutError: no layout.
    """
    chosen = resolve_layout(None, layout, str(folder))
    entries = []
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in find_files(folder, (".pts",))}
    further: dict[str, list[str]] = {}
    for name in files if further_faces else ():
        base = first_face(name)
        if base in files and f"{base}#" in name:
            further.setdefault(base, []).append(name)
    hidden = {name for names in further.values() for name in names}
    for name in files:
        if name not in hidden:
            members = [name, *sorted(further.get(name, ()), key=lambda member: int(member.rpartition("#")[2]))]
            faces = [
                FaceEntry(read_pts(files[member], chosen.count).astype(np.float64), str(files[member]), index)
                for index, member in enumerate(members)
            ]
            entries.append(PictureEntry(name, faces, chosen, str(files[name])))
    return entries


def first_face(name: str) -> str | None:
    """The name of the first face's file, for the name of what may be a further face's: ``a`` for ``a#2``.

    octamark 0.1 wrote ``a_2`` and, where that name was taken, ``a_2-2``.
    """
    numbered = re.fullmatch(r"(.+?)(?:#[2-9]|#[1-9]\d+|_[2-9](?:-\d+)?|_[1-9]\d+(?:-\d+)?)", name, re.DOTALL)
    return numbered[1] if numbered else None


def read_pts(path: Path, count: int) -> F32:
    """Landmarks of a .pts file as (count, 2) float32, 0-based (the file is 1-based), with or without its header.

    Raises:
        DataError: unreadable file, a value that is not a finite number (named by its line), another number of points.
    """
    head, brace, body = read_text(path, "a .pts file").partition("{")
    if not brace:
        return _points(path, head, 1, count) - 1
    return _points(path, body.split("}")[0], 1 + head.count("\n"), count) - 1


def read_points(path: Path, count: int) -> F32:
    """Landmarks of a text file that holds x and y of one point per line, as (count, 2) float32, as written.

    Raises: as ``read_pts``.
    """
    return _points(path, read_text(path, "lines of x y"), 1, count)


def _points(path: Path, text: str, first_line: int, count: int) -> F32:
    values: list[float] = []
    for line, row in enumerate(text.split("\n"), first_line):
        values += numbers(row.split(), f"{path}:{line}")
    if len(values) != 2 * count:
        raise DataError(f"{path}: expected {count} points (x y), found {len(values) / 2:g}")
    return np.array(values, dtype=np.float32).reshape(count, 2)


def read_text(path: Path, kind: str, *, newline: str | None = None) -> str:
    """A file's text, with or without a byte order mark. Bytes that are not UTF-8 are kept as in Python's file names.

    Args:
        kind: what the file should be, for messages.
        newline: None translates the ends of lines to ``\\n``, "" leaves them, as for ``open``.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read as {kind} ({error.strerror})") from error


def numbers(words: Iterable[str], where: str) -> list[float]:
    """Words as finite numbers; ``where`` (file:line) names them in messages.

    Raises:
        DataError: a word that is not a finite number.
    """
    values = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise DataError(f"{where}: {word[:40]!r} is not a finite number")
        values.append(value)
    return values
