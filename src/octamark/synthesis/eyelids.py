"""Photographs whose eyes are opened or shut: lids are moved over the eyes, and their labels with them.

Labelled faces with shut eyes are rare. Here the skin between the brow and the upper lid is moved down over the eye, as
the lid does: near the brow and at the lashes it keeps its size, the fold between them is drawn out. What is left of the
eye stays as it is. The lower lid rises a little. Eyes that are opened wider are stretched instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from octamark.errors import ConfigError
from octamark.layouts import Layout
from octamark.layouts.definition import part_kind

LOWER_SHARE = 0.12
"""Share of the movement that the lower lid makes."""

WIDEST = 0.25
"""Largest share of the opening that is added to eyes that are opened wider."""

NARROWED = 0.6
"""Share of the chosen faces whose eyes are not shut that are narrowed; the others are opened wider."""

ONE_EYE = 0.15
"""Share of the chosen faces of which only one eye changes."""

_SOFT = 0.03  # over which the edge of the upper lid fades, in units of the eye's width, as all lengths below
_BROW = 0.11  # from the labels of a brow to its lower edge
_LEAST_SKIN, _MOST_SKIN = 0.12, 0.9  # above the upper lid, which moves
_SKIN_WITHOUT_BROW = 0.5
_RIM = 0.02  # of the lower lid, which is as bright as the eye
_CHEEK = 0.4  # below the lower lid, which moves
_LEAST_OPENING, _MOST_OPENING = 0.08, 1.0  # of eyes that are changed
_LEAST_WIDTH = 0.6  # of an eye, against the widest of the face: others are turned away


class EyeSettings(Protocol):
    """The section ``eyes`` of a recipe (octamark.training.recipe.Eyes).

    Attributes:
        share: of the faces of a batch whose eyes are changed; shut: share of them whose eyes are shut.
    """

    @property
    def share(self) -> float: ...
    @property
    def shut(self) -> float: ...


@dataclass(frozen=True)
class _Eye:
    """Indices of the points of an eye and of the brow above it."""

    corners: tuple[int, int]
    upper: list[int]
    lower: list[int]
    brow: list[int]

    @property
    def lids(self) -> list[int]:
        return [*self.upper, *self.lower]

    @property
    def points(self) -> list[int]:
        return [*self.corners, *self.lids]


class Eyelids:
    """Opens and shuts the eyes of faces.

    Args:
        settings: the recipe's section ``eyes``.
        layout: of the landmarks.

    Raises:
        ConfigError: a layout without lids.
    """

    def __init__(self, settings: EyeSettings, layout: Layout) -> None:
        self.settings = settings
        if not layout.eyes:
            raise ConfigError(f"eyes.share: layout {layout.name} has no eyes with lids; set it to 0")
        self.eyes = [
            _Eye(
                eye.corners,
                [upper for upper, _ in eye.pairs],
                [lower for _, lower in eye.pairs],
                [
                    index
                    for part, points in layout.parts.items()
                    if part_kind(part) == "brow" and part.startswith(f"{side}_")
                    for index in points
                ],
            )
            for side, eye in layout.eyes.items()
        ]

    @classmethod
    def of(cls, settings: EyeSettings, layout: Layout) -> Eyelids | None:
        """The eyelids of a recipe's section; None where its share is 0."""
        return cls(settings, layout) if settings.share else None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random closings (count, E) for ``__call__``: shut, narrowed and wider, of both eyes alike or of one."""
        shut, narrowed, amount, alone = torch.rand(4, count, generator=generator)
        closing = torch.where(narrowed < NARROWED, 0.2 + 0.75 * amount, -WIDEST * amount)
        closing = torch.where(shut < self.settings.shut, 1.0, closing)[:, None].repeat(1, len(self.eyes))
        winks = torch.nonzero(alone < ONE_EYE)[:, 0]
        still = torch.randint(len(self.eyes), (len(winks),), generator=generator)
        closing[winks, still] = 0.0
        return closing

    def __call__(
        self, pictures: Tensor, landmarks: Tensor, closing: Tensor, visible: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The faces with moved lids.

        Args:
            pictures: (n, 3, s, s) uint8.
            landmarks: (n, M, 2) in their pixels; NaN where a point has no label. Eyes without all labels, eyes that are
                shut and eyes that are turned away stay as they are.
            closing: (n, E) of each eye of the layout: 1 shuts it, 0 leaves it as it is, -0.2 opens it a fifth wider.
            visible: (n, M) 0 for hidden points; an eye with one stays as it is.

        Returns:
            Pictures and landmarks of the same shapes and types.
        """
        widths = torch.stack([_width(landmarks, eye) for eye in self.eyes], dim=1)  # n, E
        widest = widths.nan_to_num(0.0).amax(dim=1)
        pictures, moved = pictures.clone(), landmarks.clone()
        for number, eye in enumerate(self.eyes):
            gap = (landmarks[:, eye.lower] - landmarks[:, eye.upper]).norm(dim=2).mean(dim=1) / widths[:, number]
            usable = (gap > _LEAST_OPENING) & (gap < _MOST_OPENING) & (widths[:, number] >= _LEAST_WIDTH * widest)
            usable &= closing[:, number].to(gap) != 0
            if visible is not None:
                usable &= ~(visible[:, eye.points] == 0).any(dim=1)
            chosen = torch.nonzero(usable)[:, 0]
            if len(chosen):
                amount = closing[chosen, number].to(landmarks)
                lids = _Lids(landmarks[chosen], eye, amount)
                moved[chosen[:, None], torch.tensor(eye.lids, device=chosen.device)] = lids.labels()
                lids.paint(pictures, chosen)
        return pictures, moved


def _width(landmarks: Tensor, eye: _Eye) -> Tensor:
    """Distances (n,) of the corners of an eye."""
    first, second = eye.corners
    width: Tensor = torch.linalg.vector_norm(landmarks[:, second] - landmarks[:, first], dim=1)
    return width


class _Lids:
    """The lids of one eye of n faces before and after they move, in the eye's own frame.

    Its origin is the middle between the corners, its unit the eye's width; x runs from corner to corner, y downwards.
    """

    def __init__(self, landmarks: Tensor, eye: _Eye, closing: Tensor) -> None:
        self.closing = closing  # n
        first, second = landmarks[:, eye.corners[0]], landmarks[:, eye.corners[1]]
        self.origin, axis = (first + second) / 2, second - first
        self.width = axis.norm(dim=1)
        across = axis / self.width[:, None]
        down = torch.stack([-across[:, 1], across[:, 0]], dim=1)
        towards = ((landmarks[:, eye.lower] - landmarks[:, eye.upper]).mean(dim=1) * down).sum(dim=1)
        down = torch.where(towards[:, None] < 0, -down, down)
        self.axes = torch.stack([across, down], dim=1)  # n, 2, 2: rows are the axes
        self.upper, self.lower = self.local(landmarks[:, eye.upper]), self.local(landmarks[:, eye.lower])
        self.upper_curve, self.lower_curve = (_lid_fit(points) for points in (self.upper, self.lower))
        brow = self.local(landmarks[:, eye.brow])
        known = torch.isfinite(brow).all(dim=2).all(dim=1) if len(eye.brow) >= 3 else torch.zeros_like(closing).bool()
        self.brow_known = known
        self.brow_curve = _fit(_powers(brow[..., 0].nan_to_num(0.0)), brow[..., 1].nan_to_num(0.0))

    def local(self, points: Tensor) -> Tensor:
        """Points (n, k, 2) of the pictures in the eye's frame."""
        local: Tensor = (points - self.origin[:, None]) @ self.axes.transpose(1, 2) / self.width[:, None, None]
        return local

    def places(self, local: Tensor) -> Tensor:
        """Points (n, k, 2) of the eye's frame in pixels of the pictures."""
        places: Tensor = local @ self.axes * self.width[:, None, None] + self.origin[:, None]
        return places

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Heights (n, k) of the upper and the lower lid at x (n, k), before they move."""
        upper, lower = _lid(x, self.upper_curve), _lid(x, self.lower_curve)
        return upper, torch.maximum(lower, upper)

    def movement(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far the upper lid moves down, and the lower lid up, at x: two (n, k)."""
        upper, lower = self.edges(x)
        total = self.closing[:, None] * (lower - upper)
        return (1 - LOWER_SHARE) * total, LOWER_SHARE * total

    def labels(self) -> Tensor:
        """The labels of the lids after they moved, pixels: (n, 2 k, 2), those of the upper lid first.

        Facing points come to lie above each other as the eye shuts, as labels of shut eyes do.
        """
        middle = (self.upper[..., 0] + self.lower[..., 0]) / 2
        shut = self.closing.clamp_min(0.0)[:, None]
        lids = []
        for points, side in ((self.upper, 0), (self.lower, 1)):
            x = points[..., 0] + shut * (middle - points[..., 0])
            before, after = self.edges(points[..., 0])[side], self.edges(x)[side]
            step = self.movement(x)[side] * (1 - 2 * side)
            lids.append(torch.stack([x, points[..., 1] + after - before + step], dim=-1))
        return self.places(torch.cat(lids, dim=1))

    def paint(self, pictures: Tensor, chosen: Tensor) -> None:
        """Move the lids in pictures (b, 3, s, s) uint8, in place; ``chosen`` (n,) are the faces' indices in them."""
        side = pictures.shape[-1]
        x = torch.linspace(-0.5, 0.5, 5, device=chosen.device).expand(len(chosen), 5)
        top, bottom = self.brow_edge(x).amin(dim=1), self.edges(x)[1].amax(dim=1) + _CHEEK
        corners = torch.stack([torch.stack([x[:, i], y], dim=1) for y in (top, bottom) for i in (0, -1)], dim=1)
        around = self.places(corners)  # n, 4, 2
        low = around.amin(dim=1).floor().clamp(0, side - 1)
        length = min(int((around.amax(dim=1).ceil() - low).amax().clamp(min=2)) + 1, side)
        low = torch.minimum(low, low.new_tensor(side - length)).long()  # n, 2
        steps = torch.arange(length, device=chosen.device)
        rows, columns = low[:, 1, None] + steps, low[:, 0, None] + steps  # n, length
        grid = torch.stack(
            [columns[:, None, :].expand(-1, length, -1), rows[:, :, None].expand(-1, -1, length)], dim=-1
        )
        sources, alpha = self.sources(grid.flatten(1, 2).to(self.origin))
        index = chosen[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]
        patches = pictures[index].movedim(-1, 1).float()  # n, 3, length, length
        under, lid = (
            F.grid_sample(
                patches,
                ((source - low[:, None]) * 2 + 1).view(-1, length, length, 2) / length - 1,
                mode="bilinear", padding_mode="border", align_corners=False,
            )
            for source in sources
        )  # fmt: skip
        weight = alpha.view(-1, 1, length, length)
        pictures[index] = (under + weight * (lid - under)).round().to(torch.uint8).movedim(1, -1)

    def brow_edge(self, x: Tensor) -> Tensor:
        """Height (n, k) at x above which nothing moves: the lower edge of the brow, or a usual one."""
        upper, _ = self.edges(x)
        brow = (_powers(x) * self.brow_curve[:, None]).sum(dim=-1) + _BROW
        brow = torch.where(self.brow_known[:, None], brow, upper - _SKIN_WITHOUT_BROW)
        return torch.minimum(torch.maximum(brow, upper - _MOST_SKIN), upper - _LEAST_SKIN)

    def sources(self, places: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Where the colours of places (n, k, 2) come from, pixels: below the upper lid, and on it; and how much lid."""
        local = self.local(places)
        x, y = local.unbind(dim=-1)
        inside = x.abs() < 0.5
        upper, lower = self.edges(x)
        falls, rises = self.movement(x)
        new_upper, new_lower = upper + falls, lower - rises
        brow = self.brow_edge(x)
        height, old_height = new_upper - brow, upper - brow
        kept = old_height / height  # mean size of what is left of the skin's old height
        t = ((new_upper - y) / height).clamp(0.0, 1.0)  # 0 at the lid, 1 at the brow
        fold = (2 * (0.9 / (1 - kept).clamp_min(1e-3) - 1)).clamp(0.0, 1.0)
        smooth = t * t * (3 - 2 * t)
        drawn_out = fold * smooth + (1 - fold) * t
        above = (t - (1 - kept) * drawn_out).clamp_min(0.0) * height
        lid = torch.where(y < brow, y, upper - above)
        cheek = lower + _CHEEK
        below = lower + ((y - new_lower) * _CHEEK / (cheek - new_lower)).clamp_min(_RIM)
        stretched = upper + (y - new_upper) * (lower - upper) / (new_lower - new_upper).clamp_min(1e-3)
        eye = torch.where(self.closing[:, None] < 0, stretched, y)
        under = torch.where(y > new_lower, torch.where(y < cheek, below, y), eye)
        alpha = torch.where(inside, ((new_upper - y) / _SOFT + 1).clamp(0.0, 1.0), 0.0)
        under = torch.where(inside, under, y)
        return (self.places(torch.stack([x, under], dim=-1)), self.places(torch.stack([x, lid], dim=-1))), alpha


def _lid_shape(x: Tensor) -> Tensor:
    """The shape of a lid between the corners: 0 at them, 1 in the middle, steeper at its ends than a parabola."""
    return (1 - 4 * x**2).clamp_min(0.0) ** 0.75


def _lid(x: Tensor, curve: Tensor) -> Tensor:
    """Heights (n, k) at x (n, k) of lids with curves (n, 2)."""
    return _lid_shape(x) * (curve[:, None, 0] + curve[:, None, 1] * x)


def _lid_fit(points: Tensor) -> Tensor:
    """The curves (n, 2) of lids through points (n, k, 2)."""
    x, y = points.unbind(dim=-1)
    shape = _lid_shape(x)
    return _fit(torch.stack([shape, shape * x], dim=-1), y)


def _powers(x: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(x), x, x**2], dim=-1)


def _fit(terms: Tensor, values: Tensor) -> Tensor:
    """Least squares: weights (n, m) of terms (n, k, m) for values (n, k), with a little weight on small weights."""
    normal = terms.transpose(1, 2) @ terms + 1e-4 * torch.eye(terms.shape[-1], device=terms.device)
    weights: Tensor = torch.linalg.solve(normal, (terms.transpose(1, 2) @ values[..., None])[..., 0])
    return weights
