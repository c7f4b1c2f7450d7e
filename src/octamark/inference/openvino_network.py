"""Networks in OpenVINO, Intel's runtime, on the processor.

The model files that ship write 8-bit arithmetic as ONNX does: QuantizeLinear, operators that move 8-bit values, and
DequantizeLinear before each convolution. OpenVINO recognises 8-bit convolutions by another form: FakeQuantize, which
rounds floats to the values that 8 bits hold. Convolutions that it does not recognise it computes in floats, so that a
file takes longer than in ONNX Runtime. ``rewrite`` gives a graph that form before OpenVINO compiles it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octamark.errors import DeviceError, WeightsError

try:
    import openvino
    from openvino import opset13
except ImportError:  # octamark.inference.devices says what to install
    pass

PROVIDER = "OpenVINO"
"""What ``get_providers`` calls it."""

_LEVELS = 256
"""Values that 8 bits hold."""

_VIEWS = ("Reshape", "Transpose", "Slice", "StridedSlice")
"""Operators that move values without changing them."""

_TYPES = {"u8": "tensor(uint8)", "f32": "tensor(float)"}
"""ONNX Runtime's names of types."""


class Value(NamedTuple):
    """An input or output of a network, as ``octamark.models.check_graph`` takes it."""

    name: str
    shape: list[int | str]
    type: str


class OpenVinoNetwork:
    """A network that OpenVINO runs, with the methods of ``onnxruntime.InferenceSession`` that octamark uses.

    It reads one crop at a time: with batches of any size OpenVINO takes twice as long per crop. Threads may share it;
    those that read at the same time get a compiled network each.

    Args:
        data: the bytes of an .onnx file.
        name: the file's name in error messages.
        threads: number of processor threads; None lets OpenVINO choose.

    Raises:
        WeightsError: OpenVINO cannot read the file.
        DeviceError: OpenVINO cannot compile it.
    """

    def __init__(self, data: bytes, name: str, threads: int | None) -> None:
        self._name, self._threads = name, threads
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(data)
        except RuntimeError as error:
            raise WeightsError(
                f"{name}: damaged, not an ONNX file, or not for the installed OpenVINO {openvino.__version__} ({error})"
            ) from error
        self._inputs, self._outputs = (
            [_value(port) for port in ports] for ports in (self._model.inputs, self._model.outputs)
        )
        self._idle: dict[tuple[str, ...], list[Any]] = {}
        self._lock = threading.Lock()
        names = tuple(value.name for value in self._outputs if value.name != "heatmaps")
        with self._request(names):  # compiles it, so that errors come now
            pass

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return self._outputs

    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def get_modelmeta(self) -> Any:
        """An object whose ``custom_metadata_map`` holds the metadata of the file."""
        names = dict(self._model.get_rt_info().items()).get("framework", {})
        values = {name: self._model.get_rt_info(["framework", name]).astype(str) for name in names}
        return SimpleNamespace(custom_metadata_map=values)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """The outputs of those names, each with one entry for each entry of the one input.

        Args:
            names: None means all.
            feeds: the input by its name, (n, ...), n >= 1.
        """
        (crops,) = feeds.values()
        names = [value.name for value in self._outputs] if names is None else names
        results: list[list[NDArray[np.float32]]] = [[] for _ in names]
        with self._request(tuple(names)) as request:
            for start in range(len(crops)):
                request.infer({0: crops[start : start + 1]}, share_inputs=True)
                for index, values in enumerate(results):
                    values.append(request.get_output_tensor(index).data.copy())
        return [np.concatenate(values) for values in results]

    @contextmanager
    def _request(self, names: tuple[str, ...]) -> Iterator[Any]:
        """A compiled network of these outputs that no other thread uses meanwhile."""
        with self._lock:  # graphs share nodes: one is rewritten and compiled at a time
            idle = self._idle.setdefault(names, [])
            request = idle.pop() if idle else self._compiled(names)
        try:
            yield request
        finally:
            with self._lock:
                idle.append(request)

    def _compiled(self, names: tuple[str, ...]) -> Any:
        """A new compiled network of these outputs.

        Raises:
            DeviceError: OpenVINO cannot compile it.
        """
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it, which moves points
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else the threads of all processes are tied to the same first cores
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        try:
            model = self._model.clone()
            model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
            model = openvino.Model([model.output(name) for name in names], model.get_parameters(), "network")
            rewrite(model)
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise DeviceError(f"device 'openvino' cannot run {self._name} ({error})") from error


def rewrite(model: Any) -> None:
    """Bring the 8-bit arithmetic of an ``openvino.Model`` of fixed shapes, in place, into the form that OpenVINO knows.

    - Each pair of QuantizeLinear and DequantizeLinear, with what moves 8-bit values between them, becomes one
      FakeQuantize, behind which the same operators move floats; pixels get one, too.
    - A sum that is quantised, moved, cut off at 0 and quantised again is quantised once. This changes it by less than
      a step.
    - A transpose goes behind the FakeQuantize that reads it. Beside a convolution it costs nothing.
    """
    for node in list(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind == "Parameter":
            _quantize_pixels(node.output(0))
        elif kind == "FakeQuantize":
            _join_pair(node)
    for node in list(model.get_ordered_ops()):
        if node.get_type_name() == "FakeQuantize":
            _quantize_once(node)
    for node in list(model.get_ordered_ops()):
        if node.get_type_name() == "FakeQuantize":
            _transpose_later(node)
    model.validate_nodes_and_infer_types()


class _Widening(NamedTuple):
    """What makes 8-bit values floats: ``(value - zero) * scale``."""

    convert: Any
    result: Any
    zero: float
    scale: float

    @property
    def limits(self) -> list[Any]:
        """The floats that the least and the largest of the 8-bit values become, as constants."""
        return _constants((0 - self.zero) * self.scale, (_LEVELS - 1 - self.zero) * self.scale)


def _quantize_pixels(pixels: Any) -> None:
    """Let a FakeQuantize follow a network's input, in place of what makes its pixels floats."""
    widenings, targets = _widenings(pixels), _targets(pixels)
    if widenings:
        floats = opset13.convert(pixels, "f32")
        quantized = opset13.fake_quantize(floats, *_constants(0, _LEVELS - 1), *widenings[0].limits, _LEVELS)
        _redirect(targets, quantized.output(0))
        _bypass(widenings)


def _join_pair(quantize: Any) -> None:
    """Let the FakeQuantize that OpenVINO makes of a QuantizeLinear give the floats that a DequantizeLinear gives."""
    targets = _targets(quantize.output(0))
    if len(targets) != 1 or targets[0].get_node().get_type_name() != "Convert":
        return
    bits = targets[0].get_node().output(0)
    if widenings := _widenings(bits):
        source, low, high = (quantize.input_value(index) for index in range(3))
        joined = opset13.fake_quantize(source, low, high, *widenings[0].limits, _LEVELS)
        _redirect(_targets(bits), joined.output(0))
        _bypass(widenings)


def _quantize_once(quantize: Any) -> None:
    """Quantise a sum that is quantised, cut off at 0 and quantised again as it is the second time."""
    if quantize.input_value(0).get_node().get_type_name() != "Add":
        return
    output, relu = quantize.output(0), None
    while len(targets := _targets(output)) == 1:
        node = targets[0].get_node()
        kind = node.get_type_name()
        if kind == "FakeQuantize" and targets[0].get_index() == 0 and relu is not None:
            positive = opset13.relu(quantize.input_value(0))
            once = opset13.fake_quantize(positive, *(node.input_value(index) for index in range(1, 5)), _LEVELS)
            _redirect(_targets(node.output(0)), node.input_value(0))
            _redirect(_targets(relu.output(0)), relu.input_value(0))
            _redirect(_targets(quantize.output(0)), once.output(0))
            return
        if kind == "Relu":
            relu = node
        elif kind not in _VIEWS:
            return
        output = node.output(0)


def _transpose_later(quantize: Any) -> None:
    """Exchange a FakeQuantize, and a Relu before it, with the Transpose before them."""
    limits = [quantize.input_value(index) for index in range(1, 5)]
    source, relu = quantize.input_value(0).get_node(), False
    if source.get_type_name() == "Relu":
        source, relu = source.input_value(0).get_node(), True
    if source.get_type_name() != "Transpose" or any(_number(limit) is None for limit in limits):
        return
    values = source.input_value(0)
    quantized = opset13.fake_quantize(opset13.relu(values) if relu else values, *limits, _LEVELS)
    _redirect(_targets(quantize.output(0)), opset13.transpose(quantized, source.input_value(1)).output(0))


def _widenings(bits: Any) -> list[_Widening] | None:
    """What makes the 8-bit values of an output floats, perhaps behind operators that move them.

    None if something else reads the values. Where there are several, all do the same.
    """
    found = [_widening(target.get_node()) for target in _readers(bits)]
    widenings = [widening for widening in found if widening is not None]
    if len(widenings) < len(found) or len({(widening.zero, widening.scale) for widening in widenings}) != 1:
        return None
    return widenings


def _widening(convert: Any) -> _Widening | None:
    """The widening that begins with this Convert, or None: Convert, Subtract (unless its constant is 0), Multiply."""
    if convert.get_type_name() != "Convert":
        return None
    node, zero = convert, 0.0
    for kind in ("Subtract", "Multiply"):
        targets = _targets(node.output(0))
        following = targets[0].get_node() if len(targets) == 1 else None
        if following is None or following.get_type_name() != kind:
            if kind == "Subtract":
                continue
            return None
        value = _number(following.input_value(1))
        if value is None:
            return None
        if kind == "Subtract":
            zero, node = value, following
        else:
            return _Widening(convert, following.output(0), zero, value)
    return None


def _number(value: Any) -> float | None:
    """The number that a constant output holds, None if it is no constant or holds several."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_data().size != 1:
        return None
    return float(node.get_data().item())


def _readers(output: Any) -> list[Any]:
    """The inputs that read an output, or what operators that move its values make of it."""
    readers = []
    for target in _targets(output):
        node = target.get_node()
        if node.get_type_name() in _VIEWS and target.get_index() == 0:
            readers += _readers(node.output(0))
        else:
            readers.append(target)
    return readers


def _bypass(widenings: Sequence[_Widening]) -> None:
    """Let what reads the results of widenings read what they widen."""
    for widening in widenings:
        _redirect(_targets(widening.result), widening.convert.input_value(0))


def _targets(output: Any) -> list[Any]:
    """The inputs that read an output."""
    return list(output.get_target_inputs())


def _redirect(targets: Sequence[Any], output: Any) -> None:
    """Let inputs read an output."""
    for target in targets:
        target.replace_source_output(output)


def _constants(*values: float) -> list[Any]:
    return [opset13.constant(np.float32(value)) for value in values]


def _value(port: Any) -> Value:
    """An input or output of an OpenVINO model."""
    kind = port.element_type.get_type_name()
    shape = [size.get_length() if size.is_static else "n" for size in port.partial_shape]
    return Value(port.any_name, shape, _TYPES.get(kind, f"tensor({kind})"))
