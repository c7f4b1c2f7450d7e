"""Where a run computes."""

from __future__ import annotations

import logging
import os

import torch
from lightning_fabric import Fabric

from octamark.errors import DeviceError


def launch(device: str) -> Fabric:
    """Fabric in bfloat16 on a device; under torchrun with as many processes as it started.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        DeviceError: a device that is unknown or not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"unknown device {device!r}; devices: auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda: no CUDA device here; use cpu or auto")
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    strategy = "ddp" if world > 1 else "auto"
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=strategy,
        precision="bf16-mixed",
    )
    fabric.launch()
    torch.backends.cudnn.benchmark = True  # the sizes of a stage do not change
    return fabric
