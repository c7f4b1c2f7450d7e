"""The mean teacher: the moving average of the weights, which tells the network what it sees in unlabelled faces."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.nets.sampling import cut, middle, move_points, move_spreads
from octamark.training.losses import certainty, drawn_kl, laplace_kl
from octamark.training.optimisation import ExponentialAverage


class MeanTeacher:
    """Reads plain crops with averaged weights (A. Tarvainen, H. Valpola: Mean teachers are better role models, 2017).

    Every crop is read twice, as it is and mirrored, and the two heatmaps of a landmark averaged: their position is
    better than either, which is what the network can learn from itself, and where they disagree the spread grows.

    Its weights are the tensors of the average themselves: whatever updates or restores that has updated the teacher.
    """

    def __init__(self, average: ExponentialAverage, like: OctaveNetwork, beta: float, fabric: Fabric) -> None:
        self.fabric, self.beta = fabric, beta
        self.network = OctaveNetwork(like.config).requires_grad_(False).eval()
        self.network.load_state_dict(average.state, assign=True)

    @torch.no_grad()
    def __call__(
        self, faces: Tensor, matrices: Tensor, mirrored: Tensor, *, mirror: Tensor, size: int, zoom: float
    ) -> Points:
        """What the teacher sees in the middle of stored faces, carried into the augmented views of them.

        Args:
            faces: (u, 3, s, s) uint8 stored crops.
            matrices, mirrored: the views, from octamark.training.augmentation.similarity.
            mirror: (M,) the layout's mirror permutation.
            size, zoom: side of the network's crop, and pixels of the stored crop per pixel of it.

        Returns:
            (u, M, 2) positions and spreads, heatmap pixels of the views; without gradients.
        """
        plain = middle(len(faces), faces.shape[-1], size, zoom).to(faces.device)  # u, 2, 3
        crops = cut(faces, plain, size).contiguous(memory_format=torch.channels_last)  # u, 3, size, size
        with self.fabric.autocast():
            both = read_twice(self.network, crops, self.beta, mirror)
        seen = heatmaps.to_input_pixels(heatmaps.decode(both), STRIDE)
        stored = Points(seen.position * zoom + plain[:, None, :, 2], seen.spread * zoom)
        position = move_points(stored.position, matrices, mirrored, mirror)
        spread = move_spreads(stored.spread, matrices, mirrored, mirror)
        return Points(heatmaps.to_heatmap_pixels(position, STRIDE), spread / STRIDE)


def read_twice(network: OctaveNetwork, crops: Tensor, beta: float, mirror: Tensor) -> Tensor:
    """Probability maps (u, M, h, w) of crops (u, 3, s, s): the mean of those of each crop and of its mirror image."""
    maps = network(torch.cat([crops, crops.flip(3)]))  # 2 u, M, h, w
    straight, turned = heatmaps.probabilities(maps, beta).chunk(2)
    return (straight + turned.flip(3)[:, mirror]) / 2


def consistency(
    p: Tensor, points: Points, taught: Points, target_scale: float, trust: float, maps: float = 0.0
) -> Tensor:
    """LaplaceKL between the network's densities and the teacher's: KL(Laplace(s~, b) || Laplace(s_t, b_t)).

    Each point's target scale b_t is the teacher's own spread there, but no less than ``target_scale``: the teacher is
    not taken to be more exact than a label. Its weight is trust^2 / (trust^2 + b_t^2), so that what the teacher does
    not know hardly counts, and an untaught teacher teaches nothing.

    Args:
        p, points: probability maps (u, M, h, w) and what was read from them.
        taught: the teacher's points and spreads in the same views.
        maps: weight of the KL from whole maps, drawn of the teacher's densities, to ``p``.
    """
    scale = taught.spread.clamp_min(target_scale)
    weight = certainty(scale, trust)  # u, M, 2
    distance = laplace_kl(points, taught.position, scale, weight)
    if maps:
        distance = distance + maps * (drawn_kl(Points(taught.position, scale), p) * weight.mean(dim=2)).mean()
    return distance
