"""Draw the pictures of README and docs again: python docs/make_pictures.py (needs scikit-image's portrait)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

import octamark
from octamark import drawing
from octamark.imaging import write_picture

HERE = Path(__file__).parent


def main() -> None:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the portrait comes with scikit-image: pip install --no-deps scikit-image")
    whole = Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB")
    part = whole.crop((110, 10, 340, 240)).resize((690, 690), Image.Resampling.LANCZOS)
    picture = octamark.read_picture(part)
    faces = octamark.load("small")(picture, heatmaps=True)
    pair = np.hstack([drawing.overlay(picture, faces), drawing.heatmap_picture(picture, faces)])
    write_picture(HERE / "astronaut.jpg", pair)
    near = octamark.load("small", refine="always", upright="never")
    coarse = octamark.load("small", refine="never", upright="never")(picture)
    assert near.refiner is not None
    write_picture(HERE / "close_look.jpg", drawing.close_look(picture, coarse[0], near(picture)[0], near.refiner))
    (HERE / "layouts").mkdir(exist_ok=True)
    for name in octamark.layouts.BUILTIN:
        write_picture(HERE / "layouts" / f"{name}.png", drawing.diagram(octamark.layout(name)))


if __name__ == "__main__":
    main()
