"""Signals over time: which faces they belong to, blinks of known times, and the plot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from landmark_files import IBUG, faces_at
from octamark.errors import ConfigError
from octamark.faces import Faces
from octamark.layouts import layout
from octamark.signals import MAX_GAP, Signals, blinks, measure, plot

F64 = NDArray[np.float64]
OPEN, SHUT = 0.32, 0.1


def with_openings(times: F64, openings: F64, spread: float = 0.03) -> Signals:
    """Both eyes open by ``openings`` (T,) at ``times``."""
    count = len(times)
    return Signals(
        1,
        times=times,
        eye_opening=np.repeat(openings[:, None], 2, axis=1),
        eye_opening_spread=np.full((count, 2), spread),
        mouth_opening=np.full(count, 0.1),
        mouth_opening_spread=np.full(count, 0.03),
        pose=np.zeros((count, 3)),
        confidence=np.ones(count),
    )


def eyes(times: F64, shut: list[tuple[float, float]]) -> F64:
    """Openings (T,) of eyes that are shut in these intervals; lids take 40 ms to close and to open."""
    openings = np.full(len(times), OPEN)
    for start, end in shut:
        inside = np.clip(np.minimum(times - start, end - times) / 0.04 + 0.5, 0, 1)
        openings = np.minimum(openings, OPEN + (SHUT - OPEN) * inside)
    return openings


@pytest.mark.parametrize("rate", [25, 30, 60])
def test_blinks_come_out_with_their_times(rate: int) -> None:
    times = np.arange(0, 20, 1 / rate)
    shut = [(1.0, 1.1), (4.5, 4.7), (9.03, 9.13), (15.0, 15.4)]
    found = blinks(with_openings(times, eyes(times, shut)))
    assert len(found) == 4
    for blink, (start, end) in zip(found, shut, strict=True):
        assert blink.start == pytest.approx(start, abs=0.6 / rate)
        assert blink.end == pytest.approx(end, abs=0.6 / rate)
        assert start <= blink.time <= end
        assert blink.opening < 0.5
        assert blink.duration == blink.end - blink.start


def test_uneven_frames_are_no_harm() -> None:
    times = np.sort(np.random.default_rng(0).uniform(0, 10, 400))
    (blink,) = blinks(with_openings(times, eyes(times, [(5.0, 5.2)])))
    assert blink.start == pytest.approx(5.0, abs=0.05)


def test_noise_is_no_blink() -> None:
    times = np.arange(0, 60, 0.04)
    noise = np.random.default_rng(0).normal(0, 0.02, len(times))
    assert blinks(with_openings(times, OPEN + noise)) == []


def test_eyes_that_close_and_open_slowly_are_one_blink() -> None:
    times = np.arange(0, 5, 0.04)
    openings = np.full(len(times), OPEN)
    openings[50:56] = np.array([0.55, 0.65, 0.5, 0.7, 0.55, 0.9]) * OPEN  # between the two limits they stay closed
    (blink,) = blinks(with_openings(times, openings))
    assert blink.time == times[52]


def test_eyes_that_stay_shut_have_not_blinked() -> None:
    times = np.arange(0, 20, 0.04)
    signals = with_openings(times, eyes(times, [(5.0, 7.0), (12.0, 12.2)]))
    assert [round(blink.start) for blink in blinks(signals)] == [12]
    assert [round(blink.duration, 1) for blink in blinks(signals, longest=float("inf"))] == [2.0, 0.2]


def test_openings_that_say_nothing_are_left_out() -> None:
    times = np.arange(0, 10, 0.04)
    signals = with_openings(times, eyes(times, [(5.0, 5.2)]), spread=0.15)
    assert blinks(signals) == []
    sure = signals.eye_opening_spread.copy()
    sure[:, 1] = 0.02  # one eye is enough
    assert len(blinks(replace(signals, eye_opening_spread=sure))) == 1


def test_an_eye_that_is_turned_away_counts_little() -> None:
    times = np.arange(0, 2, 0.04)
    signals = with_openings(times, np.full(len(times), OPEN))
    opening, spread = signals.eye_opening.copy(), signals.eye_opening_spread.copy()
    opening[:, 0], spread[:, 0] = 0.9, 0.3
    mean, error = replace(signals, eye_opening=opening, eye_opening_spread=spread).mean_eye_opening()
    assert np.abs(mean - OPEN).max() < 0.01
    assert np.abs(error - 0.03).max() < 0.005
    opening[:] = np.nan
    mean, error = replace(signals, eye_opening=opening).mean_eye_opening()
    assert np.isnan(mean).all()
    assert np.isnan(error).all()
    assert blinks(replace(signals, eye_opening=opening)) == []


def test_a_face_that_comes_or_goes_with_shut_eyes_has_not_blinked() -> None:
    times = np.arange(0, 10, 0.04)
    openings = eyes(times, [(-1.0, 0.2), (9.9, 11.0)])
    assert blinks(with_openings(times, openings)) == []
    openings = eyes(times, [(4.0, 4.2), (7.0, 7.2)])
    seen = (times < 4.1) | (times > 4.1 + MAX_GAP + 0.1)
    assert [round(blink.time) for blink in blinks(with_openings(times[seen], openings[seen]))] == [7]


def test_people_whose_eyes_are_narrow_blink_too() -> None:
    times = np.arange(0, 10, 0.04)
    found = blinks(with_openings(times, eyes(times, [(5.0, 5.2)]) * 0.5, spread=0.015))
    assert len(found) == 1


@pytest.mark.parametrize("longest", [0, -1.0, float("nan"), "long"])
def test_lengths_that_cannot_be(longest: object) -> None:
    with pytest.raises(ConfigError, match="longest"):
        blinks(with_openings(np.arange(3.0), np.ones(3)), longest=longest)  # type: ignore[arg-type]


def test_signals_are_those_of_the_faces() -> None:
    both = replace(faces_at(0, 700), ids=np.array([4, 2]))
    alone = both[1:]
    signals = measure([(0.0, both), (0.5, Faces.empty(IBUG, (90, 60))), (1.5, alone)])
    assert list(signals) == [2, 4]
    assert signals[2].times.tolist() == [0.0, 1.5]
    assert signals[4].times.tolist() == [0.0]
    assert np.allclose(signals[4].eye_opening[0], both.eye_opening[0])
    assert np.allclose(signals[2].eye_opening_spread[1], both.eye_opening_spread[1])
    assert np.allclose(signals[2].mouth_opening, both.mouth_opening[1])
    assert np.allclose(signals[2].mouth_opening_spread, both.mouth_opening_spread[1])
    assert np.allclose(signals[2].pose[1], both.pose()[1], equal_nan=True)
    assert np.allclose(signals[2].confidence, both.mean_confidence[1])


def test_a_layout_without_lids_has_no_openings() -> None:
    faces = replace(faces_at(0), ids=np.array([1])).convert("five")
    signals = measure([(0.0, faces)])[1]
    assert np.isnan(signals.eye_opening).all()
    assert np.isnan(signals.mouth_opening).all()
    assert np.isnan(signals.pose).all()
    assert faces.layout is layout("five")


def test_faces_without_ids() -> None:
    with pytest.raises(ConfigError, match="no ids"):
        measure([(0.0, faces_at(0))])


def test_a_plot_is_a_picture() -> None:
    times = np.concatenate([np.arange(0, 5, 0.04), np.arange(8, 10, 0.04)])
    signals = with_openings(times, eyes(times, [(2.0, 2.2)]))
    assert plot({1: signals, 2: replace(signals, id=2)}, "a $ b").startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no faces"):
        plot({})
