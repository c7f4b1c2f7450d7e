"""Reading faces again in a turned crop: faces that lean, lie or stand on their heads.

The network reads faces that stand more or less upright. Its first landmarks tell how far a face leans, and its
confidence tells when it is lost; then the crop is turned and read again. Around the angle from which a face is read
again the two results are blended, so that the landmarks are a continuous function of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octamark.faces import Landmarks
from octamark.geometry import Crop, crop_transform, in_steps, tilt, upright_square
from octamark.layouts import Layout
from octamark.models import CropRule

Rotation = Literal["auto", "always", "never"]
ROTATION: tuple[Rotation, ...] = ("auto", "always", "never")

TILT_BAND = (15.0, 25.0)
"""Lean of a face in its crop, degrees: below the first the crop is kept, above the second the upright one replaces it,
in between both readings are blended."""

CONFIDENCE_BAND = 0.05
"""How the upright reading is weighted against the first: one half where their mean confidences are equal, 0 where its
own is this much lower, 1 where it is this much higher."""

MIN_GAIN = 0.15
"""A quarter turn of a face that seems upright is accepted only if it raises the mean confidence by more than this."""

LOST, LOST_LEANING = 0.4, 0.6
"""Faces of a lower mean confidence are read again in quarter turns; the second value holds for faces that lean."""

Read = Callable[[Sequence[Crop]], list[Landmarks]]
"""Reads crops: one ``Landmarks`` for each, in pixels of the pictures."""

Reading = tuple[Crop, Landmarks]
"""A crop, and the landmarks that were read in it."""


class RotationSearch:
    """Reads faces again where a turned crop helps.

    Args:
        read: the network.
        layout: of its landmarks.
        rule: how its crops are cut.
        mode: ``"auto"`` reads leaning and lost faces again, ``"always"`` every face, ``"never"`` none.
    """

    def __init__(self, read: Read, layout: Layout, rule: CropRule, mode: Rotation) -> None:
        self.read, self.layout, self.rule, self.mode = read, layout, rule, mode

    def __call__(self, crops: Sequence[Crop], landmarks: Sequence[Landmarks]) -> tuple[list[Crop], list[Landmarks]]:
        """The crops and landmarks of the faces after the search; the arguments stay as they are.

        First an upright crop around the first landmarks, and another where the face leans in that one too; for a face
        that is still lost, a quarter, half and three quarters of a turn, and an upright crop around the best of them.
        """
        faces = dict(enumerate(zip(crops, landmarks, strict=True)))
        if self.mode == "never":
            return list(crops), list(landmarks)
        weights = {index: self._lean_weight(*face) for index, face in faces.items()}
        chosen = {i: face for i, face in faces.items() if self.mode == "always" or weights[i] > 0}
        upright = self._upright(chosen)
        second_weights = {i: self._lean_weight(*upright[i]) for i in upright if weights[i] > 0}
        for i, face in self._upright({i: upright[i] for i in second_weights if second_weights[i] > 0}).items():
            upright[i] = _more_confident(upright[i], face, second_weights[i])
        for i, face in upright.items():
            faces[i] = _more_confident(faces[i], face, 1.0 if self.mode == "always" else weights[i])
        leaning = {i for i in faces if weights[i] >= 0.5}
        lost = {
            i: face for i, face in faces.items() if face[1].mean_confidence < (LOST_LEANING if i in leaning else LOST)
        }
        turned = self._quarter_turns(lost, leaning)
        faces |= turned
        for i, face in self._upright(turned).items():
            faces[i] = _more_confident(faces[i], face)
        return [crop for crop, _ in faces.values()], [face_landmarks for _, face_landmarks in faces.values()]

    def _lean(self, crop: Crop, landmarks: Landmarks) -> float:
        """How far a face leans in its crop, degrees from 0 to 180."""
        return abs((self._tilt(landmarks) - crop.angle + 180) % 360 - 180)

    def _lean_weight(self, crop: Crop, landmarks: Landmarks) -> float:
        return ramp(self._lean(crop, landmarks), *TILT_BAND)

    def _tilt(self, landmarks: Landmarks) -> float:
        return float(tilt(landmarks.points, self.layout.diagram))

    def _upright(self, faces: Mapping[int, Reading]) -> dict[int, Reading]:
        """Each face read again in an upright crop around its landmarks; without faces whose landmarks coincide."""
        crops = {}
        for index, (crop, face_landmarks) in faces.items():
            angle = float(in_steps(self._tilt(face_landmarks)))
            square = in_steps(upright_square(face_landmarks.points, angle, self.rule.margin))
            if square[2] > 1:
                crops[index] = Crop(crop.picture, crop_transform(square, self.rule.size, angle), crop.centre)
        landmarks = self.read(list(crops.values()))
        return {
            index: (crop, face_landmarks)
            for (index, crop), face_landmarks in zip(crops.items(), landmarks, strict=True)
        }

    def _quarter_turns(self, faces: Mapping[int, Reading], leaning: Iterable[int]) -> dict[int, Reading]:
        """The faces that are read better in a crop turned by 90, 180 or 270 degrees, each with its best turn.

        The better reading replaces the other one, because two ways up cannot be blended.
        """
        turned_crops = [(i, crop.rotated(angle)) for i, (crop, _) in faces.items() for angle in (90.0, 180.0, 270.0)]
        best: dict[int, Reading] = {}
        for (index, crop), face_landmarks in zip(
            turned_crops, self.read([crop for _, crop in turned_crops]), strict=True
        ):
            needed = faces[index][1].mean_confidence + (0.0 if index in leaning else MIN_GAIN)
            if index in best:
                needed = max(needed, best[index][1].mean_confidence)
            if face_landmarks.mean_confidence > needed:
                best[index] = (crop, face_landmarks)
        return best


def _more_confident(first: Reading, second: Reading, weight: float = 1.0) -> Reading:
    """Two readings of a face blended by their confidence; the share of the second is at most ``weight``."""
    gain = second[1].mean_confidence - first[1].mean_confidence
    share = weight * ramp(gain, -CONFIDENCE_BAND, CONFIDENCE_BAND)
    return (second if share >= 0.5 else first)[0], blend(first[1], second[1], share)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, and a smooth rise in between (3 t^2 - 2 t^3)."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def blend(first: Landmarks, second: Landmarks, share: float) -> Landmarks:
    """Two readings of one face as one: ``share`` of the second, the rest of the first; heatmaps of the larger part.

    ``visible`` is that of the one that has it, where the other has not.
    """
    if share <= 0.0:
        return first
    if share >= 1.0:
        return second

    def mixed(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray((1 - share) * np.asarray(a, np.float64) + share * np.asarray(b, np.float64))

    visible = second.visible if first.visible is None else first.visible
    if first.visible is not None and second.visible is not None:
        visible = mixed(first.visible, second.visible)
    return Landmarks(
        mixed(first.points, second.points),
        mixed(first.spread, second.spread),
        mixed(first.confidence, second.confidence),
        (second if share >= 0.5 else first).heatmaps,
        visible,
    )
