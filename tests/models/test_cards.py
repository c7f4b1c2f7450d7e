"""A card that does not describe its file is refused with one message; the layout comes from the file."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from octamark import models
from octamark.errors import WeightsError
from octamark.layouts import dumps, layout
from octamark.models import Calibration, Card, ModelCard, RegionCard, check_graph, layout_of, parse_card
from octamark.models.cards import parse_region_card


def session_of(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(models.read(name), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def nano() -> onnxruntime.InferenceSession:
    return session_of("nano")


@pytest.fixture(scope="module")
def regions() -> onnxruntime.InferenceSession:
    return session_of(models.REGIONS)


def text_of(session: onnxruntime.InferenceSession) -> str:
    return str(session.get_modelmeta().custom_metadata_map[models.METADATA_KEY])


def card_of(session: onnxruntime.InferenceSession) -> ModelCard:
    return parse_card(text_of(session), "nano")


def check(card: Card, session: onnxruntime.InferenceSession, name: str = "ibug68") -> None:
    check_graph(card, layout(name), session.get_inputs(), session.get_outputs(), "x.onnx")


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_what_ships_is_described_by_its_card(name: str) -> None:
    session = session_of(name)
    metadata = session.get_modelmeta().custom_metadata_map
    parse = parse_region_card if name == models.REGIONS else parse_card
    card = parse(metadata[models.METADATA_KEY], name)
    check_graph(card, layout_of(metadata, card, name), session.get_inputs(), session.get_outputs(), name)


def test_another_input_size_is_refused(nano: onnxruntime.InferenceSession) -> None:
    card = card_of(nano)
    wrong = card.model_copy(update={"crop": card.crop.model_copy(update={"size": 2 * card.crop.size})})
    with pytest.raises(WeightsError, match=r"^x\.onnx: its model card does not describe its graph \(crop\.size 448"):
        check(wrong, nano)


def test_another_count_of_points_is_refused(nano: onnxruntime.InferenceSession) -> None:
    with pytest.raises(WeightsError, match=r"landmarks is \(n, 68, 2\) in the graph, \(n, 98, 2\) by the card") as said:
        check(card_of(nano), nano, "wflw98")
    assert "the calibration is for 68 points" in str(said.value)


def test_a_calibration_of_another_length_is_refused(nano: onnxruntime.InferenceSession) -> None:
    wrong = card_of(nano).model_copy(update={"calibration": Calibration.identity(67)})
    with pytest.raises(WeightsError, match="the calibration is for 67 points"):
        check(wrong, nano)


def test_a_regional_card_is_checked_too(regions: onnxruntime.InferenceSession) -> None:
    card = parse_region_card(text_of(regions), "regions")
    check(card, regions)
    wrong = card.model_copy(update={"rule": card.rule.model_copy(update={"size": 64})})
    with pytest.raises(WeightsError, match=r"rule\.size 64"):
        check(wrong, regions)


def test_a_graph_without_its_outputs_is_refused(nano: onnxruntime.InferenceSession) -> None:
    kept = [value for value in nano.get_outputs() if value.name != "spread"]
    with pytest.raises(WeightsError, match=r"^x\.onnx: a graph without spread; export it with this version"):
        check_graph(card_of(nano), layout("ibug68"), nano.get_inputs(), kept, "x.onnx")


def test_other_types_and_further_inputs_are_refused(nano: onnxruntime.InferenceSession) -> None:
    """Such a graph would load, and fail on every picture."""
    (crops,) = nano.get_inputs()
    floats = SimpleNamespace(name="crops", shape=crops.shape, type="tensor(float)")
    with pytest.raises(
        WeightsError, match=r"^x\.onnx: a graph of other types: crops is tensor\(float\), not tensor\(uint8\)"
    ):
        check_graph(card_of(nano), layout("ibug68"), [floats], nano.get_outputs(), "x.onnx")
    other = SimpleNamespace(name="mask", shape=[1], type="tensor(float)")
    with pytest.raises(WeightsError, match=r"^x\.onnx: a graph with inputs besides crops: mask;"):
        check_graph(card_of(nano), layout("ibug68"), [crops, other], nano.get_outputs(), "x.onnx")


def test_symbolic_sides_agree_with_any(nano: onnxruntime.InferenceSession) -> None:
    """A graph that another tool made dynamic has names in place of numbers."""
    free = [
        SimpleNamespace(name=value.name, shape=["a"] * len(value.shape), type=value.type) for value in nano.get_inputs()
    ]
    check_graph(card_of(nano), layout("ibug68"), free, nano.get_outputs(), "x.onnx")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("crop", {"margin": -1.2}, r"crop\.margin: .*greater than 0\.5, got -1\.2"),
        ("crop", {"size": 0}, r"crop\.size: .*greater than or equal to 32, got 0"),
        ("crop", {"size": 250}, r"crop\.size: .*multiple of 32, got 250"),
        ("crop", {"detector_scale": 0}, r"crop\.detector_scale: .*greater than 0\.1, got 0"),
        ("crop", {"detector_shift": [0, 90]}, r"crop\.detector_shift\.1: .*less than or equal to 5, got 90"),
        ("crop", {"detector_residual": [0, 0, -1]}, r"crop\.detector_residual\.2: .*greater than or equal to 0"),
        (None, {"offset": [0.0, 3.0]}, r"offset\.1: .*less than or equal to 0\.5, got 3"),
        (None, {"width": 0}, r"width: .*greater than or equal to 1, got 0"),
        (None, {"layout": None}, "layout: Input should be a valid string"),
    ],
)
def test_impossible_values_are_refused(
    nano: onnxruntime.InferenceSession, section: str | None, change: dict[str, Any], message: str
) -> None:
    table = json.loads(text_of(nano))
    (table if section is None else table[section]).update(change)
    with pytest.raises(WeightsError, match=f"^x: a model card that this version cannot use: {message}"):
        parse_card(json.dumps(table), "x")


def test_a_regional_card_of_an_older_version_is_read(regions: onnxruntime.InferenceSession) -> None:
    table = json.loads(text_of(regions))
    assert table["global_model"] == models.REGIONS_MODEL
    old = {**table, "look": table["global_model"]}
    del old["global_model"]
    assert parse_region_card(json.dumps(old), "x") == parse_region_card(json.dumps(table), "x")
    assert "look" not in RegionCard.model_validate(old).model_dump()


def test_each_kind_of_card_says_what_it_is_to_the_other(
    nano: onnxruntime.InferenceSession, regions: onnxruntime.InferenceSession
) -> None:
    with pytest.raises(WeightsError, match="x: a regional network, which is used beside a model"):
        parse_card(text_of(regions), "x")
    with pytest.raises(WeightsError, match="x: a model for whole faces, not a regional network"):
        parse_region_card(text_of(nano), "x")


def test_a_card_and_a_layout_that_do_not_belong_together_are_refused(nano: onnxruntime.InferenceSession) -> None:
    metadata = {models.LAYOUT_KEY: dumps(layout("wflw98"))}
    with pytest.raises(WeightsError, match=r"x: its card names the layout 'ibug68', but the file holds 'wflw98'"):
        layout_of(metadata, card_of(nano), "x")


def test_the_layout_is_the_files_own_or_the_built_in_one(nano: onnxruntime.InferenceSession) -> None:
    card = card_of(nano)
    assert layout_of({}, card, "x").name == "ibug68"
    with pytest.raises(WeightsError, match=r"x\.onnx: made for the layout 'nine\.toml', which is neither in the file"):
        layout_of({}, card.model_copy(update={"layout": "nine.toml"}), "x.onnx")
