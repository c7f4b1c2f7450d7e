"""COCO keypoints: one .json of pictures, annotations and categories, for any layout.

ROOT is the .json, or a folder with exactly one .json in it or in its ``annotations``. Pictures are found by file_name:
beside the .json, in ``images`` beside it, or the same from the folder above. An annotation holds keypoints, x y v for
each point, 0-based (v: 0 = no label, 1 = labelled but hidden, 2 = visible) and a bbox, left top width height. Crowds
and faces without any labelled point are left out; so are annotations of categories with other keypoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from octamark.datasets.samples import Sample, face_names, read_text
from octamark.errors import DataError, listed
from octamark.layouts import Layout


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of the file, in its order.

    Raises:
        DataError: no .json or several, another form; annotations of another number of points, without a known
            picture, or with values that are not finite; an id twice.
    """
    path = _json_file(root)
    try:
        table = json.loads(read_text(path, "COCO's .json"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a .json file ({error})") from error
    try:
        return _samples(path, table, layout)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not COCO keypoints: images, annotations, categories ({error!r})") from error


def _json_file(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(root.glob("*.json")) or sorted((root / "annotations").glob("*.json"))
    if len(found) != 1:
        said = listed(path.relative_to(root) for path in found[:5]) or "none"
        raise DataError(
            f"{root}: expected one .json in it or in its folder annotations, found {said}; or name the .json"
        )
    return found[0]


def _samples(path: Path, table: dict[str, Any], layout: Layout) -> list[Sample]:
    keypoints = {one["id"]: one.get("keypoints") or [] for one in table["categories"]}
    fitting = {key for key, names in keypoints.items() if len(names) in (0, layout.count)}
    if not fitting:
        counts = listed(f"{key}: {len(names)}" for key, names in keypoints.items())
        raise DataError(f"{path}: no category has the {layout.count} points of layout {layout.name} (found {counts})")
    files = {one["id"]: str(one["file_name"]) for one in table["images"]}
    if len(files) != len(table["images"]):
        raise DataError(f"{path}: an image id is used twice")
    chosen = []
    for one in table["annotations"]:
        if one["category_id"] in fitting and not one.get("iscrowd") and any((one.get("keypoints") or [])[2::3]):
            if one["image_id"] not in files:
                raise DataError(f"{path}: annotation {one['id']}: no image {one['image_id']}")
            chosen.append(one)
    if len({one["id"] for one in chosen}) != len(chosen):
        raise DataError(f"{path}: an annotation id is used twice")
    names = face_names(files[one["image_id"]] for one in chosen)
    return [
        _sample(name, _picture(path, files[one["image_id"]]), one, layout, f"{path}: annotation {one['id']}", index)
        for index, (name, one) in enumerate(zip(names, chosen, strict=True))
    ]


def _sample(name: str, picture: Path, one: dict[str, Any], layout: Layout, where: str, index: int) -> Sample:
    try:
        values = np.array(one["keypoints"], dtype=np.float32)
        box = np.array(one["bbox"], dtype=np.float32) if one.get("bbox") else None
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a value that is no number ({error})") from error
    if values.shape != (3 * layout.count,):
        raise DataError(f"{where}: {values.size / 3:g} keypoints (x y v); layout {layout.name} has {layout.count}")
    points, visibility = values.reshape(-1, 3)[:, :2], values[2::3]
    if not np.isin(visibility, (0, 1, 2)).all():
        raise DataError(f"{where}: visibility is 0, 1 or 2")
    if not np.isfinite(points[visibility > 0]).all():
        raise DataError(f"{where}: a keypoint that is not finite")
    if box is not None:
        if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] < 0).any():
            raise DataError(f"{where}: bbox is left top width height, finite, the last two not below 0")
        box[2:] += box[:2]
    landmarks = np.where(visibility[:, None] > 0, points, np.float32(np.nan))
    return Sample(name, picture, landmarks, visibility == 1, box, index=index)


def _picture(path: Path, name: str) -> Path:
    places = [folder / name for above in (path.parent, path.parent.parent) for folder in (above, above / "images")]
    return next((place for place in places if place.is_file()), places[0])
