"""A landmarker over a set: placements, order, missing faces, broken pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation_fixtures import drawn_samples
from octamark.datasets import Sample
from octamark.errors import DataError, PictureError
from octamark.evaluation.run import (
    Predictions,
    View,
    detector_crop,
    label_crop,
    own_box_crop,
    placement_for,
    predict,
)
from octamark.faces import Faces
from octamark.geometry import Crop, apply, crop_transform, landmark_boxes
from octamark.inference.landmarker import Landmarker, load
from octamark.models import CropRule
from telling_model import silent_model

RULE = CropRule(size=64, margin=1.5, detector_scale=2.0, detector_shift=(0, 0.25), detector_residual=(0, 0, 0))
BLACK = np.zeros((400, 400, 3), np.uint8)
POINTS = np.array([[10.0, 20.0], [50.0, 40.0], [np.nan, np.nan]], np.float32)  # tight box 40 wide, 20 high


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return drawn_samples(tmp_path_factory.mktemp("faces"), 6)


def square(crop: Crop | None) -> NDArray[np.float64]:
    """Middle x, middle y and side of an upright crop."""
    assert crop is not None
    return np.array([*apply(crop.transform, np.array([31.5, 31.5])), crop.side(64)])


def test_crops_by_hand() -> None:
    one = Sample("a", Path("a.png"), POINTS, box=np.array([0, 0, 40, 10], np.float32))
    crop = label_crop(RULE)(one, BLACK)
    np.testing.assert_allclose(square(crop), [30, 30, 60])  # 1.5 times the longer side
    assert crop is not None
    np.testing.assert_allclose(crop.centre, [30, 30])
    crop = own_box_crop(RULE)(one, BLACK)
    np.testing.assert_allclose(square(crop), [20, 5 + 0.25 * 20, 40])  # root of the area 20: twice, and a quarter down
    assert crop is not None
    np.testing.assert_allclose(crop.centre, [20, 5])  # turning is about the box, not about the crop
    boxes = np.array([[300, 300, 340, 320], [12, 18, 52, 38]], np.float32)
    crop = detector_crop(RULE, lambda picture: (boxes, np.ones(2, np.float32)))(one, BLACK)
    assert crop is not None
    np.testing.assert_allclose(crop.centre, [32, 28])  # the box that overlaps, not the first
    assert detector_crop(RULE, lambda picture: (boxes[:1], np.ones(1, np.float32)))(one, BLACK) is None


def test_boxes_that_are_not_there() -> None:
    one = Sample("a", Path("x/a.png"), POINTS)
    with pytest.raises(DataError, match=r"a \(x/a\.png\): the set gives no face box; use boxes labels or detector"):
        placement_for("own", RULE)(one, BLACK)
    flat = replace(one, landmarks=np.full((3, 2), 5, np.float32))
    with pytest.raises(DataError, match=r"a \(x/a\.png\): its box has no extent"):
        placement_for("labels", RULE)(flat, BLACK)


def test_crops_move_scale_and_turn() -> None:
    crop = Crop(BLACK, crop_transform(np.array([100.0, 80.0, 40.0]), 64), np.array([100.0, 75.0]))
    moved = crop.moved(64, shift=(0.1, -0.2), scale=1.5, angle=90.0)
    middle = np.array([31.5, 31.5])
    np.testing.assert_allclose(apply(moved.transform, middle), [104, 72])
    np.testing.assert_allclose(moved.centre, [104, 67])
    right = apply(moved.transform, middle + np.array([1, 0])) - apply(moved.transform, middle)
    np.testing.assert_allclose(right, [0, 60 / 64], atol=1e-9)
    np.testing.assert_allclose(crop.moved(64).transform, crop.transform, atol=1e-12)


def test_predictions_are_those_of_the_landmarker(nano: Landmarker, samples: list[Sample]) -> None:
    seen = predict(nano, samples, {"labels": View(label_crop(nano.card.crop))})["labels"]
    assert seen.found.all()
    assert seen.scale is not None
    for index, sample in enumerate(samples):
        box = landmark_boxes(sample.landmarks)
        faces = nano(sample.picture, box[None], box_kind="landmarks")
        np.testing.assert_allclose(seen.landmarks[index], faces.landmarks[0], atol=2e-3)
        np.testing.assert_allclose(seen.spread[index], faces.spread[0], atol=2e-3)  # type: ignore[index]
        np.testing.assert_allclose(seen.confidence[index], faces.confidence[0], atol=2e-3)  # type: ignore[index]
        assert seen.scale[index] == pytest.approx(np.hypot(*faces.crops[0, :, 0]))


def test_faces_not_found_are_nan_and_order_is_kept(nano: Landmarker, samples: list[Sample]) -> None:
    label = label_crop(nano.card.crop)
    calls: list[str] = []

    def some(sample: Sample, picture: NDArray[np.uint8]) -> Crop | None:
        calls.append(sample.name)
        return None if sample.name in ("face_1", "face_4") else label(sample, picture)

    ticks: list[None] = []
    views = {"one": View(some), "turned": View(some, angle=10.0), "all": View(label)}
    seen = predict(nano, samples, views, advance=lambda: ticks.append(None))
    assert calls == [sample.name for sample in samples]  # once a picture, however many views share it
    assert len(ticks) == len(samples)
    assert seen["one"].found.tolist() == [True, False, True, True, False, True]
    assert seen["turned"].found.tolist() == seen["one"].found.tolist()
    assert seen["all"].found.all()
    np.testing.assert_allclose(seen["one"].landmarks[5], seen["all"].landmarks[5], atol=2e-3)
    for part in (seen["one"].spread, seen["one"].confidence, seen["one"].scale):
        assert part is not None
        assert np.isnan(part[[1, 4]]).all()


def test_broken_pictures_raise_or_are_told(nano: Landmarker, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    several = [*samples[:2], replace(samples[2], name="bad", picture=tmp_path / "bad.png"), samples[3]]
    view = {"": View(label_crop(nano.card.crop))}
    with pytest.raises(PictureError, match=r"bad\.png: not a picture"):
        predict(nano, several, view)
    reported: list[tuple[str, str]] = []
    seen = predict(nano, several, view, broken=lambda sample, message: reported.append((sample.name, message)))[""]
    assert seen.found.tolist() == [True, True, False, True]
    ((name, message),) = reported
    assert name == "bad"
    assert "bad.png: not a picture" in message


def test_some_of_the_predictions() -> None:
    whole = Predictions(np.arange(12, dtype=np.float32).reshape(3, 2, 2), None, np.ones((3, 2), np.float32))
    part = whole.take(np.array([True, False, True]))
    assert part.landmarks[:, 0, 0].tolist() == [0, 8]
    assert part.spread is None
    assert part.confidence is not None
    assert part.confidence.shape == (2, 2)


def test_what_can_be_seen_is_kept(samples: list[Sample]) -> None:
    """Of a model that tells it."""
    nano = load("nano", threads=1)
    places = np.arange(6)[:, None] / 10 + np.arange(68) / 1000
    calls = iter(places)

    class Telling:
        layout, card = nano.layout, nano.card

        def read_crops(self, *arguments: Any) -> Faces:
            return replace(nano.read_crops(*arguments), visible=next(calls)[None].astype(np.float32))

    views = {"": View(label_crop(nano.card.crop))}
    told = predict(Telling(), samples, views)[""]  # type: ignore[arg-type]
    np.testing.assert_allclose(told.visible, places, rtol=1e-6)
    assert predict(Landmarker(silent_model("nano")), samples[:1], views)[""].visible is None
