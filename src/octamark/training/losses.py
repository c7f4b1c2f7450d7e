"""Losses on heatmaps: LaplaceKL and its baseline, soft-argmax with L1 (``sam``); whole maps against maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from octamark.nets.heatmaps import Points, draw


def laplace_kl(
    points: Points, target: Tensor, target_scale: float | Tensor = 1.0, weight: float | Tensor = 1.0
) -> Tensor:
    """KL(Laplace(s~, b) || Laplace(s, t)) in closed form, per axis, averaged.

    With d = s~ - s and t = ``target_scale``: (b exp(-|d|/b) + |d|) / t + ln(t / b) - 1. For t = 1 this is the loss
    of Laplace Landmark Localization (section 1, equation 2): smooth L1 whose knee is the predicted spread, least at
    d = 0, b = t, where it is 0.

    Args:
        points: (n, M, 2) positions s~ and spreads b, heatmap pixels.
        target: (n, M, 2) true positions s, heatmap pixels.
        target_scale: t, heatmap pixels; a tensor that broadcasts to (n, M, 2) gives every point its own.
        weight: of each term in the mean; broadcasts likewise.

    Returns:
        A scalar, at least 0.
    """
    distance = (points.position - target).abs()
    spread = points.spread.clamp_min(1e-4)
    kl = (spread * torch.exp(-distance / spread) + distance) / target_scale + torch.log(target_scale / spread) - 1
    return (kl * weight).mean()


def sam(points: Points, target: Tensor, target_scale: float = 1.0) -> Tensor:
    """Soft-argmax and L1, in heatmap pixels: the baseline LaplaceKL is compared with. ``target_scale`` is unused."""
    return (points.position - target).abs().mean()


def map_kl(target: Tensor, p: Tensor) -> Tensor:
    """KL(target || p) of probability maps (n, M, h, w) over their places: (n, M), in nats, at least 0.

    Where :func:`laplace_kl` sees position and spread alone, every place counts here. Gradients reach ``p`` alone.
    """
    target = target.detach()
    kl: Tensor = (torch.special.xlogy(target, target) - target * p.clamp_min(1e-37).log()).sum(dim=(2, 3))
    return kl


def drawn_kl(points: Points, p: Tensor) -> Tensor:
    """:func:`map_kl` from maps drawn of ``points`` (a Laplace density each, heatmap pixels) to ``p``: (n, M)."""
    return map_kl(draw(points, *p.shape[-2:]), p)


def certainty(spread: Tensor, trust: float) -> Tensor:
    """How much a teacher's point of that spread counts: trust^2 / (trust^2 + b^2), one half at b = trust. Any shape."""
    return trust**2 / (trust**2 + spread**2)


LOSSES: dict[str, Callable[[Points, Tensor, float], Tensor]] = {"laplace_kl": laplace_kl, "sam": sam}
