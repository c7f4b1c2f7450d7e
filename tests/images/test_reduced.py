"""Large JPEGs decoded at reduced size: the same pixels, in the same places, as a full decoding gives."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from octamark.errors import PictureError
from octamark.geometry import Part, crop, crop_transform, part_of, whole
from octamark.images import Limits, decoding, held_pixels, open_picture, read_picture
from octamark.images import reduced as module
from octamark.images.reduced import JpegPicture, first_factor

Picture = NDArray[np.uint8]


def smooth(height: int, width: int) -> Picture:
    """A picture without mirror symmetry, in which a shift by half a pixel changes some pixels by 3 or more."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 4.0 + y / 9.0), np.cos(x / 7.0 - y / 5.0), np.sin((x + 2 * y) / 11.0 + 1)]
    return (128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def jpeg(picture: Picture | Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, form, **({"quality": 97, "subsampling": 0} | options))
    return buffer.getvalue()


def with_orientation(picture: Picture, orientation: int, **options: object) -> bytes:
    """What a camera stores so that a viewer shows ``picture``."""
    stored = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.transpose(1, 0, 2),
        6: np.rot90(picture), 7: picture[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(picture, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(np.ascontiguousarray(stored), exif=exif, **options)


def expected(picture: Picture, part: Part) -> Picture:
    """The means of the pixels that each pixel of the part covers, as far as they lie in the picture."""
    (rows, columns), factor = part.pixels.shape[:2], part.factor
    covered = np.full((rows * factor, columns * factor, 3), np.nan)
    inside = picture[max(0, part.top) :, max(0, part.left) :][: rows * factor, : columns * factor]
    inside = inside[: rows * factor + min(0, part.top), : columns * factor + min(0, part.left)]
    top, left = max(0, -part.top), max(0, -part.left)
    covered[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    means = np.nanmean(covered.reshape(rows, factor, columns, factor, 3), axis=(1, 3))
    return np.asarray(means.round().astype(np.uint8))


@pytest.fixture(autouse=True)
def _small_pictures_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_SIDE", 60)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(128, 160), (121, 133), (245, 487)])
def test_parts_lie_where_they_say(orientation: int, shape: tuple[int, int]) -> None:
    """Whole pictures and windows, of every factor, of sides that are no multiples of it."""
    data = with_orientation(smooth(*shape), orientation)
    picture, full = open_picture(data), read_picture(data)
    assert isinstance(picture, JpegPicture)
    assert picture.shape == full.shape == (*shape, 3)
    assert held_pixels(data, reduce=True) < held_pixels(data, reduce=False) == shape[0] * shape[1]
    for factor in (1.0, 2.0, 3.0, 4.5, 8.0, 13.0):
        for window in ((0, 0, shape[1], shape[0]), (31, 17, 90, 65), (shape[1] - 20, shape[0] - 9, *shape[::-1])):
            part = part_of(picture, *window, factor)
            assert factor / 2 < part.factor <= factor
            right, bottom = (
                start + part.factor * count
                for start, count in zip((part.left, part.top), part.pixels.shape[1::-1], strict=True)
            )
            assert part.left <= window[0] < part.left + part.factor
            assert part.top <= window[1] < part.top + part.factor
            assert right - part.factor < window[2] <= right
            assert bottom - part.factor < window[3] <= bottom
            wrong = np.abs(part.pixels.astype(int) - expected(full, part))
            edge = (part.left < 0, part.top < 0, right > shape[1], bottom > shape[0])
            wrong = wrong[edge[1] : wrong.shape[0] - edge[3], edge[0] : wrong.shape[1] - edge[2]]  # in part outside
            assert wrong.mean() < 1.5, (factor, window)
    np.testing.assert_array_equal(whole(picture), full)


def test_points_go_from_part_to_picture_and_back() -> None:
    part = Part(np.zeros((4, 6, 3), np.uint8), 4, -3, 8)
    np.testing.assert_array_equal(part.to_picture(np.float32([[0, 0], [1, 2]])), [[-1.5, 9.5], [2.5, 17.5]])
    boxes = part.to_picture(np.float32([[0, 0, 1, 2]]))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[-1.5, 9.5, 2.5, 17.5]])
    transform = np.array([[[2.0, 0, 2.5], [0, 2, 17.5]]])
    np.testing.assert_allclose(part.to_part(transform), [[[0.5, 0, 1], [0, 0.5, 2]]])


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize(("side", "angle"), [(90.0, 0.0), (150.0, 30.0), (220.0, -90.0), (400.0, 10.0)])
def test_crops_of_a_reduced_picture_are_those_of_the_full_one(orientation: int, side: float, angle: float) -> None:
    """Inside and over the border, magnified and reduced."""
    picture = cv2.resize(smooth(60, 80), (323, 243), interpolation=cv2.INTER_CUBIC)
    data = with_orientation(np.asarray(picture, np.uint8), orientation)
    lazy, full = open_picture(data), read_picture(data)
    assert isinstance(lazy, JpegPicture)
    for centre in ((150.0, 110.0), (10.0, 230.0), (318.0, 3.0)):
        transform = crop_transform(np.array([*centre, side]), 64, angle)
        wrong = np.abs(crop(lazy, transform, 64).astype(int) - crop(full, transform, 64))
        assert wrong.mean() < 2
        assert np.median(wrong) <= 2


GREY = Image.fromarray(smooth(200, 300)).convert("L")


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (jpeg(GREY), 1.5),
        (jpeg(Image.fromarray(smooth(200, 300)).convert("CMYK")), 1.5),
        (jpeg(smooth(200, 300), progressive=True), 1.5),
        (jpeg(smooth(200, 300), subsampling=2), 3),
        (jpeg(smooth(200, 300), "MPO", save_all=True, append_images=[Image.new("RGB", (300, 200))]), 1.5),
        (jpeg(smooth(200, 300), exif=b"Exif\0\0no such thing"), 1.5),
    ],
    ids=["grey", "CMYK", "progressive", "4:2:0", "MPO", "broken EXIF"],
)
def test_kinds_of_jpeg(data: bytes, tolerance: float) -> None:
    picture, full = open_picture(data), read_picture(data)
    assert isinstance(picture, JpegPicture)
    for factor in (1, 2, 4):
        part = part_of(picture, 0, 0, 300, 200, factor)
        assert part.factor == factor
        assert np.abs(part.pixels.astype(int) - expected(full, part)).mean() < tolerance


def test_metadata_that_python_warns_of_do_no_harm_in_either_decoding() -> None:
    """Warnings are errors in these tests: the picture is decoded without them, also the second time."""
    good = jpeg(smooth(200, 300))
    broken = good[:2] + b"\xff\xe2\x00\x0dMPF\0garbage"[:15] + good[2:]
    picture = open_picture(broken)
    assert isinstance(picture, JpegPicture)
    np.testing.assert_array_equal(whole(picture), read_picture(good))


def test_other_pictures_are_arrays() -> None:
    picture = smooth(200, 300)
    small, png = jpeg(picture[:100, :100]), io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    for source in (picture, Image.fromarray(picture), png.getvalue(), small, Image.open(io.BytesIO(jpeg(picture)))):
        opened = open_picture(source)
        assert isinstance(opened, np.ndarray)
        np.testing.assert_array_equal(opened, read_picture(source))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_the_first_decoding_keeps_the_least_side(width: int, height: int) -> None:
    factor = first_factor(width, height)
    assert factor in (1, 2, 4, 8)
    if factor > 1:
        assert max(width, height) / factor >= module.LEAST_SIDE
        assert min(width, height) >= factor


@pytest.mark.parametrize("shape", [(8, 700), (700, 9), (2, 130), (1, 1000)])
def test_slivers(shape: tuple[int, int]) -> None:
    data = jpeg(smooth(*shape))
    assert part_of(open_picture(data), 0, 0, *shape[::-1], 4).pixels.size > 0
    np.testing.assert_array_equal(whole(open_picture(data)), read_picture(data))


def test_limits_are_those_of_the_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(smooth(200, 300))
    with pytest.raises(PictureError, match=r"300x200 is more than 0\.05 megapixels"):
        open_picture(data, limits=Limits(pixels=50_000))
    with pytest.raises(PictureError, match=r"300x200 pixels \(RGB\) take 0 MB to decode"):
        open_picture(data, limits=Limits(memory=300 * 200 * 7 - 1))
    with pytest.raises(PictureError, match="more than 1,000 bytes"):
        open_picture(data, limits=Limits(bytes=1000))
    with pytest.raises(PictureError, match="bytes: damaged or truncated"):
        open_picture(data[: len(data) // 2])
    picture = open_picture(data)
    monkeypatch.setattr(decoding, "_load_reduced", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(PictureError, match="bytes: too large for the memory at hand"):
        whole(picture)


def test_each_size_is_decoded_once_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, lock = list[int](), threading.Lock()
    load = decoding._load_reduced

    def counted(image: Image.Image, factor: int) -> Image.Image:
        with lock:
            decoded.append(factor)
        return load(image, factor)

    monkeypatch.setattr(decoding, "_load_reduced", counted)
    picture = open_picture(jpeg(smooth(300, 500)))
    assert decoded == [8]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: part_of(picture, 40, 40, 300, 200, 2), range(16)))
    assert decoded == [8, 2]
    assert all((part.pixels == parts[0].pixels).all() for part in parts)
    part_of(picture, 0, 0, 500, 300, 7.9)  # between 4 and 8, but a crop may be enlarged a little
    part_of(picture, 0, 0, 500, 300, 12)
    assert decoded == [8, 2]
