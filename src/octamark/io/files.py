"""Finding files under the names that people and other systems give them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from octamark.images import is_hidden, name_key


def find_files(folder: Path, suffixes: Iterable[str], *, deep: bool = True) -> list[Path]:
    """Files with one of these suffixes (lower case; the file's may be any case) in a folder, sorted.

    Hidden files and folders are left out. Each folder is entered once, and by its own path rather than by a link to it.

    Args:
        deep: search the folders in it, too, to the bottom.
    """
    endings = tuple(suffixes)
    found: list[Path] = []
    entered: set[str] = set()
    pending = [folder]
    while pending:
        for place, folders, names in os.walk(pending.pop(0)):
            real = os.path.realpath(place)
            inside = [] if real in entered or not deep else sorted(name for name in folders if not is_hidden(name))
            links = [name for name in inside if os.path.islink(os.path.join(place, name))]
            pending += [Path(place, name) for name in links]
            folders[:] = [name for name in inside if name not in links]
            if real not in entered:
                kept = (name for name in names if name.lower().endswith(endings) and not is_hidden(name))
                found += [path for name in kept if (path := Path(place, name)).is_file()]
            entered.add(real)
    return sorted(found)


def plain_name(name: str) -> str:
    """A file name as other systems may spell the same one: ``\\`` as ``/``, Unicode in its composed form (NFC)."""
    return name_key(name.replace("\\", "/"))


class FileFinder:
    """Finds files by names from elsewhere: as written, with ``\\`` for ``/``, in another Unicode form.

    Listings of folders are kept, so that thousands of names cost one listing of each folder.
    """

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """The file of that name (a relative path) from a folder; None if there is none."""
        for spelling in dict.fromkeys((name, name.strip(), name.replace("\\", "/").strip())):
            if spelling and (folder / spelling).is_file():
                return folder / spelling
        place = folder
        for part in plain_name(name.strip()).split("/"):
            place = self.child(place, part)
        return place if place.is_file() else None

    def child(self, folder: Path, name: str) -> Path:
        """The file or folder of that name in a folder, in the spelling that is there if there is one."""
        return folder / self._listing(folder).get(plain_name(name), name)

    def with_suffix(self, stem: Path, suffixes: Iterable[str]) -> list[Path]:
        """Files with the path ``stem`` but for a suffix, of any case; in the order of ``suffixes``."""
        listing = self._listing(stem.parent)
        names = (listing.get(plain_name(stem.name) + suffix) for suffix in suffixes)
        paths = [stem.parent / name for name in dict.fromkeys(names) if name is not None]
        return [path for path in paths if path.is_file()]

    def _listing(self, folder: Path) -> dict[str, str]:
        """Plain name, also with the suffix in lower case -> name in the folder."""
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except OSError:
                names = []
            spellings = {}
            for name in names:
                stem, suffix = os.path.splitext(plain_name(name))
                spellings[stem + suffix.lower()] = name
            self._listings[folder] = spellings | {plain_name(name): name for name in names}
        return self._listings[folder]
