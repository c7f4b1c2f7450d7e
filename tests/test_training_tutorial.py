"""docs/tutorials/own-points.md: its commands run one after the other, on fewer pictures and for one epoch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octamark.cli import app
from octamark.layouts import layout
from octamark.training.recipe import load
from test_docs import DOCS, code_blocks, commands

PAGE = (DOCS / "tutorials" / "own-points.md").read_text(encoding="utf-8")


def shortened(text: str, before: str, after: str) -> str:
    """The text with one part replaced, which must be there."""
    assert before in text
    return text.replace(before, after)


@pytest.mark.slow
def test_commands_of_the_tutorial_make_a_model_that_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawing = shortened(code_blocks(PAGE)[0][0], "range(300)", "range(24)")
    exec(compile(drawing, "own-points.md", "exec"), {"__name__": "page"})  # noqa: S102
    table, recipe = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("cat5.toml").write_text(table)
    Path("cats.recipe.toml").write_text(shortened(recipe, "epochs = 20", "epochs = 1"))
    verbs = []
    for line in commands(PAGE):
        arguments = shlex.split(line)[1:]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception}"
        verbs.append(arguments[0])
    assert verbs == ["train", "train", "export", "predict"]
    for file in ("sheet.png", "runs/cats/best.safetensors", "cats.onnx", "out/new_cat.overlay.png"):
        assert Path(file).is_file()


def test_layout_and_recipe_of_the_tutorial_on_rendered_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "tutorials" / "rendered-points.md").read_text(encoding="utf-8")
    table, text = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    Path("details.toml").write_text(table)
    Path("details.recipe.toml").write_text(text)
    recipe = load(Path("details.recipe.toml"))
    points = layout(recipe.layout)
    assert recipe.normaliser == "box"
    assert len(points.places) == points.count == 11
    assert recipe.data[0].path == f"faces/landmarks-{points.name}.json"
    vertex = points.point_names.index("left_ear_top")
    (shown,) = re.findall(r"^vertex (\d+) at .*; on the other side (\d+)$", page, re.MULTILINE)
    assert points.places[vertex].vertices == (int(shown[0]),)
    assert points.places[points.mirror[vertex]].vertices == (int(shown[1]),)
