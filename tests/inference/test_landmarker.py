"""The predictor on a real photograph: one by one, in batches, in threads, and with bad input."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import octamark
from octamark import (
    BoxError,
    ConfigError,
    DeviceError,
    FaceDetector,
    Faces,
    InferenceOptions,
    Landmarker,
    OctamarkError,
    PictureError,
    WeightsError,
)
from octamark.geometry import check_boxes, landmark_boxes
from octamark.release.graph import with_card
from telling_model import silent_model, telling_model

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def nano() -> Landmarker:
    return octamark.load("nano", threads=1)


@pytest.fixture(scope="module")
def box(nano: Landmarker, photograph: Picture) -> NDArray[np.float32]:
    return nano(photograph).boxes[0]


def same(first: Faces, second: Faces, atol: float = 2e-3) -> None:
    assert first.size == second.size
    for name in ("landmarks", "spread", "confidence", "boxes", "scores"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=atol, err_msg=name)


@pytest.mark.parametrize("name", octamark.models.available())
def test_a_real_face_is_found_where_it_is(name: str, photograph: Picture) -> None:
    """Eileen Collins's portrait: places read off the picture by eye, to a tenth of the eye distance (about 60 px)."""
    (face,) = octamark.load(name, threads=1)(photograph)
    places = {
        "right_eye": (202.5, 101.0),
        "left_eye": (246.0, 103.0),
        "nose": (224.0, 123.0),
        "outer_mouth": (224.0, 145.0),
    }
    for part, place in places.items():
        np.testing.assert_allclose(face[part].mean(axis=0), place, atol=6, err_msg=part)
    assert face.landmarks[8, 1] > face["outer_mouth"][:, 1].max() + 15
    assert 0.2 < face.spread.mean() < 4
    assert face.confidence.mean() > 0.5


def test_every_kind_of_input(nano: Landmarker, photograph: Picture, photograph_path: Path) -> None:
    expected = nano(photograph)
    for source in (photograph_path, str(photograph_path), photograph_path.read_bytes(), Image.fromarray(photograph)):
        same(nano(source), expected)


def test_exif_turned_picture_gives_upright_points(nano: Landmarker, photograph: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(photograph)).save(buffer, "PNG", exif=exif)
    same(nano(buffer.getvalue()), nano(photograph))


def test_a_list_equals_a_loop(nano: Landmarker, photograph: Picture, box: NDArray[np.float32]) -> None:
    """19 faces in 4 pictures, more than one run of the network holds, one picture without a face."""
    rng = np.random.default_rng(0)
    pictures = [photograph, np.zeros((50, 80, 3), np.uint8), photograph[:, ::-1].copy(), photograph]
    many = box + rng.uniform(-6, 6, (17, 4)).astype(np.float32)
    boxes = [many, None, None, box[None]]
    together = nano(pictures, boxes, heatmaps=True)
    assert [len(faces) for faces in together] == [17, 0, 1, 1]
    for picture, given_boxes, faces in zip(pictures, boxes, together, strict=True):
        same(faces, nano(picture, given_boxes))
    assert together[0].heatmaps is not None
    np.testing.assert_allclose(together[0].heatmaps.sum(axis=(2, 3)), 1, atol=1e-4)
    assert nano([]) == []


def test_mirrored_picture_gives_mirrored_points(photograph: Picture) -> None:
    small = octamark.load("small", threads=1)
    straight = small(photograph)
    x1, y1, x2, y2 = straight.boxes[0]
    flipped = small(photograph[:, ::-1].copy(), [[511 - x2, y1, 511 - x1, y2]])
    mirrored = flipped.landmarks[0, small.layout.mirror] * (-1, 1) + (511, 0)
    distance = np.linalg.norm(mirrored - straight.landmarks[0], axis=1).mean()
    assert distance < 0.05 * small.layout.distance(straight.landmarks[0], "inter-ocular")


def test_landmark_boxes_crop_as_training_did(nano: Landmarker, photograph: Picture) -> None:
    first = nano(photograph)
    tight = landmark_boxes(first.landmarks)
    again = nano(photograph, tight, box_kind="landmarks")
    side = (tight[0, 2:] - tight[0, :2]).max() * nano.card.crop.margin
    assert again.crops[0, 0, 0] * nano.card.crop.size == pytest.approx(side)
    assert np.linalg.norm(again.landmarks - first.landmarks, axis=-1).mean() < 2
    with pytest.raises(BoxError, match="allowed: detector, landmarks"):
        nano(photograph, tight, box_kind="label")  # type: ignore[call-overload]


@pytest.mark.slow
def test_eight_threads_give_what_one_gives(nano: Landmarker, photograph: Picture) -> None:
    pictures = [np.roll(photograph, shift, axis=1) for shift in range(0, 160, 20)]
    alone = [nano(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(nano, pictures * 4))
    for index, faces in enumerate(together):
        same(faces, alone[index % 8], atol=1e-5)


def test_faces_that_fill_the_frame_and_small_ones(
    nano: Landmarker, photograph: Picture, box: NDArray[np.float32]
) -> None:
    x1, y1, x2, y2 = box.round().astype(int)
    tight = photograph[y1 + 8 : y2, x1:x2]
    filling = np.asarray(Image.fromarray(tight).resize((tight.shape[1] * 6, tight.shape[0] * 6)))
    assert len(nano(filling)) == 1
    far = np.zeros((1500, 2000, 3), np.uint8)
    far[700:828, 900:1028] = np.asarray(Image.fromarray(photograph).resize((128, 128)))
    faces = nano(far)
    assert len(faces) == 1
    expected = (nano(photograph).landmarks[0] + 0.5) / 4 - 0.5 + (900, 700)
    assert np.linalg.norm(faces.landmarks[0] - expected, axis=-1).mean() < 1.5


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10), (3, 3, 1)])
def test_strange_sizes(nano: Landmarker, shape: tuple[int, ...]) -> None:
    picture = np.full(shape, 128, np.uint8)
    assert len(nano(picture)) == 0
    assert np.isfinite(nano(picture, [[0, 0, max(2, shape[1] - 0.5), max(2, shape[0] - 0.5)]]).landmarks).all()


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[10, 10, 5, 50]], "x1 < x2"),
        ([[10, 10, 50, 10]], "y1 < y2"),
        ([[10, 10, np.nan, 50]], "not finite"),
        ([[10, 10, np.inf, 50]], "not finite"),
        ([[600, 10, 700, 90]], "outside the picture of 512x512"),
        ([[-90, 10, -10, 90]], "outside the picture"),
        ([[-1e6, -1e6, 1e6, 1e6]], "more than 20 times"),
        ([10, 10, 50, 50], "(n, 4)"),
        ([[10, 10, 50]], "(n, 4)"),
        ([["a", 1, 2, 3]], "(n, 4) numbers"),
    ],
)
def test_bad_boxes(nano: Landmarker, photograph: Picture, boxes: object, said: str) -> None:
    with pytest.raises(BoxError) as caught:
        nano(photograph, boxes)  # type: ignore[call-overload]
    assert said in str(caught.value)


def test_boxes_in_number(nano: Landmarker, photograph: Picture) -> None:
    assert len(nano(photograph, [])) == 0
    assert len(nano(photograph, np.zeros((0, 4)))) == 0
    with pytest.raises(BoxError, match="2 pictures but 1 lists of boxes; give a list"):
        nano([photograph, photograph], [None])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
@example([-3.0289880309514868e38, -1.0, 3.738355368458498e37, 0.0])
@example([0.0, 0.0, 1e39, 10.0])
def test_any_four_numbers_are_a_box_or_a_box_error(numbers: list[float]) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    try:
        checked = check_boxes([numbers], picture)
    except BoxError as error:
        assert "box 0" in str(error)  # noqa: PT017
        return
    assert np.isfinite(octamark.load("nano", threads=1)(picture, checked).landmarks).all()


def test_bad_pictures_raise(nano: Landmarker) -> None:
    with pytest.raises(PictureError, match="empty"):
        nano(b"")
    with pytest.raises(PictureError, match=r"nowhere\.jpg"):
        nano(["nowhere.jpg"])


def test_threads_and_devices_are_honest() -> None:
    processors = len(os.sched_getaffinity(0))
    for threads in (0, -1, processors + 1, 1.5, "2"):
        with pytest.raises(DeviceError, match=f"1 to {processors}"):
            octamark.load("nano", threads=threads)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="devices: cpu, cuda"):
        octamark.load("nano", device="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(DeviceError, match="pip install onnxruntime-gpu"):
            octamark.load("nano", device="cuda")


def test_weight_files_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unknown model 'huge'; models: pico, nano, .*tiny.*, or the path"):
        octamark.load("huge")
    with pytest.raises(WeightsError, match="cannot be read"):
        octamark.load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"bad\.onnx: damaged"):
        octamark.load(tmp_path / "bad.onnx")
    (tmp_path / "cut.onnx").write_bytes(octamark.models.read("nano")[:-5000])
    with pytest.raises(WeightsError, match=r"cut\.onnx"):
        octamark.load(tmp_path / "cut.onnx")


def test_a_graph_of_an_older_version_is_refused(tmp_path: Path) -> None:
    import onnx

    old = onnx.load_from_string(octamark.models.read("nano"))
    kept = [output for output in old.graph.output if output.name != "confidence"]
    del old.graph.output[:]
    old.graph.output.extend(kept)
    (tmp_path / "old.onnx").write_bytes(old.SerializeToString())
    with pytest.raises(WeightsError, match=r"old\.onnx: a graph without confidence; export it with this version"):
        octamark.load(tmp_path / "old.onnx")


def test_a_card_of_an_older_version_is_refused() -> None:
    import json

    import onnx

    model = onnx.load_from_string(octamark.models.read("nano"))
    (entry,) = (prop for prop in model.metadata_props if prop.key == "octamark")
    whole = json.loads(entry.value)
    del whole["calibration"]
    entry.value = json.dumps(whole)
    with pytest.raises(WeightsError, match="a model card that this version cannot use: calibration"):
        octamark.load(model.SerializeToString())
    whole["layout"] = "cofw29"
    entry.value = json.dumps(whole | {"calibration": octamark.load("nano").card.calibration.model_dump(mode="json")})
    with pytest.raises(WeightsError, match="its card names the layout 'cofw29', but the file holds 'ibug68'"):
        octamark.load(model.SerializeToString())


def test_confidence_and_spread_are_the_calibrations(nano: Landmarker, photograph: Picture) -> None:
    """Through the whole predictor: a spread turned or scaled with the crop keeps its meaning."""
    faces = nano(photograph)
    radius = 0.05 * nano.layout.distance(faces.landmarks, "inter-ocular")[:, None]
    stated = nano.card.calibration.within(faces.spread, radius)
    np.testing.assert_allclose(faces.confidence, stated, atol=2e-3)
    double = np.asarray(Image.fromarray(photograph).resize((1024, 1024), Image.Resampling.BICUBIC))
    twice = nano(double, (faces.boxes + 0.5) * 2 - 0.5)
    np.testing.assert_allclose(twice.spread.mean(), 2 * faces.spread.mean(), rtol=0.1)
    np.testing.assert_allclose(twice.confidence.mean(), faces.confidence.mean(), atol=0.05)


def test_given_crops_are_read_as_they_are(nano: Landmarker, photograph: Picture) -> None:
    faces = nano(photograph)
    again = nano.read_crops(photograph, faces.crops, heatmaps=True)
    np.testing.assert_allclose(again.landmarks, faces.landmarks, atol=2e-3)
    np.testing.assert_allclose(again.spread, faces.spread, atol=2e-3)
    side = faces.crops[0, 0, 0] * nano.card.crop.size
    assert again.boxes[0, 2] - again.boxes[0, 0] == pytest.approx(side, rel=1e-4)
    assert again.scores.tolist() == [1.0]
    assert again.heatmaps is not None
    none = nano.read_crops(photograph, np.zeros((0, 2, 3)))
    assert (len(none), none.landmarks.shape, none.boxes.shape) == (0, (0, 68, 2), (0, 4))


def test_a_damaged_release_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octamark.models.registry, "_sums", lambda: dict.fromkeys(["nano"], "0" * 64))
    with pytest.raises(WeightsError, match="sha256"):
        octamark.load("nano")


def test_every_error_is_ours() -> None:
    names = [name for name in octamark.__all__ if name.endswith("Error")]
    assert len(names) == 12
    assert all(issubclass(getattr(octamark, name), OctamarkError) for name in names)


def test_the_cards_offset_moves_points_by_shares_of_the_eye_distance(photograph: Picture) -> None:
    landmarker = octamark.load("nano", threads=1)
    x, y = landmarker.card.offset
    plain = landmarker(photograph)
    card = landmarker.card.model_copy(update={"offset": (x + 0.1, y - 0.2)})
    moved = octamark.load(with_card(octamark.models.read("nano"), card), threads=1)(photograph)
    distance = np.linalg.norm(plain.landmarks[0, 36] - plain.landmarks[0, 45])
    np.testing.assert_allclose(
        moved.landmarks - plain.landmarks, np.broadcast_to([0.1, -0.2], (1, 68, 2)) * distance, atol=0.02
    )
    np.testing.assert_array_equal(moved.spread, plain.spread)


@pytest.mark.parametrize("room", [20, 60, 90])
def test_a_face_that_fills_the_picture_needs_no_detector(
    nano: Landmarker, photograph: Picture, box: NDArray[np.float32], room: int
) -> None:
    """Cut around a face, more or less closely: found as well as with the detector's box."""
    expected = nano(photograph, [box]).landmarks[0]
    x, y = np.maximum((box[:2] + box[2:]) / 2 - 80 - room, 0).astype(int)
    part = np.ascontiguousarray(photograph[y : y + 160 + 2 * room, x : x + 160 + 2 * room])
    faces = nano(part, full_frame=True)
    assert len(faces) == 1
    distance = np.linalg.norm(expected[36] - expected[45])
    assert np.linalg.norm(faces.landmarks[0] + [x, y] - expected, axis=1).mean() < 0.04 * distance
    assert faces.scores[0] > 0.5
    np.testing.assert_allclose(faces.scores[0], faces.mean_confidence[0], atol=1e-6)
    np.testing.assert_allclose(faces.boxes[0], landmark_boxes(faces.landmarks[0]), atol=1e-3)
    headlong = nano(np.ascontiguousarray(part[::-1, ::-1]), full_frame=True)  # found by turning: so are box and score
    np.testing.assert_allclose(headlong.scores[0], headlong.mean_confidence[0], atol=1e-6)
    np.testing.assert_allclose(headlong.boxes[0], landmark_boxes(headlong.landmarks[0]), atol=1e-3)
    together = nano([part, part[:, ::-1].copy()], full_frame=True)
    same(together[0], faces)
    assert [len(found) for found in together] == [1, 1]
    with pytest.warns(DeprecationWarning, match="full_frame=True"):
        same(nano(part, "picture"), faces)
    with pytest.raises(BoxError, match="boxes 'image'; allowed"):
        nano(part, "image")  # type: ignore[call-overload]
    with pytest.raises(BoxError, match="full_frame takes no boxes"):
        nano(part, [[1, 1, 50, 50]], full_frame=True)
    empty = nano(np.zeros((80, 120, 3), np.uint8), full_frame=True)  # no face: the score says so
    assert len(empty) == 1
    assert empty.scores[0] < 0.5


def test_options(photograph: Picture, box: NDArray[np.float32]) -> None:
    with pytest.warns(DeprecationWarning, match="upright= is now rotation="):
        never = octamark.load("nano", threads=1, upright="never")
    assert never.options.rotation == "never"
    assert never.with_options(rotation="always").options == InferenceOptions(rotation="always", threads=1)
    assert never.with_options(threads=2).detector == FaceDetector(threads=2)
    strict = octamark.load("nano", detector=FaceDetector(0.9))
    assert strict.with_options(threads=2).detector == FaceDetector(0.9)
    assert Landmarker("nano", threads=1, rotation="never").options == never.options
    with pytest.raises(ConfigError, match=r"unknown option colour; options: rotation, refine, .*detector"):
        octamark.load("nano", colour="red")
    with pytest.raises(ConfigError, match=r"min_confidence 2\.0; allowed: 0 to 1"):
        octamark.load("nano", min_confidence=2.0)
    with pytest.raises(AttributeError, match="a Landmarker is immutable; make another one to set card"):
        never.card = never.card  # type: ignore[misc]
    boxes = np.stack([box, box + 200])  # the second holds a shirt
    faces = never(photograph, boxes)
    low, high = sorted(faces.confidence.mean(axis=1))
    kept = never.with_options(min_confidence=float(low + high) / 2)(photograph, boxes, heatmaps=True)
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.landmarks, faces.landmarks[faces.confidence.mean(axis=1) == high])


@pytest.fixture(scope="module")
def telling() -> Landmarker:
    """A model that tells what can be seen: of each point its confidence."""
    pytest.importorskip("onnx", reason="needs onnx")
    return Landmarker(telling_model(), threads=1)


def test_a_model_tells_what_can_be_seen(telling: Landmarker, photograph: Picture, box: NDArray[np.float32]) -> None:
    for faces in (telling(photograph), telling(photograph, [box], heatmaps=True), telling(photograph, full_frame=True)):
        assert faces.visible is not None
        assert faces.visible.dtype == np.float32
        np.testing.assert_allclose(faces.visible, faces.confidence, atol=1e-6)
    np.testing.assert_allclose(faces.scores, faces.mean_confidence)  # of the full frame
    empty = telling(np.zeros((64, 64, 3), np.uint8))
    assert empty.visible is not None
    assert empty.visible.shape == (0, 68)
    assert Landmarker(silent_model(), threads=1)(photograph).visible is None


def test_min_confidence_counts_points_by_their_visibility(
    telling: Landmarker, photograph: Picture, box: NDArray[np.float32]
) -> None:
    (face,) = telling(photograph, [box])
    plain, weighted = float(face.confidence.mean()), face.mean_confidence
    assert weighted > plain + 0.001
    for least, count in (((plain + weighted) / 2, 1), (weighted + 0.001, 0)):
        assert len(telling.with_options(min_confidence=least)(photograph, [box])) == count


def _predicted(landmarker: Landmarker, picture: Picture) -> NDArray[np.float32]:
    return landmarker(picture).landmarks


@pytest.mark.slow
def test_a_landmarker_is_pickled_by_its_configuration(nano: Landmarker, photograph: Picture, tmp_path: Path) -> None:
    copied = pickle.loads(pickle.dumps(nano))
    assert copied.options == nano.options
    assert len(pickle.dumps(nano)) < 5000
    same(copied(photograph), nano(photograph))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(_predicted, nano, photograph).result(timeout=120)
    np.testing.assert_allclose(elsewhere, nano(photograph).landmarks, atol=1e-4)
    from_bytes = octamark.load(octamark.models.read("nano"), threads=1)
    same(pickle.loads(pickle.dumps(from_bytes))(photograph), nano(photograph))


def test_a_detector_of_ones_own(photograph: Picture, box: NDArray[np.float32]) -> None:
    def detector(picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.stack([box, box + 2]), np.array([0.5, 0.25], np.float32)

    faces = octamark.load("nano", threads=1, detector=detector)(photograph)
    assert faces.scores.tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(faces.boxes, np.stack([box, box + 2]))


def test_the_old_name_of_rotation_warns_where_it_is_used() -> None:
    for make in (
        lambda: octamark.load("nano", upright="never"),
        lambda: Landmarker("nano", upright="never"),
        lambda: octamark.load("nano").with_options(upright="never"),
    ):
        with pytest.warns(DeprecationWarning, match="upright= is now rotation=") as caught:
            assert make().options.rotation == "never"
        assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="upright="), pytest.raises(ConfigError, match="give rotation= alone"):
        octamark.load("nano", rotation="always", upright="never")


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", ["auto"]), ("rotation", np.array(["auto", "x"])), ("min_confidence", "a"), ("min_confidence", None),
     ("refine", None)],
)  # fmt: skip
def test_options_of_other_types_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} .*; allowed: "):
        octamark.load("nano", **{name: value})
    with pytest.raises(DeviceError, match=r"unknown device \['cpu'\]; devices: cpu, cuda"):
        octamark.load("nano", device=["cpu"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "form"),
    [("a.jpg", "str"), (np.zeros((9, 9), np.uint8), r"uint8 \(9, 9\)"), (np.zeros((9, 9, 3), np.float32), "float32")],
)
def test_predict_takes_decoded_pictures_only(nano: Landmarker, picture: Any, form: str) -> None:
    """Others would be read as if their numbers were 0 to 255."""
    with pytest.raises(PictureError, match=f"^picture 0: {form}.*; predict takes decoded pictures"):
        nano.predict([picture])


def test_crops_that_are_not_finite_are_refused(nano: Landmarker, photograph: Picture) -> None:
    with pytest.raises(BoxError, match="transforms hold values that are not finite"):
        nano.read_crops(photograph, np.full((1, 2, 3), np.nan))
