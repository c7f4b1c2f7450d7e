"""docs/results.md and its plots from the logs of experiments.py alone; dashes for gaps.

The logs are copied to docs/results/runs, so that anyone can write the page again:

    python benchmarks/experiments.py report --runs docs/results/runs
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octamark.images import read_picture, write_atomically, write_picture

if TYPE_CHECKING:
    from experiments import Cell, Table

DASH = "-"
SIDES = (128, 224)
"""Input sides at which networks are timed: that of the experiments, that of the released models."""

MEASURES: dict[str, tuple[str, float, int]] = {
    "nme": ("NME, %", 100, 2),
    "best": ("best epoch, %", 100, 2),
    "failures": ("failures at 8 %, %", 100, 1),
    "entropy": ("entropy, nats", 1, 2),
    "spread": ("spread, heatmap pixels", 1, 2),
    "look": ("of the global network alone, %", 100, 2),
    "eyes": ("eyes, %", 100, 2),
    "mouth": ("mouth, %", 100, 2),
    "weak": ("weak caricatures, %", 100, 2),
    "medium": ("medium, %", 100, 2),
    "strong": ("strong, %", 100, 2),
    "night": ("night camera, %", 100, 2),
}

ELSEWHERE = ("weak", "medium", "strong", "night")
HIDDEN = {
    "caricature": ("entropy", "spread", "best", "night"),
    "night": ("entropy", "spread", "best", "weak", "medium", "strong"),
}
"""What a table does not show, by its kind; ``ELSEWHERE`` for those not named."""

HEAD = """# Results of controlled comparisons

Written by `python benchmarks/experiments.py report` from the logs of {done} of {total} runs; a dash: not made yet.

Unless a table says otherwise: `tiny` at 128x128, LaplaceKL with maps drawn of the labels (weight 2), beta 1, target
scale 0.5, Muon, 1,500 steps of 16 labelled faces whatever their number (`configs/experiments/base.toml`), and one
learning rate for all.

- **NME**: inter-ocular, %, on the {faces} faces of 300W's validation split, crops from labels, of the averaged weights
  after the last epoch, so that no epoch was chosen; *best epoch* is the least of all, chosen on those same faces.
- *a ± b (n)*: mean and standard deviation of n seeds; a seed draws weights, order, augmentation and the share of the
  labels. A figure without ± is one seed: no difference smaller than the ± of its neighbours means anything.
- **Entropy** of the heatmaps, mean over points and faces: how scattered they are (1,024 places, at most 6.93 nats).
- Faces without labels: {unlabelled}.
"""


def report(tables: Sequence[Table], runs: Path, docs: Path) -> str:
    """Write the page and its pictures; returns what was written."""
    (docs / "results").mkdir(parents=True, exist_ok=True)
    every = {run.digest: run for table in tables for cell in table.cells.values() for run in cell.runs}
    finished = [run for run in every.values() if run.scores is not None]
    met = sorted({run.scores["unlabelled"] for run in finished if run.scores and run.scores["unlabelled"]})
    faces = sorted({run.scores["faces"] for run in finished if run.scores and "faces" in run.scores})
    text = HEAD.format(
        done=len(finished),
        total=len(every),
        faces=" or ".join(map(str, faces)) or DASH,
        unlabelled="; or: ".join(one.replace("; ", ";\n  ") for one in met) or DASH,
    )
    notes = runs / "notes.md"  # what logs cannot tell, such as where the unlabelled pictures come from
    text += (notes.read_text() if notes.is_file() else "") + "\n"
    costs = json.loads((runs / "costs.json").read_text()) if (runs / "costs.json").is_file() else {}
    for table in tables:
        text += f"## {table.title}\n\n" + _body(table, costs)
        path = docs / "results" / f"{table.name}.png"
        if PLOTS[table.plot](table, costs, path):
            text += f"![{table.title}](results/{path.name})\n\n"
    write_atomically(docs / "results.md", (text.rstrip() + "\n").encode())
    kept = [runs / "notes.md", runs / "costs.json"]
    kept += [run.folder / name for run in finished for name in ("recipe.json", "log.csv", "scores.json")]
    kept += [
        run.folder / "heatmaps.png"
        for table in tables
        if table.plot == "heatmaps"
        for run in map(table.first, table.rows)
    ]
    for file in kept:
        copy = docs / "results" / "runs" / file.relative_to(runs)
        if file.is_file() and copy.resolve() != file.resolve():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, file.read_bytes())
    return f"{docs / 'results.md'}: {len(finished)} of {len(every)} runs"


def pseudo_labels(table: Table) -> str:
    """How wrong a mean teacher is on training faces without their labels, by its own spread."""
    rows = []
    for row in table.rows:
        for column in table.columns:
            (run, *_) = table.cells[row, column].runs
            quarters = (run.scores or {}).get("pseudo_labels")
            if quarters:
                rows.append([f"{row}, {column}", *(f"{q['error']:.2f} ({q['spread']:.2f})" for q in quarters)])
    if not rows:
        return ""
    text = (
        "Error of the teacher's points on the training faces whose labels it did not get, % (spread, heatmap pixels), "
    )
    text += "quarter by quarter of its spread:\n\n"
    return text + markdown(["labels (seed 0)", "surest", "second", "third", "least sure"], rows)


def aims(table: Table) -> str:
    """What faces without labels should bring, and what the best of the ways brings, by the seeds both have."""
    rows = []
    for row, aim in (("10 %", 10.0), ("100 %", 2.5)):
        base = table.cells[row, table.columns[0]]
        for column in table.columns[1:]:
            pairs = [
                (base.values("nme")[seed], value)
                for seed, value in table.cells[row, column].values("nme").items()
                if seed in base.values("nme")
            ]
            if pairs:
                gain = 100 * (1 - sum(new for _, new in pairs) / sum(old for old, _ in pairs))
                met = "met" if gain >= aim else "missed"
                rows.append(
                    [f"{row} of the labels, {column}", f"{aim:g} % lower", f"{gain:.1f} % lower ({len(pairs)})", met]
                )
    return markdown(["NME against supervised", "aim", "measured (seeds)", ""], rows) if rows else ""


def said(values: Sequence[float], name: str, sign: str = "") -> str:
    """``3.91 ± 0.05 (3)`` of several, ``3.91`` of one, a dash of none."""
    _, factor, digits = MEASURES[name]
    if not values:
        return DASH
    mean = f"{factor * statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f} ({len(values)})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n\n"


def _body(table: Table, costs: Mapping[str, Any]) -> str:
    if len(table.columns) == 1:
        cells = [table.cells[row, table.columns[0]] for row in table.rows]
        known = {name for cell in cells for run in cell.runs for name in run.scores or {}} or {"nme", "best"}
        shown = [name for name in MEASURES if name in known and name not in HIDDEN.get(table.plot, ELSEWHERE)]
        head = [table.axis, *_cost_heads(table), *(MEASURES[name][0] for name in shown)]
        rows = [
            [c.row, *_costs(table, c.row, costs), *(said([*c.values(m).values()], m) for m in shown)] for c in cells
        ]
        return markdown(head, rows)
    if table.plot == "costs":
        head = [table.axis, *_cost_heads(table), *(f"NME, %, {name}" for name in table.columns)]
        return markdown(head, [[row, *_costs(table, row, costs), *_grid(table, row, "nme")] for row in table.rows])
    text = ""
    for name in ("nme", "failures"):
        head = [f"{MEASURES[name][0]}; {table.axis}", *table.columns]
        text += markdown(head, [[row, *_grid(table, row, name)] for row in table.rows])
    first = table.columns[0]
    text += f"NME minus that of *{first}* with the same seed, percentage points:\n\n"
    rows = [
        [row, *(said(differences(table.cells[row, name], table.cells[row, first]), "nme", "+")
                for name in table.columns[1:])]
        for row in table.rows
    ]  # fmt: skip
    return text + markdown([table.axis, *table.columns[1:]], rows) + aims(table) + pseudo_labels(table)


def _cost_heads(table: Table) -> list[str]:
    return ["parameters", "MB", *(f"ms at {side}" for side in SIDES)] if len(table.networks) > 1 else []


def _costs(table: Table, row: str, costs: Mapping[str, Any]) -> list[str]:
    """What a row's network costs, where a table compares networks."""
    heads = _cost_heads(table)
    one = costs.get(table.first(row).network)
    if not heads or one is None:
        return [DASH] * len(heads)
    return [f"{one['parameters']:,}", f"{one['bytes'] / 1e6:.2f}", *(f"{one[name]:.2f}" for name in heads[2:])]


def differences(cell: Cell, other: Cell) -> list[float]:
    """Paired by seed."""
    mine, theirs = cell.values("nme"), other.values("nme")
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def _grid(table: Table, row: str, name: str) -> list[str]:
    return [said([*table.cells[row, column].values(name).values()], name) for column in table.columns]


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _write(figure: Any, path: Path) -> bool:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
    return True


def _lines(table: Table, places: Mapping[str, float], path: Path, label: str) -> bool:
    """NME of each column over the rows' places, every seed a dot, the mean a line."""
    figure, axes = _axes()
    drawn = False
    for column in table.columns:
        found = [(x, [100 * v for v in table.cells[row, column].values("nme").values()]) for row, x in places.items()]
        found = [(x, values) for x, values in found if values]
        if not found:
            continue
        drawn = True
        (line,) = axes.plot([x for x, _ in found], [statistics.fmean(v) for _, v in found], label=column)
        dots = [(x, value) for x, values in found for value in values]
        axes.plot(*zip(*dots, strict=True), "o", color=line.get_color(), markersize=4)
    if not drawn:
        return False
    axes.set(xscale="log", xlabel=label, ylabel="validation NME, %, inter-ocular")
    axes.set_xticks(list(places.values()), [row.split(" (")[0] for row in places])
    axes.minorticks_off()
    if len(table.columns) > 1:
        axes.legend()
    return _write(figure, path)


def _labels(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    return _lines(table, {row: float(row.split()[0]) for row in table.rows}, path, "share of the labels")


def _line(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    return _lines(table, {row: float(row) for row in table.rows}, path, table.title)


def _by_cost(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    places = {
        row: costs[table.first(row).network][f"ms at {SIDES[0]}"]
        for row in table.rows
        if table.first(row).network in costs
    }
    return _lines(table, places, path, f"milliseconds a face at {SIDES[0]}x{SIDES[0]}, one thread")


def _clouds(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    """NME over milliseconds, a cloud of seeds for each row."""
    figure, axes = _axes()
    drawn = False
    for row in table.rows:
        values = [100 * value for value in table.cells[row, table.columns[0]].values("nme").values()]
        if values and table.first(row).network in costs:
            drawn = True
            axes.plot([costs[table.first(row).network][f"ms at {SIDES[0]}"]] * len(values), values, "o", label=row)
    if not drawn:
        return False
    axes.set(
        xlabel=f"milliseconds a face at {SIDES[0]}x{SIDES[0]}, one thread", ylabel="validation NME, %, inter-ocular"
    )
    axes.legend()
    return _write(figure, path)


def _curves(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    """Validation NME after every epoch, a line for each row, the mean of its seeds."""
    figure, axes = _axes()
    drawn = False
    for row in table.rows:
        logs = [run.log for run in table.cells[row, table.columns[0]].runs if run.scores is not None]
        if logs:
            drawn = True
            nmes = np.mean([[100 * line["validation_nme"] for line in log] for log in logs], axis=0)
            axes.plot(np.arange(1, len(nmes) + 1), nmes, label=row)
    if not drawn:
        return False
    axes.set(xlabel="epoch", ylabel="validation NME, %, inter-ocular", yscale="log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.legend()
    return _write(figure, path)


def _heatmaps(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
    """The portrait under each row's first seed, side by side."""
    files = [run.folder / "heatmaps.png" for run in map(table.first, table.rows)]
    if not all(file.is_file() for file in files):
        return False
    write_picture(path, np.hstack([read_picture(file) for file in files]))
    return True


def _by_set(sets: Mapping[str, str]) -> Callable[[Table, Mapping[str, Any], Path], bool]:
    """A plot of NME over sets of pictures (measure to name), a line for each row, the mean of its seeds."""

    def plot(table: Table, costs: Mapping[str, Any], path: Path) -> bool:
        figure, axes = _axes()
        drawn = False
        for row in table.rows:
            cell = table.cells[row, table.columns[0]]
            scored = [run.scores for run in cell.runs if run.scores is not None and sets.keys() <= run.scores.keys()]
            if scored:
                drawn = True
                means = [100 * statistics.fmean(one[key] for one in scored) for key in sets]
                axes.plot([*sets.values()], means, "o-", label=row)
        if not drawn:
            return False
        axes.set(ylabel="validation NME, %, inter-ocular")
        axes.legend(title=table.axis)
        return _write(figure, path)

    return plot


PLOTS: dict[str, Callable[[Table, Mapping[str, Any], Path], bool]] = {
    "labels": _labels,
    "curves": _curves,
    "line": _line,
    "costs": _by_cost,
    "clouds": _clouds,
    "heatmaps": _heatmaps,
    "caricature": _by_set({"nme": "photographs", "weak": "weak", "medium": "medium", "strong": "strong"}),
    "night": _by_set({"nme": "photographs", "night": "night camera"}),
}
