"""The face detector: copies in other processes and threads, tiles for small faces in large pictures, overlaps."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from octamark import ConfigError, FaceDetector, WeightsError
from octamark.inference import yunet
from octamark.inference.detector import _lie_whole_in_tile, _tile_starts
from octamark.inference.search import Candidates, merged

Picture = NDArray[np.uint8]
PLACES = [(60, 90), (1900, 300), (3700, 60), (900, 1500), (2600, 1750), (3780, 1790), (1180, 560), (1880, 1088)]


@pytest.fixture(scope="module")
def panorama(photograph: Picture) -> tuple[Picture, NDArray[np.float64]]:
    """Eight faces of about 30 pixels in a picture of 4,000 x 2,000, and their centres; some lie across tiles."""
    face = np.asarray(cv2.resize(photograph[20:220, 130:330], (60, 60), interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.full((2000, 4000, 3), (120, 130, 140), np.uint8)
    for x, y in PLACES:
        canvas[y : y + 60, x : x + 60] = face
    return canvas, np.array([(x + 28, y + 27) for x, y in PLACES], np.float64)


def assert_same(
    first: tuple[NDArray[np.float32], NDArray[np.float32]], second: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    for values, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-4)


def test_boxes_and_scores_have_the_form_of_the_protocol(photograph: Picture) -> None:
    boxes, scores = FaceDetector()(photograph)
    assert (boxes.shape, boxes.dtype, scores.shape, scores.dtype) == ((1, 4), np.float32, (1,), np.float32)
    left, top, right, bottom = boxes[0]
    assert left < 225 < right  # the tip of the nose
    assert top < 115 < bottom


@pytest.mark.parametrize("tiles", [False, True])
def test_boxes_are_rounded(photograph: Picture, tiles: bool) -> None:
    """The network's last digits, in which processors differ, are not in them."""
    picture = np.asarray(cv2.resize(photograph, (1000, 1000)), np.uint8)
    boxes, _ = FaceDetector(tiles=tiles)(picture)
    assert len(boxes) == 1
    np.testing.assert_array_equal(boxes * 16, np.round(boxes * 16))


def test_a_copy_by_pickle_finds_the_same(photograph: Picture) -> None:
    detector = FaceDetector(0.7, tiles=True)
    detector(photograph)  # a network that is in use stays out of the copy
    copy = pickle.loads(pickle.dumps(detector))
    assert copy == detector
    assert_same(copy(photograph), detector(photograph))


def test_a_spawned_process_finds_the_same(photograph: Picture) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.apply(FaceDetector(), (photograph,)), FaceDetector()(photograph))


@pytest.mark.slow
def test_threads_with_different_thresholds_do_not_disturb_each_other(photograph: Picture) -> None:
    pictures = [np.ascontiguousarray(photograph[:, start:]) for start in range(0, 32, 4)]
    detectors = [FaceDetector(threshold) for threshold in (0.5, 0.99)]
    jobs = [(detector, picture) for picture in pictures for detector in detectors] * 2
    expected = [detector(picture) for detector, picture in jobs]
    assert {len(boxes) for boxes, _ in expected} == {0, 1}
    with ThreadPoolExecutor(8) as threads:
        for result, wanted in zip(threads.map(lambda job: job[0](job[1]), jobs), expected, strict=True):
            assert_same(result, wanted)


def test_a_detector_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FaceDetector().threshold = 0.9  # type: ignore[misc]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 60, float("nan")])
def test_impossible_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        FaceDetector(threshold)


def test_a_changed_weight_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    yunet.yunet_weights.cache_clear()
    monkeypatch.setattr(yunet, "YUNET_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="damaged"):
        FaceDetector()


def test_a_missing_weight_file_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    yunet.yunet_weights.cache_clear()
    monkeypatch.setattr(yunet, "__file__", str(tmp_path / "yunet.py"))
    with pytest.raises(WeightsError, match=r"yunet_2023mar\.onnx: cannot be read .*; .* --collect-data octamark"):
        FaceDetector()


@pytest.mark.slow
def test_tiles_find_each_small_face_once(panorama: tuple[Picture, NDArray[np.float64]]) -> None:
    picture, centres = panorama
    assert len(FaceDetector()(picture)[0]) < len(centres)
    boxes, scores = FaceDetector(tiles=True)(picture)
    assert len(boxes) == len(centres) == len(scores)
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.linalg.norm(found[:, None] - centres, axis=2)
    assert sorted(nearest.argmin(axis=1)) == list(range(len(centres)))
    assert nearest.min(axis=1).max() < 8


@pytest.mark.slow
def test_tiles_keep_faces_that_no_tile_holds(photograph: Picture) -> None:
    large = np.asarray(cv2.resize(photograph, (2600, 2600), interpolation=cv2.INTER_CUBIC), np.uint8)
    (plain,), _ = FaceDetector()(large)
    (tiled,), _ = FaceDetector(tiles=True)(large)
    np.testing.assert_allclose(tiled, plain, atol=60)


def test_small_pictures_have_no_tiles(photograph: Picture) -> None:
    for first, second in zip(FaceDetector()(photograph), FaceDetector(tiles=True)(photograph), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("length", [1, 300, 640, 641, 1000, 4000, 7680])
@pytest.mark.parametrize("side", [640, 1280])
def test_tiles_cover_a_length_with_overlap(length: int, side: int) -> None:
    starts = _tile_starts(length, side)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)
    assert all(second - first <= side * 3 // 4 for first, second in itertools.pairwise(starts))


def test_cut_boxes_are_left_to_the_neighbouring_tile() -> None:
    boxes = np.array([[100, 100, 200, 200], [640, 700, 700, 760], [1200, 700, 1279, 760]], np.float32)
    np.testing.assert_array_equal(_lie_whole_in_tile(boxes[:1], 0, 0, 640, 4000, 2000), [True])
    np.testing.assert_array_equal(_lie_whole_in_tile(boxes[1:], 640, 640, 640, 4000, 2000), [False, False])
    np.testing.assert_array_equal(
        _lie_whole_in_tile(boxes[2:], 640, 640, 640, 1280, 2000), [True]
    )  # the picture ends there


def test_of_boxes_on_one_face_the_surest_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [2, 2, 6, 6]], np.float32)
    both = Candidates(boxes, np.array([0.7, 0.9, 0.8, 0.6], np.float32), np.arange(4))
    together = merged(0.5, both.select(np.arange(2)), both.select(np.arange(2, 4)))
    np.testing.assert_array_equal(together.boxes, boxes[[1, 2]])
    np.testing.assert_allclose(together.scores, [0.9, 0.8])
    np.testing.assert_array_equal(together.turns, [1, 2])
    assert len(merged(0.5, both.select(np.zeros(0, np.int64)))) == 0


def test_unsure_places_are_left_out_where_there_is_a_face() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    both = Candidates(boxes, np.array([0.7, 0.4], np.float32), np.zeros(2, np.int64))
    assert len(merged(0.6, both)) == 1
    assert len(merged(0.8, both)) == 2


@pytest.mark.parametrize("threshold", [0, 1, -1, float("nan"), "a", None])
def test_thresholds_that_are_refused(threshold: Any) -> None:
    with pytest.raises(ConfigError, match=r"^threshold .*; allowed: numbers between 0 and 1"):
        FaceDetector(threshold)
