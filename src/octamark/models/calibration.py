"""Calibration: from the network's raw spread to the expected error and to the probability that an error is small.

Three monotone maps, fitted on validation faces (octamark.release.calibration), stored in the model card and applied
inside the exported graph:

1. u = gain[k, axis] * b ** own * mean(b) ** face * shift ** s * contrast ** c, with b the raw spread of one axis of one
   point in pixels of the crop, mean(b) the geometric mean over all points and axes of the face, and two numbers that
   tell how unusual a face is: shift, how far the shape correction moves its points, and the contrast of its crop;
2. spread = a rising chain of straight lines through ``knots`` at u: the expected absolute error per axis;
3. with s = root mean square of the two axes' spreads, the share of points whose distance from the truth is below r * s,
   a rising chain of straight lines through ``ratios`` at r.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

SHIFT_FLOOR, CONTRAST_FLOOR = 0.05, 1.0
"""What is added to the mean distance (pixels of the crop) that the shape correction moves a face's points, and to the
standard deviation (grey levels) of its crop's pixels: their logarithms are used."""

KNOTS, RATIOS = 9, 24
"""Lengths of the two tables; the same in all files, so that the calibration in a graph can be replaced."""

Floats = NDArray[np.floating]
Table = tuple[tuple[float, float], ...]


class Calibration(BaseModel):
    """The three fitted maps of a model.

    Attributes:
        kind: ``"per_point"``: a gain for every pair of mirrored points and every axis, and measured ``ratios``;
            ``"global"``: one gain for all of them and the ``ratios`` of Laplace densities, because there were too few
            labelled faces to fit more.
        gain: (M, 2) factor of each point and axis.
        own, face: exponents of the point's own raw spread and of the face's mean; both at least 0.
        shift, contrast: exponents of how far the shape correction moves the face's points and of the contrast of its
            crop; both at least 0. Cards that older versions wrote have 0.
        knots: ``KNOTS`` pairs (u, spread), both rising, from (0, 0); beyond the last, the last slope goes on.
        ratios: ``RATIOS`` pairs (ratio, share), both rising, from (0, 0) to share 1.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["per_point", "global"] = "per_point"
    gain: tuple[tuple[float, float], ...]
    own: float
    face: float
    knots: Table
    ratios: Table
    shift: float = 0.0
    contrast: float = 0.0

    @model_validator(mode="after")
    def _monotone(self) -> Calibration:
        for name, table, length in (("knots", self.knots, KNOTS), ("ratios", self.ratios, RATIOS)):
            values = np.array(table)
            if values.shape != (length, 2) or (values[0] != 0).any() or (np.diff(values[:, 0]) <= 0).any():
                raise ValueError(f"{name}: {length} pairs from (0, 0) on, the first of each rising")
            if not np.isfinite(values).all() or (np.diff(values[:, 1]) < 0).any():
                raise ValueError(f"{name}: the second of each pair must not fall, and all must be finite")
        if self.ratios[-1][1] != 1:
            raise ValueError("ratios: the last share must be 1")
        factors = np.array([self.own, self.face, self.shift, self.contrast, *np.ravel(self.gain)])
        if not np.isfinite(factors).all() or (factors < 0).any() or (factors[4:] == 0).any():
            raise ValueError("exponents at least 0, gains above 0, all finite")
        return self

    @classmethod
    def identity(cls, points: int) -> Calibration:
        """The calibration that leaves raw spreads as they are, with the ratios of Laplace densities."""
        knots = _plain([(step, step) for step in np.linspace(0, 64, KNOTS)])
        return cls(gain=((1.0, 1.0),) * points, own=1.0, face=0.0, knots=knots, ratios=laplace_ratios())

    def spread(self, raw: Floats, unusual: Floats | None = None) -> NDArray[np.float64]:
        """Expected absolute errors of raw spreads, both (n, M, 2), pixels of the crop, as the graph computes them.

        Args:
            unusual: (n, 2) shift and contrast of each face, with what is added to them (``SHIFT_FLOOR``,
                ``CONTRAST_FLOOR``); None if their exponents are 0.

        Raises:
            ValueError: ``unusual`` is None, but an exponent of it is not 0.
        """
        log_raw = np.log(np.maximum(np.asarray(raw, np.float64), 1e-6))
        log_mean = log_raw.mean(axis=(1, 2), keepdims=True)
        log_u = self.own * log_raw + self.face * log_mean
        if unusual is not None:
            log_u = log_u + (np.log(np.asarray(unusual, np.float64)) @ [self.shift, self.contrast])[:, None, None]
        elif self.shift or self.contrast:
            raise ValueError("this calibration depends on shift and contrast of each face; give them as unusual")
        u = np.array(self.gain) * np.exp(log_u)
        x, y = np.array(self.knots).T
        beyond = np.maximum(u - x[-1], 0) * (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.asarray(np.interp(u, x, y) + beyond)

    def within(self, spread: Floats, radius: Floats | float) -> NDArray[np.float64]:
        """Probability that a point lies within ``radius`` of its truth: spreads (..., 2) and radii (...), one unit."""
        x, y = np.array(self.ratios).T
        return np.asarray(np.interp(radius / np.maximum(root_mean_square(spread), 1e-12), x, y))

    def radius(self, spread: Floats, share: float) -> NDArray[np.float64]:
        """Radius of the disc that holds the truth with probability ``share``: (..., 2) -> (...), in spread's unit."""
        x, y = np.array(self.ratios).T
        return np.asarray(root_mean_square(spread) * np.interp(share, y, x))


@cache
def laplace_ratios() -> Table:
    """``ratios`` of two independent Laplace densities of equal scale, drawn once with a fixed seed."""
    steps = np.linspace(0, 8, RATIOS - 1)
    lengths = np.sort(np.linalg.norm(np.random.default_rng(0).laplace(size=(200_000, 2)), axis=1))
    shares = np.searchsorted(lengths, steps) / len(lengths)
    return _plain([*zip(steps, shares, strict=True), (32.0, 1.0)])


def root_mean_square(spread: Floats) -> NDArray[np.float64]:
    """The root mean square of both axes' spreads: (..., 2) -> (...)."""
    return np.asarray(np.sqrt((np.asarray(spread, np.float64) ** 2).mean(axis=-1)))


def _plain(pairs: list[tuple[float, float]]) -> Table:
    return tuple((round(float(x), 6), round(float(y), 6)) for x, y in pairs)
