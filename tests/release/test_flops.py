"""Multiply-adds are counted as the exported graph runs them."""

from __future__ import annotations

from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.nets.octave import OctaveConv
from octamark.release.predictor import flops


def test_flops_of_one_convolution() -> None:
    """A network's count, checked against the sum over its convolutions written out by hand."""
    network = OctaveNetwork(NetworkConfig(width=8, attention=False, landmarks=5))
    size, total = 64, 0
    stages = [(network.encoder[0].first, 32), (network.encoder[0].second, 32)]
    for index, side in ((1, 16), (2, 8), (3, 4)):
        stages += [(network.encoder[index].first, side), (network.encoder[index].second, side)]
    stages += [(network.decoder[0].up, 4), (network.decoder[0].refine, 8)]
    stages += [(network.decoder[1].up, 8), (network.decoder[1].refine, 16)]
    for conv, side in [(block.conv, side) for block, side in stages] + [(network.head, 16)]:
        assert isinstance(conv, OctaveConv)
        for name, low in (("high_to_high", 1), ("high_to_low", 2), ("low_to_low", 2), ("low_to_high", 2)):
            path = getattr(conv, name)
            if path is not None:
                total += 2 * path.weight.numel() * (side // low) ** 2
    assert flops(network, size) == total
