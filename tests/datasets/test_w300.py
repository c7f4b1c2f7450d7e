from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drawn_faces import draw_face, write_pts, write_w300
from octamark.datasets import read, read_pts, w300
from octamark.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"))


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("common", 8), ("challenge", 4), ("full", 12)])
def test_splits(root: Path, split: str, count: int) -> None:
    samples = w300.read(root, split)
    assert len(samples) == count
    assert [sample.name for sample in samples] == sorted(sample.name for sample in samples)
    assert all(sample.picture.is_file() for sample in samples)


def test_points_are_zero_based_with_or_without_header(root: Path) -> None:
    samples = read("300w", root, "train", only=["afw/face_0", "afw/face_1"])
    assert len(samples) == 2
    for sample in samples:
        _, truth = draw_face(int(sample.name[-1]))
        np.testing.assert_allclose(sample.landmarks, truth, atol=1e-3)


def test_split_files_select(root: Path) -> None:
    names = w300.read_split_file(root / "splits" / "val.txt")
    assert len(names) == 2
    assert [sample.name for sample in w300.read(root, "val")] == names
    assert [sample.name for sample in read("300w", root, "train", only=names)] == names


def test_real_faces_when_at_hand(w300_root: Path) -> None:
    assert len(w300.read(w300_root, "val")) == 201
    assert len(w300.read(w300_root, "train")) == 2009


def refused(message: str, path: Path, split: str = "train") -> None:
    with pytest.raises(DataError) as caught:
        w300.read(path, split)
    assert message in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=2)
    refused("no split 'test'; splits: train, common, challenge, full", root, split="test")
    with pytest.raises(DataError, match="split train has no face afw/nobody"):
        read("300w", root, "train", only=["afw/nobody"])
    (root / "afw" / "face_0.jpg").unlink()
    refused("face_0.pts: no picture beside it", root)
    (root / "ibug" / "face_0.pts").write_text("{ 1 2 3 }")
    refused("ibug/face_0.pts: expected 68 points", root, split="challenge")
    for child in (root / "ibug").iterdir():
        child.unlink()
    refused("no .pts files in ibug", root, split="challenge")
    (root / "ibug").rmdir()
    refused("holds no folder ibug", root, split="challenge")


@pytest.mark.parametrize(
    "text",
    ["", "version: 1\n{\n1 2\nthree 4\n}", "\n".join(["1 nan"] * 68), "\n".join(["1 2"] * 67), "{" + "1 1\n" * 69],
)
def test_malformed_pts_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.pts"):
        read_pts(path, 68)


def test_binary_and_missing_pts(tmp_path: Path) -> None:
    path = tmp_path / "bad.pts"
    with pytest.raises(DataError, match="cannot be read"):
        read_pts(path, 68)
    path.write_bytes(b"\xff\xfe\x00\x80" * 50)
    with pytest.raises(DataError, match=r"bad\.pts"):
        read_pts(path, 68)
    write_pts(path, np.zeros((68, 2), np.float32))
    assert not read_pts(path, 68).any()


def test_split_files(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    with pytest.raises(DataError, match=r"s\.txt: cannot be read"):
        w300.read_split_file(path)
    path.write_text(" \n\n")
    with pytest.raises(DataError, match="lists no faces"):
        w300.read_split_file(path)
    path.write_text("\ufeffafw/with space\n\n  afw/b  \n", encoding="utf-8")
    assert w300.read_split_file(path) == ["afw/with space", "afw/b"]
    path.write_text("a\nb\na\n")
    with pytest.raises(DataError, match="lists a more than once"):
        w300.read_split_file(path)
