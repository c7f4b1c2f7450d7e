"""Videos: the frames of files, network streams, cameras and folders of pictures; and files written with their sound.

PyAV does the work (``pip install av``); cameras are read by OpenCV, and folders need neither.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from octamark.errors import ConfigError, OctamarkError, OutputError, PictureError, install_hint, listed
from octamark.geometry import Picture
from octamark.images import find_pictures, read_picture

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".flv")
"""How the names of video files usually end. Files of other names are read too."""

FOLDER_RATE = 25.0
"""Pictures per second in a folder, unless the caller says otherwise."""

LONGEST_GLITCH = 1.0
"""Seconds. A time stamp that lies further back than this begins a new part of the video, whose times go on from the
last frame; one that lies less far back is replaced."""

_HIGHEST_RATE = 1000  # frames per second
_TIMEOUT = 10.0  # seconds that a network stream may say nothing
_TICKS = 90_000  # of the clock of written videos, per second
_UNSTATED = 2  # the colour matrix of a video that names none, in FFmpeg

_Reader = Callable[[], Picture]
_Stamped = tuple[float | None, _Reader | None]
"""Time of a frame in seconds, None if it has none; and what decodes it, None if it is damaged."""


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video.

    Attributes:
        index: of the frame in its source, from 0; damaged frames count too.
        time: seconds, as the source's time stamps say; rises from frame to frame.
        picture: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    time: float
    picture: Picture


class Video:
    """An open source of frames: a context manager, made by ``open_video``.

    Attributes:
        name: of the source, for messages and for the names of frames.
        rate: frames per second; None where the source does not say. Frames may be unevenly spaced.
        count: how many frames to expect; None where the source does not say, and for live ones.
        live: whether frames come as they happen, from a camera or the network.
        damaged: frames so far that could not be decoded.
        dropped: frames of a live source so far that were replaced by newer ones before they were asked for.
        retimed: frames so far whose time stamp was missing or did not rise, and was replaced.
    """

    def __init__(
        self,
        name: str,
        frames: Callable[[], Iterator[_Stamped]],
        *,
        rate: float | None = None,
        count: int | None = None,
        live: bool = False,
        names: Callable[[int], str] | None = None,
        close: Callable[[], None] = lambda: None,
        again: Callable[[], Video] | None = None,
    ) -> None:
        """Call ``open_video`` instead."""
        self.name, self.rate, self.count, self.live = name, rate, count, live
        self.damaged = self.dropped = self.retimed = 0
        self._frames, self._names, self._close, self._again = frames, names, close, again
        self._used = False

    def frame_name(self, index: int) -> str:
        """The name of a frame in files of predictions: the picture's path in a folder, else ``clip.mp4#12``."""
        return f"{self.name}#{index}" if self._names is None else self._names(index)

    def __iter__(self) -> Iterator[VideoFrame]:
        """All frames; see ``frames``."""
        return self.frames()

    def frames(self, every: int = 1, first: int = 0) -> Iterator[VideoFrame]:
        """Every ``every``-th frame from the one of index ``first`` on; one frame is held at a time.

        A source can be read once; ``reopen`` gives a second pass. A damaged frame is counted and left
        out. Of a live source the newest frame is given, and those that came while the caller was busy are dropped.

        Raises:
            ConfigError: ``every`` below 1, ``first`` below 0, or a source that was read before.
            PictureError: a live source that broke off.
        """
        for name, value, least in (("every", every, 1), ("first", first, 0)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} {value!r}; allowed: whole numbers from {least}")
        if self._used:
            raise ConfigError(f"{self.name}: was read before; reopen() gives its frames once more")
        self._used = True
        return self._timed(every, first)

    def _timed(self, every: int, first: int) -> Iterator[VideoFrame]:
        period = 1 / (self.rate or FOLDER_RATE)
        last, offset = -np.inf, 0.0
        numbered = enumerate(self._frames())
        before = -1
        with closing(_newest(numbered) if self.live else (pair for pair in numbered)) as frames:
            for index, (stamp, read) in frames:
                if self.live:
                    self.dropped += index - before - 1
                before = index
                moment = last + period if stamp is None else stamp + offset
                if stamp is None or moment <= last:
                    self.retimed += 1
                    if stamp is not None and last - moment > LONGEST_GLITCH:
                        offset += last + period - moment
                    moment = last + period if np.isfinite(last) else 0.0
                last = moment
                if read is None:
                    self.damaged += 1
                elif index >= first and (index - first) % every == 0:
                    try:
                        picture = read()
                    except OctamarkError:
                        self.damaged += 1
                        continue
                    yield VideoFrame(index, float(moment), picture)

    def reopen(self) -> Video:
        """The same source, opened anew.

        Raises:
            ConfigError: a live source. PictureError: as ``open_video``.
        """
        if self._again is None:
            raise ConfigError(f"{self.name}: a live source cannot be read twice")
        return self._again()

    def close(self) -> None:
        """Close the source. A second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_video(source: str | os.PathLike[str], *, rate: float | None = None) -> Video:
    """An open ``Video``.

    Args:
        source: path of a file that FFmpeg reads, URL (``rtsp://``, ``http://``, ...), ``camera:0`` for the first
            camera, or a folder of pictures, which are taken in the order of the numbers in their names.
        rate: pictures per second in a folder, by default ``FOLDER_RATE``.

    Raises:
        PictureError: a source that is missing, is no video, or holds none.
        ConfigError: ``rate`` not above 0, or given for something else than a folder.
        OctamarkError: PyAV is not installed.

    Examples:
        >>> import tempfile
        >>> from octamark.images import write_picture
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in (1, 2, 10):
        ...     write_picture(folder / f"{number}.png", np.zeros((4, 6, 3), np.uint8))
        >>> with open_video(folder, rate=10) as video:
        ...     [(frame.index, frame.time, frame.picture.shape) for frame in video]
        [(0, 0.0, (4, 6, 3)), (1, 0.1, (4, 6, 3)), (2, 0.2, (4, 6, 3))]
    """
    name = os.fspath(source)
    folder = not _is_url(name) and os.path.isdir(name)
    if rate is not None and not (folder and isinstance(rate, int | float) and 0 < rate < np.inf):
        raise ConfigError(f"{name}: rate {rate!r}; allowed: numbers above 0, for folders of pictures")
    if folder:
        return _open_folder(name, float(rate or FOLDER_RATE))
    if camera := re.fullmatch(r"camera:(\d+)", name):
        return _open_camera(name, int(camera[1]))
    if not _is_url(name) and not os.path.exists(name):
        raise PictureError(f"{name}: no such file, folder, URL or camera (camera:0)")
    return _open_container(name)


def _is_url(name: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE) is not None


def _open_folder(name: str, rate: float) -> Video:
    found = find_pictures(name)
    paths = sorted((path for path in found.paths if path.parent == Path(name)), key=_number_key)
    if not paths:
        problem = found.unreadable[0] if found.unreadable else f"{name}: no pictures in this folder"
        raise PictureError(problem)

    def frames() -> Iterator[_Stamped]:
        for index, path in enumerate(paths):
            yield index / rate, lambda path=path: read_picture(path)  # type: ignore[misc]

    return Video(
        name,
        frames,
        rate=rate,
        count=len(paths),
        names=lambda index: str(paths[index]),
        again=lambda: _open_folder(name, rate),
    )


def _number_key(path: Path) -> list[tuple[int, str]]:
    """A key that sorts ``2.png`` before ``10.png``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def _open_camera(name: str, number: int) -> Video:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        camera = cv2.VideoCapture(number)
    except cv2.error:
        camera = None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if camera is None or not camera.isOpened():
        raise PictureError(f"{name}: no such camera, or another program uses it")

    def frames() -> Iterator[_Stamped]:
        start = time.monotonic()
        while True:
            found, picture = camera.read()
            if not found:
                raise PictureError(f"{name}: the camera stopped")
            rgb = np.asarray(picture[:, :, ::-1], np.uint8)
            yield time.monotonic() - start, lambda rgb=rgb: np.ascontiguousarray(rgb)  # type: ignore[misc]

    rate = camera.get(cv2.CAP_PROP_FPS)
    return Video(name, frames, rate=rate if 0 < rate < 1000 else None, live=True, close=camera.release)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise OctamarkError(f"videos need a package that is not installed: {install_hint(['av'])}") from None
    return av


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _open_container(name: str) -> Video:
    av = _pyav()
    live = _is_url(name) and re.match(r"(rtsps?|rtmps?|srt|udp|rtp)://", name, re.IGNORECASE) is not None
    options = {"rtsp_transport": "tcp"} if re.match("rtsps?:", name, re.IGNORECASE) else {}
    timeout = _TIMEOUT if _is_url(name) else None
    try:
        container = av.open(name, options=options, timeout=timeout, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise PictureError(f"{name}: cannot be read as a video ({_reason(error)})") from error
    stream = _video_stream(av, container)
    if stream is None:
        kinds = listed(sorted({part.type for part in container.streams})) or "nothing"
        container.close()
        raise PictureError(f"{name}: holds no video ({kinds})")
    if stream.codec_context is None:
        container.close()
        raise PictureError(f"{name}: the codec of its video is unknown")
    stream.thread_type = "SLICE"  # with threads for frames, an error comes with a later frame, which is then lost
    rate = stream.average_rate or stream.guessed_rate
    rate = float(rate) if rate and rate <= _HIGHEST_RATE else None  # some files state the ticks of their clock
    count = stream.frames or None
    if count is None and rate and not live:
        length = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
        count = round(float(length) * rate) or None
    return Video(
        name,
        lambda: _decoded(av, name, container, stream, live),
        rate=rate,
        count=None if live else count,
        live=live,
        close=container.close,
        again=None if live else lambda: _open_container(name),
    )


def _video_stream(av: Any, container: Any) -> Any:
    """The best video stream that is more than the picture of a cover; None if there is none."""
    from av.stream import Disposition

    best = container.streams.best("video")
    streams = ([best] if best is not None else []) + list(container.streams.video)
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)


def _decoded(av: Any, name: str, container: Any, stream: Any, live: bool) -> Iterator[_Stamped]:
    """The frames of a container; a packet that cannot be decoded counts as a damaged frame."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    packets = container.demux(stream)
    start: float | None = None
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            if live:
                raise PictureError(f"{name}: the stream broke off ({_reason(error)})") from error
            yield None, None  # the rest of the file is missing
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, OSError):
            yield None, None
            continue
        for frame in frames:
            stamp = frame.time
            if live and stamp is not None:  # counted from an arbitrary moment
                start = stamp if start is None else start
                stamp -= start
            yield stamp, None if frame.is_corrupt else lambda frame=frame: _rgb(reformatter, frame)  # type: ignore[misc]


def _rgb(reformatter: Any, frame: Any) -> Picture:
    """A decoded frame as (H, W, 3) RGB, turned and mirrored as its display matrix says."""
    unstated = frame.colorspace == _UNSTATED
    colours = _colours(frame.width, frame.height) if unstated else None
    picture = reformatter.reformat(frame, format="rgb24", src_colorspace=colours).to_ndarray()
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            picture = _displayed(picture, np.frombuffer(data, np.int32)[:5])
    return np.ascontiguousarray(picture)


def _colours(width: int, height: int) -> str:
    """The colour matrix of a video that states none, as players assume it: BT.709 for HD, BT.601 for smaller ones."""
    return "ITU709" if width >= 1280 or height >= 720 else "ITU601"


def _displayed(picture: Picture, matrix: Any) -> Picture:
    """The picture under the first five numbers a, b, u, c, d of a display matrix: x' = a x + c y, y' = b x + d y.

    Source: the track header of ISO/IEC 14496-12. Only quarter turns and mirrors are applied.
    """
    a, b, _, c, d = (int(number) for number in matrix)
    across, down = (c, b) if abs(b) > abs(a) else (a, d)
    turned = picture.transpose(1, 0, 2) if abs(b) > abs(a) else picture
    return turned[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _newest(frames: Iterator[tuple[int, _Stamped]]) -> Generator[tuple[int, _Stamped]]:
    """The newest of frames that another thread reads; those that nobody asked for in time are left out."""
    news = threading.Condition()
    waiting: list[tuple[int, _Stamped]] = []
    ended: list[BaseException | None] = []
    stop = threading.Event()

    def read() -> None:
        problem: BaseException | None = None
        try:
            for frame in frames:
                with news:
                    waiting[:] = [frame]
                    news.notify()
                if stop.is_set():
                    break
        except Exception as error:
            problem = error
        with news:
            ended.append(problem)
            news.notify()

    thread = threading.Thread(target=read, name="octamark-video", daemon=True)
    thread.start()
    try:
        while True:
            with news:
                while not waiting and not ended:
                    news.wait(0.1)  # a wait without end would not hear Ctrl-C on Windows
                frame = waiting.pop() if waiting else None
            if frame is not None:
                yield frame
            elif ended[0] is not None:
                raise ended[0]
            else:
                return
    finally:
        stop.set()
        thread.join(2 * _TIMEOUT)  # the source is closed next, which must not happen while it is being read


@dataclass(frozen=True)
class _Encoder:
    """How the video of a written file is encoded."""

    codec: str
    options: dict[str, str]
    container: dict[str, str]


_X264 = {"crf": "20", "preset": "veryfast", "g": "50"}
_FRAGMENTS = {"movflags": "frag_keyframe+delay_moov"}
"""What is written can be played even if the end is missing. ``delay_moov`` keeps the times of the first frames."""
_WHOLE = {"movflags": "frag_keyframe+delay_moov+hybrid_fragmented"}
"""As ``_FRAGMENTS``, but a file that is closed has one index, which more players can read."""
_WHOLE_SINCE = (62, 12, 0)  # libavformat; 62.3 loses all frames of such files
_ENCODERS = {
    ".mp4": _Encoder("libx264", _X264, _FRAGMENTS),
    ".mov": _Encoder("libx264", _X264, _FRAGMENTS),
    ".mkv": _Encoder("libx264", _X264, {}),
    ".webm": _Encoder("libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "8", "g": "50"}, {}),
}


class VideoWriter:
    """Writes pictures as the frames of a video file; a context manager that closes itself, also after an exception.

    Nothing is written before the first frame. The file can be played up to the last two seconds, or less, if the
    process is killed or the disk is full.

    Args:
        path: .mp4, .mov and .mkv are written as H.264, .webm as VP9.
        rate: frames per second, for players and for the encoder; each frame is shown from its own time on.
        sound: a file whose sound is copied, unchanged, at its own times, if it has any.

    Raises:
        OutputError: another suffix, no such folder, the file that ``sound`` names, or sound that this kind of file
            cannot hold.
        OctamarkError: PyAV is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, rate: float = FOLDER_RATE, sound: str | os.PathLike[str] | None = None
    ) -> None:
        self.path = Path(path)
        self._av = _pyav()
        self._encoder = _ENCODERS.get(self.path.suffix.lower())
        if self._encoder is None:
            raise OutputError(f"{self.path}: videos are written as {listed(_ENCODERS)}")
        if not self.path.parent.is_dir():
            raise OutputError(f"{self.path}: cannot be written (no such folder)")
        self._rate = Fraction(rate).limit_denominator(1001)
        self._size = (0, 0)
        self._last = -1
        self._container: Any = None
        self._stream: Any = None
        self._sound: Any = None
        self._sound_stream: Any = None
        self._packets: Iterator[Any] = iter(())
        self._packet: Any = None
        if sound is not None and not _is_url(os.fspath(sound)):
            if self.path.exists() and os.path.samefile(self.path, sound):
                raise OutputError(f"{self.path}: is the video that is being read; name another file")
            self._open_sound(os.fspath(sound))

    def _open_sound(self, name: str) -> None:
        av = self._av
        with suppress(av.error.FFmpegError, OSError, ValueError):
            self._sound = av.open(name, metadata_errors="replace")
        if self._sound is None:
            return
        if not self._sound.streams.audio:
            self._sound.close()
            self._sound = None
            return
        codec = self._sound.streams.audio[0].codec_context.name
        suffix = self.path.suffix.lower()
        known = av.Codec(codec, "r").canonical_name
        if suffix != ".mkv" and known not in _codecs_of(av, suffix):
            self._sound.close()
            raise OutputError(f"{self.path}: a {suffix} file cannot hold sound of {name} ({codec}); write a .mkv file")

    def write(self, picture: Picture, time: float) -> None:
        """Write one frame.

        A picture of another size than the first one is scaled to it. Odd sides grow by one pixel, which H.264 needs.

        Args:
            picture: (H, W, 3) uint8 RGB.
            time: seconds, above that of the frame before.

        Raises:
            OutputError: the file cannot be written, or the time does not rise.
        """
        tick = round(time * _TICKS)
        if tick <= self._last:
            raise OutputError(
                f"{self.path}: time {time:g} s does not rise; the last frame was at {self._last / _TICKS:g}"
            )
        try:
            if self._container is None:
                self._open(picture.shape[1], picture.shape[0])
            if (picture.shape[1], picture.shape[0]) != self._size:
                picture = np.asarray(cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA), np.uint8)
            padding = ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
            frame = self._av.VideoFrame.from_ndarray(np.pad(picture, padding, mode="edge"), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_colours(*self._size))
            frame.pts, frame.time_base = tick, Fraction(1, _TICKS)
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
            self._copy_sound(time)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            self._abandon()
            raise OutputError(f"{self.path}: cannot be written ({_reason(error)})") from error
        self._last = tick

    def _open(self, width: int, height: int) -> None:
        assert self._encoder is not None
        self._size = (width, height)
        options = self._encoder.container
        if options is _FRAGMENTS and self._av.library_versions["libavformat"] >= _WHOLE_SINCE:
            options = _WHOLE
        self._container = self._av.open(os.fspath(self.path), "w", options=options)
        stream = self._container.add_stream(self._encoder.codec, rate=self._rate, options=self._encoder.options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        if _colours(width, height) == "ITU709":
            stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        self._stream = stream
        if self._sound is not None:
            source = self._sound.streams.audio[0]
            self._sound_stream = self._container.add_stream_from_template(source)
            self._packets = self._sound.demux(source)

    def _copy_sound(self, until: float | None) -> None:
        """Copy sound up to a time in seconds; None for all that is left. Damaged sound ends it."""
        while self._sound_stream is not None:
            self._packet = self._packet or self._next_sound()
            if self._packet is None:
                self._sound_stream = None
            elif until is not None and self._packet.dts * self._packet.time_base > until:
                return
            else:
                self._packet.stream = self._sound_stream
                self._container.mux(self._packet)
                self._packet = None

    def _next_sound(self) -> Any:
        """The next packet of sound; None after the last, or where the file is damaged."""
        with suppress(self._av.error.FFmpegError):
            return next((packet for packet in self._packets if packet.dts is not None), None)
        return None

    def close(self, *, complete: bool = True) -> None:
        """Finish the file. A second call does nothing.

        Args:
            complete: copy the sound after the last frame too; False where the video ended early.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._container is None:
            self._abandon()
            return
        try:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._copy_sound(None if complete else self._last / _TICKS)
            self._container.close()
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise OutputError(f"{self.path}: cannot be written ({_reason(error)})") from error
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close both files; what was written of a file that cannot be finished stays as it is."""
        for container in (self._container, self._sound):
            if container is not None:
                with suppress(self._av.error.FFmpegError, OSError, ValueError):
                    container.close()
        self._container = self._sound = self._sound_stream = self._packet = None
        self._packets = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close(complete=error is None)
        except OutputError:
            if error is None:  # else the first error tells more
                raise


def _codecs_of(av: Any, suffix: str) -> set[str]:
    """Names of the codecs that a kind of file can hold."""
    import io

    container = av.open(io.BytesIO(), "w", format={".mp4": "mp4", ".mov": "mov", ".webm": "webm"}[suffix])
    return set(container.supported_codecs)
