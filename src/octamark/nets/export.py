"""From a trained network to one ONNX file with decoding and calibration inside and the model card in its metadata."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any, Literal, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from octamark.errors import WeightsError
from octamark.layouts import Layout
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, EncoderLayer, OctaveNetwork
from octamark.nets.octave import Maps, OctaveBlock, OctaveConv
from octamark.weights import METADATA_KEY, ModelCard
from octamark.weights.calibration import CONFIDENCE_SHARE, Calibration

OPSET = 18

Storage = Literal["int8", "float16", "float32"]
STORAGES: dict[Storage, str] = {
    "int8": "kernels as int8 with a scale per output channel, other large weights as float16",
    "float16": "large weights as float16",
    "float32": "everything in full",
}


def fold_norms(network: OctaveNetwork) -> OctaveNetwork:
    """A copy for inference whose batch normalisations live in the weights and biases of the convolutions.

    Exact: a normalisation of a sum of paths scales each path and adds one bias.
    """
    folded = copy.deepcopy(network).eval().float()
    for block in folded.modules():
        if isinstance(block, OctaveBlock):
            for name in ("high", "low"):
                norm = getattr(block, f"{name}_norm")
                if norm is not None:
                    _fold(block.conv, name, norm)
                    setattr(block, f"{name}_norm", nn.Identity())
    return folded


def _fold(conv: OctaveConv, name: str, norm: nn.BatchNorm2d) -> None:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    shift = (norm.bias - norm.running_mean * gain).detach()
    paths = [path for source in ("high", "low") if (path := getattr(conv, f"{source}_to_{name}")) is not None]
    for path in paths:
        per_output = (1, -1, 1, 1) if isinstance(path, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        path.weight.data *= gain.view(per_output)
    own = getattr(conv, f"{name}_to_{name}")
    (own if own is not None else paths[0]).bias = nn.Parameter(shift)


class _PooledStem(nn.Module):
    """The first octave convolution on a picture, its pooling merged into the low path's weights.

    Average pooling by 2 and a k x k convolution of stride s is one 2k x 2k convolution of stride 2s, exactly.
    """

    def __init__(self, conv: OctaveConv) -> None:
        super().__init__()
        self.high = cast(nn.Conv2d, conv.high_to_high)
        pooled = cast(nn.Conv2d, conv.high_to_low)
        kernel, stride, padding = (2 * cast(tuple[int, ...], v)[0] for v in
                                   (pooled.kernel_size, pooled.stride, pooled.padding))  # fmt: skip
        self.low = nn.Conv2d(pooled.in_channels, pooled.out_channels, kernel, stride, padding)
        weight = pooled.weight.detach().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
        self.low.weight = nn.Parameter(weight)
        assert pooled.bias is not None
        self.low.bias = nn.Parameter(pooled.bias.detach())

    def forward(self, maps: Maps) -> Maps:
        assert maps.high is not None
        return Maps(self.high(maps.high), self.low(maps.high))


class Predictor(nn.Module):
    """What the ONNX graph computes.

    Input: crops (n, size, size, 3) uint8 RGB. Output: landmarks (n, M, 2) and spread (n, M, 2) in pixels of the crop;
    confidence (n, M), the probability that a point is less than 5 % of the inter-ocular distance off (of half the root
    of the landmark box's area, for a layout without that normaliser); heatmaps (n, M, size/4, size/4), probabilities.
    Spread and confidence follow the calibration (octamark.weights.calibration).
    """

    calibration_gain: Tensor
    calibration_own: Tensor
    calibration_face: Tensor

    def __init__(self, network: OctaveNetwork, beta: float, layout: Layout, calibration: Calibration) -> None:
        super().__init__()
        self.network = fold_norms(network)
        self.beta = beta
        self.eyes = [list(group) for group in layout.normalisers.get("inter-ocular", ())]
        for name, values in calibration_constants(calibration).items():
            self.register_buffer(name, torch.from_numpy(values))
        first = cast(EncoderLayer, self.network.encoder[0]).first
        if not network.config.stem and first.conv.high_to_low is not None and first.conv.high_to_high is not None:
            first.conv = cast(OctaveConv, _PooledStem(first.conv))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pictures = crops.permute(0, 3, 1, 2).float() * (1 / 255)
        p = heatmaps.probabilities(self.network(pictures), self.beta)
        points = heatmaps.to_input_pixels(heatmaps.decode(p), STRIDE)
        log_raw = points.spread.clamp(min=1e-6).log()  # n, M, 2
        log_mean = log_raw.mean(dim=(1, 2), keepdim=True)  # n, 1, 1
        u = self.calibration_gain * (self.calibration_own * log_raw + self.calibration_face * log_mean).exp()
        spread = self._chain(u, "knots")
        both = (spread**2).mean(dim=-1).sqrt()  # n, M
        radius = CONFIDENCE_SHARE * self._inter_ocular(points.position)[:, None]
        return points.position, spread, self._chain(radius / both.clamp(min=1e-6), "ratios"), p

    def _chain(self, x: Tensor, table: str) -> Tensor:
        """Straight lines one after another, from (0, 0)."""
        start, length, slope = (cast(Tensor, getattr(self, f"calibration_{table}_{part}")) for part in _LINE)
        return (torch.minimum(torch.relu(x[..., None] - start), length) * slope).sum(dim=-1)

    def _inter_ocular(self, points: Tensor) -> Tensor:
        """(n, M, 2) -> (n,)."""
        if self.eyes:
            first, second = (points[:, group].mean(dim=1) for group in self.eyes)
            return ((first - second) ** 2).sum(dim=-1).sqrt()
        return 0.5 * (points.amax(dim=1) - points.amin(dim=1)).prod(dim=-1).sqrt()


_LINE = ("start", "length", "slope")
_NO_END = 1e30


def calibration_constants(calibration: Calibration) -> dict[str, NDArray[np.float32]]:
    """A calibration as the graph holds it: initializers by name, of shapes that depend on the layout alone."""

    constants = {"gain": calibration.gain, "own": [calibration.own], "face": [calibration.face]}
    for name, table in (("knots", calibration.knots), ("ratios", calibration.ratios)):
        x, y = np.array(table).T
        length = np.diff(x)
        if name == "knots":
            length[-1] = _NO_END
        constants |= {
            f"{name}_{part}": values
            for part, values in zip(_LINE, (x[:-1], length, np.diff(y) / np.diff(x)), strict=True)
        }
    return {f"calibration_{name}": np.array(values, np.float32) for name, values in constants.items()}


def recalibrated(data: bytes, card: ModelCard) -> bytes:
    """The ONNX file with the card's calibration in its graph, and the card in its metadata.

    Raises:
        WeightsError: a graph that holds no calibration of that size.
    """
    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, values in calibration_constants(card.calibration).items():
        if name not in tensors or tuple(tensors[name].dims) != values.shape:
            raise WeightsError(f"{card.name}: its graph holds no {name} of shape {values.shape}")
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return _finish(model, card)


def to_onnx(predictor: Predictor, card: ModelCard, *, storage: Storage = "int8") -> bytes:
    """The predictor as an ONNX file.

    Args:
        card: written into the metadata.
        storage: how large weights are kept, see :data:`STORAGES`; they are widened when the file is loaded, and
            computing stays float32.

    Returns:
        The file's bytes. Inputs and outputs are those of :class:`Predictor`, with any number of crops.
    """
    size = card.crop.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                predictor.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["crops"],
                output_names=["landmarks", "spread", "confidence", "heatmaps"],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _strip(model)
    if storage != "float32":
        _shrink(model, kernels_as_int8=storage == "int8")
    _shorten(model)
    return _finish(model, card)


def _finish(model: onnx.ModelProto, card: ModelCard) -> bytes:
    model.producer_name, model.producer_version = "octamark", card.version
    helper.set_model_props(model, {METADATA_KEY: card.model_dump_json()})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _strip(model: onnx.ModelProto) -> None:
    """Drop what only a debugger reads: source lines and intermediate shapes, most of a small file."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _shrink(model: onnx.ModelProto, *, kernels_as_int8: bool) -> None:
    """Replace float32 initializers by smaller ones behind nodes that widen them, which runtimes fold when they load.

    From 64 values on: float16. Kernels from 256 values on may be int8 with one float16 scale per output channel
    (symmetric, the largest weight of a channel is 127); the calibration stays as it is.
    """
    widening = []

    def widen(name: str, values: NDArray[Any], wide: str) -> None:
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        widening.append(helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT))

    for tensor in list(model.graph.initializer):
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.dtype != np.float32 or values.size < 64 or name.startswith("calibration"):
            continue
        if kernels_as_int8 and values.ndim == 4 and values.size >= 256:
            scale = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
            scale = np.maximum(scale, np.finfo(np.float16).tiny).astype(np.float16)
            steps = np.clip(np.round(values / scale.astype(np.float32)), -127, 127).astype(np.int8)
            widen(f"{name}.int8", steps, f"{name}.wide")
            widen(f"{name}.scale", scale, f"{name}.step")
            widening.append(helper.make_node("Mul", [f"{name}.wide", f"{name}.step"], [name]))
        else:
            widen(f"{name}.half", values.astype(np.float16), name)
        model.graph.initializer.remove(tensor)
    for node in reversed(widening):
        model.graph.node.insert(0, node)


def _shorten(model: onnx.ModelProto) -> None:
    """Number the graph's inner values in place of their long names, and leave out attributes that are the default.

    Inputs, outputs and the calibration keep their names.
    """
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    names |= {tensor.name: tensor.name for tensor in graph.initializer if tensor.name.startswith("calibration")}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, format(len(names), "x"))
    for node in graph.node:
        node.ClearField("name")
        for values in (node.input, node.output):
            values[:] = [names.setdefault(value, format(len(names), "x")) for value in values]
        kept = [attribute for attribute in node.attribute if not _is_default(node.op_type, attribute)]
        del node.attribute[:]
        node.attribute.extend(kept)


def _is_default(operator: str, attribute: onnx.AttributeProto) -> bool:
    if attribute.name in ("dilations", "strides", "pads"):
        return set(attribute.ints) <= {0 if attribute.name == "pads" else 1}
    default = onnx.defs.get_schema(operator, OPSET).attributes[attribute.name].default_value
    return bool(default.type) and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)


def flops(network: OctaveNetwork, size: int) -> int:
    """Multiply-adds times two of one input of that side, convolutions and attention, as the exported graph runs."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.ConvTranspose2d):
            total += 2 * module.weight.numel() * inputs[0].shape[-2:].numel()
        elif isinstance(module, nn.Conv2d):
            total += 2 * module.weight.numel() * output.shape[-2:].numel()

    copied = fold_norms(network)
    hooks = [m.register_forward_hook(count) for m in copied.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        copied(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    if copied.attention is not None:
        high, low = (size // 16) ** 2, (size // 32) ** 2
        total += 2 * 2 * high * low * copied.config.width
    return total
