"""``octamark evaluate`` from end to end, on drawn faces."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import octamark
from command_line import run
from drawn_faces import write_pts, write_w300
from octamark import OctamarkError, read_picture
from octamark.cli import app
from octamark.datasets import Sample, w300
from octamark.errors import ConfigError, DataError, LayoutError, OutputError, WeightsError
from octamark.evaluation import report
from octamark.layouts import layout
from octamark.metrics import failure_rate, nme
from set_fixtures import write_cofw, write_webcaricature, write_wflw

IBUG = layout("ibug68")
FILES = {"results.json", "pictures.csv", "predictions.json", "ced.png", "reliability.png", "worst.png"}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 300W of 18 drawn faces: 9 in full, 6 in common, 3 in challenge."""
    return write_w300(tmp_path_factory.mktemp("w300"), per_folder=3)


def evaluate(*arguments: str | Path, code: int = 0) -> str:
    return run("evaluate", *arguments, code=code)


def results(folder: Path) -> dict:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


@pytest.mark.slow
def test_a_model_on_a_set(root: Path, tmp_path: Path) -> None:
    message = evaluate(root, "-m", "nano", "-o", tmp_path / "new" / "out", "--threads", "1")
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == FILES
    whole = results(out)
    assert (whole["set"], whole["split"], whole["model"], whole["faces"]) == ("300w", "full", "nano", 9)
    nano = octamark.load("nano", threads=1)
    samples = w300.read(root, "full")
    boxes = [np.concatenate([s.landmarks.min(axis=0), s.landmarks.max(axis=0)]) for s in samples]
    found = [nano(s.picture, [box], box_kind="landmarks").landmarks[0] for s, box in zip(samples, boxes, strict=True)]
    errors = nme(np.stack(found), np.stack([s.landmarks for s in samples]), IBUG)
    assert whole["nme_percent"]["value"] == pytest.approx(errors.mean() * 100, abs=1e-3)
    with (out / "pictures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [s.name for s in samples]
    np.testing.assert_allclose([float(row["nme_percent"]) for row in rows], errors * 100, atol=1e-2)
    conditions = "300w full, tight boxes around the labels, normaliser inter-ocular"
    assert f"nano on {conditions}, 9 faces" in message
    assert f"NME {errors.mean() * 100:.2f} %: nano, {conditions}\n" in message
    for row in ("NME, %", "failures at 8%, %", "failures at 10%, %", "AUC at 8% (0 to 1)", "NME of the mouth, %",
                "eye opening, error", "labels inside the 90% regions, %", "95 % interval"):  # fmt: skip
        assert row in message
    assert f"{errors.mean() * 100:.2f}" in message
    assert f"{failure_rate(errors) * 100:.2f}" in message
    assert f"results in {out}" in message


@pytest.mark.slow
def test_its_predictions_score_the_same(root: Path, tmp_path: Path) -> None:
    evaluate(root, "-m", "nano", "--split", "challenge", "-o", tmp_path / "a")
    evaluate(root, "--split", "challenge", "--predictions", tmp_path / "a" / "predictions.json", "-o", tmp_path / "b")
    first, second = results(tmp_path / "a"), results(tmp_path / "b")
    assert first["faces"] == second["faces"] == 3
    assert second["nme_percent"]["value"] == pytest.approx(first["nme_percent"]["value"], abs=5e-4)
    assert second["auc"]["10%"]["value"] == pytest.approx(first["auc"]["10%"]["value"], abs=5e-5)
    message = evaluate("--compare", tmp_path / "a", tmp_path / "b" / "results.json")
    assert "NME, %, 3 faces that both found" in message
    assert "0.000" in message


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "coco", "pts"])
def test_what_predict_writes_can_be_scored(root: Path, tmp_path: Path, form: str) -> None:
    """Any form, over all pictures of the set: strangers are noted, every face of the split is found."""
    ran = CliRunner().invoke(
        app, ["predict", str(root / "ibug"), str(root / "afw"), "-m", "nano", "-f", form, "-o", str(tmp_path / "p")]
    )
    assert ran.exit_code == 0, ran.output
    files = sorted((tmp_path / "p").iterdir())
    given = tmp_path / "p" if form == "pts" else files[0]
    # the stems of ibug and afw are the same: without folders, only ibug's, which came first, can be told
    if form == "pts":
        for path in files:
            if path.stem.endswith("-2"):
                path.unlink()
    elif form in ("json", "jsonl"):
        lines = form == "jsonl"
        text = given.read_text()
        entries = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
        kept = [entry for entry in entries if "ibug" in entry["file"]] + [entries[-1] | {"file": "nobody.png"}]
        given.write_text("\n".join(map(json.dumps, kept)) if lines else json.dumps(kept))
    message = evaluate(root, "--split", "challenge", "--predictions", given, "-o", tmp_path / "out")
    whole = results(tmp_path / "out")
    assert (whole["faces"], whole["faces_not_found"]) == (3, 0)
    assert whole["nme_percent"]["value"] < 60
    assert whole["boxes"] == "boxes unknown"
    if form in ("json", "jsonl"):
        assert "1 picture without labels left out, such as nobody.png" in message
    assert ("reliability" in whole) == (form != "pts")
    if form == "pts":
        assert not (tmp_path / "out" / "reliability.png").exists()


@pytest.mark.slow
def test_pts_of_predict_beside_the_pictures_are_a_labelled_set(root: Path, tmp_path: Path) -> None:
    """Two faces in one picture, and two pictures of one stem: each .pts finds its picture."""
    single = np.asarray(Image.open(next((root / "ibug").glob("face_0.[jp][pn]g"))).convert("RGB"))
    Image.fromarray(np.concatenate([single, single], axis=1)).save(tmp_path / "two.png")
    Image.fromarray(single).save(tmp_path / "two.bmp")
    ran = CliRunner().invoke(app, ["predict", str(tmp_path), "-m", "nano", "-f", "pts", "-o", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in tmp_path.glob("*.pts")) == ["two.png#2.pts", "two.png.pts", "two.pts"]
    evaluate(tmp_path, "--format", "folder", "--layout", "ibug68", "-m", "nano", "-o", tmp_path / "out")
    whole = results(tmp_path / "out")
    assert {row["name"]: Path(row["picture"]).name for row in whole["pictures"]} == {
        "two": "two.bmp", "two.png": "two.png", "two.png#2": "two.png"
    }  # fmt: skip
    assert whole["nme_percent"]["value"] < 10  # the same model found them, in other crops


def truth_file(folder: Path, samples: list[Sample], name: str = "truth.json") -> Path:
    path = folder / name
    path.write_text(json.dumps([{"image": s.name + ".png", "landmarks": s.landmarks.tolist()} for s in samples]))
    return path


def test_truth_and_predictions_from_files_alone(root: Path, tmp_path: Path) -> None:
    """No pictures at all: figures by hand, one face not found, one point without a label."""
    samples = w300.read(root, "challenge")
    truth = truth_file(tmp_path, samples)
    labels = json.loads(truth.read_text())
    labels[0]["landmarks"][5] = [None, None]
    truth.write_text(json.dumps(labels))
    eyes = [float(IBUG.distance(s.landmarks, "inter-ocular")) for s in samples]
    moved = [
        (s.landmarks + np.array([share * e, 0])).tolist()
        for s, e, share in zip(samples, eyes, (0.02, 0.06, 0), strict=True)
    ]
    moved[0][5] = [9999, 9999]
    given = tmp_path / "mine.json"
    given.write_text(
        json.dumps([{"image": f"{s.name}.png", "landmarks": m} for s, m in zip(samples[:2], moved, strict=False)]
                   + [{"image": f"{samples[2].name}.png", "landmarks": None}])
    )  # fmt: skip
    message = evaluate("--truth", truth, "--layout", "ibug68", "--predictions", given, "-o", tmp_path / "out")
    whole = results(tmp_path / "out")
    assert whole["nme_percent"]["value"] == pytest.approx(4, abs=1e-3)
    assert whole["failure_rate_percent"]["8%"]["value"] == pytest.approx(100 / 3)
    assert whole["auc"]["8%"]["value"] == pytest.approx((6 + 2) / 24, abs=1e-4)
    assert whole["set"] == "truth.json"
    assert "1 of 204 points without a label, not scored" in message
    assert "1 face not found: left out of NME, a failure at every threshold" in message
    assert "no sheet of the worst faces: " in message
    assert "mine.json on truth.json, boxes unknown, normaliser inter-ocular, 3 faces" in message


def test_a_folder_of_pts_by_stems(root: Path, tmp_path: Path) -> None:
    samples = w300.read(root, "challenge")
    for sample in samples[:2]:
        write_pts(tmp_path / f"{sample.picture.stem}.pts", sample.landmarks)
    evaluate(root, "--split", "challenge", "--predictions", tmp_path, "-o", tmp_path / "out", "--norm", "box")
    whole = results(tmp_path / "out")
    assert (whole["faces_not_found"], whole["normaliser"]) == (1, "box")
    assert whole["nme_percent"]["value"] == pytest.approx(0, abs=1e-4)


def test_boxes_of_the_detector_and_only_some_faces(root: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("ibug/face_2\nibug/face_0\n")
    message = evaluate(
        root, "-m", "nano", "--only", tmp_path / "some.txt", "--boxes", "detector", "-o", tmp_path / "out"
    )
    whole = results(tmp_path / "out")
    assert [row["name"] for row in whole["pictures"]] == ["ibug/face_0", "ibug/face_2"]
    assert whole["boxes"] == "boxes of the YuNet detector"
    assert "nano on 300w full (some.txt), boxes of the YuNet detector, normaliser inter-ocular, 2 faces" in message


def test_faces_not_found_are_said(root: Path, tmp_path: Path) -> None:
    samples = w300.read(root, "challenge")
    for sample in samples:
        Image.new("RGB", (160, 160)).save(tmp_path / f"{sample.picture.stem}.png")
        write_pts(tmp_path / f"{sample.picture.stem}.pts", sample.landmarks)
    message = evaluate(
        tmp_path,
        "--format",
        "folder",
        "--layout",
        "ibug68",
        "-m",
        "nano",
        "--boxes",
        "detector",
        "-o",
        tmp_path / "out",
    )
    assert "3 faces not found: left out of NME, a failure at every threshold" in message
    whole = results(tmp_path / "out")
    assert whole["nme_percent"]["value"] is None
    assert whole["failure_rate_percent"]["8%"]["value"] == 100
    assert "reliability.png" not in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
def test_moved_boxes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("ibug/face_0\nibug/face_1\n")
    message = evaluate(
        root,
        "-m",
        "nano",
        "--only",
        tmp_path / "some.txt",
        "--box-jitter",
        "--rotation",
        "never",
        "-o",
        tmp_path / "out",
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"robustness.png"}
    whole = results(tmp_path / "out")
    curves = whole["robustness"]
    x, y = curves["crop moved, % of its side"]["to the right"]
    assert y[x.index(0)] == pytest.approx(whole["nme_percent"]["value"], abs=1e-3)
    assert len(curves["face rotated, degrees"]["rotation: never"][0]) == 9
    for title in (
        "NME, %; crop moved, % of its side; downwards",
        "NME, %; crop scaled by; scale",
        "rotation: never",
    ):
        assert title in message


@pytest.mark.slow
def test_two_models_are_compared(root: Path, tmp_path: Path) -> None:
    message = evaluate(root, "--split", "challenge", "--compare", "nano", "tiny", "-o", tmp_path)
    one, two = (report.read_scores(tmp_path / place) for place in "AB")
    assert "nano on 300w challenge" in message
    assert "tiny on 300w challenge" in message
    assert "tiny minus nano: 300w challenge, tight boxes around the labels, normaliser inter-ocular" in message
    change = 100 * np.mean([two.nme[name] - one.nme[name] for name in one.nme])
    assert f"{change:+.3f}" in message
    again = evaluate("--compare", tmp_path / "B", tmp_path / "A")
    assert f"{-change:+.3f}" in again
    mixed = evaluate(root, "--split", "challenge", "--compare", tmp_path / "A", "tiny", "-o", tmp_path / "mixed")
    assert f"{change:+.3f}" in mixed
    assert sorted(path.name for path in (tmp_path / "mixed").iterdir()) == ["B"]
    with pytest.raises(DataError, match="were scored on different faces"):
        evaluate(root, "--split", "common", "--compare", tmp_path / "A", "tiny", "-o", tmp_path / "other")


@pytest.mark.slow
def test_truth_of_98_points(tmp_path: Path) -> None:
    write_wflw(tmp_path / "wflw")
    message = evaluate(tmp_path / "wflw", "--format", "wflw", "-m", "nano", "-o", tmp_path / "out")
    whole = results(tmp_path / "out")
    assert (whole["layout"], whole["approximate"], whole["faces"]) == ("ibug68", True, 3)
    assert "approximate: points were converted to layout ibug68, where their places differ a little" in message
    assert whole["subset_nme_percent"]["pose"]["faces"] == 2
    assert "NME of blur (1 face), %" in message
    evaluate(
        tmp_path / "wflw", "--format", "wflw", "--boxes", "own", "--norm", "face-box", "-m", "nano", "-o", tmp_path
    )
    assert results(tmp_path)["boxes"] == "the set's own face boxes"


def test_layouts_that_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    write_webcaricature(tmp_path / "drawn")
    with pytest.raises(LayoutError, match="no conversion from ibug68 to webcaricature17"):
        evaluate(tmp_path / "drawn", "--format", "webcaricature", "-m", "nano", "-o", tmp_path / "out")


@pytest.mark.slow
def test_points_made_of_others_are_scored(tmp_path: Path) -> None:
    """68 points against labels of 29, where the model's are converted."""
    (tmp_path / "cofw").mkdir()
    write_cofw(tmp_path / "cofw")
    message = evaluate(tmp_path / "cofw", "--format", "cofw", "-m", "nano", "-o", tmp_path / "out")
    assert "approximate: points were converted to layout cofw29" in message


@pytest.mark.slow
def test_a_broken_picture_is_reported_and_left_out(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "w300", per_folder=2)
    (root / "ibug" / "face_0.jpg").write_bytes(b"no picture")
    message = evaluate(root, "-m", "nano", "-o", tmp_path / "out", "--box-jitter", code=1)
    assert "error: ibug/face_0: " in message
    assert "face_0.jpg: not a picture in a known format" in message
    assert "error: 1 picture could not be read: left out" in message
    whole = results(tmp_path / "out")
    assert whole["faces"] == 5
    assert "ibug/face_0" not in {row["name"] for row in whole["pictures"]}
    for name in ("face_0.png", "face_0.jpg", "face_1.png"):
        (root / "ibug" / name).write_bytes(b"")
    with pytest.raises(DataError, match="300w: none of its 2 pictures can be read"):
        evaluate(root, "-m", "nano", "--split", "challenge", "-o", tmp_path / "out")


def test_without_matplotlib(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = evaluate(root, "-m", "nano", "--split", "challenge", "-o", tmp_path)
    assert "plots need matplotlib: pip install matplotlib" in message
    assert read_picture(tmp_path / "worst.png").shape == (320, 1280, 3)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"ced.png", "reliability.png"}


def test_wrong_names_list_the_right_ones(root: Path, tmp_path: Path) -> None:
    def refused(kind: type[OctamarkError], message: str, *arguments: str | Path) -> None:
        with pytest.raises(kind, match=message):
            evaluate(*arguments, "-o", tmp_path / "out")

    nano = (root, "-m", "nano")
    refused(DataError, "unknown format 'lfw'; formats: 300w, wflw, cofw, aflw19", *nano, "--format", "lfw")
    refused(
        DataError, "300w has no split 'test'; splits: full, common, challenge, train, val", *nano, "--split", "test"
    )
    refused(
        WeightsError,
        "unknown model 'huge'; models: pico, nano, .*tiny.*, or the path",
        root,
        "-m",
        "huge",
    )
    refused(ConfigError, "boxes 'label'; allowed: labels, detector, own", *nano, "--boxes", "label")
    refused(ConfigError, "rotation 'yes'; allowed: auto, always, never", *nano, "--rotation", "yes")
    refused(LayoutError, "no normaliser 'pupil'; allowed: inter-ocular, inter-pupil, box", *nano, "--norm", "pupil")
    refused(LayoutError, "unknown layout 'ibug67'", "--truth", root / "x.json", "--layout", "ibug67")
    refused(LayoutError, "--truth needs --layout", "--truth", root / "x.json")
    refused(LayoutError, "coco can hold any layout: say which", root, "--format", "coco")
    refused(LayoutError, "300w has 68 points, layout ibug68; layout wflw98 has 98", *nano, "--layout", "wflw98")
    refused(DataError, "nowhere: no such file or folder", root / "nowhere")
    refused(DataError, r"x\.json: cannot be read", "--truth", root / "x.json", "--layout", "ibug68")
    refused(DataError, r"x\.json: cannot be read", root, "--predictions", root / "x.json")
    refused(DataError, r"x\.txt: cannot be read as a split file", *nano, "--only", root / "x.txt")
    refused(DataError, "the set gives no face box; use boxes labels or detector", *nano, "--boxes", "own")
    refused(DataError, "no face has the labels that normaliser face-box needs", *nano, "--norm", "face-box")
    refused(ConfigError, "give the folder of a data set, or --truth FILE")
    refused(ConfigError, "give either a set .* or --truth, not both", root, "--truth", root / "x.json")
    refused(ConfigError, "--split and --only select faces of a data", "--truth", root / "x.json", "--layout", "ibug68",
            "--split", "val")  # fmt: skip
    refused(ConfigError, "--predictions are scored without a model", root, "--predictions", root, "--box-jitter")
    refused(DataError, r"results\.json: cannot be read", "--compare", root, root)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the folder cannot be made"):
        evaluate(*nano, "-o", tmp_path / "file")
    (tmp_path / "some.txt").write_text("ibug/face_0\nibug/face_9\n")
    refused(DataError, r"split full has no face ibug/face_9 \(1 not found\)", *nano, "--only", tmp_path / "some.txt")


def test_predictions_that_fit_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"image": "x", "landmarks": IBUG.diagram.tolist()}]))
    with pytest.raises(DataError, match=r"mine\.json: none of its 1 pictures .*; it has x, the truth helen"):
        evaluate(root, "--predictions", tmp_path / "mine.json", "-o", tmp_path / "out")


def test_mistakes_are_one_line_and_code_2(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "octamark", "evaluate", str(root), "-m", "nano", "--boxes", "label"]
    ran = subprocess.run(
        [*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == ["error: boxes 'label'; allowed: labels, detector, own"]


def test_what_can_be_seen_is_scored(tmp_path: Path) -> None:
    """Labels in COCO's form say which points are hidden, predictions how likely each can be seen."""
    points = (IBUG.diagram * 100).astype(float)
    hidden = np.arange(68) < 17
    keypoints = np.column_stack([points, np.where(hidden, 1, 2)]).ravel().tolist()
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints}
    labels = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [annotation], "categories": []}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    visible = np.where(hidden, 0.1, 0.9).tolist()
    face = {"image": "a.png", "landmarks": points.tolist(), "visible": visible}
    (tmp_path / "found.json").write_text(json.dumps([face]))
    out = tmp_path / "out"
    message = evaluate(
        "--truth", tmp_path / "labels.json", "--predictions", tmp_path / "found.json", "--layout", "ibug68", "-o", out
    )
    assert "AUROC of visible (17 of 68 points hidden)" in message
    assert results(out)["visibility"] == pytest.approx(
        {"points": 68, "points_hidden": 17, "auroc": 1.0, "calibration_error": 0.1}, abs=1e-6
    )
    (saved,) = json.loads((out / "predictions.json").read_text())
    assert saved["visible"] == visible
