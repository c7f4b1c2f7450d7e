"""The semi-supervised loop on drawn faces: who learns from what, resuming, two processes, the command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from command_line import run
from drawn_faces import Oracle, draw_face, write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError, DataError, WeightsError
from octamark.geometry import crop, crop_transform, landmark_boxes, squares
from octamark.layouts import layout
from octamark.models import CropRule
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.training import checkpoints
from octamark.training.data import ROOM, endless_batch
from octamark.training.engine import Trainer
from octamark.training.objectives import Weight, adversary
from octamark.training.objectives.teacher import MeanTeacher
from octamark.training.recipe import Adversary, Recipe, parse
from octamark.training.shards import PictureStack, write_shard

BOTH = {"adversary": {"width": 8}, "teacher": {}, "batch": 4}
STAGE = {"size": 64, "epochs": 2, "steps_per_epoch": 3, "batch": 4, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=8, validation=4)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces as octamark crops would keep them; no detector finds a drawing."""
    side, kept = 128, []
    for seed in range(20):
        picture, points = draw_face(9000 + seed)
        square = squares(landmark_boxes(points), 1.25 * ROOM)[0]
        kept.append(torch.from_numpy(crop(picture, crop_transform(square, side), side)).permute(2, 0, 1))
    path = tmp_path_factory.mktemp("faces") / "faces.safetensors"
    write_shard(path, torch.stack(kept), margin=1.25)
    return path


def recipe(
    unlabelled: dict[str, object] | None = None, stage: dict[str, object] | None = None, **more: object
) -> Recipe:
    table = {"name": "drawn", "seed": 3, "network": {"size": "nano"}, "stages": [{**STAGE, **(stage or {})}], **more}
    return parse({**table, "unlabelled": BOTH if unlabelled is None else unlabelled}, "recipe")


def trainer(one: Recipe, root: Path, faces: Path | None, out: Path, *, resume: bool = False) -> Trainer:
    sets = labelled_sets(one.data, root, layout(one.layout), one.seed)
    return Trainer(one, sets, out, unlabelled=faces, device="cpu", resume=resume)


def mean_teacher(run: Trainer) -> MeanTeacher:
    found = run.objective.terms["teacher"]  # type: ignore[attr-defined]
    assert isinstance(found, MeanTeacher)
    return found


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def curve(run: Path) -> list[tuple[str, str]]:
    return [(row["loss"], row["validation_nme"]) for row in rows(run)]


def grads(module: torch.nn.Module) -> list[float]:
    return [float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None]


def test_gradients_flow_where_they_should_and_nowhere_else() -> None:
    torch.manual_seed(0)
    one = adversary.Adversary(Adversary(width=8), 68, Fabric(accelerator="cpu", precision="bf16-mixed"))
    network = OctaveNetwork(NetworkConfig(width=8))
    pictures, others = torch.rand(3, 3, 64, 64), torch.rand(2, 3, 64, 64)
    p = heatmaps.probabilities(network(torch.cat([pictures, others])))
    points = heatmaps.decode(p)
    known = Points(*(value[:3] for value in points))
    before = {name: value.clone() for name, value in one.discriminator.state_dict().items()}

    one.learn(pictures, known, 16 * torch.rand(3, 68, 2), others, p[3:])
    moved = [k for k, v in one.discriminator.named_parameters() if not torch.equal(v, before[k])]
    assert moved == [name for name, _ in one.discriminator.named_parameters()]  # D's step moves all of D
    assert grads(network) == []  # and reaches nothing of G

    before = {name: value.clone() for name, value in one.discriminator.state_dict().items()}
    one.fooling(others, p[3:]).backward()
    assert min(grads(network.head)) > 0  # G's step reaches G
    assert sum(value > 0 for value in grads(network)) > 0.9 * len(list(network.parameters()))
    assert grads(one.discriminator) == []  # and nothing of D, not even its power iteration
    assert all(torch.equal(value, before[k]) for k, value in one.discriminator.state_dict().items())
    assert all(parameter.requires_grad for parameter in one.discriminator.parameters())
    assert one.discriminator.training


def test_fooling_pulls_predictions_towards_what_d_calls_real() -> None:
    """D learns a fixed shape; free maps that only want to fool it come closer to that shape."""
    torch.manual_seed(0)
    one = adversary.Adversary(Adversary(width=16, learning_rate=1e-3), 5, Fabric(accelerator="cpu"))
    shape = torch.tensor([[4.0, 4], [11, 4], [7, 8], [5, 11], [10, 11]])
    start, spread = shape + 2 * torch.randn(8, 5, 2), torch.full((8, 5, 2), 1.5)
    maps = heatmaps.draw(Points(start, spread), 16, 16).log().requires_grad_()
    mover = torch.optim.Adam([maps], lr=0.05)
    pictures = torch.full((8, 3, 64, 64), 0.5)
    for _ in range(100):
        labels = shape + 0.3 * torch.randn(8, 5, 2)
        p = heatmaps.probabilities(maps)
        one.learn(pictures, Points(labels, spread), labels, pictures, p)
        one.fooling(pictures, p).backward()
        mover.step()
        mover.zero_grad()
    found = heatmaps.decode(heatmaps.probabilities(maps.detach())).position
    assert float((found - shape).abs().mean()) < 0.6 * float((start - shape).abs().mean())


@pytest.mark.parametrize("left_out", ["adversary", "teacher"])
def test_either_alone(root: Path, faces: Path, tmp_path: Path, left_out: str) -> None:
    one = trainer(recipe({k: v for k, v in BOTH.items() if k != left_out}), root, faces, tmp_path)
    one.run()
    log = rows(tmp_path)
    assert list(log[0]) == [name for name in one.columns if name != "seconds"]
    for part, names in (("adversary", ("discriminator", "fooling")), ("teacher", ("consistency", "teacher_spread"))):
        for name in names:
            assert (name in log[-1]) == (part != left_out)
            assert part == left_out or float(log[-1][name]) > 0
    assert ("discriminator" in checkpoints.load(one.folder.last)[0]) == (left_out == "teacher")


@pytest.mark.slow
def test_neither_is_the_supervised_loop(root: Path, faces: Path, tmp_path: Path) -> None:
    trainer(recipe({}), root, faces, tmp_path / "neither").run()
    plain = recipe({}).model_copy(update={"unlabelled": None})
    trainer(plain, root, None, tmp_path / "plain").run()
    assert curve(tmp_path / "neither") == curve(tmp_path / "plain")
    trainer(recipe(), root, faces, tmp_path / "both").run()
    assert curve(tmp_path / "both") != curve(tmp_path / "plain")


@pytest.mark.slow
def test_the_teacher_is_the_average_of_the_run(root: Path, faces: Path, tmp_path: Path) -> None:
    one = trainer(recipe(), root, faces, tmp_path)
    one.run()
    ema = checkpoints.load(one.folder.last)[0]["ema"]
    again = trainer(recipe(), root, faces, tmp_path, resume=True)  # what restores the average restores the teacher
    for teacher in (mean_teacher(one), mean_teacher(again)):
        assert all(torch.equal(value, ema[name]) for name, value in teacher.network.state_dict().items())
    assert all(grad.grad is None for grad in mean_teacher(one).network.parameters())


@pytest.mark.slow
def test_resumed_goes_on_with_both_optimisers(root: Path, faces: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainer(recipe(stage={"epochs": 4}), root, faces, whole).run()
    run = trainer(recipe(stage={"epochs": 4}), root, faces, cut)

    def stop(self: object, *_: object) -> None:
        if run.epoch == 2:
            raise StopIteration

    run.watcher.finished_epoch = stop.__get__(run.watcher)  # type: ignore[method-assign, attr-defined]
    with pytest.raises(StopIteration):
        run.run()
    saved = checkpoints.load(run.folder.last)[0]["discriminator moments"]
    assert float(saved["verdict.bias/step"]) == 6  # two epochs of three steps
    trainer(recipe(stage={"epochs": 4}), root, faces, cut, resume=True).run()
    assert rows(cut) == rows(whole)
    for mine, theirs in zip(
        *(checkpoints.load(run / "last.safetensors")[0].items() for run in (cut, whole)), strict=True
    ):
        assert mine[0] == theirs[0]
        assert mine[1].keys() == theirs[1].keys()
        assert all(torch.equal(value, theirs[1][name]) for name, value in mine[1].items()), mine[0]


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes(root: Path, faces: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe().model_dump_json())
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "octamark", "train"]
    arguments = [path, "--data", root, "--unlabelled", faces, "--out", tmp_path / "run", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *launch, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = rows(tmp_path / "run")
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(
        float(log[-1][name]) > 0 for name in ("loss", "discriminator", "fooling", "consistency", "teacher_spread")
    )
    groups, _ = checkpoints.load(tmp_path / "run" / "last.safetensors")
    assert all(torch.isfinite(value).all() for group in groups.values() for value in group.values())


def test_folder_is_searched_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from octamark.training import unlabelled

    calls: list[tuple[object, ...]] = []

    def collect(
        folder: Path,
        out: Path,
        size: int,
        margin: float,
        rule: CropRule,
        sources: object,
        *,
        advance: Callable[[int, int], None],
    ) -> unlabelled.UnlabelledFaces:
        calls.append((folder, size, margin))
        advance(1, 1)
        out.mkdir()
        write_shard(out / "0.safetensors", torch.zeros(3, 3, 205, 205, dtype=torch.uint8), margin=margin)
        return unlabelled.read(out)

    monkeypatch.setattr(unlabelled, "collect", collect)
    monkeypatch.setattr(unlabelled, "FaceDetector", Oracle)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "face.png").write_bytes(b"")
    trainer(recipe(stage={"epochs": 1}), root, tmp_path / "own", tmp_path / "run").run()
    longer = recipe(stages=[{**STAGE, "epochs": 1}, {**STAGE, "epochs": 1, "size": 96}])
    trainer(longer, root, tmp_path / "own", tmp_path / "run", resume=True).run()
    assert calls == [(tmp_path / "own", 64, 1.25)]
    assert len(unlabelled.read(tmp_path / "run" / "unlabelled")) == 3


def test_faces_on_disk_teach_what_faces_in_memory_do(
    root: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(recipe(stage={"epochs": 1}), root, faces, tmp_path / "memory").run()
    monkeypatch.setattr("octamark.training.data.MEMORY", 0)
    one = trainer(recipe(stage={"epochs": 1}), root, faces, tmp_path / "disk")
    one.run()
    assert isinstance(one.task.others[1], PictureStack)  # type: ignore[attr-defined]
    assert rows(tmp_path / "disk") == rows(tmp_path / "memory")


def test_endless_batches_go_round() -> None:
    batches = [endless_batch(7, 3, 5, step).tolist() for step in range(14)]
    everyone = [face for batch in batches for face in batch]
    for turn in range(6):
        assert sorted(everyone[7 * turn : 7 * turn + 7]) == list(range(7))
    assert everyone[:7] != everyone[7:14]
    assert sorted(endless_batch(2, 5, 0, 3).tolist()) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_weights_rise() -> None:
    assert [Weight(2.0, 0.2).at(progress) for progress in (0.0, 0.1, 0.2, 0.9)] == [0.0, 1.0, 2.0, 2.0]
    assert Weight(1.0).at(0.0) == 1.0


@pytest.mark.slow
def test_command_line(root: Path, faces: Path, tmp_path: Path) -> None:
    """A run, then its adaptation without a recipe: ``octamark train --init RUN --unlabelled FACES``."""
    path = tmp_path / "recipe.toml"
    path.write_text('name = "drawn"\n[network]\nsize = "nano"\n[[stages]]\nsize = 64\nepochs = 1\nbatch = 4\n')
    run("train", path, "--data", root, "--out", tmp_path / "plain", "--device", "cpu")
    shared = ("--data", root, "--unlabelled", faces, "--device", "cpu")
    message = run("train", "--init", tmp_path / "plain", *shared, "--out", tmp_path / "adapted")
    assert "unlabelled: 20 faces" in message
    assert "epoch 10/10" in message
    assert "20 faces" in checkpoints.load(tmp_path / "adapted" / "best.safetensors")[1]["unlabelled"]
    adapted = parse(json.loads((tmp_path / "adapted" / "config.json").read_text()), "x")
    assert adapted.name == "drawn-adapted"
    assert adapted.unlabelled is not None
    assert adapted.unlabelled.teacher is not None
    started = checkpoints.load(tmp_path / "plain" / "best.safetensors")[0]["ema"]
    one = trainer(recipe({}, init=str(tmp_path / "plain")), root, faces, tmp_path / "x")
    assert all(torch.equal(value, started[name]) for name, value in one.network.state_dict().items())
    run("train", path, *shared, "--out", tmp_path / "taught")  # a recipe without the section gets a teacher
    assert float(rows(tmp_path / "taught")[0]["teacher_spread"]) > 0


def test_init_by_name(root: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A released model goes by its name; what does not fit is refused by what differs."""
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name does not hide the model
    trainer(recipe({}, init="nano"), root, faces, tmp_path / "again")
    with pytest.raises(WeightsError, match=r"init '\./nano': no such checkpoint"):  # that folder, which is empty
        trainer(recipe({}, init="./nano"), root, faces, tmp_path / "again")
    with pytest.raises(
        WeightsError,
        match=r"init 'enormous': no such checkpoint; .* released model: nano, pico, .*small, small-art, .*tiny",
    ):
        trainer(recipe(init="enormous"), root, faces, tmp_path / "c")
    with pytest.raises(WeightsError, match=r"nano\.safetensors: .* trained with size 'nano' \(recipe: 'tiny'\)"):
        trainer(recipe(init="nano", network={"size": "tiny"}), root, faces, tmp_path / "c")


def test_refusals(root: Path, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section unlabelled"):
        trainer(recipe({}).model_copy(update={"unlabelled": None}), root, faces, tmp_path)
    with pytest.raises(ConfigError, match="learns from unlabelled faces: name them with --unlabelled"):
        trainer(recipe(), root, None, tmp_path)
    with pytest.raises(DataError, match=r"cropped with margin 1\.25, the recipe's is 1\.5"):
        trainer(recipe(data={"margin": 1.5}), root, faces, tmp_path / "a").run()
    with pytest.raises(DataError, match="no such folder"):
        trainer(recipe(), root, tmp_path / "nowhere", tmp_path / "b").run()
    with pytest.raises(ConfigError, match="which only the loss laplace_kl trains"):
        recipe(loss={"name": "soft_argmax_l1"})
    with pytest.raises(ConfigError, match=r"unknown key unlabelled\.teacher\.wait; allowed there: weight, warm_up"):
        recipe({"teacher": {"wait": 1}})
    path = tmp_path / "recipe.json"
    path.write_text(recipe().model_dump_json())
    with pytest.raises(ConfigError, match="name them with --unlabelled"):
        run("train", path, "--data", root)
    with pytest.raises(ConfigError, match="name a recipe; or adapt a trained model"):
        run("train", "--data", root, "--init", "small")
