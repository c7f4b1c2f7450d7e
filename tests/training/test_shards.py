"""Shards: what is written comes back, only what is asked for is read, and a run's faces may be larger than memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from drawn_faces import write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import DataError, OutputError
from octamark.layouts import layout
from octamark.training.data import FaceStore, store_as_shards
from octamark.training.engine import Trainer
from octamark.training.recipe import Recipe, parse
from octamark.training.shards import PictureStack, open_shards, shard_files, write_shard, writing_shards

IBUG = layout("ibug68")
STAGE = {"size": 64, "epochs": 2, "batch": 8, "learning_rate": 5e-3}


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def landmarks(count: int, side: int) -> torch.Tensor:
    points = torch.rand(count, 68, 2, generator=torch.Generator().manual_seed(1)) * side
    points[0, 3] = torch.nan
    return points


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first, second, points = pictures(3, 40), pictures(2, 40, 1), landmarks(5, 40)
    write_shard(tmp_path / "b.safetensors", second, points[3:], margin=1.3, layout="ibug68")
    write_shard(tmp_path / "a.safetensors", first, points[:3], margin=1.3, layout="ibug68")
    shards = open_shards(tmp_path)
    assert (shards.margin, shards.layout, shards.pictures.shape) == (1.3, "ibug68", (5, 3, 40, 40))
    assert torch.equal(shards.pictures[:], torch.cat([first, second]))
    assert torch.equal(shards.pictures[torch.tensor([4, 0, 4])], torch.stack([second[1], first[0], second[1]]))
    assert shards.landmarks is not None
    torch.testing.assert_close(shards.landmarks, points, equal_nan=True, rtol=0, atol=0)
    alone = open_shards(tmp_path / "b.safetensors")
    assert torch.equal(alone.pictures[:], second)


def test_sides_are_brought_together_and_points_with_them(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.safetensors", pictures(1, 40), torch.full((1, 68, 2), 9.5), margin=1.25, layout="ibug68")
    write_shard(tmp_path / "b.safetensors", pictures(1, 80), torch.full((1, 68, 2), 9.5), margin=1.25, layout="ibug68")
    shards = open_shards(tmp_path)
    assert shards.pictures.shape == (2, 3, 80, 80)
    assert shards.landmarks is not None
    assert shards.landmarks[:, 0, 0].tolist() == [19.5, 9.5]  # (9.5 + 0.5) * 2 - 0.5
    half = PictureStack([pictures(2, 80)]).resized(40)[:]
    averages = torch.nn.functional.avg_pool2d(pictures(2, 80).float(), 2)
    assert (half.float() - averages).abs().max() <= 0.5


def test_a_folder_appears_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octamark.training.shards.SHARD_BYTES", 2 * 3 * 40 * 40)
    with writing_shards(tmp_path / "faces", margin=1.25) as writer:
        for picture in pictures(5, 40):
            writer.add(picture.permute(1, 2, 0).numpy())
        assert not (tmp_path / "faces").exists()
    assert [file.name for file in shard_files(tmp_path / "faces")] == [f"0000{n}.safetensors" for n in range(3)]
    assert torch.equal(open_shards(tmp_path / "faces").pictures[:], pictures(5, 40))
    with pytest.raises(OutputError, match="faces: exists already"), writing_shards(tmp_path / "faces", margin=1.25):
        pass
    stopped = writing_shards(tmp_path / "broken", margin=1.25)
    stopped.__enter__().add(pictures(1, 40)[0].permute(1, 2, 0).numpy())
    stopped.__exit__(RuntimeError, RuntimeError(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no shards; give a"):
        open_shards(tmp_path / "nowhere")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"x\.safetensors: not a shard of crops"):
        open_shards(tmp_path)
    for wrong, message in (
        ({"pictures": pictures(1, 40).float()}, "must be uint8"),
        ({"pictures": pictures(1, 40)[:, :1]}, r"must be \(n, 3, s, s\)"),
        ({"pictures": pictures(2, 40), "landmarks": landmarks(1, 40), "layout": "ibug68"}, r"must be \(2, M, 2\)"),
        ({"pictures": pictures(1, 40), "landmarks": landmarks(1, 40)}, "go together"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shard(tmp_path / "y.safetensors", **wrong, margin=1.25)  # type: ignore[arg-type]
    (tmp_path / "x.safetensors").unlink()
    write_shard(tmp_path / "a.safetensors", pictures(1, 40), margin=1.25)
    with pytest.raises(DataError, match="shards without labels; they go to --unlabelled"):
        FaceStore.of_shards(tmp_path, IBUG)
    write_shard(tmp_path / "b.safetensors", pictures(1, 40), margin=1.5)
    with pytest.raises(DataError, match=r"b\.safetensors: margin 1\.5 and layout None; a\.safetensors beside it"):
        open_shards(tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=8, validation=4)


def recipe(**changes: object) -> Recipe:
    table = {"name": "drawn", "seed": 3, "network": {"size": "nano"}, "stages": [STAGE]}
    return parse({**table, **changes}, "recipe")


def trained(one: Recipe, root: Path, out: Path) -> Trainer:
    run = Trainer(one, labelled_sets(one.data, {"300w": root}, IBUG, one.seed), out, device="cpu")
    run.run()
    return run


def scores(run: Trainer) -> list[tuple[float, float]]:
    return [(row["loss"], row["validation_nme"]) for row in run.rows]


def test_faces_on_disk_teach_what_faces_in_memory_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{**STAGE, "size": 32, "epochs": 1}, {**STAGE, "epochs": 1}]  # the first one resizes what it reads
    in_memory = trained(recipe(stages=stages), root, tmp_path / "memory")
    monkeypatch.setattr("octamark.training.engine.MEMORY", 0)
    on_disk = trained(recipe(stages=stages), root, tmp_path / "disk")
    assert scores(on_disk) == scores(in_memory)
    assert isinstance(on_disk._stores()[0].pictures, PictureStack)


def test_labelled_shards_are_a_set(root: Path, tmp_path: Path) -> None:
    sets = labelled_sets(recipe().data, root, IBUG)
    store_as_shards(sets[0].training, 64, 1.25, tmp_path / "drawn", "ibug68")
    sections = [
        {"format": "300w", "validation": "splits/val.txt", "weight": 1.0},
        {"format": "shards", "name": "drawn", "path": str(tmp_path / "drawn"), "weight": 3.0},
    ]
    run = trained(recipe(data=sections), root, tmp_path / "run")
    assert run.counts == [20, 20]
    assert run.rows[-1]["validation_nme"] < run.rows[0]["validation_nme"]


MEASURE = """
import sys, torch
from pathlib import Path
from octamark.training.data import FaceStore
from octamark.layouts import layout
from octamark.training.shards import open_shards

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024  # MiB that the system cannot take back

store = FaceStore.of_shards(Path(sys.argv[1]), layout("ibug68"))
before = anonymous()
peak, total = before, 0
generator = torch.Generator().manual_seed(0)
for step in range(2 * len(store) // 16):
    pictures, _ = store.take(torch.randint(0, len(store), (16,), generator=generator), torch.device("cpu"))
    total += int(pictures[0, 0, 0, 0])
    peak = max(peak, anonymous())
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_set_takes_the_memory_of_its_batches(tmp_path: Path) -> None:
    """160 MiB of faces, every one read twice on average: the process keeps some batches of them, not the set."""
    for number in range(5):
        block = torch.from_numpy(np.random.default_rng(number).integers(0, 256, (87, 3, 358, 358), np.uint8))
        points = torch.rand(87, 68, 2)
        write_shard(tmp_path / f"{number}.safetensors", block, points, margin=1.25, layout="ibug68")
    size = sum(file.stat().st_size for file in tmp_path.iterdir()) / 2**20
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert size > 150
    assert float(done.stdout) < 0.4 * size
