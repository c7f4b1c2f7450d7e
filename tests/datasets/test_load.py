from __future__ import annotations

from pathlib import Path

import pytest

from drawn_faces import write_w300
from octamark.datasets.load import training_and_validation
from octamark.errors import DataError
from octamark.layouts import layout
from octamark.training.config import Data

IBUG = layout("ibug68")


def test_validation_faces_are_never_trained_on(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=4, validation=5)
    training, held_out = training_and_validation(Data(), root, IBUG)
    assert (len(training), len(held_out)) == (7, 5)
    assert not {sample.name for sample in training} & {sample.name for sample in held_out}


def test_split_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=1, validation=1)
    (root / "all.txt").write_text("afw/face_0\nhelen/trainset/face_0\nlfpw/trainset/face_0\n")
    with pytest.raises(DataError, match=r"all\.txt: lists every face"):
        training_and_validation(Data(validation="all.txt"), root, IBUG)
    (root / "other.txt").write_text("afw/face_0\nafw/nobody\n")
    with pytest.raises(DataError, match=r"other\.txt: lists afw/nobody \(1 names\), not in split train"):
        training_and_validation(Data(validation="other.txt"), root, IBUG)
    with pytest.raises(DataError, match="layout wflw98 has 98"):
        training_and_validation(Data(), root, layout("wflw98"))


def test_a_share_is_drawn_by_the_seed_and_part_of_a_larger_one(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=8, validation=4)

    def names(share: float, seed: int) -> set[str]:
        training, held_out = training_and_validation(Data(share=share), root, IBUG, seed)
        assert len(held_out) == 4
        return {sample.name for sample in training}

    assert len(names(1.0, 0)) == 20
    assert (len(names(0.5, 0)), len(names(0.1, 0)), len(names(0.001, 0))) == (10, 2, 1)
    assert names(0.1, 0) < names(0.5, 0) < names(1.0, 0)
    assert names(0.5, 0) == names(0.5, 0) != names(0.5, 1)
