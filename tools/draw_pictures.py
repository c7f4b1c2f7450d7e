"""Draw the pictures of README and docs again.

python tools/draw_pictures.py          (needs the package's extra, train, and scikit-image for the portrait)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
    pair = np.hstack([drawing.overlay(picture, faces, enlarge=False), drawing.heatmap_picture(picture, faces)])
    write_picture(DOCS / "astronaut.jpg", pair)
    refined = octamark.load("small", refine="always", rotation="never")
    coarse = octamark.load("small", refine="never", rotation="never")(picture)
    assert refined.refiner is not None
    regions = drawing.refinement_picture(picture, coarse[0], refined(picture)[0], refined.refiner)
    write_picture(DOCS / "close_look.jpg", regions)
    write_picture(DOCS / "caricatures.jpg", caricatures(picture))
    (DOCS / "layouts").mkdir(exist_ok=True)
    for name in octamark.layouts.BUILTIN:
        write_picture(DOCS / "layouts" / f"{name}.png", drawing.diagram(octamark.layout(name)))


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
