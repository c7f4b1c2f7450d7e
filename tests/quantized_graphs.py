"""A small network in 8 bits as the released model files hold it, and the same in floats."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 8


def graph(*, quantized: bool) -> bytes:
    """Pixels -> convolution, ReLU, a transpose of 8-bit values, a sum of two maps, ReLU, a convolution.

    Args:
        quantized: whether all maps between have 8 bits.
    """
    rng = np.random.default_rng(0)
    constants = {
        "one": np.float32(1), "middle": np.uint8(128), "zero": np.uint8(0), "third": np.uint8(90),
        "scale": np.float32(0.03), "coarse": np.float32(0.06), "fine": np.float32(0.04),
        "steps": rng.integers(-60, 60, (4, 3, 3, 3), np.int8), "step": np.full(4, 0.0002, np.float32),
        "bias": np.array([1, 2, -1, 1], np.float32), "point_steps": rng.integers(-60, 60, (4, 4, 3, 3), np.int8),
        "point_step": np.full(4, 0.002, np.float32), "last_steps": rng.integers(-60, 60, (2, 4, 1, 1), np.int8),
        "last_step": np.full(2, 0.01, np.float32),
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []

    def node(operator: str, inputs: str, output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs.split(), [output], **attributes))
        return output

    def map8(source: str, limits: str, *views: dict[str, object]) -> str:
        """A map, rounded to 8 bits where the graph is quantised; views move the 8-bit values."""
        value = node("QuantizeLinear", f"{source} {limits}", f"{source}.bits") if quantized else source
        for number, view in enumerate(views):
            value = node("Transpose", value, f"{source}.{number}", **view)
        return node("DequantizeLinear", f"{value} {limits}", f"{source}.wide") if quantized else value

    def weights(name: str) -> str:
        return node("DequantizeLinear", f"{name}s {name}", f"{name}.weights", axis=0)

    planes = node("Transpose", "crops", "planes", perm=[0, 3, 1, 2])
    if quantized:
        pixels = node("DequantizeLinear", f"{planes} one middle", "pixels")
    else:
        floats, middle = (node("Cast", name, f"{name}.float", to=TensorProto.FLOAT) for name in (planes, "middle"))
        pixels = node("Sub", f"{floats} {middle}", "pixels")
    first = node("Relu", node("Conv", f"{pixels} {weights('step')} bias", "first", pads=[1, 1, 1, 1]), "positive")
    turned = map8(first, "scale zero", {"perm": [0, 1, 3, 2]})
    point = map8(node("Conv", f"{turned} {weights('point_step')}", "point", pads=[1, 1, 1, 1]), "coarse third")
    total = map8(node("Add", f"{turned} {point}", "sum"), "coarse third", {"perm": [0, 1, 3, 2]})
    read = map8(node("Relu", total, "cut"), "fine zero")
    node("Conv", f"{read} {weights('last_step')}", "map")
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 2, SIDE, SIDE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"octamark": "card"})
    model = onnx.shape_inference.infer_shapes(model)  # sizes and types of maps are stated, as in older files
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def crops(count: int = 5) -> np.ndarray:
    """Pixels (count, 8, 8, 3) for the graph."""
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
