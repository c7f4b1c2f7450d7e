"""Labels of one set, moved to where another set's convention has the landmarks.

Sets differ in what they mean by a landmark: one marks the drawn outline of a face, another a vertex of a head model;
brows are marked at their hairs or at the bone below. A network that learns from both as they are learns the mean, and
is worse on each. Here a model that was trained by the recipe's convention reads the set's own pictures. Its readings
err face by face, but on average they lie where the convention has the points: a function of the face's shape, affine
and small, is fitted to the difference, and moves the labels. Robust regression keeps the model's failures out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from octamark.datasets import Sample
from octamark.datasets.load import LabelledSet
from octamark.errors import DataError, WeightsError
from octamark.geometry import procrustes_mean
from octamark.layouts import Layout
from octamark.nets.shape import in_frames, shape_frames
from octamark.training.data import FaceStore, read_faces
from octamark.training.recipe import Recipe
from octamark.training.starting import checkpoint_path, trained_network
from octamark.training.visibility import VisibilityRule

MOST_FACES = 3000
"""Faces of a set that the model reads, evenly drawn from it."""

LEAST_FACES = 200
"""With fewer faces no correction can be told from chance."""

COMPONENTS = 32
"""Principal components of the labels' shapes on which the correction depends. On rendered heads, by readings of
``tiny-128``, 8 leave 80 % of the distance of labels and readings on faces that were not fitted on, 16 leave 75 %, 32
leave 70 %."""

RIDGE = 30.0
"""Faces' worth of pull of every coefficient towards 0."""

ROUNDS = 8
"""Rounds of reweighting."""

LEAST_RESIDUAL = 5e-4
"""Smallest residual that weighs a point, in sizes of the shape (the root of the sum of squares)."""


@dataclass(frozen=True)
class Convention:
    """A correction of labels, affine in the shape of the face.

    Attributes:
        mean: (M, 2) shape, its middle at 0 and of size 1.
        basis: (2 M, K) principal directions of shapes, each over its standard deviation; centre: (2 M,) their origin.
        weight: (K + 1, 2 M) from 1 and the components to the correction, in the frame of the mean shape.
    """

    mean: Tensor
    centre: Tensor
    basis: Tensor
    weight: Tensor

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (n, M, 2) in pixels, moved; each face must have all of them."""
        frames = shape_frames(labels, self.mean)
        moved = (_features(labels, frames, self.mean, self.centre, self.basis) @ self.weight).view_as(labels)
        return labels + moved @ frames.transpose(1, 2)


def _features(labels: Tensor, frames: Tensor, mean: Tensor, centre: Tensor, basis: Tensor) -> Tensor:
    """1 and the components of shapes: (n, K + 1)."""
    difference = in_frames(labels - labels.mean(dim=1, keepdim=True), frames) - mean
    components = (difference.flatten(1) - centre) @ basis
    return torch.cat([torch.ones_like(components[:, :1]), components], dim=1)


def fit_convention(labels: Tensor, readings: Tensor, spread: Tensor, visible: Tensor, mirror: Tensor) -> Convention:
    """The correction that moves labels to where the readings of the same faces lie on average.

    A point weighs less the farther its reading is from the correction, and the wider the model's spread: iteratively
    reweighted least squares, whose limit is the least sum of distances. Hidden points are left out: the fit of a point
    rests on the faces in which it is seen. Every face counts with its mirror image.

    Args:
        labels, readings: (n, M, 2) pixels; spread: (n, M, 2) of the readings.
        visible: (n, M) 0 for hidden points; others count, unknown (NaN) ones among them.
        mirror: (M,) the layout's mirror permutation.

    Raises:
        DataError: fewer than ``LEAST_FACES`` faces.
    """
    if len(labels) < LEAST_FACES:
        raise DataError(f"{len(labels)} faces; a correction of their labels needs {LEAST_FACES} or more")

    def with_mirror_images(values: Tensor) -> Tensor:
        flipped = values[:, mirror]
        return torch.cat([values, flipped * flipped.new_tensor([-1.0, 1.0]) if values.ndim == 3 else flipped]).double()

    labels, readings = with_mirror_images(labels), with_mirror_images(readings)
    width, counts = with_mirror_images(spread.norm(dim=2)), with_mirror_images((visible != 0).float())
    mean = procrustes_mean(labels, mirror, torch)
    frames = shape_frames(labels, mean)
    size = (frames.square().sum(dim=(1, 2)) / 2).sqrt()[:, None]
    shapes = (in_frames(labels - labels.mean(dim=1, keepdim=True), frames) - mean).flatten(1)
    centre = shapes.mean(dim=0)
    _, singular, directions = torch.linalg.svd(shapes - centre, full_matrices=False)
    count = min(COMPONENTS, int((singular > 1e-6 * singular[0]).sum()))
    basis = directions[:count].T * (len(shapes) ** 0.5 / singular[:count])
    features = _features(labels, frames, mean, centre, basis)
    away = in_frames(readings - labels, frames)
    weight = features.new_zeros(features.shape[1], labels.shape[1], 2)
    free = torch.ones(features.shape[1], dtype=features.dtype)
    free[0] = 0.0
    for _ in range(ROUNDS):
        residual = (away - torch.einsum("nk,kmc->nmc", features, weight)).norm(dim=2) + 0.5 * width / size
        importance = counts / residual.clamp(min=LEAST_RESIDUAL)
        importance = importance / importance.mean(dim=0).clamp(min=1e-12)
        for point in range(labels.shape[1]):
            weighted = features * importance[:, point, None]
            system = features.T @ weighted + RIDGE * torch.diag(free)
            weight[:, point] = torch.linalg.solve(system, weighted.T @ away[:, point])
    return Convention(mean.float(), centre.float(), basis.float(), weight.flatten(1).float())


def aligned_sets(
    sets: Sequence[LabelledSet],
    recipe: Recipe,
    layout: Layout,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[LabelledSet]:
    """The sets of a recipe; labels of those with a ``convention`` are moved to it.

    Args:
        advance: called with the numbers of faces that are read and that will be.

    Raises:
        WeightsError: ``convention`` names no checkpoint, or one of another layout.
        DataError: a set of stored crops, one with too few faces, or one with faces that lack labels.
    """
    total = sum(
        min(MOST_FACES, len(entry.training) + len(entry.validation)) for entry in sets if entry.section.convention
    )
    flags, mirror = VisibilityRule("flags", layout.mirror), torch.from_numpy(layout.mirror.copy())
    done, results = 0, []
    for entry in sets:
        if entry.section.convention is None:
            results.append(entry)
            continue
        faces = [*entry.training, *entry.validation]
        if not all(np.isfinite(face.landmarks).all() for face in faces):
            raise DataError(f"data {entry.name!r}: faces that lack labels; convention needs all points of each face")
        if entry.is_shards:
            raise DataError(f"data {entry.name!r}: stored crops; convention needs the set itself, not its shards")
        path = checkpoint_path(entry.section.convention, f"data {entry.name!r}: convention")
        network, reader, _ = trained_network(path)
        if reader.layout != recipe.layout:
            raise WeightsError(
                f"{path}: has layout {reader.layout}, the recipe has {recipe.layout}; give another model"
            )
        drawn = [faces[index] for index in np.linspace(0, len(faces) - 1, min(MOST_FACES, len(faces))).astype(int)]
        size, parts = reader.stages[-1].size, list[tuple[Tensor, ...]]()
        for start in range(0, len(drawn), 256):
            part = drawn[start : start + 256]
            stored = FaceStore.load(part, size, reader.margin, flags=flags)
            parts.append((*read_faces(network, stored, size, reader.loss.beta), stored.visible))
            done += len(part)
            advance(done, total)
        labels, readings, spread, seen = (torch.cat(values) for values in zip(*parts, strict=True))
        try:
            correction = fit_convention(labels, readings, spread, seen, mirror)
        except DataError as error:
            raise DataError(f"data {entry.name!r}: {error}") from error
        moved = [_moved(part, correction) for part in (entry.training, entry.validation)]
        results.append(replace(entry, training=moved[0], validation=moved[1]))
    return results


def _moved(faces: Sequence[Sample], correction: Convention) -> list[Sample]:
    """The faces with moved labels."""
    if not faces:
        return []
    labels = correction(torch.from_numpy(np.stack([face.landmarks for face in faces]))).numpy()
    return [replace(face, landmarks=points) for face, points in zip(faces, labels, strict=True)]
