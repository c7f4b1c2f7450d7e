"""Labelled drawn faces and results for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawn_faces import draw_face
from octamark.datasets import Sample
from octamark.evaluation.results import About, Result
from octamark.evaluation.run import Predictions
from octamark.layouts import layout

IBUG = layout("ibug68")
F32 = NDArray[np.float32]


def drawn_samples(folder: Path, count: int = 4, side: int = 128) -> list[Sample]:
    """Faces on disk: ``face_0.png``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for seed in range(count):
        picture, points = draw_face(seed, side)
        Image.fromarray(picture).save(folder / f"face_{seed}.png")
        samples.append(Sample(f"face_{seed}", folder / f"face_{seed}.png", points))
    return samples


def bare_samples(count: int = 5, seed: int = 0) -> list[Sample]:
    """Labels only, 200 pixels wide; the pictures are not there."""
    rng = np.random.default_rng(seed)
    faces = IBUG.diagram * 200 + rng.normal(0, 2, (count, 68, 2)) + rng.uniform(0, 100, (count, 1, 2))
    return [Sample(f"set/{i}", Path(f"set/{i}.png"), face.astype(np.float32)) for i, face in enumerate(faces)]


def truth_of(samples: Sequence[Sample]) -> F32:
    return np.stack([sample.landmarks for sample in samples])


def result_of(samples: Sequence[Sample], found: Predictions, **about: object) -> Result:
    message = {"set": "drawn", "split": "all", "model": "hand", "boxes": "boxes unknown", "normaliser": "inter-ocular"}
    return Result(About(**{**message, "layout": IBUG, **about}), samples, found)  # type: ignore[arg-type]
