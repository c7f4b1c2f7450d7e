"""Draw the pictures of README and docs again: python docs/make_pictures.py (needs torch, scikit-image's portrait)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import octamark
from octamark import drawing
from octamark.faces import Landmarks
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.images import write_picture
from octamark.synthesis.caricature import Caricaturist, stylised

HERE = Path(__file__).parent


def main() -> None:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the portrait comes with scikit-image: pip install --no-deps scikit-image")
    whole = Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB")
    part = whole.crop((110, 10, 340, 240)).resize((690, 690), Image.Resampling.LANCZOS)
    picture = octamark.read_picture(part)
    faces = octamark.load("small")(picture, heatmaps=True)
    pair = np.hstack([drawing.overlay(picture, faces, enlarge=False), drawing.heatmap_picture(picture, faces)])
    write_picture(HERE / "astronaut.jpg", pair)
    near = octamark.load("small", refine="always", rotation="never")
    coarse = octamark.load("small", refine="never", rotation="never")(picture)
    assert near.refiner is not None
    unrefined = Landmarks(coarse.landmarks[0], coarse.spread[0], coarse.confidence[0])
    names = [region.name for region in near.refiner.table.regions]
    crops = dict(zip(names, near.refiner.transforms([unrefined])[0], strict=True))
    size = near.refiner.card.rule.size
    view = drawing.refinement_picture(picture, coarse[0], near(picture)[0], crops, size)
    write_picture(HERE / "close_look.jpg", view)
    write_picture(HERE / "caricatures.jpg", caricatures(picture))
    (HERE / "layouts").mkdir(exist_ok=True)
    for name in octamark.layouts.BUILTIN:
        write_picture(HERE / "layouts" / f"{name}.png", drawing.diagram(octamark.layout(name)))


def caricatures(picture: Picture) -> Picture:
    """The portrait's face as eight caricatures, and what the released model finds in them; crops from their labels."""
    labels = octamark.load("small")(picture)[0].landmarks
    transform = crop_transform(squares(landmark_boxes(labels[None]), 1.7)[0], 360)
    face = torch.from_numpy(crop(picture, transform, 360)).permute(2, 0, 1)[None]
    points = torch.from_numpy(apply(invert(transform), labels)).float()[None]
    marker, layout = octamark.load("small-art"), octamark.layout("ibug68")
    made, read = [], []
    for strength, seeds in {"medium": (0, 6, 10, 11), "strong": (15, 19, 20, 23)}.items():
        for seed in seeds:
            drawn, truth = stylised(face, points, Caricaturist(layout), strength, seed)
            tile = np.ascontiguousarray(drawn[0].permute(1, 2, 0).numpy())
            made.append(tile)
            found = marker(tile, landmark_boxes(truth.numpy()), box_kind="landmarks")
            read.append(drawing.overlay(tile, found, enlarge=False))
    return drawing.sheet([*made[:4], *read[:4], *made[4:], *read[4:]], 4)


if __name__ == "__main__":
    main()
