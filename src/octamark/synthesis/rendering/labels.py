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

OUTLINE_MIDDLE = (0.0, 0.5)
"""x and y on the mean head of the middle from which the outline's points lie in all directions."""


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
        behind_head: (M,) hidden by the head itself.
        behind_thing: (M,) hidden by something else.
        outside: (M,) outside the picture.
    """

    landmarks: NDArray[np.float32]
    skin: NDArray[np.float32]
    behind_head: Bools
    behind_thing: Bools
    outside: Bools


def landmarks_of(labels: Labels, layout: Layout, mean: F64) -> RenderedLandmarks:
    """The landmarks of a layout.

    Args:
        mean: (n, 3) vertices of the mean head; they say which skin may form the outline.

    Raises:
        LayoutError: a layout without ``vertices``, or with a vertex that has no label.
    """
    lookup = label_lookup(labels.vertices, layout)
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
    visible = outline_candidates(labels.vertices, mean)
    for index in layout.outline:
        place = layout.places[index]
        if place.brow is None:
            seen = contour_vertex(labels, visible, mean, mean[list(place.vertices)].mean(axis=0), skin[index])
            if seen is not None:
                landmarks[index] = labels.points[seen]
                head[index], thing[index] = labels.behind_head[seen], labels.behind_thing[seen]
    outside = ((landmarks < -0.5) | (landmarks > labels.size - 0.5)).any(axis=1)
    return RenderedLandmarks(
        landmarks.astype(np.float32), skin.astype(np.float32), head > 0.5, thing > 0.5, np.asarray(outside)
    )


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

    The ends are where 1.5 % of the hairs lie farther out, the edges where 7 % lie below or above.
    """
    away = np.abs(points[:, 0])
    outer, inner = np.quantile(away, [0.985, 0.015])
    along = (outer - away) / (outer - inner)
    places = np.zeros((BROW_STATIONS, 2, 3))
    for station, middle in enumerate(np.linspace(0, 1, BROW_STATIONS)):
        near = np.argsort(np.abs(along - middle))[: max(8, len(points) // 14)]
        low, high = np.quantile(points[near, 1], [0.07, 0.93])
        there = points[near].mean(axis=0)
        there[0] = np.sign(there[0]) * (outer + middle * (inner - outer))
        places[station, 0], places[station, 1] = there, there
        places[station, 0, 1], places[station, 1, 1] = low, high
    return places


def outline_candidates(vertices: NDArray[np.int64], mean: F64, skin: int = 11248) -> NDArray[np.int64]:
    """Positions among the labelled vertices of the skin that can form the outline of a face: no ears, no neck."""
    x, y, z = mean[vertices].T
    ears = (np.abs(x) > 7.4) & (((y - 1.0) / 4.2) ** 2 + ((z + 0.3) / 3.2) ** 2 < 1)
    return np.flatnonzero((vertices < skin) & ~ears & (z > 0) & (y > -9.2))


def contour_vertex(labels: Labels, candidates: NDArray[np.int64], mean: F64, rest: F64, skin: F64) -> int | None:
    """The labelled vertex where an annotator of photographs sees a point of the outline; None if that is the skin's.

    Among the skin in the same direction from the middle of the face, and not farther back on the head, it is the one
    that lies farthest out in the picture: in a frontal view the jaw, on the averted side of a turned head the cheek.

    Args:
        candidates: positions among the labelled vertices, of ``outline_candidates``.
        rest: (3,) the point on the mean head.
        skin: (2,) the point in the picture.
    """
    places = mean[labels.vertices[candidates]]
    away = places[:, :2] - OUTLINE_MIDDLE
    own = rest[:2] - OUTLINE_MIDDLE
    radius = float(np.hypot(*own))
    cosine = (away @ own) / np.maximum(np.hypot(away[:, 0], away[:, 1]) * radius, 1e-9)
    fits = (cosine > np.cos(np.radians(4.0))) & (np.hypot(away[:, 0], away[:, 1]) > 0.45 * radius)
    below = max(0.0, float(-own[1]) / radius)
    near = candidates[fits & (places[:, 2] > rest[2] - 0.3 - 1.2 * below**2)]  # a chin is round from below
    if not len(near):
        return None
    right, up = (np.asarray(labels.camera[name], np.float64) for name in ("right", "up"))
    upward = np.array([right[1], -up[1]])  # of the head's y axis in the picture
    upward /= max(float(np.hypot(*upward)), 1e-6)
    sideward = np.array([-upward[1], upward[0]])
    outward = (own[0] * sideward + own[1] * upward) / radius
    reach = labels.points[near] @ outward
    best = int(np.argmax(reach))
    return int(near[best]) if reach[best] > float(skin @ outward) else None
