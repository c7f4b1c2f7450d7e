"""A picture and its labels from a seed: the scene is built, rendered by Mitsuba and denoised by Open Image Denoise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, DataError, install_hint
from octamark.geometry import Picture
from octamark.synthesis.rendering import hair, ink, light, things
from octamark.synthesis.rendering.assets import F64, Assets, Fit, Ints, ObjMesh
from octamark.synthesis.rendering.camera import Camera, looking_at
from octamark.synthesis.rendering.cartoon import HeadMap, caricatured
from octamark.synthesis.rendering.heads import PARTS, SKIN, HeadModel, load_head, vertex_normals
from octamark.synthesis.rendering.labels import Labels, brow_edges
from octamark.synthesis.rendering.person import Person, sample_person
from octamark.synthesis.rendering.pieces import Piece, turned
from octamark.synthesis.rendering.skin import SkinMap, eye_rotation, gaze_shapes, head_pieces, wrinkled

F32 = NDArray[np.float32]
Cards = tuple[ObjMesh, Fit, F32 | None]

LABELLED = np.concatenate([np.arange(SKIN), np.arange(*PARTS["left_eye"]), np.arange(*PARTS["right_eye"])])
"""Vertices that points of a layout may lie on, those of the skin and the eyeballs; their labels are stored."""

LLVM = ("/usr/lib/x86_64-linux-gnu/libLLVM.so.19.1", "/usr/lib/aarch64-linux-gnu/libLLVM.so.19.1")
"""Where Debian's package libllvm19 puts LLVM, which Mitsuba compiles its kernels with."""

LIPS_PRESSED = 0.04
"""How far, centimetres, the upper edge of the lower lip lies above the lower edge of the upper lip of closed mouths."""

NEAR = {"head": 0.45, "thing": 0.2}
"""A point counts as hidden when the head or a thing lies this far in front of it, centimetres, or farther: lips that
touch and lids do not hide each other's points."""


def load_mitsuba() -> Any:
    """The module ``mitsuba``, its variant chosen.

    Raises:
        ConfigError: Mitsuba, Open Image Denoise or LLVM is missing.
    """
    if "DRJIT_LIBLLVM_PATH" not in os.environ:
        known = [path for path in LLVM if Path(path).exists()]
        if known:
            os.environ["DRJIT_LIBLLVM_PATH"] = known[0]
    try:
        import mitsuba
        import pyoidn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"rendering needs Mitsuba: {install_hint(['mitsuba', 'pyoidn', 'scipy'])}") from error
    try:
        mitsuba.set_variant("llvm_ad_rgb")
        mitsuba.Float([0.0, 1.0]) + 1  # fails here, not in the middle of a scene, without LLVM
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"rendering needs LLVM 16 or newer (apt install libllvm19; DRJIT_LIBLLVM_PATH names the library): {error}"
        ) from error
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    return mitsuba


@dataclass(frozen=True, eq=False)
class Rendering:
    """A rendered picture and what is known about it.

    Attributes:
        picture: (s, s, 3) uint8.
        labels: of the picture.
        vertices: (26719, 3) of the head.
        camera: where it was taken from.
    """

    picture: Picture
    labels: Labels
    vertices: F64
    camera: Camera


class Renderer:
    """Renders the persons of seeds; loading takes some seconds.

    Args:
        assets: what heads are made of.
        size: side of the pictures, pixels.
        samples: rays per pixel before denoising.
        crowd: pictures of other heads, linear, for crowds in the background.
        caricatures: share of seeds that show a caricature.

    Raises:
        ConfigError: a package is missing.
        DataError: a file of the assets is missing.
    """

    def __init__(
        self, assets: Assets, size: int = 256, samples: int = 16, crowd: Sequence[F32] = (), caricatures: float = 0.0
    ) -> None:
        self.mi = load_mitsuba()
        self.assets, self.size, self.samples, self.crowd = assets, size, samples, list(crowd)
        self.caricatures = caricatures
        self.head: HeadModel = load_head(assets)
        self.skin = SkinMap(self.head, assets)
        body = assets.obj("base")
        self._body = body
        authors = np.asarray(self._landmarks_of_authors())
        self._frame = authors
        self._hand = _hand(body, self.head.base)
        self.cards = lru_cache(maxsize=64)(self._cards)

    def _landmarks_of_authors(self) -> Ints:
        import json

        text = (self.assets.folder / "ict/vertex_indices.json").read_text(encoding="utf-8")
        return np.array(json.loads(text)["idx_to_landmark_verts"], np.int64)

    def _cards(self, name: str, texture: str) -> Cards:
        """A MakeHuman proxy: mesh, fit, and its texture: linear colour, or the alpha channel of a brow."""
        mesh, fit = self.assets.obj(name), self.assets.fit(name)
        if not texture or not (self.assets.folder / texture).exists():
            return mesh, fit, None
        picture = self.assets.picture(texture)
        if name.startswith("eyebrows"):
            return mesh, fit, np.asarray(picture[..., 3] / 255.0, np.float32)
        return mesh, fit, things.picture_texture(picture)

    def geometry(self, person: Person) -> tuple[F64, F64, F64]:
        """Vertices (26719, 3) and normals (26719, 3) of a person's head, and MakeHuman's base mesh (19158, 3) on it.

        Of a caricature they are those before ``head_map`` moves them.
        """
        expression = {**gaze_shapes(person), **person.expression}
        vertices = self.head.vertices(np.array(person.identity), expression, person.ages)
        if person.expression.get("jawOpen", 0) < 0.02 and not any("UpperUp" in name for name in person.expression):
            vertices = self._lips_closed(vertices)
        vertices = wrinkled(self.head, person, vertices, np.random.default_rng([person.seed, 2]))
        base = self.head.base_of(vertices)
        vertices = turn_body(vertices, self.head.mean, person.body)
        base = turn_body(base, self.head.base, person.body)
        return vertices, vertex_normals(vertices, self.head.triangles["skin"]), base

    def head_map(self, person: Person, vertices: F64) -> HeadMap | None:
        """What moves everything in the scene of a caricature with these vertices; None for other persons."""
        shape = person.options.get("caricature")
        return None if shape is None else HeadMap(shape, self.head.mean, vertices)

    def _lips_closed(self, vertices: F64) -> F64:
        """The vertices with the lips brought to touch, where they are slightly apart; the mean head's are."""
        shape = self.head.expression[self.head.names.index("mouthClose")]
        upper, lower = self._frame[[61, 62, 63]], self._frame[[67, 66, 65]]
        gap = (vertices[upper, 1] - vertices[lower, 1]).mean() + LIPS_PRESSED
        rise = (shape[lower, 1] - shape[upper, 1]).mean()
        return np.asarray(vertices + np.clip(gap / rise, 0.0, 0.1) * shape)

    def pieces(self, person: Person, vertices: F64, normals: F64, base: F64) -> list[Piece]:
        """Everything in the scene of a person."""
        rng = np.random.default_rng([person.seed, 3])
        head = self.head
        out = head_pieces(head, self.skin, person, vertices, normals, rng)
        whole = out[1].colour
        anchors = things.Anchors.of(head, vertices, normals)
        ground = hair.ground_of(vertices, normals, base)
        wears = person.options["things"]
        out += hair.brow_pieces(person, self.brow(person, base), ground, rng)
        out += hair.lash_pieces(head, person, vertices, rng)
        out += hair.beard_pieces(head, person, vertices, normals, ground, rng)
        out += hair.hair_pieces(head, person, vertices, normals, ground, "hat" in wears, rng)
        body = self._body
        rest = head.base[body.triangles][..., 1]
        chosen = (body.groups == "body") & (rest < -14).all(axis=1) & (rest > -50).all(axis=1)
        sunk = np.clip((head.base[:, 1] + 25) / 8, 0, 1)  # the throat lies under the head's own neck
        keys = np.column_stack([body.triangles[chosen].ravel(), body.uv_triangles[chosen].ravel()])
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        out.append(
            Piece(
                "body",
                "clear",
                base[unique[:, 0]] - np.array([0, 0.15, 0.1]) - sunk[unique[:, 0], None] * [0, 0.2, 0.5],
                inverse.reshape(-1, 3),
                whole,
                body.uv[unique[:, 1]],
            )
        )
        out.append(things.clothes_piece(person, base, self.cards, rng))
        if "glasses" in wears:
            out += things.glasses_pieces(person, anchors)
        if "hat" in wears:
            out += things.hat_pieces(head, person, vertices, normals, anchors, base, self.cards, rng)
        if "mask" in wears:
            out += things.mask_pieces(head, person, vertices, normals, anchors, rng)
        if "occluder" in wears:
            out += things.occluder_pieces(person, anchors, self._hand, whole, rng)
        return out

    def brow(self, person: Person, base: F64) -> F64:
        """Places (n, 3) of the hairs of both brows of a person."""
        name = person.options["brow"]
        mesh, fit, alpha = self.cards(f"eyebrows/{name}", f"mh/eyebrows/{name}.png")
        if alpha is None:
            raise DataError(f"{self.assets.folder}: no mh/eyebrows/{name}.png")
        rng = np.random.default_rng([person.seed, 5])
        roots = hair.brow_roots(mesh, fit, alpha, base, person.options["brow_hairs"], rng)
        across = np.abs(roots[:, 0])  # from the nose outwards
        along = (across - across.mean()) / across.std()
        bent = person.options["brow_tilt"] * along - person.options["brow_arch"] * (along**2 - 1)
        roots[:, 1] += bent + person.options["brow_lift"] + rng.normal(0, person.options["brow_width"], len(roots))
        return roots

    def render(self, seed: int, person: Person | None = None) -> Rendering:
        """The picture of a seed, or of a person."""
        person = caricatured(sample_person(seed, self.assets), self.caricatures) if person is None else person
        vertices, normals, base = self.geometry(person)
        rng = np.random.default_rng([person.seed, 4])
        move = self.head_map(person, vertices)
        frame = vertices[self._frame]
        camera = looking_at(
            frame if move is None else move(frame), person.yaw, person.pitch, person.roll, person.distance, self.size,
            room=float(rng.uniform(2.05, 2.3)), shift=(float(rng.normal(0, 0.015)), float(rng.normal(0, 0.015))),
        )  # fmt: skip
        return self._render(person, camera, vertices, normals, base, rng)

    def render_with(self, person: Person, camera: Camera) -> Rendering:
        """The picture of a person from a camera."""
        return self._render(person, camera, *self.geometry(person), np.random.default_rng([person.seed, 4]))

    def _render(
        self, person: Person, camera: Camera, vertices: F64, normals: F64, base: F64, rng: np.random.Generator
    ) -> Rendering:
        pieces = self.pieces(person, vertices, normals, base)
        move = self.head_map(person, vertices)
        if move is not None:
            pieces = [move.piece(piece) for piece in pieces]
        picture = self._picture(person, camera, pieces, rng)
        labels = self.labels(person, camera, vertices, pieces, rng)
        return Rendering(picture, labels, vertices if move is None else move(vertices), camera)

    def labels(
        self, person: Person, camera: Camera, vertices: F64, pieces: Sequence[Piece], rng: np.random.Generator
    ) -> Labels:
        """The labels of a picture of these pieces.

        Args:
            vertices: (26719, 3) of the head, as ``geometry`` gives them.
        """
        labelled = turned_eyes(vertices, person)[LABELLED]
        move = self.head_map(person, vertices)
        labelled = labelled if move is None else move(labelled)
        brow = next(piece.vertices for piece in pieces if piece.name == "brow")
        brows = np.stack([brow_edges(brow[brow[:, 0] < 0]), brow_edges(brow[brow[:, 0] > 0])])
        behind = self.hidden(camera, np.concatenate([labelled, brows.reshape(-1, 3)]), pieces, rng)
        count = len(labelled)
        points, depth = camera.project(labelled)
        return Labels(
            size=self.size,
            points=points,
            depth=depth,
            behind_head=behind[0][:count],
            behind_thing=behind[1][:count],
            vertices=LABELLED,
            brows=camera.project(brows)[0],
            brow_behind=np.stack([shares[count:] for shares in behind], axis=-1).reshape((*brows.shape[:-1], 2)),
            camera={
                "position": camera.position.tolist(),
                "right": camera.right.tolist(),
                "up": camera.up.tolist(),
                "forward": camera.forward.tolist(),
                "angle": camera.angle,
            },
            person=person.to_dict(),
        )

    def _picture(self, person: Person, camera: Camera, pieces: list[Piece], rng: np.random.Generator) -> Picture:
        import pyoidn

        mi = self.mi
        lit, plain = light.environment(person, self.assets)
        if "drawing" in person.options:
            return self._drawing(person, camera, pieces, plain, rng)
        scene: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3, "hide_emitters": True},
            "light": {"type": "envmap", "bitmap": mi.Bitmap(lit)},
            "sensor": {
                "type": "perspective", "fov": camera.angle,
                "to_world": mi.ScalarTransform4f().look_at(
                    camera.position.tolist(), (camera.position + camera.forward).tolist(), camera.up.tolist()
                ),
                "near_clip": 1.0,
                "film": {
                    "type": "hdrfilm", "width": self.size, "height": self.size, "pixel_format": "rgba",
                    "rfilter": {"type": "box"},
                },
                "sampler": {"type": "independent"},
            },
        }  # fmt: skip
        for piece in pieces:
            scene[f"piece_{piece.name}"] = _mesh(mi, piece)
        loaded = mi.load_dict(scene)
        seed = person.seed % 2**31
        image = np.array(loaded.integrator().render(loaded, seed=seed, spp=self.samples), np.float32)
        surface = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"})
        features = np.array(surface.render(loaded, seed=seed, spp=max(4, self.samples // 4)), np.float32)[..., -6:]
        image = np.nan_to_num(image, nan=0.0, posinf=100.0, neginf=0.0)
        colour, alpha = np.clip(image[..., :3], 0, 100), np.clip(image[..., 3:4], 0, 1)
        features = np.nan_to_num(features, nan=0.0, posinf=0.0, neginf=0.0)
        albedo, normal = np.clip(features[..., :3], 0, 1), features[..., 3:]
        behind = light.background(person, plain, camera.forward, camera.angle, self.size, self.crowd, rng)
        exposed = exposure(colour, albedo, person, float(self.skin.tone(person).mean()))
        behind = (1 - alpha) * behind / exposed
        clean = pyoidn.denoise(
            np.ascontiguousarray(colour + behind),
            albedo=np.ascontiguousarray(np.clip(albedo + behind * exposed, 0, 1)),
            normal=np.ascontiguousarray(normal),
            hdr=True,
        )
        return develop(np.clip(np.nan_to_num(np.asarray(clean)), 0, 1000) * exposed, person)

    def _drawing(
        self, person: Person, camera: Camera, pieces: list[Piece], surroundings: F32, rng: np.random.Generator
    ) -> Picture:
        loaded = self.mi.load_dict(
            {"type": "scene", **{f"piece_{piece.name}": _mesh(self.mi, piece) for piece in pieces}}
        )
        behind = light.background(person, surroundings, camera.forward, camera.angle, self.size, self.crowd, rng)
        rest = self.head.mean[self.head.triangles["skin"][self.skin.head_triangles]]
        shown = np.clip(behind, 0, 1) ** np.float32(1 / 2.2)
        return ink.drawing(ink.seen(self.mi, loaded, camera, pieces, rest), person.options["drawing"], shown, rng)

    def hidden(self, camera: Camera, points: F64, pieces: Sequence[Piece], rng: np.random.Generator) -> tuple[F64, F64]:
        """The share of rays to points (m, 3) that the head stops, and that other things stop, (m,) each.

        Five rays end around each point, on the camera's side of it, so that single hairs do not hide a point.
        """
        head = [piece for piece in pieces if piece.kind == "head" and piece.name not in ("lash", "brow", "beard")]
        other = [piece for piece in pieces if piece.kind in ("hair", "thing")]
        spread = np.concatenate([np.zeros((1, 2)), rng.normal(0, 0.12, (4, 2))])
        around = points[:, None] + spread[:, :1] * camera.right + spread[:, 1:] * camera.up
        return (
            stopped(self.mi, camera.position, around, head, NEAR["head"]),
            stopped(self.mi, camera.position, around, other, NEAR["thing"]),
        )


def _mesh(mi: Any, piece: Piece, plain: bool = False) -> Any:
    """A Mitsuba mesh; ``plain`` without material."""
    properties = mi.Properties()
    if not plain:
        properties["bsdf"] = _material(mi, piece)
    mesh = mi.Mesh(
        piece.name, len(piece.vertices), len(piece.triangles), has_vertex_normals=piece.normals is not None,
        has_vertex_texcoords=not plain, props=properties,
    )  # fmt: skip
    values = mi.traverse(mesh)
    values["vertex_positions"] = np.ascontiguousarray(piece.vertices, np.float32).ravel()
    values["faces"] = np.ascontiguousarray(piece.triangles, np.uint32).ravel()
    if piece.normals is not None:
        values["vertex_normals"] = np.ascontiguousarray(piece.normals, np.float32).ravel()
    if not plain:
        uv = np.full((len(piece.vertices), 2), 0.5) if piece.uv is None else piece.uv
        flipped = np.column_stack([uv[:, 0], 1 - uv[:, 1]])  # Mitsuba's first row is at v = 0
        values["vertex_texcoords"] = np.ascontiguousarray(flipped, np.float32).ravel()
    values.update()
    return mesh


def _material(mi: Any, piece: Piece) -> Any:
    colour = np.asarray(piece.colour, np.float32)
    if colour.shape[0] == 1:
        colour = np.broadcast_to(colour, (2, 2, 3)).copy()
    texture = {
        "type": "bitmap",
        "data": mi.TensorXf(np.ascontiguousarray(colour)),
        "raw": True,
        "filter_type": "bilinear",
    }
    material: dict[str, Any] = {
        "type": "twosided",
        "side": {
            "type": "principled",
            "base_color": texture,
            "roughness": max(piece.roughness, 0.03),
            "specular": piece.specular,
        },
    }
    if piece.alpha is not None:
        alpha = np.asarray(piece.alpha, np.float32)
        if alpha.shape[0] == 1:
            alpha = np.broadcast_to(alpha, (2, 2)).copy()
        opacity = {"type": "bitmap", "data": mi.TensorXf(np.ascontiguousarray(alpha[..., None])), "raw": True}
        material = {"type": "mask", "opacity": opacity, "side": material}
    return mi.load_dict(material)


def stopped(mi: Any, position: F64, targets: F64, pieces: Sequence[Piece], near: float) -> F64:
    """The share (m,) of rays from a position to targets (m, k, 3) that a piece stops ``near`` or more before."""
    if not pieces:
        return np.zeros(len(targets))
    scene = mi.load_dict({"type": "scene", **{f"piece_{piece.name}": _mesh(mi, piece, plain=True) for piece in pieces}})
    flat = targets.reshape(-1, 3)
    ways = flat - position
    lengths = np.linalg.norm(ways, axis=1)
    directions = (ways / lengths[:, None]).astype(np.float32)
    rays = mi.Ray3f(
        mi.Point3f(*(float(value) for value in position)),
        mi.Vector3f(*(np.ascontiguousarray(directions[:, k]) for k in range(3))),
    )
    rays.maxt = mi.Float((lengths - near).astype(np.float32))
    stopped = np.array(scene.ray_test(rays)).reshape(targets.shape[:-1])
    return np.asarray(stopped.mean(axis=1), np.float64)


def turned_eyes(vertices: F64, person: Person) -> F64:
    """The vertices with both eyeballs turned to the gaze, as they are rendered."""
    out = vertices.copy()
    for name in ("left_eye", "right_eye"):
        first, last = PARTS[name]
        sclera = vertices[first : first + 770]
        middle = (sclera.max(axis=0) + sclera.min(axis=0)) / 2 - [0, 0, 0.14]
        out[first:last] = middle + (vertices[first:last] - middle) @ eye_rotation(person, name).T
    return out


def turn_body(points: F64, rest: F64, angles: tuple[float, float, float]) -> F64:
    """Points of head and body with the body turned away under a head that stays, the neck in between.

    Args:
        rest: the same points on the mean head; they say which belong to the neck.
        angles: (yaw, pitch, roll) of the head on the body, degrees.
    """
    height = rest[:, 1] + 0.45 * np.maximum(rest[:, 2] - 2.0, 0)
    share = np.clip((-6.0 - height) / 9.0, 0, 1)
    share = share * share * (3 - 2 * share)
    pivot = np.array([0.0, -9.0, -1.5])
    out = points - pivot
    for axis, angle in (((0, 1, 0), -angles[0]), ((1, 0, 0), angles[1]), ((0, 0, 1), angles[2])):
        out = np.einsum("nij,nj->ni", turned(axis, angle * share), out)
    return np.asarray(out + pivot)


def exposure(colour: F32, albedo: F32, person: Person, tone: float) -> float:
    """The factor that gives the skin in the middle of a picture the brightness of a well exposed face.

    Args:
        colour, albedo: (s, s, 3) of the picture.
        tone: mean albedo of the person's skin; surfaces of about this albedo count as skin, however dark a thing in
            front of the face is.
    """
    size = len(colour)
    middle = slice(size // 4, size - size // 4)
    reflects = albedo[middle, middle].mean(axis=2)
    levels = colour[middle, middle].mean(axis=2)
    skin = (reflects > tone / 1.6) & (reflects < tone * 1.6)
    if skin.mean() < 0.02:
        skin = reflects > 0
    level = float(levels[skin].mean()) if skin.any() else 0.0
    wanted = 0.22 * 2.0 ** person.options["light"]["exposure"] * (tone / 0.3) ** 0.45
    return float(wanted / max(level, 1e-4))


def develop(colour: F32, person: Person) -> Picture:
    """An 8-bit picture of exposed linear light, with white balance, a shoulder for highlights, and contrast."""
    options = person.options["light"]
    scaled = colour * np.array(options["white"], np.float32)
    scaled = np.where(scaled < 0.6, scaled, 0.6 + 0.4 * np.tanh((scaled - 0.6) / 0.4))
    shown = np.clip(scaled, 0, 1) ** (1 / 2.2)
    shown = np.clip((shown - 0.45) * options["contrast"] + 0.45, 0, 1)
    return np.asarray(np.round(shown * 255), np.uint8)


def _hand(body: ObjMesh, base: F64) -> tuple[F64, Ints, F64]:
    """The left hand of the base mesh: its middle at the origin, fingers up, palm to -z."""
    own = body.groups == "body"
    triangles, textures = body.triangles[own], body.uv_triangles[own]
    used = np.unique(triangles)
    tip = used[np.argmax(body.vertices[used, 0])]
    reach = body.vertices[used, 0].max()
    near = (body.vertices[triangles][..., 0] > reach - 2.6).all(axis=1)
    triangles, textures = triangles[near], textures[near]
    keys = np.column_stack([triangles.ravel(), textures.ravel()])
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    vertices = base[unique[:, 0]]
    wrist = vertices[vertices[:, 0] < np.quantile(vertices[:, 0], 0.08)].mean(axis=0)
    up = base[tip] - wrist
    up /= np.linalg.norm(up)
    _, _, axes = np.linalg.svd(vertices - vertices.mean(axis=0), full_matrices=False)
    flat = axes[2] - (axes[2] @ up) * up
    flat /= np.linalg.norm(flat)
    across = np.cross(up, flat)
    local = (vertices - vertices.mean(axis=0)) @ np.column_stack([across, up, flat])
    return local, inverse.reshape(-1, 3), body.uv[unique[:, 1]]
