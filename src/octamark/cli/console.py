"""Messages on standard error, so that results can be piped, and options that several verbs have."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from octamark.errors import OctamarkError, OutputError, install_hint
from octamark.images import write_atomically

MODEL = typer.Option(
    "-m",
    "--model",
    help="pico, nano, tiny-128, tiny, small, small-art (for drawings); with weights for commercial use: pico-open, "
    "tiny-open, small-open; or the path of an .onnx file",
)
ROTATION = typer.Option("--rotation", help="Read faces again in an upright crop: auto (those that lean), always, never")
REFINE = typer.Option("--refine", help="Read regions of the face at full resolution: auto (large faces), always, never")
REGIONS = typer.Option("--regions", help="The network that --refine uses: regions, or the path of an .onnx file")
THREADS = typer.Option("--threads", help="Processor threads of the landmark networks; by default ONNX Runtime chooses")
DEVICE = typer.Option(
    "--device",
    help="What runs the networks: cpu, cuda, tensorrt, openvino, coreml or directml; `octamark devices` lists what is "
    "there",
)
MIN_CONFIDENCE = typer.Option(
    "--min-confidence",
    min=0.0,
    max=1.0,
    help="Leave out faces of a lower mean confidence; points count by their visible where the model tells it",
)
FULL_FRAME = typer.Option("--full-frame", help="One face fills each picture, as in drawings: no detector is needed")
TILES = typer.Option("--tiles", help="Also search large pictures tile by tile for small faces: slower")
MAX_MEGAPIXELS = typer.Option("--max-megapixels", min=0.001, max=1e6, help="Refuse larger pictures")

stderr = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
stdout = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def check_installed(packages: Iterable[str]) -> None:
    """Check that packages can be imported.

    Raises:
        OctamarkError: some are missing; the message says how to install them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise OctamarkError(f"this needs packages that are not installed: {install_hint(missing)}")


def fail(message: str) -> None:
    """Print an error as one line."""
    stderr.print(f"error: {_printable(message)}", style="red")


def note(message: str) -> None:
    """Print a message as one line."""
    stderr.print(_printable(message))


def _printable(message: str) -> str:
    """The message, with escapes for characters that are not valid Unicode, which file names may hold."""
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def counted(number: int, noun: str) -> str:
    """``1 face``, ``2 faces``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def progress(*, visible: bool = True) -> Progress:
    """A progress bar with counts and the time left; it is shown on terminals only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not visible or not stderr.is_terminal,
    )


def make_folder(path: Path) -> Path:
    """The folder, made if it is missing. A test file is written and removed, so that errors come before the work.

    Raises:
        OutputError: the folder cannot be made or written to, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made ({error.strerror})") from error
    probe = path / f".octamark-{os.getpid()}"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)
    return path
