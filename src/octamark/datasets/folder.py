"""A plain folder of pictures: with a .pts file beside each, or with one file of all labels.

The labels are those of the folder's .csv if it has one, otherwise those of all .pts files in it and in its folders,
otherwise those of its one .jsonl or .json. ROOT may also be the file itself. ``octamark.io`` describes these files;
what ``octamark predict`` writes is a labelled set.

A .pts file belongs to the picture of the same name beside it. ``NAME#2.pts`` and ``NAME_2.pts`` without such a picture
are further faces of the picture NAME. ``NAME.png.pts`` belongs to NAME.png, for pictures that differ only in suffix.
"""

from __future__ import annotations

from pathlib import Path

from octamark.datasets.samples import Sample, picture_named, samples_of
from octamark.errors import DataError, listed
from octamark.images import SUFFIXES
from octamark.io import pts, read_entries
from octamark.io.files import FileFinder, find_files
from octamark.layouts import Layout


def read(root: Path, split: str, layout: Layout) -> list[Sample]:
    """The faces of the folder: by name with .pts files, in the order of the file with one.

    Raises:
        DataError: no labels, .pts files beside a .csv, or several files of labels; a .pts without its picture; a file
            of another form, layout or number of points; a value that is not a finite number (named by its line).
    """
    if root.is_file():
        return samples_of(read_entries(root, layout), [root.parent])
    tables, labels = find_files(root, (".csv",), deep=False), find_files(root, (".pts",))
    if not tables and not labels:
        tables = find_files(root, (".jsonl", ".json"), deep=False)
    if len(tables) > 1 or (tables and labels):
        more = [path.relative_to(root) for path in [*tables, *labels][:3]]
        raise DataError(f"{root}: holds {listed(more)}; expected one .csv, .jsonl or .json, or only .pts files")
    if tables:
        return samples_of(read_entries(tables[0], layout), [root])
    if not labels:
        raise DataError(f"{root}: holds neither a .csv, a .jsonl or .json nor .pts files")
    return _from_pts(root, labels, layout)


def _from_pts(root: Path, labels: list[Path], layout: Layout) -> list[Sample]:
    finder = FileFinder()
    pictures: dict[Path, list[Path]] = {}  # labels without suffix -> pictures that they may belong to
    named: dict[Path, Path] = {}  # those that give the whole name of their picture
    for path in labels:
        stem = path.with_suffix("")
        pictures[stem] = finder.with_suffix(stem, SUFFIXES)
        if not pictures[stem] and stem.suffix.lower() in SUFFIXES and (picture := finder.find(stem.parent, stem.name)):
            named[stem] = picture
    for stem, candidates in pictures.items():
        others = set(named.values())
        pictures[stem] = (
            [named[stem]] if stem in named else [picture for picture in candidates if picture not in others]
        )
    samples = []
    for path in labels:
        stem = path.with_suffix("")
        base = pts.first_face(stem.name)
        if not pictures[stem] and base is not None and pictures.get(stem.with_name(base)):
            picture = pictures[stem.with_name(base)][0]
        else:
            picture = (pictures[stem] or [picture_named(stem, path, finder)])[0]
        name = stem.relative_to(root).as_posix()
        samples.append(Sample(name, picture, pts.read_pts(path, layout.count)))
    return samples
