"""One labelled face, and the .pts files that many sets keep their labels in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled face.

    Attributes:
        name: stable name within its set, ``folder/stem``.
        picture: path of the picture.
        landmarks: (M, 2) float32, 0-based (x, y) pixels of the picture.
    """

    name: str
    picture: Path
    landmarks: NDArray[np.float32]


def read_pts(path: Path, count: int) -> NDArray[np.float32]:
    """Landmarks of a .pts file as (count, 2) float32, 0-based (the file is 1-based), with or without its header.

    Raises:
        DataError: unreadable file, values that are no finite numbers, or another number of points.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a .pts file ({error})") from error
    if "{" in text:
        text = text[text.index("{") + 1 :].split("}")[0]
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(f"{path}: not a .pts file ({error})") from error
    if len(values) != 2 * count or not np.isfinite(values).all():
        raise DataError(f"{path}: expected {count} points (x y), finite; found {len(values) / 2:g}")
    return (values.reshape(count, 2) - 1).astype(np.float32)
