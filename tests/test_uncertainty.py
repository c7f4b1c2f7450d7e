"""The checks of the spread, against scipy, against slow but plain computations and by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from octamark.errors import ConfigError
from octamark.uncertainty import (
    auroc,
    ause,
    calibration_error,
    coverage,
    log_likelihood,
    reliability_curve,
    sparsification,
    spearman,
)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=25))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, float).T
    found = spearman(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_spearman_by_hand() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 4000])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(1 - 6 * 4 / (4 * 15))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=25))
def test_auroc_is_the_share_of_pairs_in_order(cases: list[tuple[int, bool]]) -> None:
    yes = [score for score, event in cases if event]
    no = [score for score, event in cases if not event]
    found = auroc(np.array([score for score, _ in cases]), np.array([event for _, event in cases]))
    if not yes or not no:
        assert math.isnan(found)
    else:
        pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
        assert found == pytest.approx(np.mean(pairs))


def test_rank_statistics_say_that_they_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    values, event = np.array([1.0, 2, 3]), np.array([True, False, True])
    for call in (lambda: spearman(values, values), lambda: auroc(values, event)):
        with pytest.raises(ConfigError, match="need scipy: pip install scipy"):
            call()
    assert calibration_error(np.array([0.5]), np.array([True])) == 0.5  # the others do not


def test_log_likelihood_is_that_of_scipys_laplace() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 3, (40, 2))
    errors = rng.laplace(0, spread)
    expected = stats.laplace.logpdf(errors, scale=spread).mean()
    assert log_likelihood(errors, spread) == pytest.approx(expected)
    assert log_likelihood(errors, spread) > max(log_likelihood(errors, spread * f) for f in (0.5, 2.0))
    assert log_likelihood(np.array([0.0]), np.array([0.5])) == pytest.approx(0)  # -ln 1
    assert log_likelihood(np.array([-3.0]), np.array([1.5])) == pytest.approx(-math.log(3) - 2)


def test_coverage_by_hand() -> None:
    assert coverage(np.array([1.0, 2, 3, 4]), np.array([1.0, 1.9, 5, 5])) == 0.75


def test_sparsification_by_hand() -> None:
    """Errors 1 to 4, mean 2.5; quarter by quarter the largest is removed."""
    errors = np.array([3.0, 1, 4, 2])
    removed, by_score, oracle = sparsification(errors, errors, steps=4)
    assert removed.tolist() == [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(oracle, [1, 2 / 2.5, 1.5 / 2.5, 1 / 2.5])
    np.testing.assert_array_equal(by_score, oracle)
    _, backwards, _ = sparsification(errors, -errors, steps=4)
    np.testing.assert_allclose(backwards, [1, 3 / 2.5, 3.5 / 2.5, 4 / 2.5])


def test_area_between_the_curves() -> None:
    rng = np.random.default_rng(1)
    errors = rng.gamma(2, 1, 5000)
    assert ause(errors, 7 * errors) == 0
    noisy = [ause(errors, errors * np.exp(rng.normal(0, s, 5000))) for s in (0.2, 1.0, 5.0)]
    assert 0 < noisy[0] < noisy[1] < noisy[2]
    _, _, oracle = sparsification(errors, errors)
    blind = ause(errors, rng.uniform(size=5000))  # removing at random leaves the mean as it is
    assert blind == pytest.approx((1 - oracle).mean(), abs=0.03)


def test_perfect_predictions_have_nothing_to_sort() -> None:
    assert ause(np.zeros(10), np.arange(10.0)) == 0
    assert np.isfinite(sparsification(np.zeros(10), np.arange(10.0))[1]).all()
    assert ause(np.array([0.3]), np.array([1.0])) == 0


def test_reliability_curve_by_hand() -> None:
    """Bins of a tenth: 0.12 and 0.18 together, 0.5 begins its bin, 1.0 belongs to the last."""
    stated = np.array([0.12, 0.18, 0.5, 0.95, 1.0])
    hit = np.array([False, True, True, True, False])
    means, shares, counts = reliability_curve(stated, hit)
    np.testing.assert_allclose(means, [0.15, 0.5, 0.975])
    np.testing.assert_allclose(shares, [0.5, 1.0, 0.5])
    assert counts.tolist() == [2, 1, 2]
    assert calibration_error(stated, hit) == pytest.approx((2 * 0.35 + 0.5 + 2 * 0.475) / 5)


def test_true_probabilities_are_calibrated_and_boasts_are_not() -> None:
    rng = np.random.default_rng(2)
    stated = rng.uniform(0, 1, 100_000)
    hit = rng.uniform(0, 1, 100_000) < stated
    assert calibration_error(stated, hit) < 0.01
    assert calibration_error(np.sqrt(stated), hit) == pytest.approx(2 / 3 - 1 / 2, abs=0.02)
