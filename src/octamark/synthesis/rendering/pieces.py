"""A piece of a scene: a mesh with a material; and simple bodies made of meshes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octamark.synthesis.rendering.assets import F64, Ints

Kind = Literal["head", "hair", "thing", "clear"]


@dataclass(frozen=True, eq=False)
class Piece:
    """A mesh with one material.

    Attributes:
        name: unique within a scene.
        kind: ``head`` (skin, eyes, teeth and what is flat on the skin), ``hair``, ``thing`` (hides the face), ``clear``
            (hides nothing: lenses, clothes).
        vertices: (n, 3); triangles: (t, 3); normals: (n, 3), or None to compute them.
        uv: (n, 2) texture coordinates, v points up; None with a plain colour.
        colour: (H, W, 3) linear albedo, first row on top; (1, 1, 3) is a plain colour.
        alpha: (H, W) opacity in 0..1, or None where nothing is transparent.
        roughness: 0 mirror to 1 matt.
        specular: strength of the reflection, 0.5 is skin and plastic.
    """

    name: str
    kind: Kind
    vertices: F64
    triangles: Ints
    colour: NDArray[np.float32]
    uv: F64 | None = None
    alpha: NDArray[np.float32] | None = None
    normals: F64 | None = None
    roughness: float = 0.5
    specular: float = 0.5


def plain(colour: tuple[float, float, float]) -> NDArray[np.float32]:
    """A colour as the (1, 1, 3) texture of a piece."""
    return np.array(colour, np.float32).reshape(1, 1, 3)


def tube(path: F64, radius: float | NDArray[np.float64], sides: int = 8, closed: bool = False) -> tuple[F64, Ints]:
    """A tube of this radius around a line of points (n, 3): vertices and triangles."""
    count = len(path)
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(ahead[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(ahead, helper)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    second = np.cross(ahead, first)
    angles = np.arange(sides) * 2 * np.pi / sides
    around = np.cos(angles)[None, :, None] * first[:, None] + np.sin(angles)[None, :, None] * second[:, None]
    widths = np.broadcast_to(np.asarray(radius, np.float64), (count,))
    vertices = (path[:, None] + around * widths[:, None, None]).reshape(-1, 3)
    return vertices, grid_triangles(count, sides, wrap_rows=closed, wrap_columns=True)


def grid_triangles(rows: int, columns: int, wrap_rows: bool = False, wrap_columns: bool = False) -> Ints:
    """Triangles of a grid of vertices in row-major order, optionally closed to a ring in either direction."""
    i = np.arange(rows if wrap_rows else rows - 1)
    j = np.arange(columns if wrap_columns else columns - 1)
    i, j = (index.ravel() for index in np.meshgrid(i, j, indexing="ij"))
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = (i + 1) % rows * columns + j, (i + 1) % rows * columns + (j + 1) % columns
    return np.concatenate([np.column_stack([a, b, d]), np.column_stack([a, d, c])])


def turned(axis: F64 | tuple[float, float, float], degrees: float | NDArray[np.float64]) -> F64:
    """Rotation matrices (3, 3), or (n, 3, 3) for n angles, about an axis (Rodrigues' formula)."""
    unit = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    skew = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    angle = np.radians(np.asarray(degrees, np.float64))[..., None, None]
    return np.asarray(np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew))


def merged(parts: list[tuple[F64, Ints]]) -> tuple[F64, Ints]:
    """Several meshes as one."""
    shift, vertices, triangles = 0, [], []
    for part_vertices, part_triangles in parts:
        vertices.append(part_vertices)
        triangles.append(part_triangles + shift)
        shift += len(part_vertices)
    return np.concatenate(vertices), np.concatenate(triangles)
