"""Anybody's predictions: every form that is accepted, and one clear error for every one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drawn_faces import write_pts
from evaluation_fixtures import IBUG, bare_samples, truth_of
from octamark.datasets import Sample
from octamark.errors import DataError
from octamark.evaluation.matching import Found, matched
from octamark.evaluation.predictions import read_predictions, read_truth
from octamark.faces import Faces
from octamark.io import FORMATS, Record

SHAPE = (IBUG.diagram * 200 + 20).astype(np.float32)


def faces_of(*offsets: float) -> Faces:
    """A face moved right by each offset."""
    count = len(offsets)
    landmarks = np.stack([SHAPE + np.array([offset, 0]) for offset in offsets]).astype(np.float32)
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 4, landmarks.shape).astype(np.float32)
    sure = rng.uniform(0, 1, landmarks.shape[:2]).astype(np.float32)
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    crops = np.tile(np.eye(2, 3), (count, 1, 1))
    return Faces(IBUG, (2000, 400), landmarks, spread, sure, boxes, np.ones(count, np.float32), crops)


def records() -> list[Record]:
    """Two faces in one picture, one in another, none in the third."""
    return [
        Record("in/a.png", "a", "nano", faces_of(0, 700)),
        Record("in/b.png", "b", "nano", faces_of(0)),
        Record("in/c.png", "c", "nano", Faces.empty(IBUG, (90, 60))),
    ]


def written(folder: Path, value: Any, name: str = "given.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("form", ["json", "jsonl", "coco"])
def test_what_octamark_writes_is_read(tmp_path: Path, form: str) -> None:
    ((name, text),) = FORMATS[form].write(records()).items()
    found = read_predictions(written(tmp_path, text, name), 68)
    assert [len(faces.landmarks) for faces in found.values()] == [2, 1, 0]
    assert [name.removeprefix("in/") for name in found] == ["a.png", "b.png", "c.png"]
    first = next(iter(found.values()))
    np.testing.assert_allclose(first.landmarks, faces_of(0, 700).landmarks, atol=0.006)
    assert first.spread is not None
    np.testing.assert_allclose(first.spread, faces_of(0, 700).spread, atol=6e-4)
    assert first.confidence is not None
    np.testing.assert_allclose(first.confidence, faces_of(0, 700).confidence, atol=6e-5)


def test_a_folder_of_pts_is_read(tmp_path: Path) -> None:
    for name, text in FORMATS["pts"].write(records()[1:]).items():
        written(tmp_path, text, name)
    (tmp_path / "deeper").mkdir()
    write_pts(tmp_path / "deeper" / "d.e.pts", SHAPE, header=False)
    found = read_predictions(tmp_path, 68)
    assert sorted(found) == ["b", "deeper/d.e"]
    np.testing.assert_allclose(found["b"].landmarks[0], SHAPE, atol=1e-3)  # 1-based on disk
    np.testing.assert_allclose(found["deeper/d.e"].landmarks[0], SHAPE, atol=1e-3)
    assert found["b"].spread is None


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
        written(tmp_path, entries),
        written(tmp_path, "﻿" + json.dumps(entries), "marked.json"),
        written(tmp_path, "\n\n".join(map(json.dumps, entries)) + "\n", "lines.jsonl"),
    ):
        found = read_predictions(path, 68)
        assert {name: len(faces.landmarks) for name, faces in found.items()} == {"a": 1, "b": 0, "c": 1, "d": 2, "e": 0}
        assert found["a"].spread is None
        assert found["c"].spread is not None
        assert found["c"].confidence is not None
        np.testing.assert_array_equal(found["a"].landmarks[0], SHAPE.astype(np.float64))


def face(**changes: object) -> list[dict[str, object]]:
    return [{"image": "a", "landmarks": SHAPE.tolist()}, {"image": "b.png", "landmarks": SHAPE.tolist(), **changes}]


def spoilt(index: int, value: object) -> list[object]:
    points: list[object] = SHAPE.tolist()
    points[index] = value
    return points


MISTAKES: list[tuple[object, str]] = [
    ([], r"given\.json: holds no predictions \(an empty list\)"),
    ("[\n{\n]", r"given\.json:3: not json"),
    ("", r"given\.json:1: not json"),
    ({"image": "a"}, r"given\.json: expected a list of"),
    ([3], r"given\.json: entry 1: expected an object .* got int"),
    ([{"landmarks": SHAPE.tolist()}], r'given\.json: entry 1: needs "image", the picture.s name; it has landmarks'),
    ([{}], r'entry 1: needs "image".* it has nothing'),
    ([{"image": 7, "landmarks": SHAPE.tolist()}], 'entry 1: needs "image"'),
    ([{"image": "a"}], r'entry 1 \(a\): needs "landmarks", a list of 68 pairs'),
    (face(landmarks=SHAPE[:67].tolist()), r"entry 2 \(b\.png\): landmarks must be 68 points \(x y\); got 67 entries"),
    (face(landmarks=SHAPE.ravel().tolist()), "landmarks must be 68 points .* got 136 entries"),
    (face(landmarks=spoilt(3, [1, "x"])), r"entry 2 \(b\.png\): landmarks must be 68 points"),
    (face(landmarks=spoilt(3, [1])), r"entry 2 \(b\.png\): landmarks must be 68 points"),
    (face(landmarks=spoilt(3, [1, float("nan")])), r"entry 2 \(b\.png\): landmarks: holds a value that is not finite"),
    (face(landmarks=spoilt(3, [1, None])), "holds a value that is not finite"),
    (face(landmarks=spoilt(3, [1, float("inf")])), "holds a value that is not finite"),
    (face(landmarks=spoilt(3, [10**400, 1])), "landmarks"),
    (face(landmarks="none"), "landmarks must be 68 points"),
    (face(image="a"), r"entry 2: picture 'a' is there twice"),
    (face(spread=[1.0] * 68), "spread must be 68 points"),
    (face(spread=(SHAPE * 0 - 1).tolist()), "spread: holds a value below 0"),
    (face(confidence=[0.5] * 67), r"entry 2 \(b\.png\): confidence must be 68 numbers; got 67 entries"),
    (face(confidence=[0.5] * 67 + [-0.1]), r"confidence: holds a value that is not in 0\.\.1"),
    (face(confidence=[87.0] * 68), r"confidence: holds a value that is not in 0\.\.1"),
    ([{"image": "a", "faces": {"landmarks": None}}], "faces must be a list"),
    ([{"image": "a", "faces": [7]}], 'needs "landmarks"'),
    ({"annotations": []}, "not COCO keypoints"),
    ({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "keypoints": [0] * 204}]}, "not COCO"),
    (
        {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 5, "image_id": 1, "keypoints": [0] * 51}]},
        r"given\.json: annotation 5: keypoints must be 204 numbers; got 51 entries",
    ),
]


@pytest.mark.parametrize(("value", "said"), MISTAKES, ids=[said[:48] for _, said in MISTAKES])
def test_mistakes_in_a_file_are_named(tmp_path: Path, value: object, said: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(DataError, match=said) as caught:
        read_predictions(path, 68)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        read_predictions(tmp_path / "none.json", 68)
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_predictions(tmp_path / "none.jsonl", 68)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bytes\.json: not a json file"):
        read_predictions(tmp_path / "bytes.json", 68)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no predictions \(no \.pts files\)"):
        read_predictions(tmp_path / "empty", 68)
    lines = json.dumps(face()[0]) + "\n\n{]\n"
    with pytest.raises(DataError, match=r"given\.jsonl:3: not json"):
        read_predictions(written(tmp_path, lines, "given.jsonl"), 68)
    write_pts(tmp_path / "empty" / "a.pts", SHAPE[:5])
    with pytest.raises(DataError, match=r"a\.pts: expected 68 points \(x y\), found 5"):
        read_predictions(tmp_path / "empty", 68)


def test_truth_is_read(tmp_path: Path) -> None:
    entries = [{"image": "a.png", "landmarks": SHAPE.tolist()}, {"image": "b", "landmarks": spoilt(2, [None, None])}]
    first, second = read_truth(written(tmp_path, entries), 68)
    assert (first.name, first.picture) == ("a.png", tmp_path / "a.png")
    np.testing.assert_array_equal(first.landmarks, SHAPE)
    assert np.isnan(second.landmarks[2]).all()
    assert np.isfinite(np.delete(second.landmarks, 2, axis=0)).all()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "holds no faces"),
        (face(image="a"), "entry 2: image 'a' is there twice"),
        (face(landmarks=None), r"entry 2 \(b\.png\): landmarks must be 68 points \(x y\); got None"),
        (face(landmarks=SHAPE[:9].tolist()), r"entry 2 \(b\.png\): landmarks must be 68 points \(x y\); got 9 entries"),
        (face(landmarks=[[None, None]] * 68), r"entry 2 \(b\.png\): no point has a label"),
        (face(landmarks=spoilt(3, [float("inf"), 1])), "not finite"),
        ("{", r"given\.json:1: not json"),
    ],
)
def test_mistakes_in_the_truth_are_named(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_truth(written(tmp_path, value), 68)


# Whose prediction is it?


def sample(name: str, picture: str, offset: float = 0) -> Sample:
    return Sample(name, Path(picture), SHAPE + np.float32(offset))


def numbered(*names: str) -> dict[str, Found]:
    """A prediction for each name, the first moved by 1 pixel, the second by 2, ..."""
    return {name: Found((SHAPE + number)[None].astype(np.float64)) for number, name in enumerate(names, 1)}


def taken(samples: list[Sample], found: dict[str, Found]) -> tuple[list[int], list[str]]:
    """Number of the prediction that each sample got (0: none), and the stray names."""
    given, stray = matched(samples, found, 68, Path("given.json"))
    moved = given.landmarks[:, 0, 0] - SHAPE[0, 0]
    return [0 if np.isnan(value) else round(float(value)) for value in moved], stray


def test_names_paths_and_stems_fit() -> None:
    samples = [sample("helen/1", "/data/helen/1.jpg"), sample("helen/2", "/data/helen/2.png")]
    for first, second in (("helen/1", "helen/2"), ("helen/1.jpg", "helen/2.png"), ("helen/1.webp", "helen/2.png"),
                          ("/data/helen/1.jpg", "/data/helen/2.png"), ("/data/helen/1", "/data/helen/2"),
                          ("1", "2"), ("elsewhere/1.jpg", "./2.jpeg")):  # fmt: skip
        assert taken(samples, numbered(second, first)) == ([2, 1], [])
    assert taken(samples, numbered("helen/2")) == ([0, 1], [])  # the other was not found


def test_strangers_are_left_out_and_named() -> None:
    samples = [sample("a", "x/a.png"), sample("b", "x/b.png")]
    assert taken(samples, numbered("b", "c", "a", "x/d.png")) == ([3, 1], ["c", "x/d.png"])
    with pytest.raises(DataError, match=r"given\.json: none of its 2 pictures is one of the truth; it has c, d, the"):
        taken(samples, numbered("c", "d"))


def test_faces_of_another_folder_are_no_predictions() -> None:
    """A file that covers more than the truth: the training face of the same stem must not stand in."""
    samples = [sample("helen/testset/1", "r/helen/testset/1.jpg"), sample("helen/testset/2", "r/helen/testset/2.jpg")]
    names = ("helen/testset/1", "helen/trainset/1", "helen/trainset/2")
    for order in (names, names[::-1]):
        got, stray = taken(samples, numbered(*order))
        assert got == [order.index(names[0]) + 1, 0]
        assert sorted(stray) == ["helen/trainset/1", "helen/trainset/2"]


def test_stems_in_doubt_fit_nothing() -> None:
    twins = [sample("helen/1", "d/helen/1.jpg"), sample("lfpw/1", "d/lfpw/1.jpg"), sample("lfpw/2", "d/lfpw/2.jpg")]
    assert taken(twins, numbered("1", "2")) == ([0, 0, 2], ["1"])
    beside = [sample("one.jpg", "d/one.jpg"), sample("one.png", "d/one.png"), sample("two.png", "d/two.png")]
    assert taken(beside, numbered("one", "two")) == ([0, 0, 2], ["one"])
    assert taken(beside, numbered("one.png", "one.jpg")) == ([2, 1, 0], [])


def test_two_predictions_for_one_picture_are_an_error() -> None:
    samples = [sample("a", "x/a.png")]
    with pytest.raises(DataError, match=r"given\.json: p/a\.png, q/a\.png: more than one picture that may be a"):
        taken(samples, numbered("q/a.png", "p/a.png"))
    with pytest.raises(DataError, match=r"a\.jpg, a\.png: more than one picture that may be a"):
        taken(samples, numbered("a.jpg", "a.png"))
    assert taken(samples, numbered("a.jpg", "a")) == ([2], ["a.jpg"])  # the name itself is beyond doubt


def test_faces_of_one_picture_get_their_own() -> None:
    samples = [sample("p", "p.png"), sample("p#2", "p.png", offset=300), sample("p#3", "p.png", offset=900)]
    crowd = Found(np.stack([SHAPE + 303, SHAPE + 2]).astype(np.float64), np.stack([SHAPE * 0 + 3, SHAPE * 0 + 2]))
    given, _ = matched(samples, {"p": crowd}, 68, Path("x"))
    assert given.found.tolist() == [True, True, False]
    moved = given.landmarks[:2, 0, 0] - SHAPE[0, 0]
    assert moved.tolist() == pytest.approx([2, 303])
    assert given.spread is not None
    assert given.spread[:2, 0, 0].tolist() == [2, 3]


def test_a_lone_face_is_scored_however_far_off() -> None:
    given, _ = matched([sample("p", "p.png")], {"p": Found((SHAPE + 5000)[None].astype(np.float64))}, 68, Path("x"))
    assert given.found.all()


def test_spread_is_kept_only_if_every_face_has_it() -> None:
    samples = bare_samples(2)
    truth = truth_of(samples).astype(np.float64)
    with_spread = Found(truth[:1], np.ones((1, 68, 2)), np.full((1, 68), 0.5))
    found = {"set/0": with_spread, "set/1": Found(truth[1:])}
    given, _ = matched(samples, found, 68, Path("x"))
    assert given.spread is None
    assert given.confidence is None
    given, _ = matched(samples, {"set/0": with_spread}, 68, Path("x"))  # the other was not found
    assert given.spread is not None
    assert given.confidence is not None
    assert np.isnan(given.spread[1]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"image": "a", "landmarks": 1' + "0" * 5000 + "}]", "not a json file"),
        ("[" * 200_000, "not a json file"),
        (json.dumps([{"image": "a", "landmarks": [[True, False]] * 68}]), "entry 1 .*must be 68 points"),
        (json.dumps([{"image": "a", "landmarks": [["1.5", "2"]] * 68}]), "entry 1 .*must be 68 points"),
        (json.dumps([{"image": "a", "landmarks": [[1e39, 2]] + [[1, 2]] * 67}]), "entry 1 .*beyond a million pixels"),
    ],
)
def test_wild_values_are_refused(text: str, said: str, tmp_path: Path) -> None:
    for read in (read_predictions, read_truth):
        (tmp_path / "wild.json").write_text(text)
        with pytest.raises(DataError, match=rf"wild\.json.*{said}"):
            read(tmp_path / "wild.json", 68)


def test_suffixes_in_capitals_and_folders_of_predictions(tmp_path: Path) -> None:
    entry = {"image": "a\u2028b", "landmarks": [[1, 2]] * 68}
    (tmp_path / "X.JSONL").write_text(json.dumps(entry, ensure_ascii=False) + "\n")
    assert list(read_predictions(tmp_path / "X.JSONL", 68)) == ["a\u2028b"]
    (tmp_path / "predictions.json").write_text(json.dumps([entry]))
    assert list(read_predictions(tmp_path, 68)) == ["a\u2028b"]
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(DataError, match=r"x\.csv: predictions are a \.json or \.jsonl file, or a folder of \.pts"):
        read_predictions(tmp_path / "x.csv", 68)
