"""``octamark label`` makes a set to train on from what ``octamark predict`` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import run
from octamark import layout
from octamark.datasets import read
from octamark.errors import ConfigError, DataError


def test_predictions_become_a_set(photograph_path: Path, tmp_path: Path) -> None:
    run("predict", photograph_path, "-m", "nano", "-o", tmp_path / "predictions")
    printed = run("label", tmp_path / "predictions", "-o", tmp_path / "set", "--max-error", "0.2")
    assert "1 of 1 faces in 1 pictures, by nano" in printed
    assert "learned from data with terms" in printed
    assert "commercial use: no" in " ".join(printed.split())
    (sample,) = read("coco", tmp_path / "set", layout=layout("ibug68"))
    assert sample.picture == photograph_path
    assert (tmp_path / "set" / "summary.txt").read_text() in printed


def test_faces_that_are_not_good_enough_are_an_error(photograph_path: Path, tmp_path: Path) -> None:
    run("predict", photograph_path, "-m", "nano", "-o", tmp_path / "predictions")
    with pytest.raises(DataError, match=r"no face to label: expected error above 0\.1% of the eye distance \(1\)"):
        run("label", tmp_path / "predictions", "-o", tmp_path / "set", "--max-error", "0.001")
    with pytest.raises(ConfigError, match="largest_kind 0"):
        run("label", tmp_path / "predictions", "-o", tmp_path / "set", "--largest-kind", "0")
