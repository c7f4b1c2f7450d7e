"""The folder of a set of rendered pictures: what is written where, which seeds are done, and what the set contains.

Needs neither Mitsuba nor the assets:

- ``pictures/SEED.png`` and ``labels/SEED.npz``, one of each per picture (labels.Labels reads the latter).
- ``mean.npy``: the vertices of the mean head, by which the outline is found.
- ``settings.json``: what all pictures share; a run that goes on must agree.
- ``skipped.json``: seeds that could not be rendered, and why.
- ``crowd/``: small pictures for crowds in the background.
- ``landmarks-LAYOUT.json``: the landmarks of a layout in all pictures, as COCO keypoints.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octamark.drawing import dotted, sheet
from octamark.errors import ConfigError, DataError, OutputError
from octamark.geometry import Picture, scale_points
from octamark.images import read_picture, write_atomically
from octamark.inference.detector import Detector, FaceDetector, detections
from octamark.io import coco
from octamark.layouts import Layout
from octamark.synthesis.rendering.labels import Labels, LayoutOnHead, RenderedLandmarks, landmarks_of

CROWD_SEEDS = tuple(range(2**40, 2**40 + 24))
"""Seeds of the heads in the crowds; no picture of a set has one of these."""

GENERATOR = 4
"""Raised by every change after which a seed shows something else; a set begun by another one is not continued."""

MOST_PICTURES = 10**6
"""Pictures that one base seed allows: seed ``s`` of a set renders the persons ``s * MOST_PICTURES`` onwards."""


class RenderFolder:
    """A set of rendered pictures on disk.

    Args:
        path: of the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def picture(self, seed: int) -> Path:
        """Where the picture of a seed is or will be."""
        return self.path / "pictures" / f"{seed:012d}.png"

    def labels(self, seed: int) -> Path:
        """Where the labels of a seed are or will be."""
        return self.path / "labels" / f"{seed:012d}.npz"

    def crowd_picture(self, seed: int) -> Path:
        """Where a picture for crowds is or will be."""
        return self.path / "crowd" / f"{seed:016d}.png"

    def crowd(self) -> list[Picture]:
        """The pictures for crowds, in the order of their seeds."""
        return [read_picture(path) for path in sorted((self.path / "crowd").glob("*.png"))]

    def prepare(self, settings: dict[str, Any], mean: NDArray[np.float64]) -> None:
        """Make the folder, or check that it was made with the same settings.

        Raises:
            ConfigError: other settings than those of the pictures that are there.
            OutputError: the folder cannot be made.
        """
        try:
            for name in ("pictures", "labels", "crowd"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: the folder cannot be made ({error.strerror})") from error
        file = self.path / "settings.json"
        if file.exists():
            before = {"caricatures": 0.0, **json.loads(file.read_text(encoding="utf-8"))}
            differing = [
                f"{key} {before.get(key)!r}, now {settings[key]!r}"
                for key in settings
                if before.get(key) != settings[key]
            ]
            if differing:
                raise ConfigError(
                    f"{self.path} was begun with {'; '.join(differing)}; go on with the same, or choose another folder"
                )
            return
        stream = io.BytesIO()
        np.save(stream, mean.astype(np.float32))
        write_atomically(self.path / "mean.npy", stream.getvalue())
        write_atomically(file, json.dumps(settings, indent=1).encode())

    @property
    def skipped(self) -> dict[int, str]:
        """Seeds that could not be rendered -> why."""
        file = self.path / "skipped.json"
        return {int(seed): why for seed, why in json.loads(file.read_text()).items()} if file.exists() else {}

    def skip(self, seed: int, why: str) -> None:
        """Write down that a seed cannot be rendered."""
        write_atomically(self.path / "skipped.json", json.dumps({**self.skipped, seed: why}, indent=1).encode())

    def finished(self) -> list[int]:
        """Sorted seeds whose picture and labels are there."""
        with_labels = {path.stem for path in (self.path / "labels").glob("*.npz")}
        return sorted(int(path.stem) for path in (self.path / "pictures").glob("*.png") if path.stem in with_labels)

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Those of the seeds that are neither finished nor skipped, in their order."""
        there = {*self.finished(), *self.skipped}
        return [seed for seed in seeds if seed not in there]

    def mean(self) -> NDArray[np.float64]:
        """The vertices (n, 3) of the mean head.

        Raises:
            DataError: no rendered pictures in the folder.
        """
        try:
            return np.asarray(np.load(self.path / "mean.npy"), np.float64)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path}: no rendered pictures (mean.npy cannot be read); octamark render makes them"
            ) from error

    def landmarks(
        self, layout: Layout, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Labels, RenderedLandmarks]]:
        """Seed, labels and the layout's landmarks of each picture.

        Raises:
            DataError, LayoutError: as ``Labels.read`` and ``labels.landmarks_of``.
        """
        mean, placed = self.mean(), None
        for seed in self.finished() if seeds is None else seeds:
            labels = Labels.read(self.labels(seed))
            if placed is None or not np.array_equal(placed.vertices, labels.vertices):
                placed = LayoutOnHead.of(layout, labels.vertices, mean)
            yield seed, labels, landmarks_of(labels, layout, mean, placed)


Hidden = Literal["keep", "drop"]
"""What becomes of points that the head itself hides: labelled where they are, or without label."""


def coco_table(folder: RenderFolder, layout: Layout, hidden: Hidden = "keep") -> dict[str, Any]:
    """The landmarks of a layout in all pictures of a folder, as the content of a COCO keypoints file.

    The visibility of a keypoint is 2, or 1 where its place cannot be seen (``RenderedLandmarks.visible``); 0 marks
    points without label: those that the head hides, if ``hidden`` is ``"drop"``. File names are relative to the folder.

    Raises:
        DataError, LayoutError: as ``RenderFolder.landmarks``.
    """
    images, annotations = [], []
    for number, (seed, labels, found) in enumerate(folder.landmarks(layout), 1):
        visibility = np.where(found.visible, 2, 1)
        points = found.landmarks.astype(np.float64)
        if hidden == "drop":
            visibility[found.behind_head] = 0
            points[found.behind_head] = 0
        low, high = found.landmarks.min(axis=0), found.landmarks.max(axis=0)
        width, height = (high - low).tolist()
        file = folder.picture(seed).relative_to(folder.path).as_posix()
        images.append({"id": number, "file_name": file, "width": labels.size, "height": labels.size})
        annotations.append({
            "id": number,
            "image_id": number,
            "category_id": 1,
            "iscrowd": 0,
            "keypoints": np.column_stack([points.round(2), visibility]).ravel().tolist(),
            "num_keypoints": int((visibility > 0).sum()),
            "bbox": [round(value, 2) for value in (*low.tolist(), width, height)],
            "area": round(width * height, 2),
        })  # fmt: skip
    return {
        "info": {"description": "rendered by octamark"},
        "images": images,
        "annotations": annotations,
        "categories": [coco.category(1, layout)],
    }


def picture_seeds(base: int, count: int) -> range:
    """The seeds of the pictures of a set.

    Raises:
        ConfigError: more pictures than a set may have.
    """
    if not 0 <= count <= MOST_PICTURES:
        raise ConfigError(f"{count} pictures; a set has 1 to {MOST_PICTURES}")
    return range(base * MOST_PICTURES, base * MOST_PICTURES + count)


def contact_sheet(
    folder: RenderFolder, layout: Layout, seeds: Sequence[int], columns: int = 8
) -> tuple[Picture, Picture]:
    """Two sheets of pictures: as they are, and at twice the size with the points of a layout."""
    clean, drawn = [], []
    for seed, _, found in folder.landmarks(layout, seeds):
        picture = read_picture(folder.picture(seed))
        clean.append(picture)
        doubled = np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1)
        drawn.append(dotted(doubled, scale_points(found.landmarks, 2), layout))
    return sheet(clean, columns), sheet(drawn, columns)


YAW_LIMITS = (15, 30, 45, 60, 75, 90)
"""Degrees at which the audit divides the faces by the head's yaw to either side."""


def audit(
    folder: RenderFolder, layout: Layout, detector: Detector | None = None, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """What a set contains: shares of poses, of hidden points and of skins, and what is wrong with it.

    ``nan`` counts pictures with a landmark that is not finite, ``empty`` those that are nearly of one brightness, and
    ``outside`` those with a landmark outside; ``skipped`` could not be rendered. A face counts as found if a box of the
    detector holds the middle of its landmarks.

    Args:
        detector: finds the faces; ``octamark.FaceDetector`` by default.
        advance: called after each picture.

    Raises:
        DataError: no rendered pictures.
    """
    find = detector or FaceDetector()
    found_faces: list[bool] = []
    rows: list[tuple[float, ...]] = []
    counts = {"nan": 0, "empty": 0, "outside": 0}
    special = {"caricature": 0, "drawing": 0}
    kinds: dict[str, int] = {}
    for seed, labels, found in folder.landmarks(layout):
        picture = read_picture(folder.picture(seed))
        person = labels.person
        rows.append((
            abs(person["yaw"]), person["pitch"], person["roll"], person["options"]["tone"],
            float(found.behind_thing.mean()), float(found.behind_head.mean()), person["options"]["age"],
        ))  # fmt: skip
        counts["nan"] += not np.isfinite(found.landmarks).all()
        counts["empty"] += float(picture.std()) < 6
        counts["outside"] += bool(found.outside.any())
        for kind in special:
            special[kind] += kind in person["options"]
        for kind in person["options"]["things"] or ["nothing"]:
            kinds[kind] = kinds.get(kind, 0) + 1
        boxes, middle = detections(find, picture)[0], found.landmarks.mean(axis=0)
        found_faces.append(bool(((boxes[:, :2] <= middle) & (middle <= boxes[:, 2:])).all(axis=1).any()))
        advance()
    if not rows:
        raise DataError(f"{folder.path}: no rendered pictures; octamark render makes them")
    table, number = np.array(rows), len(rows)

    def shares(values: NDArray[np.float64], limits: Sequence[float]) -> dict[str, float]:
        edges = [-np.inf, *limits, np.inf]
        names = [
            f"under {limits[0]:g}",
            *(f"{a:g} to {b:g}" for a, b in itertools.pairwise(limits)),
            f"{limits[-1]:g} or more",
        ]
        return {
            name: round(float(((values >= low) & (values < high)).mean()), 4)
            for name, low, high in zip(names, edges, edges[1:], strict=False)
        }

    faces = np.array(found_faces)
    bins = np.digitize(table[:, 0], YAW_LIMITS)
    by_yaw = {
        name: round(float(faces[bins == index].mean()), 4) if (bins == index).any() else None
        for index, name in enumerate(shares(table[:, 0], YAW_LIMITS))
    }
    return {
        "layout": layout.name,
        "pictures": number,
        "skipped": len(folder.skipped),
        **counts,
        "yaw, degrees to either side": shares(table[:, 0], YAW_LIMITS),
        "share that the face detector finds, by yaw": by_yaw,
        "pitch, degrees upwards": shares(table[:, 1], (-30, -15, 0, 15, 30)),
        "roll, degrees": shares(table[:, 2], (-30, -15, 0, 15, 30)),
        "skin, 0 pale to 6 very dark": shares(table[:, 3], (1, 2, 3, 4, 5)),
        "share of points behind things": shares(table[:, 4], (0.01, 0.1, 0.3, 0.6)),
        "share of points behind the head itself": shares(table[:, 5], (0.01, 0.1, 0.3)),
        "age, 0 young to 1 old": shares(table[:, 6], (0.01, 0.5, 0.9)),
        "caricatures": round(special["caricature"] / number, 4),
        "drawings": round(special["drawing"] / number, 4),
        "things": {kind: round(share / number, 4) for kind, share in sorted(kinds.items())},
    }
