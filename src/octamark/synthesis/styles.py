"""Drawing styles as batched tensor operations: a photograph as a cartoon, a drawing, a painting.

All functions take pictures (n, 3, h, w) float in 0..1 and return the same shape. The sizes of strokes are shares of the
picture's side, so that a style looks the same at every resolution. Random numbers come from one generator on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor

from octamark.synthesis.camera import GREY

Style = Callable[[Tensor, torch.Generator], Tensor]


def stylise(pictures: Tensor, generator: torch.Generator, blend: float = 1.0) -> Tensor:
    """Pictures in random styles, 40 % of them on paper or canvas; each depends on its own random numbers alone.

    Light is balanced first (``lit``).

    Args:
        blend: largest share of the drawing in the result; the smallest is 60 % of it.
    """
    out = torch.empty_like(pictures)
    for index, own_generator in enumerate(generators(len(pictures), generator)):
        picture = pictures[index : index + 1]
        style = [*STYLES.values()][int(torch.randint(len(STYLES), (1,), generator=own_generator))]
        share = blend * float(_uniform(1, own_generator, 0.6, 1.0))
        drawn = picture + share * (style(lit(picture), own_generator) - picture)
        out[index : index + 1] = (
            grain(drawn, own_generator) if float(torch.rand(1, generator=own_generator)) < 0.4 else drawn
        )
    return out.clamp_(0.0, 1.0)


def generators(count: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator for each picture, so that its random numbers do not depend on the other pictures of the batch."""
    seeds = torch.randint(2**62, (count,), generator=generator)
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def _uniform(count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform random numbers (n, 1, 1, 1) from ``low`` to ``high``."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _grey(pictures: Tensor) -> Tensor:
    """Pictures as grey (n, 1, h, w)."""
    return (pictures * pictures.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    """Pictures with Gaussian blur, sigma in pixels."""
    kernel = 2 * math.ceil(2.5 * sigma) + 1
    return kornia.filters.gaussian_blur2d(pictures, (kernel, kernel), (sigma, sigma))


def lit(pictures: Tensor) -> Tensor:
    """Pictures whose middle, where the face is, uses the whole range from dark to bright, as drawings do."""
    side = pictures.shape[-1]
    middle = slice(round(0.22 * side), round(0.78 * side))
    grey = _grey(pictures)[:, :, middle, middle].flatten(1)
    low, half, high = (grey.quantile(share, dim=1)[:, None, None, None] for share in (0.03, 0.5, 0.97))
    span = (high - low).clamp_min(0.05)
    gamma = math.log(0.5) / ((half - low) / span).clamp(0.15, 0.85).log()
    return ((pictures - low) / span).clamp(1e-4, 1.0) ** gamma


def smooth(pictures: Tensor, share: float, contrast: float = 0.008) -> Tensor:
    """Edge-preserving smoothing (guided filter) over windows of that share of the side, twice."""
    kernel = 2 * max(1, round(share * pictures.shape[-1] / 2)) + 1
    coarse = kernel // 3  # the filter's coefficients vary slowly: found on a coarser picture (K. He, J. Sun, 2015)
    for _ in range(2):
        pictures = kornia.filters.guided_blur(pictures, pictures, kernel, contrast, subsample=coarse)
    return pictures.clamp(0.0, 1.0)


def posterised(pictures: Tensor, levels: Tensor) -> Tensor:
    """Pictures with few levels of light and unchanged hues; levels (n, 1, 1, 1)."""
    light = _grey(pictures).clamp_min(1e-3)
    steps = (light * levels).floor().add(0.5).div(levels)
    return (pictures * (steps / light)).clamp(0.0, 1.0)


def saturated(pictures: Tensor, factor: Tensor) -> Tensor:
    """Pictures with livelier or duller colours; factor (n, 1, 1, 1), 0 is grey."""
    grey = _grey(pictures)
    return (grey + factor * (pictures - grey)).clamp(0.0, 1.0)


def lines(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Drawings in dark lines on white (n, 1, h, w), by the extended difference of Gaussians (H. Winnemöller, 2011)."""
    side = pictures.shape[-1]
    sigma = max(0.6, (0.003 + 0.005 * float(torch.rand(1, generator=generator))) * side)
    grey = _grey(pictures)
    sharp = 18 + 20 * _uniform(len(pictures), generator).to(pictures.device)
    edges = (1 + sharp) * _blur(grey, sigma) - sharp * _blur(grey, 1.6 * sigma)
    threshold = _uniform(len(pictures), generator, 0.25, 0.6).to(pictures.device)
    soft = _uniform(len(pictures), generator, 3.0, 12.0).to(pictures.device)
    return torch.where(edges >= threshold, torch.ones_like(edges), 1 + torch.tanh(soft * (edges - threshold))).clamp(
        0, 1
    )


def line_drawing(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Line drawings in ink of one colour on paper of another."""
    return inked(lines(pictures, generator), generator)


def inked(white: Tensor, generator: torch.Generator) -> Tensor:
    """Drawings (n, 1, h, w; 1 where paper shows) in dark ink on light paper, 40 % of them black on white."""
    count = len(white)
    plain = _uniform(count, generator) < 0.4
    paper = 1 - 0.25 * torch.rand(count, 3, 1, 1, generator=generator) * ~plain
    ink = 0.35 * torch.rand(count, 3, 1, 1, generator=generator) * ~plain
    paper, ink = paper.to(white.device), ink.to(white.device)
    return ink + (paper - ink) * white


def hatching(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Drawings of contours and of strokes in up to three directions, more of them where the picture is darker."""
    count, _, height, width = pictures.shape
    light = _blur(_grey(smooth(pictures, 0.03)), 0.004 * width + 0.3)
    light = (light - light.amin((2, 3), keepdim=True)) / (
        light.amax((2, 3), keepdim=True) - light.amin((2, 3), keepdim=True) + 1e-3
    )
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wobble = F.interpolate(torch.randn(count, 1, 8, 8, generator=generator), size=(height, width), mode="bicubic")
    period = _uniform(count, generator, 0.012, 0.022) * width
    turn = _uniform(count, generator, 0, math.pi)
    white = torch.ones(count, 1, height, width)
    for step, threshold in enumerate((0.75, 0.5, 0.28)):
        angle = turn + step * (math.pi / 3 + 0.2 * _uniform(count, generator))
        phase = (x * torch.cos(angle) + y * torch.sin(angle)) / period.clamp_min(2.5) + 0.5 * wobble
        wave = (0.5 + 0.5 * torch.sin(2 * math.pi * phase)).to(pictures.device)
        dark = ((threshold - light) / 0.35).clamp(0, 1)
        white = white.to(pictures.device) * (1 - 0.85 * dark.sqrt() * (wave > 1 - 0.6 * dark).float())
    return inked((white * lines(pictures, generator)).clamp(0, 1), generator)


def painting(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Paintings: brush dabs (M. Kuwahara's filter, 1976), livelier colours, a relief of strokes."""
    side = pictures.shape[-1]
    radius = max(1, round((0.008 + 0.016 * float(torch.rand(1, generator=generator))) * side))
    out = kuwahara(kuwahara(pictures, radius), max(1, radius // 2))
    out = saturated(out, _uniform(len(pictures), generator, 0.7, 1.5).to(pictures.device))
    strokes = torch.randn(len(pictures), 1, max(4, side // 3), max(4, side // 10), generator=generator)
    strokes = F.interpolate(strokes, size=pictures.shape[-2:], mode="bilinear").to(pictures.device)
    return (out * (1 + 0.05 * strokes)).clamp(0, 1)


def kuwahara(pictures: Tensor, radius: int) -> Tensor:
    """Pictures in which each pixel is the mean of that of its four corner windows whose grey varies least."""
    window = radius + 1
    padded = F.pad(torch.cat([pictures, _grey(pictures), _grey(pictures) ** 2], 1), (radius,) * 4, mode="replicate")
    means = F.avg_pool2d(padded, window, stride=1)  # n, 5, h + radius, w + radius
    height, width = pictures.shape[-2:]
    corners = torch.stack([means[..., i : i + height, j : j + width] for i in (0, radius) for j in (0, radius)], 1)
    varies = corners[:, :, 4] - corners[:, :, 3] ** 2  # n, 4, h, w
    best = varies.argmin(1)[:, None, None].expand(-1, 1, 3, -1, -1)
    return corners[:, :, :3].gather(1, best)[:, 0]


def cartoon(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Cartoons: flat shading in few lively colours, dark outlines."""
    count, device = len(pictures), pictures.device
    flat = smooth(pictures, 0.035, 0.012)
    flat = posterised(flat, torch.randint(3, 8, (count, 1, 1, 1), generator=generator).to(device).float())
    flat = saturated(flat, _uniform(count, generator, 0.8, 1.7).to(device))
    light = _uniform(count, generator, 0.0, 0.25).to(device)
    return (flat + light * (1 - flat)) * lines(smooth(pictures, 0.025), generator)


def palette(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in a random palette of four colours from dark to bright, 60 % of them smoothed to flat areas."""
    count, device = len(pictures), pictures.device
    colours = torch.rand(count, 3, 4, generator=generator)
    light = torch.linspace(0.05, 0.95, 4)
    grey = colours.mean(1, keepdim=True)
    colours = (light + 0.8 * (colours - grey)).clamp(0, 1).to(device)  # n, 3, 4
    dark = _grey(smooth(pictures, 0.03)) if float(torch.rand(1, generator=generator)) < 0.6 else _grey(pictures)
    place = dark.clamp(0, 1) * 3
    low = place.floor().clamp(max=2).long()
    part = place - low
    flat = low.flatten(2).expand(-1, 3, -1)
    darker, brighter = colours.gather(2, flat).view_as(pictures), colours.gather(2, flat + 1).view_as(pictures)
    return darker + part * (brighter - darker)


def wash(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Drawings in diluted ink: soft greys on light paper, with slightly darker edges."""
    grey = _grey(smooth(pictures, 0.035))
    pooled = (_blur(grey, 0.015 * pictures.shape[-1]) - grey).clamp(-0.3, 0.3)
    strength = _uniform(len(pictures), generator, 0.6, 1.1).to(pictures.device)
    return inked((1 - strength * (1 - grey) - 0.8 * pooled.clamp_min(0)).clamp(0, 1), generator)


def pencil(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pencil drawings with contours and soft shading: the grey picture divided by its blurred copy."""
    grey = _grey(pictures)
    sigma = (0.01 + 0.04 * float(torch.rand(1, generator=generator))) * pictures.shape[-1]
    divided = (grey / _blur(grey, sigma).clamp_min(0.05)).clamp(0, 1)
    return inked(divided ** _uniform(len(pictures), generator, 1.5, 5.0).to(pictures.device), generator)


def grain(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures on paper or canvas: noise of several sizes, and a weave for 40 % of them."""
    count, _, height, width = pictures.shape
    noise = torch.zeros(count, 1, height, width)
    for part, weight in ((1, 0.4), (2, 0.4), (5, 0.3)):
        drawn = torch.randn(count, 1, height // part + 1, width // part + 1, generator=generator)
        noise += weight * F.interpolate(drawn, size=(height, width), mode="bilinear")
    period = _uniform(count, generator, 0.012, 0.03) * width
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    weave = torch.sin(2 * math.pi * rows / period.clamp_min(2.2)) * torch.sin(
        2 * math.pi * columns / period.clamp_min(2.2)
    )
    woven = (_uniform(count, generator) < 0.4).float()
    strength = _uniform(count, generator, 0.01, 0.06)
    return (pictures + (strength * (noise + 1.5 * woven * weave)).to(pictures.device)).clamp(0, 1)


STYLES: dict[str, Style] = {
    "cartoon": cartoon,
    "line drawing": line_drawing,
    "hatching": hatching,
    "painting": painting,
    "palette": palette,
    "wash": wash,
    "pencil": pencil,
}
