"""Every metric against cases worked out by hand, and against slow but plain computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octamark.errors import LayoutError
from octamark.layouts import Layout, layout, parse
from octamark.metrics import (
    Estimate,
    areas,
    auc,
    ced,
    distances,
    estimate,
    eye_opening_error,
    eye_opening_errors,
    failure_rate,
    failures,
    jitter,
    lag,
    nme,
    normaliser_names,
    paired_difference,
    part_nme,
    point_errors,
)

NAN = float("nan")
IBUG = layout("ibug68")

# Two eyes of two points, a nose, a chin: eyes at (0, 0) (4, 0) and (10, 0) (14, 0), nose (7, 6), chin (7, 20).
TOY = parse(
    {
        "name": "toy", "title": "toy", "count": 6, "parts": {"right_eye": [0, 1], "left_eye": [2, 3], "nose": [4],
        "outline": [5]}, "edges": [], "mirror": [[0, 3], [1, 2]],
        "normalisers": {"inter-ocular": [[0], [3]], "inter-pupil": [[0, 1], [2, 3]]}, "global": [5], "eyes": {},
        "regions": {}, "diagram": [[0, 0], [4, 0], [10, 0], [14, 0], [7, 6], [7, 20]],
    },
    "toy",
)  # fmt: skip
FACE = TOY.diagram.astype(np.float64)
BOX = np.array([[-3.0, -2.0, 13.0, 7.0]])  # 16 wide, 9 high

errors_of_faces = st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=1, max_size=60)
thresholds = st.floats(1e-3, 0.5)


def moved(*places: tuple[int, float, float]) -> NDArray[np.float64]:
    """The toy face with some points moved by (x, y)."""
    found = FACE.copy()
    for index, x, y in places:
        found[index] += (x, y)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inter-ocular", 14.0),  # 0 to 14
        ("inter-pupil", 10.0),  # 2 to 12
        ("box", math.sqrt(14 * 20)),
        ("diagonal", math.hypot(14, 20)),
        ("face-box", 12.0),  # root of 16 x 9
        ("face-diagonal", math.hypot(16, 9)),
    ],
)
def test_each_normaliser_by_hand(name: str, expected: float) -> None:
    assert name in normaliser_names(TOY)
    assert distances(FACE[None], TOY, name, BOX) == pytest.approx([expected])
    twice = distances(np.stack([FACE, 2 * FACE]), TOY, name, np.concatenate([BOX, 2 * BOX]))
    assert twice == pytest.approx([expected, 2 * expected])
    off = moved((4, 3.0, 4.0))[None]  # the nose, 5 pixels off: 5 / 6 on the mean of six points
    assert nme(off, FACE[None], TOY, name, boxes=BOX) == pytest.approx([5 / 6 / expected])


def test_normalisers_follow_the_truth_and_not_what_was_found() -> None:
    found = moved((0, -7.0, 0.0))  # would make the eyes 21 apart
    assert nme(found[None], FACE[None], TOY) == pytest.approx([7 / 6 / 14])


def test_published_points_of_the_normalisers() -> None:
    """300W takes points 36 and 45, WFLW 60 and 72, COFW 8 and 9, or the pupils 16 and 17."""
    for name, normaliser, pair in (
        ("ibug68", "inter-ocular", (36, 45)),
        ("wflw98", "inter-ocular", (60, 72)),
        ("cofw29", "inter-ocular", (8, 9)),
        ("cofw29", "inter-pupil", (16, 17)),
    ):
        one = layout(name)
        points = np.random.default_rng(0).uniform(0, 100, (2, one.count, 2))
        expected = np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=1)
        np.testing.assert_allclose(distances(points, one, normaliser), expected)


def test_a_face_without_what_the_normaliser_needs_has_no_distance() -> None:
    hidden = FACE.copy()
    hidden[0] = NAN
    truth = np.stack([FACE, hidden, np.zeros_like(FACE)])
    np.testing.assert_allclose(distances(truth, TOY, "inter-ocular"), [14, NAN, NAN])
    np.testing.assert_allclose(distances(truth, TOY, "box"), [math.sqrt(280), math.sqrt(200), NAN])
    np.testing.assert_allclose(distances(truth, TOY, "face-box"), [NAN] * 3)
    boxes = np.concatenate([BOX, np.full((1, 4), NAN), BOX])
    np.testing.assert_allclose(
        distances(truth, TOY, "face-diagonal", boxes), [math.hypot(16, 9), NAN, math.hypot(16, 9)]
    )
    with pytest.raises(LayoutError, match="no normaliser 'interocular'; allowed: inter-ocular, inter-pupil, box"):
        distances(truth, TOY, "interocular")


def test_a_box_that_is_turned_inside_out_normalises_nothing() -> None:
    boxes = np.array([[10.0, 0.0, 0.0, 5.0], [10.0, 9.0, 0.0, 0.0]])
    assert np.isnan(distances(np.stack([FACE, FACE]), TOY, "face-box", boxes)).all()


def test_nme_of_hand_made_faces() -> None:
    found = np.stack([FACE, moved((4, 3.0, 4.0)), moved((0, 0.0, 1.0), (5, -2.0, 0.0)), np.full_like(FACE, NAN)])
    truth = np.stack([FACE] * 4)
    np.testing.assert_allclose(nme(found, truth, TOY), [0, 5 / 6 / 14, 3 / 6 / 14, NAN])
    np.testing.assert_allclose(nme(found, truth, TOY, points=[4, 5]), [0, 5 / 2 / 14, 2 / 2 / 14, NAN])
    np.testing.assert_allclose(point_errors(found, truth)[2], [1, 0, 0, 0, 0, 2])


def test_points_without_a_label_count_for_nothing() -> None:
    truth = FACE.copy()
    truth[4] = NAN
    truth[5, 1] = NAN  # half a label is none
    found = moved((4, 300.0, 0.0), (5, 300.0, 0.0), (1, 0.0, 2.0))
    assert nme(found[None], truth[None], TOY) == pytest.approx([2 / 4 / 14])
    assert np.isnan(nme(found[None], truth[None], TOY, points=[4])).all()
    parts = part_nme(found[None], truth[None], TOY)
    assert np.isnan(parts["nose"]).all()
    assert parts["eyes"] == pytest.approx([2 / 4 / 14])


def test_parts_by_hand() -> None:
    found = moved((4, 3.0, 4.0), (0, 0.0, 2.0))
    parts = part_nme(found[None], FACE[None], TOY)
    assert {name: float(value[0]) for name, value in parts.items()} == pytest.approx(
        {"eyes": 2 / 4 / 14, "nose": 5 / 14, "outline": 0.0}
    )
    in_boxes = part_nme(found[None], FACE[None], TOY, "face-box", boxes=BOX)
    assert in_boxes["nose"] == pytest.approx([5 / 12])
    assert set(part_nme(IBUG.diagram[None], IBUG.diagram[None], IBUG)) == {"outline", "brows", "nose", "eyes", "mouth"}


def test_parts_weigh_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, (5, 68, 2))
    found = truth + rng.normal(0, 3, truth.shape)
    parts = part_nme(found, truth, IBUG)
    total = sum(parts[name] * len(points) for name, points in IBUG.groups.items()) / 68
    np.testing.assert_allclose(total, nme(found, truth, IBUG))


def test_failures_and_areas_by_hand() -> None:
    errors = np.array([0.02, 0.08, 0.0800001, 0.1, NAN])
    assert failures(errors, 0.08).tolist() == [0, 0, 1, 1, 1]  # at the threshold is not above it
    assert failure_rate(errors, 0.08) == pytest.approx(0.6)
    assert failure_rate(errors, 0.10) == pytest.approx(0.2)
    np.testing.assert_allclose(areas(errors, 0.08), [0.75, 0, 0, 0, 0], atol=1e-12)
    assert auc(errors, 0.08) == pytest.approx(0.15)
    assert auc(errors, 0.10) == pytest.approx((0.8 + 0.2 + 0.199999) / 5)


def test_auc_of_a_set_worked_out_by_hand() -> None:
    """Steps at 1, 2, 2, 5 and 9 %: below 8 % the area is 7 + 6 + 6 + 3 + 0 of 5 x 8; to four digits."""
    errors = np.array([0.09, 0.02, 0.05, 0.01, 0.02])
    assert round(auc(errors, 0.08), 4) == 0.55
    assert round(auc(errors, 0.10), 4) == round((9 + 8 + 8 + 5 + 1) / 50, 4) == 0.62
    assert round(auc(np.append(errors, NAN), 0.08), 4) == 0.4583  # a face not found: 22 of 6 x 8
    assert (auc(np.zeros(3)), auc(np.ones(3)), auc(np.full(3, NAN))) == (1.0, 0.0, 0.0)


def staircase_area(errors: list[float], threshold: float) -> float:
    """The integral of the share of faces at or below x, from 0 to the threshold, between its steps."""
    steps = sorted({0.0, threshold, *(e for e in errors if e < threshold)})
    total = 0.0
    for left, right in itertools.pairwise(steps):
        total += (right - left) * sum(e <= left for e in errors) / len(errors)
    return total / threshold


@given(errors_of_faces, thresholds)
def test_auc_is_the_integral_of_the_staircase(errors: list[float], threshold: float) -> None:
    exact = auc(np.array(errors), threshold)
    assert exact == pytest.approx(staircase_area(errors, threshold), abs=1e-9)
    assert exact == pytest.approx(np.mean([max(0.0, 1 - e / threshold) if e == e else 0.0 for e in errors]), abs=1e-9)


def test_auc_by_a_fine_grid() -> None:
    """A numeric integral of the empirical curve, a million steps, agrees to 4 digits; a grid of 81 would not."""
    errors = np.random.default_rng(0).gamma(4, 0.01, 137)
    for threshold in (0.08, 0.10):
        grid = (np.arange(1_000_000) + 0.5) / 1_000_000 * threshold
        share = np.searchsorted(np.sort(errors), grid, side="right") / len(errors)
        assert auc(errors, threshold) == pytest.approx(share.mean(), abs=5e-6)


@given(errors_of_faces, thresholds, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_bounds_hold(errors: list[float], threshold: float, random: object) -> None:
    shuffled = list(errors)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = np.array(errors), np.array(shuffled)
    assert auc(first, threshold) == pytest.approx(auc(second, threshold), abs=1e-12)
    assert failure_rate(first, threshold) == failure_rate(second, threshold)
    np.testing.assert_array_equal(ced(first)[0], ced(second)[0])
    assert 0 <= auc(first, threshold) <= 1 - failure_rate(first, threshold) + 1e-12


@given(errors_of_faces, thresholds, thresholds)
def test_failures_fall_and_areas_grow_with_the_threshold(errors: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))
    values = np.array(errors)
    assert failure_rate(values, low) >= failure_rate(values, high)
    assert auc(values, low) <= auc(values, high) + 1e-12


@given(errors_of_faces, thresholds)
def test_the_curve_and_the_failure_rate_say_the_same(errors: list[float], threshold: float) -> None:
    x, y = ced(np.array(errors))
    assert (np.diff(x) >= 0).all()
    assert len(x) == sum(e == e for e in errors)
    below = y[np.searchsorted(x, threshold, side="right") - 1] if (x <= threshold).any() else 0.0
    assert below == pytest.approx(1 - failure_rate(np.array(errors), threshold))


def test_curve_by_hand() -> None:
    x, y = ced(np.array([0.03, NAN, 0.01, 0.05]))
    assert x.tolist() == [0.01, 0.03, 0.05]
    assert y.tolist() == [0.25, 0.5, 0.75]  # never reaches 1: one face was not found


def eyes_open(width: float, first: float, second: float) -> NDArray[np.float64]:
    """A 68-point face whose eyes are both ``width`` wide, their two pairs of lids that far apart."""
    face = IBUG.diagram.astype(np.float64) * 100
    for corner, other, pairs in ((36, 39, ((37, 41), (38, 40))), (42, 45, ((43, 47), (44, 46)))):
        face[corner], face[other] = (0, 0), (width, 0)
        for (upper, lower), apart, x in zip(pairs, (first, second), (0.3, 0.7), strict=True):
            face[upper], face[lower] = (x * width, -apart / 2), (x * width, apart / 2)
    return face


def test_eye_opening_by_hand() -> None:
    truth = eyes_open(20, 6, 4)  # mean lid distance 5, width 20: a quarter
    shut, slit = eyes_open(20, 0, 0), eyes_open(40, 6, 4)
    faces = np.stack([truth, shut, slit])
    np.testing.assert_allclose(IBUG.eye_opening(faces), [[0.25, 0.25], [0, 0], [0.125, 0.125]], atol=1e-9)
    np.testing.assert_allclose(eye_opening_error(faces, np.stack([truth] * 3), IBUG), [0, 0.25, 0.125], atol=1e-9)
    one_eyed = truth.copy()
    one_eyed[37] = NAN
    assert eye_opening_error(shut[None], one_eyed[None], IBUG) == pytest.approx([0.25])  # of the other eye
    flat = truth.copy()
    flat[36:42] = 3.0
    assert np.isnan(IBUG.eye_opening(flat[None])[0, 0])


def test_a_layout_without_lids_has_no_eye_opening() -> None:
    assert TOY.eye_opening(FACE[None]).shape == (1, 0)
    assert np.isnan(eye_opening_error(FACE[None], FACE[None], TOY)).all()


def test_errors_of_the_opening_by_kind_of_eye() -> None:
    """Each eye counts in the kind of its own true opening; the faces without an eye of a kind are NaN there."""
    truth = np.stack([eyes_open(20, 0, 0), eyes_open(20, 6, 4), eyes_open(20, 2, 2), eyes_open(20, 9, 9)])
    truth[1, 42:48] = eyes_open(20, 1, 1)[42:48]  # 0.25 and 0.05
    predicted = np.stack([eyes_open(20, 2, 2), eyes_open(20, 4, 4), eyes_open(20, 1, 1), eyes_open(20, 9, 9)])
    predicted[0, 42:48] = eyes_open(20, 1, 1)[42:48]  # 0.1 and 0.05 for two shut eyes
    errors = eye_opening_errors(predicted, truth, IBUG)
    assert {kind: values.eyes for kind, values in errors.items()} == {"shut": 3, "narrow": 2, "normal": 1, "wide": 2}
    np.testing.assert_allclose(errors["shut"].signed, [0.075, 0.15, NAN, NAN], atol=1e-6)
    np.testing.assert_allclose(errors["narrow"].signed, [NAN, NAN, -0.05, NAN], atol=1e-6)
    np.testing.assert_allclose(errors["narrow"].absolute, [NAN, NAN, 0.05, NAN], atol=1e-6)
    np.testing.assert_allclose(errors["normal"].signed, [NAN, -0.05, NAN, NAN], atol=1e-6)
    np.testing.assert_allclose(errors["wide"].absolute, [NAN, NAN, NAN, 0], atol=1e-6)


def test_eyes_without_labels_and_faces_not_found_have_no_opening_error() -> None:
    shut, slit = eyes_open(20, 0, 0), eyes_open(20, 2, 2)
    one_eyed = shut.copy()
    one_eyed[37] = NAN
    errors = eye_opening_errors(np.stack([slit, np.full_like(slit, NAN)]), np.stack([one_eyed, shut]), IBUG)
    assert errors["shut"].eyes == 1
    np.testing.assert_allclose(errors["shut"].signed, [0.1, NAN], atol=1e-6)
    assert all(not values.eyes for values in eye_opening_errors(FACE[None], FACE[None], TOY).values())


def test_intervals_are_the_same_each_time_and_hold_the_mean() -> None:
    values = np.random.default_rng(0).gamma(4, 0.01, 100)
    first = estimate(values)
    assert first == estimate(values)
    assert first.value == pytest.approx(values.mean())
    assert first.low < first.value < first.high
    assert estimate(values, seed=1) != first
    scaled = first.scaled(100)
    assert (scaled.value, scaled.low, scaled.high) == (first.value * 100, first.low * 100, first.high * 100)


def test_intervals_are_as_wide_as_theory_says() -> None:
    """Of the mean of normal values: 1.96 standard errors to each side; four times the faces, half the width."""
    values = np.random.default_rng(1).normal(5, 2, 6400)
    for count in (100, 400, 1600, 6400):
        one = estimate(values[:count])
        assert (one.high - one.low) / 2 == pytest.approx(1.96 * values[:count].std() / math.sqrt(count), rel=0.06)


def test_intervals_hold_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        one = estimate(rng.normal(3, 1, 60), resamples=400)
        inside += one.low <= 3 <= one.high
    assert 0.91 <= inside / 400 <= 0.98


def test_intervals_of_degenerate_sets() -> None:
    assert estimate(np.array([0.3])) == Estimate(0.3, 0.3, 0.3)
    same = estimate(np.full(50, 0.25))
    assert (same.value, same.low, same.high) == (0.25, 0.25, 0.25)
    for empty in (np.array([NAN, NAN]), np.array([])):
        none = estimate(empty)
        assert all(math.isnan(value) for value in (none.value, none.low, none.high))


def test_missing_values_are_in_no_interval() -> None:
    """A resample without any known face has no mean, and least of all a mean of 0."""
    few = estimate(np.array([0.5, NAN, NAN, NAN]))
    assert (few.value, few.low, few.high) == (0.5, 0.5, 0.5)
    values = np.random.default_rng(3).normal(1, 0.1, 200)
    with_gaps = estimate(np.where(np.arange(200) % 2, NAN, values))
    assert with_gaps.value == pytest.approx(values[::2].mean())
    alone = estimate(values[::2])
    assert with_gaps.high - with_gaps.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_a_long_set_is_resampled_in_pieces() -> None:
    values = np.random.default_rng(4).normal(1, 1, 30_000)
    one = estimate(values, resamples=200)
    assert (one.high - one.low) / 2 == pytest.approx(1.96 / math.sqrt(30_000), rel=0.2)


def test_paired_differences_see_what_unpaired_ones_cannot() -> None:
    rng = np.random.default_rng(5)
    hard = rng.gamma(2, 0.02, 300)  # some faces are hard for both
    first, second = hard + rng.normal(0, 0.001, 300), hard + rng.normal(-0.001, 0.001, 300)
    one = paired_difference(first, second)
    assert one.value == pytest.approx((second - first).mean())
    assert one.high < 0  # the second is better, surely
    assert one.high - one.low < 0.1 * (estimate(first).high - estimate(first).low)
    back = paired_difference(second, first)
    assert (back.value, back.low, back.high) == pytest.approx((-one.value, -one.high, -one.low), abs=1e-5)


def test_paired_differences_leave_out_what_one_missed() -> None:
    one = paired_difference(np.array([1.0, NAN, 3.0, 4.0]), np.array([2.0, 5.0, NAN, 7.0]))
    assert one.value == pytest.approx((1 + 3) / 2)
    assert paired_difference(np.ones(5), np.ones(5)) == Estimate(0.0, 0.0, 0.0)


def test_layouts_name_their_normalisers() -> None:
    both: Layout = layout("cofw29")
    expected = ["inter-ocular", "inter-pupil", "box", "diagonal", "face-box", "face-diagonal"]
    assert normaliser_names(both) == expected


def test_jitter_of_noise_and_of_motion() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2.0, (400, 50, 2))
    assert jitter(noise) == pytest.approx(2 * math.sqrt(12), rel=0.02)
    steady = np.arange(400.0)[:, None, None] * np.array([3.0, -1.0])
    assert jitter(steady) == pytest.approx(0, abs=1e-9)
    assert jitter(noise + steady) == pytest.approx(jitter(noise))


def test_jitter_counts_what_rests_and_is_known() -> None:
    points = np.zeros((10, 2, 2))
    points[5, 0] = 3, 4  # a jump there and back: second differences 5, 10, 5
    assert jitter(points[:, :1]) == pytest.approx(math.sqrt((25 + 100 + 25) / 8))
    still = np.ones((10, 2), bool)
    still[4, 0] = False
    assert jitter(points, still) == pytest.approx(math.sqrt(25 / 13))
    points[5, 0] = NAN
    assert jitter(points) == 0
    assert math.isnan(jitter(points, np.zeros((10, 2), bool)))
    assert math.isnan(jitter(points[:2]))


@pytest.mark.parametrize("delay", [-1.5, -0.3, 0.0, 0.25, 1.0, 2.6])
def test_lag_finds_the_delay(delay: float) -> None:
    def place(frames: NDArray[np.float64]) -> NDArray[np.float64]:
        wave = 20 * np.sin(frames / 9) + 8 * np.sin(frames / 5 + 1)
        return np.stack([wave, np.cos(frames / 7)], axis=-1)[:, None]

    frames = np.arange(120.0)
    truth = place(frames)
    assert lag(place(frames - delay) + 30, truth) == pytest.approx(delay, abs=0.03)  # a constant error is no lag
    missing = place(frames - delay)
    missing[40:43] = NAN
    assert lag(missing, truth) == pytest.approx(delay, abs=0.03)


def test_lag_of_what_does_not_move_is_unknown() -> None:
    assert math.isnan(lag(np.zeros((50, 3, 2)), np.zeros((50, 3, 2))))
    assert math.isnan(lag(np.ones((8, 3, 2)), np.arange(48.0).reshape(8, 3, 2)))
