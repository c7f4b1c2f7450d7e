"""Moved and turned boxes: what is handed over, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import octamark
from octamark.datasets import Sample
from octamark.evaluation.robustness import ANGLES, SCALES, SHIFTS, measure
from octamark.evaluation.run import Predictions, detector_crop, label_crop
from octamark.evaluation.scoring import Truth, score_model
from octamark.layouts import layout

IBUG = layout("ibug68")


@pytest.fixture(scope="module")
def portrait(photograph_path: Path) -> Sample:
    """The photograph, labelled with what the small model finds in it."""
    return Sample("portrait", photograph_path, octamark.load("small", threads=1)(photograph_path).landmarks[0])


def test_curves_of_a_real_face(portrait: Sample) -> None:
    tiny = octamark.load("tiny", threads=1)
    truth = Truth("portrait", "", [portrait], IBUG)
    result, curves = score_model(truth, tiny, "labels", jitter=True)
    assert curves is not None
    assert list(curves) == ["crop moved, % of its side", "crop scaled by", "face rotated, degrees"]
    moved, scaled, turned = curves.values()
    here = float(result.nme[0]) * 100
    for name in ("to the right", "downwards"):
        x, y = moved[name]
        assert x == pytest.approx([100 * s for s in SHIFTS])
        assert y[x.index(0)] == pytest.approx(here, abs=0.01)  # undisturbed, it is the score itself
        assert max(y) > min(y)
    assert scaled["scale"][0] == list(SCALES)
    assert scaled["scale"][1][SCALES.index(1.0)] == pytest.approx(here, abs=0.01)
    (x, y) = turned["rotation: auto"]
    assert x == list(ANGLES)
    assert y[0] == pytest.approx(here, abs=0.01)
    (_, lost) = turned["rotation: never"]
    assert lost[ANGLES.index(180.0)] > 20
    assert y[ANGLES.index(180.0)] < 0.5 * lost[ANGLES.index(180.0)]


def test_each_disturbance_reaches_the_landmarker_once(portrait: Sample) -> None:
    """The detector runs once a picture; every error is of its own predictions."""
    runs: list[None] = []
    tiny = octamark.load("nano", threads=1, rotation="never")
    box = np.array([[180, 70, 270, 180]], np.float32)

    def find(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        runs.append(None)
        return box, np.ones(1, np.float32)

    seen: list[Predictions] = []

    def error(given: Predictions) -> float:
        seen.append(given)
        return float(len(seen))

    ticks: list[None] = []
    curves = measure(
        tiny, [portrait, replace(portrait, name="again")], detector_crop(tiny.card.crop, find), error,
        advance=lambda: ticks.append(None),
    )  # fmt: skip
    assert len(runs) == len(ticks) == 2
    assert len(seen) == 2 * len(SHIFTS) + len(SCALES) + len(ANGLES)
    assert curves["face rotated, degrees"]["rotation: never"][1][-1] == len(seen)
    side = [one.scale[0] for one in seen if one.scale is not None]
    start = 2 * len(SHIFTS)
    np.testing.assert_allclose(np.array(side[start : start + len(SCALES)]) / side[0], SCALES)
    label = label_crop(tiny.card.crop)
    assert label is not None
