"""`make demo`: the landmarks of one photograph, docs/portrait.jpg, as text and as two pictures in the folder demo."""

from __future__ import annotations

import time
from pathlib import Path

import octamark
from octamark import drawing
from octamark.images import write_picture

PORTRAIT = Path(__file__).parent.parent / "docs" / "portrait.jpg"


def main() -> None:
    picture = octamark.read_picture(PORTRAIT)
    landmarker = octamark.load("small")
    landmarker(picture)  # the first call is slower than the others
    start = time.perf_counter()
    faces = landmarker(picture, heatmaps=True)
    milliseconds = (time.perf_counter() - start) * 1000

    folder = Path("demo")
    folder.mkdir(exist_ok=True)
    write_picture(folder / "portrait.overlay.png", drawing.overlay(picture, faces))
    write_picture(folder / "portrait.heatmap.png", drawing.heatmap_picture(picture, faces))

    face = faces[0]
    print(f"{landmarker}")
    print(f"found {len(faces)} face in {milliseconds:.0f} ms, detection included: {face}")
    for part in ("right_eye", "left_eye", "nose", "outer_mouth"):
        indices = list(face.layout.part(part))
        x, y = face[part].mean(axis=0)
        print(
            f"  {part:12} centre ({x:5.1f}, {y:5.1f}) px   expected error {face.spread[indices].mean():.1f} px per axis"
            f"   confidence {face.confidence[indices].mean():.2f}"
        )
    print(f"pictures: {folder / 'portrait.overlay.png'}, {folder / 'portrait.heatmap.png'}")


if __name__ == "__main__":
    main()
