"""Flags of hidden points: Mitsuba's rays against a calculation, and a rendered head against its own depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octamark.layouts import layout
from octamark.synthesis.rendering.assets import Assets
from octamark.synthesis.rendering.labels import landmarks_of
from octamark.synthesis.rendering.pieces import Piece, plain


def stopped_by_calculation(origin: np.ndarray, targets: np.ndarray, mesh: Piece, near: float) -> np.ndarray:
    """Whether a triangle crosses each segment more than ``near`` before its end (T. Moeller and B. Trumbore, 1997)."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]] for k in range(3))
    out = []
    for target in targets:
        length = np.linalg.norm(target - origin)
        way = (target - origin) / length
        across = np.cross(way, c - a)
        scale = ((b - a) * across).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = ((origin - a) * across).sum(axis=1) / scale
            other = np.cross(origin - a, b - a)
            v, t = (other @ way) / scale, ((c - a) * other).sum(axis=1) / scale
            out.append(bool(((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < length - near)).any()))
    return np.array(out)


def test_rays_stop_where_the_calculation_says() -> None:
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    from octamark.errors import ConfigError
    from octamark.synthesis.rendering.scene import load_mitsuba, stopped

    try:
        mitsuba = load_mitsuba()
    except ConfigError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(1)
    vertices = rng.uniform(-3, 3, (30, 3)) + np.array([0, 0, 6])
    mesh = Piece("some", "thing", vertices, rng.integers(0, 30, (40, 3)), plain((0.5, 0.5, 0.5)))
    origin, targets = np.array([0.2, 0.1, 20.0]), rng.uniform(-4, 4, (300, 3))
    found = stopped(mitsuba, origin, targets[:, None], [mesh], 0.2)
    wanted = stopped_by_calculation(origin, targets, mesh, 0.2)
    assert 0.2 < wanted.mean() < 0.9
    assert (found == wanted).mean() > 0.99  # rays through an edge may go either way
    assert not stopped(mitsuba, origin, targets[:, None], [], 0.2).any()
    two = np.stack([targets, np.broadcast_to(origin - np.array([0, 0, 0.1]), targets.shape)], axis=1)
    np.testing.assert_allclose(
        stopped(mitsuba, origin, two, [mesh], 0.05), stopped(mitsuba, origin, targets[:, None], [mesh], 0.05) / 2
    )


@pytest.mark.slow
def test_a_seed_gives_a_face_with_right_flags_twice(rendering_assets: Path) -> None:
    from octamark.synthesis.rendering.scene import Renderer
    from octamark.synthesis.rendering.views import view

    renderer = Renderer(Assets(rendering_assets), size=64, samples=4)
    seed = 12
    first, second = renderer.render(seed), renderer.render(seed)
    assert first.picture.shape == (64, 64, 3)
    assert first.picture.std() > 10
    assert np.abs(first.picture.astype(int) - second.picture.astype(int)).mean() < 0.5
    np.testing.assert_array_equal(first.labels.points, second.labels.points)
    points = layout("ibug68")
    side = view(renderer, "left")
    found = landmarks_of(side.labels, points, renderer.head.mean)
    assert found.behind_head[[36, 37, 41]].all()  # the right eye, from the left
    assert not found.behind_head[[45, 44, 46, 54, 30, 14]].any()
    assert not found.behind_thing[[45, 54, 30]].any()
    front = view(renderer, "front")
    found = landmarks_of(front.labels, points, renderer.head.mean)
    assert not found.behind_head[17:].any()
    shape = found.landmarks - found.landmarks.mean(axis=0)
    mirrored = shape[points.mirror] * [-1, 1]
    width = np.linalg.norm(shape[45] - shape[36])
    assert np.abs(shape - mirrored).max() < 0.06 * width


@pytest.mark.slow
def test_a_worker_process_renders_a_seed(rendering_assets: Path, tmp_path: Path) -> None:
    from octamark.synthesis.rendering.farm import render_seeds
    from octamark.synthesis.rendering.folder import RenderFolder
    from octamark.synthesis.rendering.labels import Labels

    folder = RenderFolder(tmp_path)
    folder.prepare({}, Assets(rendering_assets).mean)
    assert render_seeds(folder, rendering_assets, [3], size=48, samples=2, workers=1) == {}
    assert folder.finished() == [3]
    labels = Labels.read(folder.labels(3))
    assert labels.person["seed"] == 3
    assert np.isfinite(landmarks_of(labels, layout("wflw98"), folder.mean()).landmarks).all()
