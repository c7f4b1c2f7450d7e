"""Milliseconds on one thread: octamark beside its version 0.1.0, MediaPipe, dlib and OpenCV, in one run.

    python -m benchmarks.environments baseline PATH/TO/baseline      once; likewise mediapipe and dlib
    python -m benchmarks.speed --baseline PATH/TO/baseline/bin/python --mediapipe ... --dlib ... [--update]

Each package runs in a process and an environment of its own, all on one processor, and only one of them works at a
time. The calls take turns, in most of which the first call is not timed; each call sees the next view of a face.
octamark 0.1.0 makes its calls right before or after the same calls of this version. What has no environment is left
out, and the page says so. Twenty rounds take about four minutes."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.speed_calls import BATCH, BATCHED, DETECTION, LANDMARKS, LARGE, PORTRAIT, WHOLE, Inputs
from benchmarks.workers import ROOT, Worker, WorkerError
from PIL import Image
from rich.progress import track

import octamark

VIEWS = 12
TURNS = {WHOLE: (1, 4), LARGE: (1, 3), PORTRAIT: (1, 1), DETECTION: (1, 4), LANDMARKS: (1, 4), BATCHED: (0, 1)}
"""Group -> untimed and timed calls in a turn; in the order of the table."""

THIS, BASELINE = "octamark", "baseline"
ENVIRONMENTS = (BASELINE, "mediapipe", "dlib")
PEAKS = {"octamark small": "octamark", "MediaPipe FaceMesh, 468 points": "mediapipe"}
"""Row of the portrait -> package whose peak memory is that of a process that makes only this call."""

Name = tuple[str, str]
"""Group and name of a call."""

Turns = list[list[float]]
"""Milliseconds of the timed calls of each turn."""


def photograph() -> np.ndarray:
    """NASA's portrait of Eileen Collins, public domain, from scikit-image: (512, 512, 3) uint8 RGB."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the photograph comes with scikit-image: pip install --no-deps scikit-image")
    return octamark.read_picture(Path(spec.origin).parent / "data" / "astronaut.png")


def views(picture: np.ndarray, scales: tuple[float, float], place: tuple[float, float]) -> np.ndarray:
    """The portrait turned, scaled, shifted and lit differently each time: detectors rarely see one picture twice.

    Args:
        scales: the least and the largest.
        place: about where the middle of the face, (224, 115) in the portrait, lies in the views.
    """
    rng = np.random.default_rng(0)
    middle = np.array([224.0, 115.0])
    pictures = []
    for _ in range(VIEWS):
        matrix = cv2.getRotationMatrix2D(middle.tolist(), rng.uniform(-20, 20), rng.uniform(*scales))
        matrix[:, 2] += place - middle + rng.uniform(-20, 20, 2)
        turned = cv2.warpAffine(picture, matrix, (512, 512))
        pictures.append(cv2.convertScaleAbs(turned, alpha=rng.uniform(0.6, 1.2), beta=rng.uniform(-20, 20)))
    return np.stack(pictures)


def portrait(picture: np.ndarray) -> bytes:
    """A JPEG of 4000x6000 pixels: the portrait enlarged (bicubic), with noise."""
    enlarged = cv2.resize(picture[:, 54:395], (4000, 6000), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(0)
    for part in np.array_split(enlarged, 60):  # views: the noise of all at once would take 300 MB
        part[:] = np.clip(part + 8 * rng.standard_normal(part.shape, np.float32), 0, 255)
    encoded = io.BytesIO()
    Image.fromarray(enlarged).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def make_inputs() -> Inputs:
    """The pictures that all packages read, and the boxes of their faces."""
    picture = photograph()
    small = views(picture, (0.8, 1.6), (224, 115))
    detector = octamark.FaceDetector()
    boxes = np.stack([detector(view)[0][0] for view in small])
    return Inputs(small, views(picture, (2.1, 2.7), (256, 256)), boxes, portrait(picture))


@dataclass
class Timings:
    """What the calls of one package took.

    Attributes:
        worker: its process.
        turns: of each call.
        missed: how many calls found no face.
    """

    worker: Worker
    turns: dict[Name, Turns] = field(default_factory=dict)
    missed: dict[Name, int] = field(default_factory=dict)

    def turn(self, call: Name, number: int) -> None:
        """Let the worker make the calls of the turn of that number."""
        untimed, timed = TURNS[call[0]]
        chosen = [(number * timed + i) % VIEWS for i in range(untimed + timed)]
        milliseconds, faces = self.worker.turn(call, chosen, untimed)
        self.turns.setdefault(call, []).append(milliseconds)
        self.missed[call] = self.missed.get(call, 0) + faces.count(0)


def measure(packages: Mapping[str, Timings], rounds: int) -> None:
    """Let the calls of all packages take turns; the same call of two packages follows one another, in either order."""
    calls = dict.fromkeys(call for timings in packages.values() for call in timings.worker.calls)
    ordered = sorted(calls, key=lambda call: list(TURNS).index(call[0]))
    for timings in packages.values():
        for call in timings.worker.calls:
            timings.worker.turn(call, [0], 1)  # the first call of all takes longer
    for number in track(range(rounds), "measuring", transient=True):
        for call in ordered:
            callers = [timings for timings in packages.values() if call in timings.worker.calls]
            for timings in callers if number % 2 == 0 else reversed(callers):
                timings.turn(call, number)


def median(turns: Turns) -> float:
    """The median of all calls."""
    return statistics.median(ms for turn in turns for ms in turn)


def ratio(turns: Turns, others: Turns) -> float:
    """The ratio of the medians of two calls in the same round; its median over the rounds.

    A machine that is busy for a while makes both calls of a round slower.
    """
    rounds = zip(turns, others, strict=True)
    return statistics.median(statistics.median(turn) / statistics.median(other) for turn, other in rounds)


def rows(packages: Mapping[str, Timings], peaks: Mapping[Name, float]) -> list[list[Value]]:
    """The rows of the table.

    Args:
        peaks: package and name of the row -> peak memory of the portrait, MB.
    """
    baseline = packages[BASELINE].turns if BASELINE in packages else {}
    table: list[list[Value]] = []
    for group in TURNS:
        share = BATCH if group == BATCHED else 1
        contestants = [
            (package, name, turns)
            for package, timings in packages.items()
            for (call_group, name), turns in timings.turns.items()
            if call_group == group and package != BASELINE
        ]
        peers = [turns for package, _, turns in contestants if package != THIS]
        fastest = min(peers, key=median, default=None)
        for package, name, turns in contestants:
            earlier = baseline.get((group, name)) if package == THIS else None
            times = [ms / share for turn in turns for ms in turn]
            table.append([
                group, name, median(turns) / share, min(times), *np.percentile(times, [10, 90]).tolist(),
                median(earlier) / share if earlier else None,
                ratio(turns, earlier) if earlier else None,
                ratio(turns, fastest) if fastest else None,
                *(peaks.get((place, name)) if group == PORTRAIT else None for place in (package, BASELINE)),
            ])  # fmt: skip
    return table


def other_work(packages: Mapping[str, Timings]) -> list[str]:
    """A note on other work of the machine where it took more than a twentieth of the time."""
    workers = [timings.worker for timings in packages.values()]
    share = 1 - sum(worker.worked for worker in workers) / sum(worker.elapsed for worker in workers)
    return [f"**Other work took {share:.0%} of the time**: milliseconds are too long."] if share > 0.05 else []


def peak(python: str, package: str, folder: Path) -> float:
    """Peak memory in MB of a fresh process of that interpreter that reads the portrait."""
    environment = dict(os.environ)
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = [python, "-m", "benchmarks.speed_calls", package, str(folder), "--peak"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def measurement(table: Sequence[Sequence[Value]], baseline: str, notes: Sequence[str], command: str) -> Measurement:
    """The entry for results.json; ``baseline`` is the version of octamark that this one is compared with."""
    return Measurement(
        name="speed",
        page="speed",
        title="Milliseconds per call",
        text="One thread on one processor. Every package runs in a process of its own, and the calls take turns "
        "([how](how.md#speed)).\n\n"
        "- *Whole call*: from the pixels of a picture of 512x512, or from the bytes of a JPEG, to the points. In the "
        "first rows the face is too small for a [refinement](../explanation/refinement.md), in the others it is "
        "large enough.\n"
        "- *Detection*, *landmarks*: one part alone; *landmarks* of faces that are already found, without refinement "
        f"unless the row says so. *{BATCH} at once*: per face, in one call for {BATCH} faces.\n"
        "- *Peak*: memory of a fresh process that makes only this call.\n"
        f"- *Ratio* to {baseline} and to the fastest peer in the same kind of call. No peer tells how far off "
        "a point is."
        + "".join(f"\n- {note}" for note in notes),
        columns=(
            ("", ""), ("", ""), ("ms", ".2f"), ("least", ".2f"), ("10 %", ".2f"), ("90 %", ".2f"),
            (f"{baseline}, ms", ".2f"), (f"ratio to {baseline}", ".2f"), ("to peer", ".2f"), ("peak, MB", ".0f"),
            (f"{baseline}, MB", ".0f"),
        ),
        rows=table,
        command=command,
        data="one portrait: twelve views with a small face, twelve with a large one, and enlarged to 24 megapixels",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each call")
    for name in ENVIRONMENTS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help="interpreter that benchmarks.environments printed")
    add_update_option(parser)
    arguments = parser.parse_args()
    pythons = {name: getattr(arguments, name) for name in ENVIRONMENTS}
    interpreters = {THIS: sys.executable, **pythons, "opencv": sys.executable}
    notes: list[str] = []
    packages: dict[str, Timings] = {}
    peaks: dict[Name, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_inputs().save(folder)
        for name, python in interpreters.items():
            package = "octamark" if name in (THIS, BASELINE) else name
            if python is None:
                notes.append(f"Left out: {name} (no --{name}).")
                continue
            try:
                packages[name] = Timings(Worker(python, "benchmarks.speed_calls", package, temporary))
            except WorkerError as error:
                notes.append(f"Left out: {name} ({error}).")
                continue
            for row, measured in PEAKS.items():
                if package == measured and Path("/proc/self/status").is_file():
                    peaks[name, row] = peak(python, package, folder)
        try:
            measure(packages, arguments.rounds)
        except WorkerError as error:
            raise SystemExit(f"error: {error}") from error
        finally:
            for timings in packages.values():
                timings.worker.close()
    for name, timings in packages.items():
        missed = [(call, count) for call, count in timings.missed.items() if count]
        notes += [f"{name}, {' '.join(call)}: {count} calls found no face." for call, count in missed]
    versions = {name: timings.worker.version for name, timings in packages.items() if name != THIS}
    baseline = versions.pop(BASELINE, BASELINE)
    notes.insert(0, f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.")
    notes += other_work(packages)
    print(*notes, sep="\n")
    given = "".join(f" --{name} PATH/TO/{name}/bin/python" for name, python in pythons.items() if python)
    table = measurement(rows(packages, peaks), baseline, notes, f"python -m benchmarks.speed{given}")
    finish([table], arguments.update)


if __name__ == "__main__":
    main()
