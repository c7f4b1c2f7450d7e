"""Octave operators against loops over positions, channels and taps that follow equations 1 and 2."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from octamark.nets.octave import BilinearOctaveConv, Maps, OctaveConv, TransposedOctaveConv, split_channels

Array = NDArray[np.float64]
ALPHAS = (0.0, 0.25, 0.5, 1.0)
PAIRS = list(itertools.product(ALPHAS, ALPHAS))


def convolve(x: Array, weight: Array, stride: int) -> Array:
    """Zero-padded so that centres stay: tap k of output i reads input i * stride + k - (kernel - stride) / 2."""
    kernel = weight.shape[2]
    before = (kernel - stride) // 2
    out = np.zeros((weight.shape[0], x.shape[1] // stride, x.shape[2] // stride))
    for o, i, j in np.ndindex(out.shape):
        for c, a, b in np.ndindex(weight.shape[1:]):
            row, column = i * stride + a - before, j * stride + b - before
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                out[o, i, j] += weight[o, c, a, b] * x[c, row, column]
    return out


def convolve_transposed(x: Array, weight: Array, stride: int) -> Array:
    """The adjoint of a 3x3 convolution: input i reaches output i * stride + k - 1."""
    out = np.zeros((weight.shape[1], x.shape[1] * stride, x.shape[2] * stride))
    for o, i, j in np.ndindex(out.shape):
        for c, a, b in np.ndindex(weight.shape[0], 3, 3):
            row, column = i + 1 - a, j + 1 - b
            if row % stride or column % stride:
                continue
            row, column = row // stride, column // stride
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                out[o, i, j] += weight[c, o, a, b] * x[c, row, column]
    return out


def pooled(x: Array) -> Array:
    out = np.zeros((x.shape[0], x.shape[1] // 2, x.shape[2] // 2))
    for c, i, j in np.ndindex(out.shape):
        out[c, i, j] = sum(x[c, 2 * i + a, 2 * j + b] for a, b in np.ndindex(2, 2)) / 4
    return out


def nearest(x: Array) -> Array:
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    for c, i, j in np.ndindex(out.shape):
        out[c, i, j] = x[c, i // 2, j // 2]
    return out


def interpolated(x: Array) -> Array:
    """Output pixel i sits at (i + 0.5) / 2 - 0.5 of the input, kept inside it."""
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    for c, i, j in np.ndindex(out.shape):
        y = min(max((i + 0.5) / 2 - 0.5, 0.0), x.shape[1] - 1.0)
        z = min(max((j + 0.5) / 2 - 0.5, 0.0), x.shape[2] - 1.0)
        for row, column in np.ndindex(x.shape[1:]):
            out[c, i, j] += max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(z - column)) * x[c, row, column]
    return out


def reference(layer: OctaveConv, maps: Maps, path: str, stride: int) -> tuple[Any, Any]:
    """Equations 1 and 2 for one picture; ``path`` names the operator f."""

    def f(x: Any, operator: Any) -> Array:
        loop = convolve_transposed if path == "transposed" else convolve
        return loop(x, operator.weight.detach().numpy(), stride)

    high, low = (None if x is None else x[0].numpy() for x in maps)
    terms: dict[str, list[Array]] = {"high": [], "low": []}
    if layer.high_to_high is not None:
        terms["high"].append(f(high, layer.high_to_high))
    if layer.low_to_high is not None:
        terms["high"].append(nearest(f(low, layer.low_to_high)))
    if layer.low_to_low is not None:
        terms["low"].append(f(low, layer.low_to_low))
    if layer.high_to_low is not None:
        terms["low"].append(f(pooled(high), layer.high_to_low))
    out = {target: sum(parts) if parts else None for target, parts in terms.items()}
    for target, bias in (("high", layer.high_bias), ("low", layer.low_bias)):
        if bias is not None:
            out[target] = out[target] + bias.detach().numpy()[:, None, None]
        if path == "bilinear" and out[target] is not None:
            out[target] = interpolated(out[target])
    return out["high"], out["low"]


def inputs(layer: OctaveConv, height: int = 8, width: int = 12) -> Maps:
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    high = torch.randn(1, layer.high_in, height, width, generator=generator, dtype=torch.float64)
    low = torch.randn(1, layer.low_in, height // 2, width // 2, generator=generator, dtype=torch.float64)
    return Maps(*(x if x.shape[1] else None for x in (high, low)))


def assert_follows(layer: OctaveConv, maps: Maps, path: str = "plain", stride: int = 1) -> None:
    with torch.no_grad():
        found = layer(maps)
    for tensor, expected in zip(found, reference(layer, maps, path, stride), strict=True):
        assert (tensor is None) == (expected is None)
        if tensor is not None:
            np.testing.assert_allclose(tensor[0].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (1, 1), (4, 2)])
@pytest.mark.parametrize(("alpha_in", "alpha_out"), PAIRS)
def test_octave_convolution(alpha_in: float, alpha_out: float, kernel: int, stride: int) -> None:
    layer = OctaveConv(4, 3, alpha_in=alpha_in, alpha_out=alpha_out, kernel=kernel, stride=stride, bias=True)
    assert_follows(layer, inputs(layer), stride=stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("alpha_in", "alpha_out"), PAIRS)
def test_decoder_operators(alpha_in: float, alpha_out: float, stride: int) -> None:
    """Bilinear with stride 1 is a plain octave convolution; with stride 2 it interpolates both frequencies."""
    transposed = TransposedOctaveConv(4, 3, alpha_in=alpha_in, alpha_out=alpha_out, stride=stride, bias=True)
    assert_follows(transposed, inputs(transposed, 4, 8), "transposed", stride)
    bilinear = BilinearOctaveConv(4, 3, alpha_in=alpha_in, alpha_out=alpha_out, stride=stride, bias=True)
    assert_follows(bilinear, inputs(bilinear, 4, 8), "bilinear" if stride == 2 else "plain")


def test_bilinear_commutes_with_its_convolution() -> None:
    layer = BilinearOctaveConv(3, 2, alpha_in=0.0, alpha_out=0.0, stride=2)
    maps = inputs(layer, 4, 6)
    with torch.no_grad():
        interpolated_first = layer.high_to_high(torch.from_numpy(interpolated(maps.high[0].numpy()))[None])
        torch.testing.assert_close(layer(maps).high, interpolated_first)


@pytest.mark.parametrize(
    ("channels", "alpha", "expected"),
    [(8, 0.25, (6, 2)), (1024, 0.25, (768, 256)), (5, 0.5, (2, 3)), (3, 0, (3, 0)), (3, 1, (0, 3)), (1, 0.2, (1, 0))],
)
def test_channels_of_each_frequency(channels: int, alpha: float, expected: tuple[int, int]) -> None:
    assert split_channels(channels, alpha) == expected
    layer = OctaveConv(4, channels, alpha_in=0.5, alpha_out=alpha)
    maps = layer(Maps(torch.zeros(2, 2, 4, 6), torch.zeros(2, 2, 2, 3)))
    shapes = tuple(None if x is None else tuple(x.shape) for x in maps)
    assert shapes == ((2, expected[0], 4, 6) if expected[0] else None, (2, expected[1], 2, 3) if expected[1] else None)


@pytest.mark.parametrize("operator", [OctaveConv, TransposedOctaveConv, BilinearOctaveConv])
@pytest.mark.parametrize("alphas", [{"alpha_in": -0.1}, {"alpha_in": 1.1}, {"alpha_out": 2.0}, {"alpha_out": math.nan}])
def test_impossible_alpha(operator: type[OctaveConv], alphas: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        operator(4, 4, **alphas)


@pytest.mark.parametrize("channels", [(0, 4), (4, 0), (4, -1)])
def test_impossible_channels(channels: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OctaveConv(*channels)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (4, 1), (3, 2), (1, 2), (1, 3)])
def test_kernel_and_stride_that_would_shift_centres(kernel: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"kernel {kernel}, stride {stride}"):
        OctaveConv(4, 4, kernel=kernel, stride=stride)


@pytest.mark.parametrize("operator", [TransposedOctaveConv, BilinearOctaveConv])
@pytest.mark.parametrize("stride", [0, 3])
def test_impossible_stride(operator: type[TransposedOctaveConv], stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {stride}"):
        operator(4, 4, stride=stride)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (2, 2), (4, 2), (3, 3)])
@pytest.mark.parametrize("alpha_out", [0.0, 1.0])
def test_pixel_centres_stay(kernel: int, stride: int, alpha_out: float) -> None:
    """An average of a ramp is the ramp at the output pixel's centre: x = (x' + 0.5) * scale - 0.5."""
    layer = OctaveConv(1, 1, alpha_in=0.0, alpha_out=alpha_out, kernel=kernel, stride=stride)
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, 1 / kernel**2)
    x = torch.arange(36.0)
    high, low = layer(Maps((x + 50 * x[:, None])[None, None], None))
    scale, found = (stride, high) if alpha_out == 0 else (2 * stride, low)
    centre = ((torch.arange(36 // scale) + 0.5) * scale - 0.5)[2:-2]
    torch.testing.assert_close(found[0, 0, 2:-2, 2:-2], centre + 50 * centre[:, None])


def test_pixel_centres_stay_when_interpolated() -> None:
    layer = BilinearOctaveConv(1, 1, alpha_in=0.0, alpha_out=0.0)
    layer.high_to_high.weight.data.fill_(1.0)
    high, _ = layer(Maps(torch.arange(8.0).expand(1, 1, 8, 8), None))
    torch.testing.assert_close(high[0, 0, 5, 1:-1], (torch.arange(1.0, 15.0) + 0.5) / 2 - 0.5)
