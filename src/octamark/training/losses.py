"""Losses on heatmaps: LaplaceKL, its baseline soft-argmax with L1, and divergences between whole maps.

A target that is NaN is a point without a label: it has no part in any mean, and no gradient comes from it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octamark.nets.heatmaps import Points, draw


def labelled_mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean (a scalar) of values over the entries whose target, of the same shape, is not NaN; 0 where all are."""
    known = values[torch.isfinite(target)]
    return known.mean() if known.numel() else values.sum() * 0.0


def _filled(target: Tensor, position: Tensor) -> Tensor:
    """The target with the network's own position where it is NaN, so that every term and its gradient is finite."""
    return torch.where(torch.isfinite(target), target, position.detach())


def laplace_kl(
    points: Points, target: Tensor, target_scale: float | Tensor = 1.0, weight: float | Tensor = 1.0
) -> Tensor:
    """KL(Laplace(s~, b) || Laplace(s, t)) in closed form, per axis, averaged over the labelled points.

    With d = s~ - s and t = ``target_scale``: (b exp(-|d|/b) + |d|) / t + ln(t / b) - 1. For t = 1 this is the loss
    of Laplace Landmark Localization (section 1, equation 2): smooth L1 whose knee is the predicted spread, least at
    d = 0, b = t, where it is 0.

    Args:
        points: (n, M, 2) positions s~ and spreads b, heatmap pixels.
        target: (n, M, 2) true positions s, heatmap pixels; NaN where a point has no label.
        target_scale: t, heatmap pixels; a tensor that broadcasts to (n, M, 2) gives every point its own.
        weight: of each term in the mean; broadcasts likewise.

    Returns:
        A scalar, at least 0.
    """
    distance = (points.position - _filled(target, points.position)).abs()
    spread = points.spread.clamp_min(1e-4)
    kl = (spread * torch.exp(-distance / spread) + distance) / target_scale + torch.log(target_scale / spread) - 1
    return labelled_mean(kl * weight, target)


def soft_argmax_l1(points: Points, target: Tensor, target_scale: float = 1.0) -> Tensor:
    """Mean absolute error per axis of the soft-argmax points, heatmap pixels, a scalar: the baseline of LaplaceKL.

    ``target_scale`` is not used; it is there for the signature of ``LOSSES``.
    """
    return labelled_mean((points.position - _filled(target, points.position)).abs(), target)


def map_kl(target: Tensor, p: Tensor) -> Tensor:
    """KL(target || p) of probability maps (n, M, h, w) over their places: (n, M), in nats, at least 0.

    ``laplace_kl`` depends on position and spread alone; here every place counts. Gradients reach ``p`` alone.
    """
    target = target.detach()
    kl: Tensor = (torch.special.xlogy(target, target) - target * p.clamp_min(1e-37).log()).sum(dim=(2, 3))
    return kl


def drawn_kl(points: Points, p: Tensor) -> Tensor:
    """``map_kl`` from maps drawn of ``points`` (a Laplace density each, heatmap pixels) to ``p``: (n, M).

    0 for a point whose position is NaN.
    """
    known = torch.isfinite(points.position)
    drawn = draw(Points(torch.where(known, points.position, 0.0), points.spread), *p.shape[-2:])
    return torch.where(known.all(dim=-1), map_kl(drawn, p), 0.0)


def certainty(spread: Tensor, half: float) -> Tensor:
    """Weight of a teacher's point of spread b: half^2 / (half^2 + b^2), one half at b = ``half``. Any shape."""
    return half**2 / (half**2 + spread**2)


LOSSES: dict[str, Callable[[Points, Tensor, float], Tensor]] = {
    "laplace_kl": laplace_kl,
    "soft_argmax_l1": soft_argmax_l1,
}
