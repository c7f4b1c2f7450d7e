"""Training of networks that read whole faces: their network, their batches, their objective and their validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark import metrics
from octamark.datasets.load import LabelledSet
from octamark.errors import ConfigError, DataError
from octamark.layouts import Layout
from octamark.models import Source
from octamark.nets.network import OctaveNetwork
from octamark.nets.sampling import cut
from octamark.synthesis.caricature import Caricatures
from octamark.synthesis.eyelids import Eyelids
from octamark.training import data, unlabelled
from octamark.training.augmentation import Views, damaged, draw_views, show, similarity, still_visible
from octamark.training.data import FaceStore, endless_batch, read_faces
from octamark.training.objectives import Batch, FaceObjective, Model, Term, UnlabelledViews, Weight
from octamark.training.objectives.adversary import Adversary
from octamark.training.objectives.distillation import Distiller
from octamark.training.objectives.labels import Labels, Maps
from octamark.training.objectives.openings import Openings
from octamark.training.objectives.teacher import MeanTeacher
from octamark.training.objectives.visibility import Visibility
from octamark.training.optimisation import ExponentialAverage
from octamark.training.recipe import Recipe, Stage
from octamark.training.shards import PictureStack
from octamark.training.starting import network_config, starting_network
from octamark.training.steps import Step
from octamark.training.watcher import Watcher


class WholeFaces:
    """The task of a recipe without a section ``regional``.

    Args:
        recipe: the recipe.
        layout: its layout.
        faces: of a recipe with a section ``unlabelled``: a folder of pictures, or what ``octamark crops`` wrote. The
            faces of a folder are found once and kept as shards in ``folder``, where a resumed run finds them.
        folder: the run's folder.
        set_sizes: numbers of faces of the sets that are trained on.
        resumed: whether the run is resumed; it then needs no checkpoint to start from.

    Raises:
        ConfigError: a recipe with the section and no faces, too few unlabelled faces a step, or eyes to change of
            a layout without lids.
        WeightsError: ``init`` names no checkpoint, or one of another network.
    """

    validation_columns: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        faces: Path | None,
        folder: Path,
        *,
        set_sizes: Sequence[int],
        resumed: bool,
        fabric: Fabric,
    ) -> None:
        self.recipe, self.layout, self.fabric, self.resumed = recipe, layout, fabric, resumed
        self.settings, self.source, self.folder = recipe.unlabelled, faces, folder
        if self.settings is None and faces is not None:
            raise ConfigError(f"{recipe.name}: the recipe has no section unlabelled")
        if self.settings is not None and faces is None:
            raise ConfigError(f"{recipe.name}: learns from unlabelled faces: name them with --unlabelled")
        if self.settings is not None and self.settings.batch < fabric.world_size:
            raise ConfigError(
                f"unlabelled.batch: {self.settings.batch} faces a step over {fabric.world_size} processes; each "
                "needs at least 1"
            )
        self.mirror = torch.from_numpy(layout.mirror.copy())
        network = OctaveNetwork(network_config(recipe)) if resumed else starting_network(recipe)
        self.network: OctaveNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.takes_last = recipe.caricature is not None
        self.stored_size = max(stage.size for stage in recipe.stages)
        self.caricatures: Caricatures | None = None
        self.eyelids = Eyelids.of(recipe.eyes, layout)
        self.counts = ""
        self.set_ends = torch.tensor(set_sizes).cumsum(0)
        self.crop_sources: tuple[Source, ...] = unlabelled.expected_sources(recipe, faces)
        self.others: tuple[int, PictureStack | Tensor] = (0, torch.empty(0))

    def objective(self, average: ExponentialAverage) -> FaceObjective:
        """The terms that the recipe names.

        Raises:
            ConfigError, WeightsError: a teacher that does not suit the recipe, or none of that name.
        """
        recipe, settings = self.recipe, self.settings
        terms: dict[str, Term] = {"labels": Labels(recipe.loss.name)}
        weights = {"labels": Weight(1.0)}
        if recipe.loss.maps:
            terms["maps"], weights["maps"] = Maps(), Weight(recipe.loss.maps)
        if recipe.visibility is not None:
            terms["visibility"], weights["visibility"] = Visibility(), Weight(recipe.visibility.weight)
        if recipe.loss.openings:
            terms["openings"] = Openings(self.layout, recipe.loss.shut_weight)
            weights["openings"] = Weight(recipe.loss.openings)
        if recipe.distillation is not None:
            terms["distillation"] = Distiller(recipe, recipe.distillation, self.fabric)
            weights["distillation"] = Weight(recipe.distillation.weight)
        if settings is not None and settings.adversary is not None:
            terms["adversary"] = Adversary(settings.adversary, self.layout.count, self.fabric)
            weights["adversary"] = Weight(settings.adversary.weight, settings.adversary.warm_up)
        if settings is not None and settings.teacher is not None:
            terms["teacher"] = MeanTeacher(
                settings.teacher, average, self.network, recipe.loss.beta, self.mirror, self.fabric
            )
            weights["teacher"] = Weight(settings.teacher.weight, settings.teacher.warm_up)
        self.terms = FaceObjective(terms, weights, recipe.loss.beta)
        return self.terms

    def find_faces(self, watcher: Watcher, sets: Sequence[LabelledSet], shards: Mapping[str, FaceStore]) -> None:
        """Find the unlabelled faces, of a recipe that has them.

        Args:
            watcher: receives the progress.
            sets: the labelled faces, on which the rule that crops the others is fitted; shards: those that are stored.

        Raises:
            DataError: no faces there, faces cropped with another margin than the recipe's, or too few labelled faces to
                fit the rule.
        """
        if self.source is None:
            return
        path, margin = self.source, self.recipe.margin
        if not unlabelled.are_stored(path):
            path = self.folder / "unlabelled"
            if self.fabric.is_global_zero and not (self.resumed and path.exists()):
                unlabelled.pictures_in(self.source)
                rule, sources = unlabelled.fitted_rule(
                    self.recipe, sets, shards, self.layout.name, advance=watcher.finding
                )
                unlabelled.collect(self.source, path, self.stored_size, margin, rule, sources, advance=watcher.finding)
            self.fabric.barrier()
        self.faces = unlabelled.read(path)
        if self.faces.margin != margin:
            raise DataError(f"{path}: faces cropped with margin {self.faces.margin}, the recipe's is {margin}")
        self.counts, self.crop_sources = str(self.faces.counts), self.faces.sources
        watcher.found(self.counts)

    def prepare(self, faces: FaceStore) -> None:
        """Prepare what depends on the training faces, before the first epoch.

        Raises:
            ConfigError: caricatures of faces of which none has all its labels.
        """
        complete = torch.isfinite(faces.landmarks).all(dim=2).all(dim=1)
        if self.recipe.caricature is not None and not complete.any():
            raise ConfigError("caricature: needs faces of which all points have a label; no training face has them")
        self.caricatures = Caricatures.of(self.recipe.caricature, self.layout, faces.landmarks[complete])

    def freeze_landmarks(self) -> None:
        """From now on, learn only which landmarks can be seen."""
        self.network.freeze_landmarks()
        self.terms.only = "visibility"

    def for_stage(self, faces: FaceStore, stage: Stage) -> FaceStore:
        """The stored faces at the size that a stage needs."""
        return faces.resized(stage.size)

    def draw(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step) -> Views:
        """How the chosen faces are seen in a step, on the device of their landmarks."""
        return draw_views(
            lambda some: faces.take(chosen[some.cpu()], faces.landmarks.device)[0],
            faces.landmarks[chosen.to(faces.landmarks.device)],
            faces.pictures.shape[-1],
            config=self.recipe.augment,
            size=stage.size,
            generator=step.generator,
            caricatures=self.caricatures,
            eyelids=self.eyelids,
            visible=faces.visible[chosen.to(faces.visible.device)],
        )

    def batch(self, faces: FaceStore, chosen: Tensor, stage: Stage, step: Step, drawn: Views) -> Batch:
        """One step's faces: the chosen labelled ones, and unlabelled ones where the objective learns from them.

        Args:
            drawn: what ``draw`` returned for them.
        """
        device, config, generator = self.fabric.device, self.recipe.augment, drawn.generator()
        stored, landmarks = faces.take(chosen, device)
        undamaged, landmarks = show(stored, landmarks, drawn.to(device), mirror=self.mirror, size=stage.size)
        pictures, covered = damaged(undamaged, config, generator)
        visible = faces.visible[chosen.to(faces.visible.device)].to(device)
        visible = torch.where(drawn.mirrored.to(device)[:, None], visible[:, self.mirror.to(device)], visible)
        visible = still_visible(visible, landmarks, covered)
        views = None
        if self.settings is not None and self.terms.uses_unlabelled(stage.size):
            others = self._resized(stage.size)
            some = endless_batch(len(others), self.settings.batch, self.recipe.seed + 1, step.number)
            some = some[self.fabric.global_rank :: self.fabric.world_size]
            stored = others[some].to(device)  # u, 3, side, side uint8
            side = stored.shape[-1]
            zoom = data.zoom(side, stage.size)
            matrices, mirrored = similarity(config, len(stored), side, stage.size, generator, zoom)
            views = UnlabelledViews(stored, matrices.to(device), mirrored.to(device), zoom)
            plain = cut(stored, views.matrices, stage.size)
            pictures = torch.cat([pictures, damaged(plain, config, generator)[0]])
            undamaged = torch.cat([undamaged, plain])
        scale = stage.target_scale or self.recipe.loss.target_scale
        sets = torch.searchsorted(self.set_ends, chosen.cpu(), right=True).to(device)
        return Batch(pictures, undamaged, landmarks, visible, sets, views, scale, step.progress)

    def _resized(self, size: int) -> PictureStack | Tensor:
        """The unlabelled faces for a stage's size; in memory where they all fit there."""
        if self.others[0] != size:
            stack = self.faces.resized(size)
            fits = len(stack) * 3 * stack.side**2 <= data.MEMORY
            self.others = (size, stack[:] if fits else stack)
        return self.others[1]

    def validate(self, model: Model, faces: FaceStore, size: int) -> tuple[np.ndarray, dict[str, float]]:
        """NME of each face (n,), NaN where it cannot be normalised, and further columns of the log (none)."""
        labels, readings, _ = read_faces(model, faces, size, self.recipe.loss.beta, self.fabric.device)
        return metrics.nme(readings.numpy(), labels.numpy(), self.layout, self.recipe.normaliser), {}
