"""What is fitted after training: how detector boxes map to label boxes, and how wide the spread should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.detector import FaceDetector
from octamark.errors import DataError
from octamark.geometry import detector_squares, landmark_boxes, squares
from octamark.imaging import read_picture
from octamark.weights import CropRule


def match(boxes: NDArray[np.floating], truth: NDArray[np.floating]) -> int | None:
    """The detected box that overlaps the label's box (4,) most; None if none overlaps by an IoU of 0.2."""
    if not len(boxes):
        return None
    low, high = np.maximum(boxes[:, :2], truth[:2]), np.minimum(boxes[:, 2:], truth[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (truth[2:] - truth[:2]).prod()
    overlap = shared / (areas - shared)
    best = int(overlap.argmax())
    return best if overlap[best] >= 0.2 else None


def detected_boxes(
    samples: Sequence[Sample], detector: FaceDetector, tick: Callable[[], None] = lambda: None
) -> list[NDArray[np.float32] | None]:
    """For each sample the detector's box of its face, or None where it found none; ``tick`` is called after each."""
    found: list[NDArray[np.float32] | None] = []
    for sample in samples:
        boxes, _ = detector(read_picture(sample.picture))
        index = match(boxes, landmark_boxes(sample.landmarks))
        found.append(None if index is None else boxes[index])
        tick()
    return found


def fit_crop_rule(
    samples: Sequence[Sample], found: Sequence[NDArray[np.float32] | None], *, size: int, margin: float
) -> CropRule:
    """The map from detector boxes to the crops of training, by medians over the faces that were found.

    Raises:
        DataError: fewer than 10 faces found.
    """
    pairs = [(box, sample) for box, sample in zip(found, samples, strict=True) if box is not None]
    if len(pairs) < 10:
        raise DataError(f"the detector found {len(pairs)} of {len(samples)} faces; at least 10 are needed to fit boxes")
    detected = np.stack([box for box, _ in pairs])
    wanted = squares(landmark_boxes(np.stack([sample.landmarks for _, sample in pairs])), margin)
    plain = detector_squares(detected, 1.0, (0.0, 0.0))
    shift = (wanted[:, :2] - plain[:, :2]) / plain[:, 2:]
    log_scale = np.log(wanted[:, 2] / plain[:, 2])
    centre, middle = np.median(shift, axis=0), float(np.median(log_scale))
    residual = np.concatenate([(shift - centre) / np.exp(middle), (log_scale - middle)[:, None]], axis=1).std(axis=0)
    return CropRule(
        size=size,
        margin=margin,
        detector_scale=float(np.exp(middle)),
        detector_shift=(float(centre[0]), float(centre[1])),
        detector_residual=(float(residual[0]), float(residual[1]), float(residual[2])),
    )


def fit_spread_gain(spread: NDArray[np.floating], errors: NDArray[np.floating]) -> float:
    """The factor that makes the mean spread the mean absolute error; both (n, M, 2), per axis, in one unit."""
    return float(np.abs(errors).mean() / spread.mean())
