"""Clips of moving faces: what moves the pixels moves the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.clips import IBUG, Clip, Portrait, Script
from benchmarks.video import ids_of, mean_of_five, one_euro
from numpy.typing import NDArray

from octamark.faces import Faces

POINTS: NDArray[np.float64] = IBUG.diagram.astype(np.float64) * 400 + 100


def portrait(dot: int) -> Portrait:
    """A grey picture with a bright spot at one of the landmarks."""
    picture = np.full((600, 600, 3), 40, np.uint8)
    rows, columns = np.indices((600, 600))
    spot = 200 * np.exp(-((columns - POINTS[dot, 0]) ** 2 + (rows - POINTS[dot, 1]) ** 2) / (2 * 2.0**2))
    return Portrait((picture + spot[..., None]).astype(np.uint8), POINTS, float(IBUG.reference_distance(POINTS)))


@pytest.mark.parametrize("dot", [8, 19, 30, 37, 41, 44, 51, 57, 66])
@pytest.mark.parametrize(
    ("closed", "mouth", "turn"), [(0.6, 0, (0, 0)), (0, 0.4, (0, 0)), (0, -0.2, (0.2, -0.1)), (0.3, 0.2, (0.1, 0.1))]
)
def test_a_spot_moves_with_its_landmark(dot: int, closed: float, mouth: float, turn: tuple[float, float]) -> None:
    picture, points = portrait(dot).bent(closed, mouth, np.array(turn, np.float64))
    bright = np.clip(picture[..., 0].astype(float) - 140, 0, None)
    assert bright.any()
    rows, columns = np.indices(bright.shape)
    seen = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
    np.testing.assert_allclose(seen, points[dot], atol=0.75)


def test_eyes_shut_in_a_blink_and_open_again() -> None:
    script = Script(6.0, 3)
    start = script.blink_starts()[1]
    openings = [
        IBUG.eye_opening(portrait(0).bent(script.closed(start + after), 0, np.zeros(2))[1]).mean()
        for after in (-0.01, 0.05, 0.11)
    ]
    assert openings[1] < 0.2 * openings[0]  # facing points of the diagram lie a little beside each other
    assert openings[2] == openings[0]


def faces_of(truth: NDArray[np.float64], ids: list[int]) -> Faces:
    """Faces exactly where they are."""
    count = len(truth)
    ones = np.ones((count, 68), np.float32)
    boxes = np.zeros((count, 4), np.float32)
    points = truth.astype(np.float32)
    return Faces(IBUG, (1280, 720), points, np.ones_like(points), ones, boxes, ones[:, 0], ids=np.array(ids, np.int64))


def test_id_switches_are_counted() -> None:
    truth = np.stack([POINTS, POINTS + 500])[None].repeat(5, axis=0)
    clip = Clip("cross 2", 25, lambda: iter(()), truth, np.ones((5, 2), bool))
    numbers = [[1, 2], [1, 2], [2, 1], [2, 1], [2, 3]]
    result = ids_of([faces_of(both, ids) for both, ids in zip(truth, numbers, strict=True)], clip)
    assert (result.visible, result.found, result.switches, result.shared, result.false) == (10, 10, 3, 2, 0)
    hidden = replace(clip, visible=np.array([[True, frame < 2] for frame in range(5)]))
    lost = [faces_of(truth[frame, :1], [1]) for frame in range(4)] + [faces_of(truth[4] + [[[0]], [[600]]], [1, 9])]
    result = ids_of(lost, hidden)
    assert (result.visible, result.found, result.switches, result.false) == (7, 5, 0, 1)


def test_peers_hold_noise_still_and_follow_late() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (200, 4, 2))
    assert one_euro(noise, 25, 1.0, 0.0, 100)[50:].std() < 0.5
    assert mean_of_five(noise)[50:].std() == pytest.approx(5**-0.5, rel=0.1)
    ramp = np.arange(200.0)[:, None, None] * np.ones(2)
    assert mean_of_five(ramp)[100, 0, 0] == pytest.approx(98)
    assert one_euro(ramp, 25, 1.0, 0.0, 100)[100, 0, 0] < one_euro(ramp, 25, 1.0, 50.0, 100)[100, 0, 0] < 100
