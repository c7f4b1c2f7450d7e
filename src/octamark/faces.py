"""Faces and landmarks: the results of a prediction."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, PictureError
from octamark.geometry import Picture, crop
from octamark.images import PictureLike, read_picture
from octamark.layouts import Layout, chip_template, head_pose, layout
from octamark.layouts.conversion import PointValues, convert_values

_MAX_CHIP = 4096

VISIBLE = 0.5
"""A point whose ``visible`` is at least this counts as visible where a yes or no is needed, as in COCO's v."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points with their expected errors, of one crop or of a part of a face.

    Attributes:
        points: (K, 2) (x, y) pixels of the picture, 0-based, pixel centres at integers.
        spread: (K, 2) expected absolute error per axis, pixels of the picture.
        confidence: (K,) in 0..1, the probability that a point is less than 5 % of the inter-ocular distance off.
        heatmaps: (K, h, w) probabilities over the crop; None unless requested.
        visible: (K,) in 0..1, the probability that a point can be seen; None where the model does not tell it.
    """

    points: NDArray[np.floating]
    spread: NDArray[np.floating]
    confidence: NDArray[np.floating]
    heatmaps: F32 | None = None
    visible: NDArray[np.floating] | None = None

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the points, visible or not."""
        return float(self.confidence.mean())

    def __len__(self) -> int:
        return len(self.points)


class _Measures:
    """Measures that Face and Faces share. Shapes are those of Faces; a Face has no first axis."""

    layout: Layout
    landmarks: F32
    spread: F32
    confidence: F32
    radius_ratios: tuple[tuple[float, float], ...] | None
    visible: F32 | None

    @property
    def eye_opening(self) -> F64:
        """(n, 2) how far the right and the left eye are open: distance of the lids over the eye's width.

        A layout without lids gives (n, 0).

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.eye_opening.shape, faces.eye_opening_spread.shape
            ((1, 2), (1, 2))
        """
        return self.layout.eye_opening(self.landmarks)

    @property
    def eye_opening_spread(self) -> F64:
        """(n, 2) expected absolute error of ``eye_opening``, from the spread of the points of each eye.

        Drop openings by this value, not by confidence, which is about errors of half the height of an eye. On the 201
        validation faces of 300W, eyes with an expected error below 0.05 were off by 0.028 on average (``small`` and
        ``nano``), the others by 0.05.
        """
        return self.layout.eye_opening_spread(self.landmarks, self.spread)

    @property
    def mouth_opening(self) -> F64:
        """(n,) how far the mouth is open: distance of the inner lips over the mouth's width; NaN without inner lips.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.mouth_opening.shape
            (1,)
        """
        return self.layout.mouth_opening(self.landmarks)

    @property
    def mouth_opening_spread(self) -> F64:
        """(n,) expected absolute error of ``mouth_opening``, from the spread of its points."""
        return self.layout.mouth_opening_spread(self.landmarks, self.spread)

    def radius(self, coverage: float) -> F32:
        """(n, M) radii in pixels: the true point lies within this distance with probability ``coverage``.

        Raises:
            ConfigError: a coverage outside 0..1, or faces without calibration (read from a file, or made by hand).

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.radius(0.9).shape
            (1, 68)
        """
        if not isinstance(coverage, Real | np.floating) or not 0 <= coverage <= 1:
            raise ConfigError(f"coverage {coverage!r}; allowed: 0 to 1")
        if self.radius_ratios is None:
            raise ConfigError("these faces carry no calibration (radius_ratios), so their radius is unknown")
        ratios, shares = np.array(self.radius_ratios, np.float64).T
        scale = np.sqrt((self.spread.astype(np.float64) ** 2).mean(axis=-1))
        return np.asarray(scale * np.interp(coverage, shares, ratios), np.float32)

    def _converted(self, to: str | Path | Layout) -> dict[str, Any]:
        """The fields of the faces in another layout, as far as they differ."""
        target = layout(to)
        values = PointValues(self.landmarks, self.spread, self.confidence, self.visible)
        return {"layout": target, **convert_values(values, self.layout, target)._asdict()}


@dataclass(frozen=True, eq=False)
class Face(_Measures):
    """One face. Sides are the person's own.

    ``face["left_eye"]`` gives the (k, 2) points of a part or group of parts (``"mouth"``, ``"eyes"``), ``face[30]`` the
    (2,) point of that number.

    Attributes: as in ``Faces``, without the first axis: ``landmarks`` (M, 2), ``spread`` (M, 2), ``confidence``
    (M,), ``visible`` (M,), ``box`` (4,), ``score``, ``id``.

    Examples:
        >>> import numpy as np, octamark
        >>> picture = np.zeros((256, 256, 3), np.uint8)
        >>> face = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])[0]
        >>> face["mouth"].shape, face[30].shape
        ((20, 2), (2,))
    """

    layout: Layout
    landmarks: F32
    spread: F32
    confidence: F32
    box: F32
    score: float
    id: int | None = None
    radius_ratios: tuple[tuple[float, float], ...] | None = None
    visible: F32 | None = None

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the points, weighted as in ``Faces.mean_confidence``."""
        return float(mean_confidence(self.confidence, self.visible))

    def __getitem__(self, part: str | int) -> F32:
        if isinstance(part, str):
            return self.landmarks[list(self.layout.part(part))]
        return np.asarray(self.landmarks[part])

    def part(self, name: str) -> Landmarks:
        """The points of a part or group of parts with their spread, confidence and ``visible``.

        Raises:
            LayoutError: no part of that name; the message lists the parts.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> eye = faces[0].part("left_eye")
            >>> eye.points.shape, eye.spread.shape, eye.confidence.shape
            ((6, 2), (6, 2), (6,))
        """
        indices = list(self.layout.part(name))
        visible = None if self.visible is None else self.visible[indices]
        return Landmarks(self.landmarks[indices], self.spread[indices], self.confidence[indices], visible=visible)

    def convert(self, to: str | Path | Layout) -> Face:
        """The same face with the points of another layout; see ``Faces.convert``."""
        return replace(self, **self._converted(to))

    def pose(self) -> F64:
        """Yaw, pitch and roll of the head (3,) in degrees, as ``Faces.pose`` without a focal length.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> face = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])[0]
            >>> face.pose().shape
            (3,)
        """
        return np.asarray(head_pose(self.landmarks[None], self.layout)[0])

    def to_dict(self) -> dict[str, Any]:
        """The face as plain values, as an entry of ``faces`` in ``Faces.to_dict``."""
        values = {} if self.id is None else {"id": int(self.id)}
        return {
            **values,
            "box": _plain(self.box, 2),
            "score": _plain(np.float64(self.score), 4),
            "mean_confidence": _plain(np.float64(self.mean_confidence), 4),
            "landmarks": _plain(self.landmarks, 2),
            "spread": _plain(self.spread, 3),
            "confidence": _plain(self.confidence, 4),
            **({} if self.visible is None else {"visible": _plain(self.visible, 4)}),
        }

    def __repr__(self) -> str:
        box = ", ".join(f"{side:.0f}" for side in self.box)
        return f"Face(box=({box}), score={self.score:.2f}, layout={self.layout.name!r})"


@dataclass(frozen=True, eq=False)
class Faces(_Measures):
    """The faces of one picture; a picture without faces has an empty one.

    ``faces[0]`` is a ``Face``; a slice, mask or index array gives Faces, such as
    ``faces[faces.mean_confidence > 0.5]``; ``faces["left_eye"]`` gives that part's points of every face, (n, k, 2);
    iterating gives each Face.

    Attributes:
        layout: which landmarks these are.
        size: (width, height) of the picture in pixels.
        landmarks: (n, M, 2) float32 points (x, y), 0-based pixels of the picture, pixel centres at integers. NaN where
            a conversion has no counterpart.
        spread: (n, M, 2) expected absolute error per axis, pixels of the picture.
        confidence: (n, M) in 0..1, the probability that a point is less than 5 % of the face's inter-ocular distance
            off (of half the root of the landmark box's area, for a layout without that normaliser), calibrated on
            validation faces.
        boxes: (n, 4) xyxy, as the detector or the caller gave them.
        scores: (n,) the detector's scores; 1 for boxes that the caller gave.
        crops: (n, 2, 3) similarities from pixels of the network's input to pixels of the picture; None for faces that
            were read from a file.
        heatmaps: (n, M, h, w) probabilities over the crop, each map summing to 1; None unless requested. They are the
            network's own output: the shape correction, the card's offset and the refinement are not in them.
        ids: (n,) the number of each face's track in a video; None outside video.
        radius_ratios: pairs (ratio, share), both rising from 0: that share of points is less than ``ratio`` times the
            root mean square of its two spreads off; the model's calibration, None where it is unknown.
        visible: (n, M) in 0..1, the probability that a point can be seen in the picture: that it lies neither behind
            the head itself, nor behind a thing, nor outside the picture. None for models that do not tell it.

    Examples:
        >>> import numpy as np, octamark
        >>> picture = np.zeros((256, 256, 3), np.uint8)
        >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
        >>> len(faces), faces["eyes"].shape, len(faces[faces.mean_confidence > 2])
        (1, (1, 12, 2), 0)
    """

    layout: Layout
    size: tuple[int, int]
    landmarks: F32
    spread: F32
    confidence: F32
    boxes: F32
    scores: F32
    crops: F64 | None = None
    heatmaps: F32 | None = None
    ids: NDArray[np.int64] | None = None
    radius_ratios: tuple[tuple[float, float], ...] | None = None
    visible: F32 | None = None

    @classmethod
    def empty(cls, layout: Layout, size: tuple[int, int], *, visible: bool = False) -> Faces:
        """Faces without any face, of a picture of that (width, height).

        Args:
            visible: whether they have ``visible``, (0, M), as those of a model that tells it.
        """
        count = layout.count
        points = np.zeros((0, count, 2), np.float32)
        return cls(
            layout,
            size,
            landmarks=points,
            spread=points.copy(),
            confidence=np.zeros((0, count), np.float32),
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            crops=np.zeros((0, 2, 3)),
            visible=np.zeros((0, count), np.float32) if visible else None,
        )

    @property
    def mean_confidence(self) -> F32:
        """(n,) mean confidence of each face's points.

        The detector's score says whether there is a face; this says how well its points are placed, and is close to 0
        for a blurred face in the background. Where ``visible`` is known, each point counts by it, so that the hidden
        side of a profile does not lower the mean. Points without counterpart after ``convert`` are left out.
        """
        return mean_confidence(self.confidence, self.visible).astype(np.float32)

    def convert(self, to: str | Path | Layout) -> Faces:
        """The same faces with the points of another layout, such as ``"five"`` or ``"ibug51"``.

        A point is the mean of one or more points (``octamark.layouts.conversion`` says which, and which are exactly
        the same places on the face), or NaN where this layout has no counterpart. The spread of a mean takes the errors
        of its points as correlated by 0.5; its confidence is the mean of theirs, and still refers to 5 % of the
        inter-ocular distance of this layout. Both allow for the error of the conversion itself where it was measured.
        Its ``visible`` is the mean of theirs too. Boxes, scores, crops and ids stay; heatmaps are dropped.

        Raises:
            LayoutError: an unknown layout, or one to which there is no conversion; the message lists what there is.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.convert("five").landmarks.shape
            (1, 5, 2)
        """
        if layout(to).name == self.layout.name:
            return self
        return replace(self, **self._converted(to), heatmaps=None)

    def chips(
        self,
        picture: PictureLike,
        size: int | None = None,
        margin: float | None = None,
        *,
        template: str = "insightface",
    ) -> Picture:
        """Aligned pictures of the faces, as face recognition takes them: (n, size, size, 3) uint8 RGB.

        Args:
            picture: the picture that the faces were found in (path, bytes, PIL image or array).
            size: side of a chip in pixels; by default the template's, 112 or 150.
            margin: what a chip shows around the template's square, as a share of its side; by default the template's, 0
                or 0.25. dlib calls it padding.
            template: ``"insightface"`` aligns eyes, nose tip and mouth corners as InsightFace's ``norm_crop`` (ArcFace)
                does; ``"dlib"`` eye corners and the base of the nose as dlib's ``get_face_chip`` does with five points.

        Pixels outside the picture are black, and so is the whole chip of a face of which fewer than two of the aligned
        points are known, or all lie in one place. ``chip_transforms`` gives the geometry.

        Raises:
            PictureError: a picture that cannot be read, or of another size than the one the faces were found in.
            ConfigError: an unknown template, a size other than 1 to 4096, a margin other than 0 to 10.
            LayoutError: a layout without conversion to the template's points.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.chips(picture).shape, faces.chips(picture, 160, margin=0.4, template="dlib").shape
            ((1, 112, 112, 3), (1, 160, 160, 3))
        """
        pixels = read_picture(picture)
        if (pixels.shape[1], pixels.shape[0]) != tuple(self.size):
            raise PictureError(
                f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels; these faces were found in one of "
                f"{self.size[0]}x{self.size[1]}"
            )
        side = chip_template(template).size if size is None else size
        transforms = self.chip_transforms(side, margin, template=template)
        chips = np.zeros((len(transforms), side, side, 3), np.uint8)
        for chip, transform in zip(chips, transforms, strict=True):
            if np.isfinite(transform).all():
                chip[:] = crop(pixels, transform, side)
        return chips

    def chip_transforms(
        self, size: int | None = None, margin: float | None = None, *, template: str = "insightface"
    ) -> F64:
        """Similarities (n, 2, 3) from pixels of ``chips`` to pixels of the picture; arguments as there."""
        form = chip_template(template)
        side, border = form.size if size is None else size, form.margin if margin is None else margin
        whole = isinstance(side, Integral) and not isinstance(side, bool) and 1 <= side <= _MAX_CHIP
        if not whole or not isinstance(border, Real) or not 0 <= border <= 10:
            raise ConfigError(
                f"size {side!r}, margin {border!r}; allowed: a whole size from 1 to {_MAX_CHIP}, a margin from 0 to 10"
            )
        return form.transforms(self.convert(form.layout).landmarks, side, border)

    def pose(self, focal: float | None = None) -> F64:
        """Yaw, pitch and roll of the heads (n, 3) in degrees: to the person's left, up, and to the right shoulder.

        0 is a head that looks into the camera. A generic head in 3D is laid on the points of each face: nose, eyes,
        mouth corners, and the upper outline on the sides that are seen. How far a person's own head differs from the
        generic one cannot be told from a picture, so a part of the error is the same in all pictures of a person; most
        of it is in the pitch. A layout without outline, such as ``ibug51``, has a larger error of pitch. The result is
        NaN for a face of which fewer than four of these points are known.

        Args:
            focal: focal length of the camera in pixels; angles are then against the camera's axis, which is taken to
                be in the middle of the picture. None: against the line from the camera to the head, which needs to know
                nothing of the camera, and holds for parts of pictures too.

        Raises:
            LayoutError: a layout without conversion from or to ``ibug68``, or with too few points, such as ``five``.
            ConfigError: a focal length that is not above 0, or faces that do not know the size of their picture.

        Source: perspective-n-point, SQPnP (G. Terzakis and M. Lourakis, A Consistently Fast and Globally Optimal
        Solution to the Perspective-n-Point Problem, 2020), refined by Levenberg-Marquardt.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> faces.pose().shape
            (1, 3)
        """
        if focal is None:
            return head_pose(self.landmarks, self.layout)
        if not isinstance(focal, Real) or not 0 < focal < np.inf or not all(self.size):
            raise ConfigError(
                f"focal {focal!r}, picture of {self.size[0]}x{self.size[1]} pixels; allowed: a focal length in pixels "
                "above 0, and faces that know the size of their picture"
            )
        return head_pose(self.landmarks, self.layout, float(focal), ((self.size[0] - 1) / 2, (self.size[1] - 1) / 2))

    def to_dict(self) -> dict[str, Any]:
        """The faces as plain values, ready for ``json.dumps``, with the field names of the json format.

        Pixels are rounded to 0.01, spread to 0.001, confidence and ``visible`` to 0.0001; NaN becomes None. Faces
        that do not know ``visible`` have no such key.

        Examples:
            >>> import numpy as np, octamark
            >>> picture = np.zeros((256, 256, 3), np.uint8)
            >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
            >>> values = faces.to_dict()
            >>> list(values), list(values["faces"][0])  # doctest: +NORMALIZE_WHITESPACE
            (['width', 'height', 'layout', 'faces'],
             ['box', 'score', 'mean_confidence', 'landmarks', 'spread', 'confidence', 'visible'])
        """
        return {
            "width": int(self.size[0]),
            "height": int(self.size[1]),
            "layout": self.layout.name,
            "faces": [face.to_dict() for face in self],
        }

    def __len__(self) -> int:
        return len(self.landmarks)

    def __iter__(self) -> Iterator[Face]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.generic] | list[int]) -> Faces: ...
    @overload
    def __getitem__(self, index: str) -> F32: ...
    def __getitem__(self, index: int | slice | NDArray[np.generic] | list[int] | str) -> Face | Faces | F32:
        if isinstance(index, str):
            return self.landmarks[:, list(self.layout.part(index))]
        if np.ndim(index) == 0 and not isinstance(index, slice):  # type: ignore[arg-type]
            index = operator.index(index)  # type: ignore[arg-type]
            return Face(
                self.layout,
                self.landmarks[index],
                self.spread[index],
                self.confidence[index],
                self.boxes[index],
                float(self.scores[index]),
                None if self.ids is None else int(self.ids[index]),
                self.radius_ratios,
                None if self.visible is None else self.visible[index],
            )
        rows = {name: getattr(self, name) for name in (field.name for field in fields(self))}
        for name, values in rows.items():
            if isinstance(values, np.ndarray):
                rows[name] = values[index]
        return Faces(**rows)

    def __repr__(self) -> str:
        count = f"{len(self)} face{'' if len(self) == 1 else 's'}"
        return f"Faces({count}, layout={self.layout.name!r}, picture {self.size[0]}x{self.size[1]})"


def mean_confidence(confidence: NDArray[np.floating], visible: NDArray[np.floating] | None) -> F64:
    """(...) means of ``confidence`` (..., M) over its points without those that are NaN; NaN where all are.

    Args:
        confidence: (..., M) as in ``Faces``.
        visible: (..., M) weights of the points, as in ``Faces``; None weights all alike. So do faces of which no point
            can be seen.
    """
    known = np.isfinite(confidence)
    weights = known.astype(np.float64)
    if visible is not None:
        seen = np.where(known & np.isfinite(visible), visible, 0.0)
        weights = np.where(seen.sum(axis=-1, keepdims=True) > 0, seen, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.where(known, confidence, 0) * weights).sum(axis=-1) / weights.sum(axis=-1))


def _plain(values: NDArray[np.floating] | np.floating, digits: int) -> Any:
    """Rounded Python numbers, None for NaN."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return np.where(np.isnan(rounded), np.array(None), rounded).tolist()
