"""``octamark models`` and ``octamark layouts`` print what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import run
from octamark import models
from octamark.errors import WeightsError
from octamark.inference.landmarker import Landmarker
from octamark.inference.refiner import Refiner
from octamark.models import Source
from octamark.release.graph import with_card
from telling_model import silent_model, telling_model


def words(*arguments: str | Path) -> str:
    """What a command prints, without the lines of its tables."""
    return " ".join(word for word in run(*arguments).split() if word not in "│┌┐└┘─")


def test_models_prints_the_cards_of_all_that_ship() -> None:
    printed = words("models")
    for name in (*models.available(), models.REGIONS):
        assert f"{name}, " in printed
    assert "placed by the landmarks of small" in printed
    assert "one factor for all points" not in printed


def test_models_run_prints_arithmetic_and_times() -> None:
    printed = words("models", "nano", models.REGIONS, "--run")
    cards = [Landmarker("nano", refine="never").card, Refiner().card]
    for card in cards:
        (time,) = re.findall(rf"{card.name} +{card.arithmetic} +([0-9.]+)", printed)
        assert float(time) > 0
    assert "small" not in printed


def test_a_global_calibration_is_stated(tmp_path: Path) -> None:
    card = Landmarker("nano", refine="never").card
    few = card.model_copy(update={"calibration": card.calibration.model_copy(update={"kind": "global"})})
    (tmp_path / "few.onnx").write_bytes(with_card(models.read("nano"), few))
    assert "one factor for all points: too few labelled faces" in words("models", tmp_path / "few.onnx")


def test_whether_a_model_tells_what_can_be_seen_is_printed(tmp_path: Path) -> None:
    (tmp_path / "telling.onnx").write_bytes(telling_model())
    assert "visible told of each point" in words("models", tmp_path / "telling.onnx")
    (tmp_path / "silent.onnx").write_bytes(silent_model())
    assert "visible not told" in words("models", tmp_path / "silent.onnx")


def test_sources_and_commercial_use_are_printed(tmp_path: Path) -> None:
    assert words("models", "nano").count("commercial use no") == 1
    card = Landmarker("nano", refine="never").card
    sources = (
        Source(name="London", role="labels", terms="CC-BY 4.0", commercial_use=True, faces=51),
        Source(name="my pictures", role="unlabelled"),
    )
    for kept, answer in ((sources, "not stated"), (sources[:1], "yes")):
        own = card.model_copy(update={"recipe": {}, "sources": kept})
        (tmp_path / "own.onnx").write_bytes(with_card(models.read("nano"), own))
        printed = words("models", tmp_path / "own.onnx")
        assert f"commercial use {answer} source, labels London, 51 faces: CC-BY 4.0; commercial use: yes" in printed
        assert ("my pictures: no terms given; commercial use: not stated" in printed) is (len(kept) == 2)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(WeightsError, match=r"unknown model 'nono'; models: pico, nano, .*tiny"):
        run("models", "nono")


def test_layouts_prints_parts_and_draws_diagrams(tmp_path: Path) -> None:
    printed = run("layouts", "wflw98", "-o", tmp_path / "diagrams")
    assert "left_eye" in printed
    assert "inter-ocular" in printed
    assert (tmp_path / "diagrams" / "wflw98.png").stat().st_size > 1000
