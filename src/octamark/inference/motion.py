"""Motion of one face: a Kalman filter of its landmarks, and the smoother that goes over them backwards.

The landmarks are split in two: a similarity (centre, logarithm of the size, roll), which moves all points together,
and the points in the frame of the face, which the similarity takes to the picture. The similarity is fitted with robust
weights, so that a mouth that opens does not count as motion of the head. Each of these 4 + 2 M quantities has a filter
of its own, whose state is a position and a velocity that decays.

The measurement variance comes from the spread. Most of the error of a reading is the same in the next frame (the
network places a point a little too far left on this face), and no filter can remove it. A share of the spread,
``FACE_NOISE`` and ``POINT_NOISE``, changes from frame to frame. That share is the measurement noise; the rest stays in
the spread of the result. A reading of a point that may be hidden tells less: with the probability ``visible`` it says
where the point is, otherwise nothing, so its information, the inverse of the variance, is taken times ``visible``.

Fast motion, such as a blink, shows in the innovations: where those of a part of the face are larger than the filter
expects, its variance is raised until they fit, and the result follows the reading. A single point of the outline, the
brows or the nose that jumps has been misread, and is not followed. While the whole face moves, its points may move in
its frame too, because a head also turns.

Sources: R. Kalman, A New Approach to Linear Filtering and Prediction Problems, 1960; H. Rauch, F. Tung and C. Striebel,
Maximum Likelihood Estimates of Linear Dynamic Systems, 1965; R. Singer, Estimating Optimal Tracking Filter Performance
for Manned Maneuvering Targets, 1970, whose decaying acceleration is a decaying velocity here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout
from octamark.layouts.definition import part_kind

Smoothing = Literal["none", "low", "high"]
SMOOTHING: tuple[Smoothing, ...] = ("none", "low", "high")

F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]

FACE = 4
"""Quantities of the similarity: centre x, centre y, logarithm of the size, roll. Those of the points follow."""

FACE_NOISE, POINT_NOISE = 0.06, 0.1
"""Standard deviation of what changes in a reading from frame to frame, as a share of the spread: of the centre of the
face, and of a point in the frame of the face. Chosen on the clips of ``benchmarks/clips.py``; ``benchmarks/video.py
--noise`` measures them."""

FACE_DECAY, POINT_DECAY = 0.5, 0.08
"""Seconds in which the velocity of the face, and of a point in its frame, falls to 1 / e."""

FIRST_SPEED = (0.5, 0.5, 0.15, 0.25)
"""Standard deviation of the velocity of a new face, per second: centre in sizes of the face, logarithm of the size,
roll in radians."""

FIRST_POINT_SPEED = 0.02
"""The same of its points in its frame, sizes of the face per second."""

PART_GATE = 4.0
"""Mean of the squared innovations over their variances from which a part of the face, or the similarity, moves faster
than expected."""

FAST_PARTS, FAST_PART_GATE, FAST_SINGLE_GATE = ("eye", "mouth"), 3.0, 12.0
"""The same for parts that move fast by themselves; the last value is for each of their quantities alone."""

FACE_SINGLE_GATE = 14.0
"""The same for each quantity of the similarity alone."""

OUTLIER = 25.0
"""Most that one quantity may add to that mean: a point that the network places elsewhere in one frame does not count as
motion of its part."""

TURNING = 0.3
"""How much the points of a moving face move in its frame, because a head also turns: what each unit of the speed of the
similarity (sizes, radians and logarithms of the size per second) adds to the process noise of the points."""

HUBER = 1.5
"""Points whose residual of the fitted similarity is larger than this many median ones weigh less."""

RETURN = 0.02
"""Share by which the frame of the face goes back in each reading to where the points have their middle at 0 and a root
mean square distance of 1 from it."""

MIN_SIZE = 1e-3
"""Least size of a face in pixels, where all its points lie on one place."""

MIN_VISIBLE = 0.02
"""Points count as if their ``visible`` were at least this, so that their variance stays finite."""

MEAN_ABSOLUTE = float(np.sqrt(2 / np.pi))
"""Expected absolute value of a normal variable of standard deviation 1."""


@dataclass(frozen=True)
class ProcessNoise:
    """How much velocities change by themselves: the root of their variance after one second, per second.

    Attributes:
        centre: in sizes of the face, the root mean square distance of its points from their centre.
        size: of the logarithm of the size.
        roll: radians.
        points: of the points in the frame of the face, in sizes of the face.
    """

    centre: float
    size: float
    roll: float
    points: float


PROCESS = {"low": ProcessNoise(1.0, 0.4, 0.5, 0.1), "high": ProcessNoise(0.1, 0.025, 0.05, 0.005)}
"""Process noise by ``smoothing``."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the filter knows of one face at one time.

    Attributes:
        time: seconds.
        mean: (K, 2) position and velocity of each quantity.
        covariance: (K, 2, 2) of each.
    """

    time: float
    mean: F64
    covariance: F64

    @property
    def points(self) -> F64:
        """(M, 2) landmarks, pixels of the picture."""
        return self.to_picture(self.shape)

    @property
    def shape(self) -> F64:
        """(M, 2) landmarks in the frame of the face."""
        return self.mean[FACE:, 0].reshape(-1, 2)

    @property
    def centre(self) -> F64:
        """(2,) the centre of the face, pixels of the picture."""
        return self.mean[:2, 0]

    @property
    def size(self) -> float:
        """Root mean square distance of the landmarks from the centre, pixels; the unit of the face's frame."""
        return float(np.exp(self.mean[2, 0]))

    @property
    def speed(self) -> float:
        """How fast the similarity changes: sizes, logarithms of the size and radians per second, added."""
        centre, size, roll = self.mean[:2, 1], self.mean[2, 1], self.mean[3, 1]
        return float(np.hypot(*centre) / self.size + abs(size) + abs(roll))

    def to_face(self, points: F64) -> F64:
        """Points (..., 2) of the picture in the frame of the face."""
        return _plane((_complex(points) - complex(*self.centre)) / self._factor)

    def to_picture(self, points: F64) -> F64:
        """Points (..., 2) of the face's frame in the picture."""
        return _plane(complex(*self.centre) + self._factor * _complex(points))

    def spread(self, read: F64) -> F64:
        """(M, 2) expected absolute error per axis of ``points``, pixels.

        The sum of the variances of what does not change from frame to frame, and of what the filter leaves of the rest.

        Args:
            read: (M, 2) spread of the reading of this time.
        """
        variance = self.covariance[:, 0, 0]
        arm = (self.points - self.centre) ** 2
        moved = variance[:2] + arm * variance[2] + arm[:, ::-1] * variance[3]
        moved = moved + _turned_variance(variance[FACE:].reshape(-1, 2), self._factor)
        lasting = 1 - MEAN_ABSOLUTE**2 * (FACE_NOISE**2 + POINT_NOISE**2)
        return np.asarray(np.sqrt(lasting * np.asarray(read, np.float64) ** 2 + MEAN_ABSOLUTE**2 * moved))

    @property
    def _factor(self) -> complex:
        """The number that scales and turns points of the face's frame."""
        return complex(np.exp(complex(self.mean[2, 0], self.mean[3, 0])))


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the filter, with what the way back needs.

    Attributes:
        predicted: the estimate before the reading; its covariance is the one that the gate raised.
        updated: the estimate after it.
        transition: (K, 2, 2) from the estimate of the step before to ``predicted``.
        elapsed: seconds since then.
    """

    predicted: Estimate
    updated: Estimate
    transition: F64
    elapsed: float


class MotionFilter:
    """The filter of faces of one layout. Immutable; an ``Estimate`` is about one face.

    Args:
        layout: of the points. Innovations are pooled over its parts.
        smoothing: how much the points are held still.
    """

    def __init__(self, layout: Layout, smoothing: Smoothing = "low") -> None:
        noise = PROCESS["low" if smoothing == "none" else smoothing]
        points = 2 * layout.count
        self._is_face = np.arange(FACE + points) < FACE
        self._noise = np.array([noise.centre] * 2 + [noise.size, noise.roll] + [noise.points] * points)
        self._part = np.zeros(FACE + points, np.int64)  # 0 is the similarity
        fast = np.zeros(FACE + points, bool)
        for number, (name, indices) in enumerate(layout.parts.items(), 1):
            for index in indices:
                quantities = slice(FACE + 2 * index, FACE + 2 * index + 2)
                self._part[quantities] = number
                fast[quantities] = part_kind(name) in FAST_PARTS
        self._single_gate = np.where(fast, FAST_SINGLE_GATE, np.where(self._is_face, FACE_SINGLE_GATE, np.inf))
        self._part_gate = np.where(fast, FAST_PART_GATE, PART_GATE)

    def start(self, time: float, points: F64, spread: F64, visible: NDArray[np.floating] | None = None) -> Estimate:
        """The estimate of a new face.

        Args:
            time: seconds.
            points, spread: (M, 2) of its first reading, pixels of the picture; NaN where a point is not known.
            visible: (M,) of that reading, as in ``Faces``.
        """
        known = _known(points, spread)
        placed = _complex(np.where(known[:, None], points, 0.0))
        centre = complex(placed[known].mean()) if known.any() else 0j
        size = float(np.sqrt((np.abs(placed[known] - centre) ** 2).mean())) if known.any() else MIN_SIZE
        size = max(size, MIN_SIZE)
        mean = np.zeros((len(self._noise), 2))
        mean[:FACE, 0] = centre.real, centre.imag, np.log(size), 0.0
        mean[FACE:, 0] = np.where(known[:, None], _plane((placed - centre) / size), 0.0).ravel()
        noise = _measurement_variance(known, spread, complex(size), _counts(visible))
        covariance = np.zeros((len(mean), 2, 2))
        covariance[:, 0, 0] = np.where(np.isfinite(noise), noise, 1.0)
        covariance[:, 1, 1] = FIRST_POINT_SPEED**2
        covariance[:FACE, 1, 1] = np.array(FIRST_SPEED) ** 2 * self._unit(size)[:FACE]
        return Estimate(time, mean, covariance)

    def predict(self, estimate: Estimate, time: float) -> Step:
        """The estimate at a later time without a reading: a step whose ``updated`` is its ``predicted``."""
        elapsed = time - estimate.time
        (face, face_noise), (points, points_noise) = _motion(elapsed, FACE_DECAY), _motion(elapsed, POINT_DECAY)
        is_face = self._is_face[:, None, None]
        transition = np.where(is_face, face, points)
        noise = self._noise + np.where(self._is_face, 0.0, TURNING * estimate.speed)
        grown = np.where(is_face, face_noise, points_noise) * (noise**2 * self._unit(estimate.size))[:, None, None]
        mean = (transition @ estimate.mean[:, :, None])[:, :, 0]
        covariance = transition @ estimate.covariance @ transition.transpose(0, 2, 1) + grown
        predicted = Estimate(time, mean, covariance)
        return Step(predicted, predicted, transition, elapsed)

    def update(self, step: Step, points: F64, spread: F64, visible: NDArray[np.floating] | None = None) -> Step:
        """A predicted step after a reading; its arguments are as in ``start``."""
        predicted = step.predicted
        measured, noise = _measured(predicted, points, spread, _counts(visible))
        known = np.isfinite(noise)
        noise = np.where(known, noise, 1.0)
        innovation = np.where(known, measured - predicted.mean[:, 0], 0.0)
        covariance = self._raised(step, innovation, noise, known)
        total = covariance[:, 0, 0] + noise
        gain = np.where(known[:, None], covariance[:, :, 0] / total[:, None], 0.0)
        mean = predicted.mean + gain * innovation[:, None]
        updated = covariance - gain[:, :, None] * gain[:, None, :] * total[:, None, None]
        return replace(
            step,
            predicted=replace(predicted, covariance=covariance),
            updated=Estimate(predicted.time, mean, updated),
        )

    def _raised(self, step: Step, innovation: F64, noise: F64, known: NDArray[np.bool_]) -> F64:
        """The predicted covariance (K, 2, 2), raised where innovations are larger than it allows.

        The face is then taken to have changed its velocity, a point to have jumped.
        """
        covariance = step.predicted.covariance
        total = covariance[:, 0, 0] + noise
        squared = innovation**2 / total
        counts = np.bincount(self._part, known)
        pooled, capped = (
            (np.bincount(self._part, values) / np.maximum(counts, 1))[self._part]
            for values in (squared, np.minimum(squared, OUTLIER))
        )
        of_part = np.where(capped > self._part_gate, pooled / self._part_gate, 0.0)
        excess = np.maximum(squared / self._single_gate, of_part) - 1
        added = np.where(known, np.maximum(excess, 0.0) * total, 0.0)
        if not added.any():
            return covariance
        jump = np.array([[1.0, 0.0], [0.0, 0.0]])
        _, turn = _motion(step.elapsed, FACE_DECAY)
        shape = np.where(self._is_face[:, None, None], turn / turn[0, 0], jump)
        return np.asarray(covariance + added[:, None, None] * shape)

    def _unit(self, size: float) -> F64:
        """(K,) squared units of the quantities: the centre is in pixels, and moves in sizes of the face."""
        unit = np.ones(len(self._noise))
        unit[:2] = size**2
        return unit


def smoothed(first: Estimate, steps: Sequence[Step]) -> list[Estimate]:
    """The estimates of a face at all times, each from the readings before and after it: ``first`` and one per step.

    Source: the fixed-interval smoother of Rauch, Tung and Striebel.
    """
    estimates = [steps[-1].updated if steps else first]
    for index in range(len(steps) - 1, -1, -1):
        step, before = steps[index], steps[index - 1].updated if index else first
        gain = before.covariance @ step.transition.transpose(0, 2, 1) @ np.linalg.inv(step.predicted.covariance)
        later = estimates[-1]
        mean = before.mean + (gain @ (later.mean - step.predicted.mean)[:, :, None])[:, :, 0]
        change = later.covariance - step.predicted.covariance
        estimates.append(Estimate(before.time, mean, before.covariance + gain @ change @ gain.transpose(0, 2, 1)))
    return estimates[::-1]


def _counts(visible: NDArray[np.floating] | None) -> F64 | None:
    """(M,) how much each point counts; None where all count in full."""
    return None if visible is None else np.clip(np.nan_to_num(visible.astype(np.float64), nan=1.0), MIN_VISIBLE, 1.0)


def _measured(predicted: Estimate, points: F64, spread: F64, counts: F64 | None) -> tuple[F64, F64]:
    """The quantities (K,) of a reading and their noise, as variances (K,), infinite where a point is not known."""
    known = _known(points, spread)
    if not known.any():
        return predicted.mean[:, 0], np.full(len(predicted.mean), np.inf)
    placed = _complex(np.where(known[:, None], points, 0.0))
    shape = _complex(predicted.shape)
    variance = np.where(known[:, None], np.asarray(spread, np.float64) ** 2, 1.0).mean(axis=1)
    weights = known / np.maximum(variance, 1e-12)
    if counts is not None:
        weights = weights * counts
    centre, factor = _similarity(shape, placed, weights)
    for _ in range(2):
        residuals = np.abs(placed - centre - factor * shape)
        limit = HUBER * float(np.median(residuals[known]))
        centre, factor = _similarity(shape, placed, weights * np.minimum(1.0, limit / np.maximum(residuals, 1e-12)))
    if abs(factor) < MIN_SIZE:
        factor = complex(MIN_SIZE)
    # what the fit makes of noise would let the frame of the face shrink slowly
    middle, size = complex(shape.mean()), float(np.sqrt((np.abs(shape - shape.mean()) ** 2).mean()))
    centre += factor * RETURN * middle
    factor *= max(size, MIN_SIZE) ** RETURN
    roll = float(predicted.mean[3, 0])
    values = np.empty(len(predicted.mean))
    values[:3] = centre.real, centre.imag, np.log(abs(factor))
    values[3] = roll + np.remainder(np.angle(factor) - roll + np.pi, 2 * np.pi) - np.pi
    values[FACE:] = _plane((placed - centre) / factor).ravel()
    return values, _measurement_variance(known, spread, factor, counts)


def _similarity(shape: C128, placed: C128, weights: F64) -> tuple[complex, complex]:
    """Centre and factor of the weighted least squares fit placed = centre + factor * shape."""
    total = max(float(weights.sum()), 1e-300)
    shape_middle, middle = (weights * shape).sum() / total, (weights * placed).sum() / total
    arms = shape - shape_middle
    length = float((weights * np.abs(arms) ** 2).sum())
    factor = complex((weights * arms.conj() * (placed - middle)).sum() / length) if length > 0 else complex(MIN_SIZE)
    return complex(middle - factor * shape_middle), factor


def _measurement_variance(known: NDArray[np.bool_], spread: F64, factor: complex, counts: F64 | None) -> F64:
    """(K,) variance of what changes in a reading from frame to frame; infinite for points that are not known."""
    variance = np.where(known[:, None], np.asarray(spread, np.float64) ** 2, np.nan)
    variance = np.maximum(variance, (1e-4 * abs(factor)) ** 2)
    face = np.inf
    if known.any():
        mean = np.nanmean(variance) if counts is None else np.average(variance[known].mean(1), weights=counts[known])
        face = FACE_NOISE**2 * float(mean)
    size = abs(factor)
    local = POINT_NOISE**2 * _turned_variance(variance, 1 / factor)
    if counts is not None:
        local = local / counts[:, None]
    return np.concatenate(
        [[face, face, face / size**2, face / size**2], np.where(known[:, None], local, np.inf).ravel()]
    )


def _known(points: F64, spread: F64) -> NDArray[np.bool_]:
    """(M,) whether each point of a reading, (M, 2) with its spread, is known."""
    return np.asarray(np.isfinite(points + spread).all(axis=1))


def _turned_variance(variance: F64, factor: complex) -> F64:
    """Variances (..., 2) per axis after points were scaled and turned by a factor; the axes' errors independent."""
    cos, sin = factor.real**2, factor.imag**2
    return np.asarray(variance * cos + variance[..., ::-1] * sin)


@lru_cache(maxsize=256)
def _motion(elapsed: float, decay: float) -> tuple[F64, F64]:
    """Transition (2, 2) of position and velocity, and the covariance (2, 2) that noise of density 1 adds.

    The velocity decays exponentially and is driven by white noise (an Ornstein-Uhlenbeck process); the position is its
    integral.
    """
    step = elapsed / decay
    left = np.exp(-step)
    transition = np.array([[1.0, decay * (1 - left)], [0.0, left]])
    if step < 1e-3:  # the closed form would lose its digits; the series' first terms are exact to 0.1 %
        noise = np.array([[elapsed**3 / 3, elapsed**2 / 2], [elapsed**2 / 2, elapsed]])
    else:
        across = decay**2 * (1 - left) ** 2 / 2
        position = decay**3 * (2 * step - 3 + 4 * left - left**2) / 2
        noise = np.array([[position, across], [across, decay * (1 - left**2) / 2]])
    transition.setflags(write=False)
    noise.setflags(write=False)
    return transition, noise


def _complex(points: F64) -> C128:
    """Points (..., 2) as complex numbers x + iy."""
    return np.asarray(points[..., 0] + 1j * points[..., 1])


def _plane(numbers: C128) -> F64:
    """Complex numbers as points (..., 2)."""
    return np.stack([numbers.real, numbers.imag], axis=-1)
