"""The distance of points and of whole maps to the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from octamark.nets.heatmaps import Points
from octamark.training.losses import LOSSES, drawn_kl, labelled_mean
from octamark.training.objectives import Batch, Prediction, Stateless


class Labels(Stateless):
    """The loss of the points that are read from the heatmaps, by its name in octamark.training.losses.LOSSES."""

    column: str | None = "loss"

    def __init__(self, name: str) -> None:
        self.loss = LOSSES[name]

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(prediction.labelled(batch).points, batch.target, batch.target_scale), {}


class Maps(Stateless):
    """KL divergence from the labels' densities, drawn as maps, to the predicted maps: every place of a map counts."""

    column: str | None = "loss"

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        target = batch.target
        density = Points(target, torch.full_like(target, batch.target_scale))
        kl = drawn_kl(density, prediction.labelled(batch).p)  # n, M
        return labelled_mean(kl, target.sum(dim=-1)), {}
