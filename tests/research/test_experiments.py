"""The table of experiments: every row belongs to a cell, runs are made, skipped and reported."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from drawn_faces import write_w300

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY))  # the scripts are run from the root of the clone, and are not installed

from research.tables import Results, flattened, is_recipe_key, merged, same_run  # noqa: E402

from research import experiments, report, tables  # noqa: E402

BASE = """
name = "experiment"
[network]
size = "nano"
[[stages]]
size = 64
epochs = 1
steps_per_epoch = 2
batch = 4
"""
TABLE = """
title = "The loss"
axis = "loss"
measures = ["nme", "best_nme", "failures"]
reading = "{lower[a > b]:.0f} {nme[a]}"
[[rows]]
name = "a"
turn = 1
[[rows]]
name = "b"
turn = 1
change.loss.maps = 1.0
[[rows]]
name = "gone"
turn = 1
retired = "the option was removed"
change.loss.no_such_option = 1.0
[[columns]]
name = "NME"
"""


def test_report_is_that_of_the_results() -> None:
    page = (report.DOCS / report.PAGE).read_text(encoding="utf-8")
    assert page == report.page(Results()), "run python -m research.report"


def test_every_run_belongs_to_a_cell_and_every_cell_has_its_runs() -> None:
    results = Results()
    wanted = {same_run(recipe) for cell in tables.all_cells() for recipe in cell.recipes}
    assert len(wanted) == len(results) == 106
    for cell in tables.all_cells():
        for recipe in cell.recipes:
            figures = results.find(recipe)
            assert figures is not None, (cell, recipe)
            if "portraits" not in figures:  # networks that saw no photograph are validated on rendered faces
                assert figures["nme"] == pytest.approx(figures["log.validation_nme"], rel=0.01)
            assert figures["best_nme"] == min(figures["nme_by_epoch"])
    experiments_left = [run for run in experiments.wanted_runs() if results.find(run.recipe) is None]
    assert experiments_left == []


def test_recipes_are_flattened_and_compared_by_value() -> None:
    recipe = {"name": "x", "loss": {"maps": 2.0}, "stages": [{"size": 128}], "unlabelled": {"adversary": {}}}
    assert flattened(recipe) == {"loss.maps": "2.0", "stages.0.size": "128", "unlabelled.adversary": "{}"}
    assert same_run(recipe) == same_run({**recipe, "name": "y"})
    assert same_run(recipe) != same_run(merged(recipe, {"loss": {"maps": 1.0}}))
    assert is_recipe_key("loss.maps")
    assert is_recipe_key("seed")
    assert not is_recipe_key("log.loss")


@pytest.mark.slow
def test_runs_are_made_once_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "base.toml").write_text(BASE)
    (configs / "loss.toml").write_text(TABLE)
    monkeypatch.setattr(tables, "CONFIGS", configs)
    monkeypatch.setattr(tables, "ORDER", ("loss",))
    results = tmp_path / "results.csv"
    arguments = argparse.Namespace(
        runs=tmp_path / "runs", results=results, data=write_w300(tmp_path / "300w"), unlabelled=None, only="^loss b",
        hours=1.0, portraits=None,
    )  # fmt: skip
    experiments.run_all(arguments)
    (row,) = Results(results).rows
    assert (row["row"], json.loads(row["loss.maps"]), row["seed"]) == ("b", 1.0, "0")
    assert json.loads(row["nme"]) > 0
    assert json.loads(row["faces"]) == 2
    arguments.only = None
    experiments.run_all(arguments)  # b is skipped, the retired row too
    found = Results(results)
    assert [row["row"] for row in found.rows] == ["b", "a"]
    before = results.read_bytes()
    experiments.run_all(arguments)
    assert results.read_bytes() == before
    page = report.page(found)
    assert "2 of 3 runs" in page
    (cell,) = (cell for cell in tables.all_cells() if cell.row == "b")
    assert f"| b | {100 * found.values(cell, 'nme')[0]:.2f} |" in page
    assert "| gone | - | - | - |" in page
