"""COFW, Caltech Occluded Faces in the Wild, in its colour release: labels and pictures in two MATLAB v7.3 files.

    ROOT/COFW_train_color.mat (IsTr, phisTr, bboxesTr), ROOT/COFW_test_color.mat (IsT, phisT, bboxesT)

A v7.3 file is HDF5 with every array transposed: a picture is (3, W, H), a grey one (W, H); phis is (87, n): 29 x, 29 y,
29 flags (1 = hidden); bboxes is (4, n): left, top, width, height. Coordinates are 1-based. The first 845 faces of train
are from LFPW.
"""

# Names, orders, transposition and the shift by one are the same in MMPose's converter and two other public readers.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octamark.datasets.samples import Sample, package_for
from octamark.errors import DataError, PictureError
from octamark.geometry import Picture
from octamark.images import read_picture
from octamark.layouts import Layout

SPLITS = ("test", "train")
_SUFFIX = {"train": "Tr", "test": "T"}


@dataclass(frozen=True, eq=False)
class _InFile(Sample):
    """A face whose picture is the ``index``-th of the cell array ``cells`` of its .mat file."""

    cells: str = ""

    @property
    def source(self) -> str:
        return f"{self.picture.resolve()}#{self.index}"

    def read(self) -> Picture:
        try:
            with _opened(self.picture) as file:
                return read_picture(np.asarray(file[file[self.cells][()].ravel()[self.index]]).T)
        except (DataError, PictureError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise PictureError(f"{self.picture}: {self.cells}, picture {self.index + 1}: {error}") from error


def _opened(path: Path) -> Any:
    h5py = package_for(path, "h5py")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a MATLAB v7.3 file ({error})") from error


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, in the order of the file; pictures are read from the file when they are needed.

    Raises:
        DataError: a file that is missing or of another form, arrays of another shape, values that are not finite; h5py
            not installed.
    """
    path, suffix, rows = root / f"COFW_{split}_color.mat", _SUFFIX[split], 3 * layout.count
    with _opened(path) as file:
        names = [f"{name}{suffix}" for name in ("Is", "phis", "bboxes")]
        if missing := [name for name in names if name not in file]:
            raise DataError(f"{path}: holds no {missing[0]}; expected {', '.join(names)}")
        count = file[names[0]].size
        phis, boxes = (np.asarray(file[name], dtype=np.float64) for name in names[1:])
    for name, array, height in (("phis", phis, rows), ("bboxes", boxes, 4)):
        if array.shape != (height, count):
            raise DataError(
                f"{path}: {name}{suffix} is {array.shape}; expected ({height}, {count}) for {count} pictures"
            )
        if len(wrong := np.flatnonzero(~np.isfinite(array).all(axis=0))):
            raise DataError(f"{path}: {name}{suffix}, face {wrong[0] + 1}: a value that is not finite")
    points = phis.reshape(3, layout.count, count).transpose(2, 1, 0)  # (n, M, 3)
    if not np.isin(points[..., 2], (0, 1)).all():
        raise DataError(f"{path}: phis{suffix} holds flags other than 0 and 1")
    corner = boxes[:2].T - 1
    box = np.concatenate([corner, corner + boxes[2:].T], axis=1).astype(np.float32)
    landmarks, hidden = (points[..., :2] - 1).astype(np.float32), points[..., 2] == 1
    return [
        _InFile(f"{split}/{i + 1:04d}", path, landmarks[i], hidden[i], box[i], index=i, cells=names[0])
        for i in range(count)
    ]
