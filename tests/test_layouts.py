"""Layouts: the tables that come with the package, and what is said about a table with mistakes."""

from __future__ import annotations

import copy
import doctest
import json
import pickle
import re
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octamark.errors import LayoutError
from octamark.layouts import BUILTIN, Layout, Opening, conversion, convert, dumps, layout, loads, parse
from octamark.layouts.definition import LID_CORRELATION
from octamark.layouts.table import KEYS

# name -> count, global points, inter-ocular and inter-pupil groups
KNOWN = {
    "ibug68": (68, range(17), ((36,), (45,)), (tuple(range(36, 42)), tuple(range(42, 48)))),
    "ibug51": (51, [], ((19,), (28,)), (tuple(range(19, 25)), tuple(range(25, 31)))),
    "wflw98": (98, range(33), ((60,), (72,)), ((96,), (97,))),
    "cofw29": (29, [28], ((8,), (9,)), ((16,), (17,))),
    "aflw19": (19, [18], ((6,), (11,)), ((7,), (10,))),
    "webcaricature17": (17, range(4), ((8,), (11,)), ((8, 9), (10, 11))),
    "manga60": (60, range(17), ((27, 36), (41, 42)), ((47,), (48,))),
    "frl189": (189, [*range(109, 115), *range(125, 134)], ((18,), (27,)), ((0,), (1,))),
    "five": (5, [], None, ((0,), (1,))),
    "dlib5": (5, [], ((2,), (0,)), ((2, 3), (0, 1))),
}
# name -> pairs that change places in a mirrored picture; not all of those of the two large layouts
MIRRORED = {
    "ibug68": "0-16 7-9 8-8 17-26 21-22 30-30 31-35 36-45 41-46 48-54 59-55 57-57 60-64 67-65",
    "ibug51": "0-9 4-5 13-13 14-18 19-28 24-29 31-37 42-38 40-40 43-47 50-48",
    "wflw98": "0-32 16-16 33-46 37-42 38-50 41-47 54-54 55-59 60-72 64-68 65-75 67-73 76-82 83-87 88-92 95-93 96-97",
    "cofw29": "0-1 2-3 4-6 5-7 8-9 10-11 12-14 13-15 16-17 18-19 20-20 21-21 22-23 24-24 25-25 26-26 27-27 28-28",
    "aflw19": "0-5 1-4 2-3 6-11 7-10 8-9 12-14 13-13 15-17 16-16 18-18",
    "webcaricature17": "0-0 1-3 2-2 4-7 5-6 8-11 9-10 12-12 13-13 14-16 15-15",
    "manga60": "0-16 8-8 17-26 27-41 29-39 31-37 32-46 36-42 47-48 49-49 50-54 52-52 55-59 57-57",
    "frl189": "0-1 4-16 18-27 22-23 20-25 29-32 55-55 64-69 71-82 75-78 87-93 90-90 95-97 104-108 109-112 125-133",
    "five": "0-1 2-2 3-4",
    "dlib5": "0-2 1-3 4-4",
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
    "ibug51": ((19, 22), ((20, 24), (21, 23))),
    "manga60": ((27, 31), ((28, 35), (29, 34), (30, 33))),
    "frl189": ((18, 22), ((19, 28), (20, 29), (21, 30))),
    "five": None,
    "dlib5": None,
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
    known = {"inter-ocular": ocular, "inter-pupil": pupil}
    assert dict(built.normalisers) == {name: groups for name, groups in known.items() if groups is not None}
    assert built.has_diagram


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
    assert {index for region in built.regions.values() for index in region} in (set(range(built.count)), set())


def test_diagram(built: Layout) -> None:
    mirrored = (built.diagram * [-1, 1] + [1, 0])[built.mirror]
    np.testing.assert_allclose(mirrored, built.diagram, atol=1e-3)
    assert built.diagram.min() >= 0
    assert built.diagram.max() <= 1
    gaps = np.linalg.norm(built.diagram[:, None] - built.diagram, axis=-1) + np.eye(built.count)
    assert gaps.min() > (1e-4 if built.name == "frl189" else 0.015)  # where lids cut the iris, its rim lies on them
    for name in built.parts:
        if name.startswith("right_"):
            right, left = (built.diagram[list(built.part(side))].mean(axis=0) for side in (name, other_side(name)))
            assert right[0] < left[0], name
    parts = [[i for n in built.parts if w in n for i in built.part(n)] for w in ("brow", "eye", "nose", "mouth")]
    heights = [built.diagram[indices, 1].mean() for indices in parts if indices]
    assert len(heights) >= 2
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
        "ibug51": "brows nose eyes mouth",
        "manga60": "outline brows eyes pupils nose mouth",
        "frl189": "pupils iris_rims eyes folds nose brows mouth outline ears hairline hair cheeks philtrum chin neck",
        "five": "eyes nose mouth",
        "dlib5": "eyes nose",
        "wflw98": "outline brows nose eyes mouth pupils",
        "cofw29": "brows eyes pupils nose mouth chin",
        "aflw19": "brows eyes pupils nose mouth chin",
        "webcaricature17": "outline brows eyes nose mouth",
    }
    assert list(built.groups) == known[built.name].split()
    assert set(built.groups["eyes"]) == {*built.part("right_eye"), *built.part("left_eye")}
    assert all(built.part(group) == indices for group, indices in built.groups.items())


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
    with pytest.raises(LayoutError, match="no conversion from ibug51 to wflw98; ibug51 converts to: dlib5, five"):
        convert(layout("ibug51").diagram, layout("ibug51"), wflw)
    with pytest.raises(LayoutError, match="layout wflw98 has 98 points"):
        convert(ibug.diagram, wflw, ibug)


CONVERSIONS = [
    ("ibug68", "five", 0.001), ("ibug68", "ibug51", 1e-6), ("ibug68", "dlib5", 1e-6), ("ibug51", "five", 0.001),
    ("ibug51", "dlib5", 1e-6), ("wflw98", "five", 0.02), ("wflw98", "ibug51", 0.03), ("wflw98", "dlib5", 0.02),
    ("cofw29", "five", 0.04), ("aflw19", "five", 0.04), ("webcaricature17", "five", 0.25), ("manga60", "five", 0.15),
    ("ibug68", "wflw98", 0.03), ("wflw98", "cofw29", 0.1), ("ibug68", "cofw29", 0.1), ("manga60", "ibug68", 0.16),
    ("manga60", "dlib5", 0.13), ("frl189", "ibug68", 0.31),
]  # fmt: skip
"""From, to, and how far the diagrams of the two layouts (different mean faces) may lie apart."""


@pytest.mark.parametrize(("first", "second", "apart"), CONVERSIONS)
def test_a_face_stays_the_same_face(first: str, second: str, apart: float) -> None:
    from_layout, to_layout = layout(first), layout(second)
    found = conversion(from_layout, to_layout)
    assert found.weights.shape == (to_layout.count, from_layout.count)
    assert found.weights[found.known].sum(axis=1) == pytest.approx(1)
    assert not found.exact[~found.known].any()
    points, approximate = convert(from_layout.diagram, from_layout, to_layout)
    assert points.dtype == np.float32
    assert approximate == (not found.exact[found.known].all())
    assert np.array_equal(np.isfinite(points).all(axis=1), found.known)
    assert np.nanmax(np.abs(points - to_layout.diagram)) < apart
    # a mirrored face converts to the mirrored face
    mirrored = (from_layout.diagram * [-1, 1] + [1, 0])[from_layout.mirror]
    again = convert(mirrored, from_layout, to_layout)[0][to_layout.mirror]
    np.testing.assert_allclose(again * [-1, 1] + [1, 0], points, atol=2e-3)
    # what is one point of the other layout is not moved by a bit
    for row, weights in enumerate(found.weights):
        if (weights != 0).sum() == 1:
            assert (points[row] == from_layout.diagram[weights.argmax()]).all()


def in_the_table() -> set[tuple[str, str]]:
    """The conversions of conversions.toml."""
    text = (resources.files("octamark.layouts") / "conversions.toml").read_text(encoding="utf-8")
    return {(entry["from"], entry["to"]) for entry in tomllib.loads(text)["conversion"]}


def test_every_entry_of_the_table_is_tested() -> None:
    assert in_the_table() <= {(first, second) for first, second, _ in CONVERSIONS} | {("wflw98", "ibug68")}


def test_points_without_counterpart_are_nan() -> None:
    manga, ibug = layout("manga60"), layout("ibug68")
    found = conversion(manga, ibug)
    assert np.flatnonzero(~found.known).tolist() == [27, 28, 29, *range(31, 36), *range(60, 68)]
    assert np.flatnonzero(found.exact).tolist() == [*range(27), 30, 51, 57]
    # NaN in, NaN out, and only there: the outer corner of the right eye is the mean of 27 and 36
    points = np.tile(manga.diagram, (2, 1, 1)).astype(np.float64)
    points[1, 36] = np.nan
    moved = convert(points, manga, ibug)[0]
    assert np.flatnonzero(np.isnan(moved[1, :, 0]) & ~np.isnan(moved[0, :, 0])).tolist() == [36]
    np.testing.assert_allclose(moved[0, 36], points[0, [27, 36]].mean(axis=0))
    # in two steps: the base of the nose stays unknown, the corners are means
    both = conversion(manga, layout("dlib5"))
    assert both.known.tolist() == [True] * 4 + [False]
    assert not both.exact.any()
    assert conversion(ibug, ibug).exact.all()
    whole = convert(np.arange(120).reshape(60, 2), manga, ibug)[0]  # whole numbers cannot hold NaN
    assert np.isnan(whole[27]).all()
    assert whole[36].tolist() == [63, 64]


def test_spread_of_a_mean() -> None:
    ibug, five = layout("ibug68"), layout("five")
    found = conversion(ibug, five)
    spread = np.full((3, 68, 2), 2.0, np.float32)
    spread[:, 30] = 5
    moved = found.spread(spread, np.zeros((3, 68, 2)))
    assert moved.dtype == np.float32
    # six points of equal spread with errors correlated by one half: sqrt(1/2 + 1/2 / 6)
    np.testing.assert_allclose(moved[:, :2], 2 * np.sqrt(7 / 12), rtol=1e-6)
    np.testing.assert_array_equal(moved[:, 2], 5)
    np.testing.assert_array_equal(moved[:, 3:], 2)
    rng = np.random.default_rng(0)
    shared, single = rng.normal(size=(20000, 1)), rng.normal(size=(20000, 6))
    errors = np.sqrt(0.5) * (shared + single)
    assert np.abs(errors.mean(axis=1)).mean() / np.abs(errors).mean() == pytest.approx(np.sqrt(7 / 12), rel=0.02)
    assert np.isnan(conversion(layout("manga60"), ibug).spread(np.ones((60, 2)), np.ones((60, 2)))[27:30]).all()


def test_points_between_others_carry_the_error_of_the_conversion() -> None:
    """98 points out of 68: shared points as they are, the others a little less certain, pupils least of all."""
    ibug, wflw = layout("ibug68"), layout("wflw98")
    found = conversion(ibug, wflw)
    assert (found.apart[found.exact] == 0).all()
    assert found.apart[[96, 97]].min() == found.apart.max() > 2 * found.apart[:96].max()
    face = ibug.diagram.astype(np.float64) * 200
    spread, confidence, visible = np.full((68, 2), 2.0), np.full(68, 0.9), np.linspace(0, 1, 68)
    visible[36:42] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    error, radius = found.apart * ibug.distance(face, "box"), np.float64(5.0)
    moved, sure = found.spread(spread, face), found.confidence(confidence, face, radius)
    single = (found.weights != 0).sum(axis=1) == 1
    np.testing.assert_allclose(moved[single, 0], np.hypot(2, error[single]), rtol=1e-6)
    assert (moved[96] > moved[60]).all()
    np.testing.assert_array_equal(sure[found.exact], confidence[0])
    assert (sure[~found.exact] < 0.9).all()
    assert sure[96] == sure[[96, 97]].mean() == sure.min()
    # as of a normal error of each axis to which another is added
    rng = np.random.default_rng(0)
    own = rng.normal(size=(100_000, 2)) * 5 / np.sqrt(-2 * np.log(0.1))  # 90 % within a radius of 5
    added = own + rng.normal(size=own.shape) * error[96] * np.sqrt(np.pi / 2)  # whose mean size is `error`
    assert np.mean(np.linalg.norm(own, axis=1) < 5) == pytest.approx(0.9, abs=0.01)
    assert sure[96] == pytest.approx(np.mean(np.linalg.norm(added, axis=1) < 5), abs=0.01)
    # negative weights keep a probability within 0 and 1
    seen = found.probability(visible)
    assert (found.weights < 0).any()
    assert (seen >= 0).all()
    assert (seen <= 1).all()
    assert seen[60] == visible[36]
    # a face far away has the same shape: the weights of each point sum to 1
    np.testing.assert_allclose(found.points(face + 1000) - 1000, found.points(face), atol=1e-9)
    back = conversion(wflw, ibug).points(found.points(face))
    assert np.abs(back - face).max() < 0.02 * 200
    assert conversion(ibug, layout("cofw29")).apart[16] == found.apart[96]


def test_openings() -> None:
    ibug = layout("ibug68")
    face = ibug.diagram.astype(np.float64) * 300
    width = np.linalg.norm(face[48] - face[54])
    gaps = [np.linalg.norm(face[upper] - face[lower]) for upper, lower in ((61, 67), (62, 66), (63, 65))]
    assert ibug.mouth_opening(face) == pytest.approx(np.mean(gaps) / width)
    assert layout("wflw98").mouth_opening(layout("wflw98").diagram) > 0
    assert layout("cofw29").mouth_opening(layout("cofw29").diagram) > 0
    five = layout("five")
    assert np.isnan(five.mouth_opening(np.zeros((4, 5, 2)))).all()
    assert np.isnan(five.mouth_opening_spread(np.zeros((4, 5, 2)), np.ones((4, 5, 2)))).all()
    assert five.eye_opening_spread(np.zeros((4, 5, 2)), np.ones((4, 5, 2))).shape == (4, 0)


def test_spread_of_an_opening() -> None:
    """First order: what small errors of the points do to the opening, in numbers drawn at random."""
    ibug = layout("ibug68")
    rng = np.random.default_rng(0)
    face = ibug.diagram.astype(np.float64) * 1000
    spread = rng.uniform(0.2, 0.8, (68, 2))
    shared = 0.5**0.5
    for right, eye in ((True, ibug.eyes["right"]), (False, ibug.mouth)):
        assert eye is not None
        errors = rng.normal(size=(20000, 68, 2))
        # facing pairs move alike by half of their variance: the points above by one error, those below by another
        for side in range(2):
            points = [pair[side] for pair in eye.pairs]
            errors[:, points] = shared * (errors[:, points] + rng.normal(size=(20000, 1, 2)))
        if right:  # and of an eye, both points of a pair by a part of theirs
            for pair in eye.pairs:
                alike = LID_CORRELATION**0.5 * rng.normal(size=(20000, 1, 2))
                errors[:, pair] = (1 - LID_CORRELATION) ** 0.5 * errors[:, pair] + alike
        errors *= spread
        change = eye.ratio(face + errors) - eye.ratio(face)
        expected = eye.ratio_spread(face, spread)
        assert np.sqrt((change**2).mean()) == pytest.approx(float(expected), rel=0.05)
        doubled = eye.ratio_spread(face, 2 * spread)
        assert doubled == pytest.approx(2 * float(expected))
        if right:
            assert ibug.eye_opening_spread(face, spread)[0] == expected
        else:
            assert ibug.mouth_opening_spread(face, spread) == expected
    shut = face.copy()
    shut[[37, 38]] = shut[[41, 40]]  # lids on each other have no direction, but an error
    assert np.isfinite(ibug.eye_opening_spread(shut, spread)).all()
    shut[36] = shut[39]
    assert np.isnan(ibug.eye_opening_spread(shut, spread)[0])


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
    right, left = Opening((0, 1), ((0, 1),), LID_CORRELATION), Opening((1, 0), ((1, 0),), LID_CORRELATION)
    assert layout(path).eyes == {"right": right, "left": left}


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
        (
            "eyes = {}",
            "eyes = { right = { corners = [0], lids = [[0, 1]] } }",
            "eyes: a value of the wrong form; expected a table",
        ),
        ('eyes = ["0-1"]', 'eyes = ["0-99999999999"]', "regions: '0-99999999999' ends beyond the last point"),
        ("count = 3", "count = 100000000", "count 100000000: a whole number of points, 1 to 10000"),
        ("global = [2]", "global = 2.5", "global: 2.5 is no index"),
        ("edges = [[0, 1]]", "edges = 3", "edges: a value of the wrong form; expected a list of chains"),
        ("inter-ocular = [[0], [1]]", "inter-ocular = [0]", "normalisers: a value of the wrong form; expected a table"),
        ("inter-ocular = [[0], [1]]", "inter-ocular = [[0], [0]]", "normaliser inter-ocular: two different groups"),
        ("inter-ocular", "box", "normaliser box: every layout has one of this name"),
        ("[0.2, 0.3], [0.8, 0.3], [0.5, 0.9]", "[1, 1], [1, 1], [1, 1]", "diagram: all points lie in one place"),
        ("[0.2, 0.3]", "[1e300, 0.3]", "diagram must hold 3 points, finite"),
        ("eyes = {}", "eyes = { right = { lids = [[0, 1]] } }", "an eye has corners and lids, found lids (1 pairs)"),
        ("eyes = {}", f"eyes = {EYES}".replace("[0, 1]]", "[0, 3]]"), "between 0 and 2"),
        ("count = 3", "", "missing keys: points (names) or count"),
        ("mirror = [[0, 1]]", "", "mirror: the pairs of points that change places in a mirrored picture are missing"),
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
    same(loads(text.replace(f'"{built.name}"', '"mine"'), "a model"), replace(built, name="mine", places=(), spaced=()))


def test_pickles() -> None:
    """A layout of this package is the same object again; others are equal to the last bit."""
    ibug = layout("ibug68")
    assert pickle.loads(pickle.dumps(ibug)) is ibug
    assert copy.deepcopy(ibug) is ibug
    assert len(pickle.dumps(ibug)) < 200
    for other in (replace(ibug, name="mine"), replace(ibug, mirror=np.arange(68)), loads('name = "x"\npoints = ["a"]')):
        same(pickle.loads(pickle.dumps(other)), other)


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


@pytest.mark.parametrize(
    ("name", "partner"),
    [
        ("right_eye_2", "left_eye_2"), ("eye_left", "eye_right"), ("l_brow", "r_brow"), ("brow_l_0", "brow_r_0"),
        ("eyeLeft", "eyeRight"), ("LeftEye", "RightEye"), ("leftEye", "rightEye"), ("LEFT_EYE", "RIGHT_EYE"),
        ("eyeL", "eyeR"), ("EYE_R", "EYE_L"), ("bright_spot", "bright_spot"), ("upperLip", "upperLip"),
        ("HAIR_1", "HAIR_1"), ("NOSE_BRIDGE", "NOSE_BRIDGE"), ("Ring", "Ring"), ("lip", "lip"),
    ],
)  # fmt: skip
def test_the_other_side_of_a_name(name: str, partner: str) -> None:
    if name == partner:
        assert loads(f'name = "x"\npoints = ["{name}", "second"]').mirror.tolist() == [0, 1]
    else:
        assert loads(f'name = "x"\npoints = ["{name}", "nose", "{partner}"]').mirror.tolist() == [2, 1, 0]
        with pytest.raises(LayoutError, match=f"point {name} has no partner {partner}"):
            loads(f'name = "x"\npoints = ["{name}", "nose"]')


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


DOCUMENT = Path(__file__).parent.parent / "docs" / "layouts.md"


def test_the_document_runs() -> None:
    """Layout files in docs/layouts.md can be read, its Python prints what it says, its tables are complete."""
    text = DOCUMENT.read_text(encoding="utf-8")
    nose, eyes = (loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL))
    assert nose.mirror.tolist() == [0, 1, 3, 2]
    assert (eyes.count, eyes.parts["nose"], set(eyes.eyes), eyes.has_diagram) == (9, (8,), {"right", "left"}, True)
    failed, tried = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert failed == 0
    assert tried > 3
    assert set(re.findall(r"^\| `(\w+)` \| .*layouts/\1\.png", text, re.MULTILINE)) == set(BUILTIN)
    assert set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, re.MULTILINE)) == in_the_table()
    keys = re.findall(r"^\| `(\w+)` \|", text[text.index("| key |") :], re.MULTILINE)
    assert sorted(keys) == sorted(KEYS)


def text_of_pairs(one: Layout) -> str:
    return ", ".join(f"[{a}, {b}]" for a, b in enumerate(one.mirror.tolist()) if a < b)


def test_unknown_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=f"unknown layout 'ibug67'; known: {', '.join(BUILTIN)}"):
        layout("ibug67")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    for name, said in (("missing.toml", "cannot be read"), ("bytes.toml", "not a TOML table")):
        with pytest.raises(LayoutError, match=f"{name}: {said}"):
            layout(tmp_path / name)


def test_every_layout_file_is_known_and_drawn() -> None:
    folder = resources.files("octamark.layouts")
    files = {Path(path.name).stem for path in folder.iterdir() if path.name.endswith(".toml")}
    assert files - {"chips", "conversions", "head"} == set(BUILTIN)
    assert {path.stem for path in (DOCUMENT.parent / "layouts").glob("*.png")} == set(BUILTIN)


@pytest.mark.parametrize("name", [None, 3, b"ibug68", []])
def test_other_types_are_no_layouts(name: Any) -> None:
    with pytest.raises(LayoutError, match=r"^layout .*; allowed: a name, the path of a \.toml file, or a Layout"):
        layout(name)


def test_vertices_are_read_kept_in_other_processes_and_left_out_of_model_files() -> None:
    table = {
        "name": "small", "points": ["right_end", "left_end"],
        "vertices": [[3, 4], {"brow": "left", "along": 0.25, "height": 1}],
    }  # fmt: skip
    small = parse(table, "small.toml")
    assert [place.vertices for place in small.places] == [(3, 4), ()]
    assert (small.places[1].brow, small.places[1].along, small.places[1].height) == ("left", 0.25, 1.0)
    assert pickle.loads(pickle.dumps(small)).places == small.places
    assert loads(dumps(small)).places == ()
    table = {"name": "five", "points": list(layout("five").point_names), "vertices": [1, 2, 3, 4, 5]}
    with pytest.raises(LayoutError, match="five is a layout of this package with other values of vertices"):
        loads(json.dumps(table))


def test_a_spaced_outline_is_kept_in_other_processes_and_left_out_of_model_files() -> None:
    table = {"name": "own", "count": 3, "mirror": [], "parts": {"outline": ["0-1"], "tip": [2]}, "spaced": ["0-1"]}
    own = parse(table, "own.toml")
    assert own.spaced == ((0, 1),)
    assert pickle.loads(pickle.dumps(own)).spaced == own.spaced
    assert loads(dumps(own)).spaced == ()
    with pytest.raises(LayoutError, match="spaced: chains of points of the outline only"):
        parse({**table, "spaced": ["0-2"]}, "own.toml")
    with pytest.raises(LayoutError, match="spaced: a value of the wrong form"):
        parse({**table, "spaced": 3}, "own.toml")


@pytest.mark.parametrize(
    ("vertices", "message"),
    [
        ([1], "vertices lists 1 places; the layout has 2 points"),
        ([1, -2], "-2: a vertex is a whole number"),
        ([1, []], "a vertex is a whole number"),
        ([1, "nose"], "'nose': a vertex is a whole number"),
        ([1, {"brow": "middle", "along": 0}], "a brow is right or left"),
        ([1, {"brow": "left", "along": 1.5}], "a brow is right or left"),
        ([1, {"brow": "left", "along": 0.5, "depth": 1}], "a brow is right or left"),
        ([1, {"brow": "left"}], "vertices: a value of the wrong form"),
        (7, "vertices: a value of the wrong form"),
    ],
)
def test_wrong_vertices_are_named(vertices: object, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        parse({"name": "small", "points": ["right_end", "left_end"], "vertices": vertices}, "small.toml")
