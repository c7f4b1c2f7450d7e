"""``octamark crops``: find the faces of a folder of pictures once, for many training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import make_folder, note, progress
from octamark.cli.train import need_packages


def crops(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; subfolders are searched too")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; it must not exist yet")],
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=32,
            help="Side of the network's input, pixels; the largest of the recipe's stages; by default that of --rule",
        ),
    ] = None,
    margin: Annotated[float, typer.Option("--margin", min=1.01, max=3.0, help="data.margin of the recipe")] = 1.25,
    rule: Annotated[
        str,
        typer.Option(
            "--rule",
            help="Released model or .onnx file whose crop rule is used; it must have learned the recipe's layout. The "
            "terms of what that model learned from are kept beside the crops",
        ),
    ] = "small",
) -> None:
    """Find and crop the faces of unlabelled pictures for training.

    octamark train --unlabelled reads the folder that this writes. It also takes a folder of pictures, and then fits the
    crop rule on the recipe's own labelled faces.
    """
    need_packages()
    from octamark.training.unlabelled import collect, model_rule

    crop_rule, sources = model_rule(rule)
    make_folder(out.absolute().parent)
    with progress() as bar:
        task = bar.add_task("finding faces", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        faces = collect(folder, out, size or crop_rule.size, margin, crop_rule, sources, advance=advance)
    side = faces.pictures.side
    note(f"{faces.counts}: {out}, {len(faces) * 3 * side**2 / 1e6:.0f} MB at {side} pixels")
