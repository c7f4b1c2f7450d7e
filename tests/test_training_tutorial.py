"""docs/tutorials/own-points.md: its commands run one after the other, on fewer pictures and for one epoch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octamark.cli import app
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
    layout, recipe = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("cat5.toml").write_text(layout)
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
