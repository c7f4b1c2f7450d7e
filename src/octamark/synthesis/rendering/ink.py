"""Heads as drawings: flat colours or black and white, ink lines where surfaces end, screen tone for shadows.

Lines follow from the geometry, not from a picture: T. Saito and T. Takahashi, Comprehensible Rendering of 3-D Shapes,
1990. So drawings have the labels of the heads that they show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.geometry import Picture
from octamark.synthesis.rendering.assets import F64
from octamark.synthesis.rendering.camera import Camera
from octamark.synthesis.rendering.pieces import Piece
from octamark.synthesis.rendering.skin import noise_field

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

FINE = 2
"""Rays per pixel along each axis; a drawing is made at this size and shrunk."""

GROUPS = ("nothing", "skin", "eye", "mouth", "teeth", "hair", "brow", "lash", "beard", "clothes", "thing")
"""What a ray can meet; a line is drawn where two of them meet."""

NAMES = {
    "skin": "skin", "bust": "skin", "body": "skin", "sockets": "skin", "left_eye": "eye", "right_eye": "eye",
    "mouth": "mouth", "gums": "mouth", "teeth": "teeth", "hair": "hair", "knot": "hair", "brow": "brow",
    "lash": "lash", "beard": "beard", "clothes": "clothes",
}  # fmt: skip
"""Pieces of a scene -> their group; all others are things."""

STROKES = ("brow", "lash", "beard")
"""Groups that are drawn as strokes of ink themselves and have no line around them."""


SLIT = (-3.34, 0.03, 2.45)
"""Where the lips meet on the mean head: the height in the middle, its fall by the square of the distance from there,
and how far the line goes to either side."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What rays through a picture meet, (h, w) each.

    Attributes:
        group: index in ``GROUPS``.
        depth: distances, centimetres; 0 where nothing is.
        normal: (h, w, 3) in the camera's frame: right, up, towards the camera.
        colour: (h, w, 3) linear albedo.
        rest: (h, w, 3) where the skin of the head lies on the mean head; 0 elsewhere.
    """

    group: NDArray[np.int64]
    depth: F32
    normal: F32
    colour: F32
    rest: F32

    def of(self, *names: str) -> Bools:
        """Where one of these groups is."""
        return np.isin(self.group, [GROUPS.index(name) for name in names])


def seen(mi: Any, scene: Any, camera: Camera, pieces: Sequence[Piece], rest: F64) -> Seen:
    """What the camera sees of a loaded scene of pieces, at ``FINE`` times the picture's size.

    Args:
        rest: (t, 3, 3) corners on the mean head of the triangles of the piece ``skin``.
    """
    side = FINE * camera.size
    axis = ((np.arange(side) + 0.5) / side * 2 - 1) * np.tan(np.radians(camera.angle / 2))
    x, y = np.meshgrid(axis, -axis)
    ways = camera.forward + x[..., None] * camera.right + y[..., None] * camera.up
    ways = (ways / np.linalg.norm(ways, axis=-1, keepdims=True)).reshape(-1, 3).astype(np.float32)
    rays = mi.Ray3f(
        mi.Point3f(*(float(value) for value in camera.position)),
        mi.Vector3f(*(np.ascontiguousarray(ways[:, k]) for k in range(3))),
    )
    first = scene.ray_intersect_preliminary(rays)
    met = first.compute_surface_interaction(rays)
    there = np.array(met.is_valid())
    group, places = np.zeros(side * side, np.int64), np.zeros((side * side, 3))
    kinds = {piece.name: GROUPS.index(NAMES.get(piece.name, "thing")) for piece in pieces}
    for shape in scene.shapes():
        kind = kinds.get(shape.id().removeprefix("piece_"))
        if kind is not None:
            own = np.array(met.shape == mi.ShapePtr(shape)) & there
            group[own] = kind
            if shape.id() == "piece_skin":
                second, third = np.array(first.prim_uv)[:, own]
                weights = np.stack([1 - second - third, second, third], axis=1)
                places[own] = (rest[np.array(first.prim_index)[own]] * weights[..., None]).sum(axis=1)
    albedo = np.array(met.bsdf().eval_diffuse_reflectance(met, there)).T
    normal = np.array(met.sh_frame.n).T @ np.stack([camera.right, camera.up, -camera.forward], axis=1)
    normal *= np.where((normal * [0, 0, 1]).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)

    def clean(values: NDArray[Any]) -> F32:
        values = np.where(there[:, None], np.nan_to_num(values.reshape(side * side, -1)), 0.0)
        return np.asarray(values.reshape(side, side, -1), np.float32)

    return Seen(group.reshape(side, side), clean(np.array(met.t))[..., 0], clean(normal), clean(albedo), clean(places))


def drawing(view: Seen, style: Mapping[str, Any], behind: F32, rng: np.random.Generator) -> Picture:
    """A drawing (s, s, 3) of what is seen.

    Args:
        style: ``options["drawing"]`` of a caricature, as ``sample_style`` makes it.
        behind: (s, s, 3) the background, 0 to 1 as it is shown.
    """
    side = len(view.group)
    soft = cv2.GaussianBlur(view.normal, (0, 0), 1.2)
    normal: F32 = np.asarray(soft / np.maximum(np.linalg.norm(soft, axis=-1, keepdims=True), 1e-6), np.float32)
    ground = np.asarray(cv2.resize(_ground(behind, style), (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
    canvas = _flat(view, style, ground, rng)
    toward = np.array([style["light"][0], style["light"][1], 0.9], np.float32)
    lit = normal @ (toward / np.linalg.norm(toward))
    dark = (lit < style["shade_below"]) & view.of("skin", "hair", "clothes", "thing", "eye")
    dark = cv2.medianBlur(dark.astype(np.uint8), 5) > 0
    if style["shade"] == "flat":
        canvas = np.where(dark[..., None], canvas * np.array([0.72, 0.68, 0.74], np.float32), canvas)
    elif style["shade"] != "none":
        canvas = np.where((dark & _pattern(style, side, 0.45) & ~view.of("eye"))[..., None], style["ink"], canvas)
    ink = _lines(view, normal, style, rng)
    canvas = np.where(ink[..., None], np.array(style["ink"], np.float32), canvas)
    small = cv2.resize(canvas.astype(np.float32), (side // FINE, side // FINE), interpolation=cv2.INTER_AREA)
    if style["blur"] > 0.3:
        small = cv2.GaussianBlur(small, (0, 0), style["blur"])
    return np.asarray(np.round(np.clip(small, 0, 1) * 255), np.uint8)


def _ground(behind: F32, style: Mapping[str, Any]) -> F32:
    """The background of a drawing: plain paper, plain ink or tone, or the picture in few colours or greys."""
    paper, ink = np.array(style["paper"], np.float32), np.array(style["ink"], np.float32)
    if style["ground"] == "picture":
        if style["kind"] == "cel":
            return behind
        grey = cv2.GaussianBlur(behind, (0, 0), 1.5).mean(axis=-1, keepdims=True)
        return np.asarray(ink + (paper - ink) * np.round(np.clip(grey, 0, 1) * 3) / 3, np.float32)
    if style["kind"] == "cel" and style["ground"] != "paper":
        return np.broadcast_to(behind.mean(axis=(0, 1)), behind.shape)
    if style["ground"] == "tone":
        dots = _pattern({**style, "shade": "tone"}, len(behind), 0.3)
        return np.asarray(np.where(dots[..., None], ink, paper), np.float32)
    return np.broadcast_to(paper if style["ground"] == "paper" else ink, behind.shape)


def _pattern(style: Mapping[str, Any], side: int, share: float) -> Bools:
    """Where screen tone (dots) or hatching (strokes) of this share puts ink, (side, side)."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    turn = np.radians(style["turn"])
    across = (np.cos(turn) * x + np.sin(turn) * y) * 2 * np.pi / (style["period"] * FINE)
    along = (np.cos(turn) * y - np.sin(turn) * x) * 2 * np.pi / (style["period"] * FINE)
    wave = np.cos(across) + (np.cos(along) if style["shade"] == "tone" else 0.0)
    return np.asarray(wave > np.quantile(wave, 1.0 - share))


def _flat(view: Seen, style: Mapping[str, Any], ground: F32, rng: np.random.Generator) -> F32:
    """The areas of a drawing without shadows and lines, (h, w, 3)."""
    side = len(view.group)
    paper = np.array(style["paper"], np.float32)
    ink = np.array(style["ink"], np.float32)
    shown = np.clip(view.colour, 0, 1) ** (1 / 2.2)
    grey = shown.mean(axis=-1, keepdims=True)
    canvas = ground.copy()

    def fill(where: Bools, colour: Any) -> None:
        canvas[where] = np.broadcast_to(colour, (*view.group.shape, 3))[where]

    def printed(where: Bools, mode: str) -> None:
        """Leave white, print black or print a screen tone."""
        share = {"white": 0.0, "black": 1.0, "tone": 0.35}[mode]
        dots = _pattern({**style, "shade": "tone"}, side, share) if mode == "tone" else np.full_like(where, share > 0)
        fill(where, np.where(dots[..., None], ink, paper))

    hair = view.of("hair")
    strands = cv2.GaussianBlur(grey[..., 0] * hair, (0, 0), 0.8)
    middle = float(np.median(strands[hair])) if hair.any() else 0.0
    spread = float(strands[hair].std()) + 1e-3 if hair.any() else 1.0
    band = cv2.GaussianBlur(view.normal[..., 1], (0, 0), 6.0)
    shine = (np.abs(band - style["shine"]) < 0.10) & (strands > middle - 0.3 * spread)
    if style["kind"] == "cel":
        usual = np.median(shown[view.of("skin")], axis=0) if view.of("skin").any() else paper
        fill(view.of("skin"), np.clip(usual * style["bright"], 0, 1))
        fill(view.of("eye", "clothes", "thing"), np.clip(shown * 1.1, 0, 1))
        fill(view.of("mouth"), [0.45, 0.12, 0.12])
        fill(view.of("teeth"), [0.97, 0.97, 0.95])
        if hair.any():
            base = np.clip(np.median(shown[hair], axis=0) * 1.3, 0, 0.95)
            fill(hair, base)
            fill(hair & (strands < middle - 0.8 * spread), 0.7 * base)
            fill(hair & shine, np.clip(base * 1.25 + 0.12, 0, 1))
        for name in STROKES:
            fill(
                _closed(view.of(name)),
                np.clip(0.5 * shown[view.of(name)].mean(axis=0), 0, 1) if view.of(name).any() else ink,
            )
        return canvas
    fill(view.of("skin", "teeth"), paper)
    fill(view.of("eye"), ink + (paper - ink) * np.clip((grey / 0.78) ** style["eye_contrast"], 0, 1))
    printed(view.of("mouth"), style["mouth"])
    printed(view.of("clothes"), style["clothes"])
    fill(view.of("thing"), ink + (paper - ink) * np.round(np.clip(1.2 * grey, 0, 1) * 2) / 2)
    printed(hair, style["hair"])
    if style["hair"] == "black":
        fill(hair & shine & (strands > middle), paper)
    else:
        fill(hair & (strands < middle - style["hair_lines"] * spread), ink)
    for name in STROKES:
        fill(_closed(view.of(name)), ink)
    return canvas


def _closed(where: Bools) -> Bools:
    """Strokes with the small gaps between them filled."""
    return cv2.morphologyEx(where.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0


def _lines(view: Seen, normal: F32, style: Mapping[str, Any], rng: np.random.Generator) -> Bools:
    """Where the lines of a drawing are, (h, w)."""
    strands = view.of("hair", *STROKES)
    outline, contour = np.zeros_like(strands), np.zeros_like(strands)
    solid = np.where(view.of(*STROKES), GROUPS.index("skin"), view.group)
    lid = np.zeros_like(strands)
    lid[:-1] = view.of("skin", "lash")[:-1] & view.of("eye")[1:]
    for axis in (0, 1):
        first, second = (
            tuple(slice(*ends) if k == axis else slice(None) for k in (0, 1)) for ends in ((0, -1), (1, None))
        )
        differ = solid[first] != solid[second]
        nothing = (solid[first] == 0) | (solid[second] == 0)
        jump = np.abs(view.depth[first] - view.depth[second]) > style["jump"]
        inside = ~(strands[first] | strands[second])
        bent = np.zeros_like(strands)
        ahead = np.roll(normal, -2, axis=axis)
        skin = view.of("skin")
        bent[:] = ((normal * ahead).sum(axis=-1) < style["crease"]) & skin & np.roll(skin, -2, axis=axis)
        outline[first] |= differ & nothing
        contour[first] |= (differ & ~nothing) | (jump & inside)
        contour |= bent
    x, y, z = np.abs(view.rest[..., 0]), view.rest[..., 1], view.rest[..., 2]
    below = y < SLIT[0] - SLIT[1] * x**2
    between = (x < SLIT[2]) & (z > 9.0)
    contour[:-1] |= (below[:-1] != below[1:]) & between[:-1] & between[1:]
    contour[:, :-1] |= (below[:, :-1] != below[:, 1:]) & between[:, :-1] & between[:, 1:]
    nose = (x < 2.0) & (y > -1.9) & (y < 0.5) & (z > 9.5)
    lip = (x < 1.8) & (y > -5.6) & (y < -3.4) & (z > 9.5)
    under = (normal[..., 1] < -style["under"] * np.where(nose, style["nose"], 1.0)) & (nose | lip)
    count, parts, facts, _ = cv2.connectedComponentsWithStats(under.astype(np.uint8))
    small = np.zeros(count, np.bool_)
    small[1:] = facts[1:, cv2.CC_STAT_AREA] < 0.0025 * under.size
    waver = noise_field(under.shape, 40, rng) > 0
    thin, thick = _wide(contour, style["width"]), _wide(contour, style["width"] + 1)
    return np.asarray(
        np.where(waver, thick, thin) | _wide(outline, style["width"] + 1) | _wide(lid, style["lid"]) | small[parts]
    )


def _wide(lines: Bools, width: int) -> Bools:
    """Lines of this width, pixels."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return cv2.dilate(lines.astype(np.uint8), kernel) > 0


def sample_style(rng: np.random.Generator) -> dict[str, Any]:
    """The content of ``options["drawing"]``: 40 % of the drawings in flat colours, 60 % in black and white."""
    cel = bool(rng.random() < 0.4)
    plain = rng.random() < 0.7
    paper = [1.0, 1.0, 1.0] if plain else np.round(rng.uniform(0.8, 1.0, 3), 3).tolist()
    ink = [0.03, 0.03, 0.03] if plain else np.round(rng.uniform(0.0, 0.3, 3), 3).tolist()
    shades = {"none": 0.4, "tone": 0.3, "hatching": 0.1, "flat": 0.2} if not cel else {"none": 0.25, "flat": 0.75}
    return {
        "kind": "cel" if cel else "ink",
        "paper": paper,
        "ink": ink,
        "light": np.round(rng.normal((0.0, 0.5), 0.5), 3).tolist(),
        "shade": str(rng.choice(list(shades), p=list(shades.values()))),
        "shade_below": round(float(rng.uniform(0.1, 0.5)), 3),
        "period": round(float(rng.uniform(2.6, 5.0)), 2),
        "turn": round(float(rng.uniform(20, 70)), 1),
        "bright": round(float(rng.uniform(1.0, 1.25)), 3),
        "eye_contrast": round(float(rng.uniform(0.6, 1.4)), 3),
        "mouth": str(rng.choice(["white", "black", "tone"], p=[0.45, 0.35, 0.2])),
        "clothes": str(rng.choice(["white", "black", "tone"], p=[0.5, 0.25, 0.25])),
        "hair": str(rng.choice(["white", "black", "tone"], p=[0.45, 0.4, 0.15])),
        "hair_lines": round(float(rng.uniform(0.6, 1.6)), 3),
        "shine": round(float(rng.uniform(0.2, 0.8)), 3),
        "jump": round(float(rng.uniform(0.35, 0.8)), 3),
        "crease": round(float(rng.uniform(0.6, 0.92)), 3),
        "nose": round(float(rng.uniform(0.3, 1.0)), 3),
        "under": round(float(rng.uniform(0.55, 0.8)), 3),
        "width": int(rng.integers(1, 4)),
        "lid": int(rng.integers(2, 7)),
        "blur": round(float(rng.uniform(0.0, 0.8)), 3),
        "ground": str(rng.choice(["paper", "ink", "picture", "tone"], p=[0.45, 0.12, 0.3, 0.13])),
    }
