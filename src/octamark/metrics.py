"""How far found landmarks lie from the truth: NME, failure rate, AUC, CED, eye opening, and intervals for them all.

Errors are fractions of a normalising distance (0.03 is 3 %). A truth of NaN is a point without a label and counts for
nothing; a found NaN is a face that the detector missed: it has no error, fails at every threshold and adds nothing to
the area under the curve. Sums are taken in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]

OWN_BOX_NORMALISERS = ("face-box", "face-diagonal")
"""Normalisers that need the data set's own face boxes: root of the area, and diagonal."""


def normaliser_names(layout: Layout) -> list[str]:
    """Every name that :func:`distances` takes for a layout."""
    return [*layout.normalisers, "box", "diagonal", *OWN_BOX_NORMALISERS]


def distances(truth: Floats, layout: Layout, normaliser: str, boxes: Floats | None = None) -> F64:
    """The normalising distance of each face, in pixels.

    Args:
        truth: (n, M, 2) labels; NaN where a point has none.
        normaliser: a point pair of the layout (``inter-ocular``, ``inter-pupil``), ``box`` or ``diagonal`` of the tight
            box around the labelled points, ``face-box`` or ``face-diagonal`` of the set's own face box.
        boxes: (n, 4) the set's own face boxes, xyxy, NaN where there is none; for the last two.

    Returns:
        (n,) distances; NaN for a face that lacks what the normaliser needs, or whose distance is 0.

    Raises:
        LayoutError: unknown normaliser; the message lists the names.
    """
    truth = np.asarray(truth, np.float64)
    if normaliser in OWN_BOX_NORMALISERS:
        sides = np.full((len(truth), 2), np.nan) if boxes is None else np.asarray(boxes, np.float64)
        sides = sides if boxes is None else np.clip(sides[:, 2:] - sides[:, :2], 0.0, None)
        found = np.sqrt(sides.prod(axis=1)) if normaliser == "face-box" else np.linalg.norm(sides, axis=1)
    else:
        found = layout.distance(truth, normaliser)
    return np.where(found > 0, found, np.nan)


def usual_normaliser(layout: Layout) -> str:
    """What errors are divided by unless somebody says: ``inter-ocular`` where the layout has it, or else ``box``."""
    return "inter-ocular" if "inter-ocular" in layout.normalisers else "box"


def point_errors(found: Floats, truth: Floats) -> F64:
    """Distance of each point from its truth: two (n, M, 2) -> (n, M), in their unit; NaN where either is NaN."""
    return np.asarray(np.linalg.norm(np.asarray(found, np.float64) - np.asarray(truth, np.float64), axis=-1))


def _mean_known(values: F64) -> F64:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan))


def nme(
    found: Floats,
    truth: Floats,
    layout: Layout,
    normaliser: str | None = None,
    *,
    boxes: Floats | None = None,
    points: Iterable[int] | None = None,
) -> F64:
    """Normalised mean error of each face: mean point-to-point distance over the truth's normalising distance.

    Args:
        found, truth: (n, M, 2) points in the same pixels.
        normaliser, boxes: see :func:`distances`; None is :func:`usual_normaliser`.
        points: indices to take the mean over; all by default. The normaliser is the whole face's.

    Returns:
        (n,) fractions; NaN for a face that was not found or cannot be normalised.
    """
    apart = point_errors(found, truth)
    chosen = apart if points is None else apart[:, list(points)]
    return _mean_known(chosen) / distances(truth, layout, normaliser or usual_normaliser(layout), boxes)


def part_nme(
    found: Floats, truth: Floats, layout: Layout, normaliser: str | None = None, *, boxes: Floats | None = None
) -> dict[str, F64]:
    """:func:`nme` of each group of parts (outline, brows, eyes, nose, mouth; see ``Layout.groups``)."""
    apart = point_errors(found, truth)
    distance = distances(truth, layout, normaliser or usual_normaliser(layout), boxes)
    return {name: _mean_known(apart[:, list(points)]) / distance for name, points in layout.groups.items()}


def failures(errors: Floats, threshold: float = 0.08) -> F64:
    """1.0 for each face whose error (n,) is above the threshold, or that was not found (NaN); else 0.0."""
    return np.asarray(~(np.asarray(errors, np.float64) <= threshold), np.float64)


def failure_rate(errors: Floats, threshold: float = 0.08) -> float:
    """Share of faces whose error (n,) is above the threshold; a face not found (NaN) is a failure."""
    return float(failures(errors, threshold).mean())


def areas(errors: Floats, threshold: float = 0.08) -> F64:
    """Each face's share in the area under the cumulative error curve: 1 - error / threshold, not below 0; (n,)."""
    left = 1 - np.asarray(errors, np.float64) / threshold
    return np.where(np.isfinite(left), np.clip(left, 0.0, None), 0.0)


def auc(errors: Floats, threshold: float = 0.08) -> float:
    """Area under the stepwise cumulative error curve from 0 to the threshold, over the threshold; exact, no bins.

    A face of error e lifts the curve by 1/n from e on, so the area is the mean of max(0, 1 - e / threshold).
    """
    return float(areas(errors, threshold).mean())


def ced(errors: Floats) -> tuple[F64, F64]:
    """The cumulative error distribution as a staircase.

    Returns:
        Sorted errors of the k faces found, and the share of all n faces at or below each: two (k,).
    """
    values = np.asarray(errors, np.float64)
    found = np.sort(values[np.isfinite(values)])
    return found, np.arange(1, len(found) + 1) / len(values)


def eye_opening_error(found: Floats, truth: Floats, layout: Layout) -> F64:
    """Mean over the eyes of |found opening - true opening|, (n,); NaN for a layout without lids."""
    return _mean_known(np.abs(layout.eye_opening(found) - layout.eye_opening(truth)))


@dataclass(frozen=True)
class Estimate:
    """A mean over faces with the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def estimate(values: Floats, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of per-face values (n,) and its 95 % percentile interval under resampling of faces; NaN values are left out.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, chapter 13. The seed is fixed, so that the
    same predictions give the same interval, and intervals of two detectors on one set rest on the same resamples.
    """
    given = np.asarray(values, np.float64)
    known = np.isfinite(given)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan)
    sums, sizes = np.concatenate([
        counts @ np.stack([np.where(known, given, 0.0), known], axis=1)
        for counts in _resamples(len(given), resamples, seed)
    ]).T  # fmt: skip
    if not (sizes > 0).any():  # so few faces are known that no resample drew one
        return Estimate(float(given[known].mean()), np.nan, np.nan)
    low, high = np.quantile(sums[sizes > 0] / sizes[sizes > 0], [0.025, 0.975])
    return Estimate(float(given[known].mean()), float(low), float(high))


def _resamples(count: int, resamples: int, seed: int) -> Iterator[F64]:
    """How often each face is drawn in each resample, (<= 2 M values / count, count) at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // count)
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, count, (min(rows, resamples - start), count))
        yield np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def paired_difference(first: Floats, second: Floats) -> Estimate:
    """Mean of second - first over the faces that both have, with its interval; two (n,) in one order."""
    return estimate(np.asarray(second, np.float64) - np.asarray(first, np.float64))
