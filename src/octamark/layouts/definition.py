"""Layout: points, their names, and the parts, mirror pairs, normalisers and openings that they form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]

CONFIDENCE_SHARE = 0.05
"""``confidence`` is the probability of an error below this share of ``Layout.reference_distance``."""

POINT_CORRELATION = 0.5
"""Assumed correlation of the errors of points that are averaged; the spread of their mean follows from it.

Measured between the points of one eye on the 201 validation faces of 300W: 0.46 to 0.73 (nano and small, x and y).
"""

LID_CORRELATION = 0.45
"""Assumed correlation of the errors of facing points of the two lids, which are often found too high or low together.

Measured across the lids on the 201 validation faces of 300W: 0.38 to 0.48 (pico to small); in other sets it is between
0 (drawings) and 0.8 (rendered heads). Lips: 0.0 to 0.1 on these faces, taken as independent.
"""


def part_kind(part: str) -> str:
    """The name of a part without its side and position: ``left_eye`` -> ``eye``, ``outer_mouth`` -> ``mouth``."""
    return re.sub(r"^((right|left|outer|inner|upper|lower)_)+", "", part)


def box_root(landmarks: Floats) -> F64:
    """The root of the area of each landmark box: (..., M, 2) -> (...); points without labels (NaN) are skipped."""
    return np.asarray(np.sqrt(_box_sides(landmarks).prod(axis=-1)))


def _box_sides(landmarks: Floats) -> F64:
    points = np.asarray(landmarks, np.float64)
    return np.asarray(np.fmax.reduce(points, axis=-2) - np.fmin.reduce(points, axis=-2))


@dataclass(frozen=True)
class Opening:
    """The points by which the opening of an eye or a mouth is measured: those of its corners and of its edges.

    Attributes:
        corners: outer and inner corner of an eye; right and left corner of a mouth.
        pairs: (upper, lower) points of the lids or lips that face each other.
        correlation: of the errors of the points of a pair.
    """

    corners: tuple[int, int]
    pairs: tuple[tuple[int, int], ...]
    correlation: float = 0.0

    def ratio(self, landmarks: Floats) -> F64:
        """Mean distance of the facing points over the distance of the corners: (..., M, 2) -> (...).

        NaN where the corners lie on one place. Source: eye aspect ratio (T. Soukupova and J. Cech, Real-Time Eye Blink
        Detection using Facial Landmarks, 2016).
        """
        points = np.asarray(landmarks, np.float64)
        width = _distance(points, self.corners)
        gap = np.mean([_distance(points, pair) for pair in self.pairs], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(width > 0, gap / width, np.nan)

    def ratio_spread(self, landmarks: Floats, spread: Floats) -> F64:
        """Expected absolute error of ``ratio``: points and their spread (..., M, 2) -> (...).

        First-order propagation. The errors of a pair's points are taken as correlated by ``correlation``, the distances
        of several pairs by ``POINT_CORRELATION``, and those of the two corners as independent.
        """
        points, errors = np.asarray(landmarks, np.float64), np.asarray(spread, np.float64)
        width = _distance(points, self.corners)
        gaps = np.stack([_distance_spread(points, errors, pair, self.correlation) for pair in self.pairs])
        together, apart = gaps.mean(axis=0), np.sqrt((gaps**2).sum(axis=0)) / len(gaps)
        gap = np.sqrt(POINT_CORRELATION * together**2 + (1 - POINT_CORRELATION) * apart**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.ratio(points)
            return np.where(
                width > 0, np.hypot(gap, ratio * _distance_spread(points, errors, self.corners)) / width, np.nan
            )


def _distance(points: F64, pair: tuple[int, int]) -> F64:
    return np.asarray(np.linalg.norm(points[..., pair[0], :] - points[..., pair[1], :], axis=-1))


def _distance_spread(points: F64, spread: F64, pair: tuple[int, int], correlation: float = 0.0) -> F64:
    """Expected absolute error of a distance: the spread of both ends along the line that joins them."""
    apart = points[..., pair[0], :] - points[..., pair[1], :]
    length = np.linalg.norm(apart, axis=-1, keepdims=True)
    along = np.where(length > 0, apart / np.where(length > 0, length, 1), np.sqrt(0.5))
    first, second = spread[..., pair[0], :], spread[..., pair[1], :]
    variance = first**2 + second**2 - 2 * correlation * first * second
    return np.asarray(np.sqrt((along**2 * variance).sum(axis=-1)))


@dataclass(frozen=True)
class HeadPlace:
    """Where a point lies on the rendered head: the mean of some of its vertices, or a place on a drawn brow.

    Attributes:
        vertices: indices of vertices of the head model; one may be named several times to weigh more.
        brow: ``right`` or ``left``; None where ``vertices`` say the place.
        along: from the outer end of the brow (0) to its inner end (1).
        height: from its lower edge (0) to its upper edge (1).
    """

    vertices: tuple[int, ...] = ()
    brow: str | None = None
    along: float = 0.0
    height: float = 0.5


@dataclass(frozen=True, eq=False)
class Layout:
    """One convention of facial landmarks.

    Attributes:
        name: short name, such as ``ibug68``.
        title: one line of description.
        count: M, the number of landmarks.
        parts: part name -> indices, each point in exactly one part; sides are the person's own.
        edges: (E, 2) pairs of indices to draw as lines.
        mirror: (M,) index of each point's partner in a mirrored picture; points on the midline are their own.
        normalisers: name -> (group, group): the distance between the mean points of two groups of indices.
        outline: indices of the global landmarks (face outline); all others are local.
        eyes: ``right`` and ``left`` -> the eye's corners and lids; empty where the layout has no lids.
        regions: region name -> indices; crops of the regional networks, may overlap.
        diagram: (M, 2) a schematic face in the unit square: the reference for the rotation of faces and the numbered
            diagram. A plain grid where ``has_diagram`` is false.
        has_diagram: whether ``diagram`` is a face.
        mouth: the mouth's corners and inner lips; None where the layout has no inner lips.
        point_names: (M,) a name for each point; by default its part, numbered where a part has several points.
        groups: parts of both sides and positions together: outline, brows, eyes, nose, mouth, ... -> indices.
        places: (M,) where each point lies on the rendered head; empty where the layout's file does not say.
        spaced: chains of points of the outline that lie equally far apart along it in a picture.
    """

    name: str
    title: str
    count: int
    parts: Mapping[str, tuple[int, ...]]
    edges: NDArray[np.int64]
    mirror: NDArray[np.int64]
    normalisers: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    outline: tuple[int, ...]
    eyes: Mapping[str, Opening]
    regions: Mapping[str, tuple[int, ...]]
    diagram: NDArray[np.float32]
    has_diagram: bool = True
    mouth: Opening | None = None
    point_names: tuple[str, ...] = ()
    places: tuple[HeadPlace, ...] = ()
    spaced: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for array in (self.edges, self.mirror, self.diagram):
            array.setflags(write=False)
        if not self.point_names:
            names = [""] * self.count
            for part, indices in self.parts.items():
                for order, index in enumerate(indices):
                    names[index] = part if len(indices) == 1 else f"{part}_{order}"
            object.__setattr__(self, "point_names", tuple(names))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its name, or by its table; a layout of this package stays the same object in every process."""
        from octamark.layouts import BUILTIN, layout, parse
        from octamark.layouts.table import to_table

        if self.name in BUILTIN and layout(self.name) is self:
            return layout, (self.name,)
        return parse, (to_table(self), self.name)

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.count} landmarks)"

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Parts of both sides and positions together: ``eyes`` is right_eye and left_eye, ``mouth`` outer and inner."""
        groups: dict[str, tuple[int, ...]] = {}
        for part, indices in self.parts.items():
            group = part_kind(part)
            group += "s" if re.search(r"(^|_)(right|left)_", part) else ""
            groups[group] = groups.get(group, ()) + indices
        return groups

    def part(self, name: str) -> tuple[int, ...]:
        """Indices of one part, or of a group of parts such as ``"eyes"`` or ``"mouth"``.

        Raises:
            LayoutError: no part or group of that name; the message lists them.
        """
        if name in self.parts:
            return self.parts[name]
        groups = self.groups
        if name in groups:
            return groups[name]
        more = [group for group in groups if group not in self.parts]
        also = f"; groups: {listed(more)}" if more else ""
        raise LayoutError(f"layout {self.name} has no part {name!r}; parts: {listed(self.parts)}{also}")

    def with_diagram(self, diagram: Floats) -> Layout:
        """The same layout with another reference face (M, 2), scaled into the unit square with a border of 5 %.

        For a layout whose file has no diagram: the mean shape of labelled faces.

        Raises:
            LayoutError: another number of points, or points that are not finite or all on one place.
        """
        points = np.asarray(diagram, np.float64)
        if points.shape != (self.count, 2) or not np.isfinite(points).all() or not np.ptp(points, axis=0).max() > 0:
            raise LayoutError(f"layout {self.name}: a diagram is ({self.count}, 2) finite points, not all on one place")
        middle, side = (points.max(axis=0) + points.min(axis=0)) / 2, np.ptp(points, axis=0).max()
        placed = ((points - middle) * 0.9 / side + 0.5).astype(np.float32)
        return replace(self, diagram=placed, has_diagram=True)

    def distance(self, landmarks: Floats, normaliser: str) -> F64:
        """The normalising distance of each face in pixels.

        Args:
            landmarks: (..., M, 2) points.
            normaliser: a name of ``normalisers``, or ``"box"``, the root of the landmark box's area, or
                ``"diagonal"``, its diagonal.

        Returns:
            (...) distances.

        Raises:
            LayoutError: unknown normaliser; the message lists the names.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        if normaliser == "box":
            return box_root(points)
        if normaliser == "diagonal":
            return np.asarray(np.linalg.norm(_box_sides(points), axis=-1))
        if normaliser not in self.normalisers:
            allowed = listed([*self.normalisers, "box", "diagonal"])
            raise LayoutError(f"layout {self.name} has no normaliser {normaliser!r}; allowed: {allowed}")
        first, second = self.normalisers[normaliser]
        apart = points[..., list(first), :].mean(axis=-2) - points[..., list(second), :].mean(axis=-2)
        return np.asarray(np.linalg.norm(apart, axis=-1))

    def reference_distance(self, landmarks: Floats) -> F64:
        """The distance that ``confidence`` refers to: (..., M, 2) -> (...) pixels.

        The inter-ocular distance of each face, or half the root of the landmark box's area for a layout without that
        normaliser.
        """
        if "inter-ocular" in self.normalisers:
            return self.distance(landmarks, "inter-ocular")
        return 0.5 * self.distance(landmarks, "box")

    def eye_opening(self, landmarks: Floats) -> F64:
        """How far each eye is open: mean distance between facing lid points over the eye's width.

        Args:
            landmarks: (..., M, 2) points.

        Returns:
            (..., E), one column per eye of ``eyes`` (right, left); a layout without lids gives (..., 0).
        """
        shape = np.asarray(landmarks).shape[:-2]
        columns = [eye.ratio(landmarks) for eye in self.eyes.values()]
        return np.stack(columns, axis=-1) if columns else np.zeros((*shape, 0))

    def eye_opening_spread(self, landmarks: Floats, spread: Floats) -> F64:
        """Expected absolute error of ``eye_opening``: points and their spread (..., M, 2) -> (..., E)."""
        shape = np.asarray(landmarks).shape[:-2]
        columns = [eye.ratio_spread(landmarks, spread) for eye in self.eyes.values()]
        return np.stack(columns, axis=-1) if columns else np.zeros((*shape, 0))

    def mouth_opening(self, landmarks: Floats) -> F64:
        """Mean distance between the inner lips over the mouth's width: (..., M, 2) -> (...); NaN without inner lips."""
        shape = np.asarray(landmarks).shape[:-2]
        return np.full(shape, np.nan) if self.mouth is None else self.mouth.ratio(landmarks)

    def mouth_opening_spread(self, landmarks: Floats, spread: Floats) -> F64:
        """Expected absolute error of ``mouth_opening``: points and their spread (..., M, 2) -> (...)."""
        shape = np.asarray(landmarks).shape[:-2]
        return np.full(shape, np.nan) if self.mouth is None else self.mouth.ratio_spread(landmarks, spread)
