"""Files of landmarks: a table of formats, each with a writer and a reader.

Every format but pts holds the picture's name and size, the layout and the model beside the points. Coordinates are
0-based pixels with pixel centres at integers, except in .pts files, which are 1-based by convention.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octamark.errors import DataError, OutputError, listed
from octamark.io import coco, csv, json, jsonl, parquet, pts
from octamark.io.files import find_files
from octamark.io.pts import pts_text, read_pts
from octamark.io.records import FaceEntry, PictureEntry, Record, further_face, unique_stems
from octamark.io.writers import Target, Writer
from octamark.layouts import Layout

__all__ = [
    "FORMATS",
    "FaceEntry",
    "Format",
    "PictureEntry",
    "Record",
    "Writer",
    "further_face",
    "open_writer",
    "pts_text",
    "read_entries",
    "read_pts",
    "read_records",
    "unique_stems",
]


@dataclass(frozen=True)
class Format:
    """A format of predictions.

    Attributes:
        title: one line for people.
        file: name of the file in the output folder; None where each face has a file of its own.
        writer: (target, resume, model, layout) -> writer; call ``open_writer`` instead, which checks the options.
        read: (path, layout) -> entries; call ``read_entries`` instead, which finds the format.
        incremental: whether each picture is written at once; otherwise all are, at the end.
        streams: whether it can be written to standard output.
    """

    title: str
    file: str | None
    writer: Callable[[Target, bool, str | None, Layout | None], Writer]
    read: Callable[[Path, Layout | None], list[PictureEntry]]
    incremental: bool = True
    streams: bool = True


def _pts_writer(target: Target, resume: bool, model: str | None, layout: Layout | None) -> Writer:
    assert isinstance(target, Path)
    return pts.PtsWriter(target, resume)


FORMATS: dict[str, Format] = {
    "json": Format(
        "one list of objects, one per picture",
        json.NAME,
        lambda target, resume, model, layout: json.writer(target),
        json.read,
        incremental=False,
    ),
    "jsonl": Format("one object per picture and line", jsonl.NAME, jsonl.writer, jsonl.read),
    "csv": Format("one row per point", csv.NAME, csv.writer, csv.read),
    "pts": Format("one .pts file per face", None, _pts_writer, pts.read, streams=False),
    "coco": Format(
        "COCO keypoints",
        coco.NAME,
        lambda target, resume, model, layout: coco.writer(target, layout),
        coco.read,
        incremental=False,
    ),
}
"""Name -> format."""


def open_writer(
    name: str,
    target: Target | str | os.PathLike[str],
    *,
    model: str | None = None,
    layout: Layout | None = None,
    resume: bool = False,
    video: bool = False,
) -> Writer:
    """A writer of records, to be used as a context manager.

    jsonl, csv and pts write each picture at once; json and coco write one file when closed. What was written stays
    valid after an exception. Nothing is written, and no existing file is touched, before the first record.

    Args:
        name: a key of ``FORMATS``.
        target: an existing folder (its path), or an open binary stream for formats that can be written to one.
        model, layout: of the records to come; optional. coco uses the layout for its category. With ``resume``, jsonl
            and csv refuse to go on from a file of another model or layout.
        resume: go on from the files of an earlier run that are in the folder; ``Writer.is_done`` tells which
            pictures to leave out. jsonl: an unfinished last line is cut off. csv: the rows of the last picture are cut
            off and the picture is not done, since its rows may be incomplete. pts: a picture is done if there is a
            ``STEM.pts``; pictures without a face are never done. json and coco cannot be resumed.
        video: the records are frames of a video: csv gets columns for frame and time. jsonl and json write these
            wherever records have them.

    Raises:
        OutputError: an unknown name, a target that is neither path nor stream, a stream for pts, ``resume`` with json,
            coco or a stream, with an existing file that octamark predict did not write, or with one that another
            process is writing to.

    Examples:
        >>> list(FORMATS)
        ['json', 'jsonl', 'csv', 'pts', 'coco']
    """
    if name not in FORMATS:
        raise OutputError(f"unknown format {name!r}; formats: {listed(FORMATS)}")
    chosen = FORMATS[name]
    if isinstance(target, str | os.PathLike):
        target = Path(target)
    elif not hasattr(target, "write"):
        raise OutputError(f"target {target!r}; allowed: the path of a folder, or an open binary stream")
    if not isinstance(target, Path) and not chosen.streams:
        raise OutputError(f"format {name} writes several files: name a folder with -o")
    if resume and not chosen.incremental:
        able = listed(key for key, form in FORMATS.items() if form.incremental)
        raise OutputError(f"format {name} is written at the end and cannot be resumed; formats that can: {able}")
    if resume and not isinstance(target, Path):
        raise OutputError("standard output cannot be resumed: name a folder with -o")
    if video and name == "csv":
        return csv.writer(target, resume, model, layout, video=True)
    return chosen.writer(target, resume, model, layout)


def read_entries(
    path: str | os.PathLike[str], layout: Layout | None = None, *, further_faces: bool = True
) -> list[PictureEntry]:
    """The pictures and faces that a file or a folder describes, with all that it says of them and no more.

    Args:
        path: a .json, .jsonl, .csv or .parquet file, or a folder of .pts files; or a folder with one of the files that
            ``octamark predict`` writes, or with those of ``octamark batch``, whose failed pictures are left out.
        layout: of the landmarks; None takes the built-in layout that the file names.
        further_faces: read ``NAME#2.pts`` in a folder as a face of ``NAME``; False gives each file as a picture.

    Raises:
        DataError: a file that cannot be read or is of another form (the message names the line or entry), or of another
            layout.
        LayoutError: no layout given, and none or an unknown one named by the file.
    """
    path = Path(path)
    if path.is_dir():
        written = [path / form.file for form in FORMATS.values() if form.file is not None]
        whole = next((file for file in written if file.is_file()), None)
        if whole is None and find_files(path, (parquet.SUFFIX,), deep=False):
            return parquet.read(path, layout)
        if whole is None or find_files(path, (".pts",)):
            return pts.read(path, layout, further_faces=further_faces)
        return read_entries(whole, layout)
    suffix = path.suffix.lower()
    if suffix == ".json":  # of two formats
        content = json.load(path)
        is_coco = isinstance(content, dict) and "annotations" in content
        return coco.parse(content, path, layout) if is_coco else json.parse(content, path, layout)
    readers = {Path(form.file).suffix: form.read for form in FORMATS.values() if form.file is not None}
    readers[parquet.SUFFIX] = parquet.read
    if suffix not in readers:
        raise DataError(f"{path}: not a file of landmarks; allowed: {listed(readers)}, or a folder of .pts files")
    return readers[suffix](path, layout)


def read_records(path: str | os.PathLike[str], layout: Layout | None = None) -> list[Record]:
    """The predictions in a file or folder, in its order; arguments and errors as for ``read_entries``.

    Numbers are as written. What the file does not say is NaN in ``faces``, (0, 0) as its size, "" as ``model``.
    """
    entries = read_entries(path, layout)
    stems = unique_stems(entry.file for entry in entries)
    return [entry.record(stem) for entry, stem in zip(entries, stems, strict=True)]
