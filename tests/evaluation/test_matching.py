"""Which prediction belongs to which face: names with numbers, marks, folders and suffixes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drawn_faces import write_pts
from evaluation_fixtures import bare_samples
from octamark.datasets import Sample
from octamark.evaluation.matching import Found, matched
from octamark.evaluation.predictions import read_predictions

SOURCE = Path("theirs.json")


def named(*names: str, pictures: tuple[str, ...] = ()) -> list[Sample]:
    """Faces 300 pixels apart, so that no box overlaps another's."""
    faces = bare_samples(len(names))
    places = pictures or tuple(f"{name}.png" for name in names)
    return [
        replace(one, name=name, picture=Path(place), landmarks=one.landmarks + np.float32(300 * index))
        for index, (one, name, place) in enumerate(zip(faces, names, places, strict=True))
    ]


def found(*samples: Sample) -> Found:
    return Found(np.stack([sample.landmarks for sample in samples]).astype(np.float64))


def right(samples: list[Sample], given: dict[str, Found], source: Path = SOURCE) -> list[bool]:
    """For each sample, whether exactly its own points were taken; no name may be left over."""
    predictions, stray = matched(samples, given, 68, source)
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
    predictions, stray = matched([left], read_predictions(tmp_path, 68), 68, tmp_path)
    assert not stray
    np.testing.assert_allclose(predictions.landmarks[0], left.landmarks, atol=1e-3)
    numbered = named("two", "two_2")
    write("two", numbered[0].landmarks)
    write("two_2", numbered[1].landmarks)
    predictions, _ = matched(numbered, read_predictions(tmp_path, 68), 68, tmp_path)
    np.testing.assert_allclose(predictions.landmarks[1], numbered[1].landmarks, atol=1e-3)
