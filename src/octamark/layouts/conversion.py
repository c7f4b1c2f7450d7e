"""Conversions: the points of one layout as points of another."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed
from octamark.layouts.definition import Layout
from octamark.layouts.table import _expand


@cache
def _conversions() -> dict[tuple[str, str], tuple[int, ...]]:
    table = tomllib.loads((resources.files(__package__) / "conversions.toml").read_text(encoding="utf-8"))
    return {(one["from"], one["to"]): _expand(one["points"], ()) for one in table["conversion"]}


def convert(
    landmarks: NDArray[np.floating], from_layout: Layout, to_layout: Layout
) -> tuple[NDArray[np.floating], bool]:
    """The points of one layout as points of another, to compare what follows different conventions.

    Args:
        landmarks: (..., M, 2) points of ``from_layout``.

    Returns:
        (..., N, 2) points of ``to_layout``, and whether they are approximate: not the same places on the face.

    Raises:
        LayoutError: another number of points, or layouts between which there is no conversion.

    Example:
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
    try:
        points = _conversions()[from_layout.name, to_layout.name]
    except KeyError:
        known = listed(f"{first} to {second}" for first, second in _conversions())
        raise LayoutError(f"no conversion from {from_layout.name} to {to_layout.name}; known: {known}") from None
    return landmarks[..., list(points), :], True
