"""The order of looks: how much is looked at, small faces beside large ones, turned, blurred and missing faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import octamark
from octamark import FaceDetector
from octamark.faces import Landmarks
from octamark.geometry import Crop, Picture
from octamark.inference import search
from octamark.inference.last_look import MIN_SCORE, confirmed_faces
from octamark.inference.search import Candidates

NOSE = np.array([225.0, 115.0])  # of the astronaut


@pytest.fixture
def areas(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pixels of each run of the network."""
    runs: list[int] = []
    find_faces = search.find_faces

    def recorded(pictures: NDArray[np.uint8], *arguments: Any) -> Any:
        runs.append(int(np.prod(pictures.shape[:3])))
        return find_faces(pictures, *arguments)

    monkeypatch.setattr(search, "find_faces", recorded)
    return runs


def portrait(photograph: Picture, side: int) -> Picture:
    """The astronaut's face with room around it."""
    return np.asarray(cv2.resize(photograph[0:230, 110:340], (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def assert_boxes_hold(boxes: NDArray[np.float32], points: Sequence[Sequence[float]]) -> None:
    """Each box holds one of the points."""
    assert len(boxes) == len(points)
    for x, y in points:
        assert any(left < x < right and top < y < bottom for left, top, right, bottom in boxes)


def test_one_large_face_needs_one_small_look(photograph: Picture, areas: list[int]) -> None:
    boxes, _ = FaceDetector()(photograph)
    assert len(boxes) == 1
    assert sum(areas) < 2 * search.FIRST_SIDE**2


def test_a_picture_in_which_nothing_resembles_a_face_is_looked_at_twice(areas: list[int]) -> None:
    boxes, _ = FaceDetector()(np.full((700, 900, 3), 128, np.uint8))
    assert len(boxes) == 0
    assert sum(areas) < 1.5 * search.SECOND_SIDE**2


def test_small_faces_beside_a_large_one_are_found(photograph: Picture) -> None:
    canvas = np.full((480, 640, 3), (90, 110, 100), np.uint8)
    canvas[20:420, 10:410] = portrait(photograph, 400)
    points = [(10 + 400 * 0.5, 20 + 400 * 0.5)]
    for index, side in enumerate((24, 30, 40, 60, 90)):
        top, left = 15 + 80 * index, 440 + 20 * index
        canvas[top : top + side, left : left + side] = portrait(photograph, side)
        points.append((left + side / 2, top + side / 2))
    assert_boxes_hold(FaceDetector()(canvas)[0], points)


def test_faces_that_are_small_in_a_large_picture_are_found_without_tiles(photograph: Picture) -> None:
    canvas = np.full((1200, 1800, 3), (90, 110, 100), np.uint8)
    points = []
    for left, top in ((100, 200), (1500, 90)):
        canvas[top : top + 64, left : left + 64] = portrait(photograph, 64)
        points.append((left + 32, top + 32))
    assert_boxes_hold(FaceDetector()(canvas)[0], points)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_faces_of_turned_pictures_are_found_where_they_are(photograph: Picture, turns: int) -> None:
    part = photograph[:300, 60:420]
    turned = np.ascontiguousarray(np.rot90(part, turns))
    x, y = NOSE - (60, 0)
    height, width = part.shape[:2]
    nose = {1: (y, width - 1 - x), 2: (width - 1 - x, height - 1 - y), 3: (height - 1 - y, x)}[turns]
    assert_boxes_hold(FaceDetector()(turned)[0], [nose])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_boxes_in_turned_pictures_are_turned_back_exactly(turns: int) -> None:
    picture = np.zeros((90, 160), np.uint8)  # not square, so that width and height cannot be mixed up
    picture[20:41, 100:131] = 1
    rows, columns = np.nonzero(np.rot90(picture, turns))
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_array_equal(search._turned_back(box, turns, 160, 90), [[100, 20, 131, 41]])


@pytest.mark.parametrize("size", [(1281, 1279), (2051, 2047), (4099, 4101)])
def test_large_pictures_of_odd_sizes_have_their_boxes_in_place(photograph: Picture, size: tuple[int, int]) -> None:
    picture = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    boxes, _ = FaceDetector()(picture)
    scale = np.array(size) / 512
    assert_boxes_hold(boxes, [(NOSE + 0.5) * scale - 0.5])
    (expected,), _ = FaceDetector()(photograph)
    middle, expected_middle = (((box[:2] + box[2:]) / 2 + 0.5) for box in (boxes[0], expected))
    np.testing.assert_allclose(middle / scale, expected_middle, atol=6)


def test_a_blurred_face_is_found(photograph: Picture) -> None:
    picture = np.asarray(cv2.GaussianBlur(portrait(photograph, 700), (0, 0), 30), np.uint8)
    assert_boxes_hold(FaceDetector()(picture)[0], [(350, 350)])


def candidates(scores: Sequence[float], turns: int = 0) -> Candidates:
    boxes = np.array([[60 * index, 0, 60 * index + 50, 60] for index in range(len(scores))], np.float32)
    return Candidates(boxes.reshape(-1, 4), np.array(scores, np.float32), np.full(len(scores), turns))


def confirmed(given: Candidates, confidences: dict[float, float]) -> tuple[list[float], list[Crop]]:
    """The scores of the confirmed candidates, and the crops that were read.

    Args:
        confidences: mean confidence of the landmarks by the left side of a candidate's box.
    """
    picture = np.zeros((100, 600, 3), np.uint8)
    read_crops: list[Crop] = []

    def crops(chosen: Candidates) -> list[Crop]:
        return [Crop(picture, np.array([[1.0, 0, box[0]], [0, 1, box[1]]]), box[:2]) for box in chosen.boxes]

    def read(batch: Sequence[Crop]) -> list[Landmarks]:
        read_crops.extend(batch)
        return [
            Landmarks(np.zeros((68, 2)), np.ones((68, 2)), np.full(68, confidences[float(crop.centre[0])]))
            for crop in batch
        ]

    boxes, scores = confirmed_faces(given, 0.6, crops, read)
    assert len(boxes) == len(scores)
    return np.round(scores.astype(float), 3).tolist(), read_crops


def test_faces_of_which_the_detector_is_sure_are_not_read() -> None:
    assert confirmed(candidates([0.7, 0.5, 0.65]), {}) == ([0.7, 0.65], [])


def test_the_landmark_network_decides_where_the_detector_is_unsure() -> None:
    scores, crops = confirmed(candidates([0.2, 0.5, MIN_SCORE / 2, 0.3]), {0: 0.8, 60: 0.7, 180: 0.1})
    assert scores == [0.2, 0.5]
    assert len(crops) == 3


def test_if_the_best_candidate_is_no_face_the_others_are_not_read() -> None:
    scores, crops = confirmed(candidates([0.2, 0.5]), {0: 0.9, 60: 0.1})
    assert scores == []
    assert len(crops) == 1


def test_nothing_is_read_where_there_is_no_candidate() -> None:
    assert confirmed(candidates([]), {}) == ([], [])
    assert confirmed(candidates([MIN_SCORE / 2]), {}) == ([], [])


@pytest.mark.parametrize(("turns", "angle"), [(0, 0), (1, 90), (3, -90)])
def test_candidates_of_turned_pictures_are_read_turned(turns: int, angle: float) -> None:
    _, (crop,) = confirmed(candidates([0.5], turns), {0: 0.9})
    assert crop.angle == pytest.approx(angle)


def test_a_face_below_the_threshold_is_kept_if_the_landmarks_are_sure(photograph: Picture) -> None:
    strict = FaceDetector(0.99)
    assert len(strict(photograph)[0]) == 0
    faces = octamark.load("nano", detector=strict)(photograph)
    assert_boxes_hold(faces.boxes, [(NOSE[0], NOSE[1])])
    assert faces.scores[0] < 0.99


def test_what_only_resembles_a_face_is_left_out(photograph_path: Any) -> None:
    strict = FaceDetector(0.99)
    picture = octamark.read_picture(photograph_path.with_name("chelsea.png"))  # a cat
    assert len(strict.candidates(picture)) > 0
    assert len(octamark.load("nano", detector=strict)(picture)) == 0
