"""How good landmarks are: normalised mean error and failure rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout


def nme(
    found: NDArray[np.floating], truth: NDArray[np.floating], layout: Layout, normaliser: str = "inter-ocular"
) -> NDArray[np.float64]:
    """Normalised mean error of each face: mean point-to-point distance over the truth's normalising distance.

    Args:
        found, truth: (n, M, 2) points in the same pixels.
        normaliser: see :meth:`octamark.layouts.Layout.distance`.

    Returns:
        (n,) fractions (0.03 is 3 %).
    """
    apart = np.linalg.norm(np.asarray(found, np.float64) - np.asarray(truth, np.float64), axis=-1).mean(axis=-1)
    return np.asarray(apart / layout.distance(truth, normaliser))


def failure_rate(errors: NDArray[np.floating], threshold: float = 0.08) -> float:
    """Share of faces whose error (n,) is above the threshold."""
    return float((np.asarray(errors) > threshold).mean())
