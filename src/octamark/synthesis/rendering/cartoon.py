"""Heads outside the human range: what a caricature changes in a person, and the map of space that shapes the head.

The map moves everything in the scene (skin, eyes, teeth, brows, hair, glasses), so that parts stay where they belong;
it is one to one, so that surfaces which do not cut through each other before do not do so afterwards. It has two steps:

- parts of the face grow, shrink, turn and move. Each part has a velocity field, linear around its middle and 0 farther
  away, that moves with the part; points follow the sum of the fields for a unit of time (a flow of diffeomorphisms, as
  in M. F. Beg, M. I. Miller, A. Trouve and L. Younes, Computing Large Deformation Metric Mappings via Geodesic Flows
  of Diffeomorphisms, 2005, with fields chosen instead of found);
- the height of each storey of the head is scaled, and width and depth by factors that depend on the height.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import expm
from scipy.spatial import cKDTree

from octamark.synthesis.rendering.assets import F64
from octamark.synthesis.rendering.heads import SKIN
from octamark.synthesis.rendering.ink import sample_style
from octamark.synthesis.rendering.person import Colour, Person
from octamark.synthesis.rendering.pieces import Piece

STEPS = 6
"""Steps of the flow."""

STRANDS = ("hair", "beard", "brow", "lash")
"""Pieces whose normals need not follow: those of strands point to all sides."""

REGIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "eye": ((3.1, 3.65, 8.2), (2.0, 1.7, 2.4), 2.3),
    "brow": ((3.3, 5.9, 9.5), (2.9, 1.0, 2.5), 2.2),
    "ear": ((8.4, 1.0, -0.6), (1.6, 4.0, 3.0), 1.8),
    "cheek": ((5.0, -1.0, 7.0), (2.0, 2.0, 2.5), 2.2),
    "jaw": ((6.0, -4.5, 3.0), (1.8, 2.5, 3.0), 2.2),
    "nose": ((0.0, 1.0, 10.2), (2.1, 2.9, 3.4), 1.9),
    "tip": ((0.0, 0.2, 12.0), (1.4, 1.3, 1.6), 2.0),
    "mouth": ((0.0, -3.5, 9.5), (3.2, 1.7, 4.0), 1.9),
    "chin": ((0.0, -7.2, 9.2), (2.6, 1.6, 3.0), 2.0),
    "forehead": ((0.0, 9.0, 6.0), (5.0, 3.0, 5.0), 1.8),
    "crown": ((0.0, 13.0, -2.0), (5.0, 4.0, 6.0), 1.9),
}
"""Parts that change: middle on the mean head (of pairs, the person's left one), half axes of the body in which the part
is scaled evenly, and how many times as far from the middle its influence ends; centimetres."""

PAIRS = ("eye", "brow", "ear", "cheek", "jaw")
"""Parts of which there are two."""

CHIN, NOSE_BASE, BROWS = -8.4, -1.4, 5.4
"""Heights on the mean head between which the storeys of a face lie: below the nose, between, and above the brows."""

WIDTH_LEVELS = (-60.0, -17.0, -11.0, -7.5, -3.5, 3.5, 9.0, 14.5, 60.0)
"""Heights at which a caricature gives factors of the width: body, body, neck, chin, mouth, eyes, forehead, top, top."""

SKIN_COLOURS: tuple[Colour, ...] = (
    (0.80, 0.60, 0.50), (0.75, 0.56, 0.20), (0.25, 0.50, 0.18), (0.20, 0.35, 0.65), (0.65, 0.22, 0.16),
    (0.45, 0.28, 0.60), (0.70, 0.30, 0.42), (0.55, 0.55, 0.56), (0.82, 0.80, 0.76),
)  # fmt: skip
"""Linear colours of skins that only drawings have, and, first, the one that most have."""

KINDS = {"caricature": 0.32, "doll": 0.30, "toon": 0.24, "dots": 0.14}
"""Kinds of caricatures -> share: everything at random; large eyes, small nose and mouth; features of animation films;
dots for eyes."""


DRAWN = {"caricature": 0.35, "doll": 0.65, "toon": 0.5, "dots": 0.65}
"""Share of each kind that is drawn in ink or flat colours; the others are rendered."""


def caricatured(person: Person, share: float) -> Person:
    """The person, or with a probability of ``share`` a caricature of the person; the same for every machine.

    A caricature has ``options["caricature"]``: ``kind`` and ``strength`` (0.4 to 1.5), ``parts`` (name -> ``size``,
    three factors, ``shift``, centimetres, and ``turn``, degrees), ``storeys`` (factors of the height, from the lowest),
    ``widths`` (factors at ``WIDTH_LEVELS``) and ``depth``.
    """
    rng = np.random.default_rng([person.seed, 7])
    if rng.random() >= share:
        return person
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    strength = float(rng.uniform(0.4, 1.5))
    identity = np.array(person.identity)
    length = float(np.linalg.norm(identity))
    beyond = strength * (1.0 if kind == "caricature" else 0.4)  # the others have large changes of their own
    identity = identity * rng.uniform(1.0, 1.0 + 0.35 * beyond)
    for place in rng.choice(40, 3, replace=False):
        identity[place] += float(rng.choice([-1, 1])) * rng.uniform(1.0, 3.0) * beyond
    identity *= min(1.0, 1.7 * length / float(np.linalg.norm(identity)))
    shape = _shape(kind, strength, rng)
    options = {**person.options, **_look(kind, person, rng), "caricature": shape}
    if rng.random() < DRAWN[kind]:
        options["drawing"] = sample_style(rng)
    expression = _expression(kind, person, rng)
    ages = dict(person.ages)
    if "drawing" in options:  # mouths are lines, or openings between them
        ages["thin lips"] = round(float(rng.uniform(0.3, 1.0)), 4)
        ages.pop("full lips", None)
        for name in ("mouthRollUpper", "mouthRollLower"):
            expression[name] = round(float(rng.uniform(0.2, 0.9)), 3)
    options["things"] = {name: thing for name, thing in person.options["things"].items() if name != "occluder"}
    return replace(
        person,
        identity=tuple(np.round(identity, 4).tolist()),
        ages=ages,
        expression=expression,
        options=options,
    )


def _expression(kind: str, person: Person, rng: np.random.Generator) -> dict[str, float]:
    """Weights of the expression shapes: in drawings most eyes are wide open, laughing ones too."""
    weights = dict(person.expression)
    wide = float(rng.uniform(0.2, 1.0)) if kind != "dots" else 1.0
    if kind == "caricature" or rng.random() < 0.15:
        return weights
    for side in "LR":
        weights[f"eyeBlink_{side}"] = min(weights.get(f"eyeBlink_{side}", 0.0), 0.06)
        weights[f"eyeWide_{side}"] = max(weights.get(f"eyeWide_{side}", 0.0), round(wide, 3))
        for name in ("eyeSquint", "cheekSquint", "cheekRaiser"):
            if f"{name}_{side}" in weights:
                weights[f"{name}_{side}"] = round(0.2 * weights[f"{name}_{side}"], 3)
    return weights


def _shape(kind: str, strength: float, rng: np.random.Generator) -> dict[str, Any]:
    """The content of ``options["caricature"]``."""
    sizes = {name: rng.normal(0, 0.16, 3) + rng.normal(0, 0.12) for name in REGIONS}
    shifts = {name: rng.normal(0, 0.35, 3) for name in REGIONS}
    turns = {"eye": rng.normal(0, 6), "brow": rng.normal(0, 9), "mouth": 0.0}
    for name in ("forehead", "crown"):
        sizes[name] = 0.6 * sizes[name]
    levels = np.clip(np.array(WIDTH_LEVELS), -11, 15) / 13
    storeys = rng.normal(0, 0.11, 3)
    widths = rng.normal(0, 0.08) + rng.normal(0, 0.12) * levels + rng.normal(0, 0.03, 9)
    widths[[0, 8]] = widths[[1, 7]]
    uneven = 0.05
    pull = (0.65 + 0.3 * strength) / strength  # what a kind has in common varies less than what is random

    def toward(name: str, size: tuple[float, float, float], spread: float = 0.12) -> None:
        """Draw the logarithm of a part's size around another mean."""
        sizes[name] = pull * np.log(size) + rng.normal(0, spread) + rng.normal(0, 0.5 * spread, 3)

    if kind == "caricature":
        for name in sizes:
            sizes[name] = 1.5 * sizes[name]
            shifts[name] = 1.2 * shifts[name]
        storeys, widths = 1.5 * storeys, 1.5 * widths
        uneven = 0.12
    elif kind == "doll":
        wide = rng.uniform(1.3, 1.75)
        toward("eye", (wide, wide * rng.uniform(1.4, 2.1), 1.1), 0.06)
        toward("nose", (0.65, 0.65, 0.35))
        toward("tip", (0.7, 0.7, 0.6))
        toward("mouth", (rng.uniform(0.55, 1.0), rng.uniform(0.6, 1.0), 0.8))
        toward("chin", (0.75, 0.85, 0.9))
        shifts["eye"] += pull * np.array([0.6, -0.6, 0.3])
        storeys += pull * np.array([-0.18, -0.1, 0.22])
        widths += pull * np.array([-0.5, -0.5, -0.55, -0.25, -0.08, 0.08, 0.14, 0.1, 0.1])
    elif kind == "toon":
        wide = rng.uniform(1.1, 1.6)
        toward("eye", (wide, wide * rng.uniform(1.2, 2.0), 1.15), 0.06)
        ball = rng.uniform(0.7, 1.8)
        toward("tip", (ball, ball, ball))
        toward("mouth", (rng.uniform(0.8, 1.5), rng.uniform(0.8, 1.4), 1.0))
        toward("ear", (1.4, 1.3, 1.4), 0.25)
        shifts["eye"] += pull * np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.6), 0.5])
        shifts["tip"] += pull * np.array([0, rng.uniform(-0.8, 0.6), rng.uniform(0, 2.5) * (rng.random() < 0.5)])
        storeys += rng.normal(0, 0.15, 3)
        jaw = rng.normal(0, 0.2) * np.array([1.3, 1.0, 0.4, 0.0])
        widths += pull * np.array([-0.45, -0.45, -0.4, *jaw, 0.0, 0.0])
    else:
        small = rng.uniform(0.35, 0.6)
        toward("eye", (small, small * rng.uniform(1.8, 3.2), 0.8), 0.06)
        toward("mouth", (rng.uniform(0.5, 1.4), rng.uniform(0.5, 1.0), 0.9))
        toward("brow", (0.6, 0.8, 1.0))
        turns["eye"] = 0.2 * turns["eye"]
        storeys += rng.normal(0, 0.1, 3)
        widths += pull * np.array([-0.5, -0.5, -0.4, 0.12, 0.1, 0.08, 0.05, 0.0, 0.0])
    if rng.random() < {"caricature": 0.04, "doll": 0.25, "toon": 0.08, "dots": 0.55}[kind]:  # hardly a nose
        sizes["nose"] = np.log([0.55, 0.55, 0.12]) / strength
        sizes["tip"] = np.log([0.8, 0.8, 0.6]) / strength
        shifts["nose"] = shifts["tip"] = np.array([0.0, 0.0, -0.3]) / strength
    for name in set(REGIONS) - set(PAIRS):
        shifts[name][0] *= 0.25
    parts = {}
    for name in REGIONS:
        for side in ("left ", "right ") if name in PAIRS else ("",):
            size = np.clip(strength * sizes[name] + rng.normal(0, uneven * strength, 3), *LARGEST)
            shift = strength * shifts[name] + rng.normal(0, uneven * strength, 3)
            if name == "eye":  # neither reaches the middle of the face
                shift[0] = max(shift[0], 1.45 * float(np.exp(size[0])) - 2.55)
            parts[side + name] = {
                "size": np.round(np.exp(size), 3).tolist(),
                "shift": np.round(np.clip(shift, -2.5, 3.5), 3).tolist(),
                "turn": round(float(np.clip(strength * turns.get(name, 0.0), -22, 22)), 2),
            }
    return {
        "kind": kind,
        "strength": round(strength, 3),
        "parts": parts,
        "storeys": np.round(np.exp(np.clip(strength * storeys, -0.45, 0.45)), 3).tolist(),
        "widths": np.round(np.exp(np.clip(strength * widths, -0.7, 0.4)), 3).tolist(),
        "depth": round(float(np.exp(rng.normal(0, 0.08 * strength))), 3),
    }


LARGEST = (-2.1, 1.25)
"""Smallest and largest logarithm of a factor by which a part is scaled."""


def _look(kind: str, person: Person, rng: np.random.Generator) -> dict[str, Any]:
    """Options of a caricature's colours, skin, eyes and brows."""
    look: dict[str, Any] = {}
    drawn = kind != "caricature" or rng.random() < 0.3
    if rng.random() < (0.5 if drawn else 0.08):
        first = rng.random() < 0.4
        look["skin_colour"] = SKIN_COLOURS[0 if first else int(rng.integers(1, len(SKIN_COLOURS)))]
    look["plain_skin"] = float(rng.uniform(0.4, 1.0)) if drawn else float(rng.uniform(0.0, 0.4))
    if drawn:
        look |= {"wrinkles": 0.0 if kind == "doll" else person.options["wrinkles"], "spots": 0.0}
        look["eye_white"] = float(rng.uniform(0.6, 0.85))
        look["iris_angle"] = float(rng.uniform(24, 40) if kind == "doll" else rng.uniform(14, 34))
        look["brow_hairs"] = int(rng.integers(900, 2600))
        look["brow_width"] = float(rng.uniform(0.02, 0.16))
        look["highlight"] = round(float(rng.uniform(0.15, 0.4)), 3) if rng.random() < 0.7 else 0.0
        if rng.random() < 0.35:
            look["hair"] = str(rng.choice(["dyed blue", "dyed pink", "red", "blond", "white", "black"]))
            look["brow_colour"] = look["hair"]
    if kind == "dots":
        look |= {"iris": "black", "iris_angle": 90.0, "pupil": 1.0, "lashes": 0.02}
    return look


class HeadMap:
    """The map of space that makes a caricature of a person's head.

    Args:
        shape: ``options["caricature"]`` of the person.
        mean: (n, 3) vertices of the mean head.
        vertices: (n, 3) of the person's head before.
    """

    def __init__(self, shape: Mapping[str, Any], mean: F64, vertices: F64) -> None:
        tree = cKDTree(mean[:SKIN])
        middles, axes, steps, shifts, growth, reaches = [], [], [], [], [], []
        for name, part in shape["parts"].items():
            side, _, region = name.rpartition(" ")
            mirror = np.array([-1.0 if side == "right" else 1.0, 1.0, 1.0])
            middle, half, reach = REGIONS[region]
            rest = np.array(middle) * mirror
            near = tree.query(rest, k=60)[1]
            middles.append(rest + (vertices[near] - mean[near]).mean(axis=0))
            axes.append(np.array(half))
            reaches.append(reach)
            rate = np.log(part["size"])
            turn = np.radians(part["turn"]) * mirror[0]
            field = np.diag(rate)
            field[0, 1], field[1, 0] = field[0, 1] - turn, field[1, 0] + turn
            steps.append(expm(field / STEPS) - np.eye(3))
            shifts.append(np.array(part["shift"]) * mirror / STEPS)
            growth.append(np.exp(rate / STEPS))
        self._middles, self._axes, self._reaches = np.array(middles), np.array(axes), np.array(reaches)
        self._steps, self._shifts, self._growth = np.array(steps), np.array(shifts), np.array(growth)
        lower, middle_storey, upper = shape["storeys"]
        heights = np.array([-70.0, -13.0, CHIN - 1.0, CHIN + 1.0, NOSE_BASE, BROWS, BROWS + 3.0, 60.0])
        slopes = np.array([1.0, 1.0, 1.0, lower, middle_storey, upper, upper])
        lifted = np.concatenate([[0.0], np.cumsum(np.diff(heights) * slopes)])
        self._height = PchipInterpolator(heights, lifted)
        self._level = float(self._height(3.6)) - 3.6  # the eyes stay
        widths = np.array(shape["widths"])
        self._width = PchipInterpolator(WIDTH_LEVELS, widths)
        depths = np.full(len(widths), shape["depth"])
        depths[:3] = widths[:3]
        self._depth = PchipInterpolator(WIDTH_LEVELS, depths)

    def __call__(self, points: F64) -> F64:
        """Where points (..., 3) go."""
        flat = points.reshape(-1, 3).copy()
        middles, axes = self._middles.copy(), self._axes.copy()
        for _ in range(STEPS):
            moved, carried = np.zeros_like(flat), np.zeros_like(middles)
            for part in range(len(middles)):
                for places, total in ((flat, moved), (middles, carried)):
                    self._add(part, middles[part], axes[part], places, total)
            flat += moved
            middles += carried
            axes *= self._growth
        height = np.clip(flat[:, 1], -65.0, 55.0)
        beyond = flat[:, 1] - height
        out = flat * np.column_stack([self._width(height), np.ones(len(flat)), self._depth(height)])
        out[:, 1] = self._height(height) + beyond - self._level
        return np.asarray(out.reshape(points.shape))

    def _add(self, part: int, middle: F64, axes: F64, places: F64, total: F64) -> None:
        """Add one step of a part's field at places (n, 3) to ``total``."""
        reach = self._reaches[part]
        near = np.flatnonzero((np.abs(places - middle) < reach * axes).all(axis=1))
        away = places[near] - middle
        share = np.clip((reach - np.linalg.norm(away / axes, axis=1)) / (reach - 1.0), 0.0, 1.0)
        share *= share * (3.0 - 2.0 * share)
        total[near] += share[:, None] * (away @ self._steps[part].T + self._shifts[part])

    def piece(self, piece: Piece) -> Piece:
        """A piece of the scene where it goes, its normals turned with it unless it is made of strands."""
        moved = self(piece.vertices)
        if piece.normals is None or piece.name in STRANDS:
            return replace(piece, vertices=moved)
        small = 0.02
        columns = [(self(piece.vertices + small * axis) - moved) / small for axis in np.eye(3)]
        jacobian = np.stack(columns, axis=-1)  # n, 3, 3
        cofactors = np.stack(
            [np.cross(jacobian[:, :, 1], jacobian[:, :, 2]), np.cross(jacobian[:, :, 2], jacobian[:, :, 0]),
             np.cross(jacobian[:, :, 0], jacobian[:, :, 1])], axis=-1,
        )  # fmt: skip
        normals = np.einsum("nij,nj->ni", cofactors, piece.normals)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return replace(piece, vertices=moved, normals=normals)
