"""The discriminator: shapes, what it can learn, and what keeps it tame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octamark.nets.discriminator import Discriminator
from octamark.nets.heatmaps import Points, decode, draw


def example(count: int = 8, side: int = 16, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 4 side, 4 side) and maps (n, 5, side, side)."""
    generator = torch.Generator().manual_seed(count)
    pictures = torch.rand(count, 3, 4 * side, 4 * side, generator=generator)
    position = 2 + (side - 5) * torch.rand(count, 5, 2, generator=generator)
    return pictures, draw(Points(position, torch.full_like(position, spread)), side, side)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_one_verdict_per_eighth(side: int) -> None:
    pictures, p = example(2, side)
    assert Discriminator(5, 8)(pictures, p).shape == (2, 1, side // 8, side // 8)


def test_pictures_alone_decide_pictures_alone() -> None:
    """No normalisation over the batch: a verdict does not depend on its neighbours."""
    discriminator = Discriminator(5, 8).eval()
    pictures, p = example()
    torch.testing.assert_close(discriminator(pictures, p)[:3], discriminator(pictures[:3], p[:3]))


def test_how_sure_a_map_is_does_not_scale_it() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(5, 8).eval()
    pictures, p = example()
    torch.testing.assert_close(discriminator(pictures, p), discriminator(pictures, 0.01 * p))
    unsure = example(spread=6.0)[1]
    assert unsure.amax() < 0.02
    assert (discriminator(pictures, unsure) - discriminator(pictures, torch.zeros_like(p))).abs().min() > 1e-4


def test_spectral_norm_bounds_every_layer() -> None:
    discriminator = Discriminator(5, 8)
    with torch.no_grad():
        for name, parameter in discriminator.named_parameters():
            if name.endswith("original"):
                parameter.mul_(50)
    pictures, p = example()
    for _ in range(30):  # power iterations
        discriminator(pictures, p)
    for layer in (*discriminator.layers, discriminator.verdict):
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert float(norm) == pytest.approx(1.0, abs=0.05)


def test_bfloat16_is_left_outside() -> None:
    discriminator = Discriminator(5, 8).eval()
    pictures, p = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = discriminator(pictures.bfloat16().float(), p)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, discriminator(pictures.bfloat16().float(), p), rtol=0, atol=0)


def test_it_learns_where_points_stand() -> None:
    """Real: the points of a fixed shape. Fake: two of them swapped; sharpness and pictures tell nothing."""
    torch.manual_seed(0)
    discriminator = Discriminator(5, 8)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    shape = torch.tensor([[4.0, 4], [11, 4], [7, 8], [5, 11], [10, 11]])

    def drawn(count: int, order: list[int]) -> tuple[Tensor, Tensor]:
        position = shape[order] + 0.5 * torch.randn(count, 5, 2)
        return torch.rand(count, 3, 64, 64), draw(Points(position, torch.ones(count, 5, 2)), 16, 16)

    for _ in range(60):
        real, fake = discriminator(*drawn(16, [0, 1, 2, 3, 4])), discriminator(*drawn(16, [1, 0, 2, 3, 4]))
        loss = torch.nn.functional.softplus(-real).mean() + torch.nn.functional.softplus(fake).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    real, fake = discriminator(*drawn(64, [0, 1, 2, 3, 4])), discriminator(*drawn(64, [1, 0, 2, 3, 4]))
    assert float((real.mean() - fake.mean()).detach()) > 0.3


def test_draw_is_the_inverse_of_decode() -> None:
    position = torch.tensor([[[9.0, 21.0], [15.3, 12.6]]])
    spread = torch.tensor([[[1.0, 2.0], [0.8, 1.5]]])
    maps = draw(Points(position, spread), 40, 32)
    assert maps.shape == (1, 2, 40, 32)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(1, 2))
    found = decode(maps)
    torch.testing.assert_close(found.position, position, rtol=0, atol=0.01)
    torch.testing.assert_close(found.spread, spread, rtol=0.2, atol=0)
    assert float(draw(Points(position, torch.zeros_like(spread)), 40, 32).amax(dim=(2, 3))[0, 0]) > 0.999
