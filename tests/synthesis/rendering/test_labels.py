"""Labels: stored and read, landmarks of a layout, the visible contour, hidden points, brows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octamark.errors import DataError, LayoutError
from octamark.layouts import layout, parse
from octamark.synthesis.rendering.camera import looking_at
from octamark.synthesis.rendering.labels import Labels, brow_edges, equally_spaced, landmarks_of

# Half an ellipsoid in place of a face: 8 wide and high, 10 deep, its rim at z = 1 in place of the jaw.
_TURN, _DEPTH = (grid.ravel() for grid in np.meshgrid(np.arange(0, 360, 3.0), np.linspace(1, 9.9, 24)))
_RADIUS = 8 * np.sqrt(1 - (_DEPTH / 10) ** 2)
MEAN = np.column_stack([_RADIUS * np.cos(np.radians(_TURN)), _RADIUS * np.sin(np.radians(_TURN)), _DEPTH])
RIM_LEFT, RIM_RIGHT, RIM_BELOW, NOSE = 0, 60, 90, len(MEAN) - 1
TABLE = {
    "name": "small", "points": ["right_rim", "chin", "left_rim", "tip", "right_brow", "left_brow"],
    "parts": {"outline": [0, 1, 2], "tip": [3], "brows": [4, 5]},
    "vertices": [
        RIM_RIGHT, RIM_BELOW, [RIM_LEFT], NOSE, {"brow": "right", "along": 0, "height": 1},
        {"brow": "left", "along": 0.5},
    ],
}  # fmt: skip


def labels(yaw: float = 0.0, roll: float = 0.0) -> Labels:
    camera = looking_at(MEAN, yaw, 0, roll, 200, 200, 1.2, (0, 0))
    points, depth = camera.project(MEAN)
    edges = np.zeros((2, 9, 2, 2))
    edges[:, :, 0], edges[:, :, 1] = [10, 30], [10, 20]
    edges[:, :, :, 0] += np.arange(9)[:, None]
    behind = np.zeros((2, 9, 2, 2))
    behind[0, 0] = [[0, 1], [0, 1]]  # right brow, outer end: behind a thing
    return Labels(
        200, points, depth, np.zeros(len(MEAN)), np.zeros(len(MEAN)), np.arange(len(MEAN)), edges, behind,
        {"position": camera.position.tolist(), "right": camera.right.tolist(), "up": camera.up.tolist(),
         "forward": camera.forward.tolist(), "angle": camera.angle}, {"seed": 5},
    )  # fmt: skip


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    before = labels(30)
    before.write(tmp_path / "5.npz")
    after = Labels.read(tmp_path / "5.npz")
    assert np.abs(after.points - before.points).max() <= 0.5 / 64
    assert np.abs(after.depth - before.depth).max() < 0.1
    assert (after.person, after.camera, after.size) == ({"seed": 5}, before.camera, 200)
    np.testing.assert_array_equal(after.vertices, before.vertices)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_holds_no_labels_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "7.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"7\.npz: no labels of a rendered picture"):
        Labels.read(file)


def test_points_lie_on_their_vertices_and_brows() -> None:
    stored, small = labels(), parse(TABLE, "small.toml")
    found = landmarks_of(stored, small, MEAN)
    np.testing.assert_allclose(found.skin[3], stored.points[NOSE], atol=1e-4)
    np.testing.assert_allclose(found.landmarks[4], [10, 20])  # outer end, upper edge
    np.testing.assert_allclose(found.landmarks[5], [14, 25])  # the middle of both
    assert found.behind_thing.tolist() == [False, False, False, False, True, False]
    assert not found.behind_head.any()
    assert not found.outside.any()


@pytest.mark.parametrize("roll", [0.0, 40.0])
def test_the_outline_follows_the_visible_contour_on_the_averted_side(roll: float) -> None:
    small = parse(TABLE, "small.toml")
    frontal = landmarks_of(labels(0, roll), small, MEAN)
    assert np.abs(frontal.landmarks - frontal.skin).max() < 1.0
    stored = labels(50, roll)  # to the person's left: the left rim turns away
    turned = landmarks_of(stored, small, MEAN)
    np.testing.assert_allclose(turned.landmarks[0], turned.skin[0], atol=1.0)  # the near side stays
    sideward = np.array([np.cos(np.radians(roll)), -np.sin(np.radians(roll))])
    reach = stored.points @ sideward
    assert turned.landmarks[2] @ sideward > reach.max() - 1.0  # where the whole surface ends in the picture
    assert turned.skin[2] @ sideward < reach.max() - 15.0


def test_points_of_a_chain_are_equally_far_apart_on_its_curve() -> None:
    """Places of a quarter of a circle, crowded at its end; a third column is taken along."""
    turn = np.linspace(0, 1, 9) ** 2 * np.pi / 2
    crowded = np.column_stack([100 * np.cos(turn), 100 * np.sin(turn), turn])
    spaced = equally_spaced(crowded)
    even = np.linspace(0, np.pi / 2, 9)
    np.testing.assert_allclose(spaced, np.column_stack([100 * np.cos(even), 100 * np.sin(even), even]), atol=1.0)
    np.testing.assert_allclose(spaced[[0, -1]], crowded[[0, -1]], atol=1e-9)
    np.testing.assert_allclose(equally_spaced(np.ones((4, 2))), 1.0, atol=1e-6)  # all in one place


@pytest.mark.parametrize("yaw", [0.0, 40.0])
def test_a_spaced_outline_is_equally_spaced_in_the_picture(yaw: float) -> None:
    outline = [0, 110, 105, 90]  # vertices of the rim, unequally far apart
    table = {"name": "rim", "count": 4, "mirror": [], "parts": {"outline": [0, 1, 2, 3]}, "vertices": outline}
    uneven, even = (
        landmarks_of(labels(yaw), parse({**table, **more}, "x"), MEAN).landmarks for more in ({}, {"spaced": ["0-3"]})
    )
    steps = [np.linalg.norm(np.diff(points, axis=0), axis=1) for points in (uneven, even)]
    assert np.ptp(steps[0]) > 0.3 * steps[0].mean()
    assert np.ptp(steps[1]) < 0.05 * steps[1].mean()
    np.testing.assert_allclose(even[[0, 3]], uneven[[0, 3]], atol=1e-3)


def test_points_outside_the_picture_are_told() -> None:
    stored = labels()
    moved = stored.points.copy()
    moved[NOSE] = [200, 5]
    assert landmarks_of(replace(stored, points=moved), parse(TABLE, "x"), MEAN).outside.tolist() == [False] * 3 + [
        True, False, False,
    ]  # fmt: skip


def test_a_layout_without_vertices_or_with_a_foreign_one_is_refused() -> None:
    with pytest.raises(LayoutError, match="aflw19 does not say where its points lie"):
        landmarks_of(labels(), layout("aflw19"), MEAN)
    with pytest.raises(LayoutError, match="point 3 lies on vertex 99999"):
        landmarks_of(labels(), parse({**TABLE, "vertices": [*TABLE["vertices"][:3], 99999, 1, 1]}, "x"), MEAN)


def test_a_visible_contour_is_not_hidden_by_rays_that_graze_it() -> None:
    """The vertex that lies farthest out just faces away; the skin beside it is seen."""
    stored = labels(50)
    camera = np.array(stored.camera["position"])
    normals = MEAN / [8**2, 8**2, 10**2]
    facing = ((camera - MEAN) * normals).sum(axis=1) / np.linalg.norm(normals, axis=1) / np.linalg.norm(camera)
    small = parse(TABLE, "small.toml")
    for limit, hidden in ((0.0, False), (0.05, False), (0.5, True)):
        seen = landmarks_of(replace(stored, behind_head=(facing < limit).astype(float)), small, MEAN)
        assert bool(seen.behind_head[2]) is hidden, limit
    rim_alone = (np.arange(len(MEAN)) == RIM_BELOW).astype(float)
    assert not landmarks_of(replace(labels(), behind_head=rim_alone), small, MEAN).behind_head[1]


def test_a_place_is_seen_where_skin_beside_the_hidden_spot_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold hides one vertex; a hand half of the skin around it, or all; and a place may lie outside."""
    stored, small = labels(), parse(TABLE, "small.toml")
    apart = np.linalg.norm(MEAN - MEAN[NOSE], axis=1)
    nearest = np.sort(apart)[[1, 4]]
    monkeypatch.setattr("octamark.synthesis.rendering.labels.SEEN_NEARBY", float(nearest[1]) + 1e-6)
    near = apart <= nearest[1] + 1e-6

    def visible(**changes: np.ndarray) -> bool:
        return bool(landmarks_of(replace(stored, **changes), small, MEAN).visible[3])

    spot = (np.arange(len(MEAN)) == NOSE).astype(float)
    fold = landmarks_of(replace(stored, behind_head=spot), small, MEAN)
    assert fold.behind_head[3]
    assert fold.visible[3]
    assert visible()
    assert visible(behind_thing=spot)
    assert not visible(behind_head=near.astype(float))
    assert not visible(behind_thing=near.astype(float))
    outside = stored.points.copy()
    outside[NOSE] = [-5, 50]
    assert not visible(points=outside)


def test_brow_edges_enclose_the_hairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, 4000)
    hairs = np.column_stack([x, 6 + 0.1 * x + rng.uniform(-0.4, 0.4, 4000), np.full(4000, 9.0)])
    for sign in (-1, 1):
        edges = brow_edges(hairs * [sign, 1, 1])
        np.testing.assert_allclose(edges[:, 0, 0], sign * np.linspace(5, 1, 9), atol=0.1)
        np.testing.assert_allclose(edges[:, 1, 1] - edges[:, 0, 1], 0.8 * 0.9, atol=0.1)


def test_brow_edges_follow_a_brow_that_bends_down_and_back() -> None:
    """The outer end lies where the hairs end, not in the middle of the last ones; stations are equally far apart."""
    rng = np.random.default_rng(0)

    def curve(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.column_stack([x, 7 - 0.12 * (x - 3) ** 2, 10 - 0.1 * x**2])

    hairs = curve(rng.uniform(1, 6, 4000)) + rng.uniform(-1, 1, (4000, 1)) * [0, 0.3, -0.1]
    edges = brow_edges(hairs)
    middle = edges.mean(axis=1)
    assert np.linalg.norm(middle[0] - curve(np.array([6.0]))[0]) < 0.1
    assert np.linalg.norm(middle[-1] - curve(np.array([1.0]))[0]) < 0.1
    steps = np.linalg.norm(np.diff(middle, axis=0), axis=1)
    assert steps.max() < 1.1 * steps.min()
    np.testing.assert_allclose(edges[:, 1] - edges[:, 0], [[0, 0.54, -0.18]] * 9, atol=0.08)


def test_shipped_layouts_lie_on_the_head_symmetrically() -> None:
    """Mirror partners lie on mirrored places of a brow; points with vertices have one entry for each point."""
    for name in ("ibug68", "wflw98", "five"):
        points = layout(name)
        assert len(points.places) == points.count
        for index, place in enumerate(points.places):
            partner = points.places[points.mirror[index]]
            if place.brow is not None:
                assert (partner.along, partner.height) == (place.along, place.height)
                assert {place.brow, partner.brow} == {"right", "left"}
            else:
                assert len(partner.vertices) == len(place.vertices)
