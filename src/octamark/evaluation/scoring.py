"""A result from labelled faces and a model, or a file of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octamark import metrics, uncertainty
from octamark.datasets import Sample
from octamark.datasets.samples import labels_of
from octamark.errors import ConfigError, DataError, LayoutError, listed
from octamark.evaluation.matching import matched
from octamark.evaluation.results import About, Result
from octamark.evaluation.robustness import Curves, measure
from octamark.evaluation.run import BOXES, Boxes, Predictions, View, placement_for, predict
from octamark.inference.landmarker import Landmarker
from octamark.io import further_face, read_entries
from octamark.layouts import Layout, convert
from octamark.layouts.conversion import PointValues, convert_values


@dataclass(frozen=True, eq=False)
class Truth:
    """Labelled faces, the set and split they are from, and the layout of their points."""

    set: str
    split: str
    samples: Sequence[Sample]
    layout: Layout


@dataclass(frozen=True, eq=False)
class _Comparison:
    """How labels and predictions of different layouts are compared.

    Attributes:
        layout: the one in which they are compared.
        samples: the labelled faces in it.
        convert: predictions of the model -> the same in it.
        approximate: whether points were converted from places that differ a little.
    """

    layout: Layout
    samples: Sequence[Sample]
    convert: Callable[[Predictions], Predictions]
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
    """The result of a model on labelled faces, and its robustness curves (None without ``jitter``).

    Args:
        truth: the labelled faces.
        landmarker: the model.
        boxes: how faces are found, a key of ``octamark.evaluation.run.BOXES``.
        normaliser: a name; None is inter-ocular if the layout has it, otherwise the root of the landmark box's area.
        jitter: also measure moved and scaled boxes and rotated faces.
        broken: called with each sample whose picture cannot be read and the reason; the face is then left out. None
            raises the error.
        advance: called for each face with the name of the task, ``"faces"`` or ``"disturbed"``.

    Raises:
        PictureError, DataError, LayoutError: as reading, cropping and comparing raise them.
        ConfigError: unknown kind of boxes, or scipy is not installed.
    """
    if boxes not in BOXES:
        raise ConfigError(f"boxes {boxes!r}; allowed: {listed(BOXES)}")
    uncertainty.scipy_stats()  # fails before the work where scipy is missing
    comparison = _comparison(truth, landmarker.layout)
    chosen = _normaliser(normaliser, comparison.layout)
    about = About(
        truth.set, truth.split, landmarker.card.name, BOXES[boxes], chosen, comparison.layout, comparison.approximate
    )
    Result(about, comparison.samples, Predictions(np.empty((0, comparison.layout.count, 2), np.float32))).check()
    placement = placement_for(boxes, landmarker.card.crop)
    unreadable: set[str] = set()

    def leave_out(sample: Sample, problem: str) -> None:
        unreadable.add(sample.name)
        assert broken is not None
        broken(sample, problem)

    predictions = predict(
        landmarker, comparison.samples, {"": View(placement)}, broken=None if broken is None else leave_out,
        advance=lambda: advance("faces"),
    )[""]  # fmt: skip
    readable = [sample for sample in comparison.samples if sample.name not in unreadable]
    if not readable:
        raise DataError(f"{truth.set}: none of its {len(unreadable)} pictures can be read")
    predictions = comparison.convert(
        predictions.take(np.array([sample.name not in unreadable for sample in comparison.samples]))
    )
    refiner = landmarker.refiner  # refined landmarks have its calibration
    result = Result(about, readable, predictions, (refiner or landmarker).card.calibration)
    if not jitter:
        return result, None

    def error(disturbed: Predictions) -> float:
        errors = Result(about, readable, comparison.convert(disturbed)).nme
        return 100 * float(errors[np.isfinite(errors)].mean()) if np.isfinite(errors).any() else float("nan")

    return result, measure(landmarker, readable, placement, error, advance=lambda: advance("disturbed"))


def read_truth(path: Path, layout: Layout) -> list[Sample]:
    """Labelled faces from a file in any format of ``octamark.io``; the pictures need not be there.

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
    """The result of a file of predictions, and the names in it that belong to no labelled picture.

    Args:
        truth: the labelled faces.
        path: a file in any format of ``octamark.io``, or a folder of .pts files.
        normaliser: as for ``score_model``.

    Raises:
        DataError: a file that cannot be read, is of another layout or fits no picture.
        LayoutError: an unknown normaliser.
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


def _comparison(truth: Truth, model_layout: Layout) -> _Comparison:
    """The labels in the model's layout, or the model's points in the labels' layout, whichever conversion exists.

    Raises:
        LayoutError: neither exists, or the layouts differ although they have the same name.
    """
    label_layout = truth.layout
    if model_layout.name == label_layout.name:
        if model_layout.count != label_layout.count or dict(model_layout.parts) != dict(label_layout.parts):
            raise LayoutError(
                f"the model and the set have different layouts of the same name {label_layout.name} "
                f"({model_layout.count} and {label_layout.count} points); give yours another name"
            )
        return _Comparison(label_layout, truth.samples, lambda predictions: predictions)
    try:
        approximate = convert(label_layout.diagram, label_layout, model_layout)[1]
    except LayoutError:
        approximate = convert(model_layout.diagram, model_layout, label_layout)[1]
        return _Comparison(
            label_layout,
            truth.samples,
            lambda predictions: _converted(predictions, model_layout, label_layout),
            approximate,
        )
    samples = [sample.converted(label_layout, model_layout) for sample in truth.samples]
    return _Comparison(model_layout, samples, lambda predictions: predictions, approximate)


def _converted(predictions: Predictions, from_layout: Layout, to_layout: Layout) -> Predictions:
    """Predictions in another layout, with spread, confidence and ``visible``; NaN for points without a counterpart."""
    values = PointValues(predictions.landmarks, predictions.spread, predictions.confidence, predictions.visible)
    parts = (
        None if part is None else part.astype(np.float32) for part in convert_values(values, from_layout, to_layout)
    )
    landmarks, spread, confidence, visible = parts
    assert landmarks is not None
    return Predictions(landmarks, spread, confidence, predictions.scale, visible)
