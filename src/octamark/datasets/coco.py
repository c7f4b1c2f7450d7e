"""COCO keypoints: one .json of images, annotations and categories, for any layout.

ROOT is the .json, or a folder with exactly one .json in it or in its ``annotations``. Pictures are found by file_name:
beside the .json, in ``images`` beside it, or the same from the folder above. ``octamark.io.coco`` reads the file.
Crowds and faces without any labelled point are left out; so are annotations of categories with another number of
keypoints.
"""

from __future__ import annotations

from pathlib import Path

from octamark.datasets.samples import Sample, samples_of
from octamark.errors import DataError, listed
from octamark.io import coco
from octamark.io.files import find_files
from octamark.layouts import Layout


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of the file, in its order.

    Raises:
        DataError: no .json or several; a file of another form; keypoint names that fit the layout in part; an id used
            twice; annotations of another number of points, without a known picture, or with values that are not
            finite; a width or height that is not the picture's.
    """
    path = _json_file(root)
    folders = [folder for above in (path.parent, path.parent.parent) for folder in (above, above / "images")]
    return samples_of(coco.read(path, layout), folders)


def _json_file(root: Path) -> Path:
    if root.is_file():
        return root
    files = find_files(root, (".json",), deep=False) or find_files(root / "annotations", (".json",), deep=False)
    if len(files) != 1:
        names = listed(path.relative_to(root) for path in files[:5]) or "none"
        raise DataError(
            f"{root}: expected one .json in it or in its folder annotations, found {names}; or name the .json"
        )
    return files[0]
