"""What the exported graphs compute: the network prepared for inference, then decoding and calibration."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from octamark.layouts import CONFIDENCE_SHARE, Layout
from octamark.models import Arithmetic
from octamark.models.calibration import CONTRAST_FLOOR, SHIFT_FLOOR, Calibration
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, EncoderLayer, OctaveNetwork
from octamark.nets.octave import Maps, OctaveBlock, OctaveConv
from octamark.nets.regional import LEAST_SPREAD, RegionalNetwork
from octamark.nets.shape import ShapeCorrection, faded
from octamark.release.fusion import PIXEL_STEP, IntegerNetwork, Reading, pooling_kernel


def fold_norms(network: OctaveNetwork) -> OctaveNetwork:
    """A copy for inference whose batch normalisations are folded into the weights and biases of the convolutions.

    This is exact: a normalisation of a sum of paths scales each path and adds one bias.
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
    same_frequency = getattr(conv, f"{name}_to_{name}")
    (same_frequency if same_frequency is not None else paths[0]).bias = nn.Parameter(shift)


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
        self.low.weight = nn.Parameter(pooling_kernel(pooled.weight.detach()))
        assert pooled.bias is not None
        self.low.bias = nn.Parameter(pooled.bias.detach())

    def forward(self, maps: Maps) -> Maps:
        assert maps.high is not None
        return Maps(self.high(maps.high), self.low(maps.high))


def _pool_first(network: OctaveNetwork) -> None:
    """Merge the pooling before the first layer into its weights, in place."""
    first = cast(EncoderLayer, network.encoder[0]).first
    if first.conv.high_to_low is not None and first.conv.high_to_high is not None:
        first.conv = cast(OctaveConv, _PooledStem(first.conv))


class Predictor(nn.Module):
    """What the ONNX graph computes.

    Input: crops (n, size, size, 3) uint8 RGB. Output: landmarks (n, M, 2) and spread (n, M, 2) in pixels of the crop;
    confidence (n, M), the probability that a point is less than 5 % of the inter-ocular distance off (of half the root
    of the landmark box's area, for a layout without that normaliser); of a network that tells it, visible (n, M), the
    probability that a point can be seen; heatmaps (n, M, size/4, size/4), probabilities.
    Spread and confidence follow the calibration (octamark.models.calibration); landmarks are those of the heatmaps,
    after the shape correction if there is one.

    Args:
        arithmetic: ``"int8"`` for a graph whose convolutions ``octamark.release.quantization`` quantises; it is the
            same function.
        visibility: slope and intercept from the network's logits to those of ``visible``.
        shape: moves the points; shift: where there is no ``shape``, a correction that moves none: how far it would move
            them tells how unusual a face is.

    Attributes:
        outputs: names of the outputs, in their order.
    """

    calibration_gain: Tensor
    calibration_own: Tensor
    calibration_face: Tensor
    calibration_unusual: Tensor
    calibration_visibility: Tensor

    def __init__(
        self,
        network: OctaveNetwork,
        beta: float,
        layout: Layout,
        calibration: Calibration,
        shape: ShapeCorrection | None = None,
        arithmetic: Arithmetic = "float32",
        visibility: tuple[float, float] = (1.0, 0.0),
        shift: ShapeCorrection | None = None,
    ) -> None:
        super().__init__()
        self.network = prepared(network, arithmetic)
        tells_visible = network.visibility is not None
        self.outputs = ["landmarks", "spread", "confidence", *(["visible"] if tells_visible else []), "heatmaps"]
        self.beta, self.layout, self.arithmetic = beta, layout, arithmetic
        correction = shape or shift
        self.correction = None if correction is None else _FewerOperators(correction)
        self.corrects = shape is not None
        self.eyes = [list(group) for group in layout.normalisers.get("inter-ocular", ())]
        for name, values in calibration_constants(calibration, visibility if tells_visible else None).items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        read = self.network(crops)
        p = heatmaps.probabilities(read.heatmaps, self.beta)
        position, raw = _decode(p)
        shift = torch.zeros_like(position[:, 0, 0])
        if self.correction is not None:
            moved, share = self.correction(position)
            shift = torch.linalg.vector_norm(moved, dim=-1).mean(dim=1)
            position = position + share * moved if self.corrects else position
        unusual = torch.stack([shift + SHIFT_FLOOR, _contrast(read.pixels) + CONTRAST_FLOOR], dim=-1)
        factor = unusual.log() @ self.calibration_unusual  # n
        log_raw = raw.clamp(min=1e-6).log()  # n, M, 2
        log_mean = log_raw.mean(dim=(1, 2), keepdim=True)  # n, 1, 1
        log_u = self.calibration_own * log_raw + self.calibration_face * log_mean + factor[:, None, None]
        u = self.calibration_gain * log_u.exp()
        spread = self._chain(u, "knots")
        # n, M: the root mean square * 2**0.5
        length = torch.linalg.vector_norm(spread, dim=-1).clamp(min=2**0.5 * 1e-6)
        radius = 2**0.5 * CONFIDENCE_SHARE * self._inter_ocular(position)
        outputs = (position, spread, self._chain(radius / length, "ratios"))
        if read.evidence is None:
            return *outputs, p
        logits = heatmaps.visibility_logits(p, read.evidence)
        terms = torch.stack([logits, torch.ones_like(logits)], dim=-1)
        return *outputs, torch.sigmoid(terms @ self.calibration_visibility), p

    def _chain(self, x: Tensor, table: str) -> Tensor:
        """Values ``x`` under a table of the calibration: a chain of straight lines from (0, 0)."""
        start, length, slope = (cast(Tensor, getattr(self, f"calibration_{table}_{part}")) for part in _LINE)
        values: Tensor = torch.minimum(torch.relu(x[..., None] - start), length) @ slope
        return values

    def _inter_ocular(self, points: Tensor) -> Tensor:
        """The distance that the confidence refers to, see ``Predictor``: (n, M, 2) -> (n, 1)."""
        if self.eyes:
            first, second = (points[:, group].mean(dim=1, keepdim=True) for group in self.eyes)
            distance: Tensor = torch.linalg.vector_norm(first - second, dim=-1)
            return distance
        return 0.5 * (points.amax(dim=1) - points.amin(dim=1)).prod(dim=-1, keepdim=True).sqrt()


def _contrast(pixels: Tensor) -> Tensor:
    """The standard deviation (n,) of the values of some pixels (n, ...)."""
    values = pixels.flatten(1)
    return (values - values.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


def _decode(p: Tensor) -> tuple[Tensor, Tensor]:
    """Soft-argmax and mean absolute deviation per axis, as in ``nets.heatmaps``, of square maps, in input pixels."""
    count, side = p.shape[1], p.shape[3]
    marginals = torch.cat([p.sum(dim=2), p.sum(dim=3)], dim=2).view(-1, count, 2, side)
    places = (torch.arange(side, dtype=p.dtype) + 0.5) * STRIDE - 0.5
    position = marginals @ places  # n, M, 2
    return position, ((position[..., None] - places).abs() * marginals).sum(dim=-1)


class _FewerOperators(nn.Module):
    """A shape correction, of any face that has an extent, from a third of the operators.

    Output: how far it would move the points (n, M, 2), and the share of this that counts (n, 1, 1).
    """

    def __init__(self, shape: ShapeCorrection) -> None:
        super().__init__()
        self.mean, self.weight = nn.Parameter(shape.mean), nn.Parameter(shape.weight)
        self.fade = nn.Parameter(shape.fade)
        x, y = shape.mean.unbind(-1)
        turn = torch.stack([torch.stack([x, y], -1), torch.stack([-y, x], -1)], -1)  # M, 2, (cosine, sine)
        self.turn = nn.Parameter((turn / shape.mean.square().sum()).flatten(0, 1))
        self.rotation = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, -1.0, 1.0, 0.0]]))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        centred = points - points.mean(dim=1, keepdim=True)
        size = torch.linalg.vector_norm(centred, dim=(1, 2), keepdim=True).clamp(min=1e-3)
        alike = (centred / size).flatten(1) @ self.turn  # n, 2
        direction = alike / torch.linalg.vector_norm(alike, dim=1, keepdim=True).clamp(min=1e-3)
        rotation = (direction @ self.rotation).view(-1, 2, 2)
        difference = (centred / size) @ rotation - self.mean
        moved = (difference.flatten(1) @ self.weight).view_as(difference)
        return moved @ rotation.transpose(1, 2) * size, faded(difference, self.fade)


class FloatNetwork(nn.Module):
    """A network of folded normalisations.

    Input: crops (n, s, s, 3) uint8. Output: ``octamark.release.fusion.Reading``.
    """

    def __init__(self, network: OctaveNetwork) -> None:
        super().__init__()
        self.network = network
        _pool_first(network)

    def forward(self, crops: Tensor) -> Reading:
        levels = crops.permute(0, 3, 1, 2).float()
        pictures, pixels = levels * (1 / 255), levels[:, :, ::PIXEL_STEP, ::PIXEL_STEP]
        if self.network.visibility is None:
            return Reading(self.network(pictures), None, pixels)
        return Reading(*self.network.both(pictures), pixels)


def prepared(network: OctaveNetwork, arithmetic: Arithmetic) -> FloatNetwork | IntegerNetwork:
    """A network for inference, from crops uint8 to a ``Reading``."""
    folded = fold_norms(network)
    return IntegerNetwork(folded) if arithmetic == "int8" else FloatNetwork(folded)


_LINE = ("start", "length", "slope")
_NO_END = 1e30


def calibration_constants(
    calibration: Calibration, visibility: tuple[float, float] | None = None
) -> dict[str, NDArray[np.float32]]:
    """The initializers of the graph that hold what a card calibrates, by name; their shapes depend on the layout alone.

    Args:
        visibility: see ``octamark.models.ModelCard``; None has no initializer.
    """
    constants: dict[str, Any] = {
        "gain": calibration.gain,
        "own": [calibration.own],
        "face": [calibration.face],
        "unusual": [calibration.shift, calibration.contrast],
    }
    if visibility is not None:
        constants["visibility"] = visibility
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


class RegionalPredictor(nn.Module):
    """What the graph of a regional network computes.

    Input: crops (n, size, size, 3) uint8 RGB of regions. Output: readings (n, C, 2) in pixels of the crop, one for each
    channel of the network, and their raw spreads (n, C, 2); octamark.inference.regions.RegionTable tells which
    channels belong to a region.
    """

    def __init__(self, regional: RegionalNetwork, arithmetic: Arithmetic = "float32") -> None:
        super().__init__()
        self.network, self.arithmetic = prepared(regional.network, arithmetic), arithmetic
        self.layout, self.beta = regional.table.layout, regional.beta

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        position, spread = _decode(heatmaps.probabilities(self.network(crops).heatmaps, self.beta))
        return position, spread.clamp(min=LEAST_SPREAD)


def flops(network: OctaveNetwork, size: int) -> int:
    """Floating-point operations (two per multiply-add) of convolutions and attention for one input of that side."""
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
        (copied if copied.visibility is None else copied.both)(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    if copied.attention is not None:
        high, low = (size // 16) ** 2, (size // 32) ** 2
        total += 2 * 2 * high * low * copied.config.width
    return total
