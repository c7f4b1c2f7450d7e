"""Drawn faces with exact labels, written as a small 300W: no picture of a person."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octamark.layouts import layout

FOLDERS = ("afw", "helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug")


def draw_face(seed: int, side: int = 160) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A picture (side, side, 3) of the layout's schematic face, moved about, and its points (68, 2)."""
    rng = np.random.default_rng(seed)
    one = layout("ibug68")
    angle, scale = rng.normal(0, 0.1), side * rng.uniform(0.5, 0.6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (one.diagram - 0.5) @ turn.T * scale + side / 2 + rng.normal(0, side * 0.03, 2)
    picture = np.full((side, side, 3), rng.integers(0, 90, 3), np.uint8)
    cv2.fillPoly(picture, [np.round(points[:27]).astype(np.int32)], rng.integers(120, 220, 3).tolist())
    for part in ("right_eye", "left_eye", "outer_mouth"):
        cv2.fillPoly(
            picture, [np.round(points[list(one.part(part))]).astype(np.int32)], rng.integers(0, 60, 3).tolist()
        )
    for first, second in one.edges:
        ends = [tuple(np.round(points[i] * 16).astype(int).tolist()) for i in (first, second)]
        cv2.line(picture, ends[0], ends[1], (20, 20, 20), 1, cv2.LINE_AA, 4)
    return picture, points.astype(np.float32)


def write_pts(path: Path, points: NDArray[np.float32], *, header: bool = True) -> None:
    body = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{body}\n}}\n" if header else body)


def write_w300(root: Path, per_folder: int = 4, *, validation: int = 2, side: int = 160) -> Path:
    """A 300W of drawn faces in its original folders; both picture formats, with and without .pts headers."""
    names = []
    for number, folder in enumerate(FOLDERS):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(per_folder):
            picture, points = draw_face(100 * number + index, side)
            stem = root / folder / f"face_{index}"
            Image.fromarray(picture).save(stem.with_suffix(".png" if index % 2 else ".jpg"), quality=95)
            write_pts(stem.with_suffix(".pts"), points, header=index % 3 != 0)
            if number < 3:
                names.append(f"{folder}/face_{index}")
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "val.txt").write_text("\n".join(names[:validation]) + "\n")
    return root


class Oracle:
    """Detects the drawn face: the bright region, as a box wider below than the landmarks' box."""

    def __call__(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        bright = picture.max(axis=2) > 110
        rows, columns = np.nonzero(bright)
        box = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]], np.float32)
        return box, np.ones(1, np.float32)
