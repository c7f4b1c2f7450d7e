"""Anybody's files of landmarks: every form that is accepted, and one clear error for every one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drawn_faces import write_pts
from landmark_files import IBUG, SHAPE, write_text
from octamark.errors import DataError, LayoutError
from octamark.io import PictureEntry, read_entries


def entries_of(path: Path) -> dict[str, PictureEntry]:
    return {entry.file: entry for entry in read_entries(path, IBUG)}


def test_a_folder_of_pts_is_read(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.pts", "b#2.pts", "c_2.PTS", "deeper/d.e.pts", "._b.pts", "f#2.pts"):
        write_pts(tmp_path / name, SHAPE, header=name != "b.pts")
    found = entries_of(tmp_path)
    assert {name: len(entry.faces) for name, entry in found.items()} == {"b": 2, "c_2": 1, "deeper/d.e": 1, "f#2": 1}
    for entry in found.values():
        for face in entry.faces:
            np.testing.assert_allclose(face.landmarks, SHAPE, atol=1e-3)  # 1-based on disk
            assert face.spread is None
    assert {entry.file for entry in read_entries(tmp_path, IBUG, further_faces=False)} == found.keys() | {"b#2"}


def test_a_plain_list_is_read(tmp_path: Path) -> None:
    face = SHAPE.tolist()
    entries = [
        {"image": "a", "landmarks": face},
        {"image": "b", "landmarks": None},
        {"file": "c", "landmarks": face, "spread": (SHAPE * 0 + 2).tolist(), "confidence": [0.5] * 68},
        {"image": "d", "faces": [{"landmarks": face}, {"landmarks": face}]},
        {"image": "e", "faces": []},
    ]
    for path in (
        write_text(tmp_path, entries),
        write_text(tmp_path, "﻿" + json.dumps(entries), "marked.json"),
        write_text(tmp_path, "\n\n".join(map(json.dumps, entries)) + "\n", "lines.jsonl"),
    ):
        found = entries_of(path)
        assert {name: len(entry.faces) for name, entry in found.items()} == {"a": 1, "b": 0, "c": 1, "d": 2, "e": 0}
        (first,), (third,) = found["a"].faces, found["c"].faces
        assert (first.spread, first.confidence, first.box, first.score) == (None,) * 4
        assert third.spread is not None
        assert third.confidence is not None
        np.testing.assert_array_equal(first.landmarks, SHAPE.astype(np.float64))
        assert [face.index for entry in found.values() for face in entry.faces] == [0, 1, 2, 3]


def face(**changes: object) -> list[dict[str, object]]:
    return [{"image": "a", "landmarks": SHAPE.tolist()}, {"image": "b.png", "landmarks": SHAPE.tolist(), **changes}]


def spoilt(index: int, value: object) -> list[object]:
    points: list[object] = SHAPE.tolist()
    points[index] = value
    return points


MISTAKES: list[tuple[object, str]] = [
    ("[\n{\n]", r"given\.json:3: not JSON"),
    ("", r"given\.json:1: not JSON"),
    ({"image": "a"}, r"given\.json: expected a list of"),
    ([3], r"given\.json: entry 1: expected an object .* got int"),
    (
        [{"landmarks": SHAPE.tolist()}],
        r'given\.json: entry 1: needs "image", the name of the picture; it has landmarks',
    ),
    ([{}], r'entry 1: needs "image".* it has nothing'),
    ([{"image": 7, "landmarks": SHAPE.tolist()}], 'entry 1: needs "image"'),
    ([{"image": "a"}], r'entry 1 \(a\): needs "landmarks", a list of 68 pairs'),
    (face(landmarks=SHAPE[:67].tolist()), r"entry 2 \(b\.png\): landmarks must be 68 points \(x y\); got 67 entries"),
    (face(landmarks=SHAPE.ravel().tolist()), "landmarks must be 68 points .* got 136 entries"),
    (face(landmarks=spoilt(3, [1, "x"])), r"entry 2 \(b\.png\): landmarks must be 68 points"),
    (face(landmarks=spoilt(3, [1])), r"entry 2 \(b\.png\): landmarks must be 68 points"),
    (face(landmarks=spoilt(3, [1, float("inf")])), r"entry 2 \(b\.png\): landmarks: holds a value that is not finite"),
    (face(landmarks=spoilt(3, [1, -float("inf")])), "holds a value that is not finite"),
    (face(landmarks=spoilt(3, [10**400, 1])), "landmarks"),
    (face(landmarks="none"), "landmarks must be 68 points"),
    (face(image="a"), r"entry 2: picture 'a' is listed twice"),
    (face(spread=[1.0] * 68), "spread must be 68 points"),
    (face(spread=(SHAPE * 0 - 1).tolist()), "spread: holds a value below 0"),
    (face(confidence=[0.5] * 67), r"entry 2 \(b\.png\): confidence must be 68 numbers; got 67 entries"),
    (face(confidence=[0.5] * 67 + [-0.1]), r"confidence: holds a value that is not in 0\.\.1"),
    (face(confidence=[87.0] * 68), r"confidence: holds a value that is not in 0\.\.1"),
    (face(visible=[0.5] * 67), r"visible must be 68 numbers; got 67 entries"),
    (face(visible=[0.5] * 67 + [1.1]), r"visible: holds a value that is not in 0\.\.1"),
    ([{"image": "a", "faces": {"landmarks": None}}], "faces must be a list"),
    ([{"image": "a", "faces": [7]}], 'needs "landmarks"'),
    (face(box=[1, 2, 3]), r"entry 2 \(b\.png\): box must be 4 numbers; got 3 entries"),
    (face(box=[1, 2, None, 4]), "box: holds a value that is not finite"),
    (face(score="high"), "score must be a number"),
    (face(id="first"), "id 'first'; allowed: a whole number"),
    (face(width="wide", height=3), "width 'wide', height 3; allowed: whole numbers of pixels"),
    (face(layout="wflw98"), r"entry 2 \(b\.png\): layout wflw98; expected layout ibug68"),
    (face(layout=98), "layout 98; allowed: a name"),
    ({"annotations": []}, "not COCO keypoints"),
    (
        {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "keypoints": [0] * 204}]},
        "annotation 0: no image 2",
    ),
    (
        {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 5, "image_id": 1, "keypoints": [0] * 51}]},
        r"given\.json: annotation 5: keypoints \(x y v of 68 points\) must be 204 numbers; got 51 entries",
    ),
]


@pytest.mark.parametrize(("value", "said"), MISTAKES, ids=[said[:48] for _, said in MISTAKES])
def test_mistakes_in_a_file_are_named(tmp_path: Path, value: object, said: str) -> None:
    path = write_text(tmp_path, value)
    with pytest.raises(DataError, match=said) as caught:
        entries_of(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        entries_of(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        entries_of(tmp_path / "none.jsonl")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bytes\.json: not a JSON file"):
        entries_of(tmp_path / "bytes.json")
    (tmp_path / "empty").mkdir()
    assert entries_of(tmp_path / "empty") == {}
    lines = json.dumps(face()[0]) + "\n\n{]\n"
    with pytest.raises(DataError, match=r"given\.jsonl:3: not JSON"):
        entries_of(write_text(tmp_path, lines, "given.jsonl"))
    write_pts(tmp_path / "empty" / "a.pts", SHAPE[:5])
    with pytest.raises(DataError, match=r"a\.pts: expected 68 points \(x y\), found 5"):
        entries_of(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"image": "a", "landmarks": 1' + "0" * 5000 + "}]", "not a JSON file"),
        ("[" * 200_000, "not a JSON file"),
        (json.dumps([{"image": "a", "landmarks": [[True, False]] * 68}]), "entry 1 .*must be 68 points"),
        (json.dumps([{"image": "a", "landmarks": [["1.5", "2"]] * 68}]), "entry 1 .*must be 68 points"),
        (json.dumps([{"image": "a", "landmarks": [[1e39, 2]] + [[1, 2]] * 67}]), "entry 1 .*beyond a million pixels"),
    ],
)
def test_wild_values_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "wild.json").write_text(text)
    with pytest.raises(DataError, match=rf"wild\.json.*{said}"):
        entries_of(tmp_path / "wild.json")


def test_suffixes_in_capitals_and_folders_of_predictions(tmp_path: Path) -> None:
    entry = {"image": "a\u2028b", "landmarks": [[1, 2]] * 68}
    (tmp_path / "X.JSONL").write_text(json.dumps(entry, ensure_ascii=False) + "\n")
    assert list(entries_of(tmp_path / "X.JSONL")) == ["a\u2028b"]
    (tmp_path / "predictions.json").write_text(json.dumps([entry]))
    assert list(entries_of(tmp_path)) == ["a\u2028b"]
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(
        DataError, match=r"x\.txt: not a file of landmarks; allowed: \.json, \.jsonl, \.csv, \.parquet, or a folder"
    ):
        entries_of(tmp_path / "x.txt")


def test_the_last_line_of_a_killed_run_is_called_unfinished(tmp_path: Path) -> None:
    whole = json.dumps(face()[0]) + "\n"
    with pytest.raises(DataError, match=r"given\.jsonl:2: not JSON .*the last line is unfinished: predict --resume"):
        entries_of(write_text(tmp_path, whole + whole[:50], "given.jsonl"))


def test_points_without_a_label(tmp_path: Path) -> None:
    (first, second) = (spoilt(3, [None, None]), spoilt(3, [1, float("nan")]))
    path = write_text(tmp_path, [{"image": "a", "landmarks": first}, {"image": "b", "landmarks": second}])
    for found in entries_of(path).values():
        assert np.flatnonzero(np.isnan(found.faces[0].landmarks).any(axis=1)).tolist() == [3]
        assert np.isnan(found.faces[0].landmarks[3]).all()


def test_a_layout_is_needed_unless_the_file_names_one(tmp_path: Path) -> None:
    path = write_text(tmp_path, face())
    with pytest.raises(LayoutError, match=r"entry 1 \(a\): the file does not say which layout its points follow"):
        read_entries(path)
    (first,) = read_entries(write_text(tmp_path, [face()[0] | {"layout": "ibug68"}]))
    assert first.layout is IBUG
