"""How true the spreads of the models that ship are: before the calibration, and after it on faces it was not fitted on.

    python -m benchmarks.calibration PATH/TO/300w [--models nano small] [--update]    (needs the package's extra, train)

*Before* is the network's raw spread times the one factor that makes its mean the mean error, with the confidence and
the regions of a Laplace density of that scale. *After* is cross-fitted: the calibration fitted on four fifths of the
validation faces, checked on the rest. Label boxes, inter-ocular."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish

import octamark
from octamark import models
from octamark.datasets import read
from octamark.evaluation.results import SHARES
from octamark.evaluation.run import View, label_crop, predict
from octamark.layouts import CONFIDENCE_SHARE
from octamark.models.calibration import Calibration
from octamark.release.calibration import calibration_figures, cross_fitted
from octamark.release.graph import recalibrated


def measurement(rows: Sequence[Sequence[Value]], figures: Sequence[str], faces: int) -> Measurement:
    """The entry for results.json."""
    digits = [".1f" if figure.startswith("regions") else ".3f" for figure in figures]
    return Measurement(
        name="calibration",
        page="accuracy",
        title="Spread and confidence before and after the calibration",
        text="*Before*: the raw spread times one factor, as a Laplace density. *After*: the calibration fitted on "
        "four fifths of the faces, checked on the rest.",
        columns=(("model", ""), *zip(figures, digits, strict=True)),
        rows=rows,
        command="python -m benchmarks.calibration PATH/TO/300w",
        data=f"300W, validation split, {faces} faces",
        boxes="labels",
        normaliser="inter-ocular",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--models", nargs="*", default=models.available(), help="all that ship by default")
    add_update_option(parser)
    arguments = parser.parse_args()
    samples = read("300w", arguments.data, "val")
    truth = np.stack([sample.landmarks for sample in samples]).astype(np.float64)
    rows: dict[str, dict[str, float]] = {}
    for name in arguments.models:
        card = octamark.load(name, refine="never").card
        uncalibrated = card.model_copy(update={"calibration": Calibration.identity(len(card.calibration.gain))})
        landmarker = octamark.load(recalibrated(models.read(name), uncalibrated), rotation="never", refine="never")
        predictions = predict(landmarker, samples, {"": View(label_crop(card.crop))})[""]
        assert predictions.spread is not None
        assert predictions.scale is not None
        unit = predictions.scale[:, None, None]
        spread, errors = predictions.spread / unit, (predictions.landmarks - truth) / unit
        eyes = landmarker.layout.distance(truth, "inter-ocular") / predictions.scale
        rows[f"`{name}` before"] = one_factor(spread, errors, eyes)
        rows[f"`{name}` after"] = cross_fitted(spread, errors, eyes, landmarker.layout.mirror)
    figures = list(next(iter(rows.values())))
    table = [[name, *(values.get(figure) for figure in figures)] for name, values in rows.items()]
    finish([measurement(table, figures, len(samples))], arguments.update)


def one_factor(spread: np.ndarray, errors: np.ndarray, eyes: np.ndarray) -> dict[str, float]:
    """The figures of :func:`octamark.release.calibration.cross_fitted` for raw spreads scaled by one factor."""
    plain, unit = Calibration.identity(spread.shape[1]), eyes[:, None]
    scaled = spread * (np.abs(errors).mean() / spread.mean())
    radii = {share: plain.radius(scaled, share) for share in SHARES}
    confidence = plain.within(scaled, CONFIDENCE_SHARE * unit)
    return calibration_figures(errors, scaled, confidence, radii, eyes)


if __name__ == "__main__":
    main()
