"""Faces through a video: ``track`` gives each frame with its faces, whose ids stay the same from frame to frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from octamark.errors import ConfigError, PictureError
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.inference.landmarker import Landmarker, load
from octamark.inference.motion import Smoothing
from octamark.inference.tracker import Tracker, TrackingOptions, smooth_offline
from octamark.io.records import Record
from octamark.io.video import Video, open_video

WARM_UP = 1.0
"""Seconds of an earlier run that are read again when tracking goes on, so that the tracker knows the faces."""

_SAME_PLACE = 0.2
"""Readings of one face lie at most this far apart on average, as a share of the root of the area of its points' box."""


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """A frame of a video with its faces.

    Attributes:
        index: of the frame in its source, from 0.
        time: seconds, as the source's time stamps say.
        faces: with ``ids``.
        picture: (H, W, 3) uint8 RGB; None where ``track`` was called with ``pictures=False``.
    """

    index: int
    time: float
    faces: Faces
    picture: Picture | None = None


def track(
    source: str | os.PathLike[str] | Video,
    landmarker: Landmarker | str = "small",
    *,
    smoothing: Smoothing = "low",
    offline: bool = False,
    every: int = 1,
    options: TrackingOptions | None = None,
    pictures: bool = True,
    done: Mapping[int, Record] | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Iterator[TrackedFrame]:
    """The frames of a video with their faces, one after the other; memory does not grow with the length of the video.

    A file or folder may hold damaged frames: they are left out. So are frames of a camera that come while the one
    before is still being read. To count them, open the source with ``octamark.io.video.open_video``, give this
    ``Video``, and look at its ``damaged`` and ``dropped``.

    Args:
        source: path of a video, URL, ``camera:0``, folder of numbered pictures, or an open ``Video``.
        landmarker: or the name of a model.
        smoothing: ``"none"``, ``"low"`` or ``"high"``: how much the points are held still.
        offline: smooth with the frames that follow too, which leaves no lag. The whole video is read before the first
            frame is given, and a second time for the pictures; the faces of all frames are kept in memory.
        every: read every n-th frame alone.
        options: further options of the ``Tracker``.
        pictures: whether frames have their ``picture``.
        done: frame index -> record of an earlier run, for going on after an interruption. These frames have the faces
            of their records; later faces keep the ids that they had there.
        on_frame: called with the index of each frame once it was read, to show progress.

    Raises:
        PictureError: a source that cannot be read, or a live one that broke off.
        ConfigError: an option that is not allowed; ``offline`` with smoothing "none", a live source, or ``done``.
        PredictionError: a frame whose faces could not be found.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from octamark.images import write_picture
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(3):
        ...     write_picture(folder / f"{number}.png", np.zeros((64, 64, 3), np.uint8))
        >>> [(frame.index, frame.time, len(frame.faces)) for frame in track(folder, "nano")]
        [(0, 0.0, 0), (1, 0.04, 0), (2, 0.08, 0)]
    """
    if offline and (smoothing == "none" or done):
        raise ConfigError("offline: allowed with smoothing low or high, and not to go on from earlier results")
    tracker = Tracker(
        load(landmarker) if isinstance(landmarker, str) else landmarker,
        options,
        smoothing="none" if offline else smoothing,
    )
    video = source if isinstance(source, Video) else open_video(source)
    if offline and video.live:
        if video is not source:
            video.close()
        raise ConfigError(f"{video.name}: offline: allowed with files and folders, not with live sources")
    frames = _tracked(video, tracker, every, pictures and not offline, done or {}, on_frame)
    if offline:
        frames = _smoothed(video, frames, smoothing, every, pictures)
    return frames if video is source else _closing(video, frames)


def _closing(video: Video, frames: Iterator[TrackedFrame]) -> Iterator[TrackedFrame]:
    with video:
        yield from frames


def _tracked(
    video: Video,
    tracker: Tracker,
    every: int,
    pictures: bool,
    done: Mapping[int, Record],
    on_frame: Callable[[int], None] | None,
) -> Iterator[TrackedFrame]:
    ids, first = _Ids(done), 0
    if done:
        warm_from = (done[max(done)].time or 0.0) - WARM_UP
        warm = {index for index, record in done.items() if (record.time or 0.0) >= warm_from}
        first = 0 if pictures else min(warm)
        for index in sorted(index for index in done if index < first):
            yield TrackedFrame(index, done[index].time or 0.0, done[index].faces)
    for frame in video.frames(every, first):
        if frame.index in done:
            faces = done[frame.index].faces
            if frame.index in warm:
                ids.learn(tracker(frame.picture, frame.time), faces)
        else:
            faces = ids.renamed(tracker(frame.picture, frame.time))
        if on_frame is not None:
            on_frame(frame.index)
        yield TrackedFrame(frame.index, frame.time, faces, frame.picture if pictures else None)


def _smoothed(
    video: Video, tracked: Iterator[TrackedFrame], smoothing: Smoothing, every: int, pictures: bool
) -> Iterator[TrackedFrame]:
    readings = list(tracked)
    assert smoothing != "none"
    smooth = smooth_offline([(frame.time, frame.faces) for frame in readings], smoothing)
    frames = (replace(frame, faces=faces) for frame, (_, faces) in zip(readings, smooth, strict=True))
    if not pictures:
        yield from frames
        return
    with video.reopen() as again:
        for second in again.frames(every):
            frame = next(frames, None)
            if frame is None or frame.index != second.index:
                raise PictureError(f"{video.name}: other frames than a moment ago; is it still being written?")
            yield replace(frame, picture=second.picture)


class _Ids:
    """Gives faces the ids that they had in an earlier run, and new faces ids that no face had."""

    def __init__(self, done: Mapping[int, Record]) -> None:
        known = [record.faces.ids for record in done.values() if record.faces.ids is not None]
        self._highest = max((int(ids.max()) for ids in known if len(ids)), default=0)
        self._earlier: dict[int, int] = {}

    def learn(self, faces: Faces, earlier: Faces) -> None:
        """Take over the ids of the faces of a frame in the earlier run that lie at the same places."""
        if faces.ids is None or earlier.ids is None:
            return
        for number, points in zip(faces.ids.tolist(), faces.landmarks, strict=True):
            apart = np.linalg.norm(earlier.landmarks - points, axis=-1).mean(axis=-1)
            sides = np.ptp(points, axis=0)
            if len(apart) and apart.min() < _SAME_PLACE * float(np.sqrt(sides.prod())):
                known = int(earlier.ids[apart.argmin()])
                self._earlier = {new: old for new, old in self._earlier.items() if old != known}
                self._earlier[number] = known

    def renamed(self, faces: Faces) -> Faces:
        """The faces with ids that go on from those of the earlier run."""
        if faces.ids is None or not self._highest:
            return faces
        ids = [self._earlier.setdefault(number, self._highest + number) for number in faces.ids.tolist()]
        return replace(faces, ids=np.array(ids, np.int64))
