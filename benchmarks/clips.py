"""Clips of moving faces whose landmarks are known exactly: labelled photographs, moved and bent by known functions.

``single`` gives one face that rests, sways, moves fast, speaks and blinks; ``several`` gives two to five faces that
cross, are covered, leave and come back, and a cut. A function that moves the pixels also moves the labels, so that the
truth of a frame is exact with regard to the labels of the photograph. Everything follows from the seed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.datasets import Sample
from octamark.geometry import apply, landmark_boxes
from octamark.layouts import layout

WIDTH, HEIGHT = 1280, 720
BLINK, SHUT = 0.1, 0.04  # seconds from open to open, and for which the eyes are shut
MIN_OPENING = 0.22  # of the eyes of faces that can blink: eye aspect ratio
SHUTTER = 0.5  # of the time between two frames
SUBFRAMES = 3
MAX_ENLARGEMENT = 1.5
ABOVE, BELOW, BESIDE = 0.26, 0.12, 0.14  # skin around an eye that its lashes darken, widths of the eye
LASHES, LASH_DARKNESS = 0.06, 0.9  # height of the lashes of a shut eye, widths of the eye; and how dark they are
STILL = 0.01  # pixels a frame: points that move less are still

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]

IBUG = layout("ibug68")
Eye = tuple[int, tuple[int, int], tuple[int, int], int, tuple[int, int]]
EYES: tuple[Eye, ...] = ((36, (37, 38), (41, 40), 39, (19, 20)), (45, (44, 43), (46, 47), 42, (24, 23)))
"""Outer corner, upper lid, lower lid, inner corner of each eye, and the middle of its brow."""


@dataclass(frozen=True)
class Clip:
    """A clip and its truth.

    Attributes:
        name: what happens in it.
        rate: frames per second.
        frames: gives the pictures (720, 1280, 3) uint8 RGB anew at each call.
        truth: (T, F, 68, 2) landmarks of every face; NaN in frames in which it is not part of the scene.
        visible: (T, F) whether most of a face can be seen.
        blinks: (face, first frame, last frame) of each blink.
        cut: the first frame after the cut; None without one.
    """

    name: str
    rate: float
    frames: Callable[[], Iterator[Picture]]
    truth: Floats
    visible: NDArray[np.bool_]
    blinks: Sequence[tuple[int, int, int]] = ()
    cut: int | None = None

    @property
    def still(self) -> NDArray[np.bool_]:
        """(T, F) whether a face rests in a frame and in the two on either side: no motion, speech or blink."""
        moving = np.zeros(self.truth.shape[:2], bool)
        moving[1:] = (np.linalg.norm(np.diff(self.truth, axis=0), axis=-1) > STILL).any(axis=-1)
        for _ in range(2):
            moving[1:] |= moving[:-1].copy()
            moving[:-1] |= moving[1:].copy()
        return ~moving & np.isfinite(self.truth).all(axis=(-1, -2))


@dataclass(frozen=True)
class Portrait:
    """A photograph, scaled so that the eyes of the face are a given distance apart.

    Attributes:
        picture: RGB uint8.
        points: (68, 2) its labels.
        unit: distance of the outer eye corners, pixels.
    """

    picture: Picture
    points: Floats
    unit: float

    @classmethod
    def of(cls, sample: Sample, unit: float) -> Portrait | None:
        """The scaled photograph of a labelled face.

        None if it would have to be enlarged by more than a half, or shows less than a third of an eye distance around
        the landmarks.
        """
        points = np.asarray(sample.landmarks, np.float64)
        eyes = float(IBUG.reference_distance(points))
        scale = unit / eyes
        if scale > MAX_ENLARGEMENT or not np.isfinite(points).all():
            return None
        picture = sample.read()
        free = np.concatenate([points.min(axis=0), picture.shape[1::-1] - points.max(axis=0)])
        if free.min() < eyes / 3:
            return None
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        return cls(
            cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method), (points + 0.5) * scale - 0.5, unit
        )

    def bent(self, closed: float, mouth: float, turn: Floats) -> tuple[Picture, Floats]:
        """The picture and its labels with another expression and pose.

        Args:
            closed: how far the eyes are shut, 0 to 1.
            mouth: how far the mouth is stretched, -0.3 to 0.6.
            turn: (2,) by which the middle of the face moves against its outline, as when a head turns; eye distances.
        """
        picture, points = self.picture, self.points
        if mouth:
            picture, points = stretched_mouth(picture, points, mouth)
        if closed:
            for eye in EYES:
                picture, points = shut_eye(picture, points, eye, closed)
        if turn.any():
            picture, points = turned_head(picture, points, self.points[30], turn * self.unit, self.unit)
        return picture, points


def _frame(points: Floats, first: int, last: int, below: Floats) -> tuple[Floats, Floats, float]:
    """Origin, axes (2, 2) as rows and width of the frame that lies between two corners; its second axis points down."""
    width = float(np.linalg.norm(points[last] - points[first]))
    along = (points[last] - points[first]) / width
    down = np.array([-along[1], along[0]])
    if (below - points[first]) @ down < 0:
        down = -down
    return points[first], np.stack([along, down]), width


def _square(picture: Picture, middle: Floats, radius: float) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First corner and end of the pixels of a square, within the picture."""
    low = np.clip(np.floor(middle - radius), 0, picture.shape[1::-1]).astype(int)
    high = np.clip(np.ceil(middle + radius) + 1, 0, picture.shape[1::-1]).astype(int)
    return low, high


def _remapped(
    picture: Picture, middle: Floats, radius: float, source: Callable[[Floats], Floats], step: int = 1
) -> Picture:
    """The picture with the pixels of a square replaced by those at ``source`` of their places.

    A smooth ``source`` may be evaluated at every ``step``-th place only; a cubic interpolation gives the others.
    """
    low, high = _square(picture, middle, radius)
    if (high <= low).any():
        return picture
    size = high - low
    count = -(-size // step)
    columns, rows = (start + (np.arange(number) + 0.5) * step - 0.5 for start, number in zip(low, count, strict=True))
    at = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float64)
    moves = cv2.resize(source(at) - at, count * step, interpolation=cv2.INTER_CUBIC)[: size[1], : size[0]]
    pixels = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), axis=-1)
    places = (pixels + moves).astype(np.float32)
    result = picture.copy()
    result[low[1] : high[1], low[0] : high[0]] = cv2.remap(
        picture, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return result


def _lid(points: Floats) -> Floats:
    """(a, b) of the curve y = x (1 - x) (a + b x) from corner to corner through two points of a lid (2, 2)."""
    x, y = points.T
    return np.linalg.solve((x * (1 - x))[:, None] * np.stack([np.ones(2), x], axis=1), y)


def shut_eye(picture: Picture, points: Floats, eye: Eye, closed: float) -> tuple[Picture, Floats]:
    """Picture and labels after the upper lid came down over an eye, by ``closed`` of the way to the lower lid.

    The lid is painted in the colours of the skin around the eye, and its lashes, in the darkest colour of the lid's
    edge, over what the eye shows; brow, corners and lower lid stay where they are.
    """
    outer, upper, lower, inner, brows = eye
    origin, axes, width = _frame(points, outer, inner, points[list(lower)].mean(axis=0))
    local = (points - origin) @ axes.T / width
    curves = [_lid(local[list(lid)]) for lid in (upper, lower)]

    def lids(x: Floats) -> tuple[Floats, Floats]:
        top, bottom = (np.where((x > 0) & (x < 1), x * (1 - x) * (first + second * x), 0) for first, second in curves)
        return np.minimum(top, bottom), np.maximum(top, bottom)

    moved = points.copy()
    for index in upper:
        first, last = lids(local[index, :1])
        moved[index] += closed * float(last[0] - first[0]) * width * axes[1]
    low, high = _square(picture, origin + 0.5 * width * axes[0], width)
    if (high <= low).any():
        return picture, moved
    window = picture[low[1] : high[1], low[0] : high[0]]
    columns, rows = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    place = (np.stack([columns, rows], axis=-1) - origin) @ axes.T / width
    x, y = place[..., 0], place[..., 1]
    top, bottom = lids(x)
    edge = top + closed * (bottom - top)
    pixel = 1 / width
    brow = float((local[list(brows)] @ np.array([0, 1])).max())
    above = min(ABOVE, 0.6 * (float(local[list(upper), 1].mean()) - brow))
    eye_and_lashes = (y > top - above) & (y < bottom + BELOW) & (x > -BESIDE) & (x < 1 + BESIDE)
    skin = _filled(window, eye_and_lashes)
    covered = _ramp(edge - y, pixel) * _ramp(y - top + above - 0.05, 0.1)
    covered = np.where(
        (x > 0) & (x < 1), covered, _ramp(x + BESIDE - 0.05, 0.1) * _ramp(1 + BESIDE - 0.05 - x, 0.1) * covered
    )
    result = window + covered[..., None] * (skin - window)
    near = (np.abs(y - top) < LASHES) & (x > 0.1) & (x < 0.9)
    lash = np.quantile(window[near], 0.1, axis=0) if near.any() else np.zeros(3)
    dark = np.exp(-(((y - edge) / max(LASHES, 0.7 * pixel)) ** 2)) * np.clip(4 * x * (1 - x), 0, 1) ** 0.5
    result += (LASH_DARKNESS * dark)[..., None] * np.minimum(lash - result, 0)
    changed = picture.copy()
    changed[low[1] : high[1], low[0] : high[0]] = np.clip(result + 0.5, 0, 255)
    return changed, moved


def _ramp(values: Floats, width: float) -> Floats:
    """0 below 0, 1 above, with a flank of that width."""
    return np.clip(values / width + 0.5, 0, 1)


def _filled(picture: Picture, hole: NDArray[np.bool_]) -> Floats:
    """The picture with a hole filled smoothly from the pixels around it."""
    filled = picture.astype(np.float64)
    filled[hole] = picture[~hole].mean(axis=0)
    for sigma in (16, 8, 4, 2, 1):
        for _ in range(6):
            filled[hole] = cv2.GaussianBlur(filled, (0, 0), sigma)[hole]
    return filled


def stretched_mouth(picture: Picture, points: Floats, amount: float) -> tuple[Picture, Floats]:
    """Picture and labels after the mouth was stretched (above 0) or pressed (below 0) from top to bottom."""
    corner, axes, width = _frame(points, 48, 54, points[57])
    origin = corner + 0.5 * width * axes[0]

    def shift(place: Floats) -> Floats:
        x, y = place[..., 0], place[..., 1]
        return amount * y * np.exp(-((y / 0.6) ** 2) - (x / 0.8) ** 2)

    def forward(place: Floats) -> Floats:
        return place + np.stack([np.zeros_like(place[..., 0]), shift(place)], axis=-1)

    def backward(place: Floats) -> Floats:
        source = place.copy()
        for _ in range(12):  # converges, because the shift changes less than the place
            source[..., 1] = place[..., 1] - shift(source)
        return source

    def in_mouth(function: Callable[[Floats], Floats], place: Floats) -> Floats:
        return origin + function((place - origin) @ axes.T / width) * width @ axes

    return _remapped(picture, origin, 1.4 * width, lambda place: in_mouth(backward, place)), in_mouth(forward, points)


def turned_head(picture: Picture, points: Floats, middle: Floats, shift: Floats, unit: float) -> tuple[Picture, Floats]:
    """Picture and labels after the face around ``middle`` was shifted, less and less towards its outline; pixels."""

    def share(place: Floats) -> Floats:
        return np.exp(-((place - middle) ** 2).sum(axis=-1, keepdims=True) / (2 * (0.55 * unit) ** 2))

    def backward(place: Floats) -> Floats:
        source = place
        for _ in range(6):  # the shift changes by less than a quarter of the place
            source = place - shift * share(source)
        return source

    return _remapped(picture, middle, 2 * unit, backward, step=4), points + shift * share(points)


@dataclass(frozen=True)
class Script:
    """How one face moves, blinks and speaks. Times in seconds, distances in eye distances."""

    seconds: float
    seed: int
    middle: tuple[float, float] = (WIDTH / 2, HEIGHT / 2)

    def _waves(self) -> Floats:
        return np.random.default_rng(self.seed).uniform(0.7, 1.3, 12)

    def strength(self, time: float) -> tuple[float, float]:
        """How much of the slow and of the fast motion there is: rest, slow, rest, fast, rest."""
        slow, fast = (_hump(time / self.seconds, *span) for span in ((0.2, 0.45), (0.55, 0.85)))
        return slow, fast

    def homography(self, portrait: Portrait, time: float) -> Floats:
        """(3, 3) from pixels of the portrait to pixels of the frame."""
        w, (slow, fast) = self._waves(), self.strength(time)
        turn = 2 * np.pi * time
        x = 0.35 * slow * np.sin(turn * 0.4 * w[0]) + 0.5 * fast * np.sin(turn * 1.2 * w[1])
        y = 0.15 * slow * np.sin(turn * 0.5 * w[2]) + 0.2 * fast * np.sin(turn * 1.5 * w[3])
        roll = np.deg2rad(6 * slow * np.sin(turn * 0.4 * w[4]) + 10 * fast * np.sin(turn * 1.0 * w[5]))
        size = np.exp(0.06 * slow * np.sin(turn * 0.3 * w[6]) + 0.1 * fast * np.sin(turn * 0.9 * w[7]))
        tilt = (0.05 * slow * np.sin(turn * 0.35 * w[8]), 0.04 * fast * np.sin(turn * 0.8 * w[9]))
        unit = portrait.unit
        centre = portrait.points[27:].mean(axis=0)
        to_unit = np.array([[1 / unit, 0, -centre[0] / unit], [0, 1 / unit, -centre[1] / unit], [0, 0, 1]])
        perspective = np.array([[1, 0, 0], [0, 1, 0], [*tilt, 1]])
        cos, sin = size * np.cos(roll), size * np.sin(roll)
        moved = np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])
        to_frame = np.array([[unit, 0, self.middle[0] + 0.37], [0, unit, self.middle[1] + 0.21], [0, 0, 1]])
        return to_frame @ moved @ perspective @ to_unit

    def turn(self, time: float) -> Floats:
        """(2,) how far the middle of the face moves against its outline, in eye distances."""
        w, (slow, fast) = self._waves(), self.strength(time)
        phase = 2 * np.pi * time
        x = 0.12 * slow * np.sin(phase * 0.4 * w[2]) + 0.2 * fast * np.sin(phase * 0.9 * w[0])
        y = 0.06 * slow * np.sin(phase * 0.5 * w[1]) + 0.1 * fast * np.sin(phase * 0.8 * w[4])
        return np.array([x, y])

    def blink_starts(self) -> list[float]:
        """Times at which blinks begin: in rest, in slow and in fast motion."""
        offset = 0.02 * self._waves()[10]
        return [self.seconds * share + offset for share in (0.08, 0.3, 0.5, 0.7, 0.92)]

    def closed(self, time: float) -> float:
        """How far the eyes are shut, 0 to 1."""
        apart = min(abs(time - start - BLINK / 2) for start in self.blink_starts())
        return float(np.clip((BLINK / 2 - apart) / (BLINK / 2 - SHUT / 2), 0, 1))

    def mouth(self, time: float) -> float:
        """How far the mouth is stretched."""
        w, speech = self._waves(), _hump(time / self.seconds, 0.25, 0.8)
        wave = 0.25 + 0.35 * np.sin(2 * np.pi * 3.0 * w[11] * time) * np.sin(2 * np.pi * 0.7 * w[10] * time)
        return float(speech * wave)

    def expression(self, time: float) -> tuple[float, float, Floats]:
        """The arguments of ``Portrait.bent``."""
        return self.closed(time), self.mouth(time), self.turn(time)


def _hump(place: float, first: float, last: float) -> float:
    """0 outside of (first, last), 1 inside, with smooth flanks."""
    flank = 0.15 * (last - first)
    t = min(np.clip((place - first) / flank, 0, 1), np.clip((last - place) / flank, 0, 1))
    return float(t * t * (3 - 2 * t))


def _project(matrix: Floats, points: Floats) -> Floats:
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    return placed[..., :2] / placed[..., 2:]


def single(
    sample: Sample, *, rate: float, seconds: float, unit: float, seed: int, noise: float = 3.0, bits: int | None = None
) -> Clip | None:
    """A clip of one face.

    Args:
        sample: the labelled photograph.
        rate: frames per second.
        unit: distance of the outer eye corners, pixels.
        noise: standard deviation of the noise of the camera.
        bits: per second of H.264; None for frames that were not compressed.

    Returns:
        None for a photograph that does not suit: see ``Portrait.of``; or with an eye that is hardly open.
    """
    portrait = Portrait.of(sample, unit)
    if portrait is None or IBUG.eye_opening(portrait.points).min() < MIN_OPENING:
        return None
    script, count = Script(seconds, seed), round(rate * seconds)

    def drawn(picture: Picture, time: float, flags: int = cv2.INTER_LINEAR) -> Picture:
        matrix = script.homography(portrait, time)
        return cv2.warpPerspective(picture, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def points(time: float) -> Floats:
        _, moved = replace(portrait, picture=np.zeros((0, 0, 3), np.uint8)).bent(*script.expression(time))
        return _project(script.homography(portrait, time), moved)

    times = np.arange(count) / rate
    truth = np.stack([points(time) for time in times])[:, None]

    def frames() -> Iterator[Picture]:
        rng = np.random.default_rng(seed)
        for index, time in enumerate(times):
            speed = np.abs(truth[min(index + 1, count - 1)] - truth[max(index - 1, 0)]).max() / 2
            face, _ = portrait.bent(*script.expression(time))
            if speed < 1:
                picture = drawn(face, time, cv2.INTER_CUBIC).astype(np.float32)
            else:
                offsets = ((np.arange(SUBFRAMES) + 0.5) / SUBFRAMES - 0.5) * SHUTTER / rate
                picture = np.mean([drawn(face, time + offset) for offset in offsets], axis=0, dtype=np.float32)
            yield noisy(picture, noise, rng)

    blinks = [(0, round(start * rate), round((start + BLINK) * rate)) for start in script.blink_starts()]
    coded = frames if bits is None else lambda: compressed(frames(), rate, bits)
    return Clip(f"{sample.name} {rate:g}/s", rate, coded, truth, np.ones((count, 1), bool), blinks)


def noisy(picture: NDArray[np.float32], noise: float, rng: np.random.Generator) -> Picture:
    """The picture with the noise of a camera."""
    grain = np.empty(picture.shape, np.float32)
    cv2.setRNGSeed(int(rng.integers(1 << 30)))
    cv2.randn(grain, 0.0, noise)
    return np.clip(picture + grain + 0.5, 0, 255).astype(np.uint8)


def compressed(frames: Iterator[Picture], rate: float, bits: int) -> Iterator[Picture]:
    """The frames after H.264."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=round(rate), options={"preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", bits
        for picture in frames:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode())
    file.seek(0)
    with av.open(file) as source:
        for frame in source.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


SCENES = ("cross", "cover", "leave", "cut")


def several(
    samples: Sequence[Sample], scene: str, *, rate: float, seconds: float, unit: float, seed: int, noise: float = 3.0
) -> Clip | None:
    """A clip of several faces, cut out of their photographs, before a blurred background; the first is in front.

    Args:
        samples: one per face; with ``"cut"`` the second half of them appears after the cut.
        scene: ``"cross"``: neighbours change places, one in front of the other, and go back; ``"cover"``: a bar passes
            in front of them; ``"leave"``: the first leaves the picture and comes back within a second; ``"cut"``:
            others take their place.
    """
    rng = np.random.default_rng(seed)
    portraits = [Portrait.of(sample, unit * rng.uniform(0.85, 1.15)) for sample in samples]
    if None in portraits:
        return None
    patches = [_cut_out(portrait) for portrait in portraits if portrait is not None]
    count, faces = round(rate * seconds), len(patches)
    times = np.arange(count) / rate
    first_half = np.arange(faces) < (faces + 1) // 2 if scene == "cut" else np.ones(faces, bool)
    cut = count // 2 if scene == "cut" else None
    phases, speeds = rng.uniform(0, 2 * np.pi, faces), rng.uniform(0.8, 1.2, faces)
    group = np.where(first_half, np.cumsum(first_half), np.cumsum(~first_half)) - 1
    lanes = WIDTH * (group + 1) / (max(group) + 2)

    partner = [face if face == faces - 1 and faces % 2 else face ^ 1 for face in range(faces)]

    def place(face: int, time: float) -> Floats:
        """(2, 3) from the face's photograph to the frame."""
        patch = patches[face]
        share = time / seconds
        x, y = lanes[face], HEIGHT / 2 + 0.25 * unit * np.sin(2 * np.pi * 0.3 * speeds[face] * time + phases[face])
        if scene == "cross":
            x += (lanes[partner[face]] - x) * (0.5 - 0.5 * np.cos(2 * np.pi * share))
            y += 0.35 * unit * (face - (faces - 1) / 2) / faces
        elif scene == "leave":
            away = max(0.0, 1 - abs(share - 0.5) / 0.18)
            y += (HEIGHT / 2 + 1.3 * unit) * min(1.0, 1.35 * away) * (face == 0)
        angle = np.deg2rad(5) * np.sin(2 * np.pi * 0.35 * time + phases[face])
        cos, sin = np.cos(angle), np.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([linear, np.array([x, y]) - linear @ patch.middle])

    def bar(time: float) -> tuple[float, float]:
        """Left and right end of the bar that covers faces."""
        left = -3 * unit + (WIDTH + 6 * unit) * time / seconds
        return left, left + 2.6 * unit

    background = cv2.GaussianBlur(cv2.resize(patches[0].picture, (WIDTH, HEIGHT)), (0, 0), 60)
    grain = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 3)
    texture = np.clip(127 + 6 * (grain - grain.mean()), 0, 255)

    def present(face: int, index: int) -> bool:
        return cut is None or (index < cut) == bool(first_half[face])

    def frames() -> Iterator[Picture]:
        noise_rng = np.random.default_rng(seed)
        for index, time in enumerate(times):
            picture = background.astype(np.float32)
            for face in reversed(range(faces)):
                if present(face, index):
                    matrix = place(face, time)
                    layers = (patches[face].picture, patches[face].mask)
                    pixels, mask = (cv2.warpAffine(layer, matrix, (WIDTH, HEIGHT)) for layer in layers)
                    picture += mask[..., None] * (pixels - picture)
            if scene == "cover":
                left, right = np.clip(np.round(bar(time)), 0, WIDTH).astype(int)
                picture[:, left:right] = texture[:, left:right]
            yield noisy(picture, noise, noise_rng)

    truth = np.full((count, faces, 68, 2), np.nan)
    visible = np.zeros((count, faces), bool)
    for index, time in enumerate(times):
        for face in range(faces):
            if present(face, index):
                truth[index, face] = apply(place(face, time), patches[face].points)
        for face in range(faces):
            points = truth[index, face]
            if np.isfinite(points).all():
                hidden = (points < 0).any(axis=1) | (points > (WIDTH, HEIGHT)).any(axis=1)
                if scene == "cover":
                    left, right = bar(time)
                    hidden |= (points[:, 0] > left) & (points[:, 0] < right)
                for other in range(face):
                    if present(other, index):
                        back = cv2.invertAffineTransform(place(other, time))
                        hidden |= patches[other].covers(apply(back, points))
                visible[index, face] = hidden.mean() < 0.3
    return Clip(f"{scene} {faces}", rate, frames, truth, visible, cut=cut)


@dataclass(frozen=True)
class Patch:
    """A face that is cut out of its photograph along an ellipse with a soft edge."""

    picture: Picture
    points: Floats
    mask: NDArray[np.float32]
    middle: Floats
    radii: Floats

    def covers(self, points: Floats) -> NDArray[np.bool_]:
        """Whether points (n, 2) lie inside the ellipse."""
        return (((points - self.middle) / self.radii) ** 2).sum(axis=1) < 1


def _cut_out(portrait: Portrait) -> Patch:
    box = landmark_boxes(portrait.points)
    middle = (box[:2] + box[2:]) / 2 - np.array([0, 0.15 * (box[3] - box[1])])
    radii = (box[2:] - box[:2]) * np.array([0.62, 0.8])
    rows, columns = np.indices(portrait.picture.shape[:2], np.float32)
    distance = np.hypot((columns - middle[0]) / radii[0], (rows - middle[1]) / radii[1])
    mask = np.clip((1.05 - distance) / 0.1, 0, 1).astype(np.float32)
    return Patch(portrait.picture, portrait.points, mask, middle, radii)
