"""``octamark models`` and ``octamark layouts``: descriptions of models and layouts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from octamark.cli.console import counted, make_folder, note, stdout
from octamark.errors import WeightsError, listed
from octamark.inference.landmarker import Landmarker
from octamark.inference.refiner import Refiner
from octamark.inference.session import session, vector_instructions
from octamark.layouts import BUILTIN, layout
from octamark.models import REGIONS, ModelCard, RegionCard, available, read

ALLOWED = {True: "yes", False: "no", None: "not stated"}
"""Commercial use in words, as cards and sources have it."""


def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models, or .onnx files; all that ship by default")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run each model on one thread, and print its arithmetic and time instead")
    ] = False,
) -> None:
    """Print the cards of models.

    A card has the layout, the crop rule, the scores, the training data, its terms of use, whether they
    allow commercial use, and all sources that the model learned from. With --run, each model
    reads one crop (a regional network: the regions of one face) a few times.
    """
    if run:
        stdout.print(_times(names or [*available(), REGIONS]))
        return
    for name in names or [*available(), REGIONS]:
        card = card_of(name)
        table = Table(title=f"{card.name}, {len(read(name)) / 1e6:.2f} MB", title_justify="left", show_header=False)
        table.add_row("layout", card.layout)
        size = card.crop.size if isinstance(card, ModelCard) else card.rule.size
        table.add_row("input", f"{size}x{size}, width C = {card.width}, {card.parameters:,} parameters")
        table.add_row("arithmetic", card.arithmetic)
        for title, text in _crops(card):
            table.add_row(title, text)
        if isinstance(card, ModelCard):
            table.add_row("visible", "not told" if card.visibility is None else "told of each point")
        if card.calibration.kind == "global":
            table.add_row("calibration", "one factor for all points: too few labelled faces were held out for more")
        for score, value in card.scores.items():
            table.add_row(score, f"{value:.2f}")
        table.add_row("normaliser", card.normaliser)
        table.add_row("trained on", card.training_data)
        table.add_row("terms", card.terms)
        table.add_row("commercial use", ALLOWED[card.commercial_use])
        for source in card.sources:
            faces = "" if source.faces is None else f", {counted(source.faces, 'face')}"
            table.add_row(f"source, {source.role}", f"{source.name}{faces}: {source.terms or 'no terms given'}; "
                          f"commercial use: {ALLOWED[source.commercial_use]}")  # fmt: skip
        table.add_row("exported by", f"octamark {card.version}")
        stdout.print(table)


def card_of(name: str) -> ModelCard | RegionCard:
    """The card of a model or of a regional network."""
    try:
        return Landmarker(name, refine="never").card
    except WeightsError as error:
        try:
            return Refiner(name).card
        except WeightsError:
            raise error from None


def _times(names: Sequence[str], turns: int = 10) -> Table:
    """A table of the models' arithmetic, and of the shortest time that the network took on one thread."""
    instructions = listed(vector_instructions()) or "unknown instructions"
    table = Table(title=f"{os.cpu_count()} processors: {instructions}", title_justify="left")
    for heading in ("model", "arithmetic", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for name in names:
        card, network = card_of(name), session(read(name), name, 1, "cpu")
        crop = np.zeros((1, *network.get_inputs()[0].shape[1:]), np.uint8)
        seconds = []
        for _ in range(turns):
            start = time.perf_counter()
            network.run(None, {"crops": crop})
            seconds.append(time.perf_counter() - start)
        table.add_row(card.name, card.arithmetic, f"{min(seconds) * 1000:.2f}")
    return table


def _crops(card: ModelCard | RegionCard) -> Iterator[tuple[str, str]]:
    """The crop rule of a card's network: titles and texts."""
    if isinstance(card, RegionCard):
        yield "reads", f"regions of faces, placed by the landmarks of {card.global_model}"
        yield (
            "crops",
            f"upright squares, side {card.rule.margin:g} times the region's extent plus {card.rule.spread:g} spreads",
        )
        return
    rule = card.crop
    x, y, side = (f"{100 * value:.1f} %" for value in rule.detector_residual)
    yield "crop", f"square, {rule.margin:g} times the longer side of the landmark box"
    yield (
        "crop from a detector's box",
        f"side {rule.detector_scale:.3f} times the root of its area, centre moved by {rule.detector_shift[0]:+.3f}"
        f", {rule.detector_shift[1]:+.3f} of it; residual {x}, {y} of the side, {side} in scale",
    )


def layouts(
    names: Annotated[list[str] | None, typer.Argument(help="Layouts, or paths of .toml tables; all by default")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for numbered diagrams, NAME.png")] = None,
) -> None:
    """Print the parts and normalisers of layouts.

    With --out, numbered diagrams are drawn, too.
    """
    from octamark.drawing import diagram
    from octamark.images import write_picture

    if out is not None:
        make_folder(out)
    for name in names or BUILTIN:
        described = layout(name)
        table = Table(title=f"{described.name}: {described.title}", title_justify="left")
        for column in ("part", "points", "kind"):
            table.add_column(column)
        for part, indices in described.parts.items():
            kind = "global" if set(indices) <= set(described.outline) else "local"
            table.add_row(part, _ranges(indices), kind)
        table.add_section()
        for normaliser, (first, second) in described.normalisers.items():
            table.add_row(normaliser, f"{_ranges(first)} to {_ranges(second)}", "normaliser")
        stdout.print(table)
        if out is not None:
            write_picture(out / f"{described.name}.png", diagram(described))
            note(f"diagram: {out / described.name}.png")


def _ranges(indices: tuple[int, ...]) -> str:
    """(3, 5, 6, 7) -> "3, 5-7"."""
    texts: list[str] = []
    start = 0
    for position in range(1, len(indices) + 1):
        if position == len(indices) or indices[position] != indices[position - 1] + 1:
            first, last = indices[start], indices[position - 1]
            texts.append(str(first) if first == last else f"{first}-{last}")
            start = position
    return ", ".join(texts)
