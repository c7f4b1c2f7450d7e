"""Fits the shape correction of octamark.nets.shape to the errors of a trained network."""

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
"""With fewer faces no correction is fitted: it takes some hundreds to gain anything."""

WORTHWHILE = 0.995
"""A correction is used if it leaves less than this share of the error on faces that it was not fitted on."""

RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""Strengths of the penalty, relative to the mean variance of a coordinate; cross-validation chooses one."""

USUAL, FADE = 0.9, 1.5
"""The correction counts in full up to the distance from the mean shape within which this share of the shapes lies that
it was fitted on, and not at all from so many times that on. Fitted on 300W without fading, it made the error of full
profiles larger by 9 %."""

LEAST_VARIANCE = 1e-6
"""Least variance of a coordinate that the penalty is relative to, of shapes of size 1; identical faces have none."""

_PLACED = {"rotation": 8.0, "scale": 0.05, "shift": 0.03}  # about as a detector's box places crops
_MOVED_ONLY = Augment.model_validate(dict.fromkeys(Augment.model_fields, 0.0) | _PLACED)


def predicted_shapes(
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
    """Points that a network finds in labelled faces, and their labels: (2, n, M, 2) pixels of the crops of two views.

    Args:
        caricatures: turns some of the second views into caricatures, as in training.
        advance: called once per face, after both of its views.
    """
    generator = torch.Generator().manual_seed(seed)
    views: list[tuple[list[Tensor], list[Tensor]]] = [([], []), ([], [])]
    with torch.no_grad():
        for first in range(0, len(faces), 32):
            pictures, landmarks = faces.pictures[first : first + 32], faces.landmarks[first : first + 32]
            for (shapes, labels), drawn in zip(views, (None, caricatures), strict=True):
                _, crops, landmarks_in_crops = augment(
                    pictures, landmarks, config=_MOVED_ONLY, mirror=mirror, size=size, generator=generator,
                    caricatures=drawn,
                )  # fmt: skip
                maps = network(crops.contiguous(memory_format=torch.channels_last))
                points = heatmaps.decode(heatmaps.probabilities(maps, beta))
                shapes.append(heatmaps.to_input_pixels(points, STRIDE).position)
                labels.append(landmarks_in_crops)
            for _ in pictures:
                advance()
    points_of_views, truth = (torch.stack([torch.cat(view[part]) for view in views]) for part in (0, 1))
    return points_of_views, truth


def fit_shape(predicted: Tensor, truth: Tensor, mirror: Tensor) -> ShapeCorrection | None:
    """The correction that moves points nearest to their labels: ridge regression in each face's own frame.

    The fit uses every face and its mirror image, so that both are corrected alike. A face weighs less the larger its
    mean squared error, in the fit and in the choice of the penalty; the penalty is the best one in cross-validation.

    Args:
        predicted, truth: (v, n, M, 2) points and labels, pixels of the crops, of v views of n faces; faces with missing
            labels (NaN) are left out. Labels that lie to one side must be moved back first
            (octamark.release.calibration.fit_offset): in the mirror images they would lie to the other side, and the
            fit would learn to tell mirror images apart.
        mirror: (M,) the layout's mirror permutation.

    Returns:
        None if no correction helps, or for fewer than ``LEAST_FACES`` faces.
    """
    complete = torch.isfinite(truth).all(dim=3).all(dim=2).all(dim=0)
    predicted, truth = predicted[:, complete], truth[:, complete]
    views, count = predicted.shape[:2]
    if count < LEAST_FACES:
        return None
    with_mirror_images = [torch.cat([x, _mirrored(x, mirror)]).double() for x in (predicted, truth)]  # 2 v, n, M, 2
    points, labels = (x.flatten(0, 1) for x in with_mirror_images)
    mean = procrustes_mean(labels, mirror, torch)
    frames = shape_frames(points, mean)
    difference = in_frames(points - points.mean(dim=1, keepdim=True), frames) - mean
    wrong = in_frames(labels - points, frames)
    weight = 1 / wrong.square().mean(dim=(1, 2)).clamp(min=1e-6)
    x, y, fold = difference.flatten(1), wrong.flatten(1), (torch.arange(count) % FOLDS).repeat(2 * views)
    parts = [(x[fold == part], y[fold == part], weight[fold == part, None]) for part in range(FOLDS)]
    squares = torch.stack([a.T @ (w * a) for a, _, w in parts])
    products = torch.stack([a.T @ (w * b) for a, b, w in parts])
    spread = squares.sum(dim=0).diagonal().mean().clamp(min=LEAST_VARIANCE * float(weight.sum()))
    penalty = torch.eye(x.shape[1], dtype=x.dtype) * spread

    def solved(ridge: float, left_out: int | None = None) -> Tensor:
        folds = [part for part in range(FOLDS) if part != left_out]
        system = squares[folds].sum(dim=0) + ridge * len(folds) / FOLDS * penalty
        solution: Tensor = torch.linalg.solve(system, products[folds].sum(dim=0))
        return solution

    def error(matrices: Iterable[Tensor]) -> float:
        return sum(
            float((w * (b - a @ matrix).view(len(a), -1, 2).norm(dim=2)).sum())
            for (a, b, w), matrix in zip(parts, matrices, strict=True)
        )

    most = WORTHWHILE * error([torch.zeros_like(penalty)] * FOLDS)
    least, ridge = min((error(solved(ridge, part) for part in range(FOLDS)), ridge) for ridge in RIDGES)
    if least >= most:
        return None
    lengths = difference[:count].flatten(1).norm(dim=1)  # of the first views, which are photographs
    usual = float(torch.quantile(lengths, USUAL))
    return ShapeCorrection(mean.float(), solved(ridge).float(), torch.tensor([usual, FADE * usual]))


def _mirrored(points: Tensor, mirror: Tensor) -> Tensor:
    return points[..., mirror, :] * points.new_tensor([-1.0, 1.0])
