"""Scores of predictions on a set: figures with intervals, and a row for every face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octamark import metrics, uncertainty
from octamark.datasets import Sample
from octamark.errors import DataError, listed
from octamark.evaluation.run import Predictions
from octamark.faces import mean_confidence
from octamark.layouts import CONFIDENCE_SHARE, Layout
from octamark.metrics import Estimate, estimate
from octamark.models.calibration import Calibration, root_mean_square

F64 = NDArray[np.float64]

THRESHOLDS = (0.08, 0.10)
"""NME above which a face is a failure, and up to which the area under the curve is taken."""

SHARES = (0.50, 0.90, 0.95)
"""Nominal coverages of the regions around the points that are checked."""


@dataclass(frozen=True)
class About:
    """What was scored, and how. Every figure is printed with it.

    Attributes:
        set, split: of the faces.
        model: name of the model, or of the file of predictions.
        boxes: how faces were found.
        normaliser: what errors are divided by, see ``octamark.metrics.normaliser_names``.
        layout: of the points that were compared.
        approximate: whether points were converted to this layout from places that differ a little.
    """

    set: str
    split: str
    model: str
    boxes: str
    normaliser: str
    layout: Layout
    approximate: bool = False


@dataclass(frozen=True, eq=False)
class Result:
    """Predictions compared with labels.

    Attributes:
        about: what was scored, and how.
        samples: the n labelled faces.
        predictions: for the same faces, in the same layout.
        calibration: of the model, to check the coverage of its regions; None for a file of predictions.
    """

    about: About
    samples: Sequence[Sample]
    predictions: Predictions
    calibration: Calibration | None = None

    @cached_property
    def truth(self) -> F64:
        """(n, M, 2) labels, pixels; NaN where a point has none."""
        return np.stack([sample.landmarks for sample in self.samples]).astype(np.float64)

    @cached_property
    def _boxes(self) -> F64:
        none = np.full(4, np.nan)
        return np.stack([none if sample.box is None else sample.box for sample in self.samples]).astype(np.float64)

    @cached_property
    def distances(self) -> F64:
        """(n,) normalising distances, pixels; NaN for a face without the labels that the normaliser needs.

        Raises:
            DataError: no face has them; the message lists the normalisers that would work.
        """

        def lengths(normaliser: str) -> F64:
            return metrics.distances(self.truth, self.about.layout, normaliser, self._boxes)

        distances = lengths(self.about.normaliser)
        if not np.isfinite(distances).any():
            names = metrics.normaliser_names(self.about.layout)
            usable = [name for name in names if np.isfinite(lengths(name)).any()]
            raise DataError(
                f"{self.about.set}: no face has the labels that normaliser {self.about.normaliser} needs; normalisers "
                f"that work here: {listed(usable) or 'none'}"
            )
        return distances

    def check(self) -> None:
        """Check that a face can be scored, before a model runs.

        Raises:
            DataError: as ``distances``.
        """
        _ = self.distances

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """(n,) whether a face can be normalised; other faces do not count."""
        return np.isfinite(self.distances)

    @cached_property
    def nme(self) -> F64:
        """(n,) fractions; NaN for a face not found or not scored."""
        layout, normaliser = self.about.layout, self.about.normaliser
        return metrics.nme(self.predictions.landmarks, self.truth, layout, normaliser, boxes=self._boxes)

    @cached_property
    def parts(self) -> dict[str, F64]:
        """Group of parts -> its ``nme`` (n,)."""
        layout, normaliser = self.about.layout, self.about.normaliser
        return metrics.part_nme(self.predictions.landmarks, self.truth, layout, normaliser, boxes=self._boxes)

    @cached_property
    def eyes(self) -> F64:
        """(n,) error of the eye opening (distance of the lids over the eye's width), see octamark.metrics."""
        return metrics.eye_opening_error(self.predictions.landmarks, self.truth, self.about.layout)

    @cached_property
    def subsets(self) -> dict[str, NDArray[np.bool_]]:
        """Subset -> (n,) whether a face belongs to it; empty for a set without subsets."""
        names = sorted({name for sample in self.samples for name in sample.subsets})
        return {name: np.array([name in sample.subsets for sample in self.samples]) for name in names}

    @cached_property
    def reliability(self) -> Reliability | None:
        """How well the spread fits the errors; None for predictions without spread."""
        if self.predictions.spread is None or not (self.scored & self.predictions.found).any():
            return None
        reliability = Reliability.of(self)
        return reliability if len(reliability.errors) else None

    @cached_property
    def visibility(self) -> Visibility | None:
        """How well ``visible`` fits the labels; None where the predictions or the labels do not tell it."""
        visible = self.predictions.visible
        if visible is None:
            return None
        hidden = np.array([
            np.full(len(sample.landmarks), np.nan) if sample.occluded is None else sample.occluded
            for sample in self.samples
        ], np.float64)  # fmt: skip
        known = np.isfinite(hidden) & np.isfinite(visible) & np.isfinite(self.truth).all(axis=-1)
        return Visibility(visible[known].astype(np.float64), hidden[known] == 0) if known.any() else None

    @property
    def scores(self) -> Scores:
        """The errors by face name, for comparisons."""
        names = [sample.name for sample in self.samples]
        errors = {names[index]: float(self.nme[index]) for index in np.flatnonzero(self.scored)}
        return Scores(
            self.about.model,
            f"{self.about.set} {self.about.split}".strip(),
            self.about.boxes,
            self.about.normaliser,
            errors,
        )

    def summary(self) -> dict[str, Any]:
        """All figures as plain values: NME and failures in percent, areas in 0..1, each with its 95 % interval."""
        about, errors = self.about, self.nme[self.scored]
        missing = ~self.predictions.found[self.scored]

        def percent(values: F64) -> dict[str, float]:
            return asdict(estimate(values).scaled(100))

        labelled = np.isfinite(self.truth[self.scored]).all(axis=-1)
        summary: dict[str, Any] = {
            **{key: value for key, value in asdict(about).items() if key != "layout"},
            "layout": about.layout.name,
            "faces": len(errors),
            "faces_not_found": int(missing.sum()),
            "faces_not_scored": int((~self.scored).sum()),
            "points": labelled.size,
            "points_without_label": int((~labelled).sum()),
            "nme_percent": percent(errors),
            "nme_percent_median": float(np.nanmedian(errors) * 100) if (~missing).any() else float("nan"),
            "failure_rate_percent": {f"{t:.0%}": percent(metrics.failures(errors, t)) for t in THRESHOLDS},
            "auc": {f"{t:.0%}": asdict(estimate(metrics.areas(errors, t))) for t in THRESHOLDS},
            "part_nme_percent": {name: percent(values[self.scored]) for name, values in self.parts.items()},
        }
        if np.isfinite(self.eyes).any():
            summary["eye_opening_error"] = asdict(estimate(self.eyes[self.scored]))
        if self.subsets:
            summary["subset_nme_percent"] = {
                name: {"faces": int((inside & self.scored).sum()), **percent(self.nme[inside & self.scored])}
                for name, inside in self.subsets.items()
                if (inside & self.scored).any()
            }
        if self.reliability is not None:
            summary["reliability"] = self.reliability.summary()
        if self.visibility is not None:
            summary["visibility"] = self.visibility.summary()
        return summary

    def rows(self) -> list[dict[str, Any]]:
        """One row per face, for tables; unknown values are empty."""

        def number(value: float, digits: int = 6) -> float | str:
            return round(float(value), digits) if np.isfinite(value) else ""

        expected = None if self.reliability is None else self.reliability.expected
        confidence, visible = self.predictions.confidence, self.predictions.visible
        rows = []
        for index, sample in enumerate(self.samples):
            row: dict[str, Any] = {
                "name": sample.name,
                "picture": str(sample.picture),
                "found": int(self.predictions.found[index]),
                "scored": int(self.scored[index]),
                "nme_percent": number(self.nme[index] * 100),
            }
            row |= {f"{part}_nme_percent": number(values[index] * 100) for part, values in self.parts.items()}
            row["eye_opening_error"] = number(self.eyes[index])
            if expected is not None:
                row["expected_nme_percent"] = number(expected[index] * 100)
            if confidence is not None:
                mean = mean_confidence(confidence[index], None if visible is None else visible[index])
                row["mean_confidence"] = number(float(mean))
            rows.append(row)
        return rows


@dataclass(frozen=True, eq=False)
class Reliability:
    """How well spreads and confidences agree with the errors, over the labelled points of the faces that were found.

    Attributes:
        errors, spread: (P,) distance from the truth and root mean square spread, over the normaliser.
        signed, axis_spread: (P, 2) per axis, over the normaliser.
        confidence: (P,) and hit: (P,), whether the point was within 5 % of the inter-ocular distance; or None.
        covered: share -> how often the region of that share held the truth; empty without a calibration.
        expected: (n,) mean spread of each face over the normaliser; NaN for a face not found.
        nme: (n,) of each face, NaN likewise.
    """

    errors: F64
    spread: F64
    signed: F64
    axis_spread: F64
    confidence: F64 | None
    hit: NDArray[np.bool_]
    covered: dict[float, float]
    expected: F64
    nme: F64

    @classmethod
    def of(cls, result: Result) -> Reliability:
        """The reliability of a result, whose predictions must have spreads."""
        predictions, calibration = result.predictions, result.calibration
        assert predictions.spread is not None
        radii = {} if calibration is None else {s: calibration.radius(predictions.spread, s) for s in _LEVELS}
        return cls.measured(
            predictions.landmarks - result.truth,
            predictions.spread,
            result.distances,
            result.about.layout.reference_distance(result.truth),
            predictions.confidence,
            radii,
        )

    @classmethod
    def measured(
        cls,
        errors: NDArray[np.floating],
        spread: NDArray[np.floating],
        unit: F64,
        eyes: F64,
        confidence: NDArray[np.floating] | None,
        radii: Mapping[float, NDArray[np.floating]],
    ) -> Reliability:
        """The reliability of n faces from their errors, all lengths in one unit such as pixels.

        Args:
            errors: (n, M, 2) signed, NaN for a point without a label or a face that was not found.
            spread: (n, M, 2) expected absolute error per axis.
            unit: (n,) normalising distances of the truth.
            eyes: (n,) distances that the confidence refers to, see ``octamark.layouts.Layout.reference_distance``.
            confidence: (n, M), or None from a detector that gives none.
            radii: share -> (n, M) radii of the regions that should hold the truth that often.
        """
        errors, spread = np.asarray(errors, np.float64), np.asarray(spread, np.float64)
        unit = np.asarray(unit, np.float64)[:, None]
        distance, axis_mean = np.linalg.norm(errors, axis=2), root_mean_square(spread)
        usable = np.isfinite(distance) & np.isfinite(axis_mean) & (spread > 0).all(axis=2) & np.isfinite(unit)
        with_eyes = usable & np.isfinite(eyes)[:, None]  # where the confidence's own distance is known
        return cls(
            errors=(distance / unit)[usable],
            spread=(axis_mean / unit)[usable],
            signed=(errors / unit[..., None])[usable],
            axis_spread=(spread / unit[..., None])[usable],
            confidence=None if confidence is None else np.asarray(confidence, np.float64)[with_eyes],
            hit=(distance < CONFIDENCE_SHARE * np.asarray(eyes)[:, None])[with_eyes],
            covered={
                s: uncertainty.coverage(distance[usable], radius[usable]) for s, radius in radii.items() if usable.any()
            },
            expected=(axis_mean / unit).mean(axis=1),
            nme=np.ma.masked_invalid(distance / unit).mean(axis=1).filled(np.nan),
        )

    def summary(self) -> dict[str, Any]:
        """The figures by name; shares in percent where the name says so."""
        known = np.isfinite(self.expected) & np.isfinite(self.nme)
        expected, nme = self.expected[known], self.nme[known]
        figures: dict[str, Any] = {
            "log_likelihood_per_axis": uncertainty.log_likelihood(self.signed, self.axis_spread),
            "coverage_percent": {f"{share:.0%}": self.covered[share] * 100 for share in SHARES if self.covered},
            "spearman_per_point": uncertainty.spearman(self.spread, self.errors),
            "spearman_per_picture": uncertainty.spearman(expected, nme),
            "ause_per_point": uncertainty.ause(self.errors, self.spread),
            "auroc_nme_over_8_percent": uncertainty.auroc(expected, nme > THRESHOLDS[0]),
            "pictures_over_8_percent": int((nme > THRESHOLDS[0]).sum()),
        }
        if self.confidence is not None and len(self.confidence):
            figures["confidence_mean"] = float(self.confidence.mean())
            figures["points_within_5_percent"] = float(self.hit.mean())
            figures["confidence_calibration_error"] = uncertainty.calibration_error(self.confidence, self.hit)
        return figures


@dataclass(frozen=True, eq=False)
class Visibility:
    """How well ``visible`` agrees with labels that say which points are hidden, over the labelled points of the faces
    that were found.

    Attributes:
        visible: (P,) predicted probabilities.
        seen: (P,) whether the label says that the point can be seen.
    """

    visible: F64
    seen: NDArray[np.bool_]

    def summary(self) -> dict[str, Any]:
        """The figures by name. The AUROC is NaN where all points can be seen, or none."""
        return {
            "points": len(self.visible),
            "points_hidden": int((~self.seen).sum()),
            "auroc": uncertainty.auroc(self.visible, self.seen),
            "calibration_error": uncertainty.calibration_error(self.visible, self.seen),
        }


_LEVELS = tuple(sorted({*np.round(np.arange(0.05, 1.0, 0.05), 2).tolist(), *SHARES}))


@dataclass(frozen=True, eq=False)
class Scores:
    """The part of a result that is compared with another one.

    Attributes:
        label: what was scored, as titles and messages name it.
        faces: set and split of the faces.
        boxes: how its faces were found.
        normaliser: of the errors.
        nme: face name -> fraction, NaN for a face that was not found; without faces that cannot be normalised.
    """

    label: str
    faces: str
    boxes: str
    normaliser: str
    nme: dict[str, float]


def difference(first: Scores, second: Scores) -> dict[str, Estimate]:
    """Second minus first, in percentage points: NME over the faces that both found, failures at 8 % over all faces.

    Raises:
        DataError: results for different faces or normalisers.
    """
    if first.normaliser != second.normaliser:
        raise DataError(
            f"{first.label} was normalised by {first.normaliser}, {second.label} by {second.normaliser}: not comparable"
        )
    if unshared := sorted(first.nme.keys() ^ second.nme.keys()):
        raise DataError(
            f"{first.label} and {second.label} were scored on different faces: only one has {listed(unshared[:3])} "
            f"({len(unshared)} such faces)"
        )
    errors = [np.array([scores.nme[name] for name in first.nme]) for scores in (first, second)]
    found_by_both = int(np.isfinite(errors).all(axis=0).sum())
    failures = [metrics.failures(values, THRESHOLDS[0]) for values in errors]
    return {
        f"NME, %, {found_by_both} faces that both found": metrics.paired_difference(*errors).scaled(100),
        f"failures at 8 %, %, {len(first.nme)} faces": metrics.paired_difference(*failures).scaled(100),
    }
