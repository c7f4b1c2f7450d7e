"""Pictures per second of octamark.stream, on one and two processors, and a 24-megapixel portrait in one call.

    python -m benchmarks.throughput [--baseline PYTHON] [--rounds 7] [--update]

PYTHON is the interpreter of an environment with an older octamark, to compare with. Every row is measured in fresh
processes, which may use that many processors; they take turns, and the figure is the fastest turn. The pictures come
from NASA's portrait of Eileen Collins, which comes with scikit-image."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODELS = ("tiny-128", "small")
SMALL, PORTRAIT, CALL = "512x512, stream", "24 megapixels, stream", "24 megapixels, one call"
COUNTS = {SMALL: 48, PORTRAIT: 6, CALL: 1}
"""Pictures in a turn."""

VIEWS = 12
"""Different small pictures."""


def write_views(folder: Path) -> None:
    """Write views of the portrait, 512x512, as JPEG files: 0.jpg, 1.jpg, ..."""
    import cv2
    import numpy as np
    from benchmarks.speed import photograph

    rng = np.random.default_rng(0)
    picture = photograph()
    for number in range(VIEWS):
        matrix = cv2.getRotationMatrix2D((224, 115), rng.uniform(-15, 15), rng.uniform(0.9, 1.8))
        matrix[:, 2] += rng.uniform(-20, 20, 2)
        view = cv2.warpAffine(picture, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(folder / f"{number}.jpg"), view[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def write_pictures(folder: Path) -> None:
    """Write the JPEG files that are read: views of the portrait, and the portrait enlarged, with noise."""
    import cv2
    import numpy as np
    from benchmarks.speed import photograph

    write_views(folder)
    rng, picture = np.random.default_rng(0), photograph()
    large = cv2.resize(picture, (4900, 4900), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    large += rng.normal(0, 4, large.shape).astype(np.float32)
    large = large.clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "portrait.jpg"), large[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def serve(folder: Path, kind: str, model: str, processors: int) -> None:
    """Answer every line of standard input with the seconds of a turn and the process's peak memory in MB."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
    import octamark

    landmarker = octamark.load(model, threads=1)
    names = [str(folder / "portrait.jpg")] if kind != SMALL else [str(folder / f"{n}.jpg") for n in range(VIEWS)]
    pictures = (names * COUNTS[kind])[: COUNTS[kind]]
    for _ in sys.stdin:
        start = time.perf_counter()
        if kind == CALL:
            faces = [landmarker(pictures[0])]
        else:
            results = octamark.stream(landmarker, pictures, decoders=processors)
            faces = [result.faces for result in results if result.faces is not None]
        seconds = time.perf_counter() - start
        if sum(map(len, faces)) < len(pictures):
            raise SystemExit(f"{kind}, {model}: faces were not found, so this is no fair turn")
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps([seconds, int(peak.split()[1]) / 1024]), flush=True)


def measure(interpreters: Sequence[str], folder: Path, kind: str, model: str, rounds: int) -> dict[Any, list[float]]:
    """By interpreter and number of processors: seconds of the fastest turn, and peak memory in MB."""
    workers: dict[Any, Any] = {}
    for python in interpreters:
        environment = dict(os.environ)
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        for processors in (1,) if kind == CALL else (1, 2):
            command = [python, __file__, "--serve", str(folder), kind, model, str(processors)]
            workers[python, processors] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
    turns: dict[Any, list[list[float]]] = {key: [] for key in workers}
    for _ in range(rounds + 1):
        for key, worker in workers.items():
            print(file=worker.stdin, flush=True)
            turns[key].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    return {key: [min(seconds for seconds, _ in values[1:]), values[-1][1]] for key, values in turns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", help="interpreter of an environment with an older octamark")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each process")
    parser.add_argument("--update", action="store_true", help="write the figures into docs/measurements")
    arguments = parser.parse_args()
    from benchmarks.measurements import Measurement, Value, finish

    interpreters = [sys.executable, *([arguments.baseline] if arguments.baseline else [])]
    rows: list[list[Value]] = []
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name))
        for kind in COUNTS:
            for model in MODELS:
                figures = measure(interpreters, Path(name), kind, model, arguments.rounds)
                for processors in (1,) if kind == CALL else (1, 2):
                    seconds, peak = figures[sys.executable, processors]
                    before, peak_before = figures.get((arguments.baseline, processors), (None, None))
                    count = COUNTS[kind]
                    ratio = seconds / before if before else None
                    rows.append([
                        kind, f"`{model}`", processors, 1000 * seconds / count, count / seconds,
                        before and count / before, ratio, peak, peak_before,
                    ])  # fmt: skip
    measurement = Measurement(
        name="throughput",
        page="speed",
        title="Pictures per second",
        text="From the JPEG file to the points, `threads=1`; `octamark.stream` with as many `decoders` as processors. "
        "*Peak* is the memory of the whole process. 0.1.0 is the commit e8aa95e.",
        columns=(
            ("pictures", ""), ("model", ""), ("processors", "d"), ("ms per picture", ".1f"),
            ("pictures per second", ".1f"), ("0.1.0, pictures per second", ".1f"), ("time over 0.1.0's", ".2f"),
            ("peak, MB", ".0f"), ("0.1.0, peak, MB", ".0f"),
        ),
        rows=rows,
        command=f"python -m benchmarks.throughput --baseline PYTHON --rounds {arguments.rounds}",
        data="views of one portrait",
    )  # fmt: skip
    finish([measurement], arguments.update)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        main()
