"""Calls in another process, perhaps of another environment, that are timed there when this process asks for it.

Both sides write one JSON object per line. The worker first names its calls, or says why it has none; then it answers
each request of a turn with the milliseconds that it measured. This module needs only Python, because the worker's
environment may lack everything else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import milliseconds

ROOT = Path(__file__).parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerError(Exception):
    """A worker that ended, or that cannot make its calls; the message says why."""


class Worker:
    """The calls of ``python -m MODULE ARGUMENTS``, run by an interpreter of any environment.

    Args:
        python: the interpreter. If it is not the one of this process, it does not see ``PYTHONPATH``.

    Attributes:
        calls: the names of the calls. version: of the package that is called.
        elapsed, worked: seconds that all turns took, and seconds of them in which the process had the processor.

    Raises:
        WorkerError: the interpreter is missing, the process ended, or it lacks a package.
    """

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        environment = os.environ | ONE_THREAD
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed in close()
        try:
            self._process = subprocess.Popen(
                [python, "-m", module, *arguments], cwd=ROOT, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"{python}: {error.strerror}") from error
        greeting = self._answer()
        if "missing" in greeting:
            self.close()
            raise WorkerError(greeting["missing"])
        self.calls: list[tuple[str, str]] = [(group, name) for group, name in greeting["calls"]]
        self.version: str = greeting["version"]
        self.elapsed = self.worked = 0.0

    def turn(self, call: tuple[str, str], numbers: Sequence[int], untimed: int) -> tuple[list[float], list[int]]:
        """Milliseconds of one call per number after the first ``untimed``, and what all calls returned."""
        request = {"call": self.calls.index(call), "numbers": list(numbers), "untimed": untimed}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended: reading its answer tells why
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        self.elapsed += answer["elapsed"]
        self.worked += answer["worked"]
        return answer["ms"], answer["returned"]

    def close(self) -> None:
        """End the process."""
        if not self._errors.closed:
            self._process.communicate()  # closes its input, at which it ends
            self._errors.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:]
        self.close()
        raise WorkerError(f"{' '.join(self._process.args)}: ended with status {status}: {' '.join(last)}")  # type: ignore[arg-type]


def serve(make: Callable[[], tuple[Mapping[tuple[str, str], Callable[[int], int]], str]]) -> None:
    """Answer a ``Worker`` until it closes, on one processor.

    Args:
        make: imports what it needs and returns the calls by group and name, and the package's version.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print does not mix with the answers
    use_one_processor()
    try:
        calls, version = make()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"calls": list(calls), "version": version}), file=answers, flush=True)
    functions = list(calls.values())
    for line in sys.stdin:
        request = json.loads(line)
        function, returned = functions[request["call"]], []
        start, start_work = time.perf_counter(), time.process_time()
        times = milliseconds(lambda n: returned.append(function(n)), request["numbers"], request["untimed"])  # noqa: B023
        spent = {"elapsed": time.perf_counter() - start, "worked": time.process_time() - start_work}
        print(json.dumps({"ms": times, "returned": returned, **spent}), file=answers, flush=True)


def use_one_processor() -> None:
    """Keep this process on one of the processors that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
