"""Layouts: the tables that come with the package, and what is said about a table with mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octamark.errors import LayoutError
from octamark.layouts import BUILTIN, Layout, Opening, convert, dumps, layout, loads

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
eyes = {}
"""


EYES = "{ right = { corners = [0, 1], lids = [[0, 1]] }, left = { corners = [1, 0], lids = [[1, 0]] } }"
# name -> corners and lids of the right eye
RIGHT_EYE = {
    "ibug68": ((36, 39), ((37, 41), (38, 40))),
    "wflw98": ((60, 64), ((61, 67), (62, 66), (63, 65))),
    "cofw29": ((8, 10), ((12, 13),)),
    "aflw19": None,
    "webcaricature17": None,
}


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


def test_eyes(built: Layout) -> None:
    known = RIGHT_EYE[built.name]
    if known is None:
        assert built.eyes == {}
        return
    right, left = built.eyes["right"], built.eyes["left"]
    assert (right.corners, right.pairs) == known
    for side, eye in built.eyes.items():
        assert {*eye.corners, *(index for pair in eye.pairs for index in pair)} <= set(built.part(f"{side}_eye"))
        outer, inner = built.diagram[list(eye.corners), 0]
        assert abs(outer - 0.5) > abs(inner - 0.5)
        for upper, lower in eye.pairs:
            assert built.diagram[upper, 1] < built.diagram[lower, 1]
    mirrored = {frozenset(built.mirror[list(pair)].tolist()) for pair in right.pairs}
    assert mirrored == {frozenset(pair) for pair in left.pairs}
    assert built.mirror[list(right.corners)].tolist() == list(left.corners)


def test_groups(built: Layout) -> None:
    assert sorted(index for indices in built.groups.values() for index in indices) == list(range(built.count))
    known = {
        "ibug68": "outline brows nose eyes mouth",
        "wflw98": "outline brows nose eyes mouth pupils",
        "cofw29": "brows eyes pupils nose mouth chin",
        "aflw19": "brows eyes pupils nose mouth chin",
        "webcaricature17": "outline brows eyes nose mouth",
    }
    assert list(built.groups) == known[built.name].split()
    assert built.groups["eyes"] == built.part("right_eye") + built.part("left_eye")


def test_conversion() -> None:
    wflw, ibug = layout("wflw98"), layout("ibug68")
    points, approximate = convert(np.stack([wflw.diagram, wflw.diagram + 1]), wflw, ibug)
    assert approximate
    assert points.shape == (2, 68, 2)
    # the same face in both conventions: no point further off than 3 % of its height
    assert np.abs(points[0] - ibug.diagram).max() < 0.03
    numbers = np.repeat(np.arange(98.0)[:, None], 2, axis=1)
    taken = convert(numbers, wflw, ibug)[0][:, 0].astype(int)
    assert len(set(taken)) == 68
    assert np.array_equal(wflw.mirror[taken], taken[ibug.mirror])
    assert taken[[8, 30, 36, 45, 48, 54]].tolist() == [16, 54, 60, 72, 76, 82]
    same, approximate = convert(ibug.diagram, ibug, ibug)
    assert not approximate
    assert np.array_equal(same, ibug.diagram)
    with pytest.raises(LayoutError, match="no conversion from ibug68 to wflw98; known: wflw98 to ibug68"):
        convert(ibug.diagram, ibug, wflw)
    with pytest.raises(LayoutError, match="layout wflw98 has 98 points"):
        convert(ibug.diagram, wflw, ibug)


def test_own_table(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TABLE, encoding="utf-8")
    tiny = layout(str(path))
    assert tiny.point_names == ("right_eye", "left_eye", "chin")
    assert tiny.regions == {"eyes": (0, 1)}
    assert tiny.mirror.tolist() == [1, 0, 2]
    assert layout(tiny) is tiny
    assert tiny.eyes == {}
    assert tiny.groups == {"eyes": (0, 1), "chin": (2,)}
    path.write_text(TABLE.replace("eyes = {}", f"eyes = {EYES}"), encoding="utf-8")
    assert layout(path).eyes == {"right": Opening((0, 1), ((0, 1),)), "left": Opening((1, 0), ((1, 0),))}


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "count",
            "colour = 1\ncount",
            "unknown keys: colour; a layout has name, title, count, points, parts, edges",
        ),
        ('name = "tiny"', "", "missing keys: name; a layout has name, title, count"),
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
        (
            "eyes = {}",
            "eyes = { middle = { corners = [0, 1], lids = [[0, 1]] } }",
            "eyes middle: right and left, or none",
        ),
        ("eyes = {}", "eyes = { right = { corners = [0, 1], lids = [] } }", "an eye has corners and lids"),
        ("eyes = {}", "eyes = { right = { corners = [0], lids = [[0, 1]] } }", "a value of the wrong form"),
        ("eyes = {}", "eyes = { right = { lids = [[0, 1]] } }", "an eye has corners and lids, found lids (1 pairs)"),
        ("eyes = {}", f"eyes = {EYES}".replace("[0, 1]]", "[0, 3]]"), "between 0 and 2"),
        ("count = 3", "", "missing keys: points (names) or count"),
        ("mirror = [[0, 1]]", "", "mirror is missing: the pairs of points that change places"),
        ("count = 3", 'points = ["a", "b"]\ncount = 3', "count is 3, but points lists 2 names"),
        ("count = 3", 'points = ["a", "b", "a"]', "points: each name once, a more than once"),
        ("count = 3", 'points = ["a", "b", "1-2"]', "a list of names of letters, digits and _, found '1-2'"),
        ("edges = [[0, 1]]", 'edges = [["chin", 1]]', "'chin' is no index, no range such as '5-8' and no name"),
        ("edges = [[0, 1]]", "edges = [[0, 1.5]]", "1.5 is no index"),
        ('name = "tiny"', 'name = "ibug68"', "ibug68 is a layout of this package with other values of count, "),
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


def same(first: Layout, second: Layout) -> None:
    """Every field is equal, arrays to the last bit."""
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            np.testing.assert_array_equal(value, other, err_msg=name)
        else:
            assert value == other, name


def test_text_and_back(built: Layout) -> None:
    text = dumps(built)
    assert loads(text, "a model") is built
    same(loads(text.replace(f'"{built.name}"', '"mine"'), "a model"), replace(built, name="mine"))


def test_a_layout_of_ones_own_needs_names_only(tmp_path: Path) -> None:
    names = ["tip", "left_wing", "right_wing", "left_eye_0", "left_eye_1", "right_eye_0", "right_eye_1"]
    path = tmp_path / "nose.toml"
    path.write_text(f'name = "nose7"\npoints = {names}\n')
    nose = layout(path)
    assert nose.point_names == tuple(names)
    assert nose.mirror.tolist() == [0, 2, 1, 5, 6, 3, 4]
    assert nose.parts == {"tip": (0,), "left_wing": (1,), "right_wing": (2,), "left_eye": (3, 4), "right_eye": (5, 6)}
    assert nose.part("eyes") == (3, 4, 5, 6)
    assert nose.normalisers == {"inter-pupil": ((5, 6), (3, 4))}
    assert (nose.title, nose.outline, nose.eyes, nose.mouth, nose.regions) == ("7 points", (), {}, None, {})
    assert not nose.has_diagram
    gaps = np.linalg.norm(nose.diagram[:, None] - nose.diagram, axis=-1) + np.eye(7)
    assert gaps.min() > 0.2
    assert nose.diagram.min() > 0
    assert nose.diagram.max() < 1
    again = loads(dumps(nose))
    same(again, nose)
    with pytest.raises(LayoutError, match=r"nose7 has no part 'ear'; parts: tip, .*; groups: wings, eyes"):
        nose.part("ear")
    drawn = nose.with_diagram(np.arange(14.0).reshape(7, 2) * 50 + 20)
    assert drawn.has_diagram
    np.testing.assert_allclose(drawn.diagram[[0, -1]], [[0.05, 0.05], [0.95, 0.95]], atol=1e-6)
    same(loads(dumps(drawn)), drawn)
    for wrong in (np.zeros((7, 2)), np.ones((6, 2)), np.full((7, 2), np.nan)):
        with pytest.raises(LayoutError, match=r"layout nose7: a diagram is \(7, 2\) finite points"):
            nose.with_diagram(wrong)
    with pytest.raises(LayoutError, match="point left_wing has no partner right_wing; write mirror"):
        loads('name = "one"\npoints = ["tip", "left_wing"]')
    assert loads('name = "two"\ncount = 2\nmirror = [[0, 1]]').point_names == ("point_0", "point_1")


def test_names_stand_for_indices() -> None:
    text = """
    name = "named"
    points = ["right_corner", "left_corner", "upper", "lower"]
    edges = [["right_corner", "upper", "left_corner", "lower", "right_corner"]]
    mouth = { corners = ["right_corner", "left_corner"], lips = [["upper", "lower"]] }
    """
    named = loads(text)
    assert named.edges.tolist() == [[0, 2], [2, 1], [1, 3], [3, 0]]
    assert named.mouth == Opening((0, 1), ((2, 3),))


def test_the_name_of_a_builtin_means_the_builtin() -> None:
    ibug = layout("ibug68")
    assert loads('name = "ibug68"\ncount = 68\nmirror = [' + text_of_pairs(ibug) + "]") is ibug
    assert loads(dumps(replace(ibug, title="another title", edges=ibug.edges[:3]))) is ibug
    turned = replace(ibug, mirror=np.arange(68))
    for changed, key in (
        (turned, "mirror"),
        (replace(ibug, point_names=tuple(f"p{i}" for i in range(68))), "points"),
        (replace(ibug, regions={}), "regions"),
        (replace(ibug, eyes={}, mouth=Opening((60, 64), ((62, 66),))), "eyes, mouth"),
    ):
        with pytest.raises(
            LayoutError, match=f"model.onnx: ibug68 is a layout of this package with other values of {key}"
        ):
            loads(dumps(changed), "model.onnx")
    with pytest.raises(LayoutError, match="other values of count, mirror"):
        loads('name = "ibug68"\ncount = 5\nmirror = []')


def text_of_pairs(one: Layout) -> str:
    return ", ".join(f"[{a}, {b}]" for a, b in enumerate(one.mirror.tolist()) if a < b)


def test_unknown_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=f"unknown layout 'ibug67'; known: {', '.join(BUILTIN)}"):
        layout("ibug67")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    for name, said in (("missing.toml", "cannot be read"), ("bytes.toml", "not a TOML table")):
        with pytest.raises(LayoutError, match=f"{name}: {said}"):
            layout(tmp_path / name)
