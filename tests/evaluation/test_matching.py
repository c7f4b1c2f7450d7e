"""Which prediction belongs to which face: names with numbers, marks, folders and suffixes."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drawn_faces import write_pts
from evaluation_fixtures import bare_samples, truth_of
from landmark_files import IBUG, SHAPE, entry
from octamark.datasets import Sample
from octamark.errors import DataError
from octamark.evaluation.matching import matched
from octamark.io import PictureEntry, read_entries

SOURCE = Path("given.json")
F32 = NDArray[np.float32]


def named(*names: str, pictures: tuple[str, ...] = ()) -> list[Sample]:
    """Faces 300 pixels apart, so that no box overlaps another's."""
    faces = bare_samples(len(names))
    places = pictures or tuple(f"{name}.png" for name in names)
    return [
        replace(one, name=name, picture=Path(place), landmarks=one.landmarks + np.float32(300 * index))
        for index, (one, name, place) in enumerate(zip(faces, names, places, strict=True))
    ]


def found(*samples: Sample) -> list[F32]:
    return [sample.landmarks for sample in samples]


def entries(given: dict[str, list[F32]]) -> list[PictureEntry]:
    return [entry(name, *faces) for name, faces in given.items()]


def right(samples: list[Sample], given: dict[str, list[F32]], source: Path = SOURCE) -> list[bool]:
    """For each sample, whether exactly its own points were taken; no name may be left over."""
    predictions, stray = matched(samples, entries(given), 68, source)
    assert not stray
    return [np.array_equal(a, b.landmarks) for a, b in zip(predictions.landmarks, samples, strict=True)]


def test_two_faces_of_a_picture_go_by_their_own_names() -> None:
    samples = named("two", "two#2", pictures=("two.jpg", "two.jpg"))
    assert right(samples, {"two": found(samples[0]), "two#2": found(samples[1])}) == [True, True]


def test_a_picture_with_several_faces_serves_all_of_them() -> None:
    samples = named("two", "two#2", "one", pictures=("two.jpg", "two.jpg", "one.jpg"))
    given = {"two.jpg": found(samples[1], samples[0]), "one.jpg": found(samples[2])}
    assert right(samples, given) == [True, True, True]
    assert right(samples, {"two": given["two.jpg"], "one": given["one.jpg"]}) == [True, True, True]
    lone = {"two.jpg": found(samples[1]), "one.jpg": found(samples[2])}
    assert right(samples, lone) == [False, True, True]  # one face is not two


def test_a_mark_in_a_name_is_only_a_mark() -> None:
    samples = named("a.jpg", "a.jpg#2", pictures=("a.jpg", "a.jpg#2"))
    assert right(samples, {"a.jpg": found(samples[0]), "a.jpg#2": found(samples[1])}) == [True, True]
    files = named("photo", "photo#1", pictures=("photo.jpg", "photo#1.jpg"))
    assert right(files, {"photo": found(files[0]), "photo#1": found(files[1])}) == [True, True]


def test_paths_are_read_as_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = named("a/x", "b/x", pictures=("set/a/x.jpg", "set/b/x.jpg"))
    forms = (
        lambda s: f"./{s.name}.jpg",
        lambda s: s.name,
        lambda s: f"{s.name}.jpg",
        lambda s: str(s.picture),
        lambda s: os.path.abspath(s.picture),
        lambda s: s.name.replace("/", "\\") + ".jpg",
    )
    for form in forms:
        assert right(samples, {form(one): found(one) for one in samples}) == [True, True]
    mixed = {"./a/x.jpg": found(samples[0]), "b/x": found(samples[1])}
    assert right(samples, mixed) == [True, True]


def test_a_folder_of_pts_holds_further_faces_of_a_picture(tmp_path: Path) -> None:
    """``octamark predict -f pts`` numbers them; pictures whose own names end in numbers stay what they are."""

    def write(name: str, points: NDArray[np.float32]) -> None:
        write_pts(tmp_path / f"{name}.pts", points)

    left, far = named("two", "elsewhere")
    write("two", far.landmarks)
    write("two_2", left.landmarks)
    predictions, stray = matched([left], read_entries(tmp_path, IBUG, further_faces=False), 68, tmp_path)
    assert not stray
    np.testing.assert_allclose(predictions.landmarks[0], left.landmarks, atol=1e-3)
    numbered = named("two", "two_2")
    write("two", numbered[0].landmarks)
    write("two_2", numbered[1].landmarks)
    predictions, _ = matched(numbered, read_entries(tmp_path, IBUG, further_faces=False), 68, tmp_path)
    np.testing.assert_allclose(predictions.landmarks[1], numbered[1].landmarks, atol=1e-3)


def sample(name: str, picture: str, offset: float = 0) -> Sample:
    return Sample(name, Path(picture), SHAPE + np.float32(offset))


def numbered(*names: str) -> list[PictureEntry]:
    """A prediction for each name, the first moved by 1 pixel, the second by 2, ..."""
    return [entry(name, SHAPE + number) for number, name in enumerate(names, 1)]


def taken(samples: list[Sample], found: list[PictureEntry]) -> tuple[list[int], list[str]]:
    """Number of the prediction that each sample got (0: none), and the stray names."""
    given, stray = matched(samples, found, 68, SOURCE)
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
    crowd = entry("p", SHAPE + 303, SHAPE + 2)
    faces = [replace(face, spread=SHAPE * 0.0 + number) for face, number in zip(crowd.faces, (3, 2), strict=True)]
    given, _ = matched(samples, [replace(crowd, faces=faces)], 68, SOURCE)
    assert given.found.tolist() == [True, True, False]
    moved = given.landmarks[:2, 0, 0] - SHAPE[0, 0]
    assert moved.tolist() == pytest.approx([2, 303])
    assert given.spread is not None
    assert given.spread[:2, 0, 0].tolist() == [2, 3]


def test_a_lone_face_is_scored_however_far_off() -> None:
    given, _ = matched([sample("p", "p.png")], [entry("p", SHAPE + 5000)], 68, SOURCE)
    assert given.found.all()


def test_spread_is_kept_only_if_every_face_has_it() -> None:
    samples = bare_samples(2)
    first, second = truth_of(samples)
    with_spread = entry("set/0", first, spread=np.ones((68, 2)), confidence=np.full(68, 0.5))
    given, _ = matched(samples, [with_spread, entry("set/1", second)], 68, SOURCE)
    assert given.spread is None
    assert given.confidence is None
    given, _ = matched(samples, [with_spread], 68, SOURCE)  # the other was not found
    assert given.spread is not None
    assert given.confidence is not None
    assert np.isnan(given.spread[1]).all()
    assert given.visible is None
    with_visible = entry("set/0", first, visible=np.full(68, 0.25))
    given, _ = matched(samples, [with_visible], 68, SOURCE)
    assert given.visible is not None
    assert (given.visible[0] == 0.25).all()
    assert np.isnan(given.visible[1]).all()
    given, _ = matched(samples, [with_visible, entry("set/1", second)], 68, SOURCE)
    assert given.visible is None


def test_predicted_points_must_all_be_there() -> None:
    spoilt = SHAPE.copy()
    spoilt[4] = np.nan
    with pytest.raises(DataError, match="a: landmarks: holds a value that is not finite"):
        matched([sample("a", "a.png")], [entry("a", spoilt)], 68, SOURCE)


def test_labels_may_be_missing_where_faces_are_told_apart() -> None:
    samples = [sample("p", "p.png"), sample("p#2", "p.png", offset=400)]
    for one in samples:
        one.landmarks[10:] = np.nan
    given, _ = matched(samples, [entry("p", SHAPE + 401, SHAPE + 1)], 68, SOURCE)
    assert (given.landmarks[:, 0, 0] - SHAPE[0, 0]).tolist() == pytest.approx([1, 401])


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (
        unicodedata.normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD")
    )
    for ours, theirs in ((composed, decomposed), (decomposed, composed)):
        samples = [sample(f"x/{ours}", f"set/x/{ours}.jpg"), sample("x/b", "set/x/b.jpg")]
        for form in ("x/{}", "x\\{}", "x/{}.jpg", "./x/{}.png", "{}", "{}.jpg", os.path.abspath("set") + "/x/{}.jpg"):
            assert taken(samples, numbered(form.format("b"), form.format(theirs))) == ([2, 1], [])
