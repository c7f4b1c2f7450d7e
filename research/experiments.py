"""The controlled comparisons of docs/results.md: configs/experiments/*.toml, one run after the other, resumable.

    python benchmarks/experiments.py list                                       # what there is, done and to do
    python benchmarks/experiments.py run --data PATH/TO/300w --unlabelled FACES  # goes on where it was stopped
    python benchmarks/experiments.py costs                                      # parameters, bytes, ms of each network
    python benchmarks/experiments.py report                                     # docs/results.md from the logs at hand

A table's rows and columns each change the recipe configs/experiments/base.toml; equal recipes of different tables are
one run. Runs go by ``turn``, then by seed. A finished run (scores.json) is skipped, a stopped one resumed.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from results import SIDES, report

from octamark.images import write_atomically

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "configs" / "experiments"
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
)


@dataclass(frozen=True)
class Run:
    """One recipe and where its run lives."""

    runs: Path
    label: str
    recipe: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:8]

    @cached_property
    def folder(self) -> Path:
        """Named for people, found by the recipe's digest."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")
        return next(self.runs.glob(f"*-{self.digest}"), self.runs / f"{slug}-{self.digest}")

    @property
    def network(self) -> str:
        """The shape's settings, as costs.json names them."""
        return json.dumps(self.recipe["network"], sort_keys=True)

    @cached_property
    def log(self) -> list[dict[str, float]]:
        path = self.folder / "log.csv"
        if not path.is_file():
            return []
        with path.open() as file:
            return [{key: float(value or 0) for key, value in row.items()} for row in csv.DictReader(file)]

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """What a finished run came to, None for one that is not finished."""
        path = self.folder / "scores.json"
        return json.loads(path.read_text()) if path.is_file() else None


@dataclass(frozen=True)
class Cell:
    """A place of a table: the same recipe with one or more seeds."""

    turn: int
    row: str
    column: str
    runs: tuple[Run, ...]

    def values(self, name: str) -> dict[int, float]:
        """A score by seed, of the finished runs."""
        return {run.recipe["seed"]: run.scores[name] for run in self.runs if run.scores and name in run.scores}


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    axis: str
    plot: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]

    def first(self, row: str) -> Run:
        return self.cells[row, self.columns[0]].runs[0]

    @cached_property
    def networks(self) -> set[str]:
        """The shapes that its rows compare."""
        return {self.first(row).network for row in self.rows}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in change.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def tables(runs: Path) -> Iterator[Table]:
    base = tomllib.loads((TABLES / "base.toml").read_text())
    for name in ORDER:
        one = tomllib.loads((TABLES / f"{name}.toml").read_text())
        cells = {}
        for row in one["rows"]:
            for column in one["columns"]:
                recipe = merged(merged(base, row.get("change", {})), column.get("change", {}))
                label = f"{name} {row['name']} {column['name']}"
                made = tuple(
                    Run(runs, f"{label} s{seed}", {**recipe, "seed": seed}) for seed in range(row.get("seeds", 1))
                )
                cells[row["name"], column["name"]] = Cell(row["turn"], row["name"], column["name"], made)
        heads = ([part["name"] for part in one[key]] for key in ("rows", "columns"))
        yield Table(name, one["title"], one["axis"], one["plot"], *heads, cells)


def in_turn(runs: Path) -> list[Run]:
    """Every run once, in the order they should be made."""
    wanted = [
        (cell.turn, seed, run) for table in tables(runs) for cell in table.cells.values()
        for seed, run in enumerate(cell.runs)
    ]  # fmt: skip
    once: dict[str, Run] = {}
    for _, _, run in sorted(wanted, key=lambda entry: entry[:2]):
        once.setdefault(run.digest, run)
    return list(once.values())


def state(run: Run) -> str:
    total = sum(stage["epochs"] for stage in run.recipe["stages"])
    return "done" if run.scores else f"{len(run.log)}/{total} epochs" if run.log else "to do"


def run_all(runs: Path, data: Path, faces: Path, only: str | None, hours: float) -> None:
    end, figures = time.monotonic() + hours * 3600, shown(runs)
    for run in in_turn(runs):
        if run.scores is not None or (only is not None and not re.search(only, run.label)):
            continue
        if time.monotonic() > end:
            print("time is up")
            return
        print(f"{time.strftime('%H:%M')}  {run.label}: {state(run)}", flush=True)
        run.folder.mkdir(parents=True, exist_ok=True)
        recipe = run.folder / "recipe.json"
        write_atomically(recipe, json.dumps(run.recipe, indent=2).encode())
        command = [
            sys.executable,
            "-m",
            "octamark",
            "train",
            str(recipe),
            "--data",
            str(data),
            "--out",
            str(run.folder),
        ]
        command += ["--device", "cpu"]
        command += ["--unlabelled", str(faces)] if "unlabelled" in run.recipe else []
        command += ["--resume"] if (run.folder / "last.safetensors").exists() else []
        with (run.folder / "output.txt").open("a") as output:
            try:  # held by the run itself for as long as it lives, also when this script was killed
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("  runs already, elsewhere", flush=True)
                continue
            code = subprocess.run(command, stderr=output, stdout=output).returncode
        if code:
            print(f"  failed ({code}), see {run.folder / 'output.txt'}", flush=True)
            continue
        from experiment_scores import score

        score(run.folder, data, figures[run.digest])


def shown(runs: Path) -> dict[str, set[str]]:
    """By each run's digest the scores beyond plain photographs' that its tables show."""
    found: dict[str, set[str]] = {}
    for table in tables(runs):
        figures = {"caricature": {"strong"}, "night": {"night"}}.get(table.plot, set())
        for cell in table.cells.values():
            for run in cell.runs:
                found.setdefault(run.digest, set()).update(figures)
    return found


def score_again(runs: Path, data: Path) -> None:
    """Score finished runs whose tables ask for figures that were not measured when they ended."""
    from experiment_scores import score

    figures = shown(runs)
    for run in in_turn(runs):
        wanted = figures[run.digest]
        if run.scores and (run.folder / "last.safetensors").is_file() and wanted - set(run.scores):
            print(run.label, flush=True)
            score(run.folder, data, wanted)


def costs(runs: Path) -> None:
    """Parameters, bytes and milliseconds (one thread, one face, the median of calls in turn) of each network."""
    import onnxruntime

    from octamark.nets.network import OctaveNetwork
    from octamark.release.sizes import untrained_onnx
    from octamark.training.recipe import parse
    from octamark.training.starting import network_config

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    compared = [table for table in tables(runs) if len(table.networks) > 1]
    shapes = {run.network: run.recipe for table in compared for run in map(table.first, table.rows)}
    found: dict[str, dict[str, float]] = {}
    sessions = {}
    for key, recipe in shapes.items():
        network = OctaveNetwork(network_config(parse(recipe, key))).eval()
        for side in SIDES:
            onnx = untrained_onnx("experiment", network, side)
            sessions[key, side] = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        found[key] = {"parameters": sum(p.numel() for p in network.parameters()), "bytes": len(onnx)}
    crops = {side: np.random.default_rng(0).integers(0, 256, (1, side, side, 3)).astype(np.uint8) for side in SIDES}
    times: dict[tuple[str, int], list[float]] = {place: [] for place in sessions}
    for _ in range(20):
        for (key, side), session in sessions.items():
            for call in range(6):
                start = time.perf_counter()
                session.run(None, {"crops": crops[side]})
                if call:
                    times[key, side].append((time.perf_counter() - start) * 1000)
    for (key, side), values in times.items():
        found[key][f"ms at {side}"] = statistics.median(values)
    runs.mkdir(parents=True, exist_ok=True)
    write_atomically(runs / "costs.json", json.dumps(found, indent=2).encode())
    print(json.dumps(found, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["list", "run", "score", "costs", "report"])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="where the runs live")
    parser.add_argument("--data", type=Path, help="300W")
    parser.add_argument("--unlabelled", type=Path, help="what octamark crops wrote")
    parser.add_argument("--only", help="run those alone whose label matches this expression, such as '^labels 10 %%'")
    parser.add_argument("--hours", type=float, default=1e6, help="start no run after so long")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill takes the training run with it
    if asked.verb == "list":
        for run in in_turn(asked.runs):
            print(f"{state(run):>14}  {run.label}  ({run.folder.name})")
    elif asked.verb == "run":
        if asked.data is None or asked.unlabelled is None:
            parser.error("run needs --data and --unlabelled")
        run_all(asked.runs, asked.data, asked.unlabelled, asked.only, asked.hours)
    elif asked.verb == "score":
        score_again(asked.runs, asked.data)
    elif asked.verb == "costs":
        costs(asked.runs)
    else:
        print(report(list(tables(asked.runs)), asked.runs, ROOT / "docs"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; the next call goes on from the last whole epoch") from None
