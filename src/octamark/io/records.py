"""What files of landmarks hold: records to write, and entries that were read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, LayoutError
from octamark.faces import Faces
from octamark.layouts import Layout
from octamark.layouts import layout as named_layout

F64 = NDArray[np.float64]

MAX_COORDINATE = 1e6
"""Coordinates beyond this many pixels are refused: no picture is that large."""


@dataclass(frozen=True)
class Record:
    """The prediction for one picture.

    Attributes:
        file: the picture, as the caller named it.
        stem: base name of the files written for this picture; distinct within a batch (see ``unique_stems``).
        model: name of the model.
        faces: the faces found.
        frame: the index of a frame in its video; None for other pictures.
        time: the time of a frame in its video, seconds; None for other pictures.
    """

    file: str
    stem: str
    model: str
    faces: Faces
    frame: int | None = None
    time: float | None = None


@dataclass(frozen=True, eq=False)
class FaceEntry:
    """One face as a file describes it. An attribute is None if the file does not give it.

    Attributes:
        landmarks: (M, 2) points (x, y), 0-based pixels, pixel centres at integers; NaN where a point has no label.
        spread: (M, 2) expected absolute error per axis, pixels.
        confidence: (M,) in 0..1.
        visible: (M,) in 0..1, the probability that a point can be seen, as in ``Faces``.
        visibility: (M,) third value of COCO keypoints, as written.
        box: (4,) xyxy pixels.
        score: the detector's score.
        id: number of the face's track in a video.
        where: place in the file, for messages.
        index: position of the face among all faces of the file, from 0.
    """

    landmarks: F64
    where: str
    index: int = 0
    spread: F64 | None = None
    confidence: F64 | None = None
    visible: F64 | None = None
    visibility: F64 | None = None
    box: F64 | None = None
    score: float | None = None
    id: int | None = None


@dataclass(frozen=True, eq=False)
class PictureEntry:
    """One picture and its faces as a file describes them.

    Attributes:
        file: the picture's name as written in the file.
        faces: its faces; none if the file says that no face was found.
        layout: of the landmarks.
        size: (width, height) in pixels; None if the file does not give it.
        model: name of the model that predicted the faces; None if the file does not give it.
        where: place in the file, for messages.
        frame, time: of a frame of a video, as in ``Record``.
    """

    file: str
    faces: Sequence[FaceEntry]
    layout: Layout
    where: str
    size: tuple[int, int] | None = None
    model: str | None = None
    frame: int | None = None
    time: float | None = None

    def record(self, stem: str) -> Record:
        """The entry as a ``Record``: NaN, a size of (0, 0) and an empty model name stand for what the file does
        not give, None for ids and ``visible``."""
        count, points = len(self.faces), self.layout.count

        def stacked(values: Iterable[F64 | float | None], *shape: int) -> NDArray[np.float32]:
            rows = [np.full(shape, np.nan) if value is None else np.asarray(value) for value in values]
            return np.array(rows, np.float32).reshape(count, *shape)

        faces = Faces(
            self.layout,
            self.size or (0, 0),
            landmarks=stacked((face.landmarks for face in self.faces), points, 2),
            spread=stacked((face.spread for face in self.faces), points, 2),
            confidence=stacked((face.confidence for face in self.faces), points),
            boxes=stacked((face.box for face in self.faces), 4),
            scores=stacked(face.score for face in self.faces),
            ids=None if None in (ids := [face.id for face in self.faces]) or not ids else np.array(ids, np.int64),
            visible=None
            if all(face.visible is None for face in self.faces)
            else stacked((face.visible for face in self.faces), points),
        )
        return Record(self.file, stem, self.model or "", faces, self.frame, self.time)


def unique_stems(files: Iterable[str]) -> list[str]:
    """A distinct base name for the results of each picture.

    It is the picture's name without suffix. If that is taken, by a picture of the same folder with another suffix, it
    is the whole name; if it is taken otherwise, -2, -3, ... is appended. No name ends in # and a number: that marks
    further faces of a picture.
    """
    taken: dict[str, str] = {}
    stems = []
    for file in files:
        folder, name = os.path.split(file)
        stem, suffix = ("stdin", "") if file == "-" else os.path.splitext(name)
        candidates = [stem, name] if suffix and taken.get(stem, folder) == folder else [stem]
        free = [candidate for candidate in candidates if candidate not in taken and not _is_further_face(candidate)]
        number = 1
        while not free:
            number += 1
            free = [candidate for candidate in [f"{stem}-{number}"] if candidate not in taken]
        taken[free[0]] = folder
        stems.append(free[0])
    return stems


def further_face(stem: str, number: int) -> str:
    """The base name of the files for a picture's face of that number (from 1): ``a``, ``a#2``, ``a#3``, ..."""
    return stem if number == 1 else f"{stem}#{number}"


def _is_further_face(stem: str) -> bool:
    _, mark, number = stem.rpartition("#")
    return bool(mark) and number.isdecimal()


def rounded(values: NDArray[np.floating] | np.floating, digits: int) -> Any:
    """Values as nested lists of rounded floats, None where not finite; None if no value is finite."""
    array = np.round(np.asarray(values, dtype=np.float64), digits)
    if np.isfinite(array).all():
        return array.tolist()
    if not np.isfinite(array).any():
        return None
    cells = array.astype(object)
    cells[~np.isfinite(array)] = None
    return cells.tolist()


def resolve_layout(name: str | None, expected: Layout | None, where: str) -> Layout:
    """The layout of an entry: ``expected``, or the built-in one that the file names.

    Raises:
        LayoutError: the file names no layout and none is expected, or one that is not built in.
        DataError: the file names another layout than the expected one.
    """
    if expected is None:
        if name is None:
            raise LayoutError(f"{where}: the file does not say which layout its points follow: name one")
        return named_layout(name)
    if name is not None and name != expected.name:
        raise DataError(f"{where}: layout {name}; expected layout {expected.name}")
    return expected


def number_array(value: Any, shape: tuple[int, ...], where: str) -> F64:
    """A value from a JSON file as an array of that shape, NaN where it holds null.

    Raises:
        DataError: another shape, something that is not a number, an infinite or far too large value.
    """
    if not shape:
        allowed = "a number"
    else:
        allowed = f"{shape[0]} points (x y)" if len(shape) == 2 else f"{shape[0]} numbers"
    try:
        if np.array(value).dtype.kind in "bUS":
            raise ValueError("not numbers")
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} must be {allowed} ({error})") from error
    if array.shape != shape:
        given = f"{len(value)} entries" if isinstance(value, list) else repr(value)[:40]
        raise DataError(f"{where} must be {allowed}; got {given}")
    if np.isinf(array).any():
        raise DataError(f"{where}: holds a value that is not finite")
    if (np.abs(array) > MAX_COORDINATE).any():
        raise DataError(f"{where}: holds {array.flat[np.nanargmax(np.abs(array))]:g}, beyond a million pixels")
    return array


def face_from_values(values: dict[str, Any], points: int, where: str, index: int) -> FaceEntry | None:
    """A face from the values of a JSON object: landmarks, spread, confidence, visible, box, score, id.

    None if it has no landmarks.

    Raises:
        DataError: values of another form or range.
    """
    if values["landmarks"] is None or values["landmarks"] == []:
        return None
    landmarks = number_array(values["landmarks"], (points, 2), f"{where}: landmarks")
    landmarks[np.isnan(landmarks).any(axis=1)] = np.nan
    arrays: dict[str, F64 | None] = {}
    shapes = {"spread": (points, 2), "confidence": (points,), "visible": (points,), "box": (4,), "score": ()}
    for key, shape in shapes.items():
        value = values.get(key)
        array = None if value is None else number_array(value, shape, f"{where}: {key}")
        arrays[key] = None if array is None or np.isnan(array).all() else array
    spread, confidence, visible, box, score = arrays.values()
    if spread is not None and (spread < 0).any():
        raise DataError(f"{where}: spread: holds a value below 0")
    for key, shares in (("confidence", confidence), ("visible", visible)):
        if shares is not None and ((shares < 0) | (shares > 1)).any():
            raise DataError(f"{where}: {key}: holds a value that is not in 0..1")
    if box is not None and np.isnan(box).any():
        raise DataError(f"{where}: box: holds a value that is not finite")
    track = values.get("id")
    if track is not None and type(track) is not int:
        raise DataError(f"{where}: id {track!r}; allowed: a whole number")
    return FaceEntry(
        landmarks,
        where,
        index,
        spread,
        confidence,
        visible,
        box=box,
        score=None if score is None else float(score),
        id=track,
    )


def frame_from_values(values: dict[str, Any]) -> tuple[int | None, float | None]:
    """(frame, time) from the values of a JSON object; None for what is missing or is no index and no finite number."""
    frame, time = values.get("frame"), values.get("time")
    if not isinstance(time, int | float) or isinstance(time, bool) or not np.isfinite(time):
        time = None
    return frame if type(frame) is int and frame >= 0 else None, None if time is None else float(time)


def size_from_values(values: dict[str, Any], where: str) -> tuple[int, int] | None:
    """(width, height) from the values of a JSON object; None if they are missing or 0.

    Raises:
        DataError: something else than two whole numbers.
    """
    size = tuple(values.get(key) or 0 for key in ("width", "height"))
    if any(not isinstance(side, int | float) or side != int(side) or side < 0 for side in size):
        raise DataError(f"{where}: width {size[0]!r}, height {size[1]!r}; allowed: whole numbers of pixels")
    return (int(size[0]), int(size[1])) if all(size) else None
