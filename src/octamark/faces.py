"""Faces: what a prediction is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points with their expected errors: what a network saw in one crop, or a part of a face.

    Attributes:
        points: (K, 2) (x, y) pixels of the picture, 0-based, pixel centres at integers.
        spread: (K, 2) expected absolute error per axis, pixels of the picture.
        confidence: (K,) in 0..1, the probability that a point is less than 5 % of the inter-ocular distance off.
        heatmaps: (K, h, w) probabilities over the crop; None where nobody asked for them.
    """

    points: NDArray[np.floating]
    spread: NDArray[np.floating]
    confidence: NDArray[np.floating]
    heatmaps: F32 | None = None

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of the points."""
        return float(self.confidence.mean())

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class Face:
    """One face. ``face["left_eye"]`` gives the (k, 2) points of a part; sides are the person's own.

    Attributes: as in :class:`Faces`, without the first axis: ``landmarks`` (M, 2), ``spread`` (M, 2), ``confidence``
    (M,), ``box`` (4,), ``score``.
    """

    layout: Layout
    landmarks: F32
    spread: F32
    confidence: F32
    box: F32
    score: float

    def __getitem__(self, part: str) -> F32:
        return self.landmarks[list(self.layout.part(part))]

    def __repr__(self) -> str:
        box = ", ".join(f"{side:.0f}" for side in self.box)
        return f"Face(box=({box}), score={self.score:.2f}, layout={self.layout.name!r})"


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one picture; a picture without faces has an empty one.

    ``faces[0]`` is a :class:`Face`; a slice, mask or index array gives Faces; ``faces["left_eye"]`` gives that part's
    points of every face, (n, k, 2); iterating gives each Face.

    Attributes:
        layout: which landmarks these are.
        size: (width, height) of the picture in pixels.
        landmarks: (n, M, 2) float32 points (x, y), 0-based pixels of the picture, pixel centres at integers.
        spread: (n, M, 2) expected absolute error per axis, pixels of the picture.
        confidence: (n, M) in 0..1, the probability that a point is less than 5 % of the face's inter-ocular distance
            off (of half the root of the landmark box's area, for a layout without that normaliser), calibrated on
            validation faces.
        boxes: (n, 4) xyxy, as the detector or the caller gave them.
        scores: (n,) the detector's scores; 1 for boxes that the caller gave.
        crops: (n, 2, 3) similarities from pixels of the network's input to pixels of the picture.
        heatmaps: (n, M, h, w) probabilities over the crop, each map summing to 1; None unless asked for. As the network
            gave them: neither the shape correction, nor the card's offset, nor a close look at the face's regions is in
            them.
    """

    layout: Layout
    size: tuple[int, int]
    landmarks: F32
    spread: F32
    confidence: F32
    boxes: F32
    scores: F32
    crops: NDArray[np.float64]
    heatmaps: F32 | None = None

    @classmethod
    def empty(cls, layout: Layout, size: tuple[int, int]) -> Faces:
        """No face in a picture of that (width, height)."""
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
        )

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
            index = int(index)  # type: ignore[arg-type]
            return Face(
                self.layout,
                self.landmarks[index],
                self.spread[index],
                self.confidence[index],
                self.boxes[index],
                float(self.scores[index]),
            )
        return Faces(
            self.layout,
            self.size,
            self.landmarks[index],
            self.spread[index],
            self.confidence[index],
            self.boxes[index],
            self.scores[index],
            self.crops[index],
            None if self.heatmaps is None else self.heatmaps[index],
        )

    def __repr__(self) -> str:
        return f"Faces({len(self)} faces, layout={self.layout.name!r}, picture {self.size[0]}x{self.size[1]})"
