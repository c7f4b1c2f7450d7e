from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from octamark.errors import LayoutError
from octamark.faces import Face, Faces
from octamark.io import FORMATS, Record, unique_stems
from octamark.layouts import layout

IBUG = layout("ibug68")


def made(count: int = 3) -> Faces:
    rng = np.random.default_rng(0)
    shape: NDArray[np.float32] = (IBUG.diagram * 200 + 50).astype(np.float32)
    landmarks = shape[None] + 300 * np.arange(count, dtype=np.float32)[:, None, None]
    spread = rng.uniform(1, 4, landmarks.shape).astype(np.float32)
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    scores = np.linspace(0.9, 0.7, count).astype(np.float32)
    crops = np.tile(np.eye(2, 3), (count, 1, 1))
    confidence = rng.uniform(0, 1, landmarks.shape[:2]).astype(np.float32)
    return Faces(IBUG, (1200, 1000), landmarks, spread, confidence, boxes, scores, crops)


def test_indexing() -> None:
    faces = made()
    assert isinstance(faces[0], Face)
    assert [face.score for face in faces] == pytest.approx([0.9, 0.8, 0.7])
    assert isinstance(faces[1:], Faces)
    assert len(faces[1:]) == 2
    assert len(faces[faces.scores > 0.75]) == 2
    np.testing.assert_array_equal(faces[[2, 0]].landmarks, faces.landmarks[[2, 0]])
    assert isinstance(faces[np.array(1)], Face)
    np.testing.assert_array_equal(faces[-1].landmarks, faces.landmarks[2])
    with pytest.raises(IndexError):
        faces[3]


def test_parts_by_name() -> None:
    faces = made()
    np.testing.assert_array_equal(faces[0]["left_eye"], faces.landmarks[0, 42:48])
    assert faces["nose"].shape == (3, 9, 2)
    with pytest.raises(LayoutError, match="no part 'ear'; parts: outline, right_brow"):
        faces[0]["ear"]


def test_empty_is_an_empty_faces() -> None:
    empty = Faces.empty(IBUG, (640, 480))
    assert len(empty) == 0
    assert list(empty) == []
    assert (empty.landmarks.shape, empty.spread.shape, empty.confidence.shape) == ((0, 68, 2), (0, 68, 2), (0, 68))
    assert (empty.boxes.shape, empty.scores.shape, empty.crops.shape) == ((0, 4), (0,), (0, 2, 3))
    assert empty["nose"].shape == (0, 9, 2)
    assert len(empty[1:]) == 0


def test_no_face_overwrites_another() -> None:
    """A second face is called NAME_2, and so may another picture be."""
    files = ["x/two.jpg", "x/two_2.jpg", "y/two.jpg", "two-2.jpg", "-", "stdin.png", ".jpg", "y/two.png"]
    stems = unique_stems(files)
    assert stems == ["two", "two_2", "two-2", "two-2-2", "stdin", "stdin-2", ".jpg", "two-3"]
    records = [Record(file, stem, "nano", made(2)) for file, stem in zip(files, stems, strict=True)]
    assert len(FORMATS["pts"].write(records)) == 2 * len(files)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_what_was_found(name: str) -> None:
    import csv
    import io
    import json

    faces = made(2)
    records = [
        Record("a/one.jpg", "one", "nano", faces),
        Record("b/one.png", "one-2", "nano", Faces.empty(IBUG, (64, 48))),
        Record("c/one.png", "one-3", "nano", faces[1:]),
    ]
    files = FORMATS[name].write(records)
    if name == "pts":
        assert sorted(files) == ["one-3.pts", "one.pts", "one_2.pts"]
        lines = files["one.pts"].split("\n")
        assert lines[:3] == ["version: 1", "n_points: 68", "{"]
        points = np.array([line.split() for line in lines[3:71]], dtype=float)
        np.testing.assert_allclose(points - 1, faces.landmarks[0], atol=1e-3)
        return
    (text,) = files.values()
    if name in ("json", "jsonl"):
        entries = json.loads(text) if name == "json" else [json.loads(line) for line in text.splitlines()]
        assert [(e["file"], e["width"], e["layout"], len(e["faces"])) for e in entries] == [
            ("a/one.jpg", 1200, "ibug68", 2),
            ("b/one.png", 64, "ibug68", 0),
            ("c/one.png", 1200, "ibug68", 1),
        ]
        np.testing.assert_allclose(entries[0]["faces"][1]["landmarks"], faces.landmarks[1], atol=0.006)
        np.testing.assert_allclose(entries[0]["faces"][1]["spread"], faces.spread[1], atol=6e-4)
        np.testing.assert_allclose(entries[0]["faces"][1]["confidence"], faces.confidence[1], atol=6e-5)
    elif name == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 2 * 68 + 1 + 68
        assert (rows[136]["file"], rows[136]["face"], rows[136]["x"]) == ("b/one.png", "", "")
        assert (rows[45]["name"], rows[45]["point"], rows[45]["face"]) == ("left_eye_3", "45", "0")
        assert float(rows[45]["x"]) == pytest.approx(faces.landmarks[0, 45, 0], abs=0.006)
    else:
        whole = json.loads(text)
        assert [image["id"] for image in whole["images"]] == [1, 2, 3]
        assert [note["image_id"] for note in whole["annotations"]] == [1, 1, 3]
        keypoints = np.reshape(whole["annotations"][1]["keypoints"], (68, 3))
        np.testing.assert_allclose(keypoints[:, :2], faces.landmarks[1], atol=0.006)
        assert (keypoints[:, 2] == 2).all()
        (category,) = whole["categories"]
        assert len(category["keypoints"]) == 68
        assert np.min(category["skeleton"]) == 1
        assert np.max(category["skeleton"]) == 68
