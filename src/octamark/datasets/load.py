"""From the data sections of a recipe to labelled faces: those to train on and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from octamark.datasets import FORMATS, Sample, read
from octamark.datasets.samples import known_names
from octamark.datasets.w300 import read_split_file
from octamark.errors import DataError, LayoutError, listed
from octamark.layouts import Layout, convert
from octamark.layouts import layout as named_layout
from octamark.metrics import distances, usual_normaliser

VisibilityKind = Literal["flags", "labelled", "one-sided"]
"""How a set tells which landmarks can be seen; see octamark.training.visibility.visible_labels."""

SHARDS = "shards"
"""Format of stored crops, which training reads itself (octamark.training.shards)."""


class DataSection(Protocol):
    """A data section of a recipe; octamark.training.recipe.Data has the meaning of each setting."""

    @property
    def title(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def validation(self) -> str | float | None: ...
    @property
    def layout(self) -> str | None: ...
    @property
    def margin(self) -> float: ...
    @property
    def share(self) -> float: ...
    @property
    def weight(self) -> float | None: ...
    @property
    def visibility(self) -> VisibilityKind | None: ...
    @property
    def convention(self) -> str | None: ...


@dataclass(frozen=True)
class LabelledSet:
    """The faces of one data section.

    Attributes:
        name: the section's name.
        section: its section of the recipe.
        path: the set's folder or file.
        training, validation: faces to train on and held out, in the recipe's layout; both empty for shards.
            Of a set that is held out as a whole there are none to train on.
    """

    name: str
    section: DataSection
    path: Path
    training: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()

    @property
    def is_shards(self) -> bool:
        """Whether its faces are stored crops (octamark.training.shards)."""
        return self.section.format == SHARDS


def labelled_sets(
    sections: DataSection | Sequence[DataSection],
    paths: Path | Mapping[str, Path] | None,
    layout: Layout,
    seed: int = 0,
    normaliser: str | None = None,
) -> list[LabelledSet]:
    """The faces of a recipe's data sections.

    Args:
        sections: one or several; labels of another layout are converted to ``layout``, points without a counterpart
            are NaN. The names of faces begin with the name of their set where there are several.
        paths: the set's folder (or file, for formats that are read from one) where there is one section; or those of
            some sections by name, in place of the paths that the sections name themselves.
        layout: the recipe's layout.
        seed: draws the sections' share of the training faces (a smaller share is a part of a larger one), and held-out
            shares.
        normaliser: by which the errors of held-out faces will be divided; None is ``metrics.usual_normaliser``.

    Raises:
        DataError: as ``octamark.datasets.read``; a section without a path, or a path for an unknown one; a split
            file that names faces that are not there, leaves nothing to train on, or lists one face of a picture and not
            another; nothing held out; faces held out whose errors cannot be normalised.
        LayoutError: labels of a layout that cannot be converted.
    """
    several = list(sections) if isinstance(sections, Sequence) else [sections]
    places = _paths(several, paths)
    sets = [
        LabelledSet(section.title, section, path)
        if section.format == SHARDS
        else LabelledSet(section.title, section, path, *_divided(section, path, layout, seed, len(several) > 1))
        for section, path in zip(several, places, strict=True)
    ]
    validation = [face for labelled in sets for face in labelled.validation]
    if not validation:
        raise DataError(f"no faces are held out to validate on: give one of {listed(_titles(several))} a validation")
    _check_normalisers(validation, layout, normaliser or usual_normaliser(layout))
    return _without(sets, {face.source for face in validation}) if len(sets) > 1 else sets


def training_and_validation(
    sections: DataSection | Sequence[DataSection],
    paths: Path | Mapping[str, Path] | None,
    layout: Layout,
    seed: int = 0,
    normaliser: str | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """The faces to train on and those held out, of all sections together; see ``labelled_sets``."""
    sets = labelled_sets(sections, paths, layout, seed, normaliser)
    return [face for labelled in sets for face in labelled.training], [
        face for labelled in sets for face in labelled.validation
    ]


def split_of(section: DataSection) -> str:
    """The split that a section means: the one it names, or ``train``, or the only one of its format.

    Raises:
        DataError: it names none, and the format has several of which none is ``train``.
    """
    splits = FORMATS[section.format].splits
    if section.split is not None:
        return section.split
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise DataError(f"data.split: {section.format} has the splits {listed(splits)}; name one")


def _without(sets: Sequence[LabelledSet], pictures: set[str]) -> list[LabelledSet]:
    """The sets without training faces of these pictures, which another set holds out.

    Raises:
        DataError: a set of which no face is left.
    """
    remaining = [
        replace(labelled, training=[face for face in labelled.training if face.source not in pictures])
        for labelled in sets
    ]
    if empty := [
        left.name for left, before in zip(remaining, sets, strict=True) if before.training and not left.training
    ]:
        raise DataError(f"data {empty[0]!r}: every picture of it is held out to validate on; none is left to train on")
    return remaining


def _titles(sections: Sequence[DataSection]) -> list[str]:
    return [section.title for section in sections]


def _paths(sections: Sequence[DataSection], paths: Path | Mapping[str, Path] | None) -> list[Path]:
    """The folder or file of each section."""
    titles = _titles(sections)
    if isinstance(paths, Path):
        if len(sections) > 1:
            raise DataError(f"{paths}: the recipe has the data sets {listed(titles)}; give NAME=PATH for each")
        return [paths]
    if unknown := sorted(set(paths or {}) - set(titles)):
        raise DataError(f"data {unknown[0]!r}: the recipe has no set of that name; its sets: {listed(titles)}")
    by_name = {section.title: Path(section.path) for section in sections if section.path is not None} | dict(
        paths or {}
    )
    if missing := [title for title in titles if title not in by_name]:
        raise DataError(f"data {missing[0]!r}: no path; give it with --data, or as path in the recipe")
    return [by_name[title] for title in titles]


def _divided(
    section: DataSection, root: Path, layout: Layout, seed: int, several: bool
) -> tuple[list[Sample], list[Sample]]:
    """The faces of one section to train on, and those it holds out."""
    samples = _read(section, root, split_of(section), layout)
    held_out = section.validation if section.validation is not None or several else "splits/val.txt"
    training, validation = samples, list[Sample]()
    if isinstance(held_out, float):
        training, validation = _drawn(section, root, samples, held_out, seed)
    elif held_out is not None and held_out in FORMATS[section.format].splits:
        training, validation = _other_split(section, root, layout, samples, held_out)
    elif held_out is not None:
        training, validation = _listed(section, root, samples, held_out)
    count = max(min(1, len(training)), round(section.share * len(training)))
    drawn = sorted(np.random.default_rng(seed).permutation(len(training))[:count])
    training = [training[index] for index in drawn]
    if several:
        training, validation = (
            [replace(face, name=f"{section.title}/{face.name}") for face in faces] for faces in (training, validation)
        )
    return training, validation


def _read(section: DataSection, root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of a split, their labels in the recipe's layout.

    Raises:
        DataError: as ``octamark.datasets.read``, or a face of which no label has a counterpart in the layout.
        LayoutError: no conversion from the section's own layout.
    """
    source = _source_layout(section, layout)
    if source is None:
        return read(section.format, root, split, layout=layout)
    samples = [face.converted(source, layout) for face in read(section.format, root, split, layout=source)]
    if empty := [face.name for face in samples if np.isnan(face.landmarks).all()]:
        raise DataError(
            f"{root}: {listed(empty[:3])} ({len(empty)} faces): no labelled point of layout {source.name} has a "
            f"counterpart in {layout.name}"
        )
    return samples


def _source_layout(section: DataSection, layout: Layout) -> Layout | None:
    """The layout that a section's labels must be converted from; None where they have the recipe's."""
    if section.layout is not None:
        source = named_layout(section.layout)
        return None if source.name == layout.name else source
    name = FORMATS[section.format].layout
    if name is None or name == layout.name:
        return None
    source = named_layout(name)
    if source.count == layout.count:  # a layout of one's own for the same points
        return None
    try:
        convert(source.diagram, source, layout)
    except LayoutError:
        return None  # reading tells that the numbers of points differ
    return source


def _check_normalisers(validation: Sequence[Sample], layout: Layout, normaliser: str) -> None:
    """Check that the errors of the held-out faces can be normalised.

    A face that lacks labels for it is left out of the scores. It is an error if a face with all labels cannot be
    normalised, or if no face can.

    Raises:
        DataError: errors cannot be normalised; the message names the faces.
    """
    truth = np.stack([face.landmarks for face in validation])
    unknown = np.isnan(distances(truth, layout, normaliser))
    flat = unknown & (np.ones(len(truth), bool) if unknown.all() else ~np.isnan(truth).any(axis=(1, 2)))
    if flat.any():
        names = [face.name for face, is_flat in zip(validation, flat, strict=True) if is_flat]
        raise DataError(
            f"{listed(names[:3])} ({len(names)} faces held out): no {normaliser} distance to divide "
            "errors by; hold out others"
        )


def _listed(
    section: DataSection, root: Path, samples: Sequence[Sample], held_out_file: str
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out faces, divided by a file that lists the names of the faces to hold out."""
    split_file = (root if root.is_dir() else root.parent) / held_out_file
    if not split_file.is_file():
        raise DataError(
            f"{split_file}: no such file; data.validation names one in the data folder that lists the faces to hold "
            f"out, or another split ({listed(FORMATS[section.format].splits)}), or is a share such as 0.1"
        )
    by_name = {sample.name: sample for sample in samples}
    held_out, missing = known_names(read_split_file(split_file), by_name)
    if missing:
        raise DataError(
            f"{split_file}: lists {listed(missing[:3])} ({len(missing)} names), not in split {split_of(section)}"
        )
    if len(held_out) == len(by_name):
        raise DataError(f"{split_file}: lists every face of split {split_of(section)}; none is left to train on")
    validation = [by_name.pop(name) for name in sorted(held_out)]
    sources = {sample.source for sample in validation}
    if shared := sorted(name for name, sample in by_name.items() if sample.source in sources):
        raise DataError(f"{split_file}: lists a face of the same picture as {listed(shared[:3])}, which it leaves out")
    return list(by_name.values()), validation


def _other_split(
    section: DataSection, root: Path, layout: Layout, samples: Sequence[Sample], held_out_split: str
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out faces, divided by another split of the set: that split is held out.

    Its pictures, or its persons where the set tells them, are not trained on.
    """
    validation = _read(section, root, held_out_split, layout)
    kind, group = _group(section)
    held_out = {group(sample) for sample in validation}
    training = [sample for sample in samples if group(sample) not in held_out]
    if not training:
        raise DataError(f"{root}: split {held_out_split} holds every {kind} of split {split_of(section)}")
    return training, validation


def _drawn(
    section: DataSection, root: Path, samples: Sequence[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out faces, divided at random by whole pictures, or by whole persons where the set tells them.

    The side of each depends on its name and the seed alone: when a set grows, few of its faces change sides. A share of
    1 holds out all.
    """
    if share == 1.0:
        return [], list(samples)
    kind, group = _group(section)
    groups = {group(sample) for sample in samples}
    if len(groups) < 2:
        raise DataError(f"{root}: faces of one {kind} alone; none can be held out at random")
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    named = {group(face): face.name for face in reversed(samples)}  # by its first face: the set's folder may move
    named = {key: key if kind == "person" else name for key, name in named.items()}
    chosen = set(sorted(groups, key=lambda key: hashlib.sha256(f"{seed}/{named[key]}".encode()).digest())[:count])
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        sides[group(sample) in chosen].append(sample)
    return sides


def _group(section: DataSection) -> tuple[str, Callable[[Sample], str]]:
    """What is held out as a whole, a ``person`` where the set tells them or a ``picture``; and a face's key in it."""
    if FORMATS[section.format].by_person:
        return "person", lambda sample: sample.name.partition("/")[0]
    return "picture", lambda sample: sample.source
