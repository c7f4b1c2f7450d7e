"""Stored crops on disk, read through memory maps: sets of faces that are larger than memory.

A *shard* is one .safetensors file:

- ``pictures``: (n, 3, s, s) uint8, RGB. The crop that a network reads is the middle of the picture, ``s / ROOM`` pixels
  wide (octamark.training.data.ROOM is 1.6); the rest is room for rotation, scale and shift. ``s`` may be of any size;
  training resizes a batch to what it needs.
- ``landmarks``, in labelled shards: (n, M, 2) float32, pixels of ``pictures`` (pixel centres at integers), NaN where a
  point has no label.
- ``visible``, in shards of sets that tell it: (n, M) float32, 1 for landmarks that can be seen, 0 for hidden ones, NaN
  where nobody knows.
- metadata, under the key ``octamark crops``: JSON with ``margin`` (side of the network's crop over the longer side of
  the landmark box) and ``layout`` (the landmarks' layout by name; null without landmarks).

A set is one shard, or a folder of them; they are taken in the order of their names. Each file is written whole or not
at all, so that several processes may write shards of one folder. Pictures are read from disk when a batch needs them,
and the processes of one machine share what the system holds of them in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from octamark.errors import DataError, OutputError
from octamark.geometry import Picture, scale_points
from octamark.images import write_atomically

SHARD_BYTES = 32 << 20
"""A writer begins another shard when this many bytes of pictures are collected."""

_KEY = "octamark crops"
_OLD_KEY = "octamark unlabelled"  # of files that version 1 wrote, without landmarks


def resize(picture: Picture, side: int) -> Picture:
    """A square picture (s, s, 3) at another side: area averages to reduce it, bilinear to enlarge it."""
    if picture.shape[0] == side:
        return picture
    method = cv2.INTER_AREA if side < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), np.uint8)


def resize_all(pictures: Tensor, side: int) -> Tensor:
    """Pictures (n, 3, s, s) uint8 as (n, 3, side, side); see ``resize``."""
    if pictures.shape[-1] == side:
        return pictures
    out = torch.empty(len(pictures), 3, side, side, dtype=torch.uint8)
    for place, picture in zip(out, pictures, strict=True):
        place.copy_(torch.from_numpy(resize(picture.permute(1, 2, 0).numpy(), side)).permute(2, 0, 1))
    return out


class PictureStack:
    """Pictures (n, 3, s, s) uint8 out of several tensors, indexed like one; only what is asked for is read.

    Args:
        parts: (k, 3, t, t) uint8 each, in memory or memory-mapped; their sides may differ.
        side: s, to which pictures are resized when they are taken; by default the largest side.
    """

    def __init__(self, parts: Sequence[Tensor], side: int | None = None) -> None:
        self.parts = list(parts)
        self.side = side or max(part.shape[-1] for part in parts)
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), 3, self.side, self.side))

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """The pictures at these indices (k,), or of a slice, as (k, 3, s, s) in memory."""
        indices = torch.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen.cpu()
        out = torch.empty(len(indices), 3, self.side, self.side, dtype=torch.uint8)
        owners = torch.searchsorted(self.ends, indices, right=True)
        for owner in sorted(set(owners.tolist())):
            places = torch.nonzero(owners == owner)[:, 0]
            part = self.parts[owner]
            out[places] = resize_all(part[indices[places] - (self.ends[owner] - len(part))], self.side)
        return out

    def resized(self, side: int) -> PictureStack:
        """The same pictures at another side."""
        return PictureStack(self.parts, side)


@dataclass(frozen=True)
class Shards:
    """Stored crops that ``open_shards`` opened.

    Attributes:
        pictures: (n, 3, s, s) uint8, memory-mapped.
        landmarks: (n, M, 2) float32, pixels of ``pictures``, in memory; None in a set without labels.
        visible: (n, M) float32, see the module's text; None in a set that does not tell it.
        margin: side of the network's crop over the longer side of the landmark box.
        layout: of the landmarks, by name; None in a set without labels.
        files: the shards.
    """

    pictures: PictureStack
    landmarks: Tensor | None
    visible: Tensor | None
    margin: float
    layout: str | None
    files: tuple[Path, ...]


def write_shard(
    path: Path,
    pictures: Tensor,
    landmarks: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    margin: float,
    layout: str | None = None,
) -> None:
    """Write one shard, whole or not at all; see the module's text for shapes and units.

    Raises:
        ValueError: arrays of another shape or type, landmarks without a layout, or a layout without landmarks.
        OutputError: the file cannot be written.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3] or not len(pictures):
        raise ValueError(f"pictures must be (n, 3, s, s), n at least 1; got {tuple(pictures.shape)}")
    if pictures.dtype != torch.uint8:
        raise ValueError(f"pictures must be uint8; got {pictures.dtype}")
    if (landmarks is None) != (layout is None):
        raise ValueError("landmarks and their layout go together: give both or neither")
    tensors = {"pictures": pictures.contiguous()}
    if landmarks is not None:
        if landmarks.ndim != 3 or landmarks.shape[0] != len(pictures) or landmarks.shape[2] != 2:
            raise ValueError(f"landmarks must be ({len(pictures)}, M, 2); got {tuple(landmarks.shape)}")
        tensors["landmarks"] = landmarks.float().contiguous()
    if visible is not None:
        if landmarks is None or visible.shape != landmarks.shape[:2]:
            raise ValueError(f"visible must be (n, M) as the landmarks are; got {tuple(visible.shape)}")
        tensors["visible"] = visible.float().contiguous()
    meta = json.dumps({"margin": margin, "layout": layout})
    write_atomically(path, safetensors.torch.save(tensors, metadata={_KEY: meta}))


def shard_files(path: Path) -> list[Path]:
    """The shards of a set in their order: the file itself, or the .safetensors files of a folder.

    Raises:
        DataError: no such file or folder, or a folder without shards.
    """
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not files:
        raise DataError(f"{path}: no shards; give a .safetensors file that octamark wrote, or a folder of them")
    return files


def open_shards(path: Path) -> Shards:
    """The crops of one shard or of a folder of shards, memory-mapped.

    Raises:
        DataError: missing, damaged or foreign files, or shards of different layouts or margins in one folder.
    """
    files = shard_files(path)
    pictures, landmarks, visible, metas = [], [], [], []
    for file in files:
        try:
            with safetensors.safe_open(file, framework="pt") as shard:
                keys = shard.metadata() or {}
                meta = json.loads(keys[_KEY] if _KEY in keys else keys[_OLD_KEY])
                metas.append((float(meta["margin"]), meta.get("layout")))
                pictures.append(shard.get_tensor("pictures"))
                if metas[-1][1] is not None:
                    landmarks.append(shard.get_tensor("landmarks").clone())
                    unknown = torch.full(landmarks[-1].shape[:2], torch.nan)
                    visible.append(shard.get_tensor("visible").clone() if "visible" in shard.keys() else unknown)  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise DataError(f"{file}: not a shard of crops (octamark crops writes them): {error}") from error
        if metas[-1] != metas[0]:
            raise DataError(
                f"{file}: margin {metas[-1][0]} and layout {metas[-1][1]}; {files[0].name} beside it has margin "
                f"{metas[0][0]} and layout {metas[0][1]}"
            )
    stack = PictureStack(pictures)
    scaled = [
        scale_points(points, stack.side / part.shape[-1]) if part.shape[-1] != stack.side else points
        for part, points in zip(pictures, landmarks or pictures, strict=True)
    ]
    labels = [torch.cat(part) if landmarks else None for part in (scaled, visible or scaled)]
    return Shards(stack, labels[0], labels[1], *metas[0], tuple(files))


class ShardWriter:
    """Collects crops one by one and writes them as shards of a folder; see ``writing_shards``."""

    def __init__(self, folder: Path, margin: float, layout: str | None) -> None:
        self.folder, self.margin, self.layout, self.count = folder, margin, layout, 0
        self._pictures: list[Tensor] = []
        self._landmarks: list[Tensor] = []
        self._visible: list[Tensor] = []
        self._written = 0

    def add(
        self,
        picture: Picture,
        landmarks: NDArray[np.floating] | None = None,
        visible: NDArray[np.floating] | None = None,
    ) -> None:
        """Add one picture (s, s, 3) uint8, its landmarks (M, 2), and which are visible (M,); a full shard is written.

        Of one writer's pictures all have ``visible``, or none.
        """
        self._pictures.append(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))))
        if landmarks is not None:
            self._landmarks.append(torch.from_numpy(np.asarray(landmarks, np.float32)))
        if visible is not None:
            self._visible.append(torch.from_numpy(np.asarray(visible, np.float32)))
        self.count += 1
        if len(self._pictures) * picture.nbytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the collected crops as a shard."""
        if not self._pictures:
            return
        points = torch.stack(self._landmarks) if self._landmarks else None
        file = self.folder / f"{self._written:05d}.safetensors"
        visible = torch.stack(self._visible) if self._visible else None
        write_shard(file, torch.stack(self._pictures), points, visible, margin=self.margin, layout=self.layout)
        self._written += 1
        self._pictures, self._landmarks, self._visible = [], [], []


@contextmanager
def writing_shards(folder: Path, *, margin: float, layout: str | None = None) -> Iterator[ShardWriter]:
    """A ``ShardWriter`` whose folder appears when all of its shards are written, and not at all after an error.

    Raises:
        OutputError: the folder exists already, or cannot be written.
    """
    if folder.exists():
        raise OutputError(f"{folder}: exists already; choose another folder, or remove it")
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{partial}: cannot be made ({error.strerror})") from error
    try:
        writer = ShardWriter(partial, margin, layout)
        yield writer
        writer.flush()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
