"""An amount that several tasks share, such as bytes of memory."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """An amount of which tasks take parts and give them back. Whoever waits longest is served first.

    Args:
        total: the whole amount.
    """

    def __init__(self, total: int) -> None:
        self.total, self.free = total, total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_acquire(self, amount: int) -> bool:
        """Take an amount if it is free and nobody waits; whether it was taken."""
        if self._waiting or amount > self.free:
            return False
        self.free -= amount
        return True

    async def acquire(self, amount: int) -> None:
        """Take an amount, after waiting until it is free.

        Raises:
            ValueError: more than the whole amount.
        """
        if amount > self.total:
            raise ValueError(f"{amount} of {self.total}")
        if self.try_acquire(amount):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(amount)
            else:
                self._waiting.remove((amount, turn))
                self._serve()
            raise

    def release(self, amount: int) -> None:
        """Give an amount back."""
        self.free += amount
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            amount, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.free -= amount
                turn.set_result(None)
