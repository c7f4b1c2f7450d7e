"""Light and background: environments with lamps painted into them, and pictures behind the head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError
from octamark.synthesis.rendering.assets import F64, Assets
from octamark.synthesis.rendering.person import Person
from octamark.synthesis.rendering.skin import noise_field

F32 = NDArray[np.float32]

BRIGHTEST = 60.0
"""Environments are clipped to this radiance: a sun in a 512-pixel environment is mostly noise."""


@lru_cache(maxsize=32)
def _environment(path: Path) -> F32:
    import mitsuba as mi

    try:
        bitmap = mi.Bitmap(str(path)).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.Float32, srgb_gamma=False)
    except RuntimeError as error:
        raise DataError(f"{path}: no environment that can be read ({error})") from error
    picture = np.nan_to_num(np.array(bitmap, np.float32), nan=0.0, posinf=BRIGHTEST, neginf=0.0)
    picture = np.clip(picture, 0.0, BRIGHTEST)
    return np.asarray(picture / max(float(picture.mean()), 1e-3), np.float32)


def environment(person: Person, assets: Assets) -> tuple[F32, F32]:
    """Radiance of the surroundings (256, 512, 3): with the lamps, for light; and without, for a background."""
    light = person.options["light"]
    plain = _environment(assets.folder / "hdri" / f"{light['environment']}.exr")
    plain = np.roll(plain, round(light["turn"] / 360 * plain.shape[1]), axis=1)
    height, width = plain.shape[:2]
    out = plain * light["ambient"]
    theta = (np.arange(height) + 0.5) / height * np.pi
    phi = (np.arange(width) + 0.5) / width * 2 * np.pi
    across, height_of = np.sin(theta)[:, None], np.broadcast_to(np.cos(theta)[:, None], (height, width))
    directions = np.stack([across * np.sin(phi), height_of, -across * np.cos(phi)], axis=-1)  # Mitsuba's convention
    for lamp in light["lamps"]:
        yaw, pitch = np.radians(lamp["yaw"]), np.radians(lamp["pitch"])
        toward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
        spread = np.radians(lamp["size"])
        shape = np.exp((directions @ toward - 1) / spread**2)
        total = (shape * np.sin(theta)[:, None]).sum() * (np.pi / height) ** 2
        out = out + (shape / total)[..., None] * 3.0 * lamp["strength"] * np.array(lamp["colour"])
    return np.asarray(out, np.float32), np.asarray(plain, np.float32)


def _noise_of_one_or_three(size: int, rng: np.random.Generator) -> F32:
    """Noise (size, size, 3), coloured in a fifth of the cases."""
    cell, grey = rng.uniform(2, 40), rng.random() < 0.8
    return np.broadcast_to(
        noise_field((size, size), cell, rng, 1 if grey else 3).reshape(size, size, -1), (size, size, 3)
    )


def _calm_colour(rng: np.random.Generator) -> F64:
    """A linear colour (3,), mostly nearly grey, as of walls, furniture and clothes."""
    level = np.exp(rng.uniform(np.log(0.05), np.log(0.9)))
    return np.asarray(level * (1 + min(0.8, rng.exponential(0.2)) * rng.uniform(-1, 1, 3)))


def background(
    person: Person,
    surroundings: F32,
    looking: F64,
    angle: float,
    size: int,
    crowd: Sequence[F32],
    rng: np.random.Generator,
) -> F32:
    """A picture (size, size, 3), linear, mean about 0.2 to 0.5, for behind the head.

    Args:
        surroundings: radiance (h, w, 3) in all directions.
        looking: (3,) direction of the camera.
        angle: its field of view, degrees.
        crowd: linear pictures (s, s, 3) of other rendered heads.
    """
    kind = person.options["background"]
    if kind in ("environment", "blurred"):
        height, width = surroundings.shape[:2]
        wide = max(angle, rng.uniform(35, 85))
        axis = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.radians(wide / 2))
        yaw, pitch = np.arctan2(looking[0], -looking[2]), np.arcsin(np.clip(looking[1], -1, 1))
        u = (yaw / (2 * np.pi) + np.arctan(axis) / (2 * np.pi)) % 1.0 * width
        v = np.clip(0.5 - pitch / np.pi - np.arctan(-axis) / np.pi, 0, 1) * (height - 1)
        grid_u, grid_v = np.meshgrid(u.astype(np.float32), v.astype(np.float32))
        out = cv2.remap(surroundings, grid_u, grid_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        if kind == "blurred":
            out = cv2.GaussianBlur(out, (0, 0), size * float(rng.uniform(0.01, 0.04)))
        brightest = out.max(axis=2, keepdims=True)
        out = out * np.minimum(1.0, 4.0 / np.maximum(brightest, 1e-3)) + 0.005  # the sun keeps its colour
    elif kind == "wall":
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        x, y = np.meshgrid(ramp, ramp)
        slope = rng.normal(0, 0.3, 2)
        level = np.exp(slope[0] * x + slope[1] * y + 0.05 * noise_field((size, size), rng.uniform(2, 60), rng))
        out = level[..., None] * (rng.uniform(0.1, 1) + rng.uniform(0, 0.5) * rng.uniform(0, 1, 3))
        if rng.random() < 0.4:  # an edge, a frame or a door
            out[np.abs(x - rng.uniform(-1, 1)) < rng.uniform(0.01, 0.4)] *= rng.uniform(0.5, 1.5)
        out = cv2.GaussianBlur(out.astype(np.float32), (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(8)))))
    elif kind == "texture":
        out = np.exp(rng.uniform(0.05, 0.25) * _noise_of_one_or_three(size, rng))
        stripes = rng.uniform(4, 60)
        turn = rng.uniform(0, np.pi)
        x, y = np.meshgrid(np.arange(size), np.arange(size))
        wave = np.sign(np.sin((np.cos(turn) * x + np.sin(turn) * y) * 2 * np.pi / stripes))
        if rng.random() < 0.5:
            wave = wave * np.sign(np.sin((-np.sin(turn) * x + np.cos(turn) * y) * 2 * np.pi / stripes))
        first = _calm_colour(rng)
        out = out * np.where(wave[..., None] > 0, first, first * np.exp(rng.normal(0, 0.35, 3)))
        out = cv2.GaussianBlur(out.astype(np.float32), (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(6)))))
    elif kind == "crowd" and crowd:
        out = np.full((size, size, 3), 0.1, np.float32) * rng.uniform(0.3, 3, 3)
        for _ in range(int(rng.integers(3, 9))):
            other = crowd[int(rng.integers(len(crowd)))]
            side = int(size * rng.uniform(0.35, 0.9))
            tile = cv2.resize(other, (side, side), interpolation=cv2.INTER_AREA)
            if rng.random() < 0.5:
                tile = tile[:, ::-1]
            left, top = int(rng.uniform(-0.4, 0.9) * size), int(rng.uniform(-0.3, 0.8) * size)
            x0, y0, x1, y1 = max(0, left), max(0, top), min(size, left + side), min(size, top + side)
            if x1 > x0 and y1 > y0:
                out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 3.5)))
    elif kind == "foliage":
        leaf = np.array([rng.uniform(0.3, 0.8), 1.0, rng.uniform(0.15, 0.5)])
        out = np.ones((size, size, 3), np.float32) * (rng.uniform(0.02, 0.3) * leaf)
        for _ in range(320):
            centre = tuple(rng.integers(0, size, 2).tolist())
            axes = (int(rng.uniform(2, 16) * size / 256) + 1, int(rng.uniform(1, 6) * size / 256) + 1)
            colour = (rng.uniform(0.02, 0.4) * leaf * np.exp(rng.normal(0, 0.12, 3))).tolist()
            cv2.ellipse(out, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 5)))
    else:
        out = np.ones((size, size, 3), np.float32) * _calm_colour(rng).astype(np.float32)
        for _ in range(int(rng.integers(4, 26))):
            colour = _calm_colour(rng).tolist()
            if rng.random() < 0.6:
                corner, extent = rng.uniform(-0.2, 1, 2) * size, rng.uniform(0.03, 0.6, 2) * size
                turn = np.radians(rng.normal(0, 12))
                box = np.array([[0, 0], [extent[0], 0], extent, [0, extent[1]]])
                spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                cv2.fillConvexPoly(out, np.round(box @ spin + corner).astype(np.int32), colour, cv2.LINE_AA)
            else:
                centre = tuple(rng.integers(0, size, 2).tolist())
                cv2.circle(out, centre, int(rng.uniform(0.02, 0.25) * size), colour, -1, cv2.LINE_AA)
        out = cv2.GaussianBlur(out, (0, 0), float(np.exp(rng.uniform(np.log(0.3), np.log(7)))))
    out = np.asarray(out, np.float32)
    return np.asarray(out / max(float(out.mean()), 1e-4) * rng.uniform(0.05, 0.55), np.float32)
