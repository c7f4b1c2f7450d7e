"""Tracker: the frames of a video in, Faces with stable ids and steady points out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, listed
from octamark.faces import Faces, mean_confidence
from octamark.geometry import (
    Crop,
    Picture,
    ReducedPicture,
    crop,
    crop_transform,
    detector_squares,
    landmark_boxes,
    procrustes_align,
    squares,
    tilt,
    upright_square,
)
from octamark.images import read_picture
from octamark.inference.landmarker import InferenceOptions, Located
from octamark.inference.motion import SMOOTHING, Estimate, MotionFilter, Smoothing, Step, smoothed
from octamark.inference.rotation import Rotation
from octamark.layouts import Layout
from octamark.models import ModelCard

F64 = NDArray[np.float64]

USUAL_SHARE = 0.5
"""A face is also unsure below this share of its usual confidence, where that is less than ``min_confidence``."""

NEW_SHARE = 1 / 3
"""A new face needs at least this share of ``min_confidence``: below it, the detector saw what is none."""

USUAL_TIME = 1.0
"""Seconds over which the usual confidence of a face is averaged."""

RETRY = 0.1
"""Seconds between two searches with the detector while a face is missing."""

SAME_PLACE = 0.5
"""Two readings are of one face if their points lie less than this many sizes of the face apart on average. The size is
the root mean square distance of the points from their centre."""

REACH, REACH_GROWTH = 1.0, 3.0
"""How far from where it is expected a face may appear, in sizes; the second value comes on top for each second since it
was seen there."""

FAR_REACH = 2.0
"""How many times further off than ``REACH`` allows a missing face may come back, where no other can be the one read."""

MAX_SIZE_CHANGE = 0.7
"""Largest difference between the logarithms of the expected and the read size."""

MAX_SHAPE_CHANGE = 0.25
"""Largest median distance of the points from those expected, in sizes, after both were laid on each other."""

CUT_SHAPE, CUT_LOOK = 0.07, 0.5
"""At a cut, every face differs from the one that was in its place by more than the first value in shape (as above), or
by more than the second in looks. In the clips of ``benchmarks/clips.py`` a face that turns, speaks and blinks changes
its shape by up to 0.03 in 0.04 seconds; two faces of the validation split of 300W differ by 0.16 (median), and by less
than 0.08 in one of 20 pairs."""

OVERLAP = 1.5
"""Faces may hide parts of each other where their centres lie less than this many times the sum of their sizes apart."""

CUT_TIME = 0.15
"""Seconds between two frames up to which a cut is looked for; after a longer time a face may have turned."""

CLEAR_SHARE = 0.8
"""A reading of at least this share of the face's normal clarity is clear: the face is not half hidden."""

SHAPE_WEIGHT, LOOK_WEIGHT = 4.0, 2.0
"""Weights of shape and looks against distance and size, where several tracks may have caused a reading."""

SAME_APPEARANCE = 0.8
"""A missing face and a new reading differ in appearance, in these costs, by less than this where they are one face. In
clips of ``benchmarks/clips.py``, one face differs from itself 0.3 to 0.8 seconds later by less than 0.4 in 19 of 20
pairs, and two faces differ by more than 1.1 in 99 of 100."""

RECOGNITION_MARGIN = 0.1
"""By how much another face has to fit better, in these costs, before two exchange their ids."""

LOOK_SIDE = 12
"""Side of the picture of a face by which tracks are told apart, pixels. It is too small to recognise a person by."""

SQUARE_DISTANCE = 0.35
"""The detector sees a face that is already tracked where the centres of their crops are less than this share of the
smaller crop's side apart, and their sides differ by no more than ``MAX_SIZE_CHANGE``."""

_UNMATCHED = 1000.0
"""More than any sum of costs of pairs: as many faces as possible keep their ids."""

RESTART = 0.25
"""Seconds without a reading after which the motion of a face is forgotten; its id stays."""


@dataclass(frozen=True)
class TrackingOptions:
    """How faces are followed.

    Attributes:
        smoothing: ``"none"`` returns the readings as they are, ``"low"`` and ``"high"`` steady points (see
            octamark.inference.motion).
        detect_every: seconds between two searches with the face detector while one face is tracked. With n faces it
            searches n times as often, so that its share of the time stays the same.
        max_gap: seconds for which a face that cannot be seen keeps its id.
        min_confidence: mean confidence of the points below which a face is unsure, 0 to 1; where the model tells
            ``visible``, each point counts by it. Faces that the detector sees are also followed below it.

    Raises:
        ConfigError: another value.
    """

    smoothing: Smoothing = "low"
    detect_every: float = 0.5
    max_gap: float = 1.0
    min_confidence: float = 0.3

    def __post_init__(self) -> None:
        if self.smoothing not in SMOOTHING:
            raise ConfigError(f"smoothing {self.smoothing!r}; allowed: {listed(SMOOTHING)}")
        for name, highest in (("detect_every", 3600.0), ("max_gap", 3600.0), ("min_confidence", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not 0.0 <= value <= highest:
                raise ConfigError(f"{name} {value!r}; allowed: 0 to {highest:g}")


class FaceReader(Protocol):
    """What a ``Tracker`` needs of a ``Landmarker``; the methods are those of ``Landmarker``."""

    @property
    def card(self) -> ModelCard: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def options(self) -> InferenceOptions: ...
    def locate(self, picture: Picture) -> Located: ...
    def read_located(self, pictures: Sequence[Located], *, rotation: Rotation | None = None) -> list[Faces]: ...
    def with_options(self, *, min_confidence: float) -> FaceReader: ...


@dataclass(frozen=True, eq=False)
class _Reading:
    """One face as the network read it in one frame.

    Attributes:
        points, spread: (M, 2) pixels of the picture.
        confidence: (M,).
        crop: (2, 3) similarity from pixels of the network's input to the picture.
        box: (4,) of the detector, xyxy; None where the detector did not look or saw nothing.
        score: of that box.
        radius_ratios: as in ``Faces``.
        look: (LOOK_SIDE * LOOK_SIDE * 3,) its pixels, with mean 0 and length 1; zeros for a black picture.
        visible: (M,) as in ``Faces``; None where the model does not tell it.
    """

    points: F64
    spread: F64
    confidence: NDArray[np.float32]
    crop: F64
    box: F64 | None
    score: float
    radius_ratios: tuple[tuple[float, float], ...] | None
    look: F64
    visible: NDArray[np.float32] | None

    @property
    def mean_confidence(self) -> float:
        """As of ``Faces``: how well the points that can be seen are placed."""
        return self.clarity if self.visible is None else float(mean_confidence(self.confidence, self.visible))

    @property
    def clarity(self) -> float:
        """Mean confidence of all points; lower where a part of the face is hidden."""
        return float(self.confidence.mean())


@dataclass(frozen=True, eq=False)
class _Track:
    """A face that is followed.

    Attributes:
        id: from 1, in the order of appearance.
        motion: the estimate at the last frame in which it was read.
        clear: the estimate of the last clear reading.
        look: of that reading.
        usual: mean confidence that it had lately; falls at once where the detector sees the face all the same.
        normal: clarity that it had lately; rises at once.
        box: (2, 2) centre and half sides of the detector's box, in the frame of the face.
        score: of that box.
    """

    id: int
    motion: Estimate
    clear: Estimate
    look: F64
    usual: float
    normal: float
    box: F64
    score: float

    def placed_box(self) -> F64:
        """(4,) the detector's box xyxy, moved along with the face."""
        centre, half = self.motion.to_picture(self.box[0]), self.box[1] * self.motion.size
        return np.concatenate([centre - half, centre + half])


class Tracker:
    """Follows the faces of a video. It has state: one tracker is for one video, and for one thread at a time.

    A frame is read where the faces are expected, in upright crops around their predicted landmarks. The face detector
    runs when no face is tracked, when one is missing, and now and then to find newcomers. A face that is hidden keeps
    its id for ``max_gap`` seconds; it is not in the result while it cannot be seen. Faces are told apart by place,
    size, shape and looks of the moment, not by identity: one that left for longer is a new one.

    Args:
        landmarker: reads the faces.
        options: how they are followed.
        changes: options by name, in place of those in ``options``: ``Tracker(landmarker, smoothing="high")``.

    Attributes:
        landmarker, options: as given.

    Raises:
        ConfigError: an unknown option, or a value that is not allowed.

    Examples:
        >>> from octamark import load
        >>> tracker = Tracker(load("nano"), smoothing="high")
        >>> picture = np.zeros((64, 64, 3), np.uint8)
        >>> [len(tracker(picture, frame / 25)) for frame in range(3)]
        [0, 0, 0]
    """

    def __init__(self, landmarker: FaceReader, options: TrackingOptions | None = None, **changes: Any) -> None:
        names = [field.name for field in fields(TrackingOptions)]
        if unknown := [name for name in changes if name not in names]:
            raise ConfigError(f"unknown option {listed(unknown)}; options: {listed(names)}")
        self.landmarker = landmarker
        self.options = replace(options or TrackingOptions(), **changes)
        self._min_reported = landmarker.options.min_confidence
        # with that option the landmarker would leave out faces, and the others would not be those of the crops
        self._reader = landmarker.with_options(min_confidence=0.0) if self._min_reported else landmarker
        self._filter = MotionFilter(landmarker.layout, self.options.smoothing)
        self.reset()

    def reset(self) -> None:
        """Forget all faces and the time; ids begin at 1 again."""
        self._tracks: list[_Track] = []
        self._next_id = 1
        self._time: float | None = None
        self._searched: float | None = None
        self._size: tuple[int, int] | None = None

    def __call__(self, picture: Picture, time: float) -> Faces:
        """The faces of the next frame, by id.

        Args:
            picture: (H, W, 3) uint8 RGB, or another array that ``octamark.read_picture`` takes. With a frame of another
                size than the one before all faces are new ones.
            time: of the frame, in seconds; later than the one before. Frame rates may vary.

        Returns:
            Faces with ``ids`` (n,) int64. With smoothing, ``landmarks`` are filtered, and ``spread`` is the filter's;
            ``confidence`` and ``visible`` are those of the reading. ``boxes`` are the detector's, moved along with the
            face; ``scores`` are those of the last time the detector saw it.

        Raises:
            PictureError: an array that is not a picture.
            ConfigError: a time that is not finite, or not later than the one before; ``reset`` begins another video.
            PredictionError: a network that gives values that are not finite.
        """
        pixels = read_picture(picture)
        time = self._checked_time(time)
        size = (pixels.shape[1], pixels.shape[0])
        if size != self._size:
            self._tracks, self._size, self._searched = [], size, None
        before, self._time = self._time, time
        steps = [self._filter.predict(track.motion, time) for track in self._tracks]
        readings = _distinct(self._read_followed(pixels, steps))
        pairs = self._assigned(steps, readings)
        if self._is_cut(before, steps, readings, pairs):
            self._tracks, steps, pairs = [], [], {}
        lost_now = any(index not in pairs and track.motion.time == before for index, track in enumerate(self._tracks))
        if self._search_is_due(time, lost_now, missing=len(pairs) < len(steps)):
            self._searched = time
            readings = _distinct(self._search(pixels, readings))
            pairs = self._assigned(steps, readings)
        self._recognise(time, readings, pairs)
        return self._advanced(time, steps, readings, pairs)

    def _checked_time(self, time: float) -> float:
        if not isinstance(time, int | float | np.number) or isinstance(time, bool) or not np.isfinite(float(time)):
            raise ConfigError(f"time {time!r}; allowed: a finite number of seconds")
        if self._time is not None and not float(time) > self._time:
            raise ConfigError(
                f"time {float(time):g} s is not later than that of the frame before, {self._time:g} s; reset() begins "
                "another video"
            )
        return float(time)

    def _read_followed(self, pixels: Picture, steps: Sequence[Step]) -> list[_Reading]:
        """The readings in the crops around the predicted landmarks of the tracks, without unsure ones."""
        readings = self._read_around(pixels, [step.predicted.points for step in steps])
        pairs = zip(self._tracks, readings, strict=True)
        return [reading for track, reading in pairs if reading is not None and self._is_sure(track, reading)]

    def _read_around(self, pixels: Picture, expected: Sequence[F64]) -> list[_Reading | None]:
        """The readings in upright crops around expected landmarks (M, 2); None where these lie beside the picture."""
        rule, layout = self.landmarker.card.crop, self.landmarker.layout
        places, crops = [], []
        for place, points in enumerate(expected):
            angle = float(tilt(points, layout.diagram)) if layout.has_diagram else 0.0
            square = upright_square(points, angle, rule.margin)
            if square[2] > 1 and _reaches_into(square, pixels):
                places.append(place)
                crops.append(Crop(pixels, crop_transform(square, rule.size, angle), square[:2]))
        readings = dict(zip(places, self._read(Located(pixels, None, None, crops), "never"), strict=True))
        return [readings.get(place) for place in range(len(expected))]

    def _is_sure(self, track: _Track, reading: _Reading) -> bool:
        needed = min(self.options.min_confidence, USUAL_SHARE * track.usual)
        return reading.mean_confidence >= needed

    @staticmethod
    def _is_clear(track: _Track, reading: _Reading) -> bool:
        return reading.clarity >= CLEAR_SHARE * track.normal

    def _read(self, located: Located, rotation: Rotation | None) -> list[_Reading]:
        """The readings of located faces."""
        if not located.crops:
            return []
        (faces,) = self._reader.read_located([located], rotation=rotation)
        detected = located.boxes is not None
        assert faces.crops is not None
        return [
            _Reading(
                face.landmarks.astype(np.float64),
                face.spread.astype(np.float64),
                face.confidence,
                transform,
                face.box.astype(np.float64) if detected else None,
                face.score,
                faces.radius_ratios,
                _look(located.picture, face.landmarks),
                face.visible,
            )
            for face, transform in zip(faces, faces.crops, strict=True)
        ]

    def _search_is_due(self, time: float, lost_now: bool, missing: bool) -> bool:
        """Whether the face detector is to run on the frame of that time."""
        if self._searched is None or not self._tracks or lost_now:
            return True
        tracked = max(1, len(self._tracks))
        elapsed = time - self._searched
        return elapsed >= self.options.detect_every / tracked or (missing and elapsed >= RETRY)

    def _search(self, pixels: Picture, readings: Sequence[_Reading]) -> list[_Reading]:
        """The readings with the boxes of the detector, and those of further faces that it finds.

        Unsure readings that it does not see are left out.
        """
        rule = self.landmarker.card.crop
        located = self.landmarker.locate(pixels)
        assert located.boxes is not None
        assert located.scores is not None
        result, new = list(readings), []
        around = [squares(landmark_boxes(reading.points), rule.margin)[0] for reading in readings]
        detected = detector_squares(located.boxes, rule.detector_scale, rule.detector_shift)
        for number, square in enumerate(detected):
            same = [index for index, other in enumerate(around) if _is_same_square(square, other)]
            if not same:
                new.append(number)
            for index in same:
                box, score = located.boxes[number].astype(np.float64), float(located.scores[number])
                result[index] = replace(result[index], box=box, score=score)
        further = Located(pixels, located.boxes[new], located.scores[new], [located.crops[number] for number in new])
        certain = self.options.min_confidence
        kept = [item for item in result if item.box is not None or item.mean_confidence >= certain]
        return [*kept, *self._read_twice(pixels, further)]

    def _read_twice(self, pixels: Picture, located: Located) -> list[_Reading]:
        """The readings of new faces, from crops around their landmarks: those that they will have in the next frame.

        What the detector's crop gives lies a little beside these, which would be a jump.
        """
        first = self._read(located, None)
        again = self._read_around(pixels, [reading.points for reading in first])
        return [
            reading
            if second is None or second.mean_confidence < USUAL_SHARE * reading.mean_confidence
            else replace(second, box=reading.box, score=reading.score)
            for reading, second in zip(first, again, strict=True)
        ]

    def _assigned(self, steps: Sequence[Step], readings: Sequence[_Reading]) -> dict[int, int]:
        """Number of the track -> number of its reading, where both have a partner.

        Faces that were seen in the last frame choose first: one that is missing must not take over their place.
        """
        latest = max((track.motion.time for track in self._tracks), default=0.0)
        pairs: dict[int, int] = {}
        for seen in (True, False):
            rows = [index for index, track in enumerate(self._tracks) if (track.motion.time == latest) is seen]
            columns = [index for index in range(len(readings)) if index not in pairs.values()]
            costs = np.full((len(rows), len(columns)), np.inf)
            for place in np.ndindex(*costs.shape):
                index = rows[place[0]]
                costs[place] = _difference(self._tracks[index], steps[index].predicted, readings[columns[place[1]]])
            pairs |= {rows[row]: columns[column] for row, column in assign(costs, _UNMATCHED)}
        return pairs | self._assigned_by_appearance(steps, readings, pairs)

    def _assigned_by_appearance(
        self, steps: Sequence[Step], readings: Sequence[_Reading], pairs: dict[int, int]
    ) -> dict[int, int]:
        """Pairs of the tracks and readings that are left: faces that moved fast while they were hidden, or that show
        themselves in part, with a shape that is still wrong."""
        rows = [index for index in range(len(self._tracks)) if index not in pairs]
        columns = [number for number in range(len(readings)) if number not in pairs.values()]
        costs = np.full((len(rows), len(columns)), np.inf)
        for row, column in np.ndindex(*costs.shape):
            track, reading = self._tracks[rows[row]], readings[columns[column]]
            appearance = _appearance_difference(track, reading)
            if appearance < SAME_APPEARANCE and track.look.any() and reading.look.any():
                costs[row, column] = appearance
            else:
                limits = _Limits(FAR_REACH, MAX_SHAPE_CHANGE if self._is_clear(track, reading) else np.inf)
                costs[row, column] = _difference(track, steps[rows[row]].predicted, reading, limits)
        return {rows[row]: columns[column] for row, column in assign(costs, _UNMATCHED)}

    def _recognise(self, time: float, readings: Sequence[_Reading], pairs: dict[int, int]) -> None:
        """Give faces that came back half hidden, and can now be seen clearly, the id that fits them best.

        Where several are hidden by one, the first to come back may have been taken for another.
        """
        unclear = [index for index, track in enumerate(self._tracks) if time - track.clear.time > RESTART]
        for index in [index for index in unclear if index in pairs]:
            track, reading = self._tracks[index], readings[pairs[index]]
            if not self._is_clear(track, reading):
                continue
            costs = {other: _appearance_difference(self._tracks[other], reading) for other in unclear}
            best = min(unclear, key=lambda other: costs[other])
            if costs[best] < costs[index] - RECOGNITION_MARGIN:
                other = self._tracks[best]
                self._tracks[index] = replace(
                    track, id=other.id, clear=other.clear, look=other.look, normal=other.normal
                )
                self._tracks[best] = replace(
                    other, id=track.id, clear=track.clear, look=track.look, normal=track.normal
                )
            unclear.remove(index)

    def _is_cut(
        self, before: float | None, steps: Sequence[Step], readings: Sequence[_Reading], pairs: dict[int, int]
    ) -> bool:
        """Whether each face of the last frame that was clear then, and is now, turned into another one.

        Faces that overlap one that is hidden, or hidden in part, do not count: both may be read as one.
        """
        changed = []
        hidden = [step.predicted for track, step in zip(self._tracks, steps, strict=True) if track.clear.time != before]
        for index, number in pairs.items():
            track, reading, step = self._tracks[index], readings[number], steps[index]
            if track.clear.time != before or not self._is_clear(track, reading):
                continue
            if any(_overlap(step.predicted, other) for other in hidden):
                continue
            shape = min(_shape_difference(each.points, reading.points) for each in (step.predicted, track.motion))
            changed.append(shape > CUT_SHAPE or _look_difference(track.look, reading.look) > CUT_LOOK)
        return bool(changed) and all(changed) and steps[0].predicted.time - (before or 0.0) <= CUT_TIME

    def _advanced(
        self, time: float, steps: Sequence[Step], readings: Sequence[_Reading], pairs: dict[int, int]
    ) -> Faces:
        """The faces of the frame; the tracks move on."""
        tracks: list[_Track] = []
        shown: list[tuple[_Track, _Reading]] = []
        for index, (track, step) in enumerate(zip(self._tracks, steps, strict=True)):
            if index in pairs:
                reading = readings[pairs[index]]
                track = self._continued(track, step, reading)
                shown.append((track, reading))
            elif time - track.motion.time > self.options.max_gap or track.normal < self.options.min_confidence:
                continue  # hidden for too long, or never more than a doubtful face, which is not waited for
            else:  # to be believed without the detector, a missing face needs the confidence of any other
                track = replace(track, usual=max(track.usual, self.options.min_confidence / USUAL_SHARE))
            tracks.append(track)
        for number, reading in enumerate(readings):
            new = reading.box is not None and reading.mean_confidence >= NEW_SHARE * self.options.min_confidence
            if number not in pairs.values() and new:
                assert reading.box is not None
                motion = self._filter.start(time, reading.points, reading.spread, reading.visible)
                box, usual, normal = _box_in_face(motion, reading.box), reading.mean_confidence, reading.clarity
                track = _Track(self._next_id, motion, motion, reading.look, usual, normal, box, reading.score)
                self._next_id += 1
                tracks.append(track)
                shown.append((track, reading))
        self._tracks = tracks
        return self._faces(shown)

    def _continued(self, track: _Track, step: Step, reading: _Reading) -> _Track:
        """A track after a reading."""
        points, spread, visible = reading.points, reading.spread, reading.visible
        jumped = np.isinf(_distance(step.predicted.points, step.elapsed, points))
        if jumped or step.elapsed > RESTART:
            motion = self._filter.start(step.predicted.time, points, spread, visible)
        else:
            motion = self._filter.update(step, points, spread, visible).updated
        confidence = reading.mean_confidence
        track = replace(track, motion=motion)
        if self._is_clear(track, reading):
            track = replace(track, clear=motion, look=reading.look)
        share = min(1.0, step.elapsed / USUAL_TIME)
        usual = track.usual + share * (confidence - track.usual)
        normal = max(reading.clarity, track.normal + share * (reading.clarity - track.normal))
        if reading.box is None:
            return replace(track, usual=usual, normal=normal)
        box = _box_in_face(motion, reading.box)
        return replace(track, usual=min(usual, confidence), normal=normal, box=box, score=reading.score)

    def _faces(self, shown: Sequence[tuple[_Track, _Reading]]) -> Faces:
        """The result: the estimates of tracks that were read, or the readings themselves."""
        assert self._size is not None
        tells_visible = self.landmarker.card.visibility is not None
        empty = Faces.empty(self.landmarker.layout, self._size, visible=tells_visible)
        empty = replace(empty, ids=np.zeros(0, np.int64))
        reported = [(track, reading) for track, reading in shown if reading.mean_confidence >= self._min_reported]
        if not reported:
            return empty
        tracks, readings = zip(*reported, strict=True)
        points, spread = [reading.points for reading in readings], [reading.spread for reading in readings]
        if self.options.smoothing != "none":
            points = [track.motion.points for track in tracks]
            spread = [track.motion.spread(reading.spread) for track, reading in zip(tracks, readings, strict=True)]
        return replace(
            empty,
            landmarks=np.array(points, np.float32),
            spread=np.array(spread, np.float32),
            confidence=np.array([reading.confidence for reading in readings], np.float32),
            boxes=np.array([track.placed_box() for track in tracks], np.float32),
            scores=np.array([track.score for track in tracks], np.float32),
            crops=np.stack([reading.crop for reading in readings]),
            ids=np.array([track.id for track in tracks], np.int64),
            radius_ratios=readings[0].radius_ratios,
            visible=np.array([reading.visible for reading in readings], np.float32) if tells_visible else None,
        )


def smooth_offline(
    frames: Iterable[tuple[float, Faces]], smoothing: Literal["low", "high"] = "high"
) -> list[tuple[float, Faces]]:
    """The frames of a whole clip with smoothed landmarks: each from the frames before and after it, without lag.

    Args:
        frames: time in seconds, rising, and the faces of each frame as a ``Tracker`` with ``smoothing="none"`` gives
            them: readings with ids.
        smoothing: how much the points are held still.

    Returns:
        The same frames; ``landmarks`` and ``spread`` are the smoother's, all else stays. A face that was missing for
        more than ``RESTART`` seconds is smoothed before and after the gap separately.

    Raises:
        ConfigError: faces without ids, an id that occurs twice in a frame, times that do not rise, another smoothing.

    Source: H. Rauch, F. Tung and C. Striebel, Maximum Likelihood Estimates of Linear Dynamic Systems, 1965.

    Examples:
        >>> from octamark import load
        >>> tracker = Tracker(load("nano"), smoothing="none")
        >>> picture = np.zeros((64, 64, 3), np.uint8)
        >>> frames = [(frame / 25, tracker(picture, frame / 25)) for frame in range(3)]
        >>> [len(faces) for _, faces in smooth_offline(frames)]
        [0, 0, 0]
    """
    clip = list(frames)
    if smoothing not in ("low", "high"):
        raise ConfigError(f"smoothing {smoothing!r}; allowed: low, high")
    for (earlier, _), (later, _) in pairwise(clip):
        if not later > earlier:
            raise ConfigError(f"time {later:g} s is not later than that of the frame before, {earlier:g} s")
    places: dict[int, list[tuple[int, int]]] = {}
    for frame, (_, faces) in enumerate(clip):
        if len(faces) and faces.ids is None:
            raise ConfigError(f"frame {frame}: faces without ids; give those of a Tracker")
        ids = [] if faces.ids is None else faces.ids.tolist()
        if len(set(ids)) < len(ids):
            raise ConfigError(f"frame {frame}: an id occurs twice among {listed(ids)}")
        for row, number in enumerate(ids):
            places.setdefault(number, []).append((frame, row))
    points = [faces.landmarks.copy() for _, faces in clip]
    spreads = [faces.spread.copy() for _, faces in clip]
    for track in places.values():
        for run in _runs(track, [time for time, _ in clip]):
            motion = MotionFilter(clip[run[0][0]][1].layout, smoothing)
            for (frame, row), estimate in zip(run, _smoothed_run(motion, run, clip), strict=True):
                read = clip[frame][1]
                known = np.isfinite(read.landmarks[row])
                points[frame][row] = np.where(known, estimate.points, np.nan)
                spreads[frame][row] = np.where(known, estimate.spread(read.spread[row]), read.spread[row])
    return [
        (time, replace(faces, landmarks=landmarks, spread=spread))
        for (time, faces), landmarks, spread in zip(clip, points, spreads, strict=True)
    ]


def _runs(track: Sequence[tuple[int, int]], times: Sequence[float]) -> list[list[tuple[int, int]]]:
    """The places (frame, row) of a face, split where it was missing for longer than ``RESTART``."""
    runs = [[track[0]]]
    for place in track[1:]:
        if times[place[0]] - times[runs[-1][-1][0]] > RESTART:
            runs.append([])
        runs[-1].append(place)
    return runs


def _smoothed_run(
    motion: MotionFilter, run: Sequence[tuple[int, int]], clip: Sequence[tuple[float, Faces]]
) -> list[Estimate]:
    """The smoother's estimates of one face at the places (frame, row) of a run."""

    def reading(place: tuple[int, int]) -> tuple[float, F64, F64, NDArray[np.float32] | None]:
        (time, faces), row = clip[place[0]], place[1]
        points, spread = faces.landmarks[row].astype(np.float64), faces.spread[row].astype(np.float64)
        return time, points, spread, None if faces.visible is None else faces.visible[row]

    first = motion.start(*reading(run[0]))
    steps: list[Step] = []
    for place in run[1:]:
        time, points, spread, visible = reading(place)
        step = motion.predict(steps[-1].updated if steps else first, time)
        steps.append(motion.update(step, points, spread, visible))
    return smoothed(first, steps)


def assign(costs: F64, limit: float) -> list[tuple[int, int]]:
    """Pairs (row, column) with the least sum of costs; a pair of at least ``limit`` costs more than two left alone.

    scipy has ``linear_sum_assignment``, but prediction does without scipy, and there are few faces.

    Args:
        costs: (n, m); infinite where a pair is impossible.
        limit: what two partners that stay alone cost.

    Source: the Hungarian method by shortest augmenting paths (R. Jonker and A. Volgenant, 1987).
    """
    rows, columns = costs.shape
    side = max(rows, columns)
    table = np.zeros((side, side))
    table[:rows, :columns] = np.minimum(costs - limit, 0.0)
    row_price, column_price = np.zeros(side), np.zeros(side)
    row_of = np.full(side, -1)
    for row in range(side):
        distance, before = np.full(side, np.inf), np.full(side, -1)
        reached = np.zeros(side, bool)
        current, column = row, -1
        while True:
            reduced = table[current] - row_price[current] - column_price
            shorter = ~reached & (reduced < distance)
            distance[shorter], before[shorter] = reduced[shorter], column
            column = int(np.argmin(np.where(reached, np.inf, distance)))
            step = distance[column]
            row_price[[row, *row_of[reached]]] += step
            column_price[reached] -= step
            distance[~reached] -= step
            reached[column] = True
            if row_of[column] < 0:
                break
            current = int(row_of[column])
        while column >= 0:
            earlier = int(before[column])
            row_of[column] = row if earlier < 0 else row_of[earlier]
            column = earlier
    return sorted((int(row), column) for column, row in enumerate(row_of) if table[row, column] < 0)


@dataclass(frozen=True)
class _Limits:
    """How far a reading may be from the face that is expected.

    Attributes:
        reach: factor to ``REACH`` and ``REACH_GROWTH``.
        shape_change: as ``MAX_SHAPE_CHANGE``.
    """

    reach: float = 1.0
    shape_change: float = MAX_SHAPE_CHANGE


def _difference(track: _Track, predicted: Estimate, reading: _Reading, limits: _Limits = _Limits()) -> float:
    """How little a reading fits a track; infinite where it cannot be that face.

    It is compared with where the motion leads, where the face was last, and how it was when it was last seen clearly: a
    face that is about to be hidden is often read a little beside its place.
    """
    look = LOOK_WEIGHT * _look_difference(track.look, reading.look)
    return look + min(
        _distance(predicted.points, predicted.time - track.motion.time, reading.points, limits),
        _distance(track.motion.points, predicted.time - track.motion.time, reading.points, limits),
        _distance(track.clear.points, predicted.time - track.clear.time, reading.points, limits),
    )


def _overlap(first: Estimate, second: Estimate) -> bool:
    """Whether two faces lie so close that one can hide a part of the other."""
    return float(np.linalg.norm(first.centre - second.centre)) < OVERLAP * (first.size + second.size)


def _distance(expected: F64, elapsed: float, points: F64, limits: _Limits = _Limits()) -> float:
    """How far points (M, 2) are from those expected, by place, size and shape; infinite beyond the limits."""
    size = max(_size(expected), 1e-6)
    change = abs(float(np.log(max(_size(points), 1e-6) / size)))
    distance = float(np.linalg.norm(points.mean(axis=0) - expected.mean(axis=0))) / size
    shape = _shape_difference(expected, points)
    reach = limits.reach * (REACH + REACH_GROWTH * elapsed)
    if distance > reach or change > MAX_SIZE_CHANGE or shape > limits.shape_change:
        return np.inf
    return distance + change + SHAPE_WEIGHT * shape


def _shape_difference(expected: F64, points: F64) -> float:
    """Median distance of points (M, 2) from those expected, in sizes, after both were laid on each other."""
    left = np.linalg.norm(procrustes_align(points, expected) - expected, axis=1)
    return float(np.median(left)) / max(_size(expected), 1e-6)


def _appearance_difference(track: _Track, reading: _Reading) -> float:
    """How little the shape, the size and the looks of a reading fit a face as it was when it was last seen clearly."""
    change = abs(float(np.log(max(_size(reading.points), 1e-6) / max(_size(track.clear.points), 1e-6))))
    shape = SHAPE_WEIGHT * _shape_difference(track.clear.points, reading.points)
    return change + shape + LOOK_WEIGHT * _look_difference(track.look, reading.look)


def _look(picture: Picture | ReducedPicture, points: NDArray[np.floating]) -> F64:
    """The pixels of a face, reduced, with mean 0 and length 1; zeros where there is nothing to see."""
    square = squares(landmark_boxes(points), 1.0)[0]
    if square[2] <= 1:
        return np.zeros(3 * LOOK_SIDE**2)
    pixels = crop(picture, crop_transform(square, LOOK_SIDE), LOOK_SIDE).astype(np.float64).ravel()
    pixels -= pixels.mean()
    return np.asarray(pixels / max(float(np.linalg.norm(pixels)), 1.0))


def _look_difference(first: F64, second: F64) -> float:
    """One minus the correlation of two looks: 0 to 2; 0 where one of them is black."""
    return 1 - float(first @ second) if first.any() and second.any() else 0.0


def _distinct(readings: Iterable[_Reading]) -> list[_Reading]:
    """The readings without those that show the same face as a more confident one, which takes over their box."""
    kept: list[_Reading] = []
    for reading in sorted(readings, key=lambda item: -item.mean_confidence):
        points = reading.points
        for index, other in enumerate(kept):
            apart = np.linalg.norm(points - other.points, axis=1).mean()
            if apart < SAME_PLACE * max(_size(points), _size(other.points)):
                if other.box is None and reading.box is not None:
                    kept[index] = replace(other, box=reading.box, score=reading.score)
                break
        else:
            kept.append(reading)
    return kept


def _size(points: F64) -> float:
    """Root mean square distance of points (M, 2) from their centre."""
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _box_in_face(motion: Estimate, box: F64) -> F64:
    """(2, 2) centre and half sides of a box (4,) in the frame of the face."""
    return np.stack([motion.to_face((box[:2] + box[2:]) / 2), (box[2:] - box[:2]) / 2 / motion.size])


def _is_same_square(first: F64, second: F64) -> bool:
    """Whether two squares (3,), centre and side, are around one face."""
    near = np.linalg.norm(first[:2] - second[:2]) < SQUARE_DISTANCE * min(first[2], second[2])
    return bool(near and abs(np.log(first[2] / second[2])) < MAX_SIZE_CHANGE)


def _reaches_into(square: F64, picture: Picture) -> bool:
    """Whether a square (3,), centre and side, overlaps the picture."""
    size = np.array(picture.shape[1::-1])
    return bool((np.abs(square[:2] - size / 2) < (square[2] + size) / 2).all())
