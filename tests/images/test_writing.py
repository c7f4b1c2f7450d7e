"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octamark.errors import OutputError
from octamark.images import read_picture, write_atomically, write_picture

GRADIENT = np.stack(np.broadcast_arrays(np.arange(24) * 10, np.arange(16)[:, None] * 15, 77), axis=2).astype(np.uint8)


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


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "missing" / "a.txt", b"")
    with pytest.raises(OutputError, match=r"\.png, \.jpg or \.jpeg"):
        write_picture(tmp_path / "a.tga", GRADIENT)
    write_picture(tmp_path / "a.png", GRADIENT)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), GRADIENT)


def test_png_files_name_octamark_as_their_software(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", GRADIENT)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Software"] == "octamark"
