"""Training of regional networks, on crops that the points of a frozen global network place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from octamark import metrics
from octamark.datasets.load import LabelledSet
from octamark.errors import ConfigError, WeightsError
from octamark.inference.regions import RegionTable
from octamark.layouts import Layout, layout
from octamark.models import RegionRule, Source
from octamark.nets.network import OctaveNetwork
from octamark.nets.regional import RegionalModel, RegionalNetwork, RegionalView, compose, regional_start
from octamark.nets.sampling import cut, middle, move_points
from octamark.synthesis.eyelids import Eyelids
from octamark.training import checkpoints, data
from octamark.training.augmentation import damaged, similarity
from octamark.training.data import ROOM, FaceStore
from octamark.training.objectives import Model
from octamark.training.objectives.openings import check_lids
from octamark.training.objectives.regional import RegionalBatch, RegionalObjective
from octamark.training.optimisation import ExponentialAverage
from octamark.training.recipe import Recipe, Regional, Stage, parse
from octamark.training.starting import checkpoint_path, network_config, trained_network
from octamark.training.steps import Step
from octamark.training.watcher import Watcher

NUDGE_DEGREES, NUDGE_SHARE = 2.0, 0.02
"""How far the second view of a face is from the first, for consistency: standard deviations as in ``jitter``."""


class Regions:
    """The task of a recipe with a section ``regional``.

    On validation faces, at the size of ``regional.view``, the log also has the NME of the global network alone
    (``global_nme``), and that of eyes and mouth, combined and of the global network alone.

    Raises:
        ConfigError: stages of different sizes, a global network of another layout or margin, a teacher of other
            crops, or openings or changed eyes of a layout without lids.
        WeightsError: no such global network or teacher; ``init`` names a network of another shape.
        LayoutError: a layout without regions.
    """

    validation_columns: tuple[str, ...] = ("global_nme", "eyes_nme", "global_eyes_nme", "mouth_nme", "global_mouth_nme")

    def __init__(self, recipe: Recipe, layout: Layout, fabric: Fabric) -> None:
        assert recipe.regional is not None
        self.recipe, self.layout, self.fabric = recipe, layout, fabric
        self.settings: Regional = recipe.regional
        if len({stage.size for stage in recipe.stages}) > 1:
            raise ConfigError(f"{recipe.name}: the crops of regions have one size; give all stages the same")
        name = self.settings.global_model
        global_network, global_recipe, _ = trained_network(checkpoint_path(name, "regional.global_model"))
        if global_recipe.layout != recipe.layout or global_recipe.margin != recipe.margin:
            raise ConfigError(
                f"regional.global_model {name!r}: has the layout {global_recipe.layout} and margin "
                f"{global_recipe.margin}, the recipe has {recipe.layout} and {recipe.margin}"
            )
        self.view_size, self.global_scale = global_recipe.stages[-1].size, global_recipe.loss.target_scale
        if recipe.loss.openings:
            check_lids(layout)
        self.eyelids = Eyelids.of(recipe.eyes, layout)
        self.table = RegionTable(layout)
        regional = self._start(global_network)
        self.teacher = None if recipe.distillation is None else self._teacher(recipe.distillation.teacher)
        model = RegionalModel(global_network, global_recipe.loss.beta, regional, region_rule(recipe))
        self.network: RegionalModel = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stored_size = self.settings.view
        self.mirror = torch.from_numpy(layout.mirror.copy())
        self.counts = ""
        self.crop_sources: tuple[Source, ...] = ()
        self.takes_last = False

    def objective(self, average: ExponentialAverage) -> RegionalObjective:
        """The loss of readings and combined points, and the divergence from the teacher if there is one."""
        return RegionalObjective(
            self.network, self.recipe.loss.maps, self.settings.consistency, self.global_scale,
            self.fabric, self.teacher, self.recipe.distillation,
            self.recipe.loss.openings, self.recipe.loss.shut_weight,
        )  # fmt: skip

    def _start(self, global_network: OctaveNetwork) -> RegionalNetwork:
        """The regional network that the run starts with: from ``init``, or from the global network where it fits.

        Raises:
            WeightsError: ``init`` names no checkpoint, or one of another layout, shape or crop size.
        """
        network = regional_network(self.recipe, self.table)
        regional = RegionalNetwork(network, self.table, self.recipe.loss.beta)
        if self.recipe.init is None:
            regional_start(network, global_network, self.table)
            return regional
        path, size = checkpoint_path(self.recipe.init, regional=None), self.recipe.stages[-1].size
        if is_regional(path):
            start, recipe, _ = trained_regional(path)
            fits = (recipe.layout, recipe.stages[-1].size, start.network.config) == (
                self.recipe.layout, size, network.config,
            )  # fmt: skip
            if fits:
                regional.load_state_dict(start.state_dict())
        else:
            fits = regional_start(network, trained_network(path)[0], self.table)
        if not fits:
            raise WeightsError(
                f"{path}: cannot start this recipe; init names a network of the recipe's layout "
                f"({self.recipe.layout}) and shape ({network.config}) that reads whole faces, or regions in crops of "
                f"{size}x{size}"
            )
        return regional

    def _teacher(self, name: str) -> RegionalNetwork:
        """The larger regional network whose heatmaps are targets.

        Raises:
            ConfigError: a teacher of other regions or of another crop size.
            WeightsError: no such checkpoint, or one of a network that is not regional.
        """
        path = checkpoint_path(name, "distillation.teacher", regional=True)
        teacher, recipe, _ = trained_regional(path)
        sizes = recipe.stages[-1].size, self.recipe.stages[-1].size
        if recipe.layout != self.recipe.layout or sizes[0] != sizes[1]:
            raise ConfigError(
                f"distillation.teacher {name!r}: reads {recipe.layout} in crops of {sizes[0]}x{sizes[0]}, the recipe "
                f"{self.recipe.layout} in {sizes[1]}x{sizes[1]}"
            )
        placed = teacher.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        frozen: RegionalNetwork = placed.requires_grad_(False)
        return frozen

    def find_faces(self, watcher: Watcher, sets: Sequence[LabelledSet], shards: Mapping[str, FaceStore]) -> None:
        """Nothing: regional networks learn from labelled faces."""

    def prepare(self, faces: FaceStore) -> None:
        """Nothing: regional networks need no preparation."""

    def freeze_landmarks(self) -> None:
        """Nothing: recipes of regional networks have no stage that learns visibility alone."""

    def for_stage(self, faces: FaceStore, stage: Stage) -> FaceStore:
        """The stored faces: regions are cut from them at full resolution."""
        return faces

    def draw(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step) -> None:
        """Nothing: where the regions of a batch lie depends on what the networks find."""

    def batch(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step, drawn: None) -> RegionalBatch:
        """The chosen faces as the global network reads them, and how their regions are cropped."""
        config, device, generator = self.recipe.augment, self.fabric.device, step.generator
        stored, landmarks = faces.take(chosen, device)
        if self.eyelids is not None:
            some = torch.nonzero(torch.rand(len(stored), generator=generator) < self.eyelids.settings.share)[:, 0]
            closing = self.eyelids.draw(len(some), generator).to(device)
            visible = faces.visible[chosen[some].to(faces.visible.device)].to(device)
            some = some.to(device)
            stored[some], landmarks[some] = self.eyelids(stored[some], landmarks[some], closing, visible)
        hidden = faces.visible[chosen.to(faces.visible.device)].to(device) == 0
        landmarks = landmarks.masked_fill(hidden[..., None], torch.nan)  # its region shows nothing of a hidden point
        side, mirror = stored.shape[-1], self.mirror.to(device)
        zoom = data.zoom(side, self.view_size)
        frames, mirrored = similarity(config, len(stored), side, self.view_size, generator, zoom)
        if self.settings.consistency:
            nudged = jitter(len(stored), self.view_size, NUDGE_DEGREES, NUDGE_SHARE, generator)
            frames, mirrored = torch.cat([frames, compose(frames, nudged)]), mirrored.repeat(2)
            stored, landmarks = stored.repeat(2, 1, 1, 1), landmarks.repeat(2, 1, 1)
        frames, mirrored = frames.to(device), mirrored.to(device)
        landmarks = move_points(landmarks, frames, mirrored, mirror)  # n, M, 2 of the view
        if float(torch.rand(1, generator=generator)) < self.settings.low_resolution:
            stored = at_lower_resolution(stored, round(self.settings.lowest * ROOM), generator)
        views = damaged(cut(stored, frames, self.view_size), config, generator)[0]
        crops = len(stored) * len(self.table.regions)
        moved = jitter(crops, stage.size, self.settings.turn, self.settings.jitter, generator)
        moved = moved.view(len(stored), -1, 2, 3).to(device)

        def damage(pictures: Tensor) -> Tensor:
            return damaged(pictures, config, generator)[0]

        crop = self.network.cropper(stored.float() / 255, frames, moved=moved, damage=damage)
        scale = stage.target_scale or self.recipe.loss.target_scale
        return RegionalBatch(views, crop, landmarks, frames, zoom, stage.size, scale)

    def validate(self, model: Model, faces: FaceStore, size: int) -> tuple[np.ndarray, dict[str, float]]:
        """NME of the combined points of each face (n,), and the further columns of the log."""
        views = [(view.fused.position, view.points.position, truth) for view, truth in self._views(model, faces)]
        fused, alone, truth = (torch.cat(parts).cpu().numpy() for parts in zip(*views, strict=True))
        further = {"global_nme": _mean(metrics.nme(alone, truth, self.layout))}
        for prefix, points in (("", fused), ("global_", alone)):
            parts = metrics.part_nme(points, truth, self.layout)
            further |= {f"{prefix}{part}_nme": _mean(parts[part]) for part in ("eyes", "mouth")}
        return metrics.nme(fused, truth, self.layout), further

    def _views(self, model: Model, faces: FaceStore) -> Iterator[tuple[RegionalView, Tensor]]:
        """Faces without augmentation, and their landmarks (n, M, 2) in pixels of the view."""
        device = self.fabric.device
        for start in range(0, len(faces), 8):
            stored, landmarks = faces.take(torch.arange(start, min(start + 8, len(faces))), device)
            side = stored.shape[-1]
            frames = middle(len(stored), side, self.view_size, data.zoom(side, self.view_size)).to(device)
            still = torch.zeros(len(stored), dtype=torch.bool, device=device)
            truth = move_points(landmarks, frames, still, torch.arange(self.layout.count, device=device))
            crop = self.network.cropper(stored.float() / 255, frames)
            yield model(cut(stored, frames, self.view_size), crop), truth


def is_regional(run: Path) -> bool:
    """Whether a run's folder or checkpoint is of a regional network.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    file = run / "best.safetensors" if run.is_dir() else run
    return bool(checkpoints.metadata(file)["config"].get("regional"))


def trained_regional(path: Path) -> tuple[RegionalNetwork, Recipe, dict[str, Any]]:
    """A regional network with the averaged weights of a checkpoint, ready to predict, its recipe and the metadata.

    Raises:
        WeightsError: missing or damaged checkpoint, or one of a network that is not regional.
    """
    groups, meta = checkpoints.load(path)
    recipe = parse(meta["config"], str(path))
    if recipe.regional is None:
        raise WeightsError(f"{path}: a network that reads whole faces; name a regional one")
    table = RegionTable(layout(recipe.layout))
    regional = RegionalNetwork(regional_network(recipe, table), table, recipe.loss.beta)
    weights = {
        name.removeprefix("regional."): value
        for name, value in groups.get("ema", {}).items()
        if not name.startswith(("look.", "global_network."))
    }
    checkpoints.fill(regional, weights, path)
    return regional.eval(), recipe, meta


def region_rule(recipe: Recipe) -> RegionRule:
    """The rule by which a regional recipe cuts its crops."""
    assert recipe.regional is not None
    return RegionRule(size=recipe.stages[-1].size, margin=recipe.regional.margin, spread=recipe.regional.spread)


def regional_network(recipe: Recipe, table: RegionTable) -> OctaveNetwork:
    """The network of a regional recipe, untrained."""
    return OctaveNetwork(replace(network_config(recipe), landmarks=table.channels))


def jitter(count: int, size: int, turn: float, share: float, generator: torch.Generator) -> Tensor:
    """Random similarities (n, 2, 3) about the middles of crops of that size.

    Standard deviations: ``turn`` degrees of rotation, ``share`` of the log scale, and of the size for the shift.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).clamp(-2.5, 2.5)

    angle, scale = torch.deg2rad(normal(count) * turn), torch.exp(normal(count) * share)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)  # n, 2, 2
    centre = torch.full((2,), size / 2 - 0.5)
    offset = centre - linear @ centre + normal(count, 2) * share * size
    return torch.cat([linear, offset[..., None]], dim=-1)


def at_lower_resolution(pictures: Tensor, lowest: int, generator: torch.Generator) -> Tensor:
    """Pictures (n, 3, s, s) uint8 reduced to a side from ``lowest`` to their own (log-uniform), and enlarged again."""
    side = pictures.shape[-1]
    share = float(torch.rand(1, generator=generator))
    small = round(side * (min(lowest, side) / side) ** share)
    reduced = F.interpolate(pictures.float(), size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(reduced, size=(side, side), mode="bilinear").round().to(torch.uint8)


def _mean(errors: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is left."""
    finite = errors[np.isfinite(errors)]
    return float(finite.mean()) if len(finite) else float("nan")
