"""``octamark batch``: millions of pictures and videos on one machine or a Ray cluster, results as Parquet."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as ProgressBar,
)

from octamark import models
from octamark.cli.console import (
    FULL_FRAME,
    MAX_MEGAPIXELS,
    MIN_CONFIDENCE,
    MODEL,
    REFINE,
    REGIONS,
    ROTATION,
    TILES,
    check_installed,
    counted,
    fail,
    note,
    stderr,
)
from octamark.images import DEFAULT_LIMITS
from octamark.inference.detector import FaceDetector

if TYPE_CHECKING:
    from octamark import cluster

_MESSAGES = 20
"""Failures that are printed; all are in the results."""

_LINE = 60.0  # seconds between two lines of progress where there is no terminal
_PATIENCE = 30.0  # seconds without any worker after which a note says so


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, lists (.txt, one path or URI per line; - for standard input), Parquet files with a column "
            "of paths or URIs, pictures and videos; each by path or URI (s3://, gs://, ...)"
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="Folder for the results, by path or URI")],
    model: Annotated[str, MODEL] = "small",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", envvar="RAY_ADDRESS", help="Address of a Ray cluster, such as auto; by default this machine alone"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that read; by default one for each processor")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after an interrupted call: leave out what the folder already holds")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: read again what failed")] = False,
    column: Annotated[
        str | None, typer.Option("--column", help="Column of Parquet files with the paths or URIs")
    ] = None,
    videos: Annotated[
        bool, typer.Option("--videos", help="Read the videos of folders instead of their pictures")
    ] = False,
    min_confidence: Annotated[float, MIN_CONFIDENCE] = 0.0,
    rotation: Annotated[str, ROTATION] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    full_frame: Annotated[bool, FULL_FRAME] = False,
    tiles: Annotated[bool, TILES] = False,
    max_megapixels: Annotated[float, MAX_MEGAPIXELS] = DEFAULT_LIMITS.pixels / 1e6,
    part_size: Annotated[
        int, typer.Option("--part-size", min=1, help="Pictures in a part of the results; a worker may lose as many")
    ] = 1000,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=1,
            help="Seconds for the pictures that a worker is sent together (16; more with over 64 workers), after which "
            "it is ended",
        ),
    ] = 600.0,
) -> None:
    """Find the landmarks of many pictures and videos, on several processes or machines.

    Results are Parquet, one row per face. What fails is a row with the error, and the exit code is then 1.
    """
    check_installed(["pyarrow", "ray"])
    from octamark import cluster

    options = cluster.JobOptions(
        address=ray, workers=workers, resume=resume, retry_failed=retry_failed, part=part_size, timeout=timeout
    )
    predictor = cluster.LandmarkPredictor(
        model,
        full_frame=full_frame,
        limits=dataclasses.replace(DEFAULT_LIMITS, pixels=max(1, round(max_megapixels * 1e6))),
        detector=FaceDetector(tiles=tiles),
        rotation=rotation,
        refine=refine,
        regions=regions,
        min_confidence=min_confidence,
    )
    found = cluster.find_inputs(inputs, column=column, videos=videos, skip=out)
    if any(cluster.is_video(name) for name in found.names):
        check_installed(["av"])
    for text in found.notes:
        note(text)
    if found.repeated:
        note(f"{counted(found.repeated, 'input')} named more than once; each is read once")
    with _Display(len(found.names)) as display:
        summary = cluster.run(
            found.names, out, predictor, options, on_progress=display.show, on_failure=display.failure
        )
    _report(summary, out, display)


def _report(summary: cluster.Summary, out: str, display: _Display) -> None:
    if summary.earlier:
        note(f"{counted(summary.earlier, 'input')} already in {out}")
    if display.failures > _MESSAGES:
        fail(f"and {display.failures - _MESSAGES} more; column error of the results names all")
    if summary.deaths:
        note(f"{counted(summary.deaths, 'worker')} died and {'was' if summary.deaths == 1 else 'were'} replaced")
    place = f", results in {out}" if summary.done else ""
    note(f"{counted(summary.faces, 'face')} in {counted(summary.frames, 'picture')}{display.rate(summary)}{place}")
    if summary.interrupted:
        fail(f"interrupted after {summary.done} of {counted(summary.total, 'input')}; --resume goes on")
        raise typer.Exit(130)
    if failed := summary.failed + summary.earlier_failed:
        fail(f"{counted(failed, 'input')} failed; the rest are done")
        raise typer.Exit(1)


class _Display:
    """Progress on standard error: a bar on a terminal, else a line each minute."""

    def __init__(self, total: int) -> None:
        self._started = self._line = time.monotonic()
        self._warned = False
        self.failures = 0
        self._bar = ProgressBar(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} pictures/s, {task.fields[failed]} failed"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=stderr,
            disable=not stderr.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, rate=0.0, failed=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def failure(self, message: str) -> None:
        self.failures += 1
        if self.failures <= _MESSAGES:
            fail(message)

    def show(self, progress: cluster.Progress) -> None:
        now = time.monotonic()
        seconds = now - self._started
        rate = progress.frames / seconds if seconds > 0 else 0.0
        self._bar.update(self._task, completed=progress.done, total=progress.total, rate=rate, failed=progress.failed)
        if not progress.workers and seconds > _PATIENCE and not self._warned:
            self._warned = True
            note("no worker has started yet: the cluster has no free processor, or is still starting")
        if not stderr.is_terminal and now - self._line >= _LINE:
            self._line = now
            left = (progress.total - progress.done) * seconds / progress.done if progress.done else None
            text = "" if left is None else f", {_duration(left)} left"
            note(f"{progress.done} of {progress.total}, {rate:.1f} pictures per second, {progress.failed} failed{text}")

    def rate(self, summary: cluster.Summary) -> str:
        seconds = time.monotonic() - self._started
        return f", {summary.frames / seconds:.1f} pictures per second" if summary.frames else ""


def _duration(seconds: float) -> str:
    """``3 h 20 min``, ``20 min``, ``45 s``."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {round(seconds % 3600 / 60)} min"
    return f"{minutes} min" if minutes > 1 else f"{seconds:.0f} s"
