"""Timing that is fair to all contestants: they take turns, and the first calls of a turn do not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping


def milliseconds(call: Callable[[int], object], numbers: Iterable[int], untimed: int) -> list[float]:
    """The time of one call for each number after the first ``untimed`` ones."""
    times = []
    for number in numbers:
        start = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - start) * 1000)
    return times[untimed:]


def take_turns(
    tasks: Mapping[str, Callable[[int], object]], rounds: int, timed: int, untimed: int
) -> dict[str, list[float]]:
    """Milliseconds of each timed call, by task.

    In every round each task is called ``untimed + timed`` times in a row, with the number of the call as argument, so
    that a busy machine slows all tasks alike and no task runs on cold caches.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, call in tasks.items():
            times[name] += milliseconds(call, range(untimed + timed), untimed)
    return times
