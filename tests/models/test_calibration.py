"""The calibration's three maps by hand, and what it refuses to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from octamark.models import available, parse_card, read
from octamark.models.calibration import KNOTS, RATIOS, Calibration, Table, root_mean_square

KNOTS_2X: Table = (*((float(k), 2.0 * k) for k in range(KNOTS - 1)), (8.0, 22.0))  # slope 2, then 8
LINE: Table = tuple((float(k), k / (RATIOS - 1)) for k in range(RATIOS))  # share grows evenly up to ratio 23


def made(**changes: object) -> Calibration:
    table: dict[str, object] = {
        "gain": ((1.0, 2.0), (0.5, 1.0)), "own": 1.0, "face": 0.0, "knots": KNOTS_2X, "ratios": LINE,
    }  # fmt: skip
    return Calibration.model_validate(table | changes)


def test_spread_by_hand() -> None:
    raw = np.array([[[1.0, 1.0], [4.0, 16.0]]])
    # u = [[1, 2], [2, 16]]; slope 2 up to 7, where 14 is reached; then 8 a pixel: 14 + 8 * 9
    np.testing.assert_allclose(made().spread(raw), [[[2, 4], [4, 14 + 8 * 9]]])
    # exponents 1/2 and 1/2: the geometric mean over the face is (1 * 1 * 4 * 16) ** 0.25
    mean = 64**0.25
    u = np.array([[1.0, 2.0], [0.5 * 2, 4.0]]) * math.sqrt(mean)
    np.testing.assert_allclose(made(own=0.5, face=0.5).spread(raw)[0], np.where(u <= 7, 2 * u, 14 + 8 * (u - 7)))


def test_unusual_faces_have_larger_spreads() -> None:
    raw = np.full((2, 2, 2), 1.0)
    unusual = np.array([[1.0, 1.0], [4.0, 27.0]])  # the second: 4 ** 0.5 * 27 ** (1 / 3) = 6 times as large a u
    one = made(shift=0.5, contrast=1 / 3)
    usual, larger = one.spread(raw, unusual)
    np.testing.assert_allclose(usual, [[2, 4], [1, 2]])
    np.testing.assert_allclose(larger, [[12, 14 + 8 * 5], [6, 12]])
    np.testing.assert_array_equal(made().spread(raw, unusual), made().spread(raw))
    with pytest.raises(ValueError, match="depends on shift and contrast"):
        one.spread(raw)


def test_faces_do_not_touch_each_other() -> None:
    raw = np.random.default_rng(0).uniform(0.5, 4, (5, 2, 2))
    together = made(own=0.7, face=0.4).spread(raw)
    for index in range(5):
        np.testing.assert_allclose(made(own=0.7, face=0.4).spread(raw[index : index + 1])[0], together[index])


def test_share_and_radius_by_hand() -> None:
    spread = np.array([[3.0, 4.0], [1.0, 1.0]])
    np.testing.assert_allclose(root_mean_square(spread), [math.sqrt(12.5), 1.0])
    one = made()
    np.testing.assert_allclose(one.within(spread, 2.3), [2.3 / math.sqrt(12.5) / 23, 0.1])
    np.testing.assert_allclose(one.within(spread, np.array([0.0, 23.0])), [0, 1])
    np.testing.assert_allclose(one.radius(spread, 0.5), 11.5 * root_mean_square(spread))
    assert one.within(np.zeros((1, 2)), 1e-3) == pytest.approx([1.0])
    assert one.within(np.ones((1, 2)), 1e6) == pytest.approx([1.0])


@given(st.floats(0.01, 0.99), st.floats(0.1, 30), st.floats(0.1, 30))
def test_the_radius_of_a_share_holds_that_share(share: float, x: float, y: float) -> None:
    one = Calibration.identity(3)
    spread = np.array([x, y])
    assert one.within(spread, one.radius(spread, share)) == pytest.approx(share, abs=1e-6)


@given(st.floats(0.01, 200), st.floats(1.0, 5.0))
def test_larger_raw_spreads_never_give_smaller_ones(raw: float, factor: float) -> None:
    face = np.full((1, 2, 2), 3.0)
    larger = face.copy()
    face[0, 0, 0], larger[0, 0, 0] = raw, raw * factor
    one = made(own=0.8, face=0.3)
    assert (one.spread(larger) >= one.spread(face) - 1e-9).all()


def test_identity_leaves_spreads_alone() -> None:
    raw = np.random.default_rng(0).uniform(0.01, 100, (4, 7, 2))  # beyond the last knot, too
    one = Calibration.identity(7)
    np.testing.assert_allclose(one.spread(raw), raw, rtol=1e-6)
    draws = np.linalg.norm(np.random.default_rng(1).laplace(0, 2.5, (100_000, 2)), axis=1)
    for radius in (1.0, 3.0, 6.0, 12.0):
        assert one.within(np.array([2.5, 2.5]), radius) == pytest.approx((draws < radius).mean(), abs=0.01)


def replaced(table: Table, index: int, pair: tuple[float, float]) -> Table:
    return (*table[:index], pair, *table[index + 1 :])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knots": KNOTS_2X[:-1]}, "knots: 9 pairs from"),
        ({"knots": (*KNOTS_2X, (9.0, 30.0))}, "knots: 9 pairs from"),
        ({"knots": replaced(KNOTS_2X, 0, (0.0, 0.1))}, r"from \(0, 0\)"),
        ({"knots": replaced(KNOTS_2X, 3, (2.0, 6.0))}, "the first of each rising"),
        ({"knots": replaced(KNOTS_2X, 3, (3.0, 1.0))}, "knots: the second of each pair must not fall"),
        ({"knots": replaced(KNOTS_2X, 3, (3.0, NAN))}, "finite"),
        ({"knots": replaced(KNOTS_2X, 8, (INF, 22.0))}, "finite"),
        ({"ratios": LINE[:-1]}, "ratios: 24 pairs"),
        ({"ratios": replaced(LINE, 5, (5.0, 0.0))}, "ratios: the second"),
        ({"ratios": replaced(LINE, 23, (23.0, 0.99))}, "the last share must be 1"),
        ({"own": -0.1}, "exponents at least 0"),
        ({"face": -0.1}, "exponents at least 0"),
        ({"own": NAN}, "finite"),
        ({"shift": -0.1}, "exponents at least 0"),
        ({"contrast": NAN}, "finite"),
        ({"gain": ((1.0, 0.0), (1.0, 1.0))}, "gains above 0"),
        ({"gain": ((1.0, -1.0), (1.0, 1.0))}, "gains above 0"),
        ({"gain": ((1.0, NAN), (1.0, 1.0))}, "finite"),
        ({"gain": ((1.0, 1.0, 1.0),)}, "gain"),
    ],
)
def test_what_is_no_calibration(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(**changes)


def test_what_ships_is_calibrated_and_survives_its_own_json() -> None:
    import onnxruntime

    for name in available():
        session = onnxruntime.InferenceSession(read(name), providers=["CPUExecutionProvider"])
        card = parse_card(session.get_modelmeta().custom_metadata_map["octamark"], name)
        one = card.calibration
        assert len(one.gain) == 68
        assert one != Calibration.identity(68)
        assert one.own + one.face > 0.3
        assert Calibration.model_validate_json(one.model_dump_json()) == one
        assert any("cross-fitted" in message for message in card.scores)
