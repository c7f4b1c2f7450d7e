"""From a labelled photograph to a labelled caricature: the face's own shape exaggerated, the picture drawn in a style.

There are few labelled caricatures, so octamark makes them from photographs (augmentation towards unlikely faces: WO
2022/264089). The face's difference from the mean shape grows, its parts grow, shrink and move, and smooth waves bend
all of it; a thin-plate spline moves the picture with the points, so that the labels stay exact
(octamark.synthesis.warp). Then the picture is drawn in a style (octamark.synthesis.styles).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from octamark.geometry import fit_similarity, procrustes_align, procrustes_mean
from octamark.layouts import Layout
from octamark.layouts.definition import part_kind
from octamark.nets.sampling import move_points
from octamark.synthesis.styles import generators, stylise
from octamark.synthesis.warp import Spline, unfolded, warped

STRENGTHS = {"weak": (0.4, 0.5), "medium": (0.8, 0.8), "strong": (1.3, 1.0)}
"""Named strengths of stylised faces: the strength of the exaggeration, and how much of the style is blended in."""

_APART = 0.012  # share of the face's size; of two points that are nearer than this, only the first steers the warp


@dataclass(frozen=True)
class Exaggeration:
    """How much a shape changes at strength 1; all but ``difference`` are standard deviations.

    Attributes:
        difference: largest factor, beyond 1, by which the difference from the mean shape grows.
        size: logarithm of the size of each part.
        stretch: logarithm of the width of each part against its height.
        shift: movement of each part, in units of the face's size.
        taper: logarithm of the width of the chin against the forehead.
        bend: height of the smooth waves, in units of the face's size.
    """

    difference: float = 1.0
    size: float = 0.22
    stretch: float = 0.15
    shift: float = 0.035
    taper: float = 0.3
    bend: float = 0.03


class Caricaturist:
    """Exaggerates faces of one layout.

    Args:
        layout: of the landmarks.
        mean: (M, 2) mean shape of the training faces in any unit; the layout's diagram by default.
        settings: how much shapes change.
    """

    def __init__(self, layout: Layout, mean: np.ndarray | None = None, settings: Exaggeration | None = None) -> None:
        shape = np.asarray(layout.diagram if mean is None else mean, np.float64)
        shape = shape - shape.mean(axis=0)
        self.mean = torch.from_numpy(shape / np.ptp(shape, axis=0).max())  # the longer side of the face is 1
        self.settings = settings or Exaggeration()
        self.parts = [(part_kind(name), _side(name), list(points)) for name, points in layout.parts.items()]
        self.kinds = sorted({kind for kind, _, _ in self.parts})

    def shapes(self, landmarks: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
        """Exaggerated landmarks (n, M, 2) in pixels. A warp to them may fold; ``__call__`` looks for that.

        Args:
            landmarks: (n, M, 2) of faces, pixels.
            strength: (n,), see ``__call__``.
        """
        settings, count = self.settings, len(landmarks)
        mean = self.mean.to(landmarks)
        frames = fit_similarity(mean, landmarks, torch)  # n, 2, 3: from the mean shape's frame to the pixels
        face_generators = generators(count, generator)

        def uniform(numbers: int) -> Tensor:  # n, numbers
            return torch.stack([torch.rand(numbers, generator=own_generator) for own_generator in face_generators]).to(
                landmarks
            )

        def free(numbers: int) -> Tensor:
            drawn = torch.stack([torch.randn(numbers, generator=own_generator) for own_generator in face_generators])
            return drawn.clamp(-2, 2).to(landmarks)

        def normal(numbers: int) -> Tensor:
            return free(numbers) * strength[:, None]

        grown = 1 + (strength[:, None] * settings.difference * uniform(1))[:, :, None]
        face = mean + grown * (procrustes_align(landmarks, mean, torch) - mean)
        for kind in self.kinds:
            size, stretch = normal(1) * settings.size, normal(1) * settings.stretch
            shift = normal(2) * settings.shift
            for own_kind, side, points in self.parts:
                if own_kind != kind:
                    continue
                factor = torch.exp(torch.cat([size + stretch, size - stretch], 1) + 0.25 * settings.size * normal(2))
                middle = face[:, points].mean(dim=1, keepdim=True)
                moved = shift * shift.new_tensor([side or 0.4, 1.0])
                face[:, points] = middle + factor[:, None] * (face[:, points] - middle) + moved[:, None]
                if kind == "eye":  # the brow above moves with its eye
                    brows = [
                        brow for brow_kind, brow_side, brow in self.parts if (brow_kind, brow_side) == ("brow", side)
                    ]
                    for brow in brows:
                        above = (factor[:, None, 1:] - 1) * (face[:, brow].mean(1, keepdim=True) - middle)
                        face[:, brow] = face[:, brow] + moved[:, None] + above * above.new_tensor([0.3, 1])
        taper, wide = normal(1) * settings.taper, torch.exp(normal(1) * settings.stretch)
        face = torch.stack([face[..., 0] * wide * torch.exp(taper * face[..., 1]), face[..., 1] / wide.sqrt()], dim=-1)
        for _ in range(3):
            height = torch.sin((face * 4 * free(2)[:, None]).sum(-1) + 6.3 * uniform(1))  # n, M
            face = face + settings.bend * normal(2)[:, None] * height[..., None]
        targets: Tensor = face @ frames[..., :2].transpose(1, 2) + frames[:, None, :, 2]
        return targets

    def __call__(
        self, landmarks: Tensor, side: int, strength: Tensor, generator: torch.Generator
    ) -> tuple[Spline, Tensor, Tensor]:
        """Warps towards exaggerated shapes, none of which folds.

        Args:
            landmarks: (n, M, 2) of square pictures, pixels, none missing.
            side: of the pictures, pixels.
            strength: (n,) 0 leaves a face as it is, 1 is a caricature.

        Returns:
            The warp, the landmarks of the warped pictures (n, M, 2), and the share (n,) of the movement that was made
            without a fold.
        """
        extent = (landmarks.amax(dim=1) - landmarks.amin(dim=1)).amax(dim=1)
        targets = self.shapes(landmarks.double(), strength.to(landmarks).double(), generator)
        border = 0.02 * side
        targets = targets.clamp(border, side - 1 - border)
        return unfolded(landmarks.double(), targets, side, _APART * extent)


class Drawn(NamedTuple):
    """Exaggerated faces.

    Attributes:
        pictures: (n, 3, size, size) float in 0..1.
        landmarks: (n, M, 2) pixels of the stored crops after the warp.
        matrices: (n, 2, 3) from pixels of the pictures to pixels of the stored crops; the crop follows the new shape's
            box.
    """

    pictures: Tensor
    landmarks: Tensor
    matrices: Tensor


class CaricatureSettings(Protocol):
    """The section ``caricature`` of a recipe (octamark.training.recipe.Caricature).

    Attributes:
        share: of the faces of a batch that become caricatures; strength: the largest; style: share of them that is
            drawn in a style.
    """

    @property
    def share(self) -> float: ...
    @property
    def strength(self) -> float: ...
    @property
    def style(self) -> float: ...


class Caricatures:
    """Turns faces of a batch into caricatures of random strengths and styles.

    Args:
        settings: the recipe's section ``caricature``.
        caricaturist: of the recipe's layout.
    """

    def __init__(self, settings: CaricatureSettings, caricaturist: Caricaturist) -> None:
        self.settings, self.caricaturist = settings, caricaturist

    @classmethod
    def of(cls, settings: CaricatureSettings | None, layout: Layout, landmarks: Tensor) -> Caricatures | None:
        """The caricatures of a recipe's section, about the mean shape of the training faces; None without a section.

        Args:
            landmarks: (n, M, 2) of the training faces. Faces with missing points (NaN) are left out; if all are, the
                layout's diagram takes the place of the mean shape.
        """
        if settings is None:
            return None
        complete = landmarks[torch.isfinite(landmarks).all(dim=2).all(dim=1)].double()
        mean = procrustes_mean(complete, xp=torch).cpu().numpy() if len(complete) else None
        return cls(settings, Caricaturist(layout, mean))

    def __call__(
        self, stored: Tensor, landmarks: Tensor, matrices: Tensor, size: int, generator: torch.Generator
    ) -> Drawn:
        """Caricatures of stored crops.

        Args:
            stored: (n, 3, s, s) uint8; landmarks: (n, M, 2) in their pixels.
            matrices: (n, 2, 3) from pixels of a crop of ``size`` to pixels of the stored one, as for photographs.
            size: side of the pictures to make, pixels.
        """
        count, settings = len(stored), self.settings
        strength = settings.strength * (0.2 + 0.8 * torch.rand(count, generator=generator))
        drawn = draw(stored, landmarks, matrices, size, self.caricaturist, strength, generator)
        styled = torch.nonzero(torch.rand(count, generator=generator) < settings.style)[:, 0].to(stored.device)
        if len(styled):
            drawn.pictures[styled] = stylise(drawn.pictures[styled], generator)
        return drawn


def draw(
    stored: Tensor,
    landmarks: Tensor,
    matrices: Tensor,
    size: int,
    caricaturist: Caricaturist,
    strength: Tensor,
    generator: torch.Generator,
) -> Drawn:
    """Exaggerated faces, not drawn in a style.

    Args:
        stored: (n, 3, s, s) uint8; landmarks: (n, M, 2) in their pixels.
        matrices: (n, 2, 3) from pixels of a crop of ``size`` to pixels of the stored one.
        size: side of the pictures to make, pixels.
        strength: (n,) see ``Caricaturist.__call__``.
    """
    warp, moved, _ = caricaturist(landmarks, stored.shape[-1], strength, generator)
    moved = moved.to(landmarks)
    matrices = _following(matrices, landmarks, moved)
    return Drawn(warped(stored.float() / 255, warp, matrices, size), moved, matrices)


def stylised(
    stored: Tensor, landmarks: Tensor, caricaturist: Caricaturist, strength: str, seed: int = 0, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Stored crops as caricatures of a strength in ``STRENGTHS``; each depends on its number and the seed alone.

    Args:
        stored: (n, 3, s, s) uint8; landmarks: (n, M, 2) in their pixels.
        first: number of the first crop.

    Returns:
        Pictures of the same shape and type, and their landmarks (n, M, 2).
    """
    exaggeration, blend = STRENGTHS[strength]
    side, identity, force = stored.shape[-1], torch.eye(2, 3)[None], torch.tensor([exaggeration])
    pictures, points, unmirrored = [], [], torch.zeros(1, dtype=torch.bool)
    for index in range(len(stored)):
        part = slice(index, index + 1)
        generator = torch.Generator().manual_seed(seed * 100_003 + first + index)
        drawn = draw(stored[part], landmarks[part], identity, side, caricaturist, force, generator)
        styled = stylise(drawn.pictures, generator, blend)
        pictures.append((styled * 255).round().to(torch.uint8))
        points.append(move_points(drawn.landmarks, drawn.matrices, unmirrored, torch.arange(landmarks.shape[1])))
    return torch.cat(pictures), torch.cat(points)


def _following(matrices: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Crops (n, 2, 3) of faces, moved and scaled as the boxes around their landmarks were."""
    boxes = [(points.amin(dim=1), points.amax(dim=1)) for points in (before, after)]
    sides = [(high - low).amax(dim=1) for low, high in boxes]
    middles = [(low + high) / 2 for low, high in boxes]
    factor = (sides[1] / sides[0])[:, None]
    offset = middles[1] + factor * (matrices[:, :, 2] - middles[0])
    return torch.cat([matrices[:, :, :2] * factor[:, :, None], offset[:, :, None]], dim=2)


def _side(part: str) -> float:
    """-1 for the person's right, which lies left in the picture, 1 for the left, 0 for neither."""
    return -1.0 if part.startswith("right_") else 1.0 if part.startswith("left_") else 0.0
