"""The tracker, on scenes that a fake landmarker reads: ids, cuts, times, searches, memory; and on real pictures."""

from __future__ import annotations

import gc
import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from octamark import load
from octamark.errors import ConfigError, PictureError
from octamark.faces import Faces
from octamark.geometry import Crop, crop_transform, landmark_boxes, squares
from octamark.inference.landmarker import InferenceOptions, Located
from octamark.inference.rotation import Rotation
from octamark.inference.tracker import Tracker, TrackingOptions, assign, smooth_offline
from octamark.layouts import layout
from octamark.metrics import jitter, lag
from octamark.models import CropRule

F64 = NDArray[np.float64]

IBUG = layout("ibug68")
PICTURE = np.zeros((720, 1280, 3), np.uint8)
RULE = CropRule(size=128, margin=1.3, detector_scale=1.3, detector_shift=(0, 0), detector_residual=(0, 0, 0))
RATIOS = ((0.0, 0.0), (4.0, 1.0))


@lru_cache
def shape_of(person: int) -> F64:
    """(68, 2) landmarks in the unit square around 0."""
    return IBUG.diagram - 0.5 + np.random.default_rng(person).normal(0, 0.04, (68, 2))


@dataclass
class Person:
    """A face of the scene.

    Attributes:
        x, y: its middle, pixels.
        size: side of the diagram, pixels.
        person: numbers another shape each.
        covered: nothing of it can be seen.
        confidence: of every point, where it can be seen.
        detected: whether the detector sees it.
        angle: by which it leans, degrees.
        stretch: factor to its height.
        hidden: how many of its points cannot be seen, and have a confidence of 0.05.
    """

    x: float
    y: float = 360
    size: float = 150
    person: int = 0
    covered: bool = False
    confidence: float = 0.9
    detected: bool = True
    angle: float = 0.0
    stretch: float = 1.0
    hidden: int = 0

    @property
    def points(self) -> F64:
        turn = np.deg2rad(self.angle)
        turned = (
            shape_of(self.person)
            * (1.0, self.stretch)
            @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        )
        return np.asarray(turned * self.size + (self.x, self.y))


class FakeLandmarker:
    """Reads the faces of ``scene`` with noise: in each crop the one nearest to its middle, if it lies inside."""

    def __init__(self, noise: float = 0.0, min_confidence: float = 0.0, tells_visible: bool = False) -> None:
        self.layout = IBUG
        self.card: Any = SimpleNamespace(crop=RULE, visibility=(1.0, 0.0) if tells_visible else None)
        self.options = InferenceOptions(min_confidence=min_confidence)
        self.noise, self.rng = noise, np.random.default_rng(0)
        self.scene: Sequence[Person] = ()
        self.searches = self.reads = 0
        self.angles: list[float] = []

    def with_options(self, *, min_confidence: float) -> FakeLandmarker:
        assert min_confidence == 0
        return self

    def locate(self, picture: NDArray[np.uint8]) -> Located:
        self.searches += 1
        seen = [face for face in self.scene if face.detected and not face.covered]
        boxes = np.array([landmark_boxes(face.points) for face in seen], np.float32).reshape(-1, 4)
        roots = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        crops = [
            Crop(picture, crop_transform(np.array([*square[:2], root * 1.3]), RULE.size), square[:2])
            for square, root in zip(squares(boxes, 1.0), roots, strict=True)
        ]
        return Located(picture, boxes, np.full(len(seen), 0.8, np.float32), crops)

    def read_located(self, pictures: Sequence[Located], *, rotation: Rotation | None = None) -> list[Faces]:
        return [self._read(located) for located in pictures]

    def _read(self, located: Located) -> Faces:
        rows: list[F64] = []
        confidence = []
        visible: list[F64] = []
        for crop in located.crops:
            self.reads += 1
            self.angles.append(crop.angle)
            middle = crop.transform @ np.array([63.5, 63.5, 1.0])
            side = crop.side(RULE.size)
            near = [
                face
                for face in self.scene
                if not face.covered and np.linalg.norm(face.points.mean(axis=0) - middle) < 0.35 * side
            ]
            if near:
                face = min(near, key=lambda other: float(np.linalg.norm(other.points.mean(axis=0) - middle)))
                rows.append(face.points + self.noise * self.rng.normal(size=(68, 2)))
                first = np.arange(68) < face.hidden
                confidence.append(np.where(first, 0.05, face.confidence))
                visible.append(np.where(first, 0.02, 0.98))
            else:
                rows.append(middle + self.rng.normal(0, 0.2 * side, (68, 2)))
                confidence.append(np.full(68, 0.05))
                visible.append(np.full(68, 0.5))
        count = len(rows)
        size = (located.picture.shape[1], located.picture.shape[0])
        boxes = np.zeros((count, 4), np.float32) if located.boxes is None else located.boxes
        return Faces(
            IBUG,
            size,
            np.array(rows, np.float32).reshape(count, 68, 2),
            np.full((count, 68, 2), 2.0, np.float32),
            np.array(confidence, np.float32).reshape(count, 68),
            boxes,
            np.zeros(count, np.float32) if located.scores is None else located.scores,
            np.array([crop.transform for crop in located.crops]).reshape(count, 2, 3),
            radius_ratios=RATIOS,
            visible=None if self.card.visibility is None else np.array(visible, np.float32).reshape(count, 68),
        )


def follow(
    scene: Callable[[float], Sequence[Person]],
    seconds: float,
    rate: float = 25,
    landmarker: FakeLandmarker | None = None,
    paint: bool = False,
    **options: Any,
) -> list[tuple[float, Faces]]:
    """The frames of a scene, tracked."""
    landmarker = landmarker or FakeLandmarker()
    tracker = Tracker(landmarker, **options)
    frames = []
    for time in np.arange(round(seconds * rate)) / rate:
        landmarker.scene = scene(float(time))
        frames.append((float(time), tracker(painted(landmarker.scene) if paint else PICTURE, float(time))))
    return frames


def painted(scene: Sequence[Person]) -> NDArray[np.uint8]:
    """A picture in which every person has colours of their own."""
    picture = PICTURE.copy()
    for face in scene:
        if not face.covered:
            left, top, right, bottom = landmark_boxes(face.points).round().astype(int)
            pattern = np.random.default_rng(face.person).integers(0, 256, (4, 4, 3), np.uint8)
            picture[top:bottom, left:right] = cv2.resize(pattern, (right - left, bottom - top))
    return picture


def id_at(faces: Faces, x: float, y: float = 360) -> int | None:
    """The id of the face whose middle is nearest to a place, within 40 pixels."""
    assert faces.ids is not None
    if not len(faces):
        return None
    apart = np.linalg.norm(faces.landmarks.mean(axis=1) - Person(x, y).points.mean(axis=0), axis=1)
    return int(faces.ids[apart.argmin()]) if apart.min() < 40 else None


def test_one_face_keeps_its_id_and_the_detector_rests() -> None:
    landmarker = FakeLandmarker(noise=0.5)
    frames = follow(lambda time: [Person(400 + 100 * time)], 4, landmarker=landmarker)
    for time, faces in frames:
        assert faces.ids is not None
        assert faces.ids.dtype == np.int64
        assert faces.ids.tolist() == [1]
        assert id_at(faces, 400 + 100 * time) == 1
        assert faces.size == (1280, 720)
        assert faces.radius_ratios == RATIOS
        assert faces.scores[0] == pytest.approx(0.8)
        np.testing.assert_allclose(faces.boxes[0], landmark_boxes(Person(400 + 100 * time).points), atol=6)
    assert landmarker.searches <= 9  # every half second
    assert landmarker.reads == 101  # twice where it appears


class DetectorBiased(FakeLandmarker):
    """Reads a little beside the face in the crops of the detector."""

    def read_located(self, pictures: Sequence[Located], *, rotation: Rotation | None = None) -> list[Faces]:
        beside = [6.0 if located.boxes is not None else 0.0 for located in pictures]
        found = super().read_located(pictures, rotation=rotation)
        return [replace(faces, landmarks=faces.landmarks + shift) for faces, shift in zip(found, beside, strict=True)]


def test_a_new_face_does_not_jump_in_its_second_frame() -> None:
    frames = follow(lambda _: [Person(500)], 0.2, landmarker=DetectorBiased(), smoothing="none")
    for _, faces in frames:
        np.testing.assert_allclose(faces.landmarks[0], Person(500).points, atol=0.01)
    assert frames[0][1].scores[0] == pytest.approx(0.8)


def test_smoothing_none_returns_the_readings() -> None:
    landmarker = FakeLandmarker(noise=1.0)
    tracker = Tracker(landmarker, smoothing="none")
    landmarker.scene = [Person(500)]
    tracker(PICTURE, 0.0)
    landmarker.rng = np.random.default_rng(7)
    faces = tracker(PICTURE, 0.04)
    noise = np.random.default_rng(7).normal(size=(68, 2))
    np.testing.assert_allclose(faces.landmarks[0], Person(500).points + noise, atol=1e-3)
    np.testing.assert_array_equal(faces.spread, 2.0)


@pytest.mark.parametrize(("smoothing", "share"), [("low", 0.6), ("high", 0.4)])
def test_filtered_points_are_steadier(smoothing: str, share: float) -> None:
    def points(**options: Any) -> NDArray[np.float32]:
        frames = follow(lambda _: [Person(500)], 3, landmarker=FakeLandmarker(noise=0.25), **options)
        return np.concatenate([faces.landmarks for _, faces in frames[10:]])

    assert jitter(points(smoothing=smoothing)) < share * jitter(points(smoothing="none"))


def test_faces_that_cross_keep_their_ids() -> None:
    """Two pass each other; the one behind is hidden on the way. The other passes back."""

    def scene(time: float) -> list[Person]:
        front = Person(300 + 160 * time, 350, 160, person=1)
        behind = Person(940 - 160 * time, 365, 150, person=2)
        behind.covered = abs(front.x - behind.x) < 110
        return [front, behind]

    frames = follow(scene, 4)
    first, second = id_at(frames[0][1], 300), id_at(frames[0][1], 940)
    assert {first, second} == {1, 2}
    for time, faces in frames:
        front, behind = scene(time)
        assert id_at(faces, front.x, front.y) == first
        if not behind.covered and abs(front.x - behind.x) > 220:
            assert id_at(faces, behind.x, behind.y) == second
    assert max(int(faces.ids.max()) for _, faces in frames if faces.ids is not None) == 2


@pytest.mark.parametrize(("gap", "same"), [(0.2, True), (0.7, True), (1.5, False)])
def test_a_hidden_face_keeps_its_id_for_a_second(gap: float, same: bool) -> None:
    def scene(time: float) -> list[Person]:
        return [Person(400 + 40 * time, covered=1 <= time < 1 + gap), Person(900)]

    frames = follow(scene, 4)
    for time, faces in frames:
        if same or not 1 + gap <= time < 1.6 + gap:  # a new face waits for the next search
            assert len(faces) == (1 if 1 <= time < 1 + gap else 2)
    before, after = (id_at(frames[index][1], 400 + 40 * frames[index][0]) for index in (20, -1))
    assert (before == after) is same
    assert id_at(frames[0][1], 900) == id_at(frames[-1][1], 900)


def test_a_face_that_moves_fast_while_it_is_hidden_keeps_its_id() -> None:
    """It comes back a long way off, as nobody else could."""

    def scene(time: float) -> list[Person]:
        return [Person(300 if time < 1.2 else 800, person=1, covered=1 <= time < 1.4), Person(1100, person=2)]

    frames = follow(scene, 2, paint=True)
    assert id_at(frames[0][1], 300) == id_at(frames[-1][1], 800)
    assert {tuple(sorted(faces.ids.tolist())) for _, faces in frames if faces.ids is not None} == {(1, 2), (2,)}


def test_another_face_in_another_place_is_a_new_one() -> None:
    def scene(time: float) -> list[Person]:
        return [
            Person(300, person=1) if time < 1 else Person(800, person=9, covered=time < 1.4),
            Person(1100, person=2),
        ]

    frames = follow(scene, 2, paint=True)
    assert id_at(frames[-1][1], 800) == 3


def test_a_face_whose_shape_is_misread_as_it_comes_out_keeps_its_id() -> None:
    def scene(time: float) -> list[Person]:
        half_hidden = 1.4 <= time < 1.6
        return [
            Person(400, person=1, covered=1 <= time < 1.4)
            if not half_hidden
            else Person(430, person=1, confidence=0.5, stretch=2.2),
            Person(900, person=2),
        ]

    frames = follow(scene, 2.5)
    assert max(int(faces.ids.max()) for _, faces in frames if faces.ids is not None) == 2
    assert id_at(frames[0][1], 400) == id_at(frames[-1][1], 400)


def test_newcomers_are_found_and_those_who_leave_are_gone() -> None:
    frames = follow(lambda time: [Person(300), *([Person(800)] if 1 <= time < 2 else [])], 3.5)
    counts = [len(faces) for _, faces in frames]
    assert counts[:25] == [1] * 25
    assert counts[40] == 2
    assert counts[51:] == [1] * (len(counts) - 51)


def test_a_cut_starts_afresh() -> None:
    """Others in the same places after it, and others elsewhere."""
    for place in (500, 900):
        frames = follow(lambda time, x=place: [Person(500, person=1) if time < 1 else Person(x, person=9)], 2)
        before, after = frames[24][1].ids, frames[25][1].ids
        assert before is not None
        assert after is not None
        assert before.tolist() == [1]
        assert after.tolist() == [2]
        np.testing.assert_allclose(frames[25][1].landmarks[0], Person(place, person=9).points, atol=0.01)


def test_a_face_that_is_misread_as_one_behind_it_comes_out_is_no_cut() -> None:
    def scene(time: float) -> list[Person]:
        front = Person(500, person=9 if 1.28 <= time < 1.36 else 1)
        return [front, Person(560 + 400 * max(0.0, 0.8 - time), person=2, covered=time >= 0.8)]

    frames = follow(scene, 1.8)
    assert {id_at(faces, 500) for _, faces in frames} == {1}


def test_a_face_that_is_misread_beside_one_that_is_half_hidden_is_no_cut() -> None:
    def scene(time: float) -> list[Person]:
        front = Person(500, person=9 if 1.2 <= time < 1.3 else 1)
        return [front, Person(610, person=2, confidence=0.9 if time < 1 else 0.5)]

    frames = follow(scene, 1.8)
    assert {id_at(faces, 500) for _, faces in frames} == {1}


def test_frame_rates_may_vary() -> None:
    landmarker = FakeLandmarker(noise=0.5)
    tracker = Tracker(landmarker, smoothing="high")
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.uniform(0.015, 0.15, 100))
    for time in times:
        landmarker.scene = [Person(640 + 250 * np.sin(time))]
        faces = tracker(PICTURE, time)
        assert faces.ids is not None
        assert faces.ids.tolist() == [1]
        assert np.abs(faces.landmarks[0].mean(axis=0) - landmarker.scene[0].points.mean(axis=0)).max() < 4


def test_a_face_that_leans_is_read_upright() -> None:
    landmarker = FakeLandmarker()
    follow(lambda time: [Person(500, angle=60 * time)], 2, landmarker=landmarker)
    assert landmarker.angles[-1] == pytest.approx(60 * 1.96, abs=3)


def test_unsure_faces_that_the_detector_sees_are_followed() -> None:
    """Such as one that is blurred: its confidence is low all the time; the landmarker alone would return it too."""
    landmarker = FakeLandmarker()
    frames = follow(lambda _: [Person(500, confidence=0.15)], 3, landmarker=landmarker)
    assert all(len(faces) == 1 for _, faces in frames)
    assert {int(faces.ids[0]) for _, faces in frames if faces.ids is not None} == {1}
    assert landmarker.searches < 15
    frames = follow(lambda time: [Person(500, confidence=0.15, detected=time < 1)], 3)
    assert len(frames[-1][1]) == 0  # nobody sees it any more


def test_what_the_network_takes_for_no_face_is_not_tracked() -> None:
    """The detector sees something now and then; searches do not become more frequent by it."""
    landmarker = FakeLandmarker()
    frames = follow(
        lambda time: [Person(300), Person(900, confidence=0.02, detected=time % 0.5 < 0.2)], 4, landmarker=landmarker
    )
    assert all(len(faces) == 1 for _, faces in frames)
    assert landmarker.searches <= 9
    landmarker = FakeLandmarker()
    flickering = lambda time: [Person(300), Person(900, confidence=0.15, covered=time % 0.8 > 0.4)]  # noqa: E731
    frames = follow(flickering, 4, landmarker=landmarker)
    assert landmarker.searches < 30  # doubtful faces are not waited for


def test_min_confidence_of_the_landmarker_holds() -> None:
    landmarker = FakeLandmarker(min_confidence=0.5)
    frames = follow(lambda _: [Person(300, confidence=0.4), Person(800)], 1, landmarker=landmarker)
    assert [len(faces) for _, faces in frames] == [1] * 25
    assert id_at(frames[-1][1], 800) is not None


@pytest.mark.parametrize("smoothing", ["none", "low"])
def test_what_can_be_seen_is_told_of_each_face(smoothing: str) -> None:
    """And half a face whose other half is hidden is as sure as a whole one."""
    landmarker = FakeLandmarker(min_confidence=0.8, tells_visible=True)
    frames = follow(
        lambda time: [Person(300, hidden=34), Person(800)] if time else [],
        1,
        landmarker=landmarker,
        smoothing=smoothing,
    )
    assert frames[0][1].visible is not None
    assert frames[0][1].visible.shape == (0, 68)
    for _, faces in frames[1:]:
        assert len(faces) == 2
        assert faces.visible is not None
        by_place = faces.visible[np.argsort(faces.landmarks[:, :, 0].mean(axis=1))]
        np.testing.assert_allclose(by_place[0], np.where(np.arange(68) < 34, 0.02, 0.98))
        np.testing.assert_allclose(by_place[1], 0.98)
        assert (faces.mean_confidence > 0.8).all()
    without = follow(lambda _: [Person(300), Person(800)], 1)
    assert without[-1][1].visible is None
    for (_, before), (_, after) in zip(frames, smooth_offline(frames), strict=True):
        assert after.visible is before.visible


def test_offline_smoothing_counts_hidden_points_less() -> None:
    def scene(tells_visible: bool) -> list[tuple[float, Faces]]:
        landmarker = FakeLandmarker(noise=0.3, tells_visible=tells_visible)
        return follow(lambda _: [Person(300, hidden=9)], 2, landmarker=landmarker, smoothing="none")

    (told, untold), truth = (smooth_offline(scene(tells), "low") for tells in (True, False)), Person(300).points
    errors = [
        np.sqrt(np.mean([(faces.landmarks[0, :9] - truth[:9]) ** 2 for _, faces in clip])) for clip in (told, untold)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_frames_without_faces() -> None:
    landmarker = FakeLandmarker()
    frames = follow(lambda _: [], 1, landmarker=landmarker)
    for _, faces in frames:
        assert len(faces) == 0
        assert faces.ids is not None
        assert faces.ids.shape == (0,)
        assert faces.layout is IBUG


def test_frames_of_another_size_start_afresh() -> None:
    landmarker = FakeLandmarker()
    landmarker.scene = [Person(300)]
    tracker = Tracker(landmarker)
    first, second = tracker(PICTURE, 0.0), tracker(PICTURE[:, :640], 0.04)
    assert first.ids is not None
    assert second.ids is not None
    assert (first.ids.tolist(), second.ids.tolist()) == ([1], [2])
    assert second.size == (640, 720)


def test_times_must_rise() -> None:
    landmarker = FakeLandmarker()
    landmarker.scene = [Person(300)]
    tracker = Tracker(landmarker)
    tracker(PICTURE, 1.0)
    for time in (1.0, 0.5):
        with pytest.raises(ConfigError, match=r"time .* s is not later than that of the frame before, 1 s; reset\(\)"):
            tracker(PICTURE, time)
    for wrong in (np.nan, np.inf, None, "1", True):
        with pytest.raises(ConfigError, match="allowed: a finite number of seconds"):
            tracker(PICTURE, wrong)  # type: ignore[arg-type]
    assert tracker(PICTURE, 1.1).ids is not None  # a refused frame changes nothing
    tracker.reset()
    ids = tracker(PICTURE, 0.0).ids
    assert ids is not None
    assert ids.tolist() == [1]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(PictureError):
        Tracker(FakeLandmarker())(np.zeros((3, 4, 7), np.uint8), 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": "medium"}, {"detect_every": -1}, {"max_gap": np.nan}, {"min_confidence": 1.5}, {"max_gap": "1"},
        {"speed": 3},
    ],
)  # fmt: skip
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"allowed|unknown option speed; options: smoothing, detect_every"):
        Tracker(FakeLandmarker(), **options)
    assert Tracker(FakeLandmarker(), TrackingOptions(max_gap=2), smoothing="high").options.max_gap == 2


def test_offline_smoothing_has_no_lag_and_keeps_all_else() -> None:
    def scene(time: float) -> list[Person]:
        return [Person(640 + 200 * np.sin(3 * time)), *([Person(200)] if 1 < time < 2.5 else [])]

    frames = follow(scene, 4, landmarker=FakeLandmarker(noise=0.2), smoothing="none")
    result = smooth_offline(frames)
    assert [time for time, _ in result] == [time for time, _ in frames]
    for (_, before), (_, after) in zip(frames, result, strict=True):
        for name in ("ids", "confidence", "boxes", "scores", "crops", "size", "layout", "radius_ratios"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert after.landmarks.dtype == after.spread.dtype == np.float32
    truth = np.stack([scene(time)[0].points for time, _ in frames])
    read, steady = (np.stack([faces.landmarks[0] for _, faces in clip]) for clip in (frames, result))
    assert abs(lag(steady, truth)) < 0.05
    assert ((steady - truth) ** 2).mean() < 0.8 * ((read - truth) ** 2).mean()
    assert jitter(steady - truth) < 0.7 * jitter(read - truth)


def test_offline_smoothing_of_what_is_no_clip() -> None:
    frames = follow(lambda _: [Person(300)], 0.2)
    assert smooth_offline([]) == []
    (alone,) = smooth_offline(frames[:1])
    np.testing.assert_allclose(alone[1].landmarks, frames[0][1].landmarks, atol=1e-3)
    with pytest.raises(ConfigError, match="faces without ids"):
        smooth_offline([(time, replace(faces, ids=None)) for time, faces in frames])
    with pytest.raises(ConfigError, match="not later"):
        smooth_offline(frames[::-1])
    with pytest.raises(ConfigError, match="smoothing 'none'; allowed: low, high"):
        smooth_offline(frames, "none")  # type: ignore[arg-type]
    twice = frames[0][1][[0, 0]]
    with pytest.raises(ConfigError, match="an id occurs twice"):
        smooth_offline([(0.0, twice)])


def test_pairs_have_the_least_sum_of_costs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = rng.integers(0, 5, 2)
        costs = rng.uniform(0, 2, (rows, columns))
        costs[rng.uniform(size=costs.shape) < 0.2] = np.inf
        pairs = assign(costs, 1.0)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        least = 0.0
        for count in range(min(rows, columns) + 1):
            for chosen in itertools.permutations(range(rows), count):
                for partners in itertools.combinations(range(columns), count):
                    least = min(least, sum(costs[pair] - 1 for pair in zip(chosen, partners, strict=True)))
        assert sum(costs[pair] - 1 for pair in pairs) == pytest.approx(least)


def test_a_real_face_is_followed(photograph: NDArray[np.uint8]) -> None:
    """Turned and moved, it keeps its id; its points are near those of the picture read alone, and rest with it."""
    landmarker = load("nano", threads=1)
    tracker = Tracker(landmarker, smoothing="high")
    for frame in range(12):
        matrix = cv2.getRotationMatrix2D((220, 110), 4.0 * min(frame, 6), 1)
        matrix[:, 2] += 5 * min(frame, 6)
        picture = np.asarray(cv2.warpAffine(photograph, matrix, (512, 512)), np.uint8)
        faces = tracker(picture, frame / 25)
        assert faces.ids is not None
        assert faces.ids.tolist() == [1]
        alone = landmarker(picture)
        unit = IBUG.reference_distance(alone.landmarks)[0]
        assert np.linalg.norm(faces.landmarks[0] - alone.landmarks[0], axis=1).mean() < 0.06 * unit


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_frames() -> None:
    """Faces come and leave all the time."""
    landmarker = FakeLandmarker(noise=0.5)
    tracker = Tracker(landmarker, smoothing="low")
    used, sizes = [], []
    for frame in range(10_000):
        time = frame / 25
        landmarker.angles.clear()
        landmarker.scene = [
            Person(640 + 400 * np.sin(0.5 * time), 200),
            *([Person(1100, 500, 90)] if time % 11 < 5 else []),
        ]
        tracker(PICTURE, time)
        if frame % 100 == 99:
            gc.collect()
            used.append(len(gc.get_objects()))
            sizes.append(len(pickle.dumps(tracker._tracks)))
    assert max(used[-20:]) - max(used[:20]) < 50
    assert max(sizes) < 500_000
