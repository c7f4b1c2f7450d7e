"""From a run to a weight file: fit the crop rule and the spread, score on validation, write the card, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from octamark._version import __version__
from octamark.datasets import FORMATS, Sample
from octamark.datasets.load import split_of, training_and_validation
from octamark.errors import listed
from octamark.evaluation.run import Spot, Square, View, detector_square, label_square, predict
from octamark.geometry import Picture
from octamark.inference.detector import FaceDetector
from octamark.inference.landmarker import Landmarker, shifted
from octamark.layouts import layout
from octamark.metrics import failure_rate, failures, nme, usual_normaliser
from octamark.models import ModelCard
from octamark.models.calibration import Calibration
from octamark.nets.network import OctaveNetwork
from octamark.nets.shape import ShapeCorrection
from octamark.release.calibration import (
    cross_fitted,
    detected_boxes,
    fit_calibration,
    fit_crop_rule,
    fit_offset,
)
from octamark.release.graph import recalibrated, to_onnx
from octamark.release.predictor import Predictor
from octamark.release.quantization import Storage
from octamark.release.shape_correction import fit_shape, found_shapes
from octamark.synthesis.caricature import Caricatures
from octamark.training import checkpoints
from octamark.training.data import FaceStore
from octamark.training.recipe import Recipe
from octamark.training.starting import trained_network

SHAPE_FACES = 2000
"""Training faces, at most, that the shape correction is fitted on."""

TERMS_300W = (
    "research use only, non-commercial: the terms of the training pictures (C. Sagonas et al., 300 Faces "
    "In-the-Wild; AFW, HELEN, LFPW likewise)"
)


@dataclass(frozen=True)
class Release:
    """A finished model: the ONNX file, its card, and the checkpoint behind it (see :func:`half_checkpoint`)."""

    onnx: bytes
    card: ModelCard
    checkpoint: bytes


def load_network(path: Path) -> tuple[OctaveNetwork, Recipe, dict[str, Any]]:
    """The averaged weights of a run's best epoch (a folder) or of a checkpoint, with recipe and metadata.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    file = path / "best.safetensors" if path.is_dir() else path
    network, config, meta = trained_network(file)
    if path.is_dir():
        meta["rows"] = checkpoints.load(path / "last.safetensors")[1]["rows"]  # the best epoch's file ends with it
    return network, config, meta


def learned_from(config: Recipe, faces: int, held_out: int) -> tuple[str, str]:
    """A card's ``training_data`` and ``terms``."""
    before = [name for name in (config.init, config.distillation and config.distillation.teacher) if name]
    terms = "those of the training pictures" + (f", and of {listed(before)}" if before else "")
    names = []
    for section in config.data:
        form = FORMATS.get(section.format)
        named = form is not None and form.layout is not None
        names.append(f"{form.title.partition(':')[0]} {split_of(section)}" if form and named else "own pictures")
    name = listed(names)
    learned = f"{name}, {faces} faces ({held_out} held out)" + (f"; started from {config.init}" if config.init else "")
    return learned, TERMS_300W if any(section.format == "300w" for section in config.data) else terms


def release(
    run: Path,
    data: Path | Mapping[str, Path] | None,
    *,
    storage: Storage = "int4",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Release:
    """Finish a run.

    The crop rule's map from detector boxes and the shape correction are fitted on training faces; the calibration on
    validation faces; the scores are those of the exported file in ONNX Runtime on the validation faces.

    Raises:
        WeightsError, DataError: as the readers raise them.
    """
    network, config, meta = load_network(run)
    one = layout(config.layout)
    training, validation = training_and_validation(config.data, data, one, config.seed)
    checkpoints.check_held_out(meta, validation, run)
    size, margin = config.stages[-1].size, config.margin
    learned, terms = learned_from(config, len(training), len(validation))
    if "unlabelled" in meta:
        learned, terms = f"{learned}; without labels: {meta['unlabelled']}", f"{terms}; and those of the unlabelled"
    if config.distillation is not None:
        learned = f"{learned}; distilled from {config.distillation.teacher}"
    some = training[:: -(-len(training) // SHAPE_FACES)]
    steps = len(training) + len(some) + 2 * len(validation)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        advance(done, steps)

    detector = FaceDetector()
    rule = fit_crop_rule(training, detected_boxes(training, detector, tick), size=size, margin=margin)
    shape = _shape_correction(network, config, some, tick)
    draft = ModelCard(
        name=config.name,
        layout=config.layout,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        width=network.config.width,
        crop=rule,
        calibration=Calibration.identity(one.count),
        normaliser=usual_normaliser(one),
        scores={},
        training_data=learned,
        terms=terms,
        recipe=config.model_dump(mode="json"),
        version=__version__,
    )

    def graph(shape: ShapeCorrection | None) -> bytes:
        return to_onnx(Predictor(network, config.loss.beta, one, draft.calibration, shape), draft, storage=storage)

    onnx, card = calibrate(graph(shape), validation, detector=detector, seed=config.seed, tick=tick)
    further = {"validation NME of the last epoch, %": meta["rows"][-1]["validation_nme"] * 100}
    if shape is not None:
        plain = _by_labels(Landmarker(graph(None), rotation="never", refine="never"), validation, tick)
        further["validation NME without the shape correction, %, label boxes"] = plain
    advance(steps, steps)
    final = card.model_copy(update={"scores": {**card.scores, **further}})
    return Release(recalibrated(onnx, final), final, half_checkpoint(network, meta, shape))


def _shape_correction(
    network: OctaveNetwork, config: Recipe, samples: Sequence[Sample], tick: Callable[[], None]
) -> ShapeCorrection | None:
    """The correction that suits what the network finds in these faces."""
    one, size = layout(config.layout), config.stages[-1].size
    faces, mirror = FaceStore.load(samples, size, config.margin), torch.from_numpy(one.mirror.copy())
    found, truth = found_shapes(
        network, faces, mirror, size=size, beta=config.loss.beta, seed=config.seed,
        caricatures=Caricatures.of(config.caricature, one, faces.landmarks), advance=tick,
    )  # fmt: skip
    back = fit_offset(truth[0].numpy(), found[0].numpy(), one)  # labels where a mirrored network can find them
    aim = torch.stack([torch.from_numpy(shifted(view.numpy(), back, one)) for view in truth])
    return fit_shape(found, aim, mirror)


def calibrate(
    graph: bytes,
    samples: Sequence[Sample],
    *,
    detector: FaceDetector | None = None,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> tuple[bytes, ModelCard]:
    """Fit a weight file's offset and calibration on labelled faces that it was not trained on, and score it there.

    Returns:
        The file with its new calibration and scores, and its card.

    Raises:
        DataError: too few faces; WeightsError: a graph that cannot be calibrated.
    """
    card = Landmarker(graph, rotation="never", refine="never").card
    identity = Calibration.identity(len(card.calibration.gain))
    plain = card.model_copy(update={"calibration": identity, "offset": (0.0, 0.0)})
    landmarker = Landmarker(recalibrated(graph, plain), rotation="never", refine="never")
    found = detector_square(card.crop, detector)
    views = {
        "labels": View(label_square(card.crop)),
        "detector": View(found),
        "moved": View(_shaken(found, seed)),
    }
    seen = predict(landmarker, samples, views, advance=tick)
    truth = np.stack([sample.landmarks for sample in samples])
    by_label = seen["labels"]
    assert by_label.spread is not None
    assert by_label.scale is not None
    one, unit = landmarker.layout, by_label.scale[:, None, None]
    offset = fit_offset(by_label.landmarks, truth, one)
    points = {name: shifted(view.landmarks, offset, one) for name, view in seen.items()}
    raw, off, mirror = by_label.spread / unit, (points["labels"] - truth) / unit, one.mirror
    fitted = fit_calibration(raw, off, mirror)
    distances = one.reference_distance(truth) / by_label.scale
    checks = cross_fitted(raw, off, distances, mirror)
    errors = {name: nme(found, truth, one) for name, found in points.items()}
    detected = errors["detector"][seen["detector"].found]
    scores = {
        f"validation NME, %, label boxes, {len(samples)} faces": float(errors["labels"].mean() * 100),
        "failures at 8 %, %, label boxes": failure_rate(errors["labels"]) * 100,
        f"validation NME, %, YuNet boxes, {len(detected)} faces found": _percent(detected),
        "failures at 8 %, %, YuNet boxes": _percent(failures(detected)),
        "validation NME, %, YuNet boxes moved and scaled by up to 10 %": _percent(errors["moved"]),
        **{f"{name} (cross-fitted)": value for name, value in checks.items()},
    }
    said = {name: value for name, value in scores.items() if np.isfinite(value)}  # no failures: no ranking of them
    scored = card.model_copy(update={"calibration": fitted, "offset": offset, "scores": said})
    return recalibrated(graph, scored), scored


def _by_labels(landmarker: Landmarker, samples: Sequence[Sample], tick: Callable[[], None]) -> float:
    """NME, %, of crops from labels, after the offset that suits these faces."""
    seen = predict(landmarker, samples, {"labels": View(label_square(landmarker.card.crop))}, advance=tick)["labels"]
    truth, one = np.stack([sample.landmarks for sample in samples]), landmarker.layout
    return float(nme(shifted(seen.landmarks, fit_offset(seen.landmarks, truth, one), one), truth, one).mean() * 100)


def _percent(errors: NDArray[np.float64]) -> float:
    """The mean of what is known, NaN for nothing."""
    known = errors[np.isfinite(errors)]
    return float(known.mean() * 100) if len(known) else np.nan


def _shaken(square: Square, seed: int, share: float = 0.1) -> Square:
    """A square with centre and side changed by up to ``share`` of the side, each of the three numbers uniformly."""
    rng = np.random.default_rng(seed)

    def moved(sample: Sample, picture: Picture) -> Spot | None:
        change = rng.uniform(-share, share, 3)
        found = square(sample, picture)
        if found is None:
            return None
        x, y, side = found.square
        return Spot(np.array([x + change[0] * side, y + change[1] * side, side * (1 + change[2])]), found.centre)

    return moved


def half_checkpoint(network: nn.Module, meta: dict[str, Any], shape: ShapeCorrection | None = None) -> bytes:
    """The averaged weights as float16 with recipe and log, and the shape correction, for fine-tuning and for reading
    again what was exported.

    The names of the faces that it has learned from stay with the run: this file is for sharing.
    """
    state = network.state_dict().items()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state}
    shared = {key: value for key, value in meta.items() if key != "learned_from"}
    return checkpoints.dump({"ema": halves, "shape": {} if shape is None else shape.state_dict()}, shared)
