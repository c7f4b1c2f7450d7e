"""Which optimiser gets which parameter, and what Muon's step does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.training.muon import Muon, orthogonalised
from octamark.training.optimisation import moments, optimiser, set_moments
from octamark.training.recipe import Optimiser


def network() -> OctaveNetwork:
    torch.manual_seed(0)
    return OctaveNetwork(NetworkConfig(landmarks=5, width=8))


@pytest.mark.parametrize("shape", [(3, 6, 20), (2, 20, 6), (1, 8, 8)])
def test_orthogonalised_is_near_the_polar_factor(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    steps = orthogonalised(matrices)
    assert (steps.shape, steps.dtype) == (matrices.shape, matrices.dtype)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(steps)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (steps - u @ v).norm() < 0.35 * (u @ v).norm()


def test_orthogonalised_takes_any_size_and_zero() -> None:
    matrices = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalised(matrices * 2**-10), orthogonalised(matrices), atol=0.01, rtol=0)
    assert not orthogonalised(torch.zeros(1, 4, 9)).any()


def test_kernels_between_features_are_muons() -> None:
    net = network()
    opt = optimiser(net, Optimiser())
    assert isinstance(opt, Muon)
    names = {id(p): name for name, p in net.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in opt.param_groups]
    assert sum(map(len, groups)) == len(names)
    assert set.union(*groups) == set(names.values())
    inner = next(groups[i] for i, group in enumerate(opt.param_groups) if group.get("orthogonal"))
    ends = ("head.", "encoder.0.first.")
    assert not any(name.startswith(ends) for name in inner)
    outside = set(names.values()) - inner
    assert all(p.ndim == 1 or names[id(p)].startswith(ends) for p in net.parameters() if names[id(p)] in outside)
    for group in opt.param_groups:
        assert (group["weight_decay"] == 0) == all(p.ndim == 1 for p in group["params"])


def test_adamw_alone() -> None:
    opt = optimiser(network(), Optimiser(name="adamw"))
    assert type(opt) is torch.optim.AdamW
    assert sum(len(group["params"]) for group in opt.param_groups) == len(list(network().parameters()))


def stepped(opt: torch.optim.Optimizer, weights: list[Tensor], rate: float = 1e-2) -> list[Tensor]:
    """How far each weight goes in one step down its own fixed gradient."""
    generator = torch.Generator().manual_seed(2)
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    for group in opt.param_groups:
        group["lr"] = rate
    opt.step()
    return [weight.detach() - old for weight, old in zip(weights, before, strict=True)]


def test_a_muon_step_is_orthogonal_downhill_and_as_large_as_adamws() -> None:
    kernel = torch.nn.Parameter(torch.zeros(12, 8, 3, 3))
    opt = Muon([{"params": [kernel], "weight_decay": 0.0, "orthogonal": True}], lr=1.0)
    (moved,) = stepped(opt, [kernel])
    values = torch.linalg.svdvals(moved.flatten(1)) / (1e-2 * 0.2 * 72**0.5)
    assert 0.6 < values.min() <= values.max() < 1.3
    generator = torch.Generator().manual_seed(2)
    assert (moved * torch.randn(12, 8, 3, 3, generator=generator)).sum() < 0
    assert 0.1e-2 < moved.square().mean().sqrt() < 0.3e-2
    assert kernel.grad is None


def test_muon_leaves_the_other_groups_to_adamw() -> None:
    both = []
    for kind in (Muon, torch.optim.AdamW):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(4))]
        groups = [{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:], "weight_decay": 0.0}]
        opt = kind(groups, lr=1.0, betas=(0.9, 0.99))
        both.append([stepped(opt, weights) for _ in range(3)][-1])
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_weight_decay_shrinks_kernels() -> None:
    moves = []
    for decay in (0.0, 0.5):
        kernel = torch.nn.Parameter(torch.ones(4, 2, 3, 3))
        opt = Muon([{"params": [kernel], "weight_decay": decay, "orthogonal": True}], lr=1.0)
        moves.append(stepped(opt, [kernel])[0])
    torch.testing.assert_close(moves[0] - moves[1], torch.full((4, 2, 3, 3), 0.5e-2))


def test_momentum_goes_through_a_checkpoint() -> None:
    nets = [network(), network()]
    opt = [optimiser(net, Optimiser()) for net in nets]
    weights = [list(net.parameters()) for net in nets]
    stepped(opt[0], weights[0])
    nets[1].load_state_dict(nets[0].state_dict())
    set_moments(opt[1], nets[1], {name: value.clone() for name, value in moments(opt[0], nets[0]).items()})
    for ours, theirs in zip(stepped(opt[0], weights[0]), stepped(opt[1], weights[1]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_a_closure_is_refused() -> None:
    opt = Muon([{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}])
    with pytest.raises(ValueError, match="closure"):
        opt.step(lambda: 0.0)
