"""The mean teacher: it is the average, its points follow the picture, what it does not know counts less."""

from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from octamark.layouts import layout
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.nets.sampling import cut, middle, move_points, move_spreads
from octamark.training.augmentation import similarity
from octamark.training.losses import laplace_kl, map_kl
from octamark.training.objectives.teacher import MeanTeacher, consistency
from octamark.training.optimisation import ExponentialAverage
from octamark.training.recipe import Augment, Teacher

MIRROR = torch.from_numpy(layout("ibug68").mirror.copy())


def teacher() -> tuple[OctaveNetwork, ExponentialAverage, MeanTeacher]:
    torch.manual_seed(0)
    network = OctaveNetwork(NetworkConfig(width=8))
    average = ExponentialAverage(network, 0.5)
    return network, average, MeanTeacher(Teacher(), average, network, 1.0, MIRROR, Fabric(accelerator="cpu"))


def test_its_weights_are_the_average() -> None:
    network, average, one = teacher()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    for _ in range(3):
        average.update(network)
    mine = one.network.state_dict()
    assert mine.keys() == average.state.keys()
    for name, value in average.state.items():
        assert torch.equal(mine[name], value)
        assert mine[name].data_ptr() == value.data_ptr()
    assert not torch.equal(mine["head.high_to_high.weight"], network.state_dict()["head.high_to_high.weight"])
    assert not one.network.training
    assert not any(parameter.requires_grad for parameter in one.network.parameters())


@pytest.mark.parametrize("zoom", [1.0, 0.75])
@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_views_of_nothing_new_change_nothing(mirror: float, zoom: float) -> None:
    """Without augmentation, or mirrored alone, what the teacher says is what it sees, moved into the view."""
    _, _, one = teacher()
    side, size = (102, 64) if zoom == 1.0 else (76, 64)
    faces = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    still = Augment(rotation=0, scale=0, shift=0, mirror=mirror)
    generator = torch.Generator().manual_seed(0)
    matrices, mirrored = similarity(still, 3, side, size, generator, zoom)
    plain = middle(3, side, size, zoom)
    seen = one.points(faces, plain, torch.zeros(3, dtype=torch.bool), size=size, zoom=zoom)
    if not mirror:
        torch.testing.assert_close(matrices, plain)
    taught = one.points(faces, matrices, mirrored, size=size, zoom=zoom)
    assert seen.position.shape == seen.spread.shape == (3, 68, 2)
    assert not seen.position.requires_grad
    assert 0 < float(seen.position.min()) < float(seen.position.max()) < 15  # heatmap pixels
    expected = seen.position
    if mirror:
        expected = expected[:, MIRROR].clone()
        expected[..., 0] = 15 - expected[..., 0]
    torch.testing.assert_close(taught.position, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(taught.spread, seen.spread[:, MIRROR] if mirror else seen.spread)


def test_a_face_and_its_mirror_image_are_seen_alike() -> None:
    """Both readings count: what the network alone sees in the mirror image is something else."""
    _, _, one = teacher()
    faces = torch.randint(0, 256, (2, 3, 102, 102), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain, still = middle(2, 102, 64), torch.zeros(2, dtype=torch.bool)
    straight, turned = (one.points(f, plain, still, size=64, zoom=1.0) for f in (faces, faces.flip(3)))
    back = turned.position[:, MIRROR] * torch.tensor([-1.0, 1.0]) + torch.tensor([15.0, 0.0])
    torch.testing.assert_close(back, straight.position, rtol=0, atol=1e-4)
    torch.testing.assert_close(turned.spread[:, MIRROR], straight.spread, rtol=0, atol=1e-4)
    with torch.no_grad():
        crops = cut(faces, plain, 64)
        alone = [heatmaps.decode(heatmaps.probabilities(one.network(x))).position for x in (crops, crops.flip(3))]
    assert (alone[1][:, MIRROR, 1] - alone[0][..., 1]).abs().max() > 0.01


def test_points_and_spreads_follow_random_views() -> None:
    """Against many random draws around each point: mean and standard deviation of the moved cloud."""
    generator = torch.Generator().manual_seed(2)
    matrices, mirrored = similarity(Augment(rotation=60, scale=0.3), 4, 102, 64, generator)
    position, spread = 20 + 60 * torch.rand(4, 68, 2), 0.5 + 3 * torch.rand(4, 68, 2)
    cloud = position + spread * math.sqrt(2) * _laplace(20_000, 4)
    moved = torch.stack([move_points(points, matrices, mirrored, MIRROR) for points in cloud[:4000]])
    torch.testing.assert_close(moved.mean(0), move_points(position, matrices, mirrored, MIRROR), rtol=0, atol=0.5)
    found = moved.std(0) / 2  # a Laplace density of scale b has a standard deviation of sqrt(2) b
    torch.testing.assert_close(found, move_spreads(spread, matrices, mirrored, MIRROR), rtol=0.12, atol=0.05)


def _laplace(count: int, faces: int) -> Tensor:
    """Draws (count, faces, 1, 2) of scale 1."""
    torch.manual_seed(3)
    return torch.distributions.Laplace(0.0, 1.0).sample((count, faces, 1, 2))


def test_consistency_is_the_divergence_to_the_teachers_density() -> None:
    points = Points(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[0.7, 1.2]]]))
    taught = Points(torch.tensor([[[3.5, 4.0]]]), torch.tensor([[[0.2, 2.0]]]))
    p = torch.full((1, 1, 16, 16), 1 / 256)
    loss = consistency(p, points, taught, target_scale=0.5, half=1.0)
    axes = []
    for axis, scale in ((0, 0.5), (1, 2.0)):  # the first is not believed under the target scale
        kept = [Points(*(value[..., axis : axis + 1] for value in points)), taught.position[..., axis : axis + 1]]
        axes.append(float(laplace_kl(*kept, scale)) / (1 + scale**2))  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(sum(axes) / 2, rel=1e-6)
    drawn = heatmaps.draw(Points(taught.position, torch.tensor([[[0.5, 2.0]]])), 16, 16)
    more = 3.0 * float(map_kl(drawn, p)) * (1 / 1.25 + 1 / 5) / 2
    assert float(consistency(p, points, taught, 0.5, 1.0, maps=3.0)) == pytest.approx(float(loss) + more, rel=1e-6)


def test_the_unsure_count_less() -> None:
    target, p = torch.zeros(1, 1, 2), torch.full((1, 1, 16, 16), 1 / 256)
    slopes = []
    for spread in (0.5, 1.0, 2.0, 8.0):
        position = torch.full((1, 1, 2), 20.0, requires_grad=True)
        taught = Points(target, torch.full((1, 1, 2), spread))
        consistency(p, Points(position, torch.ones(1, 1, 2)), taught, 0.5, 1.0).backward()
        assert position.grad is not None
        slopes.append(float(position.grad[0, 0, 0]))
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[3] < slopes[0] / 100
