"""Large JPEGs, which are decoded at reduced size: the same faces as in the full picture."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import octamark
from octamark import Faces, Landmarker, read_picture, stream
from octamark.images import decoding
from octamark.images import reduced as module
from octamark.images.reduced import JpegPicture
from octamark.inference.search import Views

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def nano() -> Landmarker:
    return octamark.load("nano", threads=1)


@pytest.fixture(scope="module")
def portrait(photograph: Picture) -> Picture:
    """The photograph enlarged to odd sides, with noise."""
    large = cv2.resize(photograph[:461], (2051, 1845), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return (large + np.random.default_rng(0).normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The portrait is decoded at a half first."""
    monkeypatch.setattr(module, "LEAST_SIDE", 1000)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The factors at which JPEGs were decoded."""
    factors, load = list[int](), decoding._load_reduced

    def counted(image: Image.Image, factor: int) -> Image.Image:
        factors.append(factor)
        return load(image, factor)

    monkeypatch.setattr(decoding, "_load_reduced", counted)
    return factors


def encoded(picture: Picture, orientation: int = 1, quality: int = 92) -> bytes:
    """The bytes of a JPEG that a viewer shows as ``picture``."""
    methods = Image.Transpose
    inverse = {
        2: methods.FLIP_LEFT_RIGHT, 3: methods.ROTATE_180, 4: methods.FLIP_TOP_BOTTOM, 5: methods.TRANSPOSE,
        6: methods.ROTATE_90, 7: methods.TRANSVERSE, 8: methods.ROTATE_270,
    }  # fmt: skip
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = image.transpose(inverse[orientation]) if orientation > 1 else image
    image.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def distance(first: Faces, second: Faces) -> float:
    """Mean distance of the points as a share of their expected error."""
    return float(
        (np.linalg.norm(first.landmarks - second.landmarks, axis=2) / np.linalg.norm(second.spread, axis=2)).mean()
    )


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_every_look_of_the_detector_is_that_at_the_full_picture(portrait: Picture, orientation: int) -> None:
    """To two pixels of the look, as boxes of YuNet move by that when the picture is reduced another way."""
    data = encoded(portrait, orientation)
    for side in (320, 640):
        reduced, full = (
            Views(picture, threads=1).look(side).of_score(0.6)
            for picture in (decoding.open_picture(data), read_picture(data))
        )
        assert len(reduced) == len(full) == 1
        np.testing.assert_allclose(reduced.boxes, full.boxes, atol=2 * 2051 / side)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_faces_are_those_of_the_full_picture(
    nano: Landmarker, portrait: Picture, orientation: int, decodings: list[int]
) -> None:
    data = encoded(portrait, orientation)
    full = nano(read_picture(data))
    assert not decodings
    faces = nano(data)
    assert decodings == [2]
    assert len(faces) == len(full) == 1
    assert faces.size == full.size == (2051, 1845)
    side = float(full.boxes[0, 2] - full.boxes[0, 0])
    np.testing.assert_allclose(faces.boxes, full.boxes, atol=0.1 * side)  # the detector's looks differ by that much
    np.testing.assert_allclose(faces.scores, full.scores, atol=0.02)
    assert distance(faces, full) < 1
    assert distance(nano(data, full.boxes), full) < 0.2  # int8 arithmetic turns other pixels into such distances


def test_a_face_that_fills_the_picture(nano: Landmarker, photograph: Picture, decodings: list[int]) -> None:
    data = encoded(cv2.resize(photograph[40:200, 145:305], (2050, 2050), interpolation=cv2.INTER_CUBIC))
    faces = nano(data, full_frame=True)
    assert decodings == [2]
    assert distance(faces, nano(read_picture(data), full_frame=True)) < 0.2


@pytest.mark.slow
def test_points_of_real_photographs_stay_within_a_tenth_of_their_expected_error(
    w300_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_SIDE", 300)
    small = octamark.load("small", threads=1)
    distances = []
    for path in sorted((w300_root / "helen" / "trainset").glob("*.jpg"))[:15]:
        full = small(read_picture(path))
        if isinstance(decoding.open_picture(path), JpegPicture) and len(full):
            distances.append(distance(small(path, full.boxes), full))
    assert len(distances) > 5
    assert 0 < np.mean(distances) < 0.1


def test_regions_are_read_as_finely_as_they_are_stored(portrait: Picture, decodings: list[int]) -> None:
    """The refinement needs pixels that the first decoding left out: the picture is decoded once more, at full size."""
    small = octamark.load("small", threads=1, refine="always")
    data = encoded(portrait)
    full = small(read_picture(data))
    faces = small(data, full.boxes)
    assert decodings == [2, 1]
    assert distance(faces, full) < 0.1


def test_small_faces_are_read_at_full_size(nano: Landmarker, photograph: Picture, decodings: list[int]) -> None:
    wide = np.zeros((1200, 2000, 3), np.uint8)
    wide[300:812, 200:712] = photograph
    data = encoded(wide)
    full = nano(read_picture(data))
    faces = nano(data)
    assert decodings == [2, 1]
    assert len(faces) == len(full) == 1
    assert distance(faces, full) < 1
    assert distance(nano(data, full.boxes), full) < 0.2  # int8 arithmetic turns other pixels into such distances


@pytest.mark.slow
def test_a_list_a_stream_and_eight_threads_give_what_single_calls_give(
    nano: Landmarker, portrait: Picture, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(encoded(portrait)[:20_000])
    pictures: list[Any] = []
    for orientation in (1, 6, 3):
        path = tmp_path / f"{orientation}.jpg"
        path.write_bytes(encoded(portrait, orientation))
        pictures += [path, portrait, path.read_bytes()]
    single = [nano(picture) for picture in pictures]
    for faces, alone in zip(nano(pictures), single, strict=True):
        np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=2e-3)
    with ThreadPoolExecutor(8) as pool:
        for faces, alone in zip(pool.map(nano, pictures * 4), single * 4, strict=True):
            np.testing.assert_array_equal(faces.landmarks, alone.landmarks)
            np.testing.assert_array_equal(faces.boxes, alone.boxes)
    pictures.insert(4, tmp_path / "broken.jpg")
    for threads in (1, 3):
        results = list(stream(nano, pictures, batch=2, decoders=threads))
        assert [result.source for result in results] == pictures
        assert [result.index for result in results if result.error] == [4]
        assert "broken.jpg: damaged or truncated" in str(results[4].error)
        found = [result.faces for result in results if result.faces is not None]
        for faces, alone in zip(found, single, strict=True):
            np.testing.assert_allclose(faces.landmarks, alone.landmarks, atol=2e-3)
            np.testing.assert_array_equal(faces.boxes, alone.boxes)


def test_pictures_that_are_kept_and_those_for_a_detector_of_ones_own_are_whole(
    portrait: Picture, nano: Landmarker, decodings: list[int]
) -> None:
    data = encoded(portrait)
    full = read_picture(data)
    received: list[Picture] = []

    def detector(picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        received.append(picture)
        return np.array([[600, 200, 1200, 800]], np.float32), np.ones(1, np.float32)

    own = octamark.load("nano", threads=1, detector=detector)
    own(data)
    own([data])
    assert all(result.faces for result in stream(own, [data]))
    (kept,) = stream(nano, [data], keep_pictures=True)
    assert not decodings
    for picture in (*received, kept.picture):
        np.testing.assert_array_equal(picture, full)
    own(data, [[600, 200, 1200, 800]])
    assert decodings == [2]
    own.locate(decoding.open_picture(data))
    np.testing.assert_array_equal(received[-1], full)


def test_tiles_are_searched_at_full_size(
    nano: Landmarker, photograph: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = np.full((1000, 2000, 3), 90, np.uint8)
    wide[:128, 1800:1928] = cv2.resize(photograph, (128, 128), interpolation=cv2.INTER_AREA)
    data = encoded(wide)
    detector = octamark.FaceDetector(tiles=True)
    boxes, scores = detector(decoding.open_picture(data))
    assert isinstance(decoding.open_picture(data), JpegPicture)
    full_boxes, full_scores = detector(read_picture(data))
    assert len(boxes) == 1
    np.testing.assert_allclose(boxes, full_boxes, atol=1.5)
    np.testing.assert_allclose(scores, full_scores, atol=0.05)
