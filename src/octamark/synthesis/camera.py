"""Damage that cameras and files do to pictures, as batched tensor operations: blur, noise, small sensors, compression.

All functions take pictures (n, 3, s, s) float in 0..1 and return the same shape. Random numbers come from one generator
on the CPU; the noise of pictures on another device comes from one of that device, which the first one seeds.
"""

from __future__ import annotations

import math

import kornia
import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture (ITU-R BT.601)."""

_GAMMA = 2.2


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers of the shape and on the device of a tensor; another device than the CPU draws its own."""
    if like.device.type == "cpu":
        return torch.randn(like.shape, generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own_generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=own_generator, device=like.device)


def blur(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with Gaussian blur of up to 1.5 % of the side, a sigma for each picture."""
    side = pictures.shape[-1]
    largest = 0.015 * side
    sigma = (torch.rand(len(pictures), 1, generator=generator) * (largest - 0.3) + 0.3).to(pictures.device)
    kernel = 2 * math.ceil(2 * largest) + 1
    return kornia.filters.gaussian_blur2d(pictures, (kernel, kernel), sigma.expand(-1, 2))


def low_resolution(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures reduced to 20 to 67 % of the side and enlarged again, one size per batch."""
    share = 0.2 + 0.47 * float(torch.rand(1, generator=generator))
    side = pictures.shape[-1]
    small = F.interpolate(pictures, size=max(8, round(side * share)), mode="bilinear", antialias=True)
    return F.interpolate(small, size=side, mode="bilinear")


def noise(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with normal noise of a standard deviation of up to 0.08, one for each picture."""
    sigma = torch.rand(len(pictures), 1, 1, 1, generator=generator) * 0.08
    return (pictures + normal(pictures, generator) * sigma.to(pictures.device)).clamp_(0.0, 1.0)


def jpeg(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures after JPEG compression at qualities 8 to 60."""
    quality = (8 + 52 * torch.rand(len(pictures), generator=generator)).to(pictures.device)
    return kornia.enhance.jpeg_codec_differentiable(pictures, quality).clamp_(0.0, 1.0)


def sensor(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The picture of a small sensor in little light.

    Reduced to 15 to 50 % of the side (one size per batch), half of them blurred by motion, with the noise of 40 to
    1,000 photons per pixel and of the read-out, half of them grey, and enlarged again.
    """
    count, side, device = len(pictures), pictures.shape[-1], pictures.device
    share = 0.15 + 0.35 * float(torch.rand(1, generator=generator))
    small = F.interpolate(pictures, size=max(8, round(side * share)), mode="bilinear", antialias=True)
    light = small.clamp(0.0, 1.0) ** _GAMMA
    angle = (360 * torch.rand(count, generator=generator)).to(device)
    moving = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).to(device)
    light = torch.where(moving, kornia.filters.motion_blur(light, 3, angle, torch.zeros_like(angle)), light)
    photons = 40 * 25 ** torch.rand(count, 1, 1, 1, generator=generator)
    reading = 0.02 * torch.rand(count, 1, 1, 1, generator=generator)
    drawn = normal(light, generator)
    grey = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).to(device)
    drawn, weights = torch.where(grey, drawn[:, :1], drawn), light.new_tensor(GREY).reshape(1, 3, 1, 1)
    light = torch.where(grey, (light * weights).sum(dim=1, keepdim=True), light)
    photons, reading = photons.to(device), reading.to(device)
    noisy = light + drawn * torch.sqrt(light / photons + reading**2)
    return F.interpolate(noisy.clamp(0.0, 1.0) ** (1 / _GAMMA), size=side, mode="bilinear")


def sharpen(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with the halos of a camera's unsharp mask: up to twice the difference from a blurred copy is added."""
    amount = (torch.rand(len(pictures), 1, 1, 1, generator=generator) * 2).to(pictures.device)
    soft = kornia.filters.gaussian_blur2d(pictures, (7, 7), (1.2, 1.2))
    return (pictures + amount * (pictures - soft)).clamp_(0.0, 1.0)
