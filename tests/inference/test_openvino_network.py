"""Networks in OpenVINO: the same points as in ONNX Runtime, from 8-bit convolutions."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import octamark
from octamark import DeviceError, WeightsError, models
from octamark.inference.float_graph import without_quantization
from octamark.inference.openvino_network import OpenVinoNetwork, rewrite
from octamark.inference.session import session
from quantized_graphs import crops, graph

openvino = pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")

NAMES = [*models.available(), models.REGIONS]


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def convolution_inputs(model: Any) -> list[str]:
    """The operators whose results convolutions read, but for those that move values."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        source = node.input_value(0).get_node()
        while source.get_type_name() in ("Transpose", "Reshape", "Slice", "StridedSlice"):
            source = source.input_value(0).get_node()
        found.append(source.get_type_name())
    return found


def test_outputs_are_those_of_onnx_runtime_but_for_the_rounding() -> None:
    data = graph(quantized=True)
    expected = onnxruntime.InferenceSession(data).run(["map"], {"crops": crops()})[0]
    (values,) = OpenVinoNetwork(data, "mine", 1).run(["map"], {"crops": crops()})
    exact = onnxruntime.InferenceSession(graph(quantized=False)).run(["map"], {"crops": crops()})[0]
    rounding = np.abs(expected - exact)
    assert values.shape == expected.shape
    assert np.abs(values - exact).mean() < 1.5 * rounding.mean()
    assert np.abs(values - exact).max() < 2 * rounding.max()


def test_all_outputs_and_a_network_in_floats() -> None:
    data = graph(quantized=False)
    network = OpenVinoNetwork(data, "mine", None)
    expected = onnxruntime.InferenceSession(data).run(None, {"crops": crops()})
    np.testing.assert_allclose(network.run(None, {"crops": crops()})[0], expected[0], atol=1e-3)


def test_rewriting_leaves_one_rounding_for_each_map() -> None:
    model = openvino.Core().read_model(graph(quantized=True))
    model.reshape([1, 8, 8, 3])
    before = kinds(model)
    rewrite(model)
    assert before.count("FakeQuantize") == 4
    assert kinds(model).count("FakeQuantize") == 4  # pixels have one, the sum and its positive part one together
    assert convolution_inputs(model) == ["FakeQuantize"] * 3
    assert kinds(model).count("Relu") == before.count("Relu")


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_of_released_networks_reads_rounded_maps(name: str) -> None:
    model = openvino.Core().read_model(models.read(name))
    size = model.inputs[0].partial_shape[1].get_length()
    model.reshape([1, size, size, 3])
    rewrite(model)
    bits = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convert"]
    assert not any(node.get_element_type().get_type_name() == "u8" for node in bits)
    assert set(convolution_inputs(model)) == {"FakeQuantize"}


@pytest.mark.parametrize("name", NAMES)
def test_card_inputs_and_outputs_are_those_of_onnx_runtime(name: str) -> None:
    data = models.read(name)
    network, other = OpenVinoNetwork(data, name, 1), onnxruntime.InferenceSession(data)
    assert network.get_modelmeta().custom_metadata_map == other.get_modelmeta().custom_metadata_map
    for values, others in ((network.get_inputs(), other.get_inputs()), (network.get_outputs(), other.get_outputs())):
        assert [(value.name, value.shape, value.type) for value in values] == [
            (value.name, value.shape, value.type) for value in others
        ]


@pytest.mark.parametrize("name", ["small", "nano"])
def test_points_are_as_close_to_those_in_floats_as_onnx_runtimes(name: str, photograph: NDArray[np.uint8]) -> None:
    landmarker = octamark.load(name, refine="never", rotation="never", threads=1)
    faces = landmarker(photograph)
    views = np.stack([crop.moved(landmarker.card.crop.size, angle=angle).pixels(landmarker.card.crop.size)
                      for crop in landmarker.locate(photograph).crops for angle in (-15, -5, 0, 5, 15)])  # fmt: skip
    data = models.read(name)
    networks = [session(data, name, 1, "openvino"), session(data, name, 1, "cpu")]
    exact = session(without_quantization(data), name, 1, "cpu").run(["landmarks"], {"crops": views})[0]
    errors = [np.linalg.norm(network.run(["landmarks"], {"crops": views})[0] - exact, axis=-1) for network in networks]
    assert len(faces) == 1
    assert errors[0].mean() < 1.5 * errors[1].mean()


def test_a_landmarker_finds_the_same_faces_and_can_be_pickled(photograph: NDArray[np.uint8]) -> None:
    landmarker = octamark.load("small", device="openvino", refine="always", threads=1)
    faces, expected = landmarker(photograph), octamark.load("small", refine="always", threads=1)(photograph)
    assert len(faces) == 1
    assert np.linalg.norm(faces.landmarks - expected.landmarks, axis=-1).mean() < expected.spread.mean()
    copy = pickle.loads(pickle.dumps(landmarker))
    assert copy.options.device == "openvino"
    np.testing.assert_array_equal(copy(photograph).landmarks, faces.landmarks)
    assert landmarker(photograph, heatmaps=True).heatmaps is not None


def test_threads_share_a_network() -> None:
    network = OpenVinoNetwork(graph(quantized=True), "mine", 1)
    batches = [crops(count) for count in range(1, 9)] * 4
    expected = [network.run(["map"], {"crops": batch})[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: network.run(["map"], {"crops": batch})[0], batches))
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, values)


def test_a_foreign_file_is_an_error_of_the_file() -> None:
    with pytest.raises(WeightsError, match=r"^mine\.onnx: damaged, not an ONNX file, or not for .*OpenVINO"):
        session(b"no graph", "mine.onnx", None, "openvino")


def test_a_network_that_cannot_be_compiled_is_an_error_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_model(*arguments: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    with pytest.raises(DeviceError, match=r"^device 'openvino' cannot run mine \(no kernel\)$"):
        OpenVinoNetwork(graph(quantized=True), "mine", 1)


def test_numbers_of_threads_are_checked() -> None:
    with pytest.raises(DeviceError, match="allowed: an integer from 1 to"):
        octamark.load("nano", device="openvino", threads=0)
