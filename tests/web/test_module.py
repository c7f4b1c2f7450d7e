"""web/octamark.js under Node: the same faces as Python finds, one tracker, the same files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import octamark
from octamark import Faces, models
from octamark.geometry import crop, crop_transform
from octamark.inference.motion import MotionFilter, Smoothing
from octamark.inference.regions import fuse
from octamark.inference.tracker import Tracker
from octamark.inference.yunet import YUNET_FILE
from octamark.io import read_records
from telling_model import silent_model, telling_model
from web.conftest import Predict, Server, serving

Picture = NDArray[np.uint8]

MEAN, LARGEST = 0.3, 1.0
"""Distance of points from Python's: of a face on average, and of any point; pixels of a picture of 512 pixels."""

pytestmark = pytest.mark.slow


def compare(faces: Faces, values: list[dict[str, Any]]) -> None:
    """Check that the module found the faces that Python found."""
    assert len(values) == len(faces)
    scale = 512 / max(faces.size)
    for face, other in zip(faces, values, strict=True):
        apart = np.linalg.norm(face.landmarks - np.array(other["landmarks"]), axis=1) * scale
        assert apart.mean() < MEAN
        assert apart.max() < LARGEST
        np.testing.assert_allclose(other["spread"], face.spread, rtol=0.2)
        np.testing.assert_allclose(other["confidence"], face.confidence, atol=0.1)
        np.testing.assert_allclose(other["box"], face.box, atol=0.5)
        assert other["score"] == pytest.approx(face.score, abs=0.01)
        np.testing.assert_allclose(other["radius"], np.asarray(face.radius(0.9)), rtol=0.2)
        np.testing.assert_allclose(other["pose"], face.pose(), atol=1.5)
        np.testing.assert_allclose(other["eyeOpening"], face.eye_opening, atol=0.05)
        assert other["mouthOpening"] == pytest.approx(face.mouth_opening, abs=0.05)


@pytest.fixture(scope="module")
def portrait() -> Picture:
    return octamark.read_picture(Path(__file__).parent.parent.parent / "docs" / "portrait.jpg")


def turned(picture: Picture, angle: float) -> Picture:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)


def test_crops_are_those_of_python(predict: Predict, photograph: Picture) -> None:
    squares = [
        ((230.0, 120.0, 200.0), 0.0), ((230.3, 150.2, 257.3), 12.5), ((20.0, 30.0, 300.0), 0.0),
        ((310.0, 200.0, 700.0), 90.0), ((500.0, 400.0, 90.0), 45.0), ((256.0, 256.0, 1400.0), 3.0),
        ((-900.0, 100.0, 90.0), 0.0),
    ]  # fmt: skip
    transforms = [crop_transform(np.array(square), 96, angle) for square, angle in squares]
    plain = [transform.ravel().tolist() for transform in transforms]
    (results,) = predict([{"picture": photograph, "transforms": plain, "size": 96}])
    for transform, pixels in zip(transforms, results, strict=True):
        expected = crop(photograph, transform, 96).astype(int)
        apart = np.abs(np.array(pixels).reshape(expected.shape) - expected)
        assert apart.max() <= 1  # 0 with the OpenCV of constraints.txt
        assert apart.mean() < 0.01


def test_every_model_agrees_with_python(predict: Predict, portrait: Picture) -> None:
    names = models.available()
    results = predict([{"model": name, "picture": portrait} for name in names])
    for name, values in zip(names, results, strict=True):
        compare(octamark.load(name)(portrait), values)


def test_layouts_are_those_of_python(predict: Predict) -> None:
    """A model file may hold an older drawing of its layout; the lean of faces is measured against the present one."""
    names = models.available()
    for name, values in zip(names, predict([{"model": name} for name in names]), strict=True):
        layout = octamark.load(name).layout
        assert values["pointNames"] == list(layout.point_names)
        assert values["edges"] == layout.edges.tolist()
        np.testing.assert_array_equal(np.array(values["diagram"], np.float64), layout.diagram.astype(np.float64))


def test_pictures_that_need_more_than_one_look_agree(predict: Predict, portrait: Picture, photograph: Picture) -> None:
    large = np.asarray(cv2.resize(photograph, None, fx=2.7, fy=2.7, interpolation=cv2.INTER_CUBIC), np.uint8)
    crowd = np.zeros((900, 1300, 3), np.uint8)
    for column in range(3):
        small = np.asarray(cv2.resize(portrait, (120 + 60 * column,) * 2, interpolation=cv2.INTER_AREA), np.uint8)
        crowd[100 : 100 + len(small), 60 + 400 * column :][:, : len(small)] = small
    pictures = {
        "lies": np.ascontiguousarray(np.rot90(photograph)),
        "upside down": np.ascontiguousarray(portrait[::-1, ::-1]),
        "leans": turned(photograph, 35),
        "large": large,
        "crowd": crowd,
        "thin": np.ascontiguousarray(portrait[:, 130:280]),
        "no face": np.full((200, 300, 3), 127, np.uint8),
    }
    results = predict([{"model": "tiny-128", "picture": picture} for picture in pictures.values()])
    landmarker = octamark.load("tiny-128")
    for picture, values in zip(pictures.values(), results, strict=True):
        compare(landmarker(picture), values)
    assert len(results[-1]) == 0
    assert len(results[-3]) == 3


def test_refinement_of_a_large_face_agrees(predict: Predict, photograph: Picture) -> None:
    face = np.asarray(cv2.resize(photograph[:230, 110:340], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), np.uint8)
    modes = ["auto", "always", "never"]
    results = predict([{"model": "small", "options": {"refine": mode}, "picture": face} for mode in modes])
    for mode, values in zip(modes, results, strict=True):
        compare(octamark.load("small", refine=mode)(face), values)
    auto, never = (np.array(results[index][0]["landmarks"]) for index in (0, 2))
    assert np.abs(auto - never).max() > 0.5  # the comparison above would not see a refinement that does nothing


def test_options_agree(predict: Predict, photograph: Picture, portrait: Picture) -> None:
    boxes = [[180.0, 60.0, 270.0, 180.0]]
    filled = np.ascontiguousarray(portrait[40:200, 105:265])  # by the face
    jobs: list[dict[str, Any]] = [
        {"model": "tiny-128", "picture": photograph, "how": {"boxes": boxes}},
        {"model": "tiny-128", "picture": photograph, "how": {"boxes": boxes, "boxKind": "landmarks"}},
        {"model": "small-art", "picture": filled, "how": {"fullFrame": True}},
        {"model": "tiny-128", "picture": photograph, "options": {"rotation": "always"}},
        {"model": "tiny-128", "picture": photograph, "options": {"minConfidence": 1.0}},
    ]
    results = predict(jobs)
    tiny = octamark.load("tiny-128")
    compare(tiny(photograph, boxes), results[0])
    compare(tiny(photograph, boxes, box_kind="landmarks"), results[1])
    compare(octamark.load("small-art")(filled, full_frame=True), results[2])
    compare(octamark.load("tiny-128", rotation="always")(photograph), results[3])
    assert results[4] == []


def test_the_tracker_agrees(predict: Predict, portrait: Picture) -> None:
    """Two faces, of which one leaves the picture and comes back."""
    frames = []
    for number in range(30):
        frame = np.full((320, 640, 3), 90, np.uint8)
        moved = np.asarray(cv2.resize(portrait, (300, 300), interpolation=cv2.INTER_AREA), np.uint8)
        frame[10:310, 5 + number : 305 + number] = moved
        if not 8 <= number < 16:
            frame[20:320, 335:635] = turned(moved[:, ::-1], number / 3)
        frames.append((frame, number / 25))
    options = {"smoothing": "low", "detectEvery": 0.2, "maxGap": 1.0}
    (results,) = predict([{"model": "pico", "frames": frames, "tracking": options}])
    tracker = Tracker(octamark.load("pico"), smoothing="low", detect_every=0.2, max_gap=1.0)
    same_track = set()  # two faces that appear at once are numbered in either order
    for (picture, time), values in zip(frames, results, strict=True):
        faces = sorted(tracker(picture, time), key=lambda face: float(face.box[0]))
        for face, other in zip(faces, sorted(values, key=lambda entry: float(entry["box"][0])), strict=True):
            same_track.add((face.id, other["id"]))
            assert np.linalg.norm(face.landmarks - np.array(other["landmarks"]), axis=1).mean() < MEAN
            assert np.mean(other["spread"]) == pytest.approx(face.spread.mean(), rel=0.1)
            np.testing.assert_allclose(other["box"], face.box, atol=1)
    assert [{number for number, _ in same_track}, {number for _, number in same_track}] == [{1, 2}, {1, 2}]
    assert len(same_track) == 2
    assert [len(frame) for frame in results[9:15]] == [1] * 6


@pytest.mark.parametrize("hidden", [0, 20])
@pytest.mark.parametrize("smoothing", ["low", "high"])
def test_the_filter_agrees(predict: Predict, smoothing: Smoothing, hidden: int) -> None:
    """A face that moves, turns and grows, whose eyes blink, and which stands still between; some points are hidden."""
    layout = octamark.layout("ibug68")
    random = np.random.default_rng(5)
    readings, time = [], 3.0
    for number in range(40):
        time += float(random.uniform(0.02, 0.05))
        scale, angle = 120 + 2 * max(number - 10, 0), np.deg2rad(3 * max(number - 20, 0))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shape = layout.diagram.astype(np.float64)
        if number % 9 == 0:
            shape[list(layout.part("eyes")), 1] = shape[list(layout.part("eyes")), 1].mean()
        points = shape @ turn.T + [50 + 5 * max(number - 15, 0), 40] + random.normal(0, 0.4, shape.shape)
        visible = np.where(np.arange(68) < hidden, random.uniform(0, 0.3, 68), 0.95) if hidden else None
        readings.append((time, points, random.uniform(0.3, 2.0, shape.shape), visible))
    plain = [
        {"time": time, "points": points.tolist(), "spread": spread.tolist()}
        | ({} if visible is None else {"visible": visible.tolist()})
        for time, points, spread, visible in readings
    ]
    (results,) = predict([{"model": "pico", "smoothing": smoothing, "readings": plain}])
    motion = MotionFilter(layout, smoothing)
    estimate = motion.start(*readings[0])
    for (time, points, spread, visible), values in zip(readings[1:], results, strict=True):
        estimate = motion.update(motion.predict(estimate, time), points, spread, visible).updated
        np.testing.assert_allclose(values["points"], estimate.points, atol=1e-6)
        np.testing.assert_allclose(values["spread"], estimate.spread(spread), atol=1e-6)


def test_visible_is_told_where_the_model_tells_it(
    predict: Predict, portrait: Picture, photograph: Picture, tmp_path: Path
) -> None:
    """In pictures, in videos and in files, as Python writes them."""
    pytest.importorskip("onnx", reason="needs onnx")
    content = telling_model(inverted=True)
    (tmp_path / "telling.onnx").write_bytes(content)
    (tmp_path / "silent.onnx").write_bytes(silent_model())
    with contextmanager(serving)(tmp_path) as own:
        model = f"{own.url}telling.onnx"
        leaning = turned(photograph, 20)  # two readings are blended
        results = predict([
            {"model": model, "picture": portrait},
            {"model": model, "picture": leaning},
            {"model": model, "frames": [(portrait, 0.0), (portrait, 0.04)]},
            {"model": model, "picture": portrait, "written": True},
            {"model": f"{own.url}silent.onnx", "picture": portrait},
        ])  # fmt: skip
    straight, lean, video, texts, silent = results
    np.testing.assert_allclose(straight[0]["visible"], octamark.load(content)(portrait)[0].visible, atol=0.1)
    for (face,) in (straight, lean, *video):
        np.testing.assert_allclose(face["visible"], 1 - np.array(face["confidence"]), atol=1e-6)
    assert "visible" not in silent[0]
    for form, text in texts.items():
        path = tmp_path / ("a.csv" if form == "csv" else "a.json")
        path.write_text(text)
        (record,) = read_records(path)
        np.testing.assert_allclose(record.faces.visible, [straight[0]["visible"]], atol=6e-5, err_msg=form)
    stated = json.loads(texts["json"])[0]["faces"][0]["mean_confidence"]
    assert stated == pytest.approx(np.average(straight[0]["confidence"], weights=straight[0]["visible"]), abs=6e-5)
    v = np.reshape(json.loads(texts["coco"])["annotations"][0]["keypoints"], (68, 3))[:, 2]
    np.testing.assert_array_equal(v, np.where(np.array(straight[0]["visible"]) < 0.5, 1, 2))


def test_fusion_counts_hidden_points_less(site: Path) -> None:
    """As ``octamark.inference.regions.fuse`` with shares."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node (Debian: apt-get install nodejs)")
    random = np.random.default_rng(0)
    points, readings = random.uniform(0, 100, (1, 3, 2)), random.uniform(0, 100, (1, 3, 2))
    spread, own = random.uniform(1, 3, (1, 3, 2)), random.uniform(1, 3, (1, 3, 2))
    visible, bias, sharpness = np.array([0.0, 0.4, 1.0]), random.normal(size=3), 0.8
    entries = [
        {"landmark": index, "share": 1, "bias": bias[index], "point": readings[0, index].tolist(),
         "spread": own[0, index].tolist()} for index in range(3)
    ]  # fmt: skip
    face = {"points": points[0].tolist(), "spread": spread[0].tolist(), "visible": visible.tolist()}
    script = (
        f"import {{ fuse }} from {json.dumps((site / 'lib' / 'refinement.js').as_uri())};"
        f"console.log(JSON.stringify(fuse({json.dumps(face)}, {json.dumps(entries)}, {sharpness})));"
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60, check=True
    )
    fused = json.loads(done.stdout)
    expected = fuse(points, spread, readings, own, bias, sharpness, np.eye(3), shares=visible[None])
    np.testing.assert_allclose(fused["points"], expected[0][0])
    np.testing.assert_allclose(fused["spread"], expected[1][0])


def test_wrong_inputs_are_named(predict: Predict, server: Server, portrait: Picture) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "huge"}, "WeightsError", 'unknown model "huge"; models: pico, nano, pico-open, tiny-open, tiny-128'),
        ({"model": "regions"}, "WeightsError", "regions: a regional network"),
        ({"model": f"{server.url}models/none.onnx"}, "WeightsError", "cannot be fetched (status 404)"),
        ({"model": f"{server.url}models/{YUNET_FILE}"}, "WeightsError", "without octamark's model card"),
        (
            {"model": "pico", "options": {"rotation": "no"}},
            "ConfigError",
            'rotation "no"; allowed: auto, always, never',
        ),
        ({"model": "pico", "options": {"upright": 1}}, "ConfigError", "unknown option upright; options: rotation"),
        ({"model": "pico", "options": {"minConfidence": 2}}, "ConfigError", "minConfidence 2; allowed: 0 to 1"),
        ({"model": "pico", "how": {"box": []}}, "ConfigError", "unknown option box; options: boxes, boxKind"),
        ({"model": "pico", "how": {"boxes": [[9, 9, 5, 20]]}}, "BoxError", "box 0 (9, 9, 5, 20): boxes are x1, y1"),
        ({"model": "pico", "how": {"boxes": [[0, 0, 1, 1]]}}, "BoxError", "a side below 2 pixels"),
        ({"model": "pico", "how": {"boxes": [[900, 0, 990, 90]]}}, "BoxError", "outside the picture of 400x400"),
        ({"model": "pico", "how": {"boxes": [[0, 0, 9, 9]], "fullFrame": True}}, "BoxError", "takes no boxes"),
        ({"model": "pico", "frames": [(portrait, 1.0), (portrait, 1.0)]}, "ConfigError", "time 1 s is not later"),
        ({"model": "pico", "frames": [(portrait, 0)], "tracking": {"maxGap": -1}}, "ConfigError", "maxGap -1; allowed"),
    ]
    results = predict([job if "frames" in job else job | {"picture": portrait} for job, _, _ in cases])
    for (job, name, message), result in zip(cases, results, strict=True):
        assert isinstance(result, dict), job
        assert result["error"] == name
        assert message in result["message"]


def test_the_types_name_what_the_module_exports(predict: Predict) -> None:
    (names,) = predict([{}])
    types = (Path(__file__).parent.parent.parent / "web" / "octamark.d.ts").read_text(encoding="utf-8")
    assert sorted(names) == sorted(re.findall(r"^export (?:function|class) (\w+)", types, re.MULTILINE))


def test_a_changed_model_file_is_refused(predict: Predict, site: Path, portrait: Picture, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "octamark.json").write_bytes((site / "octamark.json").read_bytes())
    content = bytearray((site / "models" / "pico.onnx").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "models" / "pico.onnx").write_bytes(content)
    with contextmanager(serving)(tmp_path) as changed:
        (result,) = predict([{"model": "pico", "options": {"base": changed.url}, "picture": portrait}])
    assert result["error"] == "WeightsError"
    assert "pico.onnx: damaged (its sha256 is not the released one)" in result["message"]
