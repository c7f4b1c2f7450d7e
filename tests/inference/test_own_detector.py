"""Detectors of one's own: what they return is checked, and a message says which detector returned what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octamark
from octamark import BoxError, ConfigError
from octamark.inference.detector import detections

PICTURE = np.zeros((100, 120, 3), np.uint8)
BOX = np.array([[10, 10, 90, 90]], np.float32)
ONE = np.ones(1, np.float32)


def returns(value: Any) -> Any:
    def own(picture: np.ndarray) -> Any:
        return value

    return own


@pytest.mark.parametrize(
    "value",
    [(BOX, ONE), (BOX.astype(np.float64), ONE), (BOX.astype(int), [1]), (BOX.tolist(), [1.0]), [BOX, ONE]],
)
def test_boxes_of_any_number_type_become_float32(value: Any) -> None:
    boxes, scores = detections(returns(value), PICTURE)
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_array_equal(boxes, BOX)
    np.testing.assert_array_equal(scores, ONE)


@pytest.mark.parametrize("value", [([], []), (np.zeros((0, 4)), np.zeros(0)), (np.zeros(0), np.zeros((0, 1)))])
def test_no_face(value: Any) -> None:
    boxes, scores = detections(returns(value), PICTURE)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "detector own: returned NoneType; expected a pair, boxes .n, 4. and scores .n,."),
        (BOX, "detector own: returned ndarray; expected a pair"),
        ((BOX, ONE, 1), "detector own: returned tuple; expected a pair"),
        ((BOX[0], ONE), r"detector own: boxes must be \(n, 4\), .* got shape \(4,\)"),
        ((np.ones((1, 5)), ONE), r"detector own: boxes must be \(n, 4\), .* got shape \(1, 5\)"),
        (("a", "b"), r"detector own: boxes must be \(n, 4\) numbers"),
        ((BOX * np.nan, ONE), r"detector own: box 0 .*: not finite"),
        ((BOX + 5000, ONE), "detector own: box 0 .*: outside the picture of 120x100 pixels"),
        ((BOX[:, [2, 3, 0, 1]], ONE), "detector own: box 0 .*: boxes are x1 y1 x2 y2 with x1 < x2"),
        ((BOX / 120, ONE), "detector own: box 0 .*shares of the picture"),
        ((BOX + 1j, ONE), r"detector own: boxes must be \(n, 4\) numbers"),
        ((BOX, None), r"detector own: scores must have shape \(1,\), one for each box; got shape \(\)"),
        ((BOX, np.ones(2)), r"detector own: scores must have shape \(1,\), .* got shape \(2,\)"),
        ((BOX, ["a"]), "detector own: scores must be a number for each box"),
        ((BOX, [np.nan]), "detector own: scores must be finite; got"),
    ],
)
def test_what_it_returns_is_refused(value: Any, message: str) -> None:
    with pytest.raises(BoxError, match=message):
        octamark.load("nano", detector=returns(value))(PICTURE)


def test_a_detector_is_a_function() -> None:
    with pytest.raises(ConfigError, match="detector 'yunet'; allowed: a function from a picture to boxes and scores"):
        octamark.load("nano", detector="yunet")  # type: ignore[arg-type]
