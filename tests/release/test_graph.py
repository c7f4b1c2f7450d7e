"""Torch against ONNX Runtime: folding, the merged stem, calibration, storage, the card."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from networks import lively
from octamark import models
from octamark.datasets import read, w300
from octamark.errors import WeightsError
from octamark.geometry import crop, crop_transform, detector_squares
from octamark.inference.detector import FaceDetector
from octamark.inference.devices import available_devices
from octamark.inference.float_graph import without_quantization
from octamark.inference.landmarker import Landmarker
from octamark.inference.session import session
from octamark.layouts import layout, parse
from octamark.models import Arithmetic, CropRule, ModelCard, parse_card
from octamark.models.calibration import CONTRAST_FLOOR, KNOTS, RATIOS, SHIFT_FLOOR, Calibration
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, NetworkConfig, OctaveNetwork
from octamark.nets.shape import ShapeCorrection
from octamark.release.graph import recalibrated, to_onnx, with_card
from octamark.release.model import load_network
from octamark.release.predictor import Predictor, calibration_constants, fold_norms
from octamark.release.quantization import Storage
from octamark.training import recipe as config_module
from octamark.training.data import FaceStore, centre_crops
from octamark.training.recipe import Recipe
from octamark.training.starting import trained_shape
from telling_model import silent_model

RELEASES = models.blobs()


IBUG = layout("ibug68")
AS_FOUND = nn.Identity()

FIVE = parse(
    {
        "name": "five", "title": "five", "count": 5, "parts": {"right_eye": [0], "left_eye": [1], "nose": [2],
        "mouth": [3, 4]}, "edges": [], "mirror": [[0, 1], [3, 4]], "normalisers": {}, "global": [], "eyes": {},
        "regions": {}, "diagram": [[0.2, 0.2], [0.8, 0.2], [0.5, 0.5], [0.3, 0.8], [0.7, 0.8]],
    },
    "five",
)  # fmt: skip
"""A layout without inter-ocular points."""


def calibration(points: int = 68, seed: int = 0) -> Calibration:
    """A calibration of which no number is plain, within the spreads that an untrained network gives."""
    rng = np.random.default_rng(seed)
    knots = np.cumsum(rng.uniform(0.5, 3, (KNOTS - 1, 2)), axis=0)
    ratios = np.cumsum(rng.uniform(0.01, 0.4, (RATIOS - 1, 2)), axis=0)
    ratios[:, 1] /= ratios[-1, 1]
    return Calibration.model_validate(
        {
            "gain": rng.uniform(0.3, 1.6, (points, 2)).tolist(), "own": 0.8, "face": 0.3,
            "knots": [(0.0, 0.0), *knots.tolist()], "ratios": [(0.0, 0.0), *ratios.tolist()],
        }
    )  # fmt: skip


def card(size: int = 256, fitted: Calibration | None = None) -> ModelCard:
    rule = CropRule(size=size, margin=1.25, detector_scale=1.14, detector_shift=(0, 0.15), detector_residual=(0, 0, 0))
    return ModelCard(
        name="x", layout="ibug68", parameters=1, width=8, crop=rule, calibration=fitted or Calibration.identity(68),
        normaliser="inter-ocular", scores={}, training_data="none", terms="none", recipe={}, version="0",
    )  # fmt: skip


def expected(network: OctaveNetwork, crops: NDArray[np.uint8], shape: nn.Module = AS_FOUND) -> heatmaps.Points:
    with torch.no_grad():
        maps = network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
        points = heatmaps.to_input_pixels(heatmaps.decode(heatmaps.probabilities(maps)), STRIDE)
        return points._replace(position=shape(points.position))


def run(data: bytes, crops: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Landmarks, spread, confidence, heatmaps."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["landmarks", "spread", "confidence", "heatmaps"], {"crops": crops})  # type: ignore[no-any-return]


def card_of(data: bytes) -> ModelCard:
    held = onnxruntime.InferenceSession(data).get_modelmeta().custom_metadata_map
    return parse_card(held["octamark"], "a weight file")


def stated(one: Calibration, points: NDArray[np.floating], spread: NDArray[np.floating]) -> NDArray[np.float64]:
    """The confidence of 68 points with those calibrated spreads, in numpy."""
    radius = 0.05 * np.linalg.norm(points[:, 36] - points[:, 45], axis=1)[:, None]
    return one.within(spread, radius)


VARIANTS = [
    NetworkConfig(width=8),
    NetworkConfig(width=8, alpha=0.5, landmarks=5),
    NetworkConfig(width=8, alpha=0.0, attention=False),
    NetworkConfig(width=8, alpha=1.0, attention=False),
]


@cache
def exported(config: NetworkConfig) -> tuple[OctaveNetwork, bytes]:
    """A lively network and its float32 export, with :func:`calibration`."""
    network, fitted = lively(config), calibration(config.landmarks)
    predictor = Predictor(network, 1.0, (IBUG, FIVE)[config.landmarks == 5], fitted)
    return network, to_onnx(predictor, card(64), storage="float32")


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_the_graph_computes_what_torch_computes(config: NetworkConfig) -> None:
    network, data = exported(config)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    truth = expected(network, crops)
    one, fitted = (IBUG, FIVE)[config.landmarks == 5], calibration(config.landmarks)
    landmarks, spread, confidence, maps = run(data, crops)
    np.testing.assert_allclose(landmarks, truth.position, atol=0.01)
    np.testing.assert_allclose(spread, fitted.spread(truth.spread.numpy()), atol=0.01)
    if one is IBUG:
        np.testing.assert_allclose(confidence, stated(fitted, landmarks, spread), atol=1e-4)
    else:  # without eyes: half the root of the landmark box's area
        radius = 0.05 * 0.5 * np.sqrt(np.ptp(landmarks, axis=1).prod(axis=1))[:, None]
        np.testing.assert_allclose(confidence, fitted.within(spread, radius), atol=1e-4)
    assert confidence.shape == (3, config.landmarks)
    assert maps.shape == (3, config.landmarks, 16, 16)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-4)
    assert np.ptp(landmarks) > 5


def unusual_of(
    crops: NDArray[np.uint8], landmarks: NDArray[np.float32], maps: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Shift and contrast (n, 2) in numpy: how far landmarks are from the heatmaps' points; of every fourth pixel."""
    places = (np.arange(maps.shape[-1]) + 0.5) * STRIDE - 0.5
    before = np.stack([maps.sum(axis=2) @ places, maps.sum(axis=3) @ places], axis=-1)
    shift = np.linalg.norm(landmarks - before, axis=2).mean(axis=1)
    contrast = crops[:, ::4, ::4].reshape(len(crops), -1).astype(np.float64).std(axis=1)
    return np.stack([shift + SHIFT_FLOOR, contrast + CONTRAST_FLOOR], axis=1)


def some_shape() -> ShapeCorrection:
    """A correction that moves points by pixels."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(68, 2, generator=generator)
    mean = (mean - mean.mean(dim=0)) / (mean - mean.mean(dim=0)).norm()
    return ShapeCorrection(mean, torch.randn(136, 136, generator=generator) * 0.05)


@pytest.mark.slow
def test_a_correction_can_tell_how_unusual_a_face_is_and_move_nothing() -> None:
    fitted = calibration().model_copy(update={"shift": 0.4, "contrast": 0.3})
    crops = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    network, shape = lively(NetworkConfig(width=8)), some_shape()
    outputs = [
        run(to_onnx(Predictor(network, 1.0, IBUG, fitted, **corrections), card(64, fitted), storage="float32"), crops)
        for corrections in ({"shape": shape}, {"shift": shape}, {})
    ]
    corrects, tells, nothing = outputs
    np.testing.assert_allclose(tells[1], corrects[1], rtol=1e-4)
    np.testing.assert_allclose(tells[0], nothing[0], atol=1e-3)
    assert np.abs(tells[0] - corrects[0]).max() > 0.5
    assert (tells[1] > nothing[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["float32", "int8"])
def test_the_spread_follows_shift_and_contrast(arithmetic: Arithmetic) -> None:
    shape = some_shape()
    fitted = calibration().model_copy(update={"shift": 0.4, "contrast": 0.3})
    pixels = np.random.default_rng(2).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    crops = np.concatenate([pixels, pixels // 8 + 100, np.full_like(pixels[:1], 90)])
    predictor = Predictor(lively(NetworkConfig(width=8)), 1.0, IBUG, fitted, shape, arithmetic)
    data = to_onnx(predictor, card(64, fitted), storage="int8", crops=crops)
    held = card_of(data)
    plain = held.model_copy(update={"calibration": Calibration.identity(68)})
    landmarks, raw, _, maps = run(recalibrated(data, plain), crops)
    unusual = unusual_of(crops, landmarks, maps)
    assert np.ptp(np.log(unusual), axis=0).min() > 0.1
    spread = run(data, crops)[1]
    np.testing.assert_allclose(spread, fitted.spread(raw, unusual), rtol=2e-3, atol=1e-4)
    without = fitted.model_copy(update={"shift": 0.0, "contrast": 0.0})
    np.testing.assert_allclose(
        run(recalibrated(data, held.model_copy(update={"calibration": without})), crops)[1],
        without.spread(raw), rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    kinds = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert (arithmetic == "int8") == ("QuantizeLinear" in kinds)
    exact = run(without_quantization(data), crops)[1]  # the runtimes without 8-bit kernels read the pixels too
    assert np.abs(np.log(exact / spread)).mean() < 0.2
    if "openvino" in available_devices():
        names = ["landmarks", "spread", "confidence", "heatmaps"]
        _, values, _, _ = session(data, "x", 1, "openvino").run(names, {"crops": crops})
        assert np.abs(np.log(values / spread)).mean() < 0.2


def test_files_of_older_versions_have_no_exponents_of_shift_and_contrast() -> None:
    old = onnx.load_from_string(models.read("nano"))
    for tensor in old.graph.initializer:
        tensor.name = tensor.name.replace("calibration_unusual", "something")
    for node in old.graph.node:
        node.input[:] = ["something" if name == "calibration_unusual" else name for name in node.input]
    data, held = old.SerializeToString(), card_of(old.SerializeToString())
    same = held.model_copy(update={"calibration": calibration()})
    assert card_of(recalibrated(data, same)) == same
    other = held.model_copy(update={"calibration": calibration().model_copy(update={"shift": 0.5})})
    with pytest.raises(WeightsError, match=r"its graph holds no calibration_unusual of shape \(2,\)"):
        recalibrated(data, other)


@cache
def telling(arithmetic: Arithmetic, storage: Storage) -> tuple[OctaveNetwork, bytes]:
    """A network that tells which points can be seen, and its file with slope 1.5 and intercept -0.5."""
    network = lively(NetworkConfig(width=8, visibility=True))
    assert network.visibility is not None
    with torch.no_grad():
        network.visibility.second.weight.mul_(20)
    crops = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    own = card(64).model_copy(update={"visibility": (1.0, 0.0)})
    data = to_onnx(Predictor(network, 1.0, IBUG, own.calibration, None, arithmetic), own, storage=storage, crops=crops)
    arithmetic_kept = own.model_copy(update={"visibility": (1.5, -0.5), "arithmetic": arithmetic})
    return network, recalibrated(data, arithmetic_kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arithmetic", "storage", "far"), [("float32", "float32", 1e-4), ("float32", "int4", 0.05), ("int8", "int4", 0.05)]
)
def test_the_graph_tells_what_can_be_seen_as_torch_does(arithmetic: Arithmetic, storage: Storage, far: float) -> None:
    network, data = telling(arithmetic, storage)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        maps, evidence = network.both(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
        logits = heatmaps.visibility_logits(heatmaps.probabilities(maps), evidence)
    expected = torch.sigmoid(1.5 * logits - 0.5).numpy()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    assert names == ["landmarks", "spread", "confidence", "visible", "heatmaps"]
    (visible,) = session.run(["visible"], {"crops": crops})
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(visible, expected, atol=far)
    assert card_of(data).visibility == (1.5, -0.5)


@pytest.mark.slow
def test_faces_hold_what_can_be_seen(photograph: NDArray[np.uint8]) -> None:
    """Landmarker and Faces pass it on; the same in OpenVINO but for the rounding, and in a graph of floats."""
    _, data = telling("int8", "int4")
    landmarker = Landmarker(data, rotation="never")
    boxes = np.array([[180, 60, 270, 160], [0, 0, 200, 200]], np.float32)
    faces = landmarker(photograph, boxes)
    assert faces.visible is not None
    assert faces.visible.shape == (2, 68)
    assert faces.visible.dtype == np.float32
    assert np.ptp(faces.visible) > 0.3
    crops = np.stack([crop.pixels(64) for crop in landmarker.locate(photograph, boxes).crops])
    (expected,) = onnxruntime.InferenceSession(data).run(["visible"], {"crops": crops})
    np.testing.assert_array_equal(faces.visible, expected)
    none = landmarker(photograph, np.zeros((0, 4), np.float32))
    assert none.visible is not None
    assert none.visible.shape == (0, 68)
    with_maps = landmarker(photograph, boxes, heatmaps=True)
    np.testing.assert_array_equal(with_maps.visible, faces.visible)  # type: ignore[arg-type]
    assert with_maps.heatmaps is not None
    (exact,) = onnxruntime.InferenceSession(without_quantization(data)).run(["visible"], {"crops": crops})
    np.testing.assert_allclose(exact, expected, atol=0.05)
    if "openvino" in available_devices():
        (values,) = session(data, "x", 1, "openvino").run(["visible"], {"crops": crops})
        np.testing.assert_allclose(values, expected, atol=0.05)
    assert Landmarker(silent_model("nano"), rotation="never")(photograph, boxes).visible is None


def test_a_graph_and_a_card_that_disagree_about_visibility_are_refused() -> None:
    own = card(64)
    silent = to_onnx(Predictor(lively(NetworkConfig(width=8)), 1.0, IBUG, own.calibration, None), own)
    telling_card = card_of(silent).model_copy(update={"visibility": (1.0, 0.0)})
    with pytest.raises(WeightsError, match=r"its graph holds no calibration_visibility of shape \(2,\)"):
        recalibrated(silent, telling_card)
    with pytest.raises(WeightsError, match="a graph without visible; export it with this version"):
        Landmarker(with_card(silent, telling_card))


@pytest.mark.slow
def test_a_card_without_the_calibration_of_visibility_is_refused() -> None:
    _, data = telling("float32", "float32")
    with pytest.raises(WeightsError, match="the card has no calibration of visible"):
        Landmarker(with_card(data, card_of(data).model_copy(update={"visibility": None})))


@pytest.fixture(scope="module")
def shipped() -> bytes:
    return models.read("nano")


@pytest.fixture(scope="module")
def shipped_card(shipped: bytes) -> ModelCard:
    return card_of(shipped)


@pytest.fixture(scope="module")
def views(photograph: NDArray[np.uint8], shipped_card: ModelCard) -> NDArray[np.uint8]:
    """Crops of the photograph's face, upright, leaning, half beside it, and of nothing."""
    rule = shipped_card.crop
    (box,) = FaceDetector()(photograph)[0]
    square = detector_squares(box, rule.detector_scale, rule.detector_shift)[0]
    places = [(square, 0.0), (square, 70.0), (square * (1.3, 1, 1), 0.0), (square * (1, 1, 3), 180.0)]
    crops = [crop(photograph, crop_transform(place, rule.size, angle), rule.size) for place, angle in places]
    return np.stack([*crops, np.zeros_like(crops[0])])


@pytest.mark.parametrize("fitted", [None, calibration(), calibration(seed=5)], ids=["shipped", "one", "other"])
def test_the_graph_calibrates_as_numpy_does(
    shipped: bytes, shipped_card: ModelCard, views: NDArray[np.uint8], fitted: Calibration | None
) -> None:
    """On a real network and pictures: spread and confidence from the raw spread, to 1e-4."""
    plain = shipped_card.model_copy(update={"calibration": Calibration.identity(68)})
    points, raw, _, maps = run(recalibrated(shipped, plain), views)
    own = shipped_card.calibration if fitted is None else fitted
    own = own.model_copy(update={"shift": 0.0, "contrast": 0.0})  # which numpy does not see
    card = shipped_card.model_copy(update={"calibration": own})
    landmarks, spread, confidence, same_maps = run(recalibrated(shipped, card), views)
    np.testing.assert_array_equal(landmarks, points)
    np.testing.assert_array_equal(same_maps, maps)
    np.testing.assert_allclose(spread, own.spread(raw), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(confidence, stated(own, landmarks, spread), atol=1e-4)
    assert 0 < np.ptp(confidence) <= 1
    if fitted is None:
        assert confidence[0].mean() > 0.6 > 0.4 > confidence[-1].mean()


def test_recalibrating_changes_the_calibration_and_the_card_only(shipped: bytes, shipped_card: ModelCard) -> None:
    same = recalibrated(shipped, shipped_card)  # its card has the fields of today
    assert onnx.load_from_string(same).graph == onnx.load_from_string(shipped).graph
    card = shipped_card.model_copy(update={"calibration": calibration(), "scores": {"new": 1.0}})
    changed = recalibrated(shipped, card)
    before, after = onnx.load_from_string(shipped), onnx.load_from_string(changed)
    different = {
        one.name
        for one, other in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if one.SerializeToString() != other.SerializeToString()
    }
    assert different | {"calibration_unusual"} == set(calibration_constants(card.calibration))
    assert before.graph.node == after.graph.node
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    assert (
        parse_card(onnxruntime.InferenceSession(changed).get_modelmeta().custom_metadata_map["octamark"], "x") == card
    )
    assert recalibrated(changed, shipped_card) == same  # and back again


def test_calibration_constants_are_stored_in_full(shipped: bytes, shipped_card: ModelCard) -> None:
    """Large weights are stored in less than float32; the calibration, 136 gains and all, never is."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(shipped).graph.initializer}
    constants = calibration_constants(shipped_card.calibration)
    assert constants["calibration_gain"].shape == (68, 2)
    names = {name for name in held if name.startswith("calibration")}
    assert names | {"calibration_unusual", "calibration_visibility"} >= set(constants)  # some files lack these two
    for name in names - {"calibration_visibility"}:
        assert held[name].dtype == np.float32
        np.testing.assert_array_equal(held[name], constants[name])
    assert {np.dtype(kind) for kind in (np.int8, np.uint8, np.float16)} <= {values.dtype for values in held.values()}


def test_a_graph_without_calibration_cannot_be_calibrated(shipped: bytes, shipped_card: ModelCard) -> None:
    old = onnx.load_from_string(shipped)
    for tensor in old.graph.initializer:
        if tensor.name == "calibration_gain":
            tensor.name = "gain"
    with pytest.raises(WeightsError, match=r"nano: its graph holds no calibration_gain of shape \(68, 2\)"):
        recalibrated(old.SerializeToString(), shipped_card)
    five = shipped_card.model_copy(update={"calibration": Calibration.identity(5)})
    with pytest.raises(WeightsError, match=r"no calibration_gain of shape \(5, 2\)"):
        recalibrated(shipped, five)


def test_folding_is_exact_and_leaves_the_network_alone() -> None:
    network = lively(NetworkConfig(width=8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fold_norms(network)(pictures), network(pictures), atol=1e-3, rtol=1e-3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fold_norms(network).modules())


def kernels(data: bytes) -> list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Every convolution's kernel as it will be computed with, and its steps where it is kept as int8."""
    graph = onnx.load_from_string(data).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}

    def value(name: str) -> NDArray[np.float32]:
        return held[name if name in held else made[name].input[0]].astype(np.float32)

    found: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []
    for name in (node.input[1] for node in graph.node if node.op_type == "Conv"):
        if name in made and made[name].op_type == "Mul":
            steps, scale = map(value, made[name].input)
            found.append((steps * scale, scale))
        else:
            found.append((value(name), None))
    return found


@pytest.mark.slow
def test_file_is_small_and_says_what_it_is() -> None:
    network, whole = exported(NetworkConfig(width=8))
    fitted = calibration()
    own = card(64, fitted)
    predictor = Predictor(network, 1.0, IBUG, fitted)
    half, small, smallest = (to_onnx(predictor, own, storage=storage) for storage in ("float16", "int8", "int4"))  # type: ignore[arg-type]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert len(small) < parameters + 40_000
    assert len(smallest) < len(small) - 0.1 * parameters
    assert smallest == to_onnx(predictor, own)
    assert len(half) < 2 * parameters + 70_000
    assert len(whole) > 4 * parameters
    model = onnx.load_from_string(half)
    (entry,) = (prop.value for prop in model.metadata_props if prop.key == "octamark")
    assert parse_card(entry, "x") == own
    assert json.loads(entry)["crop"]["size"] == 64
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    crops = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    points, *found = (run(one, crops)[0] for one in (whole, half, small, smallest))
    np.testing.assert_allclose(found[0], points, atol=0.3)
    np.testing.assert_allclose(found[1], points, atol=1.5)
    moved = [np.abs(one - points).mean() for one in found]
    assert moved == sorted(moved)
    assert moved[-1] < 0.5
    pairs = [(full, kept, scale) for (full, _), (kept, scale) in zip(kernels(whole), kernels(small), strict=True)]
    quantised = [pair for pair in pairs if pair[2] is not None]
    assert sum(full.size for full, _, _ in quantised) > 0.9 * parameters
    for full, kept, scale in quantised:  # no weight moves by more than half a step of its channel
        assert (np.abs(kept - full) <= 0.51 * scale).all()
    assert not [node.name for node in model.graph.node if node.doc_string]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, values in calibration_constants(fitted).items():
        np.testing.assert_array_equal(held[name], values)


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_every_node_of_a_shipped_file_has_a_short_name_of_its_own(name: str) -> None:
    """ONNX Runtime 1.20 to 1.21.1 refuses graphs whose fused nodes have no name to be called after."""
    names = [node.name for node in onnx.load_from_string(models.read(name)).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 4


@pytest.mark.slow
def test_every_node_of_an_exported_graph_has_a_name_of_its_own() -> None:
    names = [node.name for node in onnx.load_from_string(exported(NetworkConfig(width=8))[1]).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


@cache
def released(name: str) -> tuple[OctaveNetwork, nn.Module, ShapeCorrection, Recipe, ModelCard, bytes]:
    """A released checkpoint, what moves its points, the shape correction that tells how unusual a face is (the same, if
    it moves them), the shipped file's card, and both as float32 with that card."""
    path = RELEASES / f"{name}.safetensors"
    network, config, _ = load_network(path)
    shape, shift, one = trained_shape(path), trained_shape(path, "shift"), card_of(models.read(name))
    correction = shape or shift
    assert correction is not None
    predictor = Predictor(
        network, config.loss.beta, IBUG, one.calibration, shape, visibility=one.visibility or (1.0, 0.0), shift=shift
    )
    data = to_onnx(predictor, one, storage="float32")
    return network, AS_FOUND if shape is None else shape, correction, config, one, data


@pytest.mark.slow
@pytest.mark.parametrize("name", models.available())
def test_released_weights_on_a_real_face(name: str, photograph: NDArray[np.uint8]) -> None:
    """The shipped file, the released checkpoint in torch, and its float32 export agree on the photograph."""
    network, shape, correction, config, one, data = released(name)
    assert config_module.parse(dict(one.recipe), name) == config
    (box,) = FaceDetector()(photograph)[0]
    square = detector_squares(box, one.crop.detector_scale, one.crop.detector_shift)[0]
    size = one.crop.size
    crops = np.stack([crop(photograph, crop_transform(square, size, angle), size) for angle in (-15.0, 0.0, 15.0)])
    truth = expected(network, crops, shape)
    exact = run(data, crops)
    np.testing.assert_allclose(exact[0], truth.position, atol=0.01)
    before = expected(network, crops).position
    moved = ShapeCorrection(correction.mean, correction.weight)(before) - before
    contrast = unusual_of(crops, exact[0], exact[3])[:, 1]
    unusual = np.stack([moved.norm(dim=2).mean(dim=1).numpy() + SHIFT_FLOOR, contrast], axis=1)
    np.testing.assert_allclose(exact[1], one.calibration.spread(truth.spread.numpy(), unusual), rtol=2e-3, atol=0.01)
    stored = run(models.read(name), crops)
    assert np.abs(stored[0] - truth.position.numpy()).mean() < 0.5  # weights of 4 bits and maps of 8 move points


@pytest.mark.slow
def test_released_weights_on_labelled_faces(w300_root: Path) -> None:
    """Torch against ONNX Runtime under 0.01 px on real faces, where they are at hand."""
    names = w300.read_split_file(w300_root / "splits" / "val.txt")[:24]
    samples = read("300w", w300_root, "train", only=names)
    for name in models.available():
        network, shape, _, _, one, data = released(name)
        store = FaceStore.load(samples, one.crop.size, 1.25)
        pictures, landmarks = centre_crops(store, torch.arange(24), one.crop.size)
        crops = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        truth = expected(network, crops, shape)
        exact = run(data, crops)
        assert np.abs(exact[0] - truth.position.numpy()).max() < 0.01
        assert (truth.position - landmarks).norm(dim=-1).mean() < 8  # and they are where the labels are
