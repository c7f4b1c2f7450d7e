"""From heatmaps to points: soft-argmax and spread, once, for training and for the exported graph.

Source: Laplace Landmark Localization, equation 1 and section 1. Coordinates follow octamark's pixel convention:
pixel centres at integers, so a heatmap of stride s puts its position j at (j + 0.5) * s - 0.5 of the input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Points(NamedTuple):
    """Landmarks read from heatmaps.

    Shapes and units: ``position`` (n, M, 2), s~ = E[x], as (x, y); ``spread`` (n, M, 2), b = E|x - s~| per axis;
    both in heatmap pixels from ``decode``, in input pixels after ``to_input_pixels``.
    """

    position: Tensor
    spread: Tensor


def probabilities(heatmaps: Tensor, beta: float = 1.0) -> Tensor:
    """p = softmax over positions of beta * h (equation 1). (n, M, h, w) -> the same, each map summing to 1."""
    return torch.softmax((heatmaps.float() * beta).flatten(2), dim=-1).view(heatmaps.shape)


def decode(p: Tensor) -> Points:
    """Soft-argmax and per-axis mean absolute deviation of probability maps (n, M, h, w), in heatmap pixels."""
    marginals = (p.sum(dim=2), p.sum(dim=3))  # over y: n, M, w; over x: n, M, h
    positions, spreads = [], []
    for marginal in marginals:
        grid = torch.arange(marginal.shape[-1], dtype=p.dtype, device=p.device)
        position = (marginal * grid).sum(dim=-1, keepdim=True)
        positions.append(position)
        spreads.append((marginal * (grid - position).abs()).sum(dim=-1, keepdim=True))
    return Points(torch.cat(positions, dim=-1), torch.cat(spreads, dim=-1))


def draw(points: Points, height: int, width: int) -> Tensor:
    """Probability maps (n, M, h, w) as labels would give them: a Laplace density per axis around each position.

    Every bit of the density goes to its two neighbouring pixels in proportion, so that ``decode`` finds the
    position again, exactly where none is lost beyond the map's borders; the spread grows a little, at 0.5 to about 0.6.
    Positions beyond the borders are drawn at them. In closed form: the second difference of (|d| + b exp(-|d|/b)) / 2,
    whose second derivative is the density.
    """
    marginals = []
    for axis, length in enumerate((width, height)):
        grid = torch.arange(-1, length + 1, dtype=points.position.dtype, device=points.position.device)
        centre = points.position[..., axis, None].clamp(0, length - 1)
        distance = (grid - centre).abs()  # n, M, length + 2
        spread = points.spread[..., axis, None].clamp_min(1e-4)
        bowl = (distance + spread * torch.exp(-distance / spread)) / 2
        mass = (bowl[..., 2:] - 2 * bowl[..., 1:-1] + bowl[..., :-2]).clamp_min(1e-12)
        marginals.append(mass / mass.sum(dim=-1, keepdim=True))
    return marginals[1][..., :, None] * marginals[0][..., None, :]


def visibility_logits(p: Tensor, evidence: Tensor) -> Tensor:
    """Logits (n, M) of the landmarks being seen: the mean of the evidence over each landmark's probability map.

    No gradient reaches the maps: what is visible does not move the points.

    Args:
        p: (n, M, h, w) probability maps.
        evidence: (n, M, h/2, w/2), see octamark.nets.network.OctaveNetwork.both.
    """
    weight = F.avg_pool2d(p.detach(), 2) * 4.0
    return (weight * evidence.float()).sum(dim=(2, 3))


def to_input_pixels(points: Points, stride: float) -> Points:
    """Heatmap pixels -> input pixels: x' = (x + 0.5) * stride - 0.5; spreads scale by stride."""
    return Points((points.position + 0.5) * stride - 0.5, points.spread * stride)


def to_heatmap_pixels(landmarks: Tensor, stride: float) -> Tensor:
    """Input pixels -> heatmap pixels, the inverse of ``to_input_pixels`` for positions. Any shape."""
    return (landmarks + 0.5) / stride - 0.5
