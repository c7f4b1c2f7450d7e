"""Reading and writing the messages of .onnx files, which are Protocol Buffers, without the package onnx."""

from __future__ import annotations

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The fields of a protobuf message: number, content (empty if it is a number), and the field's own bytes."""
    start = 0
    while start < len(message):
        key, at = _number(message, start)
        content = b""
        match key & 7:
            case 0:
                _, at = _number(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _number(message, at)
                content = message[at : at + length]
                at += length
            case _:
                at += 4
        yield key >> 3, content, message[start:at]
        start = at


def bytes_field(field: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def number_field(field: int, value: int) -> bytes:
    """A protobuf field that holds a number of 0 or more."""
    return _varint(field << 3) + _varint(value)


def _number(message: bytes, at: int) -> tuple[int, int]:
    """The protobuf varint at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    """A number in protobuf's encoding."""
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])
