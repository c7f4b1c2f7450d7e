"""The worst faces as a picture: truth and prediction over each."""

from __future__ import annotations

import cv2
import numpy as np

from octamark.drawing import sheet
from octamark.evaluation.results import Result
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares

COUNT = 16
TILE = 320
_TRUTH, _PREDICTED, _ERROR = (60, 230, 60), (255, 80, 60), (255, 220, 0)


def worst(result: Result, count: int = COUNT) -> Picture:
    """A picture of the faces with the largest NME, worst first, after those that were not found.

    Labels are green, predictions red, with a yellow line between each pair; name and NME stand above.

    Raises:
        PictureError: a picture that cannot be read any more.
    """
    errors = np.where(np.isfinite(result.nme), result.nme, np.inf)
    scored = np.flatnonzero(result.scored)
    order = scored[np.argsort(-errors[scored], kind="stable")][:count]
    return sheet([_tile(result, int(index)) for index in order], columns=4)


def _tile(result: Result, index: int) -> Picture:
    sample, predicted = result.samples[index], result.predictions.landmarks[index]
    was_found = bool(result.predictions.found[index])
    shown = np.concatenate([sample.landmarks, predicted]) if was_found else sample.landmarks
    x, y, side = squares(landmark_boxes(shown), 1.25)[0]
    transform = crop_transform(np.array([x, y, max(side, 8.0)]), TILE)
    tile = np.ascontiguousarray(crop(sample.read(), transform, TILE))
    truth, points = apply(invert(transform), sample.landmarks), apply(invert(transform), predicted)
    for label, point in zip(truth, points, strict=True):
        if np.isfinite(label).all() and np.isfinite(point).all():
            cv2.line(tile, _at(label), _at(point), _ERROR, 1, cv2.LINE_AA, 4)
    for cloud, colour in ((truth, _TRUTH), (points, _PREDICTED)):
        for point in cloud:
            if np.isfinite(point).all():
                cv2.circle(tile, _at(point), 28, colour, -1, cv2.LINE_AA, 4)
    score = f"{result.nme[index]:.1%}" if was_found else "not found"
    name = sample.name[-40:].encode("ascii", "replace").decode()  # OpenCV's font has nothing else
    for text, line in ((name, 14), (score, 30)):
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(tile, text, (4, line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)
    return tile


def _at(point: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(point, -1e4, 1e4)
    return round(float(x) * 16), round(float(y) * 16)
