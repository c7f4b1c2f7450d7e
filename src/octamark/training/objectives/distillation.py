"""Distillation: the heatmaps of a larger trained network are targets for the network in training."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.errors import ConfigError, listed
from octamark.nets import heatmaps
from octamark.training.losses import certainty, map_kl
from octamark.training.objectives import Batch, Prediction, Stateless
from octamark.training.recipe import Distillation, Recipe
from octamark.training.starting import checkpoint_path, trained_network


class Distiller(Stateless):
    """Another network's heatmaps as targets (G. Hinton and others: Distilling the knowledge in a neural network, 2015).

    It reads the same view of a face as the network in training, but before colours are changed and pieces hidden.
    Labels are not needed: faces with and without them are treated alike. It teaches only in stages of its own input
    size, because networks are less accurate at other sizes than the last they were trained at. The log has the weighted
    divergence (``distillation``).

    Attributes:
        size: side of the input that it was trained for, pixels.

    Raises:
        ConfigError: a teacher of another layout or margin, of a size that no stage has, or whose spreads are untrained.
        WeightsError: no such checkpoint, or a damaged one.
    """

    column: str | None = "distillation"

    def __init__(self, recipe: Recipe, settings: Distillation, fabric: Fabric) -> None:
        network, teacher_recipe, _ = trained_network(checkpoint_path(settings.teacher, "distillation.teacher"))
        self.size, sizes = teacher_recipe.stages[-1].size, sorted({stage.size for stage in recipe.stages})
        if teacher_recipe.layout != recipe.layout:
            problem = f"knows the layout {teacher_recipe.layout}, the recipe's is {recipe.layout}"
        elif teacher_recipe.margin != recipe.margin:
            problem = f"was trained with margin {teacher_recipe.margin}, the recipe's is {recipe.margin}"
        elif self.size not in sizes:
            stages = listed([f"{size}x{size}" for size in sizes])
            problem = f"reads {self.size}x{self.size}, the recipe's stages have {stages}"
        elif teacher_recipe.loss.name != "laplace_kl":
            problem = (
                f"was trained with the loss {teacher_recipe.loss.name}; only laplace_kl trains the spreads that weigh "
                "points"
            )
        else:
            problem = ""
        if problem:
            raise ConfigError(f"distillation.teacher {settings.teacher!r}: {problem}")
        self.fabric, self.beta, self.settings = fabric, teacher_recipe.loss.beta, settings
        self.network = network.to(fabric.device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def active(self, size: int) -> bool:
        return self.size == size

    def uses_unlabelled(self) -> bool:
        return True

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        return self.distance(batch.undamaged, prediction.p), {}

    def distance(self, plain: Tensor, p: Tensor) -> Tensor:
        """The divergence ``heatmap_kl`` of the network's heatmaps from the teacher's, a scalar.

        Args:
            plain: (n, 3, s, s) the views of the faces, undamaged.
            p: (n, M, h, w) the network's probability maps of the same views.
        """
        with torch.no_grad(), self.fabric.autocast():
            maps = self.network(plain.contiguous(memory_format=torch.channels_last))
        return heatmap_kl(heatmaps.probabilities(maps, self.beta), p, self.settings.spread_at_half_weight)


def heatmap_kl(taught: Tensor, p: Tensor, half: float) -> Tensor:
    """KL(taught || p) of probability maps (n, M, h, w), a scalar: the mean of maps weighted by the teacher's certainty.

    The weight is octamark.training.losses.certainty of the taught map's spread (mean of both axes): maps of
    which the teacher is uncertain hardly count. Gradients reach ``p`` alone.
    """
    taught = taught.detach()
    spread = heatmaps.decode(taught).spread.mean(dim=2)  # n, M
    return (map_kl(taught, p) * certainty(spread, half)).mean()
