"""Known small movements: dots in the picture go where the matrix says."""

from __future__ import annotations

import numpy as np
import pytest

from octamark.evaluation.steadiness import DEGREES, SCALE, SHIFT, nudge
from octamark.geometry import apply


@pytest.mark.parametrize("seed", range(5))
def test_dots_move_as_the_matrix_says(seed: int) -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    dots = [(150, 100), (60, 40), (240, 150)]
    for x, y in dots:
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    warped, matrix = nudge(picture, np.random.default_rng(seed))
    rows, columns = np.mgrid[:200, :300]
    for dot in dots:
        x, y = apply(matrix, np.array(dot, np.float64))
        near = warped[..., 0] * ((columns - x) ** 2 + (rows - y) ** 2 < 15**2).astype(np.float64)
        assert (near * columns).sum() / near.sum() == pytest.approx(x, abs=0.1)
        assert (near * rows).sum() / near.sum() == pytest.approx(y, abs=0.1)


def test_movements_are_small_and_follow_the_seed() -> None:
    picture = np.zeros((90, 120, 3), np.uint8)
    for seed in range(20):
        _, matrix = nudge(picture, np.random.default_rng(seed))
        scale = np.hypot(*matrix[:, 0])
        assert abs(np.log(scale)) <= SCALE + 1e-9
        assert abs(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))) <= DEGREES + 1e-9
        middle = np.array([59.5, 44.5])
        assert np.abs(apply(matrix, middle) - middle).max() <= SHIFT
        np.testing.assert_array_equal(nudge(picture, np.random.default_rng(seed))[1], matrix)
