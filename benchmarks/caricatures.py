"""Models on photographs and on the same faces as caricatures: error by strength, by kind of box and by style.

    python -m benchmarks.caricatures PATH/TO/300w [--models small MINE.onnx ...] [--worst worst.png] [--update]

Faces: 300W's validation split, cropped with room around them. The caricatures are made here, with a fixed seed, and
not kept. NME is inter-ocular (of the caricature's own eyes), in %, with 95 % bootstrap intervals over faces. Boxes are
those of the labels, of YuNet (over the faces that it finds), or none (``picture``: a square 1.6 times the face is cut
out, and the face fills it). Styles: each on all faces, with shapes of the strength ``medium``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from rich.progress import track
from torch import Tensor

import octamark
from octamark import models
from octamark.datasets import read
from octamark.drawing import dotted, sheet
from octamark.evaluation.run import detected_box
from octamark.geometry import Picture, landmark_boxes, squares
from octamark.images import write_picture
from octamark.inference.detector import FaceDetector
from octamark.layouts import Layout
from octamark.metrics import estimate, failure_rate, nme
from octamark.nets.sampling import move_points
from octamark.synthesis.caricature import STRENGTHS, Caricaturist, draw, stylised
from octamark.synthesis.styles import STYLES, lit
from octamark.training.data import FaceStore

LAYOUT = octamark.layout("ibug68")
ROOM = 1.6  # side of the square that is cut out around a face, over the face's size
SETS = ("photographs", *STRENGTHS)
NO_STYLE = "no style"

FaceSet = tuple[list[Picture], np.ndarray]
"""Pictures of one face each, and their landmarks (n, M, 2)."""

Errors = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Model -> set of faces -> kind of box -> NME of each face, %."""

CONDITIONS = {"command": "python -m benchmarks.caricatures PATH/TO/300w --models ...", "normaliser": "inter-ocular"}
TEXT = (
    "Real caricatures with 68 points are not to be had in quantity, so these are made: validation photographs of "
    "300W whose faces are exaggerated and drawn anew (`octamark caricatures`), with labels that follow exactly. "
    "`weak`, `medium` and `strong` differ in how far shapes go and how much of a style is taken. NME by the "
    "caricature's own eyes, with 95 % bootstrap intervals over faces. Models named `-before` had seen photographs "
    "alone and had no shape correction."
)


def by_strength(rows: Sequence[Sequence[Value]], faces: int) -> Measurement:
    """The entry with every model on every set."""
    return Measurement(
        name="caricatures",
        page="caricatures",
        title="By strength",
        text=TEXT,
        columns=(
            ("model", ""), *((name, ".2f") for name in SETS), ("strong: over 8 %, %", ".0f"),
            ("strong: over 15 %, %", ".0f"),
        ),
        rows=rows,
        data=f"300W, validation split, {faces} faces",
        boxes="labels",
        **CONDITIONS,
    )  # fmt: skip


def by_box(rows: Sequence[Sequence[Value]], model: str, faces: int) -> Measurement:
    """The entry with one model and every kind of box."""
    return Measurement(
        name="caricatures-boxes",
        page="caricatures",
        title=f"By box, `{model}`",
        text="Labels' boxes and `picture`: all faces; YuNet's boxes: the faces that it finds.",
        columns=(
            ("", ""), ("YuNet finds, %", ".0f"), ("labels' boxes", ".2f"), ("YuNet's boxes", ".2f"),
            ("`--full-frame`", ".2f"),
        ),
        rows=rows,
        data=f"300W, validation split, {faces} faces",
        boxes="as the columns say",
        **CONDITIONS,
    )  # fmt: skip


def by_style(rows: Sequence[Sequence[Value]], names: Sequence[str], faces: int) -> Measurement:
    """The entry with every model on every style."""
    return Measurement(
        name="caricatures-styles",
        page="caricatures",
        title="By style, shapes of medium strength",
        text="",
        columns=(("style", ""), ("YuNet finds, %", ".0f"), *((f"`{name}`", ".2f") for name in names)),
        rows=rows,
        data=f"300W, validation split, {faces} faces",
        boxes="labels",
        **CONDITIONS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument(
        "--models",
        nargs="*",
        default=models.available(),
        help="names or .onnx files; the first is read with every kind of box",
    )
    parser.add_argument(
        "--worst", type=Path, help="also draw the first model's 16 largest errors on strong caricatures"
    )
    parser.add_argument("--faces", type=int, help="measure only this many faces, spread over the split")
    add_update_option(parser)
    arguments = parser.parse_args()
    names = [Path(model).stem for model in arguments.models]
    if len(set(names)) < len(names):
        parser.error("--models: two files have the same name")
    samples = sorted(read("300w", arguments.data, "val"), key=lambda sample: sample.name)
    if arguments.faces:
        samples = samples[:: max(1, len(samples) // arguments.faces)]
    store = FaceStore.load(samples, 256, 1.25)
    sets = {"photographs": face_set(store.pictures, store.landmarks), **caricature_sets(store, LAYOUT)}
    styles = style_sets(store)
    detector = FaceDetector()
    yunet = {
        name: [yunet_box(detector, picture, points) for picture, points in zip(*pair, strict=True)]
        for name, pair in (sets | styles).items()
    }
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, model in track(list(zip(names, arguments.models, strict=True)), "models"):
        landmarker = octamark.load(model, refine="never", rotation="never", threads=1)
        table[name] = {key: {"labels": errors_by_labels(landmarker, pair)} for key, pair in (sets | styles).items()}
        if name == names[0]:
            for key, pair in sets.items():
                table[name][key]["YuNet"] = errors_by_boxes(landmarker, pair, yunet[key])
                table[name][key]["picture"] = errors_by_picture(landmarker, pair)
            if arguments.worst is not None:
                draw_worst(landmarker, sets["strong"], arguments.worst)
        if model == models.REGIONS_MODEL:
            refined = octamark.load(model, refine="auto", rotation="never", threads=1)
            for key, pair in sets.items():
                table[name][key]["labels, auto"] = errors_by_labels(refined, pair)
    share = {key: 100 * float(np.mean([box is not None for box in boxes])) for key, boxes in yunet.items()}
    finish(entries(table, share, len(samples)), arguments.update)


def entries(table: Errors, share: Mapping[str, float], faces: int) -> list[Measurement]:
    """The entries for results.json; ``share``: set -> % of its faces that YuNet finds."""
    strengths: list[list[Value]] = []
    for model, rows in table.items():
        for kind, title in (("labels", f"`{model}`"), ("labels, auto", f'`{model}`, `refine="auto"`')):
            if kind in rows["strong"]:
                strong = np.array(rows["strong"][kind]) / 100
                failures = [100 * failure_rate(strong, limit) for limit in (0.08, 0.15)]
                strengths.append([title, *(mean(rows[name][kind]) for name in SETS), *failures])
    first = next(iter(table))
    boxes: list[list[Value]] = [
        [name, share[name], *(mean(table[first][name][kind]) for kind in ("labels", "YuNet", "picture"))]
        for name in SETS
    ]
    styles: list[list[Value]] = [
        [style, share[style], *(mean(rows[style]["labels"]) for rows in table.values())]
        for style in (NO_STYLE, *STYLES)
    ]
    return [by_strength(strengths, faces), by_box(boxes, first, faces), by_style(styles, list(table), faces)]


def mean(errors: Sequence[float]) -> list[float] | None:
    """The mean with its 95 % interval, None of no errors."""
    if not errors:
        return None
    value = estimate(np.array(errors))
    return [value.value, value.low, value.high]


def face_set(pictures: Tensor, points: Tensor) -> FaceSet:
    """Pictures (n, 3, h, w) uint8 and points (n, M, 2) as arrays."""
    return [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in pictures], points.numpy()


def caricature_sets(store: FaceStore, layout: Layout) -> dict[str, FaceSet]:
    """The faces of a store as caricatures of every strength, with a fixed seed."""
    caricaturist = Caricaturist(layout)
    return {
        strength: face_set(*stylised(store.pictures, store.landmarks, caricaturist, strength)) for strength in STRENGTHS
    }


def style_sets(store: FaceStore) -> dict[str, FaceSet]:
    """Every face in every style, with shapes of medium strength."""
    caricaturist, unmoved = Caricaturist(LAYOUT), torch.eye(2, 3)[None]
    shapes, points = [], []
    for index in range(len(store)):
        part, side = slice(index, index + 1), store.pictures.shape[-1]
        strength, generator = torch.tensor([STRENGTHS["medium"][0]]), torch.Generator().manual_seed(index)
        drawn = draw(store.pictures[part], store.landmarks[part], unmoved, side, caricaturist, strength, generator)
        shapes.append(drawn.pictures)
        mirrored = torch.zeros(1, dtype=torch.bool)
        points.append(move_points(drawn.landmarks, drawn.matrices, mirrored, torch.arange(LAYOUT.count)))
    sets = {NO_STYLE: face_set((torch.cat(shapes) * 255).round().byte(), torch.cat(points))}
    for name, style in STYLES.items():
        styled = [
            style(lit(shape), torch.Generator().manual_seed(index)).clamp(0, 1) for index, shape in enumerate(shapes)
        ]
        sets[name] = face_set((torch.cat(styled) * 255).round().byte(), torch.cat(points))
    return sets


def yunet_box(detector: FaceDetector, picture: Picture, points: np.ndarray) -> np.ndarray | None:
    """YuNet's box of the face with these landmarks, None where it finds none."""
    return detected_box(detector, points, picture)


def percent(landmarks: np.ndarray, truth: np.ndarray) -> list[float]:
    """NME of each face in percent."""
    values: list[float] = (100 * nme(landmarks, truth, LAYOUT)).tolist()
    return values


def read_by_labels(landmarker: octamark.Landmarker, faces: FaceSet) -> np.ndarray:
    """Landmarks (n, M, 2), crops from the labels' boxes."""
    landmarks = [
        landmarker(picture, landmark_boxes(points)[None], box_kind="landmarks").landmarks[0]
        for picture, points in zip(*faces, strict=True)
    ]
    return np.array(landmarks)


def errors_by_labels(landmarker: octamark.Landmarker, faces: FaceSet) -> list[float]:
    """NME of each face, crops from the labels' boxes."""
    return percent(read_by_labels(landmarker, faces), faces[1])


def errors_by_boxes(landmarker: octamark.Landmarker, faces: FaceSet, boxes: list[np.ndarray | None]) -> list[float]:
    """NME of each face that has a box, crops from these boxes."""
    known = [(picture, points, box) for picture, points, box in zip(*faces, boxes, strict=True) if box is not None]
    landmarks = np.array([landmarker(picture, box[None]).landmarks[0] for picture, _, box in known])
    return percent(landmarks, np.array([points for _, points, _ in known])) if known else []


def errors_by_picture(landmarker: octamark.Landmarker, faces: FaceSet) -> list[float]:
    """NME of each face that fills its picture."""
    landmarks = []
    for picture, points in zip(*faces, strict=True):
        x, y, side = squares(landmark_boxes(points), ROOM)[0]
        left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
        part = np.ascontiguousarray(picture[top : round(y + side / 2), left : round(x + side / 2)])
        landmarks.append(landmarker(part, full_frame=True).landmarks[0] + [left, top])
    return percent(np.array(landmarks), faces[1])


def draw_worst(landmarker: octamark.Landmarker, faces: FaceSet, path: Path) -> None:
    """Write a sheet of the 16 faces with the largest errors."""
    pictures, truth = faces
    landmarks = read_by_labels(landmarker, faces)
    order = np.argsort(-nme(landmarks, truth, LAYOUT))[:16]
    write_picture(path, sheet([dotted(pictures[index], landmarks[index], LAYOUT) for index in order], 4))


if __name__ == "__main__":
    main()
