"""A second look at faces that lean, lie or stand on their heads.

The network reads faces that stand more or less upright. Its first points tell how far a face leans, and its confidence
tells when it is lost; then the crop is turned and read again, and the surer reading is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octamark.geometry import Picture, crop_transform, tilt, upright_square
from octamark.layouts import Layout
from octamark.models import CropRule

F64 = NDArray[np.float64]

Upright = Literal["auto", "always", "never"]
UPRIGHT: tuple[Upright, ...] = ("auto", "always", "never")

TILTED = 20.0
"""Faces whose first points lean further than this in their crop, in degrees, are read again upright."""

LEAST_GAIN = 0.15
"""A face that seems upright is believed to lie only if a turn lifts its mean confidence by so much."""

UNSURE, UNSURE_LEANING = 0.4, 0.6
"""Faces of a lower mean confidence are then read again in quarter turns; the second holds for faces that leaned."""


@dataclass(frozen=True)
class Shot:
    """One crop to read.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        transform: (2, 3) similarity from pixels of the network's input to pixels of the picture.
        centre: (2,) of the face's box in the picture.
    """

    picture: Picture
    transform: F64
    centre: F64

    @property
    def angle(self) -> float:
        """How far the crop is turned against the picture, degrees clockwise."""
        return float(np.rad2deg(np.arctan2(self.transform[1, 0], self.transform[0, 0])))

    def turned(self, angle: float) -> Shot:
        """The crop as it were if the picture around the box were turned, degrees clockwise."""
        turn = crop_transform(np.array([0.0, 0.0, 1.0]), 1, angle)[:, :2]
        linear, offset = turn @ self.transform[:, :2], turn @ (self.transform[:, 2] - self.centre) + self.centre
        return Shot(self.picture, np.concatenate([linear, offset[:, None]], axis=1), self.centre)


class Look(NamedTuple):
    """What the network said about one crop, in pixels of the picture: (M, 2), (M, 2), (M,), (M, h, w) or None."""

    landmarks: F64
    spread: F64
    confidence: NDArray[np.float32]
    heatmaps: NDArray[np.float32] | None = None

    @property
    def sureness(self) -> float:
        return float(self.confidence.mean())


class SecondLook:
    """Reads faces again where that helps.

    Args:
        look: reads crops.
        layout, rule: of the network.
        mode: ``"auto"`` reads leaning and lost faces again, ``"always"`` every face, ``"never"`` none.
    """

    def __init__(self, look: Callable[[list[Shot]], list[Look]], layout: Layout, rule: CropRule, mode: Upright) -> None:
        self.look, self.layout, self.rule, self.mode = look, layout, rule, mode

    def improve(self, shots: list[Shot], looks: list[Look]) -> None:
        """Replace shots and looks, in place, by surer ones.

        First a crop that stands upright around the first points, and another where the face leans in that one too; for
        a face that is still lost, a quarter, half and three quarters of a turn, and an upright crop around the best of
        them.
        """
        if self.mode == "never":
            return
        leans = [self._leans(shot, one) for shot, one in zip(shots, looks, strict=True)]
        self._straighten([i for i, leaning in enumerate(leans) if leaning or self.mode == "always"], shots, looks)
        crooked = [i for i, leaning in enumerate(leans) if leaning and self._leans(shots[i], looks[i])]
        self._straighten(crooked, shots, looks)
        lost = [i for i, one in enumerate(looks) if one.sureness < (UNSURE_LEANING if leans[i] else UNSURE)]
        turned = [(i, shots[i].turned(angle)) for i in lost for angle in (90.0, 180.0, 270.0)]
        least = [one.sureness + (0.0 if leaning else LEAST_GAIN) for one, leaning in zip(looks, leans, strict=True)]
        self._straighten(self._keep_surer(turned, shots, looks, least), shots, looks)

    def _leans(self, shot: Shot, look: Look) -> bool:
        return abs((self._tilt(look) - shot.angle + 180) % 360 - 180) > TILTED

    def _tilt(self, look: Look) -> float:
        return float(tilt(look.landmarks, self.layout.diagram))

    def _straighten(self, chosen: Iterable[int], shots: list[Shot], looks: list[Look]) -> None:
        tried = []
        for index in chosen:
            angle = self._tilt(looks[index])
            square = upright_square(looks[index].landmarks, angle, self.rule.margin)
            if square[2] > 1:
                transform = crop_transform(square, self.rule.size, angle)
                tried.append((index, Shot(shots[index].picture, transform, shots[index].centre)))
        self._keep_surer(tried, shots, looks, [one.sureness for one in looks])

    def _keep_surer(
        self, tried: list[tuple[int, Shot]], shots: list[Shot], looks: list[Look], least: list[float]
    ) -> list[int]:
        """Take looks that are surer than each face's ``least``; indices of the faces that changed, each once."""
        changed = {}
        for (index, shot), look in zip(tried, self.look([shot for _, shot in tried]), strict=True):
            if look.sureness > max(least[index], looks[index].sureness):
                shots[index], looks[index] = shot, look
                changed[index] = True
        return list(changed)
