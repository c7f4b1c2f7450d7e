"""The report on the experiments, docs/measurements/experiments.md and its plots, from research/results.csv alone.

    python -m research.report            (needs matplotlib: the package's extra, evaluate)
    python -m research.report --check    # exit 1 if the page is not what results.csv gives

Each table's configuration holds a paragraph, ``reading``, on what the runs say. Its figures are filled in here:
``{nme[ROW; COLUMN]}`` is a cell's mean (the column may be left out where there is one), with a format as in
``{entropy[ROW]:.1f}``; ``{lower[A > B]:.1f}`` tells by how many percent the NME of cell B is below that of A,
``{higher[A > B]:.1f}`` by how many it is above, ``{minus[A > B]:.2f}`` the difference in percentage points, all over
the seeds that both have; ``{higher.strong[A > B]:.0f}`` does so for another measure."""

from __future__ import annotations

import argparse
import io
import re
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.tables import COSTS, SIDES, Cell, Results, Table, tables

from octamark.images import write_atomically

DOCS = Path(__file__).parent.parent / "docs" / "measurements"
PAGE = "experiments.md"
DASH = "-"

MEASURES: dict[str, tuple[str, float, int]] = {
    "nme": ("NME, %", 100, 2),
    "best_nme": ("best epoch, %", 100, 2),
    "failures": ("failures at 8 %, %", 100, 1),
    "failures_10": ("failures at 10 %, %", 100, 1),
    "without_offsets": ("NME without the mean error of each point, %", 100, 2),
    "portraits": ("London, %", 100, 2),
    "entropy": ("entropy, nats", 1, 2),
    "spread": ("spread, heatmap pixels", 1, 2),
    "global_nme": ("of the global network alone, %", 100, 2),
    "eyes_nme": ("eyes, %", 100, 2),
    "mouth_nme": ("mouth, %", 100, 2),
    "weak": ("weak caricatures, %", 100, 2),
    "medium": ("medium, %", 100, 2),
    "strong": ("strong, %", 100, 2),
    "night": ("night camera, %", 100, 2),
}
"""Column of results.csv -> title in the report, factor, decimals."""

HEAD = """# Controlled comparisons

Written by `python -m research.report` from `research/results.csv`: {done} of {total} runs; a dash: not run yet. The
experiments are defined in `research/configs`, run by `python -m research.experiments`.

Unless a table says otherwise: `tiny` at 128x128, LaplaceKL with supervised maps (weight 2), beta 1, target scale 0.5,
Muon, 1,500 steps of 16 labelled faces however many there are (`research/configs/base.toml`), and one learning rate for
all.

- **NME**: inter-ocular, %, on the {faces} faces of 300W's validation split, crops from label boxes, of the averaged
  weights after the last epoch, so that no epoch was chosen. *Best epoch* is the lowest of all epochs, chosen on those
  same faces. All figures are without the [offset of 300W's labels](training.md) and without the shape correction.
- *a ± b (n)*: mean and standard deviation of n seeds. A seed draws weights, order, augmentation and the share of the
  labels. A figure without ± is one seed: a difference smaller than the ± of similar runs means nothing.
- **Entropy** of the heatmaps, mean over points and faces: how scattered they are (1,024 places, at most 6.93 nats).
- **ms**: one face, one thread, median of alternating calls. **MB**: the exported file.
- Faces without labels: {unlabelled}. They are CACD, YouTube Faces, and the training pictures of 300W without their
  labels, cropped by YuNet's boxes; no validation picture is among them. 1,500 pictures of LFW were left out, because a
  box and 68 points are drawn into each of them. Networks that learn from rendered heads take portraits of the US
  Congress instead.

"""


def page(results: Results) -> str:
    """The report as Markdown."""
    every = {id(recipe): recipe for table in tables() for cell in table.cells.values() for recipe in cell.recipes}
    finished = [row for row in map(results.find, every.values()) if row is not None]
    unlabelled = sorted({row["unlabelled_faces"] for row in finished if "unlabelled_faces" in row})
    faces = sorted({row["faces"] for row in finished if "faces" in row})
    text = HEAD.format(
        done=len(results),
        total=len({str(recipe) for recipe in every.values()}),
        faces=" or ".join(map(str, faces)) or DASH,
        unlabelled="; or: ".join(unlabelled) or DASH,
    )
    for table in tables():
        text += f"## {table.title}\n\n" + _body(table, results)
        if table.reading:
            text += filled(table, results).strip() + "\n\n"
        if table.plot:
            text += f"![{table.title}]({plot_name(table)})\n\n"
    return text.rstrip() + "\n"


def plot_name(table: Table) -> str:
    """The file name of a table's plot."""
    return f"experiments-{table.name.replace('_', '-')}.png"


def filled(table: Table, results: Results) -> str:
    """A table's reading with its figures filled in."""

    def cell(name: str) -> Cell:
        row, _, column = (part.strip() for part in " ".join(name.split()).partition(";"))
        return table.cells[row, column or table.columns[0]]

    def figure(match: re.Match[str]) -> str:
        kind, measure, names, form = match.groups()
        first, *rest = map(cell, names.split(">"))
        if not rest:
            values = results.values(first, kind)
            return with_deviation([*values.values()], kind) if not form else f"{_mean(values.values(), kind):{form}}"
        measure = measure or "nme"
        old, new = _paired(results, first, rest[0], measure)
        if kind == "minus":
            return f"{MEASURES[measure][1] * (statistics.fmean(old) - statistics.fmean(new)):{form}}"
        change = 100 * (sum(new) / sum(old) - 1)
        return f"{change if kind == 'higher' else -change:{form}}"

    text = re.sub(r"\{(\w+)(?:\.(\w+))?\[([^\]]+)\](?::([^}]+))?\}", figure, table.reading)
    return "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in text.split("\n\n"))


def _mean(values: Any, measure: str) -> float:
    return MEASURES[measure][1] * statistics.fmean(values)


def _paired(results: Results, first: Cell, second: Cell, measure: str) -> tuple[list[float], list[float]]:
    """The measures of two cells, of the seeds that both have; a network's cost has no seeds."""
    if measure in COSTS:
        costs = [results.costs(cell.recipes[0]) for cell in (first, second)]
        return tuple([cost[measure]] for cost in costs if cost is not None)  # type: ignore[return-value]
    one, two = results.values(first, measure), results.values(second, measure)
    shared = [seed for seed in one if seed in two]
    return [one[seed] for seed in shared], [two[seed] for seed in shared]


def with_deviation(values: Sequence[float], measure: str, sign: str = "") -> str:
    """``3.91 ± 0.05 (3)`` for several values, ``3.91`` for one, a dash for none."""
    _, factor, digits = MEASURES[measure]
    if not values:
        return DASH
    mean = f"{factor * statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f} ({len(values)})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n\n"


def _body(table: Table, results: Results) -> str:
    if len(table.columns) == 1:
        head = [table.axis, *_cost_heads(table), *(MEASURES[name][0] for name in table.measures)]
        rows = []
        for row in table.rows:
            cell = table.cells[row, table.columns[0]]
            figures = [with_deviation([*results.values(cell, name).values()], name) for name in table.measures]
            rows.append([row, *_costs(table, row, results), *figures])
        return markdown(head, rows)
    if table.compares_networks:
        head = [table.axis, *_cost_heads(table), *(f"NME, %, {name}" for name in table.columns)]
        rows = [[row, *_costs(table, row, results), *_grid(table, row, "nme", results)] for row in table.rows]
        return markdown(head, rows)
    text = ""
    for name in ("nme", "failures"):
        head = [f"{MEASURES[name][0]}; {table.axis}", *table.columns]
        text += markdown(head, [[row, *_grid(table, row, name, results)] for row in table.rows])
    first = table.columns[0]
    text += f"NME minus that of *{first}* with the same seed, percentage points:\n\n"
    rows = []
    for row in table.rows:
        pairs = [_paired(results, table.cells[row, first], table.cells[row, name], "nme") for name in table.columns[1:]]
        rows.append([row, *(with_deviation([b - a for a, b in zip(*pair, strict=True)], "nme", "+") for pair in pairs)])
    return text + markdown([table.axis, *table.columns[1:]], rows) + _aims(table, results) + _teacher(table, results)


def _cost_heads(table: Table) -> list[str]:
    return ["parameters", "MB", *(f"ms at {side}" for side in SIDES)] if table.compares_networks else []


def _costs(table: Table, row: str, results: Results) -> list[str]:
    """What a row's network costs, where a table compares networks."""
    if not table.compares_networks:
        return []
    cost = results.costs(table.recipe(row))
    if cost is None:
        return [DASH] * len(COSTS)
    return [f"{cost['parameters']:,}", f"{cost['bytes'] / 1e6:.2f}", *(f"{cost[f'ms_{side}']:.2f}" for side in SIDES)]


def _grid(table: Table, row: str, measure: str, results: Results) -> list[str]:
    cells = [table.cells[row, column] for column in table.columns]
    return [with_deviation([*results.values(cell, measure).values()], measure) for cell in cells]


def _aims(table: Table, results: Results) -> str:
    """By how much faces without labels should lower the NME, and by how much they do."""
    rows = []
    for row, aim in (table.aims or {}).items():
        first = table.cells[row, table.columns[0]]
        for column in table.columns[1:]:
            old, new = _paired(results, first, table.cells[row, column], "nme")
            if old:
                gain, wanted = 100 * (1 - sum(new) / sum(old)), _mean(old, "nme") * (1 - aim / 100)
                rows.append([
                    f"{row} of the labels, {column}", f"{aim:g} % lower: {wanted:.2f} %",
                    f"{gain:.1f} % lower ({len(old)})", "met" if gain >= aim else "missed",
                ])  # fmt: skip
    return markdown(["NME against supervised", "aim", "measured (seeds)", ""], rows) if rows else ""


def _teacher(table: Table, results: Results) -> str:
    """The mean teacher's error on training faces without their labels, by its own spread."""
    rows = []
    for (row, column), cell in table.cells.items():
        run = results.find(cell.recipes[0]) or {}
        if "teacher_error_1" in run:
            quarters = [f"{run[f'teacher_error_{q}']:.2f} ({run[f'teacher_spread_{q}']:.2f})" for q in range(1, 5)]
            rows.append([f"{row}, {column}", *quarters])
    if not rows:
        return ""
    text = (
        "Error of the teacher's points on the training faces whose labels it did not get, % (spread, heatmap pixels), "
        "by quarter of its spread:\n\n"
    )
    return text + markdown(["labels (seed 0)", "smallest spread", "second", "third", "largest spread"], rows)


def draw(results: Results, folder: Path) -> None:
    """Write the tables' plots into a folder."""
    from matplotlib.figure import Figure

    for table in tables():
        if table.plot:
            figure = Figure(figsize=(7, 4.2), layout="constrained")
            axes = figure.subplots()
            axes.grid(alpha=0.3)
            axes.set_ylabel("validation NME, %, inter-ocular")
            PLOTS[table.plot](table, results, axes)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=110)
            write_atomically(folder / plot_name(table), buffer.getvalue())


def _lines(table: Table, places: Mapping[str, float], results: Results, axes: Any) -> None:
    """NME of each column at the rows' places on the x axis: a dot for every seed, a line through the means."""
    for column in table.columns:
        found = [(x, results.values(table.cells[row, column], "nme").values()) for row, x in places.items()]
        found = [(x, [100 * value for value in values]) for x, values in found if values]
        (line,) = axes.plot([x for x, _ in found], [statistics.fmean(values) for _, values in found], label=column)
        dots = [(x, value) for x, values in found for value in values]
        axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color=line.get_color(), markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [row.split(" (")[0] for row in places])
    axes.minorticks_off()
    if len(table.columns) > 1:
        axes.legend()


def _number(table: Table, results: Results, axes: Any) -> None:
    axes.set_xlabel(table.axis)
    _lines(table, {row: float(row.split()[0]) for row in table.rows}, results, axes)


def _milliseconds(table: Table, results: Results) -> dict[str, float]:
    costs = {row: results.costs(table.recipe(row)) for row in table.rows}
    return {row: cost[f"ms_{SIDES[0]}"] for row, cost in costs.items() if cost is not None}


def _by_cost(table: Table, results: Results, axes: Any) -> None:
    axes.set_xlabel(f"milliseconds per face at {SIDES[0]}x{SIDES[0]}, one thread")
    _lines(table, _milliseconds(table, results), results, axes)


def _by_cost_scattered(table: Table, results: Results, axes: Any) -> None:
    """NME over milliseconds: a group of dots, one per seed, for each row."""
    for row, ms in _milliseconds(table, results).items():
        values = [100 * value for value in results.values(table.cells[row, table.columns[0]], "nme").values()]
        axes.plot([ms] * len(values), values, "o", label=row)
    axes.set_xlabel(f"milliseconds per face at {SIDES[0]}x{SIDES[0]}, one thread")
    axes.legend()


def _by_strength(table: Table, results: Results, axes: Any) -> None:
    """NME on photographs and on caricatures of each strength: a line for each row, the mean of its seeds."""
    sets = {"nme": "photographs", "weak": "weak", "medium": "medium", "strong": "strong"}
    for row in table.rows:
        cell = table.cells[row, table.columns[0]]
        means = [_mean(results.values(cell, measure).values(), measure) for measure in sets]
        axes.plot([*sets.values()], means, "o-", label=row)
    axes.legend(title=table.axis)


PLOTS: dict[str, Callable[[Table, Results, Any], None]] = {
    "number": _number,
    "costs": _by_cost,
    "costs of seeds": _by_cost_scattered,
    "strengths": _by_strength,
}
"""Kinds of plots; the key ``plot`` of a table's configuration names one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    arguments = parser.parse_args()
    results, file = Results(), DOCS / PAGE
    text = page(results)
    if arguments.check:
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{file}: out of date; run python -m research.report")
        return
    DOCS.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())
    draw(results, DOCS)
    print(f"{file}: {len(results)} runs")


if __name__ == "__main__":
    main()
