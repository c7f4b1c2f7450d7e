"""The adversary: a discriminator that tells heatmaps drawn from labels from predicted ones, and its training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from octamark.nets import heatmaps
from octamark.nets.discriminator import Discriminator
from octamark.nets.heatmaps import Points
from octamark.training import recipe


class Adversary:
    """D of Laplace Landmark Localization, equation 4, with its own optimiser.

    Real sets of heatmaps are drawn from labels, fake ones predicted on unlabelled pictures. A real set is as wide as
    the prediction for its own picture is: were its scale fixed, sharpness alone would tell the two apart, and D would
    look at nothing else. What is left to see is where the points stand, to each other and to the picture, and how
    smooth the maps are. D can also tell the two sets of pictures apart; strong augmentation of both, the low
    resolution it sees and the spectral norm keep that from drowning the rest.

    Adam without momentum (betas 0, 0.99), as is usual where two networks chase each other.
    """

    def __init__(self, settings: recipe.Adversary, landmarks: int, fabric: Fabric) -> None:
        self.fabric = fabric
        self.discriminator = Discriminator(landmarks, settings.width)
        adam = torch.optim.Adam(self.discriminator.parameters(), lr=settings.learning_rate, betas=(0.0, 0.99))
        self.model, self.optimiser = fabric.setup(self.discriminator, adam)

    def learn(self, pictures: Tensor, points: Points, target: Tensor, others: Tensor, fake: Tensor) -> Tensor:
        """One step of D: raises log D(real) + log(1 - D(fake)); returns that, negated. Nothing reaches the network.

        Args:
            pictures, points, target: labelled pictures (n, 3, s, s), the network's points on them, and the labels
                (n, M, 2), heatmap pixels.
            others, fake: unlabelled pictures (u, 3, s, s) and the probability maps (u, M, h, w) predicted on them.
        """
        height, width = fake.shape[-2:]
        real = heatmaps.draw(Points(target, points.spread.detach()), height, width)  # n, M, h, w
        verdicts = self.model(torch.cat([pictures, others]), torch.cat([real, fake.detach()]))  # n + u, 1, h/8, w/8
        on_real, on_fake = verdicts[: len(real)], verdicts[len(real) :]
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()

    def fooling(self, others: Tensor, fake: Tensor) -> Tensor:
        """The network's part, to be lowered: -log D(fake), whose slope does not vanish while D sees through it.

        Has the same fixed points as the source's log(1 - D(fake)). Gradients reach ``fake``, and D not at all.
        """
        self.discriminator.eval().requires_grad_(False)  # no step of the power iteration, no gradients
        loss = F.softplus(-self.discriminator(others, fake)).mean()
        self.discriminator.train().requires_grad_(True)
        return loss
