"""Metadata of encoded pictures: the orientation, and copies of the files without their metadata.

Nothing here raises on broken metadata: a picture is decoded without it.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

_ORIENTATION = 274  # the EXIF tag
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # TIFF types that an orientation may have
_DESCRIPTIVE_TIFF_TAGS = {269, 270, 271, 272, 282, 283, 285, 286, 287, 296, 297, 305, 306, 315, 316}


def orientation(info: Mapping[Any, Any]) -> int:
    """The orientation (1 to 8, EXIF tag 274) in the ``info`` of a PIL image; 1 if there is none that can be read.

    It is read from EXIF, then from ImageMagick's text form of EXIF, then from XMP.
    """
    blocks = [info.get("exif")]
    raw_profile = info.get("Raw profile type exif")
    if isinstance(raw_profile, str):
        digits = "".join(raw_profile.split("\n")[3:])
        blocks.append(bytes.fromhex(digits) if re.fullmatch(r"([0-9a-fA-F]{2})+", digits) else None)
    for block in blocks:
        if isinstance(block, bytes) and (value := exif_orientation(block)):
            return value
    for key in ("XML:com.adobe.xmp", "xmp"):
        text = info.get(key)
        text = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if isinstance(text, bytes) and (match := re.search(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])", text)):
            return int(match[1])
    return 1


def exif_orientation(exif: bytes) -> int | None:
    """The orientation (1 to 8) in an EXIF block, a small TIFF file; None if it holds none or cannot be read.

    Other tags are not looked at, so that a broken one does no harm.
    """
    header = re.search(rb"II\*\0|MM\0\*", exif[:64])
    if header is None:
        return None
    tiff, order = exif[header.start() :], "<" if header[0].startswith(b"I") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == _ORIENTATION and kind in _INTEGERS and length == 1:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:  # cut short
        pass
    return None


def without_metadata(data: bytes) -> tuple[bytes, dict[str, bytes]] | None:
    """A copy of an encoded picture without its metadata, and the EXIF and XMP blocks that were in it.

    Returns:
        The copy and ``{"exif": ..., "xmp": ...}`` (as far as found; see ``orientation``). None for formats whose
        metadata is not needed to decode them, and for files whose structure cannot be followed.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data), {}
        if data[4:8] == b"ftyp":
            return _avif(data), {}
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Without APP segments and comments, but for JFIF and Adobe: the latter says which colours are stored."""
    kept, info = [data[:2]], dict[str, bytes]()
    place = 2
    while True:
        while data[place] != 0xFF or data[place + 1] == 0xFF:  # padding
            place += 1
        marker = data[place + 1]
        if marker == 0xDA:  # start of scan: pixels from here on
            return b"".join([*kept, data[place:]]), info
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        body = data[place + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif"):
            info.setdefault("exif", body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/"):
            info.setdefault("xmp", body)
        jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
        adobe = marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        if jfif or adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[place:end])
        place = end


def _png(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """With the chunks that make pixels, and no others."""
    kept, info = [data[:8]], dict[str, bytes]()
    for kind, start, end in _png_chunks(io.BytesIO(data)):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start - 8 : end + 4])
        elif kind == b"eXIf":
            info.setdefault("exif", data[start:end])
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp", start):
            info.setdefault("xmp", data[start:end])
    return b"".join(kept), info


def png_exif(stream: IO[bytes]) -> dict[str, bytes]:
    """``{"exif": ...}``, the EXIF block of a PNG file, which may stand after the pixels; they are not read."""
    for kind, start, end in _png_chunks(stream):
        if kind == b"eXIf":
            stream.seek(start)
            return {"exif": stream.read(end - start)}
    return {}


def _png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, and where its content begins and ends."""
    place = 8
    while len(head := stream.read(8) if stream.seek(place) else b"") == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, place + 8, place + 8 + length
        place += 12 + length


def _tiff(data: bytes) -> bytes:
    """With the tags that describe how pixels are stored, and the orientation, in its first directory."""
    order = "<" if data.startswith(b"I") else ">"
    large = data[2:4] in (b"+\0", b"\0+")  # BigTIFF
    offset, count_form, entry_size = (8, "Q", 20) if large else (4, "H", 12)
    (start,) = struct.unpack_from(order + ("Q" if large else "I"), data, offset)
    (count,) = struct.unpack_from(order + count_form, data, start)
    first = start + struct.calcsize(order + count_form)
    end = first + count * entry_size
    entries = [data[place : place + entry_size] for place in range(first, min(end, len(data)), entry_size)]
    kept = [entry for entry in entries if _describes_pixels(struct.unpack(f"{order}H", entry[:2])[0])]
    copy = bytearray(data)
    struct.pack_into(order + count_form, copy, start, len(kept))
    copy[first:end] = b"".join(kept).ljust(end - first, b"\0")  # no next directory
    return bytes(copy)


def _describes_pixels(tag: int) -> bool:
    return (tag < 700 and tag not in _DESCRIPTIVE_TIFF_TAGS) or 32995 <= tag <= 32998


def _avif(data: bytes) -> bytes:
    """With its EXIF and XMP items renamed, so that a decoder passes over them; rotation is stored elsewhere."""
    pixels = data.find(b"mdat")
    head, rest = (data, b"") if pixels < 0 else (data[:pixels], data[pixels:])
    return re.sub(rb"(infe\x02\0\0.(?:.{4}|.{6}))(?:Exif|mime)", rb"\1skip", head, flags=re.DOTALL) + rest
