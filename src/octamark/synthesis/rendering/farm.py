"""Rendering many pictures in worker processes that are restarted now and then and survive crashes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from octamark.errors import ConfigError
from octamark.synthesis.rendering.folder import RenderFolder

PER_PROCESS = 200
"""Pictures after which a worker process is replaced by a fresh one."""

HOPELESS = 8
"""So many pictures that fail before the first success end the run."""

ATTEMPTS = 2
"""A picture during which a process died, or that failed, is rendered this often before it is skipped."""

PATIENCE = 600.0
"""Seconds without news after which a worker process is ended."""


@dataclass
class _Work:
    """What the threads share: seeds to render, attempts, and a lock."""

    waiting: deque[int]
    attempts: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    problem: str = ""
    done: int = 0
    failed: int = 0


def render_seeds(
    folder: RenderFolder,
    assets: Path,
    seeds: Sequence[int],
    *,
    size: int,
    samples: int,
    workers: int,
    crowd: bool = False,
    caricatures: float = 0.0,
    advance: Callable[[], None] = lambda: None,
    command: Sequence[str] = (sys.executable, "-m", "octamark.synthesis.rendering.worker"),
) -> dict[int, str]:
    """Render seeds into a folder, and return those that were skipped with the reason.

    Args:
        size: side of the pictures, pixels. samples: rays per pixel. workers: processes at a time.
        crowd: write small pictures for crowds in place of pictures with labels.
        caricatures: share of seeds that show a caricature.
        advance: called after each picture.
        command: what starts a worker process; the file of its job is appended.

    Raises:
        ConfigError: the first pictures all fail, or workers die before they render anything.
    """
    work = _Work(deque(seeds))
    skipped: dict[int, str] = {}
    share = min(PER_PROCESS, -(-len(seeds) // workers))
    threads_each = max(1, (os.cpu_count() or 1) // workers)

    def give_up(seed: int, why: str) -> None:
        with work.lock:
            work.failed += 1
            if work.failed >= HOPELESS and not work.done:
                work.problem = why
                work.stop.set()
            work.attempts[seed] = work.attempts.get(seed, 0) + 1
            if work.attempts[seed] < ATTEMPTS:
                work.waiting.append(seed)
                return
            skipped[seed] = why
            if not crowd:
                folder.skip(seed, why)
        advance()

    def succeed() -> None:
        work.done += 1
        advance()

    def run() -> None:
        idle = 0
        while not work.stop.is_set():
            with work.lock:
                some = [work.waiting.popleft() for _ in range(min(share, len(work.waiting)))]
            if not some:
                return
            job = {
                "folder": str(folder.path), "assets": str(assets), "size": size, "samples": samples, "seeds": some,
                "crowd": crowd, "caricatures": caricatures, "threads": threads_each,
            }  # fmt: skip
            started, left, errors = _run_process(job, command, work.stop, succeed, give_up)
            if work.stop.is_set():
                return
            if started is not None:  # the process died while it rendered this one
                left.remove(started)
                give_up(started, f"the process died: {errors[-300:]}")
            idle = idle + 1 if len(left) == len(some) else 0
            if idle >= ATTEMPTS:
                work.problem = errors.strip() or "the processes end without a message"
                work.stop.set()
            with work.lock:
                work.waiting.extendleft(reversed(left))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        work.stop.set()
        for thread in threads:
            thread.join(10)
        raise
    if work.problem:
        raise ConfigError(f"no picture could be rendered: {work.problem.strip().splitlines()[-1]}")
    return skipped


def _run_process(
    job: dict[str, object],
    command: Sequence[str],
    stop: threading.Event,
    succeed: Callable[[], None],
    give_up: Callable[[int, str], None],
) -> tuple[int | None, list[int], str]:
    """Run one process: the seed during which it died, the seeds it did not finish, and what it wrote as errors."""
    left = list(job["seeds"]) if isinstance(job["seeds"], list) else []
    current: int | None = None
    with tempfile.TemporaryDirectory() as place:
        file, log = Path(place) / "job.json", Path(place) / "errors.txt"
        file.write_text(json.dumps(job), encoding="utf-8")
        environment = {
            **os.environ,
            "OIDN_NUM_THREADS": str(job["threads"]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [*command, str(file)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process,
        ):
            lines: queue.Queue[str | None] = queue.Queue()

            def listen() -> None:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.put(line)
                lines.put(None)

            threading.Thread(target=listen, daemon=True).start()
            waited = 0.0
            while True:
                try:
                    line = lines.get(timeout=0.5)
                except queue.Empty:
                    waited += 0.5
                    if stop.is_set() or waited > PATIENCE:
                        process.kill()
                    continue
                waited = 0.0
                if line is None:
                    break
                event: dict[str, object] = {}
                with contextlib.suppress(json.JSONDecodeError):
                    parsed = json.loads(line)
                    event = parsed if isinstance(parsed, dict) else {}
                seed = next(
                    (event[key] for key in ("start", "done", "failed") if isinstance(event.get(key), int)), None
                )
                if not isinstance(seed, int):
                    continue
                if "start" in event:
                    current = seed
                    continue
                current = None
                left.remove(seed)
                if "failed" in event:
                    give_up(seed, str(event.get("why", "")))
                else:
                    succeed()
            process.wait()
        return current, left, log.read_text(encoding="utf-8", errors="replace")
