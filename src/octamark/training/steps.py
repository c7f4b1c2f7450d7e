"""What a batch of one step may depend on."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        number: of the steps before it, over all epochs.
        progress: share of the run's steps before it.
        generator: the step's randomness, on the CPU.
    """

    number: int
    progress: float
    generator: torch.Generator


def step_generator(seed: int, epoch: int, index: int, rank: int) -> torch.Generator:
    """The randomness of one step, which depends on seed, epoch, step of the epoch and process alone."""
    return torch.Generator().manual_seed(((seed * 10_007 + epoch) * 10_007 + index) * 64 + rank)
