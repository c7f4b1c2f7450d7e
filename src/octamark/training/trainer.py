"""The supervised training loop.

A run lives in one folder: ``config.json``, ``log.csv``, ``tensorboard/``, ``last.safetensors`` (all that resuming
needs but teachers and pictures), ``best.safetensors`` (the moving average of the weights at the last stage's best
validation NME; of a run that learns from caricatures, whose validation faces are photographs, at its end).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from octamark import metrics
from octamark.datasets import Sample
from octamark.errors import ConfigError, OutputError, TrainingError
from octamark.layouts import Layout, layout
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.synthesis.caricature import Caricatures
from octamark.training import checkpoints
from octamark.training.augmentation import augment
from octamark.training.data import FaceStore, centre_crops, epoch_batches, steps_per_epoch
from octamark.training.device import launch
from octamark.training.distillation import Distiller
from octamark.training.folder import RunFolder
from octamark.training.losses import LOSSES, drawn_kl
from octamark.training.optimisation import ExponentialAverage, learning_rate, moments, optimiser, set_moments
from octamark.training.recipe import Config, Stage
from octamark.training.starting import network_config, starting_network
from octamark.training.watcher import Epoch, Watcher

COLUMNS = (
    "epoch",
    "stage",
    "size",
    "learning_rate",
    "loss",
    "distillation",
    "validation_nme",
    "validation_fr8",
    "seconds",
)
"""Of ``log.csv``; a semi-supervised run's has more."""


class Trainer:
    """One run of a recipe.

    Args:
        config: the recipe.
        train, validation: labelled faces; the validation faces choose the best epoch and are never trained on.
        out: the run's folder; made if missing.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        resume: go on from ``last.safetensors`` in ``out``; the recipe may have gained stages at its end.
        watcher: sees progress.

    Raises:
        OutputError: ``out`` holds a run already and ``resume`` is false, or cannot be made or written.
        ConfigError: ``resume`` with another recipe than the run's, nothing to resume, or too small a batch.
        DataError: ``resume`` with faces held out that the run has learned from.
        DeviceError: a device that is unknown or not there.
        WeightsError: the ``init`` of a new run names no checkpoint, or one of another network; so for
            ``distillation.teacher``, whose layout, margin, input size and loss must suit the recipe too (ConfigError).
    """

    columns: tuple[str, ...] = COLUMNS

    def __init__(
        self,
        config: Config,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        out: Path,
        *,
        device: str = "auto",
        resume: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self.config, self.folder = config, RunFolder(out, resume=resume)
        self.samples, self.validation_samples = train, validation
        self.layout: Layout = layout(config.layout)
        self.mirror = torch.from_numpy(self.layout.mirror.copy())
        self.fabric = launch(device)
        self._check_batches()
        self.watcher = watcher if watcher is not None and self.fabric.is_global_zero else Watcher()
        torch.manual_seed(config.seed)
        self._build()
        self.caricatures: Caricatures | None = None
        self.epoch, self.best = 0, math.inf
        self.rows: list[dict[str, Any]] = []
        self.learned = {face.name for face in train}
        if resume:
            self._resume()
        self._make_folder()

    def _build(self) -> None:
        config, resumed = self.config, self.folder.resume  # which needs no checkpoint to start from
        network = OctaveNetwork(network_config(config)) if resumed else starting_network(config)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.optimiser = self.fabric.setup(self.network, optimiser(self.network, config.optimiser))
        self.average = ExponentialAverage(self.network, config.optimiser.ema, config.optimiser.keep)
        taught = config.distillation
        self.distiller = None if taught is None else Distiller(config, taught, self.fabric)

    def _make_folder(self) -> None:
        """By the first process; every one raises what it could not write."""
        said = None
        if self.fabric.is_global_zero:
            try:
                self.folder.make(self.config)
            except OutputError as error:
                said = str(error)
        if (said := self.fabric.broadcast(said)) is not None:
            raise OutputError(said)

    def _check_batches(self) -> None:
        world = self.fabric.world_size
        for index, stage in enumerate(self.config.stages):
            faces = len(self.samples) if stage.steps_per_epoch is None else stage.batch
            share = min(stage.batch, faces) // world
            if share < 1 or (share < 2 and stage.size == 32):  # normalising one value per channel is impossible
                raise ConfigError(
                    f"stages.{index}.batch: {stage.batch} of {len(self.samples)} faces over {world} processes is too "
                    f"few; each needs at least {2 if stage.size == 32 else 1}"
                )

    def run(self) -> float:
        """Train to the end of the last stage; returns the best validation NME (a fraction)."""
        store, validation = self._load()
        self._prepare(store)
        total = sum(stage.epochs for stage in self.config.stages)
        self.watcher.started(self._steps(total), self._steps(self.epoch))
        logger = (
            TensorBoardLogger(self.folder.path, name="tensorboard", version="") if self.fabric.is_global_zero else None
        )
        first = 0
        for index, stage in enumerate(self.config.stages):
            last, place = first + stage.epochs, self.fabric.device
            if self.epoch < last:
                faces, held_out = (self._for_stage(faces, stage).to(place) for faces in (store, validation))
            while self.epoch < last:
                began = time.monotonic()
                means = self._train_epoch(faces, stage, self.epoch - first, self.epoch)
                nme, failures, further = self._validated(held_out, stage.size)
                if self.epoch == first:  # the best epoch is one of the last stage, at the size that ships
                    self.best = math.inf
                self.epoch += 1
                is_best = nme < self.best or self.caricatures is not None  # photographs alone cannot tell
                self.best = nme if is_best else self.best
                rate = self.optimiser.param_groups[0]["lr"]
                scores = {"learning_rate": rate, **means, **further, "validation_nme": nme, "validation_fr8": failures}
                row = {"epoch": self.epoch, "stage": index, "size": stage.size, **scores}
                self.rows.append({**row, "seconds": time.monotonic() - began})
                if logger is not None:
                    logger.log_metrics(scores, step=self.epoch)
                    self._save(is_best)
                self.fabric.barrier()
                self.watcher.finished_epoch(Epoch(self.epoch, total, means["loss"], nme, failures, self.best))
            first = last
        if logger is not None:
            logger.finalize("success")
        return self.best

    def _prepare(self, store: FaceStore) -> None:
        """What needs the training faces before the first epoch."""
        self.caricatures = Caricatures.of(self.config.caricature, self.layout, store.landmarks)

    def _for_stage(self, store: FaceStore, stage: Stage) -> FaceStore:
        """The stored faces as a stage needs them."""
        return store.resized(stage.size)

    def _train_epoch(self, faces: FaceStore, stage: Stage, stage_epoch: int, epoch: int) -> dict[str, float]:
        """One epoch; means of what the log tells of it, by column."""
        config = self.config
        steps = stage.steps_per_epoch or steps_per_epoch(len(faces), stage.batch)
        self.model.train()
        sums = torch.zeros(2, device=self.fabric.device)
        for index, chosen in enumerate(self._batches(faces, stage, epoch)):
            generator = self._generator(epoch, index)
            pictures, plain, landmarks = self._labelled(faces, chosen, stage, generator)
            self._set_rate(learning_rate(stage, stage_epoch * steps + index, stage.epochs * steps))
            maps = self.model(pictures.contiguous(memory_format=torch.channels_last))  # n, M, h/4, w/4
            p = heatmaps.probabilities(maps, config.loss.beta)
            target = heatmaps.to_heatmap_pixels(landmarks, STRIDE)
            loss = self._supervised(p, heatmaps.decode(p), target, stage)
            distance = self._distilled(plain, p)
            self._descend(loss + distance, epoch, index)
            sums += torch.stack([loss, distance]).detach()
            self.watcher.stepped(float(loss.detach()))
        return {name: self._mean(value / steps) for name, value in zip(("loss", "distillation"), sums, strict=True)}

    def _supervised(self, p: Tensor, points: Points, target: Tensor, stage: Stage) -> Tensor:
        """The loss against labels (n, M, 2), heatmap pixels, of maps p (n, M, h, w) and the points read from them."""
        settings = self.config.loss
        scale = stage.target_scale or settings.target_scale
        loss = LOSSES[settings.name](points, target, scale)
        if settings.maps:
            loss = loss + settings.maps * drawn_kl(Points(target, torch.full_like(target, scale)), p).mean()
        return loss

    def _distilled(self, plain: Tensor, p: Tensor) -> Tensor:
        """To what a larger network sees in the undamaged views, weighted; 0 where none teaches at this size."""
        if self.distiller is None or self.distiller.size != plain.shape[-1]:
            return p.new_zeros(())
        return self.distiller.distance(plain, p)

    def _batches(self, faces: FaceStore, stage: Stage, epoch: int) -> Iterator[Tensor]:
        rank, world, steps = self.fabric.global_rank, self.fabric.world_size, stage.steps_per_epoch
        return epoch_batches(len(faces), stage.batch, self.config.seed, epoch, steps=steps, rank=rank, world=world)

    def _generator(self, epoch: int, index: int) -> torch.Generator:
        """A step's randomness, which depends on seed, epoch, step and process alone."""
        step = (self.config.seed * 10_007 + epoch) * 10_007 + index
        return torch.Generator().manual_seed(step * 64 + self.fabric.global_rank)

    def _labelled(
        self, faces: FaceStore, chosen: Tensor, stage: Stage, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented pictures (n, 3, size, size), the views undamaged, and landmarks (n, M, 2), input pixels."""
        chosen = chosen.to(self.fabric.device)
        return augment(
            faces.pictures[chosen],
            faces.landmarks[chosen],
            config=self.config.augment,
            mirror=self.mirror,
            size=stage.size,
            generator=generator,
            caricatures=self.caricatures,
        )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _descend(self, loss: Tensor, epoch: int, index: int) -> None:
        """One step of the optimiser and of the moving average."""
        self.fabric.backward(loss)
        clip = self.config.optimiser.clip
        norm = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=clip, error_if_nonfinite=False)
        for name, value in (("loss", loss), ("gradient", norm)):
            if value is not None and not torch.isfinite(value):
                said = f"epoch {epoch + 1}, step {index + 1}: the {name} is not finite"
                raise TrainingError(f"{said}; try a lower learning_rate")
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.network)

    def _mean(self, value: Tensor) -> float:
        """Over all processes."""
        mean: Tensor = self.fabric.all_reduce(value)  # type: ignore[assignment]
        return float(mean)

    def _validated(self, faces: FaceStore, size: int) -> tuple[float, float, dict[str, float]]:
        """NME and failure rate, and whatever else the log tells, by column."""
        return *self.validate(faces, size), {}

    def validate(self, faces: FaceStore, size: int) -> tuple[float, float]:
        """Mean NME (fraction of the usual distance) and failure rate at 8 % of the moving average's weights."""
        errors = []
        with self.average.instead_of(self.network):
            for start in range(0, len(faces), 32):
                pictures, truth = centre_crops(faces, torch.arange(start, min(start + 32, len(faces))), size)
                maps = self.model(pictures.contiguous(memory_format=torch.channels_last))
                points = heatmaps.decode(heatmaps.probabilities(maps, self.config.loss.beta))
                found = heatmaps.to_input_pixels(points, STRIDE).position
                errors.append(metrics.nme(found.cpu().numpy(), truth.cpu().numpy(), self.layout))
        joined = np.concatenate(errors)
        return float(joined.mean()), metrics.failure_rate(joined)

    def _load(self) -> tuple[FaceStore, FaceStore]:
        size = self._stored_size()
        total = len(self.samples) + len(self.validation_samples)
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.watcher.loading(done, total)

        margin = self.config.data.margin
        return (
            FaceStore.load(self.samples, size, margin, advance=advance),
            FaceStore.load(self.validation_samples, size, margin, advance=advance),
        )

    def _stored_size(self) -> int:
        """Side of the largest crop that is cut from the stored faces."""
        return max(stage.size for stage in self.config.stages)

    def _steps(self, epochs: int) -> int:
        """Steps of the first so many epochs."""
        steps = 0
        for stage in self.config.stages:
            done = min(epochs, stage.epochs)
            steps += done * (stage.steps_per_epoch or steps_per_epoch(len(self.samples), stage.batch))
            epochs -= done
        return steps

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that resuming needs."""
        kept = moments(self.optimiser, self.network)
        groups = {"weights": self.network.state_dict(), "ema": self.average.state, "moments": kept}
        return {**groups, "start": self.average.start} if self.config.optimiser.keep else groups

    def _meta(self) -> dict[str, Any]:
        """All else."""
        return {
            "config": self.config.model_dump(mode="json"),
            "epoch": self.epoch,
            "best_nme": self.best,
            "average_updates": self.average.updates,
            "rows": self.rows,
            "learned_from": sorted(self.learned),
        }

    def _save(self, is_best: bool) -> None:
        meta = self._meta()
        if is_best:
            checkpoints.save(self.folder.best, {"ema": self.average.result()}, meta)
        self.folder.save(self.columns, self._groups(), meta)

    def _resume(self) -> None:
        groups, meta = self.folder.load(self.config, self.validation_samples)
        self._restore(groups)
        self.learned |= set(meta.get("learned_from", ()))
        self.average.updates = meta["average_updates"]
        self.epoch, self.best, self.rows = meta["epoch"], meta["best_nme"], meta["rows"]

    def _restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        checkpoints.fill(self.network, groups.get("weights", {}), self.folder.last)
        for into, saved in ((self.average.state, groups["ema"]), (self.average.start, groups.get("start", {}))):
            for name, value in saved.items():
                into[name].copy_(value)
        set_moments(self.optimiser, self.network, groups["moments"])
