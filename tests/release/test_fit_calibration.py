"""Fitting the calibration: what made the errors is found again, with fewer numbers from fewer labels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from octamark.errors import DataError
from octamark.inference.landmarker import shifted
from octamark.layouts import layout
from octamark.models.calibration import KNOTS, Calibration, laplace_ratios
from octamark.release.calibration import calibration_kind, cross_fitted, fit_calibration, fit_offset, set_weights

F64 = NDArray[np.float64]
POINTS = 8
MIRROR = np.array([1, 0, 3, 2, 4, 5, 7, 6])
OWN, FACE = 0.7, 0.5


def true_gain() -> F64:
    """(M, 2), the same for mirrored points."""
    pairs = np.minimum(np.arange(POINTS), MIRROR)
    return np.random.default_rng(7).uniform(0.5, 2.0, (POINTS, 2))[pairs]


def drawn(faces: int, seed: int = 0) -> tuple[F64, F64, F64]:
    """Raw spreads, their true spreads, and Laplace errors of these."""
    rng = np.random.default_rng(seed)
    raw = np.exp(rng.normal(0.5, 0.4, (faces, 1, 1)) + rng.normal(0, 0.4, (faces, POINTS, 2)))
    mean = np.exp(np.log(raw).mean(axis=(1, 2), keepdims=True))
    spread = true_gain() * raw**OWN * mean**FACE
    return raw, spread, rng.laplace(0, spread)


@pytest.fixture(scope="module")
def many() -> tuple[F64, F64, F64]:
    return drawn(3000)


def test_a_known_map_is_found_again(many: tuple[F64, F64, F64]) -> None:
    raw, spread, errors = many
    fitted = fit_calibration(raw, errors, MIRROR)
    assert fitted.own == pytest.approx(OWN, abs=0.03)
    assert fitted.face == pytest.approx(FACE, abs=0.05)
    np.testing.assert_allclose(np.array(fitted.gain), true_gain(), rtol=0.08)
    ratio = fitted.spread(raw) / spread
    assert np.median(np.abs(np.log(ratio))) < 0.04
    assert fitted.spread(raw).mean() == pytest.approx(np.abs(errors).mean(), rel=0.02)


def test_regions_hold_what_they_say_on_other_faces(many: tuple[F64, F64, F64]) -> None:
    fitted = fit_calibration(many[0], many[2], MIRROR)
    raw, _, errors = drawn(2000, seed=1)
    away, spread = np.linalg.norm(errors, axis=2), fitted.spread(raw)
    for share in (0.1, 0.5, 0.68, 0.9, 0.95, 0.99):
        assert (away <= fitted.radius(spread, share)).mean() == pytest.approx(share, abs=0.02)
    for radius in (1.0, 3.0, 8.0):
        assert fitted.within(spread, radius).mean() == pytest.approx((away < radius).mean(), abs=0.02)


def test_mirrored_points_share_their_gains(many: tuple[F64, F64, F64]) -> None:
    gain = np.array(fit_calibration(many[0], many[2], MIRROR).gain)
    np.testing.assert_array_equal(gain, gain[MIRROR])
    assert len(np.unique(gain)) == 2 * 5  # pairs 01, 23, 67 and the points 4 and 5 on the midline; two axes
    alone = np.array(fit_calibration(many[0], many[2], np.arange(POINTS)).gain)
    assert len(np.unique(alone)) == 2 * POINTS


def test_any_errors_give_rising_tables() -> None:
    """Errors that fall while the raw spread grows: pooled to a flat map, not a falling one."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(1, 9, (300, POINTS, 2))
    backwards = rng.laplace(0, 10 - raw)
    fitted = fit_calibration(raw, backwards, MIRROR)
    for table in (fitted.knots, fitted.ratios):
        x, y = np.array(table).T
        assert (np.diff(x) > 0).all()
        assert (np.diff(y) >= 0).all()
    assert len(fitted.knots) == KNOTS
    assert fitted.own == 0
    steady = fit_calibration(np.ones((300, POINTS, 2)), rng.laplace(0, 2, raw.shape), MIRROR)
    assert steady.spread(np.ones((1, POINTS, 2))) == pytest.approx(2.0, rel=0.15)


def test_points_without_a_label_are_left_out(many: tuple[F64, F64, F64]) -> None:
    raw, _, errors = (part[:600] for part in many)
    hidden = errors.copy()
    hidden[np.random.default_rng(0).random(hidden.shape[:2]) < 0.3] = np.nan
    fitted, whole = fit_calibration(raw, hidden, MIRROR), fit_calibration(raw, errors, MIRROR)
    np.testing.assert_allclose(np.array(fitted.gain), np.array(whole.gain), rtol=0.2)
    nobody = errors.copy()
    nobody[:, 4] = np.nan  # no label of this point anywhere
    assert np.isfinite(fit_calibration(raw, nobody, MIRROR).spread(raw)).all()


def test_below_500_points_one_gain_is_fitted_for_all() -> None:
    raw, _, errors = drawn(62)  # 496 points
    fitted = fit_calibration(raw, errors, MIRROR)
    assert fitted.kind == "global"
    assert len(set(np.ravel(fitted.gain))) == 1
    assert fitted.ratios == laplace_ratios()
    assert fitted.spread(raw).mean() == pytest.approx(np.abs(errors).mean(), rel=0.1)
    assert fit_calibration(raw, errors, MIRROR, "per_point").kind == "per_point"
    raw, _, errors = drawn(200)
    errors[50:] = np.nan
    assert fit_calibration(raw, errors, MIRROR).kind == "global"  # 400 labelled points of 1,600
    assert fit_calibration(raw[:63], drawn(63)[2], MIRROR).kind == "per_point"  # 504 points are enough


def test_the_global_fit_is_the_likeliest_of_its_kind() -> None:
    raw, _, errors = drawn(55, seed=4)

    def global_loss(weights: F64) -> float:
        return loss(np.concatenate([np.full(2 * POINTS, weights[0]), weights[1:]]), raw, errors)

    fitted = fit_calibration(raw, errors, MIRROR)
    bounds = [(None, None), (0, None), (0, None)]
    best = minimize(global_loss, np.zeros(3), method="L-BFGS-B", bounds=bounds)
    found = np.array([np.log(fitted.gain[0][0]), fitted.own, fitted.face])
    assert global_loss(found) <= best.fun + 1e-4


def test_a_handful_of_points_gives_one_factor() -> None:
    raw, _, errors = drawn(4)  # 32 points
    fitted = fit_calibration(raw, errors, MIRROR)
    assert (fitted.kind, fitted.own, fitted.face) == ("global", 1.0, 0.0)
    assert fitted.gain[0][0] == pytest.approx((np.abs(errors) / raw).mean(), rel=1e-4)  # its likelihood by hand
    assert set(cross_fitted(raw, errors, np.full(4, 30.0), MIRROR)[0]) >= {"regions of 90% hold the truth in, %"}
    with pytest.raises(DataError, match="no labelled point"):
        fit_calibration(raw, np.full_like(errors, np.nan), MIRROR)
    assert cross_fitted(raw, np.full_like(errors, np.nan), np.full(4, 30.0), MIRROR) == [{}]


def test_the_kind_is_known_before_training() -> None:
    assert calibration_kind(38, 17) == calibration_kind(10, 68) == "per_point"
    assert calibration_kind(37, 17) == calibration_kind(24, 9) == "global"


def test_a_point_that_nobody_labelled_has_the_gain_of_all(many: tuple[F64, F64, F64]) -> None:
    raw, _, errors = (part[:600].copy() for part in many)
    errors[:, 4] = np.nan
    fitted = fit_calibration(raw, errors, MIRROR)
    gain = np.array(fitted.gain)
    assert gain[:, 0].min() <= gain[4, 0] <= gain[:, 0].max()
    assert gain[4, 0] == gain[4, 1]


@pytest.mark.slow
def test_points_without_a_label_count_for_nothing_in_the_figures() -> None:
    raw, _, errors = drawn(1500, seed=3)
    distances = np.full(1500, 30.0)
    errors[np.random.default_rng(0).random(errors.shape[:2]) < 0.5] = np.nan
    distances[::7] = np.nan  # faces whose eye points have no label
    (figures,) = cross_fitted(raw, errors, distances, MIRROR)
    for share in (50, 90, 95):
        assert figures[f"regions of {share}% hold the truth in, %"] == pytest.approx(share, abs=2)
    assert all(np.isfinite(value) for value in figures.values())


@pytest.mark.slow
def test_cross_fitting_checks_faces_that_were_not_fitted() -> None:
    raw, _, errors = drawn(1500, seed=3)
    distances = np.full(1500, 30.0)
    (checks,) = cross_fitted(raw, errors, distances, MIRROR)
    for share in (50, 90, 95):
        assert checks[f"regions of {share}% hold the truth in, %"] == pytest.approx(share, abs=2)
    assert checks["calibration error of the confidence"] < 0.02
    assert 0.2 < checks["Spearman of spread and error, per point"] < 0.9
    assert checks["Spearman of spread and error, per picture"] > 0.5
    assert checks["AUROC of mean spread for NME over 8 %"] > 0.7
    shuffled = np.random.default_rng(0).permutation(raw.ravel()).reshape(raw.shape)
    (blind,) = cross_fitted(shuffled, errors, distances, MIRROR)
    assert abs(blind["Spearman of spread and error, per picture"]) < 0.1
    assert blind["regions of 90% hold the truth in, %"] == pytest.approx(90, abs=2)  # true, if vague


def loss(weights: F64, raw: F64, errors: F64) -> float:
    """The negative log likelihood, written out: eight gains a coordinate, two exponents."""
    log_raw = np.log(raw)
    face = log_raw.mean(axis=(1, 2), keepdims=True)
    u = np.exp(weights[:-2].reshape(POINTS, 2) + weights[-2] * log_raw + weights[-1] * face)
    return float((np.log(u) + np.abs(errors) / u).mean())


@pytest.mark.parametrize(
    ("own", "face", "width"), [(0.7, 0.5, 0.4), (0.0, 0.5, 0.05), (1.5, -0.6, 0.1), (-0.5, 0.3, 0.3), (0.5, -1.0, 0.05)]
)
def test_the_likeliest_map_even_where_an_exponent_ends_at_0(own: float, face: float, width: float) -> None:
    """Against a general optimiser with bounds; few faces, unequal gains."""
    rng = np.random.default_rng(0)
    raw = np.exp(rng.normal(0.5, width, (80, POINTS, 2)))
    log_raw = np.log(raw)
    gains = rng.uniform(-3, 3, (POINTS, 2))
    errors = rng.laplace(0, np.exp(gains + own * log_raw + face * log_raw.mean(axis=(1, 2), keepdims=True)))
    fitted = fit_calibration(raw, errors, np.arange(POINTS))
    found = np.array([*np.log(np.array(fitted.gain)).ravel(), fitted.own, fitted.face])
    bounds = [(None, None)] * (2 * POINTS) + [(0, None)] * 2
    best = minimize(loss, np.zeros(2 * POINTS + 2), args=(raw, errors), method="L-BFGS-B", bounds=bounds)
    assert loss(found, raw, errors) <= best.fun + 1e-4


def test_a_poor_network_can_be_calibrated_too() -> None:
    """Spreads that say nothing and differ little, errors of another scale: no gain runs away."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        raw = rng.uniform(4.5, 8, (12, 68, 2))
        errors = rng.laplace(0, rng.uniform(0.05, 12, (1, 68, 1)), raw.shape)
        fitted = fit_calibration(raw, errors, np.arange(68))
        assert fitted.spread(raw).mean() == pytest.approx(np.abs(errors).mean(), rel=0.1)


def test_ties_still_give_rising_tables() -> None:
    """Labels on whole pixels and a network that always says the same: equal ratios, equal spreads."""
    raw = np.full((100, POINTS, 2), 2.0)
    errors = np.random.default_rng(0).integers(-1, 2, raw.shape).astype(float)
    errors[:, :, 1] = np.abs(errors[:, :, 0])
    fitted = fit_calibration(raw, errors, np.arange(POINTS))
    again = Calibration.model_validate_json(fitted.model_dump_json())  # a card is read with every check
    assert again == fitted
    assert fitted.spread(raw).mean() == pytest.approx(np.abs(errors).mean(), rel=0.05)


def test_the_offset_of_labels_is_found_whatever_the_faces_size() -> None:
    rng = np.random.default_rng(0)
    one = layout("ibug68")
    found = one.diagram * rng.uniform(50, 2000, (60, 1, 1)) + rng.normal(0, 300, (60, 1, 2))
    unit = one.distance(found, "inter-ocular")[:, None, None]
    truth = found + unit * (np.array([0.01, -0.002]) + rng.normal(0, 0.02, found.shape))
    truth[0] += 500  # one lost face does not count
    truth[1, :5] = np.nan
    truth[2] = np.nan
    offset = fit_offset(found, truth, one)
    assert offset == pytest.approx((0.01, -0.002), abs=1e-3)
    moved = shifted(found, offset, one)
    assert np.nanmedian((truth - moved) / unit) == pytest.approx(0, abs=1e-3)


def test_points_of_an_untrained_network_give_no_offset() -> None:
    points = layout("ibug68")
    truth = np.repeat(100 * points.diagram[None], 3, axis=0)
    clumped = 50 + 0.02 * truth  # all points nearly in one place, far from the labels for so small a face
    assert fit_offset(clumped, truth + 40, points) == (0.0, 0.0)
    assert fit_offset(truth, truth + 1, points) != (0.0, 0.0)


def test_shift_and_contrast_are_fitted_where_errors_follow_them() -> None:
    rng = np.random.default_rng(5)
    raw = np.exp(rng.normal(0, 0.3, (900, POINTS, 2)))
    unusual = np.exp(rng.normal(0, 0.8, (900, 2)))
    errors = rng.laplace(0, raw * (unusual[:, 0] ** 0.6)[:, None, None])
    fitted = fit_calibration(raw, errors, MIRROR, unusual=unusual)
    assert fitted.shift == pytest.approx(0.6, abs=0.05)
    assert fitted.contrast == pytest.approx(0.0, abs=0.05)
    assert fitted.own == pytest.approx(1.0, abs=0.05)
    blind = fit_calibration(raw, errors, MIRROR)
    assert (blind.shift, blind.contrast) == (0.0, 0.0)
    far = unusual[:, 0] > 2.5
    distance = np.linalg.norm(errors, axis=2)
    assert (distance <= fitted.radius(fitted.spread(raw, unusual), 0.9))[far].mean() == pytest.approx(0.9, abs=0.03)
    assert (distance <= blind.radius(blind.spread(raw), 0.9))[far].mean() < 0.8


def test_errors_never_grow_faster_than_shift_and_contrast() -> None:
    rng = np.random.default_rng(6)
    raw, unusual = np.full((300, POINTS, 2), 1.5), np.exp(rng.normal(0, 0.3, (300, 2)))
    errors = rng.laplace(0, 1.5 * (unusual[:, 0] ** 3 / unusual[:, 1])[:, None, None] + np.zeros_like(raw))
    fitted = fit_calibration(raw, errors, MIRROR, unusual=unusual)
    assert (fitted.shift, fitted.contrast) == (1.0, 0.0)
    still = fit_calibration(raw, errors, MIRROR, unusual=np.full((300, 2), 0.05) * (1 + 1e-7 * rng.random((300, 2))))
    assert (still.shift, still.contrast) == (0.0, 0.0)  # a model without shape correction: rounding alone differs


def test_every_set_counts_alike() -> None:
    """A set of 600 faces, one of 60 with labels of half the points and three times the errors."""
    raw, _, errors = drawn(660, seed=7)
    set_of = np.repeat([0, 1], [600, 60])
    errors[600:] *= 3
    errors[600:, ::2] = np.nan
    weights = set_weights(errors, set_of)
    labelled = np.isfinite(errors).all(axis=2).sum(axis=1)
    sums = np.bincount(set_of, labelled * weights)
    assert sums[0] == pytest.approx(sums[1])
    assert (labelled * weights).sum() == pytest.approx(labelled.sum())
    plain, alike = fit_calibration(raw, errors, MIRROR), fit_calibration(raw, errors, MIRROR, weights=weights)
    distance = np.linalg.norm(errors, axis=2)
    held = [
        [np.mean((distance <= one.radius(one.spread(raw), 0.9))[part][np.isfinite(distance[part])]) for part in
         (slice(600), slice(600, 660))]
        for one in (plain, alike)
    ]  # fmt: skip
    assert held[0][1] < held[1][1] < 0.9 < held[1][0]
    assert np.mean(held[1]) == pytest.approx(0.9, abs=0.01)
    np.testing.assert_allclose(set_weights(errors, np.zeros(660, int)), 1)


def test_figures_of_each_set() -> None:
    raw, _, errors = drawn(400, seed=8)
    set_of = np.repeat([0, 1, 2], [200, 150, 50])
    distances = np.where(set_of == 0, 30.0, np.nan)
    errors[350:] = np.nan
    first, second, third = cross_fitted(raw, errors, distances, MIRROR, None, set_of)
    assert "Spearman of spread and error, per point" in first
    assert sorted(second) == [f"regions of {share}% hold the truth in, %" for share in (50, 90, 95)]
    assert second["regions of 90% hold the truth in, %"] == pytest.approx(90, abs=4)
    assert third == {}
