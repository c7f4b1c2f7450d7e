"""octamark track as people use it: results, drawn video, plot; resumed, interrupted, and with a full disk."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import PORTRAIT, moved, portrait_clip, write_clip
from command_line import run
from octamark import ConfigError, OctamarkError, OutputError, PictureError, drawing, read_picture
from octamark.faces import Faces
from octamark.images import write_picture
from octamark.io import read_records
from octamark.io.video import open_video
from octamark.io.writers import LineWriter

pytest.importorskip("av")

FAST = ("-m", "nano", "--threads", "1")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return portrait_clip(tmp_path_factory.mktemp("clip") / "clip.mkv")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_video_gives_one_line_per_frame(clip: Path, tmp_path: Path) -> None:
    said = run("track", clip, *FAST, "-o", tmp_path)
    assert "1 face in 20 frames" in said
    assert f"results in {tmp_path}" in said
    entries = lines(tmp_path)
    assert [entry["frame"] for entry in entries] == list(range(20))
    assert [entry["time"] for entry in entries] == [number / 25 for number in range(20)]
    assert entries[3]["file"] == f"{clip}#3"
    assert [face["id"] for entry in entries for face in entry["faces"]] == [1] * 20
    records = read_records(tmp_path)
    assert [(record.frame, record.time) for record in records] == [(number, number / 25) for number in range(20)]
    assert all(record.faces.ids is not None and record.faces.ids.tolist() == [1] for record in records)


def test_csv_has_frame_time_and_id(clip: Path, tmp_path: Path) -> None:
    run("track", clip, *FAST, "-o", tmp_path, "-f", "csv", "--every", "10")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 2 * 68
    assert (rows[70]["frame"], rows[70]["time"], rows[70]["id"]) == ("10", "0.4", "1")
    records = read_records(tmp_path)
    assert [(record.frame, record.time) for record in records] == [(0, 0.0), (10, 0.4)]
    assert records[1].faces.ids is not None
    assert records[1].faces.ids.tolist() == [1]


def test_frames_without_faces(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "grey.mkv", 3, lambda number: np.full((64, 64, 3), 90, np.uint8))
    for form in ("jsonl", "csv"):
        said = run("track", clip, *FAST, "-o", tmp_path / form, "-f", form, "--plot")
        assert "0 faces in 3 frames" in said
        assert "no face found, so there is no plot" in said
        records = read_records(tmp_path / form)
        assert [(record.frame, record.time, len(record.faces)) for record in records] == [
            (0, 0.0, 0), (1, 0.04, 0), (2, 0.08, 0),
        ]  # fmt: skip


def test_a_folder_of_pictures_keeps_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        write_picture(tmp_path / "in" / f"{number}.png", read_picture(PORTRAIT))
    said = run("track", tmp_path / "in", *FAST, "-o", tmp_path / "out", "--rate", "10")
    assert "2 frames" in said
    assert [(entry["file"], entry["time"]) for entry in lines(tmp_path / "out")] == [
        (str(tmp_path / "in" / "1.png"), 0.0),
        (str(tmp_path / "in" / "2.png"), 0.1),
    ]


def test_the_drawn_video_and_the_plot(clip: Path, tmp_path: Path) -> None:
    said = run("track", clip, *FAST, "-o", tmp_path, "--render", tmp_path / "drawn.mp4", "--plot")
    assert "0 blinks; plot in" in said
    assert read_picture(tmp_path / "clip.plot.png").shape[1] == 1100
    with open_video(tmp_path / "drawn.mp4") as drawn, open_video(clip) as original:
        pairs = list(zip(drawn, original, strict=True))
    records = read_records(tmp_path / "predictions.jsonl")
    for (shown, frame), record in zip(pairs, records, strict=True):
        assert abs(shown.time - frame.time) < 1e-3
        expected = drawing.overlay(frame.picture, record.faces, enlarge=False)
        difference = np.abs(shown.picture.astype(int) - expected)
        assert difference.mean() < 6  # H.264 is lossy
        assert difference.mean() < np.abs(shown.picture.astype(int) - frame.picture).mean()


def test_offline_gives_all_frames(clip: Path, tmp_path: Path) -> None:
    said = run(
        "track", clip, *FAST, "-o", tmp_path, "--offline", "--smoothing", "high", "--render", tmp_path / "drawn.mkv"
    )
    assert "1 face in 20 frames" in said
    assert len(lines(tmp_path)) == 20
    with open_video(tmp_path / "drawn.mkv") as drawn:
        assert len(list(drawn)) == 20


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_interrupted_call_goes_on(clip: Path, tmp_path: Path, form: str) -> None:
    run("track", clip, *FAST, "-o", tmp_path / "whole", "-f", form)
    (whole,) = (tmp_path / "whole").iterdir()
    (tmp_path / "half").mkdir()
    data = whole.read_bytes()
    half = tmp_path / "half" / whole.name
    half.write_bytes(data[: len(data) * 6 // 10])
    drawn = tmp_path / "drawn.mkv"
    said = run("track", clip, *FAST, "-o", tmp_path / "half", "-f", form, "--resume", "--render", drawn)
    assert "frames of an earlier call kept" in said
    first, second = (read_records(file) for file in (whole, half))
    assert [record.frame for record in second] == list(range(20))
    for before, after in zip(first, second, strict=True):
        assert np.allclose(before.faces.landmarks, after.faces.landmarks, atol=0.05)
        assert after.faces.ids is not None
        assert after.faces.ids.tolist() == [1]
    with open_video(drawn) as video:
        assert len(list(video)) == 20
    said = run("track", clip, *FAST, "-o", tmp_path / "half", "-f", form, "--resume", "--plot")
    assert f"{'20' if form == 'jsonl' else '19'} frames of an earlier call kept" in said
    assert (tmp_path / "half" / "clip.plot.png").exists()


def test_results_that_are_no_frames_are_not_resumed(clip: Path, tmp_path: Path) -> None:
    run("predict", PORTRAIT, "-m", "nano", "-o", tmp_path)
    with pytest.raises(OctamarkError, match="is no frame of a video"):
        run("track", clip, *FAST, "-o", tmp_path, "--resume")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("-f", "pts"), OutputError, "format 'pts'; formats that hold the frames of a video: jsonl, csv"),
        (("--resume",), OutputError, "--resume: needs the folder"),
        (("--offline", "--smoothing", "none"), ConfigError, "offline"),
        (("--smoothing", "much"), ConfigError, "smoothing 'much'"),
        (("--rate", "30"), ConfigError, "for folders of pictures"),
        (("--render", "drawn.gif"), OutputError, "videos are written as"),
    ],
)
def test_mistakes_of_the_caller(clip: Path, options: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run("track", clip, *FAST, *options)


@pytest.mark.parametrize("source", ["missing.mp4", "camera:99"])
def test_sources_that_are_not_there(source: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=f"{source}: no such"):
        run("track", source, *FAST, "-o", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_video_that_is_read_is_not_overwritten(clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    with pytest.raises(OutputError, match="is the video that is being read"):
        run("track", clip, *FAST, "-o", tmp_path, "--render", clip)
    assert clip.read_bytes() == before


def test_damaged_and_missing_frames_are_told(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", read_picture(PORTRAIT))
    (tmp_path / "1.png").write_bytes(b"damaged")
    said = run("track", tmp_path, *FAST, "-o", tmp_path / "out")
    assert f"{tmp_path}: 1 frame damaged and left out" in said
    clip = portrait_clip(tmp_path / "clip.mkv", 60)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    said = run("track", cut, *FAST, "-o", tmp_path / "cut")
    assert "cut.mkv: states 60 frames; it ended after" in said
    assert 10 < len(lines(tmp_path / "cut")) < 55


def test_a_full_disk_leaves_whole_lines(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = LineWriter.write, []

    def full_after_seven(self: LineWriter, record: Any) -> None:
        if len(written) == 7:
            raise OutputError(f"{self._path}: cannot be written (No space left on device)")
        written.append(record)
        write(self, record)

    monkeypatch.setattr(LineWriter, "write", full_after_seven)
    with pytest.raises(OutputError, match="No space left"):
        run("track", clip, *FAST, "-o", tmp_path, "--render", tmp_path / "drawn.mp4")
    assert len(lines(tmp_path)) == 7
    with open_video(tmp_path / "drawn.mp4") as drawn:
        assert len(list(drawn)) == 7


def test_an_interruption_leaves_valid_files(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay, drawn = drawing.overlay, []

    def interrupt_at_seven(picture: Any, faces: Faces, **options: Any) -> Any:
        if len(drawn) == 7:
            raise KeyboardInterrupt
        drawn.append(faces)
        return overlay(picture, faces, **options)

    monkeypatch.setattr(drawing, "overlay", interrupt_at_seven)
    said = run("track", clip, *FAST, "-o", tmp_path, "--render", tmp_path / "drawn.mp4", "--plot", code=130)
    assert "interrupted after 8 frames" in said
    assert len(lines(tmp_path)) == 8
    with open_video(tmp_path / "drawn.mp4") as video:
        assert len(list(video)) == 7
    assert (tmp_path / "clip.plot.png").exists()


def hear_signals() -> None:
    """Undo the shell's habit of making background jobs deaf to SIGINT, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path) -> None:
    portrait = read_picture(PORTRAIT)
    clip = write_clip(tmp_path / "clip.mkv", 400, lambda number: moved(portrait, number % 40))
    command = [
        sys.executable,
        "-m",
        "octamark",
        "track",
        clip,
        *FAST,
        "-o",
        tmp_path,
        "--render",
        tmp_path / "drawn.mp4",
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, preexec_fn=hear_signals)
    file = tmp_path / "predictions.jsonl"
    deadline = time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted after" in said
    assert "Traceback" not in said
    written = lines(tmp_path)
    assert 20 <= len(written) < 400
    with open_video(tmp_path / "drawn.mp4") as drawn:
        assert abs(len(list(drawn)) - len(written)) <= 1


def test_standard_output(clip: Path) -> None:
    command = [sys.executable, "-m", "octamark", "track", str(clip), *FAST, "--every", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 10]
