from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octamark import load
from octamark.datasets import read
from octamark.errors import ConfigError, LayoutError, PictureError
from octamark.faces import Face, Faces
from octamark.geometry import apply, crop_transform, invert, landmark_boxes
from octamark.io import Record
from octamark.io.json import picture_object
from octamark.layouts import chip_template, layout
from octamark.models.calibration import Calibration
from octamark.uncertainty import spearman

IBUG = layout("ibug68")
EYES = [list(range(36, 42)), list(range(42, 48))]
RATIOS = ((0.0, 0.0), (1.0, 0.5), (4.0, 1.0))


def made(count: int = 3) -> Faces:
    rng = np.random.default_rng(0)
    shape: NDArray[np.float32] = (IBUG.diagram * 200 + 50).astype(np.float32)
    landmarks = shape[None] + 300 * np.arange(count, dtype=np.float32)[:, None, None]
    spread = rng.uniform(1, 4, landmarks.shape).astype(np.float32)
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    scores = np.linspace(0.9, 0.7, count).astype(np.float32)
    crops = np.tile(np.eye(2, 3), (count, 1, 1))
    confidence = rng.uniform(0, 1, landmarks.shape[:2]).astype(np.float32)
    return Faces(IBUG, (1200, 1000), landmarks, spread, confidence, boxes, scores, crops)


def test_indexing() -> None:
    faces = made()
    assert isinstance(faces[0], Face)
    assert [face.score for face in faces] == pytest.approx([0.9, 0.8, 0.7])
    assert isinstance(faces[1:], Faces)
    assert len(faces[1:]) == 2
    assert len(faces[faces.scores > 0.75]) == 2
    np.testing.assert_array_equal(faces[[2, 0]].landmarks, faces.landmarks[[2, 0]])
    assert isinstance(faces[np.array(1)], Face)
    np.testing.assert_array_equal(faces[-1].landmarks, faces.landmarks[2])
    with pytest.raises(IndexError):
        faces[3]


def test_parts_by_name() -> None:
    faces = made()
    np.testing.assert_array_equal(faces[0]["left_eye"], faces.landmarks[0, 42:48])
    assert faces["nose"].shape == (3, 9, 2)
    with pytest.raises(LayoutError, match="no part 'ear'; parts: outline, right_brow"):
        faces[0]["ear"]


def test_groups_of_parts_and_single_points() -> None:
    faces = made()
    np.testing.assert_array_equal(faces["mouth"], faces.landmarks[:, 48:68])
    np.testing.assert_array_equal(faces[1]["eyes"], faces.landmarks[1, 36:48])
    np.testing.assert_array_equal(faces[1][30], faces.landmarks[1, 30])
    np.testing.assert_array_equal(faces[1][-1], faces.landmarks[1, 67])
    with pytest.raises(IndexError):
        faces[1][68]
    eye = faces[2].part("left_eye")
    assert len(eye) == 6
    np.testing.assert_array_equal(eye.points, faces.landmarks[2, 42:48])
    np.testing.assert_array_equal(eye.spread, faces.spread[2, 42:48])
    np.testing.assert_array_equal(eye.confidence, faces.confidence[2, 42:48])
    assert eye.mean_confidence == pytest.approx(float(faces.confidence[2, 42:48].mean()))
    assert len(faces[2].part("mouth")) == 20
    with pytest.raises(LayoutError, match=r"no part 'ear'.*groups: brows, eyes, mouth"):
        faces[2].part("ear")


def test_a_selection_keeps_everything() -> None:
    faces = replace(made(), heatmaps=np.zeros((3, 68, 4, 4), np.float32), ids=np.array([7, 8, 9]), radius_ratios=RATIOS)
    chosen = faces[faces.mean_confidence > np.sort(faces.mean_confidence)[0]]
    assert len(chosen) == 2
    for field in fields(Faces):
        values, before = getattr(chosen, field.name), getattr(faces, field.name)
        if isinstance(before, np.ndarray):
            kept = faces.mean_confidence > np.sort(faces.mean_confidence)[0]
            np.testing.assert_array_equal(values, before[kept], err_msg=field.name)
        else:
            assert values is before, field.name
    assert [face.id for face in faces] == [7, 8, 9]
    assert faces[0].radius_ratios == RATIOS
    assert made()[0].id is None
    assert replace(faces, crops=None)[1:].crops is None
    with pytest.raises(FrozenInstanceError):
        faces.size = (1, 1)  # type: ignore[misc]


def test_mean_confidence() -> None:
    faces = made()
    np.testing.assert_allclose(faces.mean_confidence, faces.confidence.mean(axis=1), rtol=1e-6)
    assert faces[1].mean_confidence == pytest.approx(float(faces.mean_confidence[1]))
    assert Faces.empty(IBUG, (9, 9)).mean_confidence.shape == (0,)


def test_radius() -> None:
    faces = replace(made(), radius_ratios=RATIOS)
    scale = np.sqrt((faces.spread**2).mean(axis=-1))
    for coverage, ratio in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 2.5), (1.0, 4.0)):
        np.testing.assert_allclose(faces.radius(coverage), scale * ratio, rtol=1e-5)
    np.testing.assert_array_equal(faces[1].radius(0.9), faces.radius(0.9)[1])
    assert faces.convert("five").radius(0.9).shape == (3, 5)
    for wrong in (1.1, -0.1, np.nan):
        with pytest.raises(ConfigError, match="allowed: 0 to 1"):
            faces.radius(wrong)
    with pytest.raises(ConfigError, match="carry no calibration"):
        made().radius(0.9)


def test_radius_is_what_the_calibration_of_the_model_says() -> None:
    calibration = Calibration.identity(68)
    faces = replace(made(), radius_ratios=calibration.ratios)
    np.testing.assert_allclose(faces.radius(0.8), calibration.radius(faces.spread, 0.8), rtol=1e-5)


def test_openings_of_a_face_and_of_faces() -> None:
    faces = made()
    np.testing.assert_allclose(faces.eye_opening, IBUG.eye_opening(faces.landmarks))
    assert faces.eye_opening.shape == faces.eye_opening_spread.shape == (3, 2)
    assert faces.mouth_opening.shape == faces.mouth_opening_spread.shape == (3,)
    np.testing.assert_allclose(faces[1].eye_opening, faces.eye_opening[1])
    np.testing.assert_allclose(faces[1].mouth_opening_spread, faces.mouth_opening_spread[1])
    tight = replace(faces, spread=faces.spread / 10)
    np.testing.assert_allclose(tight.eye_opening_spread, faces.eye_opening_spread / 10, rtol=1e-5)


def test_convert() -> None:
    faces = replace(made(), heatmaps=np.zeros((3, 68, 4, 4), np.float32), ids=np.arange(3), radius_ratios=RATIOS)
    five = faces.convert("five")
    assert five.layout is layout("five")
    np.testing.assert_allclose(five.landmarks[:, 1], faces["left_eye"].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(five.landmarks[:, 2:], faces.landmarks[:, [30, 48, 54]])
    np.testing.assert_array_equal(five.spread[:, 2:], faces.spread[:, [30, 48, 54]])
    assert (five.spread[:, :2] < np.stack([faces.spread[:, g].mean(axis=1) for g in EYES], axis=1)).all()
    np.testing.assert_allclose(five.confidence[:, 0], faces.confidence[:, 36:42].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(five.confidence[:, 2:], faces.confidence[:, [30, 48, 54]])
    assert five.heatmaps is None
    assert five.ids is faces.ids
    assert five.boxes is faces.boxes
    assert five.crops is faces.crops
    one = faces[1].convert("five")
    np.testing.assert_array_equal(one.landmarks, five.landmarks[1])
    np.testing.assert_array_equal(one.spread, five.spread[1])
    assert (one.id, one.score) == (1, faces[1].score)
    assert faces.convert("ibug68") is faces
    assert faces.convert(layout("ibug51")).landmarks.shape == (3, 51, 2)
    assert Faces.empty(IBUG, (5, 5)).convert("five").landmarks.shape == (0, 5, 2)
    with pytest.raises(LayoutError, match="no conversion from ibug68 to manga60"):
        faces.convert("manga60")


def test_unknown_points_of_a_conversion() -> None:
    """No bridge of the nose, no inner lips in 60 drawn points: NaN, and out of the mean confidence."""
    manga = layout("manga60")
    points = (manga.diagram[None] * 200).astype(np.float32)
    ones = np.ones((1, 60), np.float32)
    drawn = Faces(manga, (200, 200), points, np.ones_like(points), ones * 0.25, np.array([[0, 0, 9, 9]]), ones[:, 0])
    faces = drawn.convert("ibug68")
    assert np.isnan(faces.landmarks[0, 27]).all()
    assert np.isnan(faces.spread[0, 27]).all()
    assert np.isnan(faces.confidence[0, 27])
    assert faces.mean_confidence.tolist() == [0.25]
    values = faces.to_dict()["faces"][0]
    assert values["landmarks"][27] == [None, None]
    assert values["confidence"][27] is None
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_to_dict() -> None:
    faces = made(2)
    values = json.loads(json.dumps(faces.to_dict(), allow_nan=False))
    assert values == faces.to_dict()
    assert picture_object(Record("a.jpg", "a", "nano", faces)) == {"file": "a.jpg", "model": "nano", **values}
    np.testing.assert_allclose(values["faces"][1]["landmarks"], faces.landmarks[1], atol=0.0051)
    np.testing.assert_allclose(values["faces"][1]["spread"], faces.spread[1], atol=0.00051)
    np.testing.assert_allclose(values["faces"][1]["confidence"], faces.confidence[1], atol=0.000051)
    np.testing.assert_allclose(values["faces"][1]["box"], faces.boxes[1], atol=0.0051)
    assert values["faces"][1]["mean_confidence"] == pytest.approx(float(faces.mean_confidence[1]), abs=5e-5)
    assert values["faces"][0] == faces[0].to_dict()
    assert replace(faces, ids=np.array([4, 5])).to_dict()["faces"][1]["id"] == 5
    assert Faces.empty(IBUG, (64, 48)).to_dict() == {"width": 64, "height": 48, "layout": "ibug68", "faces": []}


ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Eyes, nose tip and mouth corners in a chip of 112 pixels (InsightFace)."""


def placed(name: str, points: NDArray[np.float64], angle: float, scale: float) -> Faces:
    """A face whose points are a template turned, scaled and moved: the chip can meet the template exactly."""
    turn = crop_transform(np.array([300.0, 260.0, scale]), 1, angle)
    target = layout(name)
    landmarks = apply(turn, points)[None].astype(np.float32)
    ones = np.ones((1, len(points)), np.float32)
    return Faces(target, (640, 480), landmarks, np.ones_like(landmarks), ones, np.array([[0, 0, 9, 9]]), ones[:, 0])


@pytest.mark.parametrize("angle", [0.0, 25.0, -140.0])
@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_insightface_chips_put_five_points_where_arcface_wants_them(angle: float, scale: float) -> None:
    faces = placed("five", (ARCFACE - 56) * scale, angle, 1.0)
    for size, factor in ((112, 1.0), (224, 2.0)):
        found = apply(invert(faces.chip_transforms(size)[0]), faces.landmarks[0])
        np.testing.assert_allclose(found, ARCFACE * factor, atol=1e-3)
    wide = apply(invert(faces.chip_transforms(112, 0.25)[0]), faces.landmarks[0])
    np.testing.assert_allclose(wide, (ARCFACE / 112 + 0.25) / 1.5 * 112, atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 25.0, -140.0])
def test_dlib_chips_put_eye_corners_where_dlib_does(angle: float) -> None:
    """dlib: p -> (p + padding) / (1 + 2 padding) * size, 150 pixels and a padding of 0.25 for its face recognition."""
    unit = np.array([[0.8596, 0.2135], [0.6461, 0.2290], [0.1206, 0.2137], [0.3341, 0.2291], [0.4901, 0.6278]])
    faces = placed("dlib5", (unit - 0.5) * 90, angle, 1.0)
    found = apply(invert(faces.chip_transforms(template="dlib")[0]), faces.landmarks[0])
    np.testing.assert_allclose(found, (unit + 0.25) / 1.5 * 150, atol=0.02)
    np.testing.assert_allclose(found[[0, 2], 1], [46.35, 46.37], atol=0.02)  # outer corners: 31 % of the chip's height
    close = apply(invert(faces.chip_transforms(200, 0.0, template="dlib")[0]), faces.landmarks[0])
    np.testing.assert_allclose(close, unit * 200, atol=0.03)


def test_chips_of_a_face_that_is_no_template() -> None:
    """The least squared error: in the chip for InsightFace (Umeyama), in the picture for dlib."""
    faces = made()
    five, corners = faces.convert("five").landmarks[1], faces.convert("dlib5").landmarks[1]
    inward = invert(faces.chip_transforms(112)[1])
    outward = faces.chip_transforms(150, template="dlib")[1]
    target = chip_template("dlib").pixels(150, 0.25)

    def chip_error(transform: NDArray[np.float64]) -> float:
        return float(((apply(transform, five) - ARCFACE) ** 2).sum())

    def picture_error(transform: NDArray[np.float64]) -> float:
        return float(((apply(transform, target) - corners) ** 2).sum())

    rng = np.random.default_rng(0)
    for _ in range(50):
        turn, grow, move = 1 + rng.normal(0, 0.01), rng.normal(0, 0.01), rng.normal(0, 0.2, 2)
        change = np.array([[turn, -grow], [grow, turn]])
        for error, transform in ((chip_error, inward), (picture_error, outward)):
            changed = np.concatenate([transform[:, :2] @ change, transform[:, 2:] + move[:, None]], axis=1)
            assert error(changed) > error(transform)


@pytest.mark.parametrize("index", [0.9, None, "0"])
def test_other_indices_of_faces_are_errors(index: Any) -> None:
    with pytest.raises((TypeError, LayoutError)):
        made()[index]


@pytest.mark.parametrize("coverage", [None, "a", [0.5], 1.5, np.nan])
def test_other_coverages_are_refused(coverage: Any) -> None:
    with pytest.raises(ConfigError, match=r"coverage .*; allowed: 0 to 1"):
        made().radius(coverage)


@pytest.mark.parametrize("template", ["insightface", "dlib"])
def test_chips_of_faces_without_place_are_black(template: str) -> None:
    """Such as faces with missing labels, or of a network that has learned nothing."""
    white = np.full((40, 50, 3), 255, np.uint8)
    for value in (20.0, np.nan):
        lost = replace(made(1), size=(50, 40), landmarks=np.full((1, 68, 2), value, np.float32))
        assert not lost.chips(white, template=template).any()


def test_chips_show_the_picture(photograph: NDArray[np.uint8], photograph_path: Path) -> None:
    """Points painted on the picture lie in the chip where its transform says; a path is a picture too."""
    height, width = photograph.shape[:2]
    points = (IBUG.diagram * 120 + (165, 60)).astype(np.float32)[None]
    ones = np.ones((1, 68), np.float32)
    faces = Faces(IBUG, (width, height), points, np.ones_like(points), ones, np.array([[0, 0, 9, 9]]), ones[:, 0])
    np.testing.assert_array_equal(faces.chips(photograph_path), faces.chips(photograph))
    dark = np.zeros_like(photograph)
    x, y = faces.convert("five").landmarks[0, 2].round().astype(int)
    dark[y - 2 : y + 3, x - 2 : x + 3] = 255
    for template, size in (("insightface", 112), ("dlib", 150)):
        (chip,) = faces.chips(dark, template=template)
        assert chip.shape == (size, size, 3)
        weight = chip[..., 0].astype(float)
        rows, columns = np.mgrid[:size, :size]
        seen = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        (transform,) = faces.chip_transforms(template=template)
        np.testing.assert_allclose(apply(transform, seen), [x, y], atol=0.3)
    assert faces.chips(photograph, 64, 0.5).shape == (1, 64, 64, 3)
    assert faces[:0].chips(photograph, template="dlib").shape == (0, 150, 150, 3)
    with pytest.raises(PictureError, match="a picture of 100x50 pixels; these faces were found in one of 512x512"):
        faces.chips(np.zeros((50, 100, 3), np.uint8))
    with pytest.raises(ConfigError, match="template 'facenet'; allowed: insightface, dlib"):
        faces.chips(photograph, template="facenet")
    wrong: list[tuple[Any, Any]] = [
        (0, None),
        (112, -0.1),
        (112.5, 0),
        ("112", 0),
        (10**6, 0),
        (112, np.nan),
        (112, "a"),
    ]
    for size, margin in wrong:
        with pytest.raises(ConfigError, match="a whole size from 1 to 4096, a margin from 0 to 10"):
            faces.chips(photograph, size, margin)


def test_eye_opening_spread_tells_errors_on_labelled_faces(w300_root: Path) -> None:
    """On validation faces the expected error of the eye opening rises with the real one, and has its size."""
    landmarker = load("nano", threads=1, refine="never")
    openings, errors = [], []
    for sample in read("300w", w300_root, "val")[::4]:
        faces = landmarker(sample.picture, landmark_boxes(sample.landmarks[None]), box_kind="landmarks")
        errors.append(np.abs(faces.eye_opening[0] - IBUG.eye_opening(sample.landmarks)))
        openings.append(faces.eye_opening_spread[0])
    expected, real = np.ravel(openings), np.ravel(errors)
    assert spearman(expected, real) > 0.1
    assert 0.5 < real.mean() / expected.mean() < 2
    half = expected > np.median(expected)
    assert real[half].mean() > 1.2 * real[~half].mean()


def test_empty_is_an_empty_faces() -> None:
    empty = Faces.empty(IBUG, (640, 480))
    assert len(empty) == 0
    assert list(empty) == []
    assert (empty.landmarks.shape, empty.spread.shape, empty.confidence.shape) == ((0, 68, 2), (0, 68, 2), (0, 68))
    assert (empty.boxes.shape, empty.scores.shape, empty.crops.shape) == ((0, 4), (0,), (0, 2, 3))
    assert empty["nose"].shape == (0, 9, 2)
    assert len(empty[1:]) == 0


def seen(count: int = 3) -> Faces:
    """Faces of a model that tells which points can be seen."""
    visible = np.random.default_rng(1).uniform(0, 1, (count, 68)).astype(np.float32)
    return replace(made(count), visible=visible)


def test_visible_follows_the_points() -> None:
    faces = seen()
    assert faces.visible is not None
    np.testing.assert_array_equal(faces[1].visible, faces.visible[1])
    np.testing.assert_array_equal(faces[[2, 0]].visible, faces.visible[[2, 0]])
    np.testing.assert_array_equal(faces[1].part("left_eye").visible, faces.visible[1, 42:48])
    assert made()[0].visible is None
    assert made()[:1].visible is None
    assert made()[0].part("left_eye").visible is None


def test_visible_of_a_conversion_is_the_mean_of_its_points() -> None:
    faces = seen()
    assert faces.visible is not None
    five = faces.convert("five")
    assert five.visible is not None
    assert five.visible.dtype == np.float32
    eyes = np.stack([faces.visible[:, g].mean(axis=1) for g in EYES], axis=1)
    np.testing.assert_allclose(five.visible[:, :2], eyes, rtol=1e-5)
    np.testing.assert_array_equal(five.visible[:, 2:], faces.visible[:, [30, 48, 54]])
    np.testing.assert_array_equal(faces[1].convert("five").visible, five.visible[1])
    assert made().convert("five").visible is None
    manga = layout("manga60")
    ones = np.ones((1, 60), np.float32)
    points = (manga.diagram[None] * 200).astype(np.float32)
    drawn = Faces(manga, (200, 200), points, points, ones, np.array([[0, 0, 9, 9]]), ones[:, 0], visible=ones)
    converted = drawn.convert("ibug68")
    assert converted.visible is not None
    assert np.isnan(converted.visible[0, 27])
    assert converted.to_dict()["faces"][0]["visible"][27] is None


def test_mean_confidence_counts_points_by_their_visibility() -> None:
    faces = seen()
    assert faces.visible is not None
    expected = np.average(faces.confidence, axis=1, weights=faces.visible)
    np.testing.assert_allclose(faces.mean_confidence, expected, rtol=1e-6)
    assert faces[1].mean_confidence == pytest.approx(expected[1], rel=1e-6)
    hidden = replace(faces, visible=np.zeros((3, 68), np.float32))
    np.testing.assert_array_equal(hidden.mean_confidence, made().mean_confidence)
    all_visible = replace(faces, visible=np.ones((3, 68), np.float32))
    np.testing.assert_array_equal(all_visible.mean_confidence, made().mean_confidence)


def test_visible_as_plain_values() -> None:
    faces = seen(2)
    assert faces.visible is not None
    values = json.loads(json.dumps(faces.to_dict(), allow_nan=False))
    np.testing.assert_allclose(values["faces"][1]["visible"], faces.visible[1], atol=0.000051)
    assert values["faces"][0] == faces[0].to_dict()
    assert "visible" not in made(2).to_dict()["faces"][0]


def test_empty_faces_of_a_model_that_tells_visibility() -> None:
    empty = Faces.empty(IBUG, (640, 480), visible=True)
    assert empty.visible is not None
    assert empty.visible.shape == (0, 68)
    assert empty.convert("five").visible is not None
    assert empty.mean_confidence.shape == (0,)
    assert Faces.empty(IBUG, (640, 480)).visible is None
