"""The head: identities, expressions, and MakeHuman's meshes bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from octamark.synthesis.rendering.assets import F64, Assets, Ints

PARTS = {
    "face": (0, 9409),
    "back": (9409, 11248),
    "mouth": (11248, 13294),
    "left_socket": (13294, 13678),
    "right_socket": (13678, 14062),
    "gums": (14062, 17039),
    "teeth": (17039, 21451),
    "left_eye": (21451, 23021),
    "right_eye": (23021, 24591),
    "tears": (24591, 24999),
    "eye_blend": (24999, 25047),
    "eye_shade": (25047, 25351),
    "lashes": (25351, 26719),
}
"""First and last vertex, exclusive, of the head model's parts (ICT-FaceKit's own table)."""

SKIN = 11248
"""The skin's vertices come first: face, back of the head and neck."""

SCALE = 10.375
"""Units of the head model (centimetres) in one unit of MakeHuman's (decimetres): the distance of the eyes agrees."""

DETAILS: dict[str, tuple[str, ...]] = {
    "fat": ("head/head-fat-incr",),
    "thin": ("head/head-fat-decr",),
    "aged": ("head/head-age-incr",),
    "double chin": ("neck/neck-double-incr",),
    "eye bags": ("eyes/l-eye-bag-incr", "eyes/r-eye-bag-incr"),
    "sagging cheeks": ("cheek/l-cheek-trans-down", "cheek/r-cheek-trans-down"),
    "hollow cheeks": ("cheek/l-cheek-volume-decr", "cheek/r-cheek-volume-decr"),
    "full cheeks": ("cheek/l-cheek-volume-incr", "cheek/r-cheek-volume-incr"),
    "full lips": ("mouth/mouth-upperlip-volume-incr", "mouth/mouth-lowerlip-volume-incr"),
    "thin lips": ("mouth/mouth-upperlip-height-decr", "mouth/mouth-lowerlip-height-decr"),
    "narrow chin": ("chin/chin-width-decr",),
    "wide chin": ("chin/chin-width-incr",),
    "small nose": ("nose/nose-volume-decr",),
    "round head": ("head/head-round",),
    "oval head": ("head/head-oval",),
    "square head": ("head/head-square",),
    "hooded lids": ("eyes/l-eye-eyefold-down", "eyes/r-eye-eyefold-down"),
    "epicanthus": ("eyes/l-eye-epicanthus-in", "eyes/r-eye-epicanthus-in"),
}
"""Shapes of single traits -> files of MakeHuman's that make them up."""

INNER_CHARTS = (((0.0, 0.53), (0.157, 0.65)), ((0.75, 0.0), (0.935, 0.146)))
"""Corners of the charts of MakeHuman's skins that show the inside of eye sockets and mouth."""


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A linear model of heads with a skin for MakeHuman's textures.

    Attributes:
        mean: (26719, 3) vertices of the mean head; x to the person's left, y up, z to the front, about centimetres.
        identity: (K, 26719, 3) shapes whose weights are normally distributed with standard deviation 1.
        expression: (57, 26719, 3) shapes of full strength 1; gaze and pupils are among them.
        names: names of the expression shapes.
        ages: name -> (26719, 3) shapes of sex, age and ancestry, differences from the mean of young adults.
        triangles: part -> (t, 3) vertices.
        skin_uv: (t, 3, 2) texture coordinates on MakeHuman's skins of ``triangles["skin"]``'s corners; v points up.
        iris_uv: (n, 2) texture coordinates of the model's own atlas for each vertex; used by eyes.
        base: (19158, 3) MakeHuman's base mesh laid on the mean head.
        lids: left and right -> vertices (32, 3) and weights (32, 3) of places along the free edges of the lids: 16 of
            the upper and 16 of the lower lid, by x.
        follow: (19158, 26719) sparse weights: displacements of the base mesh that follow those of the head.
    """

    mean: F64
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    names: tuple[str, ...]
    ages: Mapping[str, F64]
    triangles: Mapping[str, Ints]
    skin_uv: F64
    iris_uv: F64
    base: F64
    lids: Mapping[str, tuple[Ints, F64]]
    follow: sp.csr_matrix

    def vertices(
        self, identity: Mapping[int, float] | F64, expression: Mapping[str, float], ages: Mapping[str, float]
    ) -> F64:
        """Vertices (26719, 3) of a head with these weights of shapes; the ones not named are 0.

        Raises:
            KeyError: a name that the model does not have.
        """
        weights = np.zeros(len(self.identity), np.float32)
        if isinstance(identity, Mapping):
            for place, weight in identity.items():
                weights[place] = weight
        else:
            weights[: len(identity)] = identity
        out = self.mean + np.tensordot(weights, self.identity, 1)
        for name, weight in ages.items():
            out = out + weight * self.ages[name]
        lookup = {name: place for place, name in enumerate(self.names)}
        for name, weight in expression.items():
            if weight:
                out = out + weight * self.expression[lookup[name]]
        return np.asarray(out, np.float64)

    def base_of(self, vertices: F64) -> F64:
        """MakeHuman's base mesh (19158, 3) on a head with these vertices (26719, 3); clothes and hair fit to it."""
        return np.asarray(self.base + self.follow @ (vertices - self.mean))


def load_head(assets: Assets) -> HeadModel:
    """The head model of a folder of assets, with MakeHuman's base mesh registered to it (some seconds)."""
    arrays = assets.ict
    mean = assets.mean
    faces = np.asarray(arrays["F"], np.int64)
    quads, threes = faces[faces[:, 3] >= 0], faces[faces[:, 3] < 0]
    every = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], threes[:, :3]])
    first = every[:, 0]
    triangles = {part: every[(first >= low) & (first < high)] for part, (low, high) in PARTS.items()}
    triangles["skin"] = every[(every < SKIN).all(axis=1)]
    triangles["inside"] = every[((every >= SKIN).any(axis=1)) & (first < PARTS["gums"][0])]
    names = tuple(str(name) for name in arrays["names"])
    expression = np.asarray(arrays["E"], np.float32)

    texture_of = np.asarray(arrays["FT"], np.int64)
    iris_uv = np.zeros((len(mean), 2))
    valid = faces >= 0
    iris_uv[faces[valid]] = np.asarray(arrays["uv"], np.float64)[texture_of[valid]] % 1.0

    body = assets.obj("base")
    own = body.groups == "body"
    middle_uv = body.uv[body.uv_triangles].mean(axis=1)
    for low, high in INNER_CHARTS:
        own &= ~((middle_uv > low) & (middle_uv < high)).all(axis=1)
    skin_faces = body.triangles[own]
    helpers = {name: body.triangles[body.groups == name] for name in ("helper-l-eye", "helper-r-eye")}
    opening = assets.target("expression/units/caucasian/mouth-open")
    base = _register(
        body.vertices, skin_faces, helpers, mean, triangles["skin"], expression[names.index("jawOpen")], opening
    )
    follow = _followers(base, mean)
    lids = {}
    for side in ("left", "right"):
        ball = mean[slice(*PARTS[f"{side}_eye"])]
        corners, weights, _ = _rim(
            mean, triangles["skin"], ball.mean(axis=0)[:2], 1.5 * np.ptp(ball, axis=0)[0], ball.mean(axis=0)[2]
        )
        lids[side] = (corners, weights)
    skin_uv = _skin_uv(mean, triangles["skin"], base, skin_faces, body.uv[body.uv_triangles[own]])
    ages = _ages(assets, mean, base, skin_faces)
    return HeadModel(
        mean,
        np.asarray(arrays["I"], np.float32),
        expression,
        names,
        ages,
        triangles,
        skin_uv,
        iris_uv,
        base,
        lids,
        follow,
    )


def vertex_normals(vertices: F64, triangles: Ints) -> F64:
    """Unit normals (n, 3), weighted by the areas of the triangles around each vertex."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, triangles[:, k], across)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


def _rim(
    vertices: F64, triangles: Ints, middle: F64, side: float, depth: float, count: int = 16
) -> tuple[Ints, F64, F64]:
    """The rim of an opening, seen from the front: ``count`` points above and as many below, corner to corner.

    Args:
        middle: (2,) a place within the opening, x and y.
        side: of the square around it that is looked at.
        depth: triangles behind this z are left out.

    Returns:
        Nearest vertices (2 count, 3), their weights (2 count, 3), and the points they make up (2 count, 3).
    """
    pixels = 400
    step, corner = side / pixels, middle - side / 2
    flat = vertices[triangles][:, :, :2]
    inside = (flat > corner).all(axis=(1, 2)) & (flat < corner + side).all(axis=(1, 2))
    chosen = triangles[inside & (vertices[triangles][:, :, 2].mean(axis=1) > depth)]
    mask = np.zeros((pixels, pixels), np.uint8)
    for triangle in chosen:
        cv2.fillConvexPoly(mask, np.round((vertices[triangle, :2] - corner) / step).astype(np.int32), 1)
    opening = np.zeros((pixels + 2, pixels + 2), np.uint8)
    cv2.floodFill(1 - mask, opening, (pixels // 2, pixels // 2), 1, flags=4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8))
    ys, xs = np.nonzero(opening[1:-1, 1:-1])
    columns = np.round(np.linspace(xs.min(), xs.max(), count)).astype(int)
    rows = [ys[xs == column] for column in columns]
    upper = [(column, ends.max()) for column, ends in zip(columns, rows, strict=True)]
    lower = [(column, ends.min()) for column, ends in zip(columns, rows, strict=True)]
    points = np.array(upper + lower, np.float64) * step + corner
    skin = np.unique(chosen)
    distances, nearest = cKDTree(vertices[skin, :2]).query(points, k=3)
    weights = 1 / np.maximum(distances, 1e-3 * side)
    weights /= weights.sum(axis=1, keepdims=True)
    corners = skin[nearest]
    return corners, weights, (vertices[corners] * weights[..., None]).sum(axis=1)


def _register(
    vertices: F64, body: Ints, helpers: Mapping[str, Ints], mean: F64, skin: Ints, jaw_open: F64, mouth_open: F64
) -> F64:
    """MakeHuman's base mesh (19158, 3) laid on the mean head.

    Non-rigid iterative closest points: the displacement of every vertex of the body is as smooth as it can be (its
    Laplacian) while vertices of the head and neck move to the nearest place of the other skin whose normal agrees, and
    the rims of lids and lips to each other. Source: B. Amberg, S. Romdhani and T. Vetter, Optimal Step Nonrigid ICP
    Algorithms for Surface Registration, 2007, with displacements in place of affine transforms.
    """
    left, right = (vertices[np.unique(helpers[name])].mean(axis=0) for name in ("helper-l-eye", "helper-r-eye"))
    eyes = {side: mean[slice(*PARTS[f"{side}_eye"])] for side in ("left", "right")}
    scale = (eyes["left"].mean(axis=0) - eyes["right"].mean(axis=0))[0] / (left - right)[0]
    shift = eyes["left"].mean(axis=0) - left * scale
    start = vertices * scale + shift
    opened = start + mouth_open * scale
    jaw = mean + jaw_open
    pairs = []
    for name in ("left", "right"):
        ball = eyes[name]
        side, middle = 1.5 * np.ptp(ball, axis=0)[0], ball.mean(axis=0)
        source = _rim(start, body, middle[:2], side, middle[2])
        target = _rim(mean, skin, middle[:2], side, middle[2])
        pairs.append((source[0], source[1], target[2]))
    behind = float(mean[:SKIN, 2].max()) - 5.0
    mouth = np.array([0.0, eyes["left"].mean(axis=0)[1] - 8.9])
    source = _rim(opened, body, mouth, 8.0, behind)
    target = _rim(jaw, skin, mouth, 8.0, behind)
    pairs.append((source[0], source[1], (mean[target[0]] * target[1][..., None]).sum(axis=1)))
    used, compact = np.unique(body, return_inverse=True)
    compact = compact.reshape(-1, 3)
    moved = start[used].copy()
    place = np.full(len(vertices), -1)
    place[used] = np.arange(len(used))
    edges = np.concatenate([compact[:, [0, 1]], compact[:, [1, 2]], compact[:, [2, 0]]])
    links = sp.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(used),) * 2).tocsr()
    links = ((links + links.T) > 0).astype(np.float64)
    laplacian = sp.diags(np.asarray(links.sum(axis=1)).ravel()) - links
    smooth = laplacian.T @ laplacian
    normals_to = vertex_normals(mean[:SKIN], skin)
    tree = cKDTree(mean[:SKIN])
    lowest = mean[:SKIN, 1].min() + 1.0
    rows = np.repeat(np.arange(sum(len(pair[0]) for pair in pairs)), 3)
    columns = place[np.concatenate([pair[0].ravel() for pair in pairs])]
    rims = sp.csr_matrix(
        (np.concatenate([pair[1].ravel() for pair in pairs]), (rows, columns)), shape=(rows[-1] + 1, len(used))
    )
    goals = np.concatenate([pair[2] for pair in pairs])
    sealed = start[used, 1] < lowest - 14.0
    for stiffness in (50.0, 20.0, 8.0, 3.0, 1.0, 1.0, 0.5, 0.5):
        normals = vertex_normals(moved, compact)
        distance, nearest = tree.query(moved)
        across = ((mean[nearest] - moved) * normals_to[nearest]).sum(axis=1, keepdims=True) * normals_to[nearest]
        agrees = ((normals * normals_to[nearest]).sum(axis=1) > 0.5) & (distance < 1.5) & (moved[:, 1] > lowest)
        weight = sp.diags(agrees.astype(np.float64) + 1e-4 + 10.0 * sealed)
        wanted = np.where(agrees[:, None], moved + across, start[used])
        system = (stiffness * smooth + weight + 30.0 * rims.T @ rims).tocsc()
        right_side = weight @ (wanted - start[used]) + 30.0 * rims.T @ (goals - rims @ start[used])
        moved = start[used] + splu(system).solve(np.asarray(right_side))
    placed = start.copy()
    placed[used] = moved
    others = np.setdiff1d(np.arange(len(vertices)), used)
    distance, nearest = cKDTree(start[used]).query(start[others], k=6)
    weights = 1 / (distance + 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    placed[others] += ((moved - start[used])[nearest] * weights[..., None]).sum(axis=1)
    return np.asarray(placed)


def _followers(base: F64, mean: F64) -> sp.csr_matrix:
    """Weights (19158, 26719) by which the base mesh follows the head's skin; places far from the head stay."""
    distance, nearest = cKDTree(mean[:SKIN]).query(base, k=4)
    weights = 1 / (distance + 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    fade = np.clip(1.0 - (distance[:, 0] - 4.0) / 12.0, 0.0, 1.0)
    fade *= np.clip((base[:, 1] + 24.0) / 8.0, 0.0, 1.0)
    rows = np.repeat(np.arange(len(base)), 4)
    data = (weights * fade[:, None]).ravel()
    return sp.csr_matrix((data, (rows, nearest.ravel())), shape=(len(base), len(mean)))


def closest_on_mesh(points: F64, vertices: F64, triangles: Ints, count: int = 12) -> tuple[Ints, F64]:
    """The triangle (n,) nearest to each point (n, 3), and the barycentric weights (n, 3) of the nearest place on it."""
    corners = vertices[triangles]
    _, near = cKDTree(corners.mean(axis=1)).query(points, k=min(count, len(triangles)))
    best = np.full(len(points), np.inf)
    owner, weights = np.zeros(len(points), np.int64), np.zeros((len(points), 3))
    for k in range(near.shape[1]):
        a, b, c = (corners[near[:, k], place] for place in range(3))
        bary = _clamped(points, a, b, c)
        there = a * bary[:, :1] + b * bary[:, 1:2] + c * bary[:, 2:]
        distance = np.linalg.norm(points - there, axis=1)
        better = distance < best
        best[better], owner[better], weights[better] = distance[better], near[better, k], bary[better]
    return owner, weights


def _clamped(points: F64, a: F64, b: F64, c: F64) -> F64:
    """Barycentric weights (n, 3) of the orthogonal projection on a triangle, clamped into it."""
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = ((x * y).sum(axis=1) for x, y in ((u, u), (u, v), (v, v)))
    wu, wv = (w * u).sum(axis=1), (w * v).sum(axis=1)
    scale = np.maximum(uu * vv - uv * uv, 1e-12)
    bary = np.column_stack([np.zeros(len(points)), (vv * wu - uv * wv) / scale, (uu * wv - uv * wu) / scale])
    bary[:, 0] = 1 - bary[:, 1] - bary[:, 2]
    bary = np.clip(bary, 0, None)
    return np.asarray(bary / bary.sum(axis=1, keepdims=True))


def _skin_uv(mean: F64, skin: Ints, base: F64, body: Ints, body_uv: F64) -> F64:
    """Texture coordinates (t, 3, 2) on MakeHuman's skins for the corners of the head's triangles.

    A triangle takes the chart of the base mesh's triangle that is nearest to its middle; corners that lie on another
    chart, across a seam, are extrapolated.
    """
    owner, weights = closest_on_mesh(mean[:SKIN], base, body)
    vertex_uv = (body_uv[owner] * weights[..., None]).sum(axis=1)
    corners = vertex_uv[skin]
    middle, middle_weights = closest_on_mesh(mean[skin].mean(axis=1), base, body)
    centre_uv = (body_uv[middle] * middle_weights[..., None]).sum(axis=1)
    apart = np.abs(corners - centre_uv[:, None]).max(axis=(1, 2))
    wrong = np.flatnonzero(apart > 0.03)
    a, b, c = (base[body[middle[wrong]]][:, k] for k in range(3))
    for k in range(3):
        points = mean[skin[wrong, k]]
        u, v, w = b - a, c - a, points - a
        uu, uv, vv = ((x * y).sum(axis=1) for x, y in ((u, u), (u, v), (v, v)))
        wu, wv = (w * u).sum(axis=1), (w * v).sum(axis=1)
        scale = np.maximum(uu * vv - uv * uv, 1e-9)
        second, third = np.clip((vv * wu - uv * wv) / scale, -3, 3), np.clip((uu * wv - uv * wu) / scale, -3, 3)
        chart = body_uv[middle[wrong]]
        corners[wrong, k] = (
            chart[:, 0] + second[:, None] * (chart[:, 1] - chart[:, 0]) + third[:, None] * (chart[:, 2] - chart[:, 0])
        )
    return np.asarray(corners)


def _ages(assets: Assets, mean: F64, base: F64, body: Ints) -> dict[str, F64]:
    """Shapes (26719, 3) from MakeHuman's: of sex, age and ancestry, relative to its young adults of European descent,
    and those of ``DETAILS``."""
    folder = "macrodetails"
    known = [name.removesuffix(".target") for name in assets.names(f"mh/targets/{folder}", ".target.gz")]
    known = [name for name in known if name.count("-") == 2 and not name.startswith("universal")]
    reference = np.mean([assets.target(f"{folder}/caucasian-{sex}-young") for sex in ("female", "male")], axis=0)
    owner, weights = closest_on_mesh(mean[:SKIN], base, body)
    shapes = {}
    for name in known:
        moved = (assets.target(f"{folder}/{name}") - reference) * SCALE
        shapes[name] = _spread(mean, (moved[body[owner]] * weights[..., None]).sum(axis=1))
    for name, files in DETAILS.items():
        moved = np.sum([assets.target(file) for file in files], axis=0) * SCALE
        shapes[name] = _spread(mean, (moved[body[owner]] * weights[..., None]).sum(axis=1))
    return shapes


def _spread(mean: F64, skin: F64) -> F64:
    """Displacements (26719, 3) of the whole head from those of its skin (11248, 3), the mean removed.

    Eyeballs and teeth are moved and scaled as stiff parts with the skin around them; the rest follows the nearest skin.
    """
    moved = np.zeros_like(mean)
    moved[:SKIN] = skin
    tree = cKDTree(mean[:SKIN])
    distance, nearest = tree.query(mean[SKIN:], k=4)
    weights = 1 / (distance + 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    moved[SKIN:] = (skin[nearest] * weights[..., None]).sum(axis=1)
    for names in (("left_eye",), ("right_eye",), ("gums", "teeth")):
        part = np.concatenate([np.arange(*PARTS[name]) for name in names])
        near = tree.query(mean[part].mean(axis=0), k=300)[1]
        middle, after = mean[near].mean(axis=0), (mean[near] + skin[near]).mean(axis=0)
        size = np.linalg.norm(mean[near] + skin[near] - after) / np.linalg.norm(mean[near] - middle)
        moved[part] = (mean[part] - middle) * size + after - mean[part]
    return np.asarray(moved - skin[:9409].mean(axis=0))
