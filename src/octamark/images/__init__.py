"""Pictures as RGB uint8 (H, W, 3): decoding with limits, finding files in folders, encoding, atomic writes."""

from octamark.images.decoding import (
    DEFAULT_LIMITS,
    SUFFIXES,
    Limits,
    PictureLike,
    held_pixels,
    open_picture,
    picture_size,
    read_picture,
)
from octamark.images.folders import PicturesFound, find_pictures, is_hidden, name_key, same_name
from octamark.images.writing import write_atomically, write_picture

__all__ = [
    "DEFAULT_LIMITS",
    "SUFFIXES",
    "Limits",
    "PictureLike",
    "PicturesFound",
    "find_pictures",
    "held_pixels",
    "is_hidden",
    "name_key",
    "open_picture",
    "picture_size",
    "read_picture",
    "same_name",
    "write_atomically",
    "write_picture",
]
