"""Faces at night: photographs as a small sensor takes them in little light."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.synthesis.camera import sensor

MARGIN, SIDE = 1.5, 270
"""Side of what the small camera takes over the longer side of the landmark box, and its pixels: a network's crop of 224
pixels, and some room, as in training."""


@dataclass(frozen=True, eq=False)
class NightSample(Sample):
    """A face that a small camera takes in little light; the same picture at each call.

    Attributes:
        transform: (2, 3) from pixels of the taken picture, of side ``SIDE``, to those of the photograph.
    """

    transform: NDArray[np.float64] = field(default_factory=lambda: np.eye(2, 3))

    @classmethod
    def of(cls, face: Sample) -> NightSample:
        """A face of a photograph, at night."""
        transform = crop_transform(squares(landmark_boxes(face.landmarks), MARGIN)[0], SIDE)
        points = apply(invert(transform), face.landmarks).astype(np.float32)
        return cls(face.name, face.picture, points, transform=transform)

    def read(self) -> Picture:
        cut = crop(super().read(), self.transform, SIDE)
        pixels = torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 255
        dark = sensor(pixels, torch.Generator().manual_seed(sum(self.name.encode())))[0]
        taken: Picture = (dark.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return taken
