"""From a run to a weight file that predicts, on drawn faces with a detector that knows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import octamark
from drawn_faces import Oracle, write_w300
from networks import rounded_to_half
from octamark import models
from octamark.datasets import w300
from octamark.datasets.load import labelled_sets, training_and_validation
from octamark.evaluation.crop_rule import detected_boxes, fit_crop_rule
from octamark.evaluation.run import detector_crop
from octamark.geometry import apply, best_overlap, detector_squares, landmark_boxes, squares
from octamark.layouts import layout
from octamark.models import CropRule
from octamark.models.calibration import Calibration
from octamark.nets.shape import ShapeCorrection
from octamark.release import model as release_module
from octamark.release.model import (
    HeldOut,
    _moved_randomly,
    calibrate,
    fitted_shapes,
    held_out_sets,
    load_network,
    release,
)
from octamark.release.visibility import UNFITTED
from octamark.training import checkpoints
from octamark.training.engine import Trainer
from octamark.training.recipe import parse
from octamark.training.starting import checkpoint_path, trained_shape

RECIPE = {
    "name": "drawn",
    "network": {"size": "nano"},
    "stages": [{"size": 64, "epochs": 8, "batch": 8, "learning_rate": 5e-3}],
}


@pytest.mark.slow
def test_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_w300(tmp_path / "w300", per_folder=40, validation=12)
    config = parse(RECIPE, "x")
    _, held_out = training_and_validation(config.data, root, layout(config.layout))
    Trainer(config, labelled_sets(config.data, root, layout(config.layout)), tmp_path / "run", device="cpu").run()
    monkeypatch.setattr(release_module, "FaceDetector", Oracle)
    ticks: list[tuple[int, int]] = []
    finished = release(
        tmp_path / "run", root, arithmetic="int8", advance=lambda done, total: ticks.append((done, total))
    )
    assert ticks[-1][0] == ticks[-1][1]

    (tmp_path / "drawn.onnx").write_bytes(finished.onnx)
    landmarker = octamark.load(tmp_path / "drawn.onnx", rotation="never")
    assert landmarker.card == finished.card
    assert (landmarker.card.crop.size, landmarker.card.layout, landmarker.card.width) == (64, "ibug68", 8)
    errors = []
    for sample in held_out:
        faces = landmarker(sample.picture, landmark_boxes(sample.landmarks)[None], box_kind="landmarks")
        away = np.linalg.norm(faces.landmarks[0] - sample.landmarks, axis=1).mean()
        errors.append(away / landmarker.layout.distance(sample.landmarks, "inter-ocular"))
    (stated_nme,) = (value for name, value in finished.card.scores.items() if "label boxes, 12 faces" in name)
    assert 100 * np.mean(errors) == pytest.approx(stated_nme, abs=0.01)

    fitted = finished.card.calibration
    assert fitted != Calibration.identity(68)
    np.testing.assert_array_equal(np.array(fitted.gain), np.array(fitted.gain)[landmarker.layout.mirror])
    away, spread = [], []
    for sample in held_out:
        faces = landmarker(sample.picture, landmark_boxes(sample.landmarks)[None], box_kind="landmarks")
        away.append(np.linalg.norm(faces.landmarks[0] - sample.landmarks, axis=1))
        spread.append(faces.spread[0])
    for share in (0.5, 0.9):  # of the very faces that it was fitted on
        assert np.mean(np.array(away) <= fitted.radius(np.array(spread), share)) == pytest.approx(share, abs=0.04)
    said_names = " ".join(finished.card.scores)
    for name in ("YuNet boxes, 12 faces found", "moved and scaled by up to 10 %", "last epoch", "cross-fitted"):
        assert name in said_names

    (tmp_path / "drawn.safetensors").write_bytes(finished.checkpoint)
    shape = checkpoints.load(tmp_path / "drawn.safetensors")[0]["shape"]
    assert {name: tuple(value.shape) for name, value in shape.items()} == {
        "mean": (68, 2), "weight": (136, 136), "fade": (2,),
    }  # fmt: skip
    assert stated_nme < finished.card.scores["validation NME without the shape correction, %, label boxes"]

    anew, card = calibrate(finished.onnx, [HeldOut("300w", held_out)], detector=Oracle(), seed=config.seed)  # type: ignore[arg-type]
    assert card.calibration == fitted
    assert {**finished.card.scores, **card.scores} == finished.card.scores
    assert octamark.load(anew).card == card

    again = release(tmp_path / "drawn.safetensors", root, arithmetic="int8")
    assert again.card.recipe == finished.card.recipe
    rounded = rounded_to_half(tmp_path / "run", tmp_path / "rounded")
    for name, value in (
        load_network(rounded)[0].state_dict().items()
    ):  # but for its precision, it holds the run's weights
        torch.testing.assert_close(load_network(tmp_path / "drawn.safetensors")[0].state_dict()[name], value)
    (tmp_path / "again.safetensors").write_bytes(again.checkpoint)
    kept = checkpoints.load(tmp_path / "again.safetensors")[0]["shape"]
    for name, value in shape.items():
        assert torch.equal(kept[name], value)
    assert release(tmp_path / "again.safetensors", root, arithmetic="int8").onnx == again.onnx


@pytest.mark.slow
def test_a_release_of_several_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set has its scores, and so has the first one at night; the offset is that of the first set."""
    roots = {name: write_w300(tmp_path / name, per_folder=10, validation=12) for name in ("photographs", "others")}
    sections = [{"name": name, "format": "300w", "validation": "splits/val.txt"} for name in roots]
    sections[0]["visibility"] = "labelled"
    config = parse(
        {
            **RECIPE,
            "stages": [{"size": 64, "epochs": 2, "batch": 8, "learning_rate": 5e-3}],
            "data": sections,
            "visibility": {"weight": 0.5},
            "augment": {"sensor": 0.1},
        },
        "x",
    )
    points = layout(config.layout)
    Trainer(config, labelled_sets(config.data, roots, points), tmp_path / "run", device="cpu").run()
    monkeypatch.setattr(release_module, "FaceDetector", Oracle)
    ticks: list[tuple[int, int]] = []
    finished = release(
        tmp_path / "run", roots, arithmetic="float32", advance=lambda done, total: ticks.append((done, total))
    )
    assert ticks[-1][0] == ticks[-1][1]
    scores = finished.card.scores
    for prefix in ("", "others: ", "photographs at night: "):
        for name in ("validation NME, %, label boxes, 12 faces", "regions of 90% hold the truth in, % (cross-fitted)"):
            assert prefix + name in scores
    assert finished.card.visibility == UNFITTED  # no point is known to be hidden
    assert "photographs: calibration error of visible (cross-fitted)" in scores
    assert not [name for name in scores if name.startswith("others") and "visible" in name]
    assert finished.card.calibration.kind == "per_point"
    landmarker = octamark.load(finished.onnx, rotation="never")
    assert landmarker(np.zeros((64, 64, 3), np.uint8), [[10, 10, 50, 50]]).visible is not None
    first = held_out_sets(labelled_sets(config.data, roots, points), points)[0]
    alone = calibrate(finished.onnx, [first], detector=Oracle())[1]  # type: ignore[arg-type]
    assert alone.offset == finished.card.offset


def test_labels_that_were_moved_to_the_network_get_the_offset_too(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=15, validation=30)
    samples = w300.read(root, "val")
    first, moved = HeldOut("first", samples[:15]), HeldOut("moved", samples[15:], aligned=True)
    as_labelled = HeldOut("moved", samples[15:])
    cards = [
        calibrate(models.read("nano"), [first, part], detector=Oracle())[1]  # type: ignore[arg-type]
        for part in (moved, as_labelled)
    ]
    assert cards[0].offset == cards[1].offset != (0.0, 0.0)
    name = next(name for name in cards[0].scores if name.startswith("moved: validation NME, %, label boxes"))
    assert cards[0].scores[name] != cards[1].scores[name]


def test_crop_rule_recovers_a_known_map() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.uniform(0, 1, (200, 68, 2)) * rng.uniform(80, 300, (200, 1, 1)) + rng.uniform(0, 500, (200, 1, 2))
    samples = list(shapes.astype(np.float32))
    wanted = squares(landmark_boxes(shapes), 1.25)
    root, ratio = wanted[:, 2] / 1.4, rng.uniform(0.7, 1.0, 200)
    half = np.stack([root * np.sqrt(ratio), root / np.sqrt(ratio)], axis=1) / 2
    centre = wanted[:, :2] - root[:, None] * np.array([0.02, 0.15])
    boxes: list[NDArray[np.float32] | None] = [*np.concatenate([centre - half, centre + half], 1).astype(np.float32)]
    rule = fit_crop_rule(samples, [*boxes[:-1], None], size=256, margin=1.25)
    assert rule.detector_scale == pytest.approx(1.4, rel=1e-4)
    assert rule.detector_shift == pytest.approx((0.02, 0.15), abs=1e-4)
    assert max(rule.detector_residual) < 1e-4
    np.testing.assert_allclose(
        detector_squares(np.stack(boxes[:5]), rule.detector_scale, rule.detector_shift), wanted[:5], rtol=1e-4  # type: ignore[arg-type]
    )  # fmt: skip
    drawings = fit_crop_rule(samples[:2], [boxes[0], None], size=256, margin=1.25)
    assert (drawings.detector_scale, drawings.detector_shift) == (1.25, (0.0, 0.0))


def octamark_sample(points: NDArray[np.float64]) -> release_module.Sample:
    return release_module.Sample("x", Path("x"), points.astype(np.float32))


def test_the_overlapping_box_is_taken() -> None:
    truth = np.array([10.0, 10.0, 50.0, 50.0])
    boxes = np.array([[200, 200, 240, 240], [12, 5, 52, 55], [10, 10, 20, 20]], np.float32)
    assert best_overlap(boxes, truth) == 1
    assert best_overlap(boxes[:1], truth) is None
    assert best_overlap(boxes[:0], truth) is None


def test_few_faces_give_a_global_calibration(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=1, validation=3)
    few = w300.read(root, "val")  # 204 points
    data, card = calibrate(models.read("nano"), [HeldOut("300w", few)], detector=Oracle())  # type: ignore[arg-type]
    assert card.calibration.kind == "global"
    loaded = octamark.load(data, refine="never")
    assert loaded.card == card
    assert (loaded(few[0].read(), landmark_boxes(few[0].landmarks)[None], box_kind="landmarks").spread > 0).all()


@pytest.mark.slow
def test_points_without_a_label_count_for_nothing(tmp_path: Path) -> None:
    """Offset, calibration, crop rule and scores of faces with hidden labels are those of the labels that are left."""
    root = write_w300(tmp_path, per_folder=15, validation=30)
    samples = w300.read(root, "val")
    hidden = [replace(sample, landmarks=sample.landmarks.copy()) for sample in samples]
    rng = np.random.default_rng(0)
    for sample in hidden[:20]:
        sample.landmarks[rng.choice(np.arange(17, 36), 10, replace=False)] = np.nan
    hidden[20].landmarks[36:48] = np.nan  # no eyes: its error has no unit
    whole = calibrate(models.read("nano"), [HeldOut("300w", samples)], detector=Oracle())[1]  # type: ignore[arg-type]
    part = calibrate(models.read("nano"), [HeldOut("300w", hidden)], detector=Oracle())[1]  # type: ignore[arg-type]
    np.testing.assert_allclose(part.offset, whole.offset, atol=0.01)
    (name,) = (name for name in part.scores if "label boxes, 29 faces" in name)
    assert part.scores[name] == pytest.approx(whole.scores[name.replace("29", "30")], rel=0.25)
    assert part.calibration.kind == "per_point"
    nobody = [replace(sample, landmarks=sample.landmarks.copy()) for sample in samples]
    for sample in nobody:
        sample.landmarks[27] = np.nan
    assert (
        calibrate(models.read("nano"), [HeldOut("300w", nobody)], detector=Oracle())[1].calibration.kind == "per_point"
    )  # type: ignore[arg-type]


def test_the_crop_rule_is_fitted_on_complete_faces() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.uniform(0, 1, (60, 68, 2)) * 200 + rng.uniform(0, 500, (60, 1, 2))
    boxes: list[NDArray[np.float32] | None] = [*landmark_boxes(shapes).astype(np.float32)]
    rule = fit_crop_rule(list(shapes.astype(np.float32)), boxes, size=64, margin=1.25)
    halved = shapes.copy()
    halved[:40, :50] = np.nan  # boxes around 18 of the points are smaller
    same = fit_crop_rule(list(halved[20:].astype(np.float32)), boxes[20:], size=64, margin=1.25)
    assert same.detector_scale == pytest.approx(rule.detector_scale, rel=0.02)


def test_moved_boxes_stay_within_their_share() -> None:
    rule = CropRule(size=64, margin=1.25, detector_scale=1.0, detector_shift=(0, 0), detector_residual=(0, 0, 0))
    sample, picture = octamark_sample(np.array([[100.0, 100.0], [200.0, 180.0]])), np.zeros((300, 300, 3), np.uint8)
    box = np.array([[100, 100, 200, 180]], np.float32)
    still = detector_crop(rule, lambda picture: (box, np.ones(1, np.float32)))
    moved = _moved_randomly(still, 64, seed=0)
    crops = [crop for _ in range(300) if (crop := moved(sample, picture)) is not None]
    middles = np.stack([apply(crop.transform, np.array([31.5, 31.5])) for crop in crops])
    sides, side = np.array([crop.side(64) for crop in crops]), np.sqrt(100 * 80)
    away = (middles - (150, 140)) / side
    assert 0.095 < np.abs(away).max() <= 0.1 + 1e-9
    assert 0.9 - 1e-9 <= (sides / side).min() < 0.905
    assert 1.095 < (sides / side).max() <= 1.1 + 1e-9
    np.testing.assert_allclose(away.mean(axis=0), 0, atol=0.01)
    assert all(crop.centre.tolist() == [150, 140] for crop in crops)
    again = _moved_randomly(still, 64, seed=0)(sample, picture)
    assert again is not None
    np.testing.assert_array_equal(again.transform, crops[0].transform)
    missed = _moved_randomly(detector_crop(rule, lambda picture: (box[:0], np.ones(0, np.float32))), 64, seed=0)
    assert missed(sample, picture) is None


def test_detected_boxes_keep_the_samples_order(tmp_path: Path) -> None:
    samples = w300.read(write_w300(tmp_path, per_folder=2), "challenge")
    ticks: list[None] = []
    oracle = Oracle()
    found = detected_boxes(samples, oracle, lambda: ticks.append(None))  # type: ignore[arg-type]
    assert len(ticks) == len(samples) == 2
    for box, sample in zip(found, samples, strict=True):
        assert box is not None
        assert best_overlap(box[None], landmark_boxes(sample.landmarks)) == 0
    blind = detected_boxes(samples, lambda picture: (np.zeros((0, 4), np.float32), np.zeros(0)))  # type: ignore[arg-type]
    assert blind == [None, None]


@pytest.mark.slow
def test_a_shape_correction_that_harms_the_sets_on_average_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = {name: write_w300(tmp_path / name, per_folder=8, validation=6) for name in ("a", "b")}
    sets = [{"name": name, "format": "300w", "validation": "splits/val.txt"} for name in roots]
    config = parse({**RECIPE, "data": sets, "stages": [{**RECIPE["stages"][0], "epochs": 1}]}, "x")
    Trainer(config, labelled_sets(config.data, roots, layout(config.layout)), tmp_path / "run", device="cpu").run()
    monkeypatch.setattr(release_module, "FaceDetector", Oracle)
    mean = torch.tensor(layout("ibug68").diagram, dtype=torch.float32)
    mean = (mean - mean.mean(dim=0)) / (mean - mean.mean(dim=0)).square().sum().sqrt()
    correction = ShapeCorrection(mean, -1e-4 * torch.eye(136))
    monkeypatch.setattr(release_module, "_shape_correction", lambda *_: correction)
    errors = iter((1.0, 2.0))  # without and with the correction

    def told(*_: object) -> float:
        return next(errors, 0.0)

    for name, kept in (("harmful", False), ("useful", True)):
        monkeypatch.setattr(release_module, "_nme_in_label_boxes", told)
        finished = release(tmp_path / "run", roots, arithmetic="float32")
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(finished.checkpoint)
        groups = set(checkpoints.load(file)[0])
        assert groups == {"ema", "shape" if kept else "shift"}  # the latter tells how unusual a face is
        again = tmp_path / f"{name}-again.safetensors"
        again.write_bytes(release(file, roots, arithmetic="float32").checkpoint)
        assert set(checkpoints.load(again)[0]) == groups
        errors = iter((2.0, 1.0))


def test_visibility_alone_keeps_the_shape_correction_of_its_start(tmp_path: Path) -> None:
    """A run that learned landmarks, too, has to fit its own; a checkpoint has the one inside it."""
    stage = {"size": 64, "epochs": 1}
    table = {"name": "mine", "init": "tiny", "visibility": {}, "data": {"visibility": "flags"}}
    alone = parse({**table, "stages": [{**stage, "learns": "visibility"}]}, "recipe")
    both = parse({**table, "stages": [stage, {**stage, "learns": "visibility"}]}, "recipe")
    kept = trained_shape(checkpoint_path("tiny"))
    assert kept is not None
    for run, recipe in ((tmp_path, alone), (checkpoint_path("tiny"), both)):
        shape, shift = fitted_shapes(run, recipe)
        assert shift is None
        assert shape is not None
        assert torch.equal(shape.weight, kept.weight)
    assert fitted_shapes(tmp_path, both) == (None, None)
