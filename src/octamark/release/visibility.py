"""What is fitted of the visibility after training: slope and intercept of the probability that a point can be seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from octamark.evaluation.results import Visibility
from octamark.release.calibration import FOLDS

F64 = NDArray[np.float64]

UNFITTED = (1.0, 0.0)
"""Slope and intercept that leave the network's own probability as it is."""

READING = (0.05, 0.0)
"""Slope and intercept with which logits are read: a probability in float32 tells logits of +-100 apart."""


def logits_of(visible: NDArray[np.floating]) -> F64:
    """The network's logits behind probabilities that were read with ``READING``, any shape."""
    held = np.clip(np.asarray(visible, np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(held / (1 - held)) / READING[0])


def fit_visibility(
    logits: NDArray[np.floating], seen: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> tuple[float, float]:
    """The slope (at least 0) and the intercept under which what can be seen is most likely.

    Logistic regression to labels that are drawn in a little, (n + 1) / (n + 2) and 1 / (n + 2) for the number of points
    of their kind, so that the slope is finite where a threshold parts all of them. Source: J. Platt, Probabilistic
    Outputs for Support Vector Machines, 1999, section 2.

    Args:
        logits: the network's, any shape.
        seen: 1 for a point that can be seen, 0 for a hidden one, NaN where it is unknown; the same shape.
        weights: of the points, the same shape; None counts all alike.

    Returns:
        Slope and intercept; ``UNFITTED`` unless points of both kinds are known.
    """
    known = np.isfinite(seen) & np.isfinite(logits)
    x, y = np.asarray(logits, np.float64)[known], np.asarray(seen)[known] > 0.5
    if y.all() or not y.any():
        return UNFITTED
    share = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)[known]
    share = share / share.sum()
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
    unit = max(float(x.std()), 1e-6)

    def loss(line: F64) -> tuple[float, F64]:
        z = line[0] * x / unit + line[1]
        slope = share * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - target)
        return float(share @ (np.logaddexp(0, z) - target * z)), np.array([slope @ x / unit, slope.sum()])

    line = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return round(float(line[0] / unit), 6), round(float(line[1]), 6)


def visible_probability(logits: NDArray[np.floating], line: tuple[float, float]) -> F64:
    """The probabilities of logits (...) by slope and intercept, as the graph computes them."""
    z = line[0] * np.asarray(logits, np.float64) + line[1]
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))


def cross_fitted_visibility(
    logits: NDArray[np.floating], seen: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> F64:
    """The probability (n, M) that points of n faces can be seen, each face by a fit to the other four folds."""
    fold = np.arange(len(logits)) % FOLDS
    probability = np.zeros(np.shape(logits))
    for number in np.unique(fold):
        out = fold == number
        line = fit_visibility(logits[~out], seen[~out], None if weights is None else weights[~out])
        probability[out] = visible_probability(logits[out], line)
    return probability


def visibility_figures(probability: NDArray[np.floating], seen: NDArray[np.floating]) -> dict[str, float]:
    """How well stated probabilities agree with labels, by the names that the figures have in a card.

    Args:
        probability: stated that a point can be seen, any shape.
        seen: 1, 0 or NaN (unknown), the same shape.

    Returns:
        The area under the ROC curve of finding what can be seen (NaN where all points are of one kind), and the
        expected calibration error; empty if nothing is known.
    """
    known = np.isfinite(seen) & np.isfinite(probability)
    if not known.any():
        return {}
    figures = Visibility(np.asarray(probability, np.float64)[known], np.asarray(seen)[known] > 0.5).summary()
    return {title: figures[key] for key, title in _TITLES.items()}


_TITLES = {"auroc": "AUROC of visible", "calibration_error": "calibration error of visible"}
"""Figures of octamark.evaluation.results.Visibility that a card states, and their names there."""
