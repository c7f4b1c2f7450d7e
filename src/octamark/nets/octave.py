"""Octave convolutions: one layer of features kept at two resolutions.

A ``Maps`` pair holds high-frequency features at (h, w) and low-frequency features one octave lower, at
(h/2, w/2). A share ``alpha`` of the channels is low. Source: WO 2022/264089, equations 1 and 2; pooling instead of
striding keeps pixel centres where they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Maps(NamedTuple):
    """Features at two resolutions; a frequency with no channels is None.

    Shapes: ``high`` (n, c_high, h, w), ``low`` (n, c_low, h/2, w/2).
    """

    high: Tensor | None
    low: Tensor | None


def split_channels(channels: int, alpha: float) -> tuple[int, int]:
    """Channels of the high and of the low frequency: ((1 - alpha) * channels, alpha * channels), rounded.

    Raises:
        ValueError: alpha outside [0, 1] or channels below 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is the share of low-frequency channels, between 0 and 1; got {alpha}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1; got {channels}")
    low = int(alpha * channels + 0.5)
    return channels - low, low


def pool(maps: Maps) -> Maps:
    """Both frequencies at half their resolution, by 2x2 averages."""
    return Maps(*(None if x is None else F.avg_pool2d(x, 2) for x in maps))


def up_nearest(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, 2h, 2w), each pixel repeated; centres stay where they are."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def up_bilinear(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, 2h, 2w), bilinear under the half-pixel convention."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None stands for no channels."""
    if a is None:
        return b
    return a if b is None else a + b


class OctaveConv(nn.Module):
    """Octave convolution (equations 1 and 2), four paths between two frequencies.

    Y_H = f(X_H; W_HH) + up(f(X_L; W_LH)) and Y_L = f(X_L; W_LL) + f(pool(X_H); W_HL), with average pooling and
    nearest up-sampling. ``alpha_in = 0`` reads a picture, ``alpha_out = 0`` writes one resolution only.

    Args:
        channels_in, channels_out: channels of both frequencies together.
        alpha_in, alpha_out: share of low-frequency channels, in [0, 1].
        kernel, stride: of all four paths. Their difference must be even: only then do pixel centres stay in place.
        bias: whether each frequency of the output has a bias.

    Raises:
        ValueError: alpha outside [0, 1], or kernel and stride that would shift centres.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        alpha_in: float = 0.25,
        alpha_out: float = 0.25,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(f"kernel - stride must be even and not negative; got kernel {kernel}, stride {stride}")
        self.high_in, self.low_in = split_channels(channels_in, alpha_in)
        self.high_out, self.low_out = split_channels(channels_out, alpha_out)
        self.high_to_high = self._path(self.high_in, self.high_out, kernel, stride)
        self.low_to_high = self._path(self.low_in, self.high_out, kernel, stride)
        self.low_to_low = self._path(self.low_in, self.low_out, kernel, stride)
        self.high_to_low = self._path(self.high_in, self.low_out, kernel, stride)
        self.high_bias = nn.Parameter(torch.zeros(self.high_out)) if bias and self.high_out else None
        self.low_bias = nn.Parameter(torch.zeros(self.low_out)) if bias and self.low_out else None

    def _path(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Module | None:
        if not channels_in or not channels_out:
            return None
        return self._operator(channels_in, channels_out, kernel, stride)

    def _operator(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Module:
        padding = (kernel - stride) // 2
        return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False)

    def forward(self, maps: Maps) -> Maps:
        high, low = maps
        to_high = to_low = None
        if self.high_to_high is not None:
            to_high = self.high_to_high(high)
        if self.low_to_high is not None:
            to_high = add(to_high, up_nearest(self.low_to_high(low)))
        if self.low_to_low is not None:
            to_low = self.low_to_low(low)
        if self.high_to_low is not None:
            assert high is not None
            to_low = add(to_low, self.high_to_low(F.avg_pool2d(high, 2)))
        if self.high_bias is not None and to_high is not None:
            to_high = to_high + self.high_bias[:, None, None]
        if self.low_bias is not None and to_low is not None:
            to_low = to_low + self.low_bias[:, None, None]
        return Maps(to_high, to_low)


class UpsamplingOctaveConv(OctaveConv):
    """What a decoder layer is made of: with ``stride = 2`` both frequencies come out at twice their resolution, with
    ``stride = 1`` at the same. Its two kinds are below.

    Raises:
        ValueError: a stride other than 1 and 2, and as ``OctaveConv``.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        alpha_in: float = 0.25,
        alpha_out: float = 0.25,
        stride: int = 2,
        bias: bool = False,
    ) -> None:
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2; got {stride}")
        self.factor = stride
        kernel = self._kernel(stride)
        super().__init__(channels_in, channels_out, alpha_in=alpha_in, alpha_out=alpha_out, kernel=kernel, bias=bias)

    def _kernel(self, stride: int) -> int:
        return 3


class TransposedOctaveConv(UpsamplingOctaveConv):
    """Transposed octave convolution: the four paths with transposed 3x3 convolutions (WO 2022/264089, par. 0058).

    The high-to-low path runs after pooling, the low-to-high path before up-sampling, as in ``OctaveConv``. A 3x3
    transposed convolution of stride 2 puts its centres a quarter of an input pixel off; the network learns that.
    """

    def _operator(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Module:
        up = self.factor
        return nn.ConvTranspose2d(
            channels_in, channels_out, kernel, stride=up, padding=1, output_padding=up - 1, bias=False
        )


class BilinearOctaveConv(UpsamplingOctaveConv):
    """The patent's alternative to ``TransposedOctaveConv``: octave convolution and bilinear interpolation.

    With ``stride = 2`` a 1x1 octave convolution is followed by interpolation of both frequencies. Within a path the
    two commute (interpolation weights sum to 1 per channel), so this costs a quarter of interpolating first; the 3x3
    neighbourhood is left to the ``stride = 1`` operator behind it, which is a plain 3x3 octave convolution.
    """

    def _kernel(self, stride: int) -> int:
        return 1 if stride == 2 else 3

    def forward(self, maps: Maps) -> Maps:
        maps = super().forward(maps)
        if self.factor == 1:
            return maps
        return Maps(*(None if x is None else up_bilinear(x) for x in maps))


class OctaveBlock(nn.Module):
    """An octave operator, batch normalisation of each frequency, ReLU."""

    def __init__(self, conv: OctaveConv) -> None:
        super().__init__()
        self.conv = conv
        self.high_norm = nn.BatchNorm2d(conv.high_out) if conv.high_out else None
        self.low_norm = nn.BatchNorm2d(conv.low_out) if conv.low_out else None

    def forward(self, maps: Maps) -> Maps:
        high, low = self.conv(maps)
        if self.high_norm is not None:
            high = F.relu(self.high_norm(high))
        if self.low_norm is not None:
            low = F.relu(self.low_norm(low))
        return Maps(high, low)
