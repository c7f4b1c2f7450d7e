"""Models on photographs and on the same faces as caricatures: error by strength, by kind of box and by style.

    python benchmarks/caricatures.py PATH/TO/300w -o docs/caricatures [--models small MINE.onnx ...] [--worst worst.png]

Faces: 300W's validation split, cropped with room; the caricatures are made here, with a fixed seed, and not kept. NME
is inter-ocular (of the caricature's own eyes), in %, with 95 % bootstrap intervals over faces. Boxes are those of the
labels, of YuNet (over the faces it found), or none (``picture``: a square 1.6 times the face is cut out, and the face
said to fill it). Styles: each on all faces, exaggerated as ``medium``. Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import octamark
from octamark import models
from octamark.datasets import Sample, read
from octamark.drawing import dotted, sheet
from octamark.evaluation.run import detected_box
from octamark.geometry import Picture, landmark_boxes, squares
from octamark.images import write_atomically, write_picture
from octamark.inference.detector import FaceDetector
from octamark.metrics import estimate, failure_rate, nme
from octamark.nets.sampling import move_points
from octamark.synthesis.caricature import STRENGTHS, Caricaturist, draw, stylised
from octamark.synthesis.styles import STYLES, lit
from octamark.training.data import FaceStore

INTRODUCTION = """# Caricatures, cartoons, paintings

Written by `python benchmarks/caricatures.py PATH/TO/300w -o docs/caricatures --models ...`, one run. Real caricatures
with 68 points are not to be had in quantity, so these are made: {faces} validation photographs of 300W, whose faces are
exaggerated and drawn anew (`octamark caricatures`), with labels that follow exactly. `weak`, `medium` and `strong`
differ in how far shapes go and how much of a style is taken. Models named `-before` had seen photographs alone
and had no shape correction.
NME: inter-ocular, by the caricature's own eyes, %, with 95 % bootstrap intervals over faces.

![eight caricatures of one portrait, and what small-art finds in them: outline in one colour, inner points in the
other](caricatures.jpg)
"""
LAYOUT = octamark.layout("ibug68")
ROOM = 1.6
Drawn = tuple[list[Picture], np.ndarray]
"""Pictures and their landmarks (n, M, 2)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("-o", "--out", type=Path, required=True, help="path of the results, without suffix")
    parser.add_argument(
        "--models", nargs="*", default=models.available(), help="names or .onnx files; boxes: the first"
    )
    parser.add_argument("--worst", type=Path, help="also draw the first model's 16 worst of the strongest")
    asked = parser.parse_args()
    if len({Path(model).stem for model in asked.models}) < len(asked.models):
        parser.error("--models: two of one name")
    samples = sorted(read("300w", asked.data, "val"), key=lambda one: one.name)
    store = FaceStore.load(samples, 256, 1.25)
    sets = {"photographs": drawn(store.pictures, store.landmarks)}
    for strength in STRENGTHS:
        sets[strength] = drawn(*stylised(store.pictures, store.landmarks, Caricaturist(LAYOUT), strength))
    styles = dict(in_styles(store))
    detector = FaceDetector()
    yunet = {name: [found_box(detector, *one) for one in zip(*pair, strict=True)] for name, pair in sets.items()}
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for model in track(asked.models, "models"):
        marker = octamark.load(model, refine="never", rotation="never", threads=1)
        rows = {name: {"labels": by_labels(marker, pair)} for name, pair in sets.items()}
        if asked.worst is not None and model == asked.models[0]:
            worst(marker, sets["strong"], asked.worst)
        for name, pair in sets.items() if model == asked.models[0] else ():
            rows[name]["YuNet"] = by_boxes(marker, pair, yunet[name])
            rows[name]["picture"] = by_picture(marker, pair)
        if model == "small":
            near = octamark.load(model, refine="auto", rotation="never", threads=1)
            for name, pair in sets.items():
                rows[name]["labels, auto"] = by_labels(near, pair)
        for name, pair in styles.items():
            rows[name] = {"labels": by_labels(marker, pair)}
        table[Path(model).stem] = rows
    found = {name: float(np.mean([box is not None for box in boxes])) for name, boxes in yunet.items()}
    for name, (pictures, points) in styles.items():
        boxes = [found_box(detector, *one) for one in zip(pictures, points, strict=True)]
        found[name] = float(np.mean([box is not None for box in boxes]))
    means = {
        model: {name: {kind: float(np.mean(errors)) for kind, errors in kinds.items()} for name, kinds in rows.items()}
        for model, rows in table.items()
    }
    write_atomically(asked.out.with_suffix(".json"), json.dumps({"nme": means, "yunet": found}, indent=1).encode())
    write_atomically(asked.out.with_suffix(".md"), page(table, found, len(samples)).encode())


def drawn(pictures: Tensor, points: Tensor) -> Drawn:
    return [np.ascontiguousarray(one.permute(1, 2, 0).numpy()) for one in pictures], points.numpy()


def in_styles(store: FaceStore) -> Iterator[tuple[str, Drawn]]:
    """Every face in every style, with shapes of medium strength."""
    caricaturist, still = Caricaturist(LAYOUT), torch.eye(2, 3)[None]
    shapes, points = [], []
    for index in range(len(store)):
        part, side = slice(index, index + 1), store.pictures.shape[-1]
        force, generator = torch.tensor([STRENGTHS["medium"][0]]), torch.Generator().manual_seed(index)
        one = draw(store.pictures[part], store.landmarks[part], still, side, caricaturist, force, generator)
        shapes.append(one.pictures)
        points.append(move_points(one.landmarks, one.matrices, torch.zeros(1, dtype=torch.bool), torch.arange(68)))
    yield "no style", drawn((torch.cat(shapes) * 255).round().byte(), torch.cat(points))
    for name, style in STYLES.items():
        styled = [style(lit(one), torch.Generator().manual_seed(index)).clamp(0, 1) for index, one in enumerate(shapes)]
        yield name, drawn((torch.cat(styled) * 255).round().byte(), torch.cat(points))


def found_box(detector: FaceDetector, picture: Picture, points: np.ndarray) -> np.ndarray | None:
    return detected_box(detector, Sample("", Path(), points), picture)


def errors(found: np.ndarray, truth: np.ndarray) -> list[float]:
    values: list[float] = (100 * nme(found, truth, LAYOUT)).tolist()
    return values


def labelled(marker: octamark.Landmarker, pair: Drawn) -> np.ndarray:
    seen = [
        marker(picture, landmark_boxes(points)[None], box_kind="landmarks").landmarks[0]
        for picture, points in zip(*pair, strict=True)
    ]
    return np.array(seen)


def by_labels(marker: octamark.Landmarker, pair: Drawn) -> list[float]:
    return errors(labelled(marker, pair), pair[1])


def by_boxes(marker: octamark.Landmarker, pair: Drawn, boxes: list[np.ndarray | None]) -> list[float]:
    known = [(picture, points, box) for picture, points, box in zip(*pair, boxes, strict=True) if box is not None]
    seen = np.array([marker(picture, box[None]).landmarks[0] for picture, _, box in known])
    return errors(seen, np.array([points for _, points, _ in known]))


def by_picture(marker: octamark.Landmarker, pair: Drawn) -> list[float]:
    seen = []
    for picture, points in zip(*pair, strict=True):
        x, y, side = squares(landmark_boxes(points), ROOM)[0]
        left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
        cut = np.ascontiguousarray(picture[top : round(y + side / 2), left : round(x + side / 2)])
        seen.append(marker(cut, "picture").landmarks[0] + [left, top])
    return errors(np.array(seen), pair[1])


def worst(marker: octamark.Landmarker, pair: Drawn, path: Path) -> None:
    pictures, truth = pair
    found = labelled(marker, pair)
    order = np.argsort(-nme(found, truth, LAYOUT))[:16]
    write_picture(path, sheet([dotted(pictures[index], found[index], LAYOUT) for index in order], 4))


def page(table: dict[str, dict[str, dict[str, list[float]]]], found: dict[str, float], faces: int) -> str:
    strengths = ["photographs", *STRENGTHS]
    lines = [INTRODUCTION.format(faces=faces), "## By strength, boxes from labels", ""]
    lines += ["| model | " + " | ".join(strengths) + " | strong: over 8 % | strong: over 15 % |"]
    lines += ["|---" * (len(strengths) + 3) + "|"]
    for model, rows in table.items():
        for kind in ("labels", "labels, auto"):
            if kind in rows["strong"]:
                cells = [said(rows[name][kind]) for name in strengths]
                strong = np.array(rows["strong"][kind]) / 100
                cells += [f"{100 * failure_rate(strong, limit):.0f} %" for limit in (0.08, 0.15)]
                name = f"`{model}`" + (', `refine="auto"`' if "auto" in kind else "")
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    first = next(iter(table))
    lines += ["", f"## By box, `{first}`", "", "Labels' boxes and `picture`: all faces; YuNet's: those it finds.", ""]
    lines += ["| | YuNet finds | labels' boxes | YuNet's boxes | `--box picture` |"]
    lines += ["|---" * 5 + "|"]
    for name in strengths:
        cells = [said(table[first][name][kind]) for kind in ("labels", "YuNet", "picture")]
        lines.append(f"| {name} | {100 * found[name]:.0f} % | " + " | ".join(cells) + " |")
    lines += ["", "## By style, shapes of medium strength, boxes from labels", ""]
    lines += ["| style | YuNet finds | " + " | ".join(f"`{model}`" for model in table) + " |"]
    lines += ["|---" * (2 + len(table)) + "|"]
    for style in ("no style", *STYLES):
        cells = [said(rows[style]["labels"]) for rows in table.values()]
        lines.append(f"| {style} | {100 * found[style]:.0f} % | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def said(values: list[float]) -> str:
    if not values:
        return "-"
    mean = estimate(np.array(values))
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"


if __name__ == "__main__":
    main()
