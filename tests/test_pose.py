"""The pose of heads: projections of the generic head give their angles back, and signs are those of the person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octamark.errors import ConfigError, LayoutError
from octamark.faces import Faces
from octamark.layouts import conversion, head_pose, layout
from octamark.layouts.head import DISTANCE, _reference_shape, angles

IBUG = layout("ibug68")
F64 = NDArray[np.float64]


def rotation(yaw: float, pitch: float, roll: float) -> F64:
    """Rz(roll) Rx(-pitch) Ry(yaw): from the axes of the head to those of the picture, y up."""
    a, b, c = np.radians([yaw, -pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def picture(yaw: float, pitch: float, roll: float, place: tuple[float, float, float] = (0, 0, DISTANCE)) -> F64:
    """Pixels (68, 2) of the generic head in a picture of 640x480 with a focal length of 800 pixels; brows are NaN.

    ``place`` is where its middle lies, in centimetres: to the right, down, and away from the camera.
    """
    shape = _reference_shape().points
    places = (shape - np.nanmean(shape, axis=0)) @ rotation(yaw, pitch, roll).T * [1, -1, -1] + place
    return places[:, :2] / places[:, 2:] * 800 + (319.5, 239.5)


def faces(points: F64) -> Faces:
    count = points.shape[-2]
    placed = points.reshape(-1, count, 2).astype(np.float32)
    confidence = np.ones(placed.shape[:2], np.float32)
    boxes = np.zeros((len(placed), 4), np.float32)
    return Faces(IBUG, (640, 480), placed, np.ones_like(placed), confidence, boxes, confidence[:, 0])


POSES = [(0, 0, 0), (12, 0, 0), (-40, 10, 0), (25, -30, 15), (75, 5, -20), (-10, 20, 120)]


@pytest.mark.parametrize("pose", POSES)
def test_a_known_camera_gives_the_angles_back(pose: tuple[float, float, float]) -> None:
    landmarks = picture(*pose, place=(9, -6, 70))
    assert np.allclose(faces(landmarks).pose(focal=800)[0], pose, atol=0.05)


@pytest.mark.parametrize("pose", POSES)
def test_the_line_of_sight_needs_no_camera(pose: tuple[float, float, float]) -> None:
    assert np.allclose(faces(picture(*pose)).pose()[0], pose, atol=2.5)
    assert np.allclose(faces(picture(*pose) * 0.1 + 1000).pose(), faces(picture(*pose)).pose(), atol=0.1)
    far = faces(picture(*pose, place=(0, 0, 500)))  # perspective is weaker than DISTANCE assumes
    assert np.allclose(far.pose()[0], pose, atol=4)


def test_signs_are_those_of_the_person() -> None:
    assert np.allclose(angles(np.eye(3)), 0)
    middle = _reference_shape().points[30]
    left, up = rotation(20, 0, 0) @ middle, rotation(0, 20, 0) @ middle
    assert left[0] > 0  # the nose moves to the person's left, which is the right of the picture
    assert up[1] > middle[1]
    crown = rotation(0, 0, 20) @ [0, 1, 0]
    assert crown[0] < 0  # the crown moves towards the person's right shoulder


def test_a_mirrored_face_has_mirrored_angles() -> None:
    landmarks = picture(14, 6, -9)
    mirrored = (landmarks * [-1, 1] + [639, 0])[IBUG.mirror]
    assert np.allclose(faces(mirrored).pose(), faces(landmarks).pose() * [-1, 1, -1], atol=0.01)


def test_the_pose_does_not_jump_when_a_face_turns() -> None:
    wrong = np.random.default_rng(0).normal(0, 2.0, (68, 2))  # a head that differs from the generic one
    turning = np.stack([picture(yaw, 5, 3) + wrong for yaw in np.arange(-50, 50, 0.5)])
    steps = np.abs(np.diff(faces(turning).pose(), axis=0))
    assert steps.max() < 1.2


def test_a_frown_or_a_far_side_that_is_hidden_changes_nothing() -> None:
    landmarks = picture(40, 0, 0)
    changed = landmarks.copy()
    changed[list(IBUG.part("left_brow"))] = 17.0
    changed[12:17] += (-9, 5)  # the outline of the side that is turned away follows the contour
    assert np.allclose(faces(changed).pose(), faces(landmarks).pose(), atol=1e-6)


def test_faces_without_a_pose() -> None:
    line = np.stack([np.arange(68.0), np.arange(68.0)], axis=-1)
    unknown = np.full((68, 2), np.nan)
    one_place = np.full((68, 2), 5.0)
    assert np.isnan(faces(np.stack([line, unknown, one_place])).pose()).all()
    assert faces(np.zeros((0, 68, 2))).pose().shape == (0, 3)


def test_the_generic_head_is_the_mean_head_of_the_renders(labelled_data: Path) -> None:
    if not (labelled_data / "heads" / "ict").is_dir():
        pytest.skip(f"needs the assets of octamark render in {labelled_data / 'heads'}")
    from octamark.synthesis.rendering.assets import Assets

    mean = Assets(labelled_data / "heads").mean
    shape = _reference_shape().points
    for point, place in zip(shape, IBUG.places, strict=True):
        if place.brow is None:
            assert np.allclose(point, mean[list(place.vertices)].mean(axis=0), atol=0.01)
        else:
            assert np.isnan(point).all()
    assert np.allclose(shape[IBUG.mirror] * [-1, 1, 1], shape, atol=1e-9, equal_nan=True)


def test_other_layouts() -> None:
    landmarks = picture(12, 4, 8)
    to_inner = conversion(IBUG, layout("ibug51"))
    assert np.allclose(head_pose(to_inner.points(landmarks)[None], layout("ibug51"))[0], (12, 4, 8), atol=2.5)
    with pytest.raises(LayoutError, match="five has 5 points"):
        faces(landmarks).convert("five").pose()
    with pytest.raises(LayoutError):
        head_pose(np.zeros((1, 19, 2)), layout("aflw19"))


def test_a_face_alone_has_the_same_pose() -> None:
    together = faces(picture(12, 4, 8))
    assert np.array_equal(together[0].pose(), together.pose()[0])


@pytest.mark.parametrize("focal", [0, -3.0, np.nan, np.inf, "far"])
def test_focal_lengths_that_cannot_be(focal: object) -> None:
    with pytest.raises(ConfigError, match="focal"):
        faces(picture(0, 0, 0)).pose(focal=focal)  # type: ignore[arg-type]
