"""Timing that is fair to all contestants: they take turns, and the first calls of a turn do not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def take_turns(
    tasks: Mapping[str, Callable[[int], object]], rounds: int, timed: int, untimed: int
) -> dict[str, list[float]]:
    """Milliseconds of each timed call, by task.

    In every round each task is called ``untimed + timed`` times in a row, with the number of the call as argument, so
    that a busy machine slows all tasks alike and no task runs on cold caches.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, call in tasks.items():
            for number in range(untimed + timed):
                start = time.perf_counter()
                call(number)
                if number >= untimed:
                    milliseconds[name].append((time.perf_counter() - start) * 1000)
    return milliseconds
