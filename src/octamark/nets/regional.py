"""The regional architecture: a look at the whole face decides where to crop, a second network reads the crops.

Differentiable from end to end: placement (octamark.inference.regions) and sampler pass gradients, so that the fused
points can teach the global network too. Design: octamark's own, after Attention-Driven Cropping for Very High
Resolution Facial Landmark Detection, of which only the abstract is public.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octamark.geometry import transform_with_spread
from octamark.inference.regions import RegionTable, fuse, place
from octamark.models import RegionRule
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork

LEAST_SPREAD = 1e-3
"""Of a reading, crop pixels: one of 0 would leave no weight to anything else."""


def sample(pictures: Tensor, transforms: Tensor, size: int) -> Tensor:
    """Crops of pictures, bilinear, black outside; differentiable in pictures and transforms.

    Args:
        pictures: (n, c, h, w) float.
        transforms: (n, r, 2, 3) affine maps from pixels of a crop to pixels of its picture.

    Returns:
        (n, r, c, size, size).
    """
    height, width = pictures.shape[-2:]
    count = transforms.shape[1]
    steps = torch.arange(size, dtype=transforms.dtype, device=transforms.device)
    columns = transforms[:, :, None, None, :, 0] * steps[:, None]  # n, r, 1, size, 2
    rows = transforms[:, :, None, None, :, 1] * steps[:, None, None]  # n, r, size, 1, 2
    places = columns + rows + transforms[:, :, None, None, :, 2]  # n, r, size, size, 2
    grid = (2 * places + 1) / places.new_tensor([width, height]) - 1  # of grid_sample, align_corners=False
    cut = F.grid_sample(pictures, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    crops: Tensor = cut.unflatten(2, (count, size)).transpose(1, 2)  # type: ignore[no-untyped-call]
    return crops


class RegionalReading(NamedTuple):
    """What the regional network saw.

    Attributes:
        maps: K probability maps (n, K, h, w) of the readings, in the order of the table.
        points: the same as positions and spreads (n, K, 2), heatmap pixels of each crop.
    """

    maps: Tensor
    points: Points


class RegionalNetwork(nn.Module):
    """One octave encoder-decoder that reads every region's crop, and the temperature of the fusion.

    Args:
        network: with a heatmap for each of the table's channels.
        table: the regions.
        beta: of the soft-argmax.

    Parameters beside the network's: ``bias``, a log precision for each kind of region over the global network's, and
    ``sharpness``, an inverse temperature; see :func:`octamark.inference.regions.fuse`.
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
        """Crops (n, R, 3, size, size) in 0..1, in the order of the table's regions."""
        count = crops.shape[1]
        stacked = crops.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        scores = self.network(stacked).unflatten(0, (-1, count))  # n, R, C, h, w
        own = [scores[:, at, slice(*region.channels)] for at, region in enumerate(self.table.regions)]
        maps = heatmaps.probabilities(torch.cat(own, dim=1), self.beta)
        return RegionalReading(maps, heatmaps.decode(maps))

    def in_frame(self, points: Points, transforms: Tensor) -> Points:
        """Readings (n, K, 2), heatmap pixels, in the frame that transforms (n, R, 2, 3) lead to."""
        local = heatmaps.to_input_pixels(points, STRIDE)
        return Points(
            *transform_with_spread(
                transforms[:, self.owners], local.position, local.spread.clamp(min=LEAST_SPREAD), torch
            )
        )

    def fuse(self, seen: Points, readings: Points) -> Points:
        """Global points (n, M, 2) and readings (n, K, 2) of one frame as one."""
        with torch.autocast(seen.position.device.type, enabled=False):  # products of half precision would move points
            bias = self.bias[self.kind_of]
            return Points(*fuse(*seen, *readings, bias, self.sharpness, self.joining, torch))


class RegionalView(NamedTuple):
    """One pass over faces, all in pixels of the global network's input.

    Attributes:
        seen: points (n, M, 2) of the global network.
        placed: (n, R, 2, 3) from pixels of the crops.
        reading: of the regional network, in its crops.
        own: its points (n, K, 2).
        fused: points (n, M, 2).
    """

    seen: Points
    placed: Tensor
    reading: RegionalReading
    own: Points
    fused: Points


class RegionalModel(nn.Module):
    """Global and regional network as they are trained together.

    Args:
        look: the global network; its soft-argmax has ``look_beta``.
        regional: reads the crops.
        rule: how they are cut.
        joint: whether gradients reach the global network; else it is frozen, its normalisations too.
    """

    def __init__(
        self, look: OctaveNetwork, look_beta: float, regional: RegionalNetwork, rule: RegionRule, *, joint: bool
    ) -> None:
        super().__init__()
        self.look, self.look_beta, self.regional, self.rule, self.joint = look, look_beta, regional, rule, joint
        look.requires_grad_(joint)

    def train(self, mode: bool = True) -> RegionalModel:
        super().train(mode)
        self.look.train(mode and self.joint)
        return self

    def forward(self, views: Tensor, crop: Callable[[Points], tuple[Tensor, Tensor]]) -> RegionalView:
        """Look, place, crop, read, fuse.

        Args:
            views: (n, 3, s, s) in 0..1, faces as the global network is shown them.
            crop: what :meth:`cropper` makes. A function, because Fabric would hand on tensors in half precision.
        """
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            p = heatmaps.probabilities(self.look(views.contiguous(memory_format=torch.channels_last)), self.look_beta)
            seen = heatmaps.to_input_pixels(heatmaps.decode(p), STRIDE)
        with torch.autocast(views.device.type, enabled=False):
            placed, crops = crop(seen)
        reading = self.regional.read(crops)
        own = self.regional.in_frame(reading.points, placed)
        return RegionalView(seen, placed, reading, own, self.regional.fuse(seen, own))

    def cropper(
        self,
        pictures: Tensor,
        frames: Tensor,
        *,
        moved: Tensor | None = None,
        damage: Callable[[Tensor], Tensor] = lambda crops: crops,
    ) -> Callable[[Points], tuple[Tensor, Tensor]]:
        """How the points of the global network become crops: a function to (n, R, 2, 3) and (n, R, 3, size, size).

        Args:
            pictures: (n, 3, h, w) in 0..1, the faces at full resolution.
            frames: (n, 2, 3) from pixels of the global network's input to pixels of the pictures.
            moved: (n, R, 2, 3) from pixels of crops to pixels of the crops where the global network would have put
                them: disturbs the placement.
            damage: what is done to crops (n * R, 3, size, size) before they are read.
        """

        def crop(seen: Points) -> tuple[Tensor, Tensor]:
            placed = place(seen.position, seen.spread, self.regional.table, self.rule, torch)
            if moved is not None:
                placed = compose(placed, moved)
            crops = sample(pictures, compose(frames[:, None], placed), self.rule.size)
            return placed, damage(crops.flatten(0, 1)).view(crops.shape)

        return crop


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """outer after inner, affine maps (..., 2, 3)."""
    linear = outer[..., :2] @ inner[..., :2]
    offset = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return torch.cat([linear, offset], dim=-1)


def regional_start(network: OctaveNetwork, look: OctaveNetwork, table: RegionTable) -> bool:
    """Give a regional network the global one's weights, each heatmap those of its landmark; False if shapes differ."""
    shapes = [replace(one.config, landmarks=0) for one in (network, look)]
    if shapes[0] != shapes[1] or look.config.landmarks != table.layout.count or network.config.upsample != "bilinear":
        return False
    chosen = list(table.channel_landmarks)
    state = {name: value[chosen] if name.startswith("head.") else value for name, value in look.state_dict().items()}
    network.load_state_dict(state)
    return True
