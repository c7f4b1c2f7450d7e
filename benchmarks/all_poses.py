"""Accuracy, visibility and coverage on every kind of faces: photographs, profiles, rendered heads, drawings, night.

    python -m benchmarks.all_poses PATH/TO/300w --profiles PROFILES/val.json --manga MANGA/val.json
        --rendered PATH/TO/RENDERED [--models small] [--update]

Crops follow the labels. PROFILES and MANGA are COCO keypoints, of ibug68 and manga60; RENDERED is a folder that
``octamark render`` writes. Night: the photographs, seen by ``octamark.synthesis.camera.sensor``.

Rendered labels mean other places than those of photographs (octamark.training.convention). So that the figures show how
far a model is off and not what it was taught, the labels of each half of the heads are moved by the correction that the
model's readings of the other half give.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import octamark
from octamark import models
from octamark.datasets import Sample, read
from octamark.evaluation.results import Visibility
from octamark.evaluation.run import Predictions, View, label_crop, predict
from octamark.layouts import layout
from octamark.metrics import distances, failure_rate, nme, point_errors
from octamark.release.night import NightSample
from octamark.synthesis.rendering.folder import RenderFolder
from octamark.synthesis.rendering.labels import Labels
from octamark.training.convention import fit_convention
from octamark.training.visibility import VisibilityKind, VisibilityRule, visible_in
from octamark.uncertainty import coverage

IBUG68, MANGA60 = layout("ibug68"), layout("manga60")
COMMAND = (
    "python -m benchmarks.all_poses PATH/TO/300w --profiles PROFILES/val.json --manga MANGA/val.json "
    "--rendered PATH/TO/RENDERED"
)
YAWS = ((0, 15), (15, 30), (30, 45), (45, 60), (60, 75), (75, 120))
"""Bands of the absolute yaw of rendered heads, degrees."""

DRAWN = [*range(27), 30, 36, 39, 42, 45, 48, 51, 54, 57]
"""Points of ibug68 that are the same places in manga60: outline, brows, tip of the nose, corners of eyes and mouth, and
the middles of the outer lips."""

PHOTOGRAPHS, PROFILES, RENDERED, DRAWINGS, NIGHT = "photographs", "profiles", "rendered heads", "drawings", "night"
SHARE = 0.9


Row = dict[str, Value]
"""Figures by column."""


def read_sets(arguments: argparse.Namespace) -> dict[str, Sequence[Sample]]:
    """The labelled faces of each kind that the command names."""
    sets: dict[str, Sequence[Sample]] = {PHOTOGRAPHS: read("300w", arguments.data, "val")}
    if arguments.profiles is not None:
        sets[PROFILES] = read("coco", arguments.profiles, layout=IBUG68)
    if arguments.rendered is not None:
        sets[RENDERED] = read("coco", arguments.rendered / "landmarks-ibug68.json", layout=IBUG68)
    if arguments.manga is not None:
        sets[DRAWINGS] = [face.converted(MANGA60, IBUG68) for face in read("coco", arguments.manga, layout=MANGA60)]
    sets[NIGHT] = [NightSample.of(face) for face in sets[PHOTOGRAPHS]]
    if arguments.faces:
        sets = {name: samples[:: max(1, len(samples) // arguments.faces)] for name, samples in sets.items()}
    return sets


def own_convention(
    truth: NDArray[np.float32], predictions: Predictions, seen: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The labels of rendered heads, moved to a model's convention: each half by the readings of the other one."""
    assert predictions.spread is not None
    mirror, moved = torch.from_numpy(IBUG68.mirror.copy()), truth.copy()
    half = np.arange(len(truth)) % 2 == 0
    for fitted, rest in ((half, ~half), (~half, half)):
        parts = (truth, predictions.landmarks, predictions.spread, seen.astype(np.float32))
        correction = fit_convention(*(torch.from_numpy(np.asarray(part[fitted])) for part in parts), mirror)
        moved[rest] = correction(torch.from_numpy(truth[rest])).numpy()
    return moved


def normaliser_of(kind: str) -> str:
    """What errors are divided by: the root of the label box's area; inter-ocular of photographs and drawings."""
    return "box" if kind in (PROFILES, RENDERED) else "inter-ocular"


def visibility(samples: Sequence[Sample], predictions: Predictions, kind: VisibilityKind) -> Row:
    """AUROC and calibration error of ``visible`` where the labels tell; empty for models without it."""
    if predictions.visible is None:
        return {}
    seen = visible_in(samples, VisibilityRule(kind, IBUG68.mirror))
    known = np.isfinite(seen) & np.isfinite(predictions.visible)
    summary = Visibility(predictions.visible[known].astype(np.float64), seen[known] == 1).summary()
    return {"AUROC": summary["auroc"], "calibration": summary["calibration_error"] * 100}


def figures(name: str, samples: Sequence[Sample], predictions: Predictions, card: models.ModelCard) -> Row:
    """The figures of a model on one kind of faces, by column."""
    assert predictions.spread is not None
    truth = np.stack([face.landmarks for face in samples]).astype(np.float32)
    row: Row = {"faces": len(samples)}
    if name == DRAWINGS:
        truth[:, np.setdiff1d(np.arange(IBUG68.count), DRAWN)] = np.nan
    unit = distances(truth, IBUG68, normaliser_of(name))
    if name == RENDERED:
        seen = ~np.stack([np.zeros(IBUG68.count, bool) if s.occluded is None else s.occluded for s in samples])
        as_labelled = np.where(seen[..., None], truth, np.nan)
        row["as labelled"] = float(nme(predictions.landmarks, as_labelled, IBUG68, normaliser_of(name)).mean()) * 100
        truth = np.where(seen[..., None], own_convention(truth, predictions, seen), np.nan)
    errors = point_errors(predictions.landmarks, truth)
    of_faces, known = np.nanmean(errors, axis=1) / unit, np.isfinite(errors)
    row |= {
        "mean": of_faces.mean() * 100,
        "median": float(np.median(of_faces)) * 100,
        "over 10 %": failure_rate(of_faces, 0.1) * 100,
        "held": coverage(errors[known], card.calibration.radius(predictions.spread, SHARE)[known]) * 100,
        "faces' NME": of_faces.tolist(),
    }
    if name in (PROFILES, RENDERED):
        row |= visibility(samples, predictions, "flags" if name == RENDERED else "one-sided")
    return row


def measurements(rows: Mapping[tuple[str, str], Row], yaws: NDArray[np.float64]) -> list[Measurement]:
    """The entries for results.json."""
    kinds = list(dict.fromkeys(kind for kind, _ in rows))
    data = "; ".join(
        f"{kind}: {next(row['faces'] for (k, _), row in rows.items() if k == kind)} faces" for kind in kinds
    )
    common = {"page": "accuracy", "command": COMMAND, "data": data, "boxes": "labels", "normaliser": "as the text says"}
    table = [[kind, f"`{model}`", *(row.get(column) for column in
              ("mean", "median", "over 10 %", "as labelled", "held", "AUROC", "calibration"))]
             for (kind, model), row in rows.items()]  # fmt: skip
    by_yaw = []
    for (kind, model), row in rows.items():
        if kind == RENDERED:
            nme = np.array(row["faces' NME"])
            bands = [nme[(yaws >= low) & (yaws < high)] for low, high in YAWS]
            by_yaw.append([f"`{model}`", *(float(band.mean()) * 100 if len(band) else None for band in bands)])
    entries = [Measurement(
        name="all-poses", title="Every kind of faces", **common,
        text="Errors of profiles and rendered heads are those of points that can be seen, divided by the root of the "
        "label box's area; those of photographs, drawings (36 points) and night (the photographs, taken in little "
        "light) are divided by the inter-ocular distance. *As labelled*: rendered heads before their labels are moved "
        "to the model's convention. *Held*: share of points within the radius that should hold 90 %. AUROC and "
        "calibration error of `visible`, of models that tell it.",
        columns=(("faces", ""), ("model", ""), ("NME, %", ".2f"), ("median", ".2f"), ("over 10 %", ".1f"),
                 ("as labelled", ".2f"), ("held, %", ".1f"), ("AUROC", ".3f"), ("calibration error, %", ".1f")),
        rows=table,
    )]  # fmt: skip
    if by_yaw:
        entries.append(Measurement(
            name="all-poses-yaw", title="Rendered heads by yaw, error in % of the root of the box's area", **common,
            text="Degrees to either side; points that can be seen; labels moved to each model's convention.",
            columns=(("model", ""), *((f"{low} to {high}", ".2f") for low, high in YAWS)),
            rows=by_yaw,
        ))  # fmt: skip
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--profiles", type=Path, help="COCO keypoints of faces in profile, 68 points")
    parser.add_argument("--manga", type=Path, help="COCO keypoints of drawn faces, 60 points")
    parser.add_argument("--rendered", type=Path, help="a folder of octamark render")
    parser.add_argument("--models", nargs="*", default=models.available(), help="names or files; all that ship")
    parser.add_argument("--faces", type=int, help="only so many of each kind, evenly spaced")
    add_update_option(parser)
    arguments = parser.parse_args()
    sets = read_sets(arguments)
    labels = [Labels.read(RenderFolder(arguments.rendered).labels(int(face.picture.stem)))
              for face in sets.get(RENDERED, ())]  # fmt: skip
    yaws = np.array([abs(label.person["yaw"]) for label in labels])
    rows: dict[tuple[str, str], Row] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading faces", total=len(arguments.models) * sum(map(len, sets.values())))
        for name, samples in sets.items():
            for model in arguments.models:
                landmarker = octamark.load(model, refine="never", rotation="never")
                view = View(label_crop(landmarker.card.crop))
                predictions = predict(landmarker, samples, {"": view}, advance=lambda: bar.advance(task))[""]
                rows[name, Path(model).stem] = figures(name, samples, predictions, landmarker.card)
    finish(measurements(rows, yaws), arguments.update)


if __name__ == "__main__":
    main()
