"""The faces of a run, each decoded once and cropped with room around it: in memory, or in shards on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from octamark.datasets import Sample
from octamark.errors import DataError
from octamark.geometry import apply, crop, crop_transform, invert, landmark_boxes, scale_points, squares
from octamark.layouts import Layout, convert, layout
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE
from octamark.nets.sampling import cut, middle, move_points
from octamark.training.shards import PictureStack, open_shards, resize_all, writing_shards
from octamark.training.visibility import VisibilityRule, visible_in

ROOM = 1.6
"""Side of a stored crop over the side of the crop that the network sees: room for rotation, scale and shift."""

THREADS = min(8, os.cpu_count() or 1)
"""Threads that decode the faces of a run."""

MEMORY = 2 << 30
"""Bytes of stored crops up to which a run holds them in memory; above, they are stored in shards on disk."""


def zoom(side: int, size: int) -> float:
    """Pixels of stored crops of that side per pixel of the network's crops."""
    return side / round(size * ROOM)


@dataclass
class FaceStore:
    """Labelled faces, decoded once.

    Attributes:
        pictures: (n, 3, s, s) uint8; the network's crop is the middle of it, ``s / ROOM`` pixels wide.
        landmarks: (n, M, 2) float32, pixels of the stored crop; NaN where a point has no label.
        visible: (n, M) float32, 1 for landmarks that can be seen, 0 for hidden ones, NaN where nobody knows.
    """

    pictures: Tensor | PictureStack
    landmarks: Tensor
    visible: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def load(
        cls,
        samples: Sequence[Sample],
        size: int,
        margin: float,
        *,
        flags: VisibilityRule | None = None,
        advance: Callable[[], None] = lambda: None,
        threads: int = THREADS,
    ) -> FaceStore:
        """Decode samples into memory, for networks of input ``size`` whose crop is ``margin`` times the landmark box.

        Args:
            flags: tells which landmarks of a sample can be seen; None: nobody knows.
            advance: called once per face, for a progress bar.

        Raises:
            PictureError: a picture that cannot be read; the message names it.
            DataError: a face whose landmarks have no extent.
        """
        side, landmarks = round(size * ROOM), []
        pictures = torch.empty(len(samples), 3, side, side, dtype=torch.uint8)
        decoded = _decoded(samples, size, margin, advance, threads)
        for place, (picture, points) in zip(pictures, decoded, strict=True):
            place.copy_(torch.from_numpy(picture).permute(2, 0, 1))
            landmarks.append(torch.from_numpy(points))
        return cls(pictures, torch.stack(landmarks), torch.from_numpy(visible_in(samples, flags)))

    @classmethod
    def of_shards(cls, path: Path, target: Layout, source: str | None = None) -> FaceStore:
        """Labelled faces of shards, memory-mapped, their landmarks converted to a layout.

        Args:
            source: the layout of the shards, where its name in their metadata is not that of a layout that ships.

        Raises:
            DataError: as ``octamark.training.shards.open_shards``, or shards without labels.
            LayoutError: no conversion between the two layouts.
        """
        shards = open_shards(path)
        if shards.landmarks is None or shards.layout is None:
            raise DataError(f"{path}: shards without labels; they go to --unlabelled")
        points = shards.landmarks
        if source is not None or shards.layout != target.name:
            points = torch.from_numpy(
                np.ascontiguousarray(convert(points.numpy(), layout(source or shards.layout), target)[0], np.float32)
            )
        if points.shape[1] != target.count:
            raise DataError(f"{path}: {points.shape[1]} points a face; layout {target.name} has {target.count}")
        visible = shards.visible
        if visible is None or visible.shape != points.shape[:2]:  # of another layout
            visible = torch.full(points.shape[:2], torch.nan)
        return cls(shards.pictures, points, visible)

    @classmethod
    def joined(cls, stores: Sequence[FaceStore], size: int) -> FaceStore:
        """The faces of several stores behind each other, for networks of input ``size``."""
        if len(stores) == 1:
            return stores[0]
        side, parts = round(size * ROOM), []
        for store in stores:
            parts += store.pictures.parts if isinstance(store.pictures, PictureStack) else [store.pictures]
        landmarks, visible = (torch.cat(part) for part in (
            [store._scaled(side) for store in stores], [store.visible for store in stores]
        ))  # fmt: skip
        return cls(PictureStack(parts, side), landmarks, visible)

    def take(self, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pictures (k, 3, s, s) and landmarks (k, M, 2) of the faces at these indices (k,), on a device."""
        place = chosen if isinstance(self.pictures, PictureStack) else chosen.to(self.pictures.device)
        return self.pictures[place].to(device), self.landmarks[chosen.to(self.landmarks.device)].to(device)

    def resized(self, size: int) -> FaceStore:
        """The same faces for networks of another input size, by area averages."""
        side = round(size * ROOM)
        if side == self.pictures.shape[-1]:
            return self
        if isinstance(self.pictures, PictureStack):
            return FaceStore(self.pictures.resized(side), self._scaled(side), self.visible)
        return FaceStore(resize_all(self.pictures, side), self._scaled(side), self.visible)

    def _scaled(self, side: int) -> Tensor:
        """The landmarks in pixels of crops of another side."""
        if side == self.pictures.shape[-1]:
            return self.landmarks
        scaled: Tensor = scale_points(self.landmarks, side / self.pictures.shape[-1])
        return scaled

    def to(self, device: torch.device) -> FaceStore:
        """The store on a device. What is memory-mapped stays on disk, unless a CUDA device has room to spare."""
        if isinstance(self.pictures, PictureStack):
            room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 0
            if len(self) * 3 * self.pictures.side**2 > room:
                return self
            parts = [self.pictures[start : start + 256].to(device) for start in range(0, len(self), 256)]
            return FaceStore(torch.cat(parts), self.landmarks.to(device), self.visible.to(device))
        return FaceStore(self.pictures.to(device), self.landmarks.to(device), self.visible.to(device))


def store_as_shards(
    samples: Sequence[Sample],
    size: int,
    margin: float,
    folder: Path,
    layout_name: str,
    *,
    flags: VisibilityRule | None = None,
    advance: Callable[[], None] = lambda: None,
    threads: int = THREADS,
) -> None:
    """Decode samples as ``FaceStore.load`` does, into shards in a new folder; a few faces at a time are in memory.

    Raises:
        OutputError: the folder exists, or cannot be written; and as ``FaceStore.load``.
    """
    with writing_shards(folder, margin=margin, layout=layout_name) as writer:
        decoded = _decoded(samples, size, margin, advance, threads)
        for (picture, points), visible in zip(decoded, visible_in(samples, flags), strict=True):
            writer.add(picture, points, None if flags is None else visible)


def _decoded(
    samples: Sequence[Sample], size: int, margin: float, advance: Callable[[], None], threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stored crops (s, s, 3) and their landmarks (M, 2), one sample after the other."""
    side = round(size * ROOM)

    def decode(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        square = squares(landmark_boxes(sample.landmarks), margin * side / size)[0]
        if not square[2] > 0:
            raise DataError(f"{sample.name} ({sample.picture}): all its landmarks lie in one place")
        transform = crop_transform(square, side)
        picture = crop(sample.read(), transform, side)
        advance()
        return picture, apply(invert(transform), sample.landmarks).astype(np.float32)

    remaining = iter(samples)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(remaining, 64)):  # a pool of threads would decode all of them ahead
            yield from pool.map(decode, chunk)


def mirror_misfits(faces: Sequence[Sample], points: Layout) -> list[str]:
    """Names of the points whose partners in a mirrored face, by the layout, lie elsewhere by the labels.

    The mean of the faces with all labels, each centred and as large as its box, is compared with its mirror image: a
    point that differs by more than 0.15 of the face's size is named. With fewer than 8 such faces none is.
    """
    complete = [face.landmarks for face in faces if np.isfinite(face.landmarks).all()]
    if len(complete) < 8:
        return []
    labels = np.stack(complete).astype(np.float64)
    boxes = landmark_boxes(labels)  # n, 4
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    mean = ((labels - (boxes[:, None, :2] + boxes[:, None, 2:]) / 2) / sides[:, None, None]).mean(axis=0)  # M, 2
    apart = np.linalg.norm(mean - (mean * (-1.0, 1.0))[points.mirror], axis=1)
    return [name for name, distance in zip(points.point_names, apart, strict=True) if distance > 0.15]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation that depends on seed and epoch alone, so that a resumed run draws the same one."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def epoch_batches(
    count: int, batch: int, seed: int, epoch: int, *, steps: int | None = None, rank: int = 0, world: int = 1
) -> Iterator[Tensor]:
    """Indices of each step's faces for one of ``world`` processes; the incomplete last batch is dropped.

    A set smaller than one batch makes one batch of the whole set. With ``steps``, an epoch has that many steps of
    whole batches, taken from ``endless_batch`` where the epoch before left off.
    """
    if steps is not None:
        for index in range(steps):
            yield endless_batch(count, batch, seed, epoch * steps + index)[rank::world]
        return
    order = epoch_order(count, seed, epoch)
    batch = min(batch, count)
    for start in range(0, count - batch + 1, batch):
        yield order[start : start + batch][rank::world]


def endless_batch(count: int, batch: int, seed: int, step: int) -> Tensor:
    """The faces (batch,) of one step, if permutations of all faces follow each other without end."""
    return endless_faces(count, step * batch, (step + 1) * batch, seed)


def endless_faces(count: int, first: int, last: int, seed: int) -> Tensor:
    """The faces (last - first,) at these places of an endless row of permutations of ``count`` faces."""
    if last <= first:
        return torch.zeros(0, dtype=torch.int64)
    rounds = range(first // count, (last - 1) // count + 1)
    order = torch.cat([epoch_order(count, seed, number) for number in rounds])
    return order[first % count :][: last - first]


def steps_per_epoch(count: int, batch: int) -> int:
    """How many batches ``epoch_batches`` yields by itself."""
    return count // min(batch, count)


def set_shares(weights: Sequence[float | None]) -> list[float] | None:
    """The share of a step's faces that each set gets, or None where the faces of all sets are drawn alike."""
    if any(weight is None for weight in weights):
        return None
    known = [float(weight or 0.0) for weight in weights]
    return [weight / sum(known) for weight in known]


def mixed_batch(counts: Sequence[int], shares: Sequence[float], batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of one step's faces, out of sets of these sizes whose faces are numbered one after the other.

    Over the steps each set gets its share of the faces, to less than one face; a set's faces come in permutations that
    follow each other without end.
    """
    largest = max(range(len(shares)), key=lambda index: shares[index])
    bounds = [[int(batch * share * end) for share in shares] for end in (step, step + 1)]
    for end, bound in zip((step, step + 1), bounds, strict=True):
        bound[largest] = batch * end - sum(bound[:largest]) - sum(bound[largest + 1 :])
    parts, offset = [], 0
    for number, count in enumerate(counts):
        first, last = bounds[0][number], bounds[1][number]
        parts.append(offset + endless_faces(count, first, last, seed + 7919 * number))
        offset += count
    return torch.cat(parts)


def read_faces(
    model: Callable[..., Tensor], faces: FaceStore, size: int, beta: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, points that a network reads, and their spreads, (n, M, 2) each, in pixels of the ``centre_crops``.

    Args:
        model: the network, ready to predict.
        size: side of its input, pixels; beta: of its soft-argmax.
        device: where it is; by default that of the labels.
    """
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    with torch.no_grad():
        for start in range(0, len(faces), 32):
            chosen = torch.arange(start, min(start + 32, len(faces)))
            pictures, labels = centre_crops(faces, chosen, size, device)
            maps = model(pictures.contiguous(memory_format=torch.channels_last))
            points = heatmaps.to_input_pixels(heatmaps.decode(heatmaps.probabilities(maps, beta)), STRIDE)
            for part, values in zip(parts, (labels, points.position, points.spread), strict=True):
                part.append(values.cpu())
    labels, readings, spread = map(torch.cat, parts)
    return labels, readings, spread


def centre_crops(
    faces: FaceStore, chosen: Tensor, size: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, size, size) and landmarks (n, M, 2) of stored faces, cropped as for prediction: not augmented."""
    pictures, landmarks = faces.take(chosen, device or faces.landmarks.device)
    matrices = middle(len(chosen), pictures.shape[-1], size).to(pictures.device)
    still = torch.zeros(len(chosen), dtype=torch.bool, device=pictures.device)
    identity = torch.arange(landmarks.shape[1], device=pictures.device)
    return cut(pictures, matrices, size), move_points(landmarks, matrices, still, identity)
