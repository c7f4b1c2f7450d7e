"""Which files of a folder are pictures, and when two file names are the same."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octamark.images import SUFFIXES, find_pictures, name_key, same_name, write_picture

TINY = np.zeros((2, 2, 3), np.uint8)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path, **options: object) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_pictures(root, **options).paths]  # type: ignore[arg-type]


def test_every_suffix_in_any_case_to_the_bottom_in_a_fixed_order(tmp_path: Path) -> None:
    wanted = [f"b/{number}{suffix}" for number, suffix in enumerate(SUFFIXES)]
    wanted += ["a.Jpeg", "z.TIF", "b/deep/er/still.AVIF"]
    touch(tmp_path, *wanted, "notes.txt", "a.pts", "jpg", "b/c.jpg/inside.jpg")
    found = names(tmp_path)
    assert sorted(found) == sorted([*wanted, "b/c.jpg/inside.jpg"])
    assert found == [path.as_posix() for path in sorted(Path(name) for name in found)]
    assert find_pictures(str(tmp_path)).paths[0] == tmp_path / "a.Jpeg"


def test_what_systems_leave_behind_is_skipped(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", "._a.jpg", ".hidden.png", "__MACOSX/a.jpg", "sub/__MACOSX/x/a.jpg",
        ".ipynb_checkpoints/a.png", "sub/.cache/a.png", "._b.heic",
    )  # fmt: skip
    assert names(tmp_path) == ["a.jpg"]
    assert find_pictures(tmp_path).left_out == {}
    inside = tmp_path / "sub" / ".cache"
    assert names(inside) == ["a.png"]  # asked for by name


def test_pictures_of_other_formats_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.HEIC", "b.heic", "sub/c.heic", "d.jp2", "e.jpg", "f.txt", "g.mp4", "drawing.svg")
    found = find_pictures(tmp_path)
    assert found.left_out == {".heic": 3, ".jp2": 1, ".svg": 1}
    assert found.left_out_text == "3 .heic, 1 .jp2, 1 .svg"
    assert find_pictures(tmp_path / "sub").left_out_text == "1 .heic"
    assert len(found.paths) == 1


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/sub/b.jpg", "out/c.jpg", "out/deep/d.jpg")
    root = tmp_path / "in"
    (root / "sub" / "up").symlink_to(root)  # a circle
    (root / "aaa").symlink_to(root / "sub")  # a folder that is reached by itself
    (root / "linked").symlink_to(tmp_path / "out")
    (root / "again").symlink_to(tmp_path / "out")
    (root / "1.jpg").symlink_to(root / "a.jpg")
    (root / "sub" / "c.jpg").symlink_to(tmp_path / "out" / "c.jpg")
    (root / "self.jpg").symlink_to(root / "self.jpg")
    (root / "nowhere.jpg").symlink_to(root / "missing.jpg")
    assert names(root) == ["a.jpg", "again/c.jpg", "again/deep/d.jpg", "sub/b.jpg"]


def test_a_file_that_only_links_reach_comes_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("y.jpg", "x.jpg"):
        (root / name).symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert names(root) == ["x.jpg"]


def test_special_files_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == []


def test_own_drawings_are_left_out_and_the_user_s_files_kept(tmp_path: Path) -> None:
    for name in ("a.png", "a.overlay.png", "a.heatmap.png", "sub/B.Overlay.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_picture(tmp_path / name, TINY)
    Image.fromarray(TINY).save(tmp_path / "user.overlay.png")
    touch(tmp_path, "broken.heatmap.png")
    assert names(tmp_path) == ["a.png", "broken.heatmap.png", "user.overlay.png"]


def test_folders_to_skip(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/b.jpg", "out/deep/c.jpg", "other/d.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert names(tmp_path, skip=[tmp_path / "other" / ".." / "out"]) == ["a.jpg", "other/d.jpg"]
    assert names(tmp_path / "out", skip=[tmp_path / "out"]) == ["b.jpg", "deep/c.jpg"]


def test_folders_that_cannot_be_listed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refuse(place: Path) -> object:
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_pictures(tmp_path)
    assert [path.name for path in found.paths] == ["a.jpg"]
    assert found.unreadable == (f"{tmp_path / 'locked'}: cannot be read (Permission denied)",)
    missing = find_pictures(tmp_path / "missing")
    assert missing.paths == ()
    assert "missing: cannot be read (No such file" in missing.unreadable[0]


def test_unicode_forms_of_one_name_are_the_same() -> None:
    composed = "José Ångström.jpg"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert same_name(composed, decomposed)
    assert not same_name("a.jpg", "A.jpg")
    assert not same_name("e.jpg", "é.jpg")
    undecodable = os.fsdecode(b"caf\xe9.jpg")
    assert same_name(undecodable, undecodable)


@given(st.text(max_size=20))
def test_every_spelling_has_one_key(name: str) -> None:
    assert (
        name_key(unicodedata.normalize("NFD", name)) == name_key(unicodedata.normalize("NFC", name)) == name_key(name)
    )


def test_links_that_cannot_be_read_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those below /proc, of processes that have ended meanwhile."""
    touch(tmp_path, "a.jpg", "b.jpg")
    real = os.path.realpath

    def failing(path: str | os.PathLike[str]) -> str:
        if os.fspath(path).endswith("b.jpg"):
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os.path, "realpath", failing)
    assert names(tmp_path) == ["a.jpg", "b.jpg"]
