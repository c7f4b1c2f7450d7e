"""The error of how far eyes are open, which points that err together in small steps hardly show."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from octamark.errors import ConfigError
from octamark.layouts import Layout, Opening
from octamark.metrics import OPENINGS
from octamark.training.losses import labelled_mean
from octamark.training.objectives import Batch, Prediction, Stateless


def opening_loss(
    position: Tensor, target: Tensor, eyes: Iterable[Opening], target_scale: float, shut_weight: float = 1.0
) -> Tensor:
    """Mean error of the distance between the lids, in units of the target scale, as LaplaceKL's: a scalar.

    The distance is that of facing points of the lids, upright on the line between the labelled corners, with its sign
    (below 0 where lids have crossed), and the mean over the pairs of an eye. Unlike a length it has a gradient where
    lids meet, and noise of the points does not make it larger.

    Args:
        position: (n, M, 2) predicted points, heatmap pixels.
        target: (n, M, 2) labels, likewise; NaN where a point has none. An eye counts if all its points have labels.
        eyes: of the layout.
        target_scale: scale of the labels' density, heatmap pixels.
        shut_weight: of an eye that is labelled as shut, falling to 1 for one that is no more than narrow
            (``octamark.metrics.OPENINGS``).
    """
    errors, weights = [], []
    for eye in eyes:
        axis = target[:, eye.corners[1]] - target[:, eye.corners[0]]  # n, 2
        width = axis.norm(dim=1)
        upper, lower = ([pair[side] for pair in eye.pairs] for side in (0, 1))
        known = torch.isfinite(width) & (width > 0) & torch.isfinite(target[:, upper + lower]).all(dim=2).all(dim=1)
        axis = torch.where(known[:, None], axis, axis.new_ones(()))
        upright = torch.stack([-axis[:, 1], axis[:, 0]], dim=1) / axis.norm(dim=1, keepdim=True)
        filled = torch.where(known[:, None, None], target, position.detach())
        predicted, true = (
            ((points[:, lower] - points[:, upper]).mean(dim=1) * upright).sum(dim=1) for points in (position, filled)
        )
        errors.append(torch.where(known, (predicted - true).abs() / target_scale, torch.nan))
        openness = ((true.abs() / width).nan_to_num(1.0) - OPENINGS["shut"][1]) / (
            OPENINGS["narrow"][1] - OPENINGS["shut"][1]
        )
        weights.append(shut_weight + (1 - shut_weight) * openness.clamp(0.0, 1.0))
    error, weight = torch.stack(errors, dim=1), torch.stack(weights, dim=1)  # n, E
    return labelled_mean(error.nan_to_num(0.0) * weight, error.detach())


class Openings(Stateless):
    """The error of the openings of the eyes that can be seen (``opening_loss``).

    The log has it as ``openings``, before its weight. Eyes with a landmark that is known to be hidden do not count.

    Raises:
        ConfigError: a layout without lids.
    """

    column: str | None = "loss"
    columns: tuple[str, ...] = ("openings",)

    def __init__(self, layout: Layout, shut_weight: float) -> None:
        check_lids(layout)
        self.eyes, self.shut_weight = tuple(layout.eyes.values()), shut_weight

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        position = prediction.labelled(batch).points.position
        seen = torch.where((batch.visible == 0)[..., None], torch.nan, batch.target)
        loss = opening_loss(position, seen, self.eyes, batch.target_scale, self.shut_weight)
        return loss, {"openings": loss}


def check_lids(layout: Layout) -> None:
    """Check that a layout has eyes with lids.

    Raises:
        ConfigError: it has none.
    """
    if not layout.eyes:
        raise ConfigError(f"loss.openings: layout {layout.name} has no eyes with lids; set it to 0")
