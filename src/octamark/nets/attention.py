"""Multi-frequency attention: each position of the low frequency attends to all positions of the high one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octamark.nets.octave import Maps


class MultiFrequencyAttention(nn.Module):
    """Attention from low- to high-frequency features (WO 2022/264089, equations 3 to 9).

    With S positions of the low and N of the high frequency: phi = W_phi(X_l) (C x S), theta = W_theta(X_h) and
    upsilon = W_upsilon(X_h) (C x N); Y = phi^T theta (eq. 6); softmax over the N high-frequency positions (eq. 7);
    Z = Y~ upsilon^T (eq. 8); X_l' = W_z(Z) + X_l (eq. 9). X_h passes unchanged. W_z starts at zero, so that the
    layer starts as the identity.

    Args:
        channels_high, channels_low: channels of the two frequencies.
        channels: C, the size of the embeddings (128 in the source for a width of 128).
    """

    def __init__(self, channels_high: int, channels_low: int, channels: int) -> None:
        super().__init__()
        self.phi = nn.Conv2d(channels_low, channels, 1)
        self.theta = nn.Conv2d(channels_high, channels, 1)
        self.upsilon = nn.Conv2d(channels_high, channels, 1)
        self.z = nn.Conv2d(channels, channels_low, 1)
        nn.init.zeros_(self.z.weight)
        assert self.z.bias is not None
        nn.init.zeros_(self.z.bias)

    def similarity(self, high: Tensor, low: Tensor) -> Tensor:
        """Y~ of equation 7: (n, S, N), rows sum to 1."""
        phi = self.phi(low).flatten(2)  # n, C, S
        theta = self.theta(high).flatten(2)  # n, C, N
        return torch.softmax(phi.transpose(1, 2) @ theta, dim=-1)

    def forward(self, maps: Maps) -> Maps:
        high, low = maps
        if high is None or low is None:
            raise ValueError("attention joins two frequencies; alpha must lie strictly between 0 and 1")
        upsilon = self.upsilon(high).flatten(2)  # n, C, N
        z = self.similarity(high, low) @ upsilon.transpose(1, 2)  # n, S, C
        z = z.transpose(1, 2).unflatten(2, low.shape[-2:])  # n, C, h/2, w/2
        return Maps(high, low + self.z(z))
