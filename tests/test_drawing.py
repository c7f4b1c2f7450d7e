from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from octamark import drawing
from octamark.faces import Faces
from octamark.layouts import BUILTIN, layout

IBUG = layout("ibug68")


def one_face(sure: bool) -> Faces:
    landmarks = (IBUG.diagram * 600 + 100).astype(np.float32)[None]
    full = np.full((1, 68), 0.9 if sure else 0.1, np.float32)
    return Faces(
        IBUG, (800, 800), landmarks, np.ones_like(landmarks), full,
        np.array([[100, 100, 700, 700]], np.float32), np.ones(1, np.float32), np.eye(2, 3)[None] * 3,
    )  # fmt: skip


def test_overlay_marks_global_and_local_points_in_two_colours() -> None:
    picture = np.zeros((800, 800, 3), np.uint8)
    drawn = drawing.overlay(picture, one_face(sure=True), lines=False)
    assert not picture.any()
    for index, (x, y) in enumerate(one_face(True).landmarks[0].round().astype(int)):
        colour = drawing.GLOBAL_COLOUR if index in IBUG.outline else drawing.LOCAL_COLOUR
        assert tuple(drawn[y, x]) == colour, index


def test_unsure_points_are_hollow() -> None:
    drawn = drawing.overlay(np.full((800, 800, 3), 90, np.uint8), one_face(sure=False), lines=False)
    x, y = one_face(False).landmarks[0, 8].round().astype(int)
    assert tuple(drawn[y, x]) != drawing.GLOBAL_COLOUR
    assert (drawn[y - 12 : y + 13, x - 12 : x + 13] == drawing.GLOBAL_COLOUR).all(axis=2).any()


def test_points_far_outside_do_not_break_drawing() -> None:
    faces = one_face(True)
    faces = dataclasses.replace(faces, landmarks=faces.landmarks * 1e7)
    assert drawing.overlay(np.zeros((10, 10, 3), np.uint8), faces).shape == (10, 10, 3)


def test_heatmap_picture_glows_where_the_map_peaks() -> None:
    maps = np.zeros((1, 68, 64, 64), np.float32)
    maps[:, :, 20, 40] = 1.0
    crops = np.array([[[2.0, 0.0, 50.0], [0.0, 2.0, 30.0]]])
    faces = dataclasses.replace(one_face(True), heatmaps=maps, crops=crops)
    drawn = drawing.heatmap_picture(np.zeros((800, 800, 3), np.uint8), faces).sum(axis=2).astype(float)
    rows, columns = np.mgrid[0:800, 0:800]
    seen = np.array([(columns * drawn).sum(), (rows * drawn).sum()]) / drawn.sum()
    np.testing.assert_allclose(seen, [((40 + 0.5) * 4 - 0.5) * 2 + 50, ((20 + 0.5) * 4 - 0.5) * 2 + 30], atol=0.3)
    with pytest.raises(ValueError, match="heatmaps=True"):
        drawing.heatmap_picture(np.zeros((800, 800, 3), np.uint8), one_face(True))


@pytest.mark.parametrize("name", BUILTIN)
def test_diagrams_draw_every_point(name: str) -> None:
    one = layout(name)
    drawn = drawing.diagram(one, 800)
    for x, y in one.diagram * 800 * 0.92 + 800 * 0.04:
        patch = drawn[int(y) - 2 : int(y) + 4, int(x) - 2 : int(x) + 4].astype(int)
        assert (np.ptp(patch, axis=2) > 100).any()


def test_sheet_lays_out_rows() -> None:
    tiles = [np.full((4, 5, 3), number, np.uint8) for number in range(5)]
    laid = drawing.sheet(tiles, columns=3)
    assert laid.shape == (8, 15, 3)
    assert laid[4, 5].tolist() == [4, 4, 4]
    assert not laid[4:, 10:].any()
    with pytest.raises(ValueError, match="no pictures"):
        drawing.sheet([])
