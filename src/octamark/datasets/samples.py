"""One labelled face, and what the readers of many sets share."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, listed
from octamark.geometry import Picture
from octamark.images import SUFFIXES, read_picture


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled face.

    Attributes:
        name: stable name, unique within its set: ``folder/stem``, and ``#2``, ``#3`` for further faces of a picture.
        picture: path of the picture, or of the file that holds it.
        landmarks: (M, 2) float32, 0-based (x, y) pixels of the picture; NaN where a point has no label.
        occluded: (M,) bool, labelled but hidden; None where the set does not say.
        box: (4,) float32 xyxy, the set's own face box in 0-based pixels; None where it has none.
        subsets: what the set says of the face: pose, expression, ...
        index: place of the face in its file of labels, from 0.
    """

    name: str
    picture: Path
    landmarks: NDArray[np.float32]
    occluded: NDArray[np.bool_] | None = None
    box: NDArray[np.float32] | None = None
    subsets: frozenset[str] = frozenset()
    index: int = 0

    @property
    def source(self) -> str:
        """What the pixels come from, however its path is spelled: faces of one picture share it."""
        return str(self.picture.resolve())

    def read(self) -> Picture:
        """The picture, RGB uint8 (H, W, 3), decoded now and not kept.

        Raises:
            PictureError: a picture that cannot be read; the message names the file.
        """
        return read_picture(self.picture)


def read_text(path: Path, kind: str) -> str:
    """A file's text, with or without a byte order mark; ``kind`` says what it should be.

    Raises:
        DataError: unreadable, or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as {kind} ({error})") from error


def numbers(words: Iterable[str], where: str) -> list[float]:
    """Words as finite numbers; ``where`` (file:line) names them in errors.

    Raises:
        DataError: a word that is no finite number.
    """
    values = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise DataError(f"{where}: {word[:40]!r} is no finite number")
        values.append(value)
    return values


def read_points(path: Path, count: int) -> NDArray[np.float32]:
    """Landmarks of a text file that holds x and y of one point a line, as (count, 2) float32, as written.

    Raises:
        DataError: unreadable file, a value that is no finite number (named by its line), another number of points.
    """
    return _points(path, read_text(path, "lines of x y"), 1, count)


def read_pts(path: Path, count: int) -> NDArray[np.float32]:
    """Landmarks of a .pts file as (count, 2) float32, 0-based (the file is 1-based), with or without its header.

    Raises:
        DataError: unreadable file, a value that is no finite number (named by its line), another number of points.
    """
    head, brace, body = read_text(path, "a .pts file").partition("{")
    if not brace:
        return _points(path, head, 1, count) - 1
    return _points(path, body.split("}")[0], 1 + head.count("\n"), count) - 1


def _points(path: Path, text: str, first_line: int, count: int) -> NDArray[np.float32]:
    values: list[float] = []
    for line, row in enumerate(text.split("\n"), first_line):
        values += numbers(row.split(), f"{path}:{line}")
    if len(values) != 2 * count:
        raise DataError(f"{path}: expected {count} points (x y), found {len(values) / 2:g}")
    return np.array(values, dtype=np.float32).reshape(count, 2)


def picture_named(stem: Path, labels: Path) -> Path:
    """The picture with this path, but for its suffix; ``labels`` is the file that belongs to it.

    Raises:
        DataError: none there.
    """
    for suffix in SUFFIXES:
        for ending in (suffix, suffix.upper()):
            if (path := stem.with_name(stem.name + ending)).is_file():
                return path
    beside = "no picture beside it" if stem.parent == labels.parent else f"no picture {stem}"
    raise DataError(f"{labels}: {beside} ({listed(stem.name + suffix for suffix in SUFFIXES)})")


def face_names(pictures: Iterable[str]) -> list[str]:
    """A name for each face, by its picture: the name without suffix, then ``name#2``, ``name#3`` for further faces."""
    seen: dict[str, int] = {}
    names = []
    for picture in pictures:
        stem = picture.rsplit(".", 1)[0] if "." in picture.rsplit("/", 1)[-1] else picture
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}#{seen[stem]}")
    return names


def package_for(path: Path, package: str, module: str = "") -> ModuleType:
    """A package that only some sets need, imported.

    Raises:
        DataError: not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise DataError(f"{path}: reading it needs {package}: pip install 'octamark[evaluate]'") from error
