"""Heatmaps to points: soft-argmax, spread, pixel convention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from octamark.nets.heatmaps import Points, decode, draw, probabilities, to_heatmap_pixels, to_input_pixels


def random_maps(*shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float32)


def test_decode_against_a_loop() -> None:
    p = probabilities(random_maps(2, 3, 5, 7)).double()
    points = decode(p)
    assert points.position.shape == points.spread.shape == (2, 3, 2)
    for n, m in np.ndindex(2, 3):
        mean, spread = [0.0, 0.0], [0.0, 0.0]
        for y, x in np.ndindex(5, 7):
            for axis, place in enumerate((x, y)):
                mean[axis] += float(p[n, m, y, x]) * place
        for y, x in np.ndindex(5, 7):
            for axis, place in enumerate((x, y)):
                spread[axis] += float(p[n, m, y, x]) * abs(place - mean[axis])
        np.testing.assert_allclose(points.position[n, m], mean, atol=1e-12)
        np.testing.assert_allclose(points.spread[n, m], spread, atol=1e-12)


def test_probabilities_against_a_loop() -> None:
    """beta scales the logits; each map sums to 1."""
    maps = random_maps(2, 3, 4, 5)
    p = probabilities(maps, beta=2.5)
    for n, m in np.ndindex(2, 3):
        powers = np.exp(2.5 * maps[n, m].double().numpy())
        np.testing.assert_allclose(p[n, m], powers / powers.sum(), rtol=1e-5)


def test_larger_beta_is_more_certain() -> None:
    maps = random_maps(1, 4, 9, 9)
    spreads = [decode(probabilities(maps, beta)).spread for beta in (0.0, 1.0, 10.0, 1000.0)]
    assert all((narrow < wide).all() for wide, narrow in itertools.pairwise(spreads))
    torch.testing.assert_close(spreads[0], torch.full((1, 4, 2), 20 / 9))  # uniform over 0..8
    assert spreads[-1].max() < 1e-3


def test_half_precision_logits_are_read_in_full() -> None:
    maps = random_maps(1, 2, 8, 8).bfloat16()
    p = probabilities(maps)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, probabilities(maps.float()), rtol=0, atol=0)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (6, 0), (0, 4), (3, 2), (6, 4)])
def test_delta_decodes_to_its_pixel(x: int, y: int) -> None:
    p = torch.zeros(1, 1, 5, 7)
    p[0, 0, y, x] = 1.0
    points = decode(p)
    assert points.position.tolist() == [[[x, y]]]
    assert points.spread.tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize(("mu", "b"), [((50.0, 40.0), (4.0, 4.0)), ((47.3, 52.6), (3.0, 6.0))])
def test_laplace_density_gives_its_parameters_back(mu: tuple[float, float], b: tuple[float, float]) -> None:
    x, y = torch.arange(101.0)[None, :], torch.arange(91.0)[:, None]
    logits = -(x - mu[0]).abs() / b[0] - (y - mu[1]).abs() / b[1]
    points = decode(probabilities(logits[None, None]))
    np.testing.assert_allclose(points.position[0, 0], mu, atol=0.05)
    np.testing.assert_allclose(points.spread[0, 0], b, rtol=0.025)


def test_mirrored_map_decodes_mirrored() -> None:
    p = probabilities(random_maps(2, 3, 6, 9))
    points, mirrored = decode(p), decode(p.flip(3))
    torch.testing.assert_close(mirrored.position[..., 0], 9 - 1 - points.position[..., 0])
    torch.testing.assert_close(mirrored.position[..., 1], points.position[..., 1])
    torch.testing.assert_close(mirrored.spread, points.spread)


@pytest.mark.parametrize(("heatmap", "picture"), [(0.0, 1.5), (-0.5, -0.5), (1.0, 5.5), (63.0, 253.5), (63.5, 255.5)])
def test_pixel_convention(heatmap: float, picture: float) -> None:
    """x' = (x + 0.5) * 4 - 0.5; the edges of heatmap and picture are the same line."""
    points = to_input_pixels(Points(torch.full((1, 1, 2), heatmap), torch.tensor([[[0.25, 2.0]]])), 4)
    assert points.position.tolist() == [[[picture, picture]]]
    assert points.spread.tolist() == [[[1.0, 8.0]]]
    assert to_heatmap_pixels(torch.full((2,), picture), 4).tolist() == [heatmap, heatmap]


@pytest.mark.parametrize("stride", [1, 2, 4, 2.5])
def test_conversions_invert_each_other(stride: float) -> None:
    landmarks = 60 * random_maps(2, 3, 2)
    back = to_input_pixels(Points(to_heatmap_pixels(landmarks, stride), torch.zeros(2, 3, 2)), stride).position
    torch.testing.assert_close(back, landmarks, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5, 1.0, 2.0])
def test_drawn_maps_have_exactly_their_position(scale: float) -> None:
    """At any place between pixels; the spread is that of the density or a little more."""
    position = 30 + torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0))
    p = draw(Points(position, torch.full_like(position, scale)), 61, 61)
    torch.testing.assert_close(p.sum(dim=(2, 3)), torch.ones(1, 50))
    found = decode(p)
    torch.testing.assert_close(found.position, position, rtol=0, atol=1e-3)
    assert scale - 1e-3 <= found.spread.min() <= found.spread.max() <= scale + 0.51
    assert scale < 0.5 or found.spread.max() <= scale + 0.2


def test_drawn_maps_near_and_beyond_the_border_are_whole() -> None:
    p = draw(Points(torch.tensor([[[0.0, 0.0], [-40.0, 100.0]]]), torch.full((1, 2, 2), 0.5)), 16, 16)
    torch.testing.assert_close(p.sum(dim=(2, 3)), torch.ones(1, 2))
    assert p[0, 0, 0, 0] > 0.4
    assert p[0, 1, 15, 0] > 0.4
