"""How far off the opening of eyes is, by how open they truly are: shut, narrow, normal, wide.

    python -m benchmarks.eyes PATH/TO/300w [--profiles PATH/TO/profiles/val.json] [--rendered PATH/TO/RENDERED]
        [--models tiny-128 small] [--update]

Crops follow the labels. ``--profiles`` names COCO keypoints with 68 points, ``--rendered`` a folder that ``octamark
render`` writes; their eyes count where all their points are labelled and none is hidden.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.scores import REFINED, interval
from rich.console import Console
from rich.progress import Progress

import octamark
from octamark import models
from octamark.datasets import Sample, read
from octamark.evaluation.run import View, label_crop, predict
from octamark.layouts import convert, layout
from octamark.metrics import OPENINGS, OpeningErrors, estimate, eye_opening_errors

IBUG68 = layout("ibug68")
COMMAND = (
    "python -m benchmarks.eyes PATH/TO/300w --profiles PATH/TO/profiles/val.json --rendered PATH/TO/RENDERED"
)  # fmt: skip

Errors = Mapping[tuple[str, str], Mapping[str, OpeningErrors]]
"""(set, model) -> kind of eyes -> errors."""


def measurements(errors: Errors, faces: Mapping[str, int]) -> list[Measurement]:
    """The entries for results.json: the mean signed and the mean absolute errors; ``faces`` of each set."""
    first = {name: next(kinds for (other, _), kinds in errors.items() if other == name) for name in faces}
    counts = "; ".join(
        f"{name}: {', '.join(f'{values.eyes} {kind}' for kind, values in kinds.items())}"
        for name, kinds in first.items()
    )
    limits = ", ".join(
        f"{kind} from {low:g} to {high:g}" if np.isfinite(high) else f"{kind} from {low:g}"
        for kind, (low, high) in OPENINGS.items()
    )
    explanation = {
        "signed": "Mean of predicted less true opening (mean distance of the lids over the eye's width), with 95 % "
        f"bootstrap intervals over faces; above 0 means read too open. By the true opening: {limits}. Hidden eyes do "
        "not count. Turned heads have narrower eyes as high as before, so that many of their openings are called wide. "
        f"Eyes: {counts}.",
        "absolute": "Of the same eyes.",
    }
    form = {"signed": "+.3f", "absolute": ".3f"}
    return [
        Measurement(
            name=f"eyes-{error}",
            page="accuracy",
            title=f"Opening of eyes, mean {error} error by true opening",
            text=text,
            columns=(("faces", ""), ("model", ""), *((kind, form[error]) for kind in OPENINGS)),
            rows=[[name, f"`{model}`", *(cell(kinds[kind], error) for kind in OPENINGS)]
                  for (name, model), kinds in errors.items()],
            command=COMMAND,
            data="; ".join(f"{name}, {count} faces" for name, count in faces.items()),
            boxes="labels",
            normaliser="the eye's width",
        )
        for error, text in explanation.items()
    ]  # fmt: skip


def cell(errors: OpeningErrors, error: str) -> Value:
    """The mean of a kind's errors with its interval; None for a kind without eyes."""
    values: np.ndarray = getattr(errors, error)
    if not errors.eyes:
        return None
    mean = estimate(values)
    return interval({"value": mean.value, "low": mean.low, "high": mean.high})


def visible_points(samples: Sequence[Sample]) -> np.ndarray:
    """The labels (n, M, 2); NaN where a point has none or is hidden."""
    return np.stack([
        sample.landmarks if sample.occluded is None else np.where(sample.occluded[:, None], np.nan, sample.landmarks)
        for sample in samples
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--profiles", type=Path, help="COCO keypoints of faces in profile, 68 points")
    parser.add_argument("--rendered", type=Path, help="a folder of octamark render")
    parser.add_argument(
        "--models", nargs="*", default=models.available(), help="names or files; all that ship by default"
    )
    parser.add_argument("--faces", type=int, help="only so many of each set, evenly spaced")
    add_update_option(parser)
    arguments = parser.parse_args()
    sets = {"300W validation": read("300w", arguments.data, "val")}
    if arguments.profiles is not None:
        sets["profiles"] = read("coco", arguments.profiles, layout=IBUG68)
    if arguments.rendered is not None:
        sets["rendered heads"] = read("coco", arguments.rendered / "landmarks-ibug68.json", layout=IBUG68)
    if arguments.faces:
        sets = {name: samples[:: max(1, len(samples) // arguments.faces)] for name, samples in sets.items()}
    options = {name: {"model": name, "refine": "never"} for name in arguments.models}
    if models.REGIONS_MODEL in arguments.models:
        options[REFINED] = {"model": models.REGIONS_MODEL, "refine": "always"}
    errors: dict[tuple[str, str], dict[str, OpeningErrors]] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading faces", total=len(options) * sum(map(len, sets.values())))
        for name, samples in sets.items():
            for model, choice in options.items():
                landmarker = octamark.load(**choice)
                view = View(label_crop(landmarker.card.crop))
                predictions = predict(landmarker, samples, {"": view}, advance=lambda: bar.advance(task))[""]
                points = convert(predictions.landmarks, landmarker.layout, IBUG68)[0]
                errors[name, model] = eye_opening_errors(points, visible_points(samples), IBUG68)
    finish(measurements(errors, {name: len(samples) for name, samples in sets.items()}), arguments.update)


if __name__ == "__main__":
    main()
