"""From a training run to a model file: crop rule, shape correction, calibration, scores and card are measured here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from octamark._version import __version__
from octamark.datasets import FORMATS, Sample
from octamark.datasets.load import LabelledSet, labelled_sets, split_of
from octamark.errors import ConfigError, listed
from octamark.evaluation.crop_rule import detected_boxes, fit_crop_rule
from octamark.evaluation.run import Placement, View, detector_crop, label_crop, predict
from octamark.geometry import Crop, Picture
from octamark.inference.detector import Detector, FaceDetector
from octamark.inference.landmarker import Landmarker, shifted
from octamark.inference.session import session
from octamark.layouts import Layout, layout
from octamark.metrics import failures, nme, usual_normaliser
from octamark.models import Arithmetic, ModelCard, Source, merged, terms_of
from octamark.models.calibration import Calibration
from octamark.nets.network import OctaveNetwork
from octamark.nets.shape import ShapeCorrection
from octamark.release.calibration import cross_fitted, fit_calibration, fit_offset, set_weights
from octamark.release.graph import depends_on_unusual, recalibrated, to_onnx
from octamark.release.night import NightSample
from octamark.release.predictor import Predictor
from octamark.release.progress import step_counter
from octamark.release.quantization import INT8_STORAGES, Storage
from octamark.release.shape_correction import LEAST_FACES, fit_shape, predicted_shapes
from octamark.release.visibility import (
    READING,
    UNFITTED,
    cross_fitted_visibility,
    fit_visibility,
    logits_of,
    visibility_figures,
)
from octamark.synthesis.caricature import Caricatures
from octamark.training import checkpoints
from octamark.training.augmentation import augment
from octamark.training.convention import aligned_sets
from octamark.training.data import FaceStore
from octamark.training.provenance import check_claim, sources_of
from octamark.training.recipe import Recipe
from octamark.training.starting import checkpoint_path, trained_network, trained_shape
from octamark.training.visibility import VisibilityRule, visible_in

SHAPE_FACES = 2000
"""Largest number of training faces that the shape correction is fitted on."""

CROP_FACES = 2000
"""Largest number of training faces of a set that the map from detector boxes to crops is fitted on."""

ArithmeticChoice = Arithmetic | Literal["auto"]

RANGE_FACES = 128
"""Training faces whose crops tell the range of every map, for int8 arithmetic."""

INT8_COST = 0.02
"""Points of NME on the validation faces, in percent of the normaliser, that int8 arithmetic may cost."""


@dataclass(frozen=True)
class Release:
    """A finished model.

    Attributes:
        onnx: bytes of the model file; card: the one inside it.
        checkpoint: bytes of the checkpoint behind it, see ``half_checkpoint``.
    """

    onnx: bytes
    card: ModelCard
    checkpoint: bytes


def load_network(path: Path) -> tuple[OctaveNetwork, Recipe, dict[str, Any]]:
    """The averaged weights of a run's best epoch (a folder) or of a checkpoint, with recipe and metadata.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    file = path / "best.safetensors" if path.is_dir() else path
    network, recipe, meta = trained_network(file)
    if path.is_dir():
        meta["rows"] = checkpoints.load(path / "last.safetensors")[1]["rows"]  # the best epoch's file ends with it
    return network, recipe, meta


def fitted_shapes(run: Path, recipe: Recipe) -> tuple[ShapeCorrection | None, ShapeCorrection | None]:
    """The shape correction that moves points, and the one that only tells how unusual a face is; None: unknown."""
    path = run
    if run.is_dir():
        if recipe.init is None or any(stage.learns == "all" for stage in recipe.stages):
            return None, None
        path = checkpoint_path(recipe.init)
    return trained_shape(path), trained_shape(path, "shift")


def learned_from(recipe: Recipe, meta: Mapping[str, Any], faces: int, held_out: int) -> str:
    """A card's ``training_data``, of a recipe, its checkpoint's metadata and its numbers of faces."""
    sets = []
    for section in recipe.data:
        form = FORMATS.get(section.format)
        named = form is not None and form.layout is not None
        sets.append(
            f"{form.title.partition(':')[0]} {split_of(section)}" if form and named else section.name or "own pictures"
        )
    parts = [f"{listed(sets)}, {faces} faces ({held_out} held out)"]
    if recipe.init:
        parts.append(f"started from {recipe.init}")
    if "unlabelled" in meta:
        parts.append(f"without labels: {meta['unlabelled']}")
    if recipe.distillation is not None:
        parts.append(f"distilled from {recipe.distillation.teacher}")
    return "; ".join(parts)


def checked_sources(
    run: Path, recipe: Recipe, meta: Mapping[str, Any], further: Sequence[Source] = ()
) -> tuple[Source, ...]:
    """All that a run learned from: what its checkpoint recorded, and what its recipe and the checkpoints in it say.

    Args:
        run: its folder or checkpoint.
        further: what the export adds, such as the global model of a regional network.

    Raises:
        ConfigError: the recipe claims commercial use, which some of them do not allow.
        WeightsError: a list of sources that cannot be read.
    """
    file = run / "best.safetensors" if run.is_dir() else run
    recorded = checkpoints.sources(meta, file)
    sources = merged([*sources_of(recipe, recorded, seen=frozenset({file.resolve()})), *further])
    check_claim(recipe, sources, str(run))
    return sources


def release(
    run: Path,
    data: Path | Mapping[str, Path] | None,
    *,
    storage: Storage = "int4",
    arithmetic: ArithmeticChoice = "auto",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Release:
    """The model file of a run.

    The map from detector boxes to crops and the shape correction are fitted on training faces (of a run whose training
    faces are all stored crops, the map on validation faces and no shape correction), the latter on those of the first
    set that labels all points; the offset on validation faces of the first set that holds some out; the calibrations on
    those of all sets, each of the same weight, and of a recipe that learns from pictures taken at night
    (``augment.sensor``) also on the first set's at night. Where several sets hold out faces, the shape correction moves
    no points if it raises their errors on average; how far it would move them still tells how unusual a face is. The
    scores are those of the exported file in ONNX Runtime on these faces.

    Args:
        run: folder of the run, or a checkpoint. A checkpoint that holds a shape correction keeps it; so does a run that
            learned visibility alone, of the checkpoint that it started from.
        data: folder of the labelled faces, or of each set of the recipe by name; see
            ``octamark.datasets.load.labelled_sets``.
        storage: precision of the stored weights, see ``octamark.release.quantization.STORAGES``.
        arithmetic: of the convolutions; ``"auto"`` takes int8 where it is faster on this machine and costs at most
            ``INT8_COST`` points of NME on the validation faces.
        advance: called with the number of finished steps and of all steps.

    Raises:
        ConfigError: int8 arithmetic of weights that are stored as floats; a recipe that claims commercial use, which
            something in its chain does not allow (``checked_sources``).
        WeightsError, DataError: as the readers raise them.
    """
    check_arithmetic(arithmetic, storage)
    network, recipe, meta = load_network(run)
    sources, points = checked_sources(run, recipe, meta), layout(recipe.layout)
    sets = aligned_sets(labelled_sets(recipe.data, data, points, recipe.seed, recipe.normaliser), recipe, points)
    training = [face for entry in sets for face in entry.training]
    held_out = held_out_sets(sets, points)
    validation = [face for part in held_out for face in part.samples]
    night = [at_night(held_out[0])] if recipe.augment.sensor else []
    checkpoints.check_held_out(meta, validation, run)
    kept_shape, shift = fitted_shapes(run, recipe)
    shape_faces = [] if kept_shape is not None or shift is not None else complete_faces(sets)
    crop_faces = [face for entry in sets for face in evenly(entry.training, CROP_FACES)] or validation
    readings = (6 if arithmetic == "auto" else 4) + (2 if shape_faces and len(held_out) > 1 else 0)
    steps = len(crop_faces) + len(shape_faces) + readings * len(validation)
    steps += 3 * sum(len(part.samples) for part in night)
    tick = step_counter(advance, steps)
    detector = FaceDetector()
    boxes = detected_boxes(crop_faces, detector, tick)
    labels = [sample.landmarks for sample in crop_faces]
    rule = fit_crop_rule(labels, boxes, size=recipe.stages[-1].size, margin=recipe.margin)
    shape = kept_shape or _shape_correction(network, recipe, points, shape_faces, tick)
    draft = ModelCard(
        name=recipe.name,
        layout=points.name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        width=network.config.width,
        crop=rule,
        calibration=Calibration.identity(points.count),
        visibility=UNFITTED if network.config.visibility else None,
        normaliser=recipe.normaliser or usual_normaliser(points),
        scores={},
        training_data=learned_from(recipe, meta, len(training), len(validation)),
        terms=terms_of(sources),
        recipe=recipe.model_dump(mode="json"),
        version=__version__,
        sources=sources,
    )

    def graph(shape: ShapeCorrection | None, arithmetic: Arithmetic) -> bytes:
        predictor = Predictor(network, recipe.loss.beta, points, draft.calibration, shape, arithmetic, shift=shift)
        return to_onnx(predictor, draft, storage=storage, crops=crops if arithmetic == "int8" else None)

    def error(graph: bytes, of: Sequence[HeldOut] = held_out) -> float:
        return _nme_in_label_boxes(Landmarker(graph, rotation="never", refine="never"), of, tick)

    crops = None if arithmetic == "float32" else augmented_crops(recipe, crop_faces)
    if shape is not None and kept_shape is None and len(held_out) > 1:
        without, corrected = (error(graph(choice, "float32")) for choice in (None, shape))
        if corrected >= without:  # fitted on faces with all labels alone, it may harm others
            shape, shift = None, shape
    exported = choose_arithmetic(arithmetic, storage, lambda kind: graph(shape, kind), error)
    onnx, card = calibrate(exported, [*held_out, *night], detector=detector, seed=recipe.seed, tick=tick)
    further = {"validation NME of the last epoch, %": meta["rows"][-1]["validation_nme"] * 100}
    if shape is not None:
        further["validation NME without the shape correction, %, label boxes"] = error(
            graph(None, card.arithmetic), held_out[:1]
        )
    advance(steps, steps)
    rounded = {name: round(value, 4) for name, value in further.items()}
    final = card.model_copy(update={"scores": {**card.scores, **rounded}})
    return Release(recalibrated(onnx, final), final, half_checkpoint(network, meta, sources, shape, shift))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out faces of one set.

    Attributes:
        name: of the set.
        samples: its faces, at least one; points without a label (NaN) are left out of all that is fitted.
        visible: (n, M) 1 for a point that can be seen, 0 for a hidden one, NaN where it is unknown; None if it is
            unknown of all.
        aligned: whether the labels were moved to where the network finds the points (octamark.training.convention):
            the card's offset is then added to them too.
    """

    name: str
    samples: Sequence[Sample]
    visible: NDArray[np.float32] | None = None
    aligned: bool = False


def held_out_sets(sets: Sequence[LabelledSet], points: Layout) -> list[HeldOut]:
    """The sets of a recipe that hold out faces, in its order."""
    return [
        HeldOut(
            entry.name,
            entry.validation,
            visible_in(entry.validation, VisibilityRule(entry.section.visibility, points.mirror)),
            entry.section.convention is not None,
        )
        for entry in sets
        if entry.validation
    ]


def numbers_of(sets: Sequence[HeldOut]) -> NDArray[np.int64]:
    """The number of the set of each face, of all sets' faces behind each other."""
    return np.repeat(np.arange(len(sets)), [len(part.samples) for part in sets])


def labels_of(sets: Sequence[HeldOut], offset: tuple[float, float], points: Layout) -> NDArray[np.floating]:
    """The labels (n, M, 2) of all sets' faces behind each other, those that were aligned with the card's offset."""
    parts = [np.stack([sample.landmarks for sample in part.samples]) for part in sets]
    return np.concatenate(
        [shifted(labels, offset, points) if part.aligned else labels for part, labels in zip(sets, parts, strict=True)]
    )


def at_night(part: HeldOut) -> HeldOut:
    """The same faces, seen by a small sensor in little light; nothing is known of what can be seen in them."""
    return HeldOut(f"{part.name} at night", [NightSample.of(face) for face in part.samples], aligned=part.aligned)


def complete_faces(sets: Sequence[LabelledSet]) -> list[Sample]:
    """Training faces all of whose points are labelled, of the first set that has some; ``SHAPE_FACES`` at most."""
    complete = ([face for face in entry.training if np.isfinite(face.landmarks).all()] for entry in sets)
    return evenly(next((faces for faces in complete if faces), []), SHAPE_FACES)


def evenly(faces: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many faces, evenly spaced."""
    return list(faces[:: max(1, -(-len(faces) // most))])


def augmented_crops(recipe: Recipe, samples: Sequence[Sample], count: int = RANGE_FACES) -> NDArray[np.uint8]:
    """The network's crops (n, size, size, 3) of up to ``count`` of these faces, augmented as the recipe does."""
    points, size = layout(recipe.layout), recipe.stages[-1].size
    faces = FaceStore.load(samples[:: max(1, len(samples) // count)][:count], size, recipe.margin)
    pictures, _, _ = augment(
        faces.pictures[:], faces.landmarks, config=recipe.augment, mirror=torch.from_numpy(points.mirror.copy()),
        size=size, generator=torch.Generator().manual_seed(recipe.seed),
        caricatures=Caricatures.of(recipe.caricature, points, faces.landmarks),
    )  # fmt: skip
    crops: NDArray[np.uint8] = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return crops


def choose_arithmetic(
    arithmetic: ArithmeticChoice,
    storage: Storage,
    graph: Callable[[Arithmetic], bytes],
    error: Callable[[bytes], float],
) -> bytes:
    """The model file of an arithmetic; for ``"auto"`` int8 where it is faster and costs at most ``INT8_COST``.

    Args:
        graph: the model file of each arithmetic.
        error: NME of a model file, in percent.

    Raises:
        ConfigError: int8 arithmetic of a network that cannot have it.
    """
    if arithmetic != "auto":
        return graph(arithmetic)
    exact = graph("float32")
    if storage not in INT8_STORAGES:
        return exact
    try:
        integer = graph("int8")
    except ConfigError:
        return exact
    return integer if is_faster(integer, exact) and error(integer) - error(exact) <= INT8_COST else exact


def is_faster(first: bytes, second: bytes, turns: int = 20) -> bool:
    """Whether one crop takes the first model file less time than the second, on one thread of this machine."""
    sessions = [session(data, "a model file", 1, "cpu") for data in (first, second)]
    shape = sessions[0].get_inputs()[0].shape
    crop = np.random.default_rng(0).integers(0, 256, (1, *shape[1:]), dtype=np.uint8)
    least = [math.inf, math.inf]
    for _ in range(turns):
        for index, network in enumerate(sessions):
            for _ in range(2):  # the first call of a turn has cold caches
                start = time.perf_counter()
                network.run(None, {"crops": crop})
                least[index] = min(least[index], time.perf_counter() - start)
    return least[0] < least[1]


def check_arithmetic(arithmetic: str, storage: str) -> ArithmeticChoice:
    """The arithmetic that an export is to have.

    Raises:
        ConfigError: an unknown one, or int8 arithmetic of weights that are stored as floats.
    """
    allowed: tuple[ArithmeticChoice, ...] = ("auto", "int8", "float32")
    if arithmetic not in allowed:
        raise ConfigError(f"arithmetic {arithmetic!r}; allowed: {listed(allowed)}")
    if arithmetic == "int8" and storage not in INT8_STORAGES:
        raise ConfigError(f"storage {storage!r} with arithmetic 'int8'; allowed: {listed(INT8_STORAGES)}")
    return arithmetic


def _shape_correction(
    network: OctaveNetwork, recipe: Recipe, points: Layout, samples: Sequence[Sample], tick: Callable[[], None]
) -> ShapeCorrection | None:
    """The correction for the shapes that the network finds in these faces, all of whose points are labelled."""
    if len(samples) < LEAST_FACES:
        for _ in samples:
            tick()
        return None
    size, mirror = recipe.stages[-1].size, torch.from_numpy(points.mirror.copy())
    faces = FaceStore.load(samples, size, recipe.margin)
    shapes, labels = predicted_shapes(
        network, faces, mirror, size=size, beta=recipe.loss.beta, seed=recipe.seed,
        caricatures=Caricatures.of(recipe.caricature, points, faces.landmarks), advance=tick,
    )  # fmt: skip
    back = fit_offset(labels[0].numpy(), shapes[0].numpy(), points)  # labels where a mirrored network can find them
    target = torch.stack([torch.from_numpy(shifted(view.numpy(), back, points)) for view in labels])
    return fit_shape(shapes, target, mirror)


def calibrate(
    graph: bytes,
    sets: Sequence[HeldOut],
    *,
    detector: Detector | None = None,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> tuple[bytes, ModelCard]:
    """A model file with offset, calibration and scores measured on labelled faces that it was not trained on.

    Args:
        graph: bytes of the model file.
        sets: the labelled faces. The offset is that of the first set, whose labels the network learned to find; the
            calibrations are fitted to all sets. Scores of the others begin with their names.
        detector: finds the faces; ``octamark.FaceDetector`` by default.
        seed: of the random movements of boxes.
        tick: called after each face.

    Returns:
        The file with its new calibration and scores, and its card. With few labelled points the calibration is global,
        see ``octamark.release.calibration.fit_calibration``.

    Raises:
        DataError: no labelled point; WeightsError: a graph that cannot be calibrated.
    """
    card = Landmarker(graph, rotation="never", refine="never").card
    identity = Calibration.identity(len(card.calibration.gain))
    reading = None if card.visibility is None else READING
    plain = card.model_copy(update={"calibration": identity, "offset": (0.0, 0.0), "visibility": reading})
    landmarker = Landmarker(recalibrated(graph, plain), rotation="never", refine="never")
    from_detector = detector_crop(card.crop, detector)
    views = {
        "labels": View(label_crop(card.crop)),
        "detector": View(from_detector),
        "moved": View(_moved_randomly(from_detector, card.crop.size, seed)),
    }
    samples, set_of = [sample for part in sets for sample in part.samples], numbers_of(sets)
    predictions = predict(landmarker, samples, views, advance=tick)
    unusual = _unusual(graph, plain, samples, tick) if depends_on_unusual(graph) else None
    in_labels = predictions["labels"]
    assert in_labels.spread is not None
    assert in_labels.scale is not None
    points, unit = landmarker.layout, in_labels.scale[:, None, None]
    first = set_of == 0
    labels = np.stack([sample.landmarks for sample in sets[0].samples])
    offset = fit_offset(in_labels.landmarks[first], labels, points)
    truth = labels_of(sets, offset, points)
    moved = {name: shifted(view.landmarks, offset, points) for name, view in predictions.items()}
    raw, signed_errors, mirror = in_labels.spread / unit, (moved["labels"] - truth) / unit, points.mirror
    weights = set_weights(signed_errors, set_of)
    fitted = fit_calibration(raw, signed_errors, mirror, unusual=unusual, weights=weights)
    eyes = points.reference_distance(truth) / in_labels.scale
    checks = [
        {f"{name} (cross-fitted)": value for name, value in figures.items()}
        for figures in cross_fitted(raw, signed_errors, eyes, mirror, unusual, set_of)
    ]
    scores = dict[str, float]()
    errors = {name: nme(landmarks, truth, points, card.normaliser) for name, landmarks in moved.items()}
    for number, part in enumerate(sets):
        chosen = set_of == number
        found = predictions["detector"].found[chosen]
        figures = _scores({name: values[chosen] for name, values in errors.items()}, found) | checks[number]
        scores |= figures if number == 0 else {f"{part.name}: {name}": value for name, value in figures.items()}
    visibility = None
    if in_labels.visible is not None:
        visibility, further = _fit_visibility(in_labels.visible, sets)
        scores |= further
    finite = {name: round(value, 4) for name, value in scores.items() if np.isfinite(value)}  # no failures: no ranking
    final = card.model_copy(
        update={"calibration": fitted, "offset": offset, "visibility": visibility, "scores": finite}
    )
    return recalibrated(graph, final), final


def _unusual(
    graph: bytes, plain: ModelCard, samples: Sequence[Sample], tick: Callable[[], None]
) -> NDArray[np.float64]:
    """Shift and contrast of each face (n, 2) in crops from labels, as the graph computes them: its spreads are read
    with a calibration that gives one of them.
    """
    columns = []
    for name in ("shift", "contrast"):
        alone = plain.calibration.model_copy(update={"own": 0.0, "face": 0.0, name: 1.0})
        card = plain.model_copy(update={"calibration": alone})
        landmarker = Landmarker(recalibrated(graph, card), rotation="never", refine="never")
        found = predict(landmarker, samples, {"labels": View(label_crop(card.crop))}, advance=tick)["labels"]
        assert found.spread is not None
        assert found.scale is not None
        columns.append(found.spread[:, 0, 0] / found.scale)
    return np.stack(columns, axis=1).astype(np.float64)


def _scores(errors: Mapping[str, NDArray[np.float64]], found: NDArray[np.bool_]) -> dict[str, float]:
    """The scores of a set by their names in a card.

    Args:
        errors: NME (n,) in each view, NaN for a face that cannot be normalised.
        found: (n,) whether the detector found the face.
    """
    scored = np.isfinite(errors["labels"])
    labels, detected = errors["labels"][scored], errors["detector"][scored & found]
    return {
        f"validation NME, %, label boxes, {len(labels)} faces": _percent(labels),
        "failures at 8 %, %, label boxes": _percent(failures(labels)),
        f"validation NME, %, YuNet boxes, {len(detected)} faces found": _percent(detected),
        "failures at 8 %, %, YuNet boxes": _percent(failures(detected)),
        "validation NME, %, YuNet boxes moved and scaled by up to 10 %": _percent(errors["moved"][scored]),
    }


def _fit_visibility(
    visible: NDArray[np.floating], sets: Sequence[HeldOut]
) -> tuple[tuple[float, float], dict[str, float]]:
    """Slope and intercept of the visibility, and how well it agrees with the labels of each set that has some.

    Every set has the same weight.

    Args:
        visible: (n, M) of all faces, read with ``READING``.
    """
    seen = np.concatenate(
        [
            np.full((len(part.samples), visible.shape[1]), np.nan) if part.visible is None else part.visible
            for part in sets
        ]
    )
    set_of = np.repeat(np.arange(len(sets)), [len(part.samples) for part in sets])
    known = np.array([np.isfinite(seen[set_of == number]).sum() for number in range(len(sets))])
    weights = np.broadcast_to((1 / np.maximum(known, 1))[set_of, None], seen.shape)
    logits = logits_of(visible)
    stated = cross_fitted_visibility(logits, seen, weights)
    figures = {
        f"{part.name}: {name} (cross-fitted)" if len(sets) > 1 else f"{name} (cross-fitted)": value
        for number, part in enumerate(sets)
        for name, value in visibility_figures(stated[set_of == number], seen[set_of == number]).items()
    }
    return fit_visibility(logits, seen, weights), figures


def _nme_in_label_boxes(landmarker: Landmarker, sets: Sequence[HeldOut], tick: Callable[[], None]) -> float:
    """NME in percent, in crops from labels, of each set after an offset that was fitted on it.

    Of several sets it is the geometric mean: one with large errors counts no more than another.
    """
    views = {"labels": View(label_crop(landmarker.card.crop))}
    points, means = landmarker.layout, []
    for part in sets:
        landmarks = predict(landmarker, part.samples, views, advance=tick)["labels"].landmarks
        truth = np.stack([sample.landmarks for sample in part.samples])
        moved = shifted(landmarks, fit_offset(landmarks, truth, points), points)
        means.append(_percent(nme(moved, truth, points, landmarker.card.normaliser)))
    return float(np.exp(np.nanmean(np.log(means))))


def _percent(errors: NDArray[np.float64]) -> float:
    """The mean of the known values (n,), in percent; NaN without any."""
    known = errors[np.isfinite(errors)]
    return float(known.mean() * 100) if len(known) else np.nan


def _moved_randomly(placement: Placement, size: int, seed: int, share: float = 0.1) -> Placement:
    """A placement whose middle and side change by up to ``share`` of the side, each of the three numbers uniformly."""
    rng = np.random.default_rng(seed)

    def moved(sample: Sample, picture: Picture) -> Crop | None:
        x, y, growth = rng.uniform(-share, share, 3)
        crop = placement(sample, picture)
        return None if crop is None else replace(crop.moved(size, (x, y), 1 + growth), centre=crop.centre)

    return moved


def half_checkpoint(
    network: nn.Module,
    meta: dict[str, Any],
    sources: Sequence[Source],
    shape: ShapeCorrection | None = None,
    shift: ShapeCorrection | None = None,
) -> bytes:
    """A checkpoint of averaged weights as float16, with recipe, log, sources and shape correction.

    Args:
        shape: the correction that moves points; shift: one that moves none, see ``Predictor``.

    It is enough to fine-tune the network and to export it again. It is made for sharing: the names of the faces that
    the run has learned from are left out.
    """
    state = network.state_dict().items()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state}
    shared = {key: value for key, value in meta.items() if key != "learned_from"}
    shared["sources"] = [source.model_dump(mode="json") for source in sources]
    corrections = {"shape": shape, "shift": shift}
    groups = {name: {} if correction is None else correction.state_dict() for name, correction in corrections.items()}
    return checkpoints.dump({"ema": halves, **groups}, shared)
