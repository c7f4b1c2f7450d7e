"""Conversions: the points of one layout as points of another; the table is conversions.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed
from octamark.layouts.definition import CONFIDENCE_SHARE, F64, POINT_CORRELATION, Floats, Layout, box_root
from octamark.layouts.table import expand

_SURE = 1 - 1e-6  # a confidence that is less, for its logarithm


@dataclass(frozen=True, eq=False)
class Conversion:
    """How the N points of one layout are made from the M points of another.

    Attributes:
        weights: (N, M): each point is this weighted mean, in which single weights may be negative; a row of zeros is a
            point without counterpart.
        exact: (N,) whether a point is the same place on the face in both layouts.
        apart: (N,) how far such a mean lies from the point that it stands for: expected absolute error per axis, as
            a share of the root of the landmark box's area; 0 where it was not measured.
    """

    weights: F64
    exact: NDArray[np.bool_]
    apart: F64

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether a point has a counterpart."""
        return np.asarray(self.weights.any(axis=1))

    def points(self, values: Floats) -> Floats:
        """Weighted means of points, or of other values per point: (..., M, d) -> (..., N, d).

        NaN for points without counterpart and for means in which a value is NaN.
        """
        return self._means(values, self.weights)

    def spread(self, spread: Floats, landmarks: Floats) -> Floats:
        """Expected errors of the converted points: (..., M, 2) -> (..., N, 2), NaN as in ``points``.

        A mean is more certain than its points, as far as their errors are independent of each other: they are taken
        to be correlated by ``octamark.layouts.definition.POINT_CORRELATION``. ``apart`` is a further error.

        Args:
            landmarks: (..., M, 2) the points themselves, pixels.
        """
        array = _floats(spread)
        together = np.asarray(self._means(array, self._shares()), np.float64)
        apart = self.weights**2 @ np.where(np.isfinite(array), array, 0).astype(np.float64) ** 2
        variance = POINT_CORRELATION * together**2 + (1 - POINT_CORRELATION) * apart
        single = (self.weights != 0).sum(axis=1)[:, None] == 1
        within = np.where(single, together, np.sqrt(variance))
        return np.asarray(np.hypot(within, self._apart(landmarks)[..., None]), array.dtype)

    def probability(self, values: Floats) -> Floats:
        """Means of a probability per point: (..., M) -> (..., N), each point counting by the size of its weight."""
        return np.asarray(self._means(np.asarray(values)[..., None], self._shares())[..., 0])

    def confidence(self, confidence: Floats, landmarks: Floats, radius: F64) -> Floats:
        """``confidence`` of the converted points: (..., M) -> (..., N), the probability of an error below a radius.

        The mean of the points' own, lowered by ``apart`` as if errors had a normal distribution.

        Args:
            landmarks: (..., M, 2) the points themselves, pixels.
            radius: (...) the radius of each face, pixels.
        """
        means = np.asarray(self.probability(confidence))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self._apart(landmarks) / np.asarray(radius, np.float64)[..., None]
            exponent = -np.log1p(-np.minimum(means, _SURE))  # radius**2 / (2 variance per axis) of a normal error
            lowered = -np.expm1(-exponent / (1 + np.pi * exponent * ratio**2))
        return np.asarray(np.where(ratio == 0, means, lowered), means.dtype)

    def then(self, other: Conversion) -> Conversion:
        """This conversion followed by another."""
        needed = other.weights != 0
        missing = np.asarray((needed & ~self.known).any(axis=1))
        weights = np.where(missing[:, None], 0.0, other.weights @ self.weights)
        apart = np.hypot(np.abs(other.weights) @ self.apart, other.apart)
        return Conversion(weights, other.exact & ~(needed & ~self.exact).any(axis=1), apart)

    def _means(self, values: Floats, weights: F64) -> Floats:
        array = _floats(values)
        finite = np.isfinite(array)
        means = weights @ np.where(finite, array, 0).astype(np.float64)
        missing = (weights != 0).astype(np.float64) @ (~finite).astype(np.float64) > 0
        return np.asarray(np.where(missing | ~self.known[:, None], np.nan, means), array.dtype)

    def _shares(self) -> F64:
        """The weights without their signs, each row summing to 1 (or 0)."""
        sizes = np.abs(self.weights)
        return np.asarray(sizes / np.maximum(sizes.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))

    def _apart(self, landmarks: Floats) -> F64:
        """``apart`` in pixels of faces with these points: (..., M, 2) -> (..., N)."""
        return np.asarray(self.apart * box_root(landmarks)[..., None])


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
    rows: list[F64] = []
    for item in entry["points"]:
        if isinstance(item, dict):
            rows.append(_row({int(index): weight for index, weight in item.items()}.items(), count))
        elif isinstance(item, list):
            group = expand(item)
            rows.append(_row(((index, 1 / len(group)) for index in group), count))
        else:
            rows += [_row([(index, 1.0)], count) for index in expand(item)]
    exact = np.zeros(len(rows), bool)
    exact[list(expand(entry["exact"]))] = True
    apart = np.array(entry.get("apart", 0.0), np.float64) / 100
    return Conversion(np.array(rows), exact, np.broadcast_to(apart, len(rows)))


def _row(weights: Iterable[tuple[int, float]], count: int) -> F64:
    row = np.zeros(count)
    for index, weight in weights:
        row[index] += weight
    return row


def conversion(from_layout: Layout, to_layout: Layout) -> Conversion:
    """The conversion between two layouts: an entry of the table, or two of them in a row.

    Raises:
        LayoutError: layouts between which there is no conversion; the message lists what ``from_layout`` converts to.
    """
    from_name, to_name = from_layout.name, to_layout.name
    if from_name == to_name:
        count = from_layout.count
        return Conversion(np.eye(count), np.ones(count, bool), np.zeros(count))
    table = _table()
    if (from_name, to_name) in table:
        return _read(table[from_name, to_name], from_layout.count)
    for source, middle in table:
        if source == from_name and (middle, to_name) in table:
            step = _read(table[from_name, middle], from_layout.count)
            return step.then(_read(table[middle, to_name], len(step.weights)))
    direct = {to for source, to in table if source == from_name}
    reached = sorted(direct | {to for middle, to in table if middle in direct and to != from_name})
    raise LayoutError(
        f"no conversion from {from_name} to {to_name}; {from_name} converts to: {listed(reached) or 'no other layout'}"
    )


class PointValues(NamedTuple):
    """Points and what is known of each: landmarks and spread (..., M, 2), confidence and visible (..., M), or None."""

    landmarks: Floats
    spread: Floats | None
    confidence: Floats | None
    visible: Floats | None


def convert_values(values: PointValues, from_layout: Layout, to_layout: Layout) -> PointValues:
    """Points of one layout, and what is known of them, as points of another; NaN for points without counterpart.

    Raises:
        LayoutError: no conversion between the two layouts.
    """
    change, (before, spread, confidence, visible) = conversion(from_layout, to_layout), values
    after = change.points(before)
    radius = CONFIDENCE_SHARE * to_layout.reference_distance(after)
    return PointValues(
        after,
        None if spread is None else change.spread(spread, before),
        None if confidence is None else change.confidence(confidence, before, radius),
        None if visible is None else change.probability(visible),
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
