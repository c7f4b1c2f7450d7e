"""The semi-supervised training loop: labelled faces as in the supervised one, unlabelled faces beside them.

From the source (Laplace Landmark Localization, section 2): an adversary judges the heatmaps predicted on unlabelled
faces. Beyond it: a mean teacher tells what it sees in them; so does a larger network, in a recipe with a section
``distillation``. Each alone or with others; in a stage without any of them this is the supervised loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octamark.datasets import Sample
from octamark.errors import ConfigError, DataError
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE
from octamark.nets.sampling import cut
from octamark.training import checkpoints, data, unlabelled
from octamark.training.adversary import Adversary
from octamark.training.augmentation import damaged, similarity
from octamark.training.data import FaceStore, endless_batch, steps_per_epoch
from octamark.training.optimisation import learning_rate, moments, set_moments
from octamark.training.recipe import Config, Stage, Unlabelled
from octamark.training.teacher import MeanTeacher, consistency
from octamark.training.trainer import COLUMNS, Trainer
from octamark.training.watcher import Watcher

MEANS = ("loss", "distillation", "discriminator", "fooling", "consistency", "teacher_spread")
"""Of an epoch: the loss on labelled faces, the distance to a larger network (weighted), D's loss, the network's part of
it, the distance to the mean teacher (these three before their weights), and that teacher's mean spread in heatmap
pixels; 0 for what the recipe leaves out."""


class SemiSupervisedTrainer(Trainer):
    """One run of a recipe with a section ``unlabelled``.

    Args:
        faces: a folder of pictures, or a .safetensors file of faces that ``octamark crops`` wrote. The faces of a
            folder are found once and kept as ``unlabelled.safetensors`` in the run's folder, for resuming.

    The rest is as in :class:`octamark.training.trainer.Trainer`.

    Raises:
        ConfigError: a recipe without the section, or too few unlabelled faces a step.
        DataError: no faces there, or faces cropped with another margin than the recipe's.
    """

    columns = (*COLUMNS[:6], *MEANS[2:], *COLUMNS[6:])

    def __init__(
        self,
        config: Config,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        faces: Path,
        out: Path,
        *,
        device: str = "auto",
        resume: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        if config.unlabelled is None:
            raise ConfigError(f"{config.name}: the recipe has no section unlabelled")
        self.settings: Unlabelled = config.unlabelled
        self.source = faces
        super().__init__(config, train, validation, out, device=device, resume=resume, watcher=watcher)
        if self.settings.batch < self.fabric.world_size:
            raise ConfigError(
                f"unlabelled.batch: {self.settings.batch} faces a step over {self.fabric.world_size} processes; each "
                "needs at least 1"
            )

    def _build(self) -> None:
        super()._build()
        adversary, teacher = self.settings.adversary, self.settings.teacher
        self.adversary = None if adversary is None else Adversary(adversary, self.layout.count, self.fabric)
        self.teacher = (
            None if teacher is None else MeanTeacher(self.average, self.network, self.config.loss.beta, self.fabric)
        )

    def _load(self) -> tuple[FaceStore, FaceStore]:
        path = self.source
        if path.suffix != ".safetensors":
            path = self.folder.path / "unlabelled.safetensors"
            if self.fabric.is_global_zero and not (self.folder.resume and path.exists()):
                size, margin = max(stage.size for stage in self.config.stages), self.config.data.margin
                unlabelled.collect(self.source, size, margin, advance=self.watcher.finding).save(path)
            self.fabric.barrier()
        self.faces = unlabelled.read(path)
        if self.faces.margin != self.config.data.margin:
            raise DataError(
                f"{path}: faces cropped with margin {self.faces.margin}, the recipe's is {self.config.data.margin}"
            )
        self.watcher.found(str(self.faces.counts))
        self.others = (0, torch.empty(0))
        return super()._load()

    def _resized(self, size: int) -> Tensor:
        """The unlabelled faces (n, 3, s, s) uint8 for a stage's size, on the device."""
        if self.others[0] != size:
            self.others = (size, self.faces.resized(size).to(self.fabric.device))
        return self.others[1]

    def _train_epoch(self, faces: FaceStore, stage: Stage, stage_epoch: int, epoch: int) -> dict[str, float]:
        distilled_here = self.distiller is not None and self.distiller.size == stage.size
        if self.adversary is None and self.teacher is None and not distilled_here:
            return super()._train_epoch(faces, stage, stage_epoch, epoch)
        config, settings = self.config, self.settings
        rank, world, device, size = self.fabric.global_rank, self.fabric.world_size, self.fabric.device, stage.size
        steps = stage.steps_per_epoch or steps_per_epoch(len(faces), stage.batch)
        done, all_steps = self._steps(epoch), self._steps(sum(one.epochs for one in config.stages))
        target_scale = stage.target_scale or config.loss.target_scale
        others = self._resized(size)
        side = others.shape[-1]
        zoom = data.zoom(side, size)
        self.model.train()
        sums = torch.zeros(len(MEANS), device=device)
        for index, chosen in enumerate(self._batches(faces, stage, epoch)):
            generator, step = self._generator(epoch, index), done + index
            pictures, plain, landmarks = self._labelled(faces, chosen, stage, generator)  # n, 3, size, size; n, M, 2
            drawn = endless_batch(len(others), settings.batch, config.seed + 1, step)[rank::world]
            stored = others[drawn.to(device)]  # u, 3, side, side uint8
            matrices, mirrored = similarity(config.augment, len(stored), side, size, generator, zoom)
            matrices, mirrored = matrices.to(device), mirrored.to(device)  # u, 2, 3; u
            undamaged = cut(stored, matrices, size)  # u, 3, size, size
            views = damaged(undamaged, config.augment, generator)
            self._set_rate(learning_rate(stage, stage_epoch * steps + index, stage.epochs * steps))

            both = torch.cat([pictures, views]).contiguous(memory_format=torch.channels_last)
            p = heatmaps.probabilities(self.model(both), config.loss.beta)  # n + u, M, h, w
            points, n = heatmaps.decode(p), len(pictures)
            known, unknown = (Points(*(value[part] for value in points)) for part in (slice(n), slice(n, None)))
            target = heatmaps.to_heatmap_pixels(landmarks, STRIDE)
            supervised = self._supervised(p[:n], known, target, stage)
            distilled = self._distilled(torch.cat([plain, undamaged]), p)
            loss = supervised + distilled
            judged = fooling = distance = spread = torch.zeros((), device=device)
            if self.adversary is not None and settings.adversary is not None:
                judged = self.adversary.learn(pictures, known, target, views, p[n:])
                fooling = self.adversary.fooling(views, p[n:])
                weight = settings.adversary.weight * ramp(step / all_steps, settings.adversary.warm_up)
                loss = loss + weight * fooling
            if self.teacher is not None and settings.teacher is not None:
                taught = self.teacher(stored, matrices, mirrored, mirror=self.mirror.to(device), size=size, zoom=zoom)
                spread, one = taught.spread, settings.teacher
                distance = consistency(p[n:], unknown, taught, target_scale, one.trust, one.maps)
                loss = loss + settings.teacher.weight * ramp(step / all_steps, settings.teacher.warm_up) * distance
            self._descend(loss, epoch, index)
            means = torch.stack([supervised, distilled, judged, fooling, distance, spread.mean()]).detach()
            sums += means
            self.watcher.stepped(float(means[0]))
        return {name: self._mean(value / steps) for name, value in zip(MEANS, sums, strict=True)}

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        groups = super()._groups()
        if self.adversary is not None:
            groups["discriminator"] = self.adversary.discriminator.state_dict()
            groups["discriminator moments"] = moments(self.adversary.optimiser, self.adversary.discriminator)
        return groups

    def _meta(self) -> dict[str, Any]:
        return {**super()._meta(), "unlabelled": str(self.faces.counts)}

    def _restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super()._restore(groups)
        if self.adversary is not None:
            checkpoints.fill(self.adversary.discriminator, groups.get("discriminator", {}), self.folder.last)
            saved = groups.get("discriminator moments", {})
            set_moments(self.adversary.optimiser, self.adversary.discriminator, saved)


def ramp(share: float, warm_up: float) -> float:
    """The part of a weight that counts after this share of the steps: from 0 to 1, straight, over ``warm_up``."""
    return 1.0 if warm_up == 0 else min(1.0, share / warm_up)
