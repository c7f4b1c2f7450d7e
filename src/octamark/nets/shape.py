"""A correction of all points of a face together, from how its shape differs from the mean shape.

Each landmark is read off a heatmap of its own, so that the errors of neighbours are independent, but the shapes of
faces vary in few ways. Point distribution models (T. Cootes et al., Active Shape Models, 1995) tell likely shapes from
unlikely ones in a frame that follows the face; here one matrix predicts, in such a frame, the error of every point from
the shape that a network found.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octamark.geometry import fit_similarity


class ShapeCorrection(nn.Module):
    """Points (n, M, 2) -> points (n, M, 2), moved by a linear function of their difference from a mean shape.

    The difference is taken in the face's own frame (``shape_frames``), so that position, size and rotation of a
    face do not change its correction. Shapes far from the mean are moved less, and from some distance on not at all: of
    shapes that it was not fitted on, such as profiles, a linear function knows nothing.

    Args:
        mean: (M, 2) shape, its middle at 0 and of size 1 (root of the sum of squares).
        weight: (2 M, 2 M), from the difference to the correction: row (x, y of one point after the other) by column.
        fade: (2,) lengths of the difference up to which the correction counts in full, and from which on it does not;
            shapes have size 1. By default it always counts.
    """

    mean: Tensor
    weight: Tensor
    fade: Tensor

    def __init__(self, mean: Tensor, weight: Tensor, fade: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("weight", weight)
        self.register_buffer("fade", torch.tensor(NO_FADE) if fade is None else fade)

    def forward(self, points: Tensor) -> Tensor:
        frames = shape_frames(points, self.mean)
        difference = in_frames(points - points.mean(dim=1, keepdim=True), frames) - self.mean
        moved = (difference.flatten(1) @ self.weight).view_as(difference)  # n, M, 2
        return points + faded(difference, self.fade) * (moved @ frames.transpose(1, 2))


NO_FADE = (1e3, 2e3)
"""The ``fade`` of a correction that always counts."""


def faded(difference: Tensor, fade: Tensor) -> Tensor:
    """The share of a correction that counts for differences (n, M, 2) from the mean shape: (n, 1, 1)."""
    length = torch.linalg.vector_norm(difference, dim=(1, 2), keepdim=True)
    share: Tensor = ((fade[1] - length) / (fade[1] - fade[0])).clamp(0.0, 1.0)
    return share


def shape_frames(points: Tensor, mean: Tensor) -> Tensor:
    """Each shape's own frame: the rotation of the best similarity from the mean shape, scaled by the shape's size.

    Args:
        points: (n, M, 2) shapes; mean: (M, 2), its middle at 0 and of size 1.

    Returns:
        (n, 2, 2) from the frame of the mean shape to that of the points; nearly 0 for points that all coincide.
    """
    centred = points - points.mean(dim=1, keepdim=True)
    size = centred.square().sum(dim=(1, 2)).sqrt().clamp(min=1e-3)[:, None]
    turn = fit_similarity(mean, centred, torch)[..., 0] / size  # n, 2: cosine and sine, times how alike the shapes are
    turn = turn / turn.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-3) * size
    cos, sin = turn.unbind(-1)
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)


def in_frames(vectors: Tensor, frames: Tensor) -> Tensor:
    """Vectors (n, M, 2) of pixels in the frames (n, 2, 2) of ``shape_frames``: rotated back, over the size."""
    square = frames.square().sum(dim=(1, 2), keepdim=True) / 2
    return vectors @ frames / square.clamp(min=1e-6)
