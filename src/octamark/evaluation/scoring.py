"""From labelled faces and a model, or a file of predictions, to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from octamark import metrics
from octamark.datasets import Sample
from octamark.datasets.samples import labels_of
from octamark.errors import ConfigError, DataError, LayoutError, listed
from octamark.evaluation.matching import matched
from octamark.evaluation.results import About, Result
from octamark.evaluation.robustness import Curves, measure
from octamark.evaluation.run import BOXES, Boxes, Predictions, View, predict, square_for
from octamark.inference.landmarker import Landmarker
from octamark.io import further_face, read_entries
from octamark.layouts import Layout, convert


@dataclass(frozen=True, eq=False)
class Truth:
    """Labelled faces: what set and split they are, and the layout of their points."""

    set: str
    split: str
    samples: Sequence[Sample]
    layout: Layout


@dataclass(frozen=True, eq=False)
class _Ground:
    """Where two layouts meet: the layout compared in, the faces in it, and how predictions come to it."""

    layout: Layout
    samples: Sequence[Sample]
    read: Callable[[Predictions], Predictions]
    approximate: bool = False


def score_model(
    truth: Truth,
    landmarker: Landmarker,
    boxes: Boxes,
    normaliser: str | None = None,
    *,
    jitter: bool = False,
    broken: Callable[[Sample, str], None] | None = None,
    advance: Callable[[str], None] = lambda task: None,
) -> tuple[Result, Curves | None]:
    """Run a model over labelled faces.

    Args:
        normaliser: a name; None is inter-ocular where the layout has it, or else the root of the landmark box's area.
        jitter: also measure moved and scaled boxes and rotated faces.
        broken: told of each picture that cannot be read, whose face is then left out; None raises instead.
        advance: called for each face with the name of the task, ``"faces"`` or ``"disturbed"``.

    Raises:
        PictureError, DataError, LayoutError: as reading, cropping and comparing raise them.
        ConfigError: unknown kind of boxes.
    """
    if boxes not in BOXES:
        raise ConfigError(f"boxes {boxes!r}; allowed: {listed(BOXES)}")
    ground = _ground(truth, landmarker.layout)
    chosen = _normaliser(normaliser, ground.layout)
    about = About(truth.set, truth.split, landmarker.card.name, BOXES[boxes], chosen, ground.layout, ground.approximate)
    Result(about, ground.samples, Predictions(np.empty((0, ground.layout.count, 2), np.float32))).check()
    square = square_for(boxes, landmarker.card.crop)
    lost: set[str] = set()

    def lose(sample: Sample, problem: str) -> None:
        lost.add(sample.name)
        assert broken is not None
        broken(sample, problem)

    seen = predict(
        landmarker, ground.samples, {"": View(square)}, broken=None if broken is None else lose,
        advance=lambda: advance("faces"),
    )[""]  # fmt: skip
    kept = [sample for sample in ground.samples if sample.name not in lost]
    if not kept:
        raise DataError(f"{truth.set}: none of its {len(lost)} pictures can be read")
    seen = ground.read(seen.take(np.array([sample.name not in lost for sample in ground.samples])))
    refiner = landmarker.refiner  # whose calibration holds for what it refined
    result = Result(about, kept, seen, (refiner or landmarker).card.calibration)
    if not jitter:
        return result, None

    def error(disturbed: Predictions) -> float:
        errors = Result(about, kept, ground.read(disturbed)).nme
        return 100 * float(errors[np.isfinite(errors)].mean()) if np.isfinite(errors).any() else float("nan")

    return result, measure(landmarker, kept, square, error, advance=lambda: advance("disturbed"))


def read_truth(path: Path, layout: Layout) -> list[Sample]:
    """Labelled faces from a file in any format of :mod:`octamark.io`; the pictures need not be there.

    A face is called what the file calls its picture, further faces of a picture ``NAME#2``, ``NAME#3``, ...

    Raises:
        DataError: a file that cannot be read or is of another form, or holds no faces; a picture without a labelled
            face.
    """
    samples: list[Sample] = []
    for entry in read_entries(path, layout):
        if not entry.faces:
            raise DataError(f"{entry.where}: no face has labels")
        for number, face in enumerate(entry.faces, 1):
            if not np.isfinite(face.landmarks).any():
                raise DataError(f"{face.where}: no point has a label")
            landmarks, occluded = labels_of(face)
            name = further_face(entry.file, number)
            samples.append(Sample(name, path.parent / entry.file, landmarks, occluded, index=len(samples)))
    if not samples:
        raise DataError(f"{path}: holds no faces")
    return samples


def score_file(truth: Truth, path: Path, normaliser: str | None = None) -> tuple[Result, list[str]]:
    """Score a file of predictions; also returns the names in it that are of no picture of the truth.

    Raises:
        DataError, LayoutError: a file that cannot be read or fits no picture; an unknown normaliser.
    """
    chosen = _normaliser(normaliser, truth.layout)
    entries = read_entries(path, truth.layout, further_faces=False)
    if not entries:
        raise DataError(f"{path}: holds no predictions")
    predictions, stray = matched(truth.samples, entries, truth.layout.count, path)
    about = About(truth.set, truth.split, path.name, "boxes unknown", chosen, truth.layout)
    return Result(about, truth.samples, predictions), stray


def _normaliser(name: str | None, layout: Layout) -> str:
    if name is None:
        return metrics.usual_normaliser(layout)
    allowed = metrics.normaliser_names(layout)
    if name not in allowed:
        raise LayoutError(f"layout {layout.name} has no normaliser {name!r}; allowed: {listed(allowed)}")
    return name


def _ground(truth: Truth, found: Layout) -> _Ground:
    """The truth as it is, in the model's layout, or with the model's points in the truth's, whichever can be."""
    own = truth.layout
    if found.name == own.name:
        if found.count != own.count or dict(found.parts) != dict(own.parts):
            raise LayoutError(
                f"the model and the set have different layouts of the one name {own.name} ({found.count} and "
                f"{own.count} points); give yours another name"
            )
        return _Ground(own, truth.samples, lambda given: given)
    try:
        approximate = convert(own.diagram, own, found)[1]
    except LayoutError:
        approximate = convert(found.diagram, found, own)[1]
        return _Ground(own, truth.samples, lambda given: _converted(given, found, own), approximate)
    moved = [replace(one, landmarks=convert(one.landmarks, own, found)[0], occluded=None) for one in truth.samples]
    return _Ground(found, moved, lambda given: given, approximate)


def _converted(given: Predictions, from_layout: Layout, to_layout: Layout) -> Predictions:
    """Predictions with the points of another layout; spread and confidence go with their points."""
    pairs = [given.landmarks, given.spread]
    if given.confidence is not None:
        pairs.append(np.repeat(given.confidence[..., None], 2, axis=-1))
    moved = [None if one is None else convert(one, from_layout, to_layout)[0].astype(np.float32) for one in pairs]
    assert moved[0] is not None
    sure = moved[2][..., 0] if len(moved) > 2 and moved[2] is not None else None
    return Predictions(moved[0], moved[1], sure, given.scale)
