"""Clips of moving faces: what moves the pixels moves the labels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from benchmarks.clips import EYES, IBUG, Clip, Portrait, Script
from benchmarks.video import (
    blink_openings,
    ids_of,
    lasting_errors,
    mean_of_five,
    one_euro,
    speed_of,
    there_and_back,
)
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
@pytest.mark.parametrize(("mouth", "turn"), [(0.4, (0, 0)), (-0.2, (0.2, -0.1)), (0.2, (0.1, 0.1))])
def test_a_spot_moves_with_its_landmark(dot: int, mouth: float, turn: tuple[float, float]) -> None:
    picture, points = portrait(dot).bent(0, mouth, np.array(turn, np.float64))
    bright = np.clip(picture[..., 0].astype(float) - 140, 0, None)
    assert bright.any()
    rows, columns = np.indices(bright.shape)
    seen = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
    np.testing.assert_allclose(seen, points[dot], atol=0.75)


@pytest.mark.parametrize("closed", [0.5, 1.0])
def test_a_lid_covers_the_eye_down_to_its_label(closed: float) -> None:
    """White eyes with black lashes in grey skin: the lashes go down, and leave grey behind."""
    picture = np.full((600, 600, 3), 128, np.uint8)
    for eye in EYES:
        outline = np.round(POINTS[[eye[0], *eye[1], eye[3], *eye[2][::-1]]]).astype(np.int32)
        cv2.fillPoly(picture, [outline], (255, 255, 255))
        cv2.polylines(picture, [outline[:4]], False, (0, 0, 0), 3)
    eyes = Portrait(picture, POINTS, float(IBUG.reference_distance(POINTS)))
    shut, points = eyes.bent(closed, 0, np.zeros(2))
    for eye in EYES:
        column = round(float(points[list(eye[1]), 0].mean()))
        top, edge, bottom = (float(each[list(lid), 1].mean()) for each, lid in zip(
            (POINTS, points, POINTS), (eye[1], eye[1], eye[2]), strict=True))  # fmt: skip
        values = shut[:, column, 0].astype(int)
        rows = np.arange(round(top) - 8, round(bottom) + 8)
        assert rows[values[rows].argmin()] == pytest.approx(edge, abs=3)  # curved lids: the label is beside the column
        assert values[round(top) - 1 : round(edge - 8)] == pytest.approx(128, abs=25)
        if closed < 1:
            assert values[round(bottom) - 5] > 190  # the eye below the lid
        else:
            assert values[rows].max() < 150
    moved = np.flatnonzero((points != POINTS).any(axis=1))
    assert moved.tolist() == [37, 38, 43, 44]


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


def test_a_face_is_still_where_all_its_points_are() -> None:
    truth = np.repeat(POINTS[None, None], 20, axis=0)
    truth[10, 0, 37] += 3
    still = Clip("rest", 25, lambda: iter(()), truth, np.ones((20, 1), bool)).still[:, 0]
    assert np.flatnonzero(~still).tolist() == [8, 9, 10, 11, 12, 13]  # it moves to frame 10 and back to frame 11


def test_errors_that_last_are_those_of_the_face_and_not_of_the_picture() -> None:
    """A face that turns and grows, read beside its place by the same share of itself, and by noise."""
    rng = np.random.default_rng(0)
    steps = np.arange(100)
    factors = (1 + 0.003 * steps) * np.exp(0.02j * steps)
    shape = POINTS @ np.array([1, 1j])
    places = factors[:, None] * shape + 5.0 * steps[:, None]
    constant = rng.normal(0, 3, 68) + 1j * rng.normal(0, 3, 68)
    lasting, noise = factors[:, None] * constant, rng.normal(0, 2, (100, 68))
    truth, expected, readings = (
        np.stack([values.real, values.imag], axis=-1) for values in (places, places + lasting, places + lasting + noise)
    )
    np.testing.assert_allclose(lasting_errors(readings - 0, truth), expected, atol=1.2)
    np.testing.assert_allclose(lasting_errors(readings, truth, reach=0), readings, atol=1e-6)
    near = np.abs(lasting_errors(readings, truth, reach=4) - expected).mean()
    assert np.abs(lasting_errors(readings, truth) - expected).mean() < near < np.abs(readings - expected).mean()


def test_openings_in_blinks_are_shares_of_those_around() -> None:
    truth = np.repeat(POINTS[None], 40, axis=0)
    for eye in EYES:
        truth[20, eye[1]] += 0.75 * (truth[20, eye[2]] - truth[20, eye[1]])
    clip = Clip("blink", 25, lambda: iter(()), truth[:, None], np.ones((40, 1), bool), blinks=[(0, 19, 21)])
    expected = IBUG.eye_opening(truth[20]).mean() / IBUG.eye_opening(truth[0]).mean()
    assert blink_openings(truth, clip) == pytest.approx([expected])
    assert expected < 0.4


def test_speed_is_a_share_of_the_eye_distance_at_any_rate() -> None:
    unit = IBUG.reference_distance(POINTS)
    shift = np.zeros((30, 1, 2))
    shift[:, 0, 0] = 0.02 * unit * np.arange(30)
    assert speed_of(POINTS + shift, 25)[1:] == pytest.approx(2)
    assert speed_of(POINTS + shift, 50)[1:] == pytest.approx(4)


def test_a_clip_runs_there_and_back_without_a_jump() -> None:
    pictures = [np.full((1, 1, 3), number, np.uint8) for number in range(3)]
    assert [int(there_and_back(pictures, number).max()) for number in range(8)] == [0, 1, 2, 2, 1, 0, 0, 1]
