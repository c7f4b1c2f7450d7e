"""What faces do over time: how far eyes and mouth are open, where heads turn, when they blink; and a plot of these."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from octamark.errors import ConfigError, LayoutError
from octamark.faces import Faces

F64 = NDArray[np.float64]

CLOSED = 0.6
"""Share of the usual opening below which eyes are closed."""

OPEN = 0.75
"""Share of the usual opening above which closed eyes are open again."""

USUAL_WINDOW = 10.0
"""Seconds before and after a moment over which the usual opening is taken."""

USUAL_QUANTILE = 0.75
"""The usual opening is this quantile of the openings, so that it stays while eyes are shut for up to three quarters."""

MAX_GAP = 0.5
"""Seconds without a measurement after which nothing is said about the time in between."""


@dataclass(frozen=True, eq=False)
class Signals:
    """Measures of one face in the T frames in which it was seen.

    Attributes:
        id: of the face.
        times: (T,) seconds, rising.
        eye_opening: (T, 2) of the right and the left eye, as ``Faces.eye_opening``; NaN for a layout without lids.
        eye_opening_spread: (T, 2) their expected absolute errors.
        mouth_opening, mouth_opening_spread: (T,) as ``Faces.mouth_opening``.
        pose: (T, 3) yaw, pitch and roll in degrees, as ``Faces.pose``; NaN for a layout from which it cannot be told.
        confidence: (T,) mean confidence of the points.
    """

    id: int
    times: F64
    eye_opening: F64
    eye_opening_spread: F64
    mouth_opening: F64
    mouth_opening_spread: F64
    pose: F64
    confidence: F64

    def mean_eye_opening(self) -> tuple[F64, F64]:
        """The opening of both eyes together and its expected absolute error: two (T,), NaN where neither eye is known.

        Each eye counts by the inverse square of its expected error, so that an eye that is turned away counts little.
        The errors of both are taken as one: the mean is no more certain than they are.
        """
        known = np.isfinite(self.eye_opening) & np.isfinite(self.eye_opening_spread)
        weights = np.where(known, 1 / np.maximum(np.where(known, self.eye_opening_spread, 1.0), 1e-6) ** 2, 0.0)
        total = weights.sum(axis=1)
        shares = weights / np.where(total > 0, total, 1.0)[:, None]
        opening, spread = (
            (shares * np.where(known, values, 0.0)).sum(axis=1)
            for values in (self.eye_opening, self.eye_opening_spread)
        )
        return np.where(total > 0, opening, np.nan), np.where(total > 0, spread, np.nan)


def measure(frames: Iterable[tuple[float, Faces]]) -> dict[int, Signals]:
    """The signals of each face of a video, by its id, in the order of ids.

    Args:
        frames: time in seconds, rising, and the faces of each frame, with ids: ``(frame.time, frame.faces)`` of
            ``octamark.track``, or ``(record.time, record.faces)`` of ``octamark.io.read_records``.

    Raises:
        ConfigError: faces without ids.

    Examples:
        >>> import octamark
        >>> picture = np.zeros((256, 256, 3), np.uint8)
        >>> faces = octamark.load("nano")(picture, boxes=[[60, 60, 190, 190]])
        >>> from dataclasses import replace
        >>> faces = replace(faces, ids=np.array([7]))
        >>> signals = measure([(0.0, faces), (0.04, faces)])
        >>> signals[7].times, signals[7].pose.shape
        (array([0.  , 0.04]), (2, 3))
    """
    rows: dict[int, list[F64]] = {}
    for time, faces in frames:
        if not len(faces):
            continue
        if faces.ids is None:
            raise ConfigError(f"faces at {time:g} s have no ids; octamark.track gives faces with ids")
        values = np.column_stack([
            np.full(len(faces), time),
            _two_columns(faces.eye_opening),
            _two_columns(faces.eye_opening_spread),
            faces.mouth_opening,
            faces.mouth_opening_spread,
            _pose(faces),
            faces.mean_confidence,
        ])  # fmt: skip
        for number, row in zip(faces.ids.tolist(), values.astype(np.float64), strict=True):
            rows.setdefault(int(number), []).append(row)
    return {number: _signals(number, np.array(rows[number])) for number in sorted(rows)}


def _two_columns(openings: F64) -> F64:
    return openings if openings.shape[1] == 2 else np.full((len(openings), 2), np.nan)


def _pose(faces: Faces) -> F64:
    try:
        return faces.pose()
    except LayoutError:
        return np.full((len(faces), 3), np.nan)


def _signals(number: int, values: F64) -> Signals:
    return Signals(
        number,
        times=values[:, 0],
        eye_opening=values[:, 1:3],
        eye_opening_spread=values[:, 3:5],
        mouth_opening=values[:, 5],
        mouth_opening_spread=values[:, 6],
        pose=values[:, 7:10],
        confidence=values[:, 10],
    )


@dataclass(frozen=True)
class Blink:
    """A time for which both eyes were closed.

    Attributes:
        start, end: seconds at which the opening fell below, and rose above, ``CLOSED`` times the usual one; between two
            frames on the line that joins them.
        time: of the frame in which the eyes were least open, seconds.
        opening: in that frame, as a share of the usual opening.
    """

    start: float
    end: float
    time: float
    opening: float

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start


def blinks(signals: Signals, *, longest: float = 0.5) -> list[Blink]:
    """The blinks of a face, in order.

    The opening is that of both eyes (``Signals.mean_eye_opening``), compared with the usual opening of this face: the
    ``USUAL_QUANTILE`` over ``USUAL_WINDOW`` seconds before and after. Frames whose expected error is larger than the
    distance between open and closed say nothing and are left out, as in faces that are too small. Eyes that are closed
    when the face appears or leaves, or before or after ``MAX_GAP`` seconds without a measurement, are not counted.
    Looking down closes the eyes for this measure too.

    Args:
        longest: seconds; eyes that stay closed longer have not blinked. ``float("inf")`` gives these times as well.

    Raises:
        ConfigError: ``longest`` not above 0.

    Source: eye aspect ratio (T. Soukupova and J. Cech, Real-Time Eye Blink Detection using Facial Landmarks, 2016).
    """
    if not isinstance(longest, int | float) or not longest > 0:
        raise ConfigError(f"longest {longest!r}; allowed: seconds above 0")
    opening, spread = signals.mean_eye_opening()
    usual = _usual(signals.times, opening)
    with np.errstate(invalid="ignore"):
        sure = np.flatnonzero(spread < (1 - CLOSED) * usual)
    times, shares = signals.times[sure], opening[sure] / usual[sure]
    found: list[Blink] = []
    started: float | None = None  # while eyes are closed: since when
    least = was_open = -1  # position of the least opening; of the last open frame
    for place, (time, share) in enumerate(zip(times.tolist(), shares.tolist(), strict=True)):
        if place and time - times[place - 1] > MAX_GAP:
            started, was_open = None, -1
        if share >= CLOSED and started is None:
            was_open = place
        elif share < CLOSED and started is None:
            if was_open >= 0:
                started, least = _crossing(times, shares, place), place
        elif started is not None:
            least = place if share < shares[least] else least
            if share > OPEN:
                end = _crossing(times, shares, _last_closed(shares, place) + 1)
                if end - started <= longest:
                    found.append(Blink(started, end, float(times[least]), float(shares[least])))
                started, was_open = None, place
    return found


def _usual(times: F64, opening: F64) -> F64:
    """The usual opening (T,) at each time; NaN where none is known."""
    known = np.isfinite(opening)
    known_times, known_opening = times[known], opening[known]
    first = np.searchsorted(known_times, times - USUAL_WINDOW, "left")
    last = np.searchsorted(known_times, times + USUAL_WINDOW, "right")
    return np.array([
        np.quantile(known_opening[low:high], USUAL_QUANTILE) if high > low else np.nan
        for low, high in zip(first, last, strict=True)
    ])  # fmt: skip


def _last_closed(shares: F64, place: int) -> int:
    """The last position before ``place`` with closed eyes."""
    return int(np.flatnonzero(shares[:place] < CLOSED)[-1])


def _crossing(times: F64, shares: F64, place: int) -> float:
    """The time between the frame before ``place`` and this one at which the share is ``CLOSED``."""
    before, after = shares[place - 1], shares[place]
    part = (CLOSED - before) / (after - before)
    return float(times[place - 1] + part * (times[place] - times[place - 1]))


def plot(signals: Mapping[int, Signals], title: str = "") -> bytes:
    """A PNG file of the signals of all faces over time: openings of eyes and mouth, yaw, pitch, roll. Needs matplotlib.

    Blinks are marked below the openings of the eyes, whose expected errors are the bands. Lines are broken where a face
    was not seen for ``MAX_GAP`` seconds.

    Raises:
        ConfigError: no faces.
    """
    if not signals:
        raise ConfigError("no faces: there is nothing to plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    rows = figure.subplots(5, 1, sharex=True)
    for colour, (number, face) in enumerate(signals.items()):
        opening, spread = face.mean_eye_opening()
        style = {"color": f"C{colour % 10}", "linewidth": 1.0}
        for axes, values in zip(rows, (opening, face.mouth_opening, *face.pose.T), strict=True):
            axes.plot(*_broken(face.times, values), label=f"face {number}", **style)
        rows[0].fill_between(
            face.times, opening - spread, opening + spread, color=style["color"], alpha=0.15, linewidth=0
        )
        marks = [blink.time for blink in blinks(face)]
        rows[0].plot(marks, np.zeros(len(marks)), "^", color=style["color"], markersize=5)
    names = ("eyes, opening", "mouth, opening", "yaw, degrees", "pitch, degrees", "roll, degrees")
    for axes, name in zip(rows, names, strict=True):
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    rows[0].set_ylim(bottom=-0.02)
    rows[-1].set_xlabel("time, seconds")
    rows[0].set_title(title.replace("$", r"\$"), fontsize=10)
    if len(signals) <= 10:
        rows[0].legend(loc="upper right", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _broken(times: F64, values: F64) -> tuple[F64, F64]:
    """Times and values with a NaN in each gap, so that no line is drawn across it."""
    gaps = [index + 1 for index, (before, after) in enumerate(pairwise(times)) if after - before > MAX_GAP]
    return np.insert(times, gaps, np.nan), np.insert(values, gaps, np.nan)
