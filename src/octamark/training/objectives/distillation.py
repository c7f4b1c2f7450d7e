"""Distillation: the heatmaps of a larger trained network are targets for the network in training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from octamark.errors import ConfigError
from octamark.geometry import scale_points
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.training.losses import certainty, map_kl
from octamark.training.objectives import Batch, Prediction, Stateless
from octamark.training.recipe import Distillation, Recipe
from octamark.training.starting import checkpoint_path, trained_network


class Distiller(Stateless):
    """Another network's heatmaps as targets (G. Hinton and others: Distilling the knowledge in a neural network, 2015).

    It reads the same view of a face as the network in training, but before colours are changed and pieces hidden.
    Labels are not needed: faces with and without them are treated alike, unless the recipe names the sets that are
    taught: a network that goes on to learn from further sets is held by its former self where that is good. The log has
    the weighted divergence (``distillation``).

    Networks are less accurate at other input sizes than the last they were trained at. Therefore the teacher teaches
    only in stages of its own size. Where the recipe has no such stage, it teaches in all: it reads the views resized to
    its own size, and the targets are maps drawn from its points and spreads, at least ``target_scale`` wide.

    Attributes:
        size: side of the input that it was trained for, pixels.

    Raises:
        ConfigError: a teacher of another layout or margin, or whose spreads are untrained.
        WeightsError: no such checkpoint, or a damaged one.
    """

    column: str | None = "distillation"

    def __init__(self, recipe: Recipe, settings: Distillation, fabric: Fabric) -> None:
        network, teacher_recipe, _ = trained_network(checkpoint_path(settings.teacher, "distillation.teacher"))
        self.size = teacher_recipe.stages[-1].size
        self.everywhere = all(stage.size != self.size for stage in recipe.stages)
        if teacher_recipe.layout != recipe.layout:
            problem = f"knows the layout {teacher_recipe.layout}, the recipe's is {recipe.layout}"
        elif teacher_recipe.margin != recipe.margin:
            problem = f"was trained with margin {teacher_recipe.margin}, the recipe's is {recipe.margin}"
        elif teacher_recipe.loss.name != "laplace_kl":
            problem = (
                f"was trained with the loss {teacher_recipe.loss.name}; only laplace_kl trains the spreads that weigh "
                "points"
            )
        else:
            problem = ""
        if problem:
            raise ConfigError(f"distillation.teacher {settings.teacher!r}: {problem}")
        trained = [section.title for section in recipe.data if not section.held_out]
        names = settings.sets
        self.taught = None if names is None else torch.tensor([trained.index(name) for name in names])
        self.fabric, self.beta, self.settings = fabric, teacher_recipe.loss.beta, settings
        self.network = network.to(fabric.device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def active(self, size: int) -> bool:
        return self.everywhere or self.size == size

    def uses_unlabelled(self) -> bool:
        return self.taught is None

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        if self.taught is None:
            return self.distance(batch.undamaged, prediction.p, batch.target_scale), {}
        chosen = torch.nonzero(torch.isin(batch.sets, self.taught.to(batch.sets.device)))[:, 0]
        if not len(chosen):
            return prediction.p.sum() * 0.0, {}
        share = len(chosen) / len(batch.sets)  # so that a face counts as much as where all are taught
        distance = self.distance(batch.undamaged[chosen], prediction.p[chosen], batch.target_scale)
        return share * distance, {}

    def distance(self, plain: Tensor, p: Tensor, target_scale: float) -> Tensor:
        """The divergence ``heatmap_kl`` of the network's heatmaps from the teacher's, a scalar.

        Args:
            plain: (n, 3, s, s) the views of the faces, undamaged.
            p: (n, M, h, w) the network's probability maps of the same views.
            target_scale: least spread of drawn maps, heatmap pixels of the network in training.
        """
        side = plain.shape[-1]
        with torch.no_grad():
            if side != self.size:
                plain = F.interpolate(plain, size=(self.size, self.size), mode="bilinear", antialias=True)
            with self.fabric.autocast():
                maps = self.network(plain.contiguous(memory_format=torch.channels_last))
            taught = heatmaps.probabilities(maps, self.beta)
            if side != self.size:
                taught = redrawn(taught, side / self.size, target_scale, p.shape[-1])
        return heatmap_kl(taught, p, self.settings.spread_at_half_weight)


def redrawn(maps: Tensor, scale: float, least: float, side: int) -> Tensor:
    """Probability maps (n, M, side, side) with the points and spreads of maps (n, M, h, w) of another size.

    Args:
        scale: pixels of the new maps per pixel of the old ones.
        least: smallest spread of the new maps, in their pixels.
    """
    points = heatmaps.decode(maps)
    spread = (points.spread * scale).clamp_min(least)
    return heatmaps.draw(Points(scale_points(points.position, scale), spread), side, side)


def heatmap_kl(taught: Tensor, p: Tensor, half: float) -> Tensor:
    """KL(taught || p) of probability maps (n, M, h, w), a scalar: the mean of maps weighted by the teacher's certainty.

    The weight is octamark.training.losses.certainty of the taught map's spread (mean of both axes): maps of
    which the teacher is uncertain hardly count. Gradients reach ``p`` alone.
    """
    taught = taught.detach()
    spread = heatmaps.decode(taught).spread.mean(dim=2)  # n, M
    return (map_kl(taught, p) * certainty(spread, half)).mean()
