"""The regional architecture: the sampler, what gradients reach, what the start takes over, the exported graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from drawn_faces import draw_face
from networks import lively
from octamark.geometry import crop, crop_transform
from octamark.inference.regions import RegionTable
from octamark.layouts import layout
from octamark.models import RegionRule
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, NetworkConfig, OctaveNetwork
from octamark.nets.regional import RegionalModel, RegionalNetwork, compose, regional_start
from octamark.nets.sampling import cut
from octamark.release.predictor import RegionalPredictor

TABLE = RegionTable(layout("ibug68"))
RULE = RegionRule(size=64, margin=1.3)


def networks(seed: int = 0, width: int = 8) -> tuple[OctaveNetwork, OctaveNetwork]:
    """A global network and a regional one."""
    torch.manual_seed(seed)
    return OctaveNetwork(NetworkConfig(68, width)), OctaveNetwork(NetworkConfig(TABLE.channels, width))


def model() -> RegionalModel:
    global_network, network = networks()
    return RegionalModel(global_network, 1.0, RegionalNetwork(network, TABLE, 1.0), RULE)


def faces(count: int = 2, side: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, side, side) in 0..1, and frames from views of 64 pixels to them."""
    pictures = np.stack([draw_face(seed, side)[0] for seed in range(count)])
    frame = crop_transform(np.array([side / 2 - 0.5, side / 2 - 0.5, side]), 64)
    frames = torch.from_numpy(np.repeat(frame[None], count, 0)).float()
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, frames


@pytest.mark.parametrize("angle", [0.0, 31.0])
def test_the_sampler_cuts_what_prediction_cuts(angle: float) -> None:
    picture, _ = draw_face(3, 120)
    squares = (np.array([50.0, 61.5, 70.0]), np.array([10.0, 100.0, 60.0]))  # the second one hangs over the border
    transforms = np.stack([crop_transform(square, 64, angle) for square in squares])
    transforms[1] = transforms[1] @ np.array([[-1.0, 0, 63], [0, 1, 0], [0, 0, 1]])  # mirrored
    pictures = torch.from_numpy(picture).permute(2, 0, 1)[None]
    crops = cut(pictures, torch.from_numpy(transforms).float()[None], 64)
    found = 255 * crops[0].permute(0, 2, 3, 1).numpy()
    for index in range(2):  # one crop of each picture, and several of one
        alone = cut(pictures, torch.from_numpy(transforms[index : index + 1]).float(), 64)
        torch.testing.assert_close(alone, crops[:, index], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            cut(pictures.float() / 255, torch.from_numpy(transforms[index : index + 1]).float(), 64), alone
        )
    for one, transform in zip(found, transforms, strict=True):
        expected = crop(picture, transform, 64).astype(np.float64)
        assert np.abs(one - expected).mean() < 0.6  # of 255; OpenCV counts in 32nds of a pixel
        assert np.quantile(np.abs(one - expected), 0.99) < 8


def test_a_frozen_global_network_stays_as_it_is() -> None:
    whole = model().train()
    before = {name: value.clone() for name, value in whole.global_network.state_dict().items()}
    pictures, frames = faces()
    view = whole(torch.nn.functional.interpolate(pictures, 64), whole.cropper(pictures, frames))
    view.fused.position.sum().backward()
    assert all(parameter.grad is None for parameter in whole.global_network.parameters())
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in whole.regional.network.parameters())
    assert whole.regional.bias.grad is not None
    assert whole.regional.bias.grad.abs().sum() > 0
    assert whole.regional.sharpness.grad is not None
    for name, value in whole.global_network.state_dict().items():  # running means of the normalisations too
        torch.testing.assert_close(value, before[name], msg=name)


@pytest.mark.parametrize("visibility", [False, True])
def test_the_start_takes_over_each_landmarks_heatmap(visibility: bool) -> None:
    network, whole_face = networks()[1], OctaveNetwork(NetworkConfig(68, 8, visibility=visibility))
    assert regional_start(network, whole_face, TABLE)
    crops = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(crops), whole_face.eval()(crops)[:, list(TABLE.channel_landmarks)])
    assert not regional_start(networks(width=16)[1], whole_face, TABLE)


def test_a_mirrored_face_shows_the_same_crops_and_gives_partners_points() -> None:
    """Mirror picture and points: the crop of each side is the other side's, pixel by pixel, and so are its readings."""
    torch.manual_seed(0)
    regional = RegionalNetwork(lively(NetworkConfig(TABLE.channels, 8)), TABLE, 1.0)
    whole = RegionalModel(networks()[0], 1.0, regional, RULE).eval()
    pictures = torch.rand(1, 3, 20, 20).repeat_interleave(8, 2).repeat_interleave(8, 3)  # nothing symmetric
    points = torch.from_numpy(draw_face(0, 160)[1])[None]
    partner = layout("ibug68").mirror.copy()
    mirrored = torch.stack([159 - points[..., 0], points[..., 1]], -1)[:, partner]
    spread, identity = torch.full_like(points, 1.5), torch.eye(2, 3)[None]
    crops, own = [], []
    for picture, seen in ((pictures, points), (pictures.flip(3), mirrored)):
        cut = whole.cropper(picture, identity)(Points(seen, spread))
        with torch.no_grad():
            own.append(regional.in_frame(regional.read(cut.pictures).points, cut.placed).position[0])
        crops.append(cut.pictures[0])
    names = [region.name for region in TABLE.regions]
    for side, other in (("right_eye", "left_eye"), ("left_jaw", "right_jaw")):
        first, second = names.index(side), names.index(other)
        torch.testing.assert_close(crops[1][second], crops[0][first], atol=1e-3, rtol=0)
        assert (crops[0][first] - crops[0][second]).abs().mean() > 0.05  # the sides do differ
        for k in np.flatnonzero(TABLE.owners == first):
            (twin,) = np.flatnonzero((TABLE.owners == second) & (TABLE.landmarks == partner[TABLE.landmarks[k]]))
            back = torch.stack([159 - own[1][twin, 0], own[1][twin, 1]])
            torch.testing.assert_close(back, own[0][k], atol=0.05, rtol=0)


def test_composition() -> None:
    rng = np.random.default_rng(0)
    outer, inner, points = (torch.from_numpy(rng.normal(size=shape)) for shape in ((2, 3), (2, 3), (5, 2)))
    through = (points @ inner[:, :2].T + inner[:, 2]) @ outer[:, :2].T + outer[:, 2]
    both = compose(outer, inner)
    torch.testing.assert_close(points @ both[:, :2].T + both[:, 2], through)


@pytest.mark.slow
def test_the_exported_graph_reads_as_torch_does() -> None:
    from octamark.models import RegionCard, parse_region_card
    from octamark.models.calibration import Calibration
    from octamark.release.graph import regions_to_onnx

    regional = RegionalNetwork(lively(NetworkConfig(TABLE.channels, 8)), TABLE, 1.0).eval()
    card = RegionCard(
        name="x", layout="ibug68", global_model="small", parameters=1, width=8, rule=RULE, bias=(0.0,) * 5,
        sharpness=1.0, calibration=Calibration.identity(68), normaliser="inter-ocular", scores={}, training_data="none",
        terms="none", recipe={}, version="0",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for count in (1, 3):
        crops = rng.integers(0, 256, (count, 7, 64, 64, 3), np.uint8)
        with torch.no_grad():
            read = regional.read(torch.from_numpy(crops).permute(0, 1, 4, 2, 3).float() / 255)
        expected = heatmaps.to_input_pixels(read.points, STRIDE)
        for storage, atol in (("float32", 2e-3), ("int8", 1.5), ("int4", 3.0)):
            data = regions_to_onnx(RegionalPredictor(regional), card, storage=storage)  # type: ignore[arg-type]
            kinds = [tensor.data_type for tensor in onnx.load_from_string(data).graph.initializer]
            assert kinds.count(onnx.TensorProto.UINT8) == (4 if storage == "int4" else 0)
            session = onnxruntime.InferenceSession(data)
            assert parse_region_card(session.get_modelmeta().custom_metadata_map["octamark"], "x") == card
            outputs = session.run(["readings", "spread"], {"crops": crops.reshape(-1, 64, 64, 3)})
            for output, values in zip(outputs, expected, strict=True):
                of_regions = output.reshape(count, 7, -1, 2)[:, TABLE.owners, TABLE.reading_channels]
                np.testing.assert_allclose(of_regions, values, atol=atol)
