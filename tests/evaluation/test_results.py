"""A result's figures, worked out by hand or against the metrics themselves."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation_fixtures import IBUG, bare_samples, result_of, truth_of
from octamark import metrics, uncertainty
from octamark.errors import DataError
from octamark.evaluation.results import Scores, difference
from octamark.evaluation.run import Predictions
from octamark.models.calibration import Calibration

NAN = float("nan")


def off_by(samples: list, *shares: float) -> Predictions:
    """Each face moved right by a share of its inter-ocular distance; NaN: not found."""
    truth = truth_of(samples)
    eyes = IBUG.distance(truth, "inter-ocular")
    return Predictions((truth + np.array(shares)[:, None, None] * eyes[:, None, None] * (1, 0)).astype(np.float32))


def test_a_summary_by_hand() -> None:
    samples = bare_samples(5)
    summary = result_of(samples, off_by(samples, 0.02, 0.04, 0.09, 0.12, NAN)).summary()
    assert (summary["faces"], summary["faces_not_found"], summary["faces_not_scored"]) == (5, 1, 0)
    assert summary["nme_percent"]["value"] == pytest.approx((2 + 4 + 9 + 12) / 4, rel=1e-4)
    assert summary["nme_percent_median"] == pytest.approx(6.5, rel=1e-4)
    assert summary["failure_rate_percent"]["8%"]["value"] == pytest.approx(60)
    assert summary["failure_rate_percent"]["10%"]["value"] == pytest.approx(40)
    assert summary["auc"]["8%"]["value"] == pytest.approx((6 + 4) / 40, rel=1e-4)
    assert summary["auc"]["10%"]["value"] == pytest.approx((8 + 6 + 1) / 50, rel=1e-3)
    assert {part: round(one["value"], 3) for part, one in summary["part_nme_percent"].items()} == dict.fromkeys(
        IBUG.groups, 6.75
    )
    assert summary["eye_opening_error"]["value"] == pytest.approx(0, abs=1e-4)
    assert (summary["set"], summary["model"], summary["normaliser"], summary["layout"]) == (
        "drawn", "hand", "inter-ocular", "ibug68",
    )  # fmt: skip
    assert "reliability" not in summary
    for name in ("nme_percent", "eye_opening_error"):
        assert summary[name]["low"] <= summary[name]["value"] <= summary[name]["high"]


def test_faces_that_cannot_be_normalised_are_in_no_figure() -> None:
    samples = bare_samples(4)
    hidden = samples[1].landmarks.copy()
    hidden[36] = NAN
    samples[1] = replace(samples[1], landmarks=hidden)
    found = off_by(bare_samples(4), 0.02, 0.5, NAN, 0.04)
    result = result_of(samples, found)
    summary = result.summary()
    assert result.scored.tolist() == [True, False, True, True]
    assert (summary["faces"], summary["faces_not_found"], summary["faces_not_scored"]) == (3, 1, 1)
    assert summary["nme_percent"]["value"] == pytest.approx(3, rel=1e-4)
    assert summary["failure_rate_percent"]["8%"]["value"] == pytest.approx(100 / 3)
    assert summary["part_nme_percent"]["mouth"]["value"] == pytest.approx(3, rel=1e-4)
    assert set(result.scores.nme) == {"set/0", "set/2", "set/3"}
    rows = result.rows()
    assert [row["scored"] for row in rows] == [1, 0, 1, 1]
    assert [row["nme_percent"] for row in rows][1:3] == ["", ""]
    by_box = result_of(samples, found, normaliser="box")
    assert by_box.summary()["faces_not_scored"] == 0


def test_a_set_without_boxes_cannot_be_normalised_by_them() -> None:
    samples = bare_samples(2)
    with pytest.raises(
        DataError,
        match="drawn: no face has the labels that normaliser face-box needs; normalisers that work here: inter-",
    ):
        result_of(samples, off_by(samples, 0, 0), normaliser="face-box").summary()
    boxed = [replace(samples[0], box=np.array([0, 0, 40, 90], np.float32)), samples[1]]
    result = result_of(boxed, off_by(samples, 0.1, 0.1), normaliser="face-box")
    assert result.scored.tolist() == [True, False]
    eyes = IBUG.distance(samples[0].landmarks, "inter-ocular")
    assert result.nme[0] == pytest.approx(0.1 * eyes / 60, rel=1e-4)


def test_nobody_found() -> None:
    samples = bare_samples(3)
    summary = result_of(samples, off_by(samples, NAN, NAN, NAN)).summary()
    assert summary["faces_not_found"] == 3
    assert math.isnan(summary["nme_percent"]["value"])
    assert summary["failure_rate_percent"]["8%"]["value"] == 100
    assert summary["auc"]["8%"]["value"] == 0


def test_subsets() -> None:
    samples = bare_samples(4)
    samples[0] = replace(samples[0], subsets=frozenset(["pose"]))
    samples[2] = replace(samples[2], subsets=frozenset(["pose", "blur"]))
    summary = result_of(samples, off_by(samples, 0.02, 0.3, 0.06, 0.3)).summary()
    subsets = summary["subset_nme_percent"]
    assert set(subsets) == {"pose", "blur"}
    assert (subsets["pose"]["faces"], subsets["blur"]["faces"]) == (2, 1)
    assert subsets["pose"]["value"] == pytest.approx(4, rel=1e-4)
    assert subsets["blur"]["value"] == pytest.approx(6, rel=1e-4)


def calibrated(count: int = 200, seed: int = 0) -> tuple[list, Predictions, Calibration]:
    """Predictions whose errors follow their spreads, and whose confidence is the true probability."""
    samples = bare_samples(count)
    truth = truth_of(samples).astype(np.float64)
    rng = np.random.default_rng(seed)
    calibration = Calibration.identity(68)
    spread = np.exp(rng.normal(0.8, 0.4, (count, 1, 1)) + rng.normal(0, 0.4, (count, 68, 1))) * np.ones(2)
    found = truth + rng.laplace(0, spread)
    radius = 0.05 * IBUG.distance(truth, "inter-ocular")[:, None]
    confidence = calibration.within(spread, radius)
    arrays = (one.astype(np.float32) for one in (found, spread, confidence))
    return samples, Predictions(*arrays), calibration


def test_honest_spreads_pass_every_check() -> None:
    samples, given, calibration = calibrated()
    result = replace(result_of(samples, given), calibration=calibration)
    reliability = result.summary()["reliability"]
    for share, real in reliability["coverage_percent"].items():
        assert real == pytest.approx(float(share.rstrip("%")), abs=2)
    assert list(reliability["coverage_percent"]) == ["50%", "90%", "95%"]
    assert reliability["confidence_calibration_error"] < 0.02
    assert reliability["confidence_mean"] == pytest.approx(reliability["points_within_5_percent"], abs=0.02)
    assert reliability["spearman_per_point"] > 0.4
    assert reliability["spearman_per_picture"] > 0.8
    assert reliability["pictures_over_8_percent"] == int((result.nme > 0.08).sum())
    boastful = replace(given, spread=given.spread / 2)  # type: ignore[operator]
    worse = replace(result, predictions=boastful).summary()["reliability"]
    assert worse["coverage_percent"]["90%"] < 75
    assert worse["log_likelihood_per_axis"] < reliability["log_likelihood_per_axis"]
    assert worse["spearman_per_point"] == pytest.approx(reliability["spearman_per_point"])  # ranks know no scale


def test_reliability_is_in_units_of_the_normaliser() -> None:
    """Against the plain functions on a flat list of points; hidden points and faces not found are left out."""
    samples, given, calibration = calibrated(6)
    hidden = samples[1].landmarks.copy()
    hidden[5:9] = NAN
    samples[1] = replace(samples[1], landmarks=hidden)
    landmarks = given.landmarks.copy()
    landmarks[3] = NAN
    given = replace(given, landmarks=landmarks)
    reliability = replace(result_of(samples, given), calibration=calibration).reliability
    assert reliability is not None
    assert len(reliability.errors) == len(reliability.spread) == len(reliability.hit) == 5 * 68 - 4
    errors, spread, inside, covered = [], [], [], []
    for index, sample in enumerate(samples):
        eyes = float(np.linalg.norm(sample.landmarks[36] - sample.landmarks[45]))
        for point in range(68):
            away = float(np.linalg.norm(given.landmarks[index, point] - sample.landmarks[point]))
            if away == away:
                both = math.sqrt(float((given.spread[index, point] ** 2).mean()))  # type: ignore[index]
                errors.append(away / eyes)
                spread.append(both / eyes)
                inside.append(away < 0.05 * eyes)
                covered.append(away <= calibration.radius(given.spread[index, point], 0.9))  # type: ignore[index]
    np.testing.assert_allclose(reliability.errors, errors, rtol=1e-4)
    np.testing.assert_allclose(reliability.spread, spread, rtol=1e-4)
    np.testing.assert_array_equal(reliability.hit, inside)
    assert reliability.covered[0.9] == pytest.approx(np.mean(covered))
    assert reliability.summary()["spearman_per_point"] == pytest.approx(
        uncertainty.spearman(np.array(spread), np.array(errors))
    )


def test_hits_are_of_the_eyes_whatever_the_normaliser() -> None:
    samples, given, _ = calibrated(5)
    first, second = (result_of(samples, given, normaliser=name).reliability for name in ("inter-ocular", "box"))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.hit, second.hit)
    assert (first.errors > 1.2 * second.errors).all()


def test_reliability_of_odd_predictions() -> None:
    """Perfect points, spreads of 0: figures or nothing, never a crash."""
    samples = bare_samples(3)
    truth = truth_of(samples)
    perfect = result_of(samples, Predictions(truth, np.ones_like(truth), np.ones((3, 68), np.float32)))
    reliability = perfect.summary()["reliability"]
    assert reliability["ause_per_point"] == 0
    assert reliability["confidence_calibration_error"] == 0
    assert reliability["coverage_percent"] == {}  # a file brings no calibration
    silent = Predictions(truth, np.zeros_like(truth))
    assert result_of(samples, silent).reliability is None
    half = np.ones_like(truth)
    half[:, :10, 0] = 0  # no density has a spread of 0: such points are left out
    kept = result_of(samples, Predictions(truth, half)).reliability
    assert kept is not None
    assert len(kept.errors) == 3 * 58
    assert math.isfinite(kept.summary()["log_likelihood_per_axis"])


def test_rows_hold_each_face() -> None:
    samples, given, calibration = calibrated(3)
    landmarks = given.landmarks.copy()
    landmarks[1] = NAN
    result = replace(result_of(samples, replace(given, landmarks=landmarks)), calibration=calibration)
    rows = result.rows()
    assert [row["name"] for row in rows] == ["set/0", "set/1", "set/2"]
    assert [row["found"] for row in rows] == [1, 0, 1]
    assert rows[1]["nme_percent"] == rows[1]["eyes_nme_percent"] == rows[1]["eye_opening_error"] == ""
    assert rows[0]["nme_percent"] == pytest.approx(result.nme[0] * 100, abs=1e-6)
    parts = metrics.part_nme(landmarks, truth_of(samples), IBUG)
    assert rows[2]["mouth_nme_percent"] == pytest.approx(parts["mouth"][2] * 100, abs=1e-5)
    assert rows[0]["mean_confidence"] == pytest.approx(float(given.confidence[0].mean()), abs=1e-5)  # type: ignore[index]
    assert rows[0]["expected_nme_percent"] > 0
    json.dumps(rows)


def scores(label: str, normaliser: str = "inter-ocular", **nme: float) -> Scores:
    return Scores(label, "drawn all", "boxes unknown", normaliser, nme)


def test_a_difference_by_hand() -> None:
    first = scores("A", a=0.02, b=0.09, c=NAN, d=0.04)
    second = scores("B", d=0.05, c=0.03, b=0.05, a=0.02)  # another order
    found = difference(first, second)
    (nme_name, fails_name) = found
    assert nme_name == "NME, %, 3 faces that both found"
    assert found[nme_name].value == pytest.approx((0 - 4 + 1) / 3)
    assert fails_name == "failures at 8 %, %, 4 faces"
    assert found[fails_name].value == pytest.approx(-50)
    same = difference(first, first)
    assert [(one.value, one.low, one.high) for one in same.values()] == [(0, 0, 0), (0, 0, 0)]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="A was normalised by inter-ocular, B by box: not comparable"):
        difference(scores("A", a=0.1), scores("B", "box", a=0.1))
    with pytest.raises(DataError, match=r"A and B were scored on different faces: only one has b, c \(2 such faces\)"):
        difference(scores("A", a=0.1, b=0.2), scores("B", a=0.1, c=0.2))


def test_confidence_counts_only_where_its_distance_is_known() -> None:
    """Eyes without labels leave the normaliser box, and nothing to measure the confidence by."""
    samples = bare_samples(4)
    truth = truth_of(samples)
    truth[0, 36] = NAN
    blind = [replace(sample, landmarks=points) for sample, points in zip(samples, truth, strict=True)]
    certain = np.ones(truth.shape[:2], np.float32)
    given = Predictions(truth_of(samples), np.full(truth.shape, 0.5, np.float32), certain)
    reliability = result_of(blind, given, normaliser="box").reliability
    assert reliability is not None
    assert reliability.confidence is not None
    assert len(reliability.confidence) == len(reliability.hit) == 3 * 68
    assert reliability.hit.all()
    nobody = [replace(one, landmarks=np.where(np.arange(68)[:, None] == 36, NAN, one.landmarks)) for one in samples]
    lost = result_of(nobody, given, normaliser="box").reliability
    assert lost is not None
    assert "confidence_mean" not in lost.summary()


def test_visible_against_labels_by_hand() -> None:
    """Over the labelled points of found faces whose labels say what is hidden."""
    samples = bare_samples(4)
    hidden = np.arange(68) < 20
    hidden_too = np.arange(68) < 10
    truth = truth_of(samples)
    truth[0, 67] = NAN
    labelled = [
        replace(samples[0], landmarks=truth[0], occluded=hidden),
        replace(samples[1], occluded=hidden_too),
        samples[2],  # does not say it
        replace(samples[3], occluded=hidden),  # not found
    ]
    visible = np.where(np.stack([hidden, hidden_too, hidden, hidden]), 0.1, 0.8).astype(np.float32)
    visible[0, 0], visible[3] = 0.8, NAN
    found = replace(off_by(samples, 0, 0, 0, NAN), visible=visible)
    summary = result_of(labelled, found).summary()
    figures = summary["visibility"]
    assert (figures["points"], figures["points_hidden"]) == (67 + 68, 30)
    assert figures["auroc"] == pytest.approx((29 + 0.5) / 30)
    low, high = 29, 67 + 68 - 29  # of the points at 0.1, none can be seen; at 0.8, all but one
    expected = (low * 0.1 + high * abs((high - 1) / high - 0.8)) / (low + high)
    assert figures["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert json.loads(json.dumps(figures)) == figures


def test_visible_is_scored_only_where_both_know_it() -> None:
    samples = bare_samples(2)
    found = off_by(samples, 0, 0)
    told = replace(found, visible=np.full((2, 68), 0.7, np.float32))
    labelled = [replace(sample, occluded=np.zeros(68, bool)) for sample in samples]
    assert "visibility" not in result_of(labelled, found).summary()
    assert "visibility" not in result_of(samples, told).summary()
    figures = result_of(labelled, told).summary()["visibility"]
    assert math.isnan(figures["auroc"])
    assert figures["calibration_error"] == pytest.approx(0.3, abs=1e-6)


def test_mean_confidence_of_a_row_counts_by_visible() -> None:
    samples = bare_samples(1)
    confidence = np.where(np.arange(68) < 34, 0.1, 0.9)[None].astype(np.float32)
    found = replace(off_by(samples, 0), confidence=confidence, visible=np.round(confidence).astype(np.float32))
    assert result_of(samples, found).rows()[0]["mean_confidence"] == pytest.approx(0.9)
    assert result_of(samples, replace(found, visible=None)).rows()[0]["mean_confidence"] == pytest.approx(0.5)
    assert result_of(samples, found).predictions.take(np.array([True])).visible is not None
