"""Models on photographs and on the same faces as caricatures, at three strengths: NME, failures, the worst.

    python benchmarks/caricatures.py PATH/TO/300w [--models small MINE.onnx ...] [--worst worst.png]

Faces: 300W's validation split, cropped with room; the caricatures are made here, with a fixed seed, and not kept. Boxes
from labels, models alone (no refinement), inter-ocular, 95 % bootstrap intervals over faces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

import octamark
from octamark import weights
from octamark.datasets import read
from octamark.drawing import dotted, sheet
from octamark.geometry import landmark_boxes
from octamark.imaging import write_picture
from octamark.metrics import estimate, failure_rate, nme
from octamark.training.batches import FaceStore
from octamark.training.caricature import STRENGTHS, Caricaturist, stylised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--models", nargs="*", default=weights.available())
    parser.add_argument("--worst", type=Path, help="also draw the last model's 16 worst of the strongest")
    asked = parser.parse_args()
    samples = sorted(read("300w", asked.data, "val"), key=lambda one: one.name)
    layout = octamark.layout("ibug68")
    store = FaceStore.load(samples, 224, 1.25)
    sets = {"photographs": (store.pictures, store.landmarks)}
    for strength in STRENGTHS:
        sets[strength] = stylised(store.pictures, store.landmarks, Caricaturist(layout), strength)
    table = Table(title=f"300W val, {len(samples)} faces, label boxes, inter-ocular NME in %", title_justify="left")
    table.add_column("")
    for name in sets:
        table.add_column(name, justify="right")
    for model in asked.models:
        found = {name: points(model, *one) for name, one in sets.items()}
        errors = {name: nme(found[name], truth.numpy(), layout) for name, (_, truth) in sets.items()}
        cells = []
        for error in errors.values():
            mean = estimate(100 * error)
            cells.append(f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})")
        table.add_row(model, *cells)
        table.add_row("  failures at 8 %", *(f"{100 * failure_rate(error):.1f} %" for error in errors.values()))
    Console(width=160).print(table)
    if asked.worst is not None:
        pictures, _ = sets["strong"]
        order = np.argsort(-errors["strong"])[:16]
        tiles = [dotted(picture(pictures[index]), found["strong"][index], layout) for index in order]
        write_picture(asked.worst, sheet(tiles, 4))


def picture(one: Tensor) -> np.ndarray:
    return np.ascontiguousarray(one.permute(1, 2, 0).numpy())


def points(model: str, pictures: Tensor, truth: Tensor) -> np.ndarray:
    """What a model finds, (n, M, 2)."""
    landmarker = octamark.load(model, refine="never", upright="never", threads=1)
    boxes = landmark_boxes(truth.numpy())
    seen = [
        landmarker(picture(one), box[None], box_kind="landmarks").landmarks[0]
        for one, box in zip(pictures, boxes, strict=True)
    ]
    return np.array(seen)


if __name__ == "__main__":
    main()
