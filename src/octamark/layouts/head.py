"""The pose of a head: a generic head in 3D laid on the points of a face; the table is head.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError
from octamark.layouts.conversion import conversion
from octamark.layouts.definition import F64, Floats, Layout
from octamark.layouts.table import expand

DISTANCE = 80.0
"""Centimetres between the camera and the head where the focal length is unknown. On rendered heads 40 to 260 cm away,
60 and 300 give errors that differ by less than half a degree."""

FULL_OUTLINE, HALF_OUTLINE = 5.0, 20.0
"""Degrees of yaw up to which both sides of the outline count, and from which only the near one does. In between, the
pose is a weighted mean of both, so that it does not jump in a video."""

MIN_LAYOUT_POINTS = 12
"""Points that a layout must have on the generic head: from five alone the pitch is off by ten degrees and more."""

_MIN_POINTS = 4
_FLIP = np.diag([1.0, -1.0, -1.0])
"""Axes of the head (y up, z to the front) <-> axes of OpenCV's camera (y down, z into the picture)."""


@dataclass(frozen=True, eq=False)
class HeadShape:
    """The points of a layout on a generic head.

    Attributes:
        points: (M, 3) centimetres: x to the person's left, y up, z to the front; NaN where a point has no place.
        rigid: (M,) points that always count.
        right, left: (M,) points of the outline that count unless their side is turned away.
    """

    points: F64
    rigid: NDArray[np.bool_]
    right: NDArray[np.bool_]
    left: NDArray[np.bool_]

    def pose(self, landmarks: Floats, focal: float | None = None, centre: tuple[float, float] | None = None) -> F64:
        """Yaw, pitch and roll (3,) in degrees of a face with points (M, 2); see ``octamark.faces.Faces.pose``.

        NaN for a face of which fewer than four of the points that count are known, or whose points lie on one line.

        Args:
            focal, centre: of the camera, pixels. None: of a camera ``DISTANCE`` away that looks at the face.
        """
        points = np.asarray(landmarks, np.float64)
        first = self._solve(points, self.rigid, focal, centre)
        if not np.isfinite(first).all() or not (self.right | self.left).any():
            return first
        near = self._solve(points, self.rigid | (self.right if first[0] > 0 else self.left), focal, centre)
        share = float(np.clip((HALF_OUTLINE - abs(first[0])) / (HALF_OUTLINE - FULL_OUTLINE), 0, 1))
        if share == 0:
            return near
        both = self._solve(points, self.rigid | self.right | self.left, focal, centre)
        return np.asarray(near + share * ((both - near + 180) % 360 - 180))

    def _solve(
        self, landmarks: F64, chosen: NDArray[np.bool_], focal: float | None, centre: tuple[float, float] | None
    ) -> F64:
        """The pose (3,) that lays the chosen points on the landmarks with the least squared error in the picture."""
        known = chosen & np.isfinite(self.points).all(axis=1) & np.isfinite(landmarks).all(axis=1)
        shape, places = self.points[known] @ _FLIP, landmarks[known]
        spans = np.linalg.svd(places - places.mean(axis=0), compute_uv=False) if known.sum() >= _MIN_POINTS else None
        if spans is None or spans[1] <= 1e-6 * spans[0]:
            return np.full(3, np.nan)
        if focal is None or centre is None:
            centre = tuple(places.mean(axis=0))
            # two of three axes of the head are seen, on average over all directions
            scale = np.sqrt(1.5 * np.square(spans).sum() / np.square(shape - shape.mean(axis=0)).sum())
            focal = DISTANCE * float(scale)
        camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
        try:
            _, rotation, shift = cv2.solvePnP(shape, places, camera, None, flags=cv2.SOLVEPNP_SQPNP)
            rotation, _ = cv2.solvePnPRefineLM(shape, places, camera, None, rotation, shift)
        except cv2.error:
            return np.full(3, np.nan)
        return angles(np.asarray(_FLIP @ cv2.Rodrigues(rotation)[0] @ _FLIP, np.float64))

    def converted(self, to: Layout) -> HeadShape:
        """The shape of another layout whose points are means of points of this one."""
        change = conversion(_reference(), to)

        def only(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.asarray(change.known & ~(change.weights[:, ~chosen] != 0).any(axis=1))

        points = np.asarray(change.points(self.points), np.float64)
        return HeadShape(points, only(self.rigid), only(self.right), only(self.left))


def angles(rotation: F64) -> F64:
    """Yaw, pitch and roll (3,) in degrees of a rotation (3, 3) from the axes of a head to those of the picture.

    Both have y up; z points to the front of the head, and from the picture to the camera. The rotation is a turn by yaw
    to the person's left, then by pitch upwards, then by roll to the right shoulder, each about an axis of the picture:
    Rz(roll) Rx(-pitch) Ry(yaw).
    """
    toward = rotation[2]  # from the head to the camera, in the axes of the head
    yaw = np.arctan2(-toward[0], toward[2])
    pitch = np.arcsin(np.clip(-toward[1], -1.0, 1.0))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    return np.degrees([yaw, pitch, roll])


def _reference() -> Layout:
    from octamark.layouts import layout

    return layout(str(_table()["layout"]))


@cache
def _table() -> dict[str, object]:
    return tomllib.loads((resources.files(__package__) / "head.toml").read_text(encoding="utf-8"))


@cache
def _reference_shape() -> HeadShape:
    table, count = _table(), _reference().count
    points = np.array(table["points"], np.float64)
    rigid, right, left = (np.isin(np.arange(count), expand(table[key])) for key in ("rigid", "right", "left"))
    return HeadShape(points, rigid, right, left)


def head_pose(
    landmarks: Floats, layout: Layout, focal: float | None = None, centre: tuple[float, float] | None = None
) -> F64:
    """Yaw, pitch and roll (n, 3) in degrees of faces with points (n, M, 2); see ``octamark.faces.Faces.pose``.

    Raises:
        LayoutError: a layout without conversion from or to ibug68, or with too few points.
    """
    points, shape = np.asarray(landmarks, np.float64), _reference_shape()
    reference = _reference()
    if layout.name != reference.name:
        try:
            shape = shape.converted(layout)
        except LayoutError:
            points = np.asarray(conversion(layout, reference).points(points), np.float64)
    count = int((shape.rigid | shape.right | shape.left).sum())
    if count < MIN_LAYOUT_POINTS:
        raise LayoutError(
            f"layout {layout.name} has {count} points that a pose can be taken from; at least {MIN_LAYOUT_POINTS} are "
            "needed"
        )
    return np.array([shape.pose(face, focal, centre) for face in points]).reshape(len(points), 3)
