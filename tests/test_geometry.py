"""The pixel convention, held by pictures whose truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octamark.errors import BoxError
from octamark.geometry import (
    apply,
    check_boxes,
    crop,
    crop_transform,
    crops,
    detector_squares,
    invert,
    landmark_boxes,
    mirror_points,
    scale_points,
    squares,
)


def blob(height: int, width: int, x: float, y: float, sigma: float = 3.0) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(value[:, :, None], 3, axis=2).astype(np.uint8)


def centroid(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = picture[:, :, 0].astype(np.float64)
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def test_scaling_keeps_the_picture_borders() -> None:
    corners = np.array([[-0.5, -0.5], [9.5, 4.5]])
    np.testing.assert_allclose(scale_points(corners, 3.0), [[-0.5, -0.5], [29.5, 14.5]])


def test_mirroring_swaps_first_and_last_pixel() -> None:
    points = np.array([[0.0, 3.0], [9.0, 4.0]])
    np.testing.assert_allclose(mirror_points(points, 10, np.array([1, 0])), [[0.0, 4.0], [9.0, 3.0]])


def test_crop_of_the_whole_picture_at_its_own_size_is_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    transform = crop_transform(np.array([19.5, 19.5, 40.0]), 40)
    np.testing.assert_allclose(transform, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_array_equal(crop(picture, transform, 40), picture)


@pytest.mark.parametrize("side", [40.0, 100.0, 300.0, 900.0])
@pytest.mark.parametrize("angle", [0.0, 30.0, -120.0])
def test_a_blob_is_found_where_the_transform_says(side: float, angle: float) -> None:
    """Enlarged, about equal, and shrunk through area averages."""
    x, y = 501.3, 497.8
    picture = blob(1000, 1000, x, y, sigma=max(3.0, side / 20))
    transform = crop_transform(np.array([505.0, 495.0, side]), 100, angle)
    seen = centroid(crop(picture, transform, 100))
    np.testing.assert_allclose(apply(transform, seen), [x, y], atol=0.03 * side / 100 + 0.02)


def test_outside_the_picture_is_black() -> None:
    picture = np.full((20, 20, 3), 255, np.uint8)
    assert not crop(picture, crop_transform(np.array([500.0, 500.0, 50.0]), 32), 32).any()
    half = crop(picture, crop_transform(np.array([19.5, 9.5, 20.0]), 20), 20)
    assert half[:, :9].min() == 255
    assert half[:, 11:].max() == 0


def test_slivers_and_single_pixels_can_be_cropped() -> None:
    for shape in ((10, 20000, 3), (20000, 10, 3), (1, 1, 3)):
        picture = np.full(shape, 200, np.uint8)
        square = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2, 1.25 * max(shape[:2])])
        assert crop(picture, crop_transform(square, 64), 64).shape == (64, 64, 3)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 2000), st.integers(16, 512), st.floats(-180, 180)
)  # fmt: skip
def test_transforms_invert_and_have_the_squares_scale(x: float, y: float, side: float, size: int, angle: float) -> None:
    transform = crop_transform(np.array([x, y, side]), size, angle)
    points = np.array([[0.0, 0.0], [size - 1.0, 3.0], [size / 2 - 0.5, size / 2 - 0.5]])
    seen = apply(transform, points)
    np.testing.assert_allclose(seen[2], [x, y], atol=1e-6)
    np.testing.assert_allclose(apply(invert(transform), seen), points, atol=1e-6)
    np.testing.assert_allclose(np.hypot(*transform[:, 0]), side / size)


def test_boxes_and_squares() -> None:
    points = np.array([[[0.0, 10.0], [20.0, 50.0]]])
    boxes = landmark_boxes(points)
    np.testing.assert_allclose(boxes, [[0, 10, 20, 50]])
    np.testing.assert_allclose(squares(boxes, 1.5), [[10, 30, 60]])
    np.testing.assert_allclose(detector_squares(np.array([[0, 0, 10, 40]]), 2.0, (0.0, 0.5)), [[5, 30, 40]])


@pytest.mark.parametrize("scale", [0.5, 1.7, 4.2, 9.0])
def test_crops_that_share_a_reduction_look_as_each_alone(scale: float) -> None:
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    picture = np.asarray(cv2.resize(rough, (1200, 900), interpolation=cv2.INTER_CUBIC), np.uint8)
    squares_ = [(300.0, 300.0, 64 * scale), (420.0, 350.0, 64 * scale * 1.4), (-20.0, 850.0, 64 * scale)]
    transforms = np.stack([crop_transform(np.array(one), 64, 12.0) for one in squares_])
    transforms[1] = transforms[1] @ np.array([[-1.0, 0, 63], [0, 1, 0], [0, 0, 1]])  # mirrored
    together = crops(picture, transforms, 64).astype(np.float64)
    for one, transform in zip(together, transforms, strict=True):
        alone = crop(picture, transform, 64).astype(np.float64)
        assert np.abs(one - alone).mean() < 4
        assert np.quantile(np.abs(one - alone), 0.98) < 30
    transforms[:, :, 2] += 9000
    assert not crops(picture, transforms, 64).any()


def test_boxes_below_two_pixels_are_refused_with_a_hint() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    hint = "shares of the picture\\? Multiply x by 640 and y by 480"
    with pytest.raises(BoxError, match=rf"box 0 \(0.25, 0.5, 0.5, 0.75\): a side below 2 pixels.*pixels; {hint}"):
        check_boxes([[0.25, 0.5, 0.5, 0.75]], picture)
    for small in ([10, 10, 11.9, 50], [10, 10, 50, 11.9]):
        with pytest.raises(BoxError, match=r"a side below 2 pixels; boxes are in pixels$"):
            check_boxes([small], picture)
    np.testing.assert_array_equal(check_boxes([[10, 10, 12, 12]], picture), [[10, 10, 12, 12]])
