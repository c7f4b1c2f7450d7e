"""``octamark label``: from the predictions of a teacher to a set to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import note, stdout
from octamark.cli.inspect import ALLOWED, card_of
from octamark.datasets.pseudo_labels import Selection
from octamark.datasets.pseudo_labels import label as write_labels
from octamark.io import read_records
from octamark.layouts import layout as named_layout
from octamark.models import available

_DEFAULT = Selection()


def label(
    result: Annotated[
        Path,
        typer.Argument(
            help="What octamark predict or octamark batch wrote: a folder, or its .jsonl, .json or .parquet"
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; it must not hold anything yet")],
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", help="Folder that relative names of pictures begin in; by default the current one"),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="Layout of the points, where the result does not name a built-in one")
    ] = None,
    max_error: Annotated[
        float,
        typer.Option("--max-error", help="Largest expected error of a face, mean over its points / eye distance"),
    ] = _DEFAULT.max_error,
    max_point_error: Annotated[
        float, typer.Option("--max-point-error", help="Points of a larger expected error / eye distance have no label")
    ] = _DEFAULT.max_point_error,
    min_side: Annotated[
        float, typer.Option("--min-side", help="Least root of the landmark box's area, pixels")
    ] = _DEFAULT.min_side,
    largest_kind: Annotated[
        float,
        typer.Option(
            "--largest-kind",
            help="Faces of one kind of pose and size are at most this share of the good ones; 1 takes all",
        ),
    ] = _DEFAULT.largest_kind,
    count: Annotated[
        int | None, typer.Option("--count", help="At most about as many faces, cut from the most frequent kinds")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the faces of kinds that have too many")] = 0,
) -> None:
    """Make a set to train on from what a model predicted.

    Faces whose points are expected to be right are taken, and of each kind of pose and size not too many. The folder
    gets labels.json, which a recipe reads with format = "coco", faces.csv with every face of the result and why it was
    left out, and summary.txt. Pictures stay where they are.
    """
    selection = Selection(max_error, max_point_error, min_side, largest_kind, count, seed)
    records = read_records(result, None if layout is None else named_layout(layout))
    labels = write_labels(records, out, selection, pictures=pictures)
    stdout.print(labels.summary(), end="")
    note(f"set in {out}")
    for name in labels.models:
        if name in available():
            card = card_of(name)
            note(
                f"{name} learned from data with terms, and so does who learns from its points; commercial use: "
                f"{ALLOWED[card.commercial_use]}. State them in the recipe (terms, commercial_use)"
            )
