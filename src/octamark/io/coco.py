"""COCO keypoints: one .json of images, annotations and categories.

An annotation holds x, y, v for each point (v: 0 = no label, 1 = labelled but hidden, 2 = visible), 0-based here, and a
bbox, left top width height. octamark writes v = 1 for a point whose ``visible`` is below 0.5, and 2 for all others,
also where the model does not tell ``visible``. Beyond COCO, it writes ``score``, ``mean_confidence``, ``confidence``,
``visible`` and ``spread`` of an annotation, its ``track_id`` in a video, and ``model`` of an image. ``visible`` is read
from there, never from v.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, LayoutError, listed
from octamark.faces import VISIBLE, Face
from octamark.io.json import load
from octamark.io.records import (
    FaceEntry,
    PictureEntry,
    Record,
    face_from_values,
    number_array,
    resolve_layout,
    rounded,
    size_from_values,
)
from octamark.io.writers import Target, WholeFileWriter
from octamark.layouts import Layout

NAME = "predictions.coco.json"

_CATEGORY = "face_"  # and the layout's name


class _Table:
    """The table that grows with each record."""

    def __init__(self, layout: Layout | None) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.layouts: dict[str, Layout] = {} if layout is None else {layout.name: layout}

    def add(self, record: Record) -> None:
        faces = record.faces
        self.layouts.setdefault(faces.layout.name, faces.layout)
        image = len(self.images) + 1
        size = {"width": faces.size[0], "height": faces.size[1]}
        self.images.append({"id": image, "file_name": record.file, **size, "model": record.model})
        category = list(self.layouts).index(faces.layout.name) + 1
        for face in faces:
            number = len(self.annotations) + 1
            self.annotations.append({"id": number, "image_id": image, "category_id": category, **_annotation(face)})

    def content(self) -> dict[str, Any]:
        categories = [category(number, layout) for number, layout in enumerate(self.layouts.values(), 1)]
        models = sorted({image["model"] for image in self.images})
        info = {"description": "octamark predictions", "models": models}
        return {"info": info, "images": self.images, "annotations": self.annotations, "categories": categories}

    def text(self) -> str:
        return json.dumps(self.content(), allow_nan=False) + "\n"


def content(records: Iterable[Record], layout: Layout | None = None) -> dict[str, Any]:
    """Records as one table: info, images, annotations, categories; as a file of this format holds it."""
    table = _Table(layout)
    for record in records:
        table.add(record)
    return table.content()


def category(number: int, layout: Layout) -> dict[str, Any]:
    """The category of faces of a layout, with a 1-based skeleton; ``number`` is its id."""
    return {
        "id": number,
        "name": _CATEGORY + layout.name,
        "supercategory": "face",
        "keypoints": list(layout.point_names),
        "skeleton": (layout.edges + 1).tolist(),
    }


def _annotation(face: Face) -> dict[str, Any]:
    labelled: NDArray[np.bool_] = np.asarray(np.isfinite(face.landmarks).all(axis=1))
    points = np.where(labelled[:, None], face.landmarks, 0)
    hidden = False if face.visible is None else face.visible < VISIBLE
    keypoints = rounded(np.column_stack([points, np.where(labelled, np.where(hidden, 1, 2), 0)]).ravel(), 2)
    values: dict[str, Any] = {"iscrowd": 0, "keypoints": keypoints, "num_keypoints": int(labelled.sum())}
    if (box := rounded(face.box, 2)) is not None:
        width, height = round(box[2] - box[0], 2), round(box[3] - box[1], 2)
        values |= {"bbox": [box[0], box[1], width, height], "area": round(width * height, 2)}
    optional = {
        "track_id": face.id,
        "score": rounded(np.float64(face.score), 4),
        "mean_confidence": rounded(np.float64(face.mean_confidence), 4),
        "confidence": rounded(face.confidence, 4),
        "visible": None if face.visible is None else rounded(face.visible, 4),
        "spread": rounded(face.spread, 3),
    }
    return values | {key: value for key, value in optional.items() if value is not None}


def writer(target: Target, layout: Layout | None) -> WholeFileWriter:
    """A writer of one ``predictions.coco.json``: one category per layout, 1-based skeleton."""
    table = _Table(layout)
    return WholeFileWriter(target, NAME, table.add, table.text)


def read(path: Path, layout: Layout | None) -> list[PictureEntry]:
    """The pictures of a COCO file, in its order.

    Crowds, annotations without keypoints and those of categories with another number of keypoints are left out. Points
    are put into the layout's order by the names of the category's keypoints, see ``point_order``.

    Raises:
        DataError: a file that cannot be read or is of another form, an id used twice, names that fit the layout in
            part.
        LayoutError: no layout given and none named by the file.
    """
    return parse(load(path), path, layout)


def parse(table: Any, path: Path, layout: Layout | None) -> list[PictureEntry]:
    """As ``read``, from the content of the file."""
    if not isinstance(table, dict):
        raise DataError(f"{path}: not COCO keypoints: expected an object with images, annotations, categories")
    try:
        return _pictures(path, table, layout)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not COCO keypoints: images, annotations and categories are lists of objects with id, file_name, "
            f"image_id and so on ({'missing: ' if isinstance(error, KeyError) else ''}{error})"
        ) from error


def _pictures(path: Path, table: dict[str, Any], layout: Layout | None) -> list[PictureEntry]:
    chosen = _layout(path, table, layout)
    orders = _orders(path, table, chosen)
    images = {image["id"]: image for image in table["images"]}
    if len(images) != len(table["images"]):
        raise DataError(f"{path}: an image id is used twice")
    faces: dict[Any, list[FaceEntry]] = {key: [] for key in images}
    ids: set[Any] = set()
    for index, annotation in enumerate(table["annotations"]):
        category = annotation.get("category_id")
        if category not in orders or annotation.get("iscrowd") or not annotation.get("keypoints"):
            continue
        where = f"{path}: annotation {annotation.get('id', index)}"
        if annotation["image_id"] not in images:
            raise DataError(f"{where}: no image {annotation['image_id']}")
        if annotation.get("id", where) in ids:
            raise DataError(f"{where}: the annotation id is used twice")
        ids.add(annotation.get("id", where))
        face = _face(annotation, chosen.count, orders[category], where, index)
        if face is not None:
            faces[annotation["image_id"]].append(face)
    entries: dict[str, PictureEntry] = {}
    for key, image in images.items():
        name = str(image["file_name"])
        where = f"{path}: image {key} ({name})"
        if name in entries:  # one picture under two ids
            faces[key] = [*entries[name].faces, *faces[key]]
        entries[name] = PictureEntry(
            name, faces[key], chosen, where, size_from_values(image, where), image.get("model") or None
        )
    return list(entries.values())


def _layout(path: Path, table: dict[str, Any], layout: Layout | None) -> Layout:
    if layout is not None:
        return layout
    names = [str(category.get("name", "")) for category in table.get("categories") or ()]
    if len(names) > 1:
        raise LayoutError(f"{path}: has categories {listed(names)}: name the layout to read")
    named = [name.removeprefix(_CATEGORY) for name in names if name.startswith(_CATEGORY)]
    return resolve_layout(named[0] if named else None, None, str(path))


def _orders(path: Path, table: dict[str, Any], layout: Layout) -> dict[Any, NDArray[np.intp] | None]:
    """Category id -> the order of its points, for the categories that have the layout's number of points. A file of
    predictions need not have categories."""
    keypoints = {category["id"]: category.get("keypoints") or [] for category in table.get("categories") or ()}
    if not keypoints:
        return {annotation.get("category_id"): None for annotation in table["annotations"]}
    fitting = {key: names for key, names in keypoints.items() if len(names) in (0, layout.count)}
    if not fitting:
        counts = listed(f"{key}: {len(names)}" for key, names in keypoints.items())
        raise DataError(f"{path}: no category has the {layout.count} points of layout {layout.name} (found {counts})")
    orders = {key: point_order(names, layout, f"{path}: category {key}") for key, names in fitting.items()}
    if len(orders) == 1 and len(keypoints) == 1:
        orders[None] = next(iter(orders.values()))  # annotations without a category
    return orders


def point_order(names: list[Any], layout: Layout, where: str) -> NDArray[np.intp] | None:
    """The place of each of the layout's points among a category's keypoints, (M,); None for the order of the file.

    Names that are those of the layout's points, in any order, are put into the layout's order. So are names that end in
    the numbers 0 to M - 1 or 1 to M, each once, after one prefix or none (``ibug68_0``, ``17``). Names that have
    nothing to do with the layout are taken in the order of the file, and so is a category without names.

    Raises:
        DataError: some names are the layout's and others are not, a name stands there twice, or numbers that are
            neither of those nor ascending.
    """
    if not names:
        return None
    plain = [_plain(name) for name in names]
    own = {_plain(name): index for index, name in enumerate(layout.point_names)}
    matching = [name for name in plain if name in own]
    if len(set(plain)) != len(plain):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise DataError(f"{where}: two keypoints are called {twice}")
    if len(matching) == len(plain):
        return np.argsort([own[name] for name in plain])
    if matching:
        unknown = [str(name) for name in names if _plain(name) not in own]
        missing = [name for name in layout.point_names if _plain(name) not in set(plain)]
        raise DataError(
            f"{where}: {len(matching)} of {len(plain)} keypoint names are those of layout {layout.name}, but "
            f"{listed(unknown[:3])} are not (missing: {listed(missing[:3])}); use all of the layout's names, or an "
            "empty list of keypoints if the points are in the layout's order"
        )
    numbered = [re.fullmatch(r"(.*?)(\d+)", name) for name in plain]
    parts = [match.groups() for match in numbered if match is not None]
    if len(parts) != len(plain) or len({prefix for prefix, _ in parts}) != 1:
        return None
    values = np.array([int(number) for _, number in parts])
    for first in (0, 1):
        if sorted(values) == list(range(first, first + layout.count)):
            return np.argsort(values)
    if (np.diff(values) > 0).all():
        return None
    raise DataError(
        f"{where}: keypoints are numbered {listed(values[:5])}, ...; allowed: 0 to {layout.count - 1} or 1 to "
        f"{layout.count} in any order, or ascending numbers"
    )


def _plain(name: Any) -> str:
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _face(
    annotation: dict[str, Any], points: int, order: NDArray[np.intp] | None, where: str, index: int
) -> FaceEntry | None:
    name = f"{where}: keypoints (x y v of {points} points)"
    values = number_array(annotation["keypoints"], (points * 3,), name).reshape(points, 3)
    landmarks, visibility = values[:, :2], values[:, 2]
    landmarks[(values == 0).all(axis=1)] = np.nan  # COCO's way to say that a point has no label
    if np.isnan(landmarks).all():
        return None
    given = {key: annotation.get(key) for key in ("score", "spread", "confidence", "visible")}
    given["id"] = annotation.get("track_id")
    face = face_from_values({**given, "landmarks": landmarks.tolist()}, points, where, index)
    assert face is not None
    face = replace(face, visibility=visibility, box=_box(annotation.get("bbox"), where))
    if order is None:
        return face
    per_point = {key: getattr(face, key) for key in ("landmarks", "visibility", "spread", "confidence", "visible")}
    return replace(face, **{key: value[order] for key, value in per_point.items() if value is not None})


def _box(bbox: Any, where: str) -> NDArray[np.float64] | None:
    if not bbox:
        return None
    left, top, width, height = number_array(bbox, (4,), f"{where}: bbox (left top width height)")
    if not (width >= 0 and height >= 0 and np.isfinite(left + top)):
        raise DataError(f"{where}: bbox is left top width height, all finite, the last two not below 0")
    return np.round([left, top, left + width, top + height], 6)
