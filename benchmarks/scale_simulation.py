"""A simulation of `octamark batch` with many workers: parts, deaths, lost machines, slow machines, a driver that fails.

It is a simulation of events, one for each part that a worker reads, on one seed of random numbers. What it takes as
measured and what it assumes is in ``Measured`` and ``Assumed``."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octamark.cluster.job import batch_size


@dataclass(frozen=True)
class Measured:
    """Times on one core, seconds.

    Attributes:
        pictures: of single pictures, whose distribution is drawn from.
        start: until a new worker reads its first picture.
        call: of the driver, for one batch of pictures that it hands out and one answer that it takes.
        commit: of the driver, for one part.
        scan: per picture of earlier parts, when a job goes on.
    """

    pictures: NDArray[np.float64]
    start: float
    call: float
    commit: float
    scan: float


@dataclass(frozen=True)
class Assumed:
    """What is not measured.

    Attributes:
        workers, pictures: of the job. per_machine: workers on one machine.
        part: pictures in a part; as in ``octamark.cluster.JobOptions``.
        speed_spread: standard deviation of the logarithm of the machines' speeds.
        slow_share, slow_factor: share of machines that take so many times as long.
        worker_deaths: per worker and hour. machine_losses: per machine and hour.
        replacement: seconds until a lost machine is replaced.
        driver_deaths: per hour. driver_restart: seconds until it is started again, without reading what is there.
    """

    workers: int = 1000
    pictures: int = 1_000_000_000
    per_machine: int = 16
    part: int = 1000
    speed_spread: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 3.0
    worker_deaths: float = 0.0
    machine_losses: float = 0.0
    replacement: float = 300.0
    driver_deaths: float = 0.0
    driver_restart: float = 120.0

    @property
    def batch(self) -> int:
        """Pictures in a call."""
        return batch_size(self.workers)


@dataclass(frozen=True)
class Outcome:
    """A simulated job.

    Attributes:
        hours: from the start to the last part. ideal: all workers reading without a pause, at their speeds.
        read_again: pictures that were read a second time. deaths: of workers, with those of lost machines.
        restarts: of the driver. driver_load: share of its time in which it works.
    """

    hours: float
    ideal: float
    read_again: int
    deaths: int
    restarts: int
    driver_load: float

    @property
    def overhead(self) -> float:
        return self.hours / self.ideal - 1


def simulate(measured: Measured, assumed: Assumed, seed: int = 0) -> Outcome:
    """A job with these times.

    A part of n pictures takes a normally distributed time with n times the mean and variance of single pictures. A
    worker that dies within a part loses it, and a new one starts. The last parts are smaller, as batches are dealt out
    one by one. The driver serves one request at a time: a part waits for it as it is committed, after the calls that it
    took. Where the driver dies, the parts in progress are lost, and all workers start anew.
    """
    rng = np.random.default_rng(seed)
    mean, deviation = float(measured.pictures.mean()), float(measured.pictures.std())
    machines = -(-assumed.workers // assumed.per_machine)
    slowness = np.exp(rng.normal(0, assumed.speed_spread, machines)) if assumed.speed_spread else np.ones(machines)
    slowness[rng.random(machines) < assumed.slow_share] *= assumed.slow_factor
    by_worker = np.repeat(slowness, assumed.per_machine)[: assumed.workers]
    ideal = assumed.pictures * mean / float((1 / by_worker).sum())
    horizon = 20 * ideal + 3600
    losses = [_moments(rng, assumed.machine_losses, horizon) for _ in range(machines)]
    driver_dies = _moments(rng, assumed.driver_deaths, horizon)

    left, read_again, deaths, restarts = assumed.pictures, 0, 0, 0
    driver_free = driver_work = finished = 0.0
    begun: dict[int, int] = {}  # worker -> pictures of the part that it reads
    idle: list[int] = []
    events = [(measured.start, worker, _READY, 0.0) for worker in range(assumed.workers)]  # time, worker, what, pause
    noise: list[float] = []
    while events:
        now, worker, what, pause = heapq.heappop(events)
        if restarts < len(driver_dies) and now > driver_dies[restarts]:  # parts in progress are lost with it
            lost = sum(begun.values())
            left, read_again = left + lost, read_again + lost
            begun.clear()
            idle.clear()
            driver_free = driver_dies[restarts] + assumed.driver_restart + measured.scan * (assumed.pictures - left)
            events = [(driver_free + measured.start, index, _READY, 0.0) for index in range(assumed.workers)]
            restarts += 1
            continue
        if what == _DIED:
            size = begun.pop(worker)
            deaths, left, read_again = deaths + 1, left + size, read_again + size
            heapq.heappush(events, (now + pause + measured.start, worker, _READY, 0.0))
            for other in idle:
                heapq.heappush(events, (now, other, _READY, 0.0))
            idle.clear()
            continue
        if what == _READ:
            work = measured.commit + measured.call * -(-begun.pop(worker) // assumed.batch)
            begins = max(driver_free, now)
            driver_free, driver_work = begins + work, driver_work + work
            finished, now = max(finished, driver_free), begins
        if not left:
            idle.append(worker)
            continue
        size = min(assumed.part, left, max(assumed.batch, left // assumed.workers))
        left -= size
        begun[worker] = size
        noise = noise or rng.normal(size=100_000).tolist()
        took = max(size * mean / 2, size * mean + noise.pop() * deviation * size**0.5) * by_worker[worker]
        death = rng.exponential(3600 / assumed.worker_deaths) if assumed.worker_deaths else np.inf
        machine = losses[worker // assumed.per_machine]
        next_loss = int(np.searchsorted(machine, now, "right")) if len(machine) else 0
        loss = machine[next_loss] - now if next_loss < len(machine) else np.inf
        if took <= min(death, loss):
            heapq.heappush(events, (now + took, worker, _READ, 0.0))
        else:
            heapq.heappush(
                events, (now + min(death, loss), worker, _DIED, assumed.replacement if loss < death else 0.0)
            )
    return Outcome(finished / 3600, ideal / 3600, read_again, deaths, restarts, driver_work / finished)


_READY, _READ, _DIED = range(3)


def _moments(rng: np.random.Generator, per_hour: float, horizon: float) -> NDArray[np.float64]:
    """The moments, in seconds up to the horizon, at which something happens so many times per hour."""
    if not per_hour:
        return np.zeros(0)
    count = int(rng.poisson(per_hour * horizon / 3600))
    return np.sort(rng.uniform(0, horizon, count))


def scenarios(base: Assumed) -> dict[str, Assumed]:
    """The simulated jobs by name; each adds something to the one before."""
    spread = replace(base, speed_spread=0.1)
    slow = replace(spread, slow_share=0.02)
    deaths = replace(slow, worker_deaths=0.01)
    machines = replace(deaths, machine_losses=0.02)
    return {
        "nothing fails": base,
        "machines of unequal speed": spread,
        "and 2 % of them three times slower": slow,
        "and workers die, one in 100 hours each": deaths,
        "and machines are lost, one in 50 hours each": machines,
        "and the driver dies, once in an hour": replace(machines, driver_deaths=1.0),
    }
