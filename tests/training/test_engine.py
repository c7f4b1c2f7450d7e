"""The loop itself, on drawn faces: it learns, it resumes on the same curve, it runs in two processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from drawn_faces import write_w300
from octamark import models
from octamark.datasets.load import labelled_sets, training_and_validation
from octamark.errors import ConfigError, DataError, DeviceError, LayoutError, OutputError, WeightsError
from octamark.layouts import convert, layout
from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.training import checkpoints
from octamark.training.engine import Trainer
from octamark.training.optimisation import ExponentialAverage, learning_rate
from octamark.training.recipe import Recipe, Stage, parse
from octamark.training.starting import (
    adaptation,
    checkpoint_path,
    counterparts,
    margin_of_init,
    network_config,
    starting_network,
    trained_network,
)

RECIPE = """
name = "drawn"
seed = 3
[network]
size = "nano"
[[stages]]
size = 64
epochs = {epochs}
batch = 8
learning_rate = 5e-3
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=12, validation=6)


def config(epochs: int = 2, **changes: object) -> Recipe:
    table = {"name": "drawn", "seed": 3, "network": {"size": "nano"}}
    stage = {"size": 64, "epochs": epochs, "batch": 8, "learning_rate": 5e-3}
    return parse({**table, "stages": [stage], **changes}, "recipe")


def trainer(
    recipe: Recipe, root: Path, out: Path, *, resume: bool = False, workers: int = 0, device: str = "cpu"
) -> Trainer:
    sets = labelled_sets(recipe.data, root, layout(recipe.layout), recipe.seed)
    return Trainer(recipe, sets, out, device=device, workers=workers, resume=resume)


def curve(run: Path) -> list[tuple[str, ...]]:
    with (run / "log.csv").open() as file:
        return [(row["epoch"], row["loss"], row["validation_nme"]) for row in csv.DictReader(file)]


def command(root: Path, recipe: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "octamark", "train", str(recipe), "--data", str(root), "--out", str(out), "--device", "cpu", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_it_learns_and_leaves_all_that_a_run_should(root: Path, tmp_path: Path) -> None:
    best = trainer(config(epochs=25), root, tmp_path / "run").run()
    rows = curve(tmp_path / "run")
    assert len(rows) == 25
    assert float(rows[-1][1]) < 0.5 * float(rows[0][1])
    assert best < 0.5 * float(rows[0][2])
    assert best == min(float(row[2]) for row in rows)
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert parse(json.loads((tmp_path / "run" / "config.json").read_text()), "x") == config(epochs=25)
    groups, meta = checkpoints.load(tmp_path / "run" / "best.safetensors")
    assert set(groups) == {"ema"}
    assert meta["best_nme"] == best


def test_same_seed_same_curve_other_seed_another(root: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer(config(epochs=1, seed=seed), root, tmp_path / name).run()
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert curve(tmp_path / "a") != curve(tmp_path / "c")


@pytest.mark.slow
def test_killed_and_resumed_goes_on_with_the_same_curve(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(epochs=60))
    killed = tmp_path / "killed"
    arguments = command(root, recipe, killed)
    process = subprocess.Popen([sys.executable, *arguments], env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((killed / "log.csv").exists() and len(curve(killed)) >= 3):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, meta = checkpoints.load(killed / "last.safetensors")
    reached = meta["epoch"]
    assert 2 <= reached < 60

    short = reached + 2  # the learning rate follows the recipe, so both runs keep its 60 epochs and stop early
    whole = tmp_path / "whole"
    for out, resume in ((killed, True), (whole, False)):
        run = trainer(config(epochs=60), root, out, resume=resume)

        def stop(self: object, *_: object, run: Trainer = run) -> None:
            if run.epoch == short:
                raise StopIteration

        run.watcher.finished_epoch = stop.__get__(run.watcher)  # type: ignore[method-assign, attr-defined]
        torch.set_num_threads(1)
        with pytest.raises(StopIteration):
            run.run()
    assert curve(killed) == curve(whole)


def test_a_finished_run_may_gain_stages(root: Path, tmp_path: Path) -> None:
    trainer(config(epochs=2), root, tmp_path / "run").run()
    first = config(epochs=2).stages[0].model_dump()
    longer = config(stages=[first, {**first, "size": 96, "epochs": 1, "target_scale": 0.5}])
    best = trainer(longer, root, tmp_path / "run", resume=True).run()
    rows = curve(tmp_path / "run")
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert best == float(rows[-1][2])  # the best epoch is one of the last stage
    _, meta = checkpoints.load(tmp_path / "run" / "best.safetensors")
    assert meta["epoch"] == 3


def test_workers_make_the_same_batches(root: Path, tmp_path: Path) -> None:
    recipe = config(epochs=1, caricature={"share": 0.5}, augment={"noise": 0.5, "sensor": 0.5})
    made = []
    for workers in (0, 2):
        run = trainer(recipe, root, tmp_path / f"workers-{workers}", workers=workers)
        training, _ = run._stores()
        run.task.prepare(training)
        faces = run.task.for_stage(training, recipe.stages[0])
        made.append(list(run._batches(faces, faces, recipe.stages[0])))
    assert len(made[0]) == len(made[1]) > 1
    for here, there in zip(*made, strict=True):
        torch.testing.assert_close(there.pictures, here.pictures, atol=1e-4, rtol=0)
        torch.testing.assert_close(there.landmarks, here.landmarks, atol=1e-3, rtol=0)
        assert there.progress == here.progress
    assert trainer(config(epochs=1), root, tmp_path / "run", workers=2).run() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_learns_as_the_processor_does(root: Path, tmp_path: Path) -> None:
    here, there = (
        trainer(config(epochs=20), root, tmp_path / device, workers=workers, device=device).run()
        for device, workers in (("cpu", 0), ("cuda", 2))
    )
    assert there < 1.25 * here


@pytest.mark.slow
def test_a_set_held_out_as_a_whole_chooses_and_does_not_teach(root: Path, tmp_path: Path) -> None:
    other = write_w300(tmp_path / "other", per_folder=3, validation=1)
    (other / "splits" / "val.txt").unlink()
    data = [
        {"name": "drawn", "path": str(root), "weight": 1.0},
        {"name": "other", "path": str(other), "validation": 1.0},
    ]
    recipe = config(1, data=data)
    sets = labelled_sets(recipe.data, None, layout("ibug68"), recipe.seed)
    trainer = Trainer(recipe, sets, tmp_path / "run", device="cpu")
    trainer.run()
    assert trainer.learned == {face.name for face in sets[0].training}
    assert all(name.startswith("drawn/") for name in trainer.learned)
    assert trainer.counts == [36]
    assert trainer.shares == [1.0]


def test_errors_are_divided_by_the_normaliser_of_the_recipe(root: Path, tmp_path: Path) -> None:
    rows = {}
    for name in (None, "box"):
        recipe = config(1, normaliser=name)
        sets = labelled_sets(recipe.data, root, layout("ibug68"), recipe.seed, recipe.normaliser)
        trainer = Trainer(recipe, sets, tmp_path / str(name), device="cpu")
        trainer.run()
        rows[name] = trainer.rows[0]["validation_nme"]
    truth = np.stack([face.landmarks for face in sets[0].validation])
    ratio = layout("ibug68").distance(truth, "inter-ocular") / layout("ibug68").distance(truth, "box")
    assert rows["box"] == pytest.approx(rows[None] * ratio.mean(), rel=0.05)
    with pytest.raises(LayoutError, match="ibug68 has no normaliser 'nose'"):
        labelled_sets(recipe.data, root, layout("ibug68"), 0, "nose")
    with pytest.raises(ConfigError, match="normaliser: face-box needs the boxes of a set"):
        config(1, normaliser="face-box")


@pytest.mark.alone
def test_two_processes(root: Path, tmp_path: Path) -> None:
    """torchrun with gloo: one run, one log, and weights that both processes agreed on."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(epochs=2))
    out = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command(root, recipe, out)]
    done = subprocess.run([sys.executable, *launch], env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row[0] for row in curve(out)] == ["1", "2"]
    assert done.stderr.count("best validation NME") == 1
    groups, _ = checkpoints.load(out / "last.safetensors")
    alone = tmp_path / "alone"
    trainer(config(epochs=2), root, alone).run()
    one, _ = checkpoints.load(alone / "last.safetensors")
    name = "head.high_to_high.weight"
    assert torch.isfinite(groups["weights"][name]).all()
    assert not torch.equal(groups["weights"][name], one["weights"][name])  # batches were shared out: other draws


def test_refusals(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="nothing to resume"):
        trainer(config(), root, out, resume=True)
    trainer(config(epochs=1), root, out).run()
    with pytest.raises(OutputError, match="holds a run already"):
        trainer(config(epochs=1), root, out)
    with pytest.raises(ConfigError, match="another recipe"):
        trainer(config(epochs=2), root, out, resume=True)
    (out / "last.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 nonsense")
    with pytest.raises(WeightsError, match="damaged"):
        trainer(config(epochs=1), root, out, resume=True)
    with pytest.raises(DeviceError, match="devices: auto, cpu, cuda"):
        Trainer(config(), [], tmp_path / "x", device="abacus")
    tight = {"size": 32, "epochs": 1, "batch": 1}
    with pytest.raises(ConfigError, match=r"stages\.0\.batch: 1 of 30 faces over 1 processes"):
        trainer(config(stages=[tight]), root, tmp_path / "x")
    with pytest.raises(DataError, match="no such file or folder"):
        training_and_validation(config().data, tmp_path / "nowhere", layout("ibug68"), 0)


def test_learning_rate_warms_up_and_falls() -> None:
    stage = Stage(size=64, epochs=1, learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[99] == pytest.approx(0.01, abs=1e-3)


def test_moving_average() -> None:
    torch.manual_seed(0)
    network = OctaveNetwork(NetworkConfig(width=8))
    average = ExponentialAverage(network, decay=0.5)
    weight = network.head.high_to_high.weight  # type: ignore[union-attr]
    name, start = "head.high_to_high.weight", weight.detach().clone()  # type: ignore[union-attr]
    expected = start.clone()
    for step in range(3):
        with torch.no_grad():
            weight.add_(1.0)  # type: ignore[union-attr, operator]
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (start + step + 1)
        average.update(network)
        torch.testing.assert_close(average.state[name], expected)


def test_checkpoints_refuse_what_is_not_theirs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="damaged"):
        checkpoints.load(tmp_path / "b.safetensors")
    checkpoints.save(tmp_path / "d.safetensors", {"g": {"x": torch.arange(3)}}, {"n": 1})
    with pytest.raises(WeightsError, match=r"d\.safetensors: damaged, or not .* holds no recipe and log"):
        checkpoints.load(tmp_path / "d.safetensors")
    state = OctaveNetwork(NetworkConfig(width=8, landmarks=5)).state_dict()
    with pytest.raises(WeightsError, match="weights of another network"):
        checkpoints.fill(OctaveNetwork(NetworkConfig(width=8)), state, tmp_path / "d.safetensors")
    meta = {"config": {"name": "x"}, "rows": [1]}
    checkpoints.save(tmp_path / "c.safetensors", {"g": {"x": torch.arange(3)}}, meta)
    assert checkpoints.load(tmp_path / "c.safetensors")[1] == meta
    whole = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(whole[:-4])
    with pytest.raises(WeightsError, match=r"c\.safetensors: damaged"):
        checkpoints.load(tmp_path / "c.safetensors")


def test_whole_maps_add_to_the_loss(root: Path, tmp_path: Path) -> None:
    """``loss.maps``: the same faces, another loss, by the weighted KL from maps drawn around the labels."""
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        one = config(epochs=1, loss={"maps": weight}, optimiser={"clip": 1e-9, "weight_decay": 0.0})
        stage = one.stages[0].model_copy(update={"learning_rate": 1e-12})
        run = trainer(one.model_copy(update={"stages": (stage,)}), root, tmp_path / str(weight))
        run.run()
        losses[weight] = float(curve(tmp_path / str(weight))[0][1])
    assert losses[1.0] - losses[0.0] > 0.5
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * (losses[1.0] - losses[0.0]), rel=1e-3)


def test_another_layout_starts_with_all_but_the_head() -> None:
    theirs = OctaveNetwork(network_config(config())).state_dict()
    released, _, _ = trained_network(checkpoint_path("nano"))
    ours = starting_network(config(layout="webcaricature17", init="nano")).state_dict()
    heads = [name for name in ours if name.startswith("head.")]
    assert heads
    assert all(ours[name].shape != theirs[name].shape for name in heads)
    for name, value in released.state_dict().items():
        assert name in heads or name.startswith("visibility.") or torch.equal(value, ours[name])
    with pytest.raises(WeightsError, match=r"trained with size 'nano' \(recipe: 'tiny'\)"):
        starting_network(config(network={"size": "tiny"}, init="nano"))


def test_a_new_last_layer_takes_the_rows_of_corresponding_points(tmp_path: Path) -> None:
    """Heatmaps before the softmax are linear in the last layer: a mean of points has the mean of their maps."""
    released, _, _ = trained_network(checkpoint_path("nano"))
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = released.eval()(pictures)
        five = starting_network(config(layout="five", init="nano")).eval()(pictures)
    for index, points in enumerate((range(36, 42), range(42, 48), [30], [48], [54])):
        torch.testing.assert_close(five[:, index], theirs[:, list(points)].mean(dim=1), rtol=0, atol=1e-4)
    names = layout("ibug68").point_names
    (tmp_path / "own.toml").write_text(f'name = "own"\npoints = ["{names[57]}", "hat", "{names[8]}"]\n')
    ours = starting_network(config(layout=str(tmp_path / "own.toml"), init="nano"))
    with torch.no_grad():
        maps = ours.eval()(pictures)
    torch.testing.assert_close(maps[:, [0, 2]], theirs[:, [57, 8]], rtol=0, atol=1e-4)
    assert not any(torch.allclose(maps[:, 1], theirs[:, index], atol=0.1) for index in range(68))
    weights = counterparts(layout("manga60"), layout("ibug68"))
    assert weights.shape == (68, 60)
    assert set(weights.sum(dim=1).round(decimals=5).tolist()) == {0.0, 1.0}  # some have no counterpart


def test_a_share_of_the_start_is_kept_and_caricatures_end_with_the_last_epoch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = {"init": "nano", "optimiser": {"init_weight": 0.25}, "caricature": {"share": 0.5}}
    one = trainer(config(epochs=2, **keeping), root, tmp_path)
    validate = one.task.validate
    worse = lambda *args: (validate(*args)[0] + one.epoch, {})  # noqa: E731
    monkeypatch.setattr(one.task, "validate", worse)
    assert one.run() > 1
    start = trained_network(checkpoint_path("nano"))[0].state_dict()
    learned = checkpoints.load(tmp_path / "last.safetensors")[0]["ema"]
    kept, meta = checkpoints.load(tmp_path / "best.safetensors")
    resumed = trainer(config(epochs=2, **keeping), root, tmp_path, resume=True).average.result()
    assert all(torch.equal(value, kept["ema"][name]) for name, value in resumed.items())
    for name, value in kept["ema"].items():
        if value.dtype.is_floating_point:
            torch.testing.assert_close(value, 0.75 * learned[name] + 0.25 * start[name])
    assert any(not torch.equal(learned[name], start[name]) for name in start)
    assert meta["epoch"] == 2
    with pytest.raises(ConfigError, match=r"optimiser\.init_weight: name the weights to average with, in init"):
        config(optimiser={"init_weight": 0.25})


def test_averaging_with_the_start_needs_its_layout() -> None:
    with pytest.raises(WeightsError, match=r"cannot be averaged; leave out optimiser\.init_weight"):
        starting_network(config(layout="webcaricature17", init="nano", optimiser={"init_weight": 0.5}))


@pytest.mark.parametrize("name", models.available())
def test_a_released_model_adapts_with_its_first_set_alone(name: str) -> None:
    """All its landmarks learn, and nothing is needed that the user does not have."""
    one = adaptation(name)
    assert (one.caricature, one.optimiser.init_weight, one.distillation) == (None, 0.0, None)
    (section,) = one.data
    assert (section.title, section.convention) == (released_recipe(name).data[0].title, None)
    (stage,) = one.stages
    assert (stage.learns, stage.steps_per_epoch, stage.size) == ("all", None, released_recipe(name).stages[-1].size)


def test_adapting_with_sets_by_name() -> None:
    """Hidden points are learned where one of them tells them; labels go to the convention of the model itself."""
    alone, three = adaptation("small"), adaptation("small", ["300w", "profiles", "rendered"])
    assert (alone.visibility, alone.data[0].visibility) == (None, None)
    assert [section.title for section in three.data] == ["300w", "profiles", "rendered"]
    assert three.visibility == released_recipe("small").visibility
    assert [section.visibility for section in three.data] == ["labelled", "one-sided", "flags"]
    assert [section.convention for section in three.data] == [None, None, "small"]
    with pytest.raises(DataError, match=r"no set of that name; its sets: 300w, profiles, rendered"):
        labelled_sets(adaptation("small", ["mine"]).data, {"mine": Path("mine")}, layout("ibug68"))


def released_recipe(name: str) -> Recipe:
    return parse(checkpoints.metadata(checkpoint_path(name))["config"], name)


def test_the_margin_that_shows_what_the_start_was_trained_on(root: Path) -> None:
    """Crops around five points at that margin are as large as those around all 68 at the start's own."""
    margin = margin_of_init(config(layout="five", init="nano"))
    assert margin is not None
    faces, _ = training_and_validation(config().data, root, layout("ibug68"))
    sides = []
    for face in faces:
        five = convert(face.landmarks, layout("ibug68"), layout("five"))[0]
        sides.append(margin * np.ptp(five, axis=0).max() / (1.25 * np.ptp(face.landmarks, axis=0).max()))
    assert np.mean(sides) == pytest.approx(1, abs=0.1)  # the diagram is a mean face
    assert margin_of_init(config(init="nano")) is None
    assert margin_of_init(config(layout="five")) is None
    assert margin_of_init(config(layout="manga60", init="nano")) is None  # its pupils have no counterpart
