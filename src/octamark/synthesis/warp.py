"""Warps that move given points of a picture, batched: thin-plate splines, made smaller where they would fold.

A warp is stored backwards, as samplers need it: for each place of the new picture it gives the place of the old one.
Source: F. Bookstein, Principal warps: thin-plate splines and the decomposition of deformations, 1989.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_AREA = 0.12
"""A warp counts as folded where a small square of the new picture shows less than this share of its area in the old."""

CONVERGED = 1e-4
"""Pixels of the old picture. A warp counts as inverted if every label comes from this near to its old place."""

_GRID = 40  # squares along each side of a picture in which folds are looked for
_STEPS = (1.0, 0.75, 0.55, 0.4, 0.25, 0.12)  # shares of the movement that are tried in turn
_NEAR = 1e-6  # pixels: the inverse is not computed more exactly than this
_BORDER = 6  # fixed anchors along each side of the picture


class Spline(NamedTuple):
    """A backward thin-plate spline of n pictures, in units of their side.

    Attributes:
        anchors: (n, k, 2) places of the new picture.
        weights: (n, k + 3, 2) of the radial functions, the constant and the two linear ones.
        side: of the pictures, pixels.
    """

    anchors: Tensor
    weights: Tensor
    side: int

    def __call__(self, places: Tensor) -> Tensor:
        """The places (n, p, 2) of the old pictures that are shown at places (n, p, 2) of the new ones, pixels."""
        x = ((places + 0.5) / self.side).to(self.anchors.dtype)
        radial = _radial(x, self.anchors)
        terms = torch.cat([radial, torch.ones_like(x[..., :1]), x], dim=2)
        return ((terms @ self.weights) * self.side - 0.5).to(places.dtype)

    def invert(self, places: Tensor, start: Tensor, rounds: int = 12) -> tuple[Tensor, Tensor]:
        """The places of the new pictures that come from given places (n, p, 2) of the old ones, by Newton's method.

        Args:
            start: (n, p, 2) first guess.

        Returns:
            Places (n, p, 2), and the largest error (n,) of each picture: the distance, in pixels of the old picture,
            between where a place comes from and where it should. NaN or large where the method did not converge.
        """
        x, step = start.clone(), 0.25
        for _ in range(rounds):
            beside = [x, x + x.new_tensor([step, 0.0]), x + x.new_tensor([0.0, step])]
            current, right, below = self(torch.cat(beside, dim=1)).chunk(3, dim=1)
            error = (places - current).abs()
            if error.max() < _NEAR:
                break
            jacobian = torch.stack([(right - current) / step, (below - current) / step], dim=-1)  # n, p, 2, 2
            move = torch.linalg.solve_ex(jacobian, (places - current)[..., None])[0][..., 0]
            x = x + move.clamp(-0.02 * self.side, 0.02 * self.side)
        else:
            error = (places - self(x)).abs()
        return x, error.amax(dim=(1, 2))


def _radial(a: Tensor, b: Tensor) -> Tensor:
    """The radial functions r^2 ln r^2 (n, p, k) of the distances r between places (n, p, 2) and (n, k, 2)."""
    across, down = (a[:, :, None, axis] - b[:, None, :, axis] for axis in (0, 1))
    squared = across.square_().addcmul_(down, down)
    return (squared + 1e-12).log_().mul_(squared)


def spline(new: Tensor, old: Tensor, side: int, least: Tensor) -> Spline:
    """The backward spline that takes points (n, k, 2) of the new pictures to points of the old ones, pixels.

    The borders of the pictures stay in place. A point that is nearer than ``least`` (n,) pixels to an earlier one, in
    either picture, does not count: the lids of a closed eye would force two places into one.
    """
    edge = torch.linspace(0, side - 1, _BORDER + 1, dtype=torch.float64, device=new.device)[:-1]
    zero, last = torch.zeros_like(edge), torch.full_like(edge, side - 1)
    border = torch.cat(
        [torch.stack(pair, 1) for pair in ((edge, zero), (last, edge), (last - edge, last), (zero, last - edge))]
    )
    border = border.expand(len(new), -1, -1)
    a = (torch.cat([new.double(), border], 1) + 0.5) / side
    b = (torch.cat([old.double(), border], 1) + 0.5) / side
    apart = torch.minimum(torch.cdist(new.double(), new.double()), torch.cdist(old.double(), old.double()))
    near = apart < least[:, None, None]
    left_out = torch.tril(near, diagonal=-1).any(dim=2)
    count = a.shape[1]
    system = a.new_zeros(len(new), count + 3, count + 3)
    system[:, :count, :count] = _radial(a, a)
    system[:, :count, count] = system[:, count, :count] = 1
    system[:, :count, count + 1 :] = a
    system[:, count + 1 :, :count] = a.transpose(1, 2)
    values = torch.cat([b, b.new_zeros(len(new), 3, 2)], 1)
    left_out = F.pad(left_out, (0, count + 3 - left_out.shape[1]))
    identity = torch.eye(count + 3, dtype=a.dtype, device=a.device)
    system = torch.where(left_out[:, :, None], identity, system)  # its weight is 0
    values = torch.where(left_out[:, :, None], values.new_zeros(()), values)
    return Spline(a, torch.linalg.solve(system, values), side)


def folds(warp: Spline) -> Tensor:
    """Whether each warp folds or squeezes its picture somewhere, (n,)."""
    steps = torch.linspace(0, warp.side - 1, _GRID + 1, dtype=warp.anchors.dtype, device=warp.anchors.device)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 2)
    old = warp(grid.expand(len(warp.anchors), -1, -1)).view(-1, _GRID + 1, _GRID + 1, 2)
    across, down = old[:, :-1, 1:] - old[:, :-1, :-1], old[:, 1:, :-1] - old[:, :-1, :-1]
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    cell = ((warp.side - 1) / _GRID) ** 2
    return (area < LEAST_AREA * cell).flatten(1).any(dim=1)


def unfolded(old: Tensor, target: Tensor, side: int, least: Tensor) -> tuple[Spline, Tensor, Tensor]:
    """A warp that moves points to given places, or as far towards them as it can without a fold.

    Args:
        old: (n, M, 2) points of the pictures, pixels.
        target: (n, M, 2) where they should go.
        least: see ``spline``.

    Returns:
        The spline; where the points went (n, M, 2), to within ``CONVERGED``; and the share (n,) of the movement
        that was made, 0 for a picture that stays as it is.
    """
    share = old.new_full((len(old),), torch.inf)
    pending = torch.ones(len(old), dtype=torch.bool, device=old.device)
    while True:
        share[pending] = _share_without_fold(old[pending], target[pending], side, least[pending], share[pending])
        new = old + share[:, None, None] * (target - old)
        warp = spline(new, old, side, least)
        places, error = warp.invert(old, new)
        pending = ~(error <= CONVERGED) & (share > 0)
        if not pending.any():
            return warp, places, share


def _share_without_fold(old: Tensor, target: Tensor, side: int, least: Tensor, below: Tensor) -> Tensor:
    """For each picture the largest step of ``_STEPS`` under ``below`` (n,) whose warp has no fold; 0 if none."""
    share = old.new_zeros(len(old))
    for step in _STEPS:
        untried = torch.nonzero((share == 0) & (step < below))[:, 0]
        if not len(untried):
            continue
        moved = old[untried] + step * (target[untried] - old[untried])
        good = ~folds(spline(moved, old[untried], side, least[untried]))
        share[untried[good]] = step
    return share


def sample_at(pictures: Tensor, places: Tensor) -> Tensor:
    """The colours (n, c, h, w) of pictures (n, c, s, s) at places (n, h, w, 2), pixels: bilinear, edges repeated."""
    grid = (2 * places + 1) / pictures.shape[-1] - 1
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def warped(pictures: Tensor, warp: Spline, matrices: Tensor, size: int) -> Tensor:
    """Crops (n, 3, size, size) of warped pictures, sampled once from the old pictures (n, 3, s, s) float.

    Args:
        matrices: (n, 2, 3) from pixels of the crops to pixels of the new pictures.
    """
    coarse = size // 4 + 1  # the spline is smooth: every fourth pixel of it, and straight lines between
    steps = torch.linspace(-0.5, size - 0.5, coarse, dtype=matrices.dtype, device=matrices.device)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 2)
    new = grid @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    old = warp(new).view(len(pictures), coarse, coarse, 2).permute(0, 3, 1, 2)
    fine = torch.arange(size, dtype=matrices.dtype, device=matrices.device)
    place = (fine + 0.5) * ((coarse - 1) / size) * 2 / (coarse - 1) - 1  # align_corners: corners are at -1 and 1
    between = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1).expand(len(pictures), -1, -1, -1)
    places = F.grid_sample(old, between, mode="bilinear", padding_mode="border", align_corners=True)
    return sample_at(pictures, places.permute(0, 2, 3, 1))
