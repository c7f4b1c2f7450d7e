"""The mean teacher: the moving average of the weights, whose points on unlabelled faces are targets."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.nets.sampling import cut, middle, move_points, move_spreads
from octamark.training import recipe
from octamark.training.losses import certainty, drawn_kl, laplace_kl
from octamark.training.objectives import Batch, Prediction, Stateless
from octamark.training.optimisation import ExponentialAverage


class MeanTeacher(Stateless):
    """Averaged weights that read plain crops (A. Tarvainen, H. Valpola: Mean teachers are better role models, 2017).

    Every crop is read twice, as it is and mirrored, and the two heatmaps of a landmark are averaged. The averaged
    position is more accurate than either of the two, so that the network can learn from it; where the two disagree,
    the spread grows.

    The teacher shares its weights with the average: what updates or restores the average also updates the teacher. The
    log has the distance to it (``consistency``, before the weight) and its mean spread in heatmap pixels
    (``teacher_spread``).

    Args:
        settings: the recipe's section.
        average: of the network in training.
        like: a network of the same shape.
        beta: of the soft-argmax.
        mirror: (M,) the layout's mirror permutation.
    """

    column: str | None = None
    columns: tuple[str, ...] = ("consistency", "teacher_spread")

    def __init__(
        self,
        settings: recipe.Teacher,
        average: ExponentialAverage,
        like: OctaveNetwork,
        beta: float,
        mirror: Tensor,
        fabric: Fabric,
    ) -> None:
        self.settings, self.fabric, self.beta, self.mirror = settings, fabric, beta, mirror.to(fabric.device)
        self.network = OctaveNetwork(like.config).requires_grad_(False).eval()
        self.network.load_state_dict(average.state, assign=True)

    def uses_unlabelled(self) -> bool:
        return True

    def __call__(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.unlabelled is not None
        views = batch.unlabelled
        taught = self.points(views.stored, views.matrices, views.mirrored, size=batch.size, zoom=views.zoom)
        p, points, _ = prediction.unlabelled(batch)
        half, maps = self.settings.spread_at_half_weight, self.settings.maps
        distance = consistency(p, points, taught, batch.target_scale, half, maps)
        return distance, {"consistency": distance, "teacher_spread": taught.spread.mean()}

    @torch.no_grad()
    def points(self, faces: Tensor, matrices: Tensor, mirrored: Tensor, *, size: int, zoom: float) -> Points:
        """The teacher's points in the middle of stored faces, moved into the augmented views of these faces.

        Args:
            faces: (u, 3, s, s) uint8 stored crops.
            matrices, mirrored: the views, from octamark.training.augmentation.similarity.
            size, zoom: side of the network's crop, and pixels of the stored crop per pixel of it.

        Returns:
            (u, M, 2) positions and spreads, heatmap pixels of the views; without gradients.
        """
        plain = middle(len(faces), faces.shape[-1], size, zoom).to(faces.device)  # u, 2, 3
        crops = cut(faces, plain, size).contiguous(memory_format=torch.channels_last)  # u, 3, size, size
        with self.fabric.autocast():
            maps = read_twice(self.network, crops, self.beta, self.mirror)
        points = heatmaps.to_input_pixels(heatmaps.decode(maps), STRIDE)
        stored = Points(points.position * zoom + plain[:, None, :, 2], points.spread * zoom)
        position = move_points(stored.position, matrices, mirrored, self.mirror)
        spread = move_spreads(stored.spread, matrices, mirrored, self.mirror)
        return Points(heatmaps.to_heatmap_pixels(position, STRIDE), spread / STRIDE)


def read_twice(network: OctaveNetwork, crops: Tensor, beta: float, mirror: Tensor) -> Tensor:
    """Probability maps (u, M, h, w) of crops (u, 3, s, s): the mean of those of each crop and of its mirror image."""
    maps = network(torch.cat([crops, crops.flip(3)]))  # 2 u, M, h, w
    straight, turned = heatmaps.probabilities(maps, beta).chunk(2)
    return (straight + turned.flip(3)[:, mirror]) / 2


def consistency(
    p: Tensor, points: Points, taught: Points, target_scale: float, half: float, maps: float = 0.0
) -> Tensor:
    """LaplaceKL between the network's densities and the teacher's: KL(Laplace(s~, b) || Laplace(s_t, b_t)).

    Each point's target scale b_t is the teacher's own spread there, but no less than ``target_scale``: the teacher is
    not taken to be more exact than a label. Its weight is half^2 / (half^2 + b_t^2): points of which the teacher is
    uncertain hardly count, and an untrained teacher teaches nothing.

    Args:
        p, points: probability maps (u, M, h, w) and what was read from them.
        taught: the teacher's points and spreads in the same views.
        half: spread at which a point has half its weight, heatmap pixels.
        maps: weight of the KL from whole maps, drawn of the teacher's densities, to ``p``.
    """
    scale = taught.spread.clamp_min(target_scale)
    weight = certainty(scale, half)  # u, M, 2
    distance = laplace_kl(points, taught.position, scale, weight)
    if maps:
        distance = distance + maps * (drawn_kl(Points(taught.position, scale), p) * weight.mean(dim=2)).mean()
    return distance
