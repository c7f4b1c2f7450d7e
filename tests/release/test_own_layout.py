"""A model of a layout of one's own carries it, so that its file works anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import octamark
from networks import lively
from octamark import layouts, models
from octamark.errors import WeightsError
from octamark.layouts import layout
from octamark.models import LAYOUT_KEY, Calibration, CropRule, ModelCard
from octamark.nets.network import NetworkConfig
from octamark.release.graph import recalibrated, to_onnx, with_card
from octamark.release.predictor import Predictor

TEXT = """name = "three"
points = ["right_eye", "left_eye", "nose"]
"""


def card(name: str) -> ModelCard:
    rule = CropRule(size=64, margin=1.25, detector_scale=1.1, detector_shift=(0, 0.1), detector_residual=(0, 0, 0))
    return ModelCard(
        name="own", layout=name, parameters=1, width=8, crop=rule, calibration=Calibration.identity(3),
        normaliser="box", scores={}, training_data="none", terms="none", recipe={}, version="0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported() -> bytes:
    torch.manual_seed(0)
    points = layouts.loads(TEXT, "three.toml")
    predictor = Predictor(lively(NetworkConfig(width=8, landmarks=3)), 1.0, points, Calibration.identity(3))
    return to_onnx(predictor, card(points.name))


@pytest.mark.slow
def test_the_file_alone_is_enough(exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three.toml").write_text('name = "three"\npoints = ["a", "b", "c", "d"]\n')  # another file of that name
    Path("three.onnx").write_bytes(exported)
    landmarker = octamark.load("three.onnx")
    assert landmarker.layout.name == "three"
    assert landmarker.layout.point_names == ("right_eye", "left_eye", "nose")
    faces = landmarker(np.zeros((64, 64, 3), np.uint8), [[8, 8, 56, 56]])
    assert faces.landmarks.shape == (1, 3, 2)


@pytest.mark.slow
def test_another_card_keeps_the_layout(exported: bytes) -> None:
    for changed in (with_card(exported, card("three")), recalibrated(exported, card("three"))):
        held = {entry.key: entry.value for entry in onnx.load_from_string(changed).metadata_props}
        assert layouts.loads(held[LAYOUT_KEY], "x").point_names == ("right_eye", "left_eye", "nose")


def test_a_file_without_it_says_what_to_do(exported: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(exported)
    kept = [entry for entry in model.metadata_props if entry.key != LAYOUT_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="made for the layout 'three', which is neither in the file nor built in"):
        octamark.load(tmp_path / "old.onnx")


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_what_ships_carries_its_layout(name: str) -> None:
    held = {entry.key: entry.value for entry in onnx.load_from_string(models.read(name)).metadata_props}
    assert layouts.loads(held[LAYOUT_KEY], name) is layout("ibug68")


def test_a_card_that_could_not_be_read_back_is_not_written(exported: bytes) -> None:
    with pytest.raises(WeightsError, match=r"own: a model card that this version cannot use: offset\.1.*got -0\.7"):
        with_card(exported, card("three").model_copy(update={"offset": (0.0, -0.7)}))
