"""WFLW, Wider Facial Landmarks in-the-wild, as its two archives unpack.

    ROOT/WFLW_images/0--Parade/....jpg
    ROOT/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt

One face per line: 196 coordinates (x y of 98 points), the corners of a box (x y x y), six flags (pose, expression,
illumination, make-up, occlusion, blur; 1 = the face is difficult in this respect), the path of the picture under
WFLW_images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from octamark.datasets.samples import Sample, face_names
from octamark.errors import DataError
from octamark.io.pts import numbers, read_text
from octamark.layouts import Layout

# The order of columns is that of the set's README and of three public readers, which use the coordinates as written
# with 0-based pictures, and so does this reader.
ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
SPLITS = ("test", *(f"test/{attribute}" for attribute in ATTRIBUTES), "train")


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, in the order of its list; ``test/pose`` and so on are subsets of the split test.

    Raises:
        DataError: a missing list, or a line of another form.
    """
    part, _, subset = split.partition("/")
    path = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{part}.txt"
    values, coordinates = 2 * layout.count + 4 + len(ATTRIBUTES), 2 * layout.count
    rows = []
    for line, text in enumerate(read_text(path, "WFLW's list").split("\n"), 1):
        words = text.split(maxsplit=values)
        if not words:
            continue
        if len(words) != values + 1:
            raise DataError(
                f"{path}:{line}: {len(words)} columns; expected {values + 1}: {layout.count} points (x y), 4 of a box, "
                f"{len(ATTRIBUTES)} flags, a picture"
            )
        row = np.array(numbers(words[:values], f"{path}:{line}"), dtype=np.float32)
        if not np.isin(row[coordinates + 4 :], (0, 1)).all():
            raise DataError(f"{path}:{line}: flags {' '.join(words[coordinates + 4 : values])}; allowed: 0 and 1")
        rows.append((words[values].strip(), row))
    samples = []
    for index, (name, (picture, row)) in enumerate(zip(face_names(name for name, _ in rows), rows, strict=True)):
        flags = row[coordinates + 4 :]
        subsets = frozenset(attribute for attribute, flag in zip(ATTRIBUTES, flags, strict=True) if flag)
        landmarks, box = row[:coordinates].reshape(-1, 2), row[coordinates : coordinates + 4]
        if not subset or subset in subsets:
            samples.append(Sample(name, root / "WFLW_images" / picture, landmarks, None, box, subsets, index))
    return samples
