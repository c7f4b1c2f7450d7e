"""From a regional run to a weight file: fit the fusion and the calibration on validation faces, score, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octamark import models
from octamark._version import __version__
from octamark.datasets import Sample
from octamark.datasets.load import training_and_validation
from octamark.errors import ConfigError, listed
from octamark.evaluation.run import Predictions, View, detector_square, label_square, predict
from octamark.evaluation.steadiness import nudge
from octamark.faces import Landmarks
from octamark.geometry import apply, invert, landmark_boxes
from octamark.inference.landmarker import Landmarker, shifted
from octamark.inference.refiner import Refiner
from octamark.inference.regions import RegionTable, fuse
from octamark.layouts import Layout, layout
from octamark.metrics import failure_rate, nme, part_nme, usual_normaliser
from octamark.models import FACE_UNITS, RegionCard
from octamark.models.calibration import Calibration
from octamark.nets.regional import RegionalNetwork
from octamark.release.calibration import FOLDS, cross_fitted, fit_calibration
from octamark.release.graph import regions_to_onnx, with_card
from octamark.release.model import half_checkpoint, learned_from
from octamark.release.predictor import RegionalPredictor
from octamark.release.quantization import Storage
from octamark.training import checkpoints
from octamark.training.recipe import Recipe, parse
from octamark.training.regions import region_rule, regional_network

F64 = NDArray[np.float64]

STEADY = 0.2
"""How much the distance between two readings of a face counts in the fit of the fusion, beside the error."""


class RegionalRelease(NamedTuple):
    """A finished regional network: the ONNX file, its card, and the averaged weights as a float16 checkpoint."""

    onnx: bytes
    card: RegionCard
    checkpoint: bytes


class Seen(NamedTuple):
    """Faces as both networks saw them, pixels of the pictures; NaN where the detector found none.

    Attributes:
        points, spread: (n, M, 2) of the global network; readings, reading_spread: (n, K, 2) of the regional one.
    """

    points: F64
    spread: F64
    readings: F64
    reading_spread: F64

    def take(self, chosen: NDArray[np.bool_]) -> Seen:
        return Seen(*(part[chosen] for part in self))


class Fusion(NamedTuple):
    """Bias of each kind of region and sharpness; see octamark.inference.regions.fuse."""

    bias: F64
    sharpness: float

    def join(self, seen: Seen, table: RegionTable) -> tuple[F64, F64]:
        """Fused points and spreads (n, M, 2)."""
        bias = self.bias[table.reading_kinds]
        joined: tuple[F64, F64] = fuse(*seen, bias, self.sharpness, table.joining.astype(np.float64))
        return joined


def is_regional(run: Path) -> bool:
    """Whether a run's folder or checkpoint is of a regional network.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    file = run / "best.safetensors" if run.is_dir() else run
    return bool(checkpoints.load(file)[1]["config"].get("regional"))


def load_regional(path: Path) -> tuple[RegionalNetwork, Recipe, dict[str, Any]]:
    """The averaged weights of a regional run's best epoch (a folder) or of a checkpoint, with recipe and metadata.

    Raises:
        WeightsError: missing or damaged checkpoint, or one of a network that is no regional one.
    """
    file = path / "best.safetensors" if path.is_dir() else path
    groups, meta = checkpoints.load(file)
    config = parse(meta["config"], str(file))
    table = RegionTable(layout(config.layout))
    regional = RegionalNetwork(regional_network(config, table), table, config.loss.beta)
    own = {
        name.removeprefix("regional."): value
        for name, value in groups.get("ema", {}).items()
        if not name.startswith(("look.", "global_network."))
    }
    checkpoints.fill(regional, own, file)
    if path.is_dir():
        meta["rows"] = checkpoints.load(path / "last.safetensors")[1]["rows"]
    return regional.eval(), config, meta


def release_regions(
    run: Path,
    data: Path | Mapping[str, Path] | None,
    *,
    global_model: str | None = None,
    storage: Storage = "int4",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> RegionalRelease:
    """Finish a regional run beside ``global_model``, which reads whole faces; by default the recipe's, which must then
    be a model that ships.

    Fusion and calibration are fitted on validation faces, seen from the boxes of their labels; the scores are those of
    the exported files, the fused ones with a fusion that was fitted on other faces (five folds).

    Raises:
        ConfigError: a global network that is no weight file.
        WeightsError, DataError: as the readers raise them.
    """
    regional, config, meta = load_regional(run)
    assert config.regional is not None
    seeing = _looking(global_model or config.regional.global_model)
    one = layout(config.layout)
    training, validation = training_and_validation(config.data, data, one, config.seed)
    checkpoints.check_held_out(meta, validation, run)
    offset = seeing.card.offset
    learned, terms = learned_from(config, len(training), len(validation))
    draft = RegionCard(
        name=config.name,
        layout=config.layout,
        global_model=seeing.card.name,
        parameters=sum(parameter.numel() for parameter in regional.network.parameters()),
        width=regional.network.config.width,
        rule=region_rule(config),
        bias=(0.0,) * len(regional.table.kinds),
        sharpness=1.0,
        calibration=Calibration.identity(one.count),
        normaliser=usual_normaliser(one),
        scores={},
        training_data=learned,
        terms=terms,
        recipe=config.model_dump(mode="json"),
        version=__version__,
    )
    exported = regions_to_onnx(RegionalPredictor(regional), draft, storage=storage)
    refiner = Refiner(exported)
    done, steps = 0, 4 * len(validation)

    def tick() -> None:
        nonlocal done
        done += 1
        advance(done, steps)

    views = {"labels": View(label_square(seeing.card.crop)), "detector": View(detector_square(seeing.card.crop))}

    def before_offset(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return shifted(points, (-offset[0], -offset[1]), one).astype(np.float32)

    first = predict(seeing, validation, views, advance=tick)
    seen = {
        name: _seen(refiner, validation, replace(found, landmarks=before_offset(found.landmarks)), tick)
        for name, found in first.items()
    }
    truth = np.stack([sample.landmarks for sample in validation]).astype(np.float64)
    by_label = first["labels"]
    assert by_label.scale is not None
    unit = by_label.scale * seeing.card.crop.size / FACE_UNITS
    moved = _nudged(refiner, seeing, validation, config.seed, tick)
    aim = shifted(truth, (-offset[0], -offset[1]), one)  # the labels where a mirrored network can find them
    fitted = fit_fusion(seen["labels"], aim, regional.table, moved)
    points, raw = fitted.join(seen["labels"], regional.table)
    off = (shifted(points, offset, one) - truth) / unit[:, None, None]
    calibration = fit_calibration(raw / unit[:, None, None], off, one.mirror)
    folds = _fold_fusions(seen["labels"], aim, regional.table, moved)
    held = {name: _held_out(folds, part, regional.table) for name, part in seen.items()}
    scores: dict[str, float] = {}
    for name, boxes in (("labels", "label boxes"), ("detector", "YuNet boxes")):
        kept = first[name].found
        for prefix, found in (("", held[name][0]), ("without refinement, ", seen[name].points)):
            right = shifted(found[kept], offset, one)
            scores |= _scores(f"{prefix}{boxes}, {int(kept.sum())} faces", right, truth[kept], one)
    scores["validation NME of the last epoch, %"] = float(meta["rows"][-1]["validation_nme"]) * 100
    errors = (shifted(held["labels"][0], offset, one) - truth) / unit[:, None, None]
    spread = held["labels"][1] / unit[:, None, None]
    distances = one.reference_distance(truth) / unit
    checks = cross_fitted(spread, errors, distances, one.mirror)
    all_scores = {**scores, **{f"{name} (cross-fitted)": value for name, value in checks.items()}}
    card = draft.model_copy(
        update={
            "bias": tuple(round(float(value), 4) for value in fitted.bias),
            "sharpness": round(fitted.sharpness, 4),
            "calibration": calibration,
            "scores": {name: value for name, value in all_scores.items() if np.isfinite(value)},
        }
    )
    return RegionalRelease(with_card(exported, card), card, half_checkpoint(regional, meta))


def _looking(model: str) -> Landmarker:
    """The model whose points the regions follow.

    Raises:
        ConfigError: neither a model that ships nor an .onnx file.
    """
    if model not in models.available() and Path(model).suffix != ".onnx":
        raise ConfigError(
            f"the regions follow the points of {model!r}; name its weight file (octamark export writes one): "
            f"--global-model MODEL.onnx, or a model that ships: {listed(models.available())}"
        )
    return Landmarker(model, refine="never")


def fit_fusion(seen: Seen, truth: F64, table: RegionTable, moved: Seen | None = None, steps: int = 400) -> Fusion:
    """The biases and the sharpness that make the fused points' mean error least, by gradient descent.

    Args:
        truth: (n, M, 2), pixels of the pictures.
        moved: the same faces read in slightly moved pictures, carried back; then :data:`STEADY` times the distance
            between both readings counts too, each of the two against the global network's own.
    """
    points, spread, readings, reading_spread, right = (torch.from_numpy(part) for part in (*seen, truth))
    joining, kinds = torch.from_numpy(table.joining.astype(np.float64)), torch.from_numpy(table.reading_kinds)
    bias = torch.zeros(len(table.kinds), dtype=torch.float64, requires_grad=True)
    log_sharpness = torch.zeros((), dtype=torch.float64, requires_grad=True)
    unit = torch.from_numpy(table.layout.reference_distance(truth))[:, None]
    again = None if moved is None else [torch.from_numpy(part) for part in moved]

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return ((first - second).square().sum(-1) + 1e-12).sqrt().div(unit).mean()

    plain = distance(points, right)
    optimiser = torch.optim.Adam([bias, log_sharpness], lr=0.05)
    for _ in range(steps):
        sharpness = log_sharpness.exp()
        fused: Tensor = fuse(points, spread, readings, reading_spread, bias[kinds], sharpness, joining, torch)[0]
        loss = distance(fused, right) / plain
        if again is not None:
            other = fuse(again[0], again[1], again[2], again[3], bias[kinds], sharpness, joining, torch)[0]
            loss = loss + STEADY * distance(fused, other) / distance(points, again[0])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Fusion(bias.detach().numpy(), float(log_sharpness.detach().exp()))


def _seen(refiner: Refiner, samples: Sequence[Sample], found: Predictions, tick: Callable[[], None]) -> Seen:
    """Every face's regions, read where the global network's points put them."""
    assert found.spread is not None
    readings = np.full((2, len(samples), len(refiner.table.landmarks), 2), np.nan)
    points, spread = found.landmarks.astype(np.float64), found.spread.astype(np.float64)
    for index, sample in enumerate(samples):
        if found.found[index]:
            seen = Landmarks(points[index], spread[index], np.ones(len(spread[index])))
            readings[:, index] = np.concatenate(refiner.read([sample.read()], [seen]))
        tick()
    return Seen(points, spread, *readings)


def _nudged(
    refiner: Refiner, seeing: Landmarker, samples: Sequence[Sample], seed: int, tick: Callable[[], None]
) -> Seen:
    """Every face read in its picture after a small known movement, and carried back."""
    rng, faces = np.random.default_rng(seed), list[Seen]()
    for sample in samples:
        picture, matrix = nudge(sample.read(), rng)
        box = landmark_boxes(apply(matrix, sample.landmarks))
        found = seeing(picture, box[None], box_kind="landmarks")
        back = (-seeing.card.offset[0], -seeing.card.offset[1])  # crops are placed by points before the offset
        points, spread = shifted(found.landmarks, back, seeing.layout), found.spread.astype(np.float64)
        inverse, seen = invert(matrix), Landmarks(points[0], spread[0], found.confidence[0])
        read, raw = refiner.read([picture], [seen])
        faces.append(Seen(apply(inverse, points), spread, apply(inverse, read), raw))
        tick()
    return Seen(*(np.concatenate(parts) for parts in zip(*faces, strict=True)))


def _fold_fusions(seen: Seen, truth: F64, table: RegionTable, moved: Seen) -> list[Fusion]:
    """Of each of ``FOLDS`` folds, the fusion fitted on the other faces."""
    fold = np.arange(len(truth)) % FOLDS
    others = [fold != one for one in range(FOLDS)]
    return [fit_fusion(seen.take(kept), truth[kept], table, moved.take(kept)) for kept in others]


def _held_out(fusions: list[Fusion], seen: Seen, table: RegionTable) -> tuple[F64, F64]:
    """Fused points and spreads of faces, each fold's by the fusion that was not fitted on it."""
    fold = np.arange(len(seen.points)) % FOLDS
    points, spreads = np.zeros_like(seen.points), np.zeros_like(seen.points)
    for one, fusion in enumerate(fusions):
        points[fold == one], spreads[fold == one] = fusion.join(seen.take(fold == one), table)
    return points, spreads


def _scores(said: str, found: F64, truth: F64, one: Layout) -> dict[str, float]:
    """NME, whole and by groups of parts, and failures, in percent."""
    whole = nme(found, truth, one)
    parts = {
        f"NME of {name}, %, {said}": float(part.mean() * 100) for name, part in part_nme(found, truth, one).items()
    }
    return {
        f"validation NME, %, {said}": float(whole.mean() * 100),
        **parts,
        f"failures at 8 %, %, {said}": failure_rate(whole) * 100,
    }
