"""Augmentation as batched tensor operations, on whatever device the pictures are.

One similarity per face (rotation, scale, shift, mirror) cuts the network's crop out of the stored one; then colour,
then occlusion, then damage (blur, low resolution, a small sensor, noise, JPEG). Randomness comes from one generator,
so that a step's batch depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from octamark.nets.sampling import cut, move_points
from octamark.synthesis.camera import GREY, blur, jpeg, low_resolution, noise, sensor, sharpen
from octamark.synthesis.caricature import Caricatures, Drawn
from octamark.synthesis.eyelids import Eyelids
from octamark.training.recipe import Augment


def similarity(
    config: Augment, count: int, side: int, size: int, generator: torch.Generator, zoom: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Random similarities from points of the crop to points of the stored crop.

    Args:
        side, size: sides of the stored crop and of the network's crop, pixels; without augmentation the crop is the
            middle of the stored one.
        zoom: pixels of the stored crop per pixel of the network's, without augmentation.

    Returns:
        (n, 2, 3) matrices and (n,) booleans, whether the face is mirrored.
    """
    angle = torch.deg2rad(_normal(count, generator).clamp(-2.5, 2.5) * config.rotation)
    scale = torch.exp(_normal(count, generator).clamp(-2.5, 2.5) * config.scale) * zoom
    shift = torch.randn(count, 2, generator=generator).clamp(-2.5, 2.5) * config.shift * (size * zoom)
    mirrored = torch.rand(count, generator=generator) < config.mirror
    sign = torch.where(mirrored, -1.0, 1.0)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    linear = torch.stack([torch.stack([cos * sign, -sin], -1), torch.stack([sin * sign, cos], -1)], 1)  # n, 2, 2
    middle = torch.full((2,), size / 2 - 0.5)
    offset = (side / 2 - 0.5) + shift - linear @ middle
    return torch.cat([linear, offset[:, :, None]], dim=2), mirrored


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator)


def _some(share: float, count: int, generator: torch.Generator) -> Tensor:
    """Indices of a random share of the batch."""
    return torch.nonzero(torch.rand(count, generator=generator) < share)[:, 0]


def colours(pictures: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Pictures in other colours: brightness, contrast, saturation, channel gains and grey, as one 3x3 matrix each."""
    count, device = len(pictures), pictures.device
    grey = torch.tensor(GREY).expand(3, 3)
    saturation = torch.exp(_normal(count, generator) * config.colour)
    saturation[_some(config.grey, count, generator)] = 0.0
    gains = torch.exp(torch.randn(count, 3, generator=generator) * config.colour * 0.4)
    matrix = saturation[:, None, None] * (torch.eye(3) - grey) + grey  # n, 3, 3
    matrix = gains[:, :, None] * matrix * torch.exp(_normal(count, generator) * config.contrast)[:, None, None]
    offset = (_normal(count, generator) * config.brightness * 0.6)[:, None] + 0.5 - 0.5 * matrix.sum(dim=2)
    flat = torch.baddbmm(offset.to(device)[:, :, None], matrix.to(device), pictures.flatten(2))
    return flat.view(pictures.shape).clamp_(0.0, 1.0)


def occlude(pictures: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures with one rectangle each covered: by one colour, by coarse noise, or by a piece of another picture.

    Also returns the rectangles: (n, height, width) booleans.
    """
    count, _, height, width = pictures.shape
    device = pictures.device
    sides = 0.15 + 0.35 * torch.rand(count, 2, generator=generator)  # shares of height and width
    corner = torch.rand(count, 2, generator=generator) * (1.1 - sides) - 0.05
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + sides[:, :1])
    inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + sides[:, 1:])
    mask = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(device)
    plain = torch.rand(count, 3, 1, 1, generator=generator).to(device)
    grain = F.interpolate(torch.rand(count, 3, 16, 16, generator=generator).to(device), size=(height, width))
    kind = torch.rand(count, 1, 1, 1, generator=generator).to(device)
    cover = torch.where(kind < 0.35, plain, torch.where(kind < 0.5, grain, others.roll(height // 3, dims=2)))
    return torch.where(mask, cover, pictures), mask[:, 0]


@dataclass(frozen=True)
class Views:
    """How the faces of a batch are seen, before damage.

    Attributes:
        matrices, mirrored: (n, 2, 3) and (n,), see ``similarity``.
        chosen: (k,) indices of the faces that are seen with other eyes or as caricatures; drawn: these, or None where
            there are none.
        seed: of the damage.
    """

    matrices: Tensor
    mirrored: Tensor
    chosen: Tensor
    drawn: Drawn | None
    seed: int

    def to(self, device: torch.device) -> Views:
        """The views on a device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Views:
        """The views in memory from which a CUDA device copies while it computes."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Views:
        drawn = None if self.drawn is None else type(self.drawn)(*map(move, self.drawn))
        return Views(move(self.matrices), move(self.mirrored), move(self.chosen), drawn, self.seed)

    def generator(self) -> torch.Generator:
        """The generator of the damage."""
        return torch.Generator().manual_seed(self.seed)


def draw_views(
    take: Callable[[Tensor], Tensor],
    landmarks: Tensor,
    side: int,
    *,
    config: Augment,
    size: int,
    generator: torch.Generator,
    caricatures: Caricatures | None = None,
    eyelids: Eyelids | None = None,
    visible: Tensor | None = None,
) -> Views:
    """Random views of stored faces. Eyes and caricatures are drawn here, so that worker processes can do it.

    Args:
        take: the stored crops (k, 3, s, s) uint8 at indices (k,) of the batch.
        landmarks: (n, M, 2) pixels of the stored crops; NaN where a point has no label.
        side: s.
        config, size, generator, caricatures, eyelids, visible: see ``augment``.
    """
    count, device = len(landmarks), landmarks.device
    seed = int(torch.randint(2**62, (1,), generator=generator))
    matrices, mirrored = (x.to(device) for x in similarity(config, count, side, size, generator))
    drawn_as, changed = (torch.zeros(0, dtype=torch.int64, device=device) for _ in range(2))
    if caricatures is not None:
        drawn_as = _some(caricatures.settings.share, count, generator).to(device)
        drawn_as = drawn_as[torch.isfinite(landmarks[drawn_as]).all(dim=2).all(dim=1)]  # all points steer the warp
    if eyelids is not None:
        changed = _some(eyelids.settings.share, count, generator).to(device)
    photographs = changed[~torch.isin(changed, drawn_as)]
    chosen = torch.cat([photographs, drawn_as])
    if not len(chosen):
        return Views(matrices, mirrored, chosen, None, seed)
    stored, points, placed = take(chosen), landmarks[chosen], matrices[chosen]
    if eyelids is not None:
        some = torch.nonzero(torch.isin(chosen, changed))[:, 0]
        closing = eyelids.draw(len(some), generator).to(device)
        hidden = None if visible is None else visible[chosen[some]]
        stored[some], points[some] = eyelids(stored[some], points[some], closing, hidden)
    first = len(photographs)
    parts = [(cut(stored[:first], placed[:first], size), points[:first], placed[:first])] if first else []
    if caricatures is not None and len(drawn_as):
        parts.append(caricatures(stored[first:], points[first:], placed[first:], size, generator))
    return Views(matrices, mirrored, chosen, Drawn(*map(torch.cat, zip(*parts, strict=True))), seed)


def show(pictures: Tensor, landmarks: Tensor, views: Views, *, mirror: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Stored faces as they are seen: pictures (n, 3, size, size) in 0..1, and landmarks (n, M, 2) in their pixels.

    Args:
        pictures: (n, 3, s, s) uint8 stored crops.
        landmarks: (n, M, 2) in their pixels; NaN where a point has no label.
        views: of them, on the same device.
        mirror: (M,) the layout's mirror permutation.
    """
    mirror = mirror.to(pictures.device)
    points = move_points(landmarks, views.matrices, views.mirrored, mirror)
    plain = cut(pictures, views.matrices, size)
    if views.drawn is not None:
        plain[views.chosen] = views.drawn.pictures
        points[views.chosen] = move_points(
            views.drawn.landmarks, views.drawn.matrices, views.mirrored[views.chosen], mirror
        )
    return plain, points


def augment(
    pictures: Tensor,
    landmarks: Tensor,
    *,
    config: Augment,
    mirror: Tensor,
    size: int,
    generator: torch.Generator,
    caricatures: Caricatures | None = None,
    eyelids: Eyelids | None = None,
    visible: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A training batch from stored faces.

    Args:
        pictures: (n, 3, s, s) uint8 stored crops.
        landmarks: (n, M, 2) pixels of the stored crops; NaN where a point has no label.
        mirror: (M,) the layout's mirror permutation.
        size: side of the network's input.
        generator: on the CPU; the batch depends on its state alone.
        caricatures: turns some of the faces of which all points have labels into caricatures.
        eyelids: shuts and opens the eyes of some faces.
        visible: (n, M) 0 for hidden landmarks, whose eyes stay as they are; None where it is not known of any.

    Returns:
        Pictures (n, 3, size, size) float32 in 0..1, the same views undamaged, and landmarks (n, M, 2) in their pixels.
    """
    views = draw_views(
        lambda chosen: pictures[chosen], landmarks, pictures.shape[-1],
        config=config, size=size, generator=generator, caricatures=caricatures, eyelids=eyelids, visible=visible,
    )  # fmt: skip
    plain, points = show(pictures, landmarks, views, mirror=mirror, size=size)
    return damaged(plain, config, views.generator())[0], plain, points


def damaged(pictures: Tensor, config: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, size, size) in 0..1 with other colours, and shares of them occluded and damaged.

    Also returns which pixels are occluded: (n, size, size) booleans.
    """
    count, device = len(pictures), pictures.device
    out = colours(pictures, config, generator)
    mask = torch.zeros(count, *pictures.shape[2:], dtype=torch.bool, device=device)
    covered = _some(config.occlusion, count, generator).to(device)
    if len(covered):
        out[covered], mask[covered] = occlude(out[covered], out.roll(1, dims=0)[covered], generator)
    for share, damage in (
        (config.blur, blur),
        (config.low_resolution, low_resolution),
        (config.sensor, sensor),
        (config.sharpen, sharpen),
        (config.noise, noise),
        (config.jpeg, jpeg),
    ):
        chosen = _some(share, count, generator).to(device) if share else ()
        if len(chosen):
            out[chosen] = damage(out[chosen], generator)
    return out, mask


def still_visible(visible: Tensor, landmarks: Tensor, covered: Tensor) -> Tensor:
    """Which landmarks of crops can be seen, (n, M): those that were, less the covered ones and those outside the crop.

    Args:
        visible: (n, M) 1 seen, 0 hidden, NaN unknown; what is unknown stays so.
        landmarks: (n, M, 2) pixels of the crops; NaN where a point has no label.
        covered: (n, size, size) booleans, which pixels are covered.
    """
    size = covered.shape[-1]
    place = landmarks.nan_to_num(0.0).round().long()
    inside = ((place >= 0) & (place < size)).all(dim=2)
    x, y = place.clamp(0, size - 1).unbind(dim=2)
    hidden = covered[torch.arange(len(covered), device=covered.device)[:, None], y, x] | ~inside
    return torch.where(torch.isfinite(visible) & hidden, 0.0, visible)
