"""The loss of the opening of eyes: its value by hand, its gradient, and that runs use it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from drawn_faces import write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError
from octamark.inference.regions import RegionTable
from octamark.layouts import layout
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE
from octamark.training.engine import Trainer
from octamark.training.objectives import Batch, FaceObjective
from octamark.training.objectives.openings import Openings, opening_loss
from octamark.training.objectives.regional import RegionalObjective
from octamark.training.recipe import parse

IBUG = layout("ibug68")
EYES = tuple(IBUG.eyes.values())
UPPER, LOWER = [37, 38, 43, 44], [41, 40, 47, 46]


def eyes_open(right: float, left: float, angle: float = 0.0) -> Tensor:
    """(1, 68, 2) a face whose eyes are 4 wide and ``right`` and ``left`` high, turned by an angle in degrees."""
    points = torch.zeros(1, 68, 2, dtype=torch.float64)
    rows = [[0, 0], [1, -1], [3, -1], [4, 0], [3, 1], [1, 1]]
    for first, x, height in ((36, 10.0, right), (42, 20.0, left)):
        eye = torch.tensor(rows, dtype=torch.float64) * torch.tensor([1.0, height / 2], dtype=torch.float64)
        points[0, first : first + 6] = eye + torch.tensor([x, 12.0])
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return points @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.0, 30.0, 180.0])
def test_the_loss_is_the_mean_error_of_the_distances_of_the_lids(angle: float) -> None:
    truth, predicted = eyes_open(1.0, 0.0, angle), eyes_open(1.4, 1.0, angle)
    assert float(opening_loss(predicted, truth, EYES, 0.5)) == pytest.approx((0.4 + 1.0) / 2 / 0.5)
    assert float(opening_loss(truth + 3.0, truth, EYES, 0.5)) == pytest.approx(0.0)  # a shift opens nothing
    sideways = predicted.clone()
    sideways[:, UPPER] += sideways[:, [39]] - sideways[:, [36]]  # along the eye
    assert float(opening_loss(sideways, truth, EYES, 0.5)) == pytest.approx(1.4)


def test_shut_eyes_weigh_more() -> None:
    """Openings of 0.05, 0.15 and 0.3: shut, half way from shut to narrow, normal."""
    for height, weight in ((0.2, 5.0), (0.6, 3.0), (1.2, 1.0)):
        truth, predicted = eyes_open(height, height), eyes_open(height + 0.5, height + 0.5)
        assert float(opening_loss(predicted, truth, EYES, 1.0, 5.0)) == pytest.approx(0.5 * weight)
        assert float(opening_loss(predicted, truth, EYES, 1.0)) == pytest.approx(0.5)


def test_its_gradient_closes_lids_that_are_read_too_open() -> None:
    truth, position = eyes_open(0.0, 0.0), eyes_open(1.0, 1.0).requires_grad_()
    opening_loss(position, truth, EYES, 1.0).backward()
    assert position.grad is not None
    assert (position.grad[0, UPPER, 1] < 0).all()  # descent moves upper lids down
    assert (position.grad[0, LOWER, 1] > 0).all()
    others = [point for point in range(68) if point not in UPPER + LOWER]
    assert not position.grad[0, others].any()
    heights = []
    for _ in range(40):
        position = (position.detach() - 0.2 * position.grad).requires_grad_()  # type: ignore[operator]
        opening_loss(position, truth, EYES, 1.0).backward()
        heights.append(float(IBUG.eye_opening(position.detach().numpy()).mean()))
    assert heights[-1] < 0.02 < heights[0]


@pytest.mark.parametrize("height", [0.0, -0.3])
def test_lids_that_meet_or_cross_have_finite_gradients(height: float) -> None:
    truth, position = eyes_open(0.0, 0.0), eyes_open(height, height).requires_grad_()
    loss = opening_loss(position, truth, EYES, 0.25, 4.0)
    assert float(loss.detach()) == pytest.approx(abs(height) / 0.25 * 4)
    loss.backward()
    assert position.grad is not None
    assert torch.isfinite(position.grad).all()


def test_an_eye_without_all_labels_has_no_part() -> None:
    truth, position = eyes_open(1.0, 0.5), eyes_open(2.0, 2.0).requires_grad_()
    for missing in (36, 38, 41):
        partial = truth.clone()
        partial[0, missing] = torch.nan
        loss = opening_loss(position, partial, EYES, 1.0)
        assert float(loss.detach()) == pytest.approx(1.5)
        (grad,) = torch.autograd.grad(loss, position)
        assert torch.isfinite(grad).all()
        assert not grad[0, :42].any()
    flat = truth.clone()
    flat[0, 36:42] = 7.0  # no width, so no upright direction
    assert float(opening_loss(position, flat, EYES, 1.0).detach()) == pytest.approx(1.5)
    nothing = opening_loss(position, torch.full_like(truth, torch.nan), EYES, 1.0)
    assert float(nothing.detach()) == 0
    assert not torch.autograd.grad(nothing, position)[0].any()


def test_a_layout_without_lids_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.openings: layout five has no eyes with lids"):
        Openings(layout("five"), 1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=4, validation=2)


def trainer(root: Path, out: Path, **loss: float) -> Trainer:
    stages = [{"size": 64, "epochs": 1, "batch": 4, "learning_rate": 5e-3}]
    recipe = parse({"name": "drawn", "network": {"size": "nano"}, "stages": stages, "loss": loss}, "recipe")
    return Trainer(recipe, labelled_sets(recipe.data, root, IBUG, recipe.seed), out, device="cpu")


def test_a_run_adds_the_weighted_term_to_its_loss(root: Path, tmp_path: Path) -> None:
    run = trainer(root, tmp_path / "run", openings=2.0, shut_weight=3.0)
    objective = run.objective
    assert isinstance(objective, FaceObjective)
    truth = 40 + 8 * torch.rand(2, 68, 2)
    visible = torch.full((2, 68), torch.nan)
    visible[0, 40], visible[1, 40] = 0.0, 1.0  # a lid of the first face is hidden
    pictures = torch.rand(2, 3, 64, 64)
    batch = Batch(
        pictures, pictures, landmarks=truth, visible=visible, sets=torch.zeros(2, dtype=torch.int64), unlabelled=None,
        target_scale=1.0, progress=0.0,
    )  # fmt: skip
    loss, logs = objective(batch, run.model)
    del objective.terms["openings"]
    torch.testing.assert_close(loss - objective(batch, run.model)[0], 2.0 * logs["openings"])
    term = Openings(IBUG, 3.0)
    position = heatmaps.decode(heatmaps.probabilities(run.model(batch.pictures))).position
    seen = batch.target.clone()
    seen[0, 40] = torch.nan
    torch.testing.assert_close(logs["openings"], opening_loss(position, seen, term.eyes, 1.0, 3.0))


def test_the_log_has_a_column_for_it(root: Path, tmp_path: Path) -> None:
    trainer(root, tmp_path / "run", openings=2.0).run()
    with (tmp_path / "run" / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["openings"]) > 0


def test_regional_networks_learn_the_opening_of_the_combined_points() -> None:
    """The combined points are compared in heatmap pixels of the global network."""
    networks = SimpleNamespace(regional=SimpleNamespace(table=RegionTable(IBUG)))
    fused = Points(40 + 8 * torch.rand(2, 68, 2), torch.ones(2, 68, 2))
    truth = 40 + 8 * torch.rand(2, 68, 2)
    view: Any = SimpleNamespace(fused=fused)
    batch: Any = SimpleNamespace(landmarks=truth)
    losses = [
        RegionalObjective(networks, 0.0, 0.0, 0.5, Fabric(), openings=weight, shut_weight=3.0)._fused(view, batch)  # type: ignore[arg-type]
        for weight in (0.0, 2.0)
    ]
    position, target = ((points + 0.5) / STRIDE - 0.5 for points in (fused.position, truth))
    torch.testing.assert_close(losses[1] - losses[0], 2.0 * opening_loss(position, target, EYES, 0.5, 3.0))
