"""Networks in float32, for runtimes without 8-bit kernels.

The model files that ship compute in 8 bits: nodes around every convolution quantise its maps (QuantizeLinear) and widen
them again (DequantizeLinear). On a processor ONNX Runtime joins them with the convolution. Its providers for graphics
cards do not: there they would run one by one, beside a convolution in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from octamark.inference.protobuf import bytes_field, fields, number_field

_VIEWS = ("Reshape", "Transpose", "Slice")
"""Operators that move values without changing them; in 8-bit networks they move quantised values."""

_GRAPH, _NODES, _INPUTS, _INTERMEDIATE = 7, 1, 11, 13
"""Field numbers: ``ModelProto.graph``; ``GraphProto.node``, ``input`` and ``value_info``."""

_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5
"""Field numbers of ``NodeProto``."""


def without_quantization(model: bytes) -> bytes:
    """An .onnx file (ONNX's ModelProto) that computes in float32: maps are quantised nowhere.

    Weights stay as they are stored, with the nodes that widen them; runtimes do that once, when a file is loaded. Files
    that compute in float32 stay the same but for the sizes of intermediate results, which are left out.

    Args:
        model: the bytes of an .onnx file.

    Raises:
        IndexError, UnicodeDecodeError: bytes that are no protobuf message.
    """
    return b"".join(
        bytes_field(field, _float_graph(content)) if field == _GRAPH else whole
        for field, content, whole in fields(model)
    )


def _float_graph(graph: bytes) -> bytes:
    """A GraphProto without nodes that quantise maps."""
    parts = list(fields(graph))
    pixels = {_text(content, 1) for field, content, _ in parts if field == _INPUTS}  # and views of them
    sources: dict[str, str] = {}  # of a removed node's output: the value that takes its place
    moved: set[str] = set()  # views of quantised maps
    result = b""
    for field, content, whole in parts:
        if field == _INTERMEDIATE:
            continue
        if field != _NODES:
            result += whole
            continue
        operator, (inputs, outputs) = _text(content, _OPERATOR), _edges(content)
        source = inputs[0] if inputs else ""
        if operator == "QuantizeLinear":
            sources[outputs[0]] = sources.get(source, source)
            moved.add(outputs[0])
        elif operator == "DequantizeLinear" and source in moved:
            sources[outputs[0]] = sources.get(source, source)
        elif operator == "DequantizeLinear" and source in pixels:
            result += b"".join(bytes_field(_NODES, node) for node in _subtraction(inputs, outputs[0]))
        else:
            if operator in _VIEWS:
                for names in (pixels, moved):
                    if source in names:
                        names.update(outputs)
            result += bytes_field(_NODES, _renamed(content, sources))
    return result


def _subtraction(inputs: Sequence[str], output: str) -> Iterator[bytes]:
    """The nodes that do what DequantizeLinear does with pixels: ``(pixels - zero point) * scale``."""
    pixels, scale, zero = inputs
    yield _node("Cast", [pixels], f"{output}.pixels", _TO_FLOAT)
    yield _node("Cast", [zero], f"{output}.zero", _TO_FLOAT)
    yield _node("Sub", [f"{output}.pixels", f"{output}.zero"], f"{output}.steps")
    yield _node("Mul", [f"{output}.steps", scale], output)


_TO_FLOAT = bytes_field(1, b"to") + number_field(3, 1) + number_field(20, 2)
"""AttributeProto: name, i (TensorProto.FLOAT) and type (INT)."""


def _node(operator: str, inputs: Sequence[str], output: str, attribute: bytes = b"") -> bytes:
    """A NodeProto."""
    names = b"".join(bytes_field(_INPUT, name.encode()) for name in inputs)
    attributes = bytes_field(_ATTRIBUTE, attribute) if attribute else b""
    return names + bytes_field(_OUTPUT, output.encode()) + bytes_field(_OPERATOR, operator.encode()) + attributes


def _edges(node: bytes) -> tuple[list[str], list[str]]:
    """The names of a node's inputs and outputs."""
    parts = list(fields(node))
    inputs, outputs = ([content.decode() for field, content, _ in parts if field == kind] for kind in (_INPUT, _OUTPUT))
    return inputs, outputs


def _renamed(node: bytes, sources: Mapping[str, str]) -> bytes:
    """A NodeProto that reads other values."""
    return b"".join(
        bytes_field(field, sources.get(content.decode(), content.decode()).encode()) if field == _INPUT else whole
        for field, content, whole in fields(node)
    )


def _text(message: bytes, number: int) -> str:
    """The text in the field of that number; empty without one."""
    return next((content.decode() for field, content, _ in fields(message) if field == number), "")
