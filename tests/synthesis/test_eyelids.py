"""Eyes that are shut and opened: labels follow the lids of the picture, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from octamark.errors import ConfigError
from octamark.layouts import layout
from octamark.synthesis.caricature import Caricatures
from octamark.synthesis.eyelids import LOWER_SHARE, WIDEST, Eyelids
from octamark.training.augmentation import augment, draw_views
from octamark.training.recipe import Augment, Caricature, Eyes, parse

IBUG = layout("ibug68")
SIDE, LEFT, RIGHT_EYE, LEFT_EYE = 240, 40, slice(36, 42), slice(42, 48)
SKIN, WHITE, DARK = (200, 150, 120), (250, 250, 250), (40, 30, 25)
LIDS = [37, 38, 40, 41, 43, 44, 46, 47]
STILL = Augment(**dict.fromkeys(Augment.model_fields, 0.0))


def face(angle: float = 0.0, points_of: str = "ibug68") -> tuple[Tensor, Tensor]:
    """A picture (1, 3, s, s) of skin with white eyes, dark irises and brows, turned by an angle; and its landmarks."""
    chosen = layout(points_of)
    points = chosen.diagram.astype(np.float64) * 160 + LEFT
    for eye in chosen.eyes.values():
        width = np.ptp(points[list(eye.corners), 0])
        middle = points[list(eye.corners)].mean(axis=0)
        sign = np.sign(points[eye.corners[1], 0] - points[eye.corners[0], 0])
        points[list(eye.corners), 1] = middle[1]
        for number, pair in enumerate(eye.pairs, 1):
            x = number / (len(eye.pairs) + 1) - 0.5
            height = 0.4 * width * (1 - 4 * x**2) ** 0.75
            points[list(pair)] = middle + np.array([[sign * x * width, part * height] for part in (-0.6, 0.4)])
    turn = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), -angle, 1.0)
    points = points @ turn[:, :2].T + turn[:, 2]
    picture = np.full((SIDE * 4, SIDE * 4, 3), SKIN, np.uint8)
    for side, eye in chosen.eyes.items():
        first, second = points[eye.corners[0]], points[eye.corners[1]]
        middle, axis = (first + second) / 2, (second - first) / 2
        down = points[[pair[1] for pair in eye.pairs]].mean(axis=0) - points[[pair[0] for pair in eye.pairs]].mean(
            axis=0
        )
        down *= np.linalg.norm(axis) * 2 / np.linalg.norm(down)
        t = np.linspace(-1, 1, 81)[:, None]
        upper, lower = (middle + t * axis + sign * 0.4 * (1 - t**2) ** 0.75 * down for sign in (-0.6, 0.4))
        fill(picture, np.concatenate([upper, lower[::-1]]), WHITE)
        cv2.circle(picture, tuple(int(v) for v in middle * 4 + 2), 14, DARK, -1, cv2.LINE_AA)
        brow = points[[index for part, some in chosen.parts.items() if part == f"{side}_brow" for index in some]]
        if len(brow):
            fill(picture, np.concatenate([brow, brow[::-1] + 0.04 * down]), DARK)
    picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous(), torch.from_numpy(points.astype(np.float32))[
        None
    ]


def fill(picture: np.ndarray, outline: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill an outline in a picture of four times the size."""
    cv2.fillPoly(picture, [np.round(((outline + 0.5) * 4 - 0.5) * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def eyelids(share: float = 1.0, **changes: float) -> Eyelids:
    return Eyelids(Eyes(share=share, **changes), IBUG)


def closed(pictures: Tensor, landmarks: Tensor, *closing: float, **more: Tensor) -> tuple[Tensor, Tensor]:
    return eyelids()(pictures, landmarks, torch.tensor([closing]), **more)


def height(picture: Tensor) -> int:
    """The most pixels below the brows that are white or dark in any column."""
    below = picture[0, :, 61:].int()
    skin = torch.tensor(SKIN)[:, None, None]
    return int(((below - skin).abs().amax(dim=0) > 40).sum(dim=0).max())


@pytest.mark.parametrize("angle", [0.0, 25.0, 180.0])
@pytest.mark.parametrize("closing", [-0.2, 0.3, 0.6, 1.0])
def test_labels_are_as_open_as_asked(angle: float, closing: float) -> None:
    pictures, landmarks = face(angle)
    before = IBUG.eye_opening(landmarks.numpy())
    _, moved = closed(pictures, landmarks, closing, closing)
    np.testing.assert_allclose(IBUG.eye_opening(moved.numpy()), before * (1 - closing), atol=0.005)
    others = [point for point in range(68) if point not in LIDS]
    assert torch.equal(moved[:, others], landmarks[:, others])
    assert (moved[:, LIDS] - landmarks[:, LIDS]).norm(dim=2).min() > 0.05


@pytest.mark.parametrize("closing", [-0.2, 0.4, 0.7])
def test_lids_of_the_picture_are_where_the_labels_say(closing: float) -> None:
    """Down a column through a label, the skin ends at the upper label and begins again at the lower one."""
    pictures, landmarks = face()
    changed, moved = closed(pictures, landmarks, closing, closing)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        x, top = moved[0, upper].tolist()
        bottom = float(moved[0, lower, 1])
        assert x == pytest.approx(float(moved[0, lower, 0]), abs=0.01)
        column = changed[0, 2, 61:140, round(x)].float()  # blue: skin 120, white 250
        rows = torch.arange(61, 140)[(column - 120).abs() > 65]
        assert float(rows.min()) - 0.5 == pytest.approx(top, abs=1.2)
        assert float(rows.max()) + 0.5 == pytest.approx(bottom, abs=1.2)


def test_shut_eyes_show_nothing_of_the_eye() -> None:
    pictures, landmarks = face()
    assert height(pictures) >= 10
    changed, moved = closed(pictures, landmarks, 1.0, 1.0)
    assert height(changed) <= 2  # a line where lids meet
    between = moved[0, [37, 41]].mean(dim=0) - landmarks[0, [37, 41]].mean(dim=0)
    assert float(between[1]) > 2  # lids meet near the lower one
    share = (landmarks[0, 41, 1] - moved[0, 41, 1]) / (landmarks[0, 41, 1] - landmarks[0, 37, 1])
    assert float(share) == pytest.approx(LOWER_SHARE, abs=0.01)


def test_nothing_but_the_surroundings_of_eyes_changes() -> None:
    pictures, landmarks = face(10.0)
    copies = pictures.clone(), landmarks.clone()
    changed, moved = closed(pictures, landmarks, 1.0, 0.0)
    assert torch.equal(pictures, copies[0])  # the input is not changed in place
    assert torch.equal(landmarks, copies[1])
    assert torch.equal(moved[:, LEFT_EYE], landmarks[:, LEFT_EYE])
    places = (changed != pictures)[0].any(dim=0).nonzero().flip(1).float()
    assert len(places) > 200
    eye = landmarks[0, RIGHT_EYE]
    width = (eye[3] - eye[0]).norm()
    assert (places - (eye[0] + eye[3]) / 2).norm(dim=1).max() < 1.1 * width
    still, same = closed(pictures, landmarks, 0.0, 0.0)
    assert torch.equal(still, pictures)
    assert torch.equal(same, landmarks)


def test_brows_stay() -> None:
    pictures, landmarks = face()
    changed, _ = closed(pictures, landmarks, 1.0, 1.0)
    rows = int(landmarks[0, [17, 18, 19, 20, 21], 1].max()) + 1
    assert int((changed[0, :, :rows].int() - pictures[0, :, :rows].int()).abs().max()) <= 1


def test_a_mirrored_face_gives_the_mirrored_picture() -> None:
    pictures, landmarks = face(15.0)
    changed, moved = closed(pictures, landmarks, 0.8, 0.5)
    mirrored = landmarks[:, torch.from_numpy(IBUG.mirror.copy())] * torch.tensor([-1.0, 1.0]) + torch.tensor(
        [SIDE - 1.0, 0]
    )
    other, points = closed(pictures.flip(3), mirrored, 0.5, 0.8)
    assert int((other.flip(3).int() - changed.int()).abs().max()) <= 2
    back = points[:, torch.from_numpy(IBUG.mirror.copy())] * torch.tensor([-1.0, 1.0]) + torch.tensor([SIDE - 1.0, 0])
    torch.testing.assert_close(back, moved, atol=1e-3, rtol=0)


def test_eyes_that_cannot_be_moved_stay() -> None:
    pictures, landmarks = face()
    unlabelled = landmarks.clone()
    unlabelled[0, [38, 42]] = torch.nan  # a lid of the right eye, a corner of the left one
    shut = landmarks.clone()
    shut[0, [37, 38, 43, 44]] = shut[0, [41, 40, 47, 46]] - torch.tensor([0.0, 0.5])
    turned = landmarks.clone()
    turned[0, RIGHT_EYE, 0] = 75 + (turned[0, RIGHT_EYE, 0] - 75) * 0.4  # half as wide as the left eye, or less
    for points in (unlabelled, shut, turned):
        changed, moved = closed(pictures, points, 1.0, 0.0 if points is turned else 1.0)
        assert torch.equal(changed, pictures)
        torch.testing.assert_close(moved, points, rtol=0, atol=0, equal_nan=True)
    visible = torch.full((1, 68), torch.nan)
    visible[0, 39] = 0.0
    _, moved = closed(pictures, landmarks, 1.0, 1.0, visible=visible)
    assert torch.equal(moved[:, RIGHT_EYE], landmarks[:, RIGHT_EYE])
    assert not torch.equal(moved[:, LEFT_EYE], landmarks[:, LEFT_EYE])


def test_faces_without_brows_and_at_the_edge() -> None:
    pictures, landmarks = face()
    without = landmarks.clone()
    without[0, 17:27] = torch.nan
    changed, moved = closed(pictures, without, 1.0, 1.0)
    assert height(changed) <= 2
    assert torch.isfinite(moved[0, LIDS]).all()
    for shift in (-95.0, 95.0):  # partly or wholly outside the picture
        outside, points = closed(pictures, landmarks + shift, 1.0, 1.0)
        assert outside.shape == pictures.shape
        assert torch.isfinite(points).all()


def test_three_points_a_lid() -> None:
    pictures, landmarks = face(points_of="wflw98")
    wflw = layout("wflw98")
    changed, moved = Eyelids(Eyes(share=1.0), wflw)(pictures, landmarks, torch.ones(1, 2))
    assert height(changed) <= 2
    assert wflw.eye_opening(moved.numpy()).max() < 0.005


def test_a_batch_is_its_faces_one_by_one() -> None:
    faces = [face(angle) for angle in (0.0, 20.0, -35.0)]
    pictures, landmarks = (torch.cat(parts) for parts in zip(*faces, strict=True))
    closing = torch.tensor([[1.0, 1.0], [0.5, 0.0], [-0.2, 0.7]])
    together = eyelids()(pictures, landmarks, closing)
    for index in range(3):
        part = slice(index, index + 1)
        alone = eyelids()(pictures[part], landmarks[part], closing[part])
        assert int((alone[0].int() - together[0][part].int()).abs().max()) <= 1
        torch.testing.assert_close(alone[1], together[1][part], atol=1e-3, rtol=0)


def test_drawn_closings() -> None:
    closing = eyelids(shut=0.6).draw(4000, torch.Generator().manual_seed(0))
    assert closing.shape == (4000, 2)
    most = closing.abs().amax(dim=1)
    shut, wider = (closing == 1).any(dim=1), (closing < 0).any(dim=1)
    assert float(shut.float().mean()) == pytest.approx(0.6, abs=0.03)
    assert float(wider.float().mean()) == pytest.approx(0.16, abs=0.03)
    assert float(closing.min()) >= -WIDEST
    assert float(((closing == 0).sum(dim=1) == 1).float().mean()) == pytest.approx(0.15, abs=0.03)
    assert float(closing.max()) == 1.0
    assert (most > 0).float().mean() > 0.99
    again = eyelids(shut=0.6).draw(4000, torch.Generator().manual_seed(0))
    assert torch.equal(again, closing)


def test_layouts_without_lids_and_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"eyes\.share: layout five has no eyes with lids"):
        Eyelids.of(Eyes(share=0.1), layout("five"))
    assert Eyelids.of(Eyes(), layout("five")) is None
    recipe = {"name": "x", "stages": [{"epochs": 1}]}
    with pytest.raises(ConfigError, match=r"eyes\.share: .*1\.5"):
        parse({**recipe, "eyes": {"share": 1.5}}, "recipe")
    with pytest.raises(ConfigError, match=r"unknown key eyes\.closed; allowed there: share, shut"):
        parse({**recipe, "eyes": {"closed": 1}}, "recipe")


def batch(count: int = 12, **more: object) -> tuple[Tensor, Tensor]:
    """Augmented faces, of which nothing is damaged or moved, and their landmarks."""
    pictures, landmarks = face()
    _, plain, points = augment(
        pictures.repeat(count, 1, 1, 1), landmarks.repeat(count, 1, 1), config=STILL, size=150,
        mirror=torch.from_numpy(IBUG.mirror.copy()), generator=torch.Generator().manual_seed(3),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return plain, points


def test_a_share_of_a_batch_has_other_eyes() -> None:
    plain, points = batch()
    changed, moved = batch(eyelids=eyelids(0.5, shut=1.0))
    differs = (moved != points).any(dim=2).any(dim=1)
    assert 2 < int(differs.sum()) < 10
    assert torch.equal(changed[~differs], plain[~differs])
    assert (changed[differs] != plain[differs]).flatten(1).any(dim=1).all()
    assert IBUG.eye_opening(moved[differs].numpy()).min(axis=1).max() < 0.01  # at least one eye of each
    assert torch.equal(batch(eyelids=eyelids(0.5, shut=1.0))[0], changed)
    hidden = torch.zeros(12, 68)
    assert torch.equal(batch(eyelids=eyelids(0.5), visible=hidden)[1], points)


def test_caricatures_may_have_other_eyes() -> None:
    caricatures = Caricatures.of(Caricature(share=1.0, strength=0.5, style=0.0), IBUG, face()[1])
    _, points = batch(4, caricatures=caricatures, eyelids=eyelids(1.0, shut=1.0))
    openings = IBUG.eye_opening(points.numpy())
    assert openings.min(axis=1).max() < 0.05
    pictures, landmarks = face()
    views = draw_views(
        lambda chosen: pictures.repeat(8, 1, 1, 1)[chosen], landmarks.repeat(8, 1, 1), SIDE, config=STILL, size=150,
        generator=torch.Generator().manual_seed(0), caricatures=Caricatures.of(Caricature(share=0.5), IBUG, landmarks),
        eyelids=eyelids(0.5),
    )  # fmt: skip
    assert views.drawn is not None
    assert len(views.chosen.unique()) == len(views.chosen) == len(views.drawn.pictures)
