"""The camera: centred pictures, the person's sides, signs of the angles."""

from __future__ import annotations

import numpy as np
import pytest

from octamark.synthesis.rendering.camera import looking_at

POINTS = np.random.default_rng(0).uniform([-8, -8, 2], [8, 6, 12], (60, 3))


@pytest.mark.parametrize(("yaw", "pitch", "roll", "distance"), [(0, 0, 0, 40), (70, -30, 25, 60), (-100, 20, -50, 250)])
def test_the_box_of_the_points_is_in_the_middle(yaw: float, pitch: float, roll: float, distance: float) -> None:
    camera = looking_at(POINTS, yaw, pitch, roll, distance, 300, 2.0, (0.0, 0.0))
    pixels, depth = camera.project(POINTS)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, 149.5, atol=1.0)
    assert (high - low).max() == pytest.approx(150, abs=2)
    assert (depth > 0).all()
    assert np.linalg.norm(camera.position - [0, 0, 4]) == pytest.approx(distance)


def test_the_camera_sees_the_sides_that_the_angles_say() -> None:
    sides = np.array([[8.0, 0, 0], [-8.0, 0, 0], [0, 0, 12], [0, 8, 4]])  # left, right, nose, forehead
    frontal, _ = looking_at(sides, 0, 0, 0, 100, 100, 2, (0, 0)).project(sides)
    assert frontal[0, 0] > frontal[1, 0]  # the person's left is on the right of the picture
    assert frontal[3, 1] < frontal[2, 1]
    turned, depth = looking_at(sides, 40, 0, 0, 100, 100, 2, (0, 0)).project(sides)
    assert depth[1] < depth[0]  # turned to the left: the right side is near
    assert turned[2, 0] > turned[:2, 0].mean()  # and the nose points to the right of the picture
    up, _ = looking_at(sides, 0, 30, 0, 100, 100, 2, (0, 0)).project(sides)
    assert up[2, 1] - up[0, 1] < frontal[2, 1] - frontal[0, 1]  # looking up: the nose is higher against the ears
    rolled, _ = looking_at(sides, 0, 0, 20, 100, 100, 2, (0, 0)).project(sides)
    assert rolled[3, 0] < rolled[2, 0]  # to the right shoulder: the forehead goes to the left of the picture
