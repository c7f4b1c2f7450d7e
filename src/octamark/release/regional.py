"""From a regional training run to a model file: fit fusion and calibration on validation faces, score, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octamark import models
from octamark._version import __version__
from octamark.datasets import Sample
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError, listed
from octamark.evaluation.run import Predictions, View, detector_crop, label_crop, predict
from octamark.evaluation.steadiness import nudge
from octamark.faces import Landmarks
from octamark.geometry import apply, crops, invert, landmark_boxes
from octamark.inference.landmarker import Landmarker, shifted
from octamark.inference.refiner import Refiner
from octamark.inference.regions import RegionTable, fuse, place
from octamark.layouts import Layout
from octamark.metrics import distances, failure_rate, nme, part_nme, usual_normaliser
from octamark.models import FACE_UNITS, Arithmetic, RegionCard, RegionRule, terms_of
from octamark.models.calibration import Calibration
from octamark.nets.regional import RegionalNetwork
from octamark.release.calibration import FOLDS, cross_fitted, fit_calibration, set_weights
from octamark.release.graph import regions_to_onnx, with_card
from octamark.release.model import (
    ArithmeticChoice,
    check_arithmetic,
    checked_sources,
    choose_arithmetic,
    half_checkpoint,
    held_out_sets,
    labels_of,
    learned_from,
    numbers_of,
)
from octamark.release.predictor import RegionalPredictor
from octamark.release.progress import step_counter
from octamark.release.quantization import Storage
from octamark.training import checkpoints
from octamark.training.convention import aligned_sets
from octamark.training.provenance import card_source
from octamark.training.recipe import Recipe
from octamark.training.regions import region_rule, trained_regional

F64 = NDArray[np.float64]

RANGE_FACES = 32
"""Training faces whose regions' crops tell the range of every map, for int8 arithmetic."""

STEADY = 0.2
"""Weight of the distance between two readings of a face, relative to the error, in the fit of the fusion."""


class RegionalRelease(NamedTuple):
    """A finished regional network: the bytes of the ONNX file, its card, and the bytes of a float16 checkpoint."""

    onnx: bytes
    card: RegionCard
    checkpoint: bytes


class FaceReadings(NamedTuple):
    """The readings of n faces by both networks, pixels of the pictures; NaN for a face that the detector did not find.

    Attributes:
        points, spread: (n, M, 2) of the global network.
        readings, reading_spread: (n, K, 2) of the regional one; a landmark in two regions is read twice.
        shares: (n, K) how much each reading counts, see ``Refiner.reading_shares``.
    """

    points: F64
    spread: F64
    readings: F64
    reading_spread: F64
    shares: F64

    def take(self, chosen: NDArray[np.bool_]) -> FaceReadings:
        """The readings of the faces that a mask (n,) selects."""
        return FaceReadings(*(part[chosen] for part in self))


class Fusion(NamedTuple):
    """Bias of each kind of region and sharpness; see octamark.inference.regions.fuse."""

    bias: F64
    sharpness: float

    def join(self, faces: FaceReadings, table: RegionTable) -> tuple[F64, F64]:
        """Fused points and spreads (n, M, 2)."""
        bias = self.bias[table.reading_kinds]
        joined: tuple[F64, F64] = fuse(
            *faces[:4], bias, self.sharpness, table.joining.astype(np.float64), shares=faces.shares
        )
        return joined


def load_regional(path: Path) -> tuple[RegionalNetwork, Recipe, dict[str, Any]]:
    """The averaged weights of a regional run's best epoch (a folder) or of a checkpoint, with recipe and metadata.

    Raises:
        WeightsError: missing or damaged checkpoint, or one of a network that is not regional.
    """
    regional, recipe, meta = trained_regional(path / "best.safetensors" if path.is_dir() else path)
    if path.is_dir():
        meta["rows"] = checkpoints.load(path / "last.safetensors")[1]["rows"]
    return regional, recipe, meta


def release_regions(
    run: Path,
    data: Path | Mapping[str, Path] | None,
    *,
    global_model: str | None = None,
    storage: Storage = "int4",
    arithmetic: ArithmeticChoice = "auto",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> RegionalRelease:
    """The model file of a regional run.

    Fusion and calibration are fitted on validation faces in crops from their labels, those of all sets, each of which
    has the same weight in the calibration; the fused scores are those of a fusion that was fitted on the other faces,
    in five folds. Scores of all sets but the first begin with the set's name.

    Args:
        run: folder of the run, or a checkpoint.
        data: see ``octamark.release.model.release``.
        global_model: the model for whole faces whose points place the crops, by name or path of the .onnx file; by
            default the recipe's, which must then be one that ships.
        storage: precision of the stored weights, see ``octamark.release.quantization.STORAGES``.
        arithmetic: see ``octamark.release.model.release``; the NME is that of the network's own readings.
        advance: called with the number of finished steps and of all steps.

    Raises:
        ConfigError: a global model that is not a model file; int8 arithmetic of weights that are stored as floats; a
            recipe that claims commercial use, which something in its chain does not allow.
        WeightsError, DataError: as the readers raise them.
    """
    check_arithmetic(arithmetic, storage)
    regional, recipe, meta = load_regional(run)
    assert recipe.regional is not None
    model = _model_file(global_model or recipe.regional.global_model)
    card = Landmarker(model, refine="never").card
    offset = card.offset
    without_offset = with_card(models.read(model), card.model_copy(update={"offset": (0.0, 0.0)}))
    landmarker = Landmarker(without_offset, refine="never")  # crops are placed by points before the offset
    points_layout, table = regional.table.layout, regional.table
    sources = checked_sources(run, recipe, meta, [card_source(card, "global model"), *card.sources])
    sets = labelled_sets(recipe.data, data, points_layout, recipe.seed, recipe.normaliser)
    sets = aligned_sets(sets, recipe, points_layout)
    training = [face for entry in sets for face in entry.training]
    held_out = held_out_sets(sets, points_layout)
    validation, set_of = [face for part in held_out for face in part.samples], numbers_of(held_out)
    checkpoints.check_held_out(meta, validation, run)
    draft = RegionCard(
        name=recipe.name,
        layout=points_layout.name,
        global_model=card.name,
        parameters=sum(parameter.numel() for parameter in regional.network.parameters()),
        width=regional.network.config.width,
        rule=region_rule(recipe),
        bias=(0.0,) * len(table.kinds),
        sharpness=1.0,
        calibration=Calibration.identity(points_layout.count),
        normaliser=usual_normaliser(points_layout),
        scores={},
        training_data=learned_from(recipe, meta, len(training), len(validation)),
        terms=terms_of(sources),
        recipe=recipe.model_dump(mode="json"),
        version=__version__,
        sources=sources,
    )
    in_label_boxes = {"labels": View(label_crop(card.crop))}
    range_faces = (training or validation)[:: max(1, len(training or validation) // RANGE_FACES)][:RANGE_FACES]
    tick = step_counter(advance, 4 * len(validation) + (0 if arithmetic == "float32" else len(range_faces)))
    range_crops = None
    if arithmetic != "float32":
        located = predict(landmarker, range_faces, in_label_boxes, advance=tick)["labels"]
        range_crops = region_crops(range_faces, located, table, draft.rule)

    def graph(arithmetic: Arithmetic) -> bytes:
        return regions_to_onnx(RegionalPredictor(regional, arithmetic), draft, storage=storage, crops=range_crops)

    views = {**in_label_boxes, "detector": View(detector_crop(card.crop))}
    predictions = predict(landmarker, validation, views, advance=tick)
    truth = labels_of(held_out, offset, points_layout).astype(np.float64)
    size = _size(truth, points_layout)

    def error(graph: bytes) -> float:
        readings = _read(Refiner(graph), validation, predictions["labels"], lambda: None).readings
        away = np.linalg.norm(readings - truth[:, table.landmarks], axis=-1)
        return float(np.nanmean(away / size[:, None]) * 100)

    exported = choose_arithmetic(arithmetic, storage, graph, error)
    refiner = Refiner(exported)
    faces = {name: _read(refiner, validation, predicted, tick) for name, predicted in predictions.items()}
    scale = predictions["labels"].scale
    assert scale is not None
    unit = (scale * card.crop.size / FACE_UNITS)[:, None, None]
    nudged = _read_nudged(refiner, landmarker, validation, recipe.seed, tick)
    target = shifted(truth, (-offset[0], -offset[1]), points_layout)  # labels where a mirrored network can find them
    fitted = fit_fusion(faces["labels"], target, table, nudged)
    points, raw = fitted.join(faces["labels"], table)
    signed_errors = (shifted(points, offset, points_layout) - truth) / unit
    weights = set_weights(signed_errors, set_of)
    calibration = fit_calibration(raw / unit, signed_errors, points_layout.mirror, weights=weights)
    folds = _fold_fusions(faces["labels"], target, table, nudged)
    unseen = {name: _held_out(folds, part, table) for name, part in faces.items()}
    errors = (shifted(unseen["labels"][0], offset, points_layout) - truth) / unit
    eyes = points_layout.reference_distance(truth) / unit[:, 0, 0]
    checks = cross_fitted(unseen["labels"][1] / unit, errors, eyes, points_layout.mirror, set_of=set_of)
    scores = dict[str, float]()
    known = np.isfinite(distances(truth, points_layout, usual_normaliser(points_layout)))
    for number, part in enumerate(held_out):
        figures = dict[str, float]()
        for name, boxes in (("labels", "label boxes"), ("detector", "YuNet boxes")):
            scored = (set_of == number) & predictions[name].found & known
            for prefix, predicted in (("", unseen[name][0]), ("without refinement, ", faces[name].points)):
                moved = shifted(predicted[scored], offset, points_layout)
                if len(moved):
                    title = f"{prefix}{boxes}, {int(scored.sum())} faces"
                    figures |= _scores(title, moved, truth[scored], points_layout)
        figures |= {f"{name} (cross-fitted)": value for name, value in checks[number].items()}
        scores |= figures if number == 0 else {f"{part.name}: {name}": value for name, value in figures.items()}
    scores["validation NME of the last epoch, %"] = float(meta["rows"][-1]["validation_nme"]) * 100
    final = refiner.card.model_copy(
        update={
            "bias": tuple(round(float(value), 4) for value in fitted.bias),
            "sharpness": round(fitted.sharpness, 4),
            "calibration": calibration,
            "scores": {name: value for name, value in scores.items() if np.isfinite(value)},
        }
    )
    return RegionalRelease(with_card(exported, final), final, half_checkpoint(regional, meta, sources))


def region_crops(
    samples: Sequence[Sample], predictions: Predictions, table: RegionTable, rule: RegionRule
) -> NDArray[np.uint8]:
    """The crops (n * R, size, size, 3) of the regions of n faces, placed by their predictions."""
    assert predictions.spread is not None
    placed = place(predictions.landmarks.astype(np.float64), predictions.spread.astype(np.float64), table, rule)
    cut = [crops(sample.read(), transforms, rule.size) for sample, transforms in zip(samples, placed, strict=True)]
    return np.concatenate(cut)


def _model_file(model: str) -> str:
    """The name of a model that ships, or the path of an .onnx file.

    Raises:
        ConfigError: neither.
    """
    if model not in models.available() and Path(model).suffix != ".onnx":
        raise ConfigError(
            f"the crops of the regions are placed by the points of {model!r}, which is a training run; export it and "
            f"name the file: --global-model MODEL.onnx, or a model that ships: {listed(models.available())}"
        )
    return model


def fit_fusion(
    faces: FaceReadings, truth: F64, table: RegionTable, nudged: FaceReadings | None = None, steps: int = 400
) -> Fusion:
    """The biases and the sharpness that minimise the mean error of the fused points, by gradient descent.

    Args:
        truth: (n, M, 2), pixels of the pictures; NaN for a point without a label, which is left out.
        nudged: the same faces read in slightly moved pictures, moved back; ``STEADY`` times the distance between
            both readings is then added to the loss. Both terms are relative to those of the global network alone.
    """
    labels, seen = torch.from_numpy(truth), [torch.from_numpy(part) for part in faces]
    joining, kinds = torch.from_numpy(table.joining.astype(np.float64)), torch.from_numpy(table.reading_kinds)
    bias = torch.zeros(len(table.kinds), dtype=torch.float64, requires_grad=True)
    log_sharpness = torch.zeros((), dtype=torch.float64, requires_grad=True)
    unit = torch.from_numpy(_size(truth, table.layout))[:, None]
    known = torch.isfinite(labels).all(dim=-1)
    again = None if nudged is None else [torch.from_numpy(part) for part in nudged]

    def distance(first: Tensor, second: Tensor) -> Tensor:
        apart = ((first - second)[known].square().sum(-1) + 1e-12).sqrt()
        return (apart / unit.expand(known.shape)[known]).mean()

    def fused(parts: list[Tensor], sharpness: Tensor) -> Tensor:
        points, spread, readings, reading_spread, shares = parts
        weights = bias[kinds], sharpness, joining
        joined: Tensor = fuse(points, spread, readings, reading_spread, *weights, torch, shares=shares)[0]
        return joined

    plain = distance(seen[0], labels)
    optimiser = torch.optim.Adam([bias, log_sharpness], lr=0.05)
    for _ in range(steps):
        points = fused(seen, log_sharpness.exp())
        loss = distance(points, labels) / plain
        if again is not None:
            points_again = fused(again, log_sharpness.exp())
            loss = loss + STEADY * distance(points, points_again) / distance(seen[0], again[0])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Fusion(bias.detach().numpy(), float(log_sharpness.detach().exp()))


def _size(truth: F64, points_layout: Layout) -> F64:
    """What errors are relative to, (n,) pixels: the reference distance; where it is unknown, half the box's root."""
    known = points_layout.reference_distance(truth)
    return np.asarray(np.where(np.isfinite(known), known, 0.5 * points_layout.distance(truth, "box")))


def _read(
    refiner: Refiner, samples: Sequence[Sample], predictions: Predictions, tick: Callable[[], None]
) -> FaceReadings:
    """The readings of every face's regions, in crops that the points of the global network place."""
    assert predictions.spread is not None
    assert predictions.scale is not None
    readings = np.full((2, len(samples), len(refiner.table.landmarks), 2), np.nan)
    points, spread = predictions.landmarks.astype(np.float64), predictions.spread.astype(np.float64)
    shares = refiner.shares(predictions.scale.tolist())
    for index, sample in enumerate(samples):
        if predictions.found[index]:
            landmarks = Landmarks(points[index], spread[index], np.ones(len(spread[index])))
            readings[:, index] = np.concatenate(refiner.read([sample.read()], [landmarks], shares[index : index + 1]))
        tick()
    visible = None if predictions.visible is None else predictions.visible.astype(np.float64)
    return FaceReadings(points, spread, readings[0], readings[1], refiner.reading_shares(shares, visible))


def _read_nudged(
    refiner: Refiner, landmarker: Landmarker, samples: Sequence[Sample], seed: int, tick: Callable[[], None]
) -> FaceReadings:
    """The readings of every face in its picture after a small known movement, moved back."""
    rng, faces = np.random.default_rng(seed), list[FaceReadings]()
    for sample in samples:
        picture, matrix = nudge(sample.read(), rng)
        box = landmark_boxes(apply(matrix, sample.landmarks))
        prediction = landmarker(picture, box[None], box_kind="landmarks")
        points, spread = prediction.landmarks.astype(np.float64), prediction.spread.astype(np.float64)
        landmarks = Landmarks(points[0], spread[0], prediction.confidence[0])
        assert prediction.crops is not None
        shares = refiner.shares([float(np.hypot(*prediction.crops[0, :, 0]))])
        readings, raw = refiner.read([picture], [landmarks], shares)
        back, weights = invert(matrix), refiner.reading_shares(shares, prediction.visible)
        faces.append(FaceReadings(apply(back, points), spread, apply(back, readings), raw, weights))
        tick()
    return FaceReadings(*(np.concatenate(parts) for parts in zip(*faces, strict=True)))


def _fold_fusions(faces: FaceReadings, truth: F64, table: RegionTable, nudged: FaceReadings) -> list[Fusion]:
    """For each of ``FOLDS`` folds of the faces, the fusion that was fitted on the other folds."""
    fold = np.arange(len(truth)) % FOLDS
    others = [fold != number for number in range(FOLDS)]
    return [fit_fusion(faces.take(mask), truth[mask], table, nudged.take(mask)) for mask in others]


def _held_out(fusions: list[Fusion], faces: FaceReadings, table: RegionTable) -> tuple[F64, F64]:
    """Fused points and spreads of faces; each fold has the fusion that was not fitted on it."""
    fold = np.arange(len(faces.points)) % FOLDS
    points, spreads = np.zeros_like(faces.points), np.zeros_like(faces.points)
    for number, fusion in enumerate(fusions):
        part = fold == number
        points[part], spreads[part] = fusion.join(faces.take(part), table)
    return points, spreads


def _scores(about: str, points: F64, truth: F64, points_layout: Layout) -> dict[str, float]:
    """NME, whole and by groups of parts, and failures, in percent."""
    errors = nme(points, truth, points_layout)
    parts = part_nme(points, truth, points_layout)
    return {
        f"validation NME, %, {about}": float(errors.mean() * 100),
        **{f"NME of {name}, %, {about}": float(np.nanmean(part) * 100) for name, part in parts.items()
           if np.isfinite(part).any()},
        f"failures at 8 %, %, {about}": failure_rate(errors) * 100,
    }  # fmt: skip
