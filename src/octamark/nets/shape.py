"""Landmarks together: what the shape that all of them make says of where each should be.

Every landmark is read off a heatmap of its own, so that neighbours err apart; faces do not. Point distribution models
(T. Cootes et al., Active Shape Models, 1995) tell likely shapes from unlikely ones in a frame that follows the face;
here one matrix tells, in such a frame, what is probably wrong with a shape that a network found.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShapeCorrection(nn.Module):
    """Points (n, M, 2) -> points (n, M, 2), moved by a linear function of their difference from a mean shape.

    The shape is laid on the mean by a similarity (middle, size, rotation), so that where a face is, how large and how
    turned changes nothing, and the correction is carried back.

    Args:
        mean: (M, 2) shape, its middle at 0 and of size 1 (root of the sum of squares).
        weight: (2 M, 2 M), from the difference to the correction: row (x, y of one point after the other) by column.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, mean: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("weight", weight)

    def forward(self, points: Tensor) -> Tensor:
        away, turn, size = laid_on(points, self.mean)
        moved = (away.flatten(1) @ self.weight).view_as(away)  # n, M, 2
        return points + rotated(moved, turn * turn.new_tensor([1.0, -1.0])) * size


def laid_on(points: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes (n, M, 2) minus the mean shape (M, 2), after the rotation that fits best, as large as it.

    Returns:
        Differences (n, M, 2), cosine and sine of the rotations (n, 1, 2), and the shapes' sizes (n, 1, 1), pixels.
    """
    centred = points - points.mean(dim=1, keepdim=True)
    size = centred.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-3)
    unit = centred / size
    along = (unit * mean).sum(dim=(1, 2))
    across = (unit[..., 0] * mean[:, 1] - unit[..., 1] * mean[:, 0]).sum(dim=1)
    turn = torch.stack([along, across], dim=-1)
    turn = turn / turn.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=1e-3)
    return rotated(unit, turn[:, None]) - mean, turn[:, None], size


def rotated(points: Tensor, turn: Tensor) -> Tensor:
    """Points (n, M, 2) rotated about 0 by angles of these cosines and sines (n, 1, 2)."""
    x, y = points.unbind(-1)
    cos, sin = turn.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
