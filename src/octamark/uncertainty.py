"""Checks of spread, confidence and ``visible``: likelihood, coverage, ranks, sparsification, detection, calibration.

All functions take flat arrays over points or pictures without NaN; errors and spreads share one unit. The rank
statistics need scipy, which comes with the extra ``evaluate``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, install_hint

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]


def scipy_stats() -> ModuleType:
    """The module ``scipy.stats``.

    Raises:
        ConfigError: scipy is not installed.
    """
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise ConfigError(f"rank statistics of the spread need scipy: {install_hint(['scipy'])}") from error


def spearman(predicted: Floats, observed: Floats) -> float:
    """Spearman's rank correlation of two (n,) arrays; NaN where either is constant.

    Raises:
        ConfigError: scipy is not installed.
    """
    if np.ptp(predicted) == 0 or np.ptp(observed) == 0:
        return float("nan")
    return float(scipy_stats().spearmanr(predicted, observed).statistic)


def auroc(score: Floats, event: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the probability that a case with the event has a higher score than one without.

    Source: the Mann-Whitney U statistic over the number of pairs; equal scores count one half.

    Args:
        score, event: (n,).

    Returns:
        0 to 1; NaN if no case or every case has the event.

    Raises:
        ConfigError: scipy is not installed.
    """
    with_event, without = np.asarray(score)[np.asarray(event, bool)], np.asarray(score)[~np.asarray(event, bool)]
    pairs = len(with_event) * len(without)
    if not pairs:
        return float("nan")
    return float(scipy_stats().mannwhitneyu(with_event, without, method="asymptotic").statistic / pairs)


def log_likelihood(errors: Floats, spread: Floats) -> float:
    """Mean log density of signed errors (...) under a Laplace density whose mean absolute deviation is the spread.

    The density is -ln(2 b) - |d| / b per axis, natural logarithm. Only values of one unit can be compared.
    """
    scale = np.asarray(spread, np.float64)
    return float((-np.log(2 * scale) - np.abs(np.asarray(errors, np.float64)) / scale).mean())


def coverage(errors: Floats, radii: Floats) -> float:
    """Share of errors (n,) within their predicted radii (n,)."""
    return float((np.asarray(errors) <= np.asarray(radii)).mean())


def sparsification(errors: Floats, score: Floats, steps: int = 50) -> tuple[F64, F64, F64]:
    """Mean error of the remaining points as those with the highest score are removed, and as the worst are.

    Source: E. Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, section 5. Both curves
    are divided by the mean error of all points, so they start at 1; if that mean is 0, they are 0.

    Returns:
        Shares removed, the curve by score, the oracle's curve: three (steps,), shares from 0 to below 1.
    """
    values = np.asarray(errors, np.float64)
    removed = np.arange(steps) / steps
    remaining = np.maximum(len(values) - np.floor(removed * len(values)).astype(int), 1)
    curves = []
    for order in (np.argsort(score, kind="stable"), np.argsort(values, kind="stable")):
        means = np.cumsum(values[order]) / np.arange(1, len(values) + 1)
        curves.append(means[remaining - 1] / (values.mean() or 1.0))
    return removed, curves[0], curves[1]


def ause(errors: Floats, score: Floats) -> float:
    """Area between the sparsification curve by score and the oracle's (AUSE); 0 is a perfect ranking."""
    _, by_score, oracle = sparsification(errors, score)
    return float((by_score - oracle).mean())


def reliability_curve(confidence: Floats, hit: NDArray[np.bool_], bins: int = 10) -> tuple[F64, F64, NDArray[np.int64]]:
    """Predicted against observed probability, in bins of equal width.

    Args:
        confidence: (n,) predicted probabilities; hit: (n,) whether the event happened.

    Returns:
        Mean predicted probability, share of hits, and count of each bin that is not empty.
    """
    predicted = np.asarray(confidence, np.float64)
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    sums = [
        np.bincount(place, weights=values, minlength=bins)[used] for values in (predicted, np.asarray(hit, np.float64))
    ]
    return sums[0] / counts[used], sums[1] / counts[used], counts[used]


def calibration_error(confidence: Floats, hit: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean over points of |predicted - observed| probability, in ten bins."""
    predicted, observed, counts = reliability_curve(confidence, hit)
    return float((np.abs(predicted - observed) * counts).sum() / counts.sum())
