"""``octamark predict``: pictures in, landmarks out."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import counted, fail, make_folder, note, progress
from octamark.errors import OutputError, PictureError, listed
from octamark.faces import Faces
from octamark.formats import FORMATS, Record, unique_stems
from octamark.geometry import Picture
from octamark.imaging import SUFFIXES, read_picture, write_atomically, write_picture
from octamark.landmarker import Landmarker

_CHUNK = 8  # pictures whose crops share the network's runs; also what is in memory at once
_STDIN = "-"
DRAWINGS_FOLDER = Path("octamark-out")


def predict(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures (searched to the bottom), or -")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="nano, tiny, small, or the path of an .onnx file")
    ] = "small",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for results; without it they are printed")
    ] = None,
    form: Annotated[str, typer.Option("-f", "--format", help="json, jsonl, csv, pts or coco")] = "jsonl",
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw the landmarks: NAME.overlay.png")] = False,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Also draw the heatmaps: NAME.heatmap.png")] = False,
    show: Annotated[bool, typer.Option("--show", help="Open the overlay with the system's viewer")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="Processor threads of the network")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda")] = "cpu",
) -> None:
    """Find the faces of pictures and their landmarks.

    A picture that cannot be read is reported and skipped, and the exit code is then 1.
    """
    if form not in FORMATS:
        raise OutputError(f"unknown format {form!r}; formats: {listed(FORMATS)}")
    if out is None and (overlay or heatmap or show):
        out = DRAWINGS_FOLDER
    if out is None and not FORMATS[form].streams:
        raise OutputError(f"format {form} writes several files: name a folder with -o")
    if out is not None:
        make_folder(out)
    job = _Job(Landmarker(model, threads=threads, device=device), out, overlay or show, heatmap)
    try:
        job.run(_expand(inputs, job))
    finally:  # an interrupted batch keeps what it found
        _write(job.records, form, out)
    faces = sum(len(record.faces) for record in job.records)
    if out is not None or faces == 0:
        said = f"{counted(faces, 'face')} in {counted(len(job.records), 'picture')}"
        note(said + (f", results in {out}" if out is not None else ""))
    if show:
        _open(job.drawn, out)
    if job.failed:
        fail(f"{counted(job.failed, 'input')} failed; the rest are done")
        raise typer.Exit(1)


@dataclass
class _Job:
    """One call of the command: what was found, drawn and failed so far."""

    landmarker: Landmarker
    out: Path | None
    overlay: bool
    heatmap: bool
    records: list[Record] = field(default_factory=list)
    drawn: list[Path] = field(default_factory=list)
    failed: int = 0

    def run(self, names: list[str]) -> None:
        stems = unique_stems(names)
        with progress(visible=len(names) > 1) as bar:
            task = bar.add_task("pictures", total=len(names))
            for start in range(0, len(names), _CHUNK):
                part = slice(start, start + _CHUNK)
                self._chunk(names[part], stems[part])
                bar.advance(task, len(names[part]))

    def _chunk(self, names: list[str], stems: list[str]) -> None:
        pictures: list[Picture] = []
        kept: list[tuple[str, str]] = []
        for name, stem in zip(names, stems, strict=True):
            try:
                pictures.append(_read_stdin() if name == _STDIN else read_picture(name))
                kept.append((name, stem))
            except PictureError as error:
                self.report(str(error))
        found = self.landmarker(pictures, heatmaps=self.heatmap)
        for (name, stem), picture, faces in zip(kept, pictures, found, strict=True):
            if not len(faces):
                note(f"{name}: no face found")
            self._draw(stem, picture, faces)
            self.records.append(Record(name, self.landmarker.card.name, dataclasses.replace(faces, heatmaps=None)))

    def _draw(self, stem: str, picture: Picture, faces: Faces) -> None:
        from octamark import drawing

        if self.out is None:
            return
        if self.overlay:
            path = self.out / f"{stem}.overlay.png"
            write_picture(path, drawing.overlay(picture, faces))
            self.drawn.append(path)
        if self.heatmap:
            write_picture(self.out / f"{stem}.heatmap.png", drawing.heatmap_picture(picture, faces))

    def report(self, message: str) -> None:
        self.failed += 1
        fail(message)


def _read_stdin() -> Picture:
    try:
        return read_picture(sys.stdin.buffer.read())
    except PictureError as error:
        raise PictureError(f"standard input: {error}") from error


def _expand(inputs: list[str], job: _Job) -> list[str]:
    """Inputs with folders replaced by their pictures, sorted; folders without any are reported."""
    names: list[str] = []
    for name in inputs:
        if name != _STDIN and os.path.isdir(name):
            inside = list(_pictures_below(name, job))
            if not inside:
                job.report(f"{name}: no pictures in this folder ({listed(SUFFIXES)})")
            names.extend(inside)
        elif name not in names or name != _STDIN:
            names.append(name)
    return names


def _pictures_below(folder: str, job: _Job) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        job.report(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield os.path.join(place, file)


def _write(records: list[Record], form: str, out: Path | None) -> None:
    for name, text in FORMATS[form].write(records).items():
        if out is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_atomically(out / name, text.encode())


def _open(drawn: list[Path], folder: Path | None) -> None:
    """Open one drawing, or the folder of several, with the system's viewer; say where it is if there is none."""
    if not drawn or folder is None:
        return
    target = drawn[0] if len(drawn) == 1 else folder
    if sys.platform == "win32":
        os.startfile(target)
        return
    command = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        subprocess.Popen([command, str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        note(f"no viewer ({command}) on this machine; the picture is {target}")
