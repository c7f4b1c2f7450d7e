"""Predictions and truth from files: anybody's detector can be scored without its code.

Accepted: octamark's own json, jsonl and coco (``octamark predict -f ...``); a plain json list of ``{"image": name,
"landmarks": [[x, y], ...]}``, in which ``spread`` (M pairs) and ``confidence`` (M numbers) may stand beside the
landmarks and null landmarks mean that no face was found; a folder of .pts files (1-based), named as their pictures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import LARGEST, Sample, read_pts
from octamark.errors import DataError, listed
from octamark.evaluation.matching import Found

F64 = NDArray[np.float64]


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
        written = [path / f"predictions{ending}" for ending in (".json", ".jsonl", ".coco.json")]
        if not files and (whole_file := next((file for file in written if file.is_file()), None)):
            return read_predictions(whole_file, points)
        found = {
            file.relative_to(path).with_suffix("").as_posix(): Found(read_pts(file, points)[None].astype(np.float64))
            for file in files
        }
    elif path.suffix.lower() not in (".json", ".jsonl"):
        raise DataError(f"{path}: predictions are a .json or .jsonl file, or a folder of .pts files")
    elif path.suffix.lower() == ".json" and isinstance(whole := _load(path), dict) and "annotations" in whole:
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


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not json ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # no text; numbers of thousands of digits; endless nesting
        raise DataError(f"{path}: not a json file ({error})") from error


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place for messages, entry) of a .json list or of a .jsonl file."""
    if path.suffix.lower() == ".jsonl":
        entries = []
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    entries.append((f"{path}:{number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
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
        if np.array(value).dtype.kind in "bUS":
            raise ValueError("not numbers")
        made = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} must be {wanted} ({error})") from error
    if made.shape != shape:
        got = f"{len(value)} entries" if isinstance(value, list) else repr(value)[:40]
        raise DataError(f"{where} must be {wanted}; got {got}")
    if np.isinf(made).any() or (not unknown and np.isnan(made).any()):
        raise DataError(f"{where}: holds a value that is not finite")
    if (np.abs(made) > LARGEST).any():
        raise DataError(f"{where}: holds {made.flat[np.nanargmax(np.abs(made))]:g}, beyond a million pixels")
    return made
