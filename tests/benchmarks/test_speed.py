"""The speed benchmark: its processes, its turns, its ratios, its environments, and the README's figures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.environments import make_environment
from benchmarks.measurements import Measurement
from benchmarks.report import readme, readme_figures
from benchmarks.speed import BASELINE, THIS, TURNS, VIEWS, Timings, measure, other_work, ratio, rows
from benchmarks.speed_calls import BATCH, BATCHED, DETECTION, LANDMARKS, PORTRAIT, WHOLE, Inputs
from benchmarks.workers import Worker, WorkerError

Name = tuple[str, str]


class Recorder:
    """In place of a worker: its calls take the given milliseconds, and their order is kept."""

    def __init__(self, title: str, milliseconds: dict[Name, float], log: list[tuple[str, Name]]) -> None:
        self.title, self.milliseconds, self.log = title, milliseconds, log
        self.calls = list(milliseconds)
        self.numbers: dict[Name, list[list[int]]] = {call: [] for call in self.calls}
        self.elapsed = self.worked = 0.0

    def turn(self, call: Name, numbers: list[int], untimed: int) -> tuple[list[float], list[int]]:
        self.log.append((self.title, call))
        self.numbers[call].append(numbers)
        return [self.milliseconds[call]] * (len(numbers) - untimed), [0] + [1] * (len(numbers) - 1)


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Path]:
    """A folder of pictures without faces."""
    black = np.zeros((VIEWS, 512, 512, 3), np.uint8)
    Inputs(black, black, np.tile(np.float32([0, 0, 9, 9]), (VIEWS, 1)), b"").save(tmp_path)
    return tmp_path


def test_a_worker_measures_what_it_is_asked_for(inputs: Path) -> None:
    worker = Worker(sys.executable, "benchmarks.speed_calls", "opencv", str(inputs))
    try:
        assert worker.calls == [(DETECTION, "OpenCV YuNet")]
        assert worker.version
        times, faces = worker.turn(worker.calls[0], [3, 4, 5], 1)
        assert len(times) == 2
        assert min(times) > 0
        assert faces == [0, 0, 0]
        assert worker.worked > 0
        assert sum(times) / 1000 < worker.elapsed
    finally:
        worker.close()


def test_a_missing_package_is_a_reason(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inputs / "dlib.py").write_text("raise ImportError('no dlib here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(inputs), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(WorkerError, match="no dlib here"):
        Worker(sys.executable, "benchmarks.speed_calls", "dlib", str(inputs))


def test_a_missing_interpreter_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="nowhere: No such file"):
        Worker(str(tmp_path / "nowhere"), "benchmarks.speed_calls", "dlib", "")


def test_a_worker_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"status 1: FileNotFoundError.*views\.npy"):
        Worker(sys.executable, "benchmarks.speed_calls", "opencv", str(tmp_path))


def test_the_same_call_of_both_versions_is_made_in_turn_on_the_same_views() -> None:
    log: list[tuple[str, Name]] = []
    new, old, both = (WHOLE, "octamark pico"), (LANDMARKS, "octamark small"), (WHOLE, "octamark small")
    this = Recorder(THIS, {old: 1.0, both: 1.0, new: 1.0}, log)
    baseline = Recorder(BASELINE, {old: 1.0, both: 1.0}, log)
    packages = {THIS: Timings(this), BASELINE: Timings(baseline)}  # type: ignore[arg-type]
    measure(packages, rounds=3)
    warming, turns = log[:5], log[5:]
    assert sorted(warming) == sorted(turns[:5])
    first = [(THIS, both), (BASELINE, both), (THIS, new), (THIS, old), (BASELINE, old)]
    second = [(BASELINE, both), (THIS, both), (THIS, new), (BASELINE, old), (THIS, old)]
    assert turns == [*first, *second, *first]
    assert this.numbers[both] == baseline.numbers[both]
    timed = [number for numbers in this.numbers[both][1:] for number in numbers[TURNS[WHOLE][0] :]]
    assert sorted(timed) == list(range(VIEWS))
    assert [len(turn) for turn in packages[THIS].turns[both]] == [TURNS[WHOLE][1]] * 3
    assert packages[THIS].missed[both] == 3


def test_a_ratio_compares_calls_of_the_same_round() -> None:
    assert ratio([[1.0, 2.0, 3.0], [20.0], [3.0]], [[4.0], [40.0], [3.0]]) == 0.5


def test_rows_have_ratios_to_the_baseline_and_to_the_fastest_peer() -> None:
    log: list[tuple[str, Name]] = []
    this = Recorder(THIS, {(BATCHED, "octamark a"): 32.0, (BATCHED, "octamark b"): 48.0, (PORTRAIT, "c"): 5.0}, log)
    baseline = Recorder(BASELINE, {(BATCHED, "octamark a"): 64.0, (PORTRAIT, "c"): 4.0}, log)
    peers = [Recorder(title, {(BATCHED, title): ms}, log) for title, ms in (("dlib", 16.0), ("mediapipe", 24.0))]
    recorders = [this, baseline, *peers]
    packages = {recorder.title: Timings(recorder) for recorder in recorders}  # type: ignore[arg-type]
    measure(packages, rounds=2)
    table = rows(packages, {(THIS, "c"): 250.0, (BASELINE, "c"): 300.0})
    assert BATCH == 16
    assert table == [
        [PORTRAIT, "c", 5.0, 5.0, 5.0, 5.0, 4.0, 1.25, None, 250.0, 300.0],
        [BATCHED, "octamark a", 2.0, 2.0, 2.0, 2.0, 4.0, 0.5, 2.0, None, None],
        [BATCHED, "octamark b", 3.0, 3.0, 3.0, 3.0, None, None, 3.0, None, None],
        [BATCHED, "dlib", 1.0, 1.0, 1.0, 1.0, None, None, 1.0, None, None],
        [BATCHED, "mediapipe", 1.5, 1.5, 1.5, 1.5, None, None, 1.5, None, None],
    ]


@pytest.mark.parametrize(("worked", "notes"), [(9.8, []), (6.0, ["**Other work took 20% of the time**"])])
def test_other_work_of_the_machine_is_noted(worked: float, notes: list[str]) -> None:
    recorders = [Recorder(title, {}, []) for title in (THIS, BASELINE)]
    for recorder, spent in zip(recorders, (worked, 10.0), strict=True):
        recorder.elapsed, recorder.worked = 10.0, spent
    packages = {recorder.title: Timings(recorder) for recorder in recorders}  # type: ignore[arg-type]
    assert [note.partition(":")[0] for note in other_work(packages)] == notes


def test_an_environment_replaces_no_folder_and_needs_its_commit(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        make_environment("dlib", tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        make_environment("baseline", tmp_path / "new", commit="no-such-commit")
    assert not (tmp_path / "new").exists()


def test_figures_of_the_readme_are_replaced_and_its_advice_stays() -> None:
    cards, open_cards = (
        Measurement(name=name, page="", title="", rows=rows, columns=(("model", ""), ("file, MB", ".2f")))
        for name, rows in (("cards", [["`a`", 1.234]]), ("cards-open", [["`b`", 9.0], ["`c`", 2.0]]))
    )
    scores = Measurement(
        name="scores", page="", title="", columns=(("model", ""), ("boxes", ""), ("NME, %", ".2f")),
        rows=[["`a`", "labels", [9.0, 8.0, 9.5]], ["`a`", "detector", [3.456, 3.0, 4.0]],
              ["`c`", "detector", [4.0, 3.0, 5.0]]],
    )  # fmt: skip
    speed = Measurement(
        name="speed", page="speed", title="", columns=(("", ""), ("", ""), ("ms", ".2f")),
        rows=[[WHOLE, "octamark a", 7.06], [LANDMARKS, "octamark a", 1.04], [WHOLE, "octamark b", 5.0],
              [WHOLE, "octamark c", 6.0], [LANDMARKS, "octamark c", 2.0]],
    )  # fmt: skip
    measurements = {"cards": cards, "cards-open": open_cards, "speed": speed, "scores": scores}
    assert readme_figures(measurements) == {"a": ["1.23", "7.1", "1.0", "3.46"], "c": ["2.00", "6.0", "2.0", "4.00"]}
    before = "text\n| `a` | 0 | 0 | 0 | 0 | no | the *advice* |\n| `b` | 0 | 0 | 0 | 0 | no | other |\n| `ab` | x |\n"
    after = before.replace("| `a` | 0 | 0 | 0 | 0 |", "| `a` | 1.23 | 7.1 | 1.0 | 3.46 |")
    assert readme(before, measurements) == after
