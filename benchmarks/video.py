"""Accuracy, steadiness, lag, blinks, ids and speed of tracking, on clips of moving faces whose truth is known exactly.

    pip install av
    python -m benchmarks.video DATA [--models tiny-128 small] [--clips 24] [--scenes 60] [--mediapipe PYTHON] [--update]
    python -m benchmarks.video DATA --noise        what of the spread changes from frame to frame

DATA is the folder of 300W; the faces are those of its validation split. ``benchmarks/clips.py`` makes the clips: 25 and
60 frames a second, faces of 60, 90 and 120 pixels between the eyes, camera noise, motion blur, and H.264 at two bit
rates. One-Euro filters are tuned on these clips: of a grid the filter with the least jitter among those whose lag is at
most that of the tracker is shown, and the one with the least jitter of all whose error is at most 2 % larger than that
of the readings. PYTHON is the interpreter of an environment that ``benchmarks.environments mediapipe`` made; MediaPipe
runs in video mode, with the vertices that are nearest to the 68 points on labelled training faces."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from benchmarks.clips import IBUG, SCENES, Clip, Picture, several, single
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.timing import take_turns
from numpy.typing import NDArray
from rich.progress import track

import octamark
from octamark import Faces, Landmarker, metrics
from octamark.datasets import Sample, read
from octamark.geometry import apply, crop, crop_transform, landmark_boxes, squares
from octamark.inference.tracker import Tracker, smooth_offline

Floats = NDArray[np.float64]

UNITS = (60.0, 90.0, 120.0)
BITS = (None, 2_000_000, 600_000)
SECONDS = {25: 6.0, 60: 3.0}
FAR = 0.5  # eye distances: a face whose points are further off on average was not found
CUTOFFS, BETAS = (0.3, 0.7, 1.5, 3.0, 6.0), (1.0, 5.0, 15.0, 40.0, 100.0)  # Hz, and eye distances a second to Hz
COMMAND = "python -m benchmarks.video ../shared/data/300w --mediapipe PYTHON --update"


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
    """Figures of one method on one clip; see the text of the table."""

    found: float
    nme: float
    moving: float
    jitter: float
    lag: float
    dip: float
    kept: float
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


def dips(points: Floats, clip: Clip) -> Floats:
    """(blinks,) how far the mean opening of the eyes falls in each blink, as a share of the opening around it."""
    opening = IBUG.eye_opening(points).mean(axis=-1)
    result = []
    for _, first, last in clip.blinks:
        around = np.concatenate([opening[max(0, first - 8) : max(1, first - 1)], opening[last + 2 : last + 9]])
        during = opening[first : last + 2]
        known = np.isfinite(around).any() and np.isfinite(during).any()
        result.append(1 - np.nanmin(during) / np.nanmedian(around) if known else np.nan)
    return np.array(result)


def scored(result: Track, raw: Track, clip: Clip) -> Scores:
    """The figures of a method; ``raw`` are the frame-by-frame readings that it started from."""
    truth, still = clip.truth[:, 0], clip.still[:, 0]
    unit = IBUG.reference_distance(truth)
    errors = np.linalg.norm(result.points - truth, axis=-1)
    found = np.isfinite(errors).all(axis=-1)
    nme = errors[found].mean(axis=-1) / unit[found]
    seen = dips(raw.points, clip) >= 0.15
    shares = dips(result.points, clip) / np.where(seen, dips(raw.points, clip), 1)
    return Scores(
        found=float(found.mean()),
        nme=float(nme.mean()) if found.any() else np.nan,
        moving=float(np.nanmean(np.where(still.all(axis=-1)[found], np.nan, nme))) if found.any() else np.nan,
        jitter=metrics.jitter(result.points, still) / float(unit.mean()),
        lag=metrics.lag(result.points, truth),
        dip=float(np.mean(dips(result.points, clip))),
        kept=float((shares[seen] >= 0.7).mean()) if seen.any() else np.nan,
        coverage=np.nan if result.radii is None else float((errors <= result.radii)[found].mean()),
    )


def mean(values: Iterable[float], scale: float = 1.0) -> float | None:
    """The mean of the values that are known, times a factor; None if none is."""
    known = [value for value in values if np.isfinite(value)]
    return scale * float(np.mean(known)) if known else None


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


def tracks(landmarker: Landmarker, clip: Clip) -> dict[str, Track]:
    """What octamark makes of a clip, by method."""
    trackers = {name: Tracker(landmarker, smoothing=name) for name in ("none", "low", "high")}
    results: dict[str, list[Faces]] = {name: [] for name in ("frame by frame", *trackers)}
    for index, picture in enumerate(clip.frames()):
        results["frame by frame"].append(landmarker(picture))
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
}
COLUMNS = (
    ("model", ""), ("method", ""), ("found, %", ".1f"), ("NME, %", ".2f"), ("NME in motion, %", ".2f"),
    ("jitter, % of eye distance", ".3f"), ("lag, frames", ".2f"), ("fall of the opening in a blink, %", ".0f"),
    ("blinks kept, %", ".0f"), ("coverage of 90 % regions, %", ".1f"),
)  # fmt: skip
TEXT = """
Jitter is the root mean square second difference of the points that truly rest, in percent of the distance of the outer
eye corners. Lag is the delay of the truth that fits best. Each blink lasts 0.1 seconds and shuts the eyes all but for a
twelfth; the next column says how far the measured opening falls on average, and *kept* is the share of the blinks seen
frame by frame (opening at least 15 % smaller) of which the method keeps 70 % of the fall. One-Euro and the mean of five
frames start from the frame-by-frame readings and have their spread.
"""


def row(model: str, method: str, scores: Sequence[Scores]) -> list[Value]:
    """A row of the table: means over clips."""
    percent = {name: mean((getattr(one, name) for one in scores), 100.0) for name in Scores.__dataclass_fields__}
    lag = mean(one.lag for one in scores)
    order = ("found", "nme", "moving", "jitter")
    return [model, method, *(percent[name] for name in order), lag, *(percent[n] for n in ("dip", "kept", "coverage"))]


def accuracy(models: Sequence[str], clips: Callable[[], Iterator[Clip]], vertices: Vertices | None) -> Measurement:
    """The table of single faces."""
    landmarkers = {name: octamark.load(name, threads=1) for name in models}
    results: dict[str, list[dict[str, Track]]] = {name: [] for name in models}
    peers: list[Scores] = []
    all_clips: list[Clip] = []
    for clip in clips():
        all_clips.append(clip)
        for name, landmarker in landmarkers.items():
            results[name].append(tracks(landmarker, clip))
        if vertices is not None:
            peer = Track(vertices(clip))
            peers.append(scored(peer, peer, clip))
    rows: list[Sequence[Value]] = []
    for name, of_clips in results.items():
        scores = {
            method: [
                scored(each[method], each["frame by frame"], clip)
                for each, clip in zip(of_clips, all_clips, strict=True)
            ]
            for method in METHODS
        }
        rows += [row(name, METHODS[method], scores[method]) for method in METHODS]
        rows += peers_on_points(name, of_clips, all_clips, mean(one.lag for one in scores["high"]) or 0.0)
    if peers:
        rows.append(row("MediaPipe 0.10.21", "video mode", peers))
    return Measurement(
        "video", "video", "Tracking one face", TEXT, COLUMNS, rows, COMMAND,
        data=f"{len(all_clips)} clips of 300W validation faces", boxes="of the detector", normaliser="inter-ocular",
    )  # fmt: skip


def peers_on_points(
    model: str, results: Sequence[Mapping[str, Track]], clips: Sequence[Clip], lag: float
) -> list[list[Value]]:
    """Rows of other filters on the frame-by-frame readings."""

    def run(change: Callable[[Floats, Clip], Floats]) -> list[Scores]:
        pairs = [(each["frame by frame"], clip) for each, clip in zip(results, clips, strict=True)]
        return [scored(replace(raw, points=change(raw.points, clip)), raw, clip) for raw, clip in pairs]

    def euro(cutoff: float, beta: float) -> list[Scores]:
        return run(lambda points, clip: one_euro(points, clip.rate, cutoff, beta, eye_distance(clip)))

    grid = {pair: euro(*pair) for pair in product(CUTOFFS, BETAS)}
    jitters = {pair: mean(one.jitter for one in scores) or np.inf for pair, scores in grid.items()}
    raw_nme = mean(one.nme for one in run(lambda points, clip: points)) or np.nan
    quick = [pair for pair, scores in grid.items() if (mean(one.lag for one in scores) or 0.0) <= lag]
    exact = [pair for pair, scores in grid.items() if (mean(one.nme for one in scores) or np.inf) <= 1.02 * raw_nme]
    rows = []
    for why, pairs in (("lag of the tracker", quick), ("error of the readings", exact)):
        if pairs:
            best = min(pairs, key=lambda pair: jitters[pair])
            rows.append(row(model, f"One-Euro {best[0]:g} Hz, {best[1]:g}, at the {why}", grid[best]))
    return [*rows, row(model, "mean of five frames", run(lambda points, clip: mean_of_five(points)))]


def eye_distance(clip: Clip) -> float:
    """Mean distance of the outer eye corners in a clip, pixels."""
    return float(IBUG.reference_distance(clip.truth[:, 0]).mean())


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


def identities(models: Sequence[str], clips: Iterable[Clip]) -> Measurement:
    """The table of several faces."""
    landmarkers = {name: octamark.load(name, threads=1) for name in models}
    results: dict[tuple[str, str], list[Ids]] = {}
    for clip in clips:
        trackers = {name: Tracker(landmarker) for name, landmarker in landmarkers.items()}
        faces: dict[str, list[Faces]] = {name: [] for name in models}
        for index, picture in enumerate(clip.frames()):
            for name, tracker in trackers.items():
                faces[name].append(tracker(picture, index / clip.rate))
        for name in models:
            results.setdefault((name, clip.name.split()[0]), []).append(ids_of(faces[name], clip))
    rows = []
    for (name, scene), of_clips in results.items():
        total = {field: sum(getattr(one, field) for one in of_clips) for field in Ids.__dataclass_fields__}
        share = 100 * total["found"] / total["visible"]
        rows.append([name, scene, len(of_clips), share, total["switches"], total["shared"], total["false"]])
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


def speed(models: Sequence[str], clip: Clip, rounds: int = 3) -> Measurement:
    """Milliseconds a frame of 1280x720 on one thread, decoding not included; and how often the detector runs."""
    pictures = [picture for picture, _ in zip(clip.frames(), range(50), strict=False)]
    tasks: dict[str, Callable[[int], object]] = {}
    readers = {}
    for name in models:
        landmarker = octamark.load(name, threads=1)
        readers[name] = CountingReader(landmarker)
        tracker = Tracker(readers[name])  # type: ignore[arg-type]
        clock = iter(range(1_000_000))
        tasks[f"{name}/one"] = lambda number, landmarker=landmarker: landmarker(pictures[number % len(pictures)])
        tasks[f"{name}/track"] = lambda number, tracker=tracker, clock=clock: tracker(
            pictures[number % len(pictures)], next(clock) / clip.rate
        )
    times = take_turns(tasks, rounds, timed=len(pictures), untimed=len(pictures))
    rows: list[Sequence[Value]] = []
    for name in models:
        calls = rounds * 2 * len(pictures)
        share = 100 * readers[name].searches / calls
        alone, tracked = times[f"{name}/one"], times[f"{name}/track"]
        rows.append([name, "frame by frame", statistics.mean(alone), statistics.median(alone), 100.0])
        rows.append([name, "tracker", statistics.mean(tracked), statistics.median(tracked), share])
    columns = (
        ("model", ""),
        ("method", ""),
        ("ms a frame", ".1f"),
        ("ms, median", ".1f"),
        ("frames searched, %", ".0f"),
    )
    text = "One face in frames of 1280x720 pixels at 25 frames a second, one thread, decoding not included."
    return Measurement("video-speed", "video", "Speed of tracking", text, columns, rows, COMMAND)


def noise(models: Sequence[str], clips: Iterable[Clip]) -> Measurement:
    """What of the spread changes from frame to frame, in rest and in motion: for the constants of the filter."""
    landmarkers = {name: octamark.load(name, threads=1) for name in models}
    parts: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for clip in clips:
        readers = {name: Tracker(landmarker, smoothing="none") for name, landmarker in landmarkers.items()}
        rests = clip.still[:, 0].all(axis=-1)
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


Vertices = Callable[[Clip], Floats]


def mediapipe_points(python: str, training: Sequence[Sample]) -> Vertices:
    """MediaPipe in video mode as a function from a clip to (T, 68, 2) points; NaN in frames without a face.

    The 68 vertices are those nearest to the points of labelled training faces, on average.
    """
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
    chosen = np.argmin(distance, axis=1)

    def read_clip(clip: Clip) -> Floats:
        return np.stack(list(run_mediapipe(python, clip.frames(), video=True)))[:, chosen]

    return read_clip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of 300W")
    parser.add_argument("--models", nargs="+", default=["pico", "tiny-128", "small"])
    parser.add_argument("--clips", type=int, default=24, help="of one face")
    parser.add_argument("--scenes", type=int, default=60, help="clips of several faces")
    parser.add_argument("--mediapipe", metavar="PYTHON", help="interpreter with mediapipe 0.10.21")
    parser.add_argument("--noise", action="store_true", help="only measure what of the spread changes between frames")
    add_update_option(parser)
    arguments = parser.parse_args()
    samples = read("300w", arguments.data, "val")
    if arguments.noise:
        finish([noise(arguments.models, clips_of(samples, arguments.clips))], arguments.update)
        return
    vertices = None
    if arguments.mediapipe:
        vertices = mediapipe_points(arguments.mediapipe, read("300w", arguments.data, "train")[::40])

    def clips() -> Iterator[Clip]:
        yield from track(clips_of(samples, arguments.clips), "one face", total=arguments.clips, transient=True)

    measurements = []
    if arguments.clips:
        measurements += [accuracy(arguments.models, clips, vertices)]
        measurements += [speed(arguments.models, next(clips_of(samples, 1)))]
    if arguments.scenes:
        scenes = track(scenes_of(samples, arguments.scenes), "several faces", total=arguments.scenes, transient=True)
        measurements += [identities(arguments.models, scenes)]
    finish(measurements, arguments.update)


if __name__ == "__main__":
    main()
