"""What a job is to read, from every kind of input; and one clear error for each mistake."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from octamark.cluster import find_inputs
from octamark.errors import ConfigError, DataError, PictureError
from octamark.io.places import place

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in ("a.png", "b.txt.jpg", "c.heic", "deeper/d.JPG", ".hidden/e.png", "f.mp4", "results/g.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_a_folder_gives_its_pictures_or_its_videos(folder: Path) -> None:
    found = find_inputs([folder], skip=str(folder / "results"))
    assert found.names == tuple(str(folder / name) for name in ("a.png", "b.txt.jpg", "deeper/d.JPG"))
    assert found.notes == (f"{folder}: left out: 1 .heic",)
    assert find_inputs([folder], videos=True).names == (str(folder / "f.mp4"),)


def test_a_list_gives_its_lines_from_the_current_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"\xef\xbb\xbfin/a.png\r\n\ns3://bucket/x y.png\nin/caf\xff.png\nin/a.png"
    (folder.parent / "list.txt").write_bytes(text)
    monkeypatch.chdir(folder.parent)
    expected = (str(folder / "a.png"), "s3://bucket/x y.png", os.fsdecode(os.fsencode(folder) + b"/caf\xff.png"))
    found = find_inputs(["list.txt"])
    assert (found.names, found.repeated) == (expected, 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert find_inputs(["-"]).names == expected


def test_a_table_gives_a_column(tmp_path: Path) -> None:
    from pyarrow import parquet

    table = pa.table({"n": [1, 2, 3], "uri": ["gs://b/a.png", None, "/b.mp4"], "owner": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "two.parquet")
    parquet.write_table(table.drop_columns("owner"), tmp_path / "one.parquet")
    for found in (find_inputs([tmp_path / "one.parquet"]), find_inputs([tmp_path / "two.parquet"], column="uri")):
        assert found.names == ("gs://b/a.png", "/b.mp4")
    with pytest.raises(DataError, match=r"2 columns of text \(uri, owner\); name the one of the pictures with --col"):
        find_inputs([tmp_path / "two.parquet"])
    with pytest.raises(DataError, match="no column of text 'n'; columns of text: uri"):
        find_inputs([tmp_path / "one.parquet"], column="n")


def test_wrong_inputs_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "bad.parquet").write_text("text")
    (tmp_path / "a.doc").write_text("text")
    (tmp_path / "none").mkdir()
    for name, kind, message in (
        ("missing", PictureError, "missing: no such file or folder"),
        ("empty.txt", PictureError, "empty.txt: names no pictures or videos"),
        ("binary.txt", DataError, "binary.txt:1: no path or URI"),
        ("bad.parquet", DataError, "bad.parquet: cannot be read"),
        ("a.doc", PictureError, "of no known kind; allowed: a folder, .txt, .lst, .list, .parquet, a picture"),
        ("none", PictureError, "none: no pictures in this folder"),
    ):
        with pytest.raises(kind) as raised:
            find_inputs([tmp_path / name])
        assert message in str(raised.value)
    with pytest.raises(ConfigError, match="unknown kind http://"):
        find_inputs(["http://example.org/a.png"])
    with pytest.raises(PictureError, match="no videos in this folder"):
        find_inputs([folder / "deeper"], videos=True)


def test_a_folder_of_an_object_store_gives_uris_that_lead_back(object_store: str) -> None:
    root = place(f"s3://bucket/inputs{object_store}")
    for name in ("a b.png", "deeper/c?.jpg", "out/d.png", "e.txt"):
        with root.filesystem.open_output_stream((root / name).path) as stream:
            stream.write(b"text")
    found = find_inputs([root.name], skip=(root / "out").name)
    assert found.names == tuple(f"s3://bucket/inputs/{name}{object_store}" for name in ("a b.png", "deeper/c?.jpg"))
    assert place(found.names[0]).read() == b"text"
    with pytest.raises(PictureError, match=r"nothing\?.*: no such file or folder"):
        find_inputs([f"s3://bucket/nothing{object_store}"])
