"""Writers one record at a time: what is on disk after each, after exceptions, full disks and killed processes."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from landmark_files import IBUG, faces_at, records_of, write_all
from octamark.errors import OutputError
from octamark.faces import Faces
from octamark.io import FORMATS, Record, open_writer, read_records, unique_stems
from octamark.layouts import layout

LINES = ["jsonl", "csv"]
FILES = ['a "quoted"\nname.png', "b,c.png", "empty.png", "d.png"]


def records() -> list[Record]:
    return records_of(FILES, [faces_at(0, 700), faces_at(5, seed=1), Faces.empty(IBUG, (90, 60))])


def file_of(name: str, folder: Path) -> Path:
    return folder / str(FORMATS[name].file)


@pytest.mark.parametrize("name", FORMATS)
def test_incremental_formats_write_each_picture_at_once(tmp_path: Path, name: str) -> None:
    with open_writer(name, tmp_path) as writer:
        assert not list(tmp_path.iterdir())
        for count, record in enumerate(records(), 1):
            writer.write(record)
            if not FORMATS[name].incremental:
                assert not list(tmp_path.iterdir())
            elif name != "pts":
                assert [found.file for found in read_records(tmp_path)] == FILES[:count]
        if name == "pts":
            assert len(list(tmp_path.iterdir())) == sum(len(record.faces) for record in records())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(read_records(tmp_path, IBUG)) == (3 if name == "pts" else 4)
    writer.close()  # a second time does no harm


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_stays_after_an_exception(tmp_path: Path, name: str) -> None:
    def interrupted() -> None:
        with open_writer(name, tmp_path) as writer:
            for record in records()[:2]:
                writer.write(record)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(read_records(tmp_path, IBUG)) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_to_write_leaves_older_files_alone(tmp_path: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in write_all(name, tmp_path, records())}
    write_all(name, tmp_path, [])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_all(name, tmp_path, records()[1:2])
    if name != "pts":
        assert [record.file for record in read_records(tmp_path)] == FILES[1:2]  # and a new run replaces them


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.streams])
def test_streams_get_what_files_get(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with open_writer(name, stream) as writer:
        writer.write(records()[0])
        assert bool(stream.getvalue()) == FORMATS[name].incremental
        for record in records()[1:]:
            writer.write(record)
    assert not stream.closed
    (path,) = write_all(name, tmp_path, records())
    assert stream.getvalue() == path.read_bytes()
    empty = io.BytesIO()
    open_writer(name, empty).close()
    assert empty.getvalue() == b""


def resumed(name: str, folder: Path, **options: object) -> int:
    """Go on from what is in the folder; the number of pictures that were left to do."""
    with open_writer(name, folder, resume=True, **options) as writer:  # type: ignore[arg-type]
        rest = [record for record in records() if not writer.is_done(record.file, record.stem)]
        for record in rest:
            writer.write(record)
    return len(rest)


@pytest.mark.parametrize("name", LINES)
def test_a_file_cut_anywhere_is_gone_on_with(tmp_path: Path, name: str) -> None:
    """As kill -9 leaves it: nothing lost, nothing twice, and the file is as without interruption."""
    (path,) = write_all(name, tmp_path, records())
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    near = {
        place + step
        for place in (ends if name == "jsonl" else [*ends[:3], *ends[-140:-133], *ends[-2:]])
        for step in (-1, 0, 1)
    }
    left = []
    for size in sorted({0, 1, 7, *range(0, len(whole), 997), *near}):
        if size <= len(whole):
            path.write_bytes(whole[:size])
            left.append(resumed(name, tmp_path, model="nano", layout=IBUG))
            assert path.read_bytes() == whole, size
    assert left == sorted(left, reverse=True)
    assert left[-1] == (0 if name == "jsonl" else 1)
    assert len(set(left)) >= 4


@pytest.mark.parametrize("name", LINES)
def test_resuming_cuts_the_file_even_if_nothing_is_left_to_do(tmp_path: Path, name: str) -> None:
    (path,) = write_all(name, tmp_path, records())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"file": "half')
    with open_writer(name, tmp_path, resume=True) as writer:
        done = [writer.is_done(record.file, record.stem) for record in records()]
    assert done == [True, True, True, name == "jsonl"]
    assert whole.startswith(path.read_bytes())
    assert [record.file for record in read_records(path)] == FILES[: sum(done)]


def test_pts_resume(tmp_path: Path) -> None:
    write_all("pts", tmp_path, records())
    (tmp_path / f"{records()[1].stem}.pts").unlink()
    assert resumed("pts", tmp_path) == 2  # this one, and the picture without a face
    assert resumed("pts", tmp_path) == 1
    with open_writer("pts", tmp_path) as writer:  # unless asked to resume, nothing is done
        assert not any(writer.is_done(record.file, record.stem) for record in records())


def test_a_picture_is_done_when_its_first_pts_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file comes last, so that a picture of two faces is not taken for done after one."""
    from octamark.io import pts

    written: list[str] = []
    monkeypatch.setattr(pts, "write_atomically", lambda path, data: written.append(path.name))
    write_all("pts", tmp_path, [Record("a.png", "a", "nano", faces_at(0, 300, 600))])
    assert written == ["a#3.pts", "a#2.pts", "a.pts"]


@pytest.mark.parametrize("name", ["json", "coco"])
def test_whole_files_cannot_be_resumed(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=f"format {name} .* cannot be resumed; formats that can: jsonl, csv, pts"):
        open_writer(name, tmp_path, resume=True)


@pytest.mark.parametrize("name", LINES)
def test_only_ones_own_results_are_gone_on_with(tmp_path: Path, name: str) -> None:
    (path,) = write_all(name, tmp_path, records())
    before = path.read_bytes()
    with pytest.raises(OutputError, match="written with model nano, not tiny; resume with the same model, or"):
        resumed(name, tmp_path, model="tiny")
    with pytest.raises(OutputError, match="written with layout ibug68, not wflw98; resume with the same layout, or"):
        resumed(name, tmp_path, layout=layout("wflw98"))
    assert path.read_bytes() == before
    for foreign in (b"one line\n", b"[1, 2]\n", b'{"image": "a"}\n', b"file,x,y\na,1,2\n", before + b"more\n"):
        path.write_bytes(foreign)
        with pytest.raises(OutputError, match=r"not (a line|a row|the columns) of octamark predict"):
            resumed(name, tmp_path)
        assert path.read_bytes() == foreign
    with pytest.raises(OutputError, match="standard output cannot be resumed: name a folder with -o"):
        open_writer(name, io.BytesIO(), resume=True)


def write_one(name: str, target: Path | BinaryIO) -> None:
    with open_writer(name, target) as writer:
        writer.write(records()[0])


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="unknown format 'xml'; formats: json, jsonl, csv, pts, coco"):
        open_writer("xml", tmp_path)
    with pytest.raises(OutputError, match="format pts writes several files: name a folder with -o"):
        open_writer("pts", io.BytesIO())
    for name in FORMATS:
        with pytest.raises(OutputError, match=r"(?s)nowhere.*: cannot be written \(No such file or directory\)"):
            write_one(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", LINES)
def test_a_write_that_fails_leaves_whole_lines(tmp_path: Path, name: str) -> None:
    """A file may grow to 1.5 pictures: the second is refused, and what is there is the first."""
    (path,) = write_all(name, tmp_path / "whole", records()[:1])
    limit = path.stat().st_size * 3 // 2
    code = (
        "import resource, signal, sys\n"
        "from test_writers import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"with open_writer({name!r}, Path({str(tmp_path)!r})) as writer:\n"
        "    writer.write(records()[0])\n"
        "    try: writer.write(records_of(['z.png'], [faces_at(0, 700)])[0])\n"
        "    except OutputError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert "cannot be written (File too large)" in ran.stdout, ran.stderr
    assert file_of(name, tmp_path).read_bytes() == path.read_bytes()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


def test_a_full_stream_is_the_systems_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for name in ("json", "jsonl"):
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            write_one(name, full)


def test_coco_has_its_category_before_the_first_face(tmp_path: Path) -> None:
    (path,) = write_all("coco", tmp_path, records()[2:3], layout=IBUG)
    (category,) = json.loads(path.read_text())["categories"]
    assert category["name"] == "face_ibug68"
    assert [len(record.faces) for record in read_records(path)] == [0]


def test_a_million_pictures_would_not_be_kept(tmp_path: Path) -> None:
    """jsonl and csv hold nothing of a record once it is written."""
    import gc
    import weakref

    for name in LINES:
        with open_writer(name, tmp_path) as writer:
            faces = faces_at(0)
            gone = weakref.ref(faces.landmarks)
            writer.write(Record("a.png", *unique_stems(["a.png"]), "nano", faces))
            del faces
            gc.collect()
            assert gone() is None


@pytest.mark.parametrize("name", LINES)
def test_a_file_that_was_deleted_meanwhile_is_an_error(tmp_path: Path, name: str) -> None:
    """Records would go to a file that nobody can open any more."""
    first, second, *_ = records()
    with open_writer(name, tmp_path) as writer:
        writer.write(first)
        file_of(name, tmp_path).unlink()
        with pytest.raises(OutputError, match="was deleted while it was being written"):
            writer.write(second)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("resume", [False, True])
def test_two_writers_do_not_share_a_file(tmp_path: Path, name: str, resume: bool) -> None:
    first, second, *_ = records()
    with open_writer(name, tmp_path) as writer:
        writer.write(first)
        with (
            pytest.raises(OutputError, match=rf"{FORMATS[name].file}: another process is writing to it"),
            open_writer(name, tmp_path, resume=resume) as other,
        ):
            other.write(first)
        writer.write(second)
    assert [found.file for found in read_records(tmp_path)] == FILES[:2]
    with open_writer(name, tmp_path, resume=resume) as other:  # the first one is closed
        other.write(second)


@pytest.mark.parametrize("name", ["jsonl", "csv", "json", "coco"])
def test_paths_may_be_texts(tmp_path: Path, name: str) -> None:
    with open_writer(name, str(tmp_path)) as writer:
        writer.write(records()[0])
    assert [found.file for found in read_records(str(tmp_path / str(FORMATS[name].file)), IBUG)] == FILES[:1]
    target: Any = None
    with pytest.raises(OutputError, match="target None; allowed: the path of a folder, or an open binary stream"):
        open_writer(name, target)


def test_pts_files_hold_no_missing_points(tmp_path: Path) -> None:
    faces = faces_at(0)
    faces.landmarks[0, 3] = np.nan
    with (
        open_writer("pts", tmp_path) as writer,
        pytest.raises(OutputError, match=r"^a\.png: \.pts files cannot hold points that are missing"),
    ):
        writer.write(Record("a.png", "a", "m", faces))
    assert not list(tmp_path.iterdir())
