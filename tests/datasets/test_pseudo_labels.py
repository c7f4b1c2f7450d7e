"""Pseudo-labels: which faces of a teacher's result are taken, and the set that is written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octamark import layout
from octamark.datasets import read
from octamark.datasets.pseudo_labels import (
    BALANCED,
    FACES,
    LABELS,
    SUMMARY,
    Selection,
    expected_errors,
    label,
    largest_count,
)
from octamark.errors import ConfigError, DataError, OutputError
from octamark.faces import Faces
from octamark.images import write_picture
from octamark.io import Record

IBUG = layout("ibug68")
SIDE = 200


def face(
    *, error: float = 0.02, side: float = 100.0, angle: float = 0.0, uncertain: int = 0, middle: float = 100.0
) -> Faces:
    """One face like the layout's diagram.

    Args:
        error: expected error along x and y of every point but the uncertain ones, share of the eye distance.
        side: of the landmark box, about.
        angle: by which the head is turned to one side, degrees, about; the face is made narrower.
        uncertain: how many of the first points have a large expected error.
    """
    points = (np.asarray(IBUG.diagram, np.float64) - 0.5) * side * [np.cos(np.radians(angle)), 1] + middle
    distance = IBUG.reference_distance(points[None])[0]
    spread = np.full((1, 68, 2), error * distance / np.sqrt(2))
    spread[:, :uncertain] = 0.3 * distance
    return Faces(
        IBUG,
        (SIDE, SIDE),
        landmarks=points[None].astype(np.float32),
        spread=spread.astype(np.float32),
        confidence=np.ones((1, 68), np.float32),
        boxes=np.array([[40, 40, 160, 160]], np.float32),
        scores=np.ones(1, np.float32),
    )


def records(folder: Path, faces: list[Faces]) -> list[Record]:
    """A record for each face, and its picture."""
    made = []
    for index, one in enumerate(faces):
        path = folder / f"{index}.png"
        write_picture(path, np.full((SIDE, SIDE, 3), 100, np.uint8))
        made.append(Record(str(path), path.stem, "teacher", one))
    return made


def test_the_set_is_one_that_training_reads(tmp_path: Path) -> None:
    faces = [face(), face(error=0.2), face(uncertain=4), face(side=20)]
    empty = Record("empty.png", "empty", "teacher", Faces.empty(IBUG, (SIDE, SIDE)))
    result = label([*records(tmp_path, faces), empty], tmp_path / "set", Selection(largest_kind=1))
    samples = read("coco", tmp_path / "set", layout=IBUG)
    assert [sample.picture for sample in samples] == [tmp_path / "0.png", tmp_path / "2.png"]
    np.testing.assert_allclose(samples[0].landmarks, faces[0].landmarks[0], atol=0.01)
    assert np.isnan(samples[1].landmarks[:4]).all()
    np.testing.assert_allclose(samples[1].landmarks[4:], faces[2].landmarks[0, 4:], atol=0.01)
    assert samples[0].read().shape == (SIDE, SIDE, 3)
    assert [candidate.reason is None for candidate in result.candidates] == [True, False, True, False]
    assert (result.pictures, result.models) == (5, ("teacher",))
    assert [candidate.points for candidate in result.taken] == [68, 64]


def test_what_was_left_out_is_written_beside_the_set(tmp_path: Path) -> None:
    result = label(records(tmp_path, [face(), face(error=0.2), face(error=0.3), face(side=20)]), tmp_path / "set")
    with (tmp_path / "set" / FACES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["taken"] for row in rows] == ["yes", "no", "no", "no"]
    assert rows[1]["reason"] == "expected error above 5.0% of the eye distance"
    assert rows[3]["reason"] == "smaller than 32 pixels"
    assert float(rows[1]["expected_error"]) == pytest.approx(0.2, abs=1e-3)
    assert result.reasons == {rows[1]["reason"]: 2, rows[3]["reason"]: 1}
    summary = (tmp_path / "set" / SUMMARY).read_text()
    assert summary == result.summary()
    assert "1 of 4 faces in 4 pictures, by teacher\nleft out, 2: expected error above" in summary
    info = json.loads((tmp_path / "set" / LABELS).read_text())["info"]
    assert info["models"] == ["teacher"]
    assert info["selection"]["max_error"] == Selection().max_error


def test_the_expected_error_is_a_share_of_the_eye_distance_or_of_the_box() -> None:
    assert expected_errors(face(error=0.02)) == pytest.approx(0.02, rel=1e-4)
    narrow = face(angle=85)  # the eyes lie nearly upon each other
    eyes = IBUG.reference_distance(narrow.landmarks)
    half_box = 0.5 * IBUG.distance(narrow.landmarks, "box")
    assert half_box > eyes
    assert expected_errors(narrow) == pytest.approx(float(0.02 * eyes[0] / half_box[0]), rel=1e-4)
    unknown = replace(face(), spread=np.full((1, 68, 2), np.nan, np.float32))
    assert np.isnan(expected_errors(unknown)).all()


def test_no_kind_of_face_gives_more_than_its_share(tmp_path: Path) -> None:
    frontal, small = [face() for _ in range(12)], [face(side=40) for _ in range(4)]
    written = records(tmp_path, [*frontal, *small])
    result = label(written, tmp_path / "set", Selection(largest_kind=0.5))
    assert result.reasons == {BALANCED: 4}
    assert sorted(result.kinds.values()) == [(4, 4), (12, 8)]
    again = label(list(reversed(written)), tmp_path / "again", Selection(largest_kind=0.5))
    assert {one.file for one in again.taken} == {one.file for one in result.taken}  # whatever the order is
    other = label(written, tmp_path / "other", Selection(largest_kind=0.5, seed=1))
    assert {one.file for one in other.taken} != {one.file for one in result.taken}
    few = label(written, tmp_path / "few", Selection(largest_kind=1, count=6))
    assert sorted(few.kinds.values()) == [(4, 3), (12, 3)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0.01, 1), st.none() | st.integers(1, 100))
@settings(deadline=None)
def test_as_many_as_possible_are_taken_of_each_kind(counts: list[int], share: float, total: int | None) -> None:
    limit = largest_count(counts, share, total)

    def fits(candidate: int) -> bool:
        taken = sum(min(count, candidate) for count in counts)
        return candidate <= share * sum(counts) and (total is None or taken <= total)

    assert limit == 1 or fits(limit)
    assert not fits(limit + 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frame": 3}, "a frame of a video"),
        ({"file": "s3://bucket/a.png"}, "not a local file"),
        ({"file": "nowhere.png"}, "the picture is not there: --pictures names the folder"),
        (
            {"faces": replace(face(), spread=np.full((1, 68, 2), np.nan, np.float32))},
            "no expected errors in the result",
        ),
        ({"faces": face(uncertain=68)}, "expected error above"),
    ],
)
def test_a_result_without_a_usable_face_is_an_error_that_says_why(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    (record,) = records(tmp_path, [face()])
    with pytest.raises(DataError, match=rf"^no face to label: {reason}.* \(1\)$"):
        label([replace(record, **change)], tmp_path / "set")  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_relative_names_begin_in_the_folder_of_pictures(tmp_path: Path) -> None:
    (record,) = records(tmp_path, [face()])
    result = label([replace(record, file="0.png")], tmp_path / "set", pictures=tmp_path)
    assert len(result.taken) == 1
    (sample,) = read("coco", tmp_path / "set", layout=IBUG)
    assert sample.picture == tmp_path / "0.png"


def test_a_layout_without_a_pose_is_balanced_by_size(tmp_path: Path) -> None:
    five = layout("five")
    points = np.array([[[60, 80], [140, 80], [100, 120], [70, 150], [130, 150]]], np.float32)
    faces = Faces(
        five, (SIDE, SIDE), landmarks=points, spread=np.ones((1, 5, 2), np.float32),
        confidence=np.ones((1, 5), np.float32), boxes=np.zeros((1, 4), np.float32), scores=np.ones(1, np.float32),
    )  # fmt: skip
    result = label(records(tmp_path, [faces]), tmp_path / "set")
    assert list(result.kinds) == [("unknown", "unknown", "48 to 96")]


def test_faces_of_several_layouts_are_an_error(tmp_path: Path) -> None:
    (record,) = records(tmp_path, [face()])
    other = replace(record, faces=Faces.empty(layout("five"), (SIDE, SIDE)))
    with pytest.raises(DataError, match="layouts five, ibug68; a set has one"):
        label([record, other], tmp_path / "set")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="set: exists and is not an empty folder"):
        label(records(tmp_path, [face()]), tmp_path / "set")
    with pytest.raises(DataError, match=r"^no face to label: the result holds no faces$"):
        label([], tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error": 0.0}, r"max_error 0\.0; allowed: above 0"),
        ({"max_error": float("nan")}, "max_error nan; allowed: above 0"),
        ({"max_point_error": -1.0}, "max_point_error"),
        ({"min_side": -1.0}, "min_side"),
        ({"largest_kind": 1.5}, r"largest_kind 1\.5; allowed: above 0, up to 1"),
        ({"count": 0}, "count 0; allowed: 1 or more, or None"),
    ],
)
def test_impossible_selections_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**options)  # type: ignore[arg-type]
