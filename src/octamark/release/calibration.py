"""What is fitted after training: the offset and the calibration of the spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from octamark.errors import DataError
from octamark.evaluation.results import SHARES, Reliability
from octamark.layouts import CONFIDENCE_SHARE, Layout
from octamark.models.calibration import KNOTS, RATIOS, Calibration, laplace_ratios, root_mean_square
from octamark.models.cards import MAX_OFFSET
from octamark.uncertainty import coverage

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
    *,
    unusual: NDArray[np.floating] | None = None,
    weights: NDArray[np.floating] | None = None,
) -> Calibration:
    """The calibration under which these errors are most likely, then adjusted so that its quantiles hold.

    Args:
        raw: (n, M, 2) raw spreads, pixels of the crop.
        errors: (n, M, 2) signed errors, pixels of the crop; NaN for a point without a label, which is left out.
        mirror: the layout's permutation; mirrored points share their gains.
        kind: see ``octamark.models.Calibration``; None is ``"per_point"`` from ``LEAST_POINTS`` labelled
            points on and ``"global"`` below.
        unusual: (n, 2) as in ``Calibration.spread``; None leaves its exponents at 0, as does a global calibration.
        weights: (n,) of the faces' points, see ``set_weights``; None counts all alike.

    Gains and exponents (at least 0; those of shift and contrast at most 1) maximise the Laplace likelihood, the mean of
    -ln(u) - |d| / u, which is convex in ln u. The knots are means of |d| over quantiles of u, made monotone by isotonic
    regression; a global calibration has one straight line. The ratios are quantiles of distance / spread; those of a
    global calibration are those of two independent Laplace densities.

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
    inputs = [log_raw, face]
    if unusual is not None and kind == "per_point":
        logs = np.log(np.asarray(unusual, np.float64)).round(4)  # constant where only the rounding differs
        inputs += [values[:, None, None] + np.zeros_like(log_raw) for values in logs.T]
    columns = np.stack([values[mask] for values in inputs], axis=1)
    per_face = np.ones(len(away)) if weights is None else np.asarray(weights, np.float64)
    per_value = np.broadcast_to(per_face[:, None, None], away.shape)[mask]
    one_gain = np.zeros(len(columns), np.int64)
    exponents, fixed = np.eye(len(inputs))[0], count < LEAST_EXPONENT_POINTS
    start, exponents = _most_likely(columns, one_gain, away[mask], per_value, np.zeros(1), exponents, fixed)
    gain_of = np.zeros(log_raw.shape[1:], np.int64)  # which gain each point and axis has
    gains = start
    if kind == "per_point":
        _, shared = np.unique(np.minimum(np.arange(len(mirror)), mirror), return_inverse=True)
        gain_of = np.stack([2 * shared, 2 * shared + 1], axis=1)
        gain_numbers = np.broadcast_to(gain_of, log_raw.shape)[mask]
        # a point without any label keeps the gain of all
        gains, exponents = _most_likely(
            columns, gain_numbers, away[mask], per_value, np.full(gain_of.max() + 1, start[0]), exponents
        )
    gain = np.exp(gains)[gain_of]
    u = gain * np.exp(np.tensordot(exponents, np.stack(inputs), axes=1))
    own_exponent, face_exponent, *further = (round(float(value), 5) for value in exponents)
    shift, contrast = further or (0.0, 0.0)
    draft = Calibration(
        kind=kind,
        gain=tuple((float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in gain),
        own=own_exponent,
        face=face_exponent,
        shift=shift,
        contrast=contrast,
        knots=_knots(u[mask], away[mask], per_value) if kind == "per_point" else Calibration.identity(1).knots,
        ratios=laplace_ratios(),  # until the real ones can be measured
    )
    if kind == "global":
        return draft
    distance = np.linalg.norm(np.asarray(errors, np.float64), axis=2)[known]
    ratio = distance / root_mean_square(draft.spread(raw, unusual))[known]
    shares = np.concatenate([np.linspace(0, 0.95, RATIOS - 4), [0.98, 0.99, 0.995]])
    lengths = _quantiles(ratio, np.broadcast_to(per_face[:, None], known.shape)[known], shares)
    lengths[0] = 0.0
    lengths = _rising(lengths, 1e-5)
    table = [*zip(lengths, shares, strict=True), (2.5 * lengths[-1], 1.0)]
    return draft.model_copy(update={"ratios": tuple((round(float(r), 6), round(float(p), 6)) for r, p in table)})


def set_weights(errors: NDArray[np.floating], set_of: NDArray[np.integer]) -> F64:
    """Weights (n,) of faces with which the labelled points of every set count alike together; their mean is about 1.

    Args:
        errors: (n, M, 2), NaN for a point without a label.
        set_of: (n,) the number of each face's set, from 0.
    """
    labelled = np.isfinite(np.asarray(errors)).all(axis=2).sum(axis=1)
    of_set = np.bincount(set_of, labelled)
    share = labelled.sum() / max(int((of_set > 0).sum()), 1)
    return np.asarray((share / np.maximum(of_set, 1))[set_of], np.float64)


def cross_fitted(
    raw: NDArray[np.floating],
    errors: NDArray[np.floating],
    distances: NDArray[np.floating],
    mirror: NDArray[np.int64],
    unusual: NDArray[np.floating] | None = None,
    set_of: NDArray[np.integer] | None = None,
) -> list[dict[str, float]]:
    """How well spreads agree with errors on faces that they were not calibrated on, by cross-validation in five folds.

    Args:
        raw, errors, mirror, unusual: as in ``fit_calibration``, of which all folds get the same kind.
        distances: (n,) inter-ocular distances of the truth, pixels of the crop; NaN where that is unknown.
        set_of: (n,) the number of each face's set, from 0; None if all are of one.

    Returns:
        Figures of each set by the names that they have in a card's scores: those of a set without distances are the
        coverage alone, those of a set without labels none.
    """
    unit = np.asarray(distances, np.float64)
    set_of = np.zeros(len(raw), np.int64) if set_of is None else set_of
    weights = set_weights(errors, set_of)
    spread, confidence = np.zeros(np.shape(raw)), np.zeros(np.shape(raw)[:2])
    radii = {share: np.zeros(confidence.shape) for share in SHARES}
    labelled = np.isfinite(np.asarray(errors)).all(axis=2).sum(axis=1)  # of each face
    fold = np.arange(len(raw)) % FOLDS
    fewest_points = min(int(labelled[fold != number].sum()) for number in range(FOLDS))
    if not fewest_points:
        return [{} for _ in range(int(set_of.max(initial=0)) + 1)]
    kind: Literal["per_point", "global"] = "per_point" if fewest_points >= LEAST_POINTS else "global"
    for number in range(FOLDS):
        out = fold == number
        if not out.any():
            continue
        inputs = (None, None) if unusual is None else (unusual[~out], unusual[out])
        fitted = fit_calibration(raw[~out], errors[~out], mirror, kind, unusual=inputs[0], weights=weights[~out])
        spread[out] = fitted.spread(raw[out], inputs[1])
        confidence[out] = fitted.within(spread[out], CONFIDENCE_SHARE * unit[out, None])
        for share, radius in radii.items():
            radius[out] = fitted.radius(spread[out], share)
    return [
        calibration_figures(
            errors[chosen], spread[chosen], confidence[chosen], {s: r[chosen] for s, r in radii.items()}, unit[chosen]
        )
        for chosen in (set_of == number for number in range(int(set_of.max()) + 1))
    ]


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
        Coverage, rank correlations, ranking of failures, error of the confidence; the coverage alone if no face has the
        points that its distance is measured between, and nothing without labels.
    """
    reliability = Reliability.measured(errors, spread, unit, unit, confidence, radii)
    if not len(reliability.errors):
        distance = np.linalg.norm(errors, axis=2)
        known = np.isfinite(distance)
        held = {share: coverage(distance[known], radius[known]) * 100 for share, radius in radii.items() if known.any()}
        return {_REGIONS.format(f"{share:.0%}"): value for share, value in held.items()}
    figures = reliability.summary()
    return {
        **{_REGIONS.format(share): value for share, value in figures["coverage_percent"].items()},
        **{title: figures[key] for key, title in _TITLES.items()},
    }


_REGIONS = "regions of {} hold the truth in, %"

_TITLES = {
    "spearman_per_point": "Spearman of spread and error, per point",
    "spearman_per_picture": "Spearman of spread and error, per picture",
    "auroc_nme_over_8_percent": "AUROC of mean spread for NME over 8 %",
    "confidence_calibration_error": "calibration error of the confidence",
}
"""Figures of octamark.evaluation.results.Reliability that a card states, and their names there."""


def _most_likely(
    columns: F64,
    gain_of: NDArray[np.int64],
    away: F64,
    per_value: F64,
    gains: F64,
    exponents: F64,
    fixed: bool = False,
) -> tuple[F64, F64]:
    """Logarithms of the gains and the exponents that maximise the Laplace likelihood.

    Exponents are at least 0, those from the third on at most 1: an error never grows faster than what it depends on.

    Args:
        columns: (n, K) logarithms of what the exponents belong to, such as the raw spread.
        gain_of: (n,) which gain belongs to each; away: (n,) absolute errors; per_value: (n,) weights.
        gains, exponents: where the search begins; a gain that no row has stays there.
        fixed: whether the exponents stay as they are.
    """
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    scaled = (columns - centre) / scale  # spreads that hardly differ are no ill-conditioned problem
    count, share = len(gains), per_value / per_value.sum()

    def loss(weights: F64) -> tuple[float, F64]:
        log_u = weights[:count][gain_of] + scaled @ weights[count:]
        with np.errstate(over="ignore"):
            pull = away * np.exp(-log_u)
        slope = share * (1 - pull)
        return float(share @ (log_u + pull)), np.concatenate([np.bincount(gain_of, slope, count), slope @ scaled])

    begin = np.concatenate([gains + exponents @ centre, exponents * scale])
    middle = np.log(max(share @ away, 1e-6))
    highest = [None, None, *scale[2:]][: len(scale)]  # in units of the scaled columns
    bounds = [(middle - 20, middle + 20)] * count
    bounds += [(w, w) if fixed else (0, most) for w, most in zip(begin[count:], highest, strict=True)]
    solution = minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 5000, "maxfun": 20000, "maxcor": 50, "ftol": 1e-15, "gtol": 1e-9},
    ).x  # fmt: skip
    exponents = solution[count:] / scale
    return solution[:count] - exponents @ centre, exponents


def _knots(u: F64, away: F64, per_value: F64) -> tuple[tuple[float, float], ...]:
    """Weighted means of u and |d| over bins of u of equal weight, monotone, from (0, 0)."""
    order = np.argsort(u, kind="stable")
    place = np.cumsum(per_value[order]) - per_value[order] / 2
    bin_of = np.minimum((place / per_value.sum() * (KNOTS - 1)).astype(int), KNOTS - 2)
    bins = [members for number in range(KNOTS - 1) if len(members := order[bin_of == number])]
    u_means, errors = ([np.average(values[m], weights=per_value[m]) for m in bins] for values in (u, away))
    x = _rising(np.array([0.0, *u_means]), 1e-4)
    y = [0.0, *isotonic_regression(errors).x]
    for _ in range(KNOTS - len(x)):  # a face of great weight can fill several bins
        x, y = np.append(x, x[-1] + 1e-4), [*y, y[-1]]
    return tuple((round(float(a), 5), round(float(b), 5)) for a, b in zip(x, y, strict=True))


def _quantiles(values: F64, weights: F64, shares: F64) -> F64:
    """The values below which lie these shares of the weight, between the smallest and the largest value."""
    order = np.argsort(values, kind="stable")
    above = np.cumsum(weights[order])
    place = (above - weights[order] / 2) / above[-1]
    return np.asarray(np.interp(shares, (place - place[0]) / max(place[-1] - place[0], 1e-12), values[order]))


def _rising(values: F64, least: float) -> F64:
    """Values (n,), each at least the one before plus ``least``: lower ones are raised."""
    steps = np.arange(len(values)) * least
    return np.asarray(np.maximum.accumulate(values - steps) + steps)
