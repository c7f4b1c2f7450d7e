"""Layouts: which landmarks there are, what they are called, and how they belong together.

A layout is data, one .toml table each. Sides are the person's own: the right eye is on the left of the picture.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed

BUILTIN = ("ibug68", "wflw98", "cofw29", "aflw19", "webcaricature17")
"""Names of the layouts that come with the package."""

_KEYS = {"name", "title", "count", "parts", "edges", "mirror", "normalisers", "global", "eyes", "regions", "diagram"}


@dataclass(frozen=True)
class Eye:
    """The points that tell how far an eye is open: lid distance over corner distance.

    Attributes:
        corners: outer and inner corner.
        lids: (upper, lower) points that face each other.
    """

    corners: tuple[int, int]
    lids: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """One convention of facial landmarks.

    Attributes:
        name: short name, as in :data:`BUILTIN`.
        title: one line for people.
        count: M, the number of landmarks.
        parts: part name -> indices, each point in exactly one part; sides are the person's own.
        edges: (E, 2) pairs of indices to draw as lines.
        mirror: (M,) index of each point's partner in a mirrored picture; points on the midline are their own.
        normalisers: name -> (group, group): the distance between the mean points of two groups of indices.
        outline: indices of the global landmarks (face outline); all others are local.
        eyes: ``right`` and ``left`` -> the eye's corners and lids; empty where the layout has no lids.
        regions: region name -> indices; crops of the regional networks, may overlap.
        diagram: (M, 2) a schematic face in the unit square, for numbered diagrams.
        point_names: (M) the part of each point, numbered where a part has several.
        groups: parts of both sides and positions together: outline, brows, eyes, nose, mouth, ... -> indices.
    """

    name: str
    title: str
    count: int
    parts: Mapping[str, tuple[int, ...]]
    edges: NDArray[np.int64]
    mirror: NDArray[np.int64]
    normalisers: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    outline: tuple[int, ...]
    eyes: Mapping[str, Eye]
    regions: Mapping[str, tuple[int, ...]]
    diagram: NDArray[np.float32]
    point_names: tuple[str, ...] = field(init=False)
    groups: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        names = [""] * self.count
        groups: dict[str, tuple[int, ...]] = {}
        for part, indices in self.parts.items():
            for order, index in enumerate(indices):
                names[index] = part if len(indices) == 1 else f"{part}_{order}"
            group = re.sub(r"^((right|left|outer|inner|upper|lower)_)+", "", part)
            group += "s" if re.search(r"(^|_)(right|left)_", part) else ""
            groups[group] = groups.get(group, ()) + indices
        object.__setattr__(self, "point_names", tuple(names))
        object.__setattr__(self, "groups", groups)

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.count} landmarks)"

    def part(self, name: str) -> tuple[int, ...]:
        """Indices of one part.

        Raises:
            LayoutError: no part of that name; the message lists the parts.
        """
        try:
            return self.parts[name]
        except KeyError:
            raise LayoutError(f"layout {self.name} has no part {name!r}; parts: {listed(self.parts)}") from None

    def distance(self, landmarks: NDArray[np.floating], normaliser: str) -> NDArray[np.float64]:
        """The normalising distance of each face in pixels.

        Args:
            landmarks: (..., M, 2) points.
            normaliser: a name of :attr:`normalisers`, or ``"box"``, the root of the landmark box's area, or
                ``"diagonal"``, its diagonal.

        Returns:
            (...) distances.

        Raises:
            LayoutError: unknown normaliser; the message lists the names.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        if normaliser in ("box", "diagonal"):
            sides = np.fmax.reduce(points, axis=-2) - np.fmin.reduce(points, axis=-2)  # skips points without labels
            return np.asarray(np.sqrt(sides.prod(axis=-1)) if normaliser == "box" else np.linalg.norm(sides, axis=-1))
        if normaliser not in self.normalisers:
            allowed = listed([*self.normalisers, "box", "diagonal"])
            raise LayoutError(f"layout {self.name} has no normaliser {normaliser!r}; allowed: {allowed}")
        first, second = self.normalisers[normaliser]
        apart = points[..., list(first), :].mean(axis=-2) - points[..., list(second), :].mean(axis=-2)
        return np.asarray(np.linalg.norm(apart, axis=-1))

    def reference_distance(self, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
        """What ``confidence`` is a share of: the inter-ocular distance of each face (..., M, 2) -> (...), or half the
        root of the landmark box's area for a layout without that normaliser."""
        if "inter-ocular" in self.normalisers:
            return self.distance(landmarks, "inter-ocular")
        return 0.5 * self.distance(landmarks, "box")

    def eye_opening(self, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
        """How open each eye is: mean distance between facing lid points over the eye's width.

        Args:
            landmarks: (..., M, 2) points.

        Returns:
            (..., E), one column per eye of :attr:`eyes`; a layout without lids gives (..., 0).
        """
        points = np.asarray(landmarks, np.float64)
        columns = []
        for eye in self.eyes.values():
            width = np.linalg.norm(points[..., eye.corners[0], :] - points[..., eye.corners[1], :], axis=-1)
            lids = [np.linalg.norm(points[..., upper, :] - points[..., lower, :], axis=-1) for upper, lower in eye.lids]
            with np.errstate(divide="ignore", invalid="ignore"):
                opening = np.mean(lids, axis=0) / width
            columns.append(np.where(width > 0, opening, np.nan))
        return np.stack(columns, axis=-1) if columns else np.zeros((*points.shape[:-2], 0))


def _expand(value: Any) -> tuple[int, ...]:
    """Indices written as a list of integers and inclusive ranges: [3, "5-8"] -> (3, 5, 6, 7, 8)."""
    indices: list[int] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            first, last = (int(part) for part in item.split("-"))
            indices.extend(range(first, last + 1))
        else:
            indices.append(int(item))
    return tuple(indices)


def _edges(value: Any) -> list[tuple[int, int]]:
    """Lines written as chains of indices: [["0-16"], [36, "37-41", 36]] -> pairs of neighbours."""
    pairs: list[tuple[int, int]] = []
    for chain in value:
        indices = _expand(chain)
        pairs.extend(itertools.pairwise(indices))
    return pairs


def _eye(value: Any) -> Eye:
    """An eye written as { corners = [36, 39], lids = [[37, 41], [38, 40]] }."""
    (outer, inner), lids = value["corners"], tuple((int(upper), int(lower)) for upper, lower in value["lids"])
    if set(value) != {"corners", "lids"} or not lids:
        raise ValueError(f"an eye has corners and lids, found {listed(value)}, {len(lids)} pairs of lids")
    return Eye((int(outer), int(inner)), lids)


def parse(table: Mapping[str, Any], source: str) -> Layout:
    """A Layout from a parsed .toml table; ``source`` names it in errors.

    Raises:
        LayoutError: unknown or missing keys, indices out of range, points in no part or in two, a mirror that does
            not undo itself.
    """

    def fail(problem: str) -> LayoutError:
        return LayoutError(f"{source}: {problem}")

    if set(table) != _KEYS:
        missing, unknown = _KEYS - set(table), set(table) - _KEYS
        said = [f"unknown keys: {listed(sorted(unknown))}"] if unknown else []
        said += [f"missing keys: {listed(sorted(missing))}"] if missing else []
        raise fail(f"{'; '.join(said)}; a layout has {listed(sorted(_KEYS))}")
    try:
        name, count = table["name"], table["count"]
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise fail(f"name {name!r}: small letters, digits, - and _ only")
        if type(count) is not int or count < 1:
            raise fail(f"count {count!r}: a whole number of points, at least 1")
        parts = {name: _expand(value) for name, value in table["parts"].items()}
        edges = np.array(_edges(table["edges"]), dtype=np.int64).reshape(-1, 2)
        swaps = [tuple(int(index) for index in pair) for pair in table["mirror"]]
        normalisers = {}
        for title, (first, second) in table["normalisers"].items():
            normalisers[title] = (_expand(first), _expand(second))
            if not all(normalisers[title]):
                raise fail(f"normaliser {title}: two groups of points, neither empty")
        outline = _expand(table["global"])
        eyes = {side: _eye(value) for side, value in table["eyes"].items()}
        if set(eyes) not in (set(), {"right", "left"}):
            raise fail(f"eyes {listed(eyes)}: right and left, or none")
        regions = {name: _expand(value) for name, value in table["regions"].items()}
        diagram = np.array(table["diagram"], dtype=np.float32).reshape(-1, 2)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise fail(f"a value of the wrong form ({error})") from error
    members = [index for indices in parts.values() for index in indices]
    if sorted(members) != list(range(count)):
        raise fail(f"parts must hold each of the {count} points exactly once")
    used = [*edges.ravel(), *outline, *(i for pair in swaps for i in pair), *(i for r in regions.values() for i in r)]
    used += [i for eye in eyes.values() for pair in (eye.corners, *eye.lids) for i in pair]
    used += [i for pair in normalisers.values() for group in pair for i in group]
    if any(not 0 <= index < count for index in used):
        raise fail(f"indices must lie between 0 and {count - 1}")
    if diagram.shape != (count, 2) or not np.isfinite(diagram).all():
        raise fail(f"diagram must hold {count} points, finite; it holds {len(diagram)}")
    mirror = np.arange(count)
    swapped = [index for pair in swaps for index in pair]
    if any(len(pair) != 2 for pair in swaps) or len(set(swapped)) != len(swapped):
        raise fail("mirror must be pairs of points, each point in at most one pair")
    for left, right in swaps:
        mirror[left], mirror[right] = right, left
    for array in (edges, mirror, diagram):
        array.setflags(write=False)
    return Layout(name, str(table["title"]), count, parts, edges, mirror, normalisers, outline, eyes, regions, diagram)


@cache
def _builtin(name: str) -> Layout:
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    return parse(tomllib.loads(text), f"layouts/{name}.toml")


def layout(name: str | Path | Layout) -> Layout:
    """A layout by name, or from the path of a .toml table of your own.

    Raises:
        LayoutError: unknown name (the message lists the names), unreadable or wrong table.

    Example:
        >>> layout("ibug68").part("left_eye")
        (42, 43, 44, 45, 46, 47)
    """
    if isinstance(name, Layout):
        return name
    if str(name) in BUILTIN:
        return _builtin(str(name))
    path = Path(name)
    if path.suffix != ".toml":
        raise LayoutError(f"unknown layout {str(name)!r}; known: {listed(BUILTIN)}, or the path of a .toml table")
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LayoutError(f"{path}: not a TOML table ({error})") from error


@cache
def _conversions() -> dict[tuple[str, str], tuple[int, ...]]:
    table = tomllib.loads((resources.files(__name__) / "conversions.toml").read_text(encoding="utf-8"))
    return {(one["from"], one["to"]): _expand(one["points"]) for one in table["conversion"]}


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
