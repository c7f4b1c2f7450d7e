"""``octamark models`` and ``octamark layouts``: what there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from octamark.cli.console import make_folder, note, stdout
from octamark.cli.train import need_packages
from octamark.errors import WeightsError
from octamark.inference.landmarker import Landmarker
from octamark.inference.refiner import Refiner
from octamark.layouts import BUILTIN, layout
from octamark.models import REGIONS, ModelCard, RegionCard, available, read


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Models to print; all that ship by default")] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Parameters, GFLOPs and file size of every width")] = False,
) -> None:
    """Print the cards of models: layout, scores, training data and its terms; or the table of sizes."""
    if sizes:
        _sizes()
        return
    for name in names or [*available(), REGIONS]:
        card = _card(name)
        table = Table(title=f"{card.name}, {len(read(name)) / 1e6:.2f} MB", title_justify="left", show_header=False)
        table.add_row("layout", card.layout)
        size = card.crop.size if isinstance(card, ModelCard) else card.rule.size
        table.add_row("input", f"{size}x{size}, width C = {card.width}, {card.parameters:,} parameters")
        for title, said in _crops(card):
            table.add_row(title, said)
        for score, value in card.scores.items():
            table.add_row(score, f"{value:.2f}")
        table.add_row("normaliser", card.normaliser)
        table.add_row("trained on", card.training_data)
        table.add_row("terms", card.terms)
        table.add_row("exported by", f"octamark {card.version}")
        stdout.print(table)


def _card(name: str) -> ModelCard | RegionCard:
    """Of a model, or of a regional network."""
    try:
        return Landmarker(name, refine="never").card
    except WeightsError as error:
        try:
            return Refiner(name).card
        except WeightsError:
            raise error from None


def _crops(card: ModelCard | RegionCard) -> Iterator[tuple[str, str]]:
    """How a card's network is shown faces."""
    if isinstance(card, RegionCard):
        yield "reads", f"regions of faces, placed by the points of {card.global_model}"
        yield (
            "crops",
            f"upright squares, {card.rule.margin:g} times the region's extent and {card.rule.spread:g} spreads",
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


def _sizes() -> None:
    need_packages()
    from octamark.release.sizes import rows

    table = Table(title="68 landmarks, 256x256 input; weights stored as int4 and int8", title_justify="left")
    for column in ("size", "C", "parameters", "GFLOPs", "file, MB"):
        table.add_column(column, justify="left" if column == "size" else "right")
    for row in rows():
        table.add_row(row.name, str(row.width), f"{row.parameters:,}", f"{row.gflops:.2f}", f"{row.megabytes:.2f}")
    stdout.print(table)


def layouts(
    names: Annotated[list[str] | None, typer.Argument(help="Layouts, or paths of .toml tables; all by default")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for numbered diagrams, NAME.png")] = None,
) -> None:
    """Print the parts of layouts, and draw numbered diagrams of them."""
    from octamark.drawing import diagram
    from octamark.images import write_picture

    if out is not None:
        make_folder(out)
    for name in names or BUILTIN:
        one = layout(name)
        table = Table(title=f"{one.name}: {one.title}", title_justify="left")
        for column in ("part", "points", "kind"):
            table.add_column(column)
        for part, indices in one.parts.items():
            kind = "global" if set(indices) <= set(one.outline) else "local"
            table.add_row(part, _ranges(indices), kind)
        table.add_section()
        for normaliser, (first, second) in one.normalisers.items():
            table.add_row(normaliser, f"{_ranges(first)} to {_ranges(second)}", "normaliser")
        stdout.print(table)
        if out is not None:
            write_picture(out / f"{one.name}.png", diagram(one))
            note(f"diagram: {out / one.name}.png")


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
