"""From labelled faces to a result: models, files, other layouts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import octamark
from evaluation_fixtures import IBUG, bare_samples, drawn_samples, result_of, truth_of
from landmark_files import SHAPE, faces_at, records_of, write_all, write_text
from octamark.datasets import Sample, w300
from octamark.errors import ConfigError, DataError, LayoutError, PictureError
from octamark.evaluation import plots, report
from octamark.evaluation.run import Predictions
from octamark.evaluation.scoring import Truth, _converted, read_truth, score_file, score_model
from octamark.evaluation.sheet import worst
from octamark.geometry import landmark_boxes
from octamark.inference.landmarker import Landmarker
from octamark.io import FORMATS
from octamark.layouts import Layout, layout
from octamark.metrics import nme

WFLW = layout("wflw98")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return drawn_samples(tmp_path_factory.mktemp("faces"), 5)


def drawn(samples: list[Sample], one: Layout = IBUG) -> Truth:
    return Truth("drawn", "all", samples, one)


def test_a_model_is_scored_as_by_hand(nano: Landmarker, samples: list[Sample]) -> None:
    tasks: list[str] = []
    result, curves = score_model(drawn(samples), nano, "labels", advance=tasks.append)
    found = [nano(s.picture, landmark_boxes(s.landmarks)[None], box_kind="landmarks").landmarks[0] for s in samples]
    np.testing.assert_allclose(result.nme, nme(np.stack(found), truth_of(samples), IBUG), atol=1e-4)
    assert curves is None
    assert tasks == ["faces"] * 5
    about = result.about
    assert (about.model, about.boxes, about.normaliser) == ("nano", "tight boxes around the labels", "inter-ocular")
    assert not about.approximate
    assert result.reliability is not None
    assert result.reliability.covered.keys() >= {0.5, 0.9, 0.95}


@pytest.mark.parametrize("name", ["inter-pupil", "box", "diagonal", "face-box", "face-diagonal"])
def test_each_normaliser(nano: Landmarker, samples: list[Sample], name: str) -> None:
    boxed = [replace(s, box=landmark_boxes(s.landmarks).astype(np.float32)) for s in samples]
    result, _ = score_model(drawn(boxed), nano, "labels", name)
    same = {"face-box": "box", "face-diagonal": "diagonal"}.get(name, name)
    found = result.predictions.landmarks
    np.testing.assert_allclose(result.nme, nme(found, truth_of(samples), IBUG, same), rtol=1e-5)


def test_boxes_of_the_detector(nano: Landmarker, samples: list[Sample]) -> None:
    """YuNet sees these drawings as faces."""
    result, _ = score_model(drawn(samples), nano, "detector")
    assert result.predictions.found.all()
    found = [nano(s.picture) for s in samples]
    assert [len(faces) for faces in found] == [1] * 5
    np.testing.assert_allclose(result.predictions.landmarks, np.concatenate([f.landmarks for f in found]), atol=2e-3)


def test_faces_that_the_detector_misses_fail(nano: Landmarker, samples: list[Sample], tmp_path: Path) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "dark.png")
    dark = [replace(sample, picture=tmp_path / "dark.png") for sample in samples]
    half, _ = score_model(drawn([*dark[:2], *samples[2:]]), nano, "detector")
    assert half.predictions.found.tolist() == [False, False, True, True, True]
    assert half.summary()["failure_rate_percent"]["8%"]["value"] >= 40
    result, curves = score_model(drawn(dark), nano, "detector", jitter=True)
    assert not result.predictions.found.any()
    summary = result.summary()
    assert summary["faces_not_found"] == 5
    assert summary["failure_rate_percent"]["8%"]["value"] == 100
    assert summary["boxes"] == "boxes of the YuNet detector"
    assert curves is not None
    assert np.isnan([y for lines in curves.values() for _, values in lines.values() for y in values]).all()


def test_own_boxes(nano: Landmarker, samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"face_0 .* the set gives no face box; use boxes labels or detector"):
        score_model(drawn(samples), nano, "own")
    boxed = [replace(s, box=landmark_boxes(s.landmarks).astype(np.float32)) for s in samples]
    result, _ = score_model(drawn(boxed), nano, "own")
    expected = [nano(s.picture, s.box[None]).landmarks[0] for s in boxed]  # type: ignore[index]
    np.testing.assert_allclose(result.predictions.landmarks, np.stack(expected), atol=2e-3)


def test_unknown_names(nano: Landmarker, samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="boxes 'label'; allowed: labels, detector, own"):
        score_model(drawn(samples), nano, "label")  # type: ignore[arg-type]
    message = (
        "layout ibug68 has no normaliser 'pupil'; allowed: inter-ocular, inter-pupil, box, diagonal, face-box, face"
    )
    with pytest.raises(LayoutError, match=message):
        score_model(drawn(samples), nano, "labels", "pupil")
    with pytest.raises(LayoutError, match=message):
        score_file(drawn(samples), tmp_path / "x.json", "pupil")


def test_broken_pictures_are_left_out(nano: Landmarker, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    several = [replace(samples[0], name="bad", picture=tmp_path / "bad.png"), *samples[1:]]
    with pytest.raises(PictureError, match=r"bad\.png"):
        score_model(drawn(several), nano, "labels")
    reported: list[str] = []
    result, _ = score_model(drawn(several), nano, "labels", broken=lambda sample, message: reported.append(sample.name))
    assert reported == ["bad"]
    assert [sample.name for sample in result.samples] == [sample.name for sample in samples[1:]]
    alone, _ = score_model(drawn(samples[1:]), nano, "labels")
    np.testing.assert_allclose(result.nme, alone.nme, atol=1e-5)  # each face keeps its own prediction
    with pytest.raises(DataError, match="drawn: none of its 1 pictures can be read"):
        score_model(drawn(several[:1]), nano, "labels", broken=lambda sample, message: None)


def dense(sample: Sample) -> Sample:
    """The same face with 98 points, of which the 68 that the layouts share are at the same places."""
    points = np.full((98, 2), np.nan, np.float32)
    kept = np.array(
        [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73,
         75, *range(76, 96)]
    )  # fmt: skip
    points[kept] = sample.landmarks
    missing = np.flatnonzero(np.isnan(points[:, 0]))
    points[missing] = sample.landmarks.mean(axis=0)
    return replace(sample, landmarks=points)


def test_truth_of_98_points_and_a_model_of_68(nano: Landmarker, samples: list[Sample]) -> None:
    """Scored in the model's layout, and said to be approximate; here the shared points are exact."""
    result, _ = score_model(drawn([dense(s) for s in samples], WFLW), nano, "labels")
    assert result.about.approximate
    assert result.about.layout is IBUG
    assert result.summary()["approximate"]
    direct, _ = score_model(drawn(samples), nano, "labels")
    np.testing.assert_allclose(result.nme, direct.nme, rtol=1e-4)
    np.testing.assert_allclose(result.parts["mouth"], direct.parts["mouth"], rtol=1e-4)


def test_layouts_without_a_conversion(nano: Landmarker, samples: list[Sample]) -> None:
    aflw = layout("aflw19")
    others = [replace(s, landmarks=(aflw.diagram * 80 + 20).astype(np.float32)) for s in samples]
    with pytest.raises(LayoutError, match="no conversion from ibug68 to aflw19"):
        score_model(drawn(others, aflw), nano, "labels")


def test_a_file_is_scored(tmp_path: Path) -> None:
    samples = bare_samples(4)
    truth = truth_of(samples)
    eyes = IBUG.distance(truth, "inter-ocular")
    entries = [
        {"image": "set/0.png", "landmarks": (truth[0] + (0.03 * eyes[0], 0)).tolist()},
        {"image": "set/1.png", "landmarks": None},
        {"image": "set/3", "landmarks": (truth[3] + (0, 0.05 * eyes[3])).tolist()},
        {"image": "set/9", "landmarks": truth[0].tolist()},
    ]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    result, stray = score_file(drawn(samples), tmp_path / "mine.json")
    assert stray == ["set/9"]
    np.testing.assert_allclose(result.nme, [0.03, np.nan, np.nan, 0.05], rtol=1e-4)
    assert (result.about.model, result.about.boxes) == ("mine.json", "boxes unknown")
    assert result.summary()["faces_not_found"] == 2
    with pytest.raises(DataError, match=r"entry 1 .* landmarks must be 98 points .* got 68 entries"):
        score_file(drawn([dense(s) for s in samples], WFLW), tmp_path / "mine.json")


def test_a_layout_without_eyes_is_normalised_by_its_box(tmp_path: Path) -> None:
    blind = replace(IBUG, normalisers={})
    samples = bare_samples(2)
    entries = [{"image": s.name, "landmarks": (s.landmarks + np.array([3, 4])).tolist()} for s in samples]
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    result, _ = score_file(drawn(samples, blind), tmp_path / "mine.json")
    assert result.about.normaliser == "box"
    np.testing.assert_allclose(result.nme, 5 / blind.distance(truth_of(samples), "box"), rtol=1e-4)


@pytest.mark.slow
def test_the_card_says_what_is_measured(w300_root: Path, nano: Landmarker) -> None:
    """The scores on the card of a shipped model, measured again on the validation faces."""
    never = octamark.load("nano", threads=1, rotation="never")
    truth = Truth("300w", "val", w300.read(w300_root, "val"), IBUG)
    result, _ = score_model(truth, never, "labels")
    message = {name: value for name, value in nano.card.scores.items() if "label boxes" in name}
    (mean,) = (value for name, value in message.items() if name.startswith("validation NME, %"))
    assert result.nme.mean() * 100 == pytest.approx(mean, abs=0.005)
    assert result.summary()["failure_rate_percent"]["8%"]["value"] == pytest.approx(
        message["failures at 8 %, %, label boxes"], abs=1e-3
    )
    coverage = result.summary()["reliability"]["coverage_percent"]
    for share in ("50%", "90%", "95%"):
        assert coverage[share] == pytest.approx(float(share.rstrip("%")), abs=2)
    auto, _ = score_model(truth, nano, "labels")
    assert auto.nme.mean() < result.nme.mean() + 0.0005


def test_layouts_of_one_name_must_be_one(nano: Landmarker, samples: list[Sample]) -> None:
    few = replace(layout("cofw29"), name="ibug68")
    faces = [replace(sample, landmarks=sample.landmarks[:29]) for sample in samples]
    with pytest.raises(LayoutError, match=r"different layouts of the same name ibug68 \(68 and 29 points\)"):
        score_model(drawn(faces, few), nano, "labels")


def test_jitter_where_hardly_a_face_is_found(nano: Landmarker, samples: list[Sample], tmp_path: Path) -> None:
    """A mean over the faces found, or nothing: never a crash after the work."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "black.png")
    dark = [replace(sample, name=f"dark {index}", picture=tmp_path / "black.png") for index, sample in
            enumerate(samples[:3])]  # fmt: skip
    result, curves = score_model(drawn(dark), nano, "detector", jitter=True)
    assert not result.predictions.found.any()
    assert curves is not None
    assert all(np.isnan(y).all() for lines in curves.values() for _, y in lines.values())


def test_what_no_face_has_is_said_before_the_work(nano: Landmarker, samples: list[Sample]) -> None:
    tasks: list[str] = []
    with pytest.raises(DataError, match="no face has the labels that normaliser face-box needs"):
        score_model(drawn(samples), nano, "labels", "face-box", advance=tasks.append)
    assert tasks == []


@pytest.mark.slow
def test_points_without_a_label_are_not_scored(nano: Landmarker, samples: list[Sample]) -> None:
    """Half of a face, as in profiles: NME, parts, intervals and the sheet take what is labelled."""
    half = [*range(9), *range(27, 31), *range(36, 42)]
    labelled = []
    for sample in samples:
        landmarks = np.full((68, 2), np.nan, np.float32)
        landmarks[half] = sample.landmarks[half]
        labelled.append(replace(sample, landmarks=landmarks))
    message = r"no face has the labels that normaliser inter-ocular needs; normalisers that work here: box, diagonal$"
    with pytest.raises(DataError, match=message):
        score_model(drawn(labelled), nano, "labels")
    result, curves = score_model(drawn(labelled), nano, "labels", "box", jitter=True)
    predicted = result.predictions.landmarks.astype(np.float64)
    for index, sample in enumerate(samples):
        errors = np.linalg.norm(predicted[index, half] - sample.landmarks[half], axis=1)
        width, height = np.ptp(sample.landmarks[half].astype(np.float64), axis=0)
        assert result.nme[index] == pytest.approx(errors.mean() / np.sqrt(width * height), rel=1e-5)
    assert np.isnan(result.parts["mouth"]).all()
    assert np.isfinite(result.parts["outline"]).all()
    summary = result.summary()
    assert (summary["points"], summary["points_without_label"]) == (5 * 68, 5 * (68 - len(half)))
    assert np.isnan(summary["part_nme_percent"]["mouth"]["value"])
    assert np.isfinite(summary["nme_percent"]["low"])
    assert result.reliability is not None
    assert len(result.reliability.errors) == 5 * len(half)
    assert worst(result).shape == (640, 1280, 3)
    assert plots.ced([result])[:4] == plots.reliability_plot(result.reliability, result.about)[:4] == b"\x89PNG"
    assert curves is not None
    assert np.isfinite([y for lines in curves.values() for _, values in lines.values() for y in values]).all()


def test_predictions_without_some_points_are_found(tmp_path: Path) -> None:
    """Points that a conversion cannot give are not scored, and the file of predictions says null."""
    samples = bare_samples(3)
    given = truth_of(samples) + np.float32(1)
    given[:, 60:] = np.nan
    result = result_of(samples, Predictions(given))
    assert result.predictions.found.all()
    eyes = np.array([IBUG.distance(sample.landmarks, "inter-ocular") for sample in samples])
    np.testing.assert_allclose(result.nme, np.sqrt(2) / eyes, rtol=1e-4)
    report.write(result, tmp_path)
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert entries[0]["landmarks"][59][0] is not None
    assert entries[0]["landmarks"][60] == [None, None]


def test_truth_is_read(tmp_path: Path) -> None:
    spoilt = SHAPE.tolist()
    spoilt[2] = [None, None]
    entries = [
        {"image": "a.png", "landmarks": SHAPE.tolist()},
        {"image": "b", "landmarks": spoilt},
        {"image": "c", "faces": [{"landmarks": SHAPE.tolist()}, {"landmarks": (SHAPE + 300).tolist()}]},
    ]
    first, second, third, fourth = read_truth(write_text(tmp_path, entries), IBUG)
    assert (first.name, first.picture) == ("a.png", tmp_path / "a.png")
    np.testing.assert_array_equal(first.landmarks, SHAPE)
    assert np.isnan(second.landmarks[2]).all()
    assert np.isfinite(np.delete(second.landmarks, 2, axis=0)).all()
    assert (third.name, fourth.name, fourth.picture) == ("c", "c#2", tmp_path / "c")
    for name in FORMATS:
        write_all(name, tmp_path / name, records_of(["a.png"], [faces_at(0, 500)]))
        assert [sample.landmarks.shape for sample in read_truth(tmp_path / name, IBUG)] == [(68, 2)] * 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "holds no faces"),
        ([{"image": "a", "landmarks": None}], r"entry 1 \(a\): no face has labels"),
        ([{"image": "a", "landmarks": [[None, None]] * 68}], r"entry 1 \(a\): no point has a label"),
        ([{"image": "a", "landmarks": [[1, 2]] * 9}], r"entry 1 \(a\): landmarks must be 68 points \(x y\); got 9"),
        ([{"image": "a", "landmarks": [[1, 2]] * 68}] * 2, "entry 2: picture 'a' is listed twice"),
        ("{", r"given\.json:1: not JSON"),
    ],
)
def test_mistakes_in_the_truth_are_named(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_truth(write_text(tmp_path, value), IBUG)


def test_a_file_without_predictions(tmp_path: Path) -> None:
    for value, name in (([], "given.json"), ("", "given.jsonl"), ("file,point,x,y\n", "given.csv")):
        with pytest.raises(DataError, match=f"{name}: holds no predictions"):
            score_file(drawn(bare_samples(2)), write_text(tmp_path, value, name))


def test_scipy_is_asked_for_before_the_work(
    nano: Landmarker, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="need scipy: pip install scipy"):
        score_model(drawn(samples), nano, "labels", advance=lambda task: pytest.fail("work was done"))


def test_visible_is_converted_with_the_points(samples: list[Sample]) -> None:
    predictions = Predictions(truth_of(samples), visible=np.tile(np.arange(68) / 68, (len(samples), 1)))
    five = _converted(predictions, IBUG, layout("five")).visible
    assert five is not None
    np.testing.assert_allclose(five[0], [38.5 / 68, 44.5 / 68, 30 / 68, 48 / 68, 54 / 68], rtol=1e-6)
    assert _converted(Predictions(truth_of(samples)), IBUG, layout("five")).visible is None
