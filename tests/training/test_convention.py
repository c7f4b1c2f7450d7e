"""Labels of a set, moved to another set's convention by what a model reads in the set's pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drawn_faces import write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import DataError, WeightsError
from octamark.layouts import layout
from octamark.training import convention
from octamark.training.convention import aligned_sets, fit_convention
from octamark.training.engine import Trainer
from octamark.training.provenance import sources_of
from octamark.training.recipe import parse

IBUG = layout("ibug68")
MIRROR = torch.from_numpy(IBUG.mirror.copy())


def shapes(count: int, generator: torch.Generator) -> torch.Tensor:
    """Faces (n, 68, 2) that differ in width, height, jaw and place, pixels."""
    diagram = torch.tensor(IBUG.diagram, dtype=torch.float32)
    diagram = diagram - diagram.mean(dim=0)
    factors = 1 + 0.15 * torch.randn(count, 1, 2, generator=generator)
    jaw = torch.zeros(68)
    jaw[:17] = 1.0
    points = diagram * factors * 100 / diagram.abs().max()
    points[..., 0] = points[..., 0] + jaw * 0.2 * torch.randn(count, 1, generator=generator) * points[..., 0]
    return points + 128 + 4 * torch.randn(count, 1, 2, generator=generator)


def away(labels: torch.Tensor) -> torch.Tensor:
    """Another convention: brows higher by a share of the face's height, the outline wider in wide faces."""
    moved = labels.clone()
    extent = labels.amax(dim=1) - labels.amin(dim=1)
    moved[:, 17:27, 1] -= 0.08 * extent[:, None, 1]
    middle = labels[:, :, 0].mean(dim=1, keepdim=True)
    moved[:, :17, 0] = middle + (labels[:, :17, 0] - middle) * (0.8 + extent[:, None, 0] / 1000)
    return moved


def test_a_convention_is_found_behind_noise_and_failures() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = shapes(900, generator)
    truth = away(labels)
    readings = truth + 3 * torch.randn(truth.shape, generator=generator)
    lost = torch.rand(len(labels), generator=generator) < 0.1
    readings[lost] = labels[lost] + 40  # the model saw something else
    spread = torch.full_like(readings, 3.0)
    visible = torch.ones(len(labels), 68)
    visible[::3, 30] = 0
    readings[::3, 30] = 500.0  # a guess about a hidden point
    correction = fit_convention(labels, readings, spread, visible, MIRROR)
    others = shapes(300, torch.Generator().manual_seed(1))
    before = (others - away(others)).norm(dim=2).mean()
    after = (correction(others) - away(others)).norm(dim=2)
    assert after.mean() < 0.4 * before  # the mean of the readings would be 4 pixels off
    assert after[:, 30].mean() < 1.5
    flipped = others[:, MIRROR] * torch.tensor([-1.0, 1.0])
    expected = correction(others)[:, MIRROR] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(correction(flipped), expected, rtol=0, atol=0.02)


def test_a_correction_needs_faces() -> None:
    few = shapes(20, torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="20 faces"):
        fit_convention(few, few, few, torch.ones(20, 68), MIRROR)


def test_sets_with_a_convention_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convention, "LEAST_FACES", 8)
    root = write_w300(tmp_path / "w300", per_folder=6, validation=4)
    base = {"seed": 1, "network": {"size": "nano"},
            "stages": [{"size": 64, "epochs": 1, "batch": 8, "learning_rate": 5e-3}]}  # fmt: skip
    first = parse({**base, "name": "first", "data": {"format": "300w"}}, "first")
    Trainer(first, labelled_sets(first.data, root, IBUG), tmp_path / "first", device="cpu").run()
    data = [{"name": "a", "format": "300w", "validation": "splits/val.txt"},
            {"name": "b", "format": "300w", "convention": str(tmp_path / "first")}]  # fmt: skip
    second = parse({**base, "name": "second", "data": data}, "second")
    sets = labelled_sets(second.data, {"a": root, "b": root}, IBUG)
    counts: list[tuple[int, int]] = []
    moved = aligned_sets(sets, second, IBUG, lambda done, total: counts.append((done, total)))
    assert moved[0] is sets[0]
    assert counts == [(len(sets[1].training),) * 2]
    apart = [np.abs(x.landmarks - y.landmarks).max() for x, y in zip(moved[1].training, sets[1].training, strict=True)]
    assert min(apart) > 0
    assert "label convention" in {source.role for source in sources_of(second)}
    partial = replace(sets[1].training[0], landmarks=np.full((68, 2), np.nan, np.float32))
    with pytest.raises(DataError, match=r"'b'.*lack labels"):
        aligned_sets([sets[0], replace(sets[1], training=[partial])], second, IBUG)
    wrong = parse({**second.model_dump(), "data": [data[0], {**data[1], "convention": "nowhere"}]}, "wrong")
    with pytest.raises(WeightsError, match="nowhere"):
        aligned_sets(labelled_sets(wrong.data, {"a": root, "b": root}, IBUG), wrong, IBUG)
    trainer = Trainer(second, sets, tmp_path / "second", device="cpu")
    trainer.run()
    assert len(trainer.rows) == 1
