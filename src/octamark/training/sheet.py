"""A sheet of augmented training samples with their points, to check before a long run."""

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
from octamark.synthesis.eyelids import Eyelids
from octamark.training.augmentation import augment
from octamark.training.data import FaceStore, epoch_order
from octamark.training.recipe import Recipe

COUNT = 32


def draw(samples: Sequence[Sample], recipe: Recipe, path: Path) -> int:
    """Draw 32 samples (fewer if there are fewer), augmented by the recipe at its last size; returns how many."""
    chosen = [samples[index] for index in epoch_order(len(samples), recipe.seed, 0)[:COUNT].tolist()]
    points_of, size = layout(recipe.layout), recipe.stages[-1].size
    store = FaceStore.load(chosen, size, recipe.margin)
    complete = torch.isfinite(store.landmarks).all(dim=2).all(dim=1)
    pictures, _, points = augment(
        store.pictures[:],
        store.landmarks,
        config=recipe.augment,
        mirror=torch.from_numpy(points_of.mirror.copy()),
        size=size,
        generator=torch.Generator().manual_seed(recipe.seed),
        caricatures=Caricatures.of(recipe.caricature, points_of, store.landmarks[complete]) if complete.any() else None,
        eyelids=Eyelids.of(recipe.eyes, points_of),
        visible=store.visible,
    )
    arrays = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    drawn = np.nan_to_num(points.numpy(), nan=-1e4)  # a point without a label lies outside the tile
    tiles = [dotted(np.ascontiguousarray(a), p, points_of) for a, p in zip(arrays, drawn, strict=True)]
    write_picture(path, sheet(tiles))
    return len(tiles)
