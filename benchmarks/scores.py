"""Score the models that ship on 300W's validation split: accuracy, calibration, inaccurate boxes, rotated faces.

    python -m benchmarks.scores PATH/TO/300w [--update]          (needs the package's extra, evaluate)

About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurements import DOCS, Measurement, Value, add_update_option, finish
from benchmarks.sizes import region_card
from rich.console import Console
from rich.progress import Progress

import octamark
from octamark import models
from octamark.datasets import read
from octamark.evaluation import plots
from octamark.evaluation.results import Result
from octamark.evaluation.scoring import Truth, score_model
from octamark.images import write_atomically
from octamark.models import ModelCard, RegionCard

COMMAND = "python -m benchmarks.scores PATH/TO/300w"
CONDITIONS = {"command": COMMAND, "normaliser": "inter-ocular"}
DATA = "300W, validation split, {faces} faces"
REFINED = f"{models.REGIONS_MODEL}, refined"


def accuracy(rows: Sequence[Sequence[Value]], faces: int) -> Measurement:
    """NME, failures, AUC and eye opening by model and kind of boxes."""
    return Measurement(
        name="scores",
        page="accuracy",
        title="NME, failures, AUC, eye opening",
        text="No training step saw these faces, but of the models that learned from 300W they chose the epoch and "
        "fitted the calibration: they are no test set. With 95 % bootstrap intervals over faces, from the released "
        "ONNX files. Each model alone (`refine=\"never\"`), and `small` with its regions read at the picture's "
        "resolution (`refine=\"always\"`).",
        columns=(
            ("model", ""), ("boxes", ""), ("NME, %", ".2f"), ("failures at 8 %, %", ".1f"), ("at 10 %", ".1f"),
            ("AUC at 8 %", ".4f"), ("AUC at 10 %", ".4f"), ("eye opening", ".3f"),
        ),
        rows=rows,
        data=DATA.format(faces=faces),
        boxes="as the column says",
        plot="ced.png",
        **CONDITIONS,
    )  # fmt: skip


def parts(rows: Sequence[Sequence[Value]], names: Sequence[str], faces: int) -> Measurement:
    """NME of each part of the face, and of each source of pictures."""
    return Measurement(
        name="parts",
        page="accuracy",
        title="NME of each part of the face and of each source of pictures, %",
        text="",
        columns=(("model", ""), ("boxes", ""), *((name, ".2f") for name in names)),
        rows=rows,
        data=DATA.format(faces=faces),
        boxes="as the column says",
        **CONDITIONS,
    )


CROSS_FITTED = " (cross-fitted)"
SPREAD = (
    ("regions of 50%", "regions of 50% hold the truth in, %", ".1f"),
    ("of 90%", "regions of 90% hold the truth in, %", ".1f"),
    ("of 95%", "regions of 95% hold the truth in, %", ".1f"),
    ("Spearman, points", "Spearman of spread and error, per point", ".3f"),
    ("Spearman, pictures", "Spearman of spread and error, per picture", ".3f"),
    ("AUROC of failures", "AUROC of mean spread for NME over 8 %", ".3f"),
    ("calibration error of the confidence", "calibration error of the confidence", ".3f"),
    ("AUROC of visible", "AUROC of visible", ".3f"),
    ("calibration error of visible", "calibration error of visible", ".3f"),
)
"""Columns: title, name of the score in a card, format."""


def spread_rows(name: str, card: ModelCard | RegionCard) -> list[list[Value]]:
    """What a model's card says about its spread, confidence and visibility, a row for each set of held-out faces.

    Scores of all sets but the first begin with the set's name; those of the visibility do in all sets of several.
    """
    first = next(str(section["name"] or section["format"]) for section in card.recipe["data"] if held_out(section))
    sets = dict.fromkeys((first, *(score.partition(": ")[0] for score in card.scores if ": " in score)))
    rows: list[list[Value]] = []
    for part in sets:
        starts = ("", f"{part}: ") if part == first else (f"{part}: ",)
        figures = (
            next((card.scores[key] for start in starts if (key := start + score + CROSS_FITTED) in card.scores), None)
            for _, score, _ in SPREAD
        )
        rows.append([f"`{name}`", part.replace("-validation", ""), *figures])
    return rows


def held_out(section: Mapping[str, Any]) -> bool:
    """Whether a set of a card's recipe holds faces out; 300W does by default."""
    return section.get("validation") is not None or section["format"] == "300w"


def spread(rows: Sequence[Sequence[Value]]) -> Measurement:
    """What the models' cards say about their spread, confidence and visibility."""
    return Measurement(
        name="spread",
        page="accuracy",
        title="Spread, confidence and visibility",
        text="On faces that the calibration was not fitted on (fitted on four fifths, checked on the rest), from the "
        "models' cards. *Regions*: how often they hold the truth, %. *Spearman*: rank correlation of spread and error. "
        "*AUROC of failures*: of the mean spread, for faces with an NME over 8 %. Cells are empty where a set has no "
        "such faces, or does not tell which points are hidden.",
        columns=(("model", ""), ("held-out faces", ""), *((title, digits) for title, _, digits in SPREAD)),
        rows=rows,
        command="octamark models",
        data="the held-out faces of each model's recipe",
        boxes="labels",
        normaliser="inter-ocular, of models for any use box",
    )


def reliability(model: str, faces: int) -> Measurement:
    """The plot of spread and confidence against the truth."""
    return Measurement(
        name="reliability",
        page="accuracy",
        title=f"Reliability of `{model}`",
        text="With the calibration that ships, which was fitted on these faces.",
        columns=(),
        rows=(),
        data=DATA.format(faces=faces),
        boxes="labels",
        plot="reliability.png",
        **CONDITIONS,
    )


AXES = {
    "moved": ("Moved boxes", "NME in % where the crop is moved by a share of its side."),
    "scaled": ("Scaled boxes", "NME in % where the crop's side is scaled."),
    "rotated": (
        "Rotated faces",
        "NME in % where the picture is turned about the face, with and without the search over rotations "
        "(`rotation=`).",
    ),
}


def robustness(
    kind: str, places: Sequence[str], rows: Sequence[Sequence[Value]], first: str, model: str, faces: int
) -> Measurement:
    """NME of one model along one kind of disturbance."""
    title, text = AXES[kind]
    return Measurement(
        name=f"robustness-{kind}",
        page="robustness",
        title=title,
        text=f"{text} Model: `{model}`.",
        columns=((first, ""), *((place, ".2f") for place in places)),
        rows=rows,
        data=DATA.format(faces=faces),
        boxes="labels",
        plot="robustness.png" if kind == "rotated" else "",
        **CONDITIONS,
    )


def interval(values: Mapping[str, float]) -> list[float]:
    """A value with its interval."""
    return [values["value"], values["low"], values["high"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--models", nargs="*", default=models.available(), help="all that ship by default")
    parser.add_argument("--faces", type=int, help="score only this many faces, spread over the split")
    add_update_option(parser)
    arguments = parser.parse_args()
    samples = read("300w", arguments.data, "val")
    if arguments.faces:
        samples = samples[:: max(1, len(samples) // arguments.faces)]
    truth, faces = Truth("300w", "val", samples, octamark.layout("ibug68")), len(samples)
    names = arguments.models
    plotted = models.REGIONS_MODEL if models.REGIONS_MODEL in names else names[-1]
    options: dict[str, dict[str, Any]] = {name: {"model": name, "refine": "never"} for name in names}
    options[REFINED] = {"model": models.REGIONS_MODEL, "refine": "always"}
    results: dict[tuple[str, str], Result] = {}
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("scoring", total=faces * (2 * len(options) + 2))
        for name, choice in options.items():
            landmarker = octamark.load(**choice)
            for boxes in ("labels", "detector"):
                disturbed = (name, boxes) == (plotted, "labels")
                results[name, boxes], measured = score_model(
                    truth, landmarker, boxes, jitter=disturbed, advance=lambda kind: bar.advance(task)
                )
                curves = curves if measured is None else measured
    if arguments.update:
        draw(results, curves, plotted)

    summaries = {key: result.summary() for key, result in results.items()}
    accuracy_rows: list[list[Value]] = [
        [
            f"`{name}`", boxes, interval(summary["nme_percent"]), interval(summary["failure_rate_percent"]["8%"]),
            interval(summary["failure_rate_percent"]["10%"]), interval(summary["auc"]["8%"]),
            interval(summary["auc"]["10%"]), interval(summary["eye_opening_error"]),
        ]
        for (name, boxes), summary in summaries.items()
    ]  # fmt: skip
    first = next(iter(summaries.values()))
    part_names, sources = list(first["part_nme_percent"]), list(first["subset_nme_percent"])
    part_rows: list[list[Value]] = [
        [
            f"`{name}`", boxes, *(interval(summary["part_nme_percent"][part]) for part in part_names),
            *(summary["subset_nme_percent"][source]["value"] for source in sources),
        ]
        for (name, boxes), summary in summaries.items()
    ]  # fmt: skip
    cards = {name: octamark.load(name, refine="never").card for name in names} | {REFINED: region_card()}
    spread_figures = [row for name, card in cards.items() for row in spread_rows(name, card)]
    measurements = [
        accuracy(accuracy_rows, faces), parts(part_rows, [*part_names, *sources], faces), spread(spread_figures),
        reliability(plotted, faces),
    ]  # fmt: skip
    for kind, (axis, lines) in zip(AXES, curves.items(), strict=True):
        places = [f"{x:g}" for x in next(iter(lines.values()))[0]]
        rows = [[name, *errors] for name, (_, errors) in lines.items()]
        measurements.append(robustness(kind, places, rows, axis, plotted, faces))
    finish(measurements, arguments.update)


def draw(results: Mapping[tuple[str, str], Result], curves: Any, model: str) -> None:
    """Write the plots into docs/measurements."""
    best = results[model, "labels"]
    assert best.reliability is not None
    labelled = {name: result for (name, boxes), result in results.items() if boxes == "labels"}
    write_atomically(DOCS / "robustness.png", plots.robustness(curves, best.about))
    write_atomically(DOCS / "reliability.png", plots.reliability_plot(best.reliability, best.about))
    write_atomically(DOCS / "ced.png", plots.ced([named(result, name) for name, result in labelled.items()]))


def named(result: Result, name: str) -> Result:
    """The result under another detector's name."""
    return dataclasses.replace(result, about=dataclasses.replace(result.about, model=name))


if __name__ == "__main__":
    main()
