"""Regions: which crops a layout has, where they lie on a face, how readings are joined; numpy and torch alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octamark.errors import LayoutError
from octamark.geometry import apply, crop_transform, invert, transform_with_spread
from octamark.inference.regions import RegionTable, fuse, place
from octamark.layouts import BUILTIN, layout, parse
from octamark.models import RegionRule

IBUG = RegionTable(layout("ibug68"))
RULE = RegionRule(size=96, margin=1.3, spread=4.0)


TWO: dict[str, Any] = {
    "name": "two", "title": "two eyes", "count": 2, "parts": {"right_eye": [0], "left_eye": [1]}, "edges": [],
    "mirror": [[0, 1]], "normalisers": {}, "global": [], "eyes": {}, "regions": {},
    "diagram": [[0.2, 0.5], [0.8, 0.5]],
}  # fmt: skip


def face(scale: float = 300.0, angle: float = 0.0, x: float = 500.0, y: float = 400.0) -> NDArray[np.float64]:
    """The layout's diagram as one face (1, 68, 2) of a picture."""
    turn = crop_transform(np.array([x, y, scale]), 1, angle)
    return apply(turn, IBUG.layout.diagram.astype(np.float64) - 0.5)[None]


@pytest.mark.parametrize("name", [name for name in BUILTIN if layout(name).regions])
def test_every_layout_has_a_table_whose_sides_share_channels(name: str) -> None:
    table = RegionTable(layout(name))
    assert [region.name for region in table.regions] == list(table.layout.regions)
    for region in table.regions:
        first, behind = region.channels
        assert behind - first == len(region.landmarks)
        assert set(region.landmarks) == set(table.layout.regions[region.name])
        shown = table.channel_landmarks[first:behind]
        seen = table.layout.mirror[list(region.landmarks)] if region.mirrored else np.array(region.landmarks)
        np.testing.assert_array_equal(seen, shown)
    twins = {region.kind for region in table.regions if region.mirrored}
    assert twins == {f"left_{r.removeprefix('right_')}" for r in table.layout.regions if r.startswith("right_")}
    assert len(table.channel_landmarks) == table.channels
    np.testing.assert_array_equal(table.joining.argmax(axis=1), table.landmarks)
    assert (table.joining.sum(axis=1) == 1).all()


def test_a_right_region_without_a_left_twin_has_channels_of_its_own() -> None:
    table = {**TWO, "regions": {"right_all": [0], "left_all": [0, 1]}}
    made = RegionTable(parse(table, "x"))
    assert [region.mirrored for region in made.regions] == [False, False]
    assert made.channels == 3


def test_a_layout_without_regions_is_refused() -> None:
    with pytest.raises(LayoutError, match="has no regions"):
        RegionTable(parse({**TWO, "regions": {}}, "x"))


@given(scale=st.floats(20, 4000), angle=st.floats(-180, 180), x=st.floats(-500, 5000), blur=st.floats(0, 0.05))
@settings(max_examples=60, deadline=None)
def test_crops_hold_their_landmarks_upright_and_right_ones_mirrored(
    scale: float, angle: float, x: float, blur: float
) -> None:
    points = face(scale, angle, x)
    (transforms,) = place(points, np.full_like(points, blur * scale), IBUG, RULE)
    for region, transform in zip(IBUG.regions, transforms, strict=True):
        assert (np.linalg.det(transform[:, :2]) < 0) == region.mirrored
        inside = apply(invert(transform), points[0, list(region.landmarks)])
        low, high = inside.min(axis=0), inside.max(axis=0)
        np.testing.assert_allclose((low + high) / 2, RULE.size / 2 - 0.5, atol=1e-3)
        assert (high - low).max() <= RULE.size / RULE.margin * 1.001
        # upright: as in the diagram, or mirrored
        plain = IBUG.layout.diagram[list(region.landmarks)].astype(np.float64) * [-1 if region.mirrored else 1, 1]
        shape, truth = inside - inside.mean(axis=0), plain - plain.mean(axis=0)
        np.testing.assert_allclose(shape / np.abs(shape).max(), truth / np.abs(truth).max(), atol=2e-3)


def test_twins_see_the_same_of_a_symmetric_face() -> None:
    points = face()
    (transforms,) = place(points, np.full_like(points, 3.0), IBUG, RULE)
    views = {
        region.name: apply(invert(transform), points[0, list(region.landmarks)])
        for region, transform in zip(IBUG.regions, transforms, strict=True)
    }
    np.testing.assert_allclose(views["right_eye"], views["left_eye"], atol=0.05)
    np.testing.assert_allclose(views["right_jaw"], views["left_jaw"], atol=0.05)


def test_spread_and_hidden_sides_widen_a_crop() -> None:
    points = face()
    still = place(points, np.full_like(points, 1e-3), IBUG, RULE)
    unsure = place(points, np.full_like(points, 10.0), IBUG, RULE)
    wider = np.hypot(*np.moveaxis(unsure[0, :, :, 0], 1, 0)) - np.hypot(*np.moveaxis(still[0, :, :, 0], 1, 0))
    np.testing.assert_allclose(wider * RULE.size, 40, atol=0.1)
    hidden = points.copy()
    hidden[0, 17:22] = hidden[0, 36:42] = hidden[0, 36]  # the right eye and brow fall into one place
    (transforms,) = place(hidden, np.full_like(points, 1e-3), IBUG, RULE)
    side = np.hypot(*transforms[0, :, 0]) * RULE.size
    usual = np.hypot(*still[0, 0, :, 0]) * RULE.size
    assert 0.5 * usual < side < 0.8 * usual


def test_no_extent_at_all_still_makes_finite_crops() -> None:
    points = np.full((1, 68, 2), 7.0)
    assert np.isfinite(place(points, np.full_like(points, 0.1), IBUG, RULE)).all()


def test_torch_places_and_joins_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([face(200, 20), face(900, -70)]) + rng.normal(0, 3, (2, 68, 2))
    spread = rng.uniform(0.5, 5, (2, 68, 2))
    expected = place(points, spread, IBUG, RULE)
    found = place(torch.from_numpy(points), torch.from_numpy(spread), IBUG, RULE, torch)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-6)
    local, raw = rng.uniform(0, 90, (2, 70, 2)), rng.uniform(0.5, 3, (2, 70, 2))
    moved = transform_with_spread(expected[:, IBUG.owners], local, raw)
    other = transform_with_spread(found[:, IBUG.owners], torch.from_numpy(local), torch.from_numpy(raw), torch)
    bias, joining = rng.normal(size=70), IBUG.joining.astype(np.float64)
    joined = fuse(points, spread, *moved, bias, 0.7, joining)
    again = fuse(
        torch.from_numpy(points), torch.from_numpy(spread), *other, torch.from_numpy(bias), 0.7,
        torch.from_numpy(joining), torch,
    )  # fmt: skip
    for one, two in zip((*moved, *joined), (*other, *again), strict=True):
        np.testing.assert_allclose(two.numpy(), one, rtol=1e-9, atol=1e-6)


def test_readings_are_joined_by_inverse_variance() -> None:
    joining = np.array([[1, 0], [1, 0]], np.float64)  # two readings of landmark 0, none of landmark 1
    points, spread = np.array([[[0.0, 0.0], [5.0, 5.0]]]), np.full((1, 2, 2), 2.0)
    readings, raw = np.array([[[6.0, 6.0], [9.0, 9.0]]]), np.array([[[2.0, 2.0], [1.0, 1e6]]])
    fused, joined = fuse(points, spread, readings, raw, np.zeros(2), 1.0, joining)
    np.testing.assert_allclose(fused[0, 0], [(0 + 6 + 4 * 9) / 6, 3.0])  # weights 1, 1, 4; and 1, 1, nearly 0
    np.testing.assert_allclose(fused[0, 1], [5.0, 5.0])
    np.testing.assert_allclose(joined[0, 1], [2.0, 2.0])
    sharper, _ = fuse(points, spread, readings, raw, np.zeros(2), 2.0, joining)
    assert sharper[0, 0, 0] > fused[0, 0, 0]
    none, alone = fuse(points, spread, readings, raw, np.zeros(2), 1.0, joining, shares=np.zeros((1, 2)))
    np.testing.assert_allclose(none, points)
    np.testing.assert_allclose(alone, spread)
    full, _ = fuse(points, spread, readings, raw, np.zeros(2), 1.0, joining, shares=np.ones((1, 2)))
    np.testing.assert_allclose(full, fused)
    biased, _ = fuse(points, spread, readings, raw, np.array([0.0, 5.0]), 1.0, joining)
    assert 8.9 < biased[0, 0, 0] < 9


@given(st.floats(-180, 180), st.floats(0.1, 10), st.booleans())
def test_carried_spreads_are_turned_and_scaled(angle: float, scale: float, mirrored: bool) -> None:
    transform = crop_transform(np.array([3.0, 4.0, scale]), 1, angle) @ np.diag([-1.0 if mirrored else 1.0, 1, 1])
    points, spread = transform_with_spread(transform[None, None], np.array([[[1.0, 2.0]]]), np.array([[[0.3, 0.7]]]))
    np.testing.assert_allclose(points[0, 0], apply(transform, np.array([1.0, 2.0])))
    assert np.isclose((spread**2).sum(), scale**2 * (0.3**2 + 0.7**2))
