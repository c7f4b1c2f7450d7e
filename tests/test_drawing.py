from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import octamark
from octamark import drawing
from octamark.errors import ConfigError, LayoutError
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.layouts import BUILTIN, layout

IBUG = layout("ibug68")


def one_face(confidence: float = 0.9, size: int = 800, extent: float = 600) -> Faces:
    """A face as in the layout's diagram, in the middle of a square picture."""
    corner = (size - extent) / 2
    landmarks = (IBUG.diagram * extent + corner).astype(np.float32)[None]
    return Faces(
        IBUG, (size, size), landmarks, np.ones_like(landmarks), np.full((1, 68), confidence, np.float32),
        np.array([[corner, corner, size - corner, size - corner]], np.float32), np.ones(1, np.float32),
        np.eye(2, 3)[None] * 3,
    )  # fmt: skip


def several(*groups: Faces) -> Faces:
    """The faces of several in one picture."""
    names = ("landmarks", "spread", "confidence", "boxes", "scores", "crops")
    joined = {name: np.concatenate([getattr(faces, name) for faces in groups]) for name in names}
    return dataclasses.replace(groups[0], **joined)


def moved(faces: Faces, x: float, y: float) -> Faces:
    return dataclasses.replace(faces, landmarks=faces.landmarks + np.array([x, y], np.float32))


def test_overlay_marks_global_and_local_points_in_two_colours() -> None:
    picture = np.zeros((800, 800, 3), np.uint8)
    drawn = drawing.overlay(picture, one_face(), lines=False)
    assert not picture.any()
    for index, (x, y) in enumerate(one_face().landmarks[0].round().astype(int)):
        colour = drawing.GLOBAL_COLOUR if index in IBUG.outline else drawing.LOCAL_COLOUR
        assert tuple(drawn[y, x]) == colour, index


def test_points_of_low_confidence_are_hollow() -> None:
    drawn = drawing.overlay(np.full((800, 800, 3), 90, np.uint8), one_face(confidence=0.1), lines=False)
    x, y = one_face(confidence=0.1).landmarks[0, 8].round().astype(int)
    assert tuple(drawn[y, x]) != drawing.GLOBAL_COLOUR
    assert (drawn[y - 12 : y + 13, x - 12 : x + 13] == drawing.GLOBAL_COLOUR).all(axis=2).any()


def test_points_far_outside_do_not_break_drawing() -> None:
    faces = one_face()
    faces = dataclasses.replace(faces, landmarks=faces.landmarks * 1e7)
    assert drawing.overlay(np.zeros((10, 10, 3), np.uint8), faces).shape == (10, 10, 3)


def test_heatmap_picture_glows_where_the_map_peaks() -> None:
    maps = np.zeros((1, 68, 64, 64), np.float32)
    maps[:, :, 20, 40] = 1.0
    crops = np.array([[[2.0, 0.0, 50.0], [0.0, 2.0, 30.0]]])
    faces = dataclasses.replace(one_face(), heatmaps=maps, crops=crops)
    drawn = drawing.heatmap_picture(np.zeros((800, 800, 3), np.uint8), faces).sum(axis=2).astype(float)
    rows, columns = np.mgrid[0:800, 0:800]
    seen = np.array([(columns * drawn).sum(), (rows * drawn).sum()]) / drawn.sum()
    np.testing.assert_allclose(seen, [((40 + 0.5) * 4 - 0.5) * 2 + 50, ((20 + 0.5) * 4 - 0.5) * 2 + 30], atol=0.3)
    with pytest.raises(ConfigError, match="heatmaps=True"):
        drawing.heatmap_picture(np.zeros((800, 800, 3), np.uint8), one_face())


def test_heatmap_pictures_of_large_pictures_are_reduced() -> None:
    maps = np.zeros((1, 68, 64, 64), np.float32)
    maps[:, :, 20, 40] = 1.0
    crops = np.array([[[10.0, 0.0, 300.0], [0.0, 10.0, 200.0]]])
    faces = dataclasses.replace(one_face(), heatmaps=maps, crops=crops, size=(4096, 3000))
    drawn = drawing.heatmap_picture(np.zeros((3000, 4096, 3), np.uint8), faces)
    assert drawn.shape == (1500, 2048, 3)
    weights = drawn.sum(axis=2).astype(float)
    rows, columns = np.mgrid[0:1500, 0:2048]
    seen = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
    full = np.array([((40 + 0.5) * 4 - 0.5) * 10 + 300, ((20 + 0.5) * 4 - 0.5) * 10 + 200])
    np.testing.assert_allclose(seen, (full + 0.5) / 2 - 0.5, atol=0.3)
    assert drawing.heatmap_picture(np.zeros((3, 5000, 3), np.uint8), one_face()[:0]).shape == (1, 2048, 3)


def test_an_empty_heatmap_draws_nothing() -> None:
    faces = dataclasses.replace(one_face(), heatmaps=np.zeros((1, 68, 8, 8), np.float32))
    assert not drawing.heatmap_picture(np.zeros((80, 80, 3), np.uint8), faces)[:, :, 1].any()


def test_chosen_parts_only() -> None:
    black = np.zeros((800, 800, 3), np.uint8)
    drawn = drawing.overlay(black, one_face(), parts=("left_eye", "outer_mouth"))
    points = one_face().landmarks[0].round().astype(int)
    wanted = {*IBUG.part("left_eye"), *IBUG.part("outer_mouth")}
    for index, (x, y) in enumerate(points):
        near = min(np.abs(points[other] - points[index]).max() for other in wanted)
        if index in wanted:
            assert tuple(drawn[y, x]) == drawing.LOCAL_COLOUR
        elif near > 30:
            assert not drawn[y - 5 : y + 6, x - 5 : x + 6].any(), index
    np.testing.assert_array_equal(
        drawing.overlay(black, one_face(), parts="left_eye"), drawing.overlay(black, one_face(), parts=["left_eye"])
    )
    assert not drawing.overlay(black, one_face(), parts=()).any()
    with pytest.raises(LayoutError, match=r"no part 'beard'; parts: .*left_eye"):
        drawing.overlay(black, one_face(), parts=("beard",))


@pytest.mark.parametrize(
    ("size", "extent", "factor"),
    [(100, 60, 4), (100, 199, 2), (100, 200, 1), (64, 10, 8), (640, 60, 3), (1500, 60, 1), (3000, 500, 1)],
)
def test_pictures_of_small_faces_are_enlarged(size: int, extent: float, factor: int) -> None:
    picture = np.full((size // 2, size, 3), 90, np.uint8)
    faces = one_face(size=size, extent=extent / float(np.ptp(IBUG.diagram, axis=0).max()))
    drawn = drawing.overlay(picture, faces)
    assert drawn.shape == (size // 2 * factor, size * factor, 3)
    assert drawing.overlay(picture, faces, enlarge=False).shape == picture.shape
    assert drawing.overlay(picture, faces[:0]).shape == picture.shape


def test_points_of_enlarged_pictures_are_where_the_pixels_went() -> None:
    picture = np.zeros((120, 120, 3), np.uint8)
    faces = one_face(size=120, extent=60)
    drawn = drawing.overlay(picture, faces, lines=False, parts=("left_eye",))
    factor = drawn.shape[0] // 120
    assert factor > 1
    rows, columns = np.nonzero((drawn == drawing.LOCAL_COLOUR).all(axis=2))
    centres = (faces["left_eye"][0] + 0.5) * factor - 0.5
    for x, y in centres:
        near = np.hypot(columns - x, rows - y) < 4
        assert near.any()
        np.testing.assert_allclose([columns[near].mean(), rows[near].mean()], [x, y], atol=0.6)


def test_several_faces_are_numbered() -> None:
    black = np.zeros((800, 800, 3), np.uint8)
    left, right = moved(one_face(extent=250), -200, 0), moved(one_face(extent=250), 200, 0)
    both = drawing.overlay(black, several(left, right))
    alone = np.maximum(drawing.overlay(black, left), drawing.overlay(black, right))
    differs = (both != alone).any(axis=2)
    for faces in (left, right):
        x, y = faces.landmarks[0].min(axis=0).astype(int)
        assert differs[y - 60 : y, x - 5 : x + 40].any()
        differs[y - 60 : y + 5, x - 5 : x + 60] = False
    assert not differs.any()
    swapped = drawing.overlay(black, several(right, left))
    assert (swapped != both).any()  # other numbers


def test_faces_of_a_video_have_their_ids_beside_them() -> None:
    picture = np.zeros((800, 800, 3), np.uint8)
    face = one_face(extent=400)
    plain = drawing.overlay(picture, face)
    with_ids = [drawing.overlay(picture, dataclasses.replace(face, ids=np.array([number]))) for number in (1, 1, 12)]
    assert (with_ids[0] != plain).any()
    assert np.array_equal(with_ids[0], with_ids[1])
    assert (with_ids[0] != with_ids[2]).any()


def test_numbers_stay_on_the_picture() -> None:
    black = np.zeros((300, 300, 3), np.uint8)
    for x, y in ((0, -400), (-400, 0), (400, 400)):
        drawn = drawing.overlay(black, several(*[moved(one_face(size=300, extent=250), x, y)] * 2), lines=False)
        assert (drawn == 255).all(axis=2).sum() > 20


def test_lines_of_faces_at_the_edge_are_drawn() -> None:
    black = np.zeros((400, 400, 3), np.uint8)
    face = moved(one_face(size=400, extent=300), 150, 150)
    assert (drawing.overlay(black, face) != drawing.overlay(black, face, lines=False)).any()


@pytest.mark.parametrize("region", ["left_eye", "right_eye"])
def test_refinement_pictures_show_the_chosen_crop_upright(region: str, photograph: Picture) -> None:
    """The network reads one eye mirrored; its crop is shown as it is in the picture."""
    landmarker = octamark.load("small", refine="always")
    after = landmarker(photograph)[0]
    before = dataclasses.replace(after, landmarks=after.landmarks + 2)
    ramp = np.repeat(np.linspace(0, 200, 512).astype(np.uint8)[None, :, None], 512, axis=0).repeat(3, axis=2)
    assert landmarker.refiner is not None
    drawn = drawing.refinement_picture(ramp, before, after, landmarker.refiner, region=region, size=256)
    assert drawn.shape == (256, 512, 3)
    right = drawn[:, 256:]
    assert right[0, -1, 0] > right[0, 0, 0] + 3  # brightness grows to the right, as in the picture
    assert (right == drawing.LOCAL_COLOUR).all(axis=2).any()
    assert (right[:, :, 0].astype(int) - right[:, :, 2] > 150).any()  # rings in the colour of global points
    assert drawn[:, :256].min(axis=2).max() > 230  # the chosen crop in white
    with pytest.raises(LayoutError, match=r"no region 'ear'; regions: .*left_eye"):
        drawing.refinement_picture(ramp, before, after, landmarker.refiner, region="ear")
    with pytest.raises(ConfigError, match="at least 32"):
        drawing.refinement_picture(ramp, before, after, landmarker.refiner, size=8)


@pytest.mark.parametrize("name", BUILTIN)
def test_diagrams_draw_every_point(name: str) -> None:
    drawn = drawing.diagram(layout(name), 800)
    for x, y in layout(name).diagram * 800 * 0.92 + 800 * 0.04:
        patch = drawn[int(y) - 2 : int(y) + 4, int(x) - 2 : int(x) + 4].astype(int)
        assert (np.ptp(patch, axis=2) > 100).any()


def test_sheet_lays_out_rows() -> None:
    tiles = [np.full((4, 5, 3), number, np.uint8) for number in range(5)]
    laid = drawing.sheet(tiles, columns=3)
    assert laid.shape == (8, 15, 3)
    assert laid[4, 5].tolist() == [4, 4, 4]
    assert not laid[4:, 10:].any()
    with pytest.raises(ConfigError, match="no pictures"):
        drawing.sheet([])


def test_points_without_a_place_are_not_drawn(photograph: Picture) -> None:
    """As conversions leave them, and labels that are missing."""
    faces = octamark.load("nano", threads=1)(photograph)
    points = faces.landmarks.copy()
    points[:, 20:] = np.nan
    some, none = (dataclasses.replace(faces, landmarks=values) for values in (points, np.full_like(points, np.nan)))
    assert (drawing.overlay(photograph, some, enlarge=False) != photograph).any()
    np.testing.assert_array_equal(drawing.overlay(photograph, none), photograph)
    np.testing.assert_array_equal(drawing.overlay(photograph, some, parts=["mouth"], enlarge=False), photograph)


def seen(faces: Faces, hidden: list[int]) -> Faces:
    visible = np.ones((len(faces), 68), np.float32)
    visible[:, hidden] = 0.3
    return dataclasses.replace(faces, visible=visible)


def test_hidden_points_are_thin_rings() -> None:
    """Thinner than those of low confidence, and without their dark middle; all other points stay as they are."""
    picture = np.full((800, 800, 3), 90, np.uint8)
    plain, unsure = (drawing.overlay(picture, one_face(confidence), lines=False) for confidence in (0.9, 0.1))
    drawn = drawing.overlay(picture, seen(one_face(), [8]), lines=False)
    x, y = one_face().landmarks[0, 8].round().astype(int)
    around = np.s_[y - 12 : y + 13, x - 12 : x + 13]
    assert tuple(drawn[y, x]) == (90, 90, 90)
    ground = np.array([90, 90, 90]) - drawing.GLOBAL_COLOUR
    shares = [((one[around] - drawing.GLOBAL_COLOUR) / ground).max(axis=2) for one in (drawn, unsure, plain)]
    counts = [int((share < 0.4).sum()) for share in shares]
    assert 0 < counts[0] < counts[1] < counts[2]
    elsewhere = np.ones((800, 800), bool)
    elsewhere[around] = False
    np.testing.assert_array_equal(drawn[elsewhere], plain[elsewhere])
    np.testing.assert_array_equal(drawing.overlay(picture, seen(one_face(), []), lines=False), plain)


def test_lines_to_hidden_points_are_thin_and_pale() -> None:
    picture = np.zeros((800, 800, 3), np.uint8)
    faces = seen(one_face(), [8])
    plain, drawn = drawing.overlay(picture, one_face()), drawing.overlay(picture, faces)
    for other, pale in ((7, True), (9, True), (5, False)):
        first, second = faces.landmarks[0, [other, 8 if pale else 6]]
        x, y = ((first + second) / 2).round().astype(int)
        around = np.s_[y - 5 : y + 6, x - 5 : x + 6]
        assert (drawn[around].sum() < 0.6 * plain[around].sum()) == pale
        assert drawn[around].any()
    np.testing.assert_array_equal(drawing.overlay(picture, seen(one_face(), [])), plain)
