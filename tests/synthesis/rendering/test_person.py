"""Persons of seeds: what share of the pictures shows what; and the shapes, hair and light that carry it out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from octamark.synthesis.rendering.assets import Assets
from octamark.synthesis.rendering.hair import _bangs
from octamark.synthesis.rendering.heads import DETAILS
from octamark.synthesis.rendering.person import Person, sample_person
from octamark.synthesis.rendering.scene import exposure
from octamark.synthesis.rendering.strands import grow
from octamark.synthesis.rendering.things import shell

COUNT = 1200
"""Persons that shares are measured on: one share of a half is then known to 1.5 per cent."""


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    folder = tmp_path_factory.mktemp("assets")
    skins = [f"mh/skins/{age}_lightskinned_{sex}_diffuse.jpg" for age in ("young", "old") for sex in ("male", "female")]
    suits = ["mh/clothes/male_suit.mhclo", "mh/clothes/female_suit.mhclo"]
    for name in (*Assets.NEEDED, *skins, *suits, "mh/eyebrows/eyebrow001.mhclo", "hdri/city.exr"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "." in path.name:
            path.write_bytes(b"")
        else:
            path.mkdir(exist_ok=True)
    assets = Assets(folder)
    return [sample_person(seed, assets) for seed in range(COUNT)]


def share(values: Any) -> float:
    return float(np.mean(list(values)))


def test_a_person_is_the_same_for_a_seed(persons: list[Person]) -> None:
    assert len({person.identity for person in persons}) == COUNT
    assert all(len(person.identity) == 100 for person in persons)


def test_women_and_men_differ_in_shape_hair_and_brows(persons: list[Person]) -> None:
    adults = [person for person in persons if not person.options["child"]]
    women = [person for person in adults if person.options["sex"] == "female"]
    men = [person for person in adults if person.options["sex"] == "male"]
    assert 0.45 < len(women) / len(adults) < 0.55
    first = {name: np.mean([person.identity[0] for person in some]) for name, some in (("w", women), ("m", men))}
    assert first["w"] - first["m"] > 1.2
    assert share(person.options["style"] in ("long", "wavy", "bob") for person in women) > 0.6
    assert share(person.options["style"] in ("long", "wavy", "bob") for person in men) < 0.15
    assert all(person.options["beard"] == "none" and person.options["brow_hairs"] <= 1000 for person in women)
    assert not any("wide chin" in person.ages for person in women)


def test_children_and_old_people_have_shapes_of_their_age(persons: list[Person]) -> None:
    children = [person for person in persons if person.options["child"]]
    assert 0.09 < len(children) / COUNT < 0.15
    assert all(any(name.endswith("female-child") for name in person.ages) for person in children)
    assert all(person.options["wrinkles"] == 0 and person.options["beard"] == "none" for person in children)
    old = [person for person in persons if person.options["age"] > 0.6]
    assert 0.15 < len(old) / COUNT < 0.35
    assert all(person.ages["aged"] > 0.1 and person.ages["sagging cheeks"] > 0.1 for person in old)
    assert np.mean([person.options["wrinkles"] for person in old]) > 0.7
    known = {f"{a}-{s}-{k}" for a in ("african", "asian", "caucasian") for s in ("male", "female")
             for k in ("young", "old", "child", "baby")} | set(DETAILS)  # fmt: skip
    assert {name for person in persons for name in person.ages} <= known


def test_faces_smile_and_look_into_the_camera_as_in_photographs(persons: list[Person]) -> None:
    weights = [person.expression for person in persons]
    smiles = [weight for weight in weights if weight.get("mouthSmile_L", 0) > 0.25]
    assert 0.33 < len(smiles) / COUNT < 0.55
    assert 0.4 < share(weight.get("mouthUpperUp_L", 0) > 0.2 for weight in smiles) < 0.8
    assert share(weight.get("jawOpen", 0) > 0.15 for weight in weights) < 0.28
    assert share(weight.get("eyeBlink_L", 0) > 0.6 for weight in weights) < 0.2
    frontal = [person for person in persons if abs(person.yaw) < 25 and abs(person.pitch) < 15]
    toward = [np.hypot(person.gaze[0] + person.yaw, person.gaze[1] + person.pitch) < 10 for person in frontal]
    assert 0.6 < share(toward) < 0.9


def test_most_pictures_are_well_lit_before_a_photographic_background(persons: list[Person]) -> None:
    def well_lit(person: Person) -> bool:
        light = person.options["light"]
        return any(
            lamp["size"] >= 12 and np.cos(np.radians(lamp["yaw"] + person.yaw)) > 0.2 and min(lamp["colour"]) > 0.3
            for lamp in light["lamps"]
        )

    assert 0.6 < share(map(well_lit, persons)) < 0.85
    drawn = share(person.options["background"] in ("texture", "shapes", "foliage") for person in persons)
    assert 0.2 < drawn < 0.36


def test_a_dark_thing_before_a_face_does_not_brighten_it(persons: list[Person]) -> None:
    tone = 0.4
    albedo = np.full((64, 64, 3), tone, np.float32)
    colour = 0.5 * albedo
    free = exposure(colour, albedo, persons[0], tone)
    covered, dark = colour.copy(), albedo.copy()
    covered[20:50, 20:50], dark[20:50, 20:50] = 0.01, 0.02
    assert exposure(covered, dark, persons[0], tone) == pytest.approx(free, rel=1e-5)
    nothing = np.zeros_like(dark)
    assert np.isfinite(exposure(nothing, nothing, persons[0], tone))
    assert exposure(2 * colour, albedo, persons[0], tone) == pytest.approx(free / 2, rel=1e-5)


def test_draped_hair_hangs_down_beside_the_head() -> None:
    rng = np.random.default_rng(0)
    roots = np.column_stack([np.full(200, 7.0), rng.uniform(4, 6, 200), np.zeros(200)])
    ways, lengths = np.tile([1.0, 0.0, 0.0], (200, 1)), np.full(200, 25.0)
    spans = {}
    for drape in (0.0, 0.6):
        lines = grow(roots, ways, lengths, None, np.random.default_rng(1), steps=9, gravity=0.3, drape=drape)
        spans[drape] = (lines[:, -1, 0] - 7.0).mean()
        np.testing.assert_allclose(np.linalg.norm(np.diff(lines, axis=1), axis=2), 25 / 9)
    assert spans[0.6] < 0.6 * spans[0.0]
    closer = grow(
        roots, ways, lengths, None, np.random.default_rng(1), steps=9, gravity=0.3, drape=0.6, inward=0.3
    )  # fmt: skip
    assert closer[:, -1, 0].mean() < 7.0 + spans[0.6] - 1.0


def test_fringes_grow_at_the_forehead_and_veils_are_longer() -> None:
    rng = np.random.default_rng(0)
    rest = np.column_stack([rng.uniform(-8, 8, 500), rng.uniform(0, 14, 500), rng.uniform(-9, 9, 500)])
    assert _bangs("none", rest, 0.0, rng) is None
    lengths = {}
    for kind in ("full", "swept", "veil"):
        found = _bangs(kind, rest, -2.0, np.random.default_rng(3))
        assert found is not None
        chosen, ways, length = found
        assert 0.02 < chosen.mean() < 0.3
        assert (rest[chosen, 1] > 8).all()
        assert (rest[chosen, 2] > 2.5).all()
        assert (ways[:, 2] > 0).all()
        if kind != "full":
            assert (rest[chosen, 0] > -2.6).all()  # beyond the parting
            assert (ways[:, 0] > 0).all()
        lengths[kind] = length[chosen].mean()
    assert lengths["veil"] > lengths["swept"] + 1.5


def test_a_taut_cloth_lies_over_what_stands_out() -> None:
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(15), np.arange(15)))
    vertices = np.column_stack([x, y, 3.0 * np.exp(-((x - 7) ** 2 + (y - 7) ** 2) / 4)])
    index = np.arange(225).reshape(15, 15)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    triangles = np.concatenate([np.column_stack([a, b, c]), np.column_stack([a, c, d])])
    head: Any = SimpleNamespace(triangles={"skin": triangles}, mean=vertices)
    normals = np.tile([0.0, 0.0, 1.0], (225, 1))
    heights = {}
    for taut in (False, True):
        lifted, _, rest = shell(head, vertices, normals, np.ones(225), 0.3, smooth=20, taut=taut)
        heights[taut] = lifted[:, 2] - rest[:, 2]
    assert heights[False].min() < -0.5
    assert heights[True].min() > 0.29
    assert heights[True].max() > 0.6  # between the heights it spans the hollow


@pytest.mark.slow
def test_closed_lips_touch_and_traits_show(rendering_assets: Path) -> None:
    from octamark.synthesis.rendering.scene import LIPS_PRESSED, Renderer

    renderer = Renderer(Assets(rendering_assets), size=32, samples=2)
    upper, lower = renderer._frame[[61, 62, 63]], renderer._frame[[67, 66, 65]]
    neutral = [
        person for person in (sample_person(seed, renderer.assets) for seed in range(60))
        if person.expression.get("jawOpen", 0) == 0 and not any("mouth" in name for name in person.expression)
    ][:5]  # fmt: skip
    assert len(neutral) == 5
    for person in neutral:
        open_lips = renderer.head.vertices(np.array(person.identity), person.expression, person.ages)
        closed = renderer._lips_closed(open_lips)
        gap = (closed[upper, 1] - closed[lower, 1]).mean()
        assert gap < 0.01
        assert gap == pytest.approx(-LIPS_PRESSED, abs=1e-3) or gap < -LIPS_PRESSED
    nobody = np.zeros(100)
    width = {
        name: np.ptp(renderer.head.vertices(nobody, {}, {name: 1.0} if name else {})[renderer._frame[3:14], 0])
        for name in ("", "fat", "thin")
    }
    assert width["fat"] > width[""] + 0.3
    assert width["thin"] < width[""]
