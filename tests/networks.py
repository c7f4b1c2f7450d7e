"""Networks and checkpoints for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.training import checkpoints


def lively(config: NetworkConfig) -> OctaveNetwork:
    """A network whose normalisations have seen data and whose heatmaps have peaks."""
    torch.manual_seed(1)
    network = OctaveNetwork(config)
    with torch.no_grad():
        for _ in range(4):
            network(torch.rand(4, 3, 64, 64))
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if network.attention is not None:
            network.attention.z.weight.add_(torch.randn_like(network.attention.z.weight) * 0.1)
        for path in network.head.children():
            path.weight.mul_(20)  # type: ignore[union-attr, operator]
    return network.eval()


def rounded_to_half(run: Path, copy: Path) -> Path:
    """A copy of a run whose averaged weights are those that a half-precision checkpoint keeps."""
    shutil.copytree(run, copy)
    groups, meta = checkpoints.load(run / "best.safetensors")
    rounded = {
        name: value.half().float() if value.is_floating_point() else value for name, value in groups["ema"].items()
    }
    checkpoints.save(copy / "best.safetensors", {"ema": rounded}, meta)
    return copy
