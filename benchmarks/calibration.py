"""How true the released models' spreads are: before the calibration, and after it on faces that it was not fitted on.

    python benchmarks/calibration.py DATA [--models nano tiny small]     (needs the package's extra, train)

*Before* is the network's raw spread times the one factor that makes its mean the mean error, and the confidence and
regions of a Laplace density of that scale. *After* is cross-fitted: the calibration fitted on four fifths of the
validation faces, checked on the rest. Label boxes, inter-ocular.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import octamark
from octamark import models
from octamark.datasets import read
from octamark.evaluation.results import SHARES
from octamark.evaluation.run import View, label_square, predict
from octamark.models.calibration import CONFIDENCE_SHARE, Calibration
from octamark.release.calibration import cross_fitted, trust_figures
from octamark.release.graph import recalibrated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--models", nargs="*", default=models.available())
    asked = parser.parse_args()
    samples = read("300w", asked.data, "val")
    truth = np.stack([sample.landmarks for sample in samples]).astype(np.float64)
    columns: dict[str, dict[str, float]] = {}
    for name in asked.models:
        card = octamark.load(name, refine="never").card
        plain = card.model_copy(update={"calibration": Calibration.identity(len(card.calibration.gain))})
        landmarker = octamark.load(recalibrated(models.read(name), plain), rotation="never", refine="never")
        seen = predict(landmarker, samples, {"": View(label_square(card.crop))})[""]
        assert seen.spread is not None
        assert seen.scale is not None
        unit = seen.scale[:, None, None]
        raw, errors = seen.spread / unit, (seen.landmarks - truth) / unit
        distances = landmarker.layout.distance(truth, "inter-ocular") / seen.scale
        columns[f"{name} before"] = before(raw, errors, distances)
        columns[f"{name} after"] = cross_fitted(raw, errors, distances, landmarker.layout.mirror)
    table = Table(title=f"300w val, {len(samples)} faces, label boxes, inter-ocular", title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for figure in next(iter(columns.values())):
        digits = 1 if figure.startswith("regions") else 3
        table.add_row(figure, *(f"{values[figure]:.{digits}f}" for values in columns.values()))
    Console(width=140).print(table)


def before(raw: np.ndarray, errors: np.ndarray, distances: np.ndarray) -> dict[str, float]:
    """The same figures as :func:`octamark.release.calibration.cross_fitted`, of raw spreads with one factor."""
    plain, unit = Calibration.identity(raw.shape[1]), distances[:, None]
    spread = raw * (np.abs(errors).mean() / raw.mean())
    radii = {share: plain.radius(spread, share) for share in SHARES}
    return trust_figures(errors, spread, plain.within(spread, CONFIDENCE_SHARE * unit), radii, unit)


if __name__ == "__main__":
    main()
