"""The network rewritten for integer arithmetic: the same function, as convolutions that ONNX Runtime runs fast in int8.

What its int8 convolutions are slow at is avoided; all rewriting is exact:

- Average pooling is a depthwise convolution, nearest up-sampling a sum that repeats its second term.
- Convolutions that read the same map become one, and so do those that write the same map. Narrow levels keep both
  frequencies in one map for this, very narrow ones with four pixels of the high frequency in one.
- Outputs have multiples of 16 channels; the first layer reads four pixels of a row as 12 channels.
- Attention needs two convolutions instead of four, see ``_Attention``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octamark.errors import ConfigError
from octamark.nets.attention import MultiFrequencyAttention
from octamark.nets.network import DecoderLayer, EncoderLayer, OctaveNetwork, VisibilityHead
from octamark.nets.octave import OctaveConv, up_bilinear

LANES = 16
"""Output channels that an int8 kernel computes together."""

NARROW = 32
"""Up to this many channels a level keeps both frequencies in one map."""

PIXEL_MEAN, PIXEL_SCALE = 127.5, 4 / 255
"""The network's input is (pixel - mean) * scale, see octamark.nets.network."""

PIXEL_STEP = 4
"""Every so many pixels of every so many rows are in ``Reading.pixels``."""

Term = tuple[Tensor, Tensor, int]
"""A kernel (o, i, h, w), the channels (i, c) that it reads of a map with c channels, and its first output channel."""


class Reading(NamedTuple):
    """What a network for inference gives.

    Attributes:
        heatmaps: (n, M, s/4, s/4), unnormalised.
        evidence: of visibility (n, M, s/8, s/8), see ``OctaveNetwork.both``; None of a network that does not tell it.
        pixels: (n, 3, s/4, s/4) some pixels of the crops, less a constant.
    """

    heatmaps: Tensor
    evidence: Tensor | None
    pixels: Tensor


class IntegerNetwork(nn.Module):
    """A network of folded normalisations, rewritten.

    Input: crops (n, s, s, 3) uint8. Output: ``Reading``.

    Raises:
        ConfigError: a network without high frequency, or with attention between few channels.
    """

    def __init__(self, network: OctaveNetwork) -> None:
        super().__init__()
        encoder = [cast(EncoderLayer, layer) for layer in network.encoder]
        levels = [_Level.of(layer.first.conv) for layer in encoder]
        self.stem = _Stem(encoder[0].first.conv, levels[0])
        readers, blocks = levels[0].readers, list[nn.Module]()
        for number, (layer, level) in enumerate(zip(encoder, levels, strict=True)):
            if number:
                blocks += [_Descent(levels[number - 1]), _Block(layer.first.conv, levels[number - 1].below, level)]
                readers = level.readers
            blocks.append(_Block(layer.second.conv, readers, level))
        self.encoder, self.coarsest = nn.ModuleList(blocks[:-3]), nn.ModuleList(blocks[-3:])
        self.attention = None if network.attention is None else _Attention(network.attention, levels[3])
        decoder = [cast(DecoderLayer, layer) for layer in network.decoder]
        sources = (levels[3], levels[2])
        self.ups = nn.ModuleList(
            _Up(layer.up.conv, source, level)
            for layer, source, level in zip(decoder, sources, (levels[2], levels[1]), strict=True)
        )
        self.refines = nn.ModuleList(
            _Block(layer.refine.conv, level.readers, level)
            for layer, level in zip(decoder, (levels[2], levels[1]), strict=True)
        )
        self.head = _Head(network.head, levels[1])
        self.visibility = None if network.visibility is None else _Visibility(network.visibility, levels[2])

    def forward(self, crops: Tensor) -> Reading:
        quads = as_quads(crops)
        maps: _Maps = self.stem(quads)
        skips = []
        for block in (*self.encoder, *self.coarsest):
            if isinstance(block, _Descent):
                skips.append(maps)
            maps = block(maps)
        if self.attention is not None:
            maps = self.attention(maps)
        evidence: Tensor | None = None
        for up, refine, skip in zip(self.ups, self.refines, reversed(skips[1:]), strict=True):
            maps = refine(up(maps, skip))
            if evidence is None and self.visibility is not None:  # which reads the coarser of both levels
                evidence = self.visibility(maps.high)
        return Reading(self.head(maps), evidence, quads[:, :3, ::PIXEL_STEP])


class _Maps(NamedTuple):
    """Maps of a level: the high frequency; the low one; and at its resolution both, for the paths to the low one.

    ``low`` and ``both`` may be the same map; they are None without low frequency.
    """

    high: Tensor
    low: Tensor | None
    both: Tensor | None


class _Readers(NamedTuple):
    """Which channels hold what, as matrices (channels of the network, channels of the map).

    Attributes:
        high, low: in the maps of those names; pooled, beside: the pooled high frequency and the low one in ``both``.
    """

    high: Tensor
    low: Tensor
    pooled: Tensor
    beside: Tensor


class _Level(NamedTuple):
    """How a level keeps its two frequencies.

    Attributes:
        high, low: channels of the network.
        form: ``"folded"``: one map at the low resolution, whose first channels are the four pixels of the high
            frequency (rows first); ``"joint"``: one map at the high resolution, the low frequency repeated, and its
            pooled copy; ``"separate"``: a map for each.
    """

    high: int
    low: int
    form: str

    @classmethod
    def of(cls, conv: OctaveConv) -> _Level:
        high, low = conv.high_out, conv.low_out
        if not high:
            raise ConfigError("arithmetic 'int8' needs a high frequency: an alpha below 1")
        if 4 * high + low <= NARROW and low and conv.high_in == 3 and not conv.low_in:
            return cls(high, low, "folded")
        return cls(high, low, "joint" if high + low <= NARROW or not low else "separate")

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the maps ``high`` and ``low``, multiples of ``LANES``."""
        if self.form == "separate":
            return _padded(self.high), _padded(self.low)
        joint = _padded((4 if self.form == "folded" else 1) * self.high + self.low)
        return joint, joint

    @property
    def readers(self) -> _Readers:
        high, low = self.widths
        if self.form == "separate":
            return _Readers(
                _at(0, self.high, high), _at(0, self.low, low),
                _at(0, self.high, high + low), _at(high, self.low, high + low),
            )  # fmt: skip
        if self.form == "joint":
            plain, beside = _at(0, self.high, high), _at(self.high, self.low, low)
            return _Readers(plain, beside, plain, beside)
        mean = torch.stack([_at(pixel * self.high, self.high, high) for pixel in range(4)]).mean(dim=0)
        beside = _at(4 * self.high, self.low, low)
        return _Readers(mean, beside, mean, beside)

    @property
    def below(self) -> _Readers:
        """Of the maps that the next level reads: both frequencies pooled."""
        readers = self.readers
        return readers if self.form != "separate" else readers._replace(high=_at(0, self.high, self.widths[0]))


def _padded(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _at(start: int, count: int, total: int) -> Tensor:
    """The reader (count, total) of the channels from ``start`` on."""
    reader = torch.zeros(count, total)
    reader[:, start : start + count] = torch.eye(count)
    return reader


def _weight(conv: OctaveConv, path: str) -> Tensor:
    return cast(nn.Conv2d, getattr(conv, path)).weight.detach()


def _bias(conv: OctaveConv, path: str) -> Tensor:
    bias = cast(nn.Conv2d, getattr(conv, path)).bias
    assert bias is not None
    return bias.detach()


def pooling_kernel(weight: Tensor) -> Tensor:
    """The kernel (o, i, 2h, 2w) that does what averaging 2x2 pixels and the kernel (o, i, h, w) do."""
    return weight.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4


class _Conv(nn.Module):
    """One convolution of the sum of all terms.

    Args:
        channels: of the output; biases: each with its first output channel.
        repeat: how often the outputs follow one another; the kernel is stored once.
    """

    def __init__(
        self,
        channels: int,
        terms: Iterable[Term],
        biases: Iterable[tuple[Tensor, int]] = (),
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] | None = None,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        parts = [(torch.einsum("oihw,ic->ochw", weight, reader), start) for weight, reader, start in terms]
        weight = torch.zeros(channels, *parts[0][0].shape[1:])
        for part, start in parts:
            weight[start : start + len(part)] += part
        bias = torch.zeros(channels)
        for values, start in biases:
            bias[start : start + len(values)] += values
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias.repeat(repeat)) if bias.any() else None
        self.stride, self.repeat = stride, repeat
        self.padding = ((weight.shape[2] - 1) // 2, (weight.shape[3] - 1) // 2) if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.weight] * self.repeat) if self.repeat > 1 else self.weight
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class _Pool(nn.Module):
    """2x2 averages."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, stride=2, groups=len(self.weight))


def add_upsampled(high: Tensor, low: Tensor) -> Tensor:
    """high + low at twice its resolution: (n, c, 2h, 2w) and (n, 2c, h, w), whose channels repeat, -> (n, c, 2h, 2w).

    With channels last, channels that repeat are pixels that repeat, and rows repeat by broadcasting.
    """
    _, channels, height, width = high.shape
    rows = high.permute(0, 2, 3, 1).reshape(-1, height // 2, 2, width * channels)
    repeated = low.permute(0, 2, 3, 1).reshape(-1, height // 2, 1, width * channels)
    return (rows + repeated).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def as_quads(crops: Tensor) -> Tensor:
    """Crops (n, s, s, 3) uint8, less ``PIXEL_MEAN``, four pixels of a row as 12 channels: (n, 12, s, s/4)."""
    size = crops.shape[1]
    return crops.reshape(-1, size, size // 4, 12).permute(0, 3, 1, 2).float() - PIXEL_MEAN


class _Stem(nn.Module):
    """The first octave convolution, from pixels; the pooling before its low path is part of the weights."""

    def __init__(self, conv: OctaveConv, level: _Level) -> None:
        super().__init__()
        self.level = level
        high = _weight(conv, "high_to_high") * PIXEL_SCALE  # 4x4, stride 2, from pixel -1 on
        width = level.widths[0]
        low = None
        if level.low:
            low = pooling_kernel(_weight(conv, "high_to_low")) * PIXEL_SCALE
        every = _at(0, 12, 12)
        if level.form == "folded":
            assert low is not None
            terms: list[Term] = []
            biases = []
            for pixel in range(4):
                y, x = divmod(pixel, 2)
                terms.append(
                    (_on_quads(F.pad(high, (0, 0, 2 * y + 1, 3 - 2 * y)), 2 * x - 1), every, pixel * level.high)
                )
                biases.append((_bias(conv, "high_to_high"), pixel * level.high))
            terms.append((_on_quads(low, -2), every, 4 * level.high))
            biases.append((_bias(conv, "high_to_low"), 4 * level.high))
            self.high = _Conv(width, terms, biases, stride=(4, 1), padding=(2, 1))
            return
        self.high = _Conv(
            2 * width,
            [(_on_quads(high, 2 * x - 1), every, x * width) for x in (0, 1)],
            [(_bias(conv, "high_to_high"), x * width) for x in (0, 1)],
            stride=(2, 1),
            padding=(1, 1),
        )
        if low is not None:
            start = level.high if level.form == "joint" else 0
            biases = [(_bias(conv, "high_to_low"), start)]
            self.low = _Conv(
                level.widths[1], [(_on_quads(low, -2), every, start)], biases, stride=(4, 1), padding=(2, 1)
            )
        self.pool = _Pool(width) if low is not None else None

    def forward(self, quads: Tensor) -> _Maps:
        size, width = quads.shape[2], self.level.widths[0]
        high = F.relu(self.high(quads))
        if self.level.form == "folded":
            return _Maps(high, high, high)
        high = high.permute(0, 2, 3, 1).reshape(-1, size // 2, size // 2, width).permute(0, 3, 1, 2)
        if self.pool is None:
            return _Maps(high, None, None)
        low, pooled = F.relu(self.low(quads)), self.pool(high)
        if self.level.form == "joint":
            both = pooled + low
            return _Maps(high, both, both)
        return _Maps(high, low, torch.cat([pooled, low], dim=1))


def _on_quads(weight: Tensor, first: int) -> Tensor:
    """A kernel (o, 3, h, w) whose columns start at pixel ``first`` as one over rows of four pixels: (o, 12, h, 3)."""
    left = first + 4
    columns = F.pad(weight, (left, 12 - left - weight.shape[3]))
    quads = columns.view(*columns.shape[:3], 3, 4)  # o, 3, h, quad, pixel
    return quads.permute(0, 4, 1, 2, 3).flatten(1, 2)


class _Block(nn.Module):
    """A 3x3 octave convolution and ReLU."""

    def __init__(self, conv: OctaveConv, source: _Readers, level: _Level) -> None:
        super().__init__()
        self.form, self.has_low = level.form, bool(level.low)
        width, width_low = level.widths
        if self.form == "folded":
            self.high = _folded(conv, level)
            return
        high = [(_weight(conv, "high_to_high"), source.high, 0)]
        self.high = _Conv(width, high, [(_bias(conv, "high_to_high"), 0)])
        if not self.has_low:
            return
        to_high, to_low = _weight(conv, "low_to_high"), _weight(conv, "low_to_low")
        from_high, bias_low = _weight(conv, "high_to_low"), _bias(conv, "low_to_low")
        self.pool = _Pool(width)
        if self.form == "joint":
            first = level.high
            terms = [(to_high, source.beside, 0), (to_low, source.beside, first), (from_high, source.pooled, first)]
            self.low = _Conv(width, terms, [(bias_low, first)], repeat=2)
        else:
            self.up = _Conv(width, [(to_high, source.low, 0)], repeat=2)
            self.low = _Conv(width_low, [(to_low, source.beside, 0), (from_high, source.pooled, 0)], [(bias_low, 0)])

    def forward(self, maps: _Maps) -> _Maps:
        if self.form == "folded" or not self.has_low:
            high = F.relu(self.high(maps.high))
            return _Maps(high, high, high) if self.has_low else _Maps(high, None, None)
        if self.form == "joint":
            high = F.relu(add_upsampled(self.high(maps.high), self.low(maps.both)))
            both = self.pool(high)
            return _Maps(high, both, both)
        high = F.relu(add_upsampled(self.high(maps.high), self.up(maps.low)))
        low = F.relu(self.low(maps.both))
        return _Maps(high, low, torch.cat([self.pool(high), low], dim=1))


def _folded(conv: OctaveConv, level: _Level) -> _Conv:
    """All four paths of an octave convolution as one convolution of a folded map."""
    high, beside = level.high, _at(4 * level.high, level.low, level.widths[0])
    kernel = _weight(conv, "high_to_high")
    terms: list[Term] = []
    for pixel in range(4):
        y, x = divmod(pixel, 2)
        terms.append((_weight(conv, "low_to_high"), beside, pixel * high))
        for other in range(4):
            taps = torch.zeros_like(kernel)
            rows, columns = ([(tap, (at + tap - 1) // 2 + 1) for tap in range(3) if (at + tap - 1) % 2 == there]
                             for at, there in zip((y, x), divmod(other, 2), strict=True))  # fmt: skip
            for row, cell_row in rows:
                for column, cell_column in columns:
                    taps[:, :, cell_row, cell_column] = kernel[:, :, row, column]
            terms.append((taps, _at(other * high, high, level.widths[0]), pixel * high))
    terms.append((_weight(conv, "low_to_low"), beside, 4 * high))
    terms.append((_weight(conv, "high_to_low"), level.readers.pooled, 4 * high))
    biases = [(_bias(conv, "high_to_high"), pixel * high) for pixel in range(4)] + [
        (_bias(conv, "low_to_low"), 4 * high)
    ]
    return _Conv(level.widths[0], terms, biases)


class _Descent(nn.Module):
    """Both frequencies at half their resolution."""

    def __init__(self, level: _Level) -> None:
        super().__init__()
        self.level = level
        high, low = level.widths
        self.pool = _Pool(high + low if level.form == "separate" else high)
        self.pool_low = _Pool(low) if level.form == "separate" else None

    def forward(self, maps: _Maps) -> _Maps:
        if maps.both is None:
            return _Maps(self.pool(maps.high), None, None)
        both = self.pool(maps.both)
        if self.pool_low is None:
            return _Maps(maps.both, both, both)
        return _Maps(maps.both[:, : self.level.widths[0]], self.pool_low(maps.low), both)


class _Attention(nn.Module):
    """Multi-frequency attention with two convolutions.

    (W_phi X_l)^T (W_theta X_h) = (W_theta^T W_phi X_l)^T X_h, and what the bias of theta adds is the same for all
    positions of a row, so that the softmax leaves it out. Its rows sum to 1, so that W_z W_upsilon is one matrix, too.
    """

    def __init__(self, attention: MultiFrequencyAttention, level: _Level) -> None:
        super().__init__()
        if level.form != "separate":
            raise ConfigError(
                f"arithmetic 'int8' with attention needs more than {NARROW} channels at the coarsest level; this "
                f"network has {level.high + level.low}"
            )
        high, low = level.widths
        self.width = high
        names = ("phi", "theta", "upsilon", "z")
        phi, theta, upsilon, z = (getattr(attention, name).weight.detach().double()[..., 0, 0] for name in names)
        phi_bias, _, upsilon_bias, z_bias = (getattr(attention, name).bias.detach().double() for name in names)

        def conv(width: int, matrix: Tensor, reader: Tensor, bias: Tensor) -> _Conv:
            return _Conv(width, [(matrix.float()[..., None, None], reader, 0)], [(bias.float(), 0)])

        self.query = conv(high, theta.T @ phi, level.readers.low, theta.T @ phi_bias)
        self.value = conv(low, z @ upsilon, level.readers.high, z @ upsilon_bias + z_bias)

    def forward(self, maps: _Maps) -> _Maps:
        assert maps.low is not None
        assert maps.both is not None
        high = maps.high.flatten(2)  # n, C, N
        similarity = torch.softmax(self.query(maps.low).flatten(2).transpose(1, 2) @ high, dim=-1)  # n, S, N
        read = (high @ similarity.transpose(1, 2)).view(-1, self.width, *maps.low.shape[-2:])
        low = maps.low + self.value(read)
        return _Maps(maps.high, low, torch.cat([maps.both[:, : self.width], low], dim=1))


class _Up(nn.Module):
    """The first half of a decoder layer: a 1x1 octave convolution, bilinear up-sampling, ReLU, the skipped maps."""

    def __init__(self, conv: OctaveConv, source: _Level, level: _Level) -> None:
        super().__init__()
        self.form = level.form
        readers, (width, width_low) = source.readers, level.widths
        high: list[Term] = [(_weight(conv, "high_to_high"), readers.high, 0)]
        self.across: _Conv | None = None
        self.low: _Conv | None = None
        self.pool: _Pool | None = None
        if level.low:
            across = _weight(conv, "low_to_high")
            if source.form == "joint":
                # its high map holds the low frequency, and 1x1 convolutions commute with repeats
                high.append((across, readers.beside, 0))
            else:
                self.across = _Conv(width, [(across, readers.low, 0)], repeat=2)
            start = level.high if level.form == "joint" else 0
            terms = [
                (_weight(conv, "low_to_low"), readers.beside, start),
                (_weight(conv, "high_to_low"), readers.pooled, start),
            ]
            self.low = _Conv(width_low, terms, [(_bias(conv, "low_to_low"), start)])
            self.pool = _Pool(width)
        self.high = _Conv(width, high, [(_bias(conv, "high_to_high"), 0)])

    def forward(self, maps: _Maps, skip: _Maps) -> _Maps:
        high = self.high(maps.high)
        if self.across is not None:
            high = add_upsampled(high, self.across(maps.low))
        high = F.relu(up_bilinear(high)) + skip.high
        if self.low is None or self.pool is None:
            return _Maps(high, None, None)
        low, pooled = F.relu(up_bilinear(self.low(maps.both))), self.pool(high)
        if self.form == "joint":  # the pooled map holds the skipped low frequency
            both = pooled + low
            return _Maps(high, both, both)
        assert skip.low is not None
        low = low + skip.low
        return _Maps(high, low, torch.cat([pooled, low], dim=1))


class _Visibility(nn.Module):
    """The evidence for visibility, from the coarser level of the decoder."""

    def __init__(self, head: VisibilityHead, level: _Level) -> None:
        super().__init__()
        weights = [conv.weight.detach() for conv in (head.first, head.second)]
        biases = [cast(Tensor, conv.bias).detach() for conv in (head.first, head.second)]
        hidden = _padded(len(weights[0]))
        self.first = _Conv(hidden, [(weights[0], level.readers.high, 0)], [(biases[0], 0)])
        self.second = _Conv(len(weights[1]), [(weights[1], _at(0, len(weights[0]), hidden), 0)], [(biases[1], 0)])

    def forward(self, high: Tensor) -> Tensor:
        evidence: Tensor = self.second(F.relu(self.first(high)))
        return evidence


class _Head(nn.Module):
    """The octave convolution that draws the heatmaps."""

    def __init__(self, conv: OctaveConv, level: _Level) -> None:
        super().__init__()
        assert conv.high_bias is not None
        self.high = _Conv(
            conv.high_out, [(_weight(conv, "high_to_high"), level.readers.high, 0)], [(conv.high_bias.detach(), 0)]
        )
        self.low = None
        if level.low:
            self.low = _Conv(conv.high_out, [(_weight(conv, "low_to_high"), level.readers.low, 0)], repeat=2)

    def forward(self, maps: _Maps) -> Tensor:
        high: Tensor = self.high(maps.high)
        return high if self.low is None else add_upsampled(high, self.low(maps.low))
