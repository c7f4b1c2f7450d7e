"""The filter of one face, on readings that are drawn: steadiness, lag, coverage, blinks, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from octamark.inference.motion import (
    FACE_NOISE,
    MEAN_ABSOLUTE,
    POINT_NOISE,
    Estimate,
    MotionFilter,
    Smoothing,
    Step,
    smoothed,
)
from octamark.layouts import layout
from octamark.metrics import jitter, lag

F64 = NDArray[np.float64]

IBUG = layout("ibug68")
UNIT = 100.0  # pixels of the diagram's side
SPREAD = np.full((68, 2), 2.0)
SHAPE: F64 = IBUG.diagram.astype(np.float64) * 2.5 * UNIT


def moved(times: F64, speed: float = 0.0) -> F64:
    """(T, 68, 2) a face that sways, turns and grows; ``speed`` 0 rests."""
    phase = 2 * np.pi * times * speed
    angle, size = 0.15 * np.sin(phase), np.exp(0.08 * np.sin(0.7 * phase))
    factor = size * np.exp(1j * angle)
    centred = (SHAPE - SHAPE.mean(axis=0)) @ np.array([1, 1j])
    placed = factor[:, None] * centred + (300 + 60 * np.sin(phase) + 1j * (250 + 25 * np.sin(1.3 * phase)))[:, None]
    return np.stack([placed.real, placed.imag], axis=-1)


def noise_of(count: int, rng: np.random.Generator, scale: float = 1.0) -> F64:
    """(T, 68, 2) errors that change from frame to frame: of the whole face, and of each point."""
    face = rng.normal(0, FACE_NOISE, (count, 1, 2))
    points = rng.normal(0, POINT_NOISE, (count, 68, 2))
    return scale * SPREAD * (face + points)


def run(
    smoothing: Smoothing, times: F64, readings: F64, spread: F64 = SPREAD, visible: F64 | None = None
) -> tuple[Estimate, list[Step]]:
    """The filter over readings (T, 68, 2)."""
    motion = MotionFilter(IBUG, smoothing)
    first = motion.start(times[0], readings[0], spread, visible)
    steps: list[Step] = []
    for time, points in zip(times[1:], readings[1:], strict=True):
        step = motion.predict(steps[-1].updated if steps else first, time)
        steps.append(motion.update(step, points, spread, visible))
    return first, steps


def points_of(first: Estimate, steps: list[Step]) -> F64:
    return np.stack([first.points, *(step.updated.points for step in steps)])


def smoothed_points(first: Estimate, steps: list[Step]) -> F64:
    return np.stack([estimate.points for estimate in smoothed(first, steps)])


def root_mean_square(values: F64) -> float:
    return float(np.sqrt((values**2).mean()))


TIMES = np.arange(150) / 25


@pytest.mark.parametrize(("smoothing", "share"), [("low", 0.6), ("high", 0.3)])
def test_a_face_at_rest_is_held_still(smoothing: Smoothing, share: float) -> None:
    truth = moved(TIMES)
    readings = truth + noise_of(150, np.random.default_rng(0))
    first, steps = run(smoothing, TIMES, readings)
    filtered, both_ways = points_of(first, steps), smoothed_points(first, steps)
    assert jitter(filtered[20:]) < share * jitter(readings[20:])
    assert jitter(both_ways[20:]) < 0.7 * jitter(filtered[20:])
    assert root_mean_square(filtered[20:] - truth[20:]) < root_mean_square(readings[20:] - truth[20:])
    assert root_mean_square(both_ways[20:] - truth[20:]) < root_mean_square(filtered[20:] - truth[20:])


@pytest.mark.parametrize("smoothing", ["low", "high"])
@pytest.mark.parametrize("speed", [0.3, 1.0])
def test_a_moving_face_has_little_lag_and_none_offline(smoothing: Smoothing, speed: float) -> None:
    truth = moved(TIMES, speed)
    readings = truth + noise_of(150, np.random.default_rng(1))
    first, steps = run(smoothing, TIMES, readings)
    assert abs(lag(points_of(first, steps), truth)) < 0.3
    assert abs(lag(smoothed_points(first, steps), truth)) < 0.02
    error = root_mean_square(points_of(first, steps)[10:] - truth[10:])
    assert error < 1.1 * root_mean_square(readings[10:] - truth[10:])


def test_frame_rates_may_vary() -> None:
    """Times are the clock: gaps of 20 to 120 ms cost no more than even ones, and double time is not half the speed."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.uniform(0.02, 0.12, 150))
    truth = moved(times, 0.5)
    readings = truth + noise_of(150, rng)
    first, steps = run("low", times, readings)
    assert root_mean_square(points_of(first, steps)[10:] - truth[10:]) < 1.3 * root_mean_square(readings - truth)
    predicted = np.stack([step.predicted.points for step in steps])
    wrong, wrong_steps = run("low", np.arange(150) * times.mean() / 75, readings)  # as if frames were evenly spaced
    blind = np.stack([step.predicted.points for step in wrong_steps])
    assert root_mean_square(predicted[10:] - truth[11:]) < 0.9 * root_mean_square(blind[10:] - truth[11:])
    assert wrong.time == 0


@pytest.mark.parametrize("smoothing", ["low", "high"])
def test_a_short_blink_is_kept(smoothing: Smoothing) -> None:
    """100 ms at 25 frames a second: the lids close and open within three frames; nothing else moves."""
    truth = moved(TIMES)
    upper, lower = [37, 38, 43, 44], [41, 40, 47, 46]
    for frame, share in ((70, 0.6), (71, 1.0), (72, 0.5)):
        truth[frame, upper] += share * (truth[frame, lower] - truth[frame, upper])
    readings = truth + noise_of(150, np.random.default_rng(3))
    first, steps = run(smoothing, TIMES, readings)
    for points in (points_of(first, steps), smoothed_points(first, steps)):
        opening = IBUG.eye_opening(points).mean(axis=1)
        usual = np.median(opening)
        assert opening[71] < 0.3 * usual
        assert opening[75:].min() > 0.75 * usual
        assert np.abs(points[65:80, 27:36] - truth[65:80, 27:36]).max() < 1.5  # the nose does not blink


@pytest.mark.parametrize("smoothing", ["low", "high"])
def test_a_point_that_jumps_alone_is_not_followed_where_no_point_can(smoothing: Smoothing) -> None:
    """One of the outline, in one frame; a whole part that moves is followed."""
    truth = moved(TIMES)
    noisy = truth + noise_of(150, np.random.default_rng(6))
    readings = noisy.copy()
    readings[70, 4] += (14.0, -9.0)
    alone = points_of(*run(smoothing, TIMES, readings))
    assert np.abs(alone[70, 4] - truth[70, 4]).max() < 7
    readings = noisy.copy()
    readings[70:, :17] += (14.0, -9.0)
    together = points_of(*run(smoothing, TIMES, readings))
    assert np.abs(together[71, :17] - truth[71, :17] - (14.0, -9.0)).max() < 3


def test_points_of_a_moving_face_may_move_in_it() -> None:
    motion = MotionFilter(IBUG, "high")
    resting = motion.start(0.0, SHAPE, SPREAD)
    mean = resting.mean.copy()
    mean[0, 1] = 2 * resting.size  # two sizes a second
    moving = replace(resting, mean=mean)
    assert resting.speed == 0
    assert moving.speed == pytest.approx(2)
    variance = [motion.predict(each, 0.04).predicted.covariance[4:, 0, 0] for each in (resting, moving)]
    assert (variance[1] > variance[0]).all()


def test_a_mouth_that_opens_does_not_move_the_eyes() -> None:
    truth = moved(TIMES)
    opening = 25 * np.clip(np.sin(2 * np.pi * 2 * TIMES), 0, 1)
    truth[:, [55, 56, 57, 58, 59, 65, 66, 67], 1] += opening[:, None]
    first, steps = run("low", TIMES, truth)
    filtered = points_of(first, steps)
    assert np.abs(filtered[:, 36:48] - truth[:, 36:48]).max() < 0.5
    assert lag(filtered[:, [57, 66]], truth[:, [57, 66]]) < 0.5


def test_the_spread_holds_the_errors_that_it_promises() -> None:
    """Errors of which a part lasts and a part changes: the filtered spread is their mean absolute value."""
    rng = np.random.default_rng(4)
    ratios, before = [], []
    lasting = np.sqrt(1 / MEAN_ABSOLUTE**2 - FACE_NOISE**2 - POINT_NOISE**2)
    for _ in range(20):
        truth = moved(TIMES[:60], 0.2)
        readings = truth + SPREAD * rng.normal(0, lasting, (1, 68, 2)) + noise_of(60, rng)
        _, steps = run("high", TIMES[:60], readings)
        estimate = steps[-1].updated
        ratios.append(np.abs(estimate.points - truth[-1]).mean() / estimate.spread(SPREAD).mean())
        before.append(estimate.spread(SPREAD).mean() / SPREAD.mean())
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    assert np.mean(before) < 1  # and smaller than that of one reading


def test_points_that_are_not_known_are_left_to_the_motion() -> None:
    truth = moved(TIMES[:40], 0.5)
    readings = truth.copy()
    readings[20:, :17] = np.nan
    first, steps = run("low", TIMES[:40], readings)
    filtered = points_of(first, steps)
    assert np.isfinite(filtered).all()
    assert np.abs(filtered[:, 17:] - truth[:, 17:]).max() < 2
    assert np.abs(filtered[:, :17] - truth[:, :17]).max() < 6  # carried along by the rest of the face
    nothing = MotionFilter(IBUG).update(MotionFilter(IBUG).predict(first, 1.0), np.full((68, 2), np.nan), SPREAD)
    np.testing.assert_array_equal(nothing.updated.mean, nothing.predicted.mean)


def test_a_face_without_size_does_no_harm() -> None:
    readings = np.full((5, 68, 2), 7.0)
    first, steps = run("low", TIMES[:5], readings, np.zeros((68, 2)))
    assert np.isfinite(points_of(first, steps)).all()
    np.testing.assert_allclose(points_of(first, steps), 7.0, atol=0.01)


def test_the_way_there_and_back_between_face_and_picture() -> None:
    estimate, _ = run("low", TIMES[:1], moved(TIMES[:1]))
    points = np.array([[3.0, 4.0], [-2.0, 9.5]])
    np.testing.assert_allclose(estimate.to_picture(estimate.to_face(points)), points)
    np.testing.assert_allclose(estimate.points, moved(TIMES[:1])[0])


@pytest.mark.slow
def test_ten_thousand_frames_leave_the_state_as_it_is() -> None:
    """The frame of the face does not drift: its size stays that of the face, and covariances stay positive."""
    times = np.arange(10_000) / 25
    truth = moved(times, 0.4)
    readings = truth + noise_of(len(times), np.random.default_rng(5))
    motion = MotionFilter(IBUG, "low")
    estimate = motion.start(times[0], readings[0], SPREAD)
    first = estimate.size
    for time, points in zip(times[1:], readings[1:], strict=True):
        estimate = motion.update(motion.predict(estimate, time), points, SPREAD).updated
    shape = np.sqrt((estimate.shape**2).sum(axis=1).mean())
    assert 0.9 < shape < 1.1
    assert estimate.size == pytest.approx(first, rel=0.2)
    assert (np.linalg.eigvalsh(estimate.covariance) > 0).all()


HALF_HIDDEN = np.where(np.arange(68) < 9, 0.05, 1.0)
"""One half of the outline can hardly be seen."""


def test_a_hidden_point_is_measured_less() -> None:
    """Its measurement variance is the inverse of how likely it can be seen; without that, all is as before."""
    motion = MotionFilter(IBUG)
    visible = np.full(68, 0.25)
    variances = [motion.start(0.0, SHAPE, SPREAD, values).covariance[:, 0, 0] for values in (None, visible)]
    np.testing.assert_allclose(variances[1][4:], 4 * variances[0][4:])
    np.testing.assert_allclose(variances[1][:4], variances[0][:4])
    never = motion.start(0.0, SHAPE, SPREAD, np.zeros(68)).covariance
    assert np.isfinite(never).all()
    unknown = motion.start(0.0, SHAPE, SPREAD, np.full(68, np.nan)).covariance[:, 0, 0]
    np.testing.assert_allclose(unknown, variances[0])


@pytest.mark.parametrize("smoothing", ["low", "high"])
def test_points_that_can_all_be_seen_are_as_without_the_knowledge(smoothing: Smoothing) -> None:
    readings = moved(TIMES, 0.3) + noise_of(150, np.random.default_rng(3))
    without, with_it = (points_of(*run(smoothing, TIMES, readings, visible=values)) for values in (None, np.ones(68)))
    np.testing.assert_allclose(with_it, without, atol=1e-6)


@pytest.mark.parametrize("smoothing", ["low", "high"])
def test_hidden_points_are_steadier_and_move_with_the_face(smoothing: Smoothing) -> None:
    truth = moved(TIMES, 0.3)
    readings = truth + noise_of(150, np.random.default_rng(4), np.where(HALF_HIDDEN < 0.5, 4.0, 1.0)[:, None])
    without, with_it = (points_of(*run(smoothing, TIMES, readings, visible=values)) for values in (None, HALF_HIDDEN))
    error, error_without = (root_mean_square((points - truth)[10:, :9]) for points in (with_it, without))
    assert error < 0.8 * error_without
    assert jitter((with_it - truth)[10:, :9]) < 0.6 * jitter((without - truth)[10:, :9])
    assert root_mean_square((with_it - truth)[10:, 9:]) < 1.02 * root_mean_square((without - truth)[10:, 9:])


def test_hidden_points_that_are_read_elsewhere_do_not_pull_at_the_face() -> None:
    """As on the far side of a profile, where the network jumps between two outlines."""
    truth = moved(TIMES)
    readings = truth + noise_of(150, np.random.default_rng(5))
    readings[75:, :9] += (1.5, 0.0)
    without, with_it = (points_of(*run("low", TIMES, readings, visible=values)) for values in (None, HALF_HIDDEN))
    pulled, pulled_without = (
        np.abs((points - truth)[75:, 9:].mean(axis=(1, 2))).max() for points in (with_it, without)
    )
    assert pulled < pulled_without
    assert np.abs((with_it - truth)[76, :9]).mean() < 0.5 * np.abs((without - truth)[76, :9]).mean()
