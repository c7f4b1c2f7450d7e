"""A labelled face, and functions that the readers of several sets use."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, install_hint, listed
from octamark.geometry import Picture
from octamark.images import SUFFIXES, picture_size, read_picture
from octamark.io import FaceEntry, PictureEntry
from octamark.io.files import FileFinder, plain_name
from octamark.layouts import Layout, conversion


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled face.

    Attributes:
        name: stable name, unique within its set: ``folder/stem``, with ``#2``, ``#3`` for further faces of a picture.
        picture: path of the picture, or of the file that contains it.
        landmarks: (M, 2) float32, 0-based (x, y) pixels of the picture; NaN where a point has no label.
        occluded: (M,) bool, whether a labelled point is hidden; None if the set does not say.
        box: (4,) float32 xyxy, the face box of the set in 0-based pixels; None if it has none.
        subsets: names of the set's subsets that the face belongs to, such as ``pose`` or ``expression``.
        index: position of the face in its file of labels, from 0.
    """

    name: str
    picture: Path
    landmarks: NDArray[np.float32]
    occluded: NDArray[np.bool_] | None = None
    box: NDArray[np.float32] | None = None
    subsets: frozenset[str] = frozenset()
    index: int = 0

    @property
    def source(self) -> str:
        """The resolved path of the picture; equal for all faces of a picture."""
        return str(self.picture.resolve())

    def read(self) -> Picture:
        """The picture, RGB uint8 (H, W, 3), decoded at each call.

        Raises:
            PictureError: a picture that cannot be read; the message names the file.
        """
        return read_picture(self.picture)

    def converted(self, from_layout: Layout, to_layout: Layout) -> Sample:
        """The same face with the points of another layout, NaN where there is no counterpart.

        A mean of points counts as hidden where half of them or more are.

        Raises:
            LayoutError: layouts between which there is no conversion.
        """
        change, occluded = conversion(from_layout, to_layout), self.occluded
        if occluded is not None:
            occluded = np.asarray(change.probability(occluded.astype(np.float64)) >= 0.5)
        return replace(self, landmarks=change.points(self.landmarks).astype(np.float32), occluded=occluded)


def picture_named(stem: Path, labels: Path, finder: FileFinder | None = None) -> Path:
    """The picture with the path ``stem`` but for its suffix; ``labels`` is the file that belongs to it, for messages.

    Raises:
        DataError: there is none.
    """
    pictures = (finder or FileFinder()).with_suffix(stem, SUFFIXES)
    if pictures:
        return pictures[0]
    beside = "no picture beside it" if stem.parent == labels.parent else f"no picture {stem}"
    raise DataError(f"{labels}: {beside} ({listed(stem.name + suffix for suffix in SUFFIXES)})")


def samples_of(entries: Sequence[PictureEntry], folders: Sequence[Path]) -> list[Sample]:
    """The labelled faces of a file, in its order. Faces without any labelled point are left out.

    Args:
        entries: the pictures and faces of the file.
        folders: where the pictures are looked for, by the names in the file.

    Raises:
        DataError: a picture whose size is not the one in the file; visibility other than 0, 1, 2.
    """
    finder = FileFinder()
    faces: list[tuple[FaceEntry, str, Path]] = []
    for entry in entries:
        paths = (finder.find(folder, entry.file) for folder in folders)
        picture = next((path for path in paths if path is not None), folders[0] / entry.file)
        exact = picture in [folder / entry.file for folder in folders]
        name = entry.file if exact else plain_name(entry.file.strip())
        check_size(entry, picture)
        faces += [(face, name, picture) for face in entry.faces]
    faces.sort(key=lambda face: face[0].index)
    labelled = [(*labels_of(face), face, name, picture) for face, name, picture in faces]
    labelled = [values for values in labelled if np.isfinite(values[0]).any()]
    names = face_names(values[3] for values in labelled)
    return [
        Sample(
            name, picture, landmarks, occluded, None if face.box is None else face.box.astype(np.float32), index=index
        )
        for index, (name, (landmarks, occluded, face, _, picture)) in enumerate(zip(names, labelled, strict=True))
    ]


def labels_of(face: FaceEntry) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Landmarks (M, 2), NaN where there is no label, and whether each is hidden (M,)."""
    landmarks = face.landmarks.astype(np.float32)
    if face.visibility is None:
        return landmarks, None
    if not np.isin(face.visibility, (0, 1, 2)).all():
        raise DataError(f"{face.where}: visibility must be 0, 1 or 2")
    if np.isnan(landmarks[face.visibility > 0]).any():
        raise DataError(f"{face.where}: a labelled keypoint is not finite")
    landmarks[face.visibility == 0] = np.nan
    return landmarks, face.visibility == 1


def check_size(entry: PictureEntry, picture: Path) -> None:
    """Check that the size that a file gives for a picture is the picture's; one that cannot be read is not checked.

    Raises:
        DataError: they differ.
    """
    size = None if entry.size is None else picture_size(picture)
    if entry.size is None or size is None or size == entry.size:
        return
    reason = "its points are not in the pixels of this picture"
    if size == entry.size[::-1]:
        reason = "its points were made without the picture's EXIF orientation, which octamark applies"
    raise DataError(
        f"{entry.where}: says {entry.size[0]}x{entry.size[1]} pixels, but {picture} has {size[0]}x{size[1]}: {reason}"
    )


def face_names(pictures: Iterable[str]) -> list[str]:
    """A name for each face from its picture's: the name without suffix, ``name#2``, ``name#3`` for further faces."""
    counts: dict[str, int] = {}
    names = []
    for picture in pictures:
        stem = picture.rsplit(".", 1)[0] if "." in picture.rsplit("/", 1)[-1] else picture
        counts[stem] = counts.get(stem, 0) + 1
        names.append(stem if counts[stem] == 1 else f"{stem}#{counts[stem]}")
    return names


def known_names(names: Iterable[str], known: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of faces in the spelling of ``known`` (Unicode form, slashes), and those that are not known."""
    spellings = {plain_name(name): name for name in known} | {name: name for name in known}
    spelled, missing = [], []
    for name in names:
        spelling = spellings.get(name, spellings.get(plain_name(name)))
        if spelling is None:
            missing.append(name)
        else:
            spelled.append(spelling)
    return spelled, missing


def package_for(path: Path, package: str, module: str = "") -> ModuleType:
    """The imported package (or its module) that only some sets need.

    Raises:
        DataError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        raise DataError(f"{path}: reading it needs {package}: {install_hint([package])}") from error
