"""Writers of predictions, in one table: json, jsonl, csv, pts, coco.

Every format carries the file, the picture's size, the layout and the model beside the points. Coordinates are
octamark's (0-based pixels, pixel centres at integers) except in .pts files, which are 1-based by convention.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.faces import Faces
from octamark.layouts import Layout


@dataclass(frozen=True)
class Record:
    """The prediction for one picture.

    Attributes:
        file: the picture, as the caller named it.
        stem: what files about this picture are called; distinct within a batch (see :func:`unique_stems`).
        model: name of the model.
    """

    file: str
    stem: str
    model: str
    faces: Faces


@dataclass(frozen=True)
class Format:
    """A way to write predictions.

    Attributes:
        suffix: of the files.
        write: records -> {file name: text}; names are relative to the output folder.
        streams: whether the output is one text that can go to standard output.
    """

    suffix: str
    write: Callable[[Sequence[Record]], dict[str, str]]
    streams: bool = True


def _numbers(values: NDArray[np.floating], digits: int = 2) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), digits).tolist()


def picture_entry(record: Record) -> dict[str, Any]:
    """One picture's prediction as plain values; coordinates rounded to a hundredth of a pixel."""
    faces = record.faces
    return {
        "file": record.file,
        "width": faces.size[0],
        "height": faces.size[1],
        "layout": faces.layout.name,
        "model": record.model,
        "faces": [
            {
                "box": _numbers(face.box),
                "score": round(face.score, 4),
                "landmarks": _numbers(face.landmarks),
                "spread": _numbers(face.spread, 3),
                "confidence": _numbers(face.confidence, 4),
            }
            for face in faces
        ],
    }


def _json(records: Sequence[Record]) -> dict[str, str]:
    entries = ",\n".join(json.dumps(picture_entry(record)) for record in records)
    return {"predictions.json": f"[\n{entries}\n]\n"}


def _jsonl(records: Sequence[Record]) -> dict[str, str]:
    return {"predictions.jsonl": "".join(json.dumps(picture_entry(record)) + "\n" for record in records)}


CSV_COLUMNS = (
    "file", "width", "height", "layout", "model", "face", "score", "box_x1", "box_y1", "box_x2", "box_y2",
    "point", "name", "x", "y", "spread_x", "spread_y", "confidence",
)  # fmt: skip


def _csv(records: Sequence[Record]) -> dict[str, str]:
    """One row per point; a picture without faces has one row with empty columns from ``face`` on."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        faces = record.faces
        head = [record.file, *faces.size, faces.layout.name, record.model]
        if not len(faces):
            writer.writerow(head + [""] * (len(CSV_COLUMNS) - len(head)))
        for number, face in enumerate(faces):
            own = [number, round(face.score, 4), *_numbers(face.box)]
            for index, name in enumerate(faces.layout.point_names):
                point = [*_numbers(face.landmarks[index]), *_numbers(face.spread[index], 3)]
                writer.writerow([*head, *own, index, name, *point, round(float(face.confidence[index]), 4)])
    return {"predictions.csv": text.getvalue()}


def pts_text(landmarks: NDArray[np.floating]) -> str:
    """Landmarks (M, 2) as a .pts file: 1-based points between braces, after a header."""
    points = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in landmarks.astype(np.float64))
    return f"version: 1\nn_points: {len(landmarks)}\n{{\n{points}\n}}\n"


def _pts(records: Sequence[Record]) -> dict[str, str]:
    """One file per face, named after the picture; from the second face on with the face's number."""
    files: dict[str, str] = {}
    names = _Names(record.stem for record in records)
    for record in records:
        for number, face in enumerate(record.faces):
            stem = names.free(f"{record.stem}_{number + 1}") if number else record.stem
            files[f"{stem}.pts"] = pts_text(face.landmarks)
    return files


def _coco(records: Sequence[Record]) -> dict[str, str]:
    """COCO keypoints: one category per layout, 1-based skeleton, all points visible (2)."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    layouts: dict[str, tuple[int, Layout]] = {}
    for image_id, record in enumerate(records, start=1):
        faces = record.faces
        category, _ = layouts.setdefault(faces.layout.name, (len(layouts) + 1, faces.layout))
        images.append({"id": image_id, "file_name": record.file, "width": faces.size[0], "height": faces.size[1]})
        for face in faces:
            x1, y1, x2, y2 = (float(side) for side in face.box)
            visible = np.concatenate([face.landmarks, np.full((len(face.landmarks), 1), 2)], axis=1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": _numbers(np.array([x1, y1, x2 - x1, y2 - y1])),
                    "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": 0,
                    "keypoints": _numbers(visible.ravel()),
                    "num_keypoints": len(face.landmarks),
                    "score": round(face.score, 4),
                    "confidence": _numbers(face.confidence, 4),
                    "spread": _numbers(face.spread, 3),
                }
            )
    categories = [
        {
            "id": number,
            "name": f"face_{name}",
            "keypoints": list(layout.point_names),
            "skeleton": (layout.edges + 1).tolist(),
        }
        for name, (number, layout) in layouts.items()
    ]
    info = {"description": "octamark predictions", "models": sorted({record.model for record in records})}
    whole = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    return {"predictions.coco.json": json.dumps(whole) + "\n"}


FORMATS: dict[str, Format] = {
    "json": Format(".json", _json),
    "jsonl": Format(".jsonl", _jsonl),
    "csv": Format(".csv", _csv),
    "pts": Format(".pts", _pts, streams=False),
    "coco": Format(".coco.json", _coco),
}


class _Names:
    """Hands out distinct names; taken ones get -2, -3, ..."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = dict.fromkeys(taken, 1)

    def free(self, name: str) -> str:
        number = self.taken.get(name, 0) + 1
        candidate = name if number == 1 else f"{name}-{number}"
        while candidate in self.taken:
            number += 1
            candidate = f"{name}-{number}"
        self.taken[name] = number
        self.taken.setdefault(candidate, 1)
        return candidate


def unique_stems(files: Iterable[str]) -> list[str]:
    """A distinct file stem for each picture: its name without suffix; repeated ones get -2, -3, ..."""
    names = _Names()
    stems = []
    for file in files:
        stem = file.replace("\\", "/").rsplit("/", 1)[-1]
        stem = (stem.rsplit(".", 1)[0] or stem) if "." in stem else stem
        stems.append(names.free("stdin" if stem == "-" else stem))
    return stems
