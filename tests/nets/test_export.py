"""Torch against ONNX Runtime: folding, the merged stem, float16 storage, the card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from octamark.detector import FaceDetector
from octamark.geometry import crop, crop_transform, detector_squares
from octamark.nets import heatmaps
from octamark.nets.export import Predictor, flops, fold_norms, to_onnx
from octamark.nets.network import STRIDE, NetworkConfig, OctaveNetwork
from octamark.nets.octave import OctaveConv
from octamark.weights import CropRule, ModelCard, parse_card

RELEASES = Path(__file__).parents[2] / "releases"


def card(size: int = 256) -> ModelCard:
    rule = CropRule(size=size, margin=1.25, detector_scale=1.14, detector_shift=(0, 0.15), detector_residual=(0, 0, 0))
    return ModelCard(
        name="x", layout="ibug68", parameters=1, width=8, crop=rule, spread_gain=1.0, normaliser="inter-ocular",
        scores={}, training_data="none", terms="none", recipe={}, version="0",
    )  # fmt: skip


def lively(config: NetworkConfig) -> OctaveNetwork:
    """A network whose normalisations have seen data and whose heatmaps have peaks."""
    torch.manual_seed(1)
    network = OctaveNetwork(config)
    with torch.no_grad():
        for _ in range(4):
            network(torch.rand(4, 3, 64, 64))
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if network.attention is not None:
            network.attention.z.weight.add_(torch.randn_like(network.attention.z.weight) * 0.1)
        for path in network.head.children():
            path.weight.mul_(20)  # type: ignore[union-attr, operator]
    return network.eval()


def expected(network: OctaveNetwork, crops: NDArray[np.uint8]) -> heatmaps.Points:
    with torch.no_grad():
        maps = network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
        return heatmaps.to_input_pixels(heatmaps.decode(heatmaps.probabilities(maps)), STRIDE)


def run(data: bytes, crops: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["landmarks", "spread", "heatmaps"], {"crops": crops})  # type: ignore[no-any-return]


VARIANTS = [
    NetworkConfig(width=8),
    NetworkConfig(width=8, upsample="transposed"),
    NetworkConfig(width=8, stem=8),
    NetworkConfig(width=8, alpha=0.5, landmarks=5),
    NetworkConfig(width=8, alpha=0.0, attention=False),
    NetworkConfig(width=8, alpha=1.0, attention=False),
]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_the_graph_computes_what_torch_computes(config: NetworkConfig) -> None:
    network = lively(config)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    truth = expected(network, crops)
    landmarks, spread, maps = run(to_onnx(Predictor(network, 1.0, 1.7), card(64), half=False), crops)
    np.testing.assert_allclose(landmarks, truth.position, atol=0.01)
    np.testing.assert_allclose(spread, truth.spread * 1.7, atol=0.01)
    assert maps.shape == (3, config.landmarks, 16, 16)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-4)
    assert np.ptp(landmarks) > 5


def test_folding_is_exact_and_leaves_the_network_alone() -> None:
    network = lively(NetworkConfig(width=8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fold_norms(network)(pictures), network(pictures), atol=1e-3, rtol=1e-3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fold_norms(network).modules())


def test_file_is_small_and_says_what_it_is() -> None:
    network = lively(NetworkConfig(width=8))
    whole, half = (to_onnx(Predictor(network, 1.0, 1.0), card(64), half=half) for half in (False, True))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert len(half) < 2 * parameters + 60_000
    assert len(whole) > 4 * parameters
    model = onnx.load_from_string(half)
    (entry,) = (prop.value for prop in model.metadata_props if prop.key == "octamark")
    assert parse_card(entry, "x") == card(64)
    assert json.loads(entry)["crop"]["size"] == 64
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    crops = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(half, crops)[0], run(whole, crops)[0], atol=0.3)


def test_flops_of_one_convolution() -> None:
    """A network's count, checked against the sum over its convolutions written out by hand."""
    network = OctaveNetwork(NetworkConfig(width=8, attention=False, landmarks=5))
    size, total = 64, 0
    stages = [(network.encoder[0].first, 32), (network.encoder[0].second, 32)]
    for index, side in ((1, 16), (2, 8), (3, 4)):
        stages += [(network.encoder[index].first, side), (network.encoder[index].second, side)]
    stages += [(network.decoder[0].up, 4), (network.decoder[0].refine, 8)]
    stages += [(network.decoder[1].up, 8), (network.decoder[1].refine, 16)]
    for conv, side in [(block.conv, side) for block, side in stages] + [(network.head, 16)]:
        assert isinstance(conv, OctaveConv)
        for name, low in (("high_to_high", 1), ("high_to_low", 2), ("low_to_low", 2), ("low_to_high", 2)):
            path = getattr(conv, name)
            if path is not None:
                total += 2 * path.weight.numel() * (side // low) ** 2
    assert flops(network, size) == total


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_released_weights_on_a_real_face(name: str, photograph: NDArray[np.uint8]) -> None:
    """The shipped file, the released checkpoint in torch, and its float32 export agree on the photograph."""
    from octamark import weights
    from octamark.training.config import parse
    from octamark.training.release import load_network

    network, config, _ = load_network(RELEASES / f"{name}.safetensors")
    shipped = weights.read(name)
    metadata = onnxruntime.InferenceSession(shipped).get_modelmeta().custom_metadata_map
    one = parse_card(metadata["octamark"], name)
    assert parse(dict(one.recipe), name) == config
    (box,) = FaceDetector()(photograph)[0]
    square = detector_squares(box, one.crop.detector_scale, one.crop.detector_shift)[0]
    crops = np.stack([crop(photograph, crop_transform(square, 256, angle), 256) for angle in (-15.0, 0.0, 15.0)])
    truth = expected(network, crops)
    exact = run(to_onnx(Predictor(network, config.loss.beta, one.spread_gain), one, half=False), crops)
    np.testing.assert_allclose(exact[0], truth.position, atol=0.01)
    np.testing.assert_allclose(exact[1], truth.spread * one.spread_gain, atol=0.01)
    stored = run(shipped, crops)
    assert np.abs(stored[0] - truth.position.numpy()).mean() < 0.05  # float16 storage moves points this little


def test_released_weights_on_labelled_faces(w300_root: Path) -> None:
    """Torch against ONNX Runtime under 0.01 px on real faces, where they are at hand."""
    from octamark.datasets import w300
    from octamark.training.batches import FaceStore, centre_crops
    from octamark.training.release import load_network

    names = w300.read_split_file(w300_root / "splits" / "val.txt")[:24]
    store = FaceStore.load(w300.read(w300_root, only=names), 256, 1.25)
    pictures, landmarks = centre_crops(store, torch.arange(24), 256)
    crops = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    for name in ("nano", "tiny", "small"):
        network, config, _ = load_network(RELEASES / f"{name}.safetensors")
        truth = expected(network, crops)
        exact = run(to_onnx(Predictor(network, config.loss.beta, 1.0), card(256), half=False), crops)
        assert np.abs(exact[0] - truth.position.numpy()).max() < 0.01
        assert (truth.position - landmarks).norm(dim=-1).mean() < 8  # and they are where the labels are
