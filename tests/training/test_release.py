"""From a run to a weight file that predicts, on drawn faces with a detector that knows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import octamark
from drawn_faces import write_w300
from octamark.datasets.load import training_and_validation
from octamark.errors import DataError
from octamark.geometry import detector_squares, landmark_boxes, squares
from octamark.layouts import layout
from octamark.training import release as release_module
from octamark.training.calibration import fit_crop_rule, fit_spread_gain, match
from octamark.training.config import parse
from octamark.training.release import jittered, release
from octamark.training.trainer import Trainer

RECIPE = {
    "name": "drawn",
    "network": {"size": "nano"},
    "stages": [{"size": 64, "epochs": 8, "batch": 8, "learning_rate": 5e-3}],
}


class _Oracle:
    """Detects the drawn face: the bright region, as a box wider below than the landmarks' box."""

    def __call__(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        bright = picture.max(axis=2) > 110
        rows, columns = np.nonzero(bright)
        box = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]], np.float32)
        return box, np.ones(1, np.float32)


def test_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_w300(tmp_path / "w300", per_folder=12, validation=6)
    config = parse(RECIPE, "x")
    train, held_out = training_and_validation(config.data, root, layout(config.layout))
    Trainer(config, train, held_out, tmp_path / "run", device="cpu").run()
    monkeypatch.setattr(release_module, "FaceDetector", _Oracle)
    ticks: list[tuple[int, int]] = []
    made = release(tmp_path / "run", root, advance=lambda done, total: ticks.append((done, total)))
    assert ticks[-1][0] == ticks[-1][1]

    (tmp_path / "drawn.onnx").write_bytes(made.onnx)
    landmarker = octamark.load(tmp_path / "drawn.onnx")
    assert landmarker.card == made.card
    assert (landmarker.card.crop.size, landmarker.card.layout, landmarker.card.width) == (64, "ibug68", 8)
    errors = []
    for sample in held_out:
        faces = landmarker(sample.picture, landmark_boxes(sample.landmarks)[None], box_kind="landmarks")
        away = np.linalg.norm(faces.landmarks[0] - sample.landmarks, axis=1).mean()
        errors.append(away / landmarker.layout.distance(sample.landmarks, "inter-ocular"))
    (said,) = (value for name, value in made.card.scores.items() if "label boxes, 6 faces" in name)
    assert 100 * np.mean(errors) == pytest.approx(said, abs=0.01)

    (tmp_path / "again.safetensors").write_bytes(made.checkpoint)
    again = release(tmp_path / "again.safetensors", root)
    assert again.card.recipe == made.card.recipe
    (second,) = (value for name, value in again.card.scores.items() if "label boxes, 6 faces" in name)
    assert second == pytest.approx(said, rel=0.02)


def test_crop_rule_recovers_a_known_map() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.uniform(0, 1, (200, 68, 2)) * rng.uniform(80, 300, (200, 1, 1)) + rng.uniform(0, 500, (200, 1, 2))
    samples = [octamark_sample(points) for points in shapes]
    wanted = squares(landmark_boxes(shapes), 1.25)
    root, ratio = wanted[:, 2] / 1.4, rng.uniform(0.7, 1.0, 200)
    half = np.stack([root * np.sqrt(ratio), root / np.sqrt(ratio)], axis=1) / 2
    centre = wanted[:, :2] - root[:, None] * np.array([0.02, 0.15])
    boxes: list[NDArray[np.float32] | None] = [*np.concatenate([centre - half, centre + half], 1).astype(np.float32)]
    rule = fit_crop_rule(samples, [*boxes[:-1], None], size=256, margin=1.25)
    assert rule.detector_scale == pytest.approx(1.4, rel=1e-4)
    assert rule.detector_shift == pytest.approx((0.02, 0.15), abs=1e-4)
    assert max(rule.detector_residual) < 1e-4
    np.testing.assert_allclose(
        detector_squares(np.stack(boxes[:5]), rule.detector_scale, rule.detector_shift), wanted[:5], rtol=1e-4  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(DataError, match="found 1 of 2 faces"):
        fit_crop_rule(samples[:2], [boxes[0], None], size=256, margin=1.25)


def octamark_sample(points: NDArray[np.float64]) -> release_module.Sample:
    return release_module.Sample("x", Path("x"), points.astype(np.float32))


def test_match_takes_the_overlapping_box() -> None:
    truth = np.array([10.0, 10.0, 50.0, 50.0])
    boxes = np.array([[200, 200, 240, 240], [12, 5, 52, 55], [10, 10, 20, 20]], np.float32)
    assert match(boxes, truth) == 1
    assert match(boxes[:1], truth) is None
    assert match(boxes[:0], truth) is None


def test_spread_gain_and_jitter() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 3, (50, 68, 2))
    assert fit_spread_gain(spread, rng.laplace(0, spread * 0.7)) == pytest.approx(0.7, rel=0.05)
    box = np.array([100, 100, 200, 180], np.float32)
    moved = [other for other in jittered([box] * 200 + [None], 0) if other is not None]
    assert len(moved) == 200
    centres = np.stack([(other[:2] + other[2:]) / 2 for other in moved]) - (150, 140)
    assert np.abs(centres[:, 0]).max() <= 10.01
    assert np.abs(centres[:, 0]).max() > 9
    sizes = np.stack([other[2:] - other[:2] for other in moved])
    assert 0.899 < (sizes / (100, 80)).min() < 0.91
