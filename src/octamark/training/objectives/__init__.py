"""Objectives: functions ``objective(batch, model) -> (loss, logs)``, which the recipe composes.

``FaceObjective`` trains networks that read whole faces: the model reads the batch once, and the loss is a weighted
sum of terms. octamark.training.objectives.regional trains regional networks. An objective also knows which tensors a
checkpoint must hold for it, whether it needs unlabelled faces, and the columns that it adds to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE

State = dict[str, dict[str, Tensor]]
"""Groups of named tensors, as a checkpoint holds them."""

Model = Callable[..., Any]
"""The network, wrapped by Fabric."""


@dataclass(frozen=True)
class UnlabelledViews:
    """How a step's unlabelled faces were cropped.

    Attributes:
        stored: (u, 3, s, s) uint8 stored crops.
        matrices, mirrored: (u, 2, 3) and (u,), see octamark.training.augmentation.similarity.
        zoom: pixels of the stored crops per pixel of the network's.
    """

    stored: Tensor
    matrices: Tensor
    mirrored: Tensor
    zoom: float


@dataclass(frozen=True)
class Batch:
    """The faces of one step, the labelled ones first.

    Attributes:
        pictures: (n + u, 3, size, size) float32 in 0..1, augmented.
        undamaged: the same views before colours were changed and pieces hidden.
        landmarks: (n, M, 2) of the labelled faces, input pixels; NaN where a point has no label.
        visible: (n, M) which of them can be seen: 1 seen, 0 hidden, NaN unknown.
        sets: (n,) number of each labelled face's set, in the order of the recipe's sets that are trained on.
        unlabelled: of the u unlabelled faces; None in a step without any.
        target_scale: of the labels' density, heatmap pixels.
        progress: share of the run's steps that are done.
    """

    pictures: Tensor
    undamaged: Tensor
    landmarks: Tensor
    visible: Tensor
    sets: Tensor
    unlabelled: UnlabelledViews | None
    target_scale: float
    progress: float

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return int(self.pictures.shape[-1])

    @property
    def target(self) -> Tensor:
        """The landmarks in heatmap pixels."""
        return heatmaps.to_heatmap_pixels(self.landmarks, STRIDE)


class Prediction(NamedTuple):
    """The network's prediction for a batch.

    Attributes:
        p: probability maps (n + u, M, h, w).
        points: theirs, in heatmap pixels.
        visible: (n + u, M) logits of the landmarks being seen; None of a network that does not tell it.
    """

    p: Tensor
    points: Points
    visible: Tensor | None = None

    def labelled(self, batch: Batch) -> Prediction:
        """The prediction for the labelled faces."""
        return self._part(slice(len(batch.landmarks)))

    def unlabelled(self, batch: Batch) -> Prediction:
        """The prediction for the unlabelled faces."""
        return self._part(slice(len(batch.landmarks), None))

    def _part(self, faces: slice) -> Prediction:
        visible = None if self.visible is None else self.visible[faces]
        return Prediction(self.p[faces], Points(self.points.position[faces], self.points.spread[faces]), visible)


class Objective(Protocol):
    """A loss that the engine minimises.

    Attributes:
        columns: of the log; ``loss`` is the first.
    """

    columns: tuple[str, ...]

    def __call__(self, batch: Any, model: Model) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and a scalar for some of the columns."""

    def state(self) -> State:
        """The tensors that a checkpoint must hold besides network, average and optimiser."""

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        """Restore what ``state`` returned; ``path`` names the checkpoint in errors."""


class Term(Protocol):
    """One part of ``FaceObjective``.

    Attributes:
        column: of the log, to which the weighted value is added; None for no column.
        columns: of the log that a call returns values for.
    """

    column: str | None
    columns: tuple[str, ...]

    def active(self, size: int) -> bool:
        """Whether the term is part of the loss in stages of this input size."""

    def uses_unlabelled(self) -> bool:
        """Whether it learns from unlabelled faces, if there are any."""

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        """Its value before the weight, a scalar, and a scalar for each of its columns."""

    def state(self) -> State: ...

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None: ...


class Stateless:
    """A term without parameters of its own, that is active in all stages and learns from labelled faces."""

    columns: tuple[str, ...] = ()

    def active(self, size: int) -> bool:
        return True

    def uses_unlabelled(self) -> bool:
        return False

    def state(self) -> State:
        return {}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class Weight:
    """Weight of a term: ``value``, after a straight rise from 0 over a share ``warm_up`` of the run's steps."""

    value: float
    warm_up: float = 0.0

    def at(self, progress: float) -> float:
        """The weight after this share of the steps."""
        return self.value * (1.0 if self.warm_up == 0 else min(1.0, progress / self.warm_up))


class FaceObjective:
    """The weighted sum of terms, for networks that read whole faces.

    Args:
        terms: by name, in the order in which they are computed and added.
        weights: of each.
        beta: of the soft-argmax.

    Attributes:
        only: name of the one term that is computed; None for all.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, Weight], beta: float) -> None:
        self.terms, self.weights, self.beta = dict(terms), dict(weights), beta
        self.only: str | None = None
        named = [([term.column] if term.column else []) + list(term.columns) for term in self.terms.values()]
        self.columns = tuple(dict.fromkeys(column for columns in named for column in columns))

    def __call__(self, batch: Batch, model: Model) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = batch.pictures.contiguous(memory_format=torch.channels_last)
        if "visibility" in self.terms:
            maps, evidence = model.both(pictures)  # type: ignore[attr-defined]
            p = heatmaps.probabilities(maps, self.beta)
            prediction = Prediction(p, heatmaps.decode(p), heatmaps.visibility_logits(p, evidence))
        else:
            p = heatmaps.probabilities(model(pictures), self.beta)
            prediction = Prediction(p, heatmaps.decode(p))
        loss = p.new_zeros(())
        logs: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if not self._computes(name, batch.size):
                continue
            value, term_logs = term(batch, prediction)
            weighted = self.weights[name].at(batch.progress) * value
            loss = loss + weighted
            logs |= term_logs
            if term.column is not None:
                logs[term.column] = logs.get(term.column, 0.0) + weighted
        return loss, {"loss": loss, **logs}

    def uses_unlabelled(self, size: int) -> bool:
        """Whether steps at this input size learn from unlabelled faces."""
        return any(self._computes(name, size) and term.uses_unlabelled() for name, term in self.terms.items())

    def _computes(self, name: str, size: int) -> bool:
        return self.only in (None, name) and self.terms[name].active(size)

    def state(self) -> State:
        return {group: tensors for term in self.terms.values() for group, tensors in term.state().items()}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        for term in self.terms.values():
            term.restore(groups, path)
