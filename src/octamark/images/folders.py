"""Find the pictures in a folder, and compare file names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from octamark.images.decoding import SUFFIXES, read_text_entries
from octamark.images.writing import SOFTWARE

OTHER_SUFFIXES = (
    ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".psd", ".svg", ".eps", ".exr", ".hdr", ".tga",
    ".ico", ".icns", ".pcx", ".xcf", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".dib",
)  # fmt: skip
"""Suffixes of pictures that are not read; a folder's files of these kinds are counted."""

DRAWING_SUFFIXES = (".overlay.png", ".heatmap.png")
"""How the names of octamark's drawings end."""

_SYSTEM_FOLDERS = {"__MACOSX"}


@dataclass(frozen=True)
class PicturesFound:
    """The pictures of a folder.

    Attributes:
        paths: the picture files, sorted; each begins with the folder as it was given.
        left_out: suffix -> number of files that look like pictures but are in a format that is not read.
        unreadable: one message for each folder that could not be listed.
    """

    paths: tuple[Path, ...]
    left_out: Mapping[str, int]
    unreadable: tuple[str, ...] = ()

    @property
    def left_out_text(self) -> str:
        """``12 .heic, 1 .svg``; empty if nothing was left out."""
        return ", ".join(f"{count} {suffix}" for suffix, count in self.left_out.items())


def find_pictures(folder: str | os.PathLike[str], *, skip: Iterable[str | os.PathLike[str]] = ()) -> PicturesFound:
    """The picture files in a folder and all folders below it, as ``PicturesFound``.

    Files are chosen by their suffix, in any case. Hidden files and folders (``._a.jpg``, ``.ipynb_checkpoints``) and
    ``__MACOSX`` are skipped; so are octamark's own drawings (``*.overlay.png`` and ``*.heatmap.png`` that name octamark
    as their software). Links are followed. A file that can be reached in several ways comes once, under its own path
    rather than that of a link, and a folder is entered once, so links in a circle do no harm.

    Args:
        folder: where to search.
        skip: folders below it that are not searched, such as the folder of results.
    """
    root = Path(folder)
    entered = {_real(path) for path in skip} - {_real(root)}
    pending, linked_folders = [root], list[Path]()
    files, linked_files = list[Path](), list[Path]()
    unreadable: list[str] = []
    while pending or linked_folders:
        place = pending.pop() if pending else linked_folders.pop(0)
        real = _real(place)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(place) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(f"{place}: cannot be read ({error.strerror})")
            continue
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path, link = place / entry.name, entry.is_symlink()
            if _is_folder(entry):
                (linked_folders if link else pending).append(path)
            elif _is_file(entry):
                (linked_files if link else files).append(path)
    distinct: dict[str, Path] = {}
    for path in [*sorted(files), *sorted(linked_files)]:
        distinct.setdefault(_real(path), path)
    kinds = {path: path.suffix.lower() for path in sorted(distinct.values())}
    left_out = Counter(kind for kind in kinds.values() if kind in OTHER_SUFFIXES)
    paths = [path for path, kind in kinds.items() if kind in SUFFIXES and not is_drawing(path)]
    return PicturesFound(tuple(paths), dict(sorted(left_out.items())), tuple(sorted(unreadable)))


def _real(path: str | os.PathLike[str]) -> str:
    """The path that a link leads to, or its own where the link cannot be read, as those below /proc."""
    try:
        return os.path.realpath(path)
    except OSError:
        return os.path.abspath(path)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and editors leave behind: ``._a.jpg``, ``.DS_Store``,
    ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def is_drawing(path: Path) -> bool:
    """Whether a file is a drawing of octamark's: by its name, and by the software that the PNG file names."""
    return path.name.lower().endswith(DRAWING_SUFFIXES) and read_text_entries(path).get("Software") == SOFTWARE


def name_key(name: str) -> str:
    """A file name in Unicode's composed form (NFC): equal for all spellings of one name, so usable as a key.

    macOS stores ``é`` as ``e`` and an accent (NFD), while most other systems and label files use one character.
    """
    return unicodedata.normalize("NFC", name)


def same_name(first: str, second: str) -> bool:
    """Whether two file names are the same text, whichever Unicode form (NFC or NFD) each has; case counts."""
    return name_key(first) == name_key(second)
