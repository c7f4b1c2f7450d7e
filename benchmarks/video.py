"""Accuracy, steadiness, lag, blinks, ids, speed and memory of tracking, on clips whose truth is known exactly.

    pip install av
    python -m benchmarks.video DATA [--mediapipe PYTHON] [--workers 2] [--update]
    python -m benchmarks.video DATA --only speed memory                         some of the tables
    python -m benchmarks.video DATA --tune                                      One-Euro filters on the tuning clips
    python -m benchmarks.video DATA --noise                                     what of the spread changes

DATA is the folder of 300W. The clips (``benchmarks/clips.py``) are made of every second face of its validation split;
the filters were tuned on clips of the others. They have 25 and 60 frames a second, 60, 90 and 120 pixels between the
eyes, camera noise, motion blur, and H.264 at two bit rates. PYTHON is the interpreter of an environment that
``benchmarks.environments mediapipe`` made; MediaPipe runs in video mode, with the vertices that are nearest to the 68
points on labelled training faces."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from benchmarks.clips import IBUG, SCENES, Clip, Picture, several, single
from benchmarks.measurements import DOCS, Measurement, Value, add_update_option, finish
from benchmarks.timing import take_turns
from numpy.typing import NDArray
from rich.progress import track

import octamark
from octamark import Faces, Landmarker, metrics
from octamark.datasets import Sample, read
from octamark.geometry import apply, crop, crop_transform, landmark_boxes, squares
from octamark.inference.landmarker import Located
from octamark.inference.rotation import Rotation
from octamark.inference.tracker import Tracker, smooth_offline

Floats = NDArray[np.float64]

TABLES = ("accuracy", "ids", "speed", "memory")
UNITS = (60.0, 90.0, 120.0)
BITS = (None, 2_000_000, 600_000)
SECONDS = {25: 6.0, 60: 3.0}
FAR = 0.5  # eye distances: a face whose points are further off on average was not found
SPEEDS = (0.05, 3.0)  # of the points, % of the eye distance in 0.04 s: below, rest; above, fast
START = 0.2  # seconds of a clip in which jitter does not count, because filters and H.264 settle
MOST = 1000  # clips of a kind
FRAMES = 10_000  # over which the memory is measured
COMMAND = "python -m benchmarks.video ../shared/data/300w --mediapipe PYTHON --update"

LAGS = (0.03, 0.3)
"""Frames by which tuned One-Euro filters may lag: about as much as the tracker, and as much as is hardly seen."""
ONE_EURO = {0.03: (0.3, 800.0), 0.3: (0.3, 40.0)}
"""For each of ``LAGS``, cutoff in Hz and beta (eye distances a second to Hz) that ``--tune`` chose on ``tiny-128``."""
CUTOFFS, BETAS = (0.3, 0.7, 1.5, 3.0, 6.0), (1.0, 5.0, 15.0, 40.0, 100.0, 200.0, 400.0, 800.0)


@dataclass(frozen=True)
class Track:
    """What one method makes of the face of a clip.

    Attributes:
        points: (T, 68, 2); NaN in frames in which the face was not found.
        radii: (T, 68) of the regions that hold the truth with a probability of 90 %; None without any.
    """

    points: Floats
    radii: Floats | None = None


@dataclass(frozen=True)
class Scores:
    """Figures of one method on one clip; see the text of the table.

    Attributes:
        found: share of the frames.
        nme, rest, slow, fast: mean error of all frames, and of those in which the face rests or moves.
        jitter: over the mean eye distance.
        lag: frames.
        openings: of the eyes in each blink, as a share of the opening around it.
        seen: openings in each blink of the readings that the method filters.
        coverage: of the 90 % regions.
    """

    found: float
    nme: float
    rest: float
    slow: float
    fast: float
    jitter: float
    lag: float
    openings: tuple[float, ...]
    seen: tuple[float, ...]
    coverage: float


def nearest(faces: Faces, truth: Floats) -> int | None:
    """The row of the face nearest to the truth (68, 2); None if none is near."""
    if not len(faces) or not np.isfinite(truth).all():
        return None
    apart = np.linalg.norm(faces.landmarks - truth, axis=-1).mean(axis=-1) / IBUG.reference_distance(truth)
    return int(apart.argmin()) if apart.min() < FAR else None


def track_of(results: Iterable[Faces], truth: Floats) -> Track:
    """The face of a clip in the faces of its frames."""
    points, radii = np.full(truth.shape, np.nan), np.full(truth.shape[:2], np.nan)
    for index, faces in enumerate(results):
        row = nearest(faces, truth[index])
        if row is not None:
            points[index], radii[index] = faces.landmarks[row], faces.radius(0.9)[row]
    return Track(points, radii)


def blink_openings(points: Floats, clip: Clip) -> Floats:
    """(blinks,) the least mean opening of the eyes in each blink, as a share of the opening around it."""
    opening = IBUG.eye_opening(points).mean(axis=-1)
    margin = round(8 * clip.rate / 25)
    result = []
    for _, first, last in clip.blinks:
        around = np.concatenate(
            [opening[max(0, first - margin) : max(1, first - 1)], opening[last + 2 : last + 2 + margin]]
        )
        during = opening[first : last + 2]
        known = np.isfinite(around).any() and np.isfinite(during).any()
        result.append(np.nanmin(during) / np.nanmedian(around) if known else np.nan)
    return np.array(result)


def speed_of(truth: Floats, rate: float) -> Floats:
    """(T,) mean speed of the points (T, 68, 2), % of the eye distance in 0.04 seconds."""
    unit = IBUG.reference_distance(truth)
    moved = np.linalg.norm(np.diff(truth, axis=0, prepend=truth[:1]), axis=-1).mean(axis=-1)
    return np.asarray(100 * moved / unit * rate / 25)


def scored(result: Track, raw: Track, clip: Clip) -> Scores:
    """The figures of a method; ``raw`` are the readings that it filters."""
    truth, still = clip.truth[:, 0], clip.still[:, 0]
    still[: round(START * clip.rate)] = False
    unit = IBUG.reference_distance(truth)
    errors = np.linalg.norm(result.points - truth, axis=-1)
    found = np.isfinite(errors).all(axis=-1)
    nme = errors.mean(axis=-1) / unit
    band = np.digitize(speed_of(truth, clip.rate), SPEEDS)

    def mean_of(chosen: NDArray[np.bool_]) -> float:
        return float(nme[chosen].mean()) if chosen.any() else np.nan

    return Scores(
        found=float(found.mean()),
        nme=mean_of(found),
        rest=mean_of(found & (band == 0)),
        slow=mean_of(found & (band == 1)),
        fast=mean_of(found & (band == 2)),
        jitter=metrics.jitter(result.points, np.repeat(still[:, None], 68, axis=1)) / float(unit.mean()),
        lag=metrics.lag(result.points, truth),
        openings=tuple(blink_openings(result.points, clip)),
        seen=tuple(blink_openings(raw.points, clip)),
        coverage=np.nan if result.radii is None else float((errors <= result.radii)[found].mean()),
    )


def lasting_errors(points: Floats, truth: Floats, reach: int | None = None) -> Floats:
    """The truth (T, 68, 2) with the mean errors of points in the frame of the face: what no smoothing removes.

    Args:
        points: (T, 68, 2) readings.
        reach: frames before and after each over which errors are averaged; None for the whole clip.
    """
    places, read = (values[..., 0] + 1j * values[..., 1] for values in (truth, points))
    centred = places - places.mean(axis=1, keepdims=True)
    factors = (centred * centred[0].conj()).sum(axis=1, keepdims=True)  # how the face turned and grew, up to a constant
    errors = (read - places) / factors
    if reach is None:
        means = np.nanmean(errors, axis=0)
    else:
        count = len(errors)
        means = np.stack([np.nanmean(errors[max(0, t - reach) : t + reach + 1], axis=0) for t in range(count)])
    result = places + means * factors
    return np.stack([result.real, result.imag], axis=-1)


def one_euro(points: Floats, rate: float, cutoff: float, beta: float, unit: float) -> Floats:
    """Points (T, ..., 2) after the One-Euro filter (G. Casiez, N. Roussel and D. Vogel, 2012), speeds over ``unit``."""

    def weight(frequency: Any) -> Any:
        return 1 / (1 + rate / (2 * np.pi * frequency))

    result = points.copy()
    speed = np.zeros_like(points[0])
    for index in range(1, len(points)):
        fresh = ~np.isfinite(result[index - 1])
        change = np.where(fresh, 0.0, (points[index] - result[index - 1]) * rate / unit)
        speed = np.where(np.isfinite(change), speed + weight(1.0) * (change - speed), 0.0)
        share = weight(cutoff + beta * np.abs(speed))
        result[index] = np.where(fresh, points[index], result[index - 1] + share * (points[index] - result[index - 1]))
    return result


def mean_of_five(points: Floats) -> Floats:
    """The mean of each frame and the four before it."""
    return np.stack([np.nanmean(points[max(0, index - 4) : index + 1], axis=0) for index in range(len(points))])


def clips_of(samples: Sequence[Sample], count: int, seed: int = 5) -> Iterator[Clip]:
    """Clips of one face each, in all conditions in turn."""
    made = 0
    for number, index in enumerate(np.random.default_rng(seed).permutation(len(samples))):
        rate = 60 if made % 4 == 3 else 25
        conditions = {"unit": UNITS[made % 3], "bits": BITS[made // 3 % 3]}
        clip = single(samples[index], rate=rate, seconds=SECONDS[rate], seed=number, **conditions)  # type: ignore[arg-type]
        if clip is not None:
            made += 1
            yield clip
        if made == count:
            return


class SharedReader:
    """A landmarker that remembers what it read in the last picture, for trackers that look at the same places."""

    def __init__(self, landmarker: Landmarker) -> None:
        self._landmarker, self._picture = landmarker, None
        self._known: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._landmarker, name)

    def _once(self, picture: Any, key: Any, call: Callable[[], Any]) -> Any:
        if picture is not self._picture:
            self._picture, self._known = picture, {}
        if key not in self._known:
            self._known[key] = call()
        return self._known[key]

    def locate(self, picture: Picture) -> Located:
        located: Located = self._once(picture, "faces", lambda: self._landmarker.locate(picture))
        return located

    def read_located(self, pictures: Sequence[Located], *, rotation: Rotation | None = None) -> list[Faces]:
        (located,) = pictures
        key = (rotation, located.boxes is None, *(crop.transform.tobytes() for crop in located.crops))
        faces: list[Faces] = self._once(
            located.picture, key, lambda: self._landmarker.read_located(pictures, rotation=rotation)
        )
        return faces


def tracks(landmarker: Landmarker, clip: Clip, pictures: Iterable[Picture]) -> dict[str, Track]:
    """What octamark makes of a clip, by method."""
    reader: Any = SharedReader(landmarker)
    trackers = {name: Tracker(reader, smoothing=name) for name in ("none", "low", "high")}
    results: dict[str, list[Faces]] = {name: [] for name in ("frame by frame", *trackers)}
    for index, picture in enumerate(pictures):
        results["frame by frame"] += reader.read_located([reader.locate(picture)])
        for name, tracker in trackers.items():
            results[name].append(tracker(picture, index / clip.rate))
    frames = [(index / clip.rate, faces) for index, faces in enumerate(results["none"])]
    results["offline"] = [faces for _, faces in smooth_offline(frames)]
    return {name: track_of(faces, clip.truth[:, 0]) for name, faces in results.items()}


METHODS = {
    "frame by frame": "frame by frame",
    "none": 'tracker, `smoothing="none"`',
    "low": 'tracker, `"low"`',
    "high": 'tracker, `"high"`',
    "offline": "tracker, offline",
    "five": "mean of five frames",
    **{f"euro {lag}": f"One-Euro {pair[0]:g} Hz, {pair[1]:g}; lag up to {lag}" for lag, pair in ONE_EURO.items()},
    "lasting": "bound: errors averaged over the clip",
    "near": "bound: errors averaged over 0.2 s",
}
FILTERS = ("none", "low", "high", "offline")
"""Methods whose readings are those of a tracker, in crops around the landmarks of the frame before."""
BOUNDS = ("lasting", "near")
COLUMNS = (
    ("model", ""), ("method", ""), ("found, %", ".1f"), ("NME, %", ".2f"), ("at rest", ".2f"), ("slow", ".2f"),
    ("fast", ".2f"), ("jitter, % of eye distance", ".3f"), ("less jitter, %", ".0f"), ("lag, frames", ".2f"),
    ("blinks under half, %", ".0f"), ("blinks kept, %", ".0f"), ("coverage of 90 % regions, %", ".1f"),
)  # fmt: skip
TEXT = """
Jitter is the root mean square second difference of the points while the whole face truly rests (no motion, speech or
blink), in percent of the distance of the outer eye corners, from 0.2 seconds on; *less jitter*: than frame by frame.
Lag is the delay of the truth that fits best. *Fast*: points move by more than 3 % of the eye distance in 0.04 seconds.
Each blink lasts 0.1 seconds from open to open. *Under half*: share of the blinks in which the measured opening of the
eyes falls under half of the one around them. The networks seldom read an opening near 0, in photographs of people whose
eyes are shut neither. *Kept*: share of those that the unfiltered readings show under half, and that the method leaves
under half. The tracker's readings are those of `smoothing="none"`, from crops around the landmarks of the frame before;
One-Euro and the mean of five frames start from the frame-by-frame readings and have their spread. *Bound*: the truth
with the errors of the readings averaged, so that only errors that last are left. Smoothing over that time cannot come
below it: it would also have to know the true motion.
"""


@lru_cache
def landmarker_of(name: str) -> Landmarker:
    """The model, loaded once in each process."""
    cv2.setNumThreads(1)
    return octamark.load(name, threads=1)


@lru_cache
def faces_of(data: Path, tuning: bool = False) -> list[Sample]:
    """The faces of the benchmark, or those on which filters are tuned."""
    return read("300w", data, "val")[0 if tuning else 1 :: 2]


@dataclass(frozen=True)
class Job:
    """One clip for a worker.

    Attributes:
        data: folder of 300W.
        number: of the clip, in ``clips_of`` or ``scenes_of``.
        models: names.
        mediapipe: its interpreter and the vertices that stand for the 68 points; None without it.
        tuning: whether the clip is one of those on which filters are tuned.
    """

    data: Path
    number: int
    models: tuple[str, ...]
    mediapipe: tuple[str, tuple[int, ...]] | None = None
    tuning: bool = False

    def clip(self) -> Clip:
        """The clip of one face."""
        return next(clip for number, clip in numbered_clips(self.data, self.tuning) if number == self.number)

    def scene(self) -> Clip:
        """The clip of several faces."""
        return next(clip for number, clip in numbered_scenes(self.data) if number == self.number)


@lru_cache
def numbered_clips(data: Path, tuning: bool) -> Iterator[tuple[int, Clip]]:
    """Clips of one face with their numbers; goes on where the last job of this process stopped, as numbers rise."""
    return enumerate(clips_of(faces_of(data, tuning), MOST, 1 if tuning else 5))


@lru_cache
def numbered_scenes(data: Path) -> Iterator[tuple[int, Clip]]:
    """The same for clips of several faces."""
    return enumerate(scenes_of(faces_of(data), MOST))


def eye_distance(clip: Clip) -> float:
    """Mean distance of the outer eye corners in a clip, pixels."""
    return float(IBUG.reference_distance(clip.truth[:, 0]).mean())


@dataclass(frozen=True)
class ClipResult:
    """What a worker found in a clip of one face.

    Attributes:
        scores: by model and method.
        series: name -> (T, 68, 2) of the last model, for the plot.
        clip: without its frames.
    """

    scores: dict[tuple[str, str], Scores]
    series: dict[str, Floats] = field(default_factory=dict)
    clip: Clip | None = None


def read_clip(job: Job) -> ClipResult:
    """The figures of all methods on one clip."""
    clip = job.clip()
    pictures = list(clip.frames())
    truth = clip.truth[:, 0]
    scores: dict[tuple[str, str], Scores] = {}
    series: dict[str, Floats] = {}
    for name in job.models:
        results = tracks(landmarker_of(name), clip, pictures)
        raw = results["frame by frame"]
        others = {"five": mean_of_five(raw.points)}
        for allowed, pair in ONE_EURO.items():
            others[f"euro {allowed}"] = one_euro(raw.points, clip.rate, *pair, eye_distance(clip))
        others["lasting"] = lasting_errors(results["none"].points, truth)
        others["near"] = lasting_errors(results["none"].points, truth, round(0.1 * clip.rate))
        results |= {method: replace(raw, points=points) for method, points in others.items()}
        scores |= {
            (name, method): scored(each, results["none"] if method in FILTERS else raw, clip)
            for method, each in results.items()
        }
        series = {"truth": truth} | {method: results[method].points for method in METHODS}
    if job.mediapipe is not None:
        python, vertices = job.mediapipe
        points = np.stack(list(run_mediapipe(python, iter(pictures), video=True)))[:, vertices]
        peer = Track(points)
        scores["MediaPipe 0.10.21", "video mode"] = scored(peer, peer, clip)
    return ClipResult(scores, series, replace(clip, frames=iter))


def mean(values: Iterable[float], scale: float = 1.0) -> float | None:
    """The mean of the values that are known, times a factor; None if none is."""
    known = [value for value in values if np.isfinite(value)]
    return scale * float(np.mean(known)) if known else None


def row(model: str, method: str, scores: Sequence[Scores], raw: Sequence[Scores]) -> list[Value]:
    """A row of the table: means over clips; ``raw`` are the scores frame by frame."""
    percent = {
        name: mean((getattr(one, name) for one in scores), 100.0)
        for name in ("found", "nme", "rest", "slow", "fast", "jitter", "coverage")
    }
    if method in BOUNDS:
        bounds = [percent[name] for name in ("nme", "rest", "slow", "fast")]
        return [model, METHODS[method], None, *bounds, None, None, None, None, None, None]
    openings, seen = (np.concatenate([getattr(one, name) for one in scores]) for name in ("openings", "seen"))
    half = seen < 0.5
    before, now = mean(one.jitter for one in raw), mean(one.jitter for one in scores)
    less = None if scores == raw or not before or now is None else 100 * (1 - now / before)
    return [
        model,
        METHODS.get(method, method),
        *(percent[name] for name in ("found", "nme", "rest", "slow", "fast", "jitter")),
        less,
        mean(one.lag for one in scores),
        100 * float((openings < 0.5).mean()),
        100 * float((openings[half] < 0.5).mean()) if half.any() else None,
        percent["coverage"],
    ]


def accuracy(results: Sequence[ClipResult]) -> Measurement:
    """The table of single faces."""
    rows = []
    for model, method in results[0].scores:
        of_clips = [result.scores[model, method] for result in results]
        raw = [result.scores[model, "frame by frame" if method in METHODS else method] for result in results]
        rows.append(row(model, method, of_clips, raw))
    return Measurement(
        "video", "video", "Tracking one face", TEXT, COLUMNS, rows, COMMAND,
        data=f"{len(results)} clips of 300W validation faces", boxes="of the detector", normaliser="inter-ocular",
        plot=PLOT,
    )  # fmt: skip


PLOT = "video.png"
LINES = (("frame by frame", "0.7", 1.0), ("high", "C0", 1.4), ("offline", "C1", 1.2), ("truth", "k", 0.8))


def draw(result: ClipResult, path: Path) -> None:
    """Write the plot of single points over time: raw, filtered and true."""
    from matplotlib.figure import Figure

    assert result.clip is not None
    clip, truth = result.clip, result.series["truth"]
    times = np.arange(len(truth)) / clip.rate
    unit = eye_distance(clip)
    moving = speed_of(truth, clip.rate) > SPEEDS[1]
    fast = int(np.flatnonzero(moving).mean()) if moving.any() else len(times) // 2
    _, first, last = clip.blinks[0]
    panels = (
        ("chin, x, at rest", 8, 0, slice(round(START * clip.rate), first)),
        ("middle of the right upper lid, y, in a blink", 37, 1, slice(max(0, first - 8), last + 10)),
        ("tip of the nose, x, in fast motion", 30, 0, slice(fast - 15, fast + 15)),
    )
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (title, point, axis, part) in zip(figure.subplots(1, 3), panels, strict=True):
        middle = truth[part, point, axis].mean()
        for name, colour, width in LINES:
            values = 100 * (result.series[name][part, point, axis] - middle) / unit
            style = {"linestyle": "--"} if name == "truth" else {"marker": ".", "markersize": 4}
            axes.plot(
                times[part],
                values,
                color=colour,
                linewidth=width,
                label=METHODS.get(name, name).replace("`", ""),
                **style,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("seconds")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("place, % of the eye distance")
    figure.axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def scenes_of(samples: Sequence[Sample], count: int, seed: int = 11) -> Iterator[Clip]:
    """Clips of two to five faces: crossings, covers, faces that leave and come back, cuts, in turn."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        scene = SCENES[made % len(SCENES)]
        faces = 2 + made // len(SCENES) % 4
        chosen = [
            samples[index] for index in rng.choice(len(samples), 2 * faces if scene == "cut" else faces, replace=False)
        ]
        unit = {2: 90.0, 3: 80.0, 4: 65.0, 5: 55.0}[faces]
        clip = several(chosen, scene, rate=25, seconds=4.0, unit=unit, seed=made)
        if clip is not None:
            made += 1
            yield clip


@dataclass(frozen=True)
class Ids:
    """How the faces of a clip were told apart.

    Attributes:
        visible, found: frames times faces that can be seen, and those of them that are in the result.
        switches: how often a face has another id than the last time it was found.
        shared: ids that two faces had in turn, such as the ones before and after a cut.
        false: faces in the result that lie on none of the scene.
    """

    visible: int
    found: int
    switches: int
    shared: int
    false: int


def ids_of(results: Sequence[Faces], clip: Clip) -> Ids:
    """How the faces of a clip were told apart in the results of its frames."""
    last: dict[int, int] = {}
    owners: dict[int, set[int]] = {}
    visible = found = switches = false = 0
    for index, faces in enumerate(results):
        assert faces.ids is not None
        near = set()
        for face in range(clip.truth.shape[1]):
            row_of_face = nearest(faces, clip.truth[index, face])
            near |= set() if row_of_face is None else {row_of_face}
            if not clip.visible[index, face]:
                continue
            visible += 1
            if row_of_face is None:
                continue
            found += 1
            number = int(faces.ids[row_of_face])
            switches += last.get(face, number) != number
            last[face] = number
            owners.setdefault(number, set()).add(face)
        false += len(faces) - len(near)
    return Ids(visible, found, switches, sum(len(faces) > 1 for faces in owners.values()), false)


def read_scene(job: Job) -> tuple[str, dict[str, Ids]]:
    """The kind of a clip of several faces, and how each model's faces were told apart in it."""
    clip = job.scene()
    trackers = {name: Tracker(landmarker_of(name)) for name in job.models}
    faces: dict[str, list[Faces]] = {name: [] for name in job.models}
    for index, picture in enumerate(clip.frames()):
        for name, tracker in trackers.items():
            faces[name].append(tracker(picture, index / clip.rate))
    return clip.name.split()[0], {name: ids_of(results, clip) for name, results in faces.items()}


def identities(results: Sequence[tuple[str, dict[str, Ids]]]) -> Measurement:
    """The table of several faces."""
    rows: list[Sequence[Value]] = []
    for model in results[0][1]:
        scenes = [scene for scene in SCENES if any(kind == scene for kind, _ in results)]
        for scene in (*scenes, "all"):
            of_clips = [ids[model] for kind, ids in results if scene in (kind, "all")]
            total = {name: sum(getattr(one, name) for one in of_clips) for name in Ids.__dataclass_fields__}
            share = 100 * total["found"] / total["visible"]
            rows.append([model, scene, len(of_clips), share, total["switches"], total["shared"], total["false"]])
    columns = (
        ("model", ""), ("scene", ""), ("clips", "d"), ("visible faces found, %", ".1f"), ("id switches", "d"),
        ("ids of two faces", "d"), ("false faces, frames", "d"),
    )  # fmt: skip
    text = (
        "Two to five faces of 300W validation pictures move before a blurred background, four seconds at 25 frames a "
        "second. Neighbours change places (one hides the other), a bar covers them, one leaves the picture and comes "
        "back, or others replace them at a cut. A face is visible while 70 % of its landmarks are."
    )
    return Measurement("video-ids", "video", "Ids of several faces", text, columns, rows, COMMAND)


class CountingReader:
    """A landmarker that counts how often its detector runs."""

    def __init__(self, landmarker: Landmarker) -> None:
        self.landmarker, self.searches = landmarker, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.landmarker, name)

    def locate(self, picture: Picture) -> Any:
        self.searches += 1
        return self.landmarker.locate(picture)


def there_and_back(pictures: Sequence[Picture], number: int) -> Picture:
    """The frame of that number of a clip that runs forwards and backwards in turn."""
    turn, place = divmod(number, len(pictures))
    return pictures[-1 - place if turn % 2 else place]


def pictures_of_one_face(data: Path, count: int = 50) -> list[Picture]:
    """The first frames of a clip in whose frames the detector sees one face."""
    for clip in clips_of(faces_of(data), 20):
        pictures = [picture for picture, _ in zip(clip.frames(), range(count), strict=False)]
        if clip.rate == 25 and len(landmarker_of("pico")(pictures[0])) == 1:
            return pictures
    raise RuntimeError("no clip with one face among the first 20")


def speed(models: Sequence[str], pictures: Sequence[Picture], rounds: int = 3) -> Measurement:
    """Milliseconds a frame of 1280x720 on one thread, decoding not included; and how often the detector runs."""
    tasks: dict[str, Callable[[int], object]] = {}
    readers = {}
    for name in models:
        landmarker = landmarker_of(name)
        readers[name] = CountingReader(landmarker)
        tracker = Tracker(readers[name])  # type: ignore[arg-type]
        clock = iter(range(1_000_000))
        tasks[f"{name}/one"] = lambda number, landmarker=landmarker: landmarker(there_and_back(pictures, number))
        tasks[f"{name}/track"] = lambda number, tracker=tracker, clock=clock: tracker(
            there_and_back(pictures, number), next(clock) / 25
        )
    times = take_turns(tasks, rounds, timed=len(pictures), untimed=len(pictures))
    rows: list[Sequence[Value]] = []
    for name in models:
        calls = rounds * 2 * len(pictures)
        share = 100 * readers[name].searches / calls
        for method, of_calls, searched in (
            ("frame by frame", times[f"{name}/one"], 100.0), ("tracker", times[f"{name}/track"], share)
        ):  # fmt: skip
            rows.append([name, method, statistics.mean(of_calls), statistics.median(of_calls), searched])
    columns = (
        ("model", ""), ("method", ""), ("ms a frame", ".1f"), ("ms, median", ".1f"), ("frames searched, %", ".0f"),
    )  # fmt: skip
    text = "One face in frames of 1280x720 pixels at 25 frames a second, one thread, decoding not included."
    return Measurement("video-speed", "video", "Speed of tracking", text, columns, rows, COMMAND)


def resident() -> int:
    """Bytes of memory that this process holds (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_of(job: Job) -> list[int]:
    """Bytes that a process holds after each hundred of ``FRAMES`` frames."""
    pictures = pictures_of_one_face(job.data)
    tracker = Tracker(landmarker_of(job.models[0]), smoothing="high")
    held = []
    for number in range(FRAMES):
        tracker(there_and_back(pictures, number), number / 25)
        if number % 100 == 99:
            held.append(resident())
    return held


def memory(model: str, held: Sequence[int]) -> Measurement:
    """The table of memory."""
    megabytes = np.array(held) / 1e6
    columns = (
        ("model", ""), ("frames", "d"), ("MB after 100 frames", ".1f"), ("growth at the end, MB", ".2f"),
        ("largest growth, MB", ".2f"),
    )  # fmt: skip
    growth = megabytes - megabytes[0]
    rows: list[Sequence[Value]] = [[model, FRAMES, float(megabytes[0]), float(growth[-1]), float(growth.max())]]
    text = "Resident memory of the process, after a garbage collection in each hundredth frame."
    return Measurement("video-memory", "video", "Memory over a long video", text, columns, rows, COMMAND)


def noise(models: Sequence[str], clips: Iterable[Clip]) -> Measurement:
    """What of the spread changes from frame to frame, in rest and in motion: for the constants of the filter."""
    landmarkers = {name: octamark.load(name, threads=1) for name in models}
    parts: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for clip in clips:
        readers = {name: Tracker(landmarker, smoothing="none") for name, landmarker in landmarkers.items()}
        rests = clip.still[:, 0]
        errors: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in models}
        for index, picture in enumerate(clip.frames()):
            for name, reader in readers.items():
                faces = reader(picture, index / clip.rate)
                place = nearest(faces, clip.truth[index, 0])
                blank = np.full((68, 2), np.nan)
                pair = (
                    (blank, blank)
                    if place is None
                    else (faces.landmarks[place] - clip.truth[index, 0], faces.spread[place])
                )
                errors[name].append(pair)
        for name, pairs in errors.items():
            error, spread = (np.stack(values) for values in zip(*pairs, strict=True))
            change = np.diff(error, axis=0) / np.sqrt(2)
            whole = change.mean(axis=1, keepdims=True)
            scale = np.sqrt(np.nanmean(spread**2))
            for kind, mask in (("rest", rests[1:] & rests[:-1]), ("motion", ~rests[1:] & ~rests[:-1])):
                shares = [float(np.sqrt(np.nanmean(part[mask] ** 2)) / scale) for part in (whole, change - whole)]
                parts.setdefault((name, kind), []).append((shares[0], shares[1]))
    rows = [
        [name, kind, *(float(np.nanmedian(values)) for values in zip(*shares, strict=True))]
        for (name, kind), shares in parts.items()
    ]
    columns = (("model", ""), ("part of the clip", ""), ("whole face", ".3f"), ("each point", ".3f"))
    text = (
        "Standard deviation of what changes in a reading from one frame to the next, as a share of the spread; medians."
    )
    return Measurement(
        "video-noise", "video", "Errors that change from frame to frame", text, columns, rows, f"{COMMAND} --noise"
    )


def read_raw(job: Job) -> tuple[Clip, Track]:
    """A clip without its frames, and its frame-by-frame readings by one model."""
    clip = job.clip()
    landmarker = landmarker_of(job.models[0])
    return replace(clip, frames=iter), track_of((landmarker(picture) for picture in clip.frames()), clip.truth[:, 0])


def tune(readings: Sequence[tuple[Clip, Track]]) -> None:
    """Print the One-Euro filters of the grid with the least jitter whose lag is small enough, for ``ONE_EURO``."""

    def scores(change: Callable[[Floats, Clip], Floats]) -> tuple[float, float, float]:
        results = [scored(replace(raw, points=change(raw.points, clip)), raw, clip) for clip, raw in readings]
        jitter, delay, nme = (mean(getattr(one, name) for one in results) for name in ("jitter", "lag", "nme"))
        return jitter or np.inf, delay or 0.0, nme or np.inf

    def euro(cutoff: float, beta: float) -> tuple[float, float, float]:
        return scores(lambda points, clip: one_euro(points, clip.rate, cutoff, beta, eye_distance(clip)))

    grid = {pair: euro(*pair) for pair in product(CUTOFFS, BETAS)}
    jitter, _, nme = scores(lambda points, clip: points)
    for allowed in LAGS:
        pairs = [pair for pair, (_, lag, _) in grid.items() if lag <= allowed]
        best = min(pairs, key=lambda pair: grid[pair][0])
        less = 100 * (1 - grid[best][0] / jitter)
        found = f"jitter {less:.0f} % less, lag {grid[best][1]:.3f} frames, NME x {grid[best][2] / nme:.4f}"
        print(f"lag up to {allowed} frames: {best}, {found}")


def mediapipe_vertices(python: str, training: Sequence[Sample]) -> tuple[int, ...]:
    """The 68 of MediaPipe's vertices that are nearest to the points of labelled training faces, on average."""
    side = 512
    placed = [crop_transform(squares(landmark_boxes(sample.landmarks), 2.0)[0], side) for sample in training]
    pictures = (crop(sample.read(), transform, side) for sample, transform in zip(training, placed, strict=True))
    distance = np.zeros((68, 468))
    vertices = run_mediapipe(python, pictures, video=False)
    for sample, transform, found in zip(training, placed, vertices, strict=True):
        if np.isfinite(found).all():
            points = apply(transform, found)
            apart = np.linalg.norm(sample.landmarks[:, None] - points[None], axis=2)
            distance += np.minimum(apart / IBUG.reference_distance(sample.landmarks), 1)
    return tuple(np.argmin(distance, axis=1).tolist())


def run_mediapipe(python: str, pictures: Iterator[Picture], *, video: bool) -> Iterator[Floats]:
    """The vertices (468, 2) in each picture; all pictures have one size."""
    first = next(pictures)
    command = [python, str(Path(__file__).with_name("mediapipe_video.py")), *map(str, first.shape[:2]), str(int(video))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        picture: Picture | None = first
        while picture is not None:
            process.stdin.write(picture.tobytes())
            process.stdin.flush()
            answer = process.stdout.read(468 * 2 * 4)
            if len(answer) < 468 * 2 * 4:
                raise RuntimeError(f"{python}: MediaPipe ended; run {' '.join(command)} to see why")
            yield np.frombuffer(answer, np.float32).reshape(468, 2).astype(np.float64)
            picture = next(pictures, None)
        process.stdin.close()


def spread_out(call: Callable[[Job], Any], jobs: Sequence[Job], workers: int, title: str) -> list[Any]:
    """The results of the jobs, in their order, from as many processes; shows progress."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(call, job) for job in jobs]
        for _ in track(as_completed(futures), title, total=len(futures)):
            pass
        return [future.result() for future in futures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of 300W")
    parser.add_argument("--models", nargs="+", default=["small", "pico", "tiny-128"], help="of the first table")
    parser.add_argument("--model", default="tiny-128", help="of ids and memory")
    parser.add_argument("--fast-models", nargs="+", default=["tiny-128", "pico"], help="of the table of speed")
    parser.add_argument("--clips", type=int, default=18, help="of one face")
    parser.add_argument("--scenes", type=int, default=60, help="clips of several faces")
    parser.add_argument("--workers", type=int, default=2, help="processes; speed is measured in one")
    parser.add_argument("--mediapipe", metavar="PYTHON", help="interpreter with mediapipe 0.10.21")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="the tables to measure")
    parser.add_argument("--tune", action="store_true", help="only tune One-Euro filters on the tuning clips")
    parser.add_argument("--noise", action="store_true", help="only measure what of the spread changes between frames")
    add_update_option(parser)
    arguments = parser.parse_args()
    data, workers = arguments.data, arguments.workers
    if arguments.noise:
        clips = track(clips_of(faces_of(data, True), arguments.clips, 1), "clips", total=arguments.clips)
        finish([noise(arguments.models, clips)], arguments.update)
        return
    if arguments.tune:
        jobs = [Job(data, number, (arguments.model,), tuning=True) for number in range(arguments.clips)]
        tune(spread_out(read_raw, jobs, workers, "tuning clips"))
        return
    measurements = []
    if "accuracy" in arguments.only:
        peer = None
        if arguments.mediapipe:
            peer = (arguments.mediapipe, mediapipe_vertices(arguments.mediapipe, read("300w", data, "train")[::40]))
        jobs = [Job(data, number, tuple(arguments.models), peer) for number in range(arguments.clips)]
        results = spread_out(read_clip, jobs, workers, "one face")
        measurements.append(accuracy(results))
        if arguments.update:
            draw(results[0], DOCS / PLOT)
    if "ids" in arguments.only:
        jobs = [Job(data, number, (arguments.model,)) for number in range(arguments.scenes)]
        measurements.append(identities(spread_out(read_scene, jobs, workers, "several faces")))
    if "speed" in arguments.only:
        measurements.append(speed(arguments.fast_models, pictures_of_one_face(data)))
    if "memory" in arguments.only:
        (held,) = spread_out(memory_of, [Job(data, 0, (arguments.model,))], 1, f"{FRAMES:,} frames")
        measurements.append(memory(arguments.model, held))
    finish(measurements, arguments.update)


if __name__ == "__main__":
    main()
