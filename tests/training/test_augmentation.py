"""Augmentation: labels follow the picture, damage leaves them alone, one generator decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from octamark.nets.sampling import cut, move_points
from octamark.training.augmentation import augment, sensor, similarity
from octamark.training.data import ROOM
from octamark.training.recipe import Augment

STILL = Augment(**dict.fromkeys(Augment.model_fields, 0.0))
MIRROR = torch.tensor([1, 2, 0])  # not its own inverse: the direction of the permutation shows
DAMAGES = ("blur", "low_resolution", "sensor", "noise", "jpeg", "occlusion", "grey")
COLOURS = ("brightness", "contrast", "colour")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(landmarks: Tensor, side: int, sigma: float = 2.0) -> Tensor:
    """Landmarks (n, 3, 2) as pictures (n, 3, side, side) uint8: the blob of landmark k is in channel k."""
    place = torch.arange(side, dtype=torch.float64)
    x, y = landmarks[..., 0, None, None], landmarks[..., 1, None, None]
    squared = (place - x) ** 2 + (place[:, None] - y) ** 2
    return (255 * torch.exp(-squared / (2 * sigma**2))).round().to(torch.uint8)


def centroids(pictures: Tensor) -> Tensor:
    """The centre of mass of each channel, (n, 3, 2)."""
    place = torch.arange(pictures.shape[-1], dtype=pictures.dtype)
    columns, rows = pictures.sum(dim=2), pictures.sum(dim=3)
    assert columns.sum(dim=2).min() > 0
    return torch.stack([(mass * place).sum(dim=2) / mass.sum(dim=2) for mass in (columns, rows)], dim=2)


def faces(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Textured pictures (n, 3, side, side) uint8, smooth enough to show blur, and landmarks (n, 3, 2)."""
    coarse = torch.rand(count, 3, side // 4 + 1, side // 4 + 1, generator=generator(seed))
    pictures = (coarse * 255).to(torch.uint8).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return pictures[:, :, :side, :side], side * torch.rand(count, 3, 2, generator=generator(seed + 1))


def changed(side: int = 102, size: int = 64, count: int = 4, seed: int = 0, **settings: float) -> tuple[Tensor, Tensor]:
    """A batch with nothing but ``settings`` at work."""
    pictures, landmarks = faces(count, side, 20)
    config = STILL.model_copy(update=settings)
    pictures, _, points = augment(
        pictures, landmarks, config=config, mirror=MIRROR, size=size, generator=generator(seed)
    )
    return pictures, points


@pytest.mark.parametrize(("mirror", "rotation"), [(0.0, 0.0), (0.0, 60.0), (1.0, 0.0), (1.0, 60.0), (0.5, 180.0)])
def test_labels_follow_the_picture(mirror: float, rotation: float) -> None:
    config = Augment(rotation=rotation, scale=0.12, shift=0.07, mirror=mirror)
    for seed in range(5):
        landmarks = 50.5 + 16 * (torch.rand(20, 3, 2, generator=generator(seed)) - 0.5)
        matrices, mirrored = similarity(config, 20, 102, 64, generator(100 + seed))
        crops = cut(blobs(landmarks, 102), matrices, 64)
        moved = move_points(landmarks, matrices, mirrored, MIRROR)
        assert (moved - 31.5).abs().max() < 25.5, "a blob leaves the crop: the example is no test"
        # after a mirror landmark k is where landmark MIRROR[k] was, and so is its blob
        seen = torch.where(mirrored[:, None, None], centroids(crops)[:, MIRROR], centroids(crops))
        assert (seen - moved).norm(dim=-1).max() < 0.06  # pixels
        assert 0 < mirrored.float().mean() < 1 if mirror == 0.5 else (mirrored == bool(mirror)).all()


def test_mirror_alone() -> None:
    """x' = W - 1 - x, and the sides change names."""
    pictures, points = changed(mirror=1.0)
    straight, landmarks = changed()
    torch.testing.assert_close(pictures, straight.flip(3), rtol=0, atol=1e-4)
    landmarks[..., 0] = 64 - 1 - landmarks[..., 0]
    torch.testing.assert_close(points, landmarks[:, MIRROR], rtol=0, atol=1e-4)


def test_strengths_are_those_of_the_recipe() -> None:
    """Standard deviations of angle (degrees), log scale and shift (share of the crop) of many similarities."""
    config = STILL.model_copy(update={"rotation": 18.0, "scale": 0.12, "shift": 0.05, "mirror": 0.3})
    matrices, mirrored = similarity(config, 4000, 102, 64, generator(0))
    second = matrices[:, :, 1]  # the column that no mirror turns: scale * (-sin, cos)
    angle, scale = torch.rad2deg(torch.atan2(-second[:, 0], second[:, 1])), second.norm(dim=1).log()
    shift = matrices[:, :, :2] @ torch.full((2,), 31.5) + matrices[:, :, 2] - 50.5
    for values, expected in ((angle, 18.0), (scale, 0.12), (shift, 0.05 * 64)):
        assert float(values.std()) == pytest.approx(expected, rel=0.05)
        assert abs(float(values.mean())) < 0.05 * expected
    assert float(mirrored.float().mean()) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(torch.linalg.det(matrices[:, :, :2]) < 0, mirrored)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_nothing_asked_gives_the_middle(size: int) -> None:
    """At an odd difference the middle lies between pixels: each is the average of its four neighbours."""
    side = round(size * ROOM)
    pictures, landmarks = faces(3, side, 11)
    out, _, points = augment(pictures, landmarks, config=STILL, mirror=MIRROR, size=size, generator=generator(0))
    first, odd = divmod(side - size, 2)
    assert odd == (size == 32)
    stored = pictures.double() / 255
    if odd:
        stored = (stored[:, :, 1:] + stored[:, :, :-1]) / 2
        stored = (stored[..., 1:] + stored[..., :-1]) / 2
    expected = stored[:, :, first : first + size, first : first + size]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.5 / 255 / 2)
    torch.testing.assert_close(points, landmarks - (side - size) / 2, rtol=0, atol=1e-4)


def test_seed_decides_everything() -> None:
    everything = dict.fromkeys((*DAMAGES, "mirror"), 0.5) | {"rotation": 20.0, "scale": 0.1, "shift": 0.1}
    batches = []
    for seed, elsewhere in ((1, 8), (1, 9), (2, 8)):
        torch.manual_seed(elsewhere)
        batches.append(changed(count=8, seed=seed, **everything, **dict.fromkeys(COLOURS, 0.2)))
    for first, second, third in zip(*batches, strict=True):
        assert torch.equal(first, second)
        assert not torch.isclose(first, third).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("name", [*DAMAGES, *COLOURS])
def test_damage_changes_pictures_but_not_points(name: str) -> None:
    before, landmarks = changed()
    after, points = changed(**{name: 1.0})
    assert after.shape == (4, 3, 64, 64)
    assert after.dtype == torch.float32
    assert torch.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1
    assert ((after - before).abs().mean(dim=(1, 2, 3)) > 1e-3).all()
    assert torch.equal(points, landmarks)


@pytest.mark.parametrize(("name", "most"), [("blur", 0.9), ("low_resolution", 0.3)])
def test_blur_takes_detail(name: str, most: float) -> None:
    before, after = (
        changed(count=32, **strength)[0].diff(dim=3).square().mean(dim=(1, 2, 3)) for strength in ({}, {name: 1.0})
    )
    assert (after < before).all()
    assert after.mean() < most * before.mean()


def test_noise_is_uncorrelated() -> None:
    before, after = changed()[0], changed(noise=1.0)[0]
    added = torch.where((before > 0.3) & (before < 0.7), after - before, 0.0)  # where nothing is clipped
    assert added.mean().abs() < 0.1 * added.std()
    assert (added[..., 1:] * added[..., :-1]).mean().abs() < 0.1 * added.var()
    assert added.abs().max() < 0.08 * 5


def test_a_sensor_has_coarse_grain_and_half_its_pictures_are_grey() -> None:
    flat = torch.tensor([0.1, 0.8]).reshape(1, 1, 1, 2).repeat_interleave(32, dim=3).expand(64, 3, 64, 64)
    seen = sensor(flat, generator(0))
    dark, bright = (part - level for part, level in ((seen[..., 4:28], 0.1), (seen[..., 36:60], 0.8)))
    assert (bright[..., 1:] * bright[..., :-1]).mean() > 0.5 * bright.var()  # what is enlarged has neighbours alike
    assert 0.005 < bright.std() < 0.1
    assert dark.std() > 1.2 * bright.std()  # photons are few there, and gamma enlarges what is left
    grey = (seen == seen[:, :1]).flatten(1).all(dim=1)
    assert 20 <= int(grey.sum()) <= 44


def test_a_sensor_blurs_by_motion() -> None:
    """Half of the pictures: an edge across the motion is softer than what reducing and enlarging alone leave."""
    edge = torch.zeros(200, 3, 64, 64)
    edge[..., 32:] = 1.0
    soft = sensor(edge, generator(3))[..., 31:33].diff(dim=3).abs().mean(dim=(1, 2, 3))
    assert torch.quantile(soft, 0.9) > 1.15 * torch.quantile(soft, 0.1)


@pytest.mark.parametrize("place", [(20.0, 30.0), (40.5, 24.0)])
def test_a_sensor_leaves_things_where_they_are(place: tuple[float, float]) -> None:
    spot = blobs(torch.tensor(place).expand(1, 1, 2), 64, sigma=4.0) / 255
    seen = torch.stack(
        [sensor(0.2 + 0.7 * spot.expand(8, 3, 64, 64), generator(seed)).mean(dim=(0, 1)) for seed in range(60)]
    )
    mean = seen.mean(dim=0)
    above = (mean - mean[:4].mean() - 0.05).clamp(min=0)  # the noise around it has gone in the mean
    torch.testing.assert_close(centroids(above[None, None])[0, 0], torch.tensor(place), atol=0.15, rtol=0)


def test_colour_is_saturation_too() -> None:
    """Gains alone keep each channel a multiple of itself; saturation mixes them."""
    before, after = changed(count=32)[0], changed(count=32, colour=0.5)[0]
    red = torch.stack([before[:, 0].flatten(1), after[:, 0].flatten(1)], dim=1)
    assert sum(float(torch.corrcoef(pair)[0, 1]) < 0.999 for pair in red) > 16


@pytest.mark.parametrize("name", DAMAGES)
def test_share_is_the_share_of_pictures(name: str) -> None:
    before, _ = changed(32, 32, count=200)
    after, _ = changed(32, 32, count=200, **{name: 0.3})
    touched = ((after - before).abs() > 1e-3).flatten(1).any(dim=1)
    assert 40 <= int(touched.sum()) <= 80


@pytest.mark.parametrize("seed", range(5))
def test_grey_has_equal_channels(seed: int) -> None:
    grey, _ = changed(grey=1.0, brightness=0.1, contrast=0.1, seed=seed)
    assert (grey - grey[:, :1]).abs().max() < 1e-5
    assert grey.std() > 0.02


@pytest.mark.parametrize("seed", range(5))
def test_occlusion_is_one_rectangle(seed: int) -> None:
    before, _ = changed(count=16)
    after, _ = changed(count=16, occlusion=1.0, seed=seed)
    for different in (before != after).any(dim=1):
        assert 0 < different.float().mean() < 0.6
        rows, columns = different.any(dim=1).nonzero()[:, 0], different.any(dim=0).nonzero()[:, 0]
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert different.sum() > 0.9 * area


def test_stored_pictures_stay_as_they_are() -> None:
    pictures, landmarks = faces(4, 102, 3)
    kept = pictures.clone(), landmarks.clone()
    config = Augment(**dict.fromkeys(DAMAGES, 1.0))
    augment(pictures, landmarks, config=config, mirror=MIRROR, size=64, generator=generator(0))
    assert torch.equal(pictures, kept[0])
    assert torch.equal(landmarks, kept[1])
