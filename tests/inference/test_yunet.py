"""YuNet in ONNX Runtime: the boxes and scores of OpenCV at any size, batches, threads, and the rewritten file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from octamark import read_picture
from octamark.geometry import Picture
from octamark.inference.yunet import MAX_CANDIDATES, MAX_IOU, _suppressed, find_faces, with_free_shapes, yunet_weights

SIZES = [(512, 512), (320, 320), (640, 427), (97, 301), (64, 64)]


def opencv_faces(picture: Picture, threshold: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 4) xyxy and scores (n,) of OpenCV's own runner of the network."""
    weights = np.frombuffer(yunet_weights(), np.uint8)
    size = (picture.shape[1], picture.shape[0])
    network = cv2.FaceDetectorYN.create("onnx", weights, np.zeros(0, np.uint8), size, threshold, MAX_IOU)
    rows = network.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
    if rows is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, -1]


def assert_agrees_with_opencv(picture: Picture, threshold: float) -> int:
    ((boxes, scores),) = find_faces(picture[None], threshold)
    expected_boxes, expected_scores = opencv_faces(picture, threshold)
    assert boxes.dtype == scores.dtype == np.float32
    assert len(boxes) == len(expected_boxes)
    np.testing.assert_allclose(boxes, expected_boxes, atol=0.05)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
    return len(boxes)


@pytest.fixture(scope="module")
def crowd(photograph: Picture) -> Picture:
    """Twelve faces of 20 to 110 pixels."""
    canvas = np.full((480, 640, 3), (90, 110, 100), np.uint8)
    face = photograph[0:230, 110:340]
    for index in range(12):
        side = 48 + 12 * index if index < 9 else 40
        top, left = 160 * (index // 4), 160 * (index % 4)
        side = min(side, 160)
        canvas[top : top + side, left : left + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.mark.parametrize("size", SIZES)
def test_boxes_and_scores_are_those_of_opencv_at_any_size(photograph: Picture, size: tuple[int, int]) -> None:
    picture = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
    count = assert_agrees_with_opencv(picture, 0.6)
    assert count == 1 or min(size) < 100


@pytest.mark.parametrize("name", ["camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png"])
def test_pictures_in_which_the_network_is_unsure_agree_too(photograph_path: Path, name: str) -> None:
    assert_agrees_with_opencv(read_picture(photograph_path.with_name(name)), 0.05)


@pytest.mark.parametrize("threshold", [0.6, 0.05])
def test_many_faces_agree_too(crowd: Picture, threshold: float) -> None:
    assert assert_agrees_with_opencv(crowd, threshold) >= 10


def test_a_batch_gives_what_its_pictures_give_alone(photograph: Picture, crowd: Picture) -> None:
    pictures = np.stack([photograph[:480], crowd[:, :512], np.zeros_like(photograph[:480])])
    together = find_faces(pictures, 0.3)
    assert [len(boxes) > 0 for boxes, _ in together] == [True, True, False]
    for picture, (boxes, scores) in zip(pictures, together, strict=True):
        ((expected_boxes, expected_scores),) = find_faces(picture[None], 0.3)
        np.testing.assert_allclose(boxes, expected_boxes, atol=1e-3)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_threads_that_share_the_session_find_what_one_finds(photograph: Picture) -> None:
    pictures = [photograph[None, :, start : 512 - start] for start in range(0, 64, 8)] * 4
    expected = [find_faces(picture, 0.3) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for result, alone in zip(pool.map(lambda picture: find_faces(picture, 0.3), pictures), expected, strict=True):
            np.testing.assert_array_equal(result[0][0], alone[0][0])
            np.testing.assert_array_equal(result[0][1], alone[0][1])


def test_overlapping_boxes_are_left_out_as_in_opencv() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.uniform(-10, 60, (40, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(2, 40, (40, 2))], axis=1).astype(np.float32)
        scores = rng.uniform(0.1, 1, 40).astype(np.float32)
        whole = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(int)
        selected = cv2.dnn.NMSBoxes(whole.tolist(), scores.tolist(), 0.0, MAX_IOU, 1.0, MAX_CANDIDATES)
        np.testing.assert_array_equal(_suppressed(boxes, scores)[0], boxes[np.asarray(selected)])


def test_the_file_loses_its_sizes_and_nothing_else() -> None:
    before, after = onnx.load_from_string(yunet_weights()), onnx.load_from_string(with_free_shapes(yunet_weights()))
    assert before.graph.value_info
    assert not after.graph.value_info
    for old, new in zip(
        [*before.graph.input, *before.graph.output], [*after.graph.input, *after.graph.output], strict=True
    ):
        assert new.name == old.name
        assert len(new.type.tensor_type.shape.dim) == len(old.type.tensor_type.shape.dim)
        assert not any(dim.HasField("dim_value") for dim in new.type.tensor_type.shape.dim)
        new.type.CopyFrom(old.type)
    del before.graph.value_info[:]
    assert after == before
