"""The face store keeps labels on the picture; batches depend on seed and epoch alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from drawn_faces import draw_face
from octamark.datasets import Sample
from octamark.errors import PictureError
from octamark.layouts import layout, loads
from octamark.training.data import (
    ROOM,
    FaceStore,
    epoch_batches,
    mirror_misfits,
    mixed_batch,
    set_shares,
    steps_per_epoch,
)


def blobs(landmarks: NDArray[np.float64], width: int, height: int, sigma: float) -> NDArray[np.uint8]:
    """Three landmarks as a picture (height, width, 3): the blob of landmark k is in channel k."""
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    squared = (x - landmarks[:, 0]) ** 2 + (y - landmarks[:, 1]) ** 2
    return np.round(255 * np.exp(-squared / (2 * sigma**2))).astype(np.uint8)


def centroids(pictures: Tensor) -> Tensor:
    """The centre of mass of each channel, (n, 3, 2)."""
    pictures = pictures.double()
    place = torch.arange(pictures.shape[-1], dtype=torch.float64)
    columns, rows = pictures.sum(dim=2), pictures.sum(dim=3)
    assert columns.sum(dim=2).min() > 0
    return torch.stack([(mass * place).sum(dim=2) / mass.sum(dim=2) for mass in (columns, rows)], dim=2)


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm(dim=-1).max())


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A small face, which is enlarged, and one so large that it is reduced first; neither in the middle."""
    out = []
    shapes = {"small": (90, 70, 1.5, [[20, 18.5], [52.5, 20], [30, 46]]),
              "large": (700, 640, 9.0, [[160.5, 200], [420, 190], [300, 470.25]])}  # fmt: skip
    for name, (width, height, sigma, points) in shapes.items():
        landmarks = np.array(points, dtype=np.float64)
        Image.fromarray(blobs(landmarks, width, height, sigma)).save(tmp_path / f"{name}.png")
        out.append(Sample(name, tmp_path / f"{name}.png", landmarks.astype(np.float32)))
    return out


@pytest.mark.parametrize("size", [32, 64, 96])
def test_loaded_landmarks_are_on_the_picture(samples: list[Sample], size: int) -> None:
    seen: list[None] = []
    store = FaceStore.load(samples, size, 1.25, advance=lambda: seen.append(None))
    side = round(size * ROOM)
    assert len(store) == len(seen) == 2
    assert store.pictures.shape == (2, 3, side, side)
    assert store.pictures.dtype == torch.uint8
    assert store.landmarks.shape == (2, 3, 2)
    assert store.landmarks.dtype == torch.float32
    assert far(centroids(store.pictures), store.landmarks) < 0.1  # pixels


def test_network_sees_margin_times_the_landmark_box(samples: list[Sample]) -> None:
    landmarks = FaceStore.load(samples, 64, 1.25).landmarks
    low, high = landmarks.amin(dim=1), landmarks.amax(dim=1)
    torch.testing.assert_close((high - low).amax(dim=1), torch.full((2,), 64 / 1.25))
    torch.testing.assert_close((high + low) / 2, torch.full((2, 2), 102 / 2 - 0.5))


@pytest.mark.parametrize("size", [32, 40, 48, 96])
def test_resized_landmarks_stay_on_the_picture(samples: list[Sample], size: int) -> None:
    store = FaceStore.load(samples, 64, 1.25)
    kept = store.pictures.clone(), store.landmarks.clone()
    smaller = store.resized(size)
    side = round(size * ROOM)
    assert smaller.pictures.shape == (2, 3, side, side)
    assert smaller.pictures.dtype == torch.uint8
    assert smaller.landmarks.dtype == torch.float32
    assert far(centroids(smaller.pictures), smaller.landmarks) < 0.1  # pixels
    assert torch.equal(store.pictures, kept[0])
    assert torch.equal(store.landmarks, kept[1])


def test_resized_averages_areas() -> None:
    pictures = torch.randint(0, 256, (2, 3, 102, 102), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    half = FaceStore(pictures, torch.tensor([[[0.5, 100.5]], [[50.5, 50.5]]]), torch.ones(2, 1)).resized(32)
    averages = torch.nn.functional.avg_pool2d(pictures.float(), 2)
    assert (half.pictures.float() - averages).abs().max() <= 0.5
    assert half.landmarks.tolist() == [[[0.0, 50.0]], [[25.0, 25.0]]]


def test_resized_to_its_own_size_is_itself(samples: list[Sample]) -> None:
    store = FaceStore.load(samples, 32, 1.25)
    assert store.resized(32) is store


def test_unreadable_picture_is_named(samples: list[Sample], tmp_path: Path) -> None:
    missing = Sample("gone", tmp_path / "gone.png", samples[0].landmarks)
    with pytest.raises(PictureError, match=r"gone\.png"):
        FaceStore.load([*samples, missing], 32, 1.25)


def epoch(count: int, batch: int, seed: int = 0, number: int = 0, rank: int = 0, world: int = 1) -> list[list[int]]:
    return [b.tolist() for b in epoch_batches(count, batch, seed, number, rank=rank, world=world)]


def chain(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("count", "batch"), [(20, 4), (23, 6), (5, 16)])
def test_ranks_share_each_batch(count: int, batch: int, world: int) -> None:
    whole = epoch(count, batch)
    shares = [epoch(count, batch, rank=rank, world=world) for rank in range(world)]
    assert all(len(share) == len(whole) for share in shares)
    for step, faces in enumerate(whole):
        parts = [share[step] for share in shares]
        assert sorted(chain(parts)) == sorted(faces)  # nothing twice, nothing left out
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("count", "batch", "steps", "length"), [(20, 4, 5, 4), (23, 6, 3, 6), (5, 16, 1, 5), (5, 5, 1, 5), (1, 1, 1, 1)]
)
def test_batches_of_one_epoch(count: int, batch: int, steps: int, length: int) -> None:
    """No face twice; the incomplete last batch is dropped; a set smaller than a batch is one batch."""
    batches = epoch(count, batch)
    assert [len(faces) for faces in batches] == [length] * steps
    assert steps_per_epoch(count, batch) == steps
    faces = chain(batches)
    assert len(set(faces)) == len(faces)
    assert set(faces) <= set(range(count))


def test_order_depends_on_seed_and_epoch_only() -> None:
    orders = []
    for seed, number, elsewhere in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 1, 1)):
        torch.manual_seed(elsewhere)
        orders.append(chain(epoch(40, 8, seed, number)))
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


def test_order_does_not_depend_on_batch() -> None:
    assert chain(epoch(24, 4)) == chain(epoch(24, 8))


def test_epochs_of_fixed_length_follow_each_other() -> None:
    """Steps an epoch set by hand: whole batches, each face once a round, whatever an epoch's end falls on."""
    epochs = [[b.tolist() for b in epoch_batches(10, 4, 0, number, steps=3)] for number in range(5)]
    assert all([len(batch) for batch in batches] == [4, 4, 4] for batches in epochs)
    faces = chain(chain(epochs))  # type: ignore[arg-type]
    assert all(sorted(faces[10 * turn : 10 * turn + 10]) == list(range(10)) for turn in range(6))
    halves = [chain([b.tolist() for b in epoch_batches(10, 4, 0, 1, steps=3, rank=r, world=2)]) for r in range(2)]
    assert sorted(chain(halves)) == sorted(chain(epochs[1]))


def test_sets_get_their_shares_and_each_its_faces_in_turn() -> None:
    counts, shares = [100, 7, 30], set_shares([6.0, 1.0, 3.0])
    assert shares == [0.6, 0.1, 0.3]
    batches = [mixed_batch(counts, shares, 8, 5, step) for step in range(70)]
    assert all(len(batch) == 8 for batch in batches)
    faces = torch.cat(batches)
    of_set = torch.bucketize(faces, torch.tensor([100, 107]), right=True)
    assert [int((of_set == number).sum()) for number in range(3)] == [336, 56, 168]
    small = (faces[of_set == 1] - 100).tolist()
    assert all(sorted(small[7 * turn : 7 * turn + 7]) == list(range(7)) for turn in range(8))
    assert small[:7] != small[7:14]
    assert set_shares([None, None]) is None


def test_a_mirror_that_does_not_fit_the_labels_is_named(tmp_path: Path) -> None:
    """ibug68 numbers both eyes from the left: right_eye_0 is an outer corner, left_eye_0 an inner one."""
    ibug, chosen = layout("ibug68"), [36, 39, 42, 45, 30]
    names = [ibug.point_names[index] for index in chosen]
    faces = [Sample(str(seed), tmp_path, draw_face(seed)[1]) for seed in range(20)]
    assert mirror_misfits(faces, ibug) == []
    few = [replace(face, landmarks=face.landmarks[chosen]) for face in faces]
    assert mirror_misfits(few, loads(f'name = "own"\npoints = {names}', "own")) == names[:4]
    right = loads(f'name = "own"\npoints = {names}\nmirror = [[0, 3], [1, 2]]', "own")
    assert mirror_misfits(few, right) == []
    wrong = loads(f'name = "own"\npoints = {names}', "own")
    assert mirror_misfits(few[:7], wrong) == []
    for face in few[:12]:
        face.landmarks[0] = np.nan  # whose boxes tell nothing then
    assert mirror_misfits(few, right) == []
    assert mirror_misfits(few, wrong) == names[:4]
