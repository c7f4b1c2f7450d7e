"""What a job is to read: pictures and videos in folders, lists, tables and object stores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from octamark.errors import DataError, PictureError, listed
from octamark.images import SUFFIXES, find_pictures, is_hidden
from octamark.io.places import Place, absolute, is_uri, place, split_settings
from octamark.io.video import VIDEO_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst", ".list")
"""Files with one path or URI per line."""

STDIN = "-"


@dataclass(frozen=True)
class InputsFound:
    """The pictures and videos of a job.

    Attributes:
        names: paths from the root, and URIs; each once, in the order of the inputs.
        repeated: how many were named more than once.
        notes: one sentence for each thing that a person should know, such as files of a folder that were left out.
    """

    names: tuple[str, ...]
    repeated: int = 0
    notes: tuple[str, ...] = ()


def is_video(name: str) -> bool:
    """Whether a path or URI is a video, by its suffix."""
    return split_settings(name)[0].lower().endswith(VIDEO_SUFFIXES)


def find_inputs(
    inputs: Iterable[str | os.PathLike[str]], *, column: str | None = None, videos: bool = False, skip: str = ""
) -> InputsFound:
    """The pictures and videos that the inputs of a job name, as ``InputsFound``.

    Args:
        inputs: each one a folder (searched with all below it), a list of paths and URIs (a text file with one per line,
            or ``-`` for standard input), a Parquet file with a column of them, a picture or a video; each by path or
            URI. Relative paths in lists and tables start at the current directory. Files that a list or table names
            need not exist: those that do not become failures of the job.
        column: of Parquet files; needed where several columns hold text.
        videos: take the videos of folders instead of their pictures.
        skip: folder that is not searched, such as the one of the results.

    Raises:
        PictureError: an input that does not exist, is of another kind, or holds nothing.
        DataError: a list or table that cannot be read, or has no such column.
        ConfigError: a URI that cannot be read.
    """
    names: dict[str, None] = {}
    notes: list[str] = []
    repeated = 0
    for name in inputs:
        count = 0
        for found in _expanded(os.fspath(name), column, videos, skip, notes):
            count += 1
            repeated += found in names
            names[found] = None
        if not count:
            raise PictureError(f"{os.fspath(name)}: names no pictures or videos")
    return InputsFound(tuple(names), repeated, tuple(notes))


def _expanded(name: str, column: str | None, videos: bool, skip: str, notes: list[str]) -> Iterator[str]:
    """What one input names."""
    if name == STDIN:
        yield from _lines(sys.stdin.buffer.read(), "standard input")
        return
    target = place(name)
    kind = target.kind()
    if kind == "missing":
        raise PictureError(f"{name}: no such file or folder")
    if kind == "folder":
        yield from _folder(target, videos, skip, notes)
        return
    ending = os.path.splitext(split_settings(name)[0])[1].lower()
    if ending == ".parquet":
        yield from _column(target, column)
    elif ending in LIST_SUFFIXES:
        try:
            data = target.read()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error})") from error
        yield from _lines(data, name)
    elif ending in SUFFIXES or ending in VIDEO_SUFFIXES:
        yield absolute(name)
    else:
        kinds = f"{listed(LIST_SUFFIXES)}, .parquet, a picture ({listed(SUFFIXES)}) or a video"
        raise PictureError(f"{name}: of no known kind; allowed: a folder, {kinds}")


def _lines(data: bytes, name: str) -> Iterator[str]:
    """The lines of a list; blank ones are left out."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        text = os.fsdecode(line.removesuffix(b"\r"))
        if "\0" in text:
            raise DataError(f"{name}:{number}: no path or URI; a list is text with one on each line")
        if text.strip():
            yield absolute(text)


def _column(table: Place, column: str | None) -> Iterator[str]:
    """The values of a column of text, without nulls."""
    from pyarrow import ArrowException, parquet, types

    try:
        with parquet.ParquetFile(table.path, filesystem=table.filesystem) as file:
            found = file.schema_arrow
            texts = [field.name for field in found if types.is_string(field.type) or types.is_large_string(field.type)]
            if column is None and len(texts) != 1:
                raise DataError(
                    f"{table.name}: {len(texts)} columns of text ({listed(texts)}); name the one of the pictures with "
                    "--column"
                )
            chosen = texts[0] if column is None else column
            if chosen not in texts:
                raise DataError(f"{table.name}: no column of text {chosen!r}; columns of text: {listed(texts)}")
            for batch in file.iter_batches(columns=[chosen]):
                yield from (absolute(value) for value in batch.column(0).to_pylist() if value)
    except (OSError, ArrowException) as error:
        raise DataError(f"{table.name}: cannot be read ({error})") from error


def _folder(folder: Place, videos: bool, skip: str, notes: list[str]) -> Iterator[str]:
    """The pictures, or the videos, of a folder and all below it."""
    wanted = VIDEO_SUFFIXES if videos else SUFFIXES
    if folder.is_local and not videos:
        found = find_pictures(folder.path, skip=[] if not skip or is_uri(skip) else [skip])
        if found.unreadable:
            raise PictureError(found.unreadable[0])
        names: Sequence[str] = [str(path) for path in found.paths]
        if found.left_out:
            notes.append(f"{folder.name}: left out: {found.left_out_text}")
    else:
        names = [entry.name for entry in _files(folder, skip) if entry.path.lower().endswith(wanted)]
    if not names:
        what = "videos" if videos else "pictures"
        raise PictureError(f"{folder.name}: no {what} in this folder ({listed(wanted)})")
    yield from names


def _files(folder: Place, skip: str) -> list[Place]:
    """All files of a folder and below it, without hidden ones and those of the folder ``skip``, sorted."""
    from pyarrow.fs import FileSelector

    from octamark.io.places import errors

    left_out = place(skip).path.rstrip("/") + "/" if skip else ""
    root = folder.path.rstrip("/")
    with errors(folder.name):
        entries = folder.filesystem.get_file_info(FileSelector(root, recursive=True))
    paths = sorted(entry.path for entry in entries if entry.is_file)
    return [
        folder.sibling(path)
        for path in paths
        if not any(is_hidden(part) for part in path[len(root) :].split("/") if part)
        and not (left_out and path.startswith(left_out))
    ]
