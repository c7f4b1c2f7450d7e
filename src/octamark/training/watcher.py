"""What a caller sees of a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; NME and failure rate (at 8 %) are fractions, of the moving average on validation."""

    number: int
    total: int
    loss: float
    nme: float
    failures: float
    best_nme: float


class Watcher:
    """The command line draws progress bars from it. Does nothing by itself."""

    def finding(self, done: int, total: int) -> None: ...

    def found(self, counts: str) -> None: ...

    def loading(self, done: int, total: int) -> None: ...

    def started(self, total_steps: int, done_steps: int) -> None: ...

    def stepped(self, loss: float) -> None: ...

    def finished_epoch(self, epoch: Epoch) -> None: ...
