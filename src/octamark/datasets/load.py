"""From a recipe's data section to its faces."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from octamark.datasets import w300
from octamark.datasets.samples import Sample
from octamark.errors import DataError


class DataSection(Protocol):
    """What the data section of a recipe says (octamark.training.config.Data)."""

    @property
    def split(self) -> str: ...
    @property
    def validation(self) -> str: ...


def training_and_validation(section: DataSection, root: Path) -> tuple[list[Sample], list[Sample]]:
    """The faces to train on and those left out of it, by the section's split file (relative to ``root``).

    Raises:
        DataError: missing folders or files, or a split file that leaves nothing to train on.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    held_out = w300.read_split_file(root / section.validation)
    training = w300.read(root, section.split, but=held_out)
    if not training:
        raise DataError(
            f"{root / section.validation}: lists every face of split {section.split}; none is left to train on"
        )
    return training, w300.read(root, section.split, only=held_out)
