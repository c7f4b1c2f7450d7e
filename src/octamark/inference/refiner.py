"""Attention-driven cropping: the points of a look at the whole face decide where to look closely.

Each face is cut into the layout's regions at the picture's own resolution; one small network reads them all, and its
readings are joined with the first points by their expected errors (octamark.inference.regions). Memory depends on
the number of faces in a run, not on the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark import models
from octamark.errors import WeightsError, listed
from octamark.geometry import Picture, crops, transform_with_spread
from octamark.inference.regions import RegionTable, fuse, place
from octamark.inference.session import session
from octamark.layouts import Layout, layout
from octamark.models import FACE_UNITS, RegionCard
from octamark.models.calibration import CONFIDENCE_SHARE

F64 = NDArray[np.float64]

Refine = Literal["auto", "always", "never"]
REFINE: tuple[Refine, ...] = ("auto", "always", "never")

WARRANTED = 1.0
"""With ``"auto"``, faces are refined whose crop is at least this many times as wide as the global network's input."""

WORSE = 1.05
"""With ``"auto"``, a face stays as it was where the closer look expects errors more than this many times as large:
drawings whose parts, seen alone, are not what the regional network knows."""

_BATCH = 4
"""Faces per run of the network: what is in memory at once."""


class Coarse(NamedTuple):
    """One face as the global network saw it.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        landmarks, spread: (M, 2) pixels of the picture.
    """

    picture: Picture
    landmarks: NDArray[np.floating]
    spread: NDArray[np.floating]


class Refined(NamedTuple):
    """One face after a close look: (M, 2), (M, 2) expected errors, pixels of the picture; (M,) confidence."""

    landmarks: F64
    spread: F64
    confidence: F64


class Readings(NamedTuple):
    """What the regional network read of faces: (n, K, 2) points and raw spreads, pixels of the pictures."""

    points: F64
    spread: F64


class Refiner:
    """Reads the regions of faces at full resolution.

    Args:
        model: name of a regional network that ships, or path (or bytes) of one that ``octamark export`` wrote.
        threads, device: as in :class:`octamark.Landmarker`.

    Raises:
        WeightsError: unknown name, missing or damaged file, or a model that is no regional network.
        DeviceError: more threads than processors, or a device that is not there.
    """

    def __init__(
        self, model: str | Path | bytes = models.REGIONS, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        name = "the model's bytes" if isinstance(model, bytes) else str(model)
        self._session: onnxruntime.InferenceSession = session(
            models.read(model, [models.REGIONS]), name, threads, device
        )
        self.card: RegionCard = models.parse_region_card(
            self._session.get_modelmeta().custom_metadata_map.get(models.METADATA_KEY), name
        )
        self.layout: Layout = layout(self.card.layout)
        self.table = RegionTable(self.layout)
        made = (len(self.card.bias), self._session.get_inputs()[0].shape[1], self._session.get_outputs()[0].shape[1])
        if made != (wanted := (len(self.table.kinds), len(self.table.regions), len(self.table.landmarks))):
            counts = [f"{n} {what}" for n, what in zip(made, ("kinds", "regions", "readings"), strict=True)]
            raise WeightsError(f"{name}: made for {listed(counts)}; its layout {self.layout.name} has {wanted}")

    def __repr__(self) -> str:
        return f"Refiner({self.card.name!r}, layout={self.card.layout!r}, {self.card.parameters:,} parameters)"

    def transforms(self, faces: Sequence[Coarse]) -> F64:
        """Where the crops of faces lie: (n, R, 2, 3) from their pixels to those of the pictures."""
        return np.asarray(place(*_stacked(faces), self.table, self.card.rule))

    def read(self, faces: Sequence[Coarse]) -> Readings:
        """What the network sees in the regions of faces, in pictures of any size."""
        points, spreads = [], []
        for start in range(0, len(faces), _BATCH):
            some = faces[start : start + _BATCH]
            transforms = self.transforms(some)
            size = self.card.rule.size
            cut = np.stack([crops(face.picture, own, size) for face, own in zip(some, transforms, strict=True)])
            found, raw = self._session.run(["readings", "spread"], {"crops": cut})
            moved, turned = transform_with_spread(
                transforms[:, self.table.owners], found.astype(np.float64), raw.astype(np.float64)
            )
            points.append(moved)
            spreads.append(turned)
        return Readings(np.concatenate(points), np.concatenate(spreads))

    def join(self, faces: Sequence[Coarse], readings: Readings) -> tuple[F64, F64]:
        """Points (n, M, 2) of both networks together, and their spreads before calibration, pixels of the pictures."""
        bias = np.array(self.card.bias)[self.table.reading_kinds]
        joined: tuple[F64, F64] = fuse(*_stacked(faces), *readings, bias, self.card.sharpness, self.table.joining)
        return joined

    def __call__(self, faces: Sequence[Coarse], sides: Sequence[float]) -> list[Refined]:
        """The faces, each refined; ``sides`` are those of their crops, pixels of the pictures."""
        if not faces:
            return []
        points, raw = self.join(faces, self.read(faces))
        unit = np.array(sides)[:, None, None] / FACE_UNITS
        spread = self.card.calibration.spread(raw / unit) * unit
        radius = CONFIDENCE_SHARE * self.layout.reference_distance(points)[:, None]
        sure = self.card.calibration.within(spread, radius)
        return [Refined(*one) for one in zip(points, spread, sure, strict=True)]


def _stacked(faces: Sequence[Coarse]) -> tuple[F64, F64]:
    """Landmarks and spreads of faces, (n, M, 2) each."""
    return tuple(np.stack([np.asarray(face[part], np.float64) for face in faces]) for part in (1, 2))  # type: ignore[return-value]
