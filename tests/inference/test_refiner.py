"""Refinement: when it runs, what it changes, and pictures that are not as pictures should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import octamark
from octamark import ConfigError, Landmarker, WeightsError, models
from octamark.faces import Landmarks
from octamark.geometry import Crop, apply, invert, landmark_boxes
from octamark.inference.refiner import (
    FULL_CROP_RATIO,
    MAX_SPREAD_RATIO,
    MIN_CROP_RATIO,
    OUTLINE_CROP_RATIO,
    Refiner,
)
from octamark.layouts import CONFIDENCE_SHARE, Layout
from octamark.models import Card, ModelCard

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(threads=1)


@pytest.fixture(scope="module")
def always() -> Landmarker:
    return octamark.load("small", refine="always", threads=1)


@pytest.fixture(scope="module")
def never() -> Landmarker:
    return octamark.load("small", refine="never", threads=1)


@pytest.fixture(scope="module")
def large(photograph: Picture) -> Picture:
    """The portrait's face, about 400 pixels wide: enlarged, no detail added."""
    return np.asarray(cv2.resize(photograph[:240, 100:340], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), np.uint8)


def test_the_released_regions_belong_to_the_released_model(refiner: Refiner) -> None:
    assert refiner.card.global_model == models.REGIONS_MODEL
    assert refiner.card.name == models.REGIONS
    assert len(models.read(models.REGIONS)) < 4e6
    assert refiner.card.terms
    assert refiner.card.scores["validation NME, %, label boxes, 201 faces"] > 0


def test_auto_refines_large_faces_of_the_model_it_was_made_for(
    never: Landmarker, always: Landmarker, photograph: Picture, large: Picture
) -> None:
    auto = octamark.load("small", threads=1)
    assert auto.options.refine == "auto"
    for picture, refined in ((large, True), (cv2.resize(photograph, (128, 128)), False)):
        expected = (always if refined else never)(picture)
        found = auto(picture)
        assert len(found) == 1
        side = np.hypot(*found.crops[0, :, 0]) * auto.card.crop.size
        ratio = side / auto.card.crop.size
        assert ratio > FULL_CROP_RATIO if refined else ratio < MIN_CROP_RATIO
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)
        np.testing.assert_array_equal(found.spread, expected.spread)
        np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert np.abs(always(large).landmarks - never(large).landmarks).max() > 0.5
    assert octamark.load("nano", threads=1).refiner is None
    assert octamark.load("nano", refine="always", threads=1).refiner is not None


def test_auto_keeps_the_first_landmarks_where_the_regions_expect_larger_errors(
    never: Landmarker, always: Landmarker, large: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = octamark.load("small", threads=1)
    first, refined = never(large), always(large)
    ratio, (low, high) = float(refined.spread.mean() / first.spread.mean()), MAX_SPREAD_RATIO
    call = Refiner.__call__
    for wanted, share in ((0.99 * low, 1.0), ((low + high) / 2, 0.5), (1.01 * high, 0.0)):

        def scaled(self: Refiner, *given: Any, factor: float = wanted / ratio) -> list[Landmarks]:
            return [replace(seen, spread=factor * seen.spread) for seen in call(self, *given)]

        monkeypatch.setattr(Refiner, "__call__", scaled)
        expected = (1 - share) * first.landmarks + share * refined.landmarks
        np.testing.assert_allclose(auto(large).landmarks, expected, atol=2e-3)


def test_places_read_off_the_picture(always: Landmarker, large: Picture) -> None:
    (face,) = always(large)
    places = {
        "right_eye": (102.5, 101.0),
        "left_eye": (146.0, 103.0),
        "nose": (124.0, 123.0),
        "outer_mouth": (124.0, 145.0),
    }
    for part, place in places.items():
        np.testing.assert_allclose(face[part].mean(axis=0) / 4, place, atol=6, err_msg=part)
    assert 0.5 < face.spread.mean() < 14
    assert face.confidence.mean() > 0.6


def test_confidence_follows_the_fused_spread(always: Landmarker, large: Picture) -> None:
    faces = always(large)
    assert always.refiner is not None
    radius = CONFIDENCE_SHARE * np.linalg.norm(faces.landmarks[0, 36] - faces.landmarks[0, 45])
    expected = always.refiner.card.calibration.within(faces.spread[0], radius)
    np.testing.assert_allclose(faces.confidence[0], expected, atol=1e-4)


def test_regions_of_the_outline_are_read_in_large_faces_alone(
    always: Landmarker, never: Landmarker, large: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = always.refiner
    assert refiner is not None
    counts: list[int] = []
    network = octamark.inference.refiner.run
    monkeypatch.setattr(
        octamark.inference.refiner, "run", lambda *given: counts.append(len(given[2])) or network(*given)
    )
    outline = list(refiner.layout.outline)
    low, high = OUTLINE_CROP_RATIO
    whole, face = len(refiner.table.regions), never(large)
    ratio = float(np.hypot(*face.crops[0, :, 0]))  # type: ignore[index]
    for wanted, crops in ((low * 0.95, whole - 3), ((low + high) / 2, whole), (high * 1.05, whole)):
        picture = cv2.resize(large, None, fx=wanted / ratio, fy=wanted / ratio, interpolation=cv2.INTER_CUBIC)
        counts.clear()
        before, after = never(picture, face.boxes * wanted / ratio), always(picture, face.boxes * wanted / ratio)
        assert counts == [crops]
        moved = np.abs(after.landmarks - before.landmarks).max(axis=2)[0]
        assert (moved[outline].max() > 0.05) == (crops == whole)  # the label offset moves by thousandths
        assert np.delete(moved, outline).max() > 0.2


def test_the_share_of_the_outline_rises_smoothly(refiner: Refiner) -> None:
    low, high = OUTLINE_CROP_RATIO
    shares = refiner.shares([0.5, low, (low + high) / 2, high, 9.0])
    assert refiner.table.outline.sum() == 3
    np.testing.assert_allclose(shares[:, ~refiner.table.outline], 1.0)
    np.testing.assert_allclose(shares[:, refiner.table.outline], np.array([[0, 0, 0.5, 1, 1]] * 3).T)


def test_many_faces_are_refined_as_one_by_one(always: Landmarker, large: Picture) -> None:
    turned = np.ascontiguousarray(large[:, ::-1])
    together = always([large, turned, large])
    for picture, found in zip((large, turned, large), together, strict=True):
        alone = always(picture)
        assert np.abs(found.landmarks - alone.landmarks).max() < 0.2 * alone.spread.mean()  # integers round differently


def test_a_mirrored_picture_gives_mirrored_points(always: Landmarker, large: Picture) -> None:
    plain, flipped = always(large), always(np.ascontiguousarray(large[:, ::-1]))
    back = flipped.landmarks[0, always.layout.mirror] * [-1, 1] + [large.shape[1] - 1, 0]
    distance = np.linalg.norm(plain.landmarks[0, 36] - plain.landmarks[0, 45])
    assert np.linalg.norm(back - plain.landmarks[0], axis=1).mean() < 0.03 * distance


def test_crops_lie_on_the_points(refiner: Refiner, never: Landmarker, large: Picture) -> None:
    (face,) = never(large)
    points, spread = face.landmarks.astype(np.float64), face.spread.astype(np.float64)
    (transforms,) = refiner.transforms([Landmarks(points, spread, face.confidence)])
    for region, transform in zip(refiner.table.regions, transforms, strict=True):
        inside = apply(invert(transform), points[list(region.landmarks)])
        assert (inside > 0).all()
        assert (inside < refiner.card.rule.size - 1).all()


@pytest.mark.parametrize(
    "cut", [(slice(None), slice(0, 560)), (slice(300, None), slice(None)), (slice(0, 520), slice(None))]
)
def test_regions_partly_outside_the_picture(always: Landmarker, large: Picture, cut: tuple[slice, slice]) -> None:
    part = np.ascontiguousarray(large[cut])
    whole = landmark_boxes(always(large).landmarks[0])
    offset = np.array([cut[1].start or 0, cut[0].start or 0] * 2)
    faces = always(part, [whole - offset], box_kind="landmarks")
    assert np.isfinite(faces.landmarks).all()
    assert np.isfinite(faces.spread).all()
    assert (faces.spread > 0).all()
    assert ((faces.confidence >= 0) & (faces.confidence <= 1)).all()


@pytest.mark.parametrize("side", [12, 24, 48])
def test_tiny_faces(always: Landmarker, never: Landmarker, photograph: Picture, side: int) -> None:
    """A face of so many pixels, refined on demand: a few pixels at most from the points of the global network."""
    box = landmark_boxes(never(photograph).landmarks[0])
    scale = side / (box[2:] - box[:2]).max()
    small = np.asarray(cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    given = [(box + 0.5) * scale - 0.5]
    found, coarse = (one(small, given, box_kind="landmarks") for one in (always, never))
    assert np.linalg.norm(found.landmarks - coarse.landmarks, axis=2).mean() < 0.06 * side


def test_profile_with_a_hidden_side(always: Landmarker, large: Picture) -> None:
    """Half of the face is covered, so that the global network squeezes or guesses it; and a face squeezed sideways."""
    covered = large.copy()
    covered[:, :490] = 0
    narrow = np.asarray(cv2.resize(large, None, fx=0.25, fy=1.0), np.uint8)
    box = landmark_boxes(always(large).landmarks[0])
    for picture, given in ((covered, box), (narrow, box * [0.25, 1, 0.25, 1])):
        faces = always(picture, [given], box_kind="landmarks")
        assert np.isfinite(faces.landmarks).all()
        spread = faces.spread[0].mean(axis=1)
        assert (spread > 0).all()
    visible, hidden = (always(one, [box], box_kind="landmarks") for one in (large, covered))
    right_side = [*range(5), *range(17, 22), *range(36, 42)]
    assert hidden.spread[0, right_side].mean() > 1.5 * visible.spread[0, right_side].mean()


@pytest.mark.slow
def test_twenty_megapixels_with_thirty_faces(always: Landmarker, photograph: Picture) -> None:
    face = photograph[:240, 100:340]
    sides = [120, 240, 480, 700]
    canvas = np.full((3750, 5400, 3), 90, np.uint8)
    boxes, index = [], 0
    reference = always(photograph)
    own = landmark_boxes(reference.landmarks[0]) - [100, 0, 100, 0]
    for top in range(0, 3750 - 700, 750):
        for left in range(0, 5400 - 700, 750):
            side = sides[index % 4]
            canvas[top : top + side, left : left + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
            boxes.append((own + 0.5) * (side / 240) - 0.5 + [left, top, left, top])
            index += 1
    assert len(boxes) >= 28
    faces = always(canvas, boxes[:30], box_kind="landmarks")
    assert len(faces) == len(boxes[:30])
    for number, box in enumerate(boxes[:30]):
        scale = sides[number % 4] / 240
        local = (faces.landmarks[number] - [box[0] + 0.5, box[1] + 0.5]) / scale
        truth = reference.landmarks[0] - [100, 0] - own[:2]
        assert np.linalg.norm(local - truth, axis=1).mean() < 4, number


def test_grey_and_16_bit_pictures(always: Landmarker, large: Picture, tmp_path: Path) -> None:
    grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
    expected = always(np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(always(grey).landmarks, expected.landmarks)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(always(tmp_path / "deep.png").landmarks, expected.landmarks)


def test_no_face_and_wrong_arguments(always: Landmarker) -> None:
    assert len(always(np.zeros((900, 900, 3), np.uint8))) == 0
    with pytest.raises(ConfigError, match="refine 'yes'; allowed: auto, always, never"):
        octamark.load("small", refine="yes")  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="unknown model 'region'; models: regions, or the path"):
        octamark.load("small", refine="always", regions="region")
    with pytest.raises(WeightsError, match="nano: a model for whole faces, not a regional network"):
        Refiner("nano")
    with pytest.raises(WeightsError, match="regions: a regional network, which is used beside a model"):
        octamark.load("regions")


def test_another_layout_is_refused_or_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = models.layout_of

    def layout_of(metadata: Mapping[str, str], card: Card, source: str) -> Layout:
        """The models' own layout under another name; that of the regional network as it is."""
        found = real(metadata, card, source)
        return replace(found, name="other") if isinstance(card, ModelCard) else found

    monkeypatch.setattr(models, "layout_of", layout_of)
    assert octamark.load("small", threads=1).refiner is None
    with pytest.raises(WeightsError, match="reads regions of layout ibug68, but small finds points of other"):
        octamark.load("small", refine="always")
    with pytest.raises(WeightsError, match="reads regions of layout ibug68"):
        octamark.load("small", regions=models.read(models.REGIONS))  # one's own, so asked for


def test_regional_readings_of_hidden_points_do_not_count(always: Landmarker, large: Picture) -> None:
    """Where the global network tells what can be seen; the points that can be are as without it."""
    refiner = always.refiner
    assert refiner is not None
    faces = octamark.load("small", refine="never", threads=1)(large)
    plain = Landmarks(faces.landmarks[0], faces.spread[0], faces.confidence[0])
    visible = np.where(np.arange(68) < 30, 0.0, 1.0)
    shares = np.ones((1, len(refiner.table.regions)))
    readings, spread = refiner.read([large], [plain], shares)
    joined, hidden, all_visible = (
        refiner.join([replace(plain, visible=values)], readings, spread, shares)
        for values in (None, visible, np.ones(68))
    )
    np.testing.assert_array_equal(hidden[0][0, :30], plain.points[:30])
    np.testing.assert_allclose(hidden[1][0, :30], plain.spread[:30], rtol=1e-6)
    assert not np.allclose(joined[0][0, :30], plain.points[:30], atol=0.01)
    for index in (0, 1):
        np.testing.assert_array_equal(hidden[index][0, 30:], joined[index][0, 30:])
        np.testing.assert_array_equal(all_visible[index], joined[index])


def test_refined_faces_keep_what_can_be_seen(always: Landmarker, large: Picture) -> None:
    refiner = always.refiner
    assert refiner is not None
    faces = octamark.load("small", refine="never", threads=1)(large)
    assert faces.crops is not None
    crop = Crop(large, faces.crops[0], faces.landmarks[0].mean(axis=0))
    visible = np.linspace(0, 1, 68)
    face = Landmarks(faces.landmarks[0], faces.spread[0], faces.confidence[0], visible=visible)
    for mode in ("auto", "always", "never"):
        (refined,) = refiner.refine([crop], [face], always.card.crop.size, mode)
        np.testing.assert_allclose(refined.visible, visible)
