"""Caricatures: WebCaricature (17 points) and CariFace (68 points).

WebCaricature, as unpacked: a folder for each person; C.... are caricatures, P.... photographs.

    ROOT/OriginalImages/<person>/C00001.jpg
    ROOT/FacialPoints/<person>/C00001.txt       17 lines "x y"

CariFace, in the form that its authors' code reads (Cai et al., Landmark Detection and 3D Face Reconstruction for
Caricature, 2021): two lists for each split, with one picture and one file of points per line.

    ROOT/{train,test}_images.txt                paths of pictures
    ROOT/{train,test}_landmarks.txt             paths of .npy files with (68, 2) values (or .txt, 68 lines "x y")

Paths are absolute, or below ROOT or the folder that holds ROOT (the authors' lists lie in ``exp`` and are used from
above it).
"""

# WebCaricature: folders, "x y" separated by a blank, and .jpg are the same in three public readers; all draw the points
# as written on 0-based pictures, and so does this reader. CariFace: the names of the lists are from train_options.py of
# Juyong/CaricatureFace, the .npy of (68, 2) from the authors' answers in its issues 31 and 40. We have not seen the
# lists themselves.

from __future__ import annotations

import tokenize
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.datasets.samples import Sample, face_names, picture_named
from octamark.errors import DataError
from octamark.io.files import FileFinder, find_files
from octamark.io.pts import read_points, read_text
from octamark.layouts import Layout

WEBCARICATURE_SPLITS = ("all", "caricatures", "photographs")
CARIFACE_SPLITS = ("test", "train")
_KINDS = {"C": "caricatures", "P": "photographs"}


def read_webcaricature(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, sorted by person and name; ``subsets`` says caricatures or photographs.

    Raises:
        DataError: missing folders, points without their picture, a file of points of another form.
    """
    for folder in (root / "FacialPoints", root / "OriginalImages"):
        if not folder.is_dir():
            raise DataError(f"{root}: holds no folder {folder.name}; expected FacialPoints and OriginalImages")
    samples = []
    finder = FileFinder()
    for points in find_files(root / "FacialPoints", (".txt",)):
        if points.parent.parent != root / "FacialPoints":
            continue
        kind = _KINDS.get(points.name[0])
        if kind is None:
            raise DataError(f"{points}: names begin with C (caricatures) or P (photographs)")
        if split in ("all", kind):
            person = points.parent.name
            picture = picture_named(finder.child(root / "OriginalImages", person) / points.stem, points, finder)
            landmarks = read_points(points, layout.count)
            samples.append(Sample(f"{person}/{points.stem}", picture, landmarks, subsets=frozenset([kind])))
    return samples


def read_cariface(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, in the order of its lists.

    Raises:
        DataError: missing lists or files, lists of different lengths, points of another shape or not finite.
    """
    lists = [root / f"{split}_images.txt", root / f"{split}_landmarks.txt"]
    pictures, labels = (
        [
            (line, text.strip())
            for line, text in enumerate(read_text(path, "a list of paths").split("\n"), 1)
            if text.strip()
        ]
        for path in lists
    )
    if len(pictures) != len(labels):
        raise DataError(
            f"{lists[1]}: lists {len(labels)} files of points for {len(pictures)} pictures in {lists[0].name}"
        )
    names = face_names(text for _, text in pictures)
    return [
        Sample(
            name,
            _below(root, picture),
            _landmarks(_below(root, points), f"{lists[1]}:{line}", layout.count),
            index=index,
        )
        for index, (name, (_, picture), (line, points)) in enumerate(zip(names, pictures, labels, strict=True))
    ]


def _below(root: Path, name: str) -> Path:
    """A listed path below ``root`` or, if it is only there, below the folder that holds it."""
    above = root.parent / name
    return above if above.is_file() and not (root / name).is_file() else root / name


def _landmarks(path: Path, where: str, count: int) -> NDArray[np.float32]:
    if not path.is_file():
        raise DataError(f"{where}: {path}: no such file")
    if path.suffix != ".npy":
        return read_points(path, count)
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, tokenize.TokenError) as error:
        raise DataError(f"{path}: cannot be read as a .npy file ({error})") from error
    if not isinstance(points, np.ndarray) or points.shape != (count, 2) or points.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: expected numbers of shape ({count}, 2), found {getattr(points, 'shape', 'an archive')}"
        )
    if not np.isfinite(points).all():
        raise DataError(f"{path}: point {np.flatnonzero(~np.isfinite(points).all(axis=1))[0]} is not finite")
    return points.astype(np.float32)
