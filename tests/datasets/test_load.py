from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from drawn_faces import write_w300
from octamark.datasets import FORMATS
from octamark.datasets.load import labelled_sets, training_and_validation
from octamark.errors import ConfigError, DataError, LayoutError
from octamark.layouts import layout
from octamark.training.recipe import Data, parse
from set_fixtures import WRITERS, draw, save, write_cariface, write_coco, write_webcaricature

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
    with pytest.raises(LayoutError, match="layout aflw19 has 19"):
        training_and_validation(Data(), root, layout("aflw19"))


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


def test_every_format_that_is_read_can_be_trained_on() -> None:
    assert set(get_args(Data.model_fields["format"].annotation)) == {*FORMATS, "shards"} == {"300w", *WRITERS, "shards"}


def test_a_random_share_holds_out_whole_persons(tmp_path: Path) -> None:
    names = [f"person {number // 5}/{'CP'[number % 2]}{number:05d}" for number in range(50)]
    write_webcaricature(tmp_path, names)
    section = Data(format="webcaricature", split="all", validation=0.3)

    def persons(seed: int) -> tuple[set[str], set[str]]:
        sides = training_and_validation(section, tmp_path, layout("webcaricature17"), seed)
        assert [len(side) for side in sides] == [35, 15]
        assert sorted(one.name for side in sides for one in side) == sorted(names)
        return tuple({one.name.split("/")[0] for one in side} for side in sides)  # type: ignore[return-value]

    assert not persons(0)[0] & persons(0)[1]
    assert persons(0) == persons(0) != persons(1)
    assert len(persons(0)[1]) == 3
    with pytest.raises(DataError, match="faces of one person alone"):
        training_and_validation(section, write_one_person(tmp_path / "one"), layout("webcaricature17"))


def write_one_person(root: Path) -> Path:
    write_webcaricature(root, ["A/C1", "A/C2"])
    return root


def test_a_random_share_keeps_the_faces_of_a_picture_together(tmp_path: Path) -> None:
    rows = ["file," + ",".join(f"x{i},y{i}" for i in range(17))]
    for number in range(12):
        face = draw("webcaricature17", number)
        save(tmp_path / f"{number // 3}.png", face.picture)
        rows.append(f"{number // 3}.png," + ",".join(f"{value:.3f}" for value in face.points.ravel()))
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    section = Data(format="folder", split="all", validation=0.25)
    training, held_out = training_and_validation(section, tmp_path / "labels.csv", layout("webcaricature17"))
    assert (len(training), len({one.picture for one in held_out}), len(held_out)) == (9, 1, 3)
    assert not {one.picture for one in training} & {one.picture for one in held_out}


def test_another_split_is_held_out(tmp_path: Path) -> None:
    write_cariface(tmp_path, 3)
    training, held_out = training_and_validation(Data(format="cariface", validation="test"), tmp_path, IBUG)
    assert (len(training), len(held_out)) == (3, 3)
    with pytest.raises(DataError, match="split train holds every picture of split train"):
        training_and_validation(Data(format="cariface", validation="train"), tmp_path, IBUG)


def test_points_without_a_label_are_nan(tmp_path: Path) -> None:
    write_coco(tmp_path)
    training, held_out = training_and_validation(
        Data(format="coco", validation=0.5), tmp_path, layout("aflw19")
    )  # its only split goes without saying
    faces = [*training, *held_out]
    assert len(faces) == 2
    assert sorted(int(np.isnan(face.landmarks).any(axis=1).sum()) > 0 for face in faces) == [False, True]


def test_faces_of_a_picture_are_not_divided_by_a_list_of_names(tmp_path: Path) -> None:
    write_coco(tmp_path)
    table = json.loads((tmp_path / "annotations" / "faces.json").read_text())
    for one in table["annotations"]:
        one["keypoints"], one["image_id"] = [3, 9, 2, 30, 9, 2] + [5, 20, 2] * 17, 40
    table["annotations"] = table["annotations"][:2]
    (tmp_path / "annotations" / "faces.json").write_text(json.dumps(table))
    (tmp_path / "out.txt").write_text("0\n")
    with pytest.raises(DataError, match=r"out\.txt: lists a face of the same picture as 0#2, which it leaves out"):
        training_and_validation(Data(format="coco", split="all", validation="out.txt"), tmp_path, layout("aflw19"))


def test_held_out_faces_that_cannot_be_scored_are_refused(tmp_path: Path) -> None:
    rows = ["file," + ",".join(f"x{i},y{i}" for i in range(17))]
    for number in range(4):
        face = draw("webcaricature17", number)
        face.points[[8, 11]] = 20.0  # the corners of the eyes
        save(tmp_path / f"{number}.png", face.picture)
        rows.append(f"{number}.png," + ",".join(f"{value:.3f}" for value in face.points.ravel()))
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    section = Data(format="folder", split="all", validation=0.5)
    with pytest.raises(DataError, match=r"2 faces held out\): no inter-ocular distance to divide errors by"):
        training_and_validation(section, tmp_path / "labels.csv", layout("webcaricature17"))


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1, True, 3, []])
def test_a_share_that_is_none_is_named(value: object) -> None:
    table = {"name": "a", "stages": [{"epochs": 1}], "data": {"validation": value}}
    with pytest.raises(ConfigError, match=r"^recipe: data\.validation: a share between 0 and 1, 1.0 for"):
        parse(table, "recipe")


def test_a_set_held_out_as_a_whole_is_validated_on_only(tmp_path: Path) -> None:
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    write_w300(first, per_folder=4, validation=5)
    write_coco(second)
    table = {
        "name": "a",
        "stages": [{"epochs": 1}],
        "data": [
            {"name": "faces", "path": str(first), "weight": 2.0},
            {"name": "others", "format": "coco", "path": str(second), "layout": "aflw19", "validation": 1.0},
        ],
    }
    recipe = parse(table, "recipe")
    assert [section.held_out for section in recipe.data] == [False, True]
    with pytest.raises(ConfigError, match="a set that is held out as a whole has no weight"):
        parse({**table, "data": [table["data"][0], {**table["data"][1], "weight": 1.0}]}, "recipe")  # type: ignore[index]
    with pytest.raises(ConfigError, match="every set is held out as a whole; none is left to train on"):
        parse({**table, "data": [{**table["data"][0], "weight": None, "validation": 1.0}]}, "recipe")  # type: ignore[index]
    sections = [recipe.data[0], recipe.data[1].model_copy(update={"layout": None})]
    aflw = layout("aflw19")
    sets = labelled_sets([sections[1]] * 1, second, aflw)
    assert (len(sets[0].training), len(sets[0].validation)) == (0, 2)


def test_one_picture_spelled_in_two_ways_stays_on_one_side(tmp_path: Path) -> None:
    rows = ["file," + ",".join(f"x{i},y{i}" for i in range(17))]
    for number in range(6):
        face = draw("webcaricature17", number)
        save(tmp_path / f"a#{number}.png", face.picture)  # the sign that marks further faces, in a name
        values = ",".join(f"{value:.3f}" for value in face.points.ravel())
        rows += [f"a#{number}.png,{values}", f"./a#{number}.png,{values}"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    section = Data(format="folder", split="all", validation=0.5)
    sides = training_and_validation(section, tmp_path / "labels.csv", layout("webcaricature17"))
    training, held_out = ({one.picture.resolve() for one in side} for side in sides)
    assert (len(training), len(held_out)) == (3, 3)
    assert not training & held_out


def write_labels(root: Path, count: int, *, unknown: tuple[int, ...] = (), first: int = 0) -> Path:
    """A .csv of drawn faces of webcaricature17, some points of the face 0 without a label."""
    rows = ["file," + ",".join(f"x{i},y{i}" for i in range(17))]
    for number in range(count):
        face = draw("webcaricature17", first + number)
        save(root / f"{number}.png", face.picture)
        values = [[f"{x:.3f}", f"{y:.3f}"] for x, y in face.points]
        for point in unknown if number == 0 else ():
            values[point] = ["", ""]
        rows.append(f"{number}.png," + ",".join(value for pair in values for value in pair))
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


def test_several_sets_are_one_set_of_faces(tmp_path: Path) -> None:
    sections = [
        Data(format="300w", validation="splits/val.txt"),
        Data(format="wflw", name="wild", path=str(tmp_path / "wflw"), margin=1.5),
    ]
    root = write_w300(tmp_path / "300w", per_folder=4, validation=5)
    WRITERS["wflw"](tmp_path / "wflw")
    sets = labelled_sets(sections, {"300w": root}, IBUG)
    assert [(one.name, len(one.training), len(one.validation)) for one in sets] == [("300w", 7, 5), ("wild", 3, 0)]
    assert all(face.name.startswith("wild/") for face in sets[1].training)
    assert {face.landmarks.shape for one in sets for face in one.training} == {(68, 2)}  # 98 points were converted
    training, held_out = training_and_validation(sections, {"300w": root}, IBUG)
    assert (len(training), len(held_out)) == (10, 5)
    for paths, message in (
        (root, r"the recipe has the data sets 300w, wild; give NAME=PATH for each"),
        ({"300W": root}, r"data '300W': the recipe has no set of that name; its sets: 300w, wild"),
        (None, r"data '300w': no path; give it with --data, or as path in the recipe"),
    ):
        with pytest.raises(DataError, match=message):
            labelled_sets(sections, paths, IBUG)
    with pytest.raises(DataError, match="no faces are held out to validate on: give one of 300w, wild a validation"):
        labelled_sets([Data(), sections[1]], {"300w": root}, IBUG)


def test_a_picture_that_one_set_holds_out_is_in_no_other(tmp_path: Path) -> None:
    labels = write_labels(tmp_path, 6)
    sections = [Data(format="folder", name="a", validation=0.5), Data(format="folder", name="b")]
    points = layout("webcaricature17")
    first, second = labelled_sets(sections, {"a": labels, "b": labels}, points)
    assert (len(first.training), len(first.validation), len(second.training)) == (3, 3, 3)
    held_out = {face.picture for face in first.validation}
    assert not held_out & {face.picture for face in second.training}


def test_held_out_faces_without_what_the_normaliser_needs_are_kept_while_others_have_it(tmp_path: Path) -> None:
    points = layout("webcaricature17")
    labels = write_labels(tmp_path, 3, unknown=(8,))  # the outer corner of an eye
    (tmp_path / "out.txt").write_text("0\n1\n")
    _, held_out = training_and_validation(Data(format="folder", validation="out.txt"), labels, points)
    assert [face.name for face in held_out] == ["0", "1"]
    (tmp_path / "out.txt").write_text("0\n")
    with pytest.raises(DataError, match=r"1 faces held out\): no inter-ocular distance"):
        training_and_validation(Data(format="folder", validation="out.txt"), labels, points)
