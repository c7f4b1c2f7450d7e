"""Drawings of what rays meet: areas, lines where surfaces end, and screen tone."""

from __future__ import annotations

import numpy as np
import pytest

from octamark.synthesis.rendering.ink import FINE, GROUPS, Seen, drawing, sample_style

SIDE = 64 * FINE
STYLE = {
    **sample_style(np.random.default_rng(0)),
    "kind": "ink", "paper": [1.0, 1.0, 1.0], "ink": [0.0, 0.0, 0.0], "light": [0.0, 0.0], "shade": "none",
    "shade_below": -0.5, "clothes": "tone", "hair": "black", "mouth": "black", "width": 2, "lid": 3, "blur": 0.0,
    "ground": "paper", "jump": 0.5, "crease": 0.8, "under": 0.9, "nose": 1.0,
}  # fmt: skip


def view(depth_step: float = 0.0) -> Seen:
    """A face of flat skin with a square eye, before nothing; its right half may lie behind its left half."""
    group = np.zeros((SIDE, SIDE), np.int64)
    group[20:108, 20:108] = GROUPS.index("skin")
    group[40:60, 40:60] = GROUPS.index("eye")
    depth = np.where(group > 0, 50.0, 0.0).astype(np.float32)
    depth[20:108, 80:108] += depth_step
    normal = np.zeros((SIDE, SIDE, 3), np.float32)
    normal[..., 2] = 1.0
    colour = np.full((SIDE, SIDE, 3), 0.3, np.float32)
    return Seen(group, depth, normal, colour, np.zeros((SIDE, SIDE, 3), np.float32))


def drawn(seen: Seen, **style: object) -> np.ndarray:
    white = np.ones((64, 64, 3), np.float32)
    return drawing(seen, {**STYLE, **style}, white, np.random.default_rng(0)).astype(int)


def test_lines_are_where_surfaces_meet_and_nowhere_else() -> None:
    picture = drawn(view())
    assert picture.shape == (64, 64, 3)
    assert picture[10, 20:50].max() < 160  # the outline
    assert picture[20, 22:28].max() < 120  # the upper lid
    assert picture[12:18, 14:50].min() == 255  # skin
    assert picture[40:50, 14:50].min() == 255
    assert picture[:8].min() == 255


def test_a_step_in_depth_is_a_line() -> None:
    assert drawn(view(0.3))[25:50, 36:44].min() == 255
    assert drawn(view(1.0))[25:50, 36:44].min() < 120


def test_a_crease_of_the_skin_is_a_line_and_a_gentle_bend_is_not() -> None:
    for angle, line in ((20.0, False), (80.0, True)):
        seen = view()
        seen.normal[:, 90:] = [np.sin(np.radians(angle)), 0.0, np.cos(np.radians(angle))]
        row = drawn(seen)[30:50, 42:48]
        assert (row.min() < 120) == line


def test_the_lips_meet_in_a_line_as_wide_as_the_mouth() -> None:
    seen = view()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    seen.rest[..., 0] = (columns - 64) / 14
    seen.rest[..., 1], seen.rest[..., 2] = -3.34 + (86.5 - rows) / 14, 11.0
    picture = drawn(seen)
    assert picture[42:45, 30:34].min(axis=0).max() < 160
    assert picture[38:48, 12:14].min() == 255  # beyond the corners
    assert picture[47:52, 20:44].min() == 255


def test_shadows_are_flat_toned_or_hatched() -> None:
    seen = view()
    seen.normal[70:100] = [0.0, -0.8, 0.6]
    lit = drawn(seen, light=[0.0, 2.0])[38:48, 14:50].mean()
    for shade in ("flat", "tone", "hatching"):
        dark = drawn(seen, light=[0.0, 2.0], shade=shade, shade_below=0.3)
        assert dark[38:48, 14:50].mean() < 0.85 * lit
        assert dark[40:50, 55:].min() == 255  # nothing beside the face
        levels = len(np.unique(dark[38:48, 14:50, 0]))
        assert levels < 4 if shade == "flat" else levels > 4


def test_flat_colours_are_those_of_the_person() -> None:
    seen = view()
    seen.colour[seen.of("skin")] = [0.6, 0.2, 0.1]
    picture = drawn(seen, kind="cel", bright=1.0)
    wanted = 255 * np.array([0.6, 0.2, 0.1]) ** (1 / 2.2)
    np.testing.assert_allclose(picture[45, 30], wanted, atol=2)


@pytest.mark.parametrize("mode", ["white", "black", "tone"])
def test_clothes_and_hair_are_printed_white_black_or_in_tone(mode: str) -> None:
    seen = view()
    for name in ("clothes", "hair"):
        seen.group[64:100, 30:100] = GROUPS.index(name)
        area = drawn(seen, **{name: mode}, hair_lines=5.0, shine=-2.0)[36:46, 20:46]
        share = {"white": 0.0, "black": 1.0, "tone": 0.35}[mode]
        assert area.mean() / 255 == pytest.approx(1 - share, abs=0.12)


def test_styles_differ_and_hold_plain_values() -> None:
    import json

    found = [sample_style(np.random.default_rng(seed)) for seed in range(300)]
    assert all(json.loads(json.dumps(style)) == style for style in found)
    assert 0.3 < np.mean([style["kind"] == "cel" for style in found]) < 0.5
    for style in found[:60]:
        seen = view(1.0)
        picture = drawing(seen, style, np.full((64, 64, 3), 0.5, np.float32), np.random.default_rng(1))
        assert picture.std() > 3
