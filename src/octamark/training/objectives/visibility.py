"""What can be seen of a face: the cross-entropy of each landmark's visibility."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from octamark.training.losses import labelled_mean
from octamark.training.objectives import Batch, Prediction, Stateless


class Visibility(Stateless):
    """Binary cross-entropy of the landmarks' visibility, over those of which it is known."""

    column: str | None = None
    columns: tuple[str, ...] = ("visibility",)

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        logits = prediction.labelled(batch).visible
        assert logits is not None, "a network without visibility"
        target = batch.visible
        entropy = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(0.0), reduction="none")
        value = labelled_mean(entropy, target)
        return value, {"visibility": value.detach()}
