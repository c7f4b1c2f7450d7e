"""The shape correction follows a face wherever it is, and does not break on what is none."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import octamark
from octamark.layouts import layout
from octamark.models.calibration import Calibration
from octamark.nets.shape import ShapeCorrection, in_frames, shape_frames
from octamark.release.graph import to_onnx
from octamark.release.model import load_network
from octamark.release.predictor import Predictor
from octamark.release.quantization import Storage
from octamark.training.starting import RELEASES

IBUG = layout("ibug68")
MIRROR = torch.from_numpy(IBUG.mirror.copy())


def shapes(count: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(68, 2, generator=generator) * 40 + torch.randn(count, 68, 2, generator=generator) * 8 + 100


def correction(symmetric: bool = False) -> ShapeCorrection:
    generator = torch.Generator().manual_seed(1)
    mean = shapes(1, seed=0)[0] - 100
    weight = torch.randn(136, 136, generator=generator) * 0.05
    if symmetric:
        turn = torch.zeros(136, 136)  # x @ turn: the mirror image's coordinates
        for index, other in enumerate(MIRROR.tolist()):
            turn[2 * other, 2 * index], turn[2 * other + 1, 2 * index + 1] = -1.0, 1.0
        mean = (mean + mean[MIRROR] * torch.tensor([-1.0, 1.0])) / 2
        weight = (weight + turn.T @ weight @ turn) / 2
    mean = mean - mean.mean(dim=0)
    return ShapeCorrection(mean / mean.norm(), weight)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 3.0), (37.0, 1.0), (180.0, 0.2), (-90.0, 1.7)])
def test_a_moved_face_is_corrected_alike(angle: float, scale: float) -> None:
    one, points = correction(), shapes()
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    linear, shift = torch.tensor([[cos, -sin], [sin, cos]]), torch.tensor([31.0, -7.0])
    moved = one(points @ linear.T + shift)
    torch.testing.assert_close(moved, one(points) @ linear.T + shift, atol=2e-3, rtol=1e-4)
    assert (one(points) - points).norm(dim=2).mean() > 0.5  # and it does correct


def test_a_mirrored_face_is_corrected_alike_where_the_weights_are() -> None:
    one, points, turn = correction(symmetric=True), shapes(), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(one(points[:, MIRROR] * turn), one(points)[:, MIRROR] * turn, atol=2e-3, rtol=1e-4)


def test_the_mean_shape_needs_no_correction() -> None:
    one = correction()
    torch.testing.assert_close(one(one.mean[None] * 90 + 12), one.mean[None] * 90 + 12, atol=1e-3, rtol=0)
    frames = shape_frames(one.mean[None] * 90 + 12, one.mean)
    torch.testing.assert_close(frames, 90 * torch.eye(2)[None], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(in_frames(one.mean[None] * 90, frames), one.mean[None], atol=1e-5, rtol=0)


def test_what_is_no_face_stays_finite() -> None:
    one = correction()
    opposite = one.mean.clone()
    opposite[:, 1] *= -1  # mirrored without its points swapped: hardly any rotation fits
    for points in (torch.zeros(1, 68, 2), torch.full((1, 68, 2), 7.0), opposite[None] * 50):
        moved = one(points)
        assert torch.isfinite(moved).all()
        assert (moved - points).abs().max() < 200


@pytest.mark.slow
def test_the_graph_corrects_as_torch_does() -> None:
    network, one = load_network(RELEASES / "nano.safetensors")[0], correction()
    card = octamark.load("nano").card.model_copy(update={"calibration": Calibration.identity(68)})
    crops = np.random.default_rng(0).integers(0, 256, (2, card.crop.size, card.crop.size, 3), dtype=np.uint8)

    def landmarks(shape: ShapeCorrection | None, storage: Storage) -> NDArray[np.float32]:
        data = to_onnx(Predictor(network, 1.0, IBUG, card.calibration, shape), card, storage=storage)
        return np.asarray(onnxruntime.InferenceSession(data).run(["landmarks"], {"crops": crops})[0])

    for storage, close in (("float32", 1e-4), ("int8", 0.02), ("int4", 0.02)):
        before = landmarks(None, storage)  # type: ignore[arg-type]
        wanted = one(torch.from_numpy(before)).numpy()
        farthest = np.abs(wanted - before).max()
        assert farthest > 5
        np.testing.assert_allclose(landmarks(one, storage), wanted, atol=close * farthest)  # type: ignore[arg-type]


def test_a_correction_fades_out_for_shapes_far_from_the_mean() -> None:
    """The same direction of difference, at growing lengths: in full, in part, not at all."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(9, 2, generator=generator)
    mean = (mean - mean.mean(dim=0)) / (mean - mean.mean(dim=0)).norm()
    weight = 0.3 * torch.randn(18, 18, generator=generator)
    away = torch.randn(9, 2, generator=generator)
    points = torch.stack([100 * (mean + step * (away - away.mean(dim=0))) for step in (0.005, 0.06, 0.6)])
    full = ShapeCorrection(mean, weight)(points) - points
    frames = shape_frames(points, mean)
    lengths = (in_frames(points - points.mean(dim=1, keepdim=True), frames) - mean).flatten(1).norm(dim=1)
    fade = torch.stack([(lengths[0] + lengths[1]) / 2, lengths[1] + (lengths[1] - lengths[0]) / 2])
    moved = ShapeCorrection(mean, weight, fade)(points) - points
    torch.testing.assert_close(moved[0], full[0])
    torch.testing.assert_close(moved[1], full[1] / 2, rtol=1e-3, atol=1e-4)
    assert moved[2].abs().max() == 0
