"""The layout file: a table read into a Layout, a Layout written as text. docs/layouts.md describes the format."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed
from octamark.layouts.definition import LID_CORRELATION, HeadPlace, Layout, Opening

KEYS = (
    "name", "title", "count", "points", "parts", "edges", "mirror", "normalisers", "global", "eyes", "mouth", "regions",
    "diagram", "vertices", "spaced",
)  # fmt: skip
"""Keys of a layout file. Required: name, and points or count."""

MAX_POINTS = 10_000

_FORMS = {
    "name": "a text",
    "points": "a list of names",
    "count": "a whole number",
    "parts": "a table of lists of points, such as { chin = [2] }",
    "edges": "a list of chains of points, such as [[0, 1]]",
    "mirror": "a list of pairs of points, such as [[0, 1]]",
    "normalisers": "a table of pairs of lists of points, such as { inter-ocular = [[0], [1]] }",
    "global": "a list of points",
    "eyes": "a table of right and left, each with corners and lids",
    "mouth": "a table of corners and lips",
    "regions": "a table of lists of points, such as { eyes = [0, 1] }",
    "diagram": "a list of positions [x, y], one for each point",
    "vertices": "a list of vertices of the rendered head, one entry for each point, such as [12, [30, 31]]",
    "spaced": 'a list of chains of points, such as ["0-8"]',
}
"""What the value of each key is, for messages."""

_BOX_NORMALISERS = ("box", "diagonal", "face-box", "face-diagonal")

RENDERING_KEYS = ("vertices", "spaced")
"""Keys about where points lie on rendered heads."""

DRAWING_KEYS = ("title", "edges", "diagram")
"""Keys about how a layout is drawn, not about what its points mean."""


class _MistakeError(ValueError):
    """A value with a mistake that the message explains."""


def parse(table: Mapping[str, Any], source: str) -> Layout:
    """The Layout that a table describes; ``source`` names the table in errors.

    Raises:
        LayoutError: unknown or missing keys, indices out of range, points in no part or in two, a mirror that does
            not undo itself.
    """

    def fail(problem: str) -> LayoutError:
        return LayoutError(f"{source}: {problem}")

    unknown = sorted(set(table) - set(KEYS))
    missing = [] if "name" in table else ["name"]
    missing += [] if {"points", "count"} & set(table) else ["points (names) or count"]
    if unknown or missing:
        problems = [f"unknown keys: {listed(unknown)}"] if unknown else []
        problems += [f"missing keys: {listed(missing)}"] if missing else []
        raise fail(f"{'; '.join(problems)}; a layout has {listed(KEYS)}")
    key = "name"
    try:
        name = table[key]
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise fail(f"name {name!r}: small letters, digits, - and _ only")
        key = "points"
        names = _point_names(table[key]) if key in table else ()
        count = table.get("count", len(names))
        if type(count) is not int or not 1 <= count <= MAX_POINTS:
            raise fail(f"count {count!r}: a whole number of points, 1 to {MAX_POINTS}")
        if names and count != len(names):
            raise fail(f"count is {count}, but points lists {len(names)} names; leave count out")

        def indices(value: Any) -> tuple[int, ...]:
            return expand(value, names)

        key = "parts"
        parts = {part: indices(value) for part, value in table.get("parts", _default_parts(names, count)).items()}
        key = "edges"
        edges = np.array(_edges(table.get("edges", []), names), dtype=np.int64).reshape(-1, 2)
        key = "mirror"
        pairs = [indices(pair) for pair in table["mirror"]] if "mirror" in table else _default_mirror(names)
        key = "normalisers"
        normalisers = {}
        for title, (first, second) in table.get("normalisers", _default_normalisers(parts)).items():
            if title in _BOX_NORMALISERS:
                raise fail(f"normaliser {title}: every layout has one of this name; choose another")
            normalisers[title] = (indices(first), indices(second))
            if not all(normalisers[title]) or len(set(map(frozenset, normalisers[title]))) < 2:
                raise fail(f"normaliser {title}: two different groups of points, neither empty")
        key = "global"
        outline = indices(table.get("global", list(parts.get("outline", ()))))
        key = "eyes"
        eyes = {side: _opening(eye, "an eye", "lids", names) for side, eye in table.get("eyes", {}).items()}
        if set(eyes) not in (set(), {"right", "left"}):
            raise fail(f"eyes {listed(eyes)}: right and left, or none")
        key = "mouth"
        mouth = _opening(table["mouth"], "a mouth", "lips", names) if "mouth" in table else None
        key = "regions"
        regions = {region: indices(value) for region, value in table.get("regions", {}).items()}
        key = "diagram"
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is refused below
            diagram = np.array(table.get(key, _grid(count)), dtype=np.float32).reshape(-1, 2)
        key = "vertices"
        places = tuple(_place(entry) for entry in table.get(key, []))
        if places and len(places) != count:
            raise fail(f"vertices lists {len(places)} places; the layout has {count} points")
        key = "spaced"
        spaced = tuple(indices(chain if isinstance(chain, list) else [chain]) for chain in table.get(key, []))
        if not {index for chain in spaced for index in chain} <= set(outline):
            raise fail("spaced: chains of points of the outline only")
    except _MistakeError as error:
        raise fail(f"{key}: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise fail(f"{key}: a value of the wrong form; expected {_FORMS[key]}") from error
    members = [index for part in parts.values() for index in part]
    if sorted(members) != list(range(count)):
        raise fail(f"parts must hold each of the {count} points exactly once")
    used = [*edges.ravel(), *outline, *(i for pair in pairs for i in pair), *(i for r in regions.values() for i in r)]
    openings = [*eyes.values(), *([] if mouth is None else [mouth])]
    used += [i for opening in openings for pair in (opening.corners, *opening.pairs) for i in pair]
    used += [i for pair in normalisers.values() for group in pair for i in group]
    if any(not 0 <= index < count for index in used):
        raise fail(f"indices must lie between 0 and {count - 1}")
    if diagram.shape != (count, 2) or not np.isfinite(diagram).all():
        raise fail(f"diagram must hold {count} points, finite; it holds {len(diagram)}")
    if count > 1 and not np.ptp(diagram, axis=0).any():
        raise fail("diagram: all points lie in one place")
    return Layout(
        name,
        str(table.get("title", f"{count} points")),
        count,
        parts,
        edges,
        _permutation(pairs, count, fail),
        normalisers,
        outline,
        eyes,
        regions,
        diagram,
        has_diagram="diagram" in table,
        mouth=mouth,
        point_names=names,
        places=places,
        spaced=spaced,
    )


def to_table(layout: Layout) -> dict[str, Any]:
    """A layout as plain values with the keys of a layout file; ``parse`` gives the same layout back."""

    def opening(eye_or_mouth: Opening, edges: str) -> dict[str, Any]:
        return {"corners": list(eye_or_mouth.corners), edges: [list(pair) for pair in eye_or_mouth.pairs]}

    table: dict[str, Any] = {
        "name": layout.name,
        "title": layout.title,
        "points": list(layout.point_names),
        "parts": {part: list(indices) for part, indices in layout.parts.items()},
        "edges": layout.edges.tolist(),
        "mirror": [[first, second] for first, second in enumerate(layout.mirror.tolist()) if first < second],
        "normalisers": {name: [list(group) for group in pair] for name, pair in layout.normalisers.items()},
        "global": list(layout.outline),
        "eyes": {side: opening(eye, "lids") for side, eye in layout.eyes.items()},
        "regions": {region: list(indices) for region, indices in layout.regions.items()},
    }
    if layout.mouth is not None:
        table["mouth"] = opening(layout.mouth, "lips")
    if layout.has_diagram:  # the shortest decimals that give the same float32
        table["diagram"] = [[float(str(x)), float(str(y))] for x, y in layout.diagram]
    if layout.places:
        table["vertices"] = [
            list(place.vertices)
            if place.brow is None
            else {"brow": place.brow, "along": place.along, "height": place.height}
            for place in layout.places
        ]
    if layout.spaced:
        table["spaced"] = [list(chain) for chain in layout.spaced]
    return table


def dumps(layout: Layout) -> str:
    """A layout as JSON text, for the metadata of a model file; ``octamark.layouts.loads`` reads it back exactly.

    What is said about the rendered head is left out: no reader of a model needs it.
    """
    kept = {key: value for key, value in to_table(layout).items() if key not in RENDERING_KEYS}
    return json.dumps(kept, separators=(",", ":"))


def _point_names(value: Any) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list) else ()
    wrong = [name for name in names if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name)]
    if not names or wrong:
        raise _MistakeError(f"a list of names of letters, digits and _, found {listed(wrong) or value!r}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _MistakeError(f"each name once, {listed(twice)} more than once")
    return names


def _default_parts(names: Sequence[str], count: int) -> dict[str, list[int]]:
    """Parts of points whose names differ only in a number at the end: lip_0, lip_1 -> lip."""
    if not names:
        return {"point": list(range(count))}
    parts: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        parts.setdefault(re.sub(r"_\d+$", "", name), []).append(index)
    return parts


def _default_mirror(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Pairs of points whose names differ in right and left."""
    if not names:
        raise _MistakeError(
            "the pairs of points that change places in a mirrored picture are missing; write "
            "mirror = [[0, 1], ...], or name the points right_... and left_..."
        )
    pairs: list[tuple[int, ...]] = []
    for index, name in enumerate(names):
        partner = other_side(name)
        if partner != name and partner not in names:
            raise _MistakeError(f"point {name} has no partner {partner}; write mirror = [...] to say which it is")
        if partner != name and index < names.index(partner):
            pairs.append((index, names.index(partner)))
    return pairs


_SIDES = re.compile(
    r"(?<![A-Za-z])(?:left|right|l|r)(?![a-z])|(?:Left|Right)(?![a-z])|(?<![A-Z])(?:LEFT|RIGHT|L|R)(?![A-Za-z])"
)
_OTHER = {"left": "right", "l": "r", "Left": "Right", "LEFT": "RIGHT", "L": "R"}
_OTHER |= {other: side for side, other in _OTHER.items()}


def other_side(name: str) -> str:
    """The name with right and left exchanged: right_eye_2 -> left_eye_2, l_brow -> r_brow, eyeLeft -> eyeRight."""
    return _SIDES.sub(lambda side: _OTHER[side[0]], name)


def _default_normalisers(parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The distance between the eyes' centres, where there are parts of that name."""
    if "right_eye" in parts and "left_eye" in parts:
        return {"inter-pupil": [list(parts["right_eye"]), list(parts["left_eye"])]}
    return {}


def _grid(count: int) -> list[list[float]]:
    """Points in rows, for a layout without a diagram."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    return [[(i % columns + 0.5) / columns, (i // columns + 0.5) / rows] for i in range(count)]


def expand(value: Any, names: Sequence[str] = ()) -> tuple[int, ...]:
    """Indices written as integers, inclusive ranges and point names: [3, "5-7", "tip"] -> (3, 5, 6, 7, 0)."""
    indices: list[int] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and item in names:
            indices.append(names.index(item))
        elif isinstance(item, str) and re.fullmatch(r"\d+-\d+", item):
            first, last = (int(end) for end in item.split("-"))
            if last >= MAX_POINTS:
                raise _MistakeError(f"{item!r} ends beyond the last point")
            indices.extend(range(first, last + 1))
        elif type(item) is int:
            indices.append(item)
        else:
            raise _MistakeError(f"{item!r} is no index, no range such as '5-8' and no name of a point")
    return tuple(indices)


def _edges(value: Any, names: Sequence[str]) -> list[tuple[int, int]]:
    """Lines written as chains of indices: [["0-16"], [36, "37-41", 36]] -> pairs of neighbours."""
    return [pair for chain in value for pair in itertools.pairwise(expand(chain, names))]


def _opening(value: Any, kind: str, edges: str, names: Sequence[str]) -> Opening:
    """An eye as { corners = [36, 39], lids = [[37, 41], [38, 40]] }; a mouth has lips in place of lids."""
    if set(value) != {"corners", edges} or not value[edges]:
        number = f" ({len(value[edges])} pairs)" if edges in value else ""
        raise _MistakeError(f"{kind} has corners and {edges}, found {listed(value) or 'nothing'}{number}")
    first, second = expand(value["corners"], names)
    facing = []
    for pair in value[edges]:
        upper, lower = expand(pair, names)
        facing.append((upper, lower))
    return Opening((first, second), tuple(facing), LID_CORRELATION if edges == "lids" else 0.0)


def _place(entry: Any) -> HeadPlace:
    """A vertex, a list of vertices whose mean is meant, or { brow = "right", along = 0.5, height = 1 }."""
    if isinstance(entry, Mapping):
        place = HeadPlace((), entry["brow"], float(entry["along"]), float(entry.get("height", 0.5)))
        fits = place.brow in ("right", "left") and 0 <= place.along <= 1 and 0 <= place.height <= 1
        if not fits or not {"brow", "along"} <= set(entry) <= {"brow", "along", "height"}:
            raise _MistakeError(f"{entry!r}: a brow is right or left, with along and height from 0 to 1")
        return place
    vertices = entry if isinstance(entry, list) else [entry]
    if not vertices or any(type(vertex) is not int or vertex < 0 for vertex in vertices):
        raise _MistakeError(f"{entry!r}: a vertex is a whole number, 0 or more")
    return HeadPlace(tuple(vertices))


def _permutation(pairs: Sequence[tuple[int, ...]], count: int, fail: Any) -> NDArray[np.int64]:
    swapped = [index for pair in pairs for index in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(swapped)) != len(swapped):
        raise fail("mirror must be pairs of points, each point in at most one pair")
    mirror = np.arange(count)
    for first, second in pairs:
        mirror[first], mirror[second] = second, first
    return mirror
