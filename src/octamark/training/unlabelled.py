"""Faces without labels: found once by the package's own detector, cropped as training crops, kept in one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from octamark.errors import DataError, PictureError, listed
from octamark.geometry import Picture, crop, crop_transform, detector_squares
from octamark.images import SUFFIXES, read_picture, write_atomically
from octamark.inference.detector import FaceDetector
from octamark.inference.landmarker import load as load_landmarker
from octamark.training.data import ROOM

LEAST_FACE = 32
"""Smaller faces (root of the detector box's area, pixels) are left out: a landmark there is under a pixel."""

LEAST_SIDE = 205
"""Faces are stored at this side at least: a network's input of 128 pixels with its room."""

_RULE = "small"  # whose card tells how YuNet's boxes map to the labels' boxes
_KEY = "octamark unlabelled"


@dataclass(frozen=True)
class Counts:
    """What a folder held: pictures of one or more faces, broken, empty and faceless ones, and faces too small."""

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
        counts: what the folder held.
    """

    pictures: Tensor
    margin: float
    counts: Counts

    def __len__(self) -> int:
        return len(self.pictures)

    def resized(self, size: int) -> Tensor:
        """The pictures (n, 3, s, s) for networks of input ``size``, by area averages; never enlarged."""
        side = round(size * ROOM)
        if side >= self.pictures.shape[-1]:
            return self.pictures
        out = torch.empty(len(self), 3, side, side, dtype=torch.uint8)
        for place, picture in zip(out, self.pictures, strict=True):
            place.copy_(torch.from_numpy(_resize(picture.permute(1, 2, 0).numpy(), side)).permute(2, 0, 1))
        return out

    def save(self, path: Path) -> None:
        """Write one .safetensors file, whole or not at all."""
        meta = json.dumps({"margin": self.margin, "counts": asdict(self.counts)})
        write_atomically(path, safetensors.torch.save({"pictures": self.pictures}, metadata={_KEY: meta}))


def read(path: Path) -> UnlabelledFaces:
    """The faces that :meth:`UnlabelledFaces.save` wrote.

    Raises:
        DataError: missing, damaged or foreign file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
            return UnlabelledFaces(file.get_tensor("pictures"), meta["margin"], Counts(**meta["counts"]))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: not a file of unlabelled faces (octamark crops writes one): {error}") from error


def pictures_in(folder: Path) -> list[Path]:
    """Every picture file of a folder and its subfolders, hidden ones apart, in a fixed order.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one of pictures, or a .safetensors that octamark crops wrote")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise DataError(f"{folder}: no pictures in this folder ({listed(SUFFIXES)})")
    return found


def collect(
    folder: Path,
    size: int,
    margin: float,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 2,
) -> UnlabelledFaces:
    """Find and crop every face of a folder of pictures, for networks of input ``size``.

    Boxes become crops by the crop rule of the released model ``small``, which was fitted on labelled faces: what the
    network sees here is framed as in training. Faces are stored at their own typical size (the median), but at no less
    than ``LEAST_SIDE`` and no more than ``ROOM * size`` pixels.

    Args:
        margin: of the recipe's crops (octamark.training.recipe.Data).
        advance: called after each picture with the number done and of all, for a progress bar.

    Raises:
        DataError: no such folder, no pictures, or no face in any of them; the message tells what there was.
    """
    files = pictures_in(folder)
    rule = load_landmarker(_RULE).card.crop
    scale, most = rule.detector_scale * margin / rule.margin * ROOM, max(LEAST_SIDE, round(size * ROOM))
    detector = FaceDetector()

    def one(file: Path) -> tuple[list[tuple[Picture, float]], dict[str, int]]:
        """Crops of a picture's faces, at most ``most`` wide, the side of each in the picture, and what to count."""
        try:
            picture = read_picture(file)
        except PictureError:
            return [], {"empty" if file.is_file() and file.stat().st_size == 0 else "broken": 1}
        boxes, _ = detector(picture)
        roots = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        found = []
        for square in detector_squares(boxes[roots >= LEAST_FACE], scale, rule.detector_shift):
            side = int(np.clip(np.ceil(square[2]), LEAST_SIDE, most))
            found.append((crop(picture, crop_transform(square, side), side), float(square[2])))
        return found, {"pictures" if found else "faceless": 1, "small": int((roots < LEAST_FACE).sum())}

    faces: list[tuple[Picture, float]] = []
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for done, (found, counted) in enumerate(pool.map(one, files)):
            faces.extend(found)
            seen.update(counted)
            advance(done + 1, len(files))
    counts = Counts(faces=len(faces), **seen)
    if not faces:
        raise DataError(f"{folder}: no face to learn from: {counts}")
    side = int(np.clip(np.ceil(np.median([own for _, own in faces])), LEAST_SIDE, most))
    pictures = torch.empty(len(faces), 3, side, side, dtype=torch.uint8)
    for place, (picture, _) in zip(pictures, faces, strict=True):
        place.copy_(torch.from_numpy(_resize(picture, side)).permute(2, 0, 1))
    return UnlabelledFaces(pictures, margin, counts)


def _resize(picture: Picture, side: int) -> Picture:
    if picture.shape[0] == side:
        return picture
    way = cv2.INTER_AREA if side < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (side, side), interpolation=way), np.uint8)
