"""Caricatures: which persons become one, and the map of space that moves everything in their scene."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octamark.synthesis.rendering.assets import Assets
from octamark.synthesis.rendering.cartoon import KINDS, REGIONS, WIDTH_LEVELS, HeadMap, caricatured
from octamark.synthesis.rendering.person import Person
from octamark.synthesis.rendering.pieces import Piece, plain

EYE = np.array(REGIONS["eye"][0])


def person(seed: int) -> Person:
    options = {"age": 0.2, "wrinkles": 0.3, "spots": 0.1, "iris": "blue", "things": {"glasses": {}, "occluder": {}}}
    identity = tuple(np.random.default_rng(seed).normal(0, 1, 100).tolist())
    expression = {"eyeBlink_L": 0.9, "eyeBlink_R": 0.9, "jawOpen": 0.2}
    return Person(seed, identity, {}, expression, (0.0, 0.0), 10.0, 0.0, 0.0, (0.0, 0.0, 0.0), 80.0, options)


PLAIN = {
    "parts": {},
    "storeys": [1.0, 1.0, 1.0],
    "widths": [1.0] * len(WIDTH_LEVELS),
    "depth": 1.0,
}


def part(size: tuple[float, float, float], shift: tuple[float, float, float] = (0, 0, 0), turn: float = 0.0) -> dict:
    return {"size": list(size), "shift": list(shift), "turn": turn}


@pytest.fixture(scope="module")
def skin() -> np.ndarray:
    """Places (4000, 3) in and around a head."""
    return np.random.default_rng(0).uniform((-9, -12, -9), (9, 14, 13), (4000, 3))


def test_without_a_share_everybody_stays_as_before() -> None:
    for seed in range(50):
        before = json.dumps(person(seed).to_dict())
        assert caricatured(person(seed), 0.0) == person(seed)
        assert json.dumps(person(seed).to_dict()) == before


def test_a_share_of_the_persons_become_caricatures_and_the_others_stay() -> None:
    found = [caricatured(person(seed), 0.3) for seed in range(600)]
    changed = [one for one in found if "caricature" in one.options]
    assert 0.24 < len(changed) / 600 < 0.36
    assert all(one == person(one.seed) for one in found if "caricature" not in one.options)
    again = [caricatured(person(one.seed), 1.0) for one in changed]
    assert again == changed  # a larger share makes caricatures of more persons, and none of them another one


def test_caricatures_reach_beyond_human_shapes_and_keep_no_hand_before_the_face() -> None:
    found = [caricatured(person(seed), 1.0) for seed in range(400)]
    for kind, share in KINDS.items():
        assert abs(np.mean([one.options["caricature"]["kind"] == kind for one in found]) - share) < 0.08
    norms = {one.seed: np.linalg.norm(one.identity) / np.linalg.norm(person(one.seed).identity) for one in found}
    assert max(norms.values()) < 1.7 + 1e-3
    people = [norms[one.seed] for one in found if one.options["caricature"]["kind"] == "caricature"]
    assert np.median(people) > 1.15
    assert all(list(one.options["things"]) == ["glasses"] for one in found)
    sizes = np.array([[p["size"] for p in one.options["caricature"]["parts"].values()] for one in found])
    assert sizes.min() < 0.2
    assert sizes.max() > 2.3
    for one in found:
        for side in ("left", "right"):
            eye = one.options["caricature"]["parts"][f"{side} eye"]
            assert EYE[0] + eye["shift"][0] - 1.4 * eye["size"][0] > 0.5  # no eye reaches the middle of the face
    assert 0.4 < np.mean(["drawing" in one.options for one in found]) < 0.6
    opened = [one for one in found if one.expression["eyeBlink_L"] < 0.1]
    assert all(one.expression["eyeWide_L"] >= 0.2 for one in opened)
    assert 0.4 < len(opened) / len(found) < 0.75
    assert all("caricature" in json.dumps(one.to_dict()) for one in found)  # plain values only


def test_a_shape_that_changes_nothing_moves_nothing(skin: np.ndarray) -> None:
    nothing = {name: part((1, 1, 1)) for name in ("left eye", "right eye", "nose")}
    np.testing.assert_allclose(HeadMap({**PLAIN, "parts": nothing}, skin, skin)(skin), skin, atol=1e-9)


def test_a_part_is_scaled_turned_and_moved_as_a_whole(skin: np.ndarray) -> None:
    shape = {**PLAIN, "parts": {"left eye": part((1.5, 2.0, 1.2), (0.3, 0.5, -0.2)), "right eye": part((1, 1, 1))}}
    move = HeadMap(shape, skin, skin)
    around = np.random.default_rng(1).uniform(-1, 1, (200, 3))
    np.testing.assert_allclose(
        move(EYE + around), EYE + [0.3, 0.5, -0.2] + around * [1.5, 2.0, 1.2], atol=0.25
    )  # the shift is scaled a little too, as it lasts as long
    np.testing.assert_allclose(move(EYE * [-1, 1, 1] + 0.5 * around), EYE * [-1, 1, 1] + 0.5 * around, atol=0.02)
    far = np.array([[0.0, -30.0, 0.0], [8.0, 1.0, -4.0]])
    np.testing.assert_allclose(move(far), far, atol=1e-9)
    turned = HeadMap({**PLAIN, "parts": {"left eye": part((1, 1, 1), turn=20.0)}}, skin, skin)
    tip = turned(EYE + np.array([1.0, 0.0, 0.0])) - turned(EYE)
    np.testing.assert_allclose(tip, [np.cos(np.radians(20)), np.sin(np.radians(20)), 0.0], atol=1e-6)
    mirrored = HeadMap({**PLAIN, "parts": {"right eye": part((1, 1, 1), turn=20.0)}}, skin, skin)
    other = EYE * [-1, 1, 1]
    np.testing.assert_allclose(
        mirrored(other - np.array([1.0, 0.0, 0.0])) - mirrored(other), tip * [-1, 1, 1], atol=1e-6
    )


def test_storeys_and_widths_change_the_head_and_leave_the_eyes_at_their_height(skin: np.ndarray) -> None:
    shape = {**PLAIN, "storeys": [0.7, 1.0, 1.4], "widths": [0.5, 0.5, 0.5, 0.8, 0.9, 1.0, 1.2, 1.2, 1.2], "depth": 1.1}
    move = HeadMap(shape, skin, skin)
    np.testing.assert_allclose(move(np.array([3.0, 3.6, 9.0])), [3.0, 3.6, 9.9], atol=0.02)
    chin, top = move(np.array([[1.0, -8.0, 9.0], [1.0, 14.0, 0.0]]))
    assert chin[1] > -7.4
    assert chin[0] < 0.85
    assert top[1] > 16.5
    assert top[0] == pytest.approx(1.2, abs=0.02)
    assert move(np.array([20.0, -40.0, 0.0]))[0] == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("seed", range(12))
def test_the_map_is_one_to_one(skin: np.ndarray, seed: int) -> None:
    shape = caricatured(person(seed), 1.0).options["caricature"]
    move, small = HeadMap(shape, skin, skin), 1e-3
    columns = [(move(skin + small * axis) - move(skin)) / small for axis in np.eye(3)]
    volumes = np.linalg.det(np.stack(columns, axis=-1))
    assert volumes.min() > 0  # nothing is turned inside out
    assert volumes.max() < 40


def test_pieces_move_with_the_head_and_their_normals_stay_upright(skin: np.ndarray) -> None:
    ball = np.random.default_rng(2).normal(0, 1, (500, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    triangles = np.arange(498).reshape(-1, 3)
    shape = {**PLAIN, "parts": {"left eye": part((1.0, 2.0, 1.0))}}
    move = HeadMap(shape, skin, skin)
    moved = move.piece(Piece("skin", "head", EYE + ball, triangles, plain((0.5, 0.5, 0.5)), normals=ball))
    np.testing.assert_array_equal(moved.vertices, move(EYE + ball))
    wanted = ball / [1.0, 2.0, 1.0]  # of an ellipsoid
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert moved.normals is not None
    assert (moved.normals * wanted).sum(axis=1).min() > 0.98
    flat = replace(moved, normals=None)
    assert move.piece(flat).normals is None


@pytest.mark.slow
def test_labels_of_a_caricature_lie_where_its_skin_and_eyes_are(rendering_assets: Path) -> None:
    from octamark.layouts import layout
    from octamark.synthesis.rendering.heads import PARTS, SKIN
    from octamark.synthesis.rendering.labels import landmarks_of
    from octamark.synthesis.rendering.scene import Renderer

    renderer = Renderer(Assets(rendering_assets), size=64, samples=2, caricatures=1.0)
    for seed, drawn in ((7000004, False), (7000006, True)):  # two dolls
        found = renderer.render(seed)
        person = found.labels.person
        assert ("drawing" in person["options"]) == drawn
        labelled = found.labels.vertices < SKIN
        projected = found.camera.project(found.vertices[:SKIN])[0]
        np.testing.assert_allclose(found.labels.points[labelled], projected, atol=1e-6)
        human = renderer.head.vertices(np.array(person["identity"]), {}, {})
        for name in ("left_eye", "right_eye"):
            eye = slice(*PARTS[name])
            assert np.ptp(found.vertices[eye, 1]) > 1.3 * np.ptp(human[eye, 1])
        assert found.picture.std() > 10
        seen = landmarks_of(found.labels, layout("ibug68"), renderer.head.mean)
        assert not seen.behind_head[[36, 39, 42, 45, 48, 54, 57]].any()  # both look into the camera
