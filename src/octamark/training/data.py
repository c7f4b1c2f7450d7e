"""The whole training set in memory: every face once, cropped with room around it, as uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from octamark.datasets import Sample
from octamark.errors import DataError
from octamark.geometry import apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.nets.sampling import cut, middle, move_points

ROOM = 1.6
"""Side of a stored crop over the side of the crop that the network sees: room for rotation, scale and shift."""


def zoom(side: int, size: int) -> float:
    """Pixels of stored crops of that side per pixel of the network's crops."""
    return side / round(size * ROOM)


@dataclass
class FaceStore:
    """Faces decoded once.

    Attributes:
        pictures: (n, 3, s, s) uint8; the network's crop is the middle of it, ``s / ROOM`` pixels wide.
        landmarks: (n, M, 2) float32, pixels of the stored crop.
    """

    pictures: Tensor
    landmarks: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def load(
        cls,
        samples: Sequence[Sample],
        size: int,
        margin: float,
        *,
        advance: Callable[[], None] = lambda: None,
        threads: int = 2,
    ) -> FaceStore:
        """Decode samples for networks of input ``size``, whose crop is ``margin`` times the landmark box.

        Args:
            advance: called once per face, for a progress bar.

        Raises:
            PictureError: a picture that cannot be read; the message names it.
            DataError: a face whose landmarks have no extent.
        """
        side = round(size * ROOM)

        def one(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
            square = squares(landmark_boxes(sample.landmarks), margin * side / size)[0]
            if square[2] <= 0:
                raise DataError(f"{sample.name} ({sample.picture}): all its landmarks lie in one place")
            transform = crop_transform(square, side)
            picture = crop(sample.read(), transform, side)
            advance()
            return picture.transpose(2, 0, 1), apply(invert(transform), sample.landmarks).astype(np.float32)

        with ThreadPoolExecutor(threads) as pool:
            faces = list(pool.map(one, samples))
        pictures = torch.from_numpy(np.stack([picture for picture, _ in faces]))
        return cls(pictures, torch.from_numpy(np.stack([points for _, points in faces])))

    def resized(self, size: int) -> FaceStore:
        """The same faces for networks of another input size, by area averages."""
        side = round(size * ROOM)
        if side == self.pictures.shape[-1]:
            return self
        pictures = np.stack(
            [
                cv2.resize(picture.permute(1, 2, 0).numpy(), (side, side), interpolation=cv2.INTER_AREA)
                for picture in self.pictures
            ]
        ).transpose(0, 3, 1, 2)
        landmarks = (self.landmarks + 0.5) * (side / self.pictures.shape[-1]) - 0.5
        return FaceStore(torch.from_numpy(np.ascontiguousarray(pictures)), landmarks)

    def to(self, device: torch.device) -> FaceStore:
        return FaceStore(self.pictures.to(device), self.landmarks.to(device))


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation that depends on seed and epoch alone, so that a resumed run draws the same one."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def epoch_batches(
    count: int, batch: int, seed: int, epoch: int, *, steps: int | None = None, rank: int = 0, world: int = 1
) -> Iterator[Tensor]:
    """Indices of each step's faces for one of ``world`` processes; the incomplete last batch is dropped.

    A set smaller than one batch makes one batch of the whole set. With ``steps``, an epoch has that many steps of
    whole batches, taken from :func:`endless_batch` where the epoch before left off.
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
    """The faces (batch,) of one step, if permutations of all faces followed each other without an end."""
    first = step * batch
    rounds = range(first // count, (first + batch - 1) // count + 1)
    order = torch.cat([epoch_order(count, seed, number) for number in rounds])
    return order[first % count :][:batch]


def steps_per_epoch(count: int, batch: int) -> int:
    """How many batches :func:`epoch_batches` yields by itself."""
    return count // min(batch, count)


def centre_crops(faces: FaceStore, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Stored faces as prediction crops them: no augmentation. Pictures (n, 3, size, size) and landmarks (n, M, 2)."""
    device = faces.pictures.device
    chosen = chosen.to(device)
    matrices = middle(len(chosen), faces.pictures.shape[-1], size).to(device)
    still = torch.zeros(len(chosen), dtype=torch.bool, device=device)
    identity = torch.arange(faces.landmarks.shape[1], device=device)
    return cut(faces.pictures[chosen], matrices, size), move_points(faces.landmarks[chosen], matrices, still, identity)
