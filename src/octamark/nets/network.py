"""The multi-frequency encoder-decoder: picture in, one heatmap per landmark out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octamark.nets.attention import MultiFrequencyAttention
from octamark.nets.octave import (
    BilinearOctaveConv,
    Maps,
    OctaveBlock,
    OctaveConv,
    add,
    pool,
    split_channels,
)

WIDTHS = {"nano": 8, "pico": 12, "tiny": 16, "small": 32, "medium": 64, "base": 128}
"""Width C by size name; ``base`` is the source's C = 128, the others 1/2 to 1/16 of it, and ``pico`` the width at which
a plain network of 128x128 pixels takes a millisecond."""

STRIDE = 4
"""Input pixels per heatmap pixel."""

SIZE_MULTIPLE = 32
"""Input sides must be multiples of this: the low frequency of the bottleneck is 32 times smaller."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network.

    Args:
        landmarks: M, the number of heatmaps.
        width: C; layers have C, 2C, 4C, 8C channels.
        alpha: share of low-frequency channels, in [0, 1].
        attention: multi-frequency attention at the bottleneck (needs 0 < alpha < 1).
        visibility: also say of every landmark whether it can be seen.
    """

    landmarks: int = 68
    width: int = 32
    alpha: float = 0.25
    attention: bool = True
    visibility: bool = False


class Split(nn.Module):
    """The initial maps, without a convolution: the picture, and its 2x2 average as the low frequency."""

    def forward(self, maps: Maps) -> Maps:
        assert maps.high is not None
        return Maps(maps.high, F.avg_pool2d(maps.high, 2))


class EncoderLayer(nn.Module):
    """Two octave convolutions at one resolution."""

    def __init__(self, first: OctaveConv, alpha: float) -> None:
        super().__init__()
        self.first = OctaveBlock(first)
        channels_out = first.high_out + first.low_out
        self.second = OctaveBlock(OctaveConv(channels_out, channels_out, alpha_in=alpha, alpha_out=alpha))

    def forward(self, maps: Maps) -> Maps:
        out: Maps = self.second(self.first(maps))
        return out


class DecoderLayer(nn.Module):
    """Two octave convolutions, the first one doubling the resolution; the skip is added between them.

    The source has transposed octave convolutions here (octamark.nets.octave.TransposedOctaveConv) and allows bilinear
    interpolation in their place, which is faster.
    """

    def __init__(self, channels_in: int, channels_out: int, alpha: float) -> None:
        super().__init__()
        self.up = OctaveBlock(BilinearOctaveConv(channels_in, channels_out, alpha_in=alpha, alpha_out=alpha, stride=2))
        self.refine = OctaveBlock(
            BilinearOctaveConv(channels_out, channels_out, alpha_in=alpha, alpha_out=alpha, stride=1)
        )

    def forward(self, maps: Maps, skip: Maps) -> Maps:
        high, low = self.up(maps)
        refined: Maps = self.refine(Maps(add(high, skip.high), add(low, skip.low)))
        return refined


class VisibilityHead(nn.Module):
    """How much speaks for seeing each landmark, place by place: two convolutions of features of the decoder.

    Args:
        channels: of the features; hidden: of the layer between; landmarks: M.
    """

    def __init__(self, channels: int, hidden: int, landmarks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, landmarks, 1)

    def forward(self, features: Tensor) -> Tensor:
        evidence: Tensor = self.second(F.relu(self.first(features)))
        return evidence


class OctaveNetwork(nn.Module):
    """Encoder-decoder of octave convolutions with multi-frequency attention (WO 2022/264089, figures 3A to 3C).

    For a 256x256 input the high/low maps measure 256/128 (the picture), 128/64, 64/32, 32/16, 16/8 (bottleneck, 8C
    channels), then 32/16 and 64/32 in the decoder. Fully convolutional.

    Input: (n, 3, h, w), RGB in 0..1, h and w multiples of 32. Output: heatmaps (n, M, h/4, w/4), unnormalised; ``both``
    also returns the evidence of visibility, of a network that has it.

    Raises:
        ValueError: an input side that is no multiple of 32; attention where alpha leaves only one frequency; visibility
            without high frequency.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, alpha = config.width, config.alpha
        self.stem = Split()
        layers = [EncoderLayer(OctaveConv(3, width, alpha_in=0.0, alpha_out=alpha, kernel=4, stride=2), alpha)]
        layers.extend(
            EncoderLayer(OctaveConv(channels, 2 * channels, alpha_in=alpha, alpha_out=alpha), alpha)
            for channels in (width, 2 * width, 4 * width)
        )
        self.encoder = nn.ModuleList(layers)
        high, low = split_channels(8 * width, alpha)
        if config.attention and not (high and low):
            raise ValueError(f"attention joins two frequencies, but alpha {alpha} leaves one of them no channels")
        if config.visibility and config.alpha == 1.0:
            raise ValueError("visibility is read from the high frequency, but alpha 1 leaves it no channels")
        self.attention = MultiFrequencyAttention(high, low, width) if config.attention else None
        self.decoder = nn.ModuleList(
            [
                DecoderLayer(8 * width, 4 * width, alpha),
                DecoderLayer(4 * width, 2 * width, alpha),
            ]
        )
        self.head = BilinearOctaveConv(2 * width, config.landmarks, alpha_in=alpha, alpha_out=0.0, stride=1, bias=True)
        channels = split_channels(4 * width, alpha)[0]
        self.visibility = VisibilityHead(channels, 2 * width, config.landmarks) if config.visibility else None
        self._frozen = False

    def freeze_landmarks(self) -> None:
        """Keep all weights and normalisations as they are, but for those of the visibility."""
        assert self.visibility is not None, "a network without visibility"
        self.requires_grad_(False)
        self.visibility.requires_grad_(True)
        self._frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> OctaveNetwork:
        super().train(mode)
        if self._frozen:
            for name, part in self.named_children():
                part.train(mode and name == "visibility")
        return self

    def features(self, pictures: Tensor) -> list[Maps]:
        """The maps behind each stage, in order: stem, four encoder layers, attention, two decoder layers."""
        if pictures.shape[-1] % SIZE_MULTIPLE or pictures.shape[-2] % SIZE_MULTIPLE:
            raise ValueError(f"input sides must be multiples of {SIZE_MULTIPLE}; got {tuple(pictures.shape)}")
        maps = self.stem(Maps(pictures * 4.0 - 2.0, None))
        stages = [maps]
        for index, layer in enumerate(self.encoder):
            # the first layer strides over the picture, by a 4x4 octave convolution, and pools it on the way
            maps = layer(Maps(maps.high, None) if index == 0 else pool(maps))
            stages.append(maps)
        if self.attention is not None:
            maps = self.attention(maps)
        stages.append(maps)
        for layer, skip in zip(self.decoder, (stages[3], stages[2]), strict=True):
            maps = layer(maps, skip)
            stages.append(maps)
        return stages

    def forward(self, pictures: Tensor) -> Tensor:
        return self._heatmaps(self.features(pictures))

    def both(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps, and for every place how much speaks for seeing each landmark there: (n, M, h/8, w/8).

        ``octamark.nets.heatmaps.visibility_logits`` reads the evidence where the heatmap has the landmark.
        """
        assert self.visibility is not None, "a network without visibility"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            stages = self.features(pictures)
            heatmaps = self._heatmaps(stages)
        return heatmaps, self.visibility(stages[-2].high)

    def _heatmaps(self, stages: list[Maps]) -> Tensor:
        heatmaps: Tensor = self.head(stages[-1]).high
        return heatmaps
