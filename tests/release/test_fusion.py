"""The network for integer arithmetic: the same function before it is quantised, and close to it behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper

from networks import lively
from octamark import models
from octamark.datasets import read, w300
from octamark.errors import ConfigError
from octamark.geometry import crop, crop_transform, detector_squares, landmark_boxes, squares
from octamark.inference.detector import FaceDetector
from octamark.layouts import layout
from octamark.models import CropRule, ModelCard
from octamark.models.calibration import Calibration
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, NetworkConfig
from octamark.nets.shape import ShapeCorrection
from octamark.release import model as release_module
from octamark.release.fusion import IntegerNetwork, add_upsampled
from octamark.release.graph import to_onnx
from octamark.release.model import (
    ArithmeticChoice,
    augmented_crops,
    check_arithmetic,
    choose_arithmetic,
    is_faster,
    load_network,
)
from octamark.release.predictor import Predictor, _decode, _FewerOperators, fold_norms
from octamark.release.quantization import LIMIT, Storage
from octamark.training.starting import RELEASES, trained_shape

IBUG = layout("ibug68")


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(width=8),  # folded, joint and separate levels
        NetworkConfig(width=16),
        NetworkConfig(width=32),
        NetworkConfig(width=12, landmarks=5),  # channels that are no multiples of 16
        NetworkConfig(width=12, alpha=0.0, attention=False),
        NetworkConfig(width=6, alpha=0.5, attention=False),
    ],
    ids=str,
)
def test_the_rewritten_network_is_the_same_function(config: NetworkConfig) -> None:
    network = lively(config)
    rewritten = IntegerNetwork(fold_norms(network)).eval()
    crops = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(crops.permute(0, 3, 1, 2).float() / 255)
        found, evidence, _ = rewritten(crops)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert evidence is None


@pytest.mark.parametrize("width", [4, 8, 16, 32])  # 4: a joint level before the last, the others: a separate one
def test_the_rewritten_network_has_the_same_evidence_of_visibility(width: int) -> None:
    network = lively(NetworkConfig(width=width, visibility=True, attention=width > 4))
    rewritten = IntegerNetwork(fold_norms(network)).eval()
    crops = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.both(crops.permute(0, 3, 1, 2).float() / 255)
        found = rewritten(crops)[:2]
    assert expected[1].shape == (3, 68, 12, 12)
    assert expected[1].std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_network_without_high_frequency_is_refused() -> None:
    with pytest.raises(ConfigError, match="an alpha below 1"):
        IntegerNetwork(fold_norms(lively(NetworkConfig(width=8, alpha=1.0, attention=False))))
    with pytest.raises(ConfigError, match="more than 32 channels at the coarsest level; this network has 32"):
        IntegerNetwork(fold_norms(lively(NetworkConfig(width=4))))


def test_a_sum_that_repeats_is_nearest_upsampling() -> None:
    high, low = torch.rand(2, 5, 8, 12), torch.rand(2, 5, 4, 6)
    expected = high + F.interpolate(low, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(add_upsampled(high, torch.cat([low, low], dim=1)), expected)


def test_decoding_is_that_of_the_networks() -> None:
    p = heatmaps.probabilities(torch.randn(2, 7, 24, 24) * 4)
    expected = heatmaps.to_input_pixels(heatmaps.decode(p), STRIDE)
    position, spread = _decode(p)
    torch.testing.assert_close(position, expected.position, atol=1e-4, rtol=0)
    torch.testing.assert_close(spread, expected.spread, atol=1e-4, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 40.0, 180.0])
def test_the_shape_correction_of_the_graph_is_that_of_the_networks(angle: float) -> None:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(68, 2, generator=generator)
    mean = (mean - mean.mean(dim=0)) / (mean - mean.mean(dim=0)).norm()
    shape = ShapeCorrection(mean, torch.randn(136, 136, generator=generator) * 0.05, torch.tensor([0.1, 0.3]))
    turn = torch.tensor(np.radians(angle), dtype=torch.float32)
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    points = (mean * 300 + torch.randn(4, 68, 2, generator=generator) * 5) @ rotation.T + 100
    for faces in (points, torch.full((1, 68, 2), 50.0)):
        moved, share = _FewerOperators(shape)(faces)
        torch.testing.assert_close(faces + share * moved, shape(faces), atol=1e-3, rtol=0)


@cache
def exported(name: str) -> tuple[ModelCard, bytes, bytes]:
    """A released checkpoint as int8 and as float32; the ranges are of noise and of plain pictures beside real faces."""
    path = RELEASES / f"{name}.safetensors"
    network, recipe, _ = load_network(path)
    shape = trained_shape(path)
    (card_text,) = (
        entry.value for entry in onnx.load_from_string(models.read(name)).metadata_props if entry.key == "octamark"
    )
    card = models.parse_card(card_text, name)
    crops = views(card.crop)
    predictors = [Predictor(network, recipe.loss.beta, IBUG, card.calibration, shape, kind) for kind in ARITHMETICS]
    integer, exact = (to_onnx(predictor, card, storage="int8", crops=crops) for predictor in predictors)
    return card, integer, exact


ARITHMETICS: tuple[models.Arithmetic, ...] = ("int8", "float32")


def views(rule: CropRule) -> NDArray[np.uint8]:
    """Crops of the astronaut's face, upright and leaning, of several sizes and brightnesses."""
    from conftest import astronaut_path
    from octamark import read_picture

    picture = read_picture(astronaut_path())
    (box,) = FaceDetector()(picture)[0]
    square = detector_squares(box, rule.detector_scale, rule.detector_shift)[0]
    places = [(square * (1, 1, zoom), angle) for zoom in (0.9, 1.0, 1.2) for angle in (-20.0, 0.0, 20.0)]
    cut = np.stack([crop(picture, crop_transform(place, rule.size, angle), rule.size) for place, angle in places])
    return np.concatenate([cut, cut // 2, 255 - (255 - cut) // 2])


def session(data: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def landmarks(network: onnxruntime.InferenceSession, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    (found,) = network.run(["landmarks"], {"crops": crops})
    return np.asarray(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny-128", "small"])
def test_int8_and_float_agree_on_a_real_face(name: str) -> None:
    card, integer, exact = exported(name)
    crops = views(card.crop)
    found, expected = landmarks(session(integer), crops), landmarks(session(exact), crops)
    assert 0 < np.linalg.norm(found - expected, axis=-1).mean() < 0.5
    held = session(integer).get_modelmeta().custom_metadata_map["octamark"]
    assert models.parse_card(held, name).arithmetic == "int8"
    assert card.model_copy(update={"arithmetic": "int8"}) == models.parse_card(held, name)


@pytest.mark.slow
def test_int8_and_float_agree_on_labelled_faces(w300_root: Path) -> None:
    """With ranges from training faces, as in a release."""
    path = RELEASES / "tiny-128.safetensors"
    network, recipe, _ = load_network(path)
    names = w300.read_split_file(w300_root / "splits" / "val.txt")[:32]
    held_out = read("300w", w300_root, "train", only=names)
    training = [sample for sample in read("300w", w300_root, "train")[:200] if sample.name not in names]
    ranges = augmented_crops(recipe, training, 32)
    card = exported("tiny-128")[0]
    assert ranges.shape == (32, card.crop.size, card.crop.size, 3)
    predictors = [Predictor(network, recipe.loss.beta, IBUG, card.calibration, trained_shape(path), kind)
                  for kind in ARITHMETICS]  # fmt: skip
    integer, exact = (session(to_onnx(predictor, card, crops=ranges)) for predictor in predictors)
    crops = np.stack([
        crop(sample.read(), crop_transform(squares(landmark_boxes(sample.landmarks), 1.25)[0], 128), 128)
        for sample in held_out
    ])  # fmt: skip
    assert np.linalg.norm(landmarks(integer, crops) - landmarks(exact, crops), axis=-1).mean() < 0.5


@pytest.mark.slow
def test_a_batch_is_a_loop_and_threads_change_nothing() -> None:
    card, integer, _ = exported("nano")
    crops = views(card.crop)
    network = session(integer)
    together = landmarks(network, crops)
    alone = np.concatenate([landmarks(network, one[None]) for one in crops])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: landmarks(network, crops), range(16)):
            np.testing.assert_array_equal(found, together)
    np.testing.assert_allclose(landmarks(session(integer, threads=2), crops), together, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny-128", "small"])
def test_onnx_runtime_computes_all_convolutions_with_integers(name: str, tmp_path: Path) -> None:
    card, integer, _ = exported(name)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor
    onnxruntime.InferenceSession(integer, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    convolutions = sum(node.op_type == "Conv" for node in onnx.load_from_string(integer).graph.node)
    assert kinds.count("QLinearConv") == convolutions
    assert "Conv" not in kinds
    assert kinds.count("AveragePool") == (0 if card.visibility is None else 1)  # of the maps that weigh the evidence


@pytest.mark.slow
def test_weights_have_seven_bits() -> None:
    """Two products of 8 bits and 7 bits fit into the 16 bits of processors without VNNI."""
    _, integer, _ = exported("nano")
    kernels = [
        values
        for tensor in onnx.load_from_string(integer).graph.initializer
        if (values := numpy_helper.to_array(tensor)).dtype == np.int8 and values.ndim == 4
    ]
    assert len(kernels) > 20
    assert max(np.abs(values.astype(int)).max() for values in kernels) == LIMIT
    assert 2 * 255 * LIMIT < 2**15


def untrained() -> tuple[Predictor, ModelCard]:
    rule = CropRule(size=64, margin=1.25, detector_scale=1.14, detector_shift=(0, 0.15), detector_residual=(0, 0, 0))
    card = ModelCard(
        name="x", layout="ibug68", parameters=1, width=8, crop=rule, calibration=Calibration.identity(68),
        normaliser="inter-ocular", scores={}, training_data="none", terms="none", recipe={}, version="0",
    )  # fmt: skip
    return Predictor(lively(NetworkConfig(width=8)), 1.0, IBUG, card.calibration, None, "int8"), card


def test_integer_arithmetic_needs_crops_and_integer_weights() -> None:
    predictor, card = untrained()
    with pytest.raises(ConfigError, match="arithmetic 'int8' needs crops of training faces"):
        to_onnx(predictor, card)
    crops = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(ConfigError, match="storage 'float16' with arithmetic 'int8'; allowed: int4, int8"):
        to_onnx(predictor, card, storage="float16", crops=crops)
    with pytest.raises(ConfigError, match="storage 'float32' with arithmetic 'int8'; allowed: int4, int8"):
        check_arithmetic("int8", "float32")
    with pytest.raises(ConfigError, match="arithmetic 'int16'; allowed: auto, int8, float32"):
        check_arithmetic("int16", "int4")
    assert check_arithmetic("auto", "float32") == "auto"


def test_auto_takes_int8_where_it_is_faster_and_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(kind: ArithmeticChoice, faster: bool, cost: float, storage: Storage = "int4") -> bytes:
        monkeypatch.setattr(
            release_module, "is_faster", lambda first, second: faster and (first, second) == (integer, exact)
        )
        return choose_arithmetic(
            kind, storage, lambda kind: kind.encode(), {integer: 3.0 + cost, exact: 3.0}.__getitem__
        )

    integer, exact = b"int8", b"float32"
    assert choose("auto", True, 0.015) == integer
    assert choose("auto", True, -1.0) == integer
    assert choose("auto", True, 0.025) == exact
    assert choose("auto", False, 0.0) == exact
    assert choose("auto", True, 0.0, "float16") == exact
    assert choose("int8", False, 9.0) == integer
    assert choose("float32", True, 0.0) == exact

    def refuse(kind: str) -> bytes:
        if kind == "int8":
            raise ConfigError("not this network")
        return exact

    assert choose_arithmetic("auto", "int4", refuse, lambda data: 0.0) == exact
    with pytest.raises(ConfigError, match="not this network"):
        choose_arithmetic("int8", "int4", refuse, lambda data: 0.0)


def test_is_faster_times_one_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves by what a fake session takes."""
    now = [0.0]

    class Session:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(shape=["n", 32, 32, 3])]

        def run(self, names: None, feeds: dict[str, NDArray[np.uint8]]) -> None:
            assert feeds["crops"].shape == (1, 32, 32, 3)
            now[0] += self.seconds

    monkeypatch.setattr(release_module, "session", lambda data, *_: Session(float(data)))
    monkeypatch.setattr(release_module.time, "perf_counter", lambda: now[0])
    assert is_faster(b"1.0", b"2.0")
    assert not is_faster(b"2.0", b"1.0")
