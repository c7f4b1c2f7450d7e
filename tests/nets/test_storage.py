"""Small numbers in a weight file come back as the weights they stand for, and cost nothing once it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from octamark import weights
from octamark.nets.storage import LARGEST, STORAGES, Storage, shrink


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


def kept(kernels: dict[str, NDArray[np.float32]], storage: Storage) -> dict[str, NDArray[np.float32]]:
    """What the shrunk graph computes with."""
    one = model(kernels)
    shrink(one, storage)
    onnx.checker.check_model(one)
    session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
    found = {}
    for name, kernel in kernels.items():
        each = int(np.prod(kernel.shape[1:]))
        asked = np.eye(each, dtype=np.float32).reshape(each, *kernel.shape[1:])
        feeds = {f"{other} in": np.zeros((1, *values.shape[1:]), np.float32) for other, values in kernels.items()}
        (answer,) = session.run([f"{name} out"], {**feeds, f"{name} in": asked})
        found[name] = np.asarray(answer)[:, :, 0, 0].T.reshape(kernel.shape)
    return found


def stored(kernels: dict[str, NDArray[np.float32]], storage: Storage) -> dict[str, np.dtype[np.generic]]:
    """The kind of number of every kernel in the file."""
    one = model(kernels)
    shrink(one, storage)
    held = [numpy_helper.to_array(tensor) for tensor in one.graph.initializer]
    names = [tensor.name.partition(".")[0] for tensor in one.graph.initializer]
    return {name: values.dtype for name, values in zip(names, held, strict=True) if values.size >= 256}


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(seed=st.integers(0, 2**31), out=st.integers(1, 6), half=st.integers(15, 20), spread=st.floats(1e-4, 1e3))
@settings(max_examples=25, deadline=None)
def test_int4_gives_every_whole_step_back(seed: int, out: int, half: int, spread: float) -> None:
    """No channel changes places with another, and none of the 16 steps is lost."""
    steps = np.random.default_rng(seed).integers(-8, 8, (out, 2 * half, 3, 3)).astype(np.float32)
    steps[:, 0, 0, 0] = -8
    steps[:, 1, 0, 0] = 7
    scale = np.float32(np.float16(spread * 7.5 / 8)) / np.float32(7.5 / 8)
    one = kept({"a": steps * scale}, "int4")["a"]
    found = one / np.abs(one).max(axis=(1, 2, 3), keepdims=True) * 8
    np.testing.assert_allclose(found, steps, atol=1e-3)


def test_int4_is_for_the_largest_kernels() -> None:
    kernels = {"large": drawn(32, 32, 3, 3), "small": drawn(8, 8, 3, 3), "odd": drawn(32, 31, 3, 3)}
    assert kernels["small"].size < LARGEST * sum(map(np.size, kernels.values())) < kernels["odd"].size
    assert stored(kernels, "int4") == {"large": np.uint8, "small": np.int8, "odd": np.int8}
    assert stored(kernels, "int8") == dict.fromkeys(kernels, np.int8)
    assert stored(kernels, "float16") == dict.fromkeys(kernels, np.float16)
    assert stored(kernels, "float32") == dict.fromkeys(kernels, np.float32)
    sizes = []
    for storage in STORAGES:
        one = model(kernels)
        shrink(one, storage)
        sizes.append(len(one.SerializeToString()))
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("storage", "error"), [("float32", 0.0), ("float16", 3e-4), ("int8", 0.012), ("int4", 0.13)])
def test_error_of_each_storage(storage: Storage, error: float) -> None:
    """Relative, root mean square, normal weights: int4's steps are some 17 times int8's, less what clipping saves"""
    kernel = drawn(32, 32, 3, 3)
    off = kept({"a": kernel}, storage)["a"] - kernel
    measured = float(np.sqrt(np.square(off).mean() / np.square(kernel).mean()))
    assert measured <= error
    assert measured >= error / 2


def test_a_lone_large_weight_is_clipped_not_all_others() -> None:
    kernel = drawn(4, 64, 3, 3)
    kernel[0, 0, 0, 0] = 8.0
    one = kept({"a": kernel}, "int4")["a"]
    assert one[0, 0, 0, 0] < 6
    unclipped = np.abs(kernel[0]).max() / np.float32(7.5)
    coarse = np.clip(np.round(kernel[0] / unclipped), -8, 7) * unclipped
    assert np.square(one[0] - kernel[0]).mean() < 0.7 * np.square(coarse - kernel[0]).mean()


def test_a_kernel_of_zeros() -> None:
    np.testing.assert_array_equal(kept({"a": np.zeros((4, 32, 3, 3), np.float32)}, "int4")["a"], 0)


@pytest.mark.parametrize("name", [*weights.available(), "regions"])
def test_nothing_is_widened_while_a_released_file_runs(name: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(weights.read(name), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    kernels = {tensor.name: tensor.data_type for tensor in loaded.initializer}
    convolutions = [node for node in loaded.node if node.op_type == "Conv"]
    assert len(convolutions) > 40
    assert {kernels[node.input[1]] for node in convolutions} == {onnx.TensorProto.FLOAT}
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    assert not small & set(kernels.values())
