"""Fits what octamark.nets.shape applies: which corrections the shapes that a network finds need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from octamark.geometry import procrustes_mean
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.nets.shape import ShapeCorrection, in_frames, shape_frames
from octamark.release.calibration import FOLDS
from octamark.synthesis.caricature import Caricatures
from octamark.training.augmentation import augment
from octamark.training.data import FaceStore
from octamark.training.recipe import Augment

LEAST_FACES = 100
"""With fewer nothing is to be gained; some hundreds are needed."""

WORTHWHILE = 0.995
"""Of the error without a correction, the most that one may leave on faces that it was not fitted on."""

RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""Strengths of the penalty, in shares of the mean variance of a coordinate; the folds choose."""

LEAST_VARIANCE = 1e-6
"""Of a coordinate, shapes being of size 1: where all faces are the same there is nothing to learn."""

_PLACED = {"rotation": 8.0, "scale": 0.05, "shift": 0.03}  # about as a detector's box places crops
_STILL = Augment.model_validate(dict.fromkeys(Augment.model_fields, 0.0) | _PLACED)


def found_shapes(
    network: OctaveNetwork,
    faces: FaceStore,
    mirror: Tensor,
    *,
    size: int,
    beta: float,
    seed: int = 0,
    caricatures: Caricatures | None = None,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """What a network finds in labelled faces: points and labels, (2, n, M, 2) pixels of the crops of two views.

    Args:
        caricatures: turns a share of the second views into caricatures, as in training.
        advance: called once per face, after both of its views.
    """
    generator, found, truth = torch.Generator().manual_seed(seed), [], []
    with torch.no_grad():
        for first in range(0, len(faces), 32):
            pictures, landmarks = faces.pictures[first : first + 32], faces.landmarks[first : first + 32]
            for drawn in (None, caricatures):
                _, crops, labels = augment(
                    pictures, landmarks, config=_STILL, mirror=mirror, size=size, generator=generator,
                    caricatures=drawn,
                )  # fmt: skip
                maps = network(crops.contiguous(memory_format=torch.channels_last))
                points = heatmaps.decode(heatmaps.probabilities(maps, beta))
                found.append(heatmaps.to_input_pixels(points, STRIDE).position)
                truth.append(labels)
            for _ in pictures:
                advance()
    shapes, labelled = (torch.stack([torch.cat(one[0::2]), torch.cat(one[1::2])]) for one in (found, truth))
    return shapes, labelled


def fit_shape(found: Tensor, truth: Tensor, mirror: Tensor) -> ShapeCorrection | None:
    """The correction that brings points near to the labels: ridge regression in the frame of the mean shape.

    Every face counts mirrored too, so that a face and its mirror image are corrected alike; and the less, the further
    off its points are (by their mean squared distance), in the fit as in the choice of the penalty, which is the one
    that is best for faces left out of the fit.

    Args:
        found, truth: (v, n, M, 2) points and labels, pixels of the crops, of v views of n faces. Labels that lean to
            one side are to be moved back before (octamark.release.calibration.fit_offset): of the mirrored faces they
            would lean to the other, and the fit would learn to guess which is which.
        mirror: (M,) the layout's mirror permutation.

    Returns:
        None where no correction helps, and for fewer than :data:`LEAST_FACES`.
    """
    views, count = found.shape[:2]
    if count < LEAST_FACES:
        return None
    both = [torch.cat([x, _mirrored(x, mirror)]).double() for x in (found, truth)]  # 2 v, n, M, 2
    points, labels = (x.flatten(0, 1) for x in both)
    mean = procrustes_mean(labels, mirror, torch)
    frames = shape_frames(points, mean)
    difference = in_frames(points - points.mean(dim=1, keepdim=True), frames) - mean
    wrong = in_frames(labels - points, frames)
    weight = 1 / wrong.square().mean(dim=(1, 2)).clamp(min=1e-6)
    x, y, fold = difference.flatten(1), wrong.flatten(1), (torch.arange(count) % FOLDS).repeat(2 * views)
    parts = [(x[fold == one], y[fold == one], weight[fold == one, None]) for one in range(FOLDS)]
    squares = torch.stack([a.T @ (w * a) for a, _, w in parts])
    products = torch.stack([a.T @ (w * b) for a, b, w in parts])
    spread = squares.sum(dim=0).diagonal().mean().clamp(min=LEAST_VARIANCE * float(weight.sum()))
    penalty = torch.eye(x.shape[1], dtype=x.dtype) * spread

    def solved(ridge: float, left_out: int | None = None) -> Tensor:
        kept = [one for one in range(FOLDS) if one != left_out]
        left = squares[kept].sum(dim=0) + ridge * len(kept) / FOLDS * penalty
        solution: Tensor = torch.linalg.solve(left, products[kept].sum(dim=0))
        return solution

    def error(matrices: Iterable[Tensor]) -> float:
        return sum(
            float((w * (b - a @ matrix).view(len(a), -1, 2).norm(dim=2)).sum())
            for (a, b, w), matrix in zip(parts, matrices, strict=True)
        )

    most = WORTHWHILE * error([torch.zeros_like(penalty)] * FOLDS)
    least, ridge = min((error(solved(ridge, one) for one in range(FOLDS)), ridge) for ridge in RIDGES)
    return ShapeCorrection(mean.float(), solved(ridge).float()) if least < most else None


def _mirrored(points: Tensor, mirror: Tensor) -> Tensor:
    return points[..., mirror, :] * points.new_tensor([-1.0, 1.0])
