"""Pictures of every kind, whole and broken."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from octamark.errors import ConfigError, PictureError
from octamark.images import SUFFIXES, Limits, conversion, decoding, picture_size, read_picture

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


FORMATS = [name for name in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "AVIF") if name in decoding.decoders()]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
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
    size = picture_size(bytes(whole[: cut or None]))  # never raises
    assert size is None or min(size) >= 0


@pytest.mark.parametrize("form", FORMATS)
def test_every_decoder_of_the_list_reads_its_format(form: str) -> None:
    picture = read_picture(encoded(Image.fromarray(GRADIENT), form))
    assert picture.shape == GRADIENT.shape
    assert np.abs(picture.astype(int) - GRADIENT).mean() < 12


def test_every_suffix_belongs_to_a_decoder() -> None:
    Image.init()
    for suffix in SUFFIXES:
        form = Image.EXTENSION.get(suffix)
        assert form in {*decoding.decoders(), "MPO"} or suffix.startswith(".avif"), suffix


def test_of_several_pictures_in_a_jpeg_the_first_is_read() -> None:
    both = encoded(
        Image.fromarray(GRADIENT), "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16), "red")], quality=95
    )
    assert Image.open(io.BytesIO(both)).format == "MPO"
    assert np.abs(read_picture(both).astype(int) - GRADIENT).mean() < 12


def test_eps_never_reaches_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    def ghostscript(*_: object, **__: object) -> Image.Image:
        pytest.fail("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    data = encoded(Image.fromarray(GRADIENT), "EPS")
    with pytest.raises(PictureError, match=r"not a picture in a known format \(JPEG, PNG"):
        read_picture(data)
    assert picture_size(data) is None


def test_formats_outside_the_list_are_refused() -> None:
    for form in ("TGA", "ICO", "PCX", "JPEG2000"):
        with pytest.raises(PictureError, match="known format"):
            read_picture(encoded(Image.fromarray(GRADIENT), form))


def test_limits_hold_for_every_kind_of_source(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT)
    data = encoded(image)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = {"path": path, "bytes": data, "view": memoryview(data), "stream": io.BytesIO(data), "image": image}
    for kind, source in {**sources, "array": GRADIENT}.items():
        with pytest.raises(PictureError, match=r"24x16 is more than 0.0001 megapixels.*Limits\(pixels=\.\.\.\)"):
            read_picture(source, limits=Limits(pixels=100))
        if kind != "array":
            with contextlib.suppress(AttributeError):
                source.seek(0)  # type: ignore[union-attr]
            with pytest.raises(PictureError, match=r"24x16 pixels \(RGB\) take 0 MB.*Limits\(memory=\.\.\.\)"):
                read_picture(source, limits=Limits(memory=24 * 16 * 7 + 16 * 8 - 1))
        if kind not in ("array", "image"):
            with contextlib.suppress(AttributeError):
                source.seek(0)  # type: ignore[union-attr]
            with pytest.raises(PictureError, match=r"more than 50 bytes.*Limits\(bytes=\.\.\.\)"):
                read_picture(source, limits=Limits(bytes=50))
    exact = Limits(bytes=len(data), pixels=24 * 16, memory=24 * 16 * 7 + 16 * 8)
    for source in (path, data, io.BytesIO(data), image):
        np.testing.assert_array_equal(read_picture(source, limits=exact), GRADIENT)


def test_pictures_beyond_the_limit_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    huge, large = encoded_bomb(20000, 11000), encoded_bomb(9000, 9000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="20000x11000 is more than 178 megapixels"):
        read_picture(huge)
    with pytest.raises(PictureError, match=r"9000x9000 pixels \(LA\) take 567 MB to decode, the limit is 500 MB"):
        read_picture(large, limits=Limits(memory=500_000_000))


def encoded_bomb(width: int, height: int) -> bytes:
    """A PNG file of grey and alpha that says it is large and holds a few pixels."""
    data = bytearray(encoded(Image.new("LA", (8, 8))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_limits_are_whole_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match=r"Limits\(pixels="):
        Limits(pixels=value)  # type: ignore[arg-type]
    assert Limits(pixels=np.int64(5)).pixels == 5  # type: ignore[arg-type]


class Endless(io.RawIOBase):
    """A stream without end that counts what was read of it."""

    count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.count += len(buffer)
        return len(buffer)


def test_streams_without_end_are_read_to_the_limit(tmp_path: Path) -> None:
    stream = Endless()
    with pytest.raises(PictureError, match="more than 5,000 bytes"):
        read_picture(stream, limits=Limits(bytes=5000))  # type: ignore[arg-type]
    assert stream.count == 5001
    with pytest.raises(PictureError, match="/dev/zero: more than 3,000,000 bytes"):
        read_picture("/dev/zero", limits=Limits(bytes=3_000_000))


def test_named_pipes_are_read_once_and_to_the_limit(tmp_path: Path) -> None:
    pipe, data = tmp_path / "pipe", encoded(Image.fromarray(GRADIENT))
    os.mkfifo(pipe)
    assert picture_size(pipe) is None
    for limit in (10, len(data)):
        writer = threading.Thread(target=lambda: pipe.write_bytes(data))
        writer.start()
        if limit == 10:
            with pytest.raises(PictureError, match="more than 10 bytes"):
                read_picture(pipe, limits=Limits(bytes=limit))
        else:
            np.testing.assert_array_equal(read_picture(pipe, limits=Limits(bytes=limit)), GRADIENT)
        writer.join()


def test_streams_of_text_and_closed_ones_are_clear_errors() -> None:
    with pytest.raises(PictureError, match="gives str, not bytes"):
        read_picture(io.StringIO("picture"))  # type: ignore[arg-type]
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(PictureError, match="stream: cannot be read"):
        read_picture(closed)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("share", [0.7, 0.3])
def test_pil_s_own_limits_neither_warn_nor_refuse(form: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in these tests; PIL warns above its limit and refuses above twice that."""
    data = encoded(Image.fromarray(GRADIENT), form)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(24 * 16 * share))
    monkeypatch.setattr(conversion, "_TILE", 4)  # tiles as small, beside the limit, as they are in earnest
    if form == "TIFF" and share < 0.5:
        return  # PIL's decoder of TIFF files cannot be told otherwise
    assert read_picture(data).shape == GRADIENT.shape


MEASURE = """
import io, re, sys
from PIL import Image
from octamark.images import decoding

def encoded(size):
    image = Image.linear_gradient("L").resize((size, size)).convert(sys.argv[1])
    buffer = io.BytesIO()
    options = {"progressive": True, "subsampling": 0} if sys.argv[3] == "progressive" else {}
    image.save(buffer, sys.argv[2], **options)
    return buffer.getvalue()

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

if len(sys.argv) > 4:
    open(sys.argv[4], "wb").write(encoded(2500))
else:
    decoding.read_picture(encoded(300))
    data = sys.stdin.buffer.read()
    before = kilobytes("VmRSS")
    decoding.read_picture(data)
    taken = (kilobytes("VmHWM") - before) * 1024
    print(taken, decoding.decoded_bytes(decoding._open(io.BytesIO(data), "")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(("mode", "form", "kind"), [("LA", "PNG", ""), ("RGB", "JPEG", "progressive")])
def test_memory_stays_within_the_estimate(mode: str, form: str, kind: str, tmp_path: Path) -> None:
    """Peak of a process that decodes 6 megapixels; 8 MB for the bands of rows and the allocator."""
    command = [sys.executable, "-c", MEASURE, mode, form, kind]
    subprocess.run([*command, tmp_path / "a"], check=True)
    with (tmp_path / "a").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=True, text=True)
    taken, estimate = map(int, done.stdout.split())
    assert taken < estimate + 8_000_000
    assert taken > 0.5 * estimate


def test_memory_of_rows_is_counted() -> None:
    """PIL takes a pointer for each row, which is more than the pixels of a narrow picture."""
    narrow = encoded(Image.new("L", (1, 60_000)))
    assert read_picture(narrow, limits=Limits(memory=750_000)).shape == (60_000, 1, 3)
    with pytest.raises(PictureError, match=r"1x60000 pixels \(L\) take 1 MB to decode"):
        read_picture(narrow, limits=Limits(memory=700_000))


SHORT_OF_MEMORY = """
import io, resource
from PIL import Image
from octamark.errors import PictureError
from octamark.images import read_picture

buffer = io.BytesIO()
Image.new("L", (9000, 9000)).save(buffer, "PNG")
read_picture(buffer.getvalue()[:0] or Image.new("L", (8, 8)))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
try:
    read_picture(buffer.getvalue())
except PictureError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
def test_too_little_memory_is_a_picture_error() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "bytes: too large for the memory at hand"


def test_integers_and_real_numbers_are_scaled_by_what_they_hold() -> None:
    grey = GRADIENT[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    for values in (
        grey.astype(np.int32),  # mode I, 8 bits
        grey.astype(np.int32) * 257,  # mode I, 16 bits
        grey.astype(np.float32),
        grey.astype(np.float32) / 255,
        grey.astype(np.float32) * 257,
        grey.astype(np.uint16) * 257,  # mode I;16
    ):
        image = Image.fromarray(values)
        assert image.mode in ("I", "F", "I;16")
        np.testing.assert_array_equal(read_picture(image), expected)
        np.testing.assert_array_equal(read_picture(encoded(image, "TIFF")), expected)
    dark = np.full((4, 4), 257, np.uint16)
    assert (read_picture(encoded(Image.fromarray(dark))) == 1).all()  # a dark file of 16 bits stays dark
    pgm = b"P5 4 4 65535\n" + np.full(16, 200, ">u2").tobytes()
    assert (read_picture(pgm) == 1).all()
    with pytest.raises(PictureError, match=r"values -1\.\.5; "):
        read_picture(Image.fromarray(np.array([[-1, 5]], np.int32)))
    with pytest.raises(PictureError, match="none missing"):
        read_picture(Image.fromarray(np.array([[0.5, np.nan]], np.float32)))


def test_large_pictures_are_converted_in_tiles_like_small_ones() -> None:
    """Many tiles, narrower ones at the edges, and turned ones."""
    rng = np.random.default_rng(0)
    for shape, orientations in (((3, 300_000), (1, 6)), ((300, 170), range(1, 9))):
        stored = rng.integers(0, 256, (*shape, 4), np.uint8)
        image = Image.fromarray(stored)
        white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        for orientation in orientations:
            exif = Image.Exif()
            exif[0x0112] = orientation
            expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(white, exif=exif)))))
            data = encoded(image, exif=exif, compress_level=1)
            np.testing.assert_array_equal(read_picture(data), expected)
            assert picture_size(data) == expected.shape[1::-1]


def test_sizes_come_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in FORMATS:
        path = tmp_path / f"a.{form}"
        path.write_bytes(encoded(Image.fromarray(GRADIENT), form))
        for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
            assert picture_size(source) == (24, 16)
    for source in (GRADIENT, GRADIENT[:, :, 0], Image.fromarray(GRADIENT)):
        assert picture_size(source) == (24, 16)
    large = encoded_bomb(60_000, 50_000)
    assert picture_size(large) == (60_000, 50_000)
    half = encoded(Image.effect_noise((200, 100), 50), "JPEG")[:2000]
    assert picture_size(half) == (200, 100)
    for source in ("no/such/file", tmp_path, b"", b"text", io.BytesIO(half), np.zeros(3), 3.5, None, "nul\0byte"):
        assert picture_size(source) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_of_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(GRADIENT)
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(image, form, exif=exif)
        expected = (24, 16) if orientation < 5 else (16, 24)
        assert picture_size(data) == read_picture(data).shape[1::-1] == expected
        with Image.open(io.BytesIO(data)) as opened:
            assert picture_size(opened) == expected
            assert read_picture(opened).shape[1::-1] == expected
            assert read_picture(opened).shape[1::-1] == expected  # the caller's image is as it was
            assert picture_size(opened) == expected
