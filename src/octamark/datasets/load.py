"""From a recipe's data section to its faces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from octamark.datasets import FORMATS, Sample, read
from octamark.datasets.w300 import read_split_file
from octamark.errors import DataError, listed
from octamark.layouts import Layout
from octamark.metrics import distances, usual_normaliser


class DataSection(Protocol):
    """What the data section of a recipe says (octamark.training.recipe.Data)."""

    @property
    def format(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def validation(self) -> str | float: ...
    @property
    def share(self) -> float: ...


def training_and_validation(
    section: DataSection, root: Path, one: Layout, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """The faces to train on and those held out to validate on.

    Args:
        root: the set's folder (or file, for formats that are read from one).
        one: the recipe's layout; the set's labels must have its points.
        seed: draws the section's share of the training faces (a smaller share is a part of a larger one), and the
            held-out share, if the section gives one.

    Raises:
        DataError: as :func:`octamark.datasets.read`; a split file that names faces that are not there, leaves nothing
            to train on, or lists one face of a picture and not another; faces of which not all points have a label;
            faces held out whose errors cannot be normalised.
        LayoutError: labels of another layout.
    """
    samples = read(section.format, root, section.split, layout=one)
    if isinstance(section.validation, float):
        training, validation = _drawn(section, root, samples, seed)
    elif section.validation in FORMATS[section.format].splits:
        training, validation = _other_split(section, root, one, samples)
    else:
        training, validation = _listed(section, root, samples)
    if incomplete := [face.name for face in [*training, *validation] if np.isnan(face.landmarks).any()]:
        raise DataError(
            f"{root}: {len(incomplete)} of {len(training) + len(validation)} faces have points without a label, "
            f"{listed(incomplete[:3])}; training needs them all"
        )
    lengths = distances(np.stack([face.landmarks for face in validation]), one, usual_normaliser(one))
    if flat := [face.name for face, length in zip(validation, lengths, strict=True) if np.isnan(length)]:
        raise DataError(
            f"{root}: {listed(flat[:3])} ({len(flat)} faces held out): no {usual_normaliser(one)} distance to divide "
            "errors by; hold out others"
        )
    drawn = np.random.default_rng(seed).permutation(len(training))[: max(1, round(section.share * len(training)))]
    return [training[index] for index in sorted(drawn)], validation


def _listed(section: DataSection, root: Path, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """By a file that lists the names of faces to hold out."""
    split_file = (root if root.is_dir() else root.parent) / str(section.validation)
    if not split_file.is_file():
        raise DataError(
            f"{split_file}: no such file; data.validation names one in the data folder that lists the faces to hold "
            f"out, or another split ({listed(FORMATS[section.format].splits)}), or is a share such as 0.1"
        )
    held_out = read_split_file(split_file)
    everyone = {sample.name: sample for sample in samples}
    if missing := [name for name in held_out if name not in everyone]:
        raise DataError(
            f"{split_file}: lists {listed(missing[:3])} ({len(missing)} names), not in split {section.split}"
        )
    if len(held_out) == len(everyone):
        raise DataError(f"{split_file}: lists every face of split {section.split}; none is left to train on")
    validation = [everyone.pop(name) for name in sorted(held_out)]
    sources = {sample.source for sample in validation}
    if shared := sorted(name for name, sample in everyone.items() if sample.source in sources):
        raise DataError(f"{split_file}: lists a face of the same picture as {listed(shared[:3])}, which it leaves out")
    return list(everyone.values()), validation


def _other_split(
    section: DataSection, root: Path, one: Layout, samples: Sequence[Sample]
) -> tuple[list[Sample], list[Sample]]:
    """By another split of the set: its pictures, or persons where the set tells them, are not trained on."""
    validation = read(section.format, root, str(section.validation), layout=one)
    kind, group = _group(section)
    held_out = {group(sample) for sample in validation}
    training = [sample for sample in samples if group(sample) not in held_out]
    if not training:
        raise DataError(f"{root}: split {section.validation} holds every {kind} of split {section.split}")
    return training, validation


def _drawn(section: DataSection, root: Path, samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """A share by lot: whole pictures, or whole persons where the set tells them, so that nobody is on both sides.

    The lot of each depends on its name and the seed alone: a set that grows moves few.
    """
    kind, group = _group(section)
    groups = {group(sample) for sample in samples}
    if len(groups) < 2:
        raise DataError(f"{root}: faces of one {kind} alone; none can be held out by lot")
    count = min(max(1, round(float(section.validation) * len(groups))), len(groups) - 1)
    named = {group(one): one.name for one in reversed(samples)}  # by its first face: the set's folder may move
    named = {one: one if kind == "person" else name for one, name in named.items()}
    chosen = set(sorted(groups, key=lambda one: hashlib.sha256(f"{seed}/{named[one]}".encode()).digest())[:count])
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        sides[group(sample) in chosen].append(sample)
    return sides


def _group(section: DataSection) -> tuple[str, Callable[[Sample], str]]:
    """What is never divided between training and validation: persons where the set tells them, or pictures."""
    if FORMATS[section.format].by_person:
        return "person", lambda sample: sample.name.partition("/")[0]
    return "picture", lambda sample: sample.source
