"""300 Faces In-the-Wild (300W), in its original folders.

    ROOT/afw, ROOT/helen/trainset, ROOT/helen/testset, ROOT/lfpw/trainset, ROOT/lfpw/testset, ROOT/ibug

Beside each picture is a .pts file of the same stem.

The splits are the usual ones: train = afw + helen/trainset + lfpw/trainset; common = helen/testset + lfpw/testset;
challenge = ibug; full = common + challenge. val = the faces of train that splits/val.txt lists, by names such as
``afw/123``, one per line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from octamark.datasets.samples import Sample, known_names, picture_named
from octamark.errors import DataError, listed
from octamark.io.files import FileFinder, find_files
from octamark.io.pts import read_pts, read_text

SPLITS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenge": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "val": ("afw", "helen/trainset", "lfpw/trainset"),
}
POINTS = 68
VALIDATION = "splits/val.txt"


def read_split_file(path: Path) -> list[str]:
    """The names in a split file, one per line; blank lines are skipped.

    Raises:
        DataError: unreadable or empty file, or a name listed twice.
    """
    names = [line.strip() for line in read_text(path, "a split file").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: lists no faces")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path}: lists {listed(twice[:3])} more than once")
    return names


def read(root: Path, split: str = "train", *, only: Iterable[str] = (), but: Iterable[str] = ()) -> list[Sample]:
    """The faces of a split, sorted by name.

    Args:
        root: folder that holds afw, helen, lfpw, ibug.
        split: a key of :data:`SPLITS`.
        only: names (``helen/trainset/123``) to keep; empty keeps all.
        but: names to leave out.

    Raises:
        DataError: an unknown split or name, a missing folder, a .pts without its picture, a malformed .pts.
    """
    if split not in SPLITS:
        raise DataError(f"300W has no split {split!r}; splits: {listed(SPLITS)}")
    found: dict[str, Path] = {}
    for folder in SPLITS[split]:
        if not (root / folder).is_dir():
            raise DataError(f"{root}: holds no folder {folder}; split {split} needs {listed(SPLITS[split])}")
        files = find_files(root / folder, (".pts",), deep=False)
        found |= {f"{folder}/{path.stem}": path for path in files}
    if not found:
        raise DataError(f"{root}: no .pts files in {listed(SPLITS[split])}")
    if split == "val":
        held_out, missing = known_names(read_split_file(root / VALIDATION), found)
        if missing:
            raise DataError(
                f"{root / VALIDATION}: lists {listed(missing[:3])} ({len(missing)} names), which do not exist"
            )
        found = {name: found[name] for name in held_out}
    (keep, not_kept), (leave, not_left) = known_names(only, found), known_names(but, found)
    if missing := sorted(set(not_kept + not_left)):
        raise DataError(f"{root}: split {split} has no face {listed(missing[:3])} ({len(missing)} not found)")
    names = sorted((set(keep) or found.keys()) - set(leave))
    finder = FileFinder()
    return [
        Sample(
            name,
            picture_named(found[name].with_suffix(""), found[name], finder),
            read_pts(found[name], POINTS),
            subsets=_subsets(name),
        )
        for name in names
    ]


def _subsets(name: str) -> frozenset[str]:
    """The set that a face came from, and which half of the full test split it is in."""
    origin, rest = name.split("/", 1)
    half = {"challenge"} if origin == "ibug" else {"common"} if rest.startswith("testset") else set()
    return frozenset({origin, *half})
