"""Readers of labelled and unlabelled face sets. Every reader gives a list of ``Sample``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from octamark.datasets import aflw19, caricatures, coco, cofw, folder, w300, wflw
from octamark.datasets.samples import Sample, known_names
from octamark.errors import DataError, LayoutError, listed
from octamark.io import read_pts
from octamark.io.files import FileFinder
from octamark.io.records import MAX_COORDINATE
from octamark.layouts import Layout
from octamark.layouts import layout as named_layout

__all__ = ["FORMATS", "Format", "Sample", "read", "read_pts"]


@dataclass(frozen=True)
class Format:
    """A format of labelled sets.

    Attributes:
        title: one line of description.
        layout: name of the layout of its points; None if the files do not say it and the caller must.
        splits: names of its splits, the default first; ``all`` for a format without splits.
        read: (root, split, layout) -> faces; call ``read`` instead, which checks the result.
        by_person: whether names begin with the person and a slash.
    """

    title: str
    layout: str | None
    splits: tuple[str, ...]
    read: Callable[[Path, str, Layout], list[Sample]]
    by_person: bool = False


def _w300(root: Path, split: str, layout: Layout) -> list[Sample]:
    return w300.read(root, split)


FORMATS: dict[str, Format] = {
    "300w": Format("300W: 68 points", "ibug68", ("full", "common", "challenge", "train", "val"), _w300),
    "wflw": Format("WFLW: 98 points", "wflw98", wflw.SPLITS, wflw.read),
    "cofw": Format("COFW: 29 points, with occlusion", "cofw29", cofw.SPLITS, cofw.read),
    "aflw19": Format("AFLW-19: 19 points, large poses", "aflw19", aflw19.SPLITS, aflw19.read),
    "webcaricature": Format(
        "WebCaricature: 17 points, caricatures and photographs",
        "webcaricature17",
        caricatures.WEBCARICATURE_SPLITS,
        caricatures.read_webcaricature,
        by_person=True,
    ),
    "cariface": Format(
        "CariFace: 68 points, caricatures", "ibug68", caricatures.CARIFACE_SPLITS, caricatures.read_cariface
    ),
    "coco": Format("COCO keypoints: any layout", None, ("all",), coco.read),
    "folder": Format(
        "a folder of pictures with .pts files, or one .csv, .jsonl or .json: any layout", None, ("all",), folder.read
    ),
}
"""The formats that ``read`` reads, by name."""


def read(
    format: str,  # noqa: A002
    root: Path,
    split: str | None = None,
    *,
    layout: Layout | None = None,
    only: Iterable[str] = (),
) -> list[Sample]:
    """The labelled faces of a split of a set.

    Args:
        format: a key of ``FORMATS``.
        root: the set's folder; for coco and folder also its .json or .csv.
        split: one of the format's splits; None is its first, which is the only one of coco and folder.
        layout: the layout of the points, for formats that do not say it.
        only: names of faces to keep, in the order of the set; empty keeps all.

    Raises:
        DataError: an unknown format or split (the message lists them); a missing folder, file or picture; a malformed
            file (the message names the line); no faces; two faces with the same name; an unknown name in ``only``.
        LayoutError: no layout for a format that needs one, or one with another number of points.

    Examples:
        >>> list(FORMATS)
        ['300w', 'wflw', 'cofw', 'aflw19', 'webcaricature', 'cariface', 'coco', 'folder']
    """
    root = Path(root)
    if format not in FORMATS:
        raise DataError(f"unknown format {format!r}; formats: {listed(FORMATS)}")
    chosen = FORMATS[format]
    split = chosen.splits[0] if split is None else split
    if split not in chosen.splits:
        raise DataError(f"{format} has no split {split!r}; splits: {listed(chosen.splits)}")
    label_layout = named_layout(chosen.layout) if chosen.layout else layout
    if label_layout is None:
        raise LayoutError(f"{format} can hold any layout: say which one its points follow")
    if layout is not None and layout.count != label_layout.count:
        raise LayoutError(
            f"{format} has {label_layout.count} points, layout {label_layout.name}; layout {layout.name} has "
            f"{layout.count}"
        )
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    if chosen.layout and not root.is_dir():
        raise DataError(f"{root}: not a folder; {format} is read from its folder")
    samples = chosen.read(root, split, label_layout)
    if not samples:
        raise DataError(f"{root}: split {split} of {format} holds no faces")
    if repeated := [name for name, times in Counter(sample.name for sample in samples).items() if times > 1]:
        raise DataError(f"{root}: {listed(repeated[:3])}: more than one face of this name ({len(repeated)} names)")
    if names := set(only):
        known, missing = known_names(sorted(names), [sample.name for sample in samples])
        if missing:
            raise DataError(f"{root}: split {split} has no face {listed(missing[:3])} ({len(missing)} not found)")
        samples = [sample for sample in samples if sample.name in set(known)]
    finder = FileFinder()
    samples = [_with_picture(sample, root, finder) for sample in samples]
    for sample in samples:
        if (np.abs(sample.landmarks) > MAX_COORDINATE).any():
            raise DataError(f"{sample.name} ({sample.picture}): a landmark is beyond a million pixels")
        if np.isnan(sample.landmarks).all():
            raise DataError(f"{sample.name} ({sample.picture}): no point has a label")
    pictures = dict.fromkeys(sample.picture for sample in samples)
    if absent := [path for path in pictures if not path.is_file()]:
        raise DataError(f"{absent[0]}: no such picture ({len(absent)} of {len(pictures)} pictures are missing)")
    return samples


def _with_picture(sample: Sample, root: Path, finder: FileFinder) -> Sample:
    """The sample with its picture's path as the file system spells it, where the set's files spell it otherwise."""
    if sample.picture.is_file() or not sample.picture.is_relative_to(root):
        return sample
    picture = finder.find(root, str(sample.picture.relative_to(root)))
    return sample if picture is None else replace(sample, picture=picture)
