"""Score the models whose weights allow commercial use, beside those that learned from 300W.

    python -m benchmarks.open_models PATH/TO/300w --portraits PATH/TO/london/faces.json [--update]

(needs the package's extra, train; about five minutes on two cores)

300W's validation faces chose nothing in the models that learned from rendered heads; they chose the best epoch of the
others. Of the London set those portraits are read that configs/small-open.toml holds out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.scores import interval
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import octamark
from octamark import models, uncertainty
from octamark.cli.inspect import ALLOWED
from octamark.datasets import Sample
from octamark.datasets.load import training_and_validation
from octamark.evaluation.results import About, Result
from octamark.evaluation.run import BOXES, Predictions, View, label_crop, predict
from octamark.inference.landmarker import Landmarker
from octamark.layouts import conversion, layout
from octamark.metrics import nme
from octamark.training.convention import fit_convention
from octamark.training.recipe import Data, load

RECIPE = Path(__file__).parent.parent / "configs" / "small-open.toml"
IBUG68, LONDON = layout("ibug68"), layout("frl189")
SHARE = 0.9


def measurement(rows: Sequence[Sequence[Value]], faces: int, portraits: int) -> Measurement:
    """The entry for results.json."""
    return Measurement(
        name="open-models",
        page="accuracy",
        title="Models for any use, beside those for research",
        text="The models with *yes* learned from rendered heads and 24 portraits of the London set; no photograph of "
        "300W taught or chose anything in them. *Without offsets*: after each point's mean error, two numbers a point, "
        "is taken off, which is a matter of where annotators put points. *By 300W's convention*: after all points are "
        "moved by a correction that is affine in the shape of the face, fitted on 300W's training faces "
        "(`octamark.training.convention`): what remains is neither an offset nor one that depends on pose and shape. "
        "*London*: mean error on held-out portraits at the points that both layouts have. *Regions*: how often the "
        "regions of 90 % hold the truth.",
        columns=(
            ("model", ""), ("commercial use", ""), ("NME, %", ".2f"), ("without offsets", ".2f"),
            ("by 300W's convention", ".2f"), ("failures at 10 %, %", ".1f"), ("regions of 90 %, 300W", ".1f"),
            ("London, %", ".2f"), ("regions of 90 %, London", ".1f"),
        ),
        rows=rows,
        command="python -m benchmarks.open_models PATH/TO/300w --portraits PATH/TO/london/faces.json",
        data=f"300W, validation split, {faces} faces; London set, {portraits} portraits",
        boxes="labels",
        normaliser="inter-ocular",
    )  # fmt: skip


def portrait_errors(landmarker: Landmarker, samples: Sequence[Sample], found: Predictions) -> tuple[float, float]:
    """Mean error on portraits, a share of the inter-ocular distance, and how often regions hold the truth.

    Only points that both layouts have in the same place count.
    """
    exact = conversion(LONDON, IBUG68).exact
    truth = np.stack([sample.landmarks for sample in samples]).astype(np.float64)
    eyes: NDArray[np.float64] = IBUG68.distance(truth, "inter-ocular")
    distance = np.linalg.norm(found.landmarks - truth, axis=2)[:, exact]
    radius = landmarker.card.calibration.radius(found.spread, SHARE)[:, exact]
    return float((distance / eyes[:, None]).mean()), uncertainty.coverage(distance.ravel(), radius.ravel())


def by_convention(
    points: NDArray[np.floating], labels: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Other points (k, M, 2) moved to where annotators have them, as points and labels (n, M, 2) of faces tell."""
    found, truth, given = (torch.from_numpy(np.asarray(values, np.float32)) for values in (points, labels, others))
    mirror = torch.from_numpy(IBUG68.mirror.copy())
    correction = fit_convention(found, truth, torch.zeros_like(found), torch.ones(found.shape[:2]), mirror)
    return np.asarray(correction(given), np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--portraits", type=Path, required=True, help="the London set's landmarks, a COCO file")
    parser.add_argument("--models", nargs="*", default=models.available(), help="all that ship by default")
    add_update_option(parser)
    arguments = parser.parse_args()
    recipe = load(RECIPE)
    training, photographs = training_and_validation((Data(),), arguments.data, IBUG68, recipe.seed)
    labels = np.stack([sample.landmarks for sample in training])
    section = next(part for part in recipe.data if part.layout == LONDON.name)
    _, portraits = training_and_validation((section,), arguments.portraits, IBUG68, recipe.seed)
    table: list[list[Value]] = []
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(
            "scoring", total=len(arguments.models) * (len(training) + len(photographs) + len(portraits))
        )
        for name in arguments.models:
            landmarker = octamark.load(name, refine="never", rotation="never")
            view = {"": View(label_crop(landmarker.card.crop))}
            advance = lambda: bar.advance(task)  # noqa: E731
            about = About("300w", "val", name, BOXES["labels"], "inter-ocular", IBUG68)
            result = Result(about, photographs, predict(landmarker, photographs, view, advance=advance)[""],
                            landmarker.card.calibration)  # fmt: skip
            summary = result.summary()
            errors = (result.predictions.landmarks - result.truth) / result.distances[:, None, None]
            without = np.linalg.norm(errors - errors.mean(axis=0), axis=2).mean() * 100
            taught = predict(landmarker, training, view, advance=advance)[""].landmarks
            moved = by_convention(taught, labels, result.predictions.landmarks)
            london, covered = portrait_errors(
                landmarker, portraits, predict(landmarker, portraits, view, advance=advance)[""]
            )
            assert result.reliability is not None
            table.append([
                f"`{name}`", ALLOWED[landmarker.card.commercial_use], interval(summary["nme_percent"]), float(without),
                float(nme(moved, result.truth, IBUG68).mean() * 100),
                summary["failure_rate_percent"]["10%"]["value"], result.reliability.covered[SHARE] * 100,
                london * 100, covered * 100,
            ])  # fmt: skip
    finish([measurement(table, len(photographs), len(portraits))], arguments.update)


if __name__ == "__main__":
    main()
