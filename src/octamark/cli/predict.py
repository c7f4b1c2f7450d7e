"""``octamark predict``: pictures in, landmarks out."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from octamark import drawing, layouts, models
from octamark.cli.console import (
    DEVICE,
    FULL_FRAME,
    MAX_MEGAPIXELS,
    MIN_CONFIDENCE,
    MODEL,
    REFINE,
    REGIONS,
    ROTATION,
    THREADS,
    TILES,
    counted,
    fail,
    make_folder,
    note,
    progress,
)
from octamark.errors import OctamarkError, OutputError, listed
from octamark.images import DEFAULT_LIMITS, SUFFIXES, find_pictures, write_picture
from octamark.inference.detector import FaceDetector
from octamark.inference.devices import DEVICES
from octamark.inference.landmarker import load
from octamark.inference.stream import Result, give_back_memory, stream
from octamark.io import FORMATS, Record, Writer, open_writer, unique_stems
from octamark.layouts import Layout

_STDIN = "-"
_PICTURES_BETWEEN_TRIMS = 8

_PICTURES_PER_RUN = {True: 8, False: 32}
"""Pictures that share the networks' runs, by whether the device is the processor; others are idle with few faces."""

DRAWINGS_FOLDER = Path("octamark-out")

_VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders of pictures and all below, or - for standard input"),
    ],
    model: Annotated[str, MODEL] = "small",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder for results; without it they are printed, drawings go to octamark-out"
        ),
    ] = None,
    form: Annotated[str, typer.Option("-f", "--format", help="json, jsonl, csv, pts or coco")] = "jsonl",
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", help="Points of another layout, made from the model's: five, ibug51, wflw98, cofw29, ..."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after an interrupted call: leave out what the folder already holds")
    ] = False,
    min_confidence: Annotated[float, MIN_CONFIDENCE] = 0.0,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw the landmarks: NAME.overlay.png")] = False,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Also draw the heatmaps: NAME.heatmap.png")] = False,
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Draw only this part, such as left_eye; may be repeated")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the overlay with the system's viewer")] = False,
    rotation: Annotated[str, ROTATION] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    full_frame: Annotated[bool, FULL_FRAME] = False,
    tiles: Annotated[bool, TILES] = False,
    threads: Annotated[int | None, THREADS] = None,
    device: Annotated[str, DEVICE] = "cpu",
    max_megapixels: Annotated[float, MAX_MEGAPIXELS] = DEFAULT_LIMITS.pixels / 1e6,
) -> None:
    """Find the faces of pictures and their landmarks.

    A picture that fails is reported and skipped, and the exit code is then 1.
    """
    if form not in FORMATS:
        raise OutputError(f"unknown format {form!r}; formats: {listed(FORMATS)}")
    if out is None and (overlay or heatmap or show):
        out = DRAWINGS_FOLDER
    if out is None and sys.stdout is None:
        raise OutputError("standard output is closed; name a folder with -o")
    limits = dataclasses.replace(DEFAULT_LIMITS, pixels=max(1, round(max_megapixels * 1e6)))
    landmarker = load(
        model,
        rotation=rotation,  # type: ignore[arg-type]
        refine=refine,  # type: ignore[arg-type]
        regions=regions,
        min_confidence=min_confidence,
        threads=threads,
        device=device,
        detector=FaceDetector(tiles=tiles, threads=threads or 1),
    )
    target_layout = landmarker.layout if layout is None else layouts.layout(layout)
    layouts.conversion(landmarker.layout, target_layout)
    for part in parts or ():
        target_layout.part(part)
    if out is not None:
        make_folder(out)
    target = sys.stdout.buffer if out is None else out
    with open_writer(form, target, model=landmarker.card.name, layout=target_layout, resume=resume) as writer:
        batch = _Batch(landmarker.card.name, target_layout, writer, out, overlay or show, heatmap, tuple(parts or ()))
        names, failed = _pictures(inputs, out)
        batch.failed += failed
        jobs = [
            (name, stem)
            for name, stem in zip(names, unique_stems(names), strict=True)
            if not writer.is_done(name, stem)
        ]
        if len(jobs) < len(names):
            note(f"{counted(len(names) - len(jobs), 'picture')} already in {out}")
        interrupted = False
        try:
            sources = (sys.stdin.buffer if name == _STDIN else name for name, _ in jobs)
            results = stream(
                landmarker,
                sources,
                batch=_PICTURES_PER_RUN[DEVICES[device].on_processor],
                limits=limits,
                full_frame=full_frame,
                heatmaps=heatmap,
                keep_pictures=batch.draws,
            )
            with progress(visible=len(jobs) > 1) as bar:
                for result in bar.track(results, total=len(jobs)):
                    batch.take(*jobs[result.index], result)
                    if result.index % _PICTURES_BETWEEN_TRIMS == 0:
                        give_back_memory()
        except KeyboardInterrupt:
            fail(f"interrupted after {counted(batch.pictures, 'picture')}")
            interrupted = True
    if out is not None or batch.faces == 0:
        summary = f"{counted(batch.faces, 'face')} in {counted(batch.pictures, 'picture')}"
        note(summary + (f", results in {out}" if out is not None and batch.pictures else ""))
    if interrupted:
        raise typer.Exit(130)
    if show:
        _open(batch.drawn, out)
    if batch.failed:
        fail(f"{counted(batch.failed, 'input')} failed" + ("; the rest are done" if batch.pictures else ""))
        raise typer.Exit(1)


@dataclass
class _Batch:
    """One call of the command: where results go, and how many there are so far."""

    model: str
    layout: Layout
    writer: Writer
    out: Path | None
    overlay: bool
    heatmap: bool
    parts: tuple[str, ...]
    pictures: int = 0
    faces: int = 0
    failed: int = 0
    drawn: list[Path] = field(default_factory=list)

    @property
    def draws(self) -> bool:
        return self.overlay or self.heatmap

    def take(self, name: str, stem: str, result: Result) -> None:
        """Write and draw what was found in one picture, or report why nothing was."""
        if result.faces is None:
            self.report(str(result.error).replace("binary stream", "standard input"))
            return
        if not len(result.faces):
            note(f"{name}: no face found")
        faces = result.faces.convert(self.layout)
        self.writer.write(Record(name, stem, self.model, dataclasses.replace(faces, heatmaps=None)))
        self.pictures += 1
        self.faces += len(result.faces)
        try:
            self._draw(stem, result)
        except OctamarkError as error:
            self.report(str(error))
        except Exception as error:  # too little memory for a drawing, or an error of OpenCV's: the points are written
            reason = "too large for the memory at hand" if isinstance(error, MemoryError) else f"{error}"
            self.report(f"{name}: cannot be drawn ({reason})")

    def _draw(self, stem: str, result: Result) -> None:
        if self.out is None or result.picture is None or result.faces is None:
            return
        if self.overlay:
            path = self.out / f"{stem}.overlay.png"
            write_picture(
                path, drawing.overlay(result.picture, result.faces.convert(self.layout), parts=self.parts or None)
            )
            self.drawn.append(path)
        if self.heatmap:
            write_picture(self.out / f"{stem}.heatmap.png", drawing.heatmap_picture(result.picture, result.faces))

    def report(self, message: str) -> None:
        self.failed += 1
        fail(message)


def _pictures(inputs: list[str], out: Path | None) -> tuple[list[str], int]:
    """The names of all pictures, folders replaced by what is in them, each file once; and how many inputs failed."""
    names: dict[str, str] = {}  # by the file that they lead to
    failed = repeated = 0

    def report(message: str) -> None:
        nonlocal failed
        failed += 1
        fail(message)

    for name in inputs:
        if name != _STDIN and os.path.isdir(name):
            found = find_pictures(name, skip=() if out is None else (out,))
            for message in found.unreadable:
                report(message)
            if found.left_out:
                note(f"{name}: left out: {found.left_out_text}")
            if not found.paths:
                report(f"{name}: no pictures in this folder ({listed(SUFFIXES)})")
            some = [str(path) for path in found.paths]
        elif problem := _not_a_picture(name):
            report(problem)
            continue
        else:
            some = [name]
        for one in some:
            file = one if one == _STDIN else os.path.realpath(one)
            repeated += file in names
            names.setdefault(file, one)
    if repeated:
        note(f"{counted(repeated, 'picture')} named more than once; each is read once")
    return list(names.values()), failed


def _not_a_picture(name: str) -> str | None:
    """One sentence about an input that is something else than a picture, a folder or standard input."""
    if name == _STDIN or os.path.exists(name):
        kind = "a video" if name.lower().endswith(_VIDEO_SUFFIXES) else None
    elif re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        kind = "a URL"
    elif re.fullmatch(r"(camera:)?\d+", name):
        kind = "a camera"
    elif re.search(r"[*?\[]", name):
        kind = "a pattern that no file matches"
    else:
        kind = None
    if kind is None:
        return None
    other = "; octamark track reads videos and cameras" if kind in ("a video", "a camera") else ""
    return f"{name}: {kind}; predict reads picture files, folders of pictures, and - for standard input{other}"


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
