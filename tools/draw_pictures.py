"""Draw the pictures of README and docs again.

python tools/draw_pictures.py          (needs the package's extra, train, and scikit-image for the portrait)
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

import octamark
from octamark import drawing
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.images import write_picture
from octamark.synthesis.caricature import Caricaturist, stylised

DOCS = Path(__file__).parent.parent / "docs"
SEEDS = {"medium": (0, 6, 10, 11), "strong": (15, 19, 20, 23)}
"""Strength of the caricatures that are shown -> their seeds."""


def main() -> None:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the portrait comes with scikit-image: pip install --no-deps scikit-image")
    portrait = Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB")
    part = portrait.crop((110, 10, 340, 240)).resize((690, 690), Image.Resampling.LANCZOS)
    picture = octamark.read_picture(part)
    faces = octamark.load("small")(picture, heatmaps=True)
    panels = [
        drawing.overlay(picture, faces, enlarge=False),
        radii(picture, faces),
        drawing.heatmap_picture(picture, faces),
    ]
    write_picture(DOCS / "astronaut.jpg", np.hstack([panel[70:600, 90:620] for panel in panels]))
    refined = octamark.load("small", refine="always", rotation="never")
    coarse = octamark.load("small", refine="never", rotation="never")(picture)
    assert refined.refiner is not None
    regions = drawing.refinement_picture(picture, coarse[0], refined(picture)[0], refined.refiner)
    write_picture(DOCS / "close_look.jpg", regions)
    write_picture(DOCS / "caricatures.jpg", caricatures(picture))
    (DOCS / "layouts").mkdir(exist_ok=True)
    for name in octamark.layouts.BUILTIN:
        write_picture(DOCS / "layouts" / f"{name}.png", drawing.diagram(octamark.layout(name)))
    guides()


def radii(picture: Picture, faces: octamark.Faces) -> Picture:
    """The picture, paler, with the circles that hold the true points with a probability of 90 %."""
    canvas = np.asarray(picture // 2 + 127, np.uint8)
    for face in faces:
        for index, (point, radius) in enumerate(zip(face.landmarks, face.radius(0.9), strict=True)):
            colour = (200, 90, 0) if index in face.layout.outline else (0, 100, 170)
            x, y = np.round(point * 16).astype(int).tolist()
            cv2.circle(canvas, (x, y), round(16 * float(radius)), colour, 2, cv2.LINE_AA, 4)
            cv2.circle(canvas, (x, y), 24, colour, -1, cv2.LINE_AA, 4)
    return canvas


def guides() -> None:
    """The pictures of tutorials and how-to guides, made by the code of their pages."""
    landmarker, portrait = octamark.load("small"), octamark.read_picture(DOCS / "portrait.jpg")
    faces = landmarker(portrait)
    write_picture(DOCS / "tutorials" / "landmarks.jpg", drawing.overlay(portrait, faces)[:800])

    close_eyes = run_blocks("blink-detector", 2)["close_eyes"]
    eyes = [close_eyes(portrait, faces[0], closed) for closed in (0, 0.5, 1)]
    parts = ("right_eye", "left_eye")
    drawn = [drawing.overlay(picture, landmarker(picture), parts=parts, enlarge=False) for picture in eyes]
    tiles = [enlarged(picture[65:145, 125:245]) for picture in [*eyes, *drawn]]
    write_picture(DOCS / "tutorials" / "blink.jpg", drawing.sheet(tiles, 3))

    cats = run_blocks("own-points", 1)
    random = np.random.default_rng(0)
    tiles = [cats["draw_cat"](random)[0] for _ in range(8)]
    write_picture(DOCS / "tutorials" / "cats.jpg", drawing.sheet(tiles, 8))

    insightface, dlib = faces.chips(portrait, 300), faces.chips(portrait, 300, template="dlib")
    whole = np.asarray(cv2.resize(portrait, (300, 300), interpolation=cv2.INTER_AREA), np.uint8)
    write_picture(DOCS / "how-to" / "chips.jpg", drawing.sheet([whole, insightface[0], dlib[0]], 3))


def run_blocks(tutorial: str, count: int) -> dict[str, Any]:
    """The names that the first Python blocks of a tutorial define; they run in a folder of their own."""
    text = (DOCS / "tutorials" / f"{tutorial}.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(DOCS / "portrait.jpg", folder)
        for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:count]:
            exec(code, names)  # noqa: S102
    return names


def enlarged(picture: Picture, factor: int = 3) -> Picture:
    """The picture, a whole number of times as large."""
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)


def caricatures(picture: Picture) -> Picture:
    """A sheet of the portrait's face as eight caricatures, and of what small-art finds in them."""
    landmarks = octamark.load("small")(picture)[0].landmarks
    transform = crop_transform(squares(landmark_boxes(landmarks[None]), 1.7)[0], 360)
    face = torch.from_numpy(crop(picture, transform, 360)).permute(2, 0, 1)[None]
    points = torch.from_numpy(apply(invert(transform), landmarks)).float()[None]
    landmarker, layout = octamark.load("small-art"), octamark.layout("ibug68")
    drawn, overlays = [], []
    for strength, seeds in SEEDS.items():
        for seed in seeds:
            pictures, truth = stylised(face, points, Caricaturist(layout), strength, seed)
            tile = np.ascontiguousarray(pictures[0].permute(1, 2, 0).numpy())
            drawn.append(tile)
            faces = landmarker(tile, landmark_boxes(truth.numpy()), box_kind="landmarks")
            overlays.append(drawing.overlay(tile, faces, enlarge=False))
    return drawing.sheet([*drawn[:4], *overlays[:4], *drawn[4:], *overlays[4:]], 4)


if __name__ == "__main__":
    main()
