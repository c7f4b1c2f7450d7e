"""Shared amounts: first come, first served, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from octamark.serving.budget import Budget


def test_who_waits_longest_is_served_first() -> None:
    async def scenario() -> None:
        budget, served = Budget(10), list[str]()

        async def take(name: str, amount: int) -> None:
            await budget.acquire(amount)
            served.append(name)

        await take("first", 8)
        large, small = asyncio.create_task(take("large", 9)), asyncio.create_task(take("small", 1))
        await asyncio.sleep(0)
        assert served == ["first"]  # the small one would fit, but waits behind the large one
        assert not budget.try_acquire(1)
        budget.release(8)
        await asyncio.gather(large, small)
        assert served == ["first", "large", "small"]
        assert budget.free == 0
        budget.release(10)
        assert budget.try_acquire(10)

    asyncio.run(scenario())


@pytest.mark.parametrize("served", [False, True])
def test_a_cancelled_task_takes_nothing(served: bool) -> None:
    async def scenario() -> None:
        budget = Budget(10)
        await budget.acquire(10)
        waiting, behind = asyncio.create_task(budget.acquire(10)), asyncio.create_task(budget.acquire(2))
        await asyncio.sleep(0)
        if served:
            budget.release(10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not served:
            budget.release(10)
        await behind
        assert budget.free == 8

    asyncio.run(scenario())


def test_more_than_the_whole_is_an_error() -> None:
    with pytest.raises(ValueError, match="11 of 10"):
        asyncio.run(Budget(10).acquire(11))
