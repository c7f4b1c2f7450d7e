"""Pictures of every kind, whole and broken."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from octamark.errors import OutputError, PictureError
from octamark.images import read_picture, write_atomically, write_picture

GRADIENT = np.stack(np.broadcast_arrays(np.arange(24) * 10, np.arange(16)[:, None] * 15, 77), axis=2).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_every_input_kind_gives_the_same_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, GRADIENT):
        np.testing.assert_array_equal(read_picture(source), GRADIENT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    turned = {
        1: GRADIENT,
        2: GRADIENT[:, ::-1],
        3: GRADIENT[::-1, ::-1],
        4: GRADIENT[::-1],
        5: GRADIENT.transpose(1, 0, 2),
        6: np.rot90(GRADIENT),
        7: GRADIENT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(GRADIENT, -1),
    }[orientation]  # what a camera stores so that its tag makes GRADIENT of it
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(np.ascontiguousarray(turned)), exif=exif)
    np.testing.assert_array_equal(read_picture(stored), GRADIENT)


def test_modes() -> None:
    grey = Image.fromarray(GRADIENT[:, :, 0])
    expected = np.repeat(GRADIENT[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(read_picture(encoded(grey)), expected)
    np.testing.assert_array_equal(read_picture(GRADIENT[:, :, 0]), expected)
    np.testing.assert_array_equal(read_picture(GRADIENT[:, :, :1]), expected)
    deep = GRADIENT[:, :, 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(read_picture(deep), expected)
    np.testing.assert_array_equal(read_picture(encoded(Image.fromarray(deep))), expected)
    np.testing.assert_array_equal(read_picture(GRADIENT / 255), GRADIENT)
    np.testing.assert_array_equal(read_picture(encoded(Image.fromarray(GRADIENT).quantize(256))).shape, GRADIENT.shape)
    cmyk = read_picture(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"))
    assert cmyk[10, 10, 0] > 200
    assert cmyk[10, 10, 1:].max() < 60
    black_and_white = read_picture(np.eye(8, dtype=bool))
    assert set(np.unique(black_and_white)) == {0, 255}


def test_transparency_is_laid_on_white() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:] = (10, 20, 30, 255)
    for source in (clear, Image.fromarray(clear), encoded(Image.fromarray(clear))):
        picture = read_picture(source)
        assert (picture[:, :4] == 255).all()
        assert (picture[:, 4:] == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not a picture"),
        (encoded(Image.fromarray(GRADIENT))[:60], "damaged or truncated"),
        (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:4000], "damaged or truncated"),
        (np.zeros((4, 4, 2), np.uint8), "(H, W, 3) RGB"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.int64), "allowed: uint8"),
        (np.full((4, 4, 3), 200.0), "float arrays hold 0..1"),
        (np.full((4, 4, 3), np.nan), "none missing"),
        (np.full((4, 4, 3), -0.5), "0..1"),
        ("no/such/file.jpg", "no/such/file.jpg: cannot be read"),
        ("nul\0byte", "cannot be read"),
        (3.5, "a float is no picture"),
        ((picture for picture in "ab"), "a list or tuple"),
    ],
)
def test_bad_input_is_one_clear_error(source: object, said: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_picture(source)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    for name, data in (("zero.jpg", b""), ("text.jpg", b"not a picture at all")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PictureError, match=name):
            read_picture(tmp_path / name)
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(tmp_path)


def test_bombs_are_refused_before_decoding() -> None:
    header = encoded(Image.new("1", (20000, 11000)))
    with pytest.raises(PictureError, match="megapixels"):
        read_picture(header)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_damaged_files_raise_picture_errors_only(form: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(Image.fromarray(GRADIENT), form))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    picture = GRADIENT
    with contextlib.suppress(PictureError):
        picture = read_picture(bytes(whole[: cut or None]))
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"first")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_writing_where_one_cannot(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "missing" / "a.txt", b"")
    with pytest.raises(OutputError, match=r"\.png, \.jpg or \.jpeg"):
        write_picture(tmp_path / "a.tga", GRADIENT)
    write_picture(tmp_path / "a.png", GRADIENT)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), GRADIENT)
