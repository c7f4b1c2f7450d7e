"""Faces of which the face detector is unsure, and the landmark network is sure.

Where the detector finds no face, it reports places of lower scores. The landmark network tells the faces among them
from everything else: its mean confidence stays low where there is no face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from octamark.faces import Landmarks
from octamark.geometry import Crop
from octamark.inference.search import Candidates
from octamark.inference.yunet import Detections

MIN_SCORE = 0.1
"""Least detector score of a candidate that is read."""

MIN_CONFIDENCE = 0.35
"""Least mean confidence of a face. In the pictures without a face of ``benchmarks/detection.py``, ``nano``,
``tiny-128`` and ``small`` reached 0.29 at most."""

MAX_CANDIDATES = 8
"""Candidates that are read, those of the highest scores: the first alone, the others only if that one is a face."""


def confirmed_faces(
    candidates: Candidates,
    threshold: float,
    crops: Callable[[Candidates], Sequence[Crop]],
    read: Callable[[Sequence[Crop]], Sequence[Landmarks]],
) -> Detections:
    """Boxes (n, 4) and scores (n,) of the candidates that are faces, in their order.

    Args:
        candidates: of the detector.
        threshold: score from which a candidate is a face. Where one is, the others are not.
        crops: the upright crop of each candidate.
        read: the landmark network.
    """

    def are_faces(index: NDArray[np.int64]) -> NDArray[np.bool_]:
        chosen = candidates.select(index)
        turned = [crop.rotated(90.0 * turns) for crop, turns in zip(crops(chosen), chosen.turns, strict=True)]
        return np.array([landmarks.mean_confidence >= MIN_CONFIDENCE for landmarks in read(turned)], bool)

    faces = candidates.of_score(threshold)
    if not len(faces):
        best = np.argsort(-candidates.scores, kind="stable")[:MAX_CANDIDATES]
        best = best[candidates.scores[best] >= MIN_SCORE]
        confirmed = best[:1][are_faces(best[:1])]
        if len(confirmed):
            others = best[1:]
            confirmed = np.sort(np.concatenate([confirmed, others[are_faces(others)]]))
        faces = candidates.select(confirmed)
    return faces.boxes, faces.scores
