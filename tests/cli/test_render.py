"""The command line of rendering: what it refuses before it renders, and a small set from start to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import run

REPOSITORY = Path(__file__).parents[2]


def test_a_layout_without_vertices_is_refused(tmp_path: Path) -> None:
    result = run(["render", "-o", str(tmp_path / "out"), "--assets", str(tmp_path), "--layout", "cofw29"])
    assert result.code == 2
    assert "layout cofw29: its file has no vertices" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [["render"], ["heads"]])
def test_missing_assets_are_named(tmp_path: Path, verb: list[str]) -> None:
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    result = run([*verb, "-o", str(tmp_path / "out.png"), "--assets", str(tmp_path / "nowhere")])
    assert result.code == 2
    assert "nowhere: no ict/ict16.npz in this folder of assets" in result.stderr


def test_a_head_shows_a_layout_or_a_vertex_not_both(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    options = ["--assets", str(tmp_path), "--layout", "five", "--at", "3", "4"]
    result = run(["heads", "-o", str(tmp_path / "out.png"), *options])
    assert result.code == 2
    assert "not both" in result.stderr
