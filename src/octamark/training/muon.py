"""Muon: momentum whose step on a kernel is orthogonal, so that all of its directions learn at one pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of K. Jordan's quintic iteration: steep at 0; singular values end between about 0.7 and 1.2."""


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U V^T for each of the matrices U S V^T (n, rows, columns), by Newton-Schulz iteration in bfloat16."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    out: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return out


class Muon(torch.optim.AdamW):
    """Muon for the groups marked ``orthogonal``, AdamW for the others (torch.optim.Muon takes matrices alone).

    K. Jordan and others, Muon: an optimizer for hidden layers in neural networks, 2024. A kernel (out, in, h, w) is the
    matrix (out, in h w). The step is scaled to the size of AdamW's, 0.2 sqrt(max(out, in h w)) (J. Liu and others, Muon
    is scalable for LLM training, 2025, section 2.2), so that both share one learning rate and weight decay.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. It sets the gradients of the orthogonal groups to None."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._step(group)
        super().step()
        return None

    def _step(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # matrices of one shape go through together
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - self.momentum)
            ahead = weight.grad.lerp(state["momentum"], self.momentum).flatten(1)
            alike.setdefault(ahead.shape, []).append((weight, ahead))
            weight.grad = None
        for shape, pairs in alike.items():
            steps = orthogonalised(torch.stack([ahead for _, ahead in pairs]))
            for (weight, _), step in zip(pairs, steps, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step.view_as(weight), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
