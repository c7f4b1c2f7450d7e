"""What a larger network shows, and that it reaches the student and nothing else."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from command_line import run
from drawn_faces import draw_face, write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError, WeightsError
from octamark.geometry import crop, crop_transform, landmark_boxes, squares
from octamark.layouts import layout
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.training import checkpoints
from octamark.training.data import ROOM
from octamark.training.engine import Trainer
from octamark.training.objectives import Batch, Prediction
from octamark.training.objectives.distillation import Distiller, heatmap_kl, redrawn
from octamark.training.recipe import Recipe, parse
from octamark.training.shards import write_shard
from octamark.training.steps import Step, step_generator

STAGE = {"size": 64, "epochs": 3, "batch": 4, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=8, validation=4)


def recipe(**more: object) -> Recipe:
    table = {"name": "drawn", "seed": 3, "network": {"size": "nano"}, "stages": [STAGE], **more}
    return parse(table, "recipe")


def trainer(one: Recipe, root: Path, out: Path, *, resume: bool = False) -> Trainer:
    sets = labelled_sets(one.data, root, layout(one.layout), one.seed)
    return Trainer(one, sets, out, device="cpu", resume=resume)


def distiller(run: Trainer) -> Distiller:
    found = run.objective.terms["distillation"]  # type: ignore[attr-defined]
    assert isinstance(found, Distiller)
    return found


def log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that has learned something."""
    out = tmp_path_factory.mktemp("teacher")
    trainer(recipe(stages=[{**STAGE, "epochs": 20}]), root, out).run()
    return str(out)


def drawn(position: float, spread: float) -> torch.Tensor:
    return heatmaps.draw(Points(torch.full((1, 1, 2), position), torch.full((1, 1, 2), spread)), 16, 16)


def test_heatmap_kl_of_known_maps() -> None:
    taught = torch.zeros(1, 2, 2, 2)
    taught[0, 0, 0] = 0.5  # two places alike: half a pixel of spread along x, none along y
    taught[0, 1, 1, 1] = 1.0
    p = torch.full((1, 2, 2, 2), 0.25)
    expected = torch.tensor([2.0, 4.0]).log() * torch.tensor([1 / (1 + 0.25**2), 1.0])
    torch.testing.assert_close(heatmap_kl(taught, p, 1.0), expected.mean())
    torch.testing.assert_close(heatmap_kl(taught, taught, 1.0), torch.zeros(()))
    assert torch.isfinite(heatmap_kl(p, taught, 1.0))


def test_heatmap_kl_grows_with_distance_and_trusts_the_certain() -> None:
    near, far = (heatmap_kl(drawn(7.0, 0.7), drawn(x, 0.7), 1.0) for x in (7.5, 9.0))
    assert 0 < near < far
    certain, unsure = (heatmap_kl(drawn(7.0, b), torch.full((1, 1, 16, 16), 1 / 256), 0.1) for b in (0.3, 3.0))
    assert unsure < 0.05 * certain


def test_gradients_reach_the_student_alone() -> None:
    taught, p = drawn(7.0, 0.7).requires_grad_(), drawn(8.0, 0.7).requires_grad_()
    heatmap_kl(taught, p, 1.0).backward()
    assert taught.grad is None
    assert p.grad is not None
    assert p.grad.abs().sum() > 0


@pytest.mark.slow
def test_the_teacher_reads_undamaged_views_and_stays_as_it_is(root: Path, teacher: str, tmp_path: Path) -> None:
    one = recipe(distillation={"teacher": teacher, "weight": 2.0}, seed=4)
    student = trainer(one, root, tmp_path / "student")
    saved = checkpoints.load(Path(teacher) / "best.safetensors")[0]["ema"]
    seen: list[torch.Tensor] = []
    distiller(student).network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    faces, _ = student._stores()
    chosen = next(student._chosen(one.stages[0]))
    step = Step(0, 0.0, step_generator(4, 0, 0, 0))
    drawn = student.task.draw(faces, chosen, one.stages[0], step)
    batch = student.task.batch(faces, chosen, one.stages[0], step, drawn)
    student.run()
    torch.testing.assert_close(seen[0], batch.undamaged)
    assert not torch.equal(batch.pictures, batch.undamaged)
    state = distiller(student).network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    assert not distiller(student).network.training
    assert all(p.grad is None for p in distiller(student).network.parameters())


@pytest.mark.slow
def test_it_draws_the_student_to_the_teacher(root: Path, teacher: str, tmp_path: Path) -> None:
    """The student's heatmaps end nearer to the teacher's than those of a network that learned from labels alone."""
    taught = {"teacher": teacher, "weight": 5.0}
    for name, more in (("alone", {}), ("taught", {"distillation": taught})):
        trainer(recipe(seed=4, stages=[{**STAGE, "epochs": 10}], **more), root, tmp_path / name).run()
    rows = log(tmp_path / "taught")
    assert float(rows[-1]["distillation"]) < float(rows[0]["distillation"])
    assert all("distillation" not in row for row in log(tmp_path / "alone"))
    distances = []
    for name in ("alone", "taught"):
        judge = trainer(recipe(distillation=taught), root, tmp_path / f"judge of {name}")
        checkpoints.fill(judge.network, checkpoints.load(tmp_path / name / "last.safetensors")[0]["ema"], tmp_path)
        faces, _ = judge._stores()
        pictures = faces.pictures[:, :, 20:84, 20:84] / 255
        with torch.no_grad():
            maps = judge.network.eval()(pictures)
            distances.append(float(distiller(judge).distance(pictures, heatmaps.probabilities(maps), 1.0)))
    assert distances[1] < distances[0]


@pytest.mark.slow
def test_resumed_goes_on_with_its_teacher(root: Path, teacher: str, tmp_path: Path) -> None:
    one = recipe(distillation={"teacher": teacher})
    longer = one.model_copy(update={"stages": (*one.stages, *one.stages)})
    trainer(one, root, tmp_path / "halves").run()
    trainer(longer, root, tmp_path / "halves", resume=True).run()
    trainer(longer, root, tmp_path / "at once").run()
    ends = [log(tmp_path / name)[-1] for name in ("halves", "at once")]
    assert ends[0]["distillation"] != "0.0"
    assert {**ends[0], "seconds": ""} == {**ends[1], "seconds": ""}


@pytest.mark.slow
def test_command_line_with_faces_that_have_no_labels(
    root: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distillation on labelled and unlabelled faces; --unlabelled adds no mean teacher where a larger one teaches."""
    kept = []
    for seed in range(6):
        picture, points = draw_face(9000 + seed)
        square = squares(landmark_boxes(points), 1.25 * ROOM)[0]
        kept.append(torch.from_numpy(crop(picture, crop_transform(square, 128), 128)).permute(2, 0, 1))
    write_shard(tmp_path / "faces.safetensors", torch.stack(kept), margin=1.25)
    one = recipe(distillation={"teacher": teacher})
    table = one.model_dump(mode="json", exclude={"unlabelled", "init"})
    (tmp_path / "recipe.json").write_text(json.dumps(table))
    counts: list[int] = []
    distance = Distiller.distance
    monkeypatch.setattr(
        Distiller, "distance", lambda self, plain, *rest: counts.append(len(plain)) or distance(self, plain, *rest)
    )
    run(
        "train", tmp_path / "recipe.json", "--data", root, "--unlabelled", tmp_path / "faces.safetensors",
        "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert set(counts) == {4 + 16}  # labelled and unlabelled faces of each step
    adapted = parse(json.loads((tmp_path / "run" / "config.json").read_text()), "x")
    assert adapted.unlabelled is not None
    assert adapted.unlabelled.teacher is None
    assert all(float(row["distillation"]) > 0 and "consistency" not in row for row in log(tmp_path / "run"))


@pytest.mark.slow
def test_it_teaches_at_its_own_size_alone(root: Path, teacher: str, tmp_path: Path) -> None:
    stages = [{**STAGE, "size": 32, "epochs": 1}, {**STAGE, "epochs": 1}]
    trainer(recipe(distillation={"teacher": teacher}, stages=stages), root, tmp_path / "run").run()
    assert [float(row["distillation"]) > 0 for row in log(tmp_path / "run")] == [False, True]


@pytest.mark.slow
def test_where_no_stage_has_its_size_it_reads_resized_views(root: Path, teacher: str, tmp_path: Path) -> None:
    """The student's points at 96 pixels end nearer to those of the teacher at 64 than without it."""
    stages, taught = [{**STAGE, "size": 96, "epochs": 8}], {"teacher": teacher, "weight": 5.0}
    for name, more in (("alone", {}), ("taught", {"distillation": taught})):
        trainer(recipe(seed=4, stages=stages, **more), root, tmp_path / name).run()
    rows = log(tmp_path / "taught")
    assert 0 < float(rows[-1]["distillation"]) < float(rows[0]["distillation"])
    distances = []
    for name in ("alone", "taught"):
        judge = trainer(recipe(distillation=taught, stages=stages), root, tmp_path / f"judge of {name}")
        checkpoints.fill(judge.network, checkpoints.load(tmp_path / name / "last.safetensors")[0]["ema"], tmp_path)
        faces, _ = judge._stores()
        edge = (faces.pictures.shape[-1] - 96) // 2
        pictures = faces.pictures[:, :, edge : edge + 96, edge : edge + 96] / 255
        with torch.no_grad():
            p = heatmaps.probabilities(judge.network.eval()(pictures))
            distances.append(float(distiller(judge).distance(pictures, p, 1.0)))
    assert distances[1] < distances[0]


def test_redrawn_maps_have_the_same_points() -> None:
    maps = heatmaps.draw(Points(torch.tensor([[[20.0, 31.5]]]), torch.tensor([[[1.4, 2.1]]])), 56, 56)
    before, after = heatmaps.decode(maps), heatmaps.decode(redrawn(maps, 32 / 56, 0.25, 32))
    torch.testing.assert_close(after.position, (before.position + 0.5) * 32 / 56 - 0.5, atol=1e-3, rtol=0)
    torch.testing.assert_close(after.spread, before.spread * 32 / 56, atol=0.12, rtol=0)
    least = heatmaps.decode(redrawn(maps, 32 / 56, 3.0, 32)).spread
    assert bool((least > 2).all())


@pytest.mark.slow
def test_a_teacher_that_does_not_suit_is_refused(root: Path, tmp_path: Path) -> None:
    short = [{**STAGE, "epochs": 1}]
    for name, more in (("wide", {"data": {"margin": 2.0}}), ("l1", {"loss": {"name": "soft_argmax_l1"}})):
        trainer(recipe(stages=short, **more), root, tmp_path / name).run()
    for name, message in (
        ("wide", r"trained with margin 2\.0, the recipe's is 1\.25"),
        ("l1", "trained with the loss soft_argmax_l1"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer(recipe(distillation={"teacher": str(tmp_path / name)}), root, tmp_path / "none")


def test_refusals(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"distillation\.teacher 'enormous': no such checkpoint; .* nano, pico, .*small, small-art, .*tiny",
    ):
        trainer(recipe(distillation={"teacher": "enormous"}), root, tmp_path)
    with pytest.raises(ConfigError, match=r"distillation\.teacher"):
        recipe(distillation={})
    with pytest.raises(
        ConfigError, match=r"unknown key distillation\.model; allowed there: teacher, weight, sets, spread_at_half"
    ):
        recipe(distillation={"teacher": "small", "model": "x"})


def test_only_the_faces_of_the_named_sets_are_taught(teacher: str) -> None:
    """The gradient of each face's heatmaps: none for a face of a set that the recipe does not name."""
    sets = [{"name": "a", "format": "300w", "validation": "splits/val.txt"}, {"name": "b", "format": "300w"}]
    named = recipe(data=sets, distillation={"teacher": teacher, "sets": ["b"]})
    assert named.distillation is not None
    some = Distiller(named, named.distillation, Fabric(accelerator="cpu"))
    maps = torch.rand(4, 68, 16, 16, requires_grad=True)
    p = heatmaps.probabilities(maps)
    pictures = torch.rand(4, 3, 64, 64)
    owners = torch.tensor([0, 1, 0, 1])
    batch = Batch(pictures, pictures, torch.zeros(4, 68, 2), torch.ones(4, 68), owners, None, 1.0, 0.0)
    value, _ = some(batch, Prediction(p, heatmaps.decode(p)))
    value.backward()
    assert maps.grad is not None
    assert (maps.grad.flatten(1).abs().sum(dim=1) > 0).tolist() == [False, True, False, True]
    everywhere = recipe(data=sets, distillation={"teacher": teacher})
    assert everywhere.distillation is not None
    whole = Distiller(everywhere, everywhere.distillation, Fabric(accelerator="cpu"))
    alone = replace(batch, sets=torch.ones(4, dtype=torch.int64))
    detached = Prediction(p.detach(), heatmaps.decode(p.detach()))
    torch.testing.assert_close(some(alone, detached)[0], whole(alone, detached)[0])
    assert float(some(replace(batch, sets=torch.zeros(4, dtype=torch.int64)), detached)[0]) == 0.0
    with pytest.raises(ConfigError, match=r"distillation\.sets"):
        recipe(data=sets, distillation={"teacher": teacher, "sets": ["c"]})
