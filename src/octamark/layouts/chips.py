"""Face chips: where face recognition expects the points of a face in its square input; the table is chips.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, listed
from octamark.geometry import fit_similarity, invert
from octamark.layouts.definition import F64, Floats


@dataclass(frozen=True, eq=False)
class ChipTemplate:
    """The format of aligned face chips.

    Attributes:
        layout: name of the layout whose points are aligned.
        size: usual side of a chip in pixels.
        margin: usual margin on each side, as a share of the square of ``points``.
        points: (K, 2) where the points of the layout lie, in the unit square of a chip without margin.
        fit_in_chip: True if the squared error of the similarity is least in pixels of the chip, False if in pixels of
            the picture.
    """

    layout: str
    size: int
    margin: float
    points: NDArray[np.float64]
    fit_in_chip: bool

    def pixels(self, size: int, margin: float) -> F64:
        """(K, 2) pixels of a chip where the points should lie: (point + margin) / (1 + 2 margin) * size.

        As dlib and InsightFace scale, without the half pixel of this package's convention for resized pictures.
        """
        return (self.points + margin) / (1 + 2 * margin) * size

    def transforms(self, landmarks: Floats, size: int, margin: float) -> F64:
        """Similarities (n, 2, 3) from pixels of the chips to pixels of the picture, for points (n, K, 2) of ``layout``.

        Points that are NaN are left out; a face of which fewer than two are known, or all in one place, has NaN.
        """
        target = self.pixels(size, margin)
        transforms = np.full((len(landmarks), 2, 3), np.nan)
        for row, points in zip(transforms, np.asarray(landmarks, np.float64), strict=True):
            known = np.isfinite(points).all(axis=-1)
            if not known.any() or not np.ptp(points[known], axis=0).any():
                continue
            if self.fit_in_chip:
                row[:] = invert(fit_similarity(points[known], target[known]))
            else:
                row[:] = fit_similarity(target[known], points[known])
        return transforms


@cache
def _templates() -> dict[str, ChipTemplate]:
    table = tomllib.loads((resources.files(__package__) / "chips.toml").read_text(encoding="utf-8"))
    return {
        name: ChipTemplate(
            entry["layout"],
            entry["size"],
            entry["margin"],
            np.array(entry["pixels"], np.float64) / entry["pixels_size"],
            entry["fit"] == "chip",
        )
        for name, entry in table.items()
    }


def chip_template(name: str) -> ChipTemplate:
    """The format of face chips of that name: ``insightface`` or ``dlib``.

    Raises:
        ConfigError: another name; the message lists the names.
    """
    if not isinstance(name, str) or name not in _templates():
        raise ConfigError(f"template {name!r}; allowed: {listed(_templates())}")
    return _templates()[name]
