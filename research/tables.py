"""The experiments that are wanted (``configs/*.toml``) and what each finished run came to (``results.csv``).

``results.csv`` has one row per run: the table, row and column that it was made for, its seed, the recipe keys in which
it differs from ``configs/base.toml`` (an empty cell is the value of base.toml), its scores, the last line of its
training log, the NME after every epoch, and what its network costs. Two tables that ask for the same recipe share the
run. All columns but ``table``, ``row``, ``column`` and ``unlabelled_faces`` hold JSON values.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from octamark.images import write_atomically

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
RESULTS = HERE / "results.csv"
ORDER = (
    "optimiser",
    "labels",
    "distillation",
    "loss",
    "beta",
    "target_scale",
    "width",
    "octaves",
    "regional",
    "caricature",
    "frequency",
    "sensor",
    "rendered",
    "rendered_number",
)
"""The tables, in the order of the report."""

SIDES = (128, 224)
"""Input sides at which networks are timed: that of the experiments, that of the released models."""

TEXT = ("table", "row", "column", "unlabelled_faces")
"""Columns of results.csv whose cells are plain text."""

SCORES = (
    "nme", "best_nme", "failures", "failures_10", "without_offsets", "portraits", "entropy", "spread", "global_nme",
    "eyes_nme", "mouth_nme", "views_apart", "weak",
    "medium", "strong", "night", "faces", "seconds", "unlabelled_faces",
    *(f"teacher_{kind}_{quarter}" for quarter in range(1, 5) for kind in ("error", "spread")),
)  # fmt: skip
"""Columns that hold scores. NME and failures are shares, not percent; entropy is in nats; ``spread`` and the teacher's
spread are heatmap pixels; the teacher's error is in percent, by quarter of its spread. Of networks that learned from
rendered heads: ``without_offsets`` is the NME after each point's mean error, two numbers a point, is taken out;
``portraits`` the mean error on the London set at the points that both layouts have, as a share of the inter-ocular
distance."""

COSTS = ("parameters", "bytes", *(f"ms_{side}" for side in SIDES))
"""Columns that hold what a network costs."""

Recipe = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A place in a table: one recipe, with one or more seeds."""

    table: str
    row: str
    column: str
    turn: int
    recipes: tuple[Recipe, ...]
    retired: str = ""
    """Why its runs cannot be made any more; empty where they can."""


@dataclass(frozen=True)
class Table:
    """A comparison: rows and columns that each change the recipe of base.toml."""

    name: str
    title: str
    axis: str
    measures: tuple[str, ...]
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    plot: str = ""
    reading: str = ""
    aims: dict[str, float] | None = None

    def recipe(self, row: str) -> Recipe:
        """The recipe of a row's first column and seed."""
        return self.cells[row, self.columns[0]].recipes[0]

    @cached_property
    def compares_networks(self) -> bool:
        return len({network_key(self.recipe(row)) for row in self.rows}) > 1


def network_key(recipe: Recipe) -> str:
    """The settings of a recipe's network as one string."""
    return json.dumps(recipe["network"], sort_keys=True)


def base_recipe() -> Recipe:
    """The recipe that all experiments change."""
    return tomllib.loads((CONFIGS / "base.toml").read_text(encoding="utf-8"))


def merged(recipe: Recipe, change: Recipe) -> Recipe:
    """The recipe with a change laid over it, table by table."""
    out = dict(recipe)
    for key, value in change.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def tables() -> list[Table]:
    """All tables, in the order of the report."""
    return [_table(name, base_recipe()) for name in ORDER]


def _table(name: str, base: Recipe) -> Table:
    content = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))
    cells = {}
    for row in content["rows"]:
        for column in content["columns"]:
            recipe = merged(merged(base, row.get("change", {})), column.get("change", {}))
            recipes = tuple({**recipe, "seed": seed} for seed in range(row.get("seeds", 1)))
            cells[row["name"], column["name"]] = Cell(
                name, row["name"], column["name"], row["turn"], recipes, row.get("retired", "")
            )
    return Table(
        name, content["title"], content["axis"], tuple(content.get("measures", ())),
        [row["name"] for row in content["rows"]], [column["name"] for column in content["columns"]], cells,
        content.get("plot", ""), content.get("reading", ""), content.get("aims"),
    )  # fmt: skip


def flattened(recipe: Recipe, prefix: str = "") -> dict[str, str]:
    """A recipe as ``loss.name`` -> JSON value, without its name; lists count from 0 (``stages.0.size``)."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "name":
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def same_run(recipe: Recipe) -> str:
    """A string that is equal for equal recipes: what a run is known by."""
    return json.dumps(flattened(recipe), sort_keys=True)


class Results:
    """The finished runs.

    Args:
        path: results.csv; a file that does not exist holds no runs.
    """

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))
        base = flattened(base_recipe())
        self._by_run = {}
        for row in self.rows:
            changed = {key: value for key, value in row.items() if is_recipe_key(key) and value}
            self._by_run[json.dumps(base | changed, sort_keys=True)] = row

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, recipe: Recipe) -> dict[str, Any] | None:
        """The figures of a finished run by column, None if there is no such run."""
        row = self._by_run.get(same_run(recipe))
        if row is None:
            return None
        known = {key: value for key, value in row.items() if value and not is_recipe_key(key)}
        return {key: value if key in TEXT else json.loads(value) for key, value in known.items()}

    def values(self, cell: Cell, measure: str) -> dict[int, float]:
        """A measure of a cell's finished runs by seed."""
        found = {recipe["seed"]: self.find(recipe) for recipe in cell.recipes}
        return {seed: row[measure] for seed, row in found.items() if row is not None and measure in row}

    def costs(self, recipe: Recipe) -> dict[str, float] | None:
        """What a recipe's network costs, None if it was not measured."""
        wanted = flattened({"network": recipe["network"]})
        base = flattened({"network": base_recipe()["network"]})
        for row in self.rows:
            network = base | {key: value for key, value in row.items() if key.startswith("network.") and value}
            if network == wanted and row.get(COSTS[0]):
                return {key: json.loads(row[key]) for key in COSTS}
        return None

    def set_costs(self, recipe: Recipe, costs: dict[str, float]) -> None:
        """Set what the network of a finished run costs; nothing happens if there is no such run."""
        row = self._by_run.get(same_run(recipe))
        if row is not None:
            row |= {key: json.dumps(costs[key]) for key in COSTS}

    def write(self) -> None:
        """Write the file: columns in order, rows by table, then as they came."""
        keys = {key for row in self.rows for key in row}
        log = sorted(key for key in keys if key.startswith("log."))
        recipe = sorted(key for key in keys if is_recipe_key(key) and key != "seed")
        columns = ["table", "row", "column", "seed", *recipe, *SCORES, *log, "nme_by_epoch", *COSTS]
        self.rows.sort(key=lambda row: ORDER.index(row["table"]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())


def is_recipe_key(column: str) -> bool:
    """Whether a column of results.csv holds a recipe's setting."""
    return column in ("seed", "normaliser") or column.partition(".")[0] in RECIPE_SECTIONS


RECIPE_SECTIONS = (
    "augment", "caricature", "data", "distillation", "loss", "network", "optimiser", "regional", "stages", "unlabelled",
)  # fmt: skip


def row_of(cell: Cell, recipe: Recipe, scores: dict[str, Any], log: list[dict[str, float]]) -> dict[str, str]:
    """The row of results.csv for a finished run.

    Args:
        scores: by column, see ``SCORES``; None is an empty cell.
        log: the lines of the run's training log.
    """
    base, recipe_cells = flattened(base_recipe()), flattened(recipe)
    row = {"table": cell.table, "row": cell.row, "column": cell.column}
    row |= {key: value for key, value in recipe_cells.items() if base.get(key) != value}
    row |= {key: value if key in TEXT else json.dumps(value) for key, value in scores.items() if value is not None}
    row |= {f"log.{key}": json.dumps(value) for key, value in log[-1].items()}
    return row | {"nme_by_epoch": json.dumps([line["validation_nme"] for line in log])}


def append(path: Path, recipe: Recipe, row: dict[str, str]) -> None:
    """Add the row of a finished run to results.csv, with its network's costs where they are known.

    Several processes may do so at once.
    """
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = Results(path)
        costs = results.costs(recipe) or {}
        results.rows.append(row | {key: json.dumps(value) for key, value in costs.items()})
        results.write()


def all_cells() -> Iterator[Cell]:
    """Every cell of every table."""
    for table in tables():
        yield from table.cells.values()
