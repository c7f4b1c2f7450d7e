"""Is the spread true? Likelihood, coverage, rank correlation, sparsification, and ranking of failures.

Source of the checks: shared/notes, recipes (uncertainty checks in use). All take flat arrays of points or of pictures
without NaN; errors and spreads share one unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]


def ranks(values: Floats) -> F64:
    """Ranks from 0 of (n,) values; equal values share their mean rank."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[place])


def spearman(predicted: Floats, real: Floats) -> float:
    """Rank correlation of two (n,); NaN where either is constant."""
    first, second = (r - r.mean() for r in (ranks(predicted), ranks(real)))
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm else float("nan")


def auroc(score: Floats, event: NDArray[np.bool_]) -> float:
    """Probability that a picture with the event has a higher score than one without; NaN if either kind is missing."""
    event = np.asarray(event, bool)
    yes, no = int(event.sum()), int((~event).sum())
    if not yes or not no:
        return float("nan")
    return float((ranks(score)[event].sum() - yes * (yes - 1) / 2) / (yes * no))


def log_likelihood(errors: Floats, spread: Floats) -> float:
    """Mean log density of signed errors (...) under a Laplace density whose mean absolute deviation is the spread.

    -ln(2 b) - |d| / b, natural logarithm, per axis; compare only figures of the same unit.
    """
    scale = np.asarray(spread, np.float64)
    return float((-np.log(2 * scale) - np.abs(np.asarray(errors, np.float64)) / scale).mean())


def coverage(errors: Floats, radii: Floats) -> float:
    """Share of errors (n,) within their predicted radii (n,)."""
    return float((np.asarray(errors) <= np.asarray(radii)).mean())


def sparsification(errors: Floats, score: Floats, steps: int = 50) -> tuple[F64, F64, F64]:
    """Mean error of what is left when the worst by score, and the truly worst, are removed step by step.

    Source: E. Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, section 5. Both
    curves are over the mean error of all, so they start at 1; if that is 0, they are 0.

    Returns:
        Shares removed, the curve by score, the oracle's curve: three (steps,), shares from 0 to below 1.
    """
    values = np.asarray(errors, np.float64)
    removed = np.arange(steps) / steps
    kept = np.maximum(len(values) - np.floor(removed * len(values)).astype(int), 1)
    curves = []
    for order in (np.argsort(score, kind="stable"), np.argsort(values, kind="stable")):
        means = np.cumsum(values[order]) / np.arange(1, len(values) + 1)
        curves.append(means[kept - 1] / (values.mean() or 1.0))
    return removed, curves[0], curves[1]


def ause(errors: Floats, score: Floats) -> float:
    """Area between the sparsification curve by score and the oracle's; 0 is a perfect ranking."""
    _, by_score, oracle = sparsification(errors, score)
    return float((by_score - oracle).mean())


def reliability_curve(confidence: Floats, hit: NDArray[np.bool_], bins: int = 10) -> tuple[F64, F64, NDArray[np.int64]]:
    """Stated against true probability, in bins of equal width.

    Args:
        confidence: (n,) stated probabilities; hit: (n,) whether it came true.

    Returns:
        Mean stated probability, share of hits, and count of each bin that holds any.
    """
    stated = np.asarray(confidence, np.float64)
    place = np.minimum((stated * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    sums = [
        np.bincount(place, weights=values, minlength=bins)[used] for values in (stated, np.asarray(hit, np.float64))
    ]
    return sums[0] / counts[used], sums[1] / counts[used], counts[used]


def calibration_error(confidence: Floats, hit: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean over points of |stated - true| probability by bins of a tenth."""
    stated, true, counts = reliability_curve(confidence, hit)
    return float((np.abs(stated - true) * counts).sum() / counts.sum())
