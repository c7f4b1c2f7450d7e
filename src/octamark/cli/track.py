"""``octamark track``: a video in, landmarks of every frame out."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from octamark import drawing, models, signals
from octamark.cli.console import (
    DEVICE,
    MIN_CONFIDENCE,
    MODEL,
    REFINE,
    REGIONS,
    ROTATION,
    THREADS,
    check_installed,
    counted,
    fail,
    make_folder,
    note,
    stderr,
)
from octamark.cli.predict import DRAWINGS_FOLDER
from octamark.errors import DataError, OutputError, listed
from octamark.faces import Faces
from octamark.images import write_atomically
from octamark.inference.detector import FaceDetector
from octamark.inference.landmarker import load
from octamark.io import FORMATS, Record, Writer, open_writer, read_records
from octamark.io.video import FOLDER_RATE, Video, VideoWriter, open_video
from octamark.tracking import TrackedFrame
from octamark.tracking import track as track_faces

_FORMS = ("jsonl", "csv")
"""Formats that are written frame by frame into one file."""

_FEW = 0.9  # share of the frames that a file states below which a note says that some were missing


def track(
    source: Annotated[
        str, typer.Argument(help="Video file, URL such as rtsp://..., camera:0, or a folder of numbered pictures")
    ],
    model: Annotated[str, MODEL] = "small",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for results; without it they are printed")
    ] = None,
    form: Annotated[str, typer.Option("-f", "--format", help="jsonl or csv")] = "jsonl",
    render: Annotated[
        Path | None,
        typer.Option("--render", help="Also write the video with the landmarks drawn on it: .mp4, .mov, .mkv or .webm"),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also plot eyes, mouth, pose and blinks over time: NAME.plot.png")
    ] = False,
    smoothing: Annotated[str, typer.Option("--smoothing", help="How still points are held: none, low or high")] = "low",
    offline: Annotated[
        bool, typer.Option("--offline", help="Smooth with later frames too: no lag, but results come at the end")
    ] = False,
    every: Annotated[int, typer.Option("--every", min=1, help="Read every n-th frame alone")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after an interrupted call: keep what the folder already holds")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help=f"Pictures per second in a folder; {FOLDER_RATE:g} unless it is given"),
    ] = None,
    min_confidence: Annotated[float, MIN_CONFIDENCE] = 0.0,
    rotation: Annotated[str, ROTATION] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    threads: Annotated[int | None, THREADS] = None,
    device: Annotated[str, DEVICE] = "cpu",
) -> None:
    """Follow the faces of a video and find their landmarks in every frame.

    Results are written frame by frame. Damaged frames are left out and counted.
    """
    if form not in _FORMS:
        raise OutputError(f"format {form!r}; formats that hold the frames of a video: {listed(_FORMS)}")
    if resume and (out is None or offline):
        raise OutputError("--resume: needs the folder of the earlier call with -o, and does not go with --offline")
    if plot:
        check_installed(["matplotlib"])
        out = DRAWINGS_FOLDER if out is None else out
    if out is None and sys.stdout is None:
        raise OutputError("standard output is closed; name a folder with -o")
    landmarker = load(
        model,
        rotation=rotation,  # type: ignore[arg-type]
        refine=refine,  # type: ignore[arg-type]
        regions=regions,
        min_confidence=min_confidence,
        threads=threads,
        device=device,
        detector=FaceDetector(threads=threads or 1),
    )
    if out is not None:
        make_folder(out)
    seen: list[tuple[float, Faces]] = []
    interrupted = False
    with ExitStack() as stack:
        video = stack.enter_context(open_video(source, rate=rate))
        writer = stack.enter_context(
            open_writer(
                form,
                sys.stdout.buffer if out is None else out,
                model=landmarker.card.name,
                layout=landmarker.layout,
                resume=resume,
                video=True,
            )
        )
        done = _done(out, form, video, writer) if resume and out is not None else {}
        film = None
        if render is not None:
            film = stack.enter_context(VideoWriter(render, rate=_shown_rate(video, every), sound=_sound(source)))
        bar = stack.enter_context(_progress())
        task = bar.add_task("", total=video.count)
        frames = track_faces(
            video,
            landmarker,
            smoothing=smoothing,  # type: ignore[arg-type]
            offline=offline,
            every=every,
            pictures=film is not None,
            done=done,
            on_frame=lambda index: bar.update(task, completed=index + 1),
        )
        run = _Run(video, landmarker.card.name, writer, film, done)
        try:
            for frame in frames:
                run.take(frame)
                if plot:
                    seen.append((frame.time, replace(frame.faces, heatmaps=None)))
        except KeyboardInterrupt:
            interrupted = True
            if film is not None:
                film.close(complete=False)
    run.report(out, interrupted)
    if plot and out is not None:
        _plot(out / f"{_stem(source)}.plot.png", source, seen)
    if interrupted:
        raise typer.Exit(130)


class _Run:
    """One call of the command: where results go, and how many there are so far."""

    def __init__(
        self, video: Video, model: str, writer: Writer, film: VideoWriter | None, done: dict[int, Record]
    ) -> None:
        self._video, self._model, self._writer, self._film, self._done = video, model, writer, film, done
        self._started = time.monotonic()
        self._frames = self._last = 0
        self._ids: set[int] = set()

    def take(self, frame: TrackedFrame) -> None:
        """Write and draw one frame."""
        self._last = frame.index + 1
        if frame.index not in self._done:
            name = self._video.frame_name(frame.index)
            faces = replace(frame.faces, heatmaps=None)
            self._writer.write(Record(name, name, self._model, faces, frame.index, frame.time))
            self._frames += 1
            self._ids.update(() if faces.ids is None else faces.ids.tolist())
        if self._film is not None and frame.picture is not None:
            self._film.write(drawing.overlay(frame.picture, frame.faces, enlarge=False), frame.time)

    def report(self, out: Path | None, interrupted: bool) -> None:
        """Print what was done, and what was left out."""
        video, took = self._video, time.monotonic() - self._started
        if interrupted:
            fail(f"interrupted after {counted(self._frames, 'frame')}")
        if self._done:
            note(f"{counted(len(self._done), 'frame')} of an earlier call kept")
        for number, text in (
            (video.damaged, "damaged and left out"),
            (video.dropped, "dropped, since reading took longer"),
            (video.retimed, "without a rising time stamp, which was replaced"),
        ):
            if number:
                note(f"{video.name}: {counted(number, 'frame')} {text}")
        if video.count and self._last < _FEW * video.count and not interrupted:
            note(f"{video.name}: states {counted(video.count, 'frame')}; it ended after {self._last}")
        rate = f", {self._frames / took:.1f} frames per second" if took > 0 and self._frames else ""
        place = f", results in {out}" if out is not None and self._frames else ""
        note(f"{counted(len(self._ids), 'face')} in {counted(self._frames, 'frame')}{rate}{place}")


def _done(out: Path, form: str, video: Video, writer: Writer) -> dict[int, Record]:
    """Frame index -> record of this video in the files of an earlier call."""
    file = out / str(FORMATS[form].file)
    if not file.exists():
        return {}
    records = (record for record in read_records(file) if writer.is_done(record.file, record.stem))
    found: dict[int, Record] = {}
    for record in records:
        if record.frame is None or record.time is None:
            raise DataError(f"{file}: {record.file} is no frame of a video; name another folder")
        if record.file == video.frame_name(record.frame):
            found[record.frame] = record
    return found


def _shown_rate(video: Video, every: int) -> float:
    """Frames per second of the drawn video."""
    return max(1.0, (video.rate or FOLDER_RATE) / every)


def _sound(source: str) -> str | None:
    """The file whose sound a drawn video gets."""
    return source if os.path.isfile(source) else None


def _stem(source: str) -> str:
    """A file name for the results of a source: ``clip`` for ``clip.mp4``, ``camera-0`` for ``camera:0``."""
    name = Path(source).name or Path(source).resolve().name
    stem = Path(name).stem if os.path.isfile(source) else name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-") or "video"


def _plot(path: Path, source: str, frames: list[tuple[float, Faces]]) -> None:
    measured = signals.measure(frames)
    if not measured:
        note(f"{source}: no face found, so there is no plot")
        return
    write_atomically(path, signals.plot(measured, Path(source).name))
    number = sum(len(signals.blinks(face)) for face in measured.values())
    note(f"{counted(number, 'blink')}; plot in {path}")


class _FramesPerSecond(ProgressColumn):
    """Frames per second so far."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} frames/s")


def _progress() -> Progress:
    """A progress bar with frames per second and the time left; it is shown on terminals only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _FramesPerSecond(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )
