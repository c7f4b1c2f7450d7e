"""AFLW-19: the 19-point labels that Zhu et al. (Unconstrained Face Alignment via Cascaded Compositional Learning, 2016)
gave to AFLW's faces.

    ROOT/AFLWinfo_release.mat        MATLAB v5, one row per face
    ROOT/data/flickr/{0,2,3}/....jpg pictures of AFLW; ROOT/aflw/data/flickr and ROOT/flickr are accepted, too

The .mat holds nameList, paths under flickr; data (n, 38), 19 x then 19 y; bbox (n, 4), left right top bottom; mask_new
(n, 19), 1 = visible (hidden points are labelled, too); ra, the random order of the set, counted from 1: its first
20,000 faces are the split train, the others test. frontal = faces of test with all points visible.
"""

# The orders are the same in FaRL's reader and in Facebook's supervision-by-registration. Both use data and bbox as
# written with 0-based pictures, and so does this reader.

from __future__ import annotations

from pathlib import Path

import numpy as np

from octamark.datasets.samples import Sample, face_names, package_for
from octamark.errors import DataError, listed
from octamark.layouts import Layout

SPLITS = ("test", "frontal", "train")
TRAINING = 20_000
_PICTURES = ("data/flickr", "aflw/data/flickr", "flickr")
_ARRAYS = ("nameList", "data", "bbox", "mask_new", "ra")


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, in the random order of the set.

    Raises:
        DataError: a file that is missing or of another form, arrays of another shape, values that are not finite; no
            folder of pictures; scipy not installed.
    """
    path = root / "AFLWinfo_release.mat"
    scipy_io = package_for(path, "scipy", "scipy.io")
    try:
        table = scipy_io.loadmat(path, variable_names=_ARRAYS)
    except (OSError, ValueError, TypeError, NotImplementedError, scipy_io.matlab.MatReadError) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB v5 file ({error})") from error
    if missing := [name for name in _ARRAYS if name not in table]:
        raise DataError(f"{path}: holds no {missing[0]}; expected {listed(_ARRAYS)}")
    files = [str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in table["nameList"].ravel()]
    count = len(files)
    arrays = {}
    for name, shape in (("data", (count, 2 * layout.count)), ("bbox", (count, 4)), ("mask_new", (count, layout.count))):
        arrays[name] = np.asarray(table[name], dtype=np.float64)
        if arrays[name].shape != shape:
            raise DataError(f"{path}: {name} is {arrays[name].shape}; expected {shape} for {count} names")
        if len(wrong := np.flatnonzero(~np.isfinite(arrays[name]).all(axis=1))):
            raise DataError(f"{path}: {name}, face {wrong[0] + 1}: a value that is not finite")
    order = np.asarray(table["ra"], dtype=np.int64).ravel() - 1
    if sorted(order) != list(range(count)):
        raise DataError(f"{path}: ra must hold each of 1 to {count} once")
    folder = next((root / name for name in _PICTURES if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: holds no folder of pictures; expected one of {listed(_PICTURES)}")
    landmarks = arrays["data"].reshape(count, 2, layout.count).transpose(0, 2, 1).astype(np.float32)
    boxes, hidden = arrays["bbox"][:, [0, 2, 1, 3]].astype(np.float32), arrays["mask_new"] == 0
    names = face_names(files)
    chosen = order[:TRAINING] if split == "train" else order[TRAINING:]
    return [
        Sample(names[i], folder / files[i], landmarks[i], hidden[i], boxes[i], index=int(i))
        for i in chosen
        if split != "frontal" or not hidden[i].any()
    ]
