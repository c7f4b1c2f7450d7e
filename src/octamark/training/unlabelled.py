"""Faces without labels: found once by the package's own detector, cropped as training crops, stored in shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from pydantic import TypeAdapter, ValidationError

from octamark.datasets.load import LabelledSet
from octamark.errors import DataError, OutputError, PictureError, listed
from octamark.evaluation.crop_rule import LEAST_BOXES, fit_crop_rule
from octamark.evaluation.run import detected_box
from octamark.geometry import F64, Picture, crop, crop_transform, detector_squares
from octamark.images import SUFFIXES, find_pictures, read_picture, write_atomically
from octamark.inference.detector import FaceDetector, detections
from octamark.inference.landmarker import Landmarker
from octamark.models import CropRule, ModelCard, Source
from octamark.training.data import ROOM, FaceStore
from octamark.training.provenance import NOT_RECORDED, card_source, set_sources
from octamark.training.recipe import Recipe
from octamark.training.shards import PictureStack, open_shards, resize, writing_shards

LEAST_FACE = 32
"""Smaller faces (root of the detector box's area, pixels) are left out: landmarks cannot be told apart in them."""

LEAST_SIDE = 205
"""Faces are stored at this side at least: a network's input of 128 pixels with its room."""

RULE_FACES = 500
"""Labelled training faces that a crop rule is fitted on, at most."""

_COUNTS = "counts.json"  # beside the shards
_SOURCES = "sources.json"  # beside the shards: what their crop rule was learned from
_SOURCE_LIST = TypeAdapter(tuple[Source, ...])
_CHUNK = 64  # pictures that threads may decode ahead


@dataclass(frozen=True)
class Counts:
    """Contents of a folder of pictures: numbers of usable faces, of pictures by outcome, of too small faces."""

    faces: int = 0
    pictures: int = 0
    broken: int = 0
    empty: int = 0
    faceless: int = 0
    small: int = 0

    def __str__(self) -> str:
        return (
            f"{self.faces} faces in {self.pictures} pictures; left out: {self.faceless} pictures without a face, "
            f"{self.broken} broken, {self.empty} empty files, {self.small} faces under {LEAST_FACE} pixels"
        )


@dataclass(frozen=True)
class UnlabelledFaces:
    """Crops of faces without labels.

    Attributes:
        pictures: (n, 3, s, s) uint8; the network's crop is the middle of it, ``s / ROOM`` pixels wide.
        margin: side of the network's crop over the longer side of the landmark box, as the crop rule estimates it.
        counts: what the folder of pictures held.
        sources: what the rule that cropped them was learned from.
    """

    pictures: PictureStack
    margin: float
    counts: Counts
    sources: tuple[Source, ...] = (NOT_RECORDED,)

    def __len__(self) -> int:
        return len(self.pictures)

    def resized(self, size: int) -> PictureStack:
        """The pictures (n, 3, s, s) for networks of input ``size``, by area averages; never enlarged."""
        return self.pictures.resized(min(round(size * ROOM), self.pictures.side))


def read(path: Path) -> UnlabelledFaces:
    """The faces that ``collect`` stored: a folder of shards, or one shard.

    Raises:
        DataError: missing, damaged or foreign files.
    """
    shards = open_shards(path)
    counted: dict[str, int] = {"faces": len(shards.pictures)}
    try:
        if (path / _COUNTS).is_file():
            counted = json.loads((path / _COUNTS).read_text())
        else:  # version 1 kept them in the file of the faces
            with safetensors.safe_open(shards.files[0], framework="pt") as file:
                counted = json.loads((file.metadata() or {}).get("octamark unlabelled", "{}")).get("counts", counted)
        return UnlabelledFaces(shards.pictures, shards.margin, Counts(**counted), crop_sources(path))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: its counts of pictures and faces cannot be read: {error}") from error


def crop_sources(path: Path) -> tuple[Source, ...]:
    """What the rule that cropped stored faces was learned from, as ``collect`` wrote it beside them.

    Raises:
        DataError: a damaged file.
    """
    file = path / _SOURCES
    try:
        return _SOURCE_LIST.validate_json(file.read_bytes()) if file.is_file() else (NOT_RECORDED,)
    except (OSError, ValidationError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def are_stored(path: Path) -> bool:
    """Whether a path holds faces that ``collect`` stored, not pictures in which they must be found."""
    return path.suffix == ".safetensors" or any(path.glob("*.safetensors"))


def expected_sources(recipe: Recipe, path: Path | None) -> tuple[Source, ...]:
    """What the crop rule of a recipe's unlabelled faces comes from, known before any face is found.

    Args:
        path: stored faces, or a folder of pictures, whose rule is fitted on the recipe's labelled faces; or None.
    """
    if path is None:
        return ()
    return crop_sources(path) if are_stored(path) else _labelled_sources(recipe)


def model_rule(name: str, layout: str | None = None) -> tuple[CropRule, tuple[Source, ...]]:
    """The crop rule of a released model or an .onnx file, and what it comes from.

    Args:
        layout: the landmarks that crops are to be cut around, by the name of their layout.

    Raises:
        WeightsError: no such model.
        DataError: a model of another layout, whose crops are cut around other landmarks.
    """
    card: ModelCard = Landmarker(name, refine="never").card
    if layout is not None and card.layout != layout:
        raise DataError(f"crop rule of {name!r}: for the layout {card.layout}; the recipe's is {layout}")
    return card.crop, (card_source(card, "crop rule"),)


def fitted_rule(
    recipe: Recipe,
    sets: Sequence[LabelledSet],
    shards: Mapping[str, FaceStore],
    layout: str,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[CropRule, tuple[Source, ...]]:
    """The crop rule that fits up to ``RULE_FACES`` of a recipe's labelled training faces, and what it comes from.

    Args:
        sets: the recipe's labelled faces.
        shards: those of its sets that are stored crops, by name. Their faces are found in the crops.
        layout: name of the recipe's layout.
        advance: called after each face with the number done and of all.

    Raises:
        DataError: YuNet finds fewer than ``LEAST_BOXES`` of them, and the recipe names no model whose rule to use.
        WeightsError: the model that it names is not there.
    """
    faces = [
        (shards[entry.name] if entry.is_shards else entry.training, index)
        for entry in sets
        for index in range(len(shards[entry.name] if entry.is_shards else entry.training))
    ]
    count = min(len(faces), RULE_FACES)
    chosen = [faces[place] for place in np.linspace(0, len(faces) - 1, count).astype(int)]
    detector, landmarks, boxes = FaceDetector(), [], []
    for done, (owner, index) in enumerate(chosen):
        if isinstance(owner, FaceStore):
            pictures, points = owner.take(torch.tensor([index]), torch.device("cpu"))
            picture, labels = pictures[0].permute(1, 2, 0).contiguous().numpy(), points[0].numpy()
        else:
            picture, labels = owner[index].read(), owner[index].landmarks
        landmarks.append(labels)
        boxes.append(detected_box(detector, labels, picture))
        advance(done + 1, len(chosen))
    found, settings = sum(box is not None for box in boxes), recipe.unlabelled
    if found >= LEAST_BOXES:
        size = max(stage.size for stage in recipe.stages)
        return fit_crop_rule(landmarks, boxes, size=size, margin=recipe.margin), _labelled_sources(recipe)
    if settings is not None and settings.crop_rule is not None:
        return model_rule(settings.crop_rule, layout)
    raise DataError(
        f"{recipe.name}: YuNet finds {found} of {len(chosen)} labelled training faces; {LEAST_BOXES} are needed to fit "
        "how unlabelled faces are cropped. Name a model whose crop rule fits: unlabelled.crop_rule in the recipe, or "
        "octamark crops --rule MODEL"
    )


def _labelled_sources(recipe: Recipe) -> tuple[Source, ...]:
    """The labelled sets of a recipe as sources of a crop rule."""
    return tuple(
        source.model_copy(update={"role": "crop rule"})
        for section in recipe.data
        for source in set_sources(recipe, section)
        if source.role != "validation"
    )


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder and its subfolders, as ``octamark.images.find_pictures`` finds them.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one of pictures, or what octamark crops wrote")
    pictures = find_pictures(folder)
    if not pictures.paths:
        left_out = f"; left out: {pictures.left_out_text}" if pictures.left_out else ""
        raise DataError(f"{folder}: no pictures in this folder ({listed(SUFFIXES)}){left_out}")
    return list(pictures.paths)


def collect(
    folder: Path,
    out: Path,
    size: int,
    margin: float,
    rule: CropRule,
    sources: Sequence[Source] = (NOT_RECORDED,),
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 2,
) -> UnlabelledFaces:
    """Find every face of a folder of pictures and store its crop in shards, for networks of input ``size``.

    Boxes become crops by a rule that was fitted on labelled faces (``fitted_rule`` or ``model_rule``): the network sees
    these faces as large and as centred as those it is trained on. All faces are stored at one side, the median of
    theirs, but at least ``LEAST_SIDE`` and at most ``ROOM * size`` pixels. Every picture is decoded twice, to find its
    faces and to crop them, so that a few crops at a time are in memory.

    Args:
        out: the folder of shards to write.
        margin: of the recipe's crops (octamark.training.recipe.Data).
        rule: from YuNet's boxes to crops; its size does not matter, and its margin may be another than ``margin``.
        sources: what the rule was learned from; kept beside the shards.
        advance: called after each picture with the number done and of all, for a progress bar.

    Raises:
        DataError: no such folder, no pictures, or no face in any of them; the message tells what there was.
        OutputError: ``out`` exists already, or cannot be written.
    """
    files = pictures_in(folder)
    if out.exists():
        raise OutputError(f"{out}: exists already; choose another folder, or remove it")
    scale, most = rule.detector_scale * margin / rule.margin * ROOM, max(LEAST_SIDE, round(size * ROOM))
    detector = FaceDetector()

    def find(file: Path) -> tuple[list[F64], dict[str, int]]:
        """The crops of a picture's faces as squares (3,), and what to count."""
        try:
            picture = read_picture(file)
        except PictureError:
            return [], {"empty" if file.is_file() and file.stat().st_size == 0 else "broken": 1}
        boxes, _ = detections(detector, picture)
        roots = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        squares = list(detector_squares(boxes[roots >= LEAST_FACE], scale, rule.detector_shift))
        return squares, {"pictures" if squares else "faceless": 1, "small": int((roots < LEAST_FACE).sum())}

    def cut(file_and_squares: tuple[Path, list[F64]]) -> list[Picture]:
        """The crops of one picture."""
        file, squares = file_and_squares
        picture, crops = read_picture(file), []
        for square in squares:
            natural = int(np.clip(np.ceil(square[2]), LEAST_SIDE, most))
            crops.append(resize(crop(picture, crop_transform(square, natural), natural), side))
        return crops

    faces: list[tuple[Path, list[F64]]] = []
    totals: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for done, (file, (squares, counted)) in enumerate(zip(chunk, pool.map(find, chunk), strict=True)):
                faces += [(file, squares)] if squares else []
                totals.update(counted)
                advance(start + done + 1, len(files))
        sides = [square[2] for _, squares in faces for square in squares]
        counts = Counts(faces=len(sides), **totals)
        if not faces:
            raise DataError(f"{folder}: no face to learn from: {counts}")
        side = int(np.clip(np.ceil(np.median(sides)), LEAST_SIDE, most))
        with writing_shards(out, margin=margin) as writer:
            for start in range(0, len(faces), _CHUNK):
                for crops in pool.map(cut, faces[start : start + _CHUNK]):
                    for picture in crops:
                        writer.add(picture)
            write_atomically(writer.folder / _COUNTS, json.dumps(asdict(counts)).encode())
            write_atomically(writer.folder / _SOURCES, _SOURCE_LIST.dump_json(tuple(sources)))
    return read(out)
