"""Overlays, heatmap pictures, numbered layout diagrams, sheets of faces.

Global landmarks (the face outline) are drawn in one colour, local ones (brows, eyes, nose, mouth) in a second, as
WO 2022/264089, paragraph 0078 describes; points with little confidence are hollow.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import LayoutError, listed
from octamark.faces import Face, Faces, Landmarks
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.inference.refiner import Refiner
from octamark.layouts import Layout

GLOBAL_COLOUR = (255, 176, 0)
LOCAL_COLOUR = (0, 220, 255)
_RIM = (20, 20, 20)

UNSURE = 0.5
"""Points with a confidence below this are drawn hollow."""

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def overlay(picture: Picture, faces: Faces, *, lines: bool = True) -> Picture:
    """A copy of the picture (H, W, 3) with the landmarks of all faces drawn on it.

    Point size follows the size of the face; a dark rim keeps points visible on any ground.
    """
    canvas = picture.copy()
    for face in faces:
        _draw_face(canvas, face, lines)
    return canvas


def _draw_face(canvas: Picture, face: Face, lines: bool) -> None:
    outline = set(face.layout.outline)
    extent = float((face.landmarks.max(axis=0) - face.landmarks.min(axis=0)).max())
    radius = min(max(1.0, extent * 0.011), 60.0)
    if lines and extent > 60:
        layer = canvas.copy()
        for first, second in face.layout.edges:
            colour = GLOBAL_COLOUR if first in outline and second in outline else LOCAL_COLOUR
            _line(layer, face.landmarks[first], face.landmarks[second], colour, radius * 0.5)
        cv2.addWeighted(layer, 0.5, canvas, 0.5, 0.0, dst=canvas)
    for index, point in enumerate(face.landmarks):
        colour = GLOBAL_COLOUR if index in outline else LOCAL_COLOUR
        if radius >= 2:
            _circle(canvas, point, radius * 1.3, _RIM, -1)
        if face.confidence[index] >= UNSURE:
            _circle(canvas, point, radius, colour, -1)
        else:
            _circle(canvas, point, radius, colour, max(1, round(radius * 0.4)))


def _fixed(point: NDArray[np.floating]) -> tuple[int, int]:
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
    """The picture in grey with the heatmaps of all faces glowing over it, each map scaled to its own peak.

    Raises:
        ValueError: faces that were predicted without ``heatmaps=True``.
    """
    if len(faces) and faces.heatmaps is None:
        raise ValueError("these faces carry no heatmaps; predict with heatmaps=True")
    height, width = picture.shape[:2]
    glow = np.zeros((height, width), np.float32)
    for index in range(len(faces)):
        assert faces.heatmaps is not None
        assert faces.crops is not None
        maps = faces.heatmaps[index]
        joined = (maps / maps.max(axis=(1, 2), keepdims=True)).max(axis=0)  # h, w
        stride = _crop_side(faces) / joined.shape[1]
        to_input = np.array([[stride, 0, stride / 2 - 0.5], [0, stride, stride / 2 - 0.5], [0, 0, 1]])
        matrix = faces.crops[index] @ to_input
        corners = apply(matrix, np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * joined.shape[1])
        x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
        x2, y2 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
        if x2 > x1 and y2 > y1:
            matrix[:, 2] -= (x1, y1)
            seen = cv2.warpAffine(joined.astype(np.float32), matrix, (int(x2 - x1), int(y2 - y1)))
            glow[y1:y2, x1:x2] = np.maximum(glow[y1:y2, x1:x2], seen)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colours = cv2.cvtColor(cv2.applyColorMap((glow * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = np.sqrt(np.clip(glow, 0, 1))[:, :, None]
    return np.asarray(grey * 0.6 * (1 - share) + colours * share, dtype=np.uint8)


def _crop_side(faces: Faces) -> int:
    """Side of the network's input; heatmaps have a stride of 4."""
    assert faces.heatmaps is not None
    return 4 * int(faces.heatmaps.shape[-1])


def close_look(
    picture: Picture, coarse: Face, refined: Face, refiner: Refiner, *, region: str = "left_eye", size: int = 640
) -> Picture:
    """What attention-driven cropping did to one face, (size, 2 * size, 3).

    On the left the face with the crops that were read, the region's own in white; on the right that crop, with the
    points of the global network as rings and the refined ones as dots.

    Args:
        coarse, refined: the face without and with refinement.
        region: a name in the layout's table of regions.

    Raises:
        LayoutError: no region of that name. ValueError: a size below 32.
    """
    if size < 32:
        raise ValueError(f"size {size}: at least 32 pixels")
    names = [one.name for one in refiner.table.regions]
    if region not in names:
        raise LayoutError(f"layout {refiner.layout.name} has no region {region!r}; regions: {listed(names)}")
    placed, side = (
        refiner.transforms([Landmarks(coarse.landmarks, coarse.spread, coarse.confidence)])[0],
        refiner.card.rule.size,
    )
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]]) - 0.5
    quads = np.stack([apply(one, corners) for one in placed])  # R, 4, 2
    whole = crop_transform(squares(landmark_boxes(quads.reshape(-1, 2)), 1.05)[0], size)
    left, own = crop(picture, whole, size), names.index(region)
    for index in sorted(range(len(names)), key=lambda one: one == own):
        quad = apply(invert(whole), quads[index])
        for first, second in zip(quad, np.roll(quad, -1, axis=0), strict=True):
            _line(left, first, second, (255, 255, 255) if index == own else LOCAL_COLOUR, size / 240)
    zoom = placed[own] @ np.array(
        [[side / size, 0, side / size / 2 - 0.5], [0, side / size, side / size / 2 - 0.5], [0, 0, 1]]
    )
    if refiner.table.regions[own].mirrored:
        zoom = zoom @ np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    right = crop(picture, zoom, size)
    points = list(refiner.table.regions[own].landmarks)
    before, after = (apply(invert(zoom), face.landmarks[points].astype(np.float64)) for face in (coarse, refined))
    for first, second in zip(before, after, strict=True):
        _line(right, first, second, (255, 255, 255), size / 400)
        _circle(right, first, size / 90, GLOBAL_COLOUR, max(1, size // 300))
        _circle(right, second, size / 110, _RIM, -1)
        _circle(right, second, size / 140, LOCAL_COLOUR, -1)
    return np.hstack([left, right])


def diagram(layout: Layout, size: int = 1000) -> Picture:
    """A numbered diagram of a layout, (size, size, 3), drawn from its table."""
    canvas: Picture = np.full((size, size, 3), 255, dtype=np.uint8)
    points = layout.diagram.astype(np.float64) * size * 0.92 + size * 0.04
    for first, second in layout.edges:
        _line(canvas, points[first], points[second], (200, 200, 200), size / 500)
    outline = set(layout.outline)
    for index, point in enumerate(points):
        _circle(canvas, point, size / 220, (200, 90, 0) if index in outline else (0, 110, 170), -1)
    taken: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for index, point in enumerate(points):
        _number(canvas, str(index), point, size, taken)
    font = cv2.FONT_HERSHEY_SIMPLEX
    title = f"{layout.name}: {layout.count} points, 0-based"
    cv2.putText(canvas, title, (size // 40, size // 25), font, size / 1400, (60, 60, 60), 1, cv2.LINE_AA)
    return canvas


def _number(
    canvas: Picture,
    text: str,
    point: NDArray[np.float64],
    size: int,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write a number beside its point, on the first of sixteen places that is free."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, size / 2600
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    best, least = None, np.inf
    for distance in (0.014, 0.022):
        for angle in np.linspace(-np.pi / 2, 1.5 * np.pi, 8, endpoint=False):
            x = point[0] + np.cos(angle) * (distance * size + width / 2) - width / 2
            y = point[1] + np.sin(angle) * (distance * size + height / 2) + height / 2
            box = (x - 1, y - height - 1, x + width + 1, y + 1)
            hidden = sum(
                max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
                * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
                for other in taken
            )
            if hidden < least - 1e-6:
                best, least = box, hidden
    assert best is not None
    taken.append(best)
    place = (round(best[0] + 1), round(best[3] - 1))
    cv2.putText(canvas, text, place, font, scale, (60, 60, 60), 1, cv2.LINE_AA)


def sheet(tiles: Sequence[Picture], columns: int = 8) -> Picture:
    """Pictures of one size, (h, w, 3) each, laid out in rows."""
    if not tiles:
        raise ValueError("no pictures for a sheet")
    blank = [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    laid = [*tiles, *blank]
    return np.vstack([np.hstack(laid[start : start + columns]) for start in range(0, len(laid), columns)])


def dotted(picture: Picture, landmarks: NDArray[np.floating], layout: Layout) -> Picture:
    """A copy of a crop with its landmarks (M, 2) as small dots: the two sides and the midline differ in colour."""
    canvas = picture.copy()
    for index, point in enumerate(landmarks):
        partner = layout.mirror[index]
        side = (255, 255, 255) if partner == index else (255, 60, 60) if index < partner else (60, 160, 255)
        _circle(canvas, point, max(1.0, picture.shape[0] / 150), side, -1)
    return canvas
