"""The training engine: one loop for every recipe.

A run lives in one folder: ``config.json`` (the recipe), ``log.csv``, ``tensorboard/``, ``last.safetensors`` (all that
resuming needs but teachers and pictures) and ``best.safetensors`` (the moving average of the weights at the last
stage's best validation NME; at its end where that does not tell which are best: of a run that learns from caricatures,
whose validation faces are photographs, or of a stage that learns visibility alone, which goes on with what the stage
before it would ship).

What differs between recipes is behind two interfaces. The *task* knows the network, which batches it reads and how it
is validated: octamark.training.whole_faces or octamark.training.regions. The *objective* knows what is learned:
octamark.training.objectives.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from octamark import metrics
from octamark.datasets.load import LabelledSet
from octamark.errors import ConfigError, OutputError, TrainingError
from octamark.layouts import Layout, layout
from octamark.models import Source
from octamark.training import checkpoints, provenance
from octamark.training.convention import aligned_sets
from octamark.training.data import (
    MEMORY,
    ROOM,
    FaceStore,
    epoch_batches,
    mixed_batch,
    set_shares,
    steps_per_epoch,
    store_as_shards,
)
from octamark.training.device import launch
from octamark.training.folder import RunFolder
from octamark.training.objectives import Model, Objective
from octamark.training.optimisation import ExponentialAverage, learning_rate, moments, optimiser, set_moments
from octamark.training.recipe import Recipe, Stage
from octamark.training.regions import Regions
from octamark.training.steps import Step, step_generator
from octamark.training.visibility import VisibilityRule
from octamark.training.watcher import Epoch, Watcher
from octamark.training.whole_faces import WholeFaces

COLUMNS = ("epoch", "stage", "size", "learning_rate")
"""The first columns of ``log.csv``. The objective's, those of the task's validation and ``LAST_COLUMNS`` follow."""

LAST_COLUMNS = ("validation_nme", "validation_fr8", "seconds")


class Task(Protocol):
    """A kind of network, the batches that it reads, and how it is validated."""

    validation_columns: tuple[str, ...]  # of the log
    stored_size: int  # input side, pixels, for which faces are stored
    counts: str  # what is known of the unlabelled faces
    crop_sources: tuple[Source, ...]  # what the rule that cropped them was learned from
    takes_last: bool  # the last epoch's weights, not those of the least validation error

    @property
    def network(self) -> nn.Module: ...

    def objective(self, average: ExponentialAverage) -> Objective: ...

    def find_faces(self, watcher: Watcher, sets: Sequence[LabelledSet], shards: Mapping[str, FaceStore]) -> None: ...

    def prepare(self, faces: FaceStore) -> None: ...

    def freeze_landmarks(self) -> None: ...

    def for_stage(self, faces: FaceStore, stage: Stage) -> FaceStore: ...

    def draw(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step) -> Any: ...

    def batch(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step, drawn: Any) -> Any: ...

    def validate(self, model: Model, faces: FaceStore, size: int) -> tuple[np.ndarray, dict[str, float]]: ...


class _Drawn:
    """What is drawn for the steps of an epoch, as ``DataLoader`` reads it."""

    def __init__(self, draw: Callable[[int], Any], count: int) -> None:
        self.draw, self.count = draw, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.draw(index)


def _without_threads(worker: int) -> None:
    """Let a worker process compute without threads: it inherits none from the process that it was forked from."""
    cv2.setNumThreads(0)


class Trainer:
    """One run of a recipe.

    Args:
        recipe: the recipe.
        sets: its labelled faces (octamark.datasets.load.labelled_sets); the validation faces choose the best epoch and
            are never trained on.
        out: the run's folder; made if missing.
        unlabelled: of a recipe with a section ``unlabelled``: a folder of pictures, or what ``octamark crops`` wrote.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        workers: processes that draw the next steps' caricatures while the network learns, so that an accelerator does
            not wait for them; 0: the training process draws them.
        resume: go on from ``last.safetensors`` in ``out``; the recipe may have gained stages at its end.
        watcher: receives the progress.

    Raises:
        OutputError: ``out`` holds a run already and ``resume`` is false, or cannot be made or written.
        ConfigError: a recipe that claims commercial use, and anything in its chain that is not stated to allow it
            (octamark.training.provenance); ``resume`` with another recipe than the run's, nothing to resume, too small
            a batch, a recipe and ``unlabelled`` that do not go together, or a teacher or global network that does not
            suit the recipe.
        DataError: ``resume`` with faces held out that the run has learned from.
        DeviceError: a device that is unknown or not there.
        WeightsError: ``init`` of a new run, a teacher or a global network that names no checkpoint, or one of another
            network.
        LayoutError: a regional recipe of a layout without regions.

    ``run`` also raises what octamark.training.convention.aligned_sets does.
    """

    def __init__(
        self,
        recipe: Recipe,
        sets: Sequence[LabelledSet],
        out: Path,
        *,
        unlabelled: Path | None = None,
        device: str = "auto",
        workers: int = 0,
        resume: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self.recipe, self.sets, self.folder = recipe, sets, RunFolder(out, resume=resume)
        self.layout: Layout = layout(recipe.layout)
        self.fabric = launch(device)
        self.shards = {entry.name: FaceStore.of_shards(entry.path, self.layout, entry.section.layout)
                       for entry in sets if entry.is_shards}  # fmt: skip
        self.trained = [entry for entry in sets if entry.is_shards or entry.training]
        self.counts = [self._training_count(entry) for entry in self.trained]
        self.shares = set_shares([entry.section.weight for entry in self.trained])
        self._check_batches()
        self.watcher = watcher if watcher is not None and self.fabric.is_global_zero else Watcher()
        torch.manual_seed(recipe.seed)
        self.task: Task = (
            WholeFaces(recipe, self.layout, unlabelled, out, set_sizes=self.counts, resumed=resume, fabric=self.fabric)
            if recipe.regional is None
            else Regions(recipe, self.layout, self.fabric)
        )
        self.workers = workers
        last = self.folder.last
        self.recorded = checkpoints.sources(checkpoints.metadata(last), last) if resume else ()
        self.sources = self._all_sources()
        provenance.check_claim(recipe, self.sources, recipe.name)
        self.network = self.task.network
        self._set_up()
        self.average = ExponentialAverage(self.network, recipe.optimiser.ema, recipe.optimiser.init_weight)
        self.objective = self.task.objective(self.average)
        self.columns = (*COLUMNS, *self.objective.columns, *self.task.validation_columns, *LAST_COLUMNS)
        self.epoch, self.best = 0, math.inf
        self.rows: list[dict[str, Any]] = []
        self.learned = {face.name for entry in sets for face in entry.training}
        if resume:
            self._resume()
        self._make_folder()

    def _set_up(self) -> None:
        """Wrap the network for the run's device, with a new optimiser of the weights that it learns."""
        self.model, self.optimiser = self.fabric.setup(self.network, optimiser(self.network, self.recipe.optimiser))
        if self.recipe.visibility is not None:
            self.model.mark_forward_method("both")

    def _freeze_landmarks(self) -> None:
        """From now on, learn visibility alone."""
        self.task.freeze_landmarks()
        self._set_up()

    def run(self) -> float:
        """Train to the end of the last stage; returns the best validation NME (a fraction)."""
        self.task.find_faces(self.watcher, self.sets, self.shards)
        self.sources = self._all_sources()
        self.sets = aligned_sets(self.sets, self.recipe, self.layout, advance=self.watcher.aligning)
        self.trained = [entry for entry in self.sets if entry.is_shards or entry.training]
        training, validation = self._stores()
        self.task.prepare(training)
        total = sum(stage.epochs for stage in self.recipe.stages)
        self.watcher.started(self._steps(total), self._steps(self.epoch))
        logger = (
            TensorBoardLogger(self.folder.path, name="tensorboard", version="") if self.fabric.is_global_zero else None
        )
        stage_start = 0
        for index, stage in enumerate(self.recipe.stages):
            stage_end, device = stage_start + stage.epochs, self.fabric.device
            if stage.learns == "visibility" and self.epoch == stage_start:  # of the weights that would ship
                self.network.load_state_dict(self.average.result())
                self._freeze_landmarks()
            if self.epoch < stage_end:
                stored, held_out = (self.task.for_stage(store, stage) for store in (training, validation))
                faces, held_out = stored.to(device), held_out.to(device)
            while self.epoch < stage_end:
                began = time.monotonic()
                means = self._train_epoch(stored, faces, stage, self.epoch - stage_start)
                nme, failures, further = self._validate(held_out, stage.size)
                if self.epoch == stage_start:  # the best epoch is one of the last stage, at the size that ships
                    self.best = math.inf
                self.epoch += 1
                is_best = nme < self.best or self.task.takes_last or stage.learns == "visibility"
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
            stage_start = stage_end
        if logger is not None:
            logger.finalize("success")
            shutil.rmtree(self.folder.crops, ignore_errors=True)
        return self.best

    def _train_epoch(self, stored: FaceStore, faces: FaceStore, stage: Stage, stage_epoch: int) -> dict[str, float]:
        """Train one epoch; returns the means over its steps of the objective's logs, by column.

        Args:
            stored: the faces as they are stored; faces: on the run's device.
        """
        steps = self._steps_of(stage)
        self.model.train()
        sums = torch.zeros(len(self.objective.columns), device=self.fabric.device)
        for index, batch in enumerate(self._batches(stored, faces, stage)):
            rate = learning_rate(stage, stage_epoch * steps + index, stage.epochs * steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss, logs = self.objective(batch, self.model)
            self._descend(loss, index)
            zero = torch.zeros((), device=self.fabric.device)
            sums += torch.stack([logs.get(column, zero) for column in self.objective.columns]).detach()
            self.watcher.stepped(float(logs["loss"].detach()))
        return {name: self._mean(value / steps) for name, value in zip(self.objective.columns, sums, strict=True)}

    def _batches(self, stored: FaceStore, faces: FaceStore, stage: Stage) -> Iterator[Any]:
        """The batches of an epoch; see ``_train_epoch``. Worker processes draw ahead, if there are any."""
        recipe, epoch, rank, done, all_steps = (
            self.recipe, self.epoch, self.fabric.global_rank, self._steps(self.epoch), self._steps()
        )  # fmt: skip
        chosen = list(self._chosen(stage))

        def step(index: int) -> Step:
            number = done + index
            return Step(number, number / all_steps, step_generator(recipe.seed, epoch, index, rank))

        def draw(index: int, store: FaceStore = faces) -> Any:
            return self.task.draw(store, chosen[index], stage, step(index))

        drawn: Iterable[Any] = map(draw, range(len(chosen)))
        if self.workers:
            loader: DataLoader[Any] = DataLoader(
                _Drawn(partial(draw, store=stored), len(chosen)),  # type: ignore[arg-type]
                batch_size=None,
                num_workers=self.workers,
                multiprocessing_context="fork",  # the faces are not copied
                worker_init_fn=_without_threads,
                pin_memory=self.fabric.device.type == "cuda",
            )
            with warnings.catch_warnings():  # the workers use none of the threads that they do not inherit
                warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
                drawn = iter(loader)
        for index, views in enumerate(drawn):
            yield self.task.batch(faces, chosen[index], stage, step(index), views)

    def _descend(self, loss: Tensor, index: int) -> None:
        """One step of the optimiser and of the moving average.

        Raises:
            TrainingError: a loss or a gradient that is not finite.
        """
        self.fabric.backward(loss)
        clip = self.recipe.optimiser.clip
        norm = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=clip, error_if_nonfinite=False)
        for name, value in (("loss", loss), ("gradient", norm)):
            if value is not None and not torch.isfinite(value):
                raise TrainingError(
                    f"epoch {self.epoch + 1}, step {index + 1}: the {name} is not finite; try a lower learning_rate"
                )
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.network)

    def _validate(self, faces: FaceStore, size: int) -> tuple[float, float, dict[str, float]]:
        """Mean NME (a fraction), failure rate at 8 %, and further columns, of the moving average's weights.

        Faces whose errors cannot be normalised, because points without a label are missing for it, are left out.
        """
        with self.average.instead_of(self.network):
            errors, further = self.task.validate(self.model, faces, size)
        finite = errors[np.isfinite(errors)]
        return float(finite.mean()), metrics.failure_rate(finite), further

    def _chosen(self, stage: Stage) -> Iterator[Tensor]:
        """Indices of each step's faces for this process."""
        rank, world, seed = self.fabric.global_rank, self.fabric.world_size, self.recipe.seed
        if self.shares is None:
            return epoch_batches(
                sum(self.counts), stage.batch, seed, self.epoch, steps=stage.steps_per_epoch, rank=rank, world=world
            )
        first = self._steps(self.epoch)
        return (
            mixed_batch(self.counts, self.shares, stage.batch, seed, first + index)[rank::world]
            for index in range(self._steps_of(stage))
        )

    def _steps_of(self, stage: Stage) -> int:
        """Steps of one of a stage's epochs."""
        return stage.steps_per_epoch or steps_per_epoch(sum(self.counts), stage.batch)

    def _steps(self, epochs: int | None = None) -> int:
        """Steps of the first so many epochs; of the whole run by default."""
        steps, remaining = 0, math.inf if epochs is None else epochs
        for stage in self.recipe.stages:
            done = min(remaining, stage.epochs)
            steps += int(done) * self._steps_of(stage)
            remaining -= done
        return steps

    def _mean(self, value: Tensor) -> float:
        """The mean of a value over all processes."""
        mean: Tensor = self.fabric.all_reduce(value)  # type: ignore[assignment]
        return float(mean)

    def _check_batches(self) -> None:
        world, count = self.fabric.world_size, sum(self.counts)
        for index, stage in enumerate(self.recipe.stages):
            faces = count if stage.steps_per_epoch is None and self.shares is None else stage.batch
            share = min(stage.batch, faces) // world
            if share < 1 or (share < 2 and stage.size == 32):  # normalising one value per channel is impossible
                raise ConfigError(
                    f"stages.{index}.batch: {stage.batch} of {count} faces over {world} processes is too "
                    f"few; each needs at least {2 if stage.size == 32 else 1}"
                )

    def _stores(self) -> tuple[FaceStore, FaceStore]:
        """The training faces of all sets, in the sets' order, and the validation faces.

        They are kept in memory; or, where they are many or several processes need them, in shards in the run's folder,
        which are removed when the run ends.
        """
        size, done = self.task.stored_size, 0
        total = sum(len(entry.training) + len(entry.validation) for entry in self.sets)
        in_memory = self.fabric.world_size == 1 and total * 3 * round(size * ROOM) ** 2 <= MEMORY

        def advance() -> None:
            nonlocal done
            done += 1
            self.watcher.loading(done, total)

        if not in_memory:
            if self.fabric.is_global_zero:
                shutil.rmtree(self.folder.crops, ignore_errors=True)
                for entry in self.sets:
                    for name, samples in (("training", entry.training), ("validation", entry.validation)):
                        if samples:
                            folder = self.folder.crops / entry.name / name
                            margin = entry.section.margin
                            store_as_shards(
                                samples,
                                size,
                                margin,
                                folder,
                                self.layout.name,
                                flags=self._flags(entry),
                                advance=advance,
                            )
            self.fabric.barrier()

        def store(entry: LabelledSet, name: str, samples: Sequence[Any]) -> FaceStore:
            if not in_memory:
                return FaceStore.of_shards(self.folder.crops / entry.name / name, self.layout)
            return FaceStore.load(samples, size, entry.section.margin, flags=self._flags(entry), advance=advance)

        training = [self.shards[entry.name] if entry.is_shards else store(entry, "training", entry.training)
                    for entry in self.trained]  # fmt: skip
        validation = [store(entry, "validation", entry.validation) for entry in self.sets if entry.validation]
        return FaceStore.joined(training, size), FaceStore.joined(validation, size)

    def _flags(self, entry: LabelledSet) -> VisibilityRule:
        """How a set tells which landmarks can be seen."""
        return VisibilityRule(entry.section.visibility, self.layout.mirror)

    def _make_folder(self) -> None:
        """Make the run's folder in the first process.

        Raises:
            OutputError: the folder cannot be made; every process raises it.
        """
        problem = None
        if self.fabric.is_global_zero:
            try:
                self.folder.make(self.recipe)
            except OutputError as error:
                problem = str(error)
        if (problem := self.fabric.broadcast(problem)) is not None:
            raise OutputError(problem)

    def _training_count(self, entry: LabelledSet) -> int:
        """The number of faces of a set that the run learns from."""
        return len(self.shards[entry.name]) if entry.is_shards else len(entry.training)

    def _all_sources(self) -> tuple[Source, ...]:
        """All that the run learns from."""
        faces = {entry.name: (self._training_count(entry), len(entry.validation)) for entry in self.sets}
        return provenance.sources_of(self.recipe, [*self.task.crop_sources, *self.recorded], faces)

    def _save(self, is_best: bool) -> None:
        meta = {
            "config": self.recipe.model_dump(mode="json"),
            "epoch": self.epoch,
            "best_nme": self.best,
            "average_updates": self.average.updates,
            "rows": self.rows,
            "learned_from": sorted(self.learned),
            "sources": [source.model_dump(mode="json") for source in self.sources],
        }
        if self.task.counts:
            meta["unlabelled"] = self.task.counts
        if is_best:
            checkpoints.save(self.folder.best, {"ema": self.average.result()}, meta)
        groups = {
            "weights": self.network.state_dict(),
            "ema": self.average.state,
            "moments": moments(self.optimiser, self.network),
            **self.objective.state(),
        }
        if self.recipe.optimiser.init_weight:
            groups["start"] = self.average.start
        self.folder.save(self.columns, groups, meta)

    def _resume(self) -> None:
        held_out = [face for entry in self.sets for face in entry.validation]
        groups, meta = self.folder.load(self.recipe, held_out)
        checkpoints.fill(self.network, groups.get("weights", {}), self.folder.last)
        for into, saved in ((self.average.state, groups["ema"]), (self.average.start, groups.get("start", {}))):
            for name, value in saved.items():
                into[name].copy_(value)
        self.epoch = meta["epoch"]
        learned = [stage.learns for stage in self.recipe.stages for _ in range(stage.epochs)]
        if learned[: self.epoch][-1:] == ["visibility"]:
            self._freeze_landmarks()
        set_moments(self.optimiser, self.network, groups["moments"])
        self.objective.restore(groups, self.folder.last)
        self.learned |= set(meta.get("learned_from", ()))
        self.average.updates = meta["average_updates"]
        self.best, self.rows = meta["best_nme"], meta["rows"]
