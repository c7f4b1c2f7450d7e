"""Predictions to write to files, and what several tests need to compare them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.faces import Faces
from octamark.io import FaceEntry, PictureEntry, Record, open_writer, unique_stems
from octamark.layouts import Layout, layout

IBUG = layout("ibug68")
SHAPE: NDArray[np.float32] = (IBUG.diagram * 200 + 20).astype(np.float32)


def faces_at(*offsets: float, seed: int = 0) -> Faces:
    """A face moved right by each offset, every other number drawn."""
    count = len(offsets)
    landmarks = np.array([SHAPE + np.array([offset, 0]) for offset in offsets], np.float32).reshape(count, 68, 2)
    rng = np.random.default_rng(seed)
    landmarks += rng.uniform(-2, 2, landmarks.shape).astype(np.float32)
    boxes = np.concatenate([landmarks.min(axis=1) - 3, landmarks.max(axis=1) + 3], axis=1)
    return Faces(
        IBUG,
        (2000, 400),
        landmarks,
        spread=rng.uniform(0.1, 4, landmarks.shape).astype(np.float32),
        confidence=rng.uniform(0, 1, landmarks.shape[:2]).astype(np.float32),
        boxes=boxes.astype(np.float32),
        scores=rng.uniform(0, 1, count).astype(np.float32),
    )


def with_visible(faces: Faces, seed: int = 0) -> Faces:
    """The faces as of a model that tells which points can be seen."""
    visible = np.random.default_rng(seed).uniform(0, 1, faces.confidence.shape)
    return replace(faces, visible=visible.astype(np.float32))


def records_of(files: Iterable[str], faces: Sequence[Faces]) -> list[Record]:
    """A record of each file, with the faces in turn."""
    files = list(files)
    stems = unique_stems(files)
    return [
        Record(file, stem, "nano", faces[i % len(faces)])
        for i, (file, stem) in enumerate(zip(files, stems, strict=True))
    ]


def write_all(name: str, folder: Path, records: Iterable[Record], **options: Any) -> list[Path]:
    """Write records in a format; the files that are then in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_writer(name, folder, **options) as writer:
        for record in records:
            writer.write(record)
    return sorted(folder.iterdir())


def rounded_record(record: Record) -> dict[str, Any]:
    """A record as plain values with the digits that files have; without means, which follow from them."""
    values = record.faces.to_dict()
    for face in values["faces"]:
        del face["mean_confidence"]
    return {"file": record.file, "model": record.model, **values}


def entry(name: str, *landmarks: NDArray[np.floating], chosen: Layout = IBUG, **more: Any) -> PictureEntry:
    """What a file says of a picture with these faces; ``more`` holds for each of them."""
    faces = [FaceEntry(np.asarray(points, np.float64), name, index, **more) for index, points in enumerate(landmarks)]
    return PictureEntry(name, faces, chosen, name)


def write_text(folder: Path, value: Any, name: str = "given.json") -> Path:
    """A file with this text, or this value as JSON."""
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path
