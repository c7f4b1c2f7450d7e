"""The crops of a regional network: which landmarks each holds, where it lies on a face, how readings are combined.

The regions come from the layout's table. One network serves both sides: the regions of the person's right side are
mirrored. Written for numpy and torch alike, so that training places crops as prediction does: ``xp`` is the module
whose arrays are given, and with torch every result has its gradient. Design: octamark's own, after Attention-Driven
Cropping for Very High Resolution Facial Landmark Detection, of which only the abstract is public.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from octamark.errors import LayoutError
from octamark.geometry import fit_similarity
from octamark.layouts import Layout
from octamark.models import RegionRule


class Region(NamedTuple):
    """One crop of a face.

    Attributes:
        name: in the layout's table.
        kind: name of the region whose channels of the network it uses: its own, or of a mirrored region its partner's.
        landmarks: indices in the layout, in the order of the channels.
        channels: of the regional network, first and behind the last.
        mirrored: whether the network sees it mirrored left to right.
    """

    name: str
    kind: str
    landmarks: tuple[int, ...]
    channels: tuple[int, int]
    mirrored: bool


class RegionTable:
    """The regions of a layout.

    Attributes:
        layout: the layout.
        regions: in the order of the layout's table.
        channels: how many heatmaps the regional network has.
        landmarks, owners: (K,) landmark and region of each reading; a landmark in two regions is read twice.

    Raises:
        LayoutError: a layout without regions.
    """

    def __init__(self, layout: Layout) -> None:
        if not layout.regions:
            raise LayoutError(f"layout {layout.name} has no regions; its table lists the crops under [regions]")
        self.layout = layout
        ranges: dict[str, tuple[int, int]] = {}
        count = 0
        twins = {name: _twin(name, layout) for name in layout.regions}
        for name, points in layout.regions.items():
            if twins[name] is None:
                ranges[name] = (count, count + len(points))
                count += len(points)
        self.channels = count
        regions = []
        for name, points in layout.regions.items():
            twin = twins[name]
            if twin is None:
                regions.append(Region(name, name, points, ranges[name], mirrored=False))
            else:
                partners = tuple(int(layout.mirror[index]) for index in layout.regions[twin])
                regions.append(Region(name, twin, partners, ranges[twin], mirrored=True))
        self.regions = tuple(regions)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The regions that have channels of their own, in the channels' order."""
        return tuple(region.name for region in self.regions if not region.mirrored)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(K,) the landmark of each reading, as an index in the layout."""
        return np.array([index for region in self.regions for index in region.landmarks])

    @cached_property
    def owners(self) -> np.ndarray:
        """(K,) the region of each reading, as an index of ``regions``."""
        return np.repeat(np.arange(len(self.regions)), [len(region.landmarks) for region in self.regions])

    @cached_property
    def reading_kinds(self) -> np.ndarray:
        """(K,) the kind of each reading's region, as an index of ``kinds``."""
        return np.array([self.kinds.index(self.regions[owner].kind) for owner in self.owners])

    @cached_property
    def channel_landmarks(self) -> tuple[int, ...]:
        """The landmark of each channel, of the side that is not mirrored."""
        return tuple(index for region in self.regions if not region.mirrored for index in region.landmarks)

    @cached_property
    def reading_channels(self) -> np.ndarray:
        """(K,) the network's channel of each reading."""
        return np.array([channel for region in self.regions for channel in range(*region.channels)])

    @cached_property
    def outline(self) -> np.ndarray:
        """(R,) whether all landmarks of a region lie on the outline of the face."""
        points = set(self.layout.outline)
        return np.array([points.issuperset(region.landmarks) for region in self.regions])

    @cached_property
    def joining(self) -> np.ndarray:
        """(K, M) float32: 1 where a reading is of a landmark."""
        matrix = np.zeros((len(self.landmarks), self.layout.count), np.float32)
        matrix[np.arange(len(self.landmarks)), self.landmarks] = 1
        return matrix

    @cached_property
    def members(self) -> np.ndarray:
        """(R, L) the landmarks of each region; those of a smaller region are filled up with its first one."""
        longest = max(len(region.landmarks) for region in self.regions)
        return np.array([
            [*region.landmarks, *[region.landmarks[0]] * (longest - len(region.landmarks))] for region in self.regions
        ])  # fmt: skip

    @cached_property
    def shares(self) -> np.ndarray:
        """(M, R): the matrix that takes values of landmarks to their means over the regions."""
        matrix = np.zeros((self.layout.count, len(self.regions)))
        for column, region in enumerate(self.regions):
            matrix[list(region.landmarks), column] = 1 / len(region.landmarks)
        return matrix

    @cached_property
    def sizes(self) -> np.ndarray:
        """(R,) the longer side of the box around each region's landmarks in the layout's diagram."""
        points = self.layout.diagram.astype(np.float64)[self.members]  # R, L, 2
        return np.asarray((points.max(axis=1) - points.min(axis=1)).max(axis=1))

    @cached_property
    def signs(self) -> np.ndarray:
        """(R,) -1 for a mirrored region, 1 for the others."""
        return np.array([-1.0 if region.mirrored else 1.0 for region in self.regions])


def _twin(name: str, layout: Layout) -> str | None:
    """The left region that a right one mirrors, if the table has it."""
    left = f"left_{name.removeprefix('right_')}"
    if not name.startswith("right_") or left not in layout.regions:
        return None
    partners = {int(layout.mirror[index]) for index in layout.regions[left]}
    return left if partners == set(layout.regions[name]) else None


def place(landmarks: Any, spread: Any, table: RegionTable, rule: RegionRule, xp: Any = np) -> Any:
    """The crops of each face: upright squares, centred on a region's landmarks, sized by their extent and spread.

    Args:
        landmarks, spread: (n, M, 2) points and expected errors, in any frame of square pixels.
        xp: numpy or torch, whose arrays they are.

    Returns:
        (n, R, 2, 3) from pixels of a crop to the frame of the landmarks; a mirrored region's determinant is negative.
    """
    diagram, shares, sizes, signs = (
        _like(values, landmarks, xp)
        for values in (table.layout.diagram.astype(np.float64), table.shares, table.sizes, table.signs)
    )
    x, y = landmarks[..., 0], landmarks[..., 1]  # n, M
    along, across = (fit_similarity(diagram, landmarks, xp)[..., row, :1] for row in (0, 1))  # n, 1
    scale = xp.sqrt(along**2 + across**2 + 1e-12)  # picture pixels per unit of the diagram
    cos, sin = along / scale, across / scale
    sides, middles = [], []
    for values in (cos * x + sin * y, cos * y - sin * x):  # the face upright
        of_regions = values[:, table.members]  # n, R, L
        low, high = xp.amin(of_regions, axis=2), xp.amax(of_regions, axis=2)
        sides.append(high - low)
        middles.append((low + high) / 2)
    extent = xp.maximum(xp.maximum(*sides), rule.least * sizes * scale)  # n, R
    side = rule.margin * extent + xp.minimum(rule.spread * (spread.mean(-1) @ shares), extent)
    step = side / rule.size
    rows = [[signs * cos * step, -sin * step], [signs * sin * step, cos * step]]
    linear = xp.stack([xp.stack(row, -1) for row in rows], 2)  # n, R, 2, 2
    centre = xp.stack([cos * middles[0] - sin * middles[1], sin * middles[0] + cos * middles[1]], -1)
    offset = centre - linear.sum(-1) * (rule.size / 2 - 0.5)
    return xp.concatenate([linear, offset[..., None]], 3)


def _like(values: np.ndarray, example: Any, xp: Any) -> Any:
    """Values as an array of the module ``xp``, of the type and on the device of the example."""
    return values if xp is np else xp.as_tensor(values, dtype=example.dtype, device=example.device)


def fuse(
    points: Any,
    spread: Any,
    readings: Any,
    reading_spread: Any,
    bias: Any,
    sharpness: Any,
    joining: Any,
    xp: Any = np,
    *,
    shares: Any = None,
) -> tuple[Any, Any]:
    """The landmarks of both networks combined: global points and regional readings, weighted by inverse variance.

    A weight is (e^bias / spread^2) ^ sharpness; the bias is that of the reading's kind of region, 0 for the global
    network. With bias 0 and sharpness 1 that is the inverse variance itself; the sharpness is an inverse temperature.

    Args:
        points, spread: (n, M, 2) of the global network.
        readings, reading_spread: (n, K, 2) of the regional network, in the same frame.
        bias: (K,); sharpness: a number; joining: (K, M), see ``RegionTable``.
        shares: (n, K), between 0 and 1: factors of the readings' weights; 0 for a reading that does not count;
            None if all count in full.

    Returns:
        Points (n, M, 2), and the root of the weighted mean of their variances (n, M, 2).
    """
    log_global = -2 * sharpness * xp.log(spread)  # n, M, 2
    log_regional = sharpness * (bias[:, None] - 2 * xp.log(reading_spread))  # n, K, 2
    weight = xp.exp(log_regional - log_global[:, joining.argmax(1)])  # relative to the global network's
    weight = weight if shares is None else weight * shares[..., None]
    spread_out = joining.swapaxes(0, 1)  # M, K
    total = 1 + spread_out @ weight
    fused = (points + spread_out @ (weight * readings)) / total
    return fused, xp.sqrt((spread**2 + spread_out @ (weight * reading_spread**2)) / total)
