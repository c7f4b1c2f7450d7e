"""``octamark train``, ``curves`` and ``export``, in this process and on drawn faces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import octamark
from command_line import run
from drawn_faces import write_w300
from octamark.cli.train import calibration_hint, data_paths
from octamark.errors import ConfigError, DataError, OctamarkError, WeightsError
from octamark.geometry import landmark_boxes
from octamark.images import read_picture
from octamark.training import checkpoints
from set_fixtures import write_cariface, write_webcaricature

RECIPE = 'name = "drawn"\n[network]\nsize = "nano"\n[[stages]]\nsize = 64\nepochs = 1\nbatch = 4\n'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"))


def test_sheet_train_curves(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    run("train", recipe, "--data", root, "--sheet", tmp_path / "sheet.png")
    assert read_picture(tmp_path / "sheet.png").shape == (2 * 64, 8 * 64, 3)
    out = tmp_path / "run"
    message = run("train", recipe, "--data", root, "--out", out, "--device", "cpu")
    assert "epoch 1/1" in message
    assert "best validation NME" in message
    assert {"config.json", "log.csv", "curves.png", "last.safetensors", "best.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    run("curves", out, out / "best.safetensors", "-o", tmp_path / "two.png")
    assert read_picture(tmp_path / "two.png").shape[0] > 300


def test_mistakes_are_named(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("batch", "bach"))
    with pytest.raises(ConfigError, match=r"recipe\.toml: unknown key stages\.0\.bach; allowed there: size, epochs"):
        run("train", recipe, "--data", root)
    recipe.write_text(RECIPE)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        run("train", recipe, "--data", tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        run("export", tmp_path, "--data", root, "-o", tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match=r"weight files end in \.onnx"):
        run("export", tmp_path, "--data", root, "-o", tmp_path / "x.pt")
    (tmp_path / "splits.txt").write_text("afw/face_0\n")
    recipe.write_text(RECIPE.replace("[network]", '[data]\nvalidation = "splits.txt"\n[network]'))
    with pytest.raises(
        DataError, match=r"splits\.txt: no such file; data\.validation names one in the data folder .* or is a share"
    ):
        run("train", recipe, "--data", root)
    assert issubclass(ConfigError, OctamarkError)


@pytest.mark.slow
def test_a_model_of_68_points_is_tuned_to_17_on_caricatures(tmp_path: Path) -> None:
    names = [f"person {number // 4}/{'CP'[number % 2]}{number:05d}" for number in range(160)]
    truths = write_webcaricature(tmp_path / "set", names)["caricatures"]
    recipe, out, model = tmp_path / "recipe.toml", tmp_path / "run", tmp_path / "mine.onnx"
    data = '[data]\nformat = "webcaricature"\nsplit = "caricatures"\nvalidation = 0.5\n'
    recipe.write_text(f'layout = "webcaricature17"\ninit = "nano"\n{RECIPE}{data}[caricature]\nshare = 0.3\n')
    message = run("train", recipe, "--data", tmp_path / "set", "--out", out, "--device", "cpu")
    assert "last epoch's validation NME" in message
    assert "(inter-ocular, boxes from labels, 40 faces)" in message
    assert "give your own boxes" in run("export", out, "--data", tmp_path / "set", "-o", model)
    landmarker = octamark.load(model)
    card = landmarker.card
    assert card.layout == "webcaricature17"
    assert re.match(r"no commercial use: WebCaricature \(research use only.*; 300W \(research use only", card.terms)
    assert card.commercial_use is False
    assert {"labels", "validation", "initial weights"} <= {source.role for source in card.sources}
    assert card.training_data == "WebCaricature caricatures, 40 faces (40 held out); started from nano"
    truth = truths["person 0/C00000"]
    assert landmarker(truth.picture, landmark_boxes(truth.points[None])).landmarks.shape == (1, 17, 2)


def test_a_model_of_68_points_is_tuned_on_cariface(tmp_path: Path) -> None:
    write_cariface(tmp_path / "set", 6)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'init = "nano"\n{RECIPE}[data]\nformat = "cariface"\nvalidation = "test"\n')
    message = run("train", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run", "--device", "cpu")
    assert "best validation NME" in message
    assert "6 faces" in message


@pytest.mark.slow
def test_the_calibration_of_a_small_set_is_told_before_training(tmp_path: Path) -> None:
    names = [f"person {number // 4}/C{number:05d}" for number in range(48)]
    write_webcaricature(tmp_path / "set", names)
    recipe = tmp_path / "recipe.toml"
    data = '[data]\nformat = "webcaricature"\nsplit = "caricatures"\nvalidation = 0.5\n'
    recipe.write_text(f'layout = "webcaricature17"\ninit = "nano"\n{RECIPE}{data}')
    message = run("train", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run", "--device", "cpu")
    hint = message[: message.index("epoch 1/1")]
    assert "24 faces of 17 points are held out" in hint
    assert "to calibrate each point hold out 38 faces" in hint
    run("export", tmp_path / "run", "--data", tmp_path / "set", "-o", tmp_path / "mine.onnx")  # and it does
    assert octamark.load(tmp_path / "mine.onnx").card.calibration.kind == "global"
    assert calibration_hint(38, 17) == ""
    assert calibration_hint(37, 17) != ""


def test_several_sets_in_one_recipe(root: Path, tmp_path: Path) -> None:
    """Two sets, one in another layout, each with its share of the faces; paths by name, or in the recipe."""
    write_webcaricature(tmp_path / "drawn", [f"person {number}/C{number:05d}" for number in range(6)])
    recipe = tmp_path / "recipe.toml"
    sets = (
        '[[data]]\nname = "photos"\nformat = "300w"\nvalidation = "splits/val.txt"\nweight = 3\n'
        f'[[data]]\nformat = "webcaricature"\nsplit = "all"\npath = "{tmp_path / "drawn"}"\nweight = 1\n'
    )
    recipe.write_text(f'layout = "five"\n{RECIPE}{sets}')
    out = tmp_path / "run"
    message = run("train", recipe, "--data", f"photos={root}", "--out", out, "--device", "cpu")
    assert "2 faces" in message  # held out
    _, meta = checkpoints.load(out / "best.safetensors")
    assert {name.split("/")[0] for name in meta["learned_from"]} == {"photos", "webcaricature"}
    for arguments, message in (
        (["--data", root], "the recipe has the data sets photos, webcaricature; give NAME=PATH for each"),
        (["--data", "photos=x", "--data", "photos=y"], "each name once"),
        (["--data", f"photo={root}"], "no set of that name; its sets: photos, webcaricature"),
        ([], "data 'photos': no path; give it with --data, or as path in the recipe"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            run("train", recipe, *arguments, "--out", tmp_path / "none")


def test_a_path_may_look_like_a_name(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert data_paths([str(tmp_path / "a=b")]) == tmp_path / "a=b"
    assert data_paths(["a=b", "c=d=e"]) == {"a": Path("b"), "c": Path("d=e")}
    assert data_paths([]) is None


def test_faces_found_once_serve_training(root: Path, tmp_path: Path, photograph_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.png").write_bytes(photograph_path.read_bytes())
    message = run("crops", tmp_path / "own", "-o", tmp_path / "faces", "--size", 64)
    assert "1 faces in 1 pictures" in message
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    shared = ("--data", root, "--unlabelled", tmp_path / "faces", "--device", "cpu")
    assert "unlabelled: 1 faces in 1 pictures" in run("train", recipe, *shared, "--out", tmp_path / "run")
