"""Faces at night: darker, noisier pictures whose labels stay on the face; the same at each call."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drawn_faces import write_w300
from octamark.datasets import w300
from octamark.geometry import apply, crop, landmark_boxes
from octamark.release.night import MARGIN, SIDE, NightSample


def test_a_face_at_night_keeps_its_labels(tmp_path: Path) -> None:
    face = w300.read(write_w300(tmp_path, per_folder=2), "challenge")[0]
    night = NightSample.of(face)
    picture = night.read()
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, NightSample.of(face).read())
    np.testing.assert_allclose(apply(night.transform, night.landmarks), face.landmarks, atol=1e-3)
    x1, y1, x2, y2 = landmark_boxes(night.landmarks)
    assert abs(max(x2 - x1, y2 - y1) * MARGIN - SIDE) < 0.1
    np.testing.assert_allclose([(x1 + x2) / 2, (y1 + y2) / 2], (SIDE - 1) / 2, atol=0.1)
    enlarged = crop(face.read(), night.transform, SIDE).astype(np.float64)
    assert 2 < np.abs(picture - enlarged).mean() < 60  # the same view, blurred and noisy
