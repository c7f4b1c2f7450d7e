"""Recipes: what is filled in, what is refused and how the refusal reads."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors

from octamark import models
from octamark.errors import ConfigError
from octamark.layouts import layout
from octamark.nets.network import WIDTHS
from octamark.training.losses import LOSSES
from octamark.training.recipe import Augment, Data, Loss, Network, Optimiser, Recipe, Stage, load, parse, renamed

REPOSITORY = Path(__file__).parent.parent.parent
MINIMAL = 'name = "tiny-test"\n[[stages]]\nepochs = 3\n'
SECTIONS = {"data": Data, "network": Network, "loss": Loss, "augment": Augment, "optimiser": Optimiser}


def recipe(**changes: Any) -> dict[str, Any]:
    return {"name": "tiny-test", "stages": [{"epochs": 3}], **changes}


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(table, "some.toml")
    assert str(caught.value).startswith("some.toml: ")
    return str(caught.value)


def test_minimal_recipe_gets_defaults(tmp_path: Path) -> None:
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    config = load(path)
    assert config == Recipe(name="tiny-test", stages=(Stage(epochs=3),))
    assert (config.layout, config.seed) == ("ibug68", 0)
    assert (config.network.size, config.network.alpha, config.network.attention) == ("small", 0.25, True)
    assert (config.loss.name, config.loss.beta, config.loss.target_scale) == ("laplace_kl", 1.0, 1.0)
    assert (config.stages[0].size, config.stages[0].epochs, config.stages[0].batch) == (256, 3, 16)
    assert config.augment == Augment()
    assert config.optimiser == Optimiser()
    assert config.data == (Data(),)
    assert layout(config.layout).count == 68


def test_every_section_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    path.write_text(
        'name = "full"\nlayout = "wflw98"\nseed = 7\n[data]\nmargin = 1.5\n[network]\nsize = "nano"\nalpha = 0.5\n'
        '[loss]\nname = "soft_argmax_l1"\n[augment]\nmirror = 0.25\n[optimiser]\nema = 0.9\n'
        "[[stages]]\nsize = 128\nepochs = 2\n[[stages]]\nsize = 256\nepochs = 1\nbatch = 8\n"
    )
    config = load(path)
    assert (config.name, config.layout, config.seed, config.margin) == ("full", "wflw98", 7, 1.5)
    assert (config.network.size, config.network.alpha, config.loss.name) == ("nano", 0.5, "soft_argmax_l1")
    assert (config.augment.mirror, config.optimiser.ema) == (0.25, 0.9)
    assert [(stage.size, stage.epochs, stage.batch) for stage in config.stages] == [(128, 2, 16), (256, 1, 8)]
    assert parse(config.model_dump(mode="json"), "the checkpoint") == config


def test_a_runs_own_config_json_is_a_recipe(tmp_path: Path) -> None:
    before = parse(recipe(loss={"target_scale": 0.5}), "x")
    (tmp_path / "config.json").write_text(before.model_dump_json())
    assert load(tmp_path / "config.json") == before
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not a JSON file"):
        load(tmp_path / "config.json")


def test_names_are_those_of_the_code() -> None:
    assert list(WIDTHS.values()) == [8, 12, 16, 32, 64, 128]
    for size in WIDTHS:
        assert parse(recipe(network={"size": size}), "x").network.size == size
    for name in LOSSES:
        assert parse(recipe(loss={"name": name}), "x").loss.name == name


def test_unknown_key_at_the_top() -> None:
    message = refusal(recipe(sead=3))
    assert "unknown key sead" in message
    assert message.endswith("allowed there: " + ", ".join(Recipe.model_fields))


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_in_a_section(section: str) -> None:
    message = refusal(recipe(**{section: {"colour_of_socks": 1}}))
    assert f"unknown key {section}.colour_of_socks" in message
    assert message.endswith("allowed there: " + ", ".join(SECTIONS[section].model_fields))


def test_unknown_key_in_a_stage() -> None:
    message = refusal(recipe(stages=[{"epochs": 3}, {"epochs": 1, "epoch": 2}]))
    assert "unknown key stages.1.epoch;" in message
    assert message.endswith("allowed there: " + ", ".join(Stage.model_fields))


def test_every_mistake_is_named() -> None:
    message = refusal(recipe(sead=3, loss={"beta": 0.0}, augment={"mirrors": 0.5}))
    assert all(part in message for part in ("sead", "loss.beta", "augment.mirrors"))


@pytest.mark.parametrize(
    ("changes", "key", "given"),
    [
        ({"stages": [{"epochs": -1}]}, "stages.0.epochs", "-1"),
        ({"stages": [{"epochs": 0}]}, "stages.0.epochs", "0"),
        ({"stages": [{"epochs": 1.5}]}, "stages.0.epochs", "1.5"),
        ({"stages": [{"epochs": 1, "size": 100}]}, "stages.0.size", "100"),
        ({"stages": [{"epochs": 1}, {"epochs": 1, "size": 0}]}, "stages.1.size", "0"),
        ({"stages": [{"epochs": 1, "batch": 0}]}, "stages.0.batch", "0"),
        ({"stages": [{"epochs": 1, "learning_rate": 0.0}]}, "stages.0.learning_rate", "0.0"),
        ({"stages": [{"epochs": 1, "warm_up": 1.0}]}, "stages.0.warm_up", "1.0"),
        ({"stages": []}, "stages", "[]"),
        ({"name": "../up"}, "name", "'../up'"),
        ({"seed": -1}, "seed", "-1"),
        ({"network": {"alpha": 2}}, "network.alpha", "2"),
        ({"network": {"alpha": float("nan"), "attention": False}}, "network.alpha", "nan"),
        ({"network": {"size": "huge"}}, "network.size", "'huge'"),
        ({"loss": {"name": "l2"}}, "loss.name", "'l2'"),
        ({"loss": {"target_scale": 0}}, "loss.target_scale", "0"),
        ({"augment": {"mirror": 1.5}}, "augment.mirror", "1.5"),
        ({"augment": {"rotation": -3}}, "augment.rotation", "-3"),
        ({"optimiser": {"ema": 1.0}}, "optimiser.ema", "1.0"),
        ({"data": {"margin": 1.0}}, "data.margin", "1.0"),
        ({"data": {"format": "excel"}}, "data.format", "'excel'"),
    ],
)
def test_impossible_value_names_its_key(changes: dict[str, Any], key: str, given: str) -> None:
    message = refusal(recipe(**changes))
    assert message.startswith(f"some.toml: {key}: ")
    assert message.split("; ")[0].endswith(f"got {given}" if given else "required")


def test_one_mistake_is_one_complaint() -> None:
    assert ";" not in refusal(recipe(stages=[{"epochs": -1}]))


@pytest.mark.parametrize("name", ["laplace_kl", "soft_argmax_l1"])
def test_unknown_loss_lists_the_known(name: str) -> None:
    assert name in refusal(recipe(loss={"name": "l2"}))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_attention_needs_two_frequencies(alpha: float) -> None:
    message = refusal(recipe(network={"alpha": alpha}))
    assert "network" in message
    assert "attention = false" in message
    assert parse(recipe(network={"alpha": alpha, "attention": False}), "x").network.alpha == alpha


@pytest.mark.parametrize("missing", ["name", "stages"])
def test_missing_key_is_named(missing: str) -> None:
    table = recipe()
    del table[missing]
    assert refusal(table) == f"some.toml: {missing}: Field required"


@pytest.mark.parametrize("content", [b"name = ", b'name = "a"\nname = "b"\n', b'name = "\xff"'])
def test_invalid_toml_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml: not a TOML file \(.+\)"):
        load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read \(No such file"):
        load(tmp_path / "nowhere.toml")


def test_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(MINIMAL + "epoch = 4\n")
    with pytest.raises(ConfigError, match=r"typo\.toml: unknown key stages\.0\.epoch"):
        load(path)


def test_recipes_do_not_change() -> None:
    config = parse(recipe(), "x")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


OLD = {
    "optimiser": {"keep": 0.5},
    "distillation": {"teacher": "small", "trust": 0.7},
    "unlabelled": {"teacher": {"trust": 0.8}},
    "init": "nano",
}


def test_recipes_of_version_1_have_todays_names() -> None:
    config = parse(recipe(**OLD), "x")
    assert config.optimiser.init_weight == 0.5
    assert config.distillation is not None
    assert config.distillation.spread_at_half_weight == 0.7
    assert config.unlabelled is not None
    assert config.unlabelled.teacher is not None
    assert config.unlabelled.teacher.spread_at_half_weight == 0.8
    assert parse(recipe(regional={"look": "tiny", "joint": False}), "x").regional.global_model == "tiny"  # type: ignore[union-attr]
    assert parse(recipe(loss={"name": "sam"}), "x").loss.name == "soft_argmax_l1"
    assert OLD["optimiser"] == {"keep": 0.5}  # the table that was given is unchanged


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("network", "stem", 8), ("network", "upsample", "transposed"), ("regional", "joint", True)],
)
def test_options_of_version_1_that_are_gone_are_refused(section: str, key: str, value: object) -> None:
    assert f"unknown key {section}.{key}" in refusal(recipe(**{section: {key: value}}))


def test_both_names_of_one_key_are_refused() -> None:
    message = refusal(recipe(init="nano", optimiser={"keep": 0.5, "init_weight": 0.2}))
    assert "unknown key optimiser.keep" in message


@pytest.mark.parametrize("path", sorted(models.blobs().glob("*.safetensors")), ids=lambda path: path.stem)
def test_recipes_of_shipped_checkpoints_are_read(path: Path) -> None:
    with safetensors.safe_open(path, framework="np") as file:
        table = json.loads(file.metadata()["octamark"])["config"]
    config = parse(table, path.name)
    assert config.name == path.stem
    assert parse(config.model_dump(mode="json"), "again") == config
    before = {**table.get("optimiser", {}), **(table.get("regional") or {}), **(table.get("distillation") or {})}
    if "keep" in before:
        assert config.optimiser.init_weight == before["keep"]
    if "look" in before:
        assert config.regional is not None
        assert config.regional.global_model == before["look"]
    if "trust" in before:
        assert config.distillation is not None
        assert config.distillation.spread_at_half_weight == before["trust"]
    first = table["data"] if isinstance(table["data"], dict) else table["data"][0]
    assert (config.data[0].format, config.margin) == (first["format"], first["margin"])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_configs_have_todays_names(path: Path) -> None:
    table = tomllib.loads(path.read_text())
    assert load(path).name == path.stem
    assert renamed(table) == table


def test_one_data_table_or_several() -> None:
    assert [section.title for section in parse(recipe(data={"format": "coco"}), "x").data] == ["coco"]
    two = [{"format": "300w", "weight": 3.0}, {"format": "shards", "name": "drawn", "path": "d", "weight": 1.0}]
    config = parse(recipe(data=two), "x")
    assert [section.title for section in config.data] == ["300w", "drawn"]
    assert parse(config.model_dump(mode="json"), "x") == config
    assert "data.1.margin" in refusal(recipe(data=[two[0], {**two[1], "margin": 0.5}]))
    assert "give each set a name of its own; got coco, coco" in refusal(recipe(data=[{"format": "coco"}] * 2))
    assert "give every set a weight, or none" in refusal(recipe(data=[two[0], {"format": "coco"}]))
    assert "shards hold no validation faces" in refusal(recipe(data=two[1:]))
    assert "shards have no split and no validation faces" in refusal(
        recipe(data=[two[0], {**two[1], "split": "train"}])
    )
    assert "data: " in refusal(recipe(data=[]))
