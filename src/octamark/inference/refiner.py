"""Attention-driven cropping: the landmarks of the whole face decide where to read at the picture's own resolution.

Each face is cut into the layout's regions; one small network, the regional network, reads them all, and its readings
are combined with the first landmarks by their expected errors (octamark.inference.regions). Memory depends on the
number of faces in a run, not on the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octamark import models
from octamark.errors import WeightsError, listed
from octamark.faces import Landmarks
from octamark.geometry import Crop, Picture, ReducedPicture, crops, transform_with_spread
from octamark.inference.devices import DEVICES
from octamark.inference.regions import RegionTable, fuse, place
from octamark.inference.rotation import blend, ramp
from octamark.inference.session import Network, run, session
from octamark.layouts import CONFIDENCE_SHARE, Layout
from octamark.models import FACE_UNITS, RegionCard

F64 = NDArray[np.float64]

Refine = Literal["auto", "always", "never"]
REFINE: tuple[Refine, ...] = ("auto", "always", "never")

MIN_CROP_RATIO, FULL_CROP_RATIO = 1.0, 1.25
"""Width of a face's crop over that of the network's input. With ``"auto"``, a face is refined from the first ratio on;
from the second on its refined landmarks count alone; in between, both are blended."""

MAX_SPREAD_RATIO = (1.1, 1.2)
"""Mean spread of the refined landmarks over that of the global ones. With ``"auto"``, refined landmarks count less
above the first ratio and not at all from the second on: the regional network may not know what it reads, such as a part
of a drawing."""

OUTLINE_CROP_RATIO = 1.5, 2.0
"""Width of a face's crop over that of the network's input from which on the regions of the outline are read, and from
which on they count in full. In smaller faces the whole face shows the outline as well as these regions do."""

_BATCH = {True: 4, False: 16}
"""Faces whose crops are in memory together, by whether the device is the processor."""


class Refiner:
    """Reads the regions of faces at full resolution.

    Args:
        model: name of a regional network that ships, or path (or bytes) of one that ``octamark export`` wrote.
        threads, device: as in ``octamark.InferenceOptions``.

    Raises:
        WeightsError: unknown name, missing or damaged file, or a model that is no regional network.
        DeviceError: more threads than processors, or a device that is not there.
    """

    def __init__(
        self, model: str | Path | bytes = models.REGIONS, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        name = "the model's bytes" if isinstance(model, bytes) else str(model)
        self._session: Network = session(models.read(model, [models.REGIONS]), name, threads, device)
        self._batch = _BATCH[DEVICES[device].on_processor]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.card: RegionCard = models.parse_region_card(metadata.get(models.METADATA_KEY), name)
        self.layout: Layout = models.layout_of(metadata, self.card, name)
        models.check_graph(self.card, self.layout, self._session.get_inputs(), self._session.get_outputs(), name)
        self.table = RegionTable(self.layout)
        counts = (len(self.card.bias), self._session.get_outputs()[0].shape[1])
        expected = (len(self.table.kinds), self.table.channels)
        if counts != expected:
            graph, table = (
                listed(f"{count} {noun}" for count, noun in zip(numbers, ("kinds", "channels"), strict=True))
                for numbers in (counts, expected)
            )
            raise WeightsError(f"{name}: made for {graph}, but its layout {self.layout.name} has {table}")

    def __repr__(self) -> str:
        return f"Refiner({self.card.name!r}, layout={self.card.layout!r}, {self.card.parameters:,} parameters)"

    def transforms(self, landmarks: Sequence[Landmarks]) -> F64:
        """The crops of faces: (n, R, 2, 3) from pixels of the crops to pixels of the pictures."""
        return np.asarray(place(*_stacked(landmarks), self.table, self.card.rule))

    def shares(self, ratios: Sequence[float]) -> F64:
        """How much each region counts in faces: (n, R) between 0 and 1. Regions of the outline count in large faces.

        Args:
            ratios: width of each face's crop over that of the global network's input.
        """
        outline = np.array([ramp(ratio, *OUTLINE_CROP_RATIO) for ratio in ratios])
        return np.where(self.table.outline, outline[:, None], 1.0)

    def read(
        self, pictures: Sequence[Picture | ReducedPicture], landmarks: Sequence[Landmarks], shares: F64
    ) -> tuple[F64, F64]:
        """The network's readings of the regions of faces: points and raw spreads (n, K, 2), pixels of the pictures.

        Args:
            pictures: of each face, (H, W, 3) uint8 RGB of any size, or ones that give their parts reduced.
            landmarks: of each face, which place the crops.
            shares: (n, R), as ``shares`` gives them. A region of share 0 is not read; its readings are the landmarks.
        """
        points, spread = (values[:, self.table.landmarks] for values in _stacked(landmarks))  # n, K, 2
        transforms = self.transforms(landmarks)
        chosen = shares > 0
        readings = np.zeros((*shares.shape, 2, self.table.channels, 2))  # n, R, points and spreads, C, 2
        for start in range(0, len(landmarks), self._batch):
            batch = slice(start, start + self._batch)
            faces = zip(pictures[batch], transforms[batch], chosen[batch], strict=True)
            pixels = np.concatenate(
                [crops(picture, placed[wanted], self.card.rule.size) for picture, placed, wanted in faces]
            )
            outputs = run(self._session, ["readings", "spread"], pixels, self.card.name)
            readings[batch][chosen[batch]] = np.stack(outputs, axis=1)
        owners = self.table.owners
        seen = readings[:, owners, :, self.table.reading_channels].transpose(1, 0, 2, 3)  # n, K, points and spreads, 2
        moved, turned = transform_with_spread(transforms[:, owners], seen[:, :, 0], seen[:, :, 1])
        known = chosen[:, owners, None]
        return np.where(known, moved, points), np.where(known, turned, spread)

    def reading_shares(self, shares: F64, visible: NDArray[np.floating] | None) -> F64:
        """How much each reading counts (n, K): its region's share, and by ``visible`` (n, M) where that is known.

        A region shows nothing of a hidden point, whose place only the whole face tells.
        """
        counts = shares[:, self.table.owners]
        return counts if visible is None else np.asarray(counts * visible[:, self.table.landmarks])

    def join(self, landmarks: Sequence[Landmarks], readings: F64, spread: F64, shares: F64) -> tuple[F64, F64]:
        """Landmarks (n, M, 2) combined from both networks, and their uncalibrated spreads, pixels of the pictures."""
        visible = [face.visible for face in landmarks if face.visible is not None]
        counts = self.reading_shares(shares, np.stack(visible) if visible else None)
        bias = np.array(self.card.bias)[self.table.reading_kinds]
        joined: tuple[F64, F64] = fuse(
            *_stacked(landmarks), readings, spread, bias, self.card.sharpness, self.table.joining, shares=counts
        )
        return joined

    def __call__(self, faces: Sequence[Crop], landmarks: Sequence[Landmarks], size: int) -> list[Landmarks]:
        """The landmarks of faces, each refined.

        Args:
            faces: the crops that the landmarks were read in.
            landmarks: those of the global network.
            size: side of that network's input, pixels.
        """
        if not faces:
            return []
        shares = self.shares([crop.side(size) / size for crop in faces])
        readings = self.read([crop.picture for crop in faces], landmarks, shares)
        points, raw = self.join(landmarks, *readings, shares)
        unit = np.array([crop.side(size) for crop in faces])[:, None, None] / FACE_UNITS
        spread = self.card.calibration.spread(raw / unit) * unit
        radius = CONFIDENCE_SHARE * self.layout.reference_distance(points)[:, None]
        confidence = self.card.calibration.within(spread, radius).astype(np.float32)
        return [
            Landmarks(points[i], spread[i], confidence[i], face.heatmaps, face.visible)
            for i, face in enumerate(landmarks)
        ]

    def refine(self, faces: Sequence[Crop], landmarks: Sequence[Landmarks], size: int, mode: Refine) -> list[Landmarks]:
        """The landmarks of faces, refined where ``mode`` asks for it; see ``__call__`` for the arguments.

        ``"auto"`` refines faces that are larger than the network's input, unless the regional network expects larger
        errors than the global one. At both limits old and refined landmarks are blended, so that the result changes
        continuously with the picture.
        """
        ratios = [crop.side(size) / size for crop in faces]
        least = MIN_CROP_RATIO if mode == "auto" else 0.0
        chosen = [index for index, ratio in enumerate(ratios) if mode != "never" and ratio >= least]
        results = list(landmarks)
        refined = self([faces[i] for i in chosen], [landmarks[i] for i in chosen], size)
        for index, new in zip(chosen, refined, strict=True):
            share = 1.0
            if mode == "auto":
                share = ramp(ratios[index], MIN_CROP_RATIO, FULL_CROP_RATIO)
                share *= 1 - ramp(float(new.spread.mean() / landmarks[index].spread.mean()), *MAX_SPREAD_RATIO)
            results[index] = blend(landmarks[index], new, share)
        return results


def _stacked(landmarks: Sequence[Landmarks]) -> tuple[F64, F64]:
    """Points and spreads of faces, (n, M, 2) each."""
    return (
        np.stack([np.asarray(face.points, np.float64) for face in landmarks]),
        np.stack([np.asarray(face.spread, np.float64) for face in landmarks]),
    )
