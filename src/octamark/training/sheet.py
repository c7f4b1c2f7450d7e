"""A sheet of augmented training samples with their points: the picture to look at before a long run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from octamark.datasets import Sample
from octamark.drawing import dotted, sheet
from octamark.images import write_picture
from octamark.layouts import layout
from octamark.synthesis.caricature import Caricatures
from octamark.training.augmentation import augment
from octamark.training.data import FaceStore, epoch_order
from octamark.training.recipe import Config

COUNT = 32


def draw(samples: Sequence[Sample], config: Config, path: Path) -> int:
    """Draw 32 samples (fewer if there are fewer), augmented by the recipe at its last size; returns how many."""
    chosen = [samples[index] for index in epoch_order(len(samples), config.seed, 0)[:COUNT].tolist()]
    one, size = layout(config.layout), config.stages[-1].size
    store = FaceStore.load(chosen, size, config.data.margin)
    pictures, _, points = augment(
        store.pictures,
        store.landmarks,
        config=config.augment,
        mirror=torch.from_numpy(one.mirror.copy()),
        size=size,
        generator=torch.Generator().manual_seed(config.seed),
        caricatures=Caricatures.of(config.caricature, one, store.landmarks),
    )
    arrays = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    tiles = [dotted(np.ascontiguousarray(a), p, one) for a, p in zip(arrays, points.numpy(), strict=True)]
    write_picture(path, sheet(tiles))
    return len(tiles)
