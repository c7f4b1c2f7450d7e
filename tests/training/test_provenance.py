"""The claim of commercial use: every link of the chain is checked, before training and before an export."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import octamark
from command_line import run
from drawn_faces import Oracle, draw_face, write_w300
from octamark import models
from octamark.datasets import Sample
from octamark.datasets.load import LabelledSet, labelled_sets
from octamark.errors import ConfigError, DataError, WeightsError
from octamark.geometry import detector_squares, landmark_boxes, squares
from octamark.images import write_picture
from octamark.inference.landmarker import Landmarker
from octamark.inference.regions import RegionTable
from octamark.layouts import layout
from octamark.models import Source, commercial_use, terms_of
from octamark.nets.network import OctaveNetwork
from octamark.nets.regional import RegionalNetwork
from octamark.release import model as release_module
from octamark.release.model import release
from octamark.release.regional import release_regions
from octamark.training import checkpoints, unlabelled
from octamark.training.data import FaceStore
from octamark.training.engine import Trainer
from octamark.training.provenance import NOT_RECORDED, check_claim, sources_of
from octamark.training.recipe import Recipe, parse
from octamark.training.regions import regional_network
from octamark.training.shards import write_shard
from octamark.training.starting import network_config

IBUG = layout("ibug68")
FREE = {"terms": "CC-BY 4.0, the painter", "commercial_use": True}
OWN = {"name": "drawn", "format": "folder", "validation": 0.25, **FREE}
TABLE: dict[str, Any] = {
    "name": "open",
    "commercial_use": True,
    "data": [OWN],
    "network": {"size": "nano"},
    "stages": [{"size": 64, "epochs": 1, "steps_per_epoch": 1, "batch": 4, "learning_rate": 5e-3}],
}
TEACHER = {"teacher": {}, "batch": 4}
REGIONAL = {"view": 96, "lowest": 48}


def recipe(**changes: Any) -> Recipe:
    return parse({**TABLE, **changes}, "open.toml")


def write_checkpoint(path: Path, settings: Recipe, sources: object = None, **changes: object) -> Path:
    """A checkpoint of a recipe with untrained weights; without ``sources`` as older versions wrote it."""
    network: torch.nn.Module = OctaveNetwork(network_config(settings))
    if settings.regional is not None:
        table = RegionTable(IBUG)
        network = RegionalNetwork(regional_network(settings, table), table, settings.loss.beta)
    meta = {"config": settings.model_dump(mode="json"), "rows": [{"validation_nme": 0.1}], **changes}
    meta |= {} if sources is None else {"sources": sources}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(path, {"ema": network.state_dict()}, meta)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("drawn"), per_folder=6, validation=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards") / "a.safetensors"
    pictures, points = zip(*(draw_face(seed, 128) for seed in range(12)), strict=True)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    write_shard(path, stacked, torch.from_numpy(np.stack(points)), margin=1.25, layout="ibug68")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints whose recipes learned from free pictures and began with, or were taught by, other things."""
    folder = tmp_path_factory.mktemp("chain")
    write_checkpoint(folder / "free.safetensors", recipe(name="free"))
    write_checkpoint(folder / "of-small.safetensors", recipe(name="of-small", init="nano"))
    write_checkpoint(folder / "grandchild.safetensors", recipe(name="mid", init=str(folder / "of-small.safetensors")))
    write_checkpoint(folder / "taught.safetensors", recipe(name="taught", distillation={"teacher": "small"}))
    write_checkpoint(folder / "unstated.safetensors", recipe(name="unstated", commercial_use=False, data=[{
        "format": "folder", "validation": 0.25,
    }]))  # fmt: skip
    write_checkpoint(folder / "gone.safetensors", recipe(name="gone", init="runs/not-there"))
    return folder


W300 = r"labels: 300W \(research use only, non-commercial.*no commercial use"
LINKS: dict[str, tuple[dict[str, Any], str]] = {
    "a research set": ({"data": [{"format": "300w"}]}, W300),
    "own pictures without terms": (
        {"data": [{"format": "folder", "validation": 0.25}]},
        r"labels: own pictures \(no terms given\): not stated; validation: own pictures",
    ),
    "shards without terms": (
        {"data": [OWN, {"name": "stored", "format": "shards"}]}, r"labels: stored \(no terms given\): not stated"
    ),
    "a research model to start from": ({"init": "nano"}, rf"initial weights: nano \(no commercial use: 300W.*{W300}"),
    "one that started from a research model": ({"init": "of-small"}, rf"initial weights: of-small .*{W300}"),
    "one that started from such a one": ({"init": "grandchild"}, rf"initial weights: mid .*{W300}"),
    "one that a research model taught": ({"init": "taught"}, rf"initial weights: taught .*teacher: small.*{W300}"),
    "one of pictures without terms": ({"init": "unstated"}, r"initial weights: unstated .*not stated.*own pictures"),
    "one whose beginning is lost": ({"init": "gone"}, r"initial weights: runs/not-there \(not known.*not stated"),
    "a research teacher": ({"distillation": {"teacher": "small"}}, rf"teacher: small \(no commercial.*{W300}"),
    "a teacher that a research model taught": ({"distillation": {"teacher": "taught"}}, rf"teacher: taught .*{W300}"),
    "unlabelled faces without terms": ({"unlabelled": TEACHER}, r"unlabelled: pictures without labels \(no terms"),
    "unlabelled faces without crop rule": (
        {"unlabelled": {**TEACHER, **FREE}}, r"not: crop rule: faces without labels \(not recorded"
    ),
    "a research global model": ({"regional": {**REGIONAL, "global_model": "nano"}}, rf"global model: nano.*{W300}"),
}  # fmt: skip


def link(name: str, trained: Path) -> tuple[Recipe, str]:
    """A recipe with one bad link, and the message about it. Checkpoints are named by their paths."""
    changes, message = LINKS[name]
    changes = {key: dict(value) if isinstance(value, dict) else value for key, value in changes.items()}
    for place, key in ((changes, "init"), (changes.get("distillation", {}), "teacher")):
        if key in place and (file := trained / f"{place[key]}.safetensors").is_file():
            place[key] = str(file)
    return recipe(**changes), message


@pytest.mark.parametrize("name", LINKS)
def test_training_refuses_each_link(
    name: str, trained: Path, root: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(sample: Sample) -> None:
        raise AssertionError("no face is decoded before the chain is checked")

    settings, message = link(name, trained)
    paths = {section.title: shards if section.format == "shards" else root for section in settings.data}
    sets = labelled_sets(settings.data, paths, IBUG)
    monkeypatch.setattr(Sample, "read", read)
    faces = shards if settings.unlabelled is not None else None
    with pytest.raises(ConfigError, match=f"^open: claims commercial_use = true.*{message}"):
        Trainer(settings, sets, tmp_path / "run", unlabelled=faces, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", LINKS)
def test_an_export_refuses_each_link(name: str, trained: Path, root: Path, tmp_path: Path) -> None:
    """Also of a checkpoint whose metadata state free sources alone, and one that older versions wrote."""
    settings, message = link(name, trained)
    recorded = [{"name": "drawn", "role": "labels", **FREE}]
    for sources in (None, recorded):
        file = write_checkpoint(tmp_path / "x.safetensors", settings, sources)
        export = release if settings.regional is None else release_regions
        with pytest.raises(ConfigError, match=rf"x\.safetensors: claims commercial_use = true.*{message}"):
            export(file, root)


def test_an_export_refuses_what_the_checkpoint_recorded(root: Path, tmp_path: Path) -> None:
    """The recipe is free by its words; the run remembers a checkpoint that has gone since."""
    recorded = [{"name": "before", "role": "initial weights", "terms": "research", "commercial_use": False}]
    file = write_checkpoint(tmp_path / "x.safetensors", recipe(init="runs/not-there"), recorded)
    with pytest.raises(ConfigError, match=r"initial weights: before \(research\): no commercial use"):
        release(file, root)
    broken = write_checkpoint(tmp_path / "y.safetensors", recipe(), [{"name": "before"}])
    with pytest.raises(WeightsError, match=r"y\.safetensors: the list of what it learned from cannot be read"):
        release(broken, root)


def test_an_export_refuses_another_global_model_of_research_terms(root: Path, trained: Path, tmp_path: Path) -> None:
    settings = recipe(regional={**REGIONAL, "global_model": str(trained / "free.safetensors")})
    file = write_checkpoint(tmp_path / "x.safetensors", settings)
    with pytest.raises(ConfigError, match=r"global model: nano \(no commercial use: 300W \(research use only"):
        release_regions(file, root, global_model="nano")


def test_a_checkpoint_that_names_itself_ends_the_chain(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_checkpoint(file, recipe(init=str(file)))
    sources = sources_of(recipe(init=str(file)))
    assert [source.role for source in sources] == ["labels", "validation", "initial weights"]
    assert commercial_use(sources) is True


def test_without_the_claim_nothing_is_refused(trained: Path) -> None:
    settings = recipe(commercial_use=False, init=str(trained / "grandchild.safetensors"))
    sources = sources_of(settings)
    check_claim(settings, sources, "x")
    assert commercial_use(sources) is False
    assert {"mid", "of-small", "nano", "300W", "drawn"} <= {source.name for source in sources}


@pytest.mark.slow
def test_a_free_run_is_trained_resumed_exported_and_starts_another(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_module, "FaceDetector", Oracle)
    sets = labelled_sets(recipe().data, root, IBUG)
    Trainer(recipe(), sets, tmp_path / "run", device="cpu").run()
    counts = len(sets[0].training), len(sets[0].validation)
    expected = [Source(name="drawn", role="labels", faces=counts[0], **FREE),
                Source(name="drawn", role="validation", faces=counts[1], **FREE)]  # fmt: skip
    for name in ("best", "last"):
        file = tmp_path / "run" / f"{name}.safetensors"
        assert list(checkpoints.sources(checkpoints.metadata(file), file)) == expected
    finished = release(tmp_path / "run", root, arithmetic="float32")
    assert finished.card.sources == tuple(expected)
    assert finished.card.commercial_use is True
    assert finished.card.terms == "any use; attribution to drawn (CC-BY 4.0, the painter)"
    assert octamark.load(finished.onnx).card == finished.card
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(finished.checkpoint)
    assert list(checkpoints.sources(checkpoints.metadata(kept), kept)) == expected
    child = recipe(name="child", init=str(kept))
    Trainer(child, sets, tmp_path / "child", device="cpu").run()
    last = tmp_path / "child" / "last.safetensors"
    start = Source(name="open", role="initial weights", terms=finished.card.terms, commercial_use=True)
    assert list(checkpoints.sources(checkpoints.metadata(last), last)) == [*expected, start]
    kept.unlink()  # a resumed run, and an export, know it from the checkpoint
    longer = child.model_copy(update={"stages": child.stages * 2})
    Trainer(longer, sets, tmp_path / "child", device="cpu", resume=True).run()
    assert release(tmp_path / "child", root, arithmetic="float32").card.sources == (*expected, start)


def test_terms_in_recipes() -> None:
    with pytest.raises(ConfigError, match=r"data\.0: the terms of wflw are known \(research use only.*leave out terms"):
        recipe(data=[{"format": "wflw", "commercial_use": True, "terms": "mine"}])
    with pytest.raises(ConfigError, match=r"the terms of 300w are known"):
        recipe(data=[{"terms": "mine"}])
    recipe(data=[{"format": "wflw", "commercial_use": False}])
    for changes in ({"data": [{"format": "folder", "commercial_use": True}]},
                    {"unlabelled": {"teacher": {}, "commercial_use": True}}):  # fmt: skip
        with pytest.raises(ConfigError, match="commercial_use = true: say in terms which licence allows it"):
            recipe(**changes)
    with pytest.raises(ConfigError, match=r"leave out unlabelled\.crop_rule"):
        recipe(unlabelled={**TEACHER, **FREE, "crop_rule": "small"})


class Half:
    """Finds every second picture's face."""

    calls = 0

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Half.calls += 1
        boxes, scores = Oracle()(picture)
        return (boxes, scores) if Half.calls % 2 else (boxes[:0], scores[:0])


def fitted(
    settings: Recipe, sets: list[LabelledSet], stores: Mapping[str, FaceStore]
) -> tuple[models.CropRule, tuple[Source, ...]]:
    return unlabelled.fitted_rule(settings, sets, stores, "ibug68")


def test_the_crop_rule_is_that_of_the_recipes_own_faces(
    root: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pictures and of stored crops alike: it leads from the detector's boxes to the crops of training."""
    monkeypatch.setattr(unlabelled, "FaceDetector", Oracle)
    settings = recipe(data=[OWN, {"name": "stored", "format": "shards", **FREE}])
    sets = labelled_sets(settings.data, {"drawn": root, "stored": shards}, IBUG)
    stores = {"stored": FaceStore.of_shards(shards, IBUG)}
    faces = sets[0].training
    boxes = np.concatenate([Oracle()(face.read())[0] for face in faces])
    wanted = squares(landmark_boxes(np.stack([face.landmarks for face in faces])), settings.margin)
    for chosen in (sets, sets[:1], sets[1:]):
        rule, _ = fitted(settings, chosen, stores)
        found = detector_squares(boxes, rule.detector_scale, rule.detector_shift)
        np.testing.assert_allclose(found, wanted, atol=0.05 * wanted[:, 2].max())
        assert rule.margin == settings.margin
    _, sources = fitted(settings, sets, stores)
    assert sources == (
        Source(name="drawn", role="crop rule", **FREE), Source(name="stored", role="crop rule", **FREE)
    )  # fmt: skip


def test_at_most_so_many_faces_are_searched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled, "FaceDetector", Oracle)
    monkeypatch.setattr(unlabelled, "RULE_FACES", 12)
    ticks: list[tuple[int, int]] = []
    sets = labelled_sets(recipe().data, root, IBUG)
    assert len(sets[0].training) > 12
    unlabelled.fitted_rule(recipe(), sets, {}, "ibug68", advance=lambda done, total: ticks.append((done, total)))
    assert ticks == [(done, 12) for done in range(1, 13)]


def test_too_few_found_faces_take_a_named_rule_or_end_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled, "FaceDetector", Half)
    monkeypatch.setattr(unlabelled, "RULE_FACES", 12)
    sets = labelled_sets(recipe().data, root, IBUG)
    with pytest.raises(DataError, match=r"open: YuNet finds 6 of 12 labelled training faces; 10 are needed"):
        fitted(recipe(unlabelled={**TEACHER, **FREE}), sets, {})
    named = recipe(commercial_use=False, unlabelled={**TEACHER, "crop_rule": "small"})
    rule, sources = fitted(named, sets, {})
    small = Landmarker("small", refine="never").card
    assert rule == small.crop
    assert sources == (Source(name="small", role="crop rule", terms=small.terms, commercial_use=False),)
    with pytest.raises(DataError, match="crop rule of 'small': for the layout ibug68; the recipe's is wflw98"):
        unlabelled.fitted_rule(named, sets, {}, "wflw98")


def test_shards_of_faces_remember_whose_rule_cropped_them(tmp_path: Path, photograph: np.ndarray, root: Path) -> None:
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in" / "face.png", photograph[:300, 70:370])
    run("crops", tmp_path / "in", "-o", tmp_path / "out", "--rule", "nano", "--size", "64")
    (rule,) = unlabelled.read(tmp_path / "out").sources
    assert (rule.name, rule.role, rule.commercial_use) == ("nano", "crop rule", False)
    settings = recipe(unlabelled={**TEACHER, **FREE})
    with pytest.raises(
        ConfigError, match=r"These are not: crop rule: nano \(no commercial use: 300W \(research use only"
    ):
        Trainer(settings, labelled_sets(settings.data, root, IBUG), tmp_path / "run",
                unlabelled=tmp_path / "out", device="cpu")  # fmt: skip
    (tmp_path / "out" / "sources.json").write_text("[1]")
    with pytest.raises(DataError, match=r"sources\.json: cannot be read"):
        unlabelled.read(tmp_path / "out")
    (tmp_path / "out" / "sources.json").unlink()
    assert unlabelled.read(tmp_path / "out").sources == (NOT_RECORDED,)


@pytest.mark.slow
def test_a_claimed_run_crops_a_folder_by_its_own_rule(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No released model is read, and the shards it leaves name the labelled set."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model is read")

    monkeypatch.setattr(unlabelled, "FaceDetector", Oracle)
    monkeypatch.setattr(unlabelled, "model_rule", refused)
    settings = recipe(unlabelled={**TEACHER, "terms": "public domain", "commercial_use": True})
    sets = labelled_sets(settings.data, root, IBUG)
    Trainer(settings, sets, tmp_path / "run", unlabelled=root / "afw", device="cpu").run()
    last = tmp_path / "run" / "last.safetensors"
    sources = checkpoints.sources(checkpoints.metadata(last), last)
    assert [source.role for source in sources] == ["labels", "validation", "unlabelled", "crop rule"]
    assert sources[-1] == Source(name="drawn", role="crop rule", **FREE)
    assert commercial_use(sources) is True
    assert unlabelled.read(tmp_path / "run" / "unlabelled").sources == sources[-1:]


def test_an_adaptation_claims_nothing(trained: Path) -> None:
    """The pictures that a free model is adapted to have no terms in its recipe."""
    from octamark.training.starting import adaptation

    adapted = adaptation(str(trained / "free.safetensors"))
    assert adapted.commercial_use is False
    assert adapted.unlabelled is not None
    assert adapted.unlabelled.crop_rule is None
    released = adaptation("small").unlabelled
    assert released is not None
    assert released.crop_rule == "small"


def test_the_recipe_of_the_guide_is_one_that_may_be_sold() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "how-to" / "commercial-use.md"
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    settings = parse(tomllib.loads(block), "the guide")
    crop_rule = Source(name="portraits", role="crop rule", **FREE)
    sources = sources_of(settings, [crop_rule])
    assert settings.commercial_use
    assert commercial_use(sources) is True
    assert terms_of(sources).startswith("any use; attribution to portraits (CC-BY 4.0, the studio that took them); ")
