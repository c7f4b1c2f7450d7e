"""docs/reference/recipe.md is what tools/write_recipe_page.py writes today, and the recipes in the guides are valid."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from octamark.training.recipe import parse

REPOSITORY = Path(__file__).parent.parent
GUIDES = sorted([*(REPOSITORY / "docs" / "tutorials").glob("*.md"), *(REPOSITORY / "docs" / "how-to").glob("*.md")])
WHOLE = {"name": "guide", "stages": [{"size": 64, "epochs": 1}]}


def tables() -> list[tuple[str, str]]:
    """(page, text) of the blocks in the guides that hold a recipe or sections of one."""
    blocks = [
        (page.stem, block)
        for page in GUIDES
        for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    return [(page, block) for page, block in blocks if "points" not in tomllib.loads(block)]


def test_the_page_is_up_to_date() -> None:
    path = REPOSITORY / "tools" / "write_recipe_page.py"
    spec = importlib.util.spec_from_file_location("write_recipe_page", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run python tools/write_recipe_page.py"


@pytest.mark.parametrize(("page", "block"), tables())
def test_recipes_in_the_guides_are_valid(page: str, block: str) -> None:
    recipe = parse({**WHOLE, **tomllib.loads(block)}, page)
    assert recipe.stages


def test_recipes_are_found() -> None:
    assert {page for page, _ in tables()} >= {"own-points", "train", "unlabelled"}
