"""What is fitted after training: how detector boxes map to label boxes, and what the raw spread means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from octamark import uncertainty
from octamark.datasets import Sample
from octamark.errors import DataError
from octamark.evaluation.results import SHARES
from octamark.evaluation.run import detected_box
from octamark.geometry import detector_squares, landmark_boxes, squares
from octamark.inference.detector import FaceDetector
from octamark.layouts import Layout
from octamark.models import CropRule
from octamark.models.calibration import CONFIDENCE_SHARE, KNOTS, RATIOS, Calibration, laplace_ratios, root_mean_square

FOLDS = 5
LEAST_POINTS = 500

F64 = NDArray[np.float64]


def detected_boxes(
    samples: Sequence[Sample], detector: FaceDetector, tick: Callable[[], None] = lambda: None
) -> list[NDArray[np.float32] | None]:
    """For each sample the detector's box of its face, or None where it found none; ``tick`` is called after each."""
    found: list[NDArray[np.float32] | None] = []
    for sample in samples:
        found.append(detected_box(detector, sample, sample.read()))
        tick()
    return found


def fit_crop_rule(
    samples: Sequence[Sample], found: Sequence[NDArray[np.float32] | None], *, size: int, margin: float
) -> CropRule:
    """The map from detector boxes to the crops of training, by medians over the faces that were found.

    Where the detector knows fewer than 10 of them (drawings, say), nothing is fitted: crops are ``margin`` times the
    root of a box's area, around its middle, and the residual is 0.
    """
    pairs = [(box, sample) for box, sample in zip(found, samples, strict=True) if box is not None]
    if len(pairs) < 10:
        still = {"detector_scale": margin, "detector_shift": (0.0, 0.0), "detector_residual": (0.0, 0.0, 0.0)}
        return CropRule(size=size, margin=margin, **still)
    detected = np.stack([box for box, _ in pairs])
    wanted = squares(landmark_boxes(np.stack([sample.landmarks for _, sample in pairs])), margin)
    plain = detector_squares(detected, 1.0, (0.0, 0.0))
    shift = (wanted[:, :2] - plain[:, :2]) / plain[:, 2:]
    log_scale = np.log(wanted[:, 2] / plain[:, 2])
    centre, middle = np.median(shift, axis=0), float(np.median(log_scale))
    residual = np.concatenate([(shift - centre) / np.exp(middle), (log_scale - middle)[:, None]], axis=1).std(axis=0)
    return CropRule(
        size=size,
        margin=margin,
        detector_scale=float(np.exp(middle)),
        detector_shift=(float(centre[0]), float(centre[1])),
        detector_residual=(float(residual[0]), float(residual[1]), float(residual[2])),
    )


def check_enough(faces: int, points: int, data: str) -> None:
    """Whether so many held-out faces are enough to calibrate on, with a fold left out to check on.

    Raises:
        DataError: they are not.
    """
    if (faces - -(-faces // FOLDS)) * points < LEAST_POINTS:
        least = next(count for count in range(faces, 10**6) if (count - -(-count // FOLDS)) * points >= LEAST_POINTS)
        raise DataError(
            f"{data}: {faces} faces of {points} points are held out; to calibrate the spread at least {least} are "
            "needed (data.validation)"
        )


def fit_offset(found: NDArray[np.floating], truth: NDArray[np.floating], layout: Layout) -> tuple[float, float]:
    """How far labels (n, M, 2) lie to one side of found points, (x, y) in shares of the inter-ocular distance.

    The median over faces of the mean over points: what mirrored training pictures keep a network from learning.
    """
    away = np.nanmean(np.asarray(truth, np.float64) - found, axis=1) / layout.reference_distance(found)[:, None]
    x, y = np.nanmedian(away, axis=0)
    return round(float(x), 5), round(float(y), 5)


def fit_calibration(raw: NDArray[np.floating], errors: NDArray[np.floating], mirror: NDArray[np.int64]) -> Calibration:
    """The calibration under which these errors are most likely, then made exact in quantiles.

    Args:
        raw: (n, M, 2) raw spreads, pixels of the crop.
        errors: (n, M, 2) signed errors, pixels of the crop; a point without a label (NaN) is left out.
        mirror: the layout's permutation; mirrored points share their gains.

    The gains and exponents maximise the Laplace likelihood, mean of -ln(u) - |d| / u, by Newton's method (the problem
    is convex in ln u); the knots are means of |d| over quantiles of u, made monotone by pooling adjacent violators; the
    ratios are quantiles of distance / spread.

    Raises:
        DataError: fewer than 500 labelled points.
    """
    away = np.abs(np.asarray(errors, np.float64))
    known = np.asarray(np.isfinite(away).all(axis=2))
    if known.sum() < LEAST_POINTS:
        raise DataError(
            f"{int(known.sum())} labelled points; at least {LEAST_POINTS} are needed to calibrate the spread"
        )
    log_raw = np.log(np.maximum(np.asarray(raw, np.float64), 1e-6))
    face = log_raw.mean(axis=(1, 2), keepdims=True) + np.zeros_like(log_raw)
    pair = np.minimum(np.arange(len(mirror)), mirror)
    _, shared = np.unique(pair, return_inverse=True)
    gain_of = np.stack([2 * shared, 2 * shared + 1], axis=1) + np.zeros(log_raw.shape, np.int64)  # which gain, n, M, 2
    mask = np.broadcast_to(known[..., None], away.shape)
    gains, own, mean = _maximise(log_raw[mask], face[mask], gain_of[mask], away[mask])
    gain = np.exp(gains)[gain_of[0]]
    u = gain * np.exp(own * log_raw + mean * face)
    draft = Calibration(
        gain=tuple((float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in gain),
        own=round(own, 5),
        face=round(mean, 5),
        knots=_knots(u[mask], away[mask]),
        ratios=laplace_ratios(),  # until the real ones can be measured
    )
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
    """How true spreads are on faces that they were not calibrated on: fitted on four fifths, checked on the rest.

    Args:
        raw, errors, mirror: as in :func:`fit_calibration`.
        distances: (n,) inter-ocular distances of the truth, pixels of the crop.

    Returns:
        The :func:`trust_figures`.
    """
    unit = np.asarray(distances, np.float64)[:, None]
    spread, sure = np.zeros(np.shape(raw)), np.zeros(np.shape(raw)[:2])
    radii = {share: np.zeros(sure.shape) for share in SHARES}
    fold = np.arange(len(raw)) % FOLDS
    for one in range(FOLDS):
        out = fold == one
        fitted = fit_calibration(raw[~out], errors[~out], mirror)
        spread[out] = fitted.spread(raw[out])
        sure[out] = fitted.within(spread[out], CONFIDENCE_SHARE * unit[out])
        for share, radius in radii.items():
            radius[out] = fitted.radius(spread[out], share)
    return trust_figures(errors, spread, sure, radii, unit)


def trust_figures(
    errors: NDArray[np.floating], spread: F64, sure: F64, radii: Mapping[float, F64], unit: F64
) -> dict[str, float]:
    """How true spreads are.

    Args:
        errors: (n, M, 2) signed; spread: (n, M, 2) expected; in one unit; a point without a label (NaN) is left out.
        sure: (n, M) stated confidence; radii: share -> (n, M) radii of the regions of that share.
        unit: (n, 1) inter-ocular distances of the truth.

    Returns:
        Figures by name: coverage, rank correlations, ranking of failures, error of the confidence.
    """
    away = np.linalg.norm(np.asarray(errors, np.float64), axis=2)  # n, M
    known = np.isfinite(away)
    expected = root_mean_square(spread) / unit
    nme = np.nanmean(away / unit, axis=1)
    hit = (away < CONFIDENCE_SHARE * unit)[known]
    return {
        **{
            f"regions of {share:.0%} hold the truth in, %": 100 * uncertainty.coverage(away[known], radius[known])
            for share, radius in radii.items()
        },
        "Spearman of spread and error, per point": uncertainty.spearman(expected[known], (away / unit)[known]),
        "Spearman of spread and error, per picture": uncertainty.spearman(expected.mean(axis=1), nme),
        "AUROC of mean spread for NME over 8 %": uncertainty.auroc(expected.mean(axis=1), nme > 0.08),
        "calibration error of the confidence": uncertainty.calibration_error(sure[known], hit),
    }


def _maximise(own: F64, face: F64, gain_of: NDArray[np.int64], away: F64) -> tuple[F64, float, float]:
    """Logarithms of the gains and the two exponents, at least 0, that maximise the likelihood; all arrays flat."""
    found = []
    for used in ((True, True), (True, False), (False, True), (False, False)):  # an exponent below 0 is left out
        columns = np.stack([own, face], axis=1)[:, list(used)]
        weights, loss = _newton(columns, gain_of, away)
        exponents = np.zeros(2)
        exponents[list(used)] = weights[len(weights) - columns.shape[1] :]
        if (exponents >= 0).all():
            found.append((loss, weights[: len(weights) - columns.shape[1]], exponents))
        if all(used) and found:
            break  # the problem is convex: no better one on the edge
    _, gains, (first, second) = min(found, key=lambda one: one[0])
    return gains, float(first), float(second)


def _newton(columns: F64, gain_of: NDArray[np.int64], away: F64) -> tuple[F64, float]:
    """Weights of gains and columns (n, k) that minimise the negative log likelihood, and that; by damped steps."""
    count, many = int(gain_of.max()) + 1, columns.shape[1]
    weights = np.zeros(count + many)

    def shares(weights: F64) -> tuple[F64, float]:
        """|d| / u of each, and the negative log likelihood."""
        eta = weights[gain_of] + columns @ weights[count:]
        with np.errstate(over="ignore"):
            pull = away * np.exp(-eta)
        return pull, float((eta + pull).sum())

    pull, loss = shares(weights)
    for _ in range(200):
        gradient = np.concatenate([np.bincount(gain_of, 1 - pull, count), (1 - pull) @ columns])
        hessian = np.diag(np.concatenate([np.bincount(gain_of, pull, count), np.zeros(many)]))
        for place, column in enumerate(columns.T, count):
            hessian[place, :count] = hessian[:count, place] = np.bincount(gain_of, pull * column, count)
        hessian[count:, count:] = (columns * pull[:, None]).T @ columns
        step = np.linalg.solve(hessian + 1e-6 * len(away) / count * np.eye(count + many), gradient)
        longest = float(np.abs(step).max())
        size = min(1.0, 2 / longest) if longest else 1.0
        while (tried := shares(weights - size * step))[1] > loss and size > 1e-6:
            size /= 2
        if tried[1] > loss:
            break
        weights, (pull, loss) = weights - size * step, tried
        if longest < 1e-6:
            break
    return weights, loss


def _knots(u: NDArray[np.float64], away: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Means of u and |d| over equally full bins of u, monotone, from (0, 0)."""
    order = np.argsort(u)
    bins = np.array_split(order, KNOTS - 1)
    x = np.array([u[one].mean() for one in bins])
    y = [float(away[one].mean()) for one in bins]
    blocks = [[value, 1] for value in y]  # value, how many bins: pool neighbours that fall
    index = 0
    while index < len(blocks) - 1:
        if blocks[index][0] <= blocks[index + 1][0]:
            index += 1
            continue
        (first, many), (second, more) = blocks[index], blocks.pop(index + 1)
        blocks[index] = [(first * many + second * more) / (many + more), many + more]
        index = max(index - 1, 0)
    smooth = np.concatenate([[value] * int(many) for value, many in blocks])
    x = _rising(np.concatenate([[0.0], x]), 1e-4)[1:]
    return ((0.0, 0.0), *((round(float(a), 5), round(float(b), 5)) for a, b in zip(x, smooth, strict=True)))


def _rising(values: F64, least: float) -> F64:
    """Values (n,), each raised to at least the one before plus ``least``."""
    steps = np.arange(len(values)) * least
    return np.asarray(np.maximum.accumulate(values - steps) + steps)
