"""Pseudo-labels: a set to train on from the predictions of a teacher, by their expected errors.

A teacher is any model that has read pictures which nobody labelled. Its points are kept where it expects small errors,
and the faces are chosen so that no kind of pose and size makes up most of the set.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, DataError, LayoutError, OutputError, listed
from octamark.faces import Faces
from octamark.images import write_atomically
from octamark.io import Record, coco
from octamark.layouts import Layout

LABELS, FACES, SUMMARY = "labels.json", "faces.csv", "summary.txt"
"""Names of the files of a set: labels in COCO's form, one row for each face of the result, and what was counted."""

YAWS, PITCHES, SIDES = (15.0, 30.0, 60.0), (-15.0, 15.0), (48.0, 96.0, 192.0, 384.0)
"""Where kinds of faces end: by yaw to either side and by pitch, degrees, and by the root of the landmark box's area,
pixels."""


@dataclass(frozen=True)
class Selection:
    """Which faces of a teacher become labels.

    Attributes:
        max_error: largest expected error of a face: the mean over its points, as a share of the eye distance (see
            ``expected_errors``).
        max_point_error: a point of a larger expected error, as such a share, has no label.
        min_side: least root of the landmark box's area, pixels.
        largest_kind: faces of one kind are at most this share of all that are good enough. Kinds are those of
            ``YAWS``, ``PITCHES`` and ``SIDES``. 1 takes all faces.
        count: at most about as many faces are taken, the most frequent kinds being cut further; None for all.
        seed: draws the faces of kinds that have too many. It depends on a face's picture and place in it alone.

    Raises:
        ConfigError: a value that is not allowed.
    """

    max_error: float = 0.05
    max_point_error: float = 0.1
    min_side: float = 32.0
    largest_kind: float = 0.3
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed, right in (
            ("max_error", self.max_error, "above 0", self.max_error > 0),
            ("max_point_error", self.max_point_error, "above 0", self.max_point_error > 0),
            ("min_side", self.min_side, "0 or more", self.min_side >= 0),
            ("largest_kind", self.largest_kind, "above 0, up to 1", 0 < self.largest_kind <= 1),
            ("count", self.count, "1 or more, or None", self.count is None or self.count >= 1),
        ):
            if not right:
                raise ConfigError(f"{name} {value!r}; allowed: {allowed}")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A face of a teacher's result, and what became of it.

    Attributes:
        file: the picture as the result names it.
        face: its place in the picture, from 0.
        expected_error: mean over its points, as a share of the eye distance; NaN where the result has no spread.
        yaw, pitch: degrees; NaN where the layout does not tell.
        side: root of the landmark box's area, pixels.
        points: how many of its points have a label.
        reason: why it was left out; None for a face that was taken.
    """

    file: str
    face: int
    expected_error: float
    yaw: float
    pitch: float
    side: float
    points: int
    reason: str | None

    @property
    def kind(self) -> tuple[str, str, str]:
        """Its kind in words: yaw, pitch, side."""
        yaw = "unknown" if np.isnan(self.yaw) else _interval(abs(self.yaw), YAWS)
        pitch = "unknown" if np.isnan(self.pitch) else _interval(self.pitch, PITCHES)
        return yaw, pitch, _interval(self.side, SIDES)


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What ``label`` made of a result.

    Attributes:
        folder: the set.
        layout: of its labels.
        models: the teachers' names.
        candidates: every face of the result, in its order.
        pictures: how many pictures the result has.
    """

    folder: Path
    layout: Layout
    models: tuple[str, ...]
    candidates: Sequence[Candidate]
    pictures: int

    @property
    def taken(self) -> list[Candidate]:
        """The faces of the set."""
        return [candidate for candidate in self.candidates if candidate.reason is None]

    @property
    def reasons(self) -> dict[str, int]:
        """Why faces were left out, and how many; the most frequent reason first."""
        counts = Counter(candidate.reason for candidate in self.candidates if candidate.reason is not None)
        return dict(counts.most_common())

    @property
    def kinds(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """By kind of face: how many were good enough, and how many of them were taken."""
        good = [candidate for candidate in self.candidates if candidate.reason in (None, BALANCED)]
        counts, taken = Counter(face.kind for face in good), Counter(face.kind for face in self.taken)
        return {kind: (count, taken[kind]) for kind, count in counts.most_common()}

    def summary(self) -> str:
        """What was taken and why the rest was not, as lines of text."""
        taken = self.taken
        lines = [f"{len(taken)} of {len(self.candidates)} faces in {self.pictures} pictures, by {listed(self.models)}"]
        lines += [f"left out, {count}: {reason}" for reason, count in self.reasons.items()]
        if taken:
            errors = np.array([face.expected_error for face in taken])
            labelled = sum(face.points for face in taken)
            lines.append(
                f"expected error of the set: mean {errors.mean():.2%} of the eye distance, most {errors.max():.2%}"
            )
            lines.append(f"points with a label: {labelled / (len(taken) * self.layout.count):.1%}")
        lines.append("yaw to either side, pitch (degrees), side (pixels): good enough, taken")
        lines += [f"  {' | '.join(kind)}: {good}, {count}" for kind, (good, count) in self.kinds.items()]
        return "\n".join(lines) + "\n"


BALANCED = "enough faces of this pose and size"
"""The reason of faces that were good enough."""


def label(
    records: Iterable[Record],
    folder: Path,
    selection: Selection | None = None,
    *,
    pictures: Path | None = None,
) -> PseudoLabels:
    """Write a set to train on from a teacher's result: ``labels.json`` (COCO keypoints) and what was left out, and why.

    A recipe reads the folder with ``format = "coco"``. Pictures are named by their absolute paths and not copied.

    Args:
        records: the pictures of the result, such as ``octamark.io.read_records`` gives.
        folder: is made; must not hold a set yet.
        selection: which faces are taken; ``Selection()`` by default.
        pictures: the folder that relative names of pictures begin in; the current one by default.

    Returns:
        What was taken, and of each other face why it was not.

    Raises:
        OutputError: a folder that holds something or cannot be written.
        DataError: no face can be taken (the message has the reasons); faces of several layouts.
        ConfigError: as ``Selection``.
    """
    selection = selection or Selection()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and is not an empty folder; name another")
    labelled = [_Labelled.of(record, selection, pictures or Path()) for record in records]
    layouts = {entry.faces.layout.name: entry.faces.layout for entry in labelled}
    if len(layouts) > 1:
        raise DataError(f"faces of the layouts {listed(sorted(layouts))}; a set has one: label them one by one")
    chosen = _balanced([candidate for entry in labelled for candidate in entry.candidates], selection)
    remaining = iter(chosen)
    labelled = [entry.with_candidates([next(remaining) for _ in entry.candidates]) for entry in labelled]
    models = tuple(sorted({entry.model for entry in labelled if entry.model}))
    layout = next(iter(layouts.values()), None)
    result = None if layout is None else PseudoLabels(folder, layout, models, chosen, len(labelled))
    if result is None or not result.taken:
        reasons = {} if result is None else result.reasons
        told = listed(f"{reason} ({count})" for reason, count in reasons.items())
        raise DataError(f"no face to label: {told or 'the result holds no faces'}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made ({error.strerror})") from error
    write_atomically(folder / FACES, _rows(chosen).encode())
    write_atomically(folder / SUMMARY, result.summary().encode())
    write_atomically(folder / LABELS, _coco(labelled, result, selection).encode())
    return result


def expected_errors(faces: Faces) -> NDArray[np.float64]:
    """The expected error of each point (n, M), as a share of the eye distance; NaN where the spread is not known.

    It is the length of the vector of the expected errors along x and y. The eye distance is the layout's inter-ocular
    distance, but at least half the root of the landmark box's area, which stands in for it where a face is turned away
    and in layouts without eyes.
    """
    half_box = 0.5 * faces.layout.distance(faces.landmarks, "box")
    distance = np.fmax(faces.layout.reference_distance(faces.landmarks), half_box)
    lengths = np.linalg.norm(np.asarray(faces.spread, np.float64), axis=-1)
    return np.asarray(lengths / np.where(distance > 0, distance, np.nan)[:, None])


@dataclass(frozen=True, eq=False)
class _Labelled:
    """The faces of a picture, those points NaN that have no label."""

    path: Path
    model: str
    faces: Faces
    candidates: Sequence[Candidate] = field(default_factory=list)

    @classmethod
    def of(cls, record: Record, selection: Selection, root: Path) -> _Labelled:
        """The faces of a picture, and what speaks against each, but for the balance."""
        faces, path = record.faces, Path(record.file)
        errors = expected_errors(faces)
        mean_errors = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in errors])
        sides = faces.layout.distance(faces.landmarks, "box")
        certain = (errors <= selection.max_point_error) & np.isfinite(faces.landmarks).all(axis=-1)
        poses = _poses(faces)
        problem = None if not len(faces) else _problem(record, path if path.is_absolute() else root / path)
        candidates = []
        for index in range(len(faces)):
            reason = problem or _reason(mean_errors[index], sides[index], int(certain[index].sum()), selection)
            yaw, pitch = (float(value) for value in poses[index, :2])
            candidates.append(
                Candidate(
                    record.file, index, float(mean_errors[index]), yaw, pitch, float(sides[index]),
                    int(certain[index].sum()), reason,
                )
            )  # fmt: skip
        landmarks = np.where(certain[..., None], faces.landmarks, np.nan).astype(np.float32)
        absolute = (path if path.is_absolute() else root / path).absolute()
        return cls(absolute, record.model, replace(faces, landmarks=landmarks), candidates)

    def with_candidates(self, candidates: Sequence[Candidate]) -> _Labelled:
        return replace(self, candidates=candidates)

    def record(self) -> Record | None:
        """The faces that were taken; None without any."""
        taken = np.array([candidate.reason is None for candidate in self.candidates], bool)
        if not taken.any():
            return None
        return Record(self.path.as_posix(), self.path.stem, self.model, self.faces[taken])


def _problem(record: Record, path: Path) -> str | None:
    """Why no face of a picture can be taken, None if there is nothing against it."""
    if record.frame is not None:
        return "a frame of a video: write the frames as pictures first"
    if "://" in record.file:
        return "not a local file: copy the pictures first"
    if not path.is_file():
        return "the picture is not there: --pictures names the folder that its name begins in"
    return None


def _reason(error: float, side: float, points: int, selection: Selection) -> str | None:
    """Why a face cannot be taken, None if it is good enough."""
    if np.isnan(error):
        return "no expected errors in the result"
    if side < selection.min_side:
        return f"smaller than {selection.min_side:g} pixels"
    if error > selection.max_error:
        return f"expected error above {selection.max_error:.1%} of the eye distance"
    if points == 0:
        return f"no point of an expected error up to {selection.max_point_error:.1%}"
    return None


def _poses(faces: Faces) -> NDArray[np.float64]:
    """Yaw, pitch and roll (n, 3), degrees; NaN for layouts that do not tell."""
    try:
        return faces.pose()
    except LayoutError:
        return np.full((len(faces), 3), np.nan)


def _balanced(candidates: Sequence[Candidate], selection: Selection) -> list[Candidate]:
    """The candidates, with a reason for those of which their kind has too many."""
    good: dict[tuple[str, str, str], list[int]] = {}
    for index, candidate in enumerate(candidates):
        if candidate.reason is None:
            good.setdefault(candidate.kind, []).append(index)
    limit = largest_count([len(members) for members in good.values()], selection.largest_kind, selection.count)
    left_out: set[int] = set()
    for members in good.values():
        drawn = sorted(members, key=lambda index: _lot(candidates[index], selection.seed))
        left_out.update(drawn[limit:])
    return [
        replace(candidate, reason=BALANCED) if index in left_out else candidate
        for index, candidate in enumerate(candidates)
    ]


def largest_count(counts: Sequence[int], share: float, total: int | None = None) -> int:
    """How many faces of each kind are taken at most.

    Args:
        counts: how many good ones there are of each kind.
        share: of all good ones that one kind may give, above 0, up to 1.
        total: at most as many are taken of all kinds together, but at least one of each; None for any number.
    """
    limit = max(1, int(share * sum(counts)))
    while total is not None and limit > 1 and sum(min(count, limit) for count in counts) > total:
        limit -= 1
    return limit


def _lot(candidate: Candidate, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{candidate.file}/{candidate.face}".encode()).hexdigest()


def _interval(value: float, ends: Sequence[float]) -> str:
    """The interval between two ends that holds a value: ``under 15``, ``15 to 30``, ``60 or more``."""
    place = int(np.searchsorted(ends, value, side="right"))
    if place == 0:
        return f"under {ends[0]:g}"
    return f"{ends[-1]:g} or more" if place == len(ends) else f"{ends[place - 1]:g} to {ends[place]:g}"


def _rows(candidates: Iterable[Candidate]) -> str:
    """A table of the faces as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "face", "taken", "reason", "expected_error", "yaw", "pitch", "side", "points"])
    for face in candidates:
        measures = [f"{value:.{digits}f}" for value, digits in
                    ((face.expected_error, 4), (face.yaw, 1), (face.pitch, 1), (face.side, 1))]  # fmt: skip
        taken = "yes" if face.reason is None else "no"
        table.writerow([face.file, face.face, taken, face.reason or "", *measures, face.points])
    return text.getvalue()


def _coco(labelled: Iterable[_Labelled], result: PseudoLabels, selection: Selection) -> str:
    """The set in COCO's form; its ``info`` says where the labels come from."""
    settings = {name: getattr(selection, name) for name in selection.__dataclass_fields__}
    info: Mapping[str, object] = {
        "description": f"points by {listed(result.models)}, not labelled by people",
        "models": list(result.models),
        "selection": settings,
    }
    taken: Iterator[Record] = (record for entry in labelled if (record := entry.record()) is not None)
    return json.dumps({**coco.content(taken, result.layout), "info": info}, allow_nan=False) + "\n"
