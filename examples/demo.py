"""`make demo`: the main job on a real photograph, scikit-image's public-domain portrait of Eileen Collins (NASA)."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import octamark
from octamark import drawing
from octamark.images import write_picture


def astronaut() -> Path:
    """The photograph inside the package scikit-image, which is not imported."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the demo's photograph comes with scikit-image: pip install --no-deps scikit-image")
    return Path(spec.origin).parent / "data" / "astronaut.png"


def main() -> None:
    picture = octamark.read_picture(astronaut())
    landmarker = octamark.load("small")
    landmarker(picture)  # the first call warms up
    start = time.perf_counter()
    faces = landmarker(picture, heatmaps=True)
    milliseconds = (time.perf_counter() - start) * 1000

    out = Path("demo")
    out.mkdir(exist_ok=True)
    write_picture(out / "astronaut.overlay.png", drawing.overlay(picture, faces))
    write_picture(out / "astronaut.heatmap.png", drawing.heatmap_picture(picture, faces))

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
    print(f"pictures: {out / 'astronaut.overlay.png'}, {out / 'astronaut.heatmap.png'}")


if __name__ == "__main__":
    main()
