"""300 Faces In-the-Wild (300W), in its original folders.

    ROOT/afw, ROOT/helen/trainset, ROOT/helen/testset, ROOT/lfpw/trainset, ROOT/lfpw/testset, ROOT/ibug

Beside each picture is a .pts file of the same stem.

The splits are the usual ones: train = afw + helen/trainset + lfpw/trainset; common = helen/testset + lfpw/testset;
challenge = ibug; full = common + challenge. val = the faces of train that splits/val.txt lists, by names such as
``afw/123``, one per line.
"""

from __future__ import annotations

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


def read(root: Path, split: str = "train") -> list[Sample]:
    """The faces of a split, sorted by name.

    Args:
        root: folder that holds afw, helen, lfpw, ibug.
        split: a key of ``SPLITS``.

    Raises:
        DataError: an unknown split, a missing folder, a .pts without its picture, a malformed .pts, an unknown name in
            splits/val.txt.
    """
    if split not in SPLITS:
        raise DataError(f"300W has no split {split!r}; splits: {listed(SPLITS)}")
    labels: dict[str, Path] = {}  # by the face's name
    for folder in SPLITS[split]:
        if not (root / folder).is_dir():
            raise DataError(f"{root}: holds no folder {folder}; split {split} needs {listed(SPLITS[split])}")
        files = find_files(root / folder, (".pts",), deep=False)
        labels |= {f"{folder}/{path.stem}": path for path in files}
    if not labels:
        raise DataError(f"{root}: no .pts files in {listed(SPLITS[split])}")
    if split == "val":
        held_out, missing = known_names(read_split_file(root / VALIDATION), labels)
        if missing:
            raise DataError(
                f"{root / VALIDATION}: lists {listed(missing[:3])} ({len(missing)} names), which do not exist"
            )
        labels = {name: labels[name] for name in held_out}
    finder = FileFinder()
    return [
        Sample(
            name,
            picture_named(path.with_suffix(""), path, finder),
            read_pts(path, POINTS),
            subsets=_subsets(name),
        )
        for name, path in sorted(labels.items())
    ]


def _subsets(name: str) -> frozenset[str]:
    """The set that a face came from, and which half of the full test split it is in."""
    origin, path = name.split("/", 1)
    half = {"challenge"} if origin == "ibug" else {"common"} if path.startswith("testset") else set()
    return frozenset({origin, *half})
