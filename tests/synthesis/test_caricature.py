"""Caricatures from photographs: labels follow the warp, nothing folds, seeds reproduce, batches are one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from command_line import run
from drawn_faces import draw_face, write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError, OutputError
from octamark.geometry import procrustes_mean
from octamark.images import read_picture
from octamark.layouts import BUILTIN, layout
from octamark.nets.sampling import middle
from octamark.synthesis.caricature import STRENGTHS, Caricatures, Caricaturist, draw, stylised
from octamark.synthesis.styles import STYLES, stylise
from octamark.synthesis.warp import Spline, folds, sample_at, spline, unfolded, warped
from octamark.training.augmentation import augment
from octamark.training.engine import Trainer
from octamark.training.recipe import Augment, Caricature, parse

IBUG = layout("ibug68")
SIDE = 160


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(count: int = 6) -> tuple[Tensor, Tensor]:
    """Stored crops (n, 3, s, s) uint8 of drawn faces, and their landmarks."""
    drawn = [draw_face(seed, SIDE) for seed in range(count)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn])).permute(0, 3, 1, 2).contiguous()
    return pictures, torch.from_numpy(np.stack([points for _, points in drawn]))


def found(picture: Tensor, near: Tensor) -> Tensor:
    """The middle of the dot (h, w) nearest a place."""
    y, x = torch.meshgrid(torch.arange(picture.shape[0]), torch.arange(picture.shape[1]), indexing="ij")
    weight = picture * (((x - near[0]) ** 2 + (y - near[1]) ** 2) < 6**2)
    return torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.4, 0.8, 1.3])
def test_labels_follow_the_warp_exactly(strength: float) -> None:
    """Dots are drawn at the labels of a photograph; in the caricature they are where the new labels say."""
    _, landmarks = faces()
    shown = [0, 3, 8, 13, 16, 19, 24, 30, 36, 45, 48, 54, 57]  # far enough apart to be told from each other
    size, zoom = 320, 0.5
    matrices = middle(len(landmarks), SIDE, size, zoom)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    checked = 0
    for point in shown:
        away = (x - landmarks[:, point, 0, None, None]) ** 2 + (y - landmarks[:, point, 1, None, None]) ** 2
        dots = (torch.exp(-away / 1.5) * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
        drawn = draw(dots, landmarks, matrices, size, Caricaturist(IBUG), torch.full((6,), strength), generator(3))
        linear, offset = drawn.matrices[:, :, :2], drawn.matrices[:, :, 2]
        labels = torch.linalg.solve(linear, (drawn.landmarks[:, point] - offset)[..., None])[..., 0]
        for face in range(6):
            if not (labels[face] > 20).all() or not (labels[face] < size - 20).all():
                continue
            place = found(drawn.pictures[face, 0], labels[face])
            assert (place - labels[face]).abs().max() < 2, (point, face)  # of 320; the dot itself is stretched
            checked += 1
    assert checked > 60


def test_steering_points_land_exactly_and_others_where_the_picture_goes() -> None:
    old = torch.tensor([[[40.0, 40], [120, 40], [80, 110], [81, 110.5]]], dtype=torch.float64)
    wanted = old + torch.tensor([[[6.0, -4], [-3, 5], [2, 9], [-9, 9]]], dtype=torch.float64)
    warp, new, share = unfolded(old, wanted, SIDE, torch.tensor([5.0]))
    assert share.item() == 1
    torch.testing.assert_close(new[:, :3], wanted[:, :3], atol=1e-6, rtol=0)
    torch.testing.assert_close(warp(new), old, atol=1e-6, rtol=0)  # the fourth, too near the third, follows it
    assert (new[0, 3] - new[0, 2]).norm() < 4


def test_folds_are_found_and_undone() -> None:
    old = torch.tensor([[[50.0, 80], [70, 80], [90, 80], [110, 80]]], dtype=torch.float64)
    crossed = old[:, [0, 2, 1, 3]].clone()
    assert folds(spline(crossed, old, SIDE, torch.tensor([1.0]))).item()
    assert not folds(spline(old, old, SIDE, torch.tensor([1.0]))).item()
    warp, new, share = unfolded(old, crossed, SIDE, torch.tensor([1.0]))
    assert 0 < share.item() < 1
    assert not folds(warp).item()
    assert (new[0, 1:, 0] > new[0, :-1, 0]).all()
    old = torch.tensor([[[78.0, 80], [82, 80]]], dtype=torch.float64)
    hopeless = torch.tensor([[[120.0, 80], [40, 80]]], dtype=torch.float64)
    warp, new, share = unfolded(old, hopeless, SIDE, torch.tensor([1.0]))
    assert share.item() == 0
    torch.testing.assert_close(new, old, atol=1e-6, rtol=0)
    assert not folds(warp).item()


@given(seed=st.integers(0, 10_000), strength=st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_no_fold_is_ever_accepted(seed: int, strength: float) -> None:
    _, landmarks = faces(3)
    warp, new, share = Caricaturist(IBUG)(landmarks, SIDE, torch.full((3,), strength), generator(seed))
    assert not folds(warp).any()
    assert torch.isfinite(new).all()
    assert ((share >= 0) & (share <= 1)).all()
    torch.testing.assert_close(warp(new), landmarks.double(), atol=1e-3, rtol=0)


def test_a_warp_that_cannot_be_inverted_takes_a_smaller_step() -> None:
    """Of the third of these faces Newton's method ends 7.5 pixels away at a step of 0.4, which folds nowhere."""
    _, landmarks = faces(3)
    caricaturist = Caricaturist(IBUG)
    warp, new, share = caricaturist(landmarks, SIDE, torch.full((3,), 2.0), generator(150))
    torch.testing.assert_close(warp(new), landmarks.double(), atol=1e-3, rtol=0)
    assert ((share > 0) & (share <= 0.4)).all()


def test_the_inverse_says_where_it_did_not_converge() -> None:
    old = torch.tensor([[[50.0, 80], [70, 80], [90, 80], [110, 80]]], dtype=torch.float64).expand(2, -1, -1)
    warp = spline(old + torch.tensor([3.0, 2.0]), old, SIDE, torch.ones(2))
    start = old.clone()
    start[1] -= 50  # too far for twelve steps of 2 % of the side
    places, error = warp.invert(old, start)
    torch.testing.assert_close(places[0], old[0] + torch.tensor([3.0, 2.0]), atol=1e-6, rtol=0)
    assert error[0] < 1e-6
    assert error[1] > 5


def test_no_strength_changes_nothing() -> None:
    pictures, landmarks = faces(2)
    matrices = middle(2, SIDE, SIDE)
    drawn = draw(pictures, landmarks, matrices, SIDE, Caricaturist(IBUG), torch.zeros(2), generator())
    torch.testing.assert_close(drawn.landmarks, landmarks, atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn.pictures, pictures.float() / 255, atol=2e-3, rtol=0)
    torch.testing.assert_close(drawn.matrices, matrices, atol=1e-4, rtol=0)


def test_strength_moves_points_further() -> None:
    _, landmarks = faces(6)
    caricaturist = Caricaturist(IBUG)
    moved = [
        (caricaturist(landmarks, SIDE, torch.full((6,), one), generator(1))[1] - landmarks).norm(dim=2).mean()
        for one in (0.4, 0.8, 1.3)
    ]
    assert moved[0] < moved[1] < moved[2]
    assert moved[1] > 0.02 * SIDE


@pytest.mark.parametrize("name", BUILTIN)
def test_every_layout_can_be_exaggerated(name: str) -> None:
    one = layout(name)
    landmarks = torch.from_numpy(one.diagram.copy())[None] * 90 + 35
    warp, new, share = Caricaturist(one)(landmarks, SIDE, torch.ones(1), generator(2))
    assert not folds(warp).any()
    assert share.item() > 0
    assert (new - landmarks).norm(dim=2).mean() > 1


def test_seeds_reproduce_and_a_batch_is_one_by_one() -> None:
    pictures, landmarks = faces(4)
    matrices, strength = middle(4, SIDE, SIDE), torch.tensor([0.3, 0.6, 1.0, 1.4])
    caricaturist = Caricaturist(IBUG)
    whole = draw(pictures, landmarks, matrices, SIDE, caricaturist, strength, generator(5))
    again = draw(pictures, landmarks, matrices, SIDE, caricaturist, strength, generator(5))
    torch.testing.assert_close(whole.pictures, again.pictures, atol=0, rtol=0)
    other = draw(pictures, landmarks, matrices, SIDE, caricaturist, strength, generator(6))
    assert (whole.landmarks - other.landmarks).abs().max() > 1
    draws, styles = generator(5), generator(8)
    styled = stylise(whole.pictures, generator(8))
    for index in range(4):
        part = slice(index, index + 1)
        one = draw(pictures[part], landmarks[part], matrices[part], SIDE, caricaturist, strength[part], draws)
        torch.testing.assert_close(one.landmarks, whole.landmarks[part], atol=1e-3, rtol=0)
        torch.testing.assert_close(one.pictures, whole.pictures[part], atol=2e-3, rtol=0)
        torch.testing.assert_close(stylise(whole.pictures[part], styles), styled[part], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("size", [32, 160])
def test_styles_change_colours_and_not_places(name: str, size: int) -> None:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((x - 0.4 * size) ** 2 + (y - 0.6 * size) ** 2 < (0.2 * size) ** 2).float()
    picture = (0.85 - 0.7 * disc)[None, None].expand(2, 3, -1, -1) * torch.tensor([1.0, 0.9, 0.8])[:, None, None]
    drawn = STYLES[name](picture, generator(1))
    assert drawn.shape == picture.shape
    assert torch.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn - picture).abs().mean() > 0.005
    unlike = (drawn - drawn[:, :, :3, :3].mean((2, 3), keepdim=True)).abs().sum(1)[0]
    middle_x, middle_y = ((unlike * one).sum() / unlike.sum() for one in (x, y))
    assert middle_x.item() == pytest.approx(0.4 * size, abs=0.08 * size)
    assert middle_y.item() == pytest.approx(0.6 * size, abs=0.08 * size)


def test_the_mean_shape_does_not_depend_on_pose() -> None:
    rng = np.random.default_rng(0)
    shape = IBUG.diagram.astype(np.float64) - IBUG.diagram.mean(axis=0)
    turned = []
    for _ in range(20):
        angle, scale = rng.uniform(-3, 3), rng.uniform(10, 300)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned.append(shape @ turn.T + rng.normal(0, 100, 2))
    mean = procrustes_mean(torch.from_numpy(np.array(turned)), xp=torch).numpy()
    relative = np.linalg.norm(mean[36] - mean[45]) / np.linalg.norm(mean[8] - mean[27])
    expected = np.linalg.norm(shape[36] - shape[45]) / np.linalg.norm(shape[8] - shape[27])
    assert relative == pytest.approx(expected, rel=1e-6)


def test_a_batch_of_the_recipe_mixes_photographs_and_caricatures() -> None:
    pictures, landmarks = faces(6)
    settings_ = dict.fromkeys(Augment.model_fields, 0.0)
    mirror = torch.from_numpy(IBUG.mirror.copy())

    def batch(caricatures: Caricatures | None) -> tuple[Tensor, Tensor]:
        out, plain, points = augment(
            pictures, landmarks, config=Augment(**settings_), mirror=mirror, size=64, generator=generator(4),
            caricatures=caricatures,
        )  # fmt: skip
        assert out.shape == plain.shape == (6, 3, 64, 64)
        return out, points

    plain, points = batch(None)
    mixed, changed = batch(Caricatures(Caricature(share=0.5), Caricaturist(IBUG)))
    differs = (changed - points).abs().amax(dim=(1, 2)) > 0.5
    assert 0 < differs.sum() < 6
    torch.testing.assert_close(mixed[~differs], plain[~differs])
    boxes = changed.amax(dim=1) - changed.amin(dim=1), points.amax(dim=1) - points.amin(dim=1)
    torch.testing.assert_close(boxes[0].amax(dim=1), boxes[1].amax(dim=1), rtol=0.02, atol=0)  # the crop follows


def test_sampling_between_pixels() -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    places = torch.tensor([[[[1.0, 2.0], [1.5, 2.0], [9.0, 0.0]]]])
    torch.testing.assert_close(sample_at(picture, places), torch.tensor([[[[9.0, 9.5, 3.0]]]]))
    still = Spline(*spline(torch.empty(1, 0, 2), torch.empty(1, 0, 2), 4, torch.ones(1)))
    torch.testing.assert_close(warped(picture, still, middle(1, 4, 4), 4), picture)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_stylised_faces_are_labelled_and_reproduce(strength: str) -> None:
    pictures, landmarks = faces(5)
    drawn, points = stylised(pictures, landmarks, Caricaturist(IBUG), strength)
    assert drawn.shape == pictures.shape
    assert drawn.dtype == torch.uint8
    assert points.shape == landmarks.shape
    again, same = stylised(pictures, landmarks, Caricaturist(IBUG), strength)
    torch.testing.assert_close(again, drawn, atol=0, rtol=0)
    torch.testing.assert_close(same, points, atol=0, rtol=0)
    sides = [(one.amax(dim=1) - one.amin(dim=1)).amax(dim=1) for one in (points, landmarks)]
    torch.testing.assert_close(sides[0], sides[1], rtol=0.02, atol=0)  # as large in the picture as before
    other, _ = stylised(pictures, landmarks, Caricaturist(IBUG), strength, seed=1)
    assert (other != drawn).any()


@pytest.mark.slow
def test_the_command_draws_a_sheet_and_a_set_to_score_on(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "w300", per_folder=4, validation=6)
    message = run("caricatures", "--data", root, "-o", tmp_path / "sheet.png", "--strength", "strong")
    assert "6 caricatures, strong" in message
    assert read_picture(tmp_path / "sheet.png").shape[1] % 8 == 0
    run("caricatures", "--data", root, "-o", tmp_path / "set", "--seed", "3")
    assert len(list((tmp_path / "set").glob("*.pts"))) == len(list((tmp_path / "set").glob("*.png"))) == 6
    message = run(
        "evaluate", tmp_path / "set", "--format", "folder", "--layout", "ibug68", "-m", "nano", "-o", tmp_path / "out"
    )
    assert "6 faces" in message or "NME" in message
    with pytest.raises(OutputError, match=r"a sheet is written as a \.png file"):
        run("caricatures", "--data", root, "-o", tmp_path / "x.jpg")
    broken = next(iter(sorted((root / "afw").glob("face_0.*g"))))
    broken.write_bytes(broken.read_bytes()[:200])
    run("caricatures", "--data", root, "-o", tmp_path / "rest", code=1)
    assert len(list((tmp_path / "rest").glob("*.png"))) == 5
    with pytest.raises(ConfigError, match="strength 'wild'; allowed: weak, medium, strong"):
        run("caricatures", "--data", root, "-o", tmp_path / "x.png", "--strength", "wild")


@pytest.mark.slow
def test_a_recipe_with_caricatures_trains_and_reproduces(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "w300", per_folder=8, validation=4)
    stage = {"size": 64, "epochs": 2, "batch": 8, "learning_rate": 5e-3}
    table = {"name": "drawn", "network": {"size": "nano"}, "stages": [stage], "caricature": {"share": 0.5}}
    config = parse(table, "x")
    faces_ = labelled_sets(config.data, root, IBUG)
    curves = []
    for number in range(2):
        trainer = Trainer(config, faces_, tmp_path / f"run{number}", device="cpu")
        trainer.run()
        curves.append([(row["loss"], row["validation_nme"]) for row in trainer.rows])
    assert curves[0] == curves[1]
    plain = Trainer(parse({**table, "caricature": None}, "x"), faces_, tmp_path / "plain", device="cpu")
    plain.run()
    assert plain.rows[0]["loss"] != curves[0][0][0]
    with pytest.raises(ConfigError, match=r"unknown key caricature\.strenght; allowed there: share, strength, style"):
        parse({**table, "caricature": {"strenght": 1}}, "x")
