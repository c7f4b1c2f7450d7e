"""Networks without quantised maps."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from octamark import models
from octamark.inference.float_graph import without_quantization
from quantized_graphs import crops, graph


def outputs(data: bytes) -> np.ndarray:
    network = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(network.run(["map"], {"crops": crops()})[0])


def test_maps_are_no_longer_rounded() -> None:
    expected = outputs(graph(quantized=False))
    np.testing.assert_allclose(outputs(without_quantization(graph(quantized=True))), expected, atol=1e-4)
    assert np.abs(outputs(graph(quantized=True)) - expected).max() > 1e-3


def test_a_network_in_floats_stays_the_same() -> None:
    network = graph(quantized=False)
    np.testing.assert_array_equal(outputs(without_quantization(network)), outputs(network))
    assert without_quantization(without_quantization(network)) == without_quantization(network)


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_released_networks_keep_their_card_and_weights(name: str) -> None:
    before, after = (
        onnx.load_from_string(data) for data in (models.read(name), without_quantization(models.read(name)))
    )
    onnx.checker.check_model(after, full_check=True)
    assert after.metadata_props == before.metadata_props
    assert after.graph.initializer == before.graph.initializer
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    assert not any(node.op_type == "QuantizeLinear" for node in after.graph.node)
    constants = {tensor.name for tensor in after.graph.initializer}
    for node in after.graph.node:  # what is widened still is made of constants
        if set(node.input) <= constants:
            constants.update(node.output)
    widened = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    assert all(node.input[0] in constants for node in widened)
