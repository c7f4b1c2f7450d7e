"""Faces without labels: found once by the package's own detector, cropped as training crops, stored in shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors

from octamark.errors import DataError, OutputError, PictureError, listed
from octamark.geometry import F64, Picture, crop, crop_transform, detector_squares
from octamark.images import SUFFIXES, find_pictures, read_picture, write_atomically
from octamark.inference.detector import FaceDetector, detections
from octamark.inference.landmarker import load as load_landmarker
from octamark.training.data import ROOM
from octamark.training.shards import PictureStack, open_shards, resize, writing_shards

LEAST_FACE = 32
"""Smaller faces (root of the detector box's area, pixels) are left out: landmarks cannot be told apart in them."""

LEAST_SIDE = 205
"""Faces are stored at this side at least: a network's input of 128 pixels with its room."""

_RULE = "small"  # whose card tells how YuNet's boxes map to the labels' boxes
_COUNTS = "counts.json"  # beside the shards
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
    """

    pictures: PictureStack
    margin: float
    counts: Counts

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
        return UnlabelledFaces(shards.pictures, shards.margin, Counts(**counted))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: its counts of pictures and faces cannot be read: {error}") from error


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
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 2,
) -> UnlabelledFaces:
    """Find every face of a folder of pictures and store its crop in shards, for networks of input ``size``.

    Boxes become crops by the crop rule of the released model ``small``, which was fitted on labelled faces: the network
    sees these faces as large and as centred as those it is trained on. All faces are stored at one side, the median of
    theirs, but at least ``LEAST_SIDE`` and at most ``ROOM * size`` pixels. Every picture is decoded twice, to find its
    faces and to crop them, so that a few crops at a time are in memory.

    Args:
        out: the folder of shards to write.
        margin: of the recipe's crops (octamark.training.recipe.Data).
        advance: called after each picture with the number done and of all, for a progress bar.

    Raises:
        DataError: no such folder, no pictures, or no face in any of them; the message tells what there was.
        OutputError: ``out`` exists already, or cannot be written.
    """
    files = pictures_in(folder)
    if out.exists():
        raise OutputError(f"{out}: exists already; choose another folder, or remove it")
    rule = load_landmarker(_RULE).card.crop
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
    return read(out)
