"""The regional architecture: a global network reads the whole face, a second one reads crops placed by its points.

Design: octamark's own, after Attention-Driven Cropping for Very High Resolution Facial Landmark Detection, of which
only the abstract is public.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from octamark.geometry import transform_with_spread
from octamark.inference.regions import RegionTable, fuse, place
from octamark.models import RegionRule
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.nets.sampling import cut

LEAST_SPREAD = 1e-3
"""Smallest spread of a reading, crop pixels: a spread of 0 would leave other readings without weight."""


class RegionalReading(NamedTuple):
    """Readings of the regional network: K of each face, in the order of the table.

    Attributes:
        maps: probability maps (n, K, h, w).
        points: positions and spreads (n, K, 2) of the maps, heatmap pixels of each crop.
    """

    maps: Tensor
    points: Points


class RegionalNetwork(nn.Module):
    """One octave encoder-decoder that reads the crops of all regions, and the weights of the fusion.

    Args:
        network: with a heatmap for each of the table's channels.
        table: the regions.
        beta: of the soft-argmax.

    Parameters beside the network's: ``bias``, a log precision for each kind of region over the global network's, and
    ``sharpness``, an inverse temperature; see ``octamark.inference.regions.fuse``.
    """

    owners: Tensor
    joining: Tensor
    kind_of: Tensor

    def __init__(self, network: OctaveNetwork, table: RegionTable, beta: float) -> None:
        super().__init__()
        if network.config.landmarks != table.channels:
            raise ValueError(f"{table.channels} channels, but the network has {network.config.landmarks} heatmaps")
        self.network, self.table, self.beta = network, table, beta
        self.bias = nn.Parameter(torch.zeros(len(table.kinds)))
        self.sharpness = nn.Parameter(torch.ones(()))
        for name, values in (("owners", table.owners), ("joining", table.joining), ("kind_of", table.reading_kinds)):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def read(self, crops: Tensor) -> RegionalReading:
        """The readings of crops (n, R, 3, size, size) in 0..1, in the order of the table's regions."""
        count = crops.shape[1]
        stacked = crops.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        scores = self.network(stacked).unflatten(0, (-1, count))  # n, R, C, h, w
        chosen = [scores[:, index, slice(*region.channels)] for index, region in enumerate(self.table.regions)]
        maps = heatmaps.probabilities(torch.cat(chosen, dim=1), self.beta)
        return RegionalReading(maps, heatmaps.decode(maps))

    def in_frame(self, points: Points, transforms: Tensor) -> Points:
        """Readings (n, K, 2), heatmap pixels, in the frame that transforms (n, R, 2, 3) lead to."""
        local = heatmaps.to_input_pixels(points, STRIDE)
        return Points(
            *transform_with_spread(
                transforms[:, self.owners], local.position, local.spread.clamp(min=LEAST_SPREAD), torch
            )
        )

    def fuse(self, points: Points, readings: Points) -> Points:
        """Points (n, M, 2): the global network's points (n, M, 2) and readings (n, K, 2) of one frame, combined."""
        with torch.autocast(points.position.device.type, enabled=False):  # half precision would move points
            bias = self.bias[self.kind_of]
            return Points(*fuse(*points, *readings, bias, self.sharpness, self.joining, torch))


class RegionCrops(NamedTuple):
    """The crops of the regions of n faces.

    Attributes:
        placed: (n, R, 2, 3) from pixels of the crops to pixels of the global network's input.
        pictures: (n, R, 3, size, size) in 0..1, as the regional network reads them.
        undamaged: the same crops before they were damaged.
    """

    placed: Tensor
    pictures: Tensor
    undamaged: Tensor


class RegionalView(NamedTuple):
    """The readings of both networks, all in pixels of the global network's input.

    Attributes:
        points: (n, M, 2) of the global network.
        crops: that these points place.
        reading: of the regional network, in its crops.
        readings: the same points (n, K, 2).
        fused: points (n, M, 2).
    """

    points: Points
    crops: RegionCrops
    reading: RegionalReading
    readings: Points
    fused: Points


class RegionalModel(nn.Module):
    """A frozen global network, its normalisations too, and the regional network that is trained beside it.

    Args:
        global_network: reads the whole face; its soft-argmax has ``global_beta``.
        regional: reads the crops.
        rule: how they are cut.
    """

    def __init__(
        self, global_network: OctaveNetwork, global_beta: float, regional: RegionalNetwork, rule: RegionRule
    ) -> None:
        super().__init__()
        self.global_network, self.global_beta = global_network, global_beta
        self.regional, self.rule = regional, rule
        global_network.requires_grad_(False)

    def train(self, mode: bool = True) -> RegionalModel:
        super().train(mode)
        self.global_network.eval()
        return self

    def forward(self, views: Tensor, crop: Callable[[Points], RegionCrops]) -> RegionalView:
        """The readings of whole faces and of the crops that they place, and both combined.

        Args:
            views: (n, 3, s, s) in 0..1, crops of whole faces.
            crop: what ``cropper`` returns. A function, because Fabric would hand on tensors in half precision.
        """
        with torch.no_grad():
            maps = self.global_network(views.contiguous(memory_format=torch.channels_last))
            p = heatmaps.probabilities(maps, self.global_beta)
            points = heatmaps.to_input_pixels(heatmaps.decode(p), STRIDE)
        with torch.autocast(views.device.type, enabled=False):
            crops = crop(points)
        reading = self.regional.read(crops.pictures)
        readings = self.regional.in_frame(reading.points, crops.placed)
        return RegionalView(points, crops, reading, readings, self.regional.fuse(points, readings))

    def cropper(
        self,
        pictures: Tensor,
        frames: Tensor,
        *,
        moved: Tensor | None = None,
        damage: Callable[[Tensor], Tensor] = lambda crops: crops,
    ) -> Callable[[Points], RegionCrops]:
        """A function from the global network's points to the crops that they place.

        Args:
            pictures: (n, 3, s, s), the faces at full resolution.
            frames: (n, 2, 3) from pixels of the global network's input to pixels of the pictures.
            moved: (n, R, 2, 3) from pixels of crops to pixels of the crops where the global network would have put
                them: disturbs the placement.
            damage: what is done to crops (n * R, 3, size, size) before they are read.
        """

        def crop(points: Points) -> RegionCrops:
            placed = place(points.position, points.spread, self.regional.table, self.rule, torch)
            if moved is not None:
                placed = compose(placed, moved)
            crops = cut(pictures, compose(frames[:, None], placed), self.rule.size)
            return RegionCrops(placed, damage(crops.flatten(0, 1)).view(crops.shape), crops)

        return crop


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """outer after inner, affine maps (..., 2, 3)."""
    linear = outer[..., :2] @ inner[..., :2]
    offset = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return torch.cat([linear, offset], dim=-1)


def regional_start(network: OctaveNetwork, whole_face: OctaveNetwork, table: RegionTable) -> bool:
    """Whether the weights of a network that reads whole faces fit the regional one, into which they are then copied.

    Each heatmap gets the weights of its landmark. Where the shapes differ, the regional network stays as it is.
    """
    shapes = [replace(part.config, landmarks=0, visibility=False) for part in (network, whole_face)]
    if shapes[0] != shapes[1] or whole_face.config.landmarks != table.layout.count:
        return False
    chosen = list(table.channel_landmarks)
    network.load_state_dict(
        {
            name: value[chosen] if name.startswith("head.") else value
            for name, value in whole_face.state_dict().items()
            if not name.startswith("visibility.")
        }
    )
    return True
