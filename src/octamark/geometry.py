"""Boxes, crops and similarity transforms. The pixel convention lives here.

Pixel centres are at integer coordinates: pixel 0 covers -0.5..0.5. Scaling by s takes x to (x + 0.5) * s - 0.5; a
mirrored picture of width W has x' = W - 1 - x. Points are (x, y); boxes are xyxy; transforms are (2, 3) matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import BoxError

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]
Picture = NDArray[np.uint8]

MIN_BOX_SIDE = 2
"""The smallest side of a face box in pixels."""

STEPS_PER_UNIT = 16
"""Steps of ``in_steps`` in a pixel, or in a degree."""

MAX_ENLARGEMENT = 1.25
"""How much a crop may enlarge the part of a reduced picture, to spare decoding the picture again at twice the size."""

_STRIP = 1 << 20
"""Bytes of a picture that are reduced at once."""


@dataclass(frozen=True, eq=False)
class Part:
    """A rectangle of a picture, perhaps reduced.

    Attributes:
        pixels: (h, w, 3) uint8 RGB; pixel (u, v) covers the picture's pixels left + factor * u to
            left + factor * (u + 1) - 1 along x, and as many along y.
        factor: how many pixels of the picture along x, and along y, became one.
        left, top: where the first pixel begins. They are negative where it reaches over the border of a picture whose
            side is no multiple of the factor.
    """

    pixels: Picture
    factor: int = 1
    left: int = 0
    top: int = 0

    def to_picture(self, points: Any) -> Any:
        """Points (..., 2) of the part, or boxes (..., 4), in pixels of the picture; float32 stays float32."""
        first_centre = np.array([self.left, self.top] * (points.shape[-1] // 2), points.dtype) + (self.factor - 1) / 2
        return points * self.factor + first_centre.astype(points.dtype)

    def to_part(self, transforms: Floats) -> F64:
        """Transforms (..., 2, 3) into the picture as transforms into the part."""
        moved = np.array(transforms, dtype=np.float64)
        moved[..., 2] -= np.array([self.left, self.top]) + (self.factor - 1) / 2
        return moved / self.factor


class ReducedPicture(Protocol):
    """A picture that is not held as an array, and gives its parts reduced; see ``octamark.images.open_picture``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the picture at its full size."""
        ...

    def part(self, left: int, top: int, right: int, bottom: int, factor: float) -> Part:
        """The part that covers a rectangle of the picture, reduced by about ``factor``.

        Args:
            left, top, right, bottom: pixels of the picture; right and bottom are the first ones outside.
            factor: by how much the part may be reduced, at least 1. It is a whole number in the result, and may be
                larger by up to ``MAX_ENLARGEMENT``.
        """
        ...


def part_of(picture: Picture | ReducedPicture, left: int, top: int, right: int, bottom: int, factor: float) -> Part:
    """The part that covers a rectangle of a picture, as by ``ReducedPicture``; of an array a view, not reduced."""
    if isinstance(picture, np.ndarray):
        return Part(picture[top:bottom, left:right], 1, left, top)
    return picture.part(left, top, right, bottom, factor)


def whole(picture: Picture | ReducedPicture) -> Picture:
    """The whole picture at its full size; an array is returned as it is."""
    if isinstance(picture, np.ndarray):
        return picture
    return picture.part(0, 0, picture.shape[1], picture.shape[0], 1).pixels


@dataclass(frozen=True, eq=False)
class Crop:
    """Where to read in a picture: a square, turned and scaled, that becomes the input of a network.

    Attributes:
        picture: (H, W, 3) uint8 RGB, or one that gives its parts reduced.
        transform: (2, 3) similarity from pixels of the network's input to pixels of the picture.
        centre: (2,) point of the picture about which ``rotated`` turns, such as the middle of the face's box.
    """

    picture: Picture | ReducedPicture
    transform: F64
    centre: F64

    @property
    def angle(self) -> float:
        """How far the crop is turned against the picture, degrees clockwise."""
        return float(np.rad2deg(np.arctan2(self.transform[1, 0], self.transform[0, 0])))

    def side(self, size: int) -> float:
        """Side of the crop in pixels of the picture, for a network input of ``size`` pixels."""
        return float(np.hypot(*self.transform[:, 0])) * size

    def pixels(self, size: int) -> Picture:
        """The crop as the network sees it: (size, size, 3) uint8; see ``crop``."""
        return crop(self.picture, self.transform, size)

    def moved(self, size: int, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0, angle: float = 0.0) -> Crop:
        """The crop after it was shifted by shares of its side, scaled, and turned about its middle.

        Args:
            size: of the network's input, pixels.
            shift: to the right and downwards in the crop; ``centre`` moves along.
            angle: degrees clockwise.
        """
        middle = size / 2 - 0.5
        step = crop_transform(np.array([middle + shift[0] * size, middle + shift[1] * size, scale * size]), size, angle)
        linear, along = self.transform[:, :2], self.transform[:, :2] @ (np.array(shift) * size)
        transform = np.concatenate([linear @ step[:, :2], apply(self.transform, step[:, 2])[:, None]], axis=1)
        return Crop(self.picture, transform, self.centre + along)

    def rotated(self, angle: float) -> Crop:
        """The crop after the picture around ``centre`` was turned by ``angle`` degrees clockwise."""
        turn = crop_transform(np.array([0.0, 0.0, 1.0]), 1, angle)[:, :2]
        linear, offset = turn @ self.transform[:, :2], turn @ (self.transform[:, 2] - self.centre) + self.centre
        return Crop(self.picture, np.concatenate([linear, offset[:, None]], axis=1), self.centre)


def in_steps(values: Any) -> Any:
    """An array rounded to sixteenths; float32 stays float32.

    What a network finds differs between processors in its last digits. A crop whose place is rounded has the same
    pixels on all of them.
    """
    return np.round(np.asarray(values) * STEPS_PER_UNIT) / STEPS_PER_UNIT


def scale_points(points: Any, scale: float) -> Any:
    """Points (..., 2) of a picture after it was resized by ``scale``; an array of numpy or torch, as given."""
    return (points + 0.5) * scale - 0.5


def mirror_points(points: Floats, width: float, mirror: NDArray[np.int64]) -> F64:
    """Landmarks (..., M, 2) of a picture of the given width after it was mirrored left to right.

    ``mirror`` is the layout's permutation: the mirrored right eye is a left eye.
    """
    flipped = np.array(points, dtype=np.float64)
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped[..., mirror, :]


def check_boxes(boxes: Any, picture: Picture | ReducedPicture, where: str = "") -> NDArray[np.float32]:
    """Boxes as (n, 4) float32 pixels xyxy; ``where`` begins the messages of errors.

    Raises:
        BoxError: another shape, values that are not finite, x2 <= x1 or y2 <= y1, a box with a side below
            ``MIN_BOX_SIDE`` pixels (such as one given in shares of the picture), one wholly outside the picture, or
            one more than 20 times its size.
    """
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is refused below
            checked = np.asarray(boxes).astype(np.float32, casting="same_kind" if np.iscomplexobj(boxes) else "unsafe")
    except (TypeError, ValueError, OverflowError) as error:
        raise BoxError(f"{where}boxes must be (n, 4) numbers x1 y1 x2 y2 ({error})") from error
    if checked.size == 0:
        return np.zeros((0, 4), np.float32)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise BoxError(f"{where}boxes must be (n, 4), x1 y1 x2 y2 of each face; got shape {checked.shape}")
    height, width = picture.shape[:2]
    for index, (x1, y1, x2, y2) in enumerate(checked):
        box_name = f"{where}box {index} ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(checked[index]).all():
            raise BoxError(f"{box_name}: not finite")
        if x2 <= x1 or y2 <= y1:
            raise BoxError(f"{box_name}: boxes are x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        if min(float(x2) - float(x1), float(y2) - float(y1)) < MIN_BOX_SIDE:
            shares = min(x1, y1) >= 0 and max(x2, y2) <= 1
            hint = f"; shares of the picture? Multiply x by {width} and y by {height}" if shares else ""
            raise BoxError(f"{box_name}: a side below {MIN_BOX_SIDE} pixels; boxes are in pixels{hint}")
        if x2 <= -0.5 or y2 <= -0.5 or x1 >= width - 0.5 or y1 >= height - 0.5:
            raise BoxError(f"{box_name}: outside the picture of {width}x{height} pixels")
        if max(float(x2) - float(x1), float(y2) - float(y1)) > 20 * max(width, height):
            raise BoxError(f"{box_name}: more than 20 times the picture of {width}x{height} pixels")
    return checked


def landmark_boxes(landmarks: Floats) -> F64:
    """Tight boxes (..., 4) xyxy around landmarks (..., M, 2); points without a label (NaN) are left out."""
    points = np.asarray(landmarks, dtype=np.float64)
    return np.concatenate([np.fmin.reduce(points, axis=-2), np.fmax.reduce(points, axis=-2)], axis=-1)


def best_overlap(boxes: Floats, box: Floats) -> int | None:
    """Index of the box among (n, 4) that overlaps ``box`` (4,) most; None if no IoU reaches 0.2."""
    if not len(boxes):
        return None
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlap = shared / (areas - shared)
    best = int(overlap.argmax())
    return best if overlap[best] >= 0.2 else None


def squares(boxes: Floats, scale: float) -> F64:
    """Squares around the centres of boxes, as (n, 3): centre x, centre y, ``scale`` times the longer side."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * scale
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, sides[:, None]], axis=1)


def detector_squares(boxes: Floats, scale: float, shift: tuple[float, float]) -> F64:
    """Squares for boxes of a face detector, as (n, 3): centre x, centre y, side in pixels.

    The side is ``scale`` times the root of the box's area, which follows the size of the face better than the width or
    the height does; ``shift`` moves the centre by shares of that root.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    roots = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))[:, None]
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2 + roots * np.asarray(shift), roots * scale], axis=1)


def crop_transform(square: Floats, size: int, angle: float = 0.0) -> F64:
    """The similarity (2, 3) that takes points of a crop to points of the picture.

    Args:
        square: (3,) centre x, centre y, side in picture pixels.
        size: side of the crop in pixels.
        angle: rotation of the square, degrees clockwise in the picture.

    For ``angle`` 0: x = centre + ((u + 0.5) / size - 0.5) * side.
    """
    x, y, side = (float(value) for value in square)
    scale = side / size
    radians = np.deg2rad(angle)
    cos, sin = scale * np.cos(radians), scale * np.sin(radians)
    middle = size / 2 - 0.5
    return np.array([[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]])


def tilt(landmarks: Floats, reference: Floats) -> F64:
    """Rotation of faces against an upright one: (...) degrees in -180..180, clockwise in the picture.

    The rotation of the similarity from ``reference`` (M, 2) to landmarks (..., M, 2) with the least squared error.
    """
    fitted = fit_similarity(np.asarray(reference, np.float64), np.asarray(landmarks, np.float64))
    return np.asarray(np.rad2deg(np.arctan2(fitted[..., 1, 0], fitted[..., 0, 0])))


def upright_square(landmarks: Floats, angle: float, margin: float) -> F64:
    """The square (3,) around landmarks (M, 2) in a frame rotated by ``angle`` (as ``crop_transform`` takes it)."""
    back = crop_transform(np.array([0.0, 0.0, 1.0]), 1, angle)[:, :2]  # a pure rotation
    x, y, side = squares(landmark_boxes(np.asarray(landmarks, np.float64) @ back), margin)[0]
    return np.array([*(back @ (x, y)), side])


def invert(transform: Floats) -> F64:
    """The inverse (2, 3) of an affine transform (2, 3)."""
    linear = np.linalg.inv(np.asarray(transform, dtype=np.float64)[:, :2])
    return np.concatenate([linear, -linear @ np.asarray(transform, dtype=np.float64)[:, 2:]], axis=1)


def apply(transform: Floats, points: Floats) -> F64:
    """Points (..., 2) under an affine transform (2, 3)."""
    matrix = np.asarray(transform, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def transform_with_spread(transforms: Any, points: Any, spread: Any, xp: Any = np) -> tuple[Any, Any]:
    """Points and spreads (..., K, 2) after transforms (..., K, 2, 3), one for each point; numpy or torch by ``xp``.

    The errors of the two axes are taken as independent, so that their variances add under a rotation.
    """
    linear = transforms[..., :2]
    moved = (linear * points[..., None, :]).sum(-1) + transforms[..., 2]
    return moved, xp.sqrt((linear**2 * spread[..., None, :] ** 2).sum(-1))


def fit_similarity(reference: Any, points: Any, xp: Any = np) -> Any:
    """The similarities that take a reference shape to other shapes with the least squared error.

    Args:
        reference: (M, 2) shape.
        points: (..., M, 2) shapes; points that are NaN are left out.
        xp: numpy or torch, whose arrays they are; with torch the result has its gradient.

    Returns:
        (..., 2, 3) similarities (rotation, scale, shift; never a mirror image).

    Source: ordinary Procrustes analysis (J. Gower, Generalized Procrustes analysis, 1975), closed form in the plane.
    """
    known = xp.isfinite(points).all(-1)[..., None]
    weight = known + 0 * reference  # of each coordinate, in the reference's type
    total = weight.sum(-2)
    placed = xp.where(known, points, xp.zeros_like(points))
    middle, centre = placed.sum(-2) / total, (weight * reference).sum(-2) / total
    near, shape = (placed - middle[..., None, :]) * weight, (reference - centre[..., None, :]) * weight
    u, v, x, y = shape[..., 0], shape[..., 1], near[..., 0], near[..., 1]
    size = (u * u + v * v).sum(-1)
    cos, sin = (u * x + v * y).sum(-1) / size, (u * y - v * x).sum(-1) / size
    linear = xp.stack([xp.stack([cos, -sin], -1), xp.stack([sin, cos], -1)], -2)
    offset = middle - (linear * centre[..., None, :]).sum(-1)
    return xp.concatenate([linear, offset[..., None]], -1)


def procrustes_align(points: Any, reference: Any, xp: Any = np) -> Any:
    """Shapes (..., M, 2) moved, turned and scaled so that each lies on a reference shape (M, 2).

    The inverse of what ``fit_similarity`` finds; ``xp`` is numpy or torch.
    """
    fitted = fit_similarity(reference, points, xp)
    linear, offset = fitted[..., :2], fitted[..., 2]
    square = (linear[..., 0, 0] ** 2 + linear[..., 1, 0] ** 2)[..., None, None]
    return (points - offset[..., None, :]) @ linear / square


def procrustes_mean(shapes: Any, mirror: Any = None, xp: Any = np, rounds: int = 5) -> Any:
    """The mean (M, 2) of shapes (n, M, 2) after each was moved, turned and scaled to lie on it.

    Its middle is 0 and its size, the root of the sum of squares, 1; its angle is the mean one of the shapes.

    Args:
        shapes: (n, M, 2); points that are NaN are left out, but each point must be known in some shape.
        mirror: (M,) the layout's permutation, which makes the mean upright and its own mirror image; None for neither.
            The faces must then stand roughly upright.
        xp: numpy or torch, whose arrays they are.

    Source: generalised Procrustes analysis (J. Gower, 1975), by rounds of aligning and averaging.
    """
    known = xp.isfinite(shapes).all(-1)[..., None]

    def average(values: Any) -> Any:
        """Mean (M, 2) of what is known, centred, of size 1."""
        mean = xp.where(known, values, xp.zeros_like(values)).sum(0) / known.sum(0)
        if mirror is not None:
            mean = mean + xp.stack([-mean[mirror, 0], mean[mirror, 1]], -1)
        mean = mean - mean.mean(0)
        return mean / xp.sqrt((mean**2).sum())

    middles = xp.where(known, shapes, xp.zeros_like(shapes)).sum(1) / known.sum(1)
    mean = average(shapes - middles[:, None])
    for _ in range(rounds):
        mean = average(procrustes_align(shapes, mean, xp))
    return mean


def _reduced(picture: Picture, factor: int) -> Picture:
    """Means of squares of ``factor`` by ``factor`` pixels; at the right and lower border the last pixel is repeated.

    It works strip by strip, so that no copy of the whole picture is made.
    """
    rows, columns = (-(-side // factor) for side in picture.shape[:2])
    reduced = np.empty((rows, columns, 3), np.uint8)
    step = max(1, _STRIP // (columns * factor * factor * 3))
    for first in range(0, rows, step):
        strip = picture[first * factor : (first + step) * factor]
        count = min(step, rows - first)
        below, beside = count * factor - strip.shape[0], columns * factor - strip.shape[1]
        if below or beside:
            strip = np.asarray(cv2.copyMakeBorder(strip, 0, below, 0, beside, cv2.BORDER_REPLICATE), np.uint8)
        reduced[first : first + count] = cv2.resize(strip, (columns, count), interpolation=cv2.INTER_AREA)
    return reduced


def crop(picture: Picture | ReducedPicture, transform: Floats, size: int) -> Picture:
    """The (size, size, 3) crop whose points ``crop_transform`` takes to the picture; black outside the picture.

    Bilinear. Where the picture is reduced by 2 or more, the part that the crop shows is first reduced by area averages:
    large faces do not alias, and the cost depends on the size of the face, not of the picture.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    visible = _visible_part(picture, matrix[None], size, float(np.hypot(matrix[0, 0], matrix[1, 0])))
    if visible is None:
        return np.zeros((size, size, 3), dtype=np.uint8)
    part, (matrix,) = visible
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT), np.uint8)


def crops(picture: Picture | ReducedPicture, transforms: Floats, size: int) -> Picture:
    """Crops (n, size, size, 3) that lie near each other, as by ``crop``; their common part is reduced once."""
    matrices = np.asarray(transforms, dtype=np.float64)
    visible = _visible_part(picture, matrices, size, float(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]).min()))
    if visible is None:
        return np.zeros((len(matrices), size, size, 3), dtype=np.uint8)
    return np.stack([crop(visible[0], matrix, size) for matrix in visible[1]])


def _visible_part(
    picture: Picture | ReducedPicture, matrices: F64, size: int, step: float
) -> tuple[Picture, F64] | None:
    """The part of a picture that crops (n, 2, 3) show, reduced by whole pixels, and the crops in it; None outside.

    Args:
        step: pixels of the picture for each pixel of the crops.
    """
    height, width = picture.shape[:2]
    square = np.array([[-1.0, -1.0], [size, -1.0], [-1.0, size], [size, size]])
    corners = (square @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]).reshape(-1, 2)
    first = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (width, height)).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, (width, height)).astype(int)
    if (last <= first).any():
        return None
    (left, top), (right, bottom) = first.tolist(), last.tolist()
    part = part_of(picture, left, top, right, bottom, max(1.0, step))
    factor = min(int(step / part.factor), max(part.pixels.shape[:2]))
    pixels, matrices = part.pixels, part.to_part(matrices)
    if factor >= 2:
        pixels, matrices = _reduced(pixels, factor), Part(pixels, factor).to_part(matrices)
    return pixels, matrices
