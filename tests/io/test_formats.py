"""Every writer with every reader: what was written comes back, whatever the pictures are called."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evaluation_fixtures import bare_samples
from landmark_files import IBUG, faces_at, records_of, rounded_record, with_visible, write_all
from octamark import datasets
from octamark.datasets import Sample
from octamark.errors import LayoutError, OutputError
from octamark.evaluation.scoring import Truth, score_file
from octamark.faces import Faces
from octamark.io import FORMATS, Record, read_entries, read_pts, read_records, unique_stems
from octamark.layouts import layout

NAMES = [
    "in/a.png", "in\\b.png", 'with, comma "quotes".png', "new\nline.png", "carriage\rreturn.png", "both\r\n.png",
    os.fsdecode(b"bytes\xff\xfe.png"), "cafe\N{COMBINING ACUTE ACCENT}.png",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png",
    " blanks .png",
    "line\N{LINE SEPARATOR}separator.png", "\N{SNOWMAN}.png",
]  # fmt: skip
WHOLE = [name for name in FORMATS if name != "pts"]  # pts holds the points alone


def records() -> list[Record]:
    """Two faces, one, none, in turn."""
    return records_of(NAMES, [faces_at(0, 700), faces_at(5, seed=1), Faces.empty(IBUG, (90, 60))])


@pytest.mark.parametrize("name", WHOLE)
def test_records_come_back(tmp_path: Path, name: str) -> None:
    (path,) = write_all(name, tmp_path, records(), model="nano", layout=IBUG)
    for found in (read_records(path), read_records(tmp_path, IBUG)):
        assert [rounded_record(record) for record in found] == [rounded_record(record) for record in records()]
        assert [record.stem for record in found] == [record.stem for record in records()]
        assert all(record.faces.crops is None for record in found)


@pytest.mark.parametrize("name", WHOLE)
def test_ids_of_tracks_come_back(tmp_path: Path, name: str) -> None:
    tracked = replace(faces_at(0, 700), ids=np.array([12, 3]))
    (path,) = write_all(name, tmp_path, records_of(["a.png", "b.png"], [tracked, faces_at(5)]), layout=IBUG)
    first, second = read_records(path)
    assert first.faces.ids is not None
    assert first.faces.ids.tolist() == [12, 3]
    assert second.faces.ids is None


@pytest.mark.parametrize("name", WHOLE)
def test_visible_comes_back(tmp_path: Path, name: str) -> None:
    """From pictures of which the model tells it; beside them one of which it does not."""
    faces = [with_visible(faces_at(0, 700)), faces_at(5, seed=1), with_visible(faces_at()), with_visible(faces_at(9))]
    faces[3].landmarks[0, 4] = faces[3].visible[0, 4] = np.nan  # type: ignore[index]
    written = records_of(["a.png", "b.png", "c.png", "d.png"], faces)
    (path,) = write_all(name, tmp_path, written, layout=IBUG)
    found = read_records(path)
    assert [rounded_record(record)["faces"] for record in found] == [
        rounded_record(record)["faces"] for record in written
    ]
    assert [record.faces.visible is None for record in found] == [False, True, True, False]
    for record, before in zip(found, written, strict=True):
        np.testing.assert_allclose(record.faces.mean_confidence, before.faces.mean_confidence, atol=2e-4)


def test_tables_without_the_column_visible_are_read(tmp_path: Path) -> None:
    """As earlier versions wrote them. They are not gone on with, since rows of both forms would be mixed."""
    (path,) = write_all("csv", tmp_path, records())
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "visible"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    found = read_records(path)
    assert [rounded_record(record) for record in found] == [rounded_record(record) for record in records()]
    with pytest.raises(OutputError, match=r"row 1: not the columns of octamark predict \(no visible\); resume from"):
        write_all("csv", tmp_path, records(), resume=True)


def test_visible_is_part_of_no_file_whose_model_does_not_tell_it(tmp_path: Path) -> None:
    for name in ("json", "jsonl", "coco", "pts"):
        for path in write_all(name, tmp_path / name, records()):
            assert "visible" not in path.read_text()
    for path in write_all("pts", tmp_path / "seen", records_of(["a.png"], [with_visible(faces_at(0))])):
        assert path.read_text() == (tmp_path / "pts" / "a.pts").read_text()


def test_pts_files_come_back(tmp_path: Path) -> None:
    write_all("pts", tmp_path, records())
    found = {record.file: record.faces for record in read_records(tmp_path, IBUG)}
    assert found.keys() == {record.stem for record in records() if len(record.faces)}
    for record in records():
        if len(record.faces):
            faces = found[record.stem]
            np.testing.assert_allclose(faces.landmarks, record.faces.landmarks, atol=6e-4)
            assert np.isnan(faces.spread).all()
            assert np.isnan(faces.boxes).all()
            assert np.isnan(faces.scores).all()
    with pytest.raises(LayoutError, match="the file does not say which layout its points follow"):
        read_records(tmp_path)


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_what_one_format_holds_another_takes_over(tmp_path: Path, first: str, second: str) -> None:
    """first -> records -> second -> records: nothing is lost that both can hold, and a second pass changes nothing."""
    write_all(first, tmp_path / "1", records())
    once = read_records(tmp_path / "1", IBUG)
    (tmp_path / "2").mkdir()
    files = write_all(second, tmp_path / "2", once)
    twice = read_records(tmp_path / "2", IBUG)
    kept = [record for record in once if len(record.faces)] if second == "pts" else once
    assert len(twice) == len(kept)
    if first == second or "pts" not in (first, second):
        assert sorted(map(str, map(rounded_record, twice))) == sorted(map(str, map(rounded_record, kept)))
    by_stem = {record.stem: record for record in twice}
    for record in kept:
        points = by_stem[record.stem].faces.landmarks
        np.testing.assert_allclose(points, record.faces.landmarks, atol=0.00501)
    again = write_all(second, tmp_path / "3", twice)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]


@pytest.mark.slow
@given(
    st.lists(st.floats(-1e5, 1e5, width=32), min_size=136, max_size=136),
    st.lists(st.floats(0, 1e4, width=32), min_size=136, max_size=136),
    st.lists(st.floats(0, 1, width=32), min_size=69, max_size=69),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).filter(lambda text: text.strip()),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_numbers_and_names(
    tmp_path: Path, points: list[float], spread: list[float], confidences: list[float], file: str
) -> None:
    landmarks = np.array(points, np.float32).reshape(1, 68, 2)
    corners = np.sort(landmarks[:, :2], axis=1).reshape(1, 4)
    faces = Faces(
        IBUG,
        (30, 20),
        landmarks,
        np.array(spread, np.float32).reshape(1, 68, 2),
        np.array(confidences[:68], np.float32)[None],
        corners,
        np.array(confidences[68:], np.float32),
    )
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, [Record(file, "stem", "m", faces)])
        (found,) = read_records(path)
        assert rounded_record(found) == rounded_record(Record(file, "stem", "m", faces))


def test_faces_of_a_layout_that_is_not_built_in(tmp_path: Path) -> None:
    own = replace(layout("ibug68"), name="mine")
    faces = replace(faces_at(0), layout=own)
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, [Record("a.png", "a", "nano", faces)])
        with pytest.raises(LayoutError, match="unknown layout 'mine'"):
            read_records(path)
        (found,) = read_records(path, own)
        assert found.faces.layout is own


def pictures_of(folder: Path, records: list[Record]) -> None:
    for record in records:
        (folder / record.file).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", record.faces.size).save(folder / record.file, "PNG")


@pytest.mark.parametrize("name", FORMATS)
def test_predictions_are_a_labelled_set(tmp_path: Path, name: str) -> None:
    """Beside its pictures, every format is read by ``datasets.read``, and so by train and evaluate."""
    written = [record for record in records() if "/" not in record.file and "\\" not in record.file]
    pictures_of(tmp_path, written)
    with_faces = [record for record in written if len(record.faces)]
    write_all(name, tmp_path, written)
    path = tmp_path if name == "pts" else tmp_path / str(FORMATS[name].file)
    for root in {path, tmp_path}:
        for form in ("folder", "coco") if name == "coco" else ("folder",):
            samples = datasets.read(form, root, layout=IBUG)
            found = [str(sample.picture) for sample in samples]
            expected = [str(tmp_path / record.file) for record in with_faces for _ in record.faces]
            assert sorted(found) == sorted(expected)
            assert len({sample.name for sample in samples}) == len(samples)
            truth = {}
            for record in with_faces:
                for number, face in enumerate(record.faces):
                    truth[str(tmp_path / record.file), number] = face
            for sample in samples:
                number = int(sample.name.rpartition("#")[2]) - 1 if sample.name.endswith("#2") else 0
                face = truth[str(sample.picture), number]
                np.testing.assert_allclose(sample.landmarks, face.landmarks, atol=0.00501)
                if name != "pts":
                    np.testing.assert_allclose(sample.box, face.box, atol=0.00501)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("at", ["", "somewhere/else/"])
def test_predictions_are_scored(tmp_path: Path, name: str, at: str) -> None:
    """``evaluate --predictions`` takes every format, from the folder and from the file."""
    files = [f"{at}{sample.name.partition('/')[2]}.png" for sample in bare_samples(4)]
    samples = [
        replace(sample, name=file.removesuffix(".png")) for sample, file in zip(bare_samples(4), files, strict=True)
    ]
    faces = [replace(faces_at(0), landmarks=sample.landmarks[None]) for sample in samples]
    write_all(name, tmp_path / "out", records_of(files, faces))
    truth = Truth("drawn", "all", samples, IBUG)
    places = [tmp_path / "out"] + ([] if name == "pts" else [tmp_path / "out" / str(FORMATS[name].file)])
    for place in places:
        result, stray = score_file(truth, place)
        assert not stray
        assert result.nme.max() < 0.0002
        assert (result.predictions.spread is None) == (name == "pts")


def test_unknown_spread_is_no_spread(tmp_path: Path) -> None:
    write_all("pts", tmp_path / "pts", records_of(["a.png"], [faces_at(0)]))
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, read_records(tmp_path / "pts", IBUG))
        (picture,) = read_entries(path, IBUG)
        (face,) = picture.faces
        assert (face.spread, face.confidence, face.box, face.score, picture.size, picture.model) == (None,) * 6


def test_points_without_a_label_come_back(tmp_path: Path) -> None:
    faces = faces_at(0)
    faces.landmarks[0, [3, 40]] = np.nan
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, [Record("a.png", "a", "nano", faces)])
        (found,) = read_records(path)
        assert np.flatnonzero(np.isnan(found.faces.landmarks[0, :, 0])).tolist() == [3, 40]
        np.testing.assert_allclose(found.faces.landmarks, faces.landmarks, atol=0.00501)


def test_stems_are_distinct_and_never_a_further_faces() -> None:
    files = ["x/two.jpg", "x/two.png", "x/two_2.jpg", "y/two.jpg", "two-2.jpg", "-", "stdin.png", ".jpg", "x/two.gif",
             "x/two#2.jpg", "two#2.jpg", "#3", "a\\b.png"]  # fmt: skip
    stems = unique_stems(files)
    assert len(set(stems)) == len(stems)
    assert stems[:9] == ["two", "two.png", "two_2", "two-2", "two-2-2", "stdin", "stdin.png", ".jpg", "two.gif"]
    assert stems[9:] == ["two#2.jpg", "two#2-2", "#3-2", "a\\b"]


def test_no_face_overwrites_another(tmp_path: Path) -> None:
    files = ["two.jpg", "two.png", "two_2.jpg", "two#2.jpg", "two-2.jpg"]
    written = write_all("pts", tmp_path, records_of(files, [faces_at(0, 500)]))
    assert len(written) == 2 * len(files)


@pytest.mark.parametrize("clash", ["two_2.png", "two#2.png", "two.png", "two-2.png", "two.jpg.png"])
def test_pts_files_find_their_pictures(tmp_path: Path, clash: str) -> None:
    """Two faces in a picture, and another picture with a name as like as can be; in both orders."""
    for order in (1, -1):
        folder = tmp_path / str(order)
        faces = [faces_at(0, 500), faces_at(30, 800)][::order]
        written = records_of(["two.jpg", clash][::order], faces)
        pictures_of(folder, written)
        write_all("pts", folder, written)
        samples = datasets.read("folder", folder, layout=IBUG)
        assert len(samples) == 4
        for record in written:
            of_picture = [sample for sample in samples if sample.picture == folder / record.file]
            assert len(of_picture) == 2
            left = sorted(of_picture, key=lambda sample: float(sample.landmarks[:, 0].min()))
            for sample, face in zip(left, record.faces, strict=True):
                np.testing.assert_allclose(sample.landmarks, face.landmarks, atol=6e-4)


def test_further_faces_as_version_0_named_them(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    for name in ("a.pts", "a_2.pts", "a_3-2.pts"):
        write_all("pts", tmp_path, [Record("a.png", name.removesuffix(".pts"), "nano", faces_at(0))])
    samples = datasets.read("folder", tmp_path, layout=IBUG)
    assert [sample.name for sample in samples] == ["a", "a_2", "a_3-2"]
    assert {sample.picture for sample in samples} == {tmp_path / "a.png"}


def test_what_the_files_hold(tmp_path: Path) -> None:
    faces = faces_at(0, 700)
    written = records_of(["a/one.jpg", "b/one.png"], [faces, Faces.empty(IBUG, (64, 48))])
    (path,) = write_all("json", tmp_path / "json", written)
    first, second = json.loads(path.read_text())
    assert list(first) == ["file", "width", "height", "layout", "model", "faces"]
    assert (second["file"], second["width"], second["height"], second["faces"]) == ("b/one.png", 64, 48, [])
    (path,) = write_all("jsonl", tmp_path / "jsonl", written)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [first, second]
    for number, face in enumerate(first["faces"]):
        assert face["mean_confidence"] == pytest.approx(faces.confidence[number].mean(), abs=6e-5)
    (path,) = write_all("csv", tmp_path / "csv", written)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 2 * 68 + 1
    columns = lines[0].split(",")
    assert columns[:9] == ["file", "width", "height", "layout", "model", "face", "id", "score", "mean_confidence"]
    cells = dict(zip(columns, lines[1 + 45].split(","), strict=True))
    assert (cells["name"], cells["point"], cells["face"]) == ("left_eye_3", "45", "0")
    assert float(cells["mean_confidence"]) == first["faces"][0]["mean_confidence"]
    (path,) = write_all("coco", tmp_path / "coco", written)
    whole = json.loads(path.read_text())
    (category,) = whole["categories"]
    assert (category["name"], category["supercategory"], len(category["keypoints"])) == ("face_ibug68", "face", 68)
    assert (np.min(category["skeleton"]), np.max(category["skeleton"])) == (1, 68)
    assert [annotation["mean_confidence"] for annotation in whole["annotations"]] == [
        face["mean_confidence"] for face in first["faces"]
    ]
    assert (np.reshape(whole["annotations"][0]["keypoints"], (68, 3))[:, 2] == 2).all()
    files = write_all("pts", tmp_path / "pts", written)
    assert [file.name for file in files] == ["one#2.pts", "one.pts"]
    assert files[1].read_text().split("\n")[:3] == ["version: 1", "n_points: 68", "{"]
    np.testing.assert_allclose(read_pts(files[1], 68), faces.landmarks[0], atol=6e-4)


@pytest.mark.parametrize("name", ["json", "jsonl", "csv"])
def test_frames_of_a_video_come_back(tmp_path: Path, name: str) -> None:
    two = replace(faces_at(0, 700), ids=np.array([7, 3]))
    written = [
        Record(f"clip.mp4#{frame}", f"clip.mp4#{frame}", "nano", faces, frame, time)
        for frame, time, faces in ((0, 0.0, two), (5, 0.16667, Faces.empty(IBUG, (90, 60))), (9, 1234.5, two[:1]))
    ]
    (path,) = write_all(name, tmp_path, written, model="nano", layout=IBUG, video=True)
    found = read_records(path)
    assert [(record.file, record.frame, record.time) for record in found] == [
        ("clip.mp4#0", 0, 0.0), ("clip.mp4#5", 5, 0.16667), ("clip.mp4#9", 9, 1234.5),
    ]  # fmt: skip
    ids = [[] if record.faces.ids is None else record.faces.ids.tolist() for record in found]
    assert ids == [[7, 3], [], [7]]


def test_frame_time_and_id_of_others_mean_something_else(tmp_path: Path) -> None:
    points = ",".join(f"{x},{y}" for x, y in faces_at(0).landmarks[0].tolist())
    head = ",".join(f"x{index},y{index}" for index in range(68))
    (tmp_path / "a.csv").write_text(f"file,id,time,{head}\na.png,Ann,noon,{points}\n")
    (entry,) = read_entries(tmp_path / "a.csv", IBUG)
    assert (entry.frame, entry.time, entry.faces[0].id) == (None, None, None)
    landmarks = faces_at(0).landmarks[0].tolist()
    for frame, time in (("first", "noon"), (-1, float("nan")), (1.5, True)):
        values = [{"image": "a.png", "frame": frame, "time": time, "landmarks": landmarks}]
        (tmp_path / "a.json").write_text(json.dumps(values))
        (entry,) = read_entries(tmp_path / "a.json", IBUG)
        assert (entry.frame, entry.time) == (None, None)


def test_readers_take_the_layout_of_their_caller(tmp_path: Path) -> None:
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, records_of(["a.png"], [faces_at(0)]))
        other = layout("wflw98")
        with pytest.raises(Exception, match=r"expected layout wflw98|no category has the 98 points"):
            read_records(path, other)


def test_samples_are_the_same_from_every_format(tmp_path: Path) -> None:
    written = records_of(["a.png", "b.png"], [faces_at(0, 600), faces_at(9)])
    pictures_of(tmp_path, written)
    sets: list[list[Sample]] = []
    for name in WHOLE:
        (path,) = write_all(name, tmp_path / name, written)
        moved = path.rename(tmp_path / path.name)
        sets.append(datasets.read("folder", moved, layout=IBUG))
    assert [sample.name for sample in sets[0]] == ["a", "a#2", "b"]
    for samples in sets[1:]:
        assert [sample.name for sample in samples] == [sample.name for sample in sets[0]]
        for sample, reference in zip(samples, sets[0], strict=True):
            np.testing.assert_array_equal(sample.landmarks, reference.landmarks)
            np.testing.assert_array_equal(sample.box, reference.box)
