"""From a trained network to one small ONNX file, with its card and its layout in the metadata."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from octamark import layouts
from octamark.errors import ConfigError, WeightsError, listed
from octamark.layouts import Layout
from octamark.models import LAYOUT_KEY, METADATA_KEY, Card, ModelCard, RegionCard, parse_card, parse_region_card
from octamark.nets.network import EncoderLayer
from octamark.release.predictor import Predictor, RegionalPredictor, calibration_constants
from octamark.release.quantization import (
    INT8_STORAGES,
    Storage,
    activation_ranges,
    quantize_activations,
    quantize_weights,
)

OPSET = 18


def recalibrated(data: bytes, card: ModelCard) -> bytes:
    """The ONNX file with the card's calibration (of spreads and of visibility) in its graph, and with the card itself.

    Raises:
        WeightsError: a graph that holds no calibration of that size.
    """
    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, values in calibration_constants(card.calibration, card.visibility).items():
        if name not in tensors and name == "calibration_unusual" and not values.any():
            continue  # a file of an older version, in which both exponents are 0
        if name not in tensors or tuple(tensors[name].dims) != values.shape:
            raise WeightsError(f"{card.name}: its graph holds no {name} of shape {values.shape}")
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return _finish(model, card)


def depends_on_unusual(data: bytes) -> bool:
    """Whether the graph of an ONNX file can calibrate by shift and contrast; those of older versions cannot."""
    return any(tensor.name == "calibration_unusual" for tensor in onnx.load_from_string(data).graph.initializer)


def to_onnx(
    predictor: Predictor, card: ModelCard, *, storage: Storage = "int4", crops: NDArray[np.uint8] | None = None
) -> bytes:
    """The predictor as an ONNX file.

    Args:
        card: written into the metadata, with the predictor's arithmetic.
        storage: precision of the stored weights, see ``octamark.release.quantization.STORAGES``; for integer
            arithmetic ``"int4"`` or ``"int8"``.
        crops: (n, size, size, 3) of training faces, for integer arithmetic: they tell the range of every map.

    Returns:
        The file's bytes. Inputs and outputs are those of ``Predictor``, with any number of crops.

    Raises:
        ConfigError: integer arithmetic without crops, or with another storage.
    """
    example = torch.zeros(2, card.crop.size, card.crop.size, 3, dtype=torch.uint8)
    model = _graph(predictor, example, predictor.outputs, storage, crops)
    return _finish(model, card.model_copy(update={"arithmetic": predictor.arithmetic}), predictor.layout)


def regions_to_onnx(
    predictor: RegionalPredictor, card: RegionCard, *, storage: Storage = "int4", crops: NDArray[np.uint8] | None = None
) -> bytes:
    """The regional predictor as an ONNX file, for any number of crops; see ``to_onnx``."""
    example = torch.zeros(2, card.rule.size, card.rule.size, 3, dtype=torch.uint8)
    model = _graph(predictor, example, ["readings", "spread"], storage, crops)
    return _finish(model, card.model_copy(update={"arithmetic": predictor.arithmetic}), predictor.layout)


def _graph(
    module: Predictor | RegionalPredictor,
    crops: Tensor,
    outputs: list[str],
    storage: Storage,
    training_crops: NDArray[np.uint8] | None,
) -> onnx.ModelProto:
    """The ONNX graph of a module whose one input is ``crops``, of any length."""
    integer = module.arithmetic == "int8"
    if integer and storage not in INT8_STORAGES:
        raise ConfigError(f"storage {storage!r} with arithmetic 'int8'; allowed: {listed(INT8_STORAGES)}")
    if integer and (training_crops is None or not len(training_crops)):
        raise ConfigError("arithmetic 'int8' needs crops of training faces, which tell the range of every map")
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                module.eval(),
                (crops,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["crops"],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _strip(model)
    if integer:
        assert training_crops is not None
        coarsest = "network.coarsest."
        quantize_activations(model, activation_ranges(model, training_crops), storage, coarsest)
    else:
        *_, coarsest = (f"{name}." for name, part in module.named_modules() if isinstance(part, EncoderLayer))
    quantize_weights(model, storage, coarsest)
    _share_constants(model)
    _shorten(model)
    return model


def with_card(data: bytes, card: Card) -> bytes:
    """The ONNX file with another card in its metadata; graph and layout stay as they are."""
    return _finish(onnx.load_from_string(data), card)


def _finish(model: onnx.ModelProto, card: Card, layout: Layout | None = None) -> bytes:
    """The model's bytes with that card, and that layout; None keeps the layout that the metadata hold.

    Raises:
        WeightsError: a card that could not be read back, such as one changed by ``model_copy``, which checks nothing.
    """
    text = card.model_dump_json()
    (parse_card if isinstance(card, ModelCard) else parse_region_card)(text, card.name)
    model.producer_name, model.producer_version = "octamark", card.version
    properties = {entry.key: entry.value for entry in model.metadata_props if entry.key == LAYOUT_KEY}
    if layout is not None:
        properties = {LAYOUT_KEY: layouts.dumps(layout)}
    helper.set_model_props(model, {METADATA_KEY: text, **properties})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _strip(model: onnx.ModelProto) -> None:
    """Drop what only a debugger reads, in place: source lines and most intermediate shapes, most of a small file.

    Without the shapes of resized maps and of what convolutions write, ONNX Runtime would not know that two maps are as
    large, and would add them by an operator of its own instead of in the convolution.
    """
    written = {node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Resize")}
    shapes = [value for value in model.graph.value_info if value.name in written]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _share_constants(model: onnx.ModelProto) -> None:
    """Keep equal constants once, in place; the calibration's stay as they are."""
    first: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for tensor in list(model.graph.initializer):
        if tensor.name.startswith("calibration"):
            continue
        unnamed = onnx.TensorProto()
        unnamed.CopyFrom(tensor)
        unnamed.ClearField("name")
        names[tensor.name] = first.setdefault(unnamed.SerializeToString(deterministic=True), tensor.name)
        if names[tensor.name] != tensor.name:
            model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _shorten(model: onnx.ModelProto) -> None:
    """Number the graph's nodes and inner values in place of their long names, and leave out default attributes.

    Inputs, outputs and the calibration keep their names. Every node has a name: ONNX Runtime before 1.21.2 gives the
    nodes that it fuses names made of the first ones', and refuses two that are equal.
    """
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    names |= {tensor.name: tensor.name for tensor in graph.initializer if tensor.name.startswith("calibration")}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, format(len(names), "x"))
    for index, node in enumerate(graph.node):
        node.name = format(index, "x")
        for values in (node.input, node.output):
            values[:] = [names.setdefault(value, format(len(names), "x")) for value in values]
        attributes = [attribute for attribute in node.attribute if not _is_default(node.op_type, attribute)]
        del node.attribute[:]
        node.attribute.extend(attributes)
    for value in graph.value_info:
        value.name = names[value.name]


def _is_default(operator: str, attribute: onnx.AttributeProto) -> bool:
    if attribute.name in ("dilations", "strides", "pads"):
        return set(attribute.ints) <= {0 if attribute.name == "pads" else 1}
    default = onnx.defs.get_schema(operator, OPSET).attributes[attribute.name].default_value
    return bool(default.type) and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)
