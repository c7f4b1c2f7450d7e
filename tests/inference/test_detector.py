"""Tiles: small faces in large pictures, each once; whole pictures as before."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from octamark import FaceDetector
from octamark.inference.detector import _each_once, _starts, _whole

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


def test_tiles_find_each_small_face_once(panorama: tuple[Picture, NDArray[np.float64]]) -> None:
    picture, centres = panorama
    assert len(FaceDetector()(picture)[0]) < len(centres)
    boxes, scores = FaceDetector(tiles=True)(picture)
    assert len(boxes) == len(centres) == len(scores)
    found = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.linalg.norm(found[:, None] - centres, axis=2)
    assert sorted(nearest.argmin(axis=1)) == list(range(len(centres)))
    assert nearest.min(axis=1).max() < 8


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
    starts = _starts(length, side)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)
    assert all(second - first <= side * 3 // 4 for first, second in itertools.pairwise(starts))


def test_cut_boxes_are_left_to_the_neighbouring_tile() -> None:
    boxes = np.array([[100, 100, 200, 200], [640, 700, 700, 760], [1200, 700, 1279, 760]], np.float32)
    np.testing.assert_array_equal(_whole(boxes[:1], 0, 0, 640, 4000, 2000), [True])
    np.testing.assert_array_equal(_whole(boxes[1:], 640, 640, 640, 4000, 2000), [False, False])
    np.testing.assert_array_equal(_whole(boxes[2:], 640, 640, 640, 1280, 2000), [True])  # the picture ends there


def test_of_boxes_on_one_face_the_surest_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [2, 2, 6, 6]], np.float32)
    kept, scores = _each_once(boxes, np.array([0.7, 0.9, 0.8, 0.6], np.float32))
    np.testing.assert_array_equal(kept, boxes[[1, 2]])
    np.testing.assert_allclose(scores, [0.9, 0.8])
    assert _each_once(boxes[:0], scores[:0])[0].shape == (0, 4)
