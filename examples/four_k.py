"""Refinement of a large portrait at its full resolution: how long it takes and how far it moves the points.

    python examples/four_k.py [PICTURE]

Without a picture, the face in docs/portrait.jpg is enlarged to 4,096 pixels, which adds no detail. Writes
demo/refinement.png: the regions that are read again, and one eye with the points before and after.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
from demo import PORTRAIT

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
        portrait = octamark.read_picture(PORTRAIT)[:256, 56:312]
        picture = np.asarray(cv2.resize(portrait, (4096, 4096), interpolation=cv2.INTER_CUBIC), np.uint8)
    boxes, _ = octamark.FaceDetector()(picture)
    if not len(boxes):
        raise SystemExit(f"no face found in {sys.argv[1]}")
    results = {}
    for name, refine in (("without", "never"), ("with", "always")):
        landmarker = octamark.load("small", refine=refine, rotation="never", threads=1)  # type: ignore[arg-type]
        landmarker(picture, boxes[:1])  # the first call warms up
        start = time.perf_counter()
        results[name] = landmarker(picture, boxes[:1])
        print(f"{name:7} refinement: {1000 * (time.perf_counter() - start):5.1f} ms, one thread, box given")
    coarse, refined = results["without"][0], results["with"][0]
    size = float(np.linalg.norm(refined.landmarks.max(axis=0) - refined.landmarks.min(axis=0)))
    print(f"face of {size:,.0f} px (diagonal) in a picture of {picture.shape[1]:,} x {picture.shape[0]:,} px")
    for part, points in refined.layout.groups.items():
        moved = np.linalg.norm(refined.landmarks - coarse.landmarks, axis=1)[list(points)].mean()
        expected = [np.sqrt((face.spread[list(points)] ** 2).sum(axis=1)).mean() for face in (coarse, refined)]
        print(f"  {part:8} moved {moved:5.1f} px; expected error {expected[0]:5.1f} -> {expected[1]:5.1f} px")
    assert landmarker.refiner is not None
    Path("demo").mkdir(exist_ok=True)
    write_picture(Path("demo/refinement.png"), drawing.refinement_picture(picture, coarse, refined, landmarker.refiner))
    print("picture: demo/refinement.png")


if __name__ == "__main__":
    main()
