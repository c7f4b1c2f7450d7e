"""A run's folder: what a run goes on from, and when it must not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from drawn_faces import write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import DataError, OutputError, WeightsError
from octamark.layouts import layout
from octamark.release.model import half_checkpoint, load_network, release
from octamark.training import checkpoints
from octamark.training.engine import Trainer
from octamark.training.recipe import Recipe, parse
from octamark.training.starting import checkpoint_path


def config(**changes: object) -> Recipe:
    stage = {"size": 64, "epochs": 1, "batch": 8, "learning_rate": 5e-3}
    return parse({"name": "drawn", "network": {"size": "nano"}, "stages": [stage], **changes}, "recipe")


def trainer(recipe: Recipe, root: Path, out: Path, *, resume: bool = False) -> Trainer:
    return Trainer(recipe, labelled_sets(recipe.data, root, layout(recipe.layout)), out, device="cpu", resume=resume)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_w300(tmp_path / "w300", per_folder=8, validation=6)


def test_faces_that_were_learned_from_cannot_be_held_out_later(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = trainer(config(), root, run)
    first.run()
    learned = {face.name for face in first.sets[0].training}
    other = min(learned)
    listed = root / "splits" / "val.txt"
    names = listed.read_text().splitlines()
    for suffix in (".jpg", ".pts"):  # a face that is new in the set may be held out
        shutil.copy((root / names[0]).with_suffix(suffix), root / names[0].replace("face_0", f"new{suffix}"))
    listed.write_text("\n".join([*names[1:], names[0].replace("face_0", "new")]))
    gone_on = trainer(config(), root, run, resume=True)
    assert gone_on.learned == {*learned, names[0]}

    listed.write_text("\n".join([*names[1:], other]))
    message = f"has learned from 1 of the faces that are held out now, such as {other}"
    with pytest.raises(DataError, match=message):
        trainer(config(), root, run, resume=True)
    for trained in (run, run / "best.safetensors"):
        with pytest.raises(DataError, match=message):
            release(trained, root)
    shared = half_checkpoint(*(load_network(run)[index] for index in (0, 2)), ())
    assert other.encode() in (run / "last.safetensors").read_bytes()
    assert other.encode() not in shared


def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(root: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    shutil.copy(checkpoint_path("nano"), start)
    recipe = config(init=str(start))
    trainer(recipe, root, tmp_path / "run").run()
    start.unlink()
    stages = [*recipe.model_dump()["stages"]] * 2
    gone_on = trainer(config(init=str(start), stages=stages), root, tmp_path / "run", resume=True)
    gone_on.run()
    assert gone_on.epoch == 2
    with pytest.raises(WeightsError, match="no such checkpoint"):
        trainer(recipe, root, tmp_path / "new")


def test_a_checkpoint_that_lacks_a_part_is_named(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(config(), root, run).run()
    groups, meta = checkpoints.load(run / "last.safetensors")
    without = {name: group for name, group in groups.items() if name != "moments"}
    checkpoints.save(run / "last.safetensors", without, {key: meta[key] for key in ("config", "rows", "epoch")})
    message = r"last\.safetensors: damaged, it has no moments, best_nme, average_updates"
    with pytest.raises(WeightsError, match=message):
        trainer(config(), root, run, resume=True)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "config.json").mkdir(parents=True)  # nothing can be renamed over it, not even by root
    with pytest.raises(OutputError, match=r"config\.json: cannot be written"):
        trainer(config(), root, run)
    (run / "config.json").rmdir()
    trainer(config(), root, run).run()
    (run / "config.json").unlink()
    (run / "config.json").mkdir()
    with pytest.raises(OutputError, match=r"config\.json: cannot be written"):
        trainer(config(), root, run, resume=True)


def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a note")
    with pytest.raises(OutputError, match="run: cannot be made"):
        trainer(config(), root, tmp_path / "run")
