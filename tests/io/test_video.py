"""Videos: frames of all sources with their times, upright; written files with their sound; and what goes wrong."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from octamark.errors import ConfigError, OctamarkError, OutputError, PictureError
from octamark.images import write_picture
from octamark.io.video import Video, VideoWriter, open_video

av = pytest.importorskip("av")

Picture = NDArray[np.uint8]
BLOCK = 40  # pixels: large enough to keep its grey under H.264


def numbered(number: int, width: int = 96, height: int = 64) -> Picture:
    """A picture whose grey is its number times ten, modulo 260."""
    return np.full((height, width, 3), number % 26 * 10, np.uint8)


def corners() -> Picture:
    """A picture with black, dark, bright and white quarters: top left, top right, bottom left, bottom right."""
    quarters = np.array([[0, 80], [160, 255]], np.uint8)
    return np.repeat(np.kron(quarters, np.ones((32, 48), np.uint8))[:, :, None], 3, axis=2)


def write_clip(path: Path, count: int = 12, rate: float = 25.0, **options: Any) -> Path:
    with VideoWriter(path, rate=rate, **options) as film:
        for number in range(count):
            film.write(numbered(number), number / rate)
    return path


def read(source: Path | str, **options: Any) -> tuple[list[tuple[int, float, int]], Video]:
    """(index, time, grey / 10) of each frame, and the source after that."""
    with open_video(source) as video:
        frames = [
            (frame.index, round(frame.time, 3), round(float(frame.picture.mean()) / 10))
            for frame in video.frames(**options)
        ]
    return frames, video


def raw(
    path: Path,
    times: list[float],
    *,
    codec: str = "mpeg4",
    picture: Picture | None = None,
) -> Path:
    """A file written by PyAV alone, with these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, moment in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number) if picture is None else picture, format="rgb24")
            frame.pts, frame.time_base = round(moment * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Reading


def test_a_file_gives_its_frames_with_their_times(tmp_path: Path) -> None:
    frames, video = read(write_clip(tmp_path / "clip.mp4"))
    assert frames == [(number, number / 25, number) for number in range(12)]
    assert (video.rate, video.count, video.live, video.damaged, video.retimed) == (25, 12, False, 0, 0)
    assert video.frame_name(3) == f"{tmp_path / 'clip.mp4'}#3"


def test_every_and_first(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv")
    assert [index for index, _, _ in read(clip, every=5)[0]] == [0, 5, 10]
    assert read(clip, every=4, first=3)[0] == [(3, 0.12, 3), (7, 0.28, 7), (11, 0.44, 11)]


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1.5}, {"first": -1}, {"every": True}])
def test_numbers_of_frames_that_cannot_be(tmp_path: Path, options: dict[str, Any]) -> None:
    with open_video(write_clip(tmp_path / "clip.mkv", 2)) as video, pytest.raises(ConfigError, match="allowed"):
        video.frames(**options)


def test_a_file_is_read_over_http(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            frames, video = read(f"http://127.0.0.1:{server.server_port}/clip.mp4")
        finally:
            server.shutdown()
            thread.join()
    assert frames == [(number, number / 25, number) for number in range(12)]
    assert not video.live


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    times = [1.5, 1.533, 1.6, 2.6, 2.612, 2.9]
    with VideoWriter(tmp_path / "clip.mp4") as film:
        for number, moment in enumerate(times):
            film.write(numbered(number), moment)
    frames, video = read(tmp_path / "clip.mp4")
    assert [moment for _, moment, _ in frames] == times
    assert video.retimed == 0


def with_display_matrix(path: Path, numbers: tuple[int, int, int, int]) -> Path:
    """The file with a, b, c and d of the display matrix in the header of its track (ISO/IEC 14496-12, tkhd)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (number * 65536 for number in numbers)
    data[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda picture: picture),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a phone held upright
        ((0, -1, 1, 0), lambda picture: np.rot90(picture)),
        ((-1, 0, 0, -1), lambda picture: picture[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_and_mirrored_as_the_file_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], expected: Any
) -> None:
    path = with_display_matrix(raw(tmp_path / "clip.mp4", [0.0, 0.04], picture=corners()), matrix)
    with open_video(path) as video:
        shown = next(frame.picture for frame in video)
    upright = expected(corners())
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 8
    assert shown.flags.c_contiguous


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_picture(tmp_path / f"frame{number}.png", numbered(number))
    (tmp_path / "frame3.png").write_bytes(b"damaged")
    (tmp_path / "deeper").mkdir()
    write_picture(tmp_path / "deeper" / "frame0.png", numbered(0))
    (tmp_path / "notes.txt").write_text("not a picture")
    frames, video = read(tmp_path)
    assert frames == [(0, 0.0, 1), (1, 0.04, 2), (3, 0.12, 10)]
    assert (video.count, video.damaged) == (4, 1)
    assert video.frame_name(3) == str(tmp_path / "frame10.png")
    with open_video(tmp_path, rate=2) as slow:
        assert [frame.time for frame in slow] == [0.0, 0.5, 1.5]
        with slow.reopen() as again:
            assert [frame.time for frame in again] == [0.0, 0.5, 1.5]


def test_a_source_is_read_once(tmp_path: Path) -> None:
    with open_video(write_clip(tmp_path / "clip.mkv", 3)) as video:
        assert len(list(video)) == 3
        with pytest.raises(ConfigError, match="reopen"):
            video.frames()
        with video.reopen() as again:
            assert len(list(again)) == 3


# Faults of sources


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mkv", 100).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    frames, _ = read(cut)
    assert 20 < len(frames) < 90
    assert all(grey == round(moment * 25) % 26 for _, moment, grey in frames)


def test_a_truncated_file_without_its_index_is_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "clip.mp4", [number / 25 for number in range(50)])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PictureError, match=r"clip\.mp4: cannot be read as a video"):
        open_video(path)


def test_damaged_frames_are_counted_and_left_out(tmp_path: Path) -> None:
    path = raw(tmp_path / "clip.mov", [number / 25 for number in range(20)], codec="png")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 4] == b"\x89PNG"]
    assert len(starts) == 20
    data[starts[7] + 8 : starts[7] + 40] = bytes(32)
    path.write_bytes(data)
    frames, video = read(path)
    assert frames == [(number, number / 25, number) for number in range(20) if number != 7]
    assert video.damaged == 1


@pytest.mark.parametrize("content", [b"", b"this is text, not a video\n" * 99])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(PictureError, match=r"clip\.mp4: cannot be read as a video"):
        open_video(tmp_path / "clip.mp4")


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        fill_with_sound(container, sound_stream(container), 1.0)
    return path


def sound_stream(container: Any) -> Any:
    stream = container.add_stream("aac", rate=16000)
    stream.codec_context.layout = "mono"
    return stream


def fill_with_sound(container: Any, stream: Any, seconds: float) -> None:
    samples = (8000 * np.sin(np.arange(round(16000 * seconds)) / 20)).astype(np.int16)
    resampler = av.AudioResampler(
        stream.codec_context.format, "mono", 16000, frame_size=stream.codec_context.frame_size
    )
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def test_a_file_without_video_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.m4a")
    with pytest.raises(PictureError, match=r"sound.m4a: holds no video \(audio\)"):
        open_video(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.mp4", "missing.mp4: no such file, folder, URL or camera"),
        ("camera:99", "camera:99: no such camera"),
        ("rtsp://127.0.0.1:9/stream", "rtsp://127.0.0.1:9/stream: cannot be read as a video"),
    ],
)
def test_a_source_that_is_not_there(source: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PictureError, match=message):
        open_video(source)
    assert capfd.readouterr().err == ""


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no pictures in this folder"):
        open_video(tmp_path)


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan"), "fast"])
def test_rates_that_cannot_be(tmp_path: Path, rate: Any) -> None:
    with pytest.raises(ConfigError, match="rate"):
        open_video(tmp_path, rate=rate)


def test_a_rate_is_for_folders_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folders"):
        open_video(write_clip(tmp_path / "clip.mkv", 2), rate=10)


def test_a_codec_that_nobody_knows(tmp_path: Path) -> None:
    path = raw(tmp_path / "clip.avi", [0.0, 0.04])
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"zq9x"))
    with pytest.raises(PictureError, match=r"clip\.avi: the codec of its video is unknown"):
        open_video(path)


def test_frames_of_one_pixel(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mkv") as film:
        film.write(np.full((1, 1, 3), 120, np.uint8), 0.0)
    with open_video(tmp_path / "clip.mkv") as video:
        (frame,) = list(video)
    assert frame.picture.shape == (2, 2, 3)
    for number in range(2):
        write_picture(tmp_path / f"{number}.png", np.zeros((1, 1, 3), np.uint8))
    assert [index for index, _, _ in read(tmp_path)[0]] == [0, 1]


def stamped(stamps: list[float | None], rate: float | None = 10.0) -> tuple[list[float], Video]:
    """The times that frames with these time stamps get."""
    video = Video("clip", lambda: iter([(stamp, lambda: numbered(0)) for stamp in stamps]), rate=rate)
    return [round(frame.time, 6) for frame in video], video


def test_a_time_stamp_that_goes_back_is_replaced() -> None:
    times, video = stamped([0.0, 0.1, 0.05, 0.3, 0.3, 0.5])
    assert times == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert video.retimed == 2


def test_a_missing_time_stamp_is_replaced() -> None:
    times, video = stamped([None, None, 0.5, None])
    assert times == [0.0, 0.1, 0.5, 0.6]
    assert video.retimed == 3


def test_time_goes_on_where_a_new_part_of_a_video_begins_at_zero() -> None:
    times, video = stamped([8.0, 8.1, 8.2, 0.0, 0.15, 0.3, 0.0, 7.0])
    assert times == [8.0, 8.1, 8.2, 8.3, 8.45, 8.6, 8.7, 15.3]
    assert video.retimed == 2


def test_resolution_may_change_in_mid_stream(tmp_path: Path) -> None:
    large = raw_stream(tmp_path / "large.h264", 96, 64)
    small = raw_stream(tmp_path / "small.h264", 48, 80)
    both = tmp_path / "both.h264"
    both.write_bytes(large.read_bytes() + small.read_bytes())
    with open_video(both) as video:
        shapes = [frame.picture.shape for frame in video]
    assert shapes == [(64, 96, 3)] * 5 + [(80, 48, 3)] * 5


def raw_stream(path: Path, width: int, height: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(numbered(number, width, height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Live sources


def test_a_live_source_gives_its_newest_frame() -> None:
    given = threading.Event()

    def frames() -> Iterator[Any]:
        for number in range(6):
            yield number / 10, lambda number=number: numbered(number)
            if number == 0:
                given.wait(10)  # until the caller has the first frame and is busy

    video = Video("camera:0", frames, live=True)
    numbers = []
    for frame in video.frames():
        if frame.index == 0:
            given.set()
            time.sleep(0.3)
        numbers.append(frame.index)
    assert numbers[0] == 0
    assert numbers[-1] == 5
    assert len(numbers) + video.dropped == 6
    assert video.dropped >= 1


def test_a_live_source_that_breaks_off() -> None:
    def frames() -> Iterator[Any]:
        yield 0.0, lambda: numbered(0)
        raise PictureError("camera:0: the camera stopped")

    video = Video("camera:0", frames, live=True)
    with pytest.raises(PictureError, match="the camera stopped"):
        list(video)
    with pytest.raises(ConfigError, match="live"):
        video.reopen()


def test_a_camera_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def __init__(self, number: int) -> None:
            self.left = 3

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, name: int) -> float:
            return 30.0

        def read(self) -> tuple[bool, Picture | None]:
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (1, 2, 3), np.uint8)

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with open_video("camera:0") as video:
        assert (video.live, video.rate, video.count) == (True, 30.0, None)
        with pytest.raises(PictureError, match="camera:0: the camera stopped"):
            list(video)


# Writing


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_what_is_written_comes_back(tmp_path: Path, suffix: str) -> None:
    frames, _ = read(write_clip(tmp_path / f"clip{suffix}", 10))
    assert [(index, moment) for index, moment, _ in frames] == [(number, number / 25) for number in range(10)]
    assert np.abs(np.array([grey - index for index, _, grey in frames])).max() <= 1


def test_a_written_file_has_the_size_of_its_first_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as film:
        film.write(numbered(3, 51, 33), 0.0)
        film.write(numbered(5, 200, 100), 0.04)
    with open_video(tmp_path / "clip.mp4") as video:
        assert [frame.picture.shape for frame in video] == [(34, 52, 3)] * 2  # H.264 needs even sides


@pytest.mark.parametrize(("width", "height", "matrix"), [(96, 64, 2), (1280, 720, 1)])
def test_colours_are_kept(tmp_path: Path, width: int, height: int, matrix: int) -> None:
    for number, colour in enumerate([(200, 30, 30), (30, 190, 40), (40, 60, 200)]):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path) as film:
            film.write(np.full((height, width, 3), colour, np.uint8), 0.0)
        with open_video(path) as video:
            shown = next(iter(video)).picture
        assert np.abs(shown.reshape(-1, 3).mean(axis=0) - colour).max() < 4
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.colorspace == matrix


def test_a_large_file_that_names_no_colours_is_read_as_players_do(tmp_path: Path) -> None:
    colour = np.full((720, 1280, 3), (200, 30, 30), np.uint8)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    with open_video(path) as video:
        shown = next(iter(video)).picture
    assert np.abs(shown[300:400, 300:400].reshape(-1, 3).mean(axis=0) - colour[0, 0]).max() < 8


def with_sound(path: Path, seconds: float = 1.0) -> Path:
    """A video of one second with sound of another length."""
    silent = write_clip(path.with_name(f"silent{path.suffix}"), 25)
    with av.open(str(path), "w") as container, av.open(str(silent)) as source:
        stream, sound = container.add_stream_from_template(source.streams.video[0]), sound_stream(container)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        fill_with_sound(container, sound, seconds)
    return path


def sound_of(path: Path) -> tuple[str, float, bytes]:
    """Codec, length in seconds, and encoded bytes of the sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        end = max(float((packet.pts + packet.duration) * packet.time_base) for packet in packets)
        return stream.codec_context.name, end, b"".join(bytes(packet) for packet in packets)


def test_sound_is_copied_unchanged(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "source.mkv", seconds=1.3)
    write_clip(tmp_path / "drawn.mp4", 25, sound=source)
    assert sound_of(tmp_path / "drawn.mp4")[0] == "aac"
    assert sound_of(tmp_path / "drawn.mp4")[2] == sound_of(source)[2]
    assert sound_of(tmp_path / "drawn.mp4")[1] == pytest.approx(sound_of(source)[1], abs=0.07)
    assert len(read(tmp_path / "drawn.mp4")[0]) == 25


def test_sound_ends_where_the_video_was_interrupted(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "source.mkv", seconds=1.3)
    film = VideoWriter(tmp_path / "drawn.mp4", sound=source)
    for number in range(10):
        film.write(numbered(number), number / 25)
    film.close(complete=False)
    assert sound_of(tmp_path / "drawn.mp4")[1] < 0.6


def test_a_source_without_sound_gives_a_file_without_sound(tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "source.mkv")
    write_clip(tmp_path / "drawn.mp4", sound=silent)
    with av.open(str(tmp_path / "drawn.mp4")) as container:
        assert not container.streams.audio


def test_sound_that_the_file_cannot_hold(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "source.mkv")
    with pytest.raises(OutputError, match=r"drawn.webm: a .webm file cannot hold sound .*\(aac\); write a .mkv file"):
        VideoWriter(tmp_path / "drawn.webm", sound=source)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"clip.gif: videos are written as .mp4, .mov, .mkv, .webm"):
        VideoWriter(tmp_path / "clip.gif")
    with pytest.raises(OutputError, match="no such folder"):
        VideoWriter(tmp_path / "missing" / "clip.mp4")
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(OutputError, match="is the video that is being read"):
        VideoWriter(clip, sound=clip)
    assert len(read(clip)[0]) == 12
    with VideoWriter(tmp_path / "back.mkv") as film:
        film.write(numbered(1), 1.0)
        with pytest.raises(OutputError, match="does not rise"):
            film.write(numbered(1), 1.0)


def test_nothing_is_written_before_the_first_frame(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    with VideoWriter(clip):
        pass
    assert clip.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "clip.mkv").symlink_to("/dev/full")
    rng = np.random.default_rng(0)

    def write_noise() -> None:
        with VideoWriter(tmp_path / "clip.mkv") as film:
            for number in range(200):
                film.write(rng.integers(0, 255, (240, 320, 3), np.uint8), number / 25)

    with pytest.raises(OutputError, match=r"clip.mkv: cannot be written .*space"):
        write_noise()


@pytest.mark.slow
def test_a_full_disk_leaves_a_file_that_plays(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from octamark.errors import OutputError\n"
        "from octamark.io.video import VideoWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
        "rng = np.random.default_rng(0)\n"
        "try:\n"
        "    with VideoWriter(sys.argv[1]) as film:\n"
        "        for number in range(400):\n"
        "            film.write(rng.integers(0, 255, (128, 160, 3), np.uint8), number / 25)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "clip.mp4"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert "clip.mp4: cannot be written" in done.stdout, done.stderr
    frames, _ = read(path)
    assert len(frames) > 50
    assert all(moment == round(index / 25, 3) for index, moment, _ in frames[:50])


def test_without_pyav_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 2)
    original = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OctamarkError, match="pip install av"):
        open_video(clip)
    with pytest.raises(OctamarkError, match="pip install av"):
        VideoWriter(tmp_path / "drawn.mp4")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from octamark.io.video import open_video\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "with open_video(sys.argv[1]) as video:\n"
        "    for frame in video:\n"
        "        if frame.index == 100: before = peak()\n"
        "print(peak() - before)\n"
    )
    clip = tmp_path / "clip.mkv"
    with VideoWriter(clip) as film:
        for number in range(1000):
            film.write(numbered(number % 25, 320, 240), number / 25)
    done = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, timeout=300)
    assert int(done.stdout) < 20, done.stderr  # MiB; all frames together have 220
