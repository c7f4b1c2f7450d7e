"""The optimiser, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from octamark.nets.network import EncoderLayer, OctaveNetwork
from octamark.training.muon import Muon
from octamark.training.recipe import Optimiser, Stage

BETAS = (0.9, 0.999)
"""Decay of the two moments of AdamW, per step."""


def optimiser(network: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """AdamW, or Muon for the kernels between features with AdamW for the rest; the loop sets the rate each step.

    There is no weight decay on biases and normalisations. The layers that read the picture and write the heatmaps stay
    with AdamW, as Muon's authors advise.
    """
    parts = [module for module in network.modules() if isinstance(module, OctaveNetwork)]
    ends = {id(p) for part in parts for end in _ends(part) for p in end.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    inner = [p for p in trained if p.ndim == 4 and id(p) not in ends and settings.name == "muon"]
    inner_ids = {id(p) for p in inner}
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in inner_ids]
    free = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=BETAS)
    groups.append({"params": inner, "weight_decay": settings.weight_decay, "orthogonal": True})
    return Muon(groups, lr=1.0, betas=BETAS)


def _ends(network: OctaveNetwork) -> tuple[nn.Module, ...]:
    """The layers that read the picture, and those that write what the network says."""
    first = network.encoder[0]
    assert isinstance(first, EncoderLayer)
    return network.stem, first.first, network.head, *([network.visibility] if network.visibility is not None else [])


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Linear warm-up over ``stage.warm_up`` of the stage's steps, then half a cosine down to 1 % of the rate."""
    warm = max(1, round(stage.warm_up * steps))
    if step < warm:
        return stage.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return stage.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def moments(optimiser: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The state that an optimiser keeps for each parameter, by ``name/moment``, for a checkpoint."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def set_moments(optimiser: torch.optim.Optimizer, network: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Restore what ``moments`` returned."""
    parameters = dict(network.named_parameters())
    for key, value in saved.items():
        name, moment = key.rsplit("/", 1)
        like = parameters[name]
        optimiser.state[like][moment] = value if moment == "step" else value.to(like.device)


class ExponentialAverage:
    """Moving average of a network's weights and buffers; young averages forget faster: min(decay, (1+t)/(10+t)).

    Args:
        init_weight: share of the network's present weights in the result, so that it stays accurate on what the network
            could do before training (WiSE-FT; M. Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
    """

    def __init__(self, network: nn.Module, decay: float, init_weight: float = 0.0) -> None:
        self.decay, self.init_weight = decay, init_weight
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.start = {name: tensor.clone() for name, tensor in self.state.items()} if init_weight else self.state

    def result(self) -> dict[str, Tensor]:
        """The weights to score and to ship."""
        if not self.init_weight:
            return self.state
        return {
            name: torch.lerp(value, self.start[name], self.init_weight) if value.dtype.is_floating_point else value
            for name, value in self.state.items()
        }

    @contextmanager
    def instead_of(self, network: nn.Module) -> Iterator[None]:
        """A context in which the network has the result's weights and predicts."""
        live = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.result())
        network.eval()
        with torch.no_grad():
            yield
        network.load_state_dict(live)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights; buffers of whole numbers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, values = [], []
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                averages.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
