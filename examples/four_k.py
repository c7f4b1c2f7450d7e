"""A large portrait: what a close look at full resolution costs and moves.

    python examples/four_k.py [PICTURE]

Without a picture, scikit-image's public-domain portrait (NASA) is enlarged to 4,096 pixels: no new detail, but the
size is real. Writes demo/close_look.png: the crops, and one eye with the points before and after.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
from demo import astronaut

import octamark
from octamark import drawing
from octamark.images import write_picture


def main() -> None:
    if len(sys.argv) > 1:
        try:
            picture = octamark.read_picture(sys.argv[1])
        except octamark.PictureError as error:
            raise SystemExit(f"error: {error}") from None
    else:
        portrait = octamark.read_picture(astronaut())[:256, 96:352]
        picture = np.asarray(cv2.resize(portrait, (4096, 4096), interpolation=cv2.INTER_CUBIC), np.uint8)
    boxes, _ = octamark.FaceDetector()(picture)
    if not len(boxes):
        raise SystemExit(f"no face found in {sys.argv[1]}")
    looks = {}
    for name, refine in (("without", "never"), ("with", "always")):
        landmarker = octamark.load("small", refine=refine, rotation="never", threads=1)  # type: ignore[arg-type]
        landmarker(picture, boxes[:1])  # the first call warms up
        began = time.perf_counter()
        looks[name] = landmarker(picture, boxes[:1])
        print(f"{name:7} a close look: {1000 * (time.perf_counter() - began):5.1f} ms, one thread, box given")
    coarse, refined = looks["without"][0], looks["with"][0]
    size = float(np.linalg.norm(refined.landmarks.max(axis=0) - refined.landmarks.min(axis=0)))
    print(f"face of {size:,.0f} px (diagonal) in a picture of {picture.shape[1]:,} x {picture.shape[0]:,} px")
    for part, points in refined.layout.groups.items():
        moved = np.linalg.norm(refined.landmarks - coarse.landmarks, axis=1)[list(points)].mean()
        expected = [np.sqrt((face.spread[list(points)] ** 2).sum(axis=1)).mean() for face in (coarse, refined)]
        print(f"  {part:8} moved {moved:5.1f} px; expected error {expected[0]:5.1f} -> {expected[1]:5.1f} px")
    assert landmarker.refiner is not None
    Path("demo").mkdir(exist_ok=True)
    write_picture(Path("demo/close_look.png"), drawing.refinement_picture(picture, coarse, refined, landmarker.refiner))
    print("picture: demo/close_look.png")


if __name__ == "__main__":
    main()
