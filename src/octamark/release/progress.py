"""Progress of an export."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count


def step_counter(advance: Callable[[int, int], None], steps: int) -> Callable[[], None]:
    """A function to call after each of ``steps`` steps, which tells ``advance`` how many are finished."""
    numbers = count(1)

    def tick() -> None:
        advance(next(numbers), steps)

    return tick
