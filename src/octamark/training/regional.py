"""Training of the regional network: on crops that the global network's look at each face decides.

Beside the supervised loop of octamark.training.trainer. The global network is frozen, or trained too through the
differentiable sampler (``regional.joint``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from octamark import metrics
from octamark.errors import ConfigError
from octamark.geometry import transform_with_spread
from octamark.inference.regions import RegionTable
from octamark.models import RegionRule
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.nets.regional import RegionalModel, RegionalNetwork, RegionalView, compose, regional_start
from octamark.nets.sampling import cut, middle, move_points
from octamark.training import data
from octamark.training.augmentation import damaged, similarity
from octamark.training.data import ROOM, FaceStore, steps_per_epoch
from octamark.training.losses import LOSSES, drawn_kl, laplace_kl
from octamark.training.optimisation import ExponentialAverage, learning_rate, optimiser
from octamark.training.recipe import Config, Regional, Stage
from octamark.training.starting import checkpoint_path, network_config, trained_network
from octamark.training.trainer import COLUMNS, Trainer

MEANS = ("loss", "fused_loss", "look_loss", "apart")
"""Of an epoch: the loss of the regional network's readings, of the fused points, and of the global network's points
(0 where it is frozen); how far apart two views of a face were read, heatmap pixels of the global network."""

NUDGE_DEGREES, NUDGE_SHARE = 2.0, 0.02
"""How far the second view of a face is from the first, for consistency: standard deviations as in :func:`jitter`."""

SEEN = ("look_nme", "eyes_nme", "look_eyes_nme", "mouth_nme", "look_mouth_nme")
"""On validation faces at the size of ``regional.view``: NME of the global network alone, and of eyes and mouth, fused
and of the global network alone."""


class RegionalTrainer(Trainer):
    """One run of a recipe with a section ``regional``; the rest is as in :class:`octamark.training.trainer.Trainer`.

    Raises:
        ConfigError: a recipe without the section, stages of different sizes, or a global network of another layout or
            margin.
        LayoutError: a layout without regions.
    """

    columns = (*COLUMNS[:4], *MEANS, *SEEN, *COLUMNS[6:])

    def _build(self) -> None:
        config = self.config
        if config.regional is None:
            raise ConfigError(f"{config.name}: the recipe has no section regional")
        self.settings: Regional = config.regional
        if len({stage.size for stage in config.stages}) > 1:
            raise ConfigError(f"{config.name}: the crops of regions have one size; give all stages the same")
        look, theirs, _ = trained_network(checkpoint_path(self.settings.look, "regional.look"))
        if theirs.layout != config.layout or theirs.data.margin != config.data.margin:
            raise ConfigError(
                f"regional.look {self.settings.look!r}: knows the layout {theirs.layout} with margin "
                f"{theirs.data.margin}, the recipe's are {config.layout} and {config.data.margin}"
            )
        self.look_size, self.look_loss = theirs.stages[-1].size, theirs.loss
        self.table = RegionTable(self.layout)
        network = regional_network(config, self.table)
        regional_start(network, look, self.table)
        regional = RegionalNetwork(network, self.table, config.loss.beta)
        rule = region_rule(config)
        model = RegionalModel(look, theirs.loss.beta, regional, rule, joint=self.settings.joint)
        self.network = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.optimiser = self.fabric.setup(model, optimiser(model, config.optimiser))
        self.average = ExponentialAverage(model, config.optimiser.ema)
        self.distiller = None

    def _stored_size(self) -> int:
        return self.settings.view

    def _for_stage(self, store: FaceStore, stage: Stage) -> FaceStore:
        return store

    def _train_epoch(self, faces: FaceStore, stage: Stage, stage_epoch: int, epoch: int) -> dict[str, float]:
        config, device = self.config, self.fabric.device
        steps = stage.steps_per_epoch or steps_per_epoch(len(faces), stage.batch)
        side = faces.pictures.shape[-1]
        mirror, zoom = self.mirror.to(device), data.zoom(side, self.look_size)
        self.model.train()
        sums = torch.zeros(len(MEANS), device=device)
        for index, chosen in enumerate(self._batches(faces, stage, epoch)):
            generator, chosen = self._generator(epoch, index), chosen.to(device)
            frames, mirrored = similarity(config.augment, len(chosen), side, self.look_size, generator, zoom)
            if self.settings.consistency:
                nudged = jitter(len(chosen), self.look_size, NUDGE_DEGREES, NUDGE_SHARE, generator)
                frames, mirrored = torch.cat([frames, compose(frames, nudged)]), mirrored.repeat(2)
                chosen = chosen.repeat(2)
            frames, mirrored = frames.to(device), mirrored.to(device)
            landmarks = move_points(faces.landmarks[chosen], frames, mirrored, mirror)  # n, M, 2 of the view
            stored = faces.pictures[chosen]
            if float(torch.rand(1, generator=generator)) < self.settings.low_resolution:
                stored = shrunk(stored, round(self.settings.lowest * ROOM), generator)
            pictures = stored.float() / 255  # n, 3, side, side
            views = damaged(cut(stored, frames, self.look_size), config.augment, generator)
            crops = len(chosen) * len(self.table.regions)
            moved = jitter(crops, stage.size, self.settings.turn, self.settings.jitter, generator)
            moved = moved.view(len(chosen), -1, 2, 3).to(device)
            self._set_rate(learning_rate(stage, stage_epoch * steps + index, stage.epochs * steps))
            damage = partial(damaged, config=config.augment, generator=generator)
            view: RegionalView = self.model(views, self.network.cropper(pictures, frames, moved=moved, damage=damage))
            apart = self._apart(view, frames, zoom) if self.settings.consistency else landmarks.new_zeros(())
            losses = [*self._losses(view, landmarks, stage), apart]
            self._descend(sum(losses[:-1], self.settings.consistency * apart), epoch, index)
            sums += torch.stack(losses).detach()
            self.watcher.stepped(float(losses[0].detach()))
        return {name: self._mean(value / steps) for name, value in zip(MEANS, sums, strict=True)}

    def _losses(self, view: RegionalView, landmarks: Tensor, stage: Stage) -> list[Tensor]:
        """Of the readings, of the fused points and of the global network, against landmarks (n, M, 2) of the view."""
        settings, table = self.config.loss, self.table
        scale = stage.target_scale or settings.target_scale
        placed = view.placed[:, self.network.regional.owners]  # n, K, 2, 3
        truth = landmarks[:, table.landmarks]  # n, K, 2
        local = torch.linalg.solve(placed[..., :2], (truth - placed[..., 2])[..., None])[..., 0]
        inside = ((local > 0) & (local < stage.size - 1)).all(dim=-1).float()  # n, K
        target = heatmaps.to_heatmap_pixels(local, STRIDE)
        reading = laplace_kl(view.reading.points, target, scale, inside[..., None])
        if settings.maps:
            drawn = drawn_kl(Points(target, torch.full_like(target, scale)), view.reading.maps)
            reading = reading + settings.maps * (drawn * inside).mean()
        towards = heatmaps.to_heatmap_pixels(landmarks, STRIDE)
        fused = laplace_kl(_in_heatmap(view.fused), towards, self.look_loss.target_scale)
        look = reading.new_zeros(())
        if self.settings.joint:
            look = LOSSES[self.look_loss.name](_in_heatmap(view.seen), towards, self.look_loss.target_scale)
        return [reading, fused, look]

    def _apart(self, view: RegionalView, frames: Tensor, zoom: float) -> Tensor:
        """Mean distance per axis of the readings of two views of each face, heatmap pixels of the global network."""
        position, _ = transform_with_spread(frames[:, None], *view.own, torch)
        first, second = position.chunk(2)
        distance: Tensor = (first - second).abs().mean() / (zoom * STRIDE)
        return distance

    def _validated(self, faces: FaceStore, size: int) -> tuple[float, float, dict[str, float]]:
        with self.average.instead_of(self.network):
            seen = [(view.fused.position, view.seen.position, truth) for view, truth in self._views(faces)]
        fused, look, truth = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
        nme = metrics.nme(fused, truth, self.layout)
        further = {"look_nme": float(metrics.nme(look, truth, self.layout).mean())}
        for prefix, points in (("", fused), ("look_", look)):
            parts = metrics.part_nme(points, truth, self.layout)
            further |= {f"{prefix}{part}_nme": float(parts[part].mean()) for part in ("eyes", "mouth")}
        return float(nme.mean()), metrics.failure_rate(nme), further

    def _views(self, faces: FaceStore) -> Iterator[tuple[RegionalView, Tensor]]:
        """Faces without augmentation, and their landmarks (n, M, 2) in pixels of the view."""
        side, device = faces.pictures.shape[-1], self.fabric.device
        zoom = data.zoom(side, self.look_size)
        for start in range(0, len(faces), 8):
            stored = faces.pictures[start : start + 8]
            frames = middle(len(stored), side, self.look_size, zoom).to(device)
            still = torch.zeros(len(stored), dtype=torch.bool, device=device)
            identity = torch.arange(self.layout.count, device=device)
            truth = move_points(faces.landmarks[start : start + 8], frames, still, identity)
            crop = self.network.cropper(stored.float() / 255, frames)
            yield self.model(cut(stored, frames, self.look_size), crop), truth


def region_rule(config: Config) -> RegionRule:
    """How a regional recipe cuts its crops."""
    assert config.regional is not None
    return RegionRule(size=config.stages[-1].size, margin=config.regional.margin, spread=config.regional.spread)


def regional_network(config: Config, table: RegionTable) -> OctaveNetwork:
    """The network of a regional recipe, untrained."""
    return OctaveNetwork(replace(network_config(config), landmarks=table.channels))


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


def shrunk(pictures: Tensor, lowest: int, generator: torch.Generator) -> Tensor:
    """Pictures (n, 3, s, s) uint8 reduced to a side from ``lowest`` to their own (log-uniform), and enlarged again."""
    side = pictures.shape[-1]
    share = float(torch.rand(1, generator=generator))
    small = round(side * (min(lowest, side) / side) ** share)
    reduced = F.interpolate(pictures.float(), size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(reduced, size=(side, side), mode="bilinear").round().to(torch.uint8)


def _in_heatmap(points: Points) -> Points:
    """Input pixels -> heatmap pixels."""
    return Points(heatmaps.to_heatmap_pixels(points.position, STRIDE), points.spread / STRIDE)
