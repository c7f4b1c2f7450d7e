"""The progress of a training run, as a caller receives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch. NME and failure rate (at 8 %) are fractions, of the averaged weights on validation."""

    number: int
    total: int
    loss: float
    nme: float
    failures: float
    best_nme: float


class Watcher:
    """Receives the progress of a run. Its methods do nothing; a subclass, such as a progress bar, overrides them."""

    def finding(self, done: int, total: int) -> None: ...

    def found(self, counts: str) -> None: ...

    def aligning(self, done: int, total: int) -> None: ...

    def loading(self, done: int, total: int) -> None: ...

    def started(self, total_steps: int, done_steps: int) -> None: ...

    def stepped(self, loss: float) -> None: ...

    def finished_epoch(self, epoch: Epoch) -> None: ...
