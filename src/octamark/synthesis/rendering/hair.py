"""Hair styles, beards, brows and lashes of a person, as pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from octamark.synthesis.rendering.assets import F64, Fit, ObjMesh
from octamark.synthesis.rendering.heads import SKIN, HeadModel, closest_on_mesh
from octamark.synthesis.rendering.person import HAIR, Person
from octamark.synthesis.rendering.pieces import Piece
from octamark.synthesis.rendering.skin import SOFT_HAIRLINE, beard_form, beard_share, scalp_share
from octamark.synthesis.rendering.strands import Ground, grow, ribbons, roots_on

Random = np.random.Generator


@dataclass(frozen=True)
class Style:
    """How hair grows; ranges are (low, high), centimetres.

    Attributes:
        count: strands. length: on top. sides: share of the length at the sides. lift: away from the skin.
        fall: along the radii from the crown. part: to the sides of a parting. back: towards the back of the head.
        gravity, curl, turns, noise, clearance, steps, hug, drape, inward: of ``strands.grow``.
        width: of a strand; thick ones stand for locks.
    """

    count: int
    length: tuple[float, float]
    sides: tuple[float, float] = (1.0, 1.0)
    lift: tuple[float, float] = (0.2, 0.6)
    fall: tuple[float, float] = (0.5, 1.0)
    part: tuple[float, float] = (0.0, 0.0)
    back: tuple[float, float] = (0.0, 0.0)
    gravity: tuple[float, float] = (0.05, 0.15)
    curl: tuple[float, float] = (0.0, 0.0)
    turns: float = 2.0
    noise: float = 0.12
    clearance: tuple[float, float] = (0.3, 0.9)
    steps: int = 6
    width: float = 0.09
    hug: float = 0.7
    drape: float = 0.0
    inward: tuple[float, float] = (0.0, 0.0)


STYLES: dict[str, Style] = {
    "buzz": Style(9000, (0.2, 0.6), lift=(0.8, 1.5), hug=0.0, steps=2, width=0.06, clearance=(0.1, 0.2)),
    "short": Style(
        7500,
        (2.0, 5.0),
        (0.25, 0.7),
        lift=(0.2, 0.7),
        fall=(0.6, 1.0),
        back=(-0.8, 0.6),
        gravity=(0.1, 0.25),
        noise=0.16,
        hug=0.4,
        steps=5,
        clearance=(0.5, 1.4),
    ),
    "crop": Style(7500, (1.2, 2.5), (0.3, 0.8), lift=(0.7, 1.5), fall=(0.2, 0.8), noise=0.25, hug=0.1, steps=4),
    "side": Style(7500, (5.0, 9.0), (0.3, 0.6), lift=(0.2, 0.6), fall=(0.1, 0.4), part=(0.8, 1.3), back=(0.0, 0.6)),
    "back": Style(
        7500, (6.0, 11.0), (0.5, 0.9), lift=(0.2, 0.6), fall=(0.0, 0.2), back=(1.0, 1.6), gravity=(0.0, 0.06)
    ),
    "curly": Style(
        5800,
        (5.0, 10.0),
        (0.6, 1.0),
        lift=(0.8, 1.3),
        curl=(0.25, 0.6),
        turns=4.0,
        noise=0.3,
        hug=0.3,
        steps=10,
        gravity=(0.05, 0.12),
        clearance=(0.8, 2.5),
    ),
    "afro": Style(
        7000,
        (3.0, 9.0),
        (0.7, 1.0),
        lift=(3.0, 5.0),
        fall=(0.0, 0.3),
        curl=(0.2, 0.45),
        turns=4.0,
        noise=0.35,
        hug=0.0,
        steps=8,
        gravity=(0.0, 0.02),
        clearance=(1.0, 4.0),
    ),
    "bob": Style(
        5800,
        (16.0, 22.0),
        (0.7, 0.9),
        lift=(0.1, 0.4),
        fall=(0.2, 0.6),
        part=(0.8, 1.4),
        back=(0.3, 0.9),
        gravity=(0.25, 0.4),
        steps=7,
        clearance=(0.8, 2.6),
        noise=0.08,
        width=0.11,
        drape=0.6,
        inward=(-0.1, 0.3),
    ),
    "long": Style(
        5800,
        (28.0, 42.0),
        (0.9, 1.0),
        lift=(0.1, 0.4),
        fall=(0.2, 0.5),
        part=(0.8, 1.4),
        back=(0.3, 0.9),
        gravity=(0.25, 0.4),
        steps=7,
        clearance=(0.8, 2.8),
        noise=0.08,
        width=0.11,
        drape=0.6,
        inward=(-0.1, 0.3),
    ),
    "wavy": Style(
        5800,
        (20.0, 36.0),
        (0.8, 1.0),
        lift=(0.3, 0.7),
        fall=(0.2, 0.5),
        part=(0.8, 1.4),
        back=(0.3, 0.9),
        gravity=(0.2, 0.35),
        curl=(0.3, 0.8),
        turns=4.0,
        steps=11,
        clearance=(1.0, 3.4),
        noise=0.12,
        width=0.11,
        drape=0.6,
        inward=(-0.1, 0.3),
    ),
    "tied": Style(
        6500,
        (9.0, 13.0),
        (0.8, 1.0),
        lift=(0.05, 0.15),
        fall=(0.0, 0.0),
        back=(2.0, 2.6),
        gravity=(0.0, 0.0),
        noise=0.05,
        steps=6,
        clearance=(0.2, 0.5),
    ),
    "bun": Style(
        6500,
        (9.0, 13.0),
        (0.8, 1.0),
        lift=(0.05, 0.15),
        fall=(-1.0, -0.6),
        back=(0.6, 1.4),
        gravity=(0.0, 0.0),
        noise=0.05,
        steps=6,
        clearance=(0.2, 0.5),
    ),
    "ringed": Style(4500, (1.0, 3.0), (0.8, 1.0), lift=(0.3, 0.8), fall=(0.4, 1.0), steps=4),
}


def hair_texture(person: Person, colour: str, rng: Random) -> NDArray[np.float32]:
    """Albedo (16, 64, 3) of strands: shades along the width, from tip to root along the height."""
    base = np.array(HAIR[colour], np.float32) * person.options["hair_light"]
    shades = np.exp(rng.normal(0, 0.28, (1, 64, 1))) * (1 + rng.normal(0, 0.05, (1, 64, 3)))
    out = base * shades * np.linspace(1.25, 0.8, 16)[:, None, None]
    out[:, rng.random(64) < person.options["highlights"]] *= 1.5
    grey = rng.random(64) < person.options["grey_share"]
    out[:, grey] = np.array(HAIR["grey"]) * shades[0, grey]
    if colour.startswith("dyed") or (colour == "blond" and rng.random() < 0.3):
        out[10:] = 0.5 * out[10:] + 0.5 * np.array(HAIR["dark brown"])
    return np.asarray(np.clip(out, 0.003, 0.85), np.float32)


def ground_of(vertices: F64, normals: F64, base: F64) -> Ground:
    """The skin of a head, and the shoulders of MakeHuman's base mesh, as a surface for strands to rest on."""
    body = base[(base[:, 1] < -11) & (base[:, 1] > -45)]
    middle = np.array([0.0, 0.0, -2.0])
    outward = (body - middle) * [0.1, 0, 2.5]  # hair slides off the shoulders to the chest or the back
    outward[:, 1] = 4.0
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    every = np.concatenate([vertices[:SKIN], body])
    return Ground(every, np.concatenate([normals[:SKIN], outward]), cKDTree(every))


def hair_pieces(
    head: HeadModel, person: Person, vertices: F64, normals: F64, ground: Ground, covered: bool, rng: Random
) -> list[Piece]:
    """The hair of a person; nothing for a bald one.

    Args:
        covered: a hat presses the hair to the head.
    """
    options = person.options
    if options["style"] == "bald":
        return []
    style = STYLES[options["style"]]
    triangles = head.triangles["skin"]
    middles = head.mean[triangles].mean(axis=1)
    density = scalp_share(
        middles, options["hairline"], SOFT_HAIRLINE if options["sex"] == "male" else 0.6 * SOFT_HAIRLINE
    )
    if options["style"] == "ringed":
        density = density * np.clip((8.5 - middles[:, 1]) / 2.0, 0.0, 1)
    if options["hairline"] > 1.0 and options["sex"] == "male":
        density = density * (
            1 - 0.75 * np.exp(-(((middles[:, 0]) / 3) ** 2) - ((middles[:, 2] + 3) / 3.5) ** 2) * (middles[:, 1] > 10)
        )
    hat = options["things"].get("hat")
    if hat is not None and hat["kind"] != "band":  # what it hides does not grow through it
        density = density * (middles[:, 1] < (8.0 if hat["kind"].startswith("fedora") else 7.2 + hat["low"]))
    if density.sum() < 1:
        return []
    roots, up, chosen, weights = roots_on(vertices[:SKIN], normals[:SKIN], triangles, density, style.count, rng)
    rest = (head.mean[triangles[chosen]] * weights[..., None]).sum(axis=1)

    def value(name: str) -> float:
        return float(rng.uniform(*getattr(style, name)))

    crown = np.array([rng.normal(0, 1.0), 13.5, -4.0 + rng.normal(0, 1)])
    radial = rest - crown
    radial /= np.maximum(np.linalg.norm(radial, axis=1, keepdims=True), 1e-6)
    line = rng.choice([-1.0, 1.0]) * rng.uniform(0, 4.0)
    sideways = np.column_stack([np.tanh((rest[:, 0] - line) / 1.0), np.zeros((len(rest), 2))])
    backwards = np.array([0.0, 0.15, -1.0])
    if options["style"] in ("tied", "bun"):  # towards one knot
        knot = np.array([0.0, 7.0 if options["style"] == "bun" else 3.0, -9.5])
        backwards = knot - rest
        backwards = backwards / np.maximum(np.linalg.norm(backwards, axis=1, keepdims=True), 1e-6)
    flow = value("fall") * radial + value("part") * sideways + value("back") * backwards
    flow = flow - (flow * up).sum(axis=1, keepdims=True) * up
    direction = flow + value("lift") * (0.15 if covered else 1.0) * up + rng.normal(0, 0.1, flow.shape)
    top = np.clip((rest[:, 1] - 7.0) / 4.0, 0, 1)
    length = value("length") * (value("sides") * (1 - top) + top) * rng.uniform(0.75, 1.1, len(rest))
    if options["style"] in ("tied", "bun"):
        length = np.linalg.norm(knot - rest, axis=1) * rng.uniform(0.85, 1.1, len(rest))
    elif options["child"]:
        length = length * 0.8
    clearance = value("clearance") * (0.3 if covered else 1.0)
    gravity = np.full(len(rest), value("gravity"))
    bangs = _bangs(options["bangs"], rest, line, rng) if not covered and options["style"] in BANGED else None
    if bangs is not None:
        chosen_hairs, ways, lengths = bangs
        ways = ways - (ways * up).sum(axis=1, keepdims=True) * up
        direction = np.where(chosen_hairs[:, None], ways + 0.35 * up + rng.normal(0, 0.08, ways.shape), direction)
        length = np.where(chosen_hairs, lengths, length)
        gravity = np.where(chosen_hairs, 0.18, gravity)
    lines = grow(
        roots, direction, length, ground, rng, steps=style.steps, gravity=gravity, noise=style.noise,
        curl=value("curl"), turns=style.turns * length.mean() / np.mean(style.length), clearance=clearance,
        hug=style.hug, drape=style.drape, inward=value("inward"),
    )  # fmt: skip
    if options["fringe"] < 1.0:
        between = np.concatenate([lines, (lines[:, 1:] + lines[:, :-1]) / 2], axis=1)
        x, y, z = np.abs(between[..., 0]), between[..., 1], between[..., 2]
        veils = ((z > 6.2) & (y < 7.0) & (y > -8.0) & (x < 5.9)).any(axis=1)
        if bangs is not None:  # those on the forehead stay, and those over one eye
            low = (y < 4.4).any(axis=1) & (options["bangs"] != "veil")
            veils &= ~bangs[0] | low
        lines = lines[~veils | (rng.random(len(lines)) < options["fringe"])]
    pieces = [_strands("hair", "hair", lines, style.width, hair_texture(person, options["hair"], rng), rng)]
    if options["style"] in ("tied", "bun"):
        pieces.append(_knot(person, options["style"], ground, rng))
    return pieces


BANGED = ("short", "side", "bob", "long", "wavy", "tied", "bun")
"""Styles that may have hair on the forehead."""


def _bangs(kind: str, rest: F64, line: float, rng: Random) -> tuple[NDArray[np.bool_], F64, F64] | None:
    """Hair combed on the forehead: which roots (n,), their directions (n, 3) and lengths (n,); None for none.

    Args:
        kind: ``full`` to the brows, ``swept`` to one side, ``veil`` over one eye.
        rest: roots (n, 3) on the mean head.
        line: x of the parting.
    """
    if kind == "none":
        return None
    x, y, z = rest[:, 0], rest[:, 1], rest[:, 2]
    chosen = (z > 2.5) & (y > 8.0) & (np.abs(x) < 6.0)
    side = 1.0 if line <= 0 else -1.0  # away from the parting
    if kind == "full":
        chosen &= rng.random(len(x)) < 0.85
        end = np.full(len(x), rng.uniform(4.6, 7.4)) + 0.03 * x**2
        ways = np.column_stack([0.12 * x + rng.normal(0, 0.12), -0.2 + 0 * x, np.ones(len(x))])
    else:
        chosen &= (side * (x - line) > -0.5) & (rng.random(len(x)) < 0.8)
        end = np.full(len(x), rng.uniform(4.0, 7.0) if kind == "swept" else rng.uniform(-3.0, 2.5))
        ways = np.column_stack([np.full(len(x), side * rng.uniform(0.5, 1.3)), -0.2 + 0 * x, np.ones(len(x))])
    drop = np.maximum(y - end, 0.5)
    lengths = np.hypot(drop, np.maximum(10.0 - z, 0.0)) * (1.05 if kind == "full" else 1.3)
    return chosen, ways, lengths * rng.uniform(0.8, 1.05, len(x))


def _knot(person: Person, style: str, ground: Ground, rng: Random) -> Piece:
    """The tail or bun of tied hair."""
    start = ground.push_out(np.array([[0.0, 7.0 if style == "bun" else 3.0, -9.5]]), np.array([0.4]))[0][0]
    count = 1800
    roots = start + rng.normal(0, 0.7, (count, 3))
    if style == "bun":
        size = rng.uniform(2.0, 3.6)
        angles = rng.uniform(0, 2 * np.pi, count)[:, None] + np.linspace(0, 4.5, 9)[None]
        height = rng.uniform(-1, 1, count)[:, None] + np.linspace(0, 0.3, 9)
        ring = np.sqrt(np.clip(1.05 - height**2, 0.02, 1))
        lines = (
            start
            + [0.0, 1.0, -0.6 * size]
            + size * np.stack([ring * np.cos(angles), ring * np.sin(angles), height], axis=-1)
        )
        outward = lines - (start + np.array([0.0, 1.0, -0.6 * size]))
        outward /= np.maximum(np.linalg.norm(outward, axis=2, keepdims=True), 1e-6)
        texture = hair_texture(person, person.options["hair"], rng)
        parts = ribbons(lines, outward, 0.12, rng)
        return Piece("knot", "hair", parts[0], parts[1], texture, parts[3], normals=parts[2], roughness=0.4)
    direction = np.tile([rng.normal(0, 0.4), 0.2, -1.0], (count, 1)) + rng.normal(0, 0.15, (count, 3))
    lines = grow(
        roots, direction, rng.uniform(12, 30, count), ground, rng, steps=9, gravity=0.3, noise=0.05, clearance=1.2
    )
    return _strands("knot", "hair", lines, 0.1, hair_texture(person, person.options["hair"], rng), rng)


def _strands(
    name: str, kind: Any, lines: F64, width: float, texture: NDArray[np.float32], rng: Random, centre: F64 | None = None
) -> Piece:
    middle = np.array([0.0, 2.0, 0.0]) if centre is None else centre
    outward = (lines - middle) * [1.0, 0.6, 1.0]
    outward /= np.maximum(np.linalg.norm(outward, axis=2, keepdims=True), 1e-6)
    vertices, triangles, normals, uv = ribbons(lines, outward, width, rng)
    return Piece(name, kind, vertices, triangles, texture, uv, normals=normals, roughness=0.5, specular=0.3)


def beard_pieces(
    head: HeadModel, person: Person, vertices: F64, normals: F64, ground: Ground, rng: Random
) -> list[Piece]:
    """The strands of a beard or moustache; stubble is painted on the skin instead."""
    beard = person.options["beard"]
    if beard in ("none", "stubble"):
        return []
    triangles = head.triangles["skin"]
    middles = head.mean[triangles].mean(axis=1)
    density = beard_share(middles) * beard_form(beard, np.abs(middles[:, 0]), middles[:, 1])
    if density.sum() < 1:
        return []
    low, high, count = {
        "short": (0.4, 1.0, 5000),
        "full": (1.2, 3.0, 5500),
        "long": (5.0, 12.0, 5500),
        "moustache": (0.5, 1.3, 1500),
        "goatee": (0.6, 2.5, 2200),
    }[beard]
    roots, up, chosen, weights = roots_on(vertices[:SKIN], normals[:SKIN], triangles, density, count, rng)
    rest = (head.mean[triangles[chosen]] * weights[..., None]).sum(axis=1)
    above = rest[:, 1] > -3.2  # the moustache stays short
    length = rng.uniform(low, high) * rng.uniform(0.6, 1.1, count)
    length[above] = np.minimum(length[above], 0.9)
    down = np.column_stack([0.25 * np.sign(rest[:, 0]) * above, -np.ones(count), np.zeros(count)])
    direction = up * rng.uniform(0.3, 0.8) + 0.6 * down + rng.normal(0, 0.2, (count, 3))
    lines = grow(roots, direction, length, ground, rng, steps=5, gravity=0.12, noise=0.2, clearance=0.4)
    return [_strands("beard", "head", lines, 0.08, hair_texture(person, person.options["hair"], rng), rng)]


def lash_pieces(head: HeadModel, person: Person, vertices: F64, rng: Random) -> list[Piece]:
    """Lashes as strands along the free edges of the lids."""
    lines = []
    for side, sign in (("left", 1), ("right", -1)):
        corners, weights = head.lids[side]
        rim = (vertices[corners] * weights[..., None]).sum(axis=1)
        half = len(rim) // 2
        for edge, up, strength, count in ((rim[:half], 1.0, 1.0, 110), (rim[half:], -0.6, 0.5, 60)):
            share = rng.uniform(0.06, 0.94, count) * (half - 1)
            first = share.astype(int)
            start = edge[first] + (share - first)[:, None] * (edge[first + 1] - edge[first])
            outer = share / (half - 1) if sign > 0 else 1 - share / (half - 1)
            length = person.options["lashes"] * strength * rng.uniform(0.45, 0.8, count) * (0.7 + 0.5 * outer)
            way = np.column_stack([sign * (outer - 0.4) * 0.9, np.full(count, 0.25 * up), np.ones(count)])
            way += rng.normal(0, 0.12, way.shape)
            way /= np.linalg.norm(way, axis=1, keepdims=True)
            shares = np.linspace(0, 1, 4)[None, :, None]
            bend = np.array([0.0, 0.45 * up, 0.0])
            lines.append(start[:, None] + length[:, None, None] * (way[:, None] * shares + bend * shares**2))
    every = np.concatenate(lines)
    outward = np.tile([0.0, 0.5, 1.0], (*every.shape[:2], 1))
    vertices, triangles, normals, _ = ribbons(every, outward, 0.022, rng)
    dark = np.array(HAIR[person.options["brow_colour"]], np.float32) * 0.6
    if person.options["make_up"]:
        dark = np.full(3, 0.006, np.float32)
    return [Piece("lash", "head", vertices, triangles, dark.reshape(1, 1, 3), normals=normals)]


def brow_roots(mesh: ObjMesh, fit: Fit, alpha: NDArray[np.float32], base: F64, count: int, rng: Random) -> F64:
    """Places (count, 3) of the hairs of both brows: drawn on MakeHuman's cards where these are not transparent."""
    height, width = alpha.shape
    share = np.clip(alpha.astype(np.float64) - 0.15, 0, 1).ravel()
    pixel = rng.choice(share.size, count, p=share / share.sum())
    uv = np.column_stack(
        [(pixel % width + rng.random(count)) / width, 1 - (pixel // width + rng.random(count)) / height]
    )
    flat = np.column_stack([mesh.uv, np.zeros(len(mesh.uv))])
    owner, weights = closest_on_mesh(np.column_stack([uv, np.zeros(count)]), flat, mesh.uv_triangles)
    return np.asarray((fit.place(base)[mesh.triangles[owner]] * weights[..., None]).sum(axis=1))


def brow_pieces(person: Person, roots: F64, ground: Ground, rng: Random) -> list[Piece]:
    """The brows as strands from these roots (n, 3), in the colour of the brows."""
    count = len(roots)
    points, normals = ground.push_out(roots, np.full(count, 0.03))
    _, nearest = ground.tree.query(roots)
    height = ((points - ground.vertices[nearest]) * normals).sum(axis=1)
    points = points - np.maximum(height - 0.05, 0)[:, None] * normals
    side = np.sign(points[:, 0])
    inner = np.clip((2.2 - np.abs(points[:, 0])) / 1.6, 0, 1)
    way = np.column_stack([side * (1.0 - 0.7 * inner), 0.15 + 0.8 * inner, np.zeros(count)]) + rng.normal(
        0, 0.15, (count, 3)
    )
    length = rng.uniform(0.35, 0.75, count)
    lines = grow(points, way + 0.12 * normals, length, ground, rng, steps=3, noise=0.05, clearance=0.08)
    texture = hair_texture(person, person.options["brow_colour"], rng)
    return [_strands("brow", "head", lines, 0.035, texture, rng)]
