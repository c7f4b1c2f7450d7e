"""From a recipe's data section to its faces."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from octamark.datasets import w300
from octamark.datasets.samples import Sample
from octamark.errors import DataError, listed
from octamark.layouts import Layout


class DataSection(Protocol):
    """What the data section of a recipe says (octamark.training.config.Data)."""

    @property
    def split(self) -> str: ...
    @property
    def validation(self) -> str: ...
    @property
    def share(self) -> float: ...


def training_and_validation(
    section: DataSection, root: Path, one: Layout, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """The faces to train on and those left out of it, by the section's split file (relative to ``root``).

    Args:
        one: the recipe's layout; the set's labels must have its points.
        seed: draws the section's share of the training faces; a smaller share is a part of a larger one.

    Raises:
        DataError: missing folders or files, a split file that names faces that are not there or leaves nothing to train
            on, or labels of another layout.
    """
    if one.count != w300.POINTS or "inter-ocular" not in one.normalisers:
        raise DataError(f"300W has {w300.POINTS} points, layout ibug68; the recipe's layout {one.name} has {one.count}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    split_file = root / section.validation
    held_out = w300.read_split_file(split_file)
    everyone = {sample.name: sample for sample in w300.read(root, section.split)}
    if missing := [name for name in held_out if name not in everyone]:
        raise DataError(
            f"{split_file}: lists {listed(missing[:3])} ({len(missing)} names), not in split {section.split}"
        )
    if len(held_out) == len(everyone):
        raise DataError(f"{split_file}: lists every face of split {section.split}; none is left to train on")
    validation = [everyone.pop(name) for name in sorted(held_out)]
    training = list(everyone.values())
    drawn = np.random.default_rng(seed).permutation(len(training))[: max(1, round(section.share * len(training)))]
    return [training[index] for index in sorted(drawn)], validation
