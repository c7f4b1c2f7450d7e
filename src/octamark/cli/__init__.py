"""The command line: one module per verb; heavy imports inside the verbs.

Exit codes: 0 done; 1 done, but inputs failed (each is named on standard error); 2 the call itself was wrong, or results
could not be written; 130 interrupted (``predict`` writes what it has found by then).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings

import typer

from octamark import __version__
from octamark.cli import caricatures, crops, evaluate, inspect, predict, train
from octamark.cli.console import fail
from octamark.errors import OctamarkError

app = typer.Typer(
    help="Facial landmarks with an expected error for every point; and the training of such detectors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)
app.command("crops")(crops.crops)
app.command("caricatures")(caricatures.caricatures)
app.command("export")(train.export)
app.command("curves")(train.curves)
app.command("models")(inspect.models)
app.command("layouts")(inspect.layouts)


def _version(asked: bool) -> None:
    if asked:
        print(f"octamark {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None: ...


def main() -> None:
    """Entry point of the ``octamark`` command: errors as one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names need not fit the terminal's encoding
    warnings.simplefilter("ignore")  # PIL's about odd metadata, torch's about itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill keeps what was found, as Ctrl-C does
    try:
        app()
    except OctamarkError as error:
        fail(str(error))
        sys.exit(2)
    except OSError as error:  # a full disk under standard output, a terminal that went away
        fail(f"{error.filename or 'output'}: {error.strerror or error}")
        if isinstance(sys.stdout, io.TextIOWrapper):  # what it still holds would fail once more at the very end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except MemoryError:
        fail("out of memory")
        sys.exit(2)
