"""Networks for tests."""

from __future__ import annotations

import torch

from octamark.nets.network import NetworkConfig, OctaveNetwork


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
