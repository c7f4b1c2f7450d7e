"""Clothes, glasses, hats, masks, and things in front of a face, as pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from octamark.synthesis.rendering.assets import F64, Ints
from octamark.synthesis.rendering.heads import SKIN, HeadModel, vertex_normals
from octamark.synthesis.rendering.person import Person
from octamark.synthesis.rendering.pieces import Piece, grid_triangles, merged, plain, tube, turned
from octamark.synthesis.rendering.skin import noise_field, to_linear

Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Anchors:
    """Where places of the mean head lie on a head.

    Attributes:
        mean: (n, 3) skin of the mean head.
        vertices, normals: (n, 3) of this head.
    """

    mean: F64
    vertices: F64
    normals: F64
    tree: cKDTree

    @classmethod
    def of(cls, head: HeadModel, vertices: F64, normals: F64) -> Anchors:
        """The anchors of a head with these vertices."""
        return cls(head.mean[:SKIN], vertices[:SKIN], normals[:SKIN], cKDTree(head.mean[:SKIN]))

    def at(self, x: float, y: float, z: float) -> F64:
        """The place (3,) on this head of a place near the skin of the mean head."""
        near = self.tree.query([x, y, z], k=4)[1]
        return np.asarray(self.vertices[near].mean(axis=0))

    def offset(self, x: float, y: float, z: float, forward: float) -> F64:
        """``at``, moved outwards along the skin's normal."""
        near = self.tree.query([x, y, z], k=4)[1]
        normal = self.normals[near].mean(axis=0)
        return np.asarray(self.vertices[near].mean(axis=0) + forward * normal / np.linalg.norm(normal))


def cloth(colour: tuple[float, float, float], rng: Random, size: int = 128) -> NDArray[np.float32]:
    """A linear texture (size, size, 3) of cloth: plain, striped or checked, with a weave."""
    base = np.array(colour, np.float32) * np.ones((size, size, 1), np.float32)
    other = np.array([rng.uniform(0.01, 0.7) for _ in range(3)], np.float32)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    kind, period = rng.random(), rng.choice([8, 16, 32])
    if kind < 0.14:
        base[(x // (period // 2)) % 2 == 0] = other
    elif kind < 0.2:
        base = np.where((((x // period) + (y // period)) % 2 == 0)[..., None], base, other)
    weave = 1 + 0.12 * np.sin(x * 2 * np.pi / 4) * np.sin(y * 2 * np.pi / 4) + 0.1 * noise_field((size, size), 6, rng)
    return np.clip(base * weave[..., None], 0.004, 0.85).astype(np.float32)


def shell(
    head: HeadModel,
    vertices: F64,
    normals: F64,
    share: F64,
    thickness: float | F64,
    smooth: int = 0,
    taut: bool = False,
) -> tuple[F64, Ints, F64]:
    """A copy of the head's skin where ``share`` (n,) of its vertices exceeds 0.5, lifted along the normals.

    Args:
        thickness: how far it is lifted, centimetres, one number or (n,).
        smooth: rounds of averaging with the neighbours.
        taut: stretch over what stands out instead of shrinking into it.

    Returns:
        Vertices (m, 3), triangles (t, 3), and the places (m, 3) on the mean head.
    """
    triangles = head.triangles["skin"]
    kept = triangles[(share[triangles] > 0.5).all(axis=1)]
    used, inverse = np.unique(kept, return_inverse=True)
    local = inverse.reshape(-1, 3)
    lift = np.broadcast_to(thickness, len(vertices[:SKIN]))[used]
    lifted = vertices[used] + lift[:, None] * normals[used]
    edges = np.concatenate([local[:, [0, 1]], local[:, [1, 2]], local[:, [2, 0]]])
    for _ in range(smooth):
        total, number = np.zeros_like(lifted), np.zeros(len(lifted))
        for a, b in ((0, 1), (1, 0)):
            np.add.at(total, edges[:, a], lifted[edges[:, b]])
            np.add.at(number, edges[:, a], 1)
        lifted = 0.5 * lifted + 0.5 * total / np.maximum(number, 1)[:, None]
        if taut:
            height = ((lifted - vertices[used]) * normals[used]).sum(axis=1)
            lifted += np.maximum(lift - height, 0)[:, None] * normals[used]
    return lifted, local, head.mean[used]


def clothes_piece(person: Person, base: F64, cards: Any, rng: Random) -> Piece:
    """The person's suit on this head's base mesh, cut at the elbows and hips."""
    name = person.options["clothes"]
    mesh, fit, picture = cards(f"clothes/{name}", f"mh/clothes/{name}_diffuse.png")
    placed = fit.place(base)
    placed = placed + 0.35 * vertex_normals(placed, mesh.triangles)  # the neck does not cut through the collar
    kept = (placed[mesh.triangles][..., 1] > -62).all(axis=1)
    keys = np.column_stack([mesh.triangles[kept].ravel(), mesh.uv_triangles[kept].ravel()])
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    tint = np.array(person.options["clothes_tint"], np.float32)
    if picture is None or rng.random() < 0.5:
        texture = cloth(person.options["clothes_tint"], rng)
    else:
        texture = picture / max(float(picture.mean()), 0.02) * (0.15 + 0.85 * tint) * 0.7
    return Piece(
        "clothes", "clear", placed[unique[:, 0]], inverse.reshape(-1, 3),
        np.clip(texture, 0.004, 0.85).astype(np.float32),
        mesh.uv[unique[:, 1]], roughness=0.8, specular=0.2,
    )  # fmt: skip


def glasses_pieces(person: Person, anchors: Anchors) -> list[Piece]:
    """Glasses: rims, bridge, temples and lenses."""
    spec = person.options["things"]["glasses"]
    eyes = {side: anchors.at(sign * 3.2, 3.6, 9.0) for side, sign in (("left", 1), ("right", -1))}
    bridge = anchors.offset(0, 2.6 - spec["down"], 11.2, 0.25)
    gap = (eyes["left"] - eyes["right"])[0]
    forward = max(bridge[2] - 0.3, max(anchors.at(sign * 3.2, y, 9.5)[2] for sign in (-1, 1) for y in (1.2, 5.2)) + 0.6)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = 2 / spec["square"]
    parts, pieces = [], []
    half_width, half_height = 0.40 * gap * spec["width"], 0.30 * gap * spec["height"]
    for side, sign in (("left", 1), ("right", -1)):
        centre = np.array(
            [sign * gap * 0.51 + bridge[0], (eyes["left"] + eyes["right"])[1] / 2 - 0.25 - spec["down"], forward]
        )
        outline = np.column_stack([
            half_width * np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** power,
            half_height * np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** power,
            -0.02 * (sign * half_width * np.cos(angles) + 1) ** 2,
        ]) + centre  # fmt: skip
        parts.append(tube(outline, spec["rim"], 6, closed=True))
        lens = np.concatenate([centre[None], outline])
        fan = np.column_stack([np.zeros(40, int), np.arange(40) + 1, (np.arange(40) + 1) % 40 + 1])
        dark = spec["lens"] > 0.5
        uv = np.full((41, 2), 0.5)
        if dark:
            bulge = (lens - centre) * [0.2, 0.2, 0.0] + [0.1 * sign, 0.0, 1.0]  # as of glass that curves a little
            bulge /= np.linalg.norm(bulge, axis=1, keepdims=True)
            tint = plain(tuple(spec["tint"]))
            pieces.append(
                Piece(f"lens_{side}", "thing", lens, fan, tint, uv, normals=bulge, roughness=0.08, specular=0.9)
            )
        corner = outline[np.argmax(sign * outline[:, 0])]
        ear = anchors.at(sign * 8.3, 3.6, 0.8) + np.array([sign * 0.35, 0.2, 0])
        parts.append(tube(np.linspace(corner, ear, 8), spec["rim"] * 0.9, 6))
        inner = outline[np.argmin(sign * outline[:, 0])]
        middle = np.array([bridge[0], inner[1] + 0.35, forward + 0.05])
        parts.append(tube(np.linspace(inner + np.array([0, 0.2, 0]), middle, 4), spec["rim"], 6))
    vertices, triangles = merged(parts)
    pieces.append(Piece("frame", "clear", vertices, triangles, plain(tuple(spec["colour"])), roughness=0.25))
    return pieces


def hat_pieces(
    head: HeadModel, person: Person, vertices: F64, normals: F64, anchors: Anchors, base: F64, cards: Any, rng: Random
) -> list[Piece]:
    """The hat, cap, band, scarf or hood of a person."""
    spec = person.options["things"]["hat"]
    kind, mean = spec["kind"], head.mean[:SKIN]
    x, y, z = np.abs(mean[:, 0]), mean[:, 1], mean[:, 2]
    texture = cloth(tuple(spec["colour"]), rng)
    if kind.startswith("fedora"):
        mesh, fit, _ = cards(f"clothes/{kind}", "")
        placed = fit.place(base)
        top = placed.mean(axis=0)
        placed = (placed - top) * (1.0 + 0.12 * spec["lift"]) + top + np.array([0, 0.6, 0])
        return [
            Piece("hat", "thing", placed, mesh.triangles, plain(tuple(spec["colour"])), roughness=0.9, specular=0.1)
        ]
    low = spec["low"]
    line = 7.6 + low + 0.30 * (z - 9.0) * (z < 9) * 0.35
    thickness = spec["lift"]
    if kind == "band":
        share = (y > line - 0.5) & (y < line + 2.2)
    elif kind in ("scarf", "hood"):
        opening = ((x / 6.6) ** 2 + ((y - 2.2) / (7.3 + 0.4 * low)) ** 2 < 1) & (z > 0.5)
        share = ~opening & (y > -16)
        thickness = 0.7 + spec["lift"]
    elif kind == "helmet":
        share = (y > line - 2.5 * (z < 6)) & ~((z > 6) & (y < line))
        thickness = 1.6 + spec["lift"]
    else:
        share = y > line
    height = thickness if kind not in ("beanie", "cap") else thickness * np.clip((y - line) / 2.5, 0.3, 1.0)
    lifted, triangles, rest = shell(
        head, vertices, normals, share.astype(np.float64), height, smooth=12 if kind in ("scarf", "hood") else 6
    )
    uv = np.column_stack([np.arctan2(rest[:, 0], rest[:, 2]) * 2, rest[:, 1] / 6])
    pieces = [
        Piece("hat", "thing", lifted, triangles, texture, uv, roughness=0.85 if kind != "helmet" else 0.3, specular=0.2)
    ]
    if kind == "cap":
        turn = rng.normal(0, 12) if rng.random() < 0.8 else 180.0
        front = anchors.offset(0, 7.6 + low, 10, thickness)
        angles = np.linspace(-1.15, 1.15, 20)
        reach = np.linspace(0, 1, 6)
        rim = np.array([[6.8 * np.sin(a), 0.0, 6.8 * np.cos(a)] for a in angles])
        peak = (
            rim[None]
            + reach[:, None, None]
            * np.column_stack([0 * angles, -0.9 + 0 * angles, rng.uniform(4.5, 6.5) * np.cos(angles / 1.15 * 1.45)])[
                None
            ]
        )
        peak[..., 1] += 0.7 * np.cos(angles * 1.2)[None] * 1.0 - 0.6
        centre = front - np.array([0, 0, 6.6])
        peak = peak.reshape(-1, 3) @ turned((0, 1, 0), turn).T + centre
        pieces.append(
            Piece(
                "peak",
                "thing",
                peak,
                grid_triangles(6, 20),
                texture,
                np.zeros((len(peak), 2)),
                roughness=0.8,
                specular=0.2,
            )
        )
    return pieces


def mask_pieces(
    head: HeadModel, person: Person, vertices: F64, normals: F64, anchors: Anchors, rng: Random
) -> list[Piece]:
    """A cloth over mouth and nose with loops around the ears."""
    spec, mean = person.options["things"]["mask"], head.mean[:SKIN]
    x, y, z = np.abs(mean[:, 0]), mean[:, 1], mean[:, 2]
    top = 2.0 + spec["low"] - 0.42 * np.clip(x - 0.6, 0, 3.0)
    share = (y < top) & (y > -9.6 + 0.25 * x) & (z > 3.2) & (x < 6.8)
    lifted, triangles, rest = shell(head, vertices, normals, share.astype(np.float64), 0.3, smooth=25, taut=True)
    folds = 0.06 * np.sin(2 * np.pi * (rest[:, 1] + 1.0) / 1.5) * (np.abs(rest[:, 1] + 3.5) < 3.0)
    lifted = lifted + np.array([0, 0, 1.0]) * (0.05 + folds)[:, None]
    pieces = [
        Piece(
            "mask",
            "thing",
            lifted,
            triangles,
            cloth(tuple(spec["colour"]), rng),
            rest[:, :2] / 5,
            roughness=0.9,
            specular=0.1,
        )
    ]
    loops = []
    for sign in (-1, 1):
        side = lifted[np.argmax(sign * lifted[:, 0])]
        ear = anchors.at(sign * 8.2, 2.0, -0.4) + np.array([sign * 0.3, 0, 0])
        loops.append(tube(np.linspace(side, ear, 6), 0.1, 5))
    strings, string_triangles = merged(loops)
    pieces.append(Piece("loops", "clear", strings, string_triangles, plain(tuple(spec["colour"]))))
    return pieces


PLACES = {
    "mouth": (0.0, -4.0, 11.8),
    "cheek": (4.5, -2.5, 9.0),
    "eye": (3.2, 3.6, 9.8),
    "chin": (1.0, -7.0, 10.0),
    "forehead": (1.5, 8.5, 10.0),
}


def occluder_pieces(
    person: Person,
    anchors: Anchors,
    hand: tuple[F64, Ints, F64],
    skin: NDArray[np.float32],
    rng: Random,
) -> list[Piece]:
    """A hand, a microphone, a cup, a telephone, a ball, a card or a stick in front of the face.

    Args:
        hand: vertices, triangles and texture coordinates of a hand whose palm is at the origin, fingers up, palm to -z.
        skin: the person's skin texture, for the hand.
    """
    spec = person.options["things"]["occluder"]
    x, y, z = PLACES[spec["place"]]
    place = anchors.offset(spec["side"] * x, y, z, 1.0)
    turn, size = spec["turn"], spec["size"]
    kind = spec["kind"]
    colour = plain(tuple(spec["colour"]))
    if kind == "hand":
        vertices, triangles, uv = hand
        lean = (
            turned((0, 0, 1), turn * 0.5)
            @ turned((1, 0, 0), rng.normal(-10, 15))
            @ turned((0, 1, 0), rng.normal(0, 25) + (180 if rng.random() < 0.25 else 0))
        )
        moved = (vertices * 0.95 * size) @ lean.T + place + np.array([0, 0, 1.2])
        moved, _ = _outside(moved, anchors, 0.15)
        return [Piece("hand", "thing", moved, triangles, skin, uv, roughness=0.6)]
    if kind == "microphone":
        around = _ball(1.9 * size)
        axis = turned((0, 0, 1), rng.normal(0, 25)) @ np.array([0.0, -1.0, 0.35])
        handle = tube(np.linspace(0, 1, 6)[:, None] * axis * 16, 1.1 * size, 12)
        vertices, triangles = merged([around, handle])
        return [
            Piece(
                "microphone", "thing", vertices + anchors.offset(0, -4.5, 11.5, 2.6), triangles, colour, roughness=0.4
            )
        ]
    if kind == "cup":
        profile = np.array([[2.6, -4.0], [3.2, 0], [3.4, 4.0], [3.2, 4.0], [2.9, -3.4]]) * size
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        rings = np.stack(
            [
                profile[:, 0, None] * np.cos(angles),
                np.broadcast_to(profile[:, 1, None], (5, 24)),
                profile[:, 0, None] * np.sin(angles),
            ],
            axis=-1,
        )
        lean = turned((1, 0, 0), rng.uniform(-60, 10))
        moved = rings.reshape(-1, 3) @ lean.T + anchors.offset(0, -4.5, 11.5, 4.0)
        return [Piece("cup", "thing", moved, grid_triangles(5, 24, wrap_columns=True), colour, roughness=0.2)]
    if kind in ("phone", "card"):
        half = np.array([3.7, 7.5, 0.4]) * size if kind == "phone" else rng.uniform(2, 8, 3) * [1, 1, 0.02]
        corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * half
        sides = np.array(
            [
                [0, 1, 3],
                [0, 3, 2],
                [4, 6, 7],
                [4, 7, 5],
                [0, 4, 5],
                [0, 5, 1],
                [2, 3, 7],
                [2, 7, 6],
                [0, 2, 6],
                [0, 6, 4],
                [1, 5, 7],
                [1, 7, 3],
            ]
        )
        lean = turned((0, 0, 1), turn) @ turned((1, 0, 0), rng.normal(0, 20)) @ turned((0, 1, 0), rng.normal(0, 20))
        uv = (corners[:, :2] / half[:2] + 1) / 2
        texture = cloth(tuple(spec["colour"]), rng, 64)
        return [
            Piece(
                kind,
                "thing",
                corners[sides].reshape(-1, 3) @ lean.T + place + np.array([0, 0, 2.5]),
                np.arange(36).reshape(-1, 3),
                texture,
                uv[sides].reshape(-1, 2),
                roughness=0.3,
            )
        ]
    if kind == "ball":
        vertices, triangles = _ball(rng.uniform(1.0, 4.5))
        return [
            Piece(
                "ball",
                "thing",
                vertices + place + np.array([0, 0, 2.0]),
                triangles,
                colour,
                roughness=float(rng.uniform(0.1, 0.9)),
            )
        ]
    direction = turned((0, 0, 1), turn) @ np.array([1.0, 0.0, 0.1])
    vertices, triangles = tube(
        np.linspace(-1, 1, 6)[:, None] * direction * 14 * size + place + np.array([0, 0, 1.5]),
        rng.uniform(0.25, 0.9),
        8,
    )
    return [Piece("stick", "thing", vertices, triangles, colour, roughness=0.5)]


def _outside(points: F64, anchors: Anchors, clearance: float) -> tuple[F64, float]:
    """Points moved together to the front until none lies inside the head."""
    near = cKDTree(anchors.vertices).query(points)[1]
    height = ((points - anchors.vertices[near]) * anchors.normals[near]).sum(axis=1)
    front = anchors.normals[near][:, 2] > 0.2
    lift = float(np.clip((clearance - height[front]).max(initial=0.0), 0, 2.5))
    return points + np.array([0, 0, 0.8 * lift]), lift


def _ball(radius: float) -> tuple[F64, Ints]:
    theta, phi = np.linspace(0.01, np.pi - 0.01, 14), np.linspace(0, 2 * np.pi, 24, endpoint=False)
    vertices = radius * np.stack([
        np.sin(theta)[:, None] * np.cos(phi), np.broadcast_to(np.cos(theta)[:, None], (14, 24)),
        np.sin(theta)[:, None] * np.sin(phi),
    ], axis=-1)  # fmt: skip
    return vertices.reshape(-1, 3), grid_triangles(14, 24, wrap_columns=True)


def picture_texture(picture: NDArray[np.uint8], size: int = 256) -> NDArray[np.float32]:
    """A texture picture, RGB or RGBA, as linear light at most ``size`` pixels wide."""
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return to_linear(np.asarray(small[..., :3], np.uint8))
