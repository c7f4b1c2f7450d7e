"""Skins, eyes and teeth: textures with tone, spots, wrinkles, stubble and make-up, and the pieces that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.synthesis.rendering.assets import F64, Assets
from octamark.synthesis.rendering.heads import PARTS, SKIN, HeadModel, vertex_normals
from octamark.synthesis.rendering.person import HAIR, IRIS, SKIN_TONES, Person
from octamark.synthesis.rendering.pieces import Piece, plain

F32 = NDArray[np.float32]

CHART = (0.63, 0.145, 1.0, 0.835)
"""The part of MakeHuman's skins that shows the head: first u, first v, last u, last v."""

IRIS_ANGLE = 23.0
"""Degrees from the eye's axis to the rim of the iris."""

SOFT_HAIRLINE = 2.0
"""Width over which hair thins out towards the forehead and temples, centimetres."""


def to_linear(picture: NDArray[Any]) -> F32:
    """Linear light (float32) of an sRGB picture (uint8)."""
    table = (np.arange(256) / 255.0) ** 2.2
    return np.asarray(table.astype(np.float32)[picture])


def noise_field(shape: tuple[int, int], cell: float, rng: np.random.Generator, channels: int = 1) -> F32:
    """Smooth noise (H, W) or (H, W, C), about standard normal, with lumps of ``cell`` pixels."""
    small = (max(2, int(shape[0] / cell) + 2), max(2, int(shape[1] / cell) + 2), channels)
    field = rng.normal(0, 1.5, small).astype(np.float32)
    out = cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(out)


def scalp_share(mean: NDArray[Any], hairline: float | F32 = 0.0, soft: float = 0.7) -> NDArray[Any]:
    """How much of the scalp lies at places (..., 3) of the mean head: 1 where hair grows, 0 on the face.

    Args:
        hairline: how far the hair has receded from the forehead, centimetres, one number or (...).
        soft: width over which the hair thins out towards the face, centimetres.
    """
    x, y, z = mean[..., 0], mean[..., 1], mean[..., 2]
    level = np.array([-6.5, -5.5, -4.0, 0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 10.0, 12.0, 16.0])
    front = np.array([-6.5, -5.8, -4.8, -2.8, -2.2, 2.2, 3.0, 3.8, 4.9, 6.6, 8.2, 9.5])
    recede = np.clip((y - 5.0) / 3.0, 0, 1) * hairline * (1 + 0.6 * np.exp(-(((np.abs(x) - 4.5) / 1.8) ** 2)))
    limit = np.interp(y, level, front) - recede
    ears = ((y - 1.0) / 3.8) ** 2 + ((z + 0.3) / 2.9) ** 2
    bare = (np.abs(x) > 7.0) * np.clip((1.1 - ears) / 0.15, 0, 1)
    return np.asarray(np.where(y < -6.5, 0.0, np.clip((limit - z) / soft + 0.5, 0, 1) * (1 - bare)))


def beard_share(mean: F64) -> F64:
    """How much of the beard's region lies at places (..., 3) of the mean head, moustache included."""
    x, y, z = np.abs(mean[..., 0]), mean[..., 1], mean[..., 2]
    top = np.interp(x, [0.0, 2.6, 3.2, 4.5, 6.5, 7.5, 8.2], [-1.7, -1.9, -3.3, -4.2, -2.2, 0.5, 2.0])
    under = np.interp(z, [-1.0, 3.0, 9.0, 12.0], [-7.0, -9.5, -8.6, -8.0])
    region = np.clip((top - y) / 0.8, 0, 1) * np.clip((y - under) / 0.8, 0, 1) * np.clip((z - 0.8) / 0.8, 0, 1)
    lips = (x < 2.75) & (y < -2.35) & (y > -4.75) & (z > 9.0)
    bare = (x > 0.5) & (x < 2.0) & (y < -4.7) & (y > -5.4) & (z > 9)
    return np.asarray(np.where(lips, 0.0, region) * np.where(bare, 0.6, 1.0))


class SkinMap:
    """MakeHuman's skin chart of the head, with the place on the mean head of each of its pixels.

    Args:
        head: the model whose skin it is.
        size: side of the whole texture, pixels.
    """

    def __init__(self, head: HeadModel, assets: Assets, size: int = 1400) -> None:
        self.head, self.assets, self.size = head, assets, size
        u0, v0, u1, v1 = CHART
        self.left, self.top = round(u0 * size), round((1 - v1) * size)
        self.width, self.height = round((u1 - u0) * size), round((v1 - v0) * size)
        triangles = head.triangles["skin"]
        inside = ((head.skin_uv >= [u0, v0]) & (head.skin_uv <= [u1, v1])).all(axis=(1, 2))
        self.head_triangles, self.bust_triangles = np.flatnonzero(inside), np.flatnonzero(~inside)
        corners = head.skin_uv[inside] * size
        corners[..., 1] = size - corners[..., 1]
        corners -= [self.left, self.top]
        place = np.zeros((self.height, self.width, 3), np.float32)
        known = np.zeros((self.height, self.width), np.uint8)
        middles = head.mean[triangles[inside]].mean(axis=1)
        whole = np.round(corners).astype(np.int32)
        for corner, middle in zip(whole, middles, strict=True):
            cv2.fillConvexPoly(place, corner, middle.tolist())
            cv2.fillConvexPoly(known, corner, 1)
        soft = cv2.GaussianBlur(place, (0, 0), 2.0)
        weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 2.0)[..., None]
        self.place: F32 = np.asarray(soft / np.maximum(weight, 1e-3), np.float32)
        self.known = weight[..., 0] > 0.3

    @cached_property
    def lips(self) -> F32:
        """Share of the lips in each pixel of the chart."""
        import json

        listed = json.loads((self.assets.folder / "ict/vertex_indices.json").read_text(encoding="utf-8"))
        ring = self.head.mean[np.array(listed["idx_to_landmark_verts"])[48:60]]
        scale = 32.0
        inside = np.zeros((512, 512), np.uint8)
        polygon = np.round((ring[:, :2] + [8, 11]) * scale).astype(np.int32)
        cv2.fillPoly(inside, [polygon], 255)
        soft = cv2.GaussianBlur(inside, (0, 0), 4).astype(np.float32) / 255
        xy = ((self.place[..., :2] + [8, 11]) * scale).astype(np.float32)
        picked = cv2.remap(soft, xy[..., 0], xy[..., 1], cv2.INTER_LINEAR)
        return np.asarray(picked * (self.place[..., 2] > 8.5))

    @cached_property
    def scalp(self) -> F32:
        return np.asarray(scalp_share(self.place.astype(np.float64)), np.float32)

    @cached_property
    def beard(self) -> F32:
        return np.asarray(beard_share(self.place.astype(np.float64)), np.float32)

    def _texture(self, name: str) -> F32:
        cache: dict[str, F32] = self.__dict__.setdefault("_textures", {})
        if name not in cache:
            if len(cache) >= 4:
                cache.pop(next(iter(cache)))
            picture = self.assets.picture(f"mh/skins/{name}.jpg")[..., :3]
            picture = np.asarray(cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA), np.uint8)
            cache[name] = to_linear(picture)
        return cache[name]

    def tone(self, person: Person) -> F32:
        """The linear colour (3,) of a person's facial skin."""
        if "skin_colour" in person.options:
            return np.array(person.options["skin_colour"], np.float32)
        position = person.options["tone"]
        low = min(int(position), len(SKIN_TONES) - 2)
        share = position - low
        tone = (1 - share) * np.array(SKIN_TONES[low]) + share * np.array(SKIN_TONES[low + 1])
        return np.asarray(tone, np.float32)

    def paint(self, person: Person, rng: np.random.Generator) -> tuple[F32, F32]:
        """Linear albedo of the head's chart (height, width, 3), and of the whole texture at a quarter of the size."""
        options = person.options
        whole = self._texture(options["skin"])
        chart = whole[self.top : self.top + self.height, self.left : self.left + self.width]
        x, y, z = (self.place[..., k] for k in range(3))
        cheeks = (np.abs(x) < 6) & (y > -6) & (y < 9) & (z > 6.5) & self.known
        usual = chart[cheeks].mean(axis=0)
        tone = self.tone(person)
        gain = tone / usual
        smooth = person.options.get("plain_skin", 0.0)
        if smooth:
            chart = chart + smooth * (usual - chart)
        small = cv2.resize(whole, (self.size // 4, self.size // 4), interpolation=cv2.INTER_AREA) * gain
        out = chart * gain
        scalp = self.scalp[..., None]
        bare = tone * (1 + 0.05 * noise_field(out.shape[:2], 30, rng)[..., None])
        out = out * (1 - scalp) + bare * scalp
        lumps = noise_field(out.shape[:2], 45, rng)
        red = 0.10 * options["redness"] * (np.exp(-(((np.abs(x) - 4.5) / 2) ** 2 + ((y + 0.5) / 2) ** 2)) + np.exp(
            -((x / 1.3) ** 2 + ((y + 0.8) / 1.5) ** 2)) + 0.3 * lumps)  # fmt: skip
        out = out * (1 + red[..., None] * np.array([0.6, -0.8, -0.8], np.float32))
        if options["spots"] > 0.15:
            density = noise_field(out.shape[:2], 60, rng)  # freckles and moles come in groups, and in sizes
            fine, coarse = (noise_field(out.shape[:2], cell, rng) for cell in rng.uniform((2.0, 5.0), (4.0, 9.0)))
            field = np.maximum(fine, coarse - 0.7) + 0.6 * density
            spots = np.clip(field - 3.0 + options["spots"], 0, 1)
            out = out * (1 - 0.32 * spots[..., None] * np.array([0.5, 0.8, 1.0], np.float32))
        if options["wrinkles"] > 0.1:
            out = out * (
                1 - 0.38 * options["wrinkles"] * self._lines(rng)[..., None] * np.array([0.8, 1, 1], np.float32)
            )
        beard = options["beard"]
        hair = np.array(HAIR[options["hair"]], np.float32)
        if beard != "none" or (options["sex"] == "male" and not options["child"] and rng.random() < 0.4):
            grain = np.clip(0.5 + 0.5 * noise_field(out.shape[:2], 2.2, rng), 0, 1)
            strength = {"none": 0.25, "stubble": 0.75}.get(beard, 0.6)
            share = (self._beard_mask(beard) * grain * strength * 0.8)[..., None]
            out = out * (1 - share) + np.minimum(hair * 1.3, out) * share
        style = options["style"]
        if style != "bald":
            uneven = 0.35 * noise_field(out.shape[:2], 40, rng)
            grown = scalp_share(self.place, options["hairline"] + 0.4 + uneven, SOFT_HAIRLINE)
            grown = grown[..., None].astype(np.float32)
            if style == "ringed":
                grown = grown * np.clip((8.5 - y[..., None]) / 2.0, 0, 1)
            grain = 0.7 + 0.3 * np.clip(noise_field(out.shape[:2], 2.5, rng), -1, 1)[..., None]
            share = grown**1.5 * grain * (0.8 if style != "buzz" else 0.75)
            out = out * (1 - share) + hair * options["hair_light"] * share
        make_up: Mapping[str, Any] = options["make_up"]
        if make_up:
            lips = (self.lips * make_up["lips"])[..., None]
            out = out * (1 - lips) + np.array(make_up["lip_colour"], np.float32) * (0.4 + tone.mean()) * lips
            lids = np.exp(-(((np.abs(x) - 3.2) / 1.5) ** 2) - ((y - 4.6) / 0.55) ** 2) * (z > 7)
            out = out * (1 - 0.75 * make_up["lids"] * lids[..., None] * np.array([0.7, 0.9, 0.8], np.float32))
            cheek = np.exp(-(((np.abs(x) - 5.0) / 1.6) ** 2) - ((y - 0.3) / 1.3) ** 2)
            out = out * (1 + make_up["cheeks"] * cheek[..., None] * np.array([0.2, -0.5, -0.35], np.float32))
        return np.clip(out, 0.002, 0.9).astype(np.float32), np.clip(small, 0.002, 0.9).astype(np.float32)

    def _beard_mask(self, beard: str) -> F32:
        x, y = np.abs(self.place[..., 0]), self.place[..., 1]
        return np.asarray(self.beard * beard_form(beard, x, y), np.float32)

    def _lines(self, rng: np.random.Generator) -> F32:
        """Depth of wrinkles, 0 to 1, in each pixel of the chart."""
        return np.asarray(wrinkle_depth(self.place, rng), np.float32)


def beard_form(beard: str, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The share of the beard's region that a kind of beard covers; x is the distance from the midline."""
    if beard == "moustache":
        return np.asarray((y > -3.3) & (x < 3.2), np.float64)
    if beard == "goatee":
        return np.asarray(np.clip((3.1 - x) / 0.5, 0, 1))
    return np.ones_like(y, dtype=np.float64)


def wrinkle_depth(mean: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Depth of wrinkles, 0 to 1, at places (..., 3) of the mean head: forehead, brows, eyes, beside the mouth."""
    x, y, z = mean[..., 0], mean[..., 1], mean[..., 2]
    wave, phase = rng.uniform(0.9, 1.4), rng.uniform(0, 6)
    bend = 0.25 * np.sin(0.6 * x + phase) - 0.02 * x**2
    forehead = (
        np.exp(-(((y - 8.2) / 1.7) ** 2) - (x / 4.2) ** 4) * (0.5 + 0.5 * np.sin(2 * np.pi * (y + bend) / wave)) ** 4
    )
    frown = np.exp(-(((np.abs(x) - 0.75 - 0.1 * (y - 5.5)) / 0.12) ** 2) - ((y - 5.7) / 0.9) ** 2)
    angle = np.arctan2(y - 3.4, np.abs(x) - 4.4)
    radius = np.hypot(y - 3.4, np.abs(x) - 4.4)
    crow = np.exp(-(((radius - 1.4) / 0.7) ** 2)) * (np.abs(angle) < 0.9) * (0.5 + 0.5 * np.cos(angle * 11)) ** 3
    fold = np.exp(-(((np.abs(x) - 2.2 - 0.42 * np.clip(-0.6 - y, 0, 4)) / 0.20) ** 2) - ((y + 2.2) / 1.4) ** 4)
    bags = np.exp(-(((np.hypot((np.abs(x) - 3.2) / 1.6, (y - 3.4) / 1.25) - 1) / 0.13) ** 2)) * (y < 3.2)
    amounts = rng.uniform(0.3, 1.0, 5).tolist()  # plain numbers, so that single precision stays
    total = sum(a * d for a, d in zip(amounts, (forehead, frown, crow, fold, bags), strict=True))
    return np.asarray(np.clip(total, 0, 1) * (z > 4))


def eye_rotation(person: Person, eye: str) -> F64:
    """The rotation (3, 3) of an eyeball, ``"left_eye"`` or ``"right_eye"``, from straight ahead to the person's gaze.

    The axis of an eyeball points a few degrees outwards of where the person looks (angle kappa).
    """
    from octamark.synthesis.rendering.pieces import turned

    yaw, pitch = person.gaze
    outwards = person.options["kappa"] * (1 if eye == "left_eye" else -1)
    return np.asarray(turned((0, 1, 0), yaw + outwards) @ turned((1, 0, 0), -pitch))


def gaze_shapes(person: Person) -> dict[str, float]:
    """Weights of the expression shapes by which the lids follow the gaze."""
    yaw, pitch = person.gaze
    shapes = {"eyeLookOut_L": yaw / 35, "eyeLookIn_R": yaw / 35, "eyeLookIn_L": -yaw / 35, "eyeLookOut_R": -yaw / 35}
    for side in "LR":
        shapes[f"eyeLookUp_{side}"], shapes[f"eyeLookDown_{side}"] = pitch / 28, -pitch / 28
    blink = max(person.expression.get("eyeBlink_L", 0), person.expression.get("eyeBlink_R", 0))
    return {name: min(1.0, value) * (1 - 0.8 * blink) for name, value in shapes.items() if value > 0}


def eye_texture(person: Person, rng: np.random.Generator, side: int = 192) -> F32:
    """Linear albedo (side, side, 3) of an eyeball: the distance from the middle is the angle from its axis."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle, turn = np.hypot(x, y) * 90, np.arctan2(y, x)
    inner, outer = (
        np.array(colour, np.float32) * person.options["iris_light"] for colour in IRIS[person.options["iris"]]
    )
    rim = person.options.get("iris_angle", IRIS_ANGLE)
    share = np.clip(angle / rim, 0, 1)[..., None]
    fibres = np.interp(turn, np.linspace(-np.pi, np.pi, 128), rng.normal(0, 1, 128), period=2 * np.pi)
    fine = np.interp(turn, np.linspace(-np.pi, np.pi, 400), rng.normal(0, 1, 400), period=2 * np.pi)
    iris = (inner * (1 - share) + outer * share) * (1 + 0.18 * fibres + 0.12 * fine)[..., None]
    iris = iris * (1 - 0.75 * np.clip((share - 0.82) / 0.18, 0, 1))
    pupil = rim * person.options["pupil"]
    iris = iris * np.clip((angle - pupil) / 1.5, 0, 1)[..., None] + 0.002
    if person.options.get("highlight"):  # painted, as in drawings
        for way, size in (((-0.4, -0.45), 1.0), ((0.35, 0.4), 0.55)):
            spot = np.hypot(x * 90 / rim - way[0], y * 90 / rim - way[1]) - size * person.options["highlight"]
            iris = iris + np.clip(0.5 - spot * rim / 3.0, 0, 1)[..., None] * (0.85 - iris)
    white = np.array([0.50, 0.45, 0.42], np.float32) * (1 - 0.25 * np.clip((angle - 35) / 50, 0, 1))[..., None]
    white = white * np.float32(person.options["eye_white"] / 0.5) if "eye_white" in person.options else white
    veins = np.clip(noise_field((side, side), 5, rng) - 1.2, 0, 1) * np.clip((angle - 28) / 30, 0, 1)
    white = white * (1 - 0.35 * veins[..., None] * np.array([0.2, 1, 1], np.float32))
    edge = np.clip((angle - rim) / 2.0 + 0.5, 0, 1)[..., None]
    return np.asarray(np.clip(iris * (1 - edge) + white * edge, 0.001, 0.8), np.float32)


def head_pieces(
    head: HeadModel, skin: SkinMap, person: Person, vertices: F64, normals: F64, rng: np.random.Generator
) -> list[Piece]:
    """The pieces of a head with these vertices (26719, 3): skin, eyes, teeth, gums and the inside of the mouth."""
    chart, small = skin.paint(person, rng)
    tone = skin.tone(person)
    shine = float(person.options["shine"])
    pieces = []
    for name, chosen, texture in (("skin", skin.head_triangles, chart), ("bust", skin.bust_triangles, small)):
        triangles = head.triangles["skin"][chosen]
        uv = head.skin_uv[chosen]
        if name == "skin":
            u0, v0 = skin.left / skin.size, 1 - (skin.top + skin.height) / skin.size
            uv = (uv - [u0, v0]) / [skin.width / skin.size, skin.height / skin.size]
        keys = np.column_stack([triangles.ravel(), np.round(uv.reshape(-1, 2) * 4096)])
        unique, index, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        corner = unique[:, 0].astype(np.int64)
        pieces.append(
            Piece(
                name,
                "head",
                vertices[corner],
                inverse.reshape(-1, 3),
                texture,
                uv.reshape(-1, 2)[index],
                normals=normals[corner],
                roughness=1.0 - shine,
            )
        )
    sockets = np.concatenate([head.triangles["left_socket"], head.triangles["right_socket"]])
    pieces.append(
        _part(
            "sockets",
            vertices,
            sockets,
            plain((0.85 * tone[0] + 0.08, 0.6 * tone[1] + 0.02, 0.6 * tone[2] + 0.02)),
            0.35,
        )
    )
    pieces.append(_part("mouth", vertices, head.triangles["mouth"], plain((0.16, 0.035, 0.03)), 0.4))
    pieces.append(_part("gums", vertices, head.triangles["gums"], plain((0.36, 0.10, 0.09)), 0.3))
    pieces.append(_part("teeth", vertices, head.triangles["teeth"], plain(person.options["teeth"]), 0.2))
    iris = eye_texture(person, rng)
    for name in ("left_eye", "right_eye"):
        first = PARTS[name][0]
        ball = np.arange(first, first + 770)
        triangles = head.triangles[name]
        triangles = triangles[(triangles < first + 770).all(axis=1)]
        rest = head.mean[ball]
        centre = (rest.max(axis=0) + rest.min(axis=0)) / 2 - [0, 0, 0.14]
        from_axis = rest - centre
        angle = np.degrees(np.arccos(from_axis[:, 2] / np.linalg.norm(from_axis, axis=1))) / 90
        around = np.arctan2(from_axis[:, 1], from_axis[:, 0])
        uv = 0.5 + 0.5 * np.clip(angle, 0, 1)[:, None] * np.column_stack([np.cos(around), np.sin(around)])
        there = vertices[ball]
        middle = (there.max(axis=0) + there.min(axis=0)) / 2 - [0, 0, 0.14]
        moved = middle + (there - middle) @ eye_rotation(person, name).T
        pieces.append(Piece(name, "head", moved, triangles - first, iris, uv, roughness=0.06, specular=0.6))
    return pieces


def _part(name: str, vertices: F64, triangles: NDArray[np.int64], colour: F32, roughness: float) -> Piece:
    used, inverse = np.unique(triangles, return_inverse=True)
    return Piece(name, "head", vertices[used], inverse.reshape(-1, 3), colour, roughness=roughness)


def wrinkled(head: HeadModel, person: Person, vertices: F64, rng: np.random.Generator) -> F64:
    """The vertices with wrinkles pressed into the skin."""
    amount = person.options["wrinkles"]
    if amount < 0.1:
        return vertices
    normals = vertex_normals(vertices[:SKIN], head.triangles["skin"])
    out = vertices.copy()
    out[:SKIN] -= 0.09 * amount * wrinkle_depth(head.mean[:SKIN], rng)[:, None] * normals
    return out
