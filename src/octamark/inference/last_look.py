"""Faces of which the face detector is unsure, and the landmark network is sure.

Where the detector finds no face, it reports places of lower scores. The landmark network tells the faces among them from
everything else: its mean confidence stays low where there is no face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from octamark.faces import Landmarks
from octamark.geometry import Crop
from octamark.inference.search import Candidates
from octamark.inference.yunet import Detections

MAX_CANDIDATES = 2
"""Candidates that are read, those of the highest scores."""

MIN_SCORE = 0.1
"""Least detector score of a candidate that is read."""

MIN_CONFIDENCE = 0.35
"""Least mean confidence of a face. On the pictures without faces of ``benchmarks/detection.py`` no reading came near."""


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
    faces = candidates.of_score(threshold)
    if len(faces) or not len(candidates):
        return faces.boxes, faces.scores
    best = np.sort(np.argsort(-candidates.scores, kind="stable")[:MAX_CANDIDATES])
    chosen = candidates.select(best).of_score(MIN_SCORE)
    turned = [crop.rotated(90.0 * turns) for crop, turns in zip(crops(chosen), chosen.turns, strict=True)]
    confident = np.array([landmarks.mean_confidence >= MIN_CONFIDENCE for landmarks in read(turned)], bool)
    faces = chosen.select(confident)
    return faces.boxes, faces.scores
