"""Errors with moved and scaled boxes, and with rotated faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from octamark.datasets import Sample
from octamark.evaluation.run import Placement, Predictions, View, predict
from octamark.inference.landmarker import Landmarker

SHIFTS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
SCALES = (0.8, 0.9, 1.0, 1.1, 1.25)
ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0)

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]


def measure(
    landmarker: Landmarker,
    samples: Sequence[Sample],
    placement: Placement,
    error: Callable[[Predictions], float],
    *,
    advance: Callable[[], None] = lambda: None,
) -> Curves:
    """The errors over shifts of the crop (shares of its side), over scales, and over rotations of the face (degrees).

    Rotated faces are read with the landmarker's rotation search and without it.

    Args:
        landmarker: the model.
        samples: labelled faces.
        placement: where each face is read before the crop is moved.
        error: predictions for the samples -> NME in percent.
        advance: called ``passes`` times for each sample.

    Returns:
        Axis label -> line label -> (x, NME in %).
    """
    views = {f"shift x {s}": View(placement, shift=(s, 0.0)) for s in SHIFTS}
    views |= {f"shift y {s}": View(placement, shift=(0.0, s)) for s in SHIFTS}
    views |= {f"scale {s}": View(placement, scale=s) for s in SCALES}
    angles = {f"angle {a}": View(placement, angle=a) for a in ANGLES}
    predictions = predict(landmarker, samples, views | angles, advance=advance)
    nme = {name: error(view_predictions) for name, view_predictions in predictions.items()}
    rotated = {f"rotation: {landmarker.options.rotation}": (list(ANGLES), [nme[name] for name in angles])}
    if passes(landmarker) == 2:
        without_search = landmarker.with_options(rotation="never")
        unsearched = predict(without_search, samples, angles, advance=advance)
        rotated["rotation: never"] = (
            list(ANGLES),
            [error(view_predictions) for view_predictions in unsearched.values()],
        )
    return {
        "crop moved, % of its side": {
            "to the right": ([100 * s for s in SHIFTS], [nme[f"shift x {s}"] for s in SHIFTS]),
            "downwards": ([100 * s for s in SHIFTS], [nme[f"shift y {s}"] for s in SHIFTS]),
        },
        "crop scaled by": {"scale": (list(SCALES), [nme[f"scale {s}"] for s in SCALES])},
        "face rotated, degrees": rotated,
    }


def passes(landmarker: Landmarker) -> int:
    """How often ``measure`` goes through the samples."""
    return 1 if landmarker.options.rotation == "never" else 2
