"""The camera: where it stands around a head, and where points of the head lie in its picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octamark.synthesis.rendering.assets import F64
from octamark.synthesis.rendering.pieces import turned

CENTRE = np.array([0.0, 0.0, 4.0])
"""The place in the head that the camera turns around."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) in the frame of the head.
        right, up, forward: (3,) unit vectors; right and up are those of the picture.
        angle: field of view over width and height, degrees.
        size: side of the picture, pixels.
    """

    position: F64
    right: F64
    up: F64
    forward: F64
    angle: float
    size: int

    def project(self, points: F64) -> tuple[F64, F64]:
        """Points (..., 3) as (x, y) pixels (..., 2), pixel centres at integers, and their depths (...)."""
        rays = points - self.position
        depth = rays @ self.forward
        scale = self.size / 2 / np.tan(np.radians(self.angle / 2)) / depth
        x, y = (rays @ self.right) * scale, -(rays @ self.up) * scale
        return np.stack([x, y], axis=-1) + self.size / 2 - 0.5, depth


def looking_at(
    points: F64,
    yaw: float,
    pitch: float,
    roll: float,
    distance: float,
    size: int,
    room: float,
    shift: tuple[float, float],
) -> Camera:
    """A camera whose picture shows points (n, 3) in the middle.

    Args:
        yaw, pitch, roll: of the head against the camera, degrees: to the person's left, up, and to the right shoulder.
        distance: from the middle of the head, centimetres.
        room: width of the picture over the longer side of the points' box.
        shift: of the points from the middle of the picture, parts of its width.
    """
    toward = turned((0, 1, 0), -yaw) @ turned((1, 0, 0), pitch) @ np.array([0.0, 0.0, 1.0])
    position = CENTRE + distance * toward
    upright = turned((0, 1, 0), -yaw) @ turned((1, 0, 0), pitch) @ np.array([0.0, 1.0, 0.0])
    upright = turned(toward, -roll) @ upright
    forward, angle = -toward, 30.0
    for _ in range(4):
        right = np.cross(forward, upright)
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        rays = points - position
        depth = rays @ forward
        plane = np.column_stack([rays @ right, rays @ up]) / depth[:, None]
        low, high = plane.min(axis=0), plane.max(axis=0)
        side = room * (high - low).max()
        middle = (low + high) / 2 - np.array(shift) * side
        forward = forward + middle[0] * right + middle[1] * up
        forward /= np.linalg.norm(forward)
        angle = float(np.degrees(2 * np.arctan(side / 2)))
    right = np.cross(forward, upright)
    right /= np.linalg.norm(right)
    return Camera(position, right, np.cross(right, forward), forward, angle, size)
