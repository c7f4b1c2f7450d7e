"""Predictions and truth from files: anybody's detector can be scored without its code.

Accepted: octamark's own json, jsonl and coco (``octamark predict -f ...``); a plain json list of ``{"image": name,
"landmarks": [[x, y], ...]}``, in which ``spread`` (M pairs) and ``confidence`` (M numbers) may stand beside the
landmarks and null landmarks mean that no face was found; a folder of .pts files (1-based), named as their pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample, read_pts
from octamark.errors import DataError, listed
from octamark.evaluation.run import Predictions
from octamark.geometry import best_overlap, landmark_boxes

F64 = NDArray[np.float64]
Keys = dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class Found:
    """The faces that a file gives for one picture.

    Attributes:
        landmarks: (k, M, 2); spread: (k, M, 2) and confidence: (k, M), or None.
    """

    landmarks: F64
    spread: F64 | None = None
    confidence: F64 | None = None


def read_truth(path: Path, points: int) -> list[Sample]:
    """A truth file: a json list of ``{"image": name, "landmarks": [[x, y], ...]}``; null coordinates have no label.

    Raises:
        DataError: unreadable, empty, malformed (the message names the entry), or an image named twice.
    """
    samples: dict[str, Sample] = {}
    for where, entry in _entries(path):
        name = _name(entry, where)
        if name in samples:
            raise DataError(f"{where}: image {name!r} is there twice")
        landmarks = _array(entry.get("landmarks"), (points, 2), f"{where} ({name}): landmarks", unknown=True)
        if not np.isfinite(landmarks).any():
            raise DataError(f"{where} ({name}): no point has a label")
        samples[name] = Sample(name, path.parent / name, landmarks.astype(np.float32))
    if not samples:
        raise DataError(f"{path}: holds no faces")
    return list(samples.values())


def read_predictions(path: Path, points: int) -> dict[str, Found]:
    """Predictions by the picture's name as the file gives it; see the module for what is accepted.

    Raises:
        DataError: unreadable, empty or malformed (the message names the entry), or a picture named twice.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.pts"))
        found = {
            file.relative_to(path).with_suffix("").as_posix(): Found(read_pts(file, points)[None].astype(np.float64))
            for file in files
        }
    elif path.suffix == ".json" and isinstance(whole := _load(path), dict) and "annotations" in whole:
        found = _coco(whole, path, points)
    else:
        found = {}
        for where, entry in _entries(path):
            name = _name(entry, where)
            if name in found:
                raise DataError(f"{where}: picture {name!r} is there twice")
            if "faces" in entry and not isinstance(entry["faces"], list):
                raise DataError(f"{where} ({name}): faces must be a list")
            found[name] = _faces(entry.get("faces", [entry]), points, f"{where} ({name})")
    if not found:
        raise DataError(f"{path}: holds no predictions ({'no .pts files' if path.is_dir() else 'an empty list'})")
    return found


def matched(
    samples: Sequence[Sample], found: dict[str, Found], points: int, source: Path
) -> tuple[Predictions, list[str]]:
    """Each sample's prediction, found by its name, its picture's path, or, where no two share it, the file's stem.

    Of several faces in a picture the one whose landmark box overlaps the truth's most is taken; a sample without one is
    a face not found. Spread and confidence are kept if every face has them.

    Returns:
        The predictions in the samples' order, and the names in the file that fit no sample.

    Raises:
        DataError: no name fits a sample, or two fit the same one.
    """
    exact, shorter, by_stem = _keys(samples)
    by_sample: dict[int, str] = {}
    for keys, form in ((exact, str), (shorter | exact, _without_suffix), (by_stem, _stem)):
        if keys is by_stem and by_sample:
            break  # stems alone only where nothing fits better: folders may tell faces of one stem apart
        fits: dict[int, str] = {}
        for name in found.keys() - by_sample.values():
            for index in set(keys.get(form(name), ())) - by_sample.keys():
                if index in fits:
                    both = listed(sorted((fits[index], name)))
                    raise DataError(f"{source}: {both}: more than one picture that may be {samples[index].name}")
                fits[index] = name
        by_sample |= fits
    taken = set(by_sample.values())
    stray = [name for name in found if name not in taken]
    if not by_sample:
        raise DataError(
            f"{source}: none of its {len(found)} pictures is one of the truth; it has {listed(stray[:3])}, the truth "
            f"{listed(sample.name for sample in samples[:3])}"
        )
    count = len(samples)
    landmarks = np.full((count, points, 2), np.nan, np.float32)
    spread, confidence = landmarks.copy(), landmarks[..., 0].copy()
    for index, name in by_sample.items():
        faces = found[name]
        chosen = _choose(faces, samples[index])
        if chosen is None:
            continue
        landmarks[index] = faces.landmarks[chosen]
        if faces.spread is not None:
            spread[index] = faces.spread[chosen]
        if faces.confidence is not None:
            confidence[index] = faces.confidence[chosen]
    seen = np.isfinite(landmarks).all(axis=(1, 2))
    full = [seen.any() and bool(np.isfinite(values[seen]).all()) for values in (spread, confidence)]
    return Predictions(landmarks, spread if full[0] else None, confidence if full[1] else None), stray


def _choose(faces: Found, sample: Sample) -> int | None:
    if len(faces.landmarks) == 1:
        return 0  # a lone face is scored, however far off
    return best_overlap(landmark_boxes(faces.landmarks), landmark_boxes(sample.landmarks))


def _keys(samples: Sequence[Sample]) -> tuple[Keys, Keys, Keys]:
    """Samples by each name, name without suffix, and stem that stands for one picture without doubt."""
    exact: Keys = {}
    shorter: Keys = {}
    by_stem: Keys = {}
    for index, sample in enumerate(samples):
        whole = {sample.name, sample.name.partition("#")[0], str(sample.picture)}
        for key in whole:
            exact.setdefault(key, []).append(index)
        for key in {_without_suffix(key) for key in whole} - whole:
            shorter.setdefault(key, []).append(index)
        by_stem.setdefault(sample.picture.stem, []).append(index)

    def certain(keys: Keys) -> Keys:
        return {key: places for key, places in keys.items() if len({samples[i].picture for i in places}) == 1}

    return certain(exact), certain(shorter), certain(by_stem)


def _without_suffix(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _stem(name: str) -> str:
    return _without_suffix(name.rpartition("/")[2])


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a json file ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not json ({error.msg})") from error


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place for messages, entry) of a .json list or of a .jsonl file."""
    if path.suffix == ".jsonl":
        entries = []
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    entries.append((f"{path}:{number}", json.loads(line)))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not json ({error})") from error
    else:
        whole = _load(path)
        if not isinstance(whole, list):
            raise DataError(f'{path}: expected a list of {{"image": name, "landmarks": [[x, y], ...]}}')
        entries = [(f"{path}: entry {number}", entry) for number, entry in enumerate(whole, 1)]
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object with image and landmarks, got {type(entry).__name__}")
    return entries


def _name(entry: dict[str, Any], where: str) -> str:
    name = entry.get("image", entry.get("file"))
    if not isinstance(name, str) or not name:
        raise DataError(f'{where}: needs "image", the picture\'s name; it has {listed(entry) or "nothing"}')
    return name


def _faces(faces: list[Any], points: int, where: str) -> Found:
    landmarks, spreads, confidences = [], [], []
    for face in faces:
        if not isinstance(face, dict) or "landmarks" not in face:
            raise DataError(f'{where}: needs "landmarks", a list of {points} pairs (null: no face was found)')
        if face["landmarks"] is None or face["landmarks"] == []:
            continue
        landmarks.append(_array(face["landmarks"], (points, 2), f"{where}: landmarks"))
        if face.get("spread") is not None:
            spreads.append(_array(face["spread"], (points, 2), f"{where}: spread"))
            if (spreads[-1] < 0).any():
                raise DataError(f"{where}: spread: holds a value below 0")
        if face.get("confidence") is not None:
            confidences.append(_array(face["confidence"], (points,), f"{where}: confidence"))
            if ((confidences[-1] < 0) | (confidences[-1] > 1)).any():
                raise DataError(f"{where}: confidence: holds a value that is not in 0..1")
    whole = len(landmarks)
    return Found(
        np.array(landmarks).reshape(-1, points, 2),
        np.stack(spreads) if whole and len(spreads) == whole else None,
        np.stack(confidences) if whole and len(confidences) == whole else None,
    )


def _coco(whole: dict[str, Any], path: Path, points: int) -> dict[str, Found]:
    try:
        files = {image["id"]: image["file_name"] for image in whole["images"]}
        grouped: dict[str, list[Any]] = {name: [] for name in files.values()}
        for annotation in whole["annotations"]:
            flat = _array(
                annotation["keypoints"], (points * 3,), f"{path}: annotation {annotation.get('id')}: keypoints"
            )
            face = {"landmarks": flat.reshape(points, 3)[:, :2].tolist()}
            face |= {key: annotation[key] for key in ("spread", "confidence") if key in annotation}
            grouped[files[annotation["image_id"]]].append(face)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not COCO keypoints ({error!r} is missing or of the wrong form)") from error
    return {name: _faces(faces, points, f"{path}: {name}") for name, faces in grouped.items()}


def _array(value: Any, shape: tuple[int, ...], where: str, *, unknown: bool = False) -> F64:
    """Numbers of that shape; null is allowed for ``unknown`` ones, and becomes NaN."""
    wanted = f"{shape[0]} points (x y)" if len(shape) == 2 else f"{shape[0]} numbers"
    try:
        made = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} must be {wanted} ({error})") from error
    if made.shape != shape:
        got = f"{len(value)} entries" if isinstance(value, list) else repr(value)[:40]
        raise DataError(f"{where} must be {wanted}; got {got}")
    if np.isinf(made).any() or (not unknown and np.isnan(made).any()):
        raise DataError(f"{where}: holds a value that is not finite")
    return made
