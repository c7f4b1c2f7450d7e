"""The command line, one module per verb. Packages that take long to import are imported inside the verbs.

Exit codes: 0, everything was done. 1, some inputs failed; each is named on standard error. 2, an option or argument was
wrong, or results could not be written. 130, interrupted; ``predict``, ``track`` and ``batch`` write the results that
they have by then.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings

import typer

from octamark import __version__
from octamark.cli import (
    batch,
    caricatures,
    crops,
    devices,
    evaluate,
    inspect,
    label,
    predict,
    render,
    serve,
    track,
    train,
)
from octamark.cli.console import fail
from octamark.errors import OctamarkError

app = typer.Typer(
    help="Find facial landmarks with an expected error for every point, and train such detectors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("predict")(predict.predict)
app.command("track")(track.track)
app.command("batch")(batch.batch)
app.command("serve")(serve.serve)
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)
app.command("crops")(crops.crops)
app.command("label")(label.label)
app.command("caricatures")(caricatures.caricatures)
app.command("render")(render.render)
app.command("heads")(render.heads)
app.command("export")(train.export)
app.command("curves")(train.curves)
app.command("models")(inspect.models)
app.command("layouts")(inspect.layouts)
app.command("devices")(devices.devices)


def _print_version(value: bool) -> None:
    if value:
        print(f"octamark {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None: ...


def main() -> None:
    """Run the ``octamark`` command. An error is printed as one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may lack characters of file names
    warnings.simplefilter("ignore")  # of the libraries, such as PIL's about metadata
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: results so far are kept
    try:
        app()
    except OctamarkError as error:
        fail(str(error))
        sys.exit(2)
    except OSError as error:  # such as a full disk under standard output
        fail(f"{error.filename or 'output'}: {error.strerror or error}")
        if isinstance(sys.stdout, io.TextIOWrapper):  # or its buffer fails once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except MemoryError:
        fail("out of memory")
        sys.exit(2)
