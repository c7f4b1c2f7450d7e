"""Weights stored with fewer bits, and convolutions in integer arithmetic.

For arithmetic in float32, small weights lie behind nodes that widen them; runtimes do that once, when a file is loaded.
For integer arithmetic, activations are quantised too (static, QDQ): every map between two convolutions has 8 bits, with
the range that it had on some training faces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from octamark.errors import WeightsError
from octamark.release.fusion import PIXEL_MEAN

Storage = Literal["int4", "int8", "float16", "float32"]
STORAGES: dict[Storage, str] = {
    "int4": "as int8, and the largest kernels of the coarsest level as int4",
    "int8": "kernels and the matrix of the shape correction as int8 with a scale per output channel, other tensors of "
    "64 values or more as float16",
    "float16": "tensors of 64 values or more as float16",
    "float32": "all weights as float32",
}
"""Names of the storages, and what each does."""

INT8_STORAGES: tuple[Storage, ...] = ("int4", "int8")
"""Storages whose kernels int8 arithmetic can use as they are."""

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
    weights: dict[str, NDArray[np.float32]] = {}
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
    large = _large({name: values.size for name, values in weights.items() if values.ndim == 4}, coarsest)
    widening = _Widening(model.graph)
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


def _large(kernels: dict[str, int], coarsest: str) -> set[str]:
    """The names of the kernels that int4 storage stores as int4; see ``LARGE``.

    Args:
        kernels: number of weights by name.
        coarsest: beginning of the names of the coarsest level's weights.
    """
    level = {name: size for name, size in kernels.items() if name.startswith(coarsest)}
    return {name for name, size in level.items() if size >= LARGE * sum(level.values())}


class _Widening:
    """Adds small tensors to a graph and collects the nodes that widen them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
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
        scale = _closest_scale(values, -8, 7)
        self.int4_steps(name, values, scale)
        self._scaled(name, f"{name}.wide", scale)

    def int4_steps(self, name: str, values: NDArray[np.float32], scale: NDArray[np.float16]) -> None:
        """The steps of that scale, from -8 to 7, as the float tensor NAME.wide."""
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


def _closest_scale(values: NDArray[np.float32], low: int, high: int) -> NDArray[np.float16]:
    """The scale per output channel that gives steps from ``low`` to ``high`` the least squared error.

    There are few large weights, so that clipping them may cost less than coarser steps for all.
    """
    axes = _INPUT_AXES[values.ndim]
    largest = np.abs(values).max(axis=axes, keepdims=True) / ((high - low) / 2)
    scales = np.stack([_storable(largest * share) for share in np.linspace(0.5, 1, 21)])
    errors = [
        np.square(_steps(values, scale, low, high) * scale - values).sum(axis=axes, keepdims=True) for scale in scales
    ]
    best: NDArray[np.float16] = np.take_along_axis(scales, np.argmin(errors, axis=0)[None], axis=0)[0]
    return best


LIMIT = 64
"""Largest step of a weight in integer arithmetic. Processors without VNNI add two products of 8 bits in 16 bits, which
hold 2 * 255 * 64 but not 2 * 255 * 127."""

EMPTY_SCALE = 2.0**-10
"""Scale of an output channel whose weights are all 0."""

_VIEWS = ("Reshape", "Transpose", "Slice")
"""Operators that move values without changing them; they run on quantised maps."""


class Quantized(NamedTuple):
    """A map of 8 bits: its name, the names of scale and zero point, and the scale."""

    name: str
    scale_name: str
    zero_name: str
    scale: np.float32


RANGE_SHARE = 0.99999
"""Share of a map's values that lie below the upper end of its range; as many lie above the lower end. A few rare values
would make all steps larger: with them, two readings of one face differed by 10 to 19 % more."""

Ranges = Mapping[str, tuple[float, float]]
"""Lower and upper end of the range of each map, by name."""


def activation_ranges(
    model: onnx.ModelProto, crops: NDArray[np.uint8], batch: int = 8
) -> dict[str, tuple[float, float]]:
    """The range of every map of a graph on some crops (n, ...), without its rarest values (``RANGE_SHARE``)."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    written = {node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Relu", "Add", "Concat")}
    names = sorted(written | {node.input[0] for node in model.graph.node if node.op_type == "Conv"})
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    limits = []
    for start in range(0, len(crops), batch):
        maps = session.run(names, {"crops": crops[start : start + batch]})
        limits.append([np.quantile(values, (1 - RANGE_SHARE, RANGE_SHARE)) for values in maps])
    means = np.mean(limits, axis=0)  # names, (low, high)
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, means, strict=True)}


def quantize_activations(model: onnx.ModelProto, ranges: Ranges, storage: Storage, coarsest: str) -> None:
    """Quantise, in place, the convolutions of a graph that holds an ``octamark.release.fusion.IntegerNetwork``.

    Weights have 7 bits with a scale per output channel (``LIMIT``), in int4 storage the large ones of the coarsest
    level 4 bits; maps have 8.

    Args:
        ranges: see ``activation_ranges``.
        storage: ``"int8"`` or ``"int4"``.
        coarsest: beginning of the names of the coarsest level's weights.
    """
    _Quantization(model, ranges, storage, coarsest).run()


def _extent(largest: NDArray[np.float32]) -> slice:
    """From the first to the last channel that is not 0, an even number of them where there are as many."""
    used = np.flatnonzero(largest)
    start, stop = int(used[0]), int(used[-1]) + 1
    if (stop - start) % 2 and stop < len(largest):
        stop += 1
    return slice(start, stop)


class _Quantization:
    def __init__(self, model: onnx.ModelProto, ranges: Ranges, storage: Storage, coarsest: str) -> None:
        self.graph, self.ranges = model.graph, ranges
        self.values = {tensor.name: tensor for tensor in model.graph.initializer}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.quantized: dict[str, Quantized] = {}
        self.pixels = {"crops"}
        self.nodes: list[onnx.NodeProto] = []
        self.kernels: dict[str, str] = {}  # weights -> scales, of those that are already int8
        self.repeats = {
            node.output[0]: node for node in model.graph.node
            if node.op_type == "Concat" and all(name in self.values for name in node.input)
        }  # fmt: skip
        sizes = {
            self._stored(node.input[1]): numpy_helper.to_array(self.values[self._stored(node.input[1])])
            for node in model.graph.node
            if node.op_type == "Conv"
        }
        even = {name: values.size for name, values in sizes.items() if values.shape[1] % 2 == 0}
        self.large = _large(even, coarsest) if storage == "int4" else set()
        self.count = 0

    def run(self) -> None:
        for node in self.graph.node:
            if node.output[0] in self.repeats:
                continue
            if node.op_type in _VIEWS and node.input[0] in self.pixels:
                self.pixels.add(node.output[0])
                self.nodes.append(node)
            elif node.op_type == "Cast" and node.input[0] in self.pixels:
                self._pixels(node)
            elif node.op_type in _VIEWS and node.input[0] in self.quantized:
                self._view(node)
            elif node.output[0] not in self.quantized:
                self._compute(node)
        used = {name for node in self.nodes for name in node.input}
        initializers = [tensor for tensor in self.values.values() if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(initializers)

    def _pixels(self, cast: onnx.NodeProto) -> None:
        """Pixels are quantised already; their mean becomes 128, and the biases that read them change."""
        (subtraction,) = self.users[cast.output[0]]
        assert subtraction.op_type == "Sub"
        self.quantized[subtraction.output[0]] = Quantized(
            cast.input[0],
            self._constant("pixels.scale", np.float32(1)),
            self._constant("pixels.zero", np.uint8(128)),
            np.float32(1),
        )

    def _view(self, node: onnx.NodeProto) -> None:
        source = self.quantized[node.input[0]]
        output = node.output[0]
        result = source._replace(name=f"{output}.int8")
        self._node(node.op_type, [source.name, *node.input[1:]], result.name, *node.attribute)
        self.quantized[output] = result

    def _compute(self, node: onnx.NodeProto) -> None:
        """A node on floats: quantised maps are dequantised before it, and some results quantised behind it."""
        if node.op_type == "Conv" and node.input[0] not in self.quantized:
            self._quantize(node.input[0])
        maps = [name for name in node.input if name and name not in self.values]
        integer = node.op_type == "Conv" or (
            node.op_type in ("Add", "Concat") and all(name in self.quantized for name in maps)
        )
        inputs = [self._dequantized(name) if name in self.quantized else name for name in node.input]
        if node.op_type == "Conv":
            inputs[1:] = self._parameters(node)
        self._node(node.op_type, inputs, node.output[0], *node.attribute)
        if not integer:
            return
        output, users = node.output[0], self.users.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type == "Relu":
            output = users[0].output[0]
            self._node("Relu", [node.output[0]], output)
        self._quantize(output)

    def _quantize(self, name: str) -> None:
        low, high = (min(self.ranges[name][0], 0.0), max(self.ranges[name][1], 0.0))
        scale = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(np.round(-low / scale), 0, 255))
        parameters = self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero)
        self._node("QuantizeLinear", [name, *parameters], f"{name}.int8")
        self.quantized[name] = Quantized(f"{name}.int8", *parameters, scale)

    def _dequantized(self, name: str) -> str:
        source, result = self.quantized[name], f"{name}.{self.count}"
        self.count += 1
        self._node("DequantizeLinear", list(source[:3]), result)
        return result

    def _parameters(self, node: onnx.NodeProto) -> list[str]:
        """The names of a convolution's dequantised weights and biases."""
        name, source = node.input[1], self.quantized[node.input[0]]
        kernel = numpy_helper.to_array(self.values[self._stored(name)])
        scale = self._kernel(name, kernel)
        result = [f"{node.output[0]}.weight"]
        self._node("DequantizeLinear", [f"{name}.int8", self.kernels[name]], result[0], axis=0)
        bias = numpy_helper.to_array(self.values[node.input[2]]) if len(node.input) > 2 else None
        if source.name in self.pixels:
            bias = (0 if bias is None else bias) + (128 - PIXEL_MEAN) * kernel.sum(axis=(1, 2, 3))
        if bias is not None:
            unit = np.tile(scale.astype(np.float32) * source.scale, len(bias) // len(scale))
            steps = np.clip(np.round(bias / unit), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            stem = f"{node.output[0]}.bias"
            names = [self._constant(f"{stem}.int32", steps), self._constant(f"{stem}.scale", unit)]
            self._node("DequantizeLinear", names, stem, axis=0)
            result.append(stem)
        return result

    def _kernel(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
        """Store a kernel as NAME.int8, and its scales per output channel, which are returned."""
        stored = self._stored(name)
        narrow = stored in self.large
        scale = _closest_scale(values, -8, 7) if narrow else _closest_scale(values, -LIMIT, LIMIT)
        empty = ~values.any(axis=(1, 2, 3))
        scale[empty] = EMPTY_SCALE  # the unit of the bias
        if name in self.kernels:
            return scale.ravel()
        repeated = self.repeats.get(name)
        steps = f"{stored}.int8"
        box = tuple(_extent(np.abs(values).max(axis=axes)) for axes in ((1, 2, 3), (0, 2, 3)))
        dense = values[box]
        trimmed = dense.size < 0.9 * values.size
        if not trimmed:
            dense, box = values, (slice(0, values.shape[0]), slice(0, values.shape[1]))
        dense_steps = f"{stored}.dense" if trimmed else steps
        if narrow:
            widening = _Widening(self.graph)
            widening.int4_steps(stored, dense, scale[box[0]])
            self.nodes += widening.nodes
            self.values |= {tensor.name: tensor for tensor in self.graph.initializer}
            self._node("Cast", [f"{stored}.wide"], dense_steps, to=onnx.TensorProto.INT8)
        else:
            self._constant(dense_steps, _steps(dense, scale[box[0]], -LIMIT, LIMIT).astype(np.int8))
        if trimmed:
            around = [box[0].start, box[1].start, 0, 0]
            around += [values.shape[0] - box[0].stop, values.shape[1] - box[1].stop, 0, 0]
            pads = self._constant(f"{stored}.pads", np.array(around, np.int64))
            self._node("Pad", [dense_steps, pads], steps)
        half = self._constant(f"{stored}.half", scale.ravel())
        self._node("Cast", [half], f"{stored}.scales", to=onnx.TensorProto.FLOAT)
        self.kernels[name] = f"{stored}.scales"
        if repeated is not None:
            count = len(repeated.input)
            self._node("Concat", [steps] * count, f"{name}.int8", axis=0)
            self._node("Concat", [f"{stored}.scales"] * count, f"{name}.scales", axis=0)
            self.kernels[name] = f"{name}.scales"
        return scale.ravel()

    def _stored(self, name: str) -> str:
        """The initializer behind a kernel, which may be repeated."""
        return self.repeats[name].input[0] if name in self.repeats else name

    def _constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        self.values[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def _node(
        self, operator: str, inputs: list[str], output: str, *copied: onnx.AttributeProto, **attributes: Any
    ) -> None:
        node = helper.make_node(operator, inputs, [output], **attributes)
        node.attribute.extend(copied)
        self.nodes.append(node)
