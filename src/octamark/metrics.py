"""Errors of predicted landmarks: NME, failure rate, AUC, CED, eye opening, each with a bootstrap interval; jitter, lag.

Errors are fractions of a normalising distance (0.03 is 3 %). Points whose label is NaN are not scored. A face whose
predicted points are all NaN was not found: it has no error, fails at every threshold and adds nothing to the area under
the curve. Sums are taken in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]

OWN_BOX_NORMALISERS = ("face-box", "face-diagonal")
"""Normalisers that need the data set's own face boxes: root of the area, and diagonal."""


def normaliser_names(layout: Layout) -> list[str]:
    """All normalisers that ``distances`` accepts for a layout."""
    return [*layout.normalisers, "box", "diagonal", *OWN_BOX_NORMALISERS]


def distances(truth: Floats, layout: Layout, normaliser: str, boxes: Floats | None = None) -> F64:
    """The normalising distance of each face, in pixels.

    Args:
        truth: (n, M, 2) labels; NaN where a point has none.
        layout: of the points.
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
        lengths = np.sqrt(sides.prod(axis=1)) if normaliser == "face-box" else np.linalg.norm(sides, axis=1)
    else:
        lengths = layout.distance(truth, normaliser)
    return np.where(lengths > 0, lengths, np.nan)


def usual_normaliser(layout: Layout) -> str:
    """The default normaliser: ``inter-ocular`` if the layout has it, otherwise ``box``."""
    return "inter-ocular" if "inter-ocular" in layout.normalisers else "box"


def point_errors(predicted: Floats, truth: Floats) -> F64:
    """Distance of each predicted point from its label: two (n, M, 2) -> (n, M), same unit; NaN where either is NaN."""
    return np.asarray(np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1))


def _mean_known(values: F64) -> F64:
    """Mean over the last axis without NaN values; NaN if all are NaN."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan))


def nme(
    predicted: Floats,
    truth: Floats,
    layout: Layout,
    normaliser: str | None = None,
    *,
    boxes: Floats | None = None,
    points: Iterable[int] | None = None,
) -> F64:
    """Normalised mean error of each face: mean error of its labelled points over its normalising distance.

    Args:
        predicted, truth: (n, M, 2) points in the same pixels; NaN in ``truth`` where a point has no label.
        layout: of the points.
        normaliser, boxes: see ``distances``; None is ``usual_normaliser``.
        points: indices of the points to average; all by default. The normaliser is that of the whole face.

    Returns:
        (n,) fractions; NaN for a face that was not found, has no labels or cannot be normalised.
    """
    errors = point_errors(predicted, truth)
    chosen = errors if points is None else errors[:, list(points)]
    return _mean_known(chosen) / distances(truth, layout, normaliser or usual_normaliser(layout), boxes)


def part_nme(
    predicted: Floats, truth: Floats, layout: Layout, normaliser: str | None = None, *, boxes: Floats | None = None
) -> dict[str, F64]:
    """Group of parts (outline, brows, eyes, nose, mouth; see ``Layout.groups``) -> its ``nme`` (n,)."""
    errors = point_errors(predicted, truth)
    distance = distances(truth, layout, normaliser or usual_normaliser(layout), boxes)
    return {name: _mean_known(errors[:, list(points)]) / distance for name, points in layout.groups.items()}


def failures(errors: Floats, threshold: float = 0.08) -> F64:
    """Per face 1.0 if its error is above the threshold or NaN (not found), else 0.0: (n,) -> (n,)."""
    return np.asarray(~(np.asarray(errors, np.float64) <= threshold), np.float64)


def failure_rate(errors: Floats, threshold: float = 0.08) -> float:
    """Share of faces whose error (n,) is above the threshold; a face not found (NaN) is a failure."""
    return float(failures(errors, threshold).mean())


def areas(errors: Floats, threshold: float = 0.08) -> F64:
    """Each face's contribution to ``auc``, max(0, 1 - error / threshold), 0 for NaN: (n,) -> (n,)."""
    contributions = 1 - np.asarray(errors, np.float64) / threshold
    return np.where(np.isfinite(contributions), np.clip(contributions, 0.0, None), 0.0)


def auc(errors: Floats, threshold: float = 0.08) -> float:
    """Area under the cumulative error curve from 0 to the threshold, divided by the threshold; exact, without bins.

    A face of error e lifts the curve by 1/n from e on, so the area is the mean of max(0, 1 - e / threshold).
    """
    return float(areas(errors, threshold).mean())


def ced(errors: Floats) -> tuple[F64, F64]:
    """The cumulative error distribution as a step function.

    Returns:
        Sorted errors of the k faces found, and the share of all n faces at or below each: two (k,).
    """
    values = np.asarray(errors, np.float64)
    known = np.sort(values[np.isfinite(values)])
    return known, np.arange(1, len(known) + 1) / len(values)


def eye_opening_error(predicted: Floats, truth: Floats, layout: Layout) -> F64:
    """Mean over the eyes of |predicted opening - true opening|, (n,); NaN without labels of lids and corners."""
    return _mean_known(np.abs(layout.eye_opening(predicted) - layout.eye_opening(truth)))


OPENINGS = {"shut": (0.0, 0.1), "narrow": (0.1, 0.2), "normal": (0.2, 0.45), "wide": (0.45, np.inf)}
"""Kinds of eyes by their true opening (``Layout.eye_opening``), from the first limit to below the second.

Of the 3,616 labelled eyes of the 1,808 training faces of 300W, 2.6 % are shut, 5.6 % narrow, 84.8 % normal and 6.9 %
wide: 0.1 lies between the two peaks of their distribution, and about as many lie above 0.45 as below 0.2.
"""


class OpeningErrors(NamedTuple):
    """Errors of the opening of eyes of one kind.

    Attributes:
        eyes: number of eyes.
        signed: (n,) predicted less true opening of each face, the mean of its eyes of that kind; NaN for a face
            without any. Above 0: read too open.
        absolute: (n,) mean of the absolute values, NaN likewise.
    """

    eyes: int
    signed: F64
    absolute: F64


def eye_opening_errors(predicted: Floats, truth: Floats, layout: Layout) -> dict[str, OpeningErrors]:
    """Kind of ``OPENINGS`` -> the errors of the opening of the eyes of that kind.

    An eye counts where its opening is known: lids and corners have labels, and the face was found. The width of an eye
    shrinks as the head turns, its height does not: openings of profiles are larger than those of frontal faces.

    Args:
        predicted, truth: (n, M, 2) points in the same pixels; NaN in ``truth`` where a point has no label.
        layout: of the points; without lids no eye counts.
    """
    openings = layout.eye_opening(truth)
    errors = layout.eye_opening(predicted) - openings  # n, E
    kinds = {}
    for kind, (low, high) in OPENINGS.items():
        inside = (openings >= low) & (openings < high) & np.isfinite(errors)
        chosen = np.where(inside, errors, np.nan)
        kinds[kind] = OpeningErrors(int(inside.sum()), _mean_known(chosen), _mean_known(np.abs(chosen)))
    return kinds


def jitter(points: Floats, still: NDArray[np.bool_] | None = None) -> float:
    """Jitter of points over time: root mean square second difference of their positions, in their unit per frame^2.

    Args:
        points: (T, ..., 2) positions in successive frames of equal distance in time; NaN where a point is missing.
        still: (T, ...) whether a point truly rests; second differences count where it does in all three frames. All by
            default.

    Returns:
        A length; NaN if no second difference counts. White noise of standard deviation s per axis gives sqrt(12) s.
    """
    values = np.asarray(points, np.float64)
    squares = (np.diff(values, n=2, axis=0) ** 2).sum(axis=-1)
    if still is not None:
        rests = np.asarray(still, bool)
        squares = np.where(rests[:-2] & rests[1:-1] & rests[2:], squares, np.nan)
    known = squares[np.isfinite(squares)]
    return float(np.sqrt(known.mean())) if len(known) else float("nan")


def lag(points: Floats, truth: Floats, longest: int = 5) -> float:
    """Lag of points behind their truth, in frames: the delay of the truth that fits them best; negative is ahead.

    For each whole delay the mean square of the difference of their velocities is taken; a parabola through the least of
    these and its neighbours gives the fraction. Velocities, because a constant error of a point is no lag.

    Args:
        points, truth: (T, ..., 2) positions in successive frames of equal distance in time; NaN where missing.
        longest: delays from -longest to longest frames are tried.

    Returns:
        Frames; NaN if the truth does not move, or if fewer than ``2 * longest + 3`` frames are given.

    Source: sub-sample delay by a parabola through the least squared difference (I. Cespedes et al., Methods for
    Estimation of Subsample Time Delays of Digitized Echo Signals, 1995).
    """
    velocity, true_velocity = (np.diff(np.asarray(values, np.float64), axis=0) for values in (points, truth))
    count = len(velocity)
    if count < 2 * longest + 2 or not np.nanmax(np.abs(true_velocity), initial=0.0) > 0:
        return float("nan")
    middle = velocity[longest : count - longest]
    delays = range(-longest, longest + 1)
    costs = np.array(
        [float(np.nanmean((middle - true_velocity[longest - d : count - longest - d]) ** 2)) for d in delays]
    )
    best = int(np.clip(np.argmin(costs), 1, 2 * longest - 1))
    before, least, after = costs[best - 1 : best + 2]
    bend = before - 2 * least + after
    return best - longest + (0.5 * (before - after) / bend if bend > 0 else 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over faces with the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def estimate(values: Floats, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of per-face values (n,) with its 95 % percentile interval under resampling of faces; NaN is left out.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, chapter 13. The seed is fixed, so the same
    predictions give the same interval, and the intervals of two models on one set use the same resamples.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan)
    sums, sizes = np.concatenate([
        counts @ np.stack([np.where(known, values, 0.0), known], axis=1)
        for counts in _resamples(len(values), resamples, seed)
    ]).T  # fmt: skip
    if not (sizes > 0).any():  # so few values are known that no resample drew one
        return Estimate(float(values[known].mean()), np.nan, np.nan)
    low, high = np.quantile(sums[sizes > 0] / sizes[sizes > 0], [0.025, 0.975])
    return Estimate(float(values[known].mean()), float(low), float(high))


def _resamples(count: int, resamples: int, seed: int) -> Iterator[F64]:
    """How often each face is drawn in each resample: blocks of (rows, count), of about 2 million values."""
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // count)
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, count, (min(rows, resamples - start), count))
        yield np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def paired_difference(first: Floats, second: Floats) -> Estimate:
    """Mean of second - first over the faces where both are known, with its interval; two (n,) in the same order."""
    return estimate(np.asarray(second, np.float64) - np.asarray(first, np.float64))
