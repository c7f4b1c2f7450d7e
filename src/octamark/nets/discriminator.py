"""The discriminator of the semi-supervised scheme: does this set of heatmaps belong to this picture?"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """D([picture, heatmaps]) of Laplace Landmark Localization (section 2, equation 4).

    Four convolutions, three of them of stride 2; each position of the last layer sees most of the face and gives a
    logit of its own. There is no normalisation layer, so that the logits of real and fake sets are independent. Every
    layer is spectrally normalised (Lipschitz constant about 1), so that the gradients that the network receives stay
    bounded, however easily D tells the two kinds apart. Computed in float32, also where the network runs in bfloat16:
    it is small, and the norms are found by power iteration.

    Input: pictures (n, 3, s h, s w), RGB in 0..1, reduced by area averages to the heatmaps' resolution, which keeps
    both on the pixel convention; probability maps (n, M, h, w), h and w at least 8. Output: (n, 1, h/8, w/8) logits,
    above 0 where the maps look as if drawn from labels.

    Each map is divided by its own maximum first. Probabilities over h*w positions are about 1/(h w) where the network
    is uncertain and 1/(4 b^2) where it is confident: undivided, uncertain maps would be almost 0 beside the picture.
    """

    def __init__(self, landmarks: int, width: int = 32) -> None:
        super().__init__()
        channels = (3 + landmarks, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)) for before, after in pairwise(channels)
        )
        self.verdict = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, pictures: Tensor, p: Tensor) -> Tensor:
        with torch.autocast(p.device.type, enabled=False):
            return self._verdicts(pictures.float(), p.float())

    def _verdicts(self, pictures: Tensor, p: Tensor) -> Tensor:
        reduced = F.adaptive_avg_pool2d(pictures, (p.shape[-2], p.shape[-1])) * 2 - 1  # n, 3, h, w
        peaks = p.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
        x = torch.cat([reduced, p / peaks], dim=1)  # n, 3 + M, h, w
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        verdict: Tensor = self.verdict(x)
        return verdict
