"""LaplaceKL against numerical integration and finite differences; its baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from octamark.nets.heatmaps import Points, decode, draw
from octamark.training.losses import LOSSES, drawn_kl, laplace_kl, map_kl, soft_argmax_l1


def kl(distance: float, spread: float, scale: float) -> float:
    """The loss of a single axis; the other axis is at its minimum, 0."""
    position = torch.tensor([[[distance, 0.0]]], dtype=torch.float64)
    points = Points(position, torch.tensor([[[spread, scale]]], dtype=torch.float64))
    return 2 * float(laplace_kl(points, torch.zeros(1, 1, 2, dtype=torch.float64), scale))


def integrated(distance: float, spread: float, scale: float) -> float:
    """KL(Laplace(distance, spread) || Laplace(0, scale)) on a fine grid."""
    x = distance + np.linspace(-40 * spread, 40 * spread, 400_001)
    p = np.exp(-np.abs(x - distance) / spread) / (2 * spread)
    log_ratio = np.log(scale / spread) - np.abs(x - distance) / spread + np.abs(x) / scale
    y = p * log_ratio
    return float(np.sum((y[1:] + y[:-1]) / 2) * (x[1] - x[0]))


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Positions, spreads and targets: wide and narrow, on the target, near it and far from it."""
    target = torch.tensor([[[3.0, 5.0], [8.0, 2.0], [0.5, -1.0]]], dtype=torch.float64)
    offset = torch.tensor([[[0.3, -0.7], [2.5, -9.0], [-0.05, 0.9]]], dtype=torch.float64)
    spread = torch.tensor([[[0.4, 1.0], [2.2, 1.5], [0.8, 3.0]]], dtype=torch.float64)
    return (target + offset).requires_grad_(), spread.requires_grad_(), target


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("distance", [0.0, 0.3, -1.0, 6.0, -25.0])
def test_closed_form_is_the_divergence(distance: float, spread: float, scale: float) -> None:
    assert kl(distance, spread, scale) == pytest.approx(integrated(distance, spread, scale), rel=1e-3, abs=1e-6)


def test_formula_of_the_source() -> None:
    """For t = 1: b exp(-|d| / b) + |d| - ln b - 1, averaged over both axes and all points."""
    position, spread, target = (tensor.detach() for tensor in example())
    d, b = np.abs((position - target).numpy()), spread.numpy()
    expected = np.mean(b * np.exp(-d / b) + d - np.log(b) - 1)
    assert float(laplace_kl(Points(position, spread), target)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_gradcheck(scale: float) -> None:
    position, spread, target = example()
    assert torch.autograd.gradcheck(lambda p, b: laplace_kl(Points(p, b), target, scale), (position, spread))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_gradient_against_differences(scale: float) -> None:
    """Central differences, also at d = 0, where the loss is smooth although |d| is not."""
    position, spread, target = example()
    position.data[0, 0, 0] = target[0, 0, 0]
    laplace_kl(Points(position, spread), target, scale).backward()
    for tensor in (position, spread):
        assert tensor.grad is not None
        for place in np.ndindex(1, 3, 2):
            values = []
            for step in (1e-5, -1e-5):
                moved = tensor.detach().clone()
                moved[place] += step
                points = Points(moved, spread) if tensor is position else Points(position, moved)
                values.append(laplace_kl(points, target, scale).item())
            assert float(tensor.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-5)


positive = st.floats(0.05, 50.0)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(distance=st.floats(-100.0, 100.0), spread=positive, scale=positive)
def test_positive_away_from_its_minimum(distance: float, spread: float, scale: float) -> None:
    assume(abs(distance) > 1e-2 * spread or abs(spread / scale - 1) > 1e-2)
    assert kl(distance, spread, scale) > 1e-6


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(scale=positive)
def test_zero_at_its_minimum(scale: float) -> None:
    assert kl(0.0, scale, scale) == pytest.approx(0.0, abs=1e-12)
    position = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    spread = torch.full((1, 1, 2), scale, dtype=torch.float64, requires_grad=True)
    laplace_kl(Points(position, spread), torch.zeros_like(position), scale).backward()
    for gradient in (position.grad, spread.grad):
        torch.testing.assert_close(gradient, torch.zeros(1, 1, 2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_slope_far_out_is_that_of_l1(side: float, scale: float) -> None:
    position = torch.tensor([[[40.0 * side, 60.0 * side]]], requires_grad=True)
    laplace_kl(Points(position, torch.full((1, 1, 2), 1.5)), torch.zeros(1, 1, 2), scale).backward()
    torch.testing.assert_close(position.grad, torch.full((1, 1, 2), side / scale / 2))  # mean over two axes


def test_spread_is_the_knee() -> None:
    """At |d| = b the slope is 1 - 1/e of that of L1, for any b."""
    spread = torch.tensor([[[0.5, 1.0], [2.0, 8.0]]])
    position = spread.clone().requires_grad_()
    laplace_kl(Points(position, spread), torch.zeros_like(spread)).backward()
    torch.testing.assert_close(4 * position.grad, torch.full((1, 2, 2), 1 - float(np.exp(-1))))


def test_certain_and_wrong_stays_finite() -> None:
    """A map that is one at a single pixel has spread 0."""
    position = torch.tensor([[[5.0, 0.0]]], requires_grad=True)
    spread = torch.zeros(1, 1, 2, requires_grad=True)
    loss = laplace_kl(Points(position, spread), torch.zeros(1, 1, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 5
    for gradient in (position.grad, spread.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


def test_soft_argmax_l1_is_the_mean_absolute_error() -> None:
    position, spread, target = (tensor.detach() for tensor in example())
    expected = np.abs((position - target).numpy()).mean()
    for scale in (1.0, 3.0):
        assert float(soft_argmax_l1(Points(position, spread), target, scale)) == pytest.approx(float(expected))
    assert float(soft_argmax_l1(Points(position, 2 * spread), target)) == pytest.approx(float(expected))


def test_every_point_may_have_its_own_scale_and_weight() -> None:
    position, spread, target = (tensor.detach() for tensor in example())
    scale = torch.tensor([[[0.3, 1.0], [2.0, 0.7], [5.0, 1.5]]], dtype=torch.float64)
    weight = torch.tensor([[[1.0], [0.0], [3.0]]], dtype=torch.float64)
    terms = [
        weight[0, point, 0] * float(laplace_kl(Points(*(v[:, point, axis, None, None] for v in (position, spread))),
                                               target[:, point, axis, None, None], float(scale[0, point, axis])))
        for point in range(3) for axis in range(2)
    ]  # fmt: skip
    found = laplace_kl(Points(position, spread), target, scale, weight)
    assert float(found) == pytest.approx(float(sum(terms)) / 6, rel=1e-12)


def test_names() -> None:
    assert {"laplace_kl": laplace_kl, "soft_argmax_l1": soft_argmax_l1} == LOSSES


def test_map_kl_of_known_maps() -> None:
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0] = 0.5
    target[0, 1, 1, 1] = 1.0
    p = torch.full((1, 2, 2, 2), 0.25, requires_grad=True)
    torch.testing.assert_close(map_kl(target, p).detach(), torch.tensor([[2.0, 4.0]]).log())
    torch.testing.assert_close(map_kl(target, target), torch.zeros(1, 2))
    assert torch.isfinite(map_kl(p.detach(), target)).all()
    (slope,) = torch.autograd.grad(map_kl(target, p).sum(), p)
    torch.testing.assert_close(slope, -target / 0.25)


def test_map_kl_sees_what_laplace_kl_cannot() -> None:
    """Two peaks with the position and spread of one broad density."""
    drawn = draw(Points(torch.full((1, 1, 2), 8.0), torch.full((1, 1, 2), 2.0)), 17, 17)
    apart = torch.zeros(1, 1, 17, 17)
    spread = decode(drawn).spread
    for x in (8 - round(float(spread[0, 0, 0])), 8 + round(float(spread[0, 0, 0]))):
        apart[0, 0, x, x] = 0.5
    target = torch.full((1, 1, 2), 8.0)
    alike = [float(laplace_kl(decode(p), target, 2.0)) for p in (apart, drawn)]
    assert alike[0] == pytest.approx(alike[1], abs=0.05)
    assert map_kl(drawn, apart) > 5


@pytest.mark.parametrize("name", LOSSES)
def test_points_without_a_label_have_no_part_in_a_loss(name: str) -> None:
    """The loss is that of the labelled points alone, and so are its gradients; without any it is 0."""
    position, spread, target = example()
    missing = target.clone()
    missing[0, 1] = torch.nan
    loss = LOSSES[name](Points(position, spread), missing, 0.5)
    kept = [0, 2]
    expected = LOSSES[name](Points(position[:, kept], spread[:, kept]), target[:, kept], 0.5)
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, (position, spread), allow_unused=True)
    wanted = torch.autograd.grad(expected, (position, spread), allow_unused=True)
    for grad, want in zip(grads, wanted, strict=True):
        if want is not None:
            torch.testing.assert_close(grad, want)
            assert not grad[0, 1].any()
    nothing = LOSSES[name](Points(position, spread), torch.full_like(target, torch.nan), 0.5)
    assert nothing.detach() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(nothing, position))


def test_maps_of_points_without_a_label_are_0() -> None:
    p = torch.full((1, 2, 8, 8), 1 / 64, requires_grad=True)
    points = Points(torch.tensor([[[3.0, 4.0], [torch.nan, 4.0]]]), torch.ones(1, 2, 2))
    kl = drawn_kl(points, p)
    assert kl[0, 0] > 0
    assert kl[0, 1] == 0
    (grad,) = torch.autograd.grad(kl.sum(), p)
    assert torch.isfinite(grad).all()
    assert not grad[0, 1].any()
