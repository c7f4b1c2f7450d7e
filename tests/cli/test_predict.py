"""The command line as people use it: results, exit codes, one clear line for every mistake."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octamark.images import read_picture
from octamark.io import read_records

Ran = subprocess.CompletedProcess[str]


def octamark(*arguments: str | Path, stdin: bytes = b"", **options: object) -> Ran:
    command = [sys.executable, "-m", "octamark", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=120, **options)  # type: ignore[call-overload]
    ran = Ran(command, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photograph_path: Path) -> Path:
    """A good picture, one without faces, one deeper down, and files that are no pictures."""
    root = tmp_path_factory.mktemp("pictures")
    portrait = Image.open(photograph_path)
    portrait.save(root / "good.png")
    portrait.convert("L").save(root / "grey.png")
    (root / "deeper").mkdir()
    portrait.convert("CMYK").save(root / "deeper" / "good.jpg")
    Image.new("RGB", (90, 60)).save(root / "empty.png")
    (root / "text.jpg").write_text("this is text")
    (root / "zero.jpg").write_bytes(b"")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:20000])
    (root / "notes.txt").write_text("left alone")
    return root


def test_one_picture_prints_one_json_line(folder: Path) -> None:
    ran = octamark("predict", folder / "good.png", "-m", "nano")
    assert ran.returncode == 0
    (line,) = ran.stdout.splitlines()
    entry = json.loads(line)
    assert entry["file"] == str(folder / "good.png")
    assert (entry["layout"], entry["model"]) == ("ibug68", "nano")
    assert np.shape(entry["faces"][0]["landmarks"]) == (68, 2)


@pytest.mark.slow
def test_a_folder_goes_on_past_bad_pictures(folder: Path, tmp_path: Path) -> None:
    ran = octamark("predict", folder, "-m", "nano", "-o", tmp_path, "-f", "json", "--overlay", "--heatmap")
    assert ran.returncode == 1
    for name, said in (("text.jpg", "not a picture"), ("zero.jpg", "empty"), ("cut.png", "damaged or truncated")):
        (line,) = (line for line in ran.stderr.splitlines() if name in line)
        assert line.startswith("error:")
        assert said in line
    assert "empty.png: no face found" in ran.stderr
    assert "3 inputs failed" in ran.stderr
    entries = json.loads((tmp_path / "predictions.json").read_text())
    found = {str(Path(entry["file"]).relative_to(folder)): len(entry["faces"]) for entry in entries}
    assert found == {"deeper/good.jpg": 1, "empty.png": 0, "good.png": 1, "grey.png": 1}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "good.overlay.png" in names
    assert "good-2.heatmap.png" in names
    assert not [name for name in names if name.startswith(".")]
    drawn = read_picture(tmp_path / "grey.overlay.png")
    assert drawn.shape == (1536, 1536, 3)  # a face of some 100 pixels is drawn three times as large
    assert (drawn[1::3, 1::3] != read_picture(folder / "grey.png")).any()


@pytest.mark.slow
def test_standard_input(folder: Path) -> None:
    ran = octamark("predict", "-", "-m", "nano", "-f", "csv", stdin=(folder / "good.png").read_bytes())
    assert ran.returncode == 0
    assert len(ran.stdout.splitlines()) == 69
    ran = octamark("predict", "-", "-m", "nano", stdin=b"junk")
    assert ran.returncode == 1
    assert "standard input: not a picture" in ran.stderr


@pytest.mark.parametrize("form", ["jsonl", "csv", "pts", "coco"])
def test_formats_write_their_files(folder: Path, tmp_path: Path, form: str) -> None:
    ran = octamark("predict", folder / "good.png", "-m", "nano", "-o", tmp_path / "new" / "out", "-f", form)
    assert ran.returncode == 0
    assert "1 face in 1 picture, results in" in ran.stderr
    (file,) = (tmp_path / "new" / "out").iterdir()
    assert file.name == {"pts": "good.pts", "coco": "predictions.coco.json"}.get(form, f"predictions.{form}")


def refused(said: str, *arguments: str | Path) -> None:
    ran = octamark("predict", *arguments)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stdout == ""


@pytest.mark.slow
def test_odd_names_come_out_as_they_went_in(folder: Path, tmp_path: Path) -> None:
    names = ["with space.png", "[red]x[b].png", ":smile:.png", "-dash.png", "né.png"]
    for name in names:
        (tmp_path / name).write_bytes((folder / "empty.png").read_bytes())
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")
    Path(odd).write_bytes((folder / "empty.png").read_bytes())
    os.mkfifo(tmp_path / "pipe.jpg")  # a folder's special files are no pictures, and waiting for one would be for ever
    out = tmp_path / "out"
    ran = octamark("predict", tmp_path, "-m", "nano", "-o", out, "-f", "csv", "--overlay")
    assert ran.returncode == 0, ran.stderr
    assert b"bad\xff.png" in (out / "predictions.csv").read_bytes()
    for name in names:
        assert f"{name}: no face found" in ran.stderr
    again = octamark("predict", tmp_path, "-m", "nano", "-o", out, "-f", "csv", "--overlay")
    assert "0 faces in 6 pictures" in again.stderr  # its own drawings are no input


@pytest.mark.slow
def test_nothing_readable_leaves_older_results_alone(folder: Path, tmp_path: Path) -> None:
    octamark("predict", folder / "good.png", "-m", "nano", "-o", tmp_path)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    assert octamark("predict", folder / "text.jpg", "-m", "nano", "-o", tmp_path).returncode == 1
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def hear_signals() -> None:
    """Undo the shell's habit of making background jobs deaf to SIGINT, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_keeps_what_it_found(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "in").mkdir()
    inputs = [tmp_path / "in" / f"{index:03}.png" for index in range(400)]
    for path in inputs:
        os.link(folder / "good.png", path)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "octamark",
        "predict",
        str(tmp_path / "in"),
        "-m",
        "nano",
        "-o",
        str(out),
        "--overlay",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_signals)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.overlay.png"))) < 8:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after" in said
    assert "Traceback" not in said
    assert 8 <= len((out / "predictions.jsonl").read_text().splitlines()) < 400


@pytest.mark.slow
def test_mistakes_of_the_caller(folder: Path, tmp_path: Path) -> None:
    good = folder / "good.png"
    refused("unknown model 'huge'; models: ", good, "-m", "huge")
    refused("unknown format 'xml'; formats: json, jsonl, csv, pts, coco", good, "-f", "xml")
    refused("format pts writes several files: name a folder with -o", good, "-f", "pts")
    refused("the folder cannot be made", good, "-o", good)
    refused("Invalid value for '--max-megapixels'", good, "--max-megapixels", "inf")
    refused("threads=999", good, "--threads", "999")
    refused("unknown device 'gpu'; devices: cpu, cuda", good, "--device", "gpu")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    refused("bad.onnx: damaged", good, "-m", tmp_path / "bad.onnx")


def test_points_of_another_layout(folder: Path, tmp_path: Path) -> None:
    assert octamark("predict", folder / "good.png", "-m", "nano", "-o", tmp_path / "own").returncode == 0
    ran = octamark(
        "predict", folder / "good.png", "-m", "nano", "--layout", "wflw98", "-o", tmp_path / "98", "--overlay"
    )
    assert ran.returncode == 0, ran.stderr
    own, dense = (json.loads((tmp_path / name / "predictions.jsonl").read_text()) for name in ("own", "98"))
    assert (dense["layout"], np.shape(dense["faces"][0]["landmarks"])) == ("wflw98", (98, 2))
    assert dense["faces"][0]["landmarks"][54] == own["faces"][0]["landmarks"][30]
    assert (tmp_path / "98" / "good.overlay.png").exists()
    refused(
        "no conversion from ibug68 to manga60; ibug68 converts to: cofw29", folder / "good.png", "--layout", "manga60"
    )
    refused("unknown layout 'ibug67'", folder / "good.png", "--layout", "ibug67")


@pytest.mark.slow
def test_a_close_look_and_tiles_on_demand(folder: Path) -> None:
    def points(*more: str) -> list[list[float]]:
        ran = octamark("predict", folder / "good.png", *more)
        assert ran.returncode == 0
        return json.loads(ran.stdout)["faces"][0]["landmarks"]  # type: ignore[no-any-return]

    never, always = (np.array(points("--refine", mode)) for mode in ("never", "always"))
    assert 0.1 < np.abs(never - always).max() < 10
    np.testing.assert_array_equal(points("--refine", "always", "--tiles"), always)  # too small a picture for tiles
    filled = octamark("predict", folder / "empty.png", "--full-frame")
    assert len(json.loads(filled.stdout)["faces"]) == 1
    refused("refine 'yes'; allowed: auto, always, never", "predict", folder / "good.png", "--refine", "yes")
    refused("unknown model 'region'", "predict", folder / "good.png", "--refine", "always", "--regions", "region")


def test_missing_and_empty_inputs_are_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    ran = octamark("predict", tmp_path / "hollow", tmp_path / "nobody.jpg", folder / "good.png", "-m", "nano")
    assert ran.returncode == 1
    assert "hollow: no pictures in this folder" in ran.stderr
    assert "nobody.jpg: cannot be read" in ran.stderr
    assert len(ran.stdout.splitlines()) == 1


@pytest.mark.slow
def test_full_disk_is_one_line(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "nobody.png")
    for name in ("good.png", "nobody.png"):  # more and less than a stream's buffer
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "octamark", "predict", str(folder / name), "-m", "nano"]
            ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        assert ran.returncode == 2
        assert "error: output: No space left on device" in ran.stderr.splitlines()
        assert "Traceback" not in ran.stderr
        assert "Exception ignored" not in ran.stderr


def test_read_only_folder(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/self/fdinfo")  # where even root cannot write
    else:
        target = tmp_path / "locked"
        target.mkdir(mode=0o500)
    ran = octamark("predict", folder / "good.png", "-m", "nano", "-o", target)
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr


@pytest.mark.slow
def test_other_verbs(tmp_path: Path) -> None:
    ran = octamark("models")
    assert ran.returncode == 0
    for name in ("nano", "tiny", "small", "research use only", "validation NME"):
        assert name in ran.stdout
    ran = octamark("layouts", "cofw29", "-o", tmp_path)
    assert ran.returncode == 0
    assert "left_pupil" in ran.stdout
    assert read_picture(tmp_path / "cofw29.png").shape == (1000, 1000, 3)
    ran = octamark("layouts", "mine")
    assert ran.returncode == 2
    assert "unknown layout 'mine'; known: ibug68" in ran.stderr
    assert octamark("--version").stdout.startswith("octamark 0.")
    assert octamark("train", tmp_path / "no.toml", "--data", tmp_path).returncode == 2


@pytest.mark.slow
def test_a_killed_batch_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, twice, for each format that is written line by line: nothing is lost, nothing is twice."""
    pictures, count = tmp_path / "in", 120
    pictures.mkdir()
    for index in range(count):
        os.link(folder / "good.png", pictures / f"{index:03}.png")
    for form, rows in (("jsonl", 1), ("csv", 68)):
        out = tmp_path / form
        arguments = ["predict", str(pictures), "-m", "nano", "-o", str(out), "-f", form, "--resume"]
        for target in (20, 60):
            process = subprocess.Popen([sys.executable, "-m", "octamark", *arguments], stderr=subprocess.DEVNULL)
            file, deadline = out / f"predictions.{form}", time.monotonic() + 60
            while not file.exists() or file.read_bytes().count(b"\n") < target * rows:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
            process.wait(timeout=60)
        ran = octamark(*arguments)
        assert ran.returncode == 0, ran.stderr
        assert "already in" in ran.stderr
        entries = read_records(file)
        assert sorted(Path(entry.file).name for entry in entries) == [f"{index:03}.png" for index in range(count)]
        assert all(len(entry.faces) == 1 for entry in entries)
        again = octamark(*arguments)
        assert f"{120 if form == 'jsonl' else 119} pictures already in" in again.stderr  # the last of a csv is redone
    refused("cannot be resumed", pictures, "-m", "nano", "-o", tmp_path / "json", "-f", "json", "--resume")


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4_000_000 * 1024, 4_000_000 * 1024))


@pytest.mark.slow
def test_a_picture_too_large_for_the_memory_costs_only_itself(folder: Path, tmp_path: Path) -> None:
    """Ten pictures, one of 100 megapixels, 4 GB of address space, heatmaps: the others are written."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for index in range(9):
        os.link(folder / "good.png", pictures / f"{index}.png")
    Image.new("RGB", (10_000, 10_000), (90, 120, 80)).save(pictures / "large.png", compress_level=1)
    out = tmp_path / "out"
    ran = octamark(
        "predict", pictures, "-o", out, "-f", "json", "--heatmap", "--overlay", "--full-frame", preexec_fn=limited
    )
    entries = {Path(entry["file"]).name: entry for entry in json.loads((out / "predictions.json").read_text())}
    assert {f"{index}.png" for index in range(9)} <= entries.keys()
    assert ran.returncode == (0 if "large.png" in entries and "large.png" not in ran.stderr else 1)
    assert len(list(out.glob("*.heatmap.png"))) >= 9
    tight = octamark("predict", pictures, "-m", "nano", "-o", tmp_path / "tight", "--max-megapixels", "90")
    assert tight.returncode == 1
    assert "large.png" in tight.stderr
    assert "1 input failed; the rest are done" in tight.stderr
    assert len((tmp_path / "tight" / "predictions.jsonl").read_text().splitlines()) == 9


@pytest.mark.slow
def test_inputs_that_are_no_pictures_are_told_what_is_accepted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0" * 64)
    for name, kind in (
        (str(tmp_path / "clip.mp4"), "a video"),
        ("https://example.org/a.jpg", "a URL"),
        ("camera:0", "a camera"),
        ("0", "a camera"),
        (str(tmp_path / "*.jpg"), "a pattern that no file matches"),
    ):
        ran = octamark("predict", name, "-m", "nano")
        assert ran.returncode == 1
        assert (
            f"{name}: {kind}; predict reads picture files, folders of pictures, and - for standard input" in ran.stderr
        )


def test_each_picture_comes_once_and_what_is_left_out_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.Jpeg", "b.jfif", "deep/c.avif", "._a.Jpeg", "d.heic", "e.heic"):
        (tmp_path / name).write_bytes((folder / "good.png").read_bytes())
    (tmp_path / "link.png").symlink_to(tmp_path / "a.Jpeg")
    ran = octamark("predict", tmp_path, tmp_path / "a.Jpeg", "-m", "nano")
    assert ran.returncode == 0, ran.stderr
    files = [Path(json.loads(line)["file"]).name for line in ran.stdout.splitlines()]
    assert sorted(files) == ["a.Jpeg", "b.jfif", "c.avif"]
    assert "left out: 2 .heic" in ran.stderr
    assert "1 picture named more than once; each is read once" in ran.stderr


def test_faces_of_little_confidence_can_be_left_out(folder: Path) -> None:
    ran = octamark("predict", folder / "good.png", "-m", "nano", "--min-confidence", "0.99")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["faces"] == []
    ran = octamark("predict", folder / "good.png", "-m", "nano")
    (face,) = json.loads(ran.stdout)["faces"]
    assert 0.3 < face["mean_confidence"] < 0.99
