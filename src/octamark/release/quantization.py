"""Weights stored with fewer bits, behind nodes that widen them; runtimes do that once, when a file is loaded."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from octamark.errors import WeightsError

Storage = Literal["int4", "int8", "float16", "float32"]
STORAGES: dict[Storage, str] = {
    "int4": "as int8, and the largest kernels of the coarsest level as int4",
    "int8": "kernels and the matrix of the shape correction as int8 with a scale per output channel, other tensors of "
    "64 values or more as float16",
    "float16": "tensors of 64 values or more as float16",
    "float32": "all weights as float32",
}
"""Names of the storages, and what each does."""

LARGE = 0.1
"""A kernel of the coarsest level with at least this share of the level's weights is stored as int4: four of eight at
every width. Each value there is a sum over hundreds of weights, whose rounding errors average out; in finer levels, and
in the kernels that draw the heatmaps, int4 costs accuracy."""

_INPUT_AXES = {4: (1, 2, 3), 2: (0,)}
"""Axes that share a scale, by the number of dimensions: of a kernel, and of the matrix of the shape correction."""


def quantize_weights(model: onnx.ModelProto, storage: Storage, coarsest: str) -> None:
    """Replace float32 initializers, in place, by smaller ones behind nodes that widen them.

    Tensors of 64 values or more become float16; kernels and square matrices of 256 values or more int8, and large
    kernels with an even number of input channels int4, as far as ``storage`` says so. The calibration stays float32.

    Args:
        model: the graph, changed in place.
        storage: see ``STORAGES``.
        coarsest: beginning of the names of the coarsest level's weights.

    Raises:
        WeightsError: a weight that is not finite, or too large for float16.
    """
    if storage == "float32":
        return
    weights = {}
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64 or tensor.name.startswith("calibration"):
            continue
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise WeightsError(
                f"{tensor.name}: weights that are not finite or above 65504, the most that float16 holds; float32 "
                "storage keeps larger ones"
            )
        weights[tensor.name] = values
        model.graph.initializer.remove(tensor)
    level = {name: values.size for name, values in weights.items() if name.startswith(coarsest) and values.ndim == 4}
    assert level, f"no weights of {coarsest}"
    large = {name for name, size in level.items() if size >= LARGE * sum(level.values())}
    widening = _Widening(model)
    for name, values in weights.items():
        square = values.ndim == 2 and values.shape[0] == values.shape[1]
        if storage == "float16" or values.size < 256 or not (values.ndim == 4 or square):
            widening.half(name, values)
        elif storage == "int4" and name in large and values.shape[1] % 2 == 0:
            widening.int4(name, values)
        else:
            widening.int8(name, values)
    for node in reversed(widening.nodes):
        model.graph.node.insert(0, node)


class _Widening:
    """Adds small tensors to a graph and collects the nodes that widen them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.nodes: list[onnx.NodeProto] = []

    def half(self, name: str, values: NDArray[np.float32]) -> None:
        self._cast(f"{name}.half", values.astype(np.float16), name)

    def int8(self, name: str, values: NDArray[np.float32]) -> None:
        """Stored as int8; the largest weight of a channel is 127."""
        scale = _storable(np.abs(values).max(axis=_INPUT_AXES[values.ndim], keepdims=True) / 127)
        self._cast(f"{name}.int8", _steps(values, scale, -127, 127).astype(np.int8), f"{name}.wide")
        self._scaled(name, f"{name}.wide", scale)

    def int4(self, name: str, values: NDArray[np.float32]) -> None:
        """Stored as two numbers of 0..15 per byte, the first half of the input channels in the low bits; 8 means 0."""
        scale = _closest_scale(values)
        steps = (_steps(values, scale, -8, 7) + 8).astype(np.uint8)
        low, high = np.split(steps, 2, axis=1)
        self._cast(f"{name}.int4", low + high * np.uint8(16), f"{name}.bytes")
        sixteenth, sixteen, zero = (self._constant(value) for value in (1 / 16, 16, 8))
        self._node("Mul", [f"{name}.bytes", sixteenth], f"{name}.sixteenths")
        self._node("Floor", [f"{name}.sixteenths"], f"{name}.high")
        self._node("Mul", [f"{name}.high", sixteen], f"{name}.above")
        self._node("Sub", [f"{name}.bytes", f"{name}.above"], f"{name}.low")
        self._node("Concat", [f"{name}.low", f"{name}.high"], f"{name}.both", axis=1)
        self._node("Sub", [f"{name}.both", zero], f"{name}.wide")
        self._scaled(name, f"{name}.wide", scale)

    def _scaled(self, name: str, steps: str, scale: NDArray[np.float16]) -> None:
        self._cast(f"{name}.scale", scale, f"{name}.step")
        self._node("Mul", [steps, f"{name}.step"], name)

    def _cast(self, name: str, values: NDArray[Any], wide: str) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        self._node("Cast", [name], wide, to=onnx.TensorProto.FLOAT)

    def _constant(self, value: float) -> str:
        name = f"storage.{value}"
        if all(tensor.name != name for tensor in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))


def _storable(scale: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    storable: NDArray[np.float16] = np.maximum(scale, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    return storable


def _steps(values: NDArray[np.float32], scale: NDArray[np.float16], low: int, high: int) -> NDArray[np.float32]:
    steps: NDArray[np.float32] = np.clip(np.round(values / scale.astype(np.float32)), low, high)
    return steps


def _closest_scale(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The scale per output channel that gives int4 the least squared error.

    There are few large weights, so that clipping them may cost less than coarser steps for all.
    """
    axes = _INPUT_AXES[values.ndim]
    largest = np.abs(values).max(axis=axes, keepdims=True) / 7.5
    scales = np.stack([_storable(largest * share) for share in np.linspace(0.5, 1, 21)])
    errors = [
        np.square(_steps(values, scale, -8, 7) * scale - values).sum(axis=axes, keepdims=True) for scale in scales
    ]
    best: NDArray[np.float16] = np.take_along_axis(scales, np.argmin(errors, axis=0)[None], axis=0)[0]
    return best
