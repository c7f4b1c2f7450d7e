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

from octamark import drawing, models
from octamark.cli.console import MODEL, REFINE, REGIONS, THREADS, UPRIGHT, counted, fail, make_folder, note, progress
from octamark.errors import BoxError, OutputError, PictureError, listed
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.images import SUFFIXES, read_picture, write_picture
from octamark.inference.detector import FaceDetector
from octamark.inference.full_frame import PICTURE
from octamark.inference.landmarker import Landmarker
from octamark.io import FORMATS, Record, open_writer, unique_stems

_CHUNK = 8  # pictures whose crops share the network's runs, and that are in memory at once,
_CHUNK_PIXELS = 30_000_000  # unless so many pixels come together earlier
_STDIN = "-"
DRAWINGS_FOLDER = Path("octamark-out")


def predict(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures (searched to the bottom), or -")],
    model: Annotated[str, MODEL] = "small",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder for results; without it they are printed, drawings go to octamark-out"
        ),
    ] = None,
    form: Annotated[str, typer.Option("-f", "--format", help="json, jsonl, csv, pts or coco")] = "jsonl",
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw the landmarks: NAME.overlay.png")] = False,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Also draw the heatmaps: NAME.heatmap.png")] = False,
    show: Annotated[bool, typer.Option("--show", help="Open the overlay with the system's viewer")] = False,
    upright: Annotated[str, UPRIGHT] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    box: Annotated[
        str, typer.Option("--box", help="detector; or picture: one face fills it, as in drawings that no detector sees")
    ] = "detector",
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Look for small faces in large pictures, tile by tile: slower")
    ] = False,
    threads: Annotated[int | None, THREADS] = None,
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
    if box not in ("detector", PICTURE):
        raise BoxError(f"--box {box!r}; allowed: detector, {PICTURE}")
    landmarker = Landmarker(
        model,
        rotation=upright,  # type: ignore[arg-type]
        refine=refine,  # type: ignore[arg-type]
        regions=regions,
        threads=threads,
        device=device,
        detector=FaceDetector(tiles=tiles),
    )
    job = _Job(landmarker, out, overlay or show, heatmap, box)
    if out is not None:
        make_folder(out)
    interrupted = False
    try:
        job.run(_expand(inputs, job))
    except KeyboardInterrupt:
        fail(f"interrupted after {counted(len(job.records), 'picture')}")
        interrupted = True
    if job.records:  # a batch that found nothing readable leaves older results alone
        _write(job.records, form, out)
    faces = sum(len(record.faces) for record in job.records)
    if out is not None or faces == 0:
        said = f"{counted(faces, 'face')} in {counted(len(job.records), 'picture')}"
        note(said + (f", results in {out}" if out is not None and job.records else ""))
    if interrupted:
        raise typer.Exit(130)
    if show:
        _open(job.drawn, out)
    if job.failed:
        fail(f"{counted(job.failed, 'input')} failed" + ("; the rest are done" if job.records else ""))
        raise typer.Exit(1)


@dataclass
class _Job:
    """One call of the command: what was found, drawn and failed so far."""

    landmarker: Landmarker
    out: Path | None
    overlay: bool
    heatmap: bool
    box: str
    records: list[Record] = field(default_factory=list)
    drawn: list[Path] = field(default_factory=list)
    failed: int = 0

    def run(self, names: list[str]) -> None:
        """Predict pictures in chunks that share the network's runs, bounded in number and in pixels."""
        chunk: list[tuple[str, str, Picture]] = []
        pixels = 0
        with progress(visible=len(names) > 1) as bar:
            for name, stem in bar.track(zip(names, unique_stems(names), strict=True), total=len(names)):
                try:
                    picture = _read_stdin() if name == _STDIN else read_picture(name)
                except PictureError as error:
                    self.report(str(error))
                    continue
                except MemoryError:
                    self.report(f"{name}: too large for the memory at hand")
                    continue
                chunk.append((name, stem, picture))
                pixels += picture.shape[0] * picture.shape[1]
                if len(chunk) == _CHUNK or pixels > _CHUNK_PIXELS:
                    self._predict(chunk)
                    chunk, pixels = [], 0
            self._predict(chunk)

    def _predict(self, chunk: list[tuple[str, str, Picture]]) -> None:
        boxes = [PICTURE] * len(chunk) if self.box == PICTURE else None
        found = self.landmarker([picture for _, _, picture in chunk], boxes, heatmaps=self.heatmap)  # type: ignore[arg-type]
        for (name, stem, picture), faces in zip(chunk, found, strict=True):
            if not len(faces):
                note(f"{name}: no face found")
            try:
                self._draw(stem, picture, faces)
            except OutputError as error:
                self.report(str(error))
            kept = dataclasses.replace(faces, heatmaps=None)
            self.records.append(Record(name, stem, self.landmarker.card.name, kept))

    def _draw(self, stem: str, picture: Picture, faces: Faces) -> None:
        if self.out is None:
            return
        if self.overlay:
            path = self.out / f"{stem}.overlay.png"
            write_picture(path, drawing.overlay(picture, faces))
            self.drawn.append(path)
        if self.heatmap:
            write_picture(self.out / f"{stem}.heatmap.png", drawing.heatmap_picture(picture, faces))

    def is_output(self, folder: str) -> bool:
        """Whether a folder is where results go: drawings are no input."""
        return self.out is not None and os.path.realpath(folder) == os.path.realpath(self.out)

    def report(self, message: str) -> None:
        self.failed += 1
        fail(message)


def _read_stdin() -> Picture:
    try:
        return read_picture(sys.stdin.buffer.read())
    except PictureError as error:
        raise PictureError(f"standard input: {str(error).removeprefix('bytes: ')}") from error
    except AttributeError as error:  # a closed standard input is None
        raise PictureError("standard input: closed") from error


def _expand(inputs: list[str], job: _Job) -> list[str]:
    """Inputs with folders replaced by their pictures, sorted; folders without any are reported."""
    names: list[str] = []
    for name in inputs:
        if name != _STDIN and os.path.isdir(name):
            inside = list(_pictures_below(name, job))
            if not inside:
                job.report(f"{name}: no pictures in this folder ({listed(SUFFIXES)})")
            names.extend(inside)
        elif name != _STDIN or _STDIN not in names:
            names.append(name)
    return names


def _pictures_below(folder: str, job: _Job) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        job.report(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        inside = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in inside if not job.is_output(os.path.join(place, name)))
        for file in sorted(files):
            path = os.path.join(place, file)
            if file.lower().endswith(SUFFIXES) and not file.startswith(".") and os.path.isfile(path):
                yield path


def _write(records: list[Record], form: str, out: Path | None) -> None:
    if out is None and sys.stdout is None:
        raise OutputError("standard output is closed; name a folder with -o")
    with open_writer(form, sys.stdout.buffer if out is None else out) as writer:
        for record in records:
            writer.write(record)


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
