"""What is left on disk can be read again."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation_fixtures import IBUG, bare_samples, drawn_samples, result_of, truth_of
from octamark.datasets import Sample
from octamark.errors import DataError, OutputError
from octamark.evaluation import plots, report, sheet
from octamark.evaluation.results import Result, difference
from octamark.evaluation.run import Predictions
from octamark.evaluation.scoring import Truth, score_file
from octamark.images import read_picture
from octamark.models.calibration import Calibration


def predictions(samples: list[Sample], *, lost: tuple[int, ...] = (), seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = truth_of(samples)
    spread = rng.uniform(0.5, 3, truth.shape)
    found = (truth + rng.laplace(0, spread)).astype(np.float32)
    confidence = rng.uniform(0, 1, truth.shape[:2]).astype(np.float32)
    for part in (found, spread, confidence):
        part[list(lost)] = np.nan
    return Predictions(found, spread.astype(np.float32), confidence)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return drawn_samples(tmp_path / "faces", 5)


@pytest.fixture
def result(samples: list[Sample]) -> Result:
    return replace(result_of(samples, predictions(samples, lost=(2,))), calibration=Calibration.identity(68))


def strict(path: Path) -> dict:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


CURVES = {"crop scaled by": {"scale": ([0.9, 1.0], [4.0, 3.0])}, "angle": {"never": ([0.0, 90.0], [3.0, 60.0])}}


@pytest.mark.slow
def test_everything_is_written_and_readable(result: Result, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert report.write(result, out, CURVES) == []
    assert sorted(path.name for path in out.iterdir()) == [
        "ced.png", "pictures.csv", "predictions.json", "reliability.png", "results.json", "robustness.png", "worst.png",
    ]  # fmt: skip
    for picture in out.glob("*.png"):
        assert min(read_picture(picture).shape[:2]) > 100
    whole = strict(out / "results.json")
    assert whole["nme_percent"]["value"] == pytest.approx(result.summary()["nme_percent"]["value"])
    assert whole["robustness"]["angle"]["never"] == [[0, 90], [3, 60]]
    assert len(whole["pictures"]) == 5
    with (out / "pictures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"face_{i}" for i in range(5)]
    assert (rows[2]["found"], rows[2]["nme_percent"], rows[2]["mean_confidence"]) == ("0", "", "")
    mean = np.mean([float(row["nme_percent"]) for row in rows if row["nme_percent"]])
    assert mean == pytest.approx(whole["nme_percent"]["value"], abs=1e-5)


def test_predictions_score_the_same_again(result: Result, samples: list[Sample], tmp_path: Path) -> None:
    report.write(result, tmp_path)
    again, stray = score_file(Truth("drawn", "all", samples, IBUG), tmp_path / "predictions.json")
    assert stray == []
    np.testing.assert_allclose(again.nme, result.nme, atol=5e-5)
    first, second = result.summary(), again.summary()
    assert second["nme_percent"]["value"] == pytest.approx(first["nme_percent"]["value"], abs=5e-4)
    assert second["faces_not_found"] == 1
    for name, value in second["reliability"].items():
        if name != "coverage_percent":
            assert value == pytest.approx(first["reliability"][name], abs=2e-3)


def test_scores_come_back(result: Result, tmp_path: Path) -> None:
    report.write(result, tmp_path)
    for place in (tmp_path, tmp_path / "results.json"):
        scores = report.read_scores(place)
        assert scores.normaliser == "inter-ocular"
        assert list(scores.nme) == [f"face_{i}" for i in range(5)]
        assert math.isnan(scores.nme["face_2"])
        np.testing.assert_allclose(list(scores.nme.values()), result.nme, atol=1e-8)
        assert all(one.value == pytest.approx(0, abs=1e-6) for one in difference(scores, result.scores).values())


def test_only_scored_faces_come_back(samples: list[Sample], tmp_path: Path) -> None:
    hidden = samples[1].landmarks.copy()
    hidden[45] = np.nan
    given = predictions(samples)
    samples[1] = replace(samples[1], landmarks=hidden)
    report.write(result_of(samples, given), tmp_path)
    assert list(report.read_scores(tmp_path).nme) == ["face_0", "face_2", "face_3", "face_4"]
    strict(tmp_path / "results.json")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"pictures": []}', '{"pictures": [{"name": "a"}], "normaliser": "box"}', "7"]
)
def test_what_are_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=r"results\.json: not results of octamark evaluate"):
        report.read_scores(tmp_path)


def test_missing_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: cannot be read"):
        report.read_scores(tmp_path)


def test_nobody_found_is_written_too(samples: list[Sample], tmp_path: Path) -> None:
    assert report.write(result_of(samples, predictions(samples, lost=(0, 1, 2, 3, 4))), tmp_path, None) == []
    whole = strict(tmp_path / "results.json")
    assert whole["nme_percent"]["value"] is None
    assert {entry["landmarks"] for entry in json.loads((tmp_path / "predictions.json").read_text())} == {None}
    assert not (tmp_path / "reliability.png").exists()
    assert (tmp_path / "ced.png").exists()


def test_without_matplotlib_there_is_a_note(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (message,) = report.write(result, tmp_path)
    assert message == "plots need matplotlib: pip install matplotlib"
    assert not (tmp_path / "ced.png").exists()
    assert (tmp_path / "worst.png").exists()
    assert strict(tmp_path / "results.json")["faces"] == 5


def test_without_pictures_there_is_a_note(tmp_path: Path) -> None:
    samples = bare_samples(3)
    (message,) = report.write(result_of(samples, predictions(samples)), tmp_path)
    assert message.startswith("no sheet of the worst faces: set/")
    assert (tmp_path / "results.json").exists()


def test_a_folder_that_cannot_be_written_to(result: Result, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        report.write(result, tmp_path / "nowhere")


def test_odd_names_come_out(samples: list[Sample], tmp_path: Path) -> None:
    samples[0] = replace(samples[0], name='né "x", y')
    samples[1] = replace(samples[1], name="bad\udcff")
    report.write(result_of(samples, predictions(samples)), tmp_path)
    with (tmp_path / "pictures.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert names[:2] == ['né "x", y', "bad\\udcff"]
    assert list(report.read_scores(tmp_path).nme)[:2] == [samples[0].name, samples[1].name]


def test_the_worst_come_first(samples: list[Sample]) -> None:
    """Tiles are as large as they should be, faces not found before all, and the drawing leaves pictures alone."""
    truth = truth_of(samples)
    found = truth + np.array([1, 30, 3, 10, 2])[:, None, None]
    found[4] = np.nan
    drawn = sheet.worst(result_of(samples, Predictions(found.astype(np.float32))), count=3)
    assert drawn.shape == (sheet.TILE, 4 * sheet.TILE, 3)
    tiles = [drawn[:, i * sheet.TILE : (i + 1) * sheet.TILE] for i in range(3)]
    red = [(tile == (255, 80, 60)).all(axis=2).sum() for tile in tiles]
    green = [(tile == (60, 230, 60)).all(axis=2).sum() for tile in tiles]
    assert red[0] == 0  # not found: truth only
    assert min(red[1:]) > 50
    assert min(green) > 50
    expected = [sheet._tile(result_of(samples, Predictions(found.astype(np.float32))), i) for i in (4, 1, 3)]
    for tile, one in zip(tiles, expected, strict=True):
        np.testing.assert_array_equal(tile, one)


def test_the_curve_is_the_staircase(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plot is handed: steps at the errors, up to the last threshold, ending at the share found below it."""
    from matplotlib.axes import Axes

    steps: list[tuple[np.ndarray, np.ndarray]] = []
    original = Axes.step

    def keep(self: Axes, x: np.ndarray, y: np.ndarray, **options: object) -> object:
        steps.append((np.asarray(x), np.asarray(y)))
        return original(self, x, y, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "step", keep)
    truth = truth_of(samples)
    eyes = IBUG.distance(truth, "inter-ocular")[:, None, None]
    shares = np.array([0.01, 0.03, 0.05, 0.2, np.nan])[:, None, None]
    plots.ced([result_of(samples, Predictions((truth + shares * eyes * (1, 0)).astype(np.float32)))])
    ((x, y),) = steps
    np.testing.assert_allclose(x, [0, 1, 3, 5, 10], rtol=1e-3)
    np.testing.assert_allclose(y, [0, 20, 40, 60, 60], rtol=1e-3)


@pytest.mark.slow
def test_names_reach_the_plots_as_they_are(samples: list[Sample], tmp_path: Path) -> None:
    """No formulas, no hidden labels, nothing that matplotlib cannot draw."""
    for name in ("a$_$.json", "_mine.json", "bad\udcff.json", "\ud800"):
        result = replace(result_of(samples, predictions(samples), model=name, split=name), calibration=None)
        assert report.write(result, tmp_path) == []


@pytest.mark.slow
def test_no_plot_of_an_earlier_result_stays(result: Result, tmp_path: Path) -> None:
    report.write(result, tmp_path, CURVES)
    assert (tmp_path / "robustness.png").is_file()
    bare = bare_samples(3)
    plain = result_of(bare, Predictions(truth_of(bare)))
    (missing,) = report.write(plain, tmp_path)
    assert "no sheet" in missing
    assert {path.name for path in tmp_path.glob("*.png")} == {"ced.png"}


def test_wild_points_can_be_drawn(samples: list[Sample]) -> None:
    """Memory follows the picture, not the distance of a point from it."""
    found = truth_of(samples).copy()
    found[0, 3] = 9e5
    assert sheet.worst(result_of(samples, Predictions(found))).shape[0] >= sheet.TILE
    one = np.full((68, 2), np.nan, np.float32)
    one[30] = 64  # a single labelled point has no extent
    odd = [replace(samples[0], landmarks=one)]
    box = [replace(sample, box=np.array([0, 0, 50, 50], np.float32)) for sample in odd]
    missed = result_of(box, Predictions(np.full((1, 68, 2), np.nan, np.float32)), normaliser="face-box")
    assert sheet.worst(missed).shape[1] >= sheet.TILE


def test_endless_nesting_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"results\.json: not results of octamark evaluate"):
        report.read_scores(tmp_path)
    (tmp_path / "results.json").write_text('{"model": "x", "boxes": "", "normaliser": "box", "pictures": []}')
    with pytest.raises(DataError, match="no faces"):
        report.read_scores(tmp_path)
