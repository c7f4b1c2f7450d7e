"""Which prediction belongs to which labelled face."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.datasets.samples import check_size
from octamark.errors import DataError, listed
from octamark.evaluation.run import Predictions
from octamark.geometry import best_overlap, landmark_boxes
from octamark.io import PictureEntry
from octamark.io.files import plain_name
from octamark.io.pts import first_face


def matched(
    samples: Sequence[Sample], entries: Sequence[PictureEntry], points: int, source: Path
) -> tuple[Predictions, list[str]]:
    """The prediction for each sample, and the names of predictions that belong to none.

    A prediction belongs to the sample of exactly its name. Otherwise it belongs to the faces of the picture whose path
    it is, with or without its suffix; and, if no name fits in this way, to the picture of its stem if only one has it.
    Names are compared regardless of Unicode form, and ``\\`` is read as ``/``. Of several faces in a picture, the one
    whose landmark box overlaps the label's most is taken; a sample without one is a face not found. Spread,
    confidence and ``visible`` are kept if every face has them.

    Args:
        entries: the pictures of the file of predictions; of a folder of .pts files, one for each file.
        points: number of landmarks.
        source: the file or folder, for messages.

    Returns:
        The predictions in the samples' order, and the names in the file that fit no sample.

    Raises:
        DataError: no name fits a sample, or two fit the same one equally well; a predicted point that is not finite; a
            picture size that is not the picture's.
    """
    by_name = {entry.file: entry for entry in entries}
    names = _assign(samples, by_name, source)
    used = set(names.values())
    further = _further_faces(by_name, used) if source.is_dir() else {}
    unmatched = [name for name in by_name if name not in used and not any(name in more for more in further.values())]
    count = len(samples)
    landmarks = np.full((count, points, 2), np.nan, np.float32)
    spread, confidence, visible = landmarks.copy(), landmarks[..., 0].copy(), landmarks[..., 0].copy()
    shared = {name for name, times in Counter(names.values()).items() if times > 1}
    for index, name in names.items():
        check_size(by_name[name], samples[index].picture)
        faces = [face for key in (name, *further.get(name, ())) for face in by_name[key].faces]
        if not faces:
            continue
        for face in faces:
            if not np.isfinite(face.landmarks).all():
                raise DataError(f"{face.where}: landmarks: holds a value that is not finite")
        if len(faces) == 1 and name not in shared:
            chosen: int | None = 0  # a lone face is scored, however far off
        else:
            boxes = landmark_boxes(np.stack([face.landmarks for face in faces]))
            chosen = best_overlap(boxes, landmark_boxes(samples[index].landmarks))
        if chosen is None:
            continue
        face = faces[chosen]
        landmarks[index] = face.landmarks
        if face.spread is not None:
            spread[index] = face.spread
        if face.confidence is not None:
            confidence[index] = face.confidence
        if face.visible is not None:
            visible[index] = face.visible
    predicted = np.isfinite(landmarks).all(axis=(1, 2))

    def complete(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        return values if predicted.any() and np.isfinite(values[predicted]).all() else None

    predictions = Predictions(landmarks, complete(spread), complete(confidence), visible=complete(visible))
    return predictions, unmatched


def _assign(samples: Sequence[Sample], prediction_names: Iterable[str], source: Path) -> dict[int, str]:
    """Index of a sample -> the name of its prediction. Names are compared exactly first, then ever more loosely."""
    names = list(prediction_names)
    pictures = _picture_names(samples)
    paths = [_plain(os.path.abspath(sample.picture)) for sample in samples]
    exact = {sample.name: [index] for index, sample in enumerate(samples)}
    by_name = _grouped((_plain(sample.name) for sample in samples), [sample.name for sample in samples])
    by_path = _grouped(paths, pictures)
    by_picture = _grouped(map(_plain, pictures), pictures) | by_path
    bare = {
        **_grouped((_without_suffix(_plain(picture)) for picture in pictures), pictures),
        **_grouped(map(_without_suffix, paths), pictures),
    }
    by_stem = _grouped((plain_name(sample.picture.stem) for sample in samples), pictures)
    readings: list[tuple[dict[str, list[int]], Callable[[str], str]]] = [
        (exact, str),
        (by_name, _plain),
        (by_picture, _plain),
        (by_path, _absolute),
        (bare, _plain),
        (bare, lambda name: _without_suffix(_plain(name))),
        (bare, lambda name: _without_suffix(_absolute(name))),
    ]
    assigned: dict[int, str] = {}
    for keys, form in readings:
        _fit(assigned, keys, form, names, samples, source)
    if not assigned:  # folders may tell faces of one stem apart: stems alone only where nothing fits better
        _fit(assigned, by_stem, lambda name: Path(_without_suffix(_plain(name))).name, names, samples, source)
    if not assigned:
        raise DataError(
            f"{source}: none of its {len(names)} pictures is one of the truth; it has {listed(names[:3])}, the truth "
            f"{listed(sample.name for sample in samples[:3])}"
        )
    return assigned


def _fit(
    assigned: dict[int, str],
    keys: dict[str, list[int]],
    form: Callable[[str], str],
    names: Sequence[str],
    samples: Sequence[Sample],
    source: Path,
) -> None:
    """Assign the names that are keys when written in this form to the samples of the key; one that has a name keeps it.

    Raises:
        DataError: two names for one sample.
    """
    fits: dict[int, str] = {}
    for name in names:
        for index in keys.get(form(name), ()):
            if index in assigned:
                continue
            if index in fits and fits[index] != name:
                candidates = listed(sorted((fits[index], name)))
                raise DataError(f"{source}: {candidates}: more than one picture that may be {samples[index].name}")
            fits[index] = name
    assigned |= fits


def _picture_names(samples: Sequence[Sample]) -> list[str]:
    """The name of each sample's picture: the sample's own, without the number of a further face (``a`` for ``a#2``)."""
    pictures = {sample.name: sample.picture for sample in samples}
    names = []
    for sample in samples:
        base, mark, number = sample.name.rpartition("#")
        numbered = mark and number.isdigit() and pictures.get(base) == sample.picture
        names.append(base if numbered else sample.name)
    return names


def _grouped(keys: Iterable[str], pictures: Sequence[str]) -> dict[str, list[int]]:
    """Key -> indices of its samples, without the keys that several pictures share."""
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return {key: places for key, places in groups.items() if len({pictures[index] for index in places}) == 1}


def _further_faces(names: Iterable[str], used: set[str]) -> dict[str, list[str]]:
    """NAME -> NAME#2, NAME#3, ...: the further faces of a picture, as ``predict -f pts`` writes them."""
    further: dict[str, list[str]] = {}
    for name in names:
        base = first_face(name)
        if base is not None and name not in used and base in used:
            further.setdefault(base, []).append(name)
    return further


def _plain(name: str) -> str:
    return posixpath.normpath(plain_name(name))


def _absolute(name: str) -> str:
    return _plain(os.path.abspath(name))


def _without_suffix(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)
