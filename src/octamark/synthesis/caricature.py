"""From a labelled photograph to a labelled caricature: the face's own shape exaggerated, the picture drawn anew.

Labelled caricatures in quantity are not to be had, so octamark learns them from photographs (for faces as they should
not be: WO 2022/264089). A face's difference from the mean shape grows, its parts grow, shrink and move, smooth bends
run over all of it; a thin-plate spline carries the picture along, so that the labels stay exact
(octamark.synthesis.warp); then it is drawn in some style (octamark.synthesis.styles).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from octamark.layouts import Layout
from octamark.nets.sampling import move_points
from octamark.synthesis.styles import generators, stylise
from octamark.synthesis.warp import Spline, unfolded, warped

STRENGTHS = {"weak": (0.4, 0.5), "medium": (0.8, 0.8), "strong": (1.3, 1.0)}
"""Of stylised faces: how far shapes are exaggerated, and how much of a style is taken."""

_APART = 0.012  # of the face's size: nearer points do not both steer the warp


@dataclass(frozen=True)
class Exaggeration:
    """How far shapes go at strength 1; standard deviations but for ``own``.

    Attributes:
        own: largest factor by which the difference from the mean shape grows, beyond 1.
        size: logarithm of each part's size; ``stretch``: of its width against its height.
        shift: of each part, in units of the face.
        taper: width of the chin against the forehead; ``bend``: of smooth waves, in units of the face.
    """

    own: float = 1.0
    size: float = 0.22
    stretch: float = 0.15
    shift: float = 0.035
    taper: float = 0.3
    bend: float = 0.03


class Caricaturist:
    """Exaggerates faces of one layout.

    Args:
        layout: of the landmarks.
        mean: (M, 2) the mean shape of the training faces, any unit; the layout's diagram by default.
        settings: how far it goes.
    """

    def __init__(self, layout: Layout, mean: np.ndarray | None = None, settings: Exaggeration | None = None) -> None:
        shape = np.asarray(layout.diagram if mean is None else mean, np.float64)
        shape = shape - shape.mean(axis=0)
        self.mean = torch.from_numpy(shape / np.ptp(shape, axis=0).max())  # the face is one unit large
        self.settings = settings or Exaggeration()
        self.parts = [(_kind(name), _side(name), list(points)) for name, points in layout.parts.items()]
        self.kinds = sorted({kind for kind, _, _ in self.parts})

    def shapes(self, landmarks: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
        """Exaggerated landmarks (n, M, 2) of faces in pixels: where the points should go, folds not yet regarded.

        Args:
            strength: (n,), see :meth:`__call__`.
        """
        one, count = self.settings, len(landmarks)
        mean = self.mean.to(landmarks)
        centre = landmarks.mean(dim=1, keepdim=True)
        linear = _similarity(landmarks - centre, mean)
        upright = _laid_upon(landmarks - centre, linear)
        own_generators = generators(count, generator)

        def uniform(many: int) -> Tensor:  # n, many
            return torch.stack([torch.rand(many, generator=own) for own in own_generators]).to(landmarks)

        def free(many: int) -> Tensor:
            return torch.stack([torch.randn(many, generator=own) for own in own_generators]).clamp(-2, 2).to(landmarks)

        def normal(many: int) -> Tensor:
            return free(many) * strength[:, None]

        grown = 1 + (strength[:, None] * one.own * uniform(1))[:, :, None]
        face = mean + grown * (upright - mean)
        for kind in self.kinds:
            size, stretch = normal(1) * one.size, normal(1) * one.stretch
            shift = normal(2) * one.shift
            for own, side, points in self.parts:
                if own != kind:
                    continue
                more = torch.exp(torch.cat([size + stretch, size - stretch], 1) + 0.25 * one.size * normal(2))
                middle = face[:, points].mean(dim=1, keepdim=True)
                moved = shift * shift.new_tensor([side or 0.4, 1.0])
                face[:, points] = middle + more[:, None] * (face[:, points] - middle) + moved[:, None]
                if kind == "eye":  # brows go with their eyes
                    brow = [p for other, where, p in self.parts if (other, where) == ("brow", side)]
                    for points_above in brow:
                        above = (more[:, None, 1:] - 1) * (face[:, points_above].mean(1, keepdim=True) - middle)
                        face[:, points_above] = (
                            face[:, points_above] + moved[:, None] + above * above.new_tensor([0.3, 1])
                        )
        taper, wide = normal(1) * one.taper, torch.exp(normal(1) * one.stretch)
        face = torch.stack([face[..., 0] * wide * torch.exp(taper * face[..., 1]), face[..., 1] / wide.sqrt()], dim=-1)
        for _ in range(3):
            height = torch.sin((face * 4 * free(2)[:, None]).sum(-1) + 6.3 * uniform(1))  # n, M
            face = face + one.bend * normal(2)[:, None] * height[..., None]
        return (face @ linear.transpose(1, 2)) + centre

    def __call__(
        self, landmarks: Tensor, side: int, strength: Tensor, generator: torch.Generator
    ) -> tuple[Spline, Tensor, Tensor]:
        """Warps towards exaggerated shapes that do not fold.

        Args:
            landmarks: (n, M, 2) of square pictures of that side, pixels.
            side: of the pictures.
            strength: (n,) 0 leaves a face as it is, 1 is a caricature.

        Returns:
            The warp, the landmarks of the warped pictures (n, M, 2), and the share (n,) of the movement that could be
            made without a fold.
        """
        extent = (landmarks.amax(dim=1) - landmarks.amin(dim=1)).amax(dim=1)
        wanted = self.shapes(landmarks.double(), strength.to(landmarks).double(), generator)
        room = 0.02 * side
        wanted = wanted.clamp(room, side - 1 - room)
        return unfolded(landmarks.double(), wanted, side, _APART * extent)


class Drawn(NamedTuple):
    """Faces after they were exaggerated.

    Attributes:
        pictures: (n, 3, size, size) in 0..1.
        landmarks: (n, M, 2) in the frame of the stored crops.
        matrices: (n, 2, 3) from pixels of the pictures to that frame: the crop follows the new shape's box.
    """

    pictures: Tensor
    landmarks: Tensor
    matrices: Tensor


class CaricatureSettings(Protocol):
    """What a recipe's section ``caricature`` says (octamark.training.recipe.Caricature)."""

    @property
    def share(self) -> float: ...
    @property
    def strength(self) -> float: ...
    @property
    def style(self) -> float: ...


class Caricatures:
    """What a recipe's section ``caricature`` does to a share of the faces.

    Args:
        settings: the section.
        caricaturist: of the recipe's layout.
    """

    def __init__(self, settings: CaricatureSettings, caricaturist: Caricaturist) -> None:
        self.settings, self.caricaturist = settings, caricaturist

    @classmethod
    def of(cls, settings: CaricatureSettings | None, layout: Layout, landmarks: Tensor) -> Caricatures | None:
        """Of a recipe's section, if it has one, about the mean shape of the training faces (n, M, 2)."""
        return None if settings is None else cls(settings, Caricaturist(layout, mean_shape(landmarks)))

    def __call__(
        self, stored: Tensor, landmarks: Tensor, matrices: Tensor, size: int, generator: torch.Generator
    ) -> Drawn:
        """Caricatures of stored crops.

        Args:
            stored: (n, 3, s, s) uint8; landmarks: (n, M, 2) in their pixels.
            matrices: (n, 2, 3) from pixels of a crop of ``size`` to pixels of the stored one, as photographs are cut.
        """
        count, one = len(stored), self.settings
        strength = one.strength * (0.2 + 0.8 * torch.rand(count, generator=generator))
        drawn = draw(stored, landmarks, matrices, size, self.caricaturist, strength, generator)
        styled = torch.nonzero(torch.rand(count, generator=generator) < one.style)[:, 0].to(stored.device)
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
    """Exaggerated faces, not yet in a style; see :class:`Caricatures` for the arguments, strength (n,)."""
    warp, moved, _ = caricaturist(landmarks, stored.shape[-1], strength, generator)
    moved = moved.to(landmarks)
    matrices = _following(matrices, landmarks, moved)
    return Drawn(warped(stored.float() / 255, warp, matrices, size), moved, matrices)


def stylised(
    stored: Tensor, landmarks: Tensor, caricaturist: Caricaturist, strength: str, seed: int = 0, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Stored crops as caricatures of one of :data:`STRENGTHS`, each depending on its place and the seed alone.

    Args:
        stored: (n, 3, s, s) uint8; landmarks: (n, M, 2) in their pixels.
        first: place of the first of them.

    Returns:
        Pictures of the same shape and kind, and their landmarks (n, M, 2).
    """
    exaggeration, blend = STRENGTHS[strength]
    side, still, force = stored.shape[-1], torch.eye(2, 3)[None], torch.tensor([exaggeration])
    pictures, points, unmirrored = [], [], torch.zeros(1, dtype=torch.bool)
    for index in range(len(stored)):
        part = slice(index, index + 1)
        generator = torch.Generator().manual_seed(seed * 100_003 + first + index)
        drawn = draw(stored[part], landmarks[part], still, side, caricaturist, force, generator)
        styled = stylise(drawn.pictures, generator, blend)
        pictures.append((styled * 255).round().to(torch.uint8))
        points.append(move_points(drawn.landmarks, drawn.matrices, unmirrored, torch.arange(landmarks.shape[1])))
    return torch.cat(pictures), torch.cat(points)


def _following(matrices: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Crops (n, 2, 3) of faces, moved and scaled as the boxes around their landmarks were."""
    boxes = [(one.amin(dim=1), one.amax(dim=1)) for one in (before, after)]
    sides = [(high - low).amax(dim=1) for low, high in boxes]
    middles = [(low + high) / 2 for low, high in boxes]
    factor = (sides[1] / sides[0])[:, None]
    offset = middles[1] + factor * (matrices[:, :, 2] - middles[0])
    return torch.cat([matrices[:, :, :2] * factor[:, :, None], offset[:, :, None]], dim=2)


def mean_shape(landmarks: Tensor, rounds: int = 3) -> np.ndarray:
    """The mean of shapes (n, M, 2) after each is laid on it by the best similarity: (M, 2), one unit large."""
    mean = landmarks[0].double()
    for _ in range(rounds):
        mean = mean - mean.mean(dim=0)
        mean = mean / (mean.amax(0) - mean.amin(0)).max()
        centred = landmarks.double() - landmarks.double().mean(dim=1, keepdim=True)
        mean = _laid_upon(centred, _similarity(centred, mean)).mean(dim=0)
    return np.asarray((mean - mean.mean(dim=0)).numpy())


def _similarity(centred: Tensor, mean: Tensor) -> Tensor:
    """(n, 2, 2) rotation and scale of the best similarity (least squares) from a shape (M, 2) to shapes (n, M, 2), all
    centred."""
    (x, y), (u, v), norm = centred.unbind(-1), mean.unbind(-1), (mean**2).sum()
    cos, sin = (u * x + v * y).sum(1) / norm, (u * y - v * x).sum(1) / norm
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)


def _laid_upon(centred: Tensor, linear: Tensor) -> Tensor:
    """Shapes (n, M, 2) before their similarities (n, 2, 2)."""
    laid: Tensor = torch.linalg.solve(linear, centred.transpose(1, 2)).transpose(1, 2)
    return laid


def _kind(part: str) -> str:
    """``left_eye`` -> ``eye``: what both sides share."""
    return re.sub(r"^((right|left|outer|inner|upper|lower)_)+", "", part)


def _side(part: str) -> float:
    """-1 for the person's right, which lies left in the picture, 1 for the left, 0 for neither."""
    return -1.0 if part.startswith("right_") else 1.0 if part.startswith("left_") else 0.0
