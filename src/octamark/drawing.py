"""Draw landmarks and heatmaps on pictures, numbered diagrams of layouts, and sheets of pictures.

Global landmarks (the face outline) have one colour, local ones (brows, eyes, nose, mouth) another, as in
WO 2022/264089, paragraph 0078. Points with low confidence are hollow, and so are hidden ones, whose rings are thinner.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, LayoutError, listed
from octamark.faces import VISIBLE, Face, Faces, Landmarks
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, scale_points, squares
from octamark.inference.refiner import Refiner
from octamark.layouts import Layout

GLOBAL_COLOUR = (255, 176, 0)
LOCAL_COLOUR = (0, 220, 255)
_RIM = (20, 20, 20)
_WHITE = (255, 255, 255)

LOW_CONFIDENCE = 0.5
"""Points with a confidence below this are drawn hollow."""

READABLE_FACE = 200
"""Overlays enlarge pictures until their smallest face is this high or wide, pixels, as far as the limits allow."""

MAX_ENLARGED_SIDE = 2048
"""No picture is enlarged beyond this width or height."""

MAX_ENLARGEMENT = 8
"""No picture is enlarged by a larger factor."""

MAX_HEATMAP_SIDE = 2048
"""Heatmap pictures of larger ones are drawn at this width or height."""

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_BAND = 128  # rows of a heatmap picture that are blended at once


def overlay(
    picture: Picture,
    faces: Faces,
    *,
    lines: bool = True,
    parts: Sequence[str] | None = None,
    enlarge: bool = True,
) -> Picture:
    """A copy of the picture with the landmarks of all faces drawn on it, (H, W, 3), or larger for small faces.

    Point size follows the size of the face, and a dark rim keeps points visible on any ground. Faces of a video have
    their id beside them; if there are several faces without ids, each has its index in ``faces``. Points without a
    place (NaN), as conversions leave them, are not drawn. Points that can hardly be seen (``visible`` below 0.5) are
    thin rings, and lines to them are thin and pale.

    Args:
        lines: also draw the layout's edges, on faces of more than 60 pixels.
        parts: names of the layout's parts to draw, such as ``("left_eye", "outer_mouth")``; None draws all points.
        enlarge: enlarge the picture by a whole factor, at most ``MAX_ENLARGEMENT`` and up to a side of
            ``MAX_ENLARGED_SIDE``, if a face is smaller than ``READABLE_FACE`` pixels. Pixel (x, y) moves to
            ((x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5).

    Raises:
        LayoutError: a part that the layout does not have; the message lists the parts.
    """
    drawn = frozenset(range(faces.layout.count))
    if parts is not None:
        names = (parts,) if isinstance(parts, str) else parts
        drawn = frozenset(index for name in names for index in faces.layout.part(name))
    factor = _enlargement(picture, faces) if enlarge else 1
    canvas = picture.copy()
    if factor > 1:
        size = (picture.shape[1] * factor, picture.shape[0] * factor)
        canvas = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    for index, face in enumerate(faces):
        points = scale_points(face.landmarks.astype(np.float64), factor)
        known = drawn & set(np.flatnonzero(np.isfinite(points).all(axis=1)).tolist())
        if not known:
            continue
        _draw_face(canvas, face, points, known, lines)
        if face.id is not None or len(faces) > 1:
            _draw_number(canvas, index if face.id is None else face.id, points)
    return canvas


def _enlargement(picture: Picture, faces: Faces) -> int:
    """The whole factor by which an overlay enlarges a picture."""
    extents = [extent for face in faces if np.isfinite(extent := _extent(face.landmarks))]
    if not extents:
        return 1
    factor = int(np.ceil(READABLE_FACE / max(min(extents), 1.0)))
    return max(1, min(factor, MAX_ENLARGEMENT, MAX_ENLARGED_SIDE // int(max(picture.shape[:2]))))


def _extent(points: NDArray[np.floating]) -> float:
    """Width or height of points (M, 2), whichever is larger; NaN if none has a place."""
    box = landmark_boxes(points)
    return float((box[2:] - box[:2]).max())


def _draw_face(canvas: Picture, face: Face, points: NDArray[np.float64], drawn: frozenset[int], lines: bool) -> None:
    """Draw the points (M, 2) of a face whose indices are in ``drawn``."""
    outline, extent = set(face.layout.outline), _extent(points)
    hidden = frozenset[int]()
    if face.visible is not None:
        hidden = frozenset(np.flatnonzero(face.visible < VISIBLE).tolist())
    radius = min(max(1.0, extent * 0.011), 60.0)
    if lines and extent > 60:
        box = landmark_boxes(points)
        low = np.clip(box[:2] - 2 * radius, 0, canvas.shape[1::-1]).astype(int)
        high = np.clip(box[2:] + 2 * radius + 1, 0, canvas.shape[1::-1]).astype(int)
        around = canvas[low[1] : high[1], low[0] : high[0]]
        edges = [(first, second) for first, second in face.layout.edges if first in drawn and second in drawn]
        to_hidden = [edge for edge in edges if not hidden.isdisjoint(edge)]
        to_visible = [edge for edge in edges if hidden.isdisjoint(edge)]
        _draw_edges(around, points - low, to_hidden, outline, radius * 0.2, 0.3)
        _draw_edges(around, points - low, to_visible, outline, radius * 0.5, 0.5)
    for index in sorted(drawn):
        colour = GLOBAL_COLOUR if index in outline else LOCAL_COLOUR
        if index in hidden:
            _circle(canvas, points[index], radius, colour, max(1, round(radius * 0.25)))
            continue
        if radius >= 2:
            _circle(canvas, points[index], radius * 1.3, _RIM, -1)
        filled = face.confidence[index] >= LOW_CONFIDENCE
        _circle(canvas, points[index], radius, colour, -1 if filled else max(1, round(radius * 0.4)))


def _draw_edges(
    canvas: Picture,
    points: NDArray[np.float64],
    edges: Sequence[tuple[int, int]],
    outline: set[int],
    width: float,
    opacity: float,
) -> None:
    """Draw lines between points (M, 2), each edge in the colour of its points."""
    if not canvas.size or not edges:
        return
    layer = canvas.copy()
    for first, second in edges:
        colour = GLOBAL_COLOUR if first in outline and second in outline else LOCAL_COLOUR
        _line(layer, points[first], points[second], colour, width)
    canvas[:] = cv2.addWeighted(layer, opacity, canvas, 1 - opacity, 0.0)


def _draw_number(canvas: Picture, number: int, points: NDArray[np.float64]) -> None:
    """Write a number above the top left corner of points (M, 2), or as near as the canvas allows."""
    height, width = canvas.shape[:2]
    font, text = cv2.FONT_HERSHEY_SIMPLEX, str(number)
    scale = float(np.clip(_extent(points) * 0.1, 12, max(12, 0.1 * height))) / 21  # capitals are 21 pixels at scale 1
    stroke = max(1, round(2 * scale))
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, stroke)
    x, y = landmark_boxes(points)[:2] - (0, text_height / 2)
    x = int(np.clip(x, stroke, max(stroke, width - text_width - stroke)))
    y = int(np.clip(y, text_height + stroke, max(text_height + stroke, height - stroke)))
    cv2.putText(canvas, text, (x, y), font, scale, _RIM, 3 * stroke, cv2.LINE_AA)
    cv2.putText(canvas, text, (x, y), font, scale, _WHITE, stroke, cv2.LINE_AA)


def _fixed(point: NDArray[np.floating]) -> tuple[int, int]:
    """A point in OpenCV's fixed-point numbers."""
    limited = np.clip(point, -1e5, 1e5)
    return round(float(limited[0]) * 2**_SHIFT), round(float(limited[1]) * 2**_SHIFT)


def _circle(
    canvas: Picture, centre: NDArray[np.floating], radius: float, colour: tuple[int, int, int], thickness: int
) -> None:
    cv2.circle(canvas, _fixed(centre), round(radius * 2**_SHIFT), colour, thickness, cv2.LINE_AA, _SHIFT)


def _line(
    canvas: Picture,
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    colour: tuple[int, int, int],
    width: float,
) -> None:
    cv2.line(canvas, _fixed(first), _fixed(second), colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def heatmap_picture(picture: Picture, faces: Faces) -> Picture:
    """The picture in grey with the heatmaps of all faces in colour over it, each map scaled to its own peak.

    Returns:
        (H, W, 3); pictures whose width or height is above ``MAX_HEATMAP_SIDE`` are reduced to it.

    Raises:
        ConfigError: faces that were predicted without ``heatmaps=True``.
    """
    if len(faces) and faces.heatmaps is None:
        raise ConfigError("these faces have no heatmaps; predict with heatmaps=True")
    full = picture.shape[:2]
    reduction = min(1.0, MAX_HEATMAP_SIDE / max(full))
    height, width = (max(1, round(side * reduction)) for side in full)
    if reduction < 1:
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    strength = np.zeros((height, width), np.float32)
    to_reduced = np.array([width / full[1], height / full[0]])
    for index in range(len(faces)):
        assert faces.heatmaps is not None
        assert faces.crops is not None
        maps = faces.heatmaps[index]
        peaks = maps.max(axis=(1, 2), keepdims=True)
        strongest = (maps / np.maximum(peaks, np.finfo(np.float32).tiny)).max(axis=0)  # h, w
        matrix = faces.crops[index] @ _HEATMAP_TO_INPUT
        matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + 0.5]) * to_reduced[:, None] - [[0, 0, 0.5]] * 2
        _add_map(strength, strongest.astype(np.float32), matrix)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    blended = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        band = slice(top, top + _BAND)
        colours = cv2.applyColorMap((strength[band] * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
        share = np.sqrt(np.clip(strength[band], 0, 1))[:, :, None]
        blended[band] = grey[band, :, None] * (0.6 * (1 - share)) + colours * share
    return blended


_HEATMAP_TO_INPUT = np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])
"""Pixels of a heatmap -> pixels of the network's input: a stride of 4, pixel centres at integers."""


def _add_map(strength: NDArray[np.float32], heatmap: NDArray[np.float32], matrix: NDArray[np.float64]) -> None:
    """Draw a heatmap (h, w) into a picture of strengths (H, W), in place, where it is stronger than what is there.

    ``matrix`` (2, 3) takes pixels of the heatmap to pixels of the picture.
    """
    height, width = strength.shape
    corners = apply(matrix, np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * heatmap.shape[1])
    x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x2 > x1 and y2 > y1:
        placed = matrix - [[0, 0, x1], [0, 0, y1]]
        warped = cv2.warpAffine(heatmap, placed, (int(x2 - x1), int(y2 - y1)))
        strength[y1:y2, x1:x2] = np.maximum(strength[y1:y2, x1:x2], warped)


def refinement_picture(
    picture: Picture, before: Face, after: Face, refiner: Refiner, *, region: str = "left_eye", size: int = 640
) -> Picture:
    """A picture of what refinement changed in one face, (size, 2 * size, 3).

    On the left the face with the crops that the regional network read, the chosen one in white. On the right that crop,
    with the points before refinement as rings and the refined ones as dots.

    Args:
        before, after: the face without and with refinement.
        refiner: what refined it, ``landmarker.refiner``.
        region: the region on the right, a name in the layout's table of regions.
        size: side of both halves in pixels.

    Raises:
        LayoutError: no region of that name. ConfigError: a size below 32.
    """
    if size < 32:
        raise ConfigError(f"size {size}: at least 32 pixels")
    names = [entry.name for entry in refiner.table.regions]
    if region not in names:
        raise LayoutError(f"layout {refiner.layout.name} has no region {region!r}; regions: {listed(names)}")
    unrefined = Landmarks(before.landmarks, before.spread, before.confidence)
    transforms = dict(zip(names, refiner.transforms([unrefined])[0], strict=True))
    input_size = refiner.card.rule.size
    corners = np.array([[0, 0], [input_size, 0], [input_size, input_size], [0, input_size]]) - 0.5
    quads = {name: apply(transform, corners) for name, transform in transforms.items()}
    overview = crop_transform(squares(landmark_boxes(np.concatenate(list(quads.values()))), 1.05)[0], size)
    left = crop(picture, overview, size)
    for name in sorted(quads, key=lambda name: name == region):
        quad = apply(invert(overview), quads[name])
        for first, second in zip(quad, np.roll(quad, -1, axis=0), strict=True):
            _line(left, first, second, _WHITE if name == region else LOCAL_COLOUR, size / 240)
    scale = input_size / size
    zoom = transforms[region] @ np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5], [0, 0, 1]])
    if np.linalg.det(zoom[:, :2]) < 0:  # a region that the network reads mirrored
        zoom = zoom @ np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    right = crop(picture, zoom, size)
    points = list(before.layout.regions[region])
    old, new = (apply(invert(zoom), face.landmarks[points].astype(np.float64)) for face in (before, after))
    for first, second in zip(old, new, strict=True):
        _line(right, first, second, _WHITE, size / 400)
        _circle(right, first, size / 90, GLOBAL_COLOUR, max(1, size // 300))
        _circle(right, second, size / 110, _RIM, -1)
        _circle(right, second, size / 140, LOCAL_COLOUR, -1)
    return np.hstack([left, right])


def diagram(layout: Layout, size: int = 1000) -> Picture:
    """A numbered diagram of a layout, (size, size, 3), with the points where its table has them."""
    canvas: Picture = np.full((size, size, 3), 255, dtype=np.uint8)
    points = layout.diagram.astype(np.float64) * size * 0.92 + size * 0.04
    for first, second in layout.edges:
        _line(canvas, points[first], points[second], (200, 200, 200), size / 500)
    outline = set(layout.outline)
    for index, point in enumerate(points):
        _circle(canvas, point, size / 220, (200, 90, 0) if index in outline else (0, 110, 170), -1)
    occupied: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for index, point in enumerate(points):
        _number(canvas, str(index), point, size, occupied)
    font = cv2.FONT_HERSHEY_SIMPLEX
    title = f"{layout.name}: {layout.count} points, 0-based"
    cv2.putText(canvas, title, (size // 40, size // 25), font, size / 1400, (60, 60, 60), 1, cv2.LINE_AA)
    return canvas


def _number(
    canvas: Picture,
    text: str,
    point: NDArray[np.float64],
    size: int,
    occupied: list[tuple[float, float, float, float]],
) -> None:
    """Write a number beside its point, at the one of sixteen places where it covers least of other points and numbers.

    ``occupied`` holds the boxes (x1, y1, x2, y2) of points and numbers; the number's own is added.
    """
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, size / 2600
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    best, least_hidden = None, np.inf
    for distance in (0.014, 0.022):
        for angle in np.linspace(-np.pi / 2, 1.5 * np.pi, 8, endpoint=False):
            x = point[0] + np.cos(angle) * (distance * size + width / 2) - width / 2
            y = point[1] + np.sin(angle) * (distance * size + height / 2) + height / 2
            box = (x - 1, y - height - 1, x + width + 1, y + 1)
            hidden = sum(
                max(0.0, min(box[2], box_there[2]) - max(box[0], box_there[0]))
                * max(0.0, min(box[3], box_there[3]) - max(box[1], box_there[1]))
                for box_there in occupied
            )
            if hidden < least_hidden - 1e-6:
                best, least_hidden = box, hidden
    assert best is not None
    occupied.append(best)
    place = (round(best[0] + 1), round(best[3] - 1))
    cv2.putText(canvas, text, place, font, scale, (60, 60, 60), 1, cv2.LINE_AA)


def sheet(tiles: Sequence[Picture], columns: int = 8) -> Picture:
    """Pictures of one size, (h, w, 3) each, side by side in rows; the last row is filled up with black.

    Raises:
        ConfigError: no pictures.
    """
    if not tiles:
        raise ConfigError("no pictures for a sheet")
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = (filled[start : start + columns] for start in range(0, len(filled), columns))
    return np.vstack([np.hstack(row) for row in rows])


def dotted(picture: Picture, landmarks: NDArray[np.floating], layout: Layout) -> Picture:
    """A copy of a crop with its landmarks (M, 2) as small dots, in one colour for each side and one for the midline."""
    canvas = picture.copy()
    for index, point in enumerate(landmarks):
        partner = layout.mirror[index]
        colour = _WHITE if partner == index else (255, 60, 60) if index < partner else (60, 160, 255)
        _circle(canvas, point, max(1.0, picture.shape[0] / 150), colour, -1)
    return canvas
