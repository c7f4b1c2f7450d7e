"""The adversary: a discriminator that tells heatmaps drawn from labels from predicted ones, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from octamark.nets import heatmaps
from octamark.nets.discriminator import Discriminator
from octamark.nets.heatmaps import Points
from octamark.training import checkpoints, recipe
from octamark.training.objectives import Batch, Prediction, State
from octamark.training.optimisation import moments, set_moments


class Adversary:
    """D of Laplace Landmark Localization, equation 4, with its own optimiser.

    Real sets of heatmaps are drawn from labels, fake ones are predicted on unlabelled pictures. A real set is as wide
    as the prediction for its own picture: were its scale fixed, D could tell the two apart by sharpness alone. What
    remains is where the points lie, relative to each other and to the picture, and how smooth the maps are. D can also
    tell the two sets of pictures apart; strong augmentation of both, their low resolution and the spectral norm limit
    that. Where a point has no label, its own prediction is drawn in the real set.

    Adam without momentum (betas 0, 0.99), as is usual where two networks are trained against each other.

    The log has D's loss (``discriminator``) and the network's part of it (``fooling``), both before the weight.
    """

    column: str | None = None
    columns: tuple[str, ...] = ("discriminator", "fooling")

    def __init__(self, settings: recipe.Adversary, landmarks: int, fabric: Fabric) -> None:
        self.fabric = fabric
        self.discriminator = Discriminator(landmarks, settings.width)
        adam = torch.optim.Adam(self.discriminator.parameters(), lr=settings.learning_rate, betas=(0.0, 0.99))
        self.model, self.optimiser = fabric.setup(self.discriminator, adam)

    def active(self, size: int) -> bool:
        return True

    def uses_unlabelled(self) -> bool:
        return True

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        """Train D for one step; returns the network's part of its loss, and both for the log."""
        count, fake = len(batch.landmarks), prediction.unlabelled(batch).p
        pictures, others = batch.pictures[:count], batch.pictures[count:]
        judged = self.learn(pictures, prediction.labelled(batch).points, batch.target, others, fake)
        fooling = self.fooling(others, fake)
        return fooling, {"discriminator": judged, "fooling": fooling}

    def learn(self, pictures: Tensor, points: Points, target: Tensor, others: Tensor, fake: Tensor) -> Tensor:
        """Train D for one step to raise log D(real) + log(1 - D(fake)); returns that sum, negated.

        No gradient reaches the network.

        Args:
            pictures, points, target: labelled pictures (n, 3, s, s), the network's points on them, and the labels
                (n, M, 2), heatmap pixels, NaN where a point has none.
            others, fake: unlabelled pictures (u, 3, s, s) and the probability maps (u, M, h, w) predicted on them.
        """
        height, width = fake.shape[-2:]
        target = torch.where(torch.isfinite(target), target, points.position.detach())
        real = heatmaps.draw(Points(target, points.spread.detach()), height, width)  # n, M, h, w
        verdicts = self.model(torch.cat([pictures, others]), torch.cat([real, fake.detach()]))  # n + u, 1, h/8, w/8
        on_real, on_fake = verdicts[: len(real)], verdicts[len(real) :]
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()

    def fooling(self, others: Tensor, fake: Tensor) -> Tensor:
        """The network's loss: -log D(fake), whose slope does not vanish where D recognises the fakes.

        It has the same fixed points as the source's log(1 - D(fake)). Gradients reach ``fake``, and no part of D.
        """
        self.discriminator.eval().requires_grad_(False)  # no step of the power iteration, no gradients
        loss = F.softplus(-self.discriminator(others, fake)).mean()
        self.discriminator.train().requires_grad_(True)
        return loss

    def state(self) -> State:
        return {
            "discriminator": self.discriminator.state_dict(),
            "discriminator moments": moments(self.optimiser, self.discriminator),
        }

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        checkpoints.fill(self.discriminator, groups.get("discriminator", {}), path)
        set_moments(self.optimiser, self.discriminator, groups.get("discriminator moments", {}))
