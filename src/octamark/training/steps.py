"""One step of a run, and its random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        number: how many steps came before it, over all epochs.
        progress: share of the run's steps before it.
        generator: of the step's random numbers, on the CPU.
    """

    number: int
    progress: float
    generator: torch.Generator


def step_generator(seed: int, epoch: int, index: int, rank: int) -> torch.Generator:
    """The generator of one step's random numbers, which depends on seed, epoch, step and process (rank) alone."""
    return torch.Generator().manual_seed(((seed * 10_007 + epoch) * 10_007 + index) * 64 + rank)
