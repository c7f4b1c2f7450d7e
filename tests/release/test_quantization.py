"""Small numbers in a weight file come back as the weights they stand for, and cost nothing once it is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from octamark import models
from octamark.errors import WeightsError
from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.release.quantization import STORAGES, Storage, quantize_weights


def model(kernels: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """A graph that gives its kernels back, each through a convolution with a picture of one pixel per channel."""
    nodes, inputs, outputs = [], [], []
    for name, kernel in kernels.items():
        out, channels, *sides = kernel.shape
        inputs.append(helper.make_tensor_value_info(f"{name} in", onnx.TensorProto.FLOAT, ["n", channels, *sides]))
        outputs.append(helper.make_tensor_value_info(f"{name} out", onnx.TensorProto.FLOAT, ["n", out, 1, 1]))
        nodes.append(helper.make_node("Conv", [f"{name} in", name], [f"{name} out"]))
    held = [numpy_helper.from_array(kernel, name) for name, kernel in kernels.items()]
    graph = helper.make_graph(nodes, "kernels", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def quantized(kernels: dict[str, NDArray[np.float32]], storage: Storage, coarsest: str = "") -> onnx.ModelProto:
    one = model(kernels)
    quantize_weights(one, storage, coarsest)
    return one


def kept(kernels: dict[str, NDArray[np.float32]], storage: Storage) -> dict[str, NDArray[np.float32]]:
    """What the quantized graph computes with."""
    one = quantized(kernels, storage)
    onnx.checker.check_model(one)
    session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
    found = {}
    for name, kernel in kernels.items():
        each = int(np.prod(kernel.shape[1:]))
        identity = np.eye(each, dtype=np.float32).reshape(each, *kernel.shape[1:])
        feeds = {f"{other} in": np.zeros((1, *values.shape[1:]), np.float32) for other, values in kernels.items()}
        (answer,) = session.run([f"{name} out"], {**feeds, f"{name} in": identity})
        found[name] = np.asarray(answer)[:, :, 0, 0].T.reshape(kernel.shape)
    return found


def stored(one: onnx.ModelProto) -> dict[str, np.dtype[np.generic]]:
    """The kind of number of every large tensor in a file, by the name of what it stands for."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in one.graph.initializer}
    suffix = re.compile(r"\.(int4|int8|half)$")
    return {suffix.sub("", name): values.dtype for name, values in held.items() if values.size >= 256}


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(seed=st.integers(0, 2**31), out=st.integers(1, 6), half=st.integers(15, 20), spread=st.floats(1e-4, 1e3))
@settings(max_examples=25, deadline=None)
def test_int4_gives_every_whole_step_back(seed: int, out: int, half: int, spread: float) -> None:
    """No channel changes places with another, and none of the 16 steps is lost."""
    steps = np.random.default_rng(seed).integers(-8, 8, (out, 2 * half, 3, 3)).astype(np.float32)
    steps[:, 0, 0, 0] = -8
    steps[:, 1, 0, 0] = 7
    kernel = steps * np.float32(np.float16(spread))
    found = kept({"a": kernel}, "int4")["a"]
    np.testing.assert_allclose(found, kernel, rtol=0.02)  # the scale is the nearest of 21
    np.testing.assert_allclose(found / np.abs(found).max(axis=(1, 2, 3), keepdims=True) * 8, steps, atol=1e-3)


def test_int4_is_for_the_coarsest_level_alone() -> None:
    kernels = {
        "low.large": drawn(32, 32, 3, 3), "low.small": drawn(8, 8, 3, 3), "low.odd": drawn(32, 31, 3, 3),
        "high.large": drawn(64, 32, 3, 3),
    }  # fmt: skip
    wanted = {"low.large": np.uint8, "low.small": np.int8, "low.odd": np.int8, "high.large": np.int8}
    assert stored(quantized(kernels, "int4", "low.")) == wanted
    kinds: dict[Storage, type] = {"int8": np.int8, "float16": np.float16, "float32": np.float32}
    for storage, kind in kinds.items():
        assert stored(quantized(kernels, storage, "low.")) == dict.fromkeys(kernels, kind)
    sizes = [len(quantized(kernels, storage, "low.").SerializeToString()) for storage in STORAGES]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("landmarks", [68, 98])
@pytest.mark.parametrize("change", [{}, {"alpha": 0.0, "attention": False}])
def test_which_kernels_are_int4_hangs_on_no_layout(width: int, landmarks: int, change: dict[str, Any]) -> None:
    """Those of the coarsest level; never the last layer, which draws the heatmaps."""
    network = OctaveNetwork(NetworkConfig(width=width, landmarks=landmarks, **change))
    weights_ = {name: value.numpy() for name, value in network.state_dict().items() if value.ndim == 4}
    kinds = stored(quantized({name: value for name, value in weights_.items() if value.size}, "int4", "encoder.3."))
    chosen = {name.removesuffix(".weight") for name, kind in kinds.items() if kind == np.uint8}
    paths = {"high_to_high"} if "alpha" in change else {"high_to_high", "low_to_high", "high_to_low"}
    second = {f"encoder.3.second.conv.{path}" for path in paths}
    assert chosen == second | {"encoder.3.first.conv.high_to_high"}


@pytest.mark.parametrize("size", [0.01, 100])
@pytest.mark.parametrize(("storage", "error"), [("float32", 0.0), ("float16", 3e-4), ("int8", 0.012), ("int4", 0.13)])
def test_error_of_each_storage(storage: Storage, error: float, size: float) -> None:
    """Relative, root mean square: int4's steps are some 17 times int8's, less what clipping saves."""
    kernel = drawn(32, 32, 3, 3) * np.float32(size)
    off = kept({"a": kernel}, storage)["a"] - kernel
    measured = float(np.sqrt(np.square(off).mean() / np.square(kernel).mean()))
    assert measured <= error
    assert measured >= error / 2


@pytest.mark.parametrize(("storage", "error"), [("int8", 0.013), ("int4", 0.14)])
def test_every_output_channel_has_its_own_scale(storage: Storage, error: float) -> None:
    kernel = drawn(8, 32, 3, 3) * np.logspace(-2, 1, 8, dtype=np.float32)[:, None, None, None]
    off = kept({"a": kernel}, storage)["a"] - kernel
    channels = [np.sqrt(np.square(one).mean(axis=(1, 2, 3))) for one in (off, kernel)]
    assert (channels[0] <= error * channels[1]).all()


@pytest.mark.parametrize("storage", ["int4", "int8", "float16"])
@pytest.mark.parametrize("value", [-1e8, np.inf, np.nan])
def test_what_cannot_be_stored_is_refused(storage: Storage, value: float) -> None:
    kernel = drawn(4, 32, 3, 3)
    kernel[1, 2, 0, 0] = value
    with pytest.raises(WeightsError, match=r"^a: weights that are not finite or above 65504"):
        quantized({"a": kernel}, storage)


def test_a_lone_large_weight_is_clipped_not_all_others() -> None:
    kernel = drawn(4, 64, 3, 3)
    kernel[0, 0, 0, 0] = 8.0
    one = kept({"a": kernel}, "int4")["a"]
    assert one[0, 0, 0, 0] < 6
    unclipped = np.abs(kernel[0]).max() / np.float32(7.5)
    coarse = np.clip(np.round(kernel[0] / unclipped), -8, 7) * unclipped
    assert np.square(one[0] - kernel[0]).mean() < 0.7 * np.square(coarse - kernel[0]).mean()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_dead_channel_and_the_largest_weight(storage: Storage) -> None:
    kernel = drawn(4, 32, 3, 3)
    kernel[2] = 0
    kernel[3, 0, 0, 0] = 65504
    found = kept({"a": kernel}, storage)["a"]
    np.testing.assert_array_equal(found[2], 0)
    assert np.isfinite(found).all()
    assert found[3, 0, 0, 0] > 30000


@pytest.mark.parametrize("name", [*models.available(), "regions"])
def test_nothing_is_widened_while_a_released_file_runs(name: str, tmp_path: Path) -> None:
    data, options = models.read(name), onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    kernels = {tensor.name: tensor.data_type for tensor in loaded.initializer}
    writers = {node.output[0]: node for node in loaded.node}
    convolutions = [node for node in loaded.node if node.op_type == "Conv"]
    assert len(convolutions) > 10
    for node in convolutions:
        name = node.input[1]
        if (writer := writers.get(name)) is None:
            assert kernels[name] == onnx.TensorProto.FLOAT
        else:  # what integer convolutions read
            assert writer.op_type == "DequantizeLinear"
            assert kernels[writer.input[0]] == onnx.TensorProto.INT8
    constant = {node.op_type for node in loaded.node if node.input and set(node.input) <= set(kernels)}
    assert constant <= {"DequantizeLinear"}
    assert onnx.TensorProto.FLOAT16 not in kernels.values()
    packed = [
        tensor.name for tensor in loaded.initializer if tensor.data_type == onnx.TensorProto.UINT8 and tensor.dims
    ]
    assert not packed  # int4
