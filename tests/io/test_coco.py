"""COCO keypoints: which keypoint is which landmark, by the names of the category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from landmark_files import IBUG, SHAPE, faces_at, records_of, with_visible, write_all, write_text
from octamark import datasets
from octamark.errors import DataError
from octamark.evaluation.scoring import Truth, score_file
from octamark.io import read_entries, read_records
from octamark.io.coco import point_order
from octamark.layouts import layout

ORDER = np.random.default_rng(0).permutation(68)


def table(names: list[Any], points: np.ndarray, **image: Any) -> dict[str, Any]:
    """One face in one picture; spread and confidence tell the points apart as well."""
    keypoints = np.column_stack([points, np.full(len(points), 2)])
    return {
        "images": [{"id": 1, "file_name": "a.png", **image}],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 3,
                "keypoints": keypoints.ravel().tolist(),
                "spread": (points / 100).tolist(),
                "confidence": (points[:, 0] / 1000).tolist(),
            }
        ],
        "categories": [{"id": 3, "name": "face", "keypoints": names}],
    }


NAMINGS = {
    "the layout's": list(IBUG.point_names),
    "in capitals, with blanks": [name.upper().replace("_", " ") for name in IBUG.point_names],
    "numbers from 0": [str(number) for number in range(68)],
    "numbers from 1": [str(number) for number in range(1, 69)],
    "whole numbers": list(range(68)),
    "the layout's name and number": [f"ibug68_{number}" for number in range(68)],
    "a prefix": [f"kp-{number:02d}" for number in range(1, 69)],
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_points_are_put_into_the_layouts_order(tmp_path: Path, naming: str) -> None:
    names = [NAMINGS[naming][index] for index in ORDER]
    (entry,) = read_entries(write_text(tmp_path, table(names, SHAPE[ORDER])), IBUG)
    (face,) = entry.faces
    np.testing.assert_allclose(face.landmarks, SHAPE)
    assert face.spread is not None
    assert face.confidence is not None
    np.testing.assert_allclose(face.spread, SHAPE / 100, rtol=1e-6)
    np.testing.assert_allclose(face.confidence, SHAPE[:, 0] / 1000, rtol=1e-6)


def test_scores_do_not_depend_on_the_order_of_the_points(tmp_path: Path) -> None:
    """Both as labels and as predictions."""
    (tmp_path / "a.png").touch()
    names = [IBUG.point_names[index] for index in ORDER]
    path = write_text(tmp_path, table(names, SHAPE[ORDER]))
    (sample,) = datasets.read("coco", path, layout=IBUG)
    np.testing.assert_allclose(sample.landmarks, SHAPE)
    result, _ = score_file(Truth("set", "all", [sample], IBUG), path)
    assert result.nme.max() == 0


@pytest.mark.parametrize("names", [[], [f"manga_{word}" for word in "abcdefgh"] * 8 + list("wxyz")])
def test_names_that_say_nothing(names: list[str]) -> None:
    names = [name if names.count(name) == 1 else f"{name}{number}x" for number, name in enumerate(names)]
    assert point_order(names, IBUG, "file") is None


def test_names_of_another_kind_are_taken_in_order() -> None:
    assert point_order([f"{part}_{i}" for part in ("jaw", "brow") for i in range(34)], IBUG, "file") is None
    assert point_order([f"landmark_{i}" for i in range(100, 168)], IBUG, "file") is None
    assert point_order([f"p{i}" for i in range(68)], IBUG, "file").tolist() == list(range(68))  # type: ignore[union-attr]


def changed(**places: str) -> list[str]:
    names = list(IBUG.point_names)
    for place, name in places.items():
        names[int(place[1:])] = name
    return names


@pytest.mark.parametrize(("names", "said"), [
    (changed(_5="chin"), r"67 of 68 keypoint names are those of .*, but chin are not \(missing: outline_5\)"),
    (["nose_0", *(f"mine_{i}" for i in range(67))], "1 of 68 keypoint names are those of layout ibug68, but mine_0, "),
    (changed(_5="outline_6"), "two keypoints are called outline_6"),
    ([str(i) for i in (*range(60), *range(67, 60, -1), 90)], "keypoints are numbered 0, 1,"),
    ([f"ibug68_{i}" for i in (1, 0, *range(3, 69))], r"keypoints are numbered 1, 0, 3, .*; allowed: 0 to 67 or 1 "),
])  # fmt: skip
def test_names_that_fit_in_part_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    path = write_text(tmp_path, table(names, SHAPE))
    with pytest.raises(DataError, match=rf"given\.json: category 3: {said}"):
        read_entries(path, IBUG)
    with pytest.raises(DataError, match=said):
        datasets.read("coco", path, layout=IBUG)


def test_predictions_need_no_categories(tmp_path: Path) -> None:
    """Other tools write confidences as the third value, and leave categories out."""
    whole = table([], SHAPE)
    del whole["categories"], whole["annotations"][0]["category_id"]
    whole["annotations"][0]["keypoints"][2::3] = [0.25] * 68
    (entry,) = read_entries(write_text(tmp_path, whole), IBUG)
    np.testing.assert_allclose(entry.faces[0].landmarks, SHAPE)


def test_categories_of_other_things_are_left_out(tmp_path: Path) -> None:
    whole = table(list(IBUG.point_names), SHAPE)
    whole["categories"].append({"id": 4, "name": "person", "keypoints": ["head"]})
    whole["annotations"].append({"id": 8, "image_id": 1, "category_id": 4, "keypoints": [1, 2, 2]})
    (entry,) = read_entries(write_text(tmp_path, whole), IBUG)
    assert len(entry.faces) == 1


def real(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        pytest.skip(f"needs {folder / name} (set OCTAMARK_DATA to the folder of labelled sets)")
    return folder / name


def test_profiles_as_they_are_and_shuffled(labelled_data: Path, tmp_path: Path) -> None:
    path = real(labelled_data, "profiles/val.json")
    samples = datasets.read("coco", path, layout=IBUG)
    assert len(samples) == 160
    assert {int(np.isfinite(sample.landmarks[:, 0]).sum()) for sample in samples} == {30}
    whole = json.loads(path.read_text())
    whole["categories"][0]["keypoints"] = [whole["categories"][0]["keypoints"][index] for index in ORDER]
    for annotation in whole["annotations"]:
        annotation["keypoints"] = np.reshape(annotation["keypoints"], (68, 3))[ORDER].ravel().tolist()
    shuffled = {entry.file: entry for entry in read_entries(write_text(tmp_path, whole), IBUG)}
    for sample in samples:
        (face,) = shuffled[sample.picture.name].faces
        np.testing.assert_array_equal(face.landmarks.astype(np.float32), sample.landmarks)


def test_manga_as_it_is(labelled_data: Path) -> None:
    path = real(labelled_data, "manga/val.json")
    whole = json.loads(path.read_text())
    chosen = layout("manga60")
    samples = datasets.read("coco", path, layout=chosen)
    assert len(samples) == len(whole["annotations"]) == 136
    raw = np.reshape(whole["annotations"][0]["keypoints"], (60, 3))
    np.testing.assert_allclose(samples[0].landmarks, raw[:, :2], atol=1e-4)


def test_hidden_points_have_v_1(tmp_path: Path) -> None:
    """v is 2 from a ``visible`` of one half on, 1 below, 0 without a place; ``visible`` itself stands beside it."""
    faces = with_visible(faces_at(0))
    assert faces.visible is not None
    faces.visible[0, :4] = 0.5, 0.4999, 0.0, np.nan
    faces.landmarks[0, 2] = np.nan
    (path,) = write_all("coco", tmp_path, records_of(["a.png"], [faces]))
    (annotation,) = json.loads(path.read_text())["annotations"]
    v = np.reshape(annotation["keypoints"], (68, 3))[:, 2]
    assert v[:4].tolist() == [2, 1, 0, 2]
    np.testing.assert_array_equal(v[4:], np.where(faces.visible[0, 4:] < 0.5, 1, 2))
    assert annotation["num_keypoints"] == 67
    assert annotation["visible"][:4] == [0.5, 0.4999, 0.0, None]


def test_v_is_not_taken_for_a_probability(tmp_path: Path) -> None:
    """Earlier versions wrote 2 for all points."""
    (path,) = write_all("coco", tmp_path, records_of(["a.png"], [with_visible(faces_at(0))]))
    whole = json.loads(path.read_text())
    del whole["annotations"][0]["visible"]
    (record,) = read_records(write_text(tmp_path, whole), IBUG)
    assert record.faces.visible is None


def test_visible_is_put_into_the_layouts_order(tmp_path: Path) -> None:
    whole = table([NAMINGS["the layout's"][index] for index in ORDER], SHAPE[ORDER])
    whole["annotations"][0]["visible"] = (np.arange(68)[ORDER] / 100).tolist()
    (entry,) = read_entries(write_text(tmp_path, whole), IBUG)
    np.testing.assert_allclose(entry.faces[0].visible, np.arange(68) / 100)


def test_hidden_points_of_predictions_are_occluded_points_of_a_labelled_set(tmp_path: Path) -> None:
    faces = with_visible(faces_at(0))
    assert faces.visible is not None
    Image.new("RGB", faces.size).save(tmp_path / "a.png")
    write_all("coco", tmp_path, records_of(["a.png"], [faces]))
    (sample,) = datasets.read("coco", tmp_path, layout=IBUG)
    assert sample.occluded is not None
    np.testing.assert_array_equal(sample.occluded, faces.visible[0] < 0.5)
