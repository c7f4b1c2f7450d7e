"""`octamark batch`: its rate beside `octamark predict`, its memory, what it survives, and what a million pictures cost.

    python -m benchmarks.scale [--only rate,memory,kills,costs,simulation] [--model tiny-128] [--update]

The pictures are views of NASA's portrait of Eileen Collins, which comes with scikit-image, as JPEG files of 512x512
pixels; every picture of a run is a file of its own. `simulation` measures its times as `costs` does."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.scale_simulation import Assumed, Measured, scenarios, simulate
from benchmarks.throughput import VIEWS, write_views

ALL = ("rate", "memory", "kills", "costs", "simulation")
DATA = "views of one portrait, JPEG, 512x512"
PRICE = 0.04
"""US dollars for a core and an hour: an assumption, about what the large clouds ask for shared machines."""


def octamark(*arguments: str | Path, processors: int | None = None, **options: object) -> subprocess.Popen[str]:
    """The command, started; on the first processors of this machine."""
    allowed = sorted(os.sched_getaffinity(0))[:processors]
    return subprocess.Popen(
        [sys.executable, "-m", "octamark", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, allowed), **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """What a command wrote to standard error; it must have succeeded."""
    _, text = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))}: exit code {process.returncode}\n{text}")  # type: ignore[arg-type]
    return text


def write_copies(folder: Path, count: int) -> list[Path]:
    """So many pictures in a folder: the views in turn, each a link of its own to the file."""
    views = folder / "views"
    pictures = folder / "pictures"
    for place in (views, pictures):
        place.mkdir()
    write_views(views)
    paths = [pictures / f"{number:06}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        os.link(views / f"{number % VIEWS}.jpg", path)
    return paths


def rate(folder: Path, model: str, count: int, rounds: int) -> Measurement:
    """Pictures per second of both commands, from the first moment of the command to its end."""
    write_copies(folder, count)
    calls = {
        ("octamark predict --threads 1", 2): ("predict", "-f", "jsonl", "--threads", "1"),
        ("octamark batch --workers 1", 2): ("batch", "--workers", "1"),
        ("octamark batch --workers 2", 2): ("batch", "--workers", "2"),
    }
    seconds: dict[tuple[str, int], list[float]] = {call: [] for call in calls}
    for number in range(rounds):
        for call, (verb, *options) in calls.items():
            out = folder / f"{verb}-{number}-{options[-1]}"
            start = time.perf_counter()
            ended(octamark(verb, folder / "pictures", "-o", out, "-m", model, *options, processors=call[1]))
            seconds[call].append(time.perf_counter() - start)
            print(call[0], f"{count / seconds[call][-1]:.1f} pictures per second", file=sys.stderr, flush=True)
            shutil.rmtree(out)
    reference = min(seconds["octamark predict --threads 1", 2])
    rows: list[list[Value]] = [
        [f"`{name}`", processors, count / min(times), min(times) / reference - 1 if name.endswith("2") else None]
        for (name, processors), times in seconds.items()
    ]
    return Measurement(
        name="scale-rate",
        page="scale",
        title="Pictures per second beside `octamark predict`",
        text=f"{count:,} pictures, `{model}`, on two processors, with the start and the end of Ray. *Overhead* is the "
        "time over that of `octamark predict`, which decodes and reads on two threads of one process.",
        columns=(("command", ""), ("processors", "d"), ("pictures per second", ".1f"), ("overhead", ".1%")),
        rows=rows,
        command=f"python -m benchmarks.scale --only rate --model {model} --pictures {count} --rounds {rounds}",
        data=DATA,
    )


def worker_memory() -> dict[int, tuple[float, float]]:
    """Process id -> resident and own (not shared) memory in MB, of the workers of all jobs on this machine."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                lines = (place / "smaps_rollup").read_text().splitlines()[1:]
                sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
                found[int(place.name)] = sizes["Rss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"]
        except (OSError, KeyError):
            continue
    return found


def memory(folder: Path, model: str, count: int) -> Measurement:
    """Memory of two workers over a long run."""
    write_copies(folder, count)
    process = octamark("batch", folder / "pictures", "-o", folder / "out", "-m", model, "--workers", "2")
    samples: list[tuple[float, float, float]] = []
    texts: list[str] = []
    reader = threading.Thread(target=lambda: texts.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    start = time.monotonic()
    while process.poll() is None:
        for resident, private in worker_memory().values():
            samples.append((time.monotonic() - start, resident, private))
        time.sleep(1)
    reader.join()
    if process.returncode:
        raise SystemExit(texts[0])
    times, residents, privates = (np.array(values) for values in zip(*samples, strict=True))
    span = times[-1] - times[0]
    rows: list[list[Value]] = []
    for name, low, high in (("first tenth", 0.05, 0.1), ("half", 0.45, 0.55), ("last tenth", 0.9, 1.0)):
        part = (times >= times[0] + low * span) & (times <= times[0] + high * span)
        rows.append([name, float(np.median(residents[part])), float(np.median(privates[part]))])
    rows.append(["largest", float(residents.max()), float(privates.max())])
    return Measurement(
        name="scale-memory",
        page="scale",
        title="Memory of a worker",
        text=f"{count:,} pictures, `{model}`, two workers; the medians of samples of a second in these parts of the "
        "run, and the largest sample. *Resident* counts what workers share with each other in each of them.",
        columns=(("part of the run", ""), ("resident, MB", ".0f"), ("its own, MB", ".0f")),
        rows=rows,
        command=f"python -m benchmarks.scale --only memory --model {model} --pictures {count}",
        data=DATA,
    )


def rows_of(out: Path) -> list[str]:
    """The rows of a result as text, sorted."""
    from octamark.io.parquet import read_batches

    return sorted(json.dumps(row) for batch in read_batches(str(out)) for row in batch.to_pylist())


def descendants(process: int) -> list[int]:
    """The workers of a job whose driver is this process: they are children of its raylet."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = []
    for worker in worker_memory():
        above = worker
        while above in parents and above != process:
            above = parents[above]
        if above == process:
            found.append(worker)
    return found


def kills(folder: Path, model: str, count: int, runs: int) -> Measurement:
    """Runs of which a worker or the driver is killed, and then gone on from until they are through."""
    write_copies(folder, count)
    rng = random.Random(0)
    common = ("batch", folder / "pictures", "-m", model, "--workers", "2", "--part-size", "40")
    process = octamark(*common, "-o", folder / "unbroken")
    while process.poll() is None and not descendants(process.pid):
        time.sleep(0.05)
    start = time.monotonic()
    ended(process)
    reading = time.monotonic() - start
    expected = rows_of(folder / "unbroken")
    figures = {kind: [0, 0, 0, 0, 0] for kind in ("worker", "driver")}
    for number in range(runs):
        kind = ("worker", "driver")[number % 2]
        out = folder / f"run-{number}"
        process = octamark(*common, "-o", out)
        kept = killed = 0
        while process.poll() is None and not descendants(process.pid):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.8 * reading))
        if process.poll() is None:
            victims = descendants(process.pid) if kind == "worker" else [process.pid]
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed = 1
        process.communicate()
        if process.returncode:
            kept = len(rows_of(out)) if list(out.glob("part-*")) else 0
            ended(octamark(*common, "-o", out, "--resume"))
        found = rows_of(out)
        figure = figures[kind]
        for index, value in enumerate(
            (1, killed, found == expected, len(set(expected) - set(found)), len(found) - len(set(found)))
        ):
            figure[index] += value
        print(kind, "killed" if killed else "too late", f"{kept} rows kept", found == expected, file=sys.stderr)
    return Measurement(
        name="scale-kills",
        page="scale",
        title="Killed workers and drivers",
        text=f"{count} pictures, two workers, parts of 40 pictures. At a random moment a worker, or the driver with "
        "the command, gets SIGKILL; a job that ended is gone on from with `--resume`. The rows are compared, sorted, "
        "with those of a run in which nothing was killed.",
        columns=(
            ("killed", ""), ("runs", "d"), ("killed before the end", "d"), ("equal results", "d"), ("rows lost", "d"),
            ("rows twice", "d"),
        ),
        rows=[[kind, *figure] for kind, figure in figures.items()],
        command=f"python -m benchmarks.scale --only kills --model {model} --pictures {count} --runs {runs}",
        data=DATA,
    )  # fmt: skip


def single_times(folder: Path, model: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part of the work by its name, one entry per view: the fastest of the rounds. ``picture`` has the
    sums of all rounds, ``bytes`` the size of a row in the result."""
    from octamark import load
    from octamark.io.parquet import open_part, table
    from octamark.io.places import place
    from octamark.io.records import Record

    write_views(folder)
    landmarker = load(model, threads=1)
    fastest: dict[str, list[float]] = {"picture": []}
    landmarker(str(folder / "0.jpg"))  # warm
    for _ in range(rounds):
        for number in range(VIEWS):
            path = str(folder / f"{number}.jpg")
            marks = [time.perf_counter()]
            picture = landmarker.decode(path, reduce=True)
            marks.append(time.perf_counter())
            located = landmarker.locate(picture)
            marks.append(time.perf_counter())
            (faces,) = landmarker.read_located([located])
            marks.append(time.perf_counter())
            records = [Record(path, "", model, faces)] * 100
            before = time.perf_counter()
            with open_part(place(folder / "part.parquet")) as part:
                part.write_table(table(records))
            write = (time.perf_counter() - before) / len(records)
            parts = [*np.diff(marks), write]
            fastest["picture"].append(sum(parts))
            for name, value in zip(("decode", "detect", "landmarks", "write"), parts, strict=True):
                times = fastest.setdefault(name, [np.inf] * VIEWS)
                times[number] = min(times[number], value)
    fastest["bytes"] = [(folder / "part.parquet").stat().st_size / 100]
    return fastest


class NoPredictor:
    """A predictor that reads nothing, to measure the engine alone."""

    def __init__(self, predictor: object) -> None:
        self.landmarker = predictor.landmarker  # type: ignore[attr-defined]
        self.file = self.landmarker.card.name, self.landmarker.layout.name

    def outcomes(self, files: Sequence[str]) -> Iterator[object]:
        from octamark.io.parquet import Failure

        return (Failure(file, "not read", *self.file) for file in files)


def engine_times(folder: Path, model: str, count: int = 40_000) -> dict[str, float]:
    """Seconds of the driver per call and per part, of a worker's start, and of the scan per picture of a result."""
    import ray

    from octamark.cluster import JobOptions, LandmarkPredictor, run
    from octamark.cluster.job import _connected, _earlier
    from octamark.io.places import place

    predictor = LandmarkPredictor(model)
    names = [f"/pictures/of/a/folder/{number:08}.jpg" for number in range(count)]

    def driver_seconds(batch: int, part: int, out: Path) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF)
        run(names, out, NoPredictor(predictor), JobOptions(batch=batch, part=part))  # type: ignore[arg-type]
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with _connected(JobOptions(workers=2), count):
        driver_seconds(1000, 100_000, folder / "warm")
        few = driver_seconds(1000, 100_000, folder / "few")
        calls = driver_seconds(16, 100_000, folder / "calls")
        parts = driver_seconds(1000, 1000, folder / "parts")
        start = time.perf_counter()
        run(names[:1], folder / "start", NoPredictor(predictor), JobOptions(workers=1))  # type: ignore[arg-type]
        begun = time.perf_counter() - start
    start = time.perf_counter()
    _earlier(place(folder / "few"), predictor, JobOptions(resume=True))
    scan = (time.perf_counter() - start) / count
    size = sum(map(sys.getsizeof, names)) / count + 2 * 8
    return {
        "call": max(0.0, (calls - few) / (count / 16)),
        "commit": max(0.0, (parts - few) / (count / 1000)),
        "start": begun,
        "scan": scan,
        "name": size,
    }


def costs(folder: Path, model: str, rounds: int) -> tuple[Measurement, Measured]:
    """What a million pictures take, from measured parts; and the measured times, for the simulation."""
    times = single_times(folder, model, rounds)
    engine = engine_times(folder, model)
    rows: list[list[Value]] = []
    total = 0.0
    for name in ("decode", "detect", "landmarks", "write"):
        seconds = statistics.mean(times[name])
        total += seconds
        rows.append([name, seconds * 1000, seconds * 1e6 / 3600, seconds * 1e6 / 3600 * PRICE])
    driver = engine["call"] / 16 + engine["commit"] / 1000
    rows += [
        ["all of a worker", total * 1000, total * 1e6 / 3600, total * 1e6 / 3600 * PRICE],
        ["driver", driver * 1000, driver * 1e6 / 3600, driver * 1e6 / 3600 * PRICE],
    ]
    measured = Measured(np.array(times["picture"]), engine["start"], engine["call"], engine["commit"], engine["scan"])
    text = (
        f"One core, `{model}`; one face per picture; the fastest of {rounds} rounds of each of {VIEWS} views. A core "
        f"is taken to cost {PRICE:.2f} US dollars per hour, which is an assumption. Pictures are on a local disk; "
        f"traffic and storage are not in it. A picture takes {times['bytes'][0]:.0f} bytes of the result. The driver "
        f"takes {engine['call'] * 1000:.2f} ms for a batch of pictures and {engine['commit'] * 1000:.1f} ms for a "
        f"part, a worker {engine['start']:.1f} s to start, `--resume` {engine['scan'] * 1e6:.1f} s for a million "
        f"pictures that are there. Names of {engine['name']:.0f} bytes each are in the memory of the driver. The row "
        "of the driver is for batches of 16 and parts of 1,000 pictures."
    )
    measurement = Measurement(
        name="scale-costs",
        page="scale",
        title="What a million pictures cost",
        text=text,
        columns=(("part", ""), ("ms per picture", ".2f"), ("core hours per million", ".2f"), ("dollars", ".2f")),
        rows=rows,
        command=f"python -m benchmarks.scale --only costs --model {model}",
        data=DATA,
    )
    return measurement, measured


def simulation(measured: Measured, model: str, seeds: int) -> Measurement:
    """A billion pictures on a thousand workers, simulated."""
    base = Assumed()
    rows: list[list[Value]] = []
    for name, assumed in scenarios(base).items():
        outcomes = [simulate(measured, assumed, seed) for seed in range(seeds)]
        hours = [outcome.hours for outcome in outcomes]
        rows.append([
            name, [statistics.mean(hours), min(hours), max(hours)], statistics.mean(one.overhead for one in outcomes),
            statistics.mean(one.read_again for one in outcomes) / 1e6, statistics.mean(one.deaths for one in outcomes),
            statistics.mean(one.driver_load for one in outcomes),
        ])  # fmt: skip
        print(name, f"{statistics.mean(hours):.2f} hours", file=sys.stderr, flush=True)
    return Measurement(
        name="scale-simulation",
        page="scale",
        title="A billion pictures on a thousand workers, simulated",
        text=f"{base.pictures:,} pictures, {base.workers:,} workers, {base.per_machine} on a machine; `{model}`. The "
        "simulation draws from the measured times of the table above: of pictures (those of all rounds), of the start "
        "of a worker, of the driver's calls and commits, of `--resume`. Assumed are: the failures that the rows name, "
        "each row with those before it; speeds of machines with a standard deviation of 10 %; "
        f"{base.replacement:.0f} s until a lost machine is replaced; {base.driver_restart:.0f} s until a driver is "
        "started again, by hand or by a "
        "scheduler; that the store of the pictures keeps up; that the driver has the memory for a billion names "
        "(more than 100 GB: a list in several parts, each a job of its own, does without). *Hours* are the mean of "
        f"{seeds} seeds, with the smallest and the largest. *Overhead* is over all workers reading at their speed "
        "without a pause. *Driver* is the share of the time in which it works: towards 100 % workers wait for it, and "
        "larger batches help.",
        columns=(
            ("what fails", ""), ("hours", ".2f"), ("overhead", ".1%"), ("read again, millions", ".2f"),
            ("workers lost", ",.0f"), ("driver", ".0%"),
        ),
        rows=rows,
        command=f"python -m benchmarks.scale --only simulation --model {model}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ALL), help=f"some of {', '.join(ALL)}, with commas")
    parser.add_argument("--model", default="tiny-128")
    parser.add_argument("--pictures", type=int, help="5000 for rate, 20000 for memory, 400 for kills")
    parser.add_argument("--rounds", type=int, default=1, help="turns of the commands of rate; those of costs are 5")
    parser.add_argument("--runs", type=int, default=20, help="of kills")
    parser.add_argument("--seeds", type=int, default=3, help="of the simulation")
    add_update_option(parser)
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if unknown := set(only) - set(ALL):
        parser.error(f"--only {', '.join(sorted(unknown))}; allowed: {', '.join(ALL)}")
    for name in only:
        with tempfile.TemporaryDirectory(prefix="octamark-scale-") as temporary:
            folder = Path(temporary)
            if name == "rate":
                result = [rate(folder, arguments.model, arguments.pictures or 5000, arguments.rounds)]
            elif name == "memory":
                result = [memory(folder, arguments.model, arguments.pictures or 20_000)]
            elif name == "kills":
                result = [kills(folder, arguments.model, arguments.pictures or 400, arguments.runs)]
            elif name == "simulation" and "costs" in only:
                continue  # comes with it
            else:
                measurement, measured = costs(folder, arguments.model, rounds=5)
                result = [measurement] if name == "costs" else []
                if "simulation" in only:
                    result.append(simulation(measured, arguments.model, arguments.seeds))
            finish(result, arguments.update)


if __name__ == "__main__":
    main()
