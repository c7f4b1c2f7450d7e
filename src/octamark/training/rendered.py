"""Rendered pictures as shards: crops and landmarks of a layout, for ``format = "shards"`` of a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from octamark.datasets import Sample
from octamark.layouts import Layout
from octamark.synthesis.rendering.folder import Hidden, RenderFolder
from octamark.training.data import store_as_shards
from octamark.training.visibility import VisibilityRule


def rendered_samples(folder: RenderFolder, layout: Layout, hidden: Hidden = "keep") -> list[Sample]:
    """The faces of a folder of rendered pictures, with the landmarks of a layout.

    ``occluded`` says whose places cannot be seen; ``hidden`` is about points that the head itself hides.

    Raises:
        DataError, LayoutError: as ``RenderFolder.landmarks``.
    """
    samples = []
    for seed, _, found in folder.landmarks(layout):
        points = found.landmarks.copy()
        if hidden == "drop":
            points[found.behind_head] = np.nan
        samples.append(Sample(f"{seed}", folder.picture(seed), points, ~found.visible))
    return samples


def pack(
    folder: RenderFolder,
    layout: Layout,
    out: Path,
    *,
    size: int = 160,
    margin: float = 1.25,
    hidden: Hidden = "keep",
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Write the rendered pictures as shards and return their number; shards that are there are replaced.

    Args:
        out: the folder of shards.
        size: side of the input of the networks, pixels; the shards hold 1.6 times as much.
        margin: side of the network's crop over the longer side of the landmark box.

    Raises:
        DataError, LayoutError, OutputError: as ``RenderFolder.landmarks`` and ``store_as_shards``.
    """
    samples = rendered_samples(folder, layout, hidden)
    partial = out.with_name(f".{out.name}-new")
    shutil.rmtree(partial, ignore_errors=True)
    flags = VisibilityRule("flags", layout.mirror)
    store_as_shards(samples, size, margin, partial, layout.name, flags=flags, advance=advance)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return len(samples)
