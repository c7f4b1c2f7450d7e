"""The fit of the visibility: slope and intercept, weights of sets, figures, and a model file that is calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drawn_faces import Oracle, write_w300
from networks import lively
from octamark.datasets import w300
from octamark.inference.landmarker import Landmarker
from octamark.layouts import layout
from octamark.models import CropRule, ModelCard
from octamark.models.calibration import Calibration
from octamark.nets.network import NetworkConfig
from octamark.release.graph import recalibrated, to_onnx
from octamark.release.model import HeldOut, calibrate
from octamark.release.predictor import Predictor
from octamark.release.visibility import (
    READING,
    UNFITTED,
    cross_fitted_visibility,
    fit_visibility,
    logits_of,
    visibility_figures,
    visible_probability,
)

F64 = NDArray[np.float64]


def drawn(slope: float, intercept: float, faces: int = 400, seed: int = 0) -> tuple[F64, F64]:
    """Logits (n, 20) and what was seen, with the probability that slope and intercept give."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1, 2, (faces, 20))
    return logits, (rng.random(logits.shape) < visible_probability(logits, (slope, intercept))).astype(np.float64)


def test_slope_and_intercept_are_found() -> None:
    logits, seen = drawn(0.7, 1.2)
    slope, intercept = fit_visibility(logits, seen)
    assert slope == pytest.approx(0.7, abs=0.05)
    assert intercept == pytest.approx(1.2, abs=0.1)
    unknown = seen.copy()
    unknown[:, ::2] = np.nan
    assert fit_visibility(logits, unknown) == fit_visibility(logits[:, 1::2], seen[:, 1::2])


def test_a_threshold_that_parts_all_gives_a_finite_slope() -> None:
    logits = np.linspace(-3, 3, 40)
    slope, _ = fit_visibility(logits, (logits > 0).astype(float))
    assert 1 < slope < 100


def test_logits_that_say_the_contrary_get_no_slope() -> None:
    logits, seen = drawn(1.0, 0.0)
    slope, intercept = fit_visibility(-logits, seen)
    assert slope == 0
    assert visible_probability(np.zeros(1), (slope, intercept)) == pytest.approx(seen.mean(), abs=0.01)


def test_points_of_one_kind_alone_change_nothing() -> None:
    logits, seen = drawn(1.0, 0.0)
    for value in (0.0, 1.0, np.nan):
        assert fit_visibility(logits, np.full_like(seen, value)) == UNFITTED


def test_every_set_counts_alike_with_its_weight() -> None:
    """Two sets of different base rates, one twenty times as large: the intercept lies between both."""
    logits, seen = drawn(1.0, 2.0, faces=400)
    few, few_seen = drawn(1.0, -2.0, faces=20, seed=1)
    both, truth = np.concatenate([logits, few]), np.concatenate([seen, few_seen])
    weights = np.concatenate([np.full(logits.shape, 1 / 400), np.full(few.shape, 1 / 20)])
    assert fit_visibility(both, truth)[1] > 1.3
    assert abs(fit_visibility(both, truth, weights)[1]) < 0.6


def test_probabilities_tell_logits_apart() -> None:
    logits = np.array([-90.0, -20.0, 0.0, 3.0, 90.0])
    read = visible_probability(logits, READING).astype(np.float32)
    np.testing.assert_allclose(logits_of(read), logits, atol=0.01)


def test_figures_of_faces_that_were_not_fitted() -> None:
    logits, seen = drawn(0.5, 1.0, faces=1500)
    stated = cross_fitted_visibility(logits, seen)
    figures = visibility_figures(stated, seen)
    assert figures["calibration error of visible"] < 0.015
    pairs = visible_probability(logits, (0.5, 1.0))
    assert figures["AUROC of visible"] == pytest.approx(visibility_figures(pairs, seen)["AUROC of visible"], abs=0.002)
    assert visibility_figures(stated, np.full_like(seen, np.nan)) == {}
    assert visibility_figures(1 - stated, seen)["calibration error of visible"] > 0.2
    # a face is judged by the others: with labels turned round in one fold, that fold's slope stays that of the others
    turned = seen.copy()
    turned[::5] = 1 - turned[::5]
    assert np.corrcoef(cross_fitted_visibility(logits, turned)[::5].ravel(), logits[::5].ravel())[0, 1] > 0.8


@pytest.mark.slow
def test_a_model_file_is_calibrated_on_what_its_sets_tell(tmp_path: Path) -> None:
    """Labels drawn from the network's own logits with another slope and intercept, which the card then holds."""
    root = write_w300(tmp_path, per_folder=15, validation=30)
    samples = w300.read(root, "val")
    network = lively(NetworkConfig(width=8, visibility=True))
    assert network.visibility is not None
    with torch.no_grad():
        network.visibility.second.weight.mul_(20)
    rule = CropRule(size=64, margin=1.25, detector_scale=1.14, detector_shift=(0, 0.15), detector_residual=(0, 0, 0))
    card = ModelCard(
        name="x", layout="ibug68", parameters=1, width=8, crop=rule, calibration=Calibration.identity(68),
        normaliser="inter-ocular", scores={}, training_data="none", terms="none", recipe={}, version="0",
        visibility=UNFITTED,
    )  # fmt: skip
    data = to_onnx(Predictor(network, 1.0, layout("ibug68"), card.calibration), card, storage="float32")
    reader = Landmarker(recalibrated(data, card.model_copy(update={"visibility": READING})), rotation="never")
    boxes = [np.array([[*s.landmarks.min(axis=0), *s.landmarks.max(axis=0)]], np.float32) for s in samples]
    found = [reader(s.picture, box, box_kind="landmarks").visible for s, box in zip(samples, boxes, strict=True)]
    logits = logits_of(np.concatenate([values for values in found if values is not None]))
    wanted = (1.5 / float(logits.std()), 0.4)
    rng = np.random.default_rng(0)
    seen = (rng.random(logits.shape) < visible_probability(logits, wanted)).astype(np.float32)
    seen[:, :10] = np.nan
    first = HeldOut("photographs", samples[:20], seen[:20])
    second = HeldOut("others", samples[20:25], seen[20:25])
    third = HeldOut("unknown", [replace(sample, name=f"x{sample.name}") for sample in samples[25:]])
    calibrated, fitted = calibrate(data, [first, second, third], detector=Oracle())  # type: ignore[arg-type]
    assert fitted.visibility == pytest.approx(wanted, rel=0.25, abs=0.25)
    names = [name for name in fitted.scores if "of visible" in name]
    assert sorted(name.partition(":")[0] for name in names) == ["others", "others", "photographs", "photographs"]
    assert fitted.scores["photographs: AUROC of visible (cross-fitted)"] > 0.7
    assert fitted.scores["photographs: calibration error of visible (cross-fitted)"] < 0.08
    assert sum(name.startswith("validation NME, %, label boxes, 20 faces") for name in fitted.scores) == 1
    assert any(name.startswith("others: validation NME, %, label boxes, 5 faces") for name in fitted.scores)
    again = Landmarker(calibrated, rotation="never")
    assert again.card == fitted
    visible = again(samples[0].picture, boxes[0], box_kind="landmarks").visible
    assert fitted.visibility is not None
    np.testing.assert_allclose(visible[0], visible_probability(logits[0], fitted.visibility), atol=1e-3)  # type: ignore[index]
    only = calibrate(data, [replace(first, name="one")], detector=Oracle())[1]  # type: ignore[arg-type]
    assert {"AUROC of visible (cross-fitted)", "calibration error of visible (cross-fitted)"} <= set(only.scores)
    silent = calibrate(data, [replace(first, visible=None)], detector=Oracle())[1]  # type: ignore[arg-type]
    assert silent.visibility == UNFITTED
    assert not [name for name in silent.scores if "of visible" in name]
