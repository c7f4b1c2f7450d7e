"""Metadata that cannot be read never costs a picture, and the orientation is applied whenever it can be read."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from octamark.errors import PictureError
from octamark.images import decoding, picture_size, read_picture
from octamark.images.metadata import exif_orientation

GRADIENT = np.stack(np.broadcast_arrays(np.arange(24) * 10, np.arange(16)[:, None] * 15, 77), axis=2).astype(np.uint8)
TURNED = np.rot90(GRADIENT, -1)  # what orientation 6 makes of it
ODD_UNIT = (0x0128, 9, 1, -1)  # a ResolutionUnit of -1, which PIL cannot write again
Entry = tuple[int, int, int, int]

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, form, **options)
    return buffer.getvalue()


JPEG = encoded("JPEG", quality=100, subsampling=0)
PNG = encoded("PNG")
PIXELS = {"JPEG": read_picture(JPEG), "PNG": GRADIENT}


def directory(entries: list[Entry], order: str = "<", start: int = 8) -> bytes:
    """A TIFF directory: (tag, type, count, value) each."""
    body = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value & 0xFFFFFFFF))
        for tag, kind, count, value in sorted(entries)
    )
    return struct.pack(f"{order}H", len(entries)) + body + bytes(4)


def exif(*entries: Entry, orientation: int = 6, order: str = "<") -> bytes:
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return header + directory([(0x0112, 3, 1, orientation), *entries], order)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """The JPEG file with segments (marker, body) at its start."""
    packed = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return JPEG[:2] + packed + JPEG[2:]


def png_with(*chunks: tuple[bytes, bytes], at_end: bool = False, broken_checksum: bool = False) -> bytes:
    """The PNG file with chunks (kind, body) before its pixels or at its end."""
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ broken_checksum)
        for kind, body in chunks
    )
    place = len(PNG) - 12 if at_end else 33
    return PNG[:place] + packed + PNG[place:]


def tiff_with(*entries: Entry, orientation: int = 6, order: str = "<") -> bytes:
    """A TIFF file with further entries in its directory."""
    raw = GRADIENT.tobytes()
    needed = [
        (256, 4, 1, 24), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
        (274, 3, 1, orientation), (277, 3, 1, 3), (278, 4, 1, 16), (279, 4, 1, len(raw)),
    ]  # fmt: skip
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(raw))
    return header + raw + directory([*needed, *entries], order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_an_odd_tag_costs_neither_picture_nor_orientation(form: str, order: str) -> None:
    if form == "AVIF" and form not in decoding.decoders():
        pytest.skip("this Pillow has no AVIF decoder")
    block = exif(ODD_UNIT, order=order)
    if form == "TIFF":
        data = tiff_with(ODD_UNIT, order=order)
    elif form == "MPO":
        second = Image.new("RGB", (24, 16))
        data = encoded("MPO", save_all=True, append_images=[second], exif=b"Exif\0\0" + block, quality=95)
    elif form == "AVIF":
        data = encoded(form, exif=exif((0x0128, 3, 1, 2)), quality=100)  # PIL cannot write the odd tag: it is put in
        unit = {byte_order: struct.pack(f"{byte_order}HHIHH", 0x0128, 3, 1, 2, 0) for byte_order in "<>"}
        (written,) = (byte_order for byte_order in "<>" if data.count(unit[byte_order]) == 1)
        data = data.replace(unit[written], struct.pack(f"{written}HHIi", *ODD_UNIT))
    else:
        data = encoded(form, exif=b"Exif\0\0" + block, **{"WEBP": {"lossless": True}}.get(form, {}))
    picture = read_picture(data)
    assert picture.shape == TURNED.shape
    assert np.abs(picture.astype(int) - TURNED).mean() < 12
    assert picture_size(data) == (16, 24)


SEGMENTS = {
    "EXIF that is no TIFF file": (0xE1, b"Exif\0\0no such thing"),
    "EXIF cut short": (0xE1, b"Exif\0\0" + exif(ODD_UNIT)[:15]),
    "short JFIF": (0xE0, b"JFIF\0"),
    "short Adobe": (0xEE, b"Adobe"),
    "short ICC": (0xE2, b"ICC_PROFILE\0"),
    "Photoshop block cut short": (0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "MPO index that is no TIFF": (0xE2, b"MPF\0garbage"),
    "MPO index of no pictures": (0xE2, b"MPF\0" + exif()),
    "XMP that is no text": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_broken_segments_of_a_jpeg_do_no_harm(kind: str) -> None:
    np.testing.assert_array_equal(read_picture(jpeg_with(SEGMENTS[kind])), PIXELS["JPEG"])
    whole = (0xE1, b"Exif\0\0" + exif(ODD_UNIT))
    for data in (jpeg_with(whole, SEGMENTS[kind]), jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))):
        np.testing.assert_array_equal(read_picture(data), np.rot90(PIXELS["JPEG"], -1))
        assert picture_size(data) == (16, 24)


CHUNKS = {
    "EXIF that is no TIFF file": (b"eXIf", b"no such thing"),
    "empty EXIF": (b"eXIf", b""),
    "ICC profile that is no zlib stream": (b"iCCP", b"name\0\0garbage"),
    "ICC profile with an unknown compression": (b"iCCP", b"name\0\7"),
    "compressed text that is none": (b"zTXt", b"key\0\0garbage"),
    "short resolution": (b"pHYs", b"\0"),
    "short animation header": (b"acTL", b"\0"),
    "text of 2 MB": (b"zTXt", b"key\0\0" + zlib.compress(bytes(2_000_000))),
}


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("kind", CHUNKS)
def test_broken_chunks_of_a_png_do_no_harm(kind: str, at_end: bool) -> None:
    np.testing.assert_array_equal(read_picture(png_with(CHUNKS[kind], at_end=at_end)), GRADIENT)
    oriented = png_with(CHUNKS[kind], (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), at_end=at_end)
    np.testing.assert_array_equal(read_picture(oriented), TURNED)


@pytest.mark.parametrize("at_end", [False, True])
def test_checksums_of_metadata_are_not_needed(at_end: bool) -> None:
    data = png_with((b"tEXt", b"key\0text"), at_end=at_end, broken_checksum=True)
    np.testing.assert_array_equal(read_picture(data), GRADIENT)
    oriented = png_with((b"eXIf", exif()), at_end=at_end)
    np.testing.assert_array_equal(read_picture(oriented), TURNED)
    assert picture_size(oriented) == (16, 24)


def test_checksums_of_pixels_are_needed() -> None:
    with pytest.raises(PictureError, match="damaged or truncated"):
        read_picture(png_with((b"IDAT", b"x"), broken_checksum=True))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x011A, 2, 4, 0x00636261),  # XResolution "abc"
        (0x8769, 4, 1, 0x7FFFFFFF),  # EXIF far outside the file
        (0x8769, 2, 4, 0x00636261),  # EXIF at "abc"
        (0x8825, 4, 1, 9),  # GPS among the pixels
        (0x02BC, 1, 0x7FFFFFFF, 8),  # XMP longer than the file
        (0x8773, 7, 5, 0x7FFFFFFF),  # ICC profile outside it
    ],
)
def test_broken_tags_of_a_tiff_do_no_harm(entry: Entry, order: str) -> None:
    unit = (0x0128, 3, 1, 3)  # centimetres, so that PIL computes with the resolution
    data = tiff_with(unit, entry, order=order)
    np.testing.assert_array_equal(read_picture(data), TURNED)
    assert picture_size(data) == (16, 24)


def test_broken_exif_of_webp_and_avif_does_no_harm() -> None:
    webp = encoded("WEBP", lossless=True, exif=b"no such thing", xmp=XMP, icc_profile=b"x")
    np.testing.assert_array_equal(read_picture(webp), TURNED)
    if "AVIF" in decoding.decoders():
        sound = encoded("AVIF", exif=exif((0x0128, 3, 1, 2), orientation=1), quality=100)
        broken = re.sub(rb"II\*\0|MM\0\*", b"xxxx", sound)
        assert broken != sound
        np.testing.assert_array_equal(read_picture(broken), read_picture(sound))
        assert picture_size(broken) == (24, 16)


def test_an_image_of_the_caller_s_may_carry_broken_exif() -> None:
    image = Image.open(io.BytesIO(png_with((b"eXIf", b"no such thing"))))
    np.testing.assert_array_equal(read_picture(image), GRADIENT)
    image = Image.fromarray(GRADIENT)
    image.getexif()[0x0112] = 6
    np.testing.assert_array_equal(read_picture(image), TURNED)


MARKERS = st.one_of(st.integers(0xE0, 0xEF), st.just(0xFE))
STARTS = st.sampled_from([b"", b"JFIF\0", b"Exif\0\0", b"Exif\0\0II*\0", b"MPF\0MM\0*", b"ICC_PROFILE\0", b"FPXR\0"])


@settings(max_examples=200, deadline=None)
@given(MARKERS, STARTS, st.binary(max_size=60))
def test_no_metadata_segment_costs_a_jpeg(marker: int, start: bytes, body: bytes) -> None:
    with warnings.catch_warnings(record=True):  # PIL may warn of what it cannot read
        warnings.simplefilter("always")
        picture = read_picture(jpeg_with((marker, start + body)))
    assert sorted(picture.shape) == sorted(GRADIENT.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # python -W error
        np.testing.assert_array_equal(read_picture(jpeg_with((marker, start + body))), picture)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"pHYs", b"acTL", b"fcTL", b"sRGB"]
    ),
    st.binary(max_size=40),
    st.booleans(),
)
@example(b"fcTL", bytes(26), False)
def test_no_metadata_chunk_costs_a_png(kind: bytes, body: bytes, at_end: bool) -> None:
    assert sorted(read_picture(png_with((kind, body), at_end=at_end)).shape) == sorted(GRADIENT.shape)


@given(st.binary(max_size=80), st.sampled_from([b"", b"Exif\0\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_bytes_have_an_orientation_or_none(body: bytes, start: bytes) -> None:
    assert exif_orientation(start + body) in (None, 1, 2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_orientations_that_do_not_exist_are_passed_over(value: int) -> None:
    data = jpeg_with((0xE1, b"Exif\0\0" + exif(orientation=value)))
    np.testing.assert_array_equal(read_picture(data), PIXELS["JPEG"])
