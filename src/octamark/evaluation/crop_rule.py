"""The map from a face detector's boxes to the crops that a network was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.evaluation.run import detected_box
from octamark.geometry import detector_squares, landmark_boxes, squares
from octamark.inference.detector import Detector
from octamark.models import CropRule

LEAST_BOXES = 10
"""With at least this many detected faces, the map from detector boxes to crops is fitted."""


def detected_boxes(
    samples: Sequence[Sample], detector: Detector, tick: Callable[[], None] = lambda: None
) -> list[NDArray[np.float32] | None]:
    """For each sample the detector's box of its face, or None where it found none; ``tick`` is called after each."""
    boxes: list[NDArray[np.float32] | None] = []
    for sample in samples:
        boxes.append(detected_box(detector, sample.landmarks, sample.read()))
        tick()
    return boxes


def fit_crop_rule(
    landmarks: Sequence[NDArray[np.float32]],
    boxes: Sequence[NDArray[np.float32] | None],
    *,
    size: int,
    margin: float,
) -> CropRule:
    """The map from detector boxes to the crops of training, by medians over the faces that the detector found.

    Args:
        landmarks: (M, 2) of each face, pixels; NaN for a point without a label.
        boxes: of each face the detector's box (4,) in the same pixels, or None where it found none.
        size, margin: of the network's crops, see ``octamark.models.CropRule``.

    Only faces with all labels are used, if there are ``LEAST_BOXES`` of them. If the detector found
    fewer faces than that (in drawings, for example), nothing is fitted: crops are ``margin`` times the square root
    of a box's area, around its centre, and the residual is 0.
    """
    pairs = [(box, points) for box, points in zip(boxes, landmarks, strict=True) if box is not None]
    complete = [pair for pair in pairs if np.isfinite(pair[1]).all()]
    pairs = complete if len(complete) >= LEAST_BOXES else pairs  # the box around a part of the points is smaller
    if len(pairs) < LEAST_BOXES:
        unfitted = {"detector_scale": margin, "detector_shift": (0.0, 0.0), "detector_residual": (0.0, 0.0, 0.0)}
        return CropRule(size=size, margin=margin, **unfitted)
    detected = np.stack([box for box, _ in pairs])
    targets = squares(landmark_boxes(np.stack([points for _, points in pairs])), margin)
    plain = detector_squares(detected, 1.0, (0.0, 0.0))
    shift = (targets[:, :2] - plain[:, :2]) / plain[:, 2:]
    log_scale = np.log(targets[:, 2] / plain[:, 2])
    centre, middle = np.median(shift, axis=0), float(np.median(log_scale))
    residual = np.concatenate([(shift - centre) / np.exp(middle), (log_scale - middle)[:, None]], axis=1).std(axis=0)
    return CropRule(
        size=size,
        margin=margin,
        detector_scale=float(np.exp(middle)),
        detector_shift=(float(centre[0]), float(centre[1])),
        detector_residual=(float(residual[0]), float(residual[1]), float(residual[2])),
    )
