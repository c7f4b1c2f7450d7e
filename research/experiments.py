"""Run the experiments of research/configs, one training run after the other; a stopped one is resumed.

    python -m research.experiments list                                        # all runs: done, begun, to do
    python -m research.experiments run --data PATH/TO/300w --unlabelled FACES   # goes on where it was stopped
    python -m research.experiments costs                                       # parameters, bytes, ms of each network
    python -m research.report                                                  # the page from research/results.csv

Rows and columns of a table each change the recipe research/configs/base.toml; equal recipes of different tables are
one run. Runs go by ``turn``, then by seed. A finished run is a row of research/results.csv and is skipped; an
unfinished one lives in a folder below runs/experiments. Several processes may run at once."""

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
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from research.tables import (
    RESULTS,
    SIDES,
    Cell,
    Recipe,
    Results,
    all_cells,
    append,
    base_recipe,
    network_key,
    row_of,
    same_run,
    tables,
)

from octamark.images import write_atomically

SLOW_SCORES = ("strong", "night")
"""Scores that take longer than the training run's own, and are measured only where a table shows them."""


@dataclass(frozen=True)
class Run:
    """A training run: the first cell that asks for it, its recipe, and the slow scores that any table shows of it."""

    cell: Cell
    recipe: Recipe
    slow_scores: frozenset[str]

    @property
    def label(self) -> str:
        return f"{self.cell.table} {self.cell.row} {self.cell.column} s{self.recipe['seed']}"

    def folder(self, runs: Path) -> Path:
        """Its folder: named for people, told apart by a digest of the recipe."""
        digest = hashlib.sha256(same_run(self.recipe).encode()).hexdigest()[:8]
        slug = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")
        return next(runs.glob(f"*-{digest}"), runs / f"{slug}-{digest}")


def wanted_runs() -> list[Run]:
    """Every run once, in the order in which they should be made; those of retired rows are left out."""
    measures = {table.name: table.measures for table in tables()}
    entries = sorted(
        ((cell.turn, seed, cell, recipe) for cell in all_cells() for seed, recipe in enumerate(cell.recipes)),
        key=lambda entry: entry[:2],
    )
    slow: dict[str, set[str]] = {}
    first: dict[str, tuple[Cell, Recipe]] = {}
    for _, _, cell, recipe in entries:
        key = same_run(recipe)
        slow.setdefault(key, set()).update(set(SLOW_SCORES) & set(measures[cell.table]))
        if not cell.retired:
            first.setdefault(key, (cell, recipe))
    return [Run(cell, recipe, frozenset(slow[key])) for key, (cell, recipe) in first.items()]


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log; none if it has not begun."""
    path = folder / "log.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in line.items() if value} for line in csv.DictReader(file)]


def state(run: Run, runs: Path, results: Results) -> str:
    """``done``, ``3/10 epochs`` or ``to do``."""
    if results.find(run.recipe) is not None:
        return "done"
    log, total = read_log(run.folder(runs)), sum(stage["epochs"] for stage in run.recipe["stages"])
    return f"{len(log)}/{total} epochs" if log else "to do"


def run_all(arguments: argparse.Namespace) -> None:
    """Make every run that is not in the results."""
    end = time.monotonic() + arguments.hours * 3600
    for run in wanted_runs():
        if Results(arguments.results).find(run.recipe) is not None:
            continue
        if arguments.only is not None and not re.search(arguments.only, run.label):
            continue
        if time.monotonic() > end:
            print("time is up")
            return
        print(f"{time.strftime('%H:%M')}  {run.label}", flush=True)
        make(run, arguments)


def make(run: Run, arguments: argparse.Namespace) -> None:
    """Train one run, or finish one that was stopped, and append its row to the results."""
    folder = run.folder(arguments.runs)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.json"
    write_atomically(recipe, json.dumps(run.recipe, indent=2).encode())
    command = [sys.executable, "-m", "octamark", "train", str(recipe), "--device", "cpu"]
    rendered = isinstance(run.recipe.get("data"), list)
    if rendered:
        command += ["--data", f"rendered={first_pictures(run.recipe['data'][0]['path'], arguments)}"]
        command += ["--data", f"london={arguments.portraits}"]
    else:
        command += ["--data", str(arguments.data)]
    command += ["--out", str(folder)]
    if "unlabelled" in run.recipe:
        command += ["--unlabelled", str(arguments.free_unlabelled if rendered else arguments.unlabelled)]
    if (folder / "last.safetensors").exists():
        command.append("--resume")
    with (folder / "output.txt").open("a") as output:
        try:  # the training process inherits the lock, and holds it also after this script was killed
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  is running in another process", flush=True)
            return
        code = subprocess.run(command, stderr=output, stdout=output).returncode
    if code:
        print(f"  failed ({code}), see {folder / 'output.txt'}", flush=True)
        return
    from research.scores import score

    scores = score(folder, arguments.data, run.slow_scores, arguments.portraits)
    row = row_of(run.cell, run.recipe, scores, read_log(folder))
    append(arguments.results, run.recipe, row)


def first_pictures(name: str, arguments: argparse.Namespace) -> Path:
    """A COCO file of the first of the rendered pictures, as many as its name says: ``first-2000.json``.

    Raises:
        SystemExit: fewer pictures are there.
    """
    count = int(re.findall(r"\d+", name)[0])
    table = json.loads((arguments.rendered / "landmarks-ibug68.json").read_text(encoding="utf-8"))
    if len(table["images"]) < count:
        raise SystemExit(f"{arguments.rendered}: {len(table['images'])} pictures; {count} are needed")
    table["images"], table["annotations"] = table["images"][:count], table["annotations"][:count]
    path: Path = arguments.rendered / name
    write_atomically(path, json.dumps(table).encode())
    return path


def measure_costs(path: Path) -> None:
    """Measure parameters, bytes and milliseconds (one thread, one face, median of alternating calls) of each network
    of the experiments, and write them into the results."""
    import onnxruntime
    from benchmarks.sizes import untrained_onnx
    from benchmarks.timing import take_turns

    from octamark.nets.network import OctaveNetwork
    from octamark.training.recipe import parse
    from octamark.training.starting import network_config

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    crops = {side: np.random.default_rng(0).integers(0, 256, (1, side, side, 3)).astype(np.uint8) for side in SIDES}
    costs: dict[str, dict[str, float]] = {}
    tasks = {}
    for key, recipe in {network_key(recipe): recipe for cell in all_cells() for recipe in cell.recipes}.items():
        network = OctaveNetwork(network_config(parse({**base_recipe(), "network": recipe["network"]}, key))).eval()
        costs[key] = {"parameters": sum(parameter.numel() for parameter in network.parameters())}
        for side in SIDES:
            onnx = untrained_onnx("experiment", network, side)
            costs[key]["bytes"] = len(onnx)
            session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
            tasks[json.dumps([key, side])] = lambda _, session=session, side=side: session.run(
                None, {"crops": crops[side]}
            )
    for name, times in take_turns(tasks, rounds=20, timed=5, untimed=1).items():
        key, side = json.loads(name)
        costs[key][f"ms_{side}"] = statistics.median(times)
    results = Results(path)
    for recipe in (recipe for cell in all_cells() for recipe in cell.recipes):
        results.set_costs(recipe, costs[network_key(recipe)])
    results.write()
    print(json.dumps(costs, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["list", "run", "costs"])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of unfinished runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table of finished runs")
    parser.add_argument("--data", type=Path, help="300W's folder")
    parser.add_argument("--unlabelled", type=Path, help="the file or folder that `octamark crops` wrote")
    parser.add_argument("--rendered", type=Path, help="a folder of octamark render, with landmarks-ibug68.json")
    parser.add_argument("--portraits", type=Path, help="the London set's file of landmarks (COCO keypoints)")
    parser.add_argument("--free-unlabelled", type=Path, help="pictures of free terms without labels, or their crops")
    parser.add_argument("--only", help="only runs whose label matches this regular expression, e.g. '^labels 10 %%'")
    parser.add_argument("--hours", type=float, default=1e6, help="start no run after so many hours")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops the training process as well
    if arguments.verb == "list":
        results = Results(arguments.results)
        for run in wanted_runs():
            print(f"{state(run, arguments.runs, results):>14}  {run.label}")
    elif arguments.verb == "run":
        if arguments.data is None or arguments.unlabelled is None:
            parser.error("run needs --data and --unlabelled")
        run_all(arguments)
    else:
        measure_costs(arguments.results)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; the next call goes on from the last whole epoch") from None
