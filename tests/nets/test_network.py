"""The encoder-decoder: sizes of every stage, widths, input sizes, variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from octamark.nets.network import SIZE_MULTIPLE, STRIDE, WIDTHS, NetworkConfig, OctaveNetwork
from octamark.nets.octave import Maps


def network(**settings: Any) -> OctaveNetwork:
    torch.manual_seed(0)
    return OctaveNetwork(NetworkConfig(**{"landmarks": 3, "width": 8, **settings})).eval()


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def shapes(stages: list[Maps]) -> list[tuple[tuple[int, ...] | None, ...]]:
    return [tuple(None if x is None else tuple(x.shape[1:]) for x in maps) for maps in stages]


@torch.no_grad()
def test_sizes_of_the_source() -> None:
    """C = 128, alpha = 0.25, 256x256 and 68 landmarks, as in figures 3A to 3C."""
    model = network(landmarks=68, width=128, alpha=0.25)
    stages = model.features(pictures(1, 3, 256, 256))
    assert shapes(stages) == [
        ((3, 256, 256), (3, 128, 128)),
        ((96, 128, 128), (32, 64, 64)),
        ((192, 64, 64), (64, 32, 32)),
        ((384, 32, 32), (128, 16, 16)),
        ((768, 16, 16), (256, 8, 8)),
        ((768, 16, 16), (256, 8, 8)),
        ((384, 32, 32), (128, 16, 16)),
        ((192, 64, 64), (64, 32, 32)),
    ]
    heatmaps, low = model.head(stages[-1])
    assert heatmaps.shape == (1, 68, 64, 64)
    assert low is None


def test_widths_by_name() -> None:
    assert WIDTHS == {"base": 128, "medium": 64, "small": 32, "tiny": 16, "pico": 12, "nano": 8}
    for width in WIDTHS.values():
        with torch.device("meta"):
            model = OctaveNetwork(NetworkConfig(width=width))
        bottleneck = model.encoder[-1].second.conv
        assert (bottleneck.high_out, bottleneck.low_out) == (6 * width, 2 * width)
        assert model.attention is not None
        assert model.attention.phi.out_channels == width


@pytest.mark.parametrize("landmarks", [1, 19, 98])
def test_any_number_of_landmarks(landmarks: int) -> None:
    assert network(landmarks=landmarks)(pictures(1, 3, 32, 32)).shape == (1, landmarks, 8, 8)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
@torch.no_grad()
def test_any_size_that_divides(size: tuple[int, int]) -> None:
    heatmaps = network()(pictures(2, 3, *size))
    assert heatmaps.shape == (2, 3, size[0] // STRIDE, size[1] // STRIDE)
    assert torch.isfinite(heatmaps).all()


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 33), (16, 16)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of {SIZE_MULTIPLE}.*{size[0]}, {size[1]}"):
        network()(pictures(1, 3, *size))


@torch.no_grad()
def test_skip_connections_join_layers_of_the_same_size() -> None:
    """With the up-sampling silenced, what the second decoder layer refines is the second encoder layer's output."""
    model = network(attention=False)
    for layer, index in zip(model.decoder, (3, 2), strict=True):
        for parameter in (*layer.up.high_norm.parameters(), *layer.up.low_norm.parameters()):
            parameter.zero_()
        seen: list[Maps] = []
        layer.refine.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        stages = model.features(pictures(1, 3, 64, 64))
        for found, skip in zip(seen[0], stages[index], strict=True):
            torch.testing.assert_close(found, skip, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.0, "attention": False},
        {"alpha": 0.5, "attention": False},
        {"alpha": 1.0, "attention": False},
        {"alpha": 0.25, "attention": True},
    ],
    ids=str,
)
def test_every_parameter_is_trained(settings: dict[str, Any]) -> None:
    model = network(**settings).train()
    heatmaps = model(pictures(2, 3, 64, 64))
    assert heatmaps.shape == (2, 3, 16, 16)
    heatmaps.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    if not settings["attention"]:  # attention starts as the identity: its embeddings wait for W_z
        silent = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 0]
        assert not silent


@torch.no_grad()
def test_batch_equals_one_by_one() -> None:
    model = network().train()
    for seed in range(3):  # running means and variances away from 0 and 1
        model(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
    model.eval()
    batch = pictures(3, 3, 64, 96)
    together = model(batch)
    assert (together[0] - together[1]).abs().max() > 1e-3
    torch.testing.assert_close(together, torch.cat([model(one[None]) for one in batch]), rtol=0, atol=1e-5)
