"""Which labelled landmarks can be seen, as a set of faces tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.datasets.load import VisibilityKind


def visible_labels(
    landmarks: NDArray[np.floating],
    occluded: NDArray[np.bool_] | None,
    kind: VisibilityKind | None,
    mirror: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Which landmarks of a face can be seen: (M,) 1 seen, 0 hidden, NaN unknown.

    Args:
        landmarks: (M, 2), NaN where a point has no label.
        occluded: (M,) whether a labelled point is hidden; None if the set does not say.
        kind: ``"flags"``: as ``occluded`` says; ``"labelled"``: every labelled point is seen; ``"one-sided"``: every
            labelled point is seen, and a point without label is hidden where the one on the other side of the face has
            a label, as in a profile; None: unknown.
        mirror: (M,) the layout's mirror permutation.
    """
    known = np.isfinite(landmarks).all(axis=1)
    visible = np.full(len(landmarks), np.nan, np.float32)
    if kind == "flags" and occluded is not None:
        visible[known] = ~occluded[known]
    if kind in ("labelled", "one-sided"):
        visible[known] = 1.0
    if kind == "one-sided":
        visible[~known & known[mirror]] = 0.0
    return visible


@dataclass(frozen=True)
class VisibilityRule:
    """How a set tells which landmarks can be seen; see ``visible_labels``.

    Attributes:
        kind: the setting ``visibility`` of the set in the recipe.
        mirror: (M,) the layout's mirror permutation.
    """

    kind: VisibilityKind | None
    mirror: NDArray[np.integer]

    def __call__(self, sample: Sample) -> NDArray[np.float32]:
        return visible_labels(sample.landmarks, sample.occluded, self.kind, self.mirror)


def visible_in(samples: Sequence[Sample], rule: VisibilityRule | None) -> NDArray[np.float32]:
    """Which landmarks of each face can be seen: (n, M), NaN where the rule does not know or there is none."""
    if rule is None:
        return np.full((len(samples), len(samples[0].landmarks)), np.nan, np.float32)
    return np.stack([rule(sample) for sample in samples])
