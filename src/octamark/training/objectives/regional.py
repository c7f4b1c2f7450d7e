"""The objective of regional networks: their readings, and the points combined from both networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.geometry import transform_with_spread
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE
from octamark.nets.regional import RegionalModel, RegionalNetwork, RegionalView, RegionCrops
from octamark.training.losses import drawn_kl, labelled_mean, laplace_kl
from octamark.training.objectives import Model, State
from octamark.training.objectives.distillation import heatmap_kl
from octamark.training.objectives.openings import opening_loss
from octamark.training.recipe import Distillation


@dataclass(frozen=True)
class RegionalBatch:
    """The faces of one step, each once or as two views in the two halves.

    Attributes:
        views: (n, 3, s, s) in 0..1, crops of whole faces, augmented.
        crop: from the global network's points to crops, see octamark.nets.regional.RegionalModel.cropper.
        landmarks: (n, M, 2) pixels of the views; NaN where a point has no label.
        frames: (n, 2, 3) from pixels of the views to pixels of the stored faces.
        zoom: pixels of the stored faces per pixel of the views.
        size: side of the crops, pixels.
        target_scale: of the labels' density, heatmap pixels of the crops.
    """

    views: Tensor
    crop: Callable[[Points], RegionCrops]
    landmarks: Tensor
    frames: Tensor
    zoom: float
    size: int
    target_scale: float


class RegionalObjective:
    """LaplaceKL on the regional network's readings and on the combined points, openings, distillation, and consistency.

    The log has the loss of the readings (``loss``), of the combined points (``fused_loss``), the distance between
    the readings of two views of a face in heatmap pixels of the global network (``apart``, before its weight), and the
    weighted divergence from a teacher's heatmaps (``distillation``), which reads the crops before they are damaged.

    Args:
        model: the networks.
        maps: weight of the KL divergence from the labels' densities, drawn as maps.
        consistency: weight of that distance; 0 where faces have one view each.
        global_scale: of the labels' density in heatmap pixels of the global network, as in its own training.
        fabric: whose precision the teacher reads with.
        teacher: a larger regional network of the same regions and crop size, or None.
        distillation: how much its heatmaps count; None without a teacher.
        openings: weight of the error of the opening of eyes in the combined points (``opening_loss``).
        shut_weight: of shut eyes in it.
    """

    columns: tuple[str, ...] = ("loss", "fused_loss", "apart", "distillation")

    def __init__(
        self,
        model: RegionalModel,
        maps: float,
        consistency: float,
        global_scale: float,
        fabric: Fabric,
        teacher: RegionalNetwork | None = None,
        distillation: Distillation | None = None,
        openings: float = 0.0,
        shut_weight: float = 1.0,
    ) -> None:
        self.regional, self.maps, self.consistency, self.global_scale = model.regional, maps, consistency, global_scale
        self.fabric, self.teacher, self.distillation = fabric, teacher, distillation
        self.openings, self.shut_weight = openings, shut_weight

    def __call__(self, batch: RegionalBatch, model: Model) -> tuple[Tensor, dict[str, Tensor]]:
        view: RegionalView = model(batch.views, batch.crop)
        reading, fused = self._readings(view, batch), self._fused(view, batch)
        apart = self._apart(view, batch) if self.consistency else reading.new_zeros(())
        taught = self._taught(view)
        loss = self.consistency * apart + reading + fused + taught
        return loss, {"loss": reading, "fused_loss": fused, "apart": apart, "distillation": taught}

    def _taught(self, view: RegionalView) -> Tensor:
        """The weighted divergence of the network's heatmaps from the teacher's."""
        if self.teacher is None or self.distillation is None:
            return view.reading.maps.new_zeros(())
        with torch.no_grad(), self.fabric.autocast():
            taught = self.teacher.read(view.crops.undamaged).maps
        distance = heatmap_kl(taught, view.reading.maps, self.distillation.spread_at_half_weight)
        return self.distillation.weight * distance

    def _readings(self, view: RegionalView, batch: RegionalBatch) -> Tensor:
        """Loss of the readings against the landmarks that lie in their crops."""
        placed = view.crops.placed[:, self.regional.owners]  # n, K, 2, 3
        truth = batch.landmarks[:, self.regional.table.landmarks]  # n, K, 2
        local = torch.linalg.solve(placed[..., :2], (truth - placed[..., 2])[..., None])[..., 0]
        inside = ((local > 0) & (local < batch.size - 1)).all(dim=-1).float()  # n, K
        target = heatmaps.to_heatmap_pixels(local, STRIDE)
        loss = laplace_kl(view.reading.points, target, batch.target_scale, inside[..., None])
        if self.maps:
            drawn = drawn_kl(Points(target, torch.full_like(target, batch.target_scale)), view.reading.maps)
            loss = loss + self.maps * labelled_mean(drawn * inside, target.sum(dim=-1))
        return loss

    def _fused(self, view: RegionalView, batch: RegionalBatch) -> Tensor:
        """Loss of the combined points, in heatmap pixels of the global network."""
        points = Points(heatmaps.to_heatmap_pixels(view.fused.position, STRIDE), view.fused.spread / STRIDE)
        target = heatmaps.to_heatmap_pixels(batch.landmarks, STRIDE)
        loss = laplace_kl(points, target, self.global_scale)
        if self.openings:
            eyes = self.regional.table.layout.eyes.values()
            loss = loss + self.openings * opening_loss(
                points.position, target, eyes, self.global_scale, self.shut_weight
            )
        return loss

    def _apart(self, view: RegionalView, batch: RegionalBatch) -> Tensor:
        """Mean distance per axis of the readings of two views of each face, heatmap pixels of the global network."""
        position, _ = transform_with_spread(batch.frames[:, None], *view.readings, torch)
        first, second = position.chunk(2)
        distance: Tensor = (first - second).abs().mean() / (batch.zoom * STRIDE)
        return distance

    def state(self) -> State:
        return {}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        """Nothing beside the networks has a state."""
