"""Hair, beards and lashes as strands: lines that grow from the skin, and the ribbons that are rendered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from octamark.synthesis.rendering.assets import F64, Ints

Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Ground:
    """The surface that strands grow on and do not enter.

    Attributes:
        vertices, normals: (n, 3).
        tree: of the vertices.
    """

    vertices: F64
    normals: F64
    tree: cKDTree

    def push_out(self, points: F64, clearance: F64, hug: float = 0.0) -> tuple[F64, F64]:
        """Points (n, 3) at least ``clearance`` (n,) outside, and the surface's normals there.

        Args:
            hug: share, 0 to 1, by which points farther outside, up to 6 cm, come back, above the neck.
        """
        _, nearest = self.tree.query(points)
        normals = self.normals[nearest]
        height = ((points - self.vertices[nearest]) * normals).sum(axis=1)
        back = hug * ((height < 6.0) & (points[:, 1] > -2.0))
        lack = clearance - height
        return points + (lack * np.where(lack > 0, 1.0, back))[:, None] * normals, normals


def roots_on(
    vertices: F64, normals: F64, triangles: Ints, density: F64, count: int, rng: Random
) -> tuple[F64, F64, Ints, F64]:
    """``count`` random places on a mesh, and their normals, triangles (n,) and barycentric weights (n, 3).

    Args:
        density: (t,) relative number of places per area of each triangle.
    """
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * density
    chosen = rng.choice(len(triangles), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.column_stack([1 - u, u * (1 - v), u * v])
    corners = triangles[chosen]
    places = (vertices[corners] * weights[..., None]).sum(axis=1)
    up = (normals[corners] * weights[..., None]).sum(axis=1)
    return places, up / np.linalg.norm(up, axis=1, keepdims=True), chosen, weights


def grow(
    roots: F64,
    directions: F64,
    lengths: F64,
    ground: Ground | None,
    rng: Random,
    *,
    steps: int = 8,
    gravity: float | F64 = 0.0,
    noise: float = 0.1,
    curl: float = 0.0,
    turns: float = 2.0,
    clearance: float = 0.15,
    hug: float = 0.0,
    drape: float = 0.0,
    inward: float = 0.0,
) -> F64:
    """Strands (n, steps + 1, 3) from roots (n, 3), first along ``directions`` (n, 3).

    Args:
        lengths: (n,).
        ground: what they rest on; None lets them grow through everything.
        gravity: how much of the downward direction is added at each step, one number or (n,).
        noise: random change of direction per step; neighbours form locks that share most of it.
        curl: radius of a helix around each strand, and ``turns`` of it per strand.
        hug: of ``Ground.push_out``.
        inward: how much of the direction to the middle is added at each step beside the cheeks.
        drape: share, 0 to 1, of the sideways motion that strands lose at each step below the widest part of the head.
        clearance: largest distance from the ground at which strands rest; each has its own.
    """
    count = len(roots)
    points, ahead = roots.copy(), directions / np.linalg.norm(directions, axis=1, keepdims=True)
    step = (lengths / steps)[:, None]
    lines = np.empty((count, steps + 1, 3))
    lines[:, 0] = roots
    rest = clearance * rng.uniform(0.15, 1.0, count)
    locks = rng.permutation(count)[: max(2, count // 25)]
    lock = cKDTree(roots[locks]).query(roots)[1]
    drift = rng.normal(0, noise, (len(locks), 3))[lock] + rng.normal(0, 0.25 * noise, (count, 3))
    fall = np.zeros((count, 3))
    fall[:, 1] = -np.asarray(gravity)
    for k in range(steps):
        ahead = ahead + fall + drift + rng.normal(0, 0.15 * noise, (count, 3))
        if drape > 0:
            low = np.clip((6.0 - points[:, 1:2]) / 4.0, 0, 1)
            ahead = ahead * np.where([[True, False, True]], 1 - drape * low, 1.0) - [0.0, 0.5, 0.0] * low
            ahead[:, 0] -= inward * np.sign(points[:, 0]) * low[:, 0] * (np.abs(points[:, 0]) > 5.0)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        points = points + ahead * step
        if ground is not None:
            points, normals = ground.push_out(points, rest * min(1.0, (k + 1) / 2), hug)
            into = (ahead * normals).sum(axis=1)[:, None]
            into = np.asarray(np.where(into < 0, into, hug * into))
            ahead = ahead - into * normals
            ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-6)
        lines[:, k + 1] = points
    if curl > 0:
        phase = (rng.uniform(0, 2 * np.pi, len(locks))[lock] + rng.normal(0, 0.4, count))[:, None] + np.linspace(
            0, 2 * np.pi * turns, steps + 1
        )
        across = np.cross(directions, rng.normal(0, 1, (len(locks), 3))[lock])
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
        other = np.cross(directions, across)
        other /= np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-6)
        grown = np.minimum(np.arange(steps + 1) / 2, 1)[None, :, None]
        lines += curl * grown * (np.cos(phase)[..., None] * across[:, None] + np.sin(phase)[..., None] * other[:, None])
    return lines


def ribbons(lines: F64, outward: F64, width: float, rng: Random) -> tuple[F64, Ints, F64, F64]:
    """Flat ribbons along strands (n, k, 3) that face ``outward`` (n, k, 3): vertices, triangles, normals, uv.

    Ribbons narrow towards their tips. u is a random shade of the strand; v runs from tip to root.
    """
    count, points = lines.shape[:2]
    ahead = np.gradient(lines, axis=1)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=2, keepdims=True), 1e-9)
    facing = outward + rng.normal(0, 0.35, (count, 1, 3))
    side = np.cross(ahead, facing)
    side /= np.maximum(np.linalg.norm(side, axis=2, keepdims=True), 1e-9)
    normals = np.cross(side, ahead)
    taper = np.linspace(1, 0.25, points)[None, :, None] * width
    vertices = np.stack([lines - side * taper / 2, lines + side * taper / 2], axis=2).reshape(-1, 3)
    tilted = np.stack([normals - 0.6 * side, normals + 0.6 * side], axis=2).reshape(-1, 3)
    tilted /= np.maximum(np.linalg.norm(tilted, axis=1, keepdims=True), 1e-9)
    rows = np.arange(points - 1)
    quad = np.stack([[2 * rows, 2 * rows + 1, 2 * rows + 3], [2 * rows, 2 * rows + 3, 2 * rows + 2]])
    one = quad.transpose(0, 2, 1).reshape(-1, 3)
    triangles = (one[None] + (np.arange(count) * 2 * points)[:, None, None]).reshape(-1, 3)
    shades: F64 = np.asarray(rng.random(count), np.float64)
    u = np.broadcast_to(shades[:, None, None], (count, points, 2))
    v = np.broadcast_to(np.linspace(1, 0, points)[None, :, None], (count, points, 2))
    return vertices, triangles, tilted, np.stack([u, v], axis=-1).reshape(-1, 2)
