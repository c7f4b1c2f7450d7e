"""Points without a label: they teach nothing and break nothing, in every kind of run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from drawn_faces import write_w300
from octamark.datasets.load import LabelledSet, labelled_sets
from octamark.errors import ConfigError
from octamark.layouts import layout
from octamark.nets import heatmaps
from octamark.nets.heatmaps import Points
from octamark.nets.sampling import middle, move_points
from octamark.synthesis.caricature import Caricatures
from octamark.training.augmentation import augment, similarity
from octamark.training.data import FaceStore
from octamark.training.engine import Trainer
from octamark.training.objectives.adversary import Adversary
from octamark.training.recipe import Adversary as AdversarySettings
from octamark.training.recipe import Augment, Caricature, Recipe, parse
from octamark.training.shards import write_shard

IBUG = layout("ibug68")
MIRROR = torch.from_numpy(IBUG.mirror.copy())
STAGE = {"size": 64, "epochs": 2, "batch": 8, "learning_rate": 5e-3}
OUTLINE = list(range(17))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=8, validation=4)


def without(sets: list[LabelledSet], points: list[int], every: int = 2) -> list[LabelledSet]:
    """The sets with every second face lacking some labels."""
    for labelled in sets:
        for face in [*labelled.training, *labelled.validation][::every]:
            face.landmarks[points] = np.nan
    return sets


def recipe(**changes: object) -> Recipe:
    table = {"name": "drawn", "seed": 3, "network": {"size": "nano"}, "stages": [STAGE]}
    return parse({**table, **changes}, "recipe")


def test_mirroring_takes_the_partners_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices, mirrored = similarity(Augment(mirror=0.5), 8, 102, 64, generator)
    assert 0 < int(mirrored.sum()) < 8
    points = torch.rand(8, 68, 2, generator=generator) * 100
    partial = points.clone()
    partial[:, 36] = torch.nan
    moved, expected = (move_points(x, matrices, mirrored, MIRROR) for x in (partial, points))
    for face in range(8):
        gap = 45 if mirrored[face] else 36
        assert torch.isnan(moved[face]).all(dim=1).nonzero().flatten().tolist() == [gap]
        kept = [index for index in range(68) if index != gap]
        torch.testing.assert_close(moved[face, kept], expected[face, kept])


def test_crops_follow_the_labelled_points(root: Path) -> None:
    face = labelled_sets(recipe().data, root, IBUG)[0].training[0]
    whole = FaceStore.load([face], 64, 1.25)
    face.landmarks[[30, 62]] = np.nan  # within the box of the others
    partial = FaceStore.load([face], 64, 1.25)
    assert torch.equal(whole.pictures[:], partial.pictures[:])
    known = torch.isfinite(partial.landmarks[0]).all(dim=1)
    assert int(known.sum()) == 66
    assert torch.equal(partial.landmarks[0, known], whole.landmarks[0, known])


def test_faces_with_gaps_are_not_caricatured(root: Path) -> None:
    store = FaceStore.load(labelled_sets(recipe().data, root, IBUG)[0].training[:4], 64, 1.25)
    caricatures = Caricatures.of(Caricature(share=1.0, strength=2.0, style=0.0), IBUG, store.landmarks)
    still = Augment(**dict.fromkeys(Augment.model_fields, 0.0))
    partial = store.landmarks.clone()
    partial[:2, 5] = torch.nan
    generator = torch.Generator().manual_seed(0)
    _, views, points = augment(
        store.pictures[:], partial, config=still, mirror=MIRROR, size=64, generator=generator, caricatures=caricatures
    )
    plain = middle(4, store.pictures.shape[-1], 64)
    expected = move_points(partial, plain, torch.zeros(4, dtype=torch.bool), MIRROR)
    torch.testing.assert_close(points[:2], expected[:2], equal_nan=True)
    assert (points[2:] - expected[2:]).abs().max() > 1
    assert torch.isfinite(views).all()


def test_the_adversary_takes_the_prediction_where_a_label_is_missing() -> None:
    torch.manual_seed(0)
    one = Adversary(AdversarySettings(width=8), 5, Fabric(accelerator="cpu"))
    drawn: list[torch.Tensor] = []
    one.model.register_forward_pre_hook(lambda _, given: drawn.append(given[1]))
    points = Points(4 + 8 * torch.rand(2, 5, 2), torch.full((2, 5, 2), 0.6))
    target = 4 + 8 * torch.rand(2, 5, 2)
    target[0, 3] = torch.nan
    fake = heatmaps.draw(points, 16, 16)
    loss = one.learn(torch.rand(2, 3, 64, 64), points, target, torch.rand(2, 3, 64, 64), fake)
    assert torch.isfinite(loss)
    read = heatmaps.decode(drawn[0][:2]).position
    torch.testing.assert_close(read[0, 3], points.position[0, 3], rtol=0, atol=0.02)
    torch.testing.assert_close(read[1], target[1], rtol=0, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"name": "soft_argmax_l1"}},
        {"loss": {"maps": 1.0}, "caricature": {"share": 0.5}},
        {"unlabelled": {"batch": 4, "adversary": {"width": 8}, "teacher": {"maps": 0.5}}},
        {"regional": {"global_model": "nano", "view": 96, "lowest": 48, "consistency": 1.0}, "loss": {"maps": 1.0}},
    ],
    ids=["labels", "l1", "maps and caricatures", "adversary and teacher", "regional"],
)
def test_every_kind_of_run_learns_from_faces_with_gaps(root: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    faces = None
    if "unlabelled" in changes:
        faces = tmp_path / "faces.safetensors"
        write_shard(faces, torch.randint(0, 256, (6, 3, 102, 102), dtype=torch.uint8), margin=1.25)
    one = recipe(**changes)
    sets = without(labelled_sets(one.data, root, IBUG), OUTLINE)
    run = Trainer(one, sets, tmp_path / "run", unlabelled=faces, device="cpu")
    run.run()
    assert all(np.isfinite(value) for row in run.rows for value in row.values())
    assert run.rows[1]["loss"] < run.rows[0]["loss"] or "regional" in changes


def test_a_point_that_no_face_has_stays_where_it_was(root: Path, tmp_path: Path) -> None:
    """Its row of the last layer has no gradient: only weight decay, which is off, would move it."""
    one = recipe(optimiser={"weight_decay": 0.0, "name": "adamw"})
    sets = without(labelled_sets(one.data, root, IBUG), [8], every=1)
    run = Trainer(one, sets, tmp_path / "run", device="cpu")
    head = run.network.head.high_to_high.weight  # type: ignore[union-attr]
    before = head.detach().clone()  # type: ignore[operator, union-attr]
    run.run()
    moved = (head.detach() - before).abs().amax(dim=(1, 2, 3))  # type: ignore[operator, union-attr]
    still = [index for index in range(68) if moved[index] == 0]
    assert still == [8]


def test_faces_that_cannot_be_normalised_are_left_out_of_the_score(root: Path, tmp_path: Path) -> None:
    one = recipe(stages=[{**STAGE, "epochs": 1}])
    sets = labelled_sets(one.data, root, IBUG)
    for face in sets[0].validation[:2]:
        face.landmarks[36] = np.nan  # the corner of an eye
    run = Trainer(one, sets, tmp_path / "run", device="cpu")
    run.run()
    assert 0 < run.rows[0]["validation_nme"] < 2
    with torch.no_grad():
        errors, _ = run.task.validate(run.model, run._stores()[1], 64)
    assert np.isnan(errors).tolist() == [True, True, False, False]


def test_caricatures_need_faces_with_all_labels(root: Path, tmp_path: Path) -> None:
    one = recipe(caricature={"share": 0.5})
    sets = without(labelled_sets(one.data, root, IBUG), [0], every=1)
    with pytest.raises(ConfigError, match="caricature: needs faces of which all points have a label"):
        Trainer(one, sets, tmp_path / "run", device="cpu").run()
