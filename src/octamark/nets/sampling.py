"""Crops of pictures as tensors, and the landmarks and spreads of the pictures in pixels of the crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def middle(count: int, side: int, size: int, zoom: float = 1.0) -> Tensor:
    """Matrices (n, 2, 3) from pixels of the middle crops, those without augmentation, to pixels of stored crops.

    Args:
        side, size: sides of the stored crop and of the network's crop, pixels.
        zoom: pixels of the stored crop per pixel of the network's.
    """
    offset = (side / 2 - 0.5) - zoom * (size / 2 - 0.5)
    return torch.tensor([[zoom, 0.0, offset], [0.0, zoom, offset]]).repeat(count, 1, 1)


def cut(pictures: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Crops of pictures, float in 0..1, bilinear, black outside.

    Args:
        pictures: (n, 3, s, s), uint8 or float in 0..1.
        matrices: (n, 2, 3) affine maps from pixels of a crop to pixels of its picture; or (n, r, 2, 3), r crops of each
            picture.

    Returns:
        (n, 3, size, size), or (n, r, 3, size, size).
    """
    if matrices.ndim == 4:
        per_picture = matrices.shape[1]
        grid = _grid(matrices.flatten(0, 1), pictures.shape[-1], size).view(len(pictures), per_picture * size, size, 2)
        crops: Tensor = _read(pictures, grid).unflatten(2, (per_picture, size)).transpose(1, 2)  # type: ignore[no-untyped-call]
        return crops
    return _read(pictures, _grid(matrices, pictures.shape[-1], size))


def _grid(matrices: Tensor, side: int, size: int) -> Tensor:
    """Places (n, size, size, 2) of the crops' pixels, in the coordinates of grid_sample: g = (2 x + 1) / side - 1."""
    linear = matrices[:, :, :2] * (size / side)
    centre = matrices[:, :, :2] @ matrices.new_full((2,), (size - 1) / 2) + matrices[:, :, 2]
    theta = torch.cat([linear, ((2 * centre + 1) / side - 1)[:, :, None]], dim=2)
    return F.affine_grid(theta, [len(matrices), 3, size, size], align_corners=False)


def _read(pictures: Tensor, grid: Tensor) -> Tensor:
    """Pictures at the places of a grid, float in 0..1."""
    sampled = F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled if pictures.is_floating_point() else sampled / 255


def move_points(landmarks: Tensor, matrices: Tensor, mirrored: Tensor, mirror: Tensor) -> Tensor:
    """Landmarks (n, M, 2) of stored crops, in pixels of the crops cut out of them; NaN stays NaN.

    Args:
        matrices: (n, 2, 3) from pixels of the cut crops to pixels of the stored ones.
        mirrored: (n,) booleans; in mirrored faces the landmarks of the two sides change places.
        mirror: (M,) the layout's mirror permutation.
    """
    linear, offset = matrices[:, :, :2], matrices[:, :, 2]
    moved = torch.linalg.solve(linear, (landmarks - offset[:, None]).transpose(1, 2)).transpose(1, 2)
    return torch.where(mirrored[:, None, None], moved[:, mirror], moved)


def move_spreads(spreads: Tensor, matrices: Tensor, mirrored: Tensor, mirror: Tensor) -> Tensor:
    """Spreads (n, M, 2) per axis of landmarks that ``move_points`` moves.

    The errors of the two axes are taken as independent, so that their variances, proportional to the squares of the
    spreads, add up under a rotation. Exact for scaling, mirroring and quarter turns.
    """
    inverse = torch.linalg.inv(matrices[:, :, :2])  # n, 2, 2
    moved = (spreads**2 @ (inverse**2).transpose(1, 2)).sqrt()
    return torch.where(mirrored[:, None, None], moved[:, mirror], moved)
