"""How long networks take on a device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octamark import models
from octamark.inference.devices import DEVICES
from octamark.inference.session import CROPS_PER_BATCH, run, session


@dataclass(frozen=True)
class DeviceTimes:
    """What a network takes on a device.

    Attributes:
        load: seconds from the file's bytes to a network that has read one crop.
        one: milliseconds for one crop, the shortest of several runs.
        batch: milliseconds per crop where ``count`` are read together, the shortest of several runs.
        count: crops that the device reads together.
    """

    load: float
    one: float
    batch: float
    count: int


def device_times(
    model: str | Path | bytes = "small", device: str = "cpu", *, threads: int | None = 1, seconds: float = 0.5
) -> DeviceTimes:
    """The times of a model's network alone, without finding faces and cutting crops.

    Args:
        model, device, threads: as in ``octamark.load``; ``model`` may also be a regional network.
        seconds: how long each kind of run is repeated, at least three times.

    Raises:
        WeightsError: unknown name, missing or damaged file.
        DeviceError: more threads than processors, or a device that cannot be used.
    """
    name = "the model's bytes" if isinstance(model, bytes) else str(model)
    data = models.read(model, [*models.available(), models.REGIONS])
    start = time.perf_counter()
    network = session(data, name, threads, device)
    shape, count = network.get_inputs()[0].shape[1:], CROPS_PER_BATCH[DEVICES[device].on_processor]
    crops = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    names = [output.name for output in network.get_outputs() if output.name != "heatmaps"]
    run(network, names, crops[:1], name)
    load = time.perf_counter() - start
    shortest = []
    for batch in (crops[:1], crops):
        run(network, names, batch, name)  # some devices prepare for each number of crops
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            start = time.perf_counter()
            run(network, names, batch, name)
            times.append(time.perf_counter() - start)
        shortest.append(1000 * min(times) / len(batch))
    return DeviceTimes(load, shortest[0], shortest[1], count)
