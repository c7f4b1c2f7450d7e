"""Multi-frequency attention against a loop that follows equations 3 to 9."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from octamark.nets.attention import MultiFrequencyAttention
from octamark.nets.octave import Maps

Array = NDArray[np.float64]
HIGH, LOW, CHANNELS = 6, 4, 5


def embedding(layer: nn.Conv2d, columns: list[Array]) -> list[Array]:
    """W(X) at each position: a matrix and an offset, no neighbours."""
    assert layer.bias is not None
    matrix, offset = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
    return [
        np.array([sum(matrix[o, c] * x[c] for c in range(len(x))) + offset[o] for o in range(len(matrix))])
        for x in columns
    ]


def columns(x: Tensor) -> list[Array]:
    """The feature vector of each position, row by row."""
    return [x[:, i, j].numpy() for i in range(x.shape[1]) for j in range(x.shape[2])]


def expected(layer: MultiFrequencyAttention, high: Tensor, low: Tensor) -> tuple[Array, Array]:
    """Y~ (S x N) and X_l' of one picture."""
    phi = embedding(layer.phi, columns(low))  # eq. 3
    theta = embedding(layer.theta, columns(high))  # eq. 4
    upsilon = embedding(layer.upsilon, columns(high))  # eq. 5
    y = np.array([[sum(p[c] * t[c] for c in range(CHANNELS)) for t in theta] for p in phi])  # eq. 6
    for s in range(len(phi)):  # eq. 7
        powers = [math.exp(value) for value in y[s]]
        y[s] = [power / sum(powers) for power in powers]
    z = [sum((y[s, n] * upsilon[n] for n in range(len(upsilon))), np.zeros(CHANNELS)) for s in range(len(phi))]  # eq. 8
    out = [w + x for w, x in zip(embedding(layer.z, z), columns(low), strict=True)]  # eq. 9
    return y, np.array(out).T.reshape(low.shape)


@pytest.fixture
def maps() -> Maps:
    generator = torch.Generator().manual_seed(1)
    high = torch.randn(2, HIGH, 4, 6, generator=generator, dtype=torch.float64)
    return Maps(high, torch.randn(2, LOW, 2, 3, generator=generator, dtype=torch.float64))


@pytest.fixture
def layer() -> MultiFrequencyAttention:
    generator = torch.Generator().manual_seed(2)
    layer = MultiFrequencyAttention(HIGH, LOW, CHANNELS)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    return layer


def test_equations(layer: MultiFrequencyAttention, maps: Maps) -> None:
    with torch.no_grad():
        similarity = layer.similarity(maps.high, maps.low)
        out = layer(maps)
    for index in range(2):
        y, low = expected(layer, maps.high[index], maps.low[index])
        np.testing.assert_allclose(similarity[index].numpy(), y, atol=1e-12)
        np.testing.assert_allclose(out.low[index].numpy(), low, atol=1e-12)


def test_high_frequency_passes_unchanged(layer: MultiFrequencyAttention, maps: Maps) -> None:
    assert maps.high is not None
    before = maps.high.clone()
    assert layer(maps).high is maps.high
    torch.testing.assert_close(maps.high, before, rtol=0, atol=0)


def test_sizes_of_the_source() -> None:
    """C = 128, S = 64 low and N = 256 high positions; each row of the similarity is a distribution over the N."""
    generator = torch.Generator().manual_seed(4)
    layer = MultiFrequencyAttention(768, 256, 128)
    high, low = torch.randn(1, 768, 16, 16, generator=generator), torch.randn(1, 256, 8, 8, generator=generator)
    with torch.no_grad():
        similarity = layer.similarity(high, low)
        assert layer.phi(low).shape[1] == layer.theta(high).shape[1] == layer.upsilon(high).shape[1] == 128
        assert layer(Maps(high, low)).low.shape == (1, 256, 8, 8)
    assert similarity.shape == (1, 64, 256)
    assert similarity.min() >= 0
    torch.testing.assert_close(similarity.sum(dim=2), torch.ones(1, 64))
    assert (similarity.sum(dim=1) - 64 / 256).abs().max() > 0.05  # columns are no distributions


def test_starts_as_the_identity(maps: Maps) -> None:
    layer = MultiFrequencyAttention(HIGH, LOW, CHANNELS).double()
    out = layer(maps)
    torch.testing.assert_close(out.low, maps.low, rtol=0, atol=0)
    out.low.square().sum().backward()
    assert layer.z.weight.grad is not None
    assert layer.z.weight.grad.abs().max() > 0


def test_gradient_reaches_every_embedding(layer: MultiFrequencyAttention, maps: Maps) -> None:
    layer(maps).low.square().sum().backward()
    for name in ("phi", "theta", "upsilon", "z"):
        gradient = getattr(layer, name).weight.grad
        assert 1e-3 < gradient.abs().max() < torch.inf, name


@pytest.mark.parametrize("missing", ["high", "low"])
def test_one_frequency_is_refused(layer: MultiFrequencyAttention, maps: Maps, missing: str) -> None:
    with pytest.raises(ValueError, match="two frequencies"):
        layer(maps._replace(**{missing: None}))
