"""What is fitted after training: the offset and the calibration of the spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from octamark.errors import DataError
from octamark.evaluation.results import SHARES, Reliability
from octamark.layouts import Layout
from octamark.models.calibration import CONFIDENCE_SHARE, KNOTS, RATIOS, Calibration, laplace_ratios, root_mean_square
from octamark.models.cards import MAX_OFFSET

FOLDS = 5
"""Parts of the held-out faces; figures of a fit are measured on each part after a fit to the others."""

LEAST_POINTS = 500
"""With at least this many labelled points, every pair of mirrored points has a gain of its own."""

LEAST_EXPONENT_POINTS = 40
"""With at least this many labelled points, a global calibration has fitted exponents; with fewer it is one factor."""

F64 = NDArray[np.float64]


def calibration_kind(faces: int, points: int) -> Literal["per_point", "global"]:
    """The kind of calibration that ``fit_calibration`` will fit to so many held-out faces of that many points.

    It is global where a fit to all folds but one has fewer than ``LEAST_POINTS`` labelled points.
    """
    return "per_point" if (faces - -(-faces // FOLDS)) * points >= LEAST_POINTS else "global"


def fit_offset(predicted: NDArray[np.floating], truth: NDArray[np.floating], layout: Layout) -> tuple[float, float]:
    """How far labels (n, M, 2) lie to one side of found points, (x, y) in shares of the inter-ocular distance.

    The median over faces of the mean over labelled points; a network that learns from mirrored pictures cannot learn
    it. Faces without any label (NaN) are left out. A shift that no card allows comes from a network that has not
    learned the points, not from labels: then the offset is 0.
    """
    away = np.asarray(truth, np.float64) - predicted
    labelled = np.asarray(np.isfinite(away).all(axis=2))
    mean = np.where(labelled[..., None], away, 0.0).sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)[:, None]
    shares = mean / layout.reference_distance(predicted)[:, None]
    shares = shares[labelled.any(axis=1) & np.isfinite(shares).all(axis=1)]
    x, y = np.median(shares, axis=0) if len(shares) else (0.0, 0.0)
    if max(abs(x), abs(y)) > MAX_OFFSET:
        return 0.0, 0.0
    return round(float(x), 5), round(float(y), 5)


def fit_calibration(
    raw: NDArray[np.floating],
    errors: NDArray[np.floating],
    mirror: NDArray[np.int64],
    kind: Literal["per_point", "global"] | None = None,
) -> Calibration:
    """The calibration under which these errors are most likely, then adjusted so that its quantiles hold.

    Args:
        raw: (n, M, 2) raw spreads, pixels of the crop.
        errors: (n, M, 2) signed errors, pixels of the crop; NaN for a point without a label, which is left out.
        mirror: the layout's permutation; mirrored points share their gains.
        kind: see ``octamark.models.Calibration``; None is ``"per_point"`` from ``LEAST_POINTS`` labelled
            points on and ``"global"`` below.

    Gains and exponents (at least 0) maximise the Laplace likelihood, the mean of -ln(u) - |d| / u, which is convex in
    ln u. The knots are means of |d| over quantiles of u, made monotone by isotonic regression; a global calibration has
    one straight line. The ratios are quantiles of distance / spread; those of a global calibration are those of
    two independent Laplace densities.

    Raises:
        DataError: no labelled point.
    """
    away = np.abs(np.asarray(errors, np.float64))
    known = np.asarray(np.isfinite(away).all(axis=2))
    if not (count := int(known.sum())):
        raise DataError("no labelled point; the spread is calibrated on held-out faces with labels")
    kind = kind or ("per_point" if count >= LEAST_POINTS else "global")
    log_raw = np.log(np.maximum(np.asarray(raw, np.float64), 1e-6))
    face = log_raw.mean(axis=(1, 2), keepdims=True) + np.zeros_like(log_raw)
    mask = np.broadcast_to(known[..., None], away.shape)
    columns = np.stack([log_raw[mask], face[mask]], axis=1)
    one_gain = np.zeros(len(columns), np.int64)
    exponents, fixed = np.array([1.0, 0.0]), count < LEAST_EXPONENT_POINTS
    start, exponents = _most_likely(columns, one_gain, away[mask], np.zeros(1), exponents, fixed)
    gain_of = np.zeros(log_raw.shape[1:], np.int64)  # which gain each point and axis has
    gains = start
    if kind == "per_point":
        _, shared = np.unique(np.minimum(np.arange(len(mirror)), mirror), return_inverse=True)
        gain_of = np.stack([2 * shared, 2 * shared + 1], axis=1)
        gain_numbers = np.broadcast_to(gain_of, log_raw.shape)[mask]
        # a point without any label keeps the gain of all
        gains, exponents = _most_likely(
            columns, gain_numbers, away[mask], np.full(gain_of.max() + 1, start[0]), exponents
        )
    gain = np.exp(gains)[gain_of]
    own_exponent, face_exponent = (float(value) for value in exponents)
    u = gain * np.exp(own_exponent * log_raw + face_exponent * face)
    draft = Calibration(
        kind=kind,
        gain=tuple((float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in gain),
        own=round(own_exponent, 5),
        face=round(face_exponent, 5),
        knots=_knots(u[mask], away[mask]) if kind == "per_point" else Calibration.identity(1).knots,
        ratios=laplace_ratios(),  # until the real ones can be measured
    )
    if kind == "global":
        return draft
    distance = np.linalg.norm(np.asarray(errors, np.float64), axis=2)[known]
    ratio = distance / root_mean_square(draft.spread(raw))[known]
    shares = np.concatenate([np.linspace(0, 0.95, RATIOS - 4), [0.98, 0.99, 0.995]])
    lengths = np.quantile(ratio, shares)
    lengths[0] = 0.0
    lengths = _rising(lengths, 1e-5)
    table = [*zip(lengths, shares, strict=True), (2.5 * lengths[-1], 1.0)]
    return draft.model_copy(update={"ratios": tuple((round(float(r), 6), round(float(p), 6)) for r, p in table)})


def cross_fitted(
    raw: NDArray[np.floating], errors: NDArray[np.floating], distances: NDArray[np.floating], mirror: NDArray[np.int64]
) -> dict[str, float]:
    """How well spreads agree with errors on faces that they were not calibrated on, by cross-validation in five folds.

    Args:
        raw, errors, mirror: as in ``fit_calibration``, of which all folds get the same kind.
        distances: (n,) inter-ocular distances of the truth, pixels of the crop.

    Returns:
        Figures by the names that they have in a card's scores.
    """
    unit = np.asarray(distances, np.float64)
    spread, confidence = np.zeros(np.shape(raw)), np.zeros(np.shape(raw)[:2])
    radii = {share: np.zeros(confidence.shape) for share in SHARES}
    labelled = np.isfinite(np.asarray(errors)).all(axis=2).sum(axis=1)  # of each face
    fold = np.arange(len(raw)) % FOLDS
    fewest_points = min(int(labelled[fold != number].sum()) for number in range(FOLDS))
    if not fewest_points:
        return {}
    kind: Literal["per_point", "global"] = "per_point" if fewest_points >= LEAST_POINTS else "global"
    for number in range(FOLDS):
        out = fold == number
        if not out.any():
            continue
        fitted = fit_calibration(raw[~out], errors[~out], mirror, kind)
        spread[out] = fitted.spread(raw[out])
        confidence[out] = fitted.within(spread[out], CONFIDENCE_SHARE * unit[out, None])
        for share, radius in radii.items():
            radius[out] = fitted.radius(spread[out], share)
    return calibration_figures(errors, spread, confidence, radii, unit)


def calibration_figures(
    errors: NDArray[np.floating], spread: F64, confidence: F64, radii: Mapping[float, F64], unit: F64
) -> dict[str, float]:
    """How well stated spreads and confidences agree with errors, by the names that the figures have in a card.

    Args:
        errors: (n, M, 2) signed; NaN for a point without a label.
        spread: (n, M, 2) expected absolute errors, in the errors' unit.
        confidence: (n, M) stated probabilities.
        radii: share -> (n, M) radii of the regions that should hold the truth that often.
        unit: (n,) inter-ocular distances of the truth.

    Returns:
        Coverage, rank correlations, ranking of failures, error of the confidence; empty if no face has the points that
        its distance is measured between.
    """
    reliability = Reliability.measured(errors, spread, unit, unit, confidence, radii)
    if not len(reliability.errors):
        return {}
    figures = reliability.summary()
    coverage = figures["coverage_percent"]
    return {
        **{f"regions of {share} hold the truth in, %": value for share, value in coverage.items()},
        **{title: figures[key] for key, title in _TITLES.items()},
    }


_TITLES = {
    "spearman_per_point": "Spearman of spread and error, per point",
    "spearman_per_picture": "Spearman of spread and error, per picture",
    "auroc_nme_over_8_percent": "AUROC of mean spread for NME over 8 %",
    "confidence_calibration_error": "calibration error of the confidence",
}
"""Figures of octamark.evaluation.results.Reliability that a card states, and their names there."""


def _most_likely(
    columns: F64, gain_of: NDArray[np.int64], away: F64, gains: F64, exponents: F64, fixed: bool = False
) -> tuple[F64, F64]:
    """Logarithms of the gains and the two exponents, at least 0, that maximise the Laplace likelihood.

    Args:
        columns: (n, 2) logarithms of the raw spread and of its mean over the face.
        gain_of: (n,) which gain belongs to each; away: (n,) absolute errors.
        gains, exponents: where the search begins; a gain that no row has stays there.
        fixed: whether the exponents stay as they are.
    """
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    scaled = (columns - centre) / scale  # spreads that hardly differ are no ill-conditioned problem
    count = len(gains)

    def loss(weights: F64) -> tuple[float, F64]:
        log_u = weights[:count][gain_of] + scaled @ weights[count:]
        with np.errstate(over="ignore"):
            pull = away * np.exp(-log_u)
        slope = 1 - pull
        gradient = np.concatenate([np.bincount(gain_of, slope, count), slope @ scaled])
        return float((log_u + pull).mean()), gradient / len(away)

    begin = np.concatenate([gains + exponents @ centre, exponents * scale])
    middle = np.log(max(away.mean(), 1e-6))
    bounds = [(middle - 20, middle + 20)] * count + [(w, w) if fixed else (0, None) for w in begin[count:]]
    solution = minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 5000, "maxfun": 20000, "maxcor": 50, "ftol": 1e-15, "gtol": 1e-9},
    ).x  # fmt: skip
    exponents = solution[count:] / scale
    return solution[:count] - exponents @ centre, exponents


def _knots(u: NDArray[np.float64], away: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Means of u and |d| over equally full bins of u, monotone, from (0, 0)."""
    bins = np.array_split(np.argsort(u), KNOTS - 1)
    x = _rising(np.array([0.0, *(u[members].mean() for members in bins)]), 1e-4)
    y = [0.0, *isotonic_regression([away[members].mean() for members in bins]).x]
    return tuple((round(float(a), 5), round(float(b), 5)) for a, b in zip(x, y, strict=True))


def _rising(values: F64, least: float) -> F64:
    """Values (n,), each at least the one before plus ``least``: lower ones are raised."""
    steps = np.arange(len(values)) * least
    return np.asarray(np.maximum.accumulate(values - steps) + steps)
