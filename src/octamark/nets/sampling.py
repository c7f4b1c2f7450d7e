"""Crops of stored faces as tensors: cut, and what is known of their points carried along."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def middle(count: int, side: int, size: int, zoom: float = 1.0) -> Tensor:
    """What :func:`similarity` gives without augmentation: matrices (n, 2, 3) of the stored crops' middle."""
    offset = (side / 2 - 0.5) - zoom * (size / 2 - 0.5)
    return torch.tensor([[zoom, 0.0, offset], [0.0, zoom, offset]]).repeat(count, 1, 1)


def cut(pictures: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Crops (n, 3, size, size) float in 0..1 from stored pictures (n, 3, s, s) uint8; black outside them."""
    side = pictures.shape[-1]
    # normalised coordinates of grid_sample (align_corners=False): g = (2 x + 1) / side - 1
    linear = matrices[:, :, :2] * (size / side)
    centre = matrices[:, :, :2] @ matrices.new_full((2,), (size - 1) / 2) + matrices[:, :, 2]
    theta = torch.cat([linear, ((2 * centre + 1) / side - 1)[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [len(pictures), 3, size, size], align_corners=False)
    return F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False) / 255


def move_points(landmarks: Tensor, matrices: Tensor, mirrored: Tensor, mirror: Tensor) -> Tensor:
    """Landmarks (n, M, 2) of the stored crops, in pixels of the cut ones; mirrored faces swap sides."""
    linear, offset = matrices[:, :, :2], matrices[:, :, 2]
    moved = torch.linalg.solve(linear, (landmarks - offset[:, None]).transpose(1, 2)).transpose(1, 2)
    return torch.where(mirrored[:, None, None], moved[:, mirror], moved)


def move_spreads(spreads: Tensor, matrices: Tensor, mirrored: Tensor, mirror: Tensor) -> Tensor:
    """Spreads (n, M, 2) per axis of landmarks that :func:`move_points` moves.

    The errors of the two axes are taken as independent, so that their variances, proportional to the squares of the
    spreads, add up under a rotation. Exact for scaling, mirroring and quarter turns.
    """
    inverse = torch.linalg.inv(matrices[:, :, :2])  # n, 2, 2
    moved = (spreads**2 @ (inverse**2).transpose(1, 2)).sqrt()
    return torch.where(mirrored[:, None, None], moved[:, mirror], moved)
