"""What can be seen of a face: labels of it, in sets, shards and views; and a network that learns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drawn_faces import write_w300
from octamark.datasets.load import labelled_sets
from octamark.errors import ConfigError
from octamark.layouts import layout
from octamark.nets import heatmaps
from octamark.nets.network import NetworkConfig, OctaveNetwork
from octamark.training import checkpoints
from octamark.training.augmentation import damaged, still_visible
from octamark.training.data import FaceStore, store_as_shards
from octamark.training.engine import Trainer
from octamark.training.recipe import Augment, Recipe, parse
from octamark.training.shards import open_shards, write_shard
from octamark.training.starting import starting_network
from octamark.training.visibility import VisibilityRule, visible_labels
from octamark.training.watcher import Epoch, Watcher

IBUG = layout("ibug68")
STAGE = {"size": 64, "epochs": 2, "batch": 8, "learning_rate": 5e-3}


def recipe(**changes: object) -> Recipe:
    table = {
        "name": "drawn", "seed": 3, "network": {"size": "nano"}, "stages": [STAGE], "visibility": {},
        "data": {"format": "300w", "visibility": "labelled"},
    }  # fmt: skip
    return parse({**table, **changes}, "recipe")


def test_each_kind_of_set_tells_what_is_visible() -> None:
    landmarks = np.zeros((68, 2), np.float32)
    landmarks[[0, 18, 20]] = np.nan  # 0 and 16 are partners, and so are 18 and 25, 20 and 23
    landmarks[25] = np.nan
    occluded = np.zeros(68, bool)
    occluded[5] = True
    flags, labelled, one_sided = (
        visible_labels(landmarks, occluded, kind, IBUG.mirror) for kind in ("flags", "labelled", "one-sided")
    )
    assert flags[[0, 5, 6]].tolist() == pytest.approx([np.nan, 0, 1], nan_ok=True)
    assert labelled[[0, 5, 6, 18]].tolist() == pytest.approx([np.nan, 1, 1, np.nan], nan_ok=True)
    assert one_sided[[0, 5, 20]].tolist() == [0, 1, 0]
    assert np.isnan(one_sided[[18, 25]]).all()  # neither side has a label
    assert np.isnan(visible_labels(landmarks, occluded, None, IBUG.mirror)).all()
    assert np.isnan(visible_labels(landmarks, None, "flags", IBUG.mirror)).all()


def test_covered_points_and_points_outside_the_crop_are_hidden() -> None:
    covered = torch.zeros(1, 32, 32, dtype=torch.bool)
    covered[0, 10:20, 4:8] = True  # rows, columns
    points = torch.tensor([[[5.0, 12.0], [12.0, 5.0], [40.0, 5.0], [5.0, 12.0], [torch.nan, torch.nan]]])
    visible = torch.tensor([[1.0, 1.0, 1.0, torch.nan, 0.0]])
    seen = still_visible(visible, points, covered)[0]
    assert seen[[0, 1, 2, 4]].tolist() == [0, 1, 0, 0]
    assert torch.isnan(seen[3])


def test_the_mask_of_the_damage_says_what_it_covers() -> None:
    still = dict.fromkeys(Augment.model_fields, 0.0)
    pictures = torch.full((6, 3, 48, 48), 0.5)
    pictures[:, :, ::2] = 0.25
    out, mask = damaged(pictures, Augment(**{**still, "occlusion": 1.0}), torch.Generator().manual_seed(1))
    changed = (out - pictures).abs().amax(dim=1) > 0.02
    assert mask.flatten(1).any(dim=1).all()
    assert not (changed & ~mask).any()
    assert damaged(pictures, Augment(**still), torch.Generator().manual_seed(1))[1].sum() == 0


def test_shards_keep_what_is_visible(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "w300", per_folder=3, validation=1)
    faces = labelled_sets(recipe().data, root, IBUG)[0].training
    rule = VisibilityRule("labelled", IBUG.mirror)
    faces[0].landmarks[7] = np.nan
    store_as_shards(faces, 32, 1.25, tmp_path / "told", "ibug68", flags=rule)
    store_as_shards(faces, 32, 1.25, tmp_path / "untold", "ibug68")
    told, untold = (FaceStore.of_shards(tmp_path / name, IBUG) for name in ("told", "untold"))
    expected = torch.ones(len(faces), 68)
    expected[0, 7] = torch.nan
    torch.testing.assert_close(told.visible, expected, equal_nan=True, rtol=0, atol=0)
    assert torch.isnan(untold.visible).all()
    both = FaceStore.joined([told, untold], 32)
    torch.testing.assert_close(both.visible, torch.cat([told.visible, untold.visible]), equal_nan=True)
    (tmp_path / "untold" / "00000.safetensors").rename(tmp_path / "told" / "00001.safetensors")
    mixed = open_shards(tmp_path / "told").visible
    assert mixed is not None
    assert torch.isfinite(mixed).any(dim=1).sum() == len(faces)
    stacked = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    with pytest.raises(ValueError, match="visible must be"):
        write_shard(tmp_path / "x", stacked, torch.zeros(2, 68, 2), torch.zeros(2, 5), margin=1.25, layout="ibug68")


def test_the_logit_is_the_evidence_where_the_landmark_is() -> None:
    evidence = torch.zeros(1, 2, 4, 4)
    evidence[0, 0, 1, 2], evidence[0, 1, 3, 0] = 5.0, -3.0
    p = torch.zeros(1, 2, 8, 8)
    p[0, 0, 2:4, 4:6] = 0.25  # the cell (1, 2) of the evidence
    p[0, 1, 6, 0] = p[0, 1, 0, 0] = 0.5  # half in the cell (3, 0)
    p.requires_grad_(True)
    logits = heatmaps.visibility_logits(p, evidence.requires_grad_(True))
    assert logits.tolist() == [[5.0, -1.5]]
    logits.sum().backward()
    assert p.grad is None
    assert evidence.grad is not None


def test_a_network_without_high_frequency_has_no_visibility() -> None:
    with pytest.raises(ValueError, match="high frequency"):
        OctaveNetwork(NetworkConfig(width=8, alpha=1.0, attention=False, visibility=True))
    with pytest.raises(ConfigError, match="high frequency"):
        recipe(network={"size": "nano", "alpha": 1.0, "attention": False})
    with pytest.raises(ConfigError, match="no set says"):
        recipe(data={"format": "300w"})


def test_a_run_learns_what_is_hidden(tmp_path: Path) -> None:
    """Half of the drawn faces are said to hide the mouth: the ones whose mouth is covered by a grey bar."""
    root = write_w300(tmp_path / "w300", per_folder=16, validation=4)
    settings = recipe(
        data={"format": "300w", "visibility": "labelled"},
        augment={**dict.fromkeys(Augment.model_fields, 0.0), "occlusion": 0.7},
        stages=[{**STAGE, "epochs": 12}],
    )
    trainer = Trainer(settings, labelled_sets(settings.data, root, IBUG), tmp_path / "run", device="cpu")
    trainer.run()
    first, last = (trainer.rows[index]["visibility"] for index in (0, -1))
    assert last < 0.8 * first
    assert {"loss", "visibility"} <= set(trainer.rows[0])
    init = parse({**settings.model_dump(), "init": str(tmp_path / "run")}, "next")
    weights = starting_network(init).visibility
    saved = checkpoints.load(tmp_path / "run" / "best.safetensors")[0]["ema"]["visibility.first.weight"]
    assert weights is not None
    assert torch.equal(weights.first.weight, saved)
    plain = parse({**init.model_dump(), "visibility": None}, "plain")
    assert starting_network(plain).visibility is None


def test_a_stage_for_visibility_leaves_the_landmarks_as_they_are(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "w300", per_folder=8, validation=4)
    stages = [{**STAGE, "epochs": 2}, {**STAGE, "epochs": 3, "learns": "visibility"}]

    class Interrupted(Watcher):
        def finished_epoch(self, epoch: Epoch) -> None:
            if epoch.number == 3:
                raise KeyboardInterrupt

    def trainer_of(settings: Recipe, name: str, **options: Any) -> Trainer:
        return Trainer(settings, labelled_sets(settings.data, root, IBUG), tmp_path / name, device="cpu", **options)

    trainer_of(recipe(stages=stages[:1]), "run").run()
    before = checkpoints.load(tmp_path / "run" / "last.safetensors")[0]["ema"]
    with pytest.raises(KeyboardInterrupt):  # in the middle of the second stage
        trainer_of(recipe(stages=stages), "run", resume=True, watcher=Interrupted()).run()
    trainer = trainer_of(recipe(stages=stages), "run", resume=True)
    trainer.run()
    after, kept = checkpoints.load(tmp_path / "run" / "best.safetensors")
    same = {name for name, value in before.items() if torch.equal(value, after["ema"][name])}
    assert {name for name in before if not name.startswith("visibility.")} == same
    start, learned = (trainer.rows[index]["visibility"] for index in (2, -1))
    assert learned < start
    assert len({row["validation_nme"] for row in trainer.rows[1:]}) == 1
    assert kept["epoch"] == len(trainer.rows)  # the last one
    whole = trainer_of(recipe(stages=stages), "whole")
    whole.run()
    for row, other in zip(whole.rows, trainer.rows, strict=True):
        assert row["visibility"] == pytest.approx(other["visibility"], rel=1e-3)
    # from a network that cannot tell it
    first = parse({**recipe().model_dump(), "visibility": None, "data": {"format": "300w"}}, "first")
    trainer_of(first, "first").run()
    trainer_of(recipe(init=str(tmp_path / "first"), stages=stages[1:]), "alone").run()
    plain, told = (checkpoints.load(tmp_path / name / "best.safetensors")[0]["ema"] for name in ("first", "alone"))
    assert all(torch.equal(value, told[name]) for name, value in plain.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [{**STAGE, "learns": "visibility"}]}, "name the weights of the landmarks in init"),
        ({"stages": [{**STAGE, "learns": "visibility"}, STAGE], "init": "tiny"}, "all come before"),
        ({"stages": [STAGE, {**STAGE, "learns": "visibility"}], "visibility": None}, "needs the section visibility"),
        (
            {"stages": [{**STAGE, "learns": "visibility"}], "init": "tiny", "optimiser": {"init_weight": 0.5}},
            "optimiser.init_weight: leave it out",
        ),
    ],
)
def test_stages_that_cannot_learn_visibility_alone(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)
