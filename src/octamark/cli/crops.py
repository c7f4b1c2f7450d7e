"""``octamark crops``: the faces of a folder of pictures, found once and kept for many training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import make_folder, note, progress
from octamark.cli.train import need_packages
from octamark.errors import OutputError


def crops(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; subfolders are searched too")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors to write")],
    size: Annotated[int, typer.Option("--size", min=32, help="Side of the largest network input they are for")] = 128,
    margin: Annotated[float, typer.Option("--margin", min=1.01, max=3.0, help="Of the recipe's crops")] = 1.25,
) -> None:
    """Find the faces in pictures without labels, for octamark train --unlabelled."""
    need_packages()
    from octamark.training.unlabelled import collect

    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: faces are written as .safetensors")
    make_folder(out.parent)
    with progress() as bar:
        task = bar.add_task("finding faces", total=None)
        faces = collect(folder, size, margin, advance=lambda done, total: bar.update(task, completed=done, total=total))
    faces.save(out)
    note(f"{faces.counts}: {out}, {faces.pictures.numel() / 1e6:.0f} MB at {faces.pictures.shape[-1]} pixels")
