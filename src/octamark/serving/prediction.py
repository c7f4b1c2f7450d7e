"""Faces of decoded pictures: the detector for each picture, the landmark networks for the faces of several together."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from octamark.errors import ConfigError
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.inference.landmarker import BoxKind, Landmarker, Located, load
from octamark.inference.refiner import Refine
from octamark.inference.rotation import Rotation
from octamark.serving.metrics import Metrics
from octamark.serving.settings import Settings

MAX_WAIT = 0.010
"""Seconds that a picture waits for others to share the network's runs."""

BATCH = 8
"""Pictures that share them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """How the faces of a picture are read; pictures of the same reading share the network's runs.

    Attributes:
        model: one of ``Settings.models``.
        refine, rotation: as in ``octamark.InferenceOptions``.
    """

    model: str
    refine: Refine = "auto"
    rotation: Rotation = "auto"


@dataclass
class _Group:
    """Pictures that wait to be read together."""

    located: list[Located] = field(default_factory=list)
    faces: list[asyncio.Future[Faces]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Predictor:
    """The models of a service, and the threads that run them.

    Args:
        settings: models and number of threads.
        metrics: learn how many pictures are read together.

    Attributes:
        models: the landmarkers by the names that requests choose from.
        default: the first of the names.

    Raises:
        WeightsError: an unknown model, or a missing or damaged file.
        ConfigError: two models of one name.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self.models: dict[str, Landmarker] = {}
        for source in settings.models:
            landmarker = load(source, threads=1)
            name = landmarker.card.name
            if name in self.models:
                raise ConfigError(f"model {source}: named {name}, as another one of this service; give each name once")
            self.models[name] = landmarker
        self.default = next(iter(self.models))
        self._variants: dict[tuple[str, Refine], Landmarker] = {}
        self._loading = threading.Lock()
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="octamark-network")
        self._groups: defaultdict[Reading, _Group] = defaultdict(_Group)
        self._reads: set[asyncio.Task[None]] = set()
        self._expected = 0

    def expect(self) -> None:
        """Count a picture that is on its way to ``read``, for which others may wait a little."""
        self._expected += 1

    def miss(self) -> None:
        """Count no longer a picture that was expected."""
        self._expected -= 1
        if not self._expected:
            for reading in list(self._groups):
                self._submit(reading)

    async def locate(
        self, picture: Picture, reading: Reading, boxes: Any, box_kind: BoxKind, full_frame: bool
    ) -> Located:
        """Where the faces of a picture are; arguments and errors as for ``Landmarker.locate``.

        Raises:
            WeightsError: a refinement that the model does not have.
        """
        return await self._run(lambda: self._landmarker(reading).locate(picture, boxes, box_kind, full_frame))

    async def read(self, located: Located, reading: Reading) -> Faces:
        """The faces of a located picture that was expected, read together with those of others.

        Raises:
            PredictionError: a network that gives values that are not finite.
        """
        loop = asyncio.get_running_loop()
        group = self._groups[reading]
        result: asyncio.Future[Faces] = loop.create_future()
        group.located.append(located)
        group.faces.append(result)
        if len(group.located) == BATCH:
            self._submit(reading)
        elif group.timer is None:
            group.timer = loop.call_later(MAX_WAIT, self._submit, reading)
        self.miss()
        return await result

    def stop(self) -> None:
        """End the threads, after what they do."""
        self._threads.shutdown()

    def _submit(self, reading: Reading) -> None:
        """Let a thread read the group of pictures that waits."""
        group = self._groups.pop(reading)
        if group.timer is not None:
            group.timer.cancel()
        self._metrics.batch.observe(len(group.located))
        task = asyncio.get_running_loop().create_task(self._read_group(reading, group))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read_group(self, reading: Reading, group: _Group) -> None:
        """Read a group on a thread, and give each of its pictures what was read."""
        results = await self._run(lambda: self._read(reading, group.located))
        for future, result in zip(group.faces, results, strict=True):
            if future.done():  # cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _read(self, reading: Reading, located: list[Located]) -> list[Faces | Exception]:
        """The faces of each picture or its error. If reading them together fails, they are read one by one."""
        try:
            return list(self._landmarker(reading).read_located(located, rotation=reading.rotation))
        except Exception as error:
            if len(located) == 1:
                return [error]
        gc.collect()
        return [result for picture in located for result in self._read(reading, [picture])]

    def _landmarker(self, reading: Reading) -> Landmarker:
        """The landmarker of a reading, which is loaded when it is needed first."""
        base = self.models[reading.model]
        if reading.refine == "auto" or (reading.refine == "never" and base.refiner is None):
            return base
        key = (reading.model, reading.refine)
        with self._loading:
            if key not in self._variants:
                self._variants[key] = base.with_options(refine=reading.refine)
            return self._variants[key]

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
