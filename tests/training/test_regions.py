"""Training of a regional network on drawn faces, beside a global network trained on them too."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import run
from drawn_faces import write_w300
from octamark import models
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError, LayoutError, WeightsError
from octamark.layouts import layout
from octamark.training import checkpoints
from octamark.training.engine import Trainer
from octamark.training.objectives.regional import RegionalObjective
from octamark.training.recipe import Recipe, parse
from octamark.training.regions import Regions, at_lower_resolution, jitter
from octamark.training.steps import Step, step_generator

STAGE = {"size": 64, "epochs": 6, "batch": 8, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=16, validation=12)


@pytest.fixture(scope="module")
def global_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a global network."""
    run = tmp_path_factory.mktemp("runs") / "global_run"
    config = parse({"name": "drawn", "network": {"size": "nano"}, "stages": [STAGE]}, "x")
    Trainer(config, labelled_sets(config.data, root, layout("ibug68")), run, device="cpu").run()
    return run


def recipe(run: Path, *, epochs: int = 2, stage: dict[str, object] | None = None, **changes: object) -> Recipe:
    regional = {"global_model": str(run), "view": 96, "lowest": 48, **changes}
    stages = [{**STAGE, "epochs": epochs, **(stage or {})}]
    return parse({"name": "near", "network": {"size": "nano"}, "stages": stages, "regional": regional}, "recipe")


def trainer(config: Recipe, root: Path, out: Path, *, resume: bool = False) -> Trainer:
    return Trainer(config, labelled_sets(config.data, root, layout(config.layout)), out, device="cpu", resume=resume)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"consistency": 1.0}])
def test_a_run_resumes_on_the_same_curve(
    global_run: Path, root: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    whole = trainer(recipe(global_run, epochs=2, **changes), root, tmp_path / "whole")
    frozen = whole.network.global_network
    before = {name: value.clone() for name, value in frozen.state_dict().items()}  # type: ignore[operator, union-attr]
    whole.run()
    half = trainer(recipe(global_run, epochs=2, **changes), root, tmp_path / "half")

    def stop(self: object, *_: object) -> None:
        raise StopIteration

    half.watcher.finished_epoch = stop.__get__(half.watcher)  # type: ignore[method-assign, attr-defined]
    with pytest.raises(StopIteration):
        half.run()
    logged = rows(tmp_path / "whole")
    assert rows(tmp_path / "half") == logged[:1]
    trainer(recipe(global_run, epochs=2, **changes), root, tmp_path / "half", resume=True).run()
    assert rows(tmp_path / "half") == logged
    after = frozen.state_dict()  # type: ignore[operator, union-attr]
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert (float(logged[0]["apart"]) > 0) == bool(changes)
    assert 0 < float(logged[0]["global_nme"]) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_model": "smal"}, "regional.global_model 'smal': no such checkpoint"),
        ({"view": 10}, "regional.view"),
        ({"lowest": 200}, "regional: lowest 200 is more than view 96"),
        ({"jiter": 1}, "unknown key regional.jiter"),
    ],
)
def test_wrong_recipes_are_refused(
    global_run: Path, root: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, WeightsError), match=message):
        trainer(recipe(global_run, **changes), root, tmp_path / "run")


def test_sizes_margins_and_other_sections_must_suit(global_run: Path, root: Path, tmp_path: Path) -> None:
    good = recipe(global_run).model_dump()
    stages = [{**STAGE, "size": 64}, {**STAGE, "size": 96}]
    with pytest.raises(ConfigError, match="the crops of regions have one size"):
        trainer(parse({**good, "stages": stages}, "x"), root, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"layout ibug68 and margin 1.25, the recipe has ibug68 and 1.5"):
        trainer(parse({**good, "data": {"margin": 1.5}}, "x"), root, tmp_path / "run")
    with pytest.raises(ConfigError, match="leave out the sections caricature, unlabelled"):
        parse({**good, "unlabelled": {}}, "x")


@pytest.mark.slow
def test_the_command_trains_and_refuses(global_run: Path, root: Path, tmp_path: Path) -> None:
    text = f"""name = "near"
    [network]
    size = "nano"
    [regional]
    global_model = "{global_run}"
    view = 96
    lowest = 48
    [[stages]]
    size = 64
    epochs = 1
    batch = 16
    """
    (tmp_path / "near.toml").write_text(text)
    message = run("train", tmp_path / "near.toml", "--data", root, "--out", tmp_path / "run", "--device", "cpu")
    assert "best validation NME" in message
    assert {"config.json", "log.csv", "best.safetensors", "last.safetensors", "curves.png"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    with pytest.raises(ConfigError, match="--global-model goes with a regional network"):
        run("export", global_run, "--data", root, "-o", tmp_path / "x.onnx", "--global-model", "small")


@pytest.mark.slow
def test_what_cannot_be_released_or_ignored_is_refused(global_run: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key regional\.joint"):  # version 1 could train both networks
        recipe(global_run, joint=True)
    trainer(recipe(global_run, epochs=1), root, tmp_path / "regions").run()
    with pytest.raises(WeightsError, match="a regional network, which reads parts of faces"):
        trainer(recipe(tmp_path / "regions"), root, tmp_path / "on_regions")
    good = recipe(global_run).model_dump()
    with pytest.raises(ConfigError, match="regional: its loss is laplace_kl"):
        parse({**good, "loss": {"name": "soft_argmax_l1"}}, "x")
    wrong = r"init names a network of the recipe's layout \(ibug68\) and shape \(.*width=8"
    with pytest.raises(WeightsError, match=wrong):
        trainer(parse({**good, "init": "tiny"}, "x"), root, tmp_path / "run")


@pytest.mark.slow
def test_a_regional_run_goes_on_from_another(global_run: Path, root: Path, tmp_path: Path) -> None:
    trainer(recipe(global_run, epochs=1), root, tmp_path / "first").run()
    further = {**recipe(global_run, epochs=1).model_dump(), "init": str(tmp_path / "first")}
    started = trainer(parse(further, "x"), root, tmp_path / "second").network.regional.state_dict()  # type: ignore[operator, union-attr]
    saved = checkpoints.load(tmp_path / "first" / "best.safetensors")[0]["ema"]
    assert {"bias", "sharpness"} < set(started)
    for name, value in started.items():
        torch.testing.assert_close(value, saved[f"regional.{name}"])
    other = {**further, "stages": [{**STAGE, "size": 96}]}
    with pytest.raises(WeightsError, match=r"that reads whole faces, or regions in crops of 96x96"):
        trainer(parse(other, "x"), root, tmp_path / "none")


def test_hidden_points_are_no_targets_of_regions(root: Path, tmp_path: Path) -> None:
    run = trainer(recipe(Path("nano")), root, tmp_path / "run")
    task, faces = run.task, run._stores()[0]
    assert isinstance(task, Regions)
    faces.visible[:, :10], faces.visible[:, 10:20] = 0.0, 1.0
    batch = task.batch(faces, torch.arange(8), task.recipe.stages[0], Step(0, 0.0, step_generator(0, 0, 0, 0)), None)
    known = torch.isfinite(batch.landmarks).all(dim=2)
    mirrored = layout("ibug68").mirror[np.arange(10)]  # of the mirrored faces
    assert (~known[:, :10].all(dim=1) | ~known[:, mirrored].all(dim=1)).all()
    assert known[:, 27:].all()
    assert (known.sum(dim=1) == 58).all()


@pytest.mark.slow
def test_a_larger_regional_network_teaches_a_narrower_one(global_run: Path, root: Path, tmp_path: Path) -> None:
    """The narrow network starts with the weights of ``init`` and ends nearer to the teacher's heatmaps than without."""
    trainer(recipe(global_run, epochs=4), root, tmp_path / "teacher").run()
    good = recipe(global_run, epochs=4, stage={"learning_rate": 2e-3}).model_dump()
    taught = {"distillation": {"teacher": str(tmp_path / "teacher"), "weight": 5.0}, "init": str(global_run)}
    config = parse({**good, **taught}, "x")
    student = trainer(config, root, tmp_path / "taught")
    start, state = (
        network.state_dict() for network in (student.network.regional.network, student.network.global_network)
    )  # type: ignore[union-attr, operator]
    torch.testing.assert_close(
        start["encoder.0.first.conv.high_to_high.weight"], state["encoder.0.first.conv.high_to_high.weight"]
    )
    student.run()
    distances = [float(row["distillation"]) for row in rows(tmp_path / "taught")]
    assert 0 < distances[-1] < distances[0]
    trainer(parse(good, "x"), root, tmp_path / "alone").run()
    assert all(float(row["distillation"]) == 0 for row in rows(tmp_path / "alone"))
    assert divergence(config, root, tmp_path, "taught") < divergence(config, root, tmp_path, "alone")
    for teacher, error in ((str(global_run), WeightsError), ("small", WeightsError)):
        with pytest.raises(error, match=r"reads whole faces|no such checkpoint"):
            trainer(parse({**good, "distillation": {"teacher": teacher}}, "x"), root, tmp_path / "none")
    other = {**good, **taught, "stages": [{**STAGE, "size": 96}]}
    with pytest.raises(ConfigError, match=r"reads ibug68 in crops of 64x64, the recipe ibug68 in 96x96"):
        trainer(parse(other, "x"), root, tmp_path / "none")


def divergence(config: Recipe, root: Path, folder: Path, run: str) -> float:
    """The mean divergence of a run's heatmaps from its teacher's, on the validation faces."""
    judge = trainer(config, root, folder / f"judge of {run}")
    checkpoints.fill(judge.network, checkpoints.load(folder / run / "last.safetensors")[0]["ema"], folder)
    faces, objective = judge._stores()[1], judge.objective
    assert isinstance(objective, RegionalObjective)
    assert isinstance(judge.task, Regions)
    model = judge.network.eval()
    with torch.no_grad():
        return sum(float(objective._taught(view)) for view, _ in judge.task._views(model, faces))


def test_eyes_are_shut_in_regional_batches_too(root: Path, tmp_path: Path) -> None:
    openings = []
    for share in (0.0, 1.0):
        table = {**recipe(Path("nano")).model_dump(), "eyes": {"share": share, "shut": 1.0}}
        run = trainer(parse(table, "x"), root, tmp_path / f"share {share}")
        task, faces = run.task, run._stores()[0]
        assert isinstance(task, Regions)
        step = Step(0, 0.0, step_generator(0, 0, 0, 0))
        batch = task.batch(faces, torch.arange(8), task.recipe.stages[0], step, None)
        openings.append(layout("ibug68").eye_opening(batch.landmarks.numpy()).min(axis=1))
    assert openings[0].min() > 0.08
    assert openings[1].max() < 0.02


def test_random_placements() -> None:
    generator = torch.Generator().manual_seed(0)
    moved = jitter(2000, 64, 5.0, 0.06, generator)
    middle = moved[:, :, :2] @ torch.full((2,), 31.5) + moved[:, :, 2] - 31.5
    assert middle.std() == pytest.approx(0.06 * 64, rel=0.08)
    scale = torch.hypot(moved[:, 0, 0], moved[:, 1, 0])
    assert scale.log().std() == pytest.approx(0.06, rel=0.08)
    assert torch.rad2deg(torch.atan2(moved[:, 1, 0], moved[:, 0, 0])).std() == pytest.approx(5.0, rel=0.08)
    still = jitter(3, 64, 0.0, 0.0, generator)
    torch.testing.assert_close(still, torch.eye(2, 3).expand(3, 2, 3))


def test_shrinking_keeps_places_and_loses_detail() -> None:
    picture = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    picture[:, :, 40:60, 70:90] = 200
    soft = at_lower_resolution(picture, 24, torch.Generator().manual_seed(2))
    assert soft.shape == picture.shape
    weight = soft[0, 0].float()
    axis = torch.arange(128.0)
    assert (weight.sum(0) * axis).sum() / weight.sum() == pytest.approx(79.5, abs=0.6)
    assert (weight.sum(1) * axis).sum() / weight.sum() == pytest.approx(49.5, abs=0.6)
    assert len(soft.unique()) > 3


def test_a_set_without_the_regions_points_is_refused(root: Path, global_run: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="300w has 68 points, layout ibug68; layout aflw19 has 19"):
        trainer(parse({**recipe(global_run).model_dump(), "layout": "aflw19"}, "x"), root, tmp_path / "run")
    assert models.REGIONS not in models.available()
