"""Conversions: the points of one layout as points of another; the table is conversions.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed
from octamark.layouts.definition import POINT_CORRELATION, Floats, Layout
from octamark.layouts.table import expand


@dataclass(frozen=True, eq=False)
class Conversion:
    """How the N points of one layout are made from the M points of another.

    Attributes:
        weights: (N, M): each point is this weighted mean; a row of zeros is a point without counterpart.
        exact: (N,) whether a point is the same place on the face in both layouts.
    """

    weights: NDArray[np.float64]
    exact: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether a point has a counterpart."""
        return np.asarray(self.weights.any(axis=1))

    def points(self, values: Floats) -> Floats:
        """Weighted means of points, or of other values per point: (..., M, d) -> (..., N, d).

        NaN for points without counterpart and for means in which a value is NaN.
        """
        array = _floats(values)
        finite = np.isfinite(array)
        means = self.weights @ np.where(finite, array, 0).astype(np.float64)
        missing = (self.weights > 0).astype(np.float64) @ (~finite).astype(np.float64) > 0
        return np.asarray(np.where(missing | ~self.known[:, None], np.nan, means), array.dtype)

    def spread(self, spread: Floats) -> Floats:
        """Expected errors of the converted points: (..., M, 2) -> (..., N, 2), NaN as in ``points``.

        A mean is more certain than its points, as far as their errors are independent of each other: they are taken
        to be correlated by ``octamark.layouts.definition.POINT_CORRELATION``.
        """
        array = _floats(spread)
        together = np.asarray(self.points(array), np.float64)
        apart = self.weights**2 @ np.where(np.isfinite(array), array, 0).astype(np.float64) ** 2
        variance = POINT_CORRELATION * together**2 + (1 - POINT_CORRELATION) * apart
        single = (self.weights > 0).sum(axis=1)[:, None] == 1
        return np.asarray(np.where(single, together, np.sqrt(variance)), array.dtype)

    def then(self, other: Conversion) -> Conversion:
        """This conversion followed by another."""
        needed = other.weights > 0
        missing = np.asarray((needed & ~self.known).any(axis=1))
        weights = np.where(missing[:, None], 0.0, other.weights @ self.weights)
        return Conversion(weights, other.exact & ~(needed & ~self.exact).any(axis=1))


def _floats(values: Any) -> Floats:
    """An array that can hold NaN: floats keep their type, whole numbers become float64."""
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


@cache
def _table() -> dict[tuple[str, str], dict[str, Any]]:
    text = (resources.files(__package__) / "conversions.toml").read_text(encoding="utf-8")
    return {(entry["from"], entry["to"]): entry for entry in tomllib.loads(text)["conversion"]}


def _read(entry: dict[str, Any], count: int) -> Conversion:
    """An entry of the table, from a layout of ``count`` points."""
    groups: list[Sequence[int]] = []
    for item in entry["points"]:
        groups += [expand(item)] if isinstance(item, list) else [[index] for index in expand(item)]
    weights = np.zeros((len(groups), count))
    for row, group in zip(weights, groups, strict=True):
        np.add.at(row, list(group), 1 / max(1, len(group)))
    exact = np.zeros(len(groups), bool)
    exact[list(expand(entry["exact"]))] = True
    return Conversion(weights, exact)


def conversion(from_layout: Layout, to_layout: Layout) -> Conversion:
    """The conversion between two layouts: an entry of the table, or two of them in a row.

    Raises:
        LayoutError: layouts between which there is no conversion; the message lists what ``from_layout`` converts to.
    """
    from_name, to_name = from_layout.name, to_layout.name
    if from_name == to_name:
        return Conversion(np.eye(from_layout.count), np.ones(from_layout.count, bool))
    table = _table()
    if (from_name, to_name) in table:
        return _read(table[from_name, to_name], from_layout.count)
    for source, middle in table:
        if source == from_name and (middle, to_name) in table:
            step = _read(table[from_name, middle], from_layout.count)
            return step.then(_read(table[middle, to_name], len(step.weights)))
    reached = sorted({to for source, to in table if source == from_name})
    raise LayoutError(
        f"no conversion from {from_name} to {to_name}; {from_name} converts to: {listed(reached) or 'no other layout'}"
    )


def convert(landmarks: Floats, from_layout: Layout, to_layout: Layout) -> tuple[Floats, bool]:
    """The points of one layout as points of another.

    Args:
        landmarks: (..., M, 2) points of ``from_layout``; NaN for points that are unknown.

    Returns:
        (..., N, 2) points of ``to_layout``, NaN for those without counterpart; and whether some of them are
        approximate, that is not the same places on the face (``octamark.layouts.conversion`` says which).

    Raises:
        LayoutError: another number of points, or layouts between which there is no conversion.

    Examples:
        >>> from octamark.layouts import layout
        >>> points, approximate = convert(layout("wflw98").diagram, layout("wflw98"), layout("ibug68"))
        >>> points.shape, approximate
        ((68, 2), True)
    """
    if landmarks.shape[-2:] != (from_layout.count, 2):
        raise LayoutError(
            f"landmarks {landmarks.shape}: layout {from_layout.name} has {from_layout.count} points (x y)"
        )
    if from_layout.name == to_layout.name:
        return landmarks, False
    change = conversion(from_layout, to_layout)
    return change.points(landmarks), not bool(change.exact[change.known].all())
