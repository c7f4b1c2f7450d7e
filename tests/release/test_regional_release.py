"""Release of a regional network trained on drawn faces, beside a global network trained on them too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octamark
from drawn_faces import Oracle, write_w300
from networks import rounded_to_half
from octamark.datasets.load import labelled_sets, training_and_validation
from octamark.errors import ConfigError, DataError
from octamark.geometry import landmark_boxes
from octamark.inference.refiner import Refiner
from octamark.inference.regions import RegionTable
from octamark.layouts import layout
from octamark.release import model as release_module
from octamark.release.model import release
from octamark.release.regional import FaceReadings, fit_fusion, release_regions
from octamark.training.engine import Trainer
from octamark.training.recipe import Recipe, parse
from octamark.training.regions import is_regional

IBUG = layout("ibug68")
TABLE = RegionTable(IBUG)
STAGE = {"size": 64, "epochs": 6, "batch": 8, "learning_rate": 5e-3}


def recipe(name: str, **sections: object) -> Recipe:
    return parse({"name": name, "network": {"size": "nano"}, "stages": [STAGE], **sections}, "x")


def train(settings: Recipe, root: Path, run: Path) -> None:
    Trainer(settings, labelled_sets(settings.data, root, IBUG), run, device="cpu").run()


@pytest.mark.slow
def test_a_regional_run_becomes_a_model_file_that_refines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_module, "FaceDetector", Oracle)
    monkeypatch.setattr("octamark.evaluation.run.FaceDetector", Oracle)
    root, whole, near = write_w300(tmp_path / "w300", per_folder=16, validation=12), tmp_path / "a", tmp_path / "b"
    train(recipe("drawn"), root, whole)
    (tmp_path / "global.onnx").write_bytes(release(whole, root).onnx)
    settings = recipe("near", regional={"global_model": str(whole), "view": 96, "lowest": 48})
    train(settings, root, near)
    assert is_regional(near)
    assert not is_regional(whole)
    with pytest.raises(
        ConfigError, match=r"is a training run; .* --global-model MODEL.onnx, or a model that ships: pico"
    ):
        release_regions(near, root)
    ticks: list[tuple[int, int]] = []
    finished = release_regions(
        near,
        root,
        global_model=str(tmp_path / "global.onnx"),
        arithmetic="int8",
        advance=lambda done, total: ticks.append((done, total)),
    )
    assert finished.card.arithmetic == "int8"
    assert ticks[-1][0] == ticks[-1][1]
    (tmp_path / "near.onnx").write_bytes(finished.onnx)
    refiner = Refiner(tmp_path / "near.onnx")
    assert refiner.card == finished.card
    assert refiner.layout.name == "ibug68"
    assert finished.card.global_model == "drawn"
    assert finished.card.sharpness > 0

    landmarkers = [
        octamark.load(tmp_path / "global.onnx", refine=refine, regions=tmp_path / "near.onnx", rotation="never")
        for refine in ("never", "always")
    ]
    _, held_out = training_and_validation(settings.data, root, IBUG)
    errors = np.zeros((2, len(held_out)))
    for index, sample in enumerate(held_out):
        for which, landmarker in enumerate(landmarkers):
            found = landmarker(sample.read(), [landmark_boxes(sample.landmarks)], box_kind="landmarks")
            apart = np.linalg.norm(found.landmarks[0] - sample.landmarks, axis=1)
            errors[which, index] = apart.mean() / np.linalg.norm(sample.landmarks[36] - sample.landmarks[45])
    assert errors[1].mean() < errors[0].mean()  # fitted on these very faces
    name = f"validation NME, %, label boxes, {len(held_out)} faces"
    stated = finished.card.scores[name.replace("%, ", "%, without refinement, ")]
    assert stated == pytest.approx(100 * errors[0].mean(), rel=0.01)

    (tmp_path / "near.safetensors").write_bytes(finished.checkpoint)
    settled: dict[str, Any] = {"global_model": str(tmp_path / "global.onnx"), "arithmetic": "int8"}
    again = release_regions(tmp_path / "near.safetensors", root, **settled)
    halved = rounded_to_half(near, tmp_path / "halved")
    rounded = release_regions(halved, root, **settled)
    assert again.onnx == rounded.onnx  # the checkpoint is the run, but for its weights' precision

    training, _ = training_and_validation(settings.data, root, IBUG)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere)
    (elsewhere / "splits" / "val.txt").write_text(training[0].name)
    with pytest.raises(DataError, match=f"has learned from 1 of the faces .* {training[0].name}; hold out others"):
        release_regions(near, elsewhere, global_model=str(tmp_path / "global.onnx"))


@pytest.mark.slow
def test_every_set_counts_in_the_calibration_and_has_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octamark.evaluation.run.FaceDetector", Oracle)
    sets = [{"name": "near", "format": "300w", "weight": 1.0}, {"name": "far", "format": "300w", "validation": 1.0}]
    paths = {name: write_w300(tmp_path / name, per_folder=8, validation=6) for name in ("near", "far")}
    sets[0]["validation"] = "splits/val.txt"
    regional = {"global_model": "nano", "view": 96, "lowest": 48}
    settings = recipe("two", regional=regional, data=sets, stages=[{**STAGE, "epochs": 1}])
    Trainer(settings, labelled_sets(settings.data, paths, IBUG), tmp_path / "run", device="cpu").run()
    card = release_regions(tmp_path / "run", paths, arithmetic="float32").card
    assert {"validation NME, %, label boxes, 6 faces", "regions of 90% hold the truth in, % (cross-fitted)"} <= set(
        card.scores
    )
    others = {name.removeprefix("far: ") for name in card.scores if name.startswith("far: ")}
    assert "validation NME, %, label boxes, 24 faces" in others
    assert "regions of 90% hold the truth in, % (cross-fitted)" in others


def drawn_readings(seed: int = 0) -> tuple[FaceReadings, np.ndarray]:
    """Readings of the mouth with a twentieth of the error that their spreads state, and noise elsewhere."""
    rng = np.random.default_rng(seed)
    truth = IBUG.diagram[None].astype(np.float64) * 200 + rng.normal(0, 1, (40, 1, 2))
    size = np.full((40, 68, 2), 3.0)
    owner = np.array([region.kind for region in TABLE.regions])[TABLE.owners]
    noise = np.where(owner == "mouth", 0.15, 12.0)[None, :, None]
    readings = truth[:, TABLE.landmarks] + rng.normal(size=(40, 70, 2)) * noise
    spreads, shares = np.full((40, 70, 2), 3.0), np.ones((40, 70))
    return FaceReadings(truth + rng.normal(size=truth.shape) * 3, size, readings, spreads, shares), truth


def test_the_fusion_finds_what_the_data_say() -> None:
    faces, truth = drawn_readings()
    fitted = fit_fusion(faces, truth, TABLE)
    bias = dict(zip(TABLE.kinds, fitted.bias * fitted.sharpness, strict=True))
    assert bias["mouth"] > 3
    assert max(value for kind, value in bias.items() if kind != "mouth") < -1.5
    points, _ = fitted.join(faces, TABLE)
    mouth = list(IBUG.groups["mouth"])
    assert np.abs(points - truth)[:, mouth].mean() < 0.3
    assert np.abs(points - truth).mean() < np.abs(faces.points - truth).mean()


def test_faces_of_which_one_eye_has_no_label_count_in_the_fusion() -> None:
    faces, truth = drawn_readings()
    truth[:, list(IBUG.parts["left_eye"])] = np.nan
    assert np.isnan(IBUG.reference_distance(truth)).all()
    fitted = fit_fusion(faces, truth, TABLE)
    bias = dict(zip(TABLE.kinds, fitted.bias * fitted.sharpness, strict=True))
    assert bias["mouth"] > 3
    assert max(value for kind, value in bias.items() if kind != "mouth") < -1.5


def test_points_without_a_label_do_not_count_in_the_fusion() -> None:
    faces, truth = drawn_readings()
    truth[np.random.default_rng(1).random(truth.shape[:2]) < 0.3] = np.nan
    fitted = fit_fusion(faces, truth, TABLE)
    bias = dict(zip(TABLE.kinds, fitted.bias * fitted.sharpness, strict=True))
    assert bias["mouth"] > 3
    assert np.isfinite(fitted.bias).all()
