"""Labels of a rendered picture: what is stored for each, and the landmarks of any layout that follow from it.

Needs numpy only: the landmarks of another layout are taken from stored labels without rendering again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError, LayoutError
from octamark.images import write_atomically
from octamark.layouts import Layout

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

FRACTION = 64.0
"""Stored positions are whole numbers of 1/64 pixel."""

BROW_STATIONS = 9
"""Places along a brow, from its outer to its inner end, at which its lower and upper edges are stored."""

OUTLINE_AXIS = (-5.5, 2.0)
"""Where the lines of the outline begin on the mean head: on a vertical axis in its middle. Its lower end, and its z.

Lines to the cheeks are level; lines to the chin spread from the axis' lower end."""

GRAZE = 0.2
"""Centimetres within which a place on a contour counts as the contour itself when rays say whether it is hidden."""

SEEN_NEARBY = 0.3
"""Centimetres from a landmark within which skin that the head does not hide makes the landmark count as seen: folds of
lids, lips that meet and the slope under the nose hide the very spot, but not the place."""

INNER_SHARE = 0.3
"""How near a line of the outline comes to the axis, seen from the front; the outline lies at 1."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known about a rendered picture.

    Attributes:
        size: side of the picture, pixels.
        points: (m, 2) pixels of the labelled vertices (``vertices`` says which), pixel centres at integers.
        depth: (m,) distances from the camera's plane, centimetres.
        behind_head: (m,) share of rays to the vertex that the head itself stops, 0 to 1.
        behind_thing: (m,) share of rays that something else stops: hair, glasses, clothes, hands.
        vertices: (m,) indices of the labelled vertices on the head model.
        brows: (2, 9, 2, 2) pixels of the edges of the right and the left brow: places from outer to inner end, lower
            and upper edge.
        brow_behind: (2, 9, 2, 2) shares of rays to these places that the head, and other things, stop.
        camera: ``position``, ``right``, ``up`` and ``forward`` (3,) each, and ``angle``, degrees.
        person: what the picture shows, as ``Person.to_dict`` writes it; its ``seed`` among them.
    """

    size: int
    points: F64
    depth: F64
    behind_head: F64
    behind_thing: F64
    vertices: NDArray[np.int64]
    brows: F64
    brow_behind: F64
    camera: Mapping[str, Any]
    person: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the labels as a compressed .npz file, whole or not at all."""
        import io

        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            size=np.int64(self.size),
            points=np.clip(np.round(self.points * FRACTION), -32768, 32767).astype(np.int16),
            depth=self.depth.astype(np.float16),
            behind_head=np.round(self.behind_head * 255).astype(np.uint8),
            behind_thing=np.round(self.behind_thing * 255).astype(np.uint8),
            vertices=self.vertices.astype(np.uint16),
            brows=self.brows.astype(np.float32),
            brow_behind=self.brow_behind.astype(np.float16),
            person=np.array(json.dumps(dict(self.person))),
            camera=np.array(json.dumps(dict(self.camera))),
        )
        write_atomically(path, stream.getvalue())

    @classmethod
    def read(cls, path: Path) -> Labels:
        """The labels in a file.

        Raises:
            DataError: no such file, or one that is damaged or foreign.
        """
        try:
            with np.load(path) as stored:
                return cls(
                    int(stored["size"]),
                    stored["points"] / FRACTION,
                    stored["depth"].astype(np.float64),
                    stored["behind_head"] / 255.0,
                    stored["behind_thing"] / 255.0,
                    stored["vertices"].astype(np.int64),
                    stored["brows"].astype(np.float64),
                    stored["brow_behind"].astype(np.float64),
                    json.loads(str(stored["camera"])),
                    json.loads(str(stored["person"])),
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"{path}: no labels of a rendered picture ({error})") from error
        except Exception as error:  # zipfile and zlib have their own
            raise DataError(f"{path}: no labels of a rendered picture ({error})") from error


@dataclass(frozen=True, eq=False)
class RenderedLandmarks:
    """The landmarks of a layout in a rendered picture.

    Attributes:
        landmarks: (M, 2) float32 pixels; points of the outline on the visible contour.
        skin: (M, 2) float32 pixels; points of the outline where the same skin lies in 3D.
        behind_head: (M,) the very spot is hidden by the head itself.
        behind_thing: (M,) hidden by something else.
        outside: (M,) outside the picture.
        visible: (M,) whether somebody who looks at the picture sees the place: it is inside, the head leaves some skin
            within ``SEEN_NEARBY`` of it to be seen, and things leave half of that.
    """

    landmarks: NDArray[np.float32]
    skin: NDArray[np.float32]
    behind_head: Bools
    behind_thing: Bools
    outside: Bools
    visible: Bools


@dataclass(frozen=True, eq=False)
class LayoutOnHead:
    """What the landmarks of a layout depend on besides the labels of a picture; the same for all pictures of a set.

    Attributes:
        vertices: (m,) indices of the labelled vertices on the head model.
        lookup: positions among them, by the index of the vertex.
        lines: of the points of the outline.
        around: of the landmarks that lie on vertices: positions of those within ``SEEN_NEARBY``.
    """

    vertices: NDArray[np.int64]
    lookup: NDArray[np.int64]
    lines: Mapping[int, ContourLine]
    around: Mapping[int, NDArray[np.int64]]

    @classmethod
    def of(cls, layout: Layout, vertices: NDArray[np.int64], mean: F64) -> LayoutOnHead:
        """Place a layout on the mean head, whose vertices are ``mean`` (n, 3).

        Raises:
            LayoutError: a layout without ``vertices``, or with a vertex that has no label.
        """
        lookup = label_lookup(vertices, layout)
        candidates = outline_candidates(vertices, mean)
        lines = {
            index: contour_line(vertices, candidates, mean, mean[list(layout.places[index].vertices)].mean(axis=0))
            for index in layout.outline
            if layout.places[index].brow is None
        }
        places = mean[vertices]
        around = {
            index: np.flatnonzero(
                (((places[:, None] - mean[list(place.vertices)]) ** 2).sum(axis=2) <= SEEN_NEARBY**2).any(axis=1)
            )
            for index, place in enumerate(layout.places)
            if place.brow is None
        }
        return cls(vertices, lookup, lines, around)


def landmarks_of(labels: Labels, layout: Layout, mean: F64, placed: LayoutOnHead | None = None) -> RenderedLandmarks:
    """The landmarks of a layout.

    Args:
        mean: (n, 3) vertices of the mean head; they say which skin may form the outline.
        placed: what ``LayoutOnHead.of`` gives for the layout and the labels' vertices, to save its computation.

    Raises:
        LayoutError: a layout without ``vertices``, or with a vertex that has no label.
    """
    placed = placed or LayoutOnHead.of(layout, labels.vertices, mean)
    lookup = placed.lookup
    skin = np.zeros((layout.count, 2))
    head, thing = np.zeros(layout.count), np.zeros(layout.count)
    for index, place in enumerate(layout.places):
        if place.brow is None:
            chosen = lookup[list(place.vertices)]
            skin[index] = labels.points[chosen].mean(axis=0)
            head[index], thing[index] = labels.behind_head[chosen].mean(), labels.behind_thing[chosen].mean()
        else:
            side = ("right", "left").index(place.brow)
            skin[index] = _on_brow(labels.brows[side], place.along, place.height)
            head[index], thing[index] = _on_brow(labels.brow_behind[side], place.along, place.height)
    landmarks = skin.copy()
    for index, line in placed.lines.items():
        fixed = (skin[index], float(head[index]), float(thing[index]))
        landmarks[index], head[index], thing[index] = contour_place(labels, line, fixed)
    for chain in map(list, layout.spaced):
        values = np.column_stack([landmarks, head, thing])[chain]
        spaced = equally_spaced(values)
        landmarks[chain], head[chain], thing[chain] = spaced[:, :2], spaced[:, 2], spaced[:, 3]
    outside = np.asarray(((landmarks < -0.5) | (landmarks > labels.size - 0.5)).any(axis=1))
    seen = _seen(labels, layout, placed, head, thing) & ~outside
    return RenderedLandmarks(
        landmarks.astype(np.float32), skin.astype(np.float32), head > 0.5, thing > 0.5, outside, seen
    )


def _seen(labels: Labels, layout: Layout, placed: LayoutOnHead, head: F64, thing: F64) -> Bools:
    """Whether the place of each landmark can be seen (M,), from how much of rays to the very spots is stopped (M,).

    A point of the outline counts as hidden by the head if those beside it are, too: rays to a contour graze it.
    """
    behind_head, behind_thing = head > 0.5, thing > 0.5
    for index, near in placed.around.items():
        open_skin = near[labels.behind_head[near] <= 0.5]
        if index not in placed.lines and len(open_skin):
            behind_head[index] = False
            behind_thing[index] = labels.behind_thing[open_skin].mean() > 0.5
    spots = behind_head.copy()
    outline = [index for index in layout.outline if index in placed.lines]
    for index in outline:
        beside = [other for other in (index - 1, index + 1) if other in placed.lines]
        behind_head[index] = spots[[index, *beside]].all()
    return np.asarray(~(behind_head | behind_thing))


def equally_spaced(chain: F64) -> F64:
    """Places of a chain (n, 2 or more), at equal distances along the curve through its first two columns.

    Its ends stay. Annotators of photographs set points on the outline of a face so, between the ears and the chin.
    """
    steps = np.maximum(np.linalg.norm(np.diff(chain[:, :2], axis=0), axis=1), 1e-6)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    fine = np.linspace(0.0, length[-1], 16 * len(chain))
    first = np.clip(np.searchsorted(length, fine, side="right") - 1, 0, len(steps) - 1)
    t, step = ((fine - length[first]) / steps[first])[:, None], steps[first, None]
    slope = np.gradient(chain, length, axis=0)
    curve = (  # cubic between neighbours, its slope at each of them that between those beside it
        (1 + 2 * t) * (1 - t) ** 2 * chain[first] + t * (1 - t) ** 2 * step * slope[first]
        + t**2 * (3 - 2 * t) * chain[first + 1] + t**2 * (t - 1) * step * slope[first + 1]
    )  # fmt: skip
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve[:, :2], axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], len(chain))
    return np.stack([np.interp(wanted, along, column) for column in curve.T], axis=1)


def label_lookup(vertices: NDArray[np.int64], layout: Layout) -> NDArray[np.int64]:
    """Positions among the labelled vertices, by the index of the vertex; -1 for those without label.

    Raises:
        LayoutError: a layout without ``vertices``, or with a vertex that has no label.
    """
    if not layout.places:
        raise LayoutError(f"layout {layout.name} does not say where its points lie: its file has no vertices")
    lookup = np.full(int(vertices.max()) + 1, -1)
    lookup[vertices] = np.arange(len(vertices))
    for index, place in enumerate(layout.places):
        for vertex in place.vertices:
            if vertex >= len(lookup) or lookup[vertex] < 0:
                raise LayoutError(
                    f"layout {layout.name}: point {index} lies on vertex {vertex}, which is none of the skin "
                    "or an eyeball; octamark heads --at finds vertices"
                )
    return lookup


def _on_brow(edges: F64, along: float, height: float) -> F64:
    """A value (2,) between the stations and edges of a brow (9, 2, 2)."""
    place = along * (len(edges) - 1)
    first = min(int(place), len(edges) - 2)
    between = edges[first] + (place - first) * (edges[first + 1] - edges[first])
    return np.asarray(between[0] + height * (between[1] - between[0]))


def brow_edges(points: F64) -> F64:
    """Places (9, 2, 3) on the edges of one brow whose hairs are these points (n, 3): outer to inner, lower and upper.

    They are equally far apart along the middle of the brow, in 3D. The ends are where 0.5 % of the points lie farther
    out, the edges where 5 % of those nearby lie below or above.
    """
    outer, inner = np.quantile(np.abs(points[:, 0]), [0.995, 0.005])
    middle, half = (outer + inner) / 2, (outer - inner) / 2
    share = (np.abs(points[:, 0]) - middle) / half  # 1 at the outer end, -1 at the inner one
    powers = np.vander(share, 5)
    height = np.linalg.lstsq(powers, points[:, 1], rcond=None)[0]
    above = points[:, 1] - powers @ height
    depth = np.linalg.lstsq(np.column_stack([powers, above, above * share]), points[:, 2], rcond=None)[0]
    steps = np.linspace(1, -1, 200)
    line = np.column_stack([half * steps, np.polyval(height, steps), np.polyval(depth[:5], steps)])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = np.zeros((BROW_STATIONS, 2, 3))
    for station, place in enumerate(np.interp(np.linspace(0, length[-1], BROW_STATIONS), length, steps)):
        near = np.argsort(np.abs(share - place))[: max(8, len(points) // 14)]
        edges = np.quantile(above[near], [0.05, 0.95])
        places[station, :, 0] = np.sign(points[:, 0].mean()) * (middle + half * place)
        places[station, :, 1] = np.polyval(height, place) + edges
        places[station, :, 2] = np.polyval(depth[:5], place) + (depth[5] + depth[6] * place) * edges
    return places


def outline_candidates(vertices: NDArray[np.int64], mean: F64, skin: int = 11248) -> NDArray[np.int64]:
    """Positions among the labelled vertices of the skin that can form the outline of a face: no ears, no neck."""
    x, y, z = mean[vertices].T
    ears = (np.abs(x) > 7.4) & (((y - 1.0) / 4.2) ** 2 + ((z + 0.3) / 3.2) ** 2 < 1)
    return np.flatnonzero((vertices < skin) & ~ears & (z > 0) & (y > -9.2))


@dataclass(frozen=True, eq=False)
class ContourLine:
    """A line over the skin of a face, from a point of the outline towards the middle of the face.

    Attributes:
        pairs: (k, 2) positions among the labelled vertices; each place of the line lies between two.
        weights: (k, 2) of the two.
        outward: (2,) where the line comes from on the mean head seen from the front: x to the person's left, y up.
    """

    pairs: NDArray[np.int64]
    weights: F64
    outward: F64


def contour_line(vertices: NDArray[np.int64], candidates: NDArray[np.int64], mean: F64, rest: F64) -> ContourLine:
    """The line on which an annotator of photographs may see a point of the outline.

    Source: X. Zhu and others, High-Fidelity Pose and Expression Normalization for Face Recognition in the Wild, 2015
    (landmark marching), with lines drawn by a rule.

    Args:
        vertices: (m,) indices of the labelled vertices.
        candidates: positions among them, of ``outline_candidates``.
        rest: (3,) the point of the outline on the mean head.
    """
    low, depth = OUTLINE_AXIS
    middle = np.array([0.0, max(float(rest[1]), low)])
    outward = rest[:2] - middle
    radius = max(float(np.hypot(*outward)), 1e-9)
    outward = outward / radius
    places = mean[vertices[candidates]]
    away = (places[:, :2] - middle) @ outward
    aside = (places[:, :2] - middle) @ [outward[1], -outward[0]]
    near = (np.abs(aside) < 1.0) & (away > INNER_SHARE * radius)
    candidates, away, aside = candidates[near], away[near], aside[near]
    turn = np.arctan2(away, places[near, 2] - depth)
    left, right = np.flatnonzero(aside >= 0), np.flatnonzero(aside < 0)
    if not len(left) or not len(right):
        return ContourLine(np.zeros((0, 2), np.int64), np.zeros((0, 2)), outward)
    steps = np.linspace(np.arctan2(radius, rest[2] - depth), turn.min(), 24)
    pairs = np.stack(
        [
            side[np.argmin(np.hypot((turn[side] - steps[:, None]) * radius, aside[side]), axis=1)]
            for side in (left, right)
        ],
        axis=1,
    )
    shares = np.abs(aside[pairs])[:, ::-1] + 1e-9
    return ContourLine(candidates[pairs], shares / shares.sum(axis=1, keepdims=True), outward)


def contour_place(labels: Labels, line: ContourLine, fixed: tuple[F64, float, float]) -> tuple[F64, float, float]:
    """Pixels (2,) of a point of the outline as it is seen, and its ``behind_head`` and ``behind_thing``.

    It is the place of the line that lies farthest out in the picture: in a frontal view on the jaw, on the averted side
    of a turned head on the cheek; the point that stays on the skin where that is farther out. Rays to a contour graze
    it, so that the flags are those of the least hidden place within ``GRAZE`` of it.

    Args:
        fixed: the same of the point that stays on the same skin.
    """
    if not len(line.pairs):
        return fixed
    right, up = (np.asarray(labels.camera[name], np.float64) for name in ("right", "up"))
    upward = np.array([right[1], -up[1]])  # of the head's y axis in the picture
    upward /= max(float(np.hypot(*upward)), 1e-6)
    sideward = np.array([-upward[1], upward[0]])
    outward = line.outward[0] * sideward + line.outward[1] * upward
    places = (labels.points[line.pairs] * line.weights[..., None]).sum(axis=1)
    reach = places @ outward
    best = int(np.argmax(reach))
    on_skin = float(fixed[0] @ outward) >= reach[best]
    focal = labels.size / 2 / np.tan(np.radians(labels.camera["angle"] / 2))
    farthest = float(fixed[0] @ outward) if on_skin else reach[best]
    close = reach > farthest - GRAZE * focal / labels.depth[line.pairs[best, 0]]
    head, thing = (
        float((shares[line.pairs] * line.weights).sum(axis=1)[close].min(initial=1.0))
        for shares in (labels.behind_head, labels.behind_thing)
    )
    return (fixed[0], min(fixed[1], head), min(fixed[2], thing)) if on_skin else (places[best], head, thing)
