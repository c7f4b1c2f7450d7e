"""Neutral heads from five views, to choose vertices for the points of a layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octamark.drawing import sheet
from octamark.errors import ConfigError, listed
from octamark.geometry import Picture
from octamark.layouts import Layout
from octamark.synthesis.rendering.camera import looking_at
from octamark.synthesis.rendering.labels import landmarks_of
from octamark.synthesis.rendering.person import Person, sample_person
from octamark.synthesis.rendering.scene import LABELLED, Renderer, Rendering

VIEWS = {"front": 0.0, "half-left": -45.0, "left": -90.0, "half-right": 45.0, "right": 90.0}
"""Views by the side of the person that they show -> yaw of the head, degrees to the person's left."""

PARTS_SHOWN = {
    "head": ((0.0, 0.0, 6.0), 13.0),
    "right_eye": ((-3.2, 4.0, 9.5), 3.0),
    "left_eye": ((3.2, 4.0, 9.5), 3.0),
    "nose": ((0.0, 0.5, 12.0), 3.6),
    "mouth": ((0.0, -3.6, 11.0), 3.8),
}
"""Parts that a view can show: middle on the mean head, and half of the side that is seen, centimetres."""


def neutral_person(renderer: Renderer, yaw: float = 0.0, expression: dict[str, float] | None = None) -> Person:
    """A person of mean shape with nothing in front of the face, in even light."""
    some = sample_person(0, renderer.assets)
    skins = renderer.assets.names("mh/skins", ".jpg")
    options = {
        **some.options, "things": {}, "style": "buzz", "hairline": 0.0, "tone": 1.0, "spots": 0.0, "wrinkles": 0.0,
        "make_up": {}, "beard": "none", "iris": "blue", "brow_colour": "dark brown", "hair": "brown", "lashes": 0.6,
        "background": "wall", "grey_share": 0.0, "fringe": 1.0,
        "brow_lift": 0.2, "brow_tilt": 0.0, "brow_arch": 0.0, "kappa": 0.0,
        "brow_hairs": 1500, "brow_width": 0.05, "child": 0.0, "age": 0.0, "sex": "male",
        "skin": next((name for name in skins if "young" in name and "light" in name), skins[0]),
        "light": {
            **some.options["light"], "ambient": 1.0, "exposure": 0.2, "white": (1.0, 1.0, 1.0), "contrast": 1.0,
            "lamps": [{"yaw": 20.0, "pitch": 30.0, "size": 25.0, "strength": 1.2, "colour": (1.0, 1.0, 1.0)}],
        },
    }  # fmt: skip
    return replace(
        some, identity=(0.0,) * 100, ages={}, expression=expression or {}, gaze=(0.0, 0.0), yaw=yaw,
        pitch=0.0, roll=0.0,
        body=(0.0, 0.0, 0.0), distance=150.0, options=options,
    )  # fmt: skip


def view(renderer: Renderer, name: str, part: str = "head", expression: dict[str, float] | None = None) -> Rendering:
    """A neutral head in a view, (size, size) pixels.

    Raises:
        ConfigError: a view or part of another name; the message lists them.
    """
    if name not in VIEWS:
        raise ConfigError(f"view {name!r}; allowed: {listed(VIEWS)}")
    if part not in PARTS_SHOWN:
        raise ConfigError(f"part {part!r}; allowed: {listed(PARTS_SHOWN)}")
    middle, half = PARTS_SHOWN[part]
    corners = np.array([middle, middle]) + np.array([[-half, -half, 0], [half, half, 0]])
    person = neutral_person(renderer, VIEWS[name], expression)
    if VIEWS[name]:
        corners = np.array([middle, middle]) + np.array([[0, -half, 0], [0, half, 0]])
    camera = looking_at(corners, person.yaw, 0, 0, person.distance, renderer.size, 1.0, (0.0, 0.0))
    return renderer.render_with(person, camera)


def layout_picture(renderer: Renderer, layout: Layout, part: str = "head") -> Picture:
    """A layout drawn on the head: five views beside each other, points with their numbers; hidden ones are left out.

    Raises:
        LayoutError: a layout without ``vertices``.
    """
    tiles = []
    for name in VIEWS:
        shown = view(renderer, name, part)
        found = landmarks_of(shown.labels, layout, renderer.head.mean)
        visible = [index for index in range(layout.count) if not found.behind_head[index] and not found.outside[index]]
        tiles.append(numbered(shown.picture, found.landmarks[visible], [str(index) for index in visible]))
    return sheet(tiles, columns=len(tiles))


def numbered(picture: Picture, points: np.ndarray[tuple[int, int], np.dtype[np.float32]], names: list[str]) -> Picture:
    """A copy of a picture with points (n, 2) and their names."""
    import cv2

    canvas = picture.copy()
    scale = max(0.3, picture.shape[0] / 1800)
    for (x, y), name in zip(points, names, strict=True):
        place = (round(float(x)), round(float(y)))
        cv2.circle(canvas, place, max(1, picture.shape[0] // 300), (255, 255, 0), -1, cv2.LINE_AA)
        cv2.putText(
            canvas, name, (place[0] + 4, place[1] - 3), cv2.FONT_HERSHEY_SIMPLEX, scale, (200, 0, 0), 1, cv2.LINE_AA
        )
    return canvas


def nearest_vertex(shown: Rendering, x: float, y: float) -> int:
    """The vertex that a view shows nearest to a pixel.

    Raises:
        ConfigError: no vertex of the head within a fiftieth of the picture's side.
    """
    labels = shown.labels
    distance = np.hypot(*(labels.points - [x, y]).T) + 1e6 * (labels.behind_head > 0.5)
    best = int(np.argmin(distance))
    if distance[best] > labels.size / 50:
        raise ConfigError(
            f"({x:g}, {y:g}): no vertex of the skin or an eyeball there; pixels of the view, 0 to {labels.size - 1}"
        )
    return int(labels.vertices[best])


def mirrored_vertex(renderer: Renderer, vertex: int) -> int:
    """The vertex on the other side of the head; on the midline, the vertex itself."""
    places = renderer.head.mean[LABELLED]
    wanted = renderer.head.mean[vertex] * [-1, 1, 1]
    return int(LABELLED[np.argmin(np.linalg.norm(places - wanted, axis=1))])
