"""From an uploaded picture to its faces."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from octamark import drawing
from octamark.errors import OctamarkError, PredictionError
from octamark.faces import Faces
from octamark.geometry import Picture as Pixels
from octamark.inference.landmarker import BoxKind
from octamark.inference.refiner import Refine
from octamark.inference.rotation import Rotation
from octamark.serving.decoding import Decoders
from octamark.serving.metrics import Metrics
from octamark.serving.prediction import Predictor, Reading
from octamark.serving.refusal import RefusalError, busy
from octamark.serving.settings import Settings
from octamark.serving.uploads import Picture, Uploads

T = TypeVar("T")


class Options(BaseModel):
    """How the pictures of a request are read: the parameters of its URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Name of a model that the service has; by default its first one")
    refine: Refine = Field("auto", description="Which faces are read again region by region")
    rotation: Rotation = Field("auto", description="Which faces are read again in a turned crop")
    boxes: str | None = Field(
        None,
        description="Face boxes instead of the detector's: JSON, a list of [x1, y1, x2, y2] in pixels; for several "
        "pictures a list with such a list, or null, for each. A form may have them as a field.",
        examples=["[[60, 40, 200, 220]]"],
    )
    box_kind: BoxKind = Field("detector", description="Whether boxes are a detector's or tight around the landmarks")
    full_frame: bool = Field(False, description="One face fills the picture, such as a drawing: no detector is needed")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Leave out faces of a lower mean_confidence")


class ResultOptions(Options):
    """``Options``, and the form of the result."""

    format: Literal["json", "jsonl", "csv", "coco"] = Field("json", description="Form of the answer")


@dataclass
class Work:
    """What is known about a request while it is worked on, for the log and for its limits.

    Attributes:
        bytes: of the body.
        faces: that were found so far.
        pixels: that were decoded.
        pictures: that were answered.
        abandoned: the client does not wait any more.
    """

    bytes: int = 0
    faces: int = 0
    pixels: int = 0
    pictures: int = 0
    abandoned: bool = False


class Service:
    """Leads pictures through decoding, detection and landmarks.

    Args:
        settings: the limits.

    Attributes:
        settings, metrics, predictor, uploads, decoders: of the service.
        ready: whether pictures can be taken.

    Raises:
        WeightsError: an unknown model, or a missing or damaged file.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.predictor = Predictor(settings, self.metrics)
        self.uploads = Uploads(settings)
        self.decoders = Decoders(settings, self.metrics)
        self.ready = False
        self._held = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Start the decoding processes."""
        await self.decoders.start()
        self.ready = True

    async def stop(self) -> None:
        """Finish what is running, and end all threads and processes."""
        self.ready = False
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.decoders.stop()
        await asyncio.to_thread(self.predictor.stop)

    def check_queue(self, pictures: int) -> None:
        """Check that there is room for so many pictures.

        Raises:
            RefusalError: 503.
        """
        if not self.ready or self._held + pictures > self.settings.queue:
            raise busy(f"{self._held} pictures wait already; the service holds at most {self.settings.queue}")

    async def faces(
        self,
        pictures: Sequence[Picture],
        boxes: str | None,
        options: Options,
        work: Work,
        gone: Callable[[], Awaitable[object]],
    ) -> list[Faces]:
        """The faces of each picture.

        Args:
            pictures: of a request.
            boxes: JSON, for ``Options.boxes``.
            options: of the request.
            work: takes what is to be logged.
            gone: returns when the client has gone away.

        Raises:
            RefusalError: 400, 413, 415 or 422, with the name of the picture; 503 where the queue is full or time is
                over.
            ClientDisconnect: the client has gone away.
        """

        async def done(pixels: Pixels, faces: Faces) -> Faces:
            return faces

        return await self._each(pictures, boxes, options, work, gone, done)

    async def overlay(
        self, picture: Picture, boxes: str | None, options: Options, work: Work, gone: Callable[[], Awaitable[object]]
    ) -> bytes:
        """A picture with its landmarks drawn on it, as a PNG file; arguments and errors as for ``faces``."""

        async def drawn(pixels: Pixels, faces: Faces) -> bytes:
            return await asyncio.to_thread(_drawn, pixels, faces)

        return (await self._each([picture], boxes, options, work, gone, drawn, _drawing_memory))[0]

    async def _each(
        self,
        pictures: Sequence[Picture],
        boxes: str | None,
        options: Options,
        work: Work,
        gone: Callable[[], Awaitable[object]],
        finish: Callable[[Pixels, Faces], Awaitable[T]],
        memory: Callable[[int], int] = lambda pixels: 0,
    ) -> list[T]:
        """What ``finish`` makes of each picture and its faces; it takes ``memory`` bytes, by the number of pixels."""
        reading = Reading(self._model(options.model), options.refine, options.rotation)
        listed = self._boxes(boxes, len(pictures), options)
        self.check_queue(len(pictures))
        tasks = []
        for number, picture in enumerate(pictures, 1):
            name = f"picture {number} ({picture.name})" if len(pictures) > 1 else ""
            call = self._picture(picture.data, listed[number - 1], reading, options, work, finish, memory)
            tasks.append(self._start(self._named(name, call)))
        everything = asyncio.gather(*tasks)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(gone())
        waiting: set[asyncio.Future[Any]] = {everything, leaving}
        try:
            seconds = self.settings.request_seconds
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                return everything.result()
            if leaving.done():
                raise ClientDisconnect
            raise busy(f"not done within the {self.settings.request_seconds:g} s that a request may take; try again")
        finally:
            work.abandoned = True
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            if not everything.done():
                everything.add_done_callback(_ignore)

    def _start(self, call: Any) -> asyncio.Task[Any]:
        """A task that lasts until it is done, even if its request is not waited for any more."""
        self._hold(1)
        self.predictor.expect()
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)

        def finished(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            self._hold(-1)
            _ignore(task)

        task.add_done_callback(finished)
        return task

    def _hold(self, change: int) -> None:
        self._held += change
        self.metrics.queued.set(self._held)

    async def _named(self, name: str, call: Awaitable[T]) -> T:
        """The result of a call, whose refusals name the picture."""
        try:
            return await call
        except RefusalError as refusal:
            raise refusal.about(name) from None
        except MemoryError:
            raise busy("too little memory at the moment; try again") from None
        except PredictionError as error:
            raise RefusalError(500, str(error)).about(name) from None
        except OctamarkError as error:
            raise RefusalError(422, str(error)).about(name) from None

    async def _picture(
        self,
        data: bytes,
        boxes: Any,
        reading: Reading,
        options: Options,
        work: Work,
        finish: Callable[[Pixels, Faces], Awaitable[T]],
        memory: Callable[[int], int],
    ) -> T:
        expected, started = True, time.perf_counter()

        def stage(name: str) -> None:
            nonlocal started
            now = time.perf_counter()
            self.metrics.stage_seconds.labels(name).observe(now - started)
            started = now

        try:
            async with self.decoders.picture(data, memory) as pixels:
                del data
                stage("decode")
                self._go_on(work)
                located = await self.predictor.locate(pixels, reading, boxes, options.box_kind, options.full_frame)
                stage("detect")
                self._go_on(work)
                work.pixels += pixels.shape[0] * pixels.shape[1]
                work.faces += len(located.crops)
                if work.faces > self.settings.max_faces:
                    allowed = f"at most {self.settings.max_faces} are allowed"
                    raise RefusalError(413, f"{work.faces} faces in the pictures of this request; {allowed}")
                expected = False
                faces = await self.predictor.read(located, reading)
                stage("read")
                if options.min_confidence:
                    faces = faces[np.asarray(faces.mean_confidence) >= options.min_confidence]
                result = await finish(pixels, faces)
        finally:
            if expected:
                self.predictor.miss()
        work.pictures += 1
        self.metrics.pictures.inc()
        self.metrics.faces.inc(len(faces))
        return result

    def _go_on(self, work: Work) -> None:
        if work.abandoned:
            raise busy("the client does not wait any more")

    def _model(self, name: str | None) -> str:
        if name is None:
            return self.predictor.default
        if name not in self.predictor.models:
            raise RefusalError(422, f"model {name[:100]!r}; this service has {', '.join(self.predictor.models)}")
        return name

    def _boxes(self, text: str | None, pictures: int, options: Options) -> list[Any]:
        """The boxes of each picture, None where the detector looks for faces."""
        if text is None:
            return [None] * pictures
        if options.full_frame:
            raise RefusalError(422, "boxes together with full_frame; a face that fills the picture has none")
        form = "a list of [x1, y1, x2, y2]" if pictures == 1 else f"a list of {pictures} such lists, or null, of boxes"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise RefusalError(422, f"boxes are not JSON; allowed: {form}") from None
        if not isinstance(value, list) or (pictures > 1 and len(value) != pictures):
            form_sent = f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
            raise RefusalError(422, f"boxes: {form_sent}; allowed for {pictures} picture(s): {form}")
        boxes = [value] if pictures == 1 else value
        if any(not isinstance(of_picture, list | None) for of_picture in boxes):
            raise RefusalError(422, f"boxes; allowed for {pictures} picture(s): {form}")
        count = sum(len(of_picture or ()) for of_picture in boxes)
        if count > self.settings.max_faces:
            raise RefusalError(413, f"{count} boxes; at most {self.settings.max_faces} are allowed")
        return boxes


def _ignore(task: asyncio.Future[Any]) -> None:
    """Nobody waits for the error of this task, if it has one."""
    if not task.cancelled():
        task.exception()


def _drawn(pixels: Pixels, faces: Faces) -> bytes:
    """A picture with its faces drawn on it, as a PNG file."""
    canvas = drawing.overlay(pixels, faces)
    cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR, dst=canvas)
    return cv2.imencode(".png", canvas, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _drawing_memory(pixels: int) -> int:
    """Bytes that a picture, its overlay and the PNG file take together at most."""
    return 3 * pixels + 2 * 3 * max(pixels, drawing.MAX_ENLARGED_SIDE**2)
