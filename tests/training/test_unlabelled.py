"""Unlabelled folders: every face found and cropped as in training, everything else counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from command_line import run
from drawn_faces import write_w300
from octamark.errors import DataError, OutputError
from octamark.geometry import apply, crop_transform, detector_squares, invert
from octamark.inference.landmarker import load
from octamark.training.data import ROOM
from octamark.training.shards import PictureStack, open_shards
from octamark.training.starting import checkpoint_path, trained_network
from octamark.training.unlabelled import Counts, UnlabelledFaces, collect, model_rule, pictures_in, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photograph: NDArray[np.uint8]) -> Path:
    """A portrait in two sizes, one of two faces, one too small, and what a real folder has besides."""
    root = tmp_path_factory.mktemp("own")
    (root / "inside" / "deep").mkdir(parents=True)
    face = photograph[:300, 70:370]
    Image.fromarray(face).save(root / "one.png")
    Image.fromarray(face).resize((150, 150)).save(root / "inside" / "small.JPG", quality=95)
    Image.fromarray(np.hstack([face, face[:, ::-1]])).save(root / "inside" / "deep" / "two.png")
    tiny = np.full((64, 64, 3), 90, np.uint8)
    tiny[12:52, 12:52] = cv2.resize(face, (40, 40), interpolation=cv2.INTER_AREA)
    Image.fromarray(tiny).save(root / "tiny.png")
    Image.fromarray(np.full((80, 80, 3), 120, np.uint8)).save(root / "wall.png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "broken.jpg").write_bytes((root / "one.png").read_bytes()[:3000])
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"")
    return root


def test_everything_is_found_or_counted(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    faces = collect(
        folder, tmp_path / "out", 64, 1.25, *model_rule("small"), advance=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 7) for done in range(1, 8)]
    assert faces.counts == Counts(faces=4, pictures=3, broken=1, empty=1, faceless=2, small=1)
    assert len(faces) == 4
    assert faces.pictures.shape == (4, 3, 205, 205)
    assert faces.pictures[:].dtype == torch.uint8
    assert "2 pictures without a face, 1 broken, 1 empty files, 1 faces under 32" in str(faces.counts)


def test_crops_are_those_of_the_released_rule(folder: Path, tmp_path: Path) -> None:
    """The network's crop, cut from the picture as prediction does, is the middle of the stored one."""
    picture = np.asarray(Image.open(folder / "one.png"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.png").write_bytes((folder / "one.png").read_bytes())
    stored = (
        collect(tmp_path / "in", tmp_path / "out", 128, 1.25, *model_rule("small"))
        .pictures[:1][0]
        .permute(1, 2, 0)
        .numpy()
    )
    model = load("small")
    found = model(picture)
    rule = model.card.crop
    square = detector_squares(found.boxes[:1], rule.detector_scale * ROOM, rule.detector_shift)[0]
    landmarks = apply(invert(crop_transform(square, stored.shape[0])), found.landmarks[0])
    box = [*landmarks.min(axis=0), *landmarks.max(axis=0)]
    assert max(box[2] - box[0], box[3] - box[1]) == pytest.approx(stored.shape[0] / ROOM / 1.25, rel=0.12)
    again = apply(crop_transform(np.array([102.0, 102.0, 205.0]), 205), landmarks)
    seen = model(stored, [[again[:, 0].min(), again[:, 1].min(), again[:, 0].max(), again[:, 1].max()]])
    assert np.linalg.norm(seen.landmarks[0] - landmarks, axis=1).mean() < 4  # pixels of 205
    wider = collect(tmp_path / "in", tmp_path / "wider", 128, 2.0, *model_rule("small")).pictures[:]
    assert not torch.equal(wider, open_shards(tmp_path / "out").pictures[:])


@pytest.mark.slow
def test_large_faces_are_kept_larger_for_larger_networks(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "one.png") as image:
        (tmp_path / "in").mkdir()
        image.resize((900, 900)).save(tmp_path / "in" / "large.png")
    rule, sources = model_rule("small")
    side = {
        size: collect(tmp_path / "in", tmp_path / str(size), size, 1.25, rule, sources).pictures.side
        for size in (128, 256, 512)
    }
    assert side[128] == 205
    assert side[256] == round(256 * ROOM)
    assert 205 < side[512] < round(512 * ROOM)  # as large as it is


def test_the_folder_keeps_everything(folder: Path, tmp_path: Path) -> None:
    faces = collect(folder, tmp_path / "faces", 64, 1.3, *model_rule("small"))
    again = read(tmp_path / "faces")
    assert torch.equal(again.pictures[:], faces.pictures[:])
    assert (again.margin, again.counts) == (1.3, faces.counts)
    with pytest.raises(OutputError, match="faces: exists already"):
        collect(folder, tmp_path / "faces", 64, 1.3, *model_rule("small"))


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    """One .safetensors file with the counts in its metadata."""
    pictures = torch.randint(0, 256, (2, 3, 205, 205), dtype=torch.uint8)
    meta = json.dumps({"margin": 1.3, "counts": {"faces": 2, "pictures": 5, "small": 1}})
    safetensors.torch.save_file({"pictures": pictures}, tmp_path / "x.safetensors", {"octamark unlabelled": meta})
    faces = read(tmp_path / "x.safetensors")
    assert torch.equal(faces.pictures[:], pictures)
    assert (faces.margin, faces.counts) == (1.3, Counts(faces=2, pictures=5, small=1))


def test_resized_averages_and_never_enlarges() -> None:
    pictures = torch.randint(0, 256, (2, 3, 204, 204), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    faces = UnlabelledFaces(PictureStack([pictures]), 1.25, Counts(faces=2, pictures=2))
    half = faces.resized(64)[:]
    averages = torch.nn.functional.avg_pool2d(pictures.float(), 2)
    assert (half.float() - averages).abs().max() <= 0.5
    assert torch.equal(faces.resized(256)[:], pictures)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; give one of pictures, or what octamark crops"):
        collect(tmp_path / "nowhere", tmp_path / "out", 64, 1.25, *model_rule("small"))
    with pytest.raises(DataError, match=r"no pictures in this folder \(\.jpg"):
        pictures_in(tmp_path)
    Image.fromarray(np.full((80, 80, 3), 120, np.uint8)).save(tmp_path / "wall.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no face to learn from: 0 faces .* 1 pictures without a face, 0 broken, 1 emp"
    ):
        collect(tmp_path, tmp_path / "out", 64, 1.25, *model_rule("small"))
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    for name, message in (("x.safetensors", "not a shard of crops"), ("missing.safetensors", "no shards; give a")):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_released_model_adapts_as_the_guide_says(folder: Path, tmp_path: Path) -> None:
    """Crops of the size that the model reads; then its own recipe goes on, and its landmarks change."""
    root = write_w300(tmp_path / "w300", per_folder=6, validation=4)
    run("crops", folder, "-o", tmp_path / "faces", "--rule", "pico")
    assert read(tmp_path / "faces").pictures.side <= round(128 * ROOM)
    run("train", "--init", "pico", "--data", root, "--unlabelled", tmp_path / "faces", "-o", tmp_path / "run")
    before, _, _ = trained_network(checkpoint_path("pico"))
    after, recipe, _ = trained_network(tmp_path / "run" / "last.safetensors")
    assert recipe.name == "pico-adapted"
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert any(name.startswith("head.") for name in changed)
    with (tmp_path / "run" / "log.csv").open() as log:
        assert [row["consistency"] != "" for row in csv.DictReader(log)] == [True] * 10
