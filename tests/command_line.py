"""The command, run in this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from octamark.cli import app


def run(*arguments: str | Path, code: int = 0) -> str:
    """Run the command; what it raised is raised here, as ``main`` turns it into one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output
