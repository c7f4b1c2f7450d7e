"""Distillation: a larger trained network shows what it sees, whole heatmaps of it, to the one that is trained."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.errors import ConfigError, listed
from octamark.nets import heatmaps
from octamark.training.losses import certainty, map_kl
from octamark.training.recipe import Config, Distillation
from octamark.training.starting import checkpoint_path, trained_network


class Distiller:
    """Another network's heatmaps as targets (G. Hinton and others: Distilling the knowledge in a neural network, 2015).

    It reads the same view of a face as the network in training, but before colours are changed and pieces hidden.
    Labels are not needed, so faces with and without them are treated alike. It teaches in stages of its own input size
    alone: networks see worse at other sizes than the one they ended with.

    Attributes:
        size: side of the input that it was trained for, pixels.

    Raises:
        ConfigError: a teacher of another layout or margin, of a size that no stage has, or whose spreads are untrained.
        WeightsError: no such checkpoint, or a damaged one.
    """

    def __init__(self, config: Config, settings: Distillation, fabric: Fabric) -> None:
        network, theirs, _ = trained_network(checkpoint_path(settings.teacher, "distillation.teacher"))
        self.size, sizes = theirs.stages[-1].size, sorted({stage.size for stage in config.stages})
        if theirs.layout != config.layout:
            problem = f"knows the layout {theirs.layout}, the recipe's is {config.layout}"
        elif theirs.data.margin != config.data.margin:
            problem = f"was trained with margin {theirs.data.margin}, the recipe's is {config.data.margin}"
        elif self.size not in sizes:
            asked = listed([f"{size}x{size}" for size in sizes])
            problem = f"reads {self.size}x{self.size}, the recipe's stages have {asked}"
        elif theirs.loss.name != "laplace_kl":
            problem = (
                f"was trained with the loss {theirs.loss.name}; only laplace_kl trains the spreads that weigh points"
            )
        else:
            problem = ""
        if problem:
            raise ConfigError(f"distillation.teacher {settings.teacher!r}: {problem}")
        self.fabric, self.beta, self.settings = fabric, theirs.loss.beta, settings
        self.network = network.to(fabric.device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def distance(self, plain: Tensor, p: Tensor) -> Tensor:
        """How far the network's heatmaps are from the teacher's, weighted by the recipe; a scalar, at least 0.

        Args:
            plain: (n, 3, s, s) the views of the faces, undamaged.
            p: (n, M, h, w) the network's probability maps of the same views.
        """
        with torch.no_grad(), self.fabric.autocast():
            maps = self.network(plain.contiguous(memory_format=torch.channels_last))
        return self.settings.weight * heatmap_kl(heatmaps.probabilities(maps, self.beta), p, self.settings.trust)


def heatmap_kl(taught: Tensor, p: Tensor, trust: float) -> Tensor:
    """KL(taught || p) of probability maps (n, M, h, w), a scalar: the mean of maps weighted by the teacher's certainty.

    The weight is octamark.training.losses.certainty of the taught map's spread (mean of both axes): what the teacher
    does not know hardly counts. Gradients reach ``p`` alone.
    """
    taught = taught.detach()
    spread = heatmaps.decode(taught).spread.mean(dim=2)  # n, M
    return (map_kl(taught, p) * certainty(spread, trust)).mean()
