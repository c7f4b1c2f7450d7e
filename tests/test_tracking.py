"""octamark.track: frames with faces from every kind of source, offline, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octamark
from clips import PORTRAIT, moved, portrait_clip
from octamark import ConfigError, Landmarker, PictureError, TrackedFrame
from octamark.images import write_picture
from octamark.io import Record
from octamark.io.video import Video, open_video

pytest.importorskip("av")


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return octamark.load("nano", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return portrait_clip(tmp_path_factory.mktemp("clip") / "clip.mkv")


def test_each_frame_has_its_face(clip: Path, landmarker: Landmarker) -> None:
    frames = list(octamark.track(clip, landmarker))
    assert [frame.index for frame in frames] == list(range(20))
    assert np.allclose([frame.time for frame in frames], np.arange(20) / 25)
    assert all(frame.faces.ids is not None and frame.faces.ids.tolist() == [1] for frame in frames)
    nose = np.array([frame.faces.landmarks[0, 30, 0] for frame in frames])
    assert np.abs(np.diff(nose[5:]) - 1).max() < 0.7  # the portrait moves one pixel from frame to frame
    assert frames[3].picture is not None
    assert frames[3].picture.shape == (400, 400, 3)


def test_every_and_progress(clip: Path, landmarker: Landmarker) -> None:
    read: list[int] = []
    frames = list(octamark.track(clip, landmarker, every=6, pictures=False, on_frame=read.append))
    assert [frame.index for frame in frames] == read == [0, 6, 12, 18]
    assert all(frame.picture is None for frame in frames)


def test_a_folder_and_an_open_video(tmp_path: Path, landmarker: Landmarker) -> None:
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", octamark.read_picture(PORTRAIT))
    (tmp_path / "1.png").write_bytes(b"damaged")
    with open_video(tmp_path, rate=10) as video:
        frames = list(octamark.track(video, landmarker))
        assert video.damaged == 1
    assert [(frame.index, frame.time, len(frame.faces)) for frame in frames] == [(0, 0.0, 1), (2, 0.2, 1)]


def jitter(frames: list[TrackedFrame]) -> float:
    points = np.array([frame.faces.landmarks[0] for frame in frames])
    return float(np.sqrt((np.diff(points, 2, axis=0) ** 2).mean()))


def test_offline_points_are_steadier(clip: Path, landmarker: Landmarker) -> None:
    raw = list(octamark.track(clip, landmarker, smoothing="none"))
    smooth = list(octamark.track(clip, landmarker, smoothing="high", offline=True))
    assert [(frame.index, frame.time) for frame in smooth] == [(frame.index, frame.time) for frame in raw]
    assert all(np.array_equal(first.picture, second.picture) for first, second in zip(smooth, raw, strict=True))
    assert jitter(smooth) < 0.5 * jitter(raw)
    without = list(octamark.track(clip, landmarker, smoothing="high", offline=True, pictures=False))
    assert without[7].picture is None
    assert np.array_equal(without[7].faces.landmarks, smooth[7].faces.landmarks)


def records(frames: list[TrackedFrame]) -> dict[int, Record]:
    """What an earlier run wrote, with other ids than a new run gives."""
    return {
        frame.index: Record(
            "", "", "nano", replace(frame.faces, ids=np.full(len(frame.faces), 7)), frame.index, frame.time
        )
        for frame in frames
    }


@pytest.mark.parametrize("pictures", [True, False])
def test_tracking_goes_on_after_an_interruption(clip: Path, landmarker: Landmarker, pictures: bool) -> None:
    whole = list(octamark.track(clip, landmarker))
    done = records(whole[:12])
    frames = list(octamark.track(clip, landmarker, done=done, pictures=pictures))
    assert [frame.index for frame in frames] == list(range(20))
    assert all(frames[index].faces is done[index].faces for index in range(12))
    assert all(frame.faces.ids is not None and frame.faces.ids.tolist() == [7] for frame in frames)
    for before, after in zip(whole[12:], frames[12:], strict=True):  # the tracker was warm
        assert np.allclose(before.faces.landmarks, after.faces.landmarks, atol=0.01)


def test_a_new_face_after_an_interruption_gets_a_new_id(clip: Path, landmarker: Landmarker) -> None:
    whole = list(octamark.track(clip, landmarker))
    elsewhere = {
        index: replace(record, faces=replace(record.faces, landmarks=record.faces.landmarks + 3000))
        for index, record in records(whole[:12]).items()
    }
    frames = list(octamark.track(clip, landmarker, done=elsewhere))
    assert all(frame.faces.ids is not None and frame.faces.ids.tolist() == [8] for frame in frames[12:])


def test_resolution_that_changes_in_mid_stream(landmarker: Landmarker) -> None:
    portrait = octamark.read_picture(PORTRAIT)
    small = np.ascontiguousarray(portrait[::2, ::2])

    def frames() -> Iterator[Any]:
        for number in range(10):
            picture = moved(portrait if number < 5 else small, number)
            yield number / 25, lambda picture=picture: picture

    found = list(octamark.track(Video("clip", frames, rate=25), landmarker))
    assert [frame.faces.size for frame in found] == [(400, 400)] * 5 + [(200, 200)] * 5
    assert all(len(frame.faces) == 1 for frame in found)
    assert found[7].faces.landmarks.max() < 200


def test_frames_of_one_pixel(landmarker: Landmarker) -> None:
    video = Video("clip", lambda: iter([(number / 25, lambda: np.zeros((1, 1, 3), np.uint8)) for number in range(3)]))
    assert [len(frame.faces) for frame in octamark.track(video, landmarker)] == [0, 0, 0]


def test_time_stamps_that_go_back(landmarker: Landmarker) -> None:
    portrait = octamark.read_picture(PORTRAIT)
    video = Video("clip", lambda: iter([(stamp, lambda: portrait) for stamp in (5.0, 5.04, 0.0, 0.04)]), rate=25)
    frames = list(octamark.track(video, landmarker))
    assert np.allclose([frame.time for frame in frames], [5.0, 5.04, 5.08, 5.12])
    assert all(frame.faces.ids is not None and frame.faces.ids.tolist() == [1] for frame in frames)


def test_what_cannot_be_tracked(clip: Path, landmarker: Landmarker) -> None:
    with pytest.raises(PictureError, match=r"missing.mp4: no such file"):
        octamark.track("missing.mp4", landmarker)
    with pytest.raises(ConfigError, match="offline"):
        octamark.track(clip, landmarker, offline=True, smoothing="none")
    with pytest.raises(ConfigError, match="smoothing"):
        octamark.track(clip, landmarker, smoothing="much")  # type: ignore[arg-type]
    live = Video("camera:0", lambda: iter(()), live=True)
    with pytest.raises(ConfigError, match="camera:0: offline"):
        octamark.track(live, landmarker, offline=True)
