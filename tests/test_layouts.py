"""Layouts: the tables that come with the package, and what is said about a table with mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octamark.errors import LayoutError
from octamark.layouts import BUILTIN, Layout, layout

# name -> count, global points, inter-ocular and inter-pupil groups
KNOWN = {
    "ibug68": (68, range(17), ((36,), (45,)), (tuple(range(36, 42)), tuple(range(42, 48)))),
    "wflw98": (98, range(33), ((60,), (72,)), ((96,), (97,))),
    "cofw29": (29, [28], ((8,), (9,)), ((16,), (17,))),
    "aflw19": (19, [18], ((6,), (11,)), ((7,), (10,))),
    "webcaricature17": (17, range(4), ((8,), (11,)), ((8, 9), (10, 11))),
}
# name -> pairs that change places in a mirrored picture; not all of those of the two large layouts
MIRRORED = {
    "ibug68": "0-16 7-9 8-8 17-26 21-22 30-30 31-35 36-45 41-46 48-54 59-55 57-57 60-64 67-65",
    "wflw98": "0-32 16-16 33-46 37-42 38-50 41-47 54-54 55-59 60-72 64-68 65-75 67-73 76-82 83-87 88-92 95-93 96-97",
    "cofw29": "0-1 2-3 4-6 5-7 8-9 10-11 12-14 13-15 16-17 18-19 20-20 21-21 22-23 24-24 25-25 26-26 27-27 28-28",
    "aflw19": "0-5 1-4 2-3 6-11 7-10 8-9 12-14 13-13 15-17 16-16 18-18",
    "webcaricature17": "0-0 1-3 2-2 4-7 5-6 8-11 9-10 12-12 13-13 14-16 15-15",
}
TABLE = """
name = "tiny"
title = "two eyes and a chin"
count = 3
global = [2]
edges = [[0, 1]]
mirror = [[0, 1]]
diagram = [[0.2, 0.3], [0.8, 0.3], [0.5, 0.9]]
parts = { right_eye = [0], left_eye = [1], chin = [2] }
normalisers = { inter-ocular = [[0], [1]] }
regions = { eyes = ["0-1"] }
"""


def other_side(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"right": f"left_{rest}", "left": f"right_{rest}"}.get(side, name)


@pytest.fixture(params=BUILTIN)
def built(request: pytest.FixtureRequest) -> Layout:
    return layout(request.param)


def test_known_facts(built: Layout) -> None:
    count, outline, ocular, pupil = KNOWN[built.name]
    assert built.count == count == len(built.point_names) == len(set(built.point_names))
    assert built.outline == tuple(outline)
    assert dict(built.normalisers) == {"inter-ocular": ocular, "inter-pupil": pupil}


def test_mirror(built: Layout) -> None:
    assert np.array_equal(built.mirror[built.mirror], np.arange(built.count))
    for first, second in (map(int, pair.split("-")) for pair in MIRRORED[built.name].split()):
        assert built.mirror[first] == second
    for groups in (built.parts, built.regions):
        for name, indices in groups.items():
            assert set(built.mirror[list(indices)]) == set(groups[other_side(name)]), name


def test_edges_and_regions(built: Layout) -> None:
    assert built.edges.min() >= 0
    assert built.edges.max() < built.count
    lines = {frozenset(edge) for edge in built.edges.tolist()}
    assert all(len(line) == 2 for line in lines)
    assert lines == {frozenset(edge) for edge in built.mirror[built.edges].tolist()}
    assert {index for region in built.regions.values() for index in region} == set(range(built.count))


def test_diagram(built: Layout) -> None:
    mirrored = (built.diagram * [-1, 1] + [1, 0])[built.mirror]
    np.testing.assert_allclose(mirrored, built.diagram, atol=1e-3)
    assert built.diagram.min() >= 0
    assert built.diagram.max() <= 1
    gaps = np.linalg.norm(built.diagram[:, None] - built.diagram, axis=-1) + np.eye(built.count)
    assert gaps.min() > 0.02
    for name in built.parts:
        if name.startswith("right_"):
            right, left = (built.diagram[list(built.part(side))].mean(axis=0) for side in (name, other_side(name)))
            assert right[0] < left[0], name
    brows, eyes, mouth = ([i for n in built.parts if w in n for i in built.part(n)] for w in ("brow", "eye", "mouth"))
    heights = [built.diagram[indices, 1].mean() for indices in (brows, eyes, list(built.part("nose")), mouth)]
    assert heights == sorted(heights)


def test_distance(built: Layout) -> None:
    points = built.diagram * 100.0
    first, second = (points[list(group)].mean(axis=0) for group in built.normalisers["inter-pupil"])
    assert built.distance(points, "inter-pupil") == pytest.approx(np.hypot(*(first - second)))
    width, height = np.ptp(points, axis=0)
    assert built.distance(points[None], "box") == pytest.approx([np.sqrt(width * height)])
    assert built.distance(points, "diagonal") == pytest.approx(np.hypot(width, height))
    with pytest.raises(LayoutError, match=f"{built.name} has no normaliser 'nose'; .*inter-pupil, box, diagonal"):
        built.distance(points, "nose")
    with pytest.raises(LayoutError, match=f"{built.name} has no part 'tail'; parts: .*right_eye"):
        built.part("tail")


def test_own_table(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TABLE, encoding="utf-8")
    tiny = layout(str(path))
    assert tiny.point_names == ("right_eye", "left_eye", "chin")
    assert tiny.regions == {"eyes": (0, 1)}
    assert tiny.mirror.tolist() == [1, 0, 2]
    assert layout(tiny) is tiny


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("count", "colour = 1\ncount", "unknown keys: colour; a layout has count, diagram, edges, global, mirror"),
        ('name = "tiny"', "", "missing keys: name; a layout has count, diagram, edges"),
        ("chin = [2]", "chin = [1, 2]", "each of the 3 points exactly once"),
        ("chin = [2]", "chin = []", "each of the 3 points exactly once"),
        ("chin = [2]", "chin = [3]", "each of the 3 points exactly once"),
        ("edges = [[0, 1]]", "edges = [[0, 3]]", "between 0 and 2"),
        ("global = [2]", "global = [-1]", "between 0 and 2"),
        ("mirror = [[0, 1]]", "mirror = [[0, 3]]", "between 0 and 2"),
        ("inter-ocular = [[0], [1]]", "inter-ocular = [[0], [3]]", "between 0 and 2"),
        ('eyes = ["0-1"]', 'eyes = ["1-3"]', "between 0 and 2"),
        ("mirror = [[0, 1]]", "mirror = [[0, 1], [1, 2]]", "each point in at most one pair"),
        ("mirror = [[0, 1]]", "mirror = [[0, 1, 2]]", "mirror must be pairs"),
        (", [0.5, 0.9]", "", "diagram must hold 3 points, finite; it holds 2"),
        ("count = 3", 'count = "three"', "a whole number of points"),
        ("count = 3", "count = = 3", "not a TOML table"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    assert TABLE.count(right) == 1
    path = tmp_path / "mine.toml"
    path.write_text(TABLE.replace(right, wrong), encoding="utf-8")
    with pytest.raises(LayoutError) as caught:
        layout(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_unknown_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=f"unknown layout 'ibug67'; known: {', '.join(BUILTIN)}"):
        layout("ibug67")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    for name, said in (("missing.toml", "cannot be read"), ("bytes.toml", "not a TOML table")):
        with pytest.raises(LayoutError, match=f"{name}: {said}"):
            layout(tmp_path / name)
