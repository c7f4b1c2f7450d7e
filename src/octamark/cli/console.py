"""What the command line says to people: on standard error, so that results can be piped."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from octamark.errors import OutputError

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """One line about what went wrong."""
    stderr.print(f"error: {message}", markup=False, style="red")


def note(message: str) -> None:
    """One line about what happened."""
    stderr.print(message, markup=False)


def counted(number: int, noun: str) -> str:
    """``1 face``, ``2 faces``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def progress(*, visible: bool = True) -> Progress:
    """A progress bar with counts and time left; shown on terminals only."""
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
    """The folder, made if missing.

    Raises:
        OutputError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder ({error.strerror})") from error
    return path
