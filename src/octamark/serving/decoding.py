"""Pictures from encoded bytes, decoded in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from octamark.geometry import Picture
from octamark.serving.budget import Budget
from octamark.serving.decoder import GO, HEADER, LENGTH, SKIP, Kind, read_exactly, read_into, write_all
from octamark.serving.metrics import Metrics
from octamark.serving.refusal import RefusalError
from octamark.serving.settings import Settings

_START_SECONDS = 60
_STOP_SECONDS = 5
_RESTART_SECONDS = 1
"""Between two attempts to start a process."""

_OUT_OF_TIME = getattr(signal, "SIGXCPU", None)
"""The signal by which the system ends a process that took all its processor time; Windows has none."""

_PIPE = 1 << 20
"""Bytes that a pipe holds, where the system allows it; with its usual 2^16, both sides wake up for each of them."""

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_ARENA_MAX": "1"}
"""Settings of glibc, so that the memory of a large picture goes back to the system when it is free. By default glibc
keeps the address space of such memory, and some large pictures one after another would use up what is allowed."""

T = TypeVar("T")


class DecoderStoppedError(Exception):
    """A decoding process that ended."""


class Decoder:
    """A decoding process. Its methods block, and belong to one thread at a time, except ``kill``.

    Attributes:
        killed: whether ``kill`` was called.
        ended: set by the caller, after a ``DecoderStoppedError``.

    Raises:
        DecoderStoppedError: the process ended; any method may raise it.
    """

    def __init__(self, settings: Settings) -> None:
        limits = [settings.max_pixels, settings.max_memory, settings.max_bytes, settings.decode_seconds]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "octamark.serving.decoder", *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **_ALLOCATOR},
            start_new_session=True,  # Ctrl-C is for the service, which finishes what is running
        )
        self._to, self._from = cast(io.FileIO, self._process.stdin), cast(io.FileIO, self._process.stdout)
        self.killed = self.ended = False
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)

    def wait_until_ready(self) -> None:
        """Return once the process can decode."""
        self._answer()

    def open(self, data: bytes) -> tuple[int, int]:
        """Pixels of this picture (0 if unknown), and bytes of memory that decoding it will take.

        Raises:
            RefusalError: 400, 413 or 415.
        """
        self._write(LENGTH.pack(len(data)))
        self._write(data)
        _, height, width, memory = self._answer()
        return height * width, memory

    def decode(self) -> Picture:
        """The opened picture, (H, W, 3) uint8 RGB.

        Raises:
            RefusalError: 400 or 413.
        """
        self._write(GO)
        _, height, width, _ = self._answer()
        picture = np.empty((height, width, 3), np.uint8)
        if not read_into(self._from, picture.data.cast("B")):
            raise DecoderStoppedError
        return picture

    def skip(self) -> None:
        """Leave the opened picture."""
        self._write(SKIP)

    def kill(self) -> None:
        """End the process at once, from any thread."""
        self.killed = True
        self._process.kill()

    def stop(self) -> None:
        """End the process, and wait until it has ended."""
        with contextlib.suppress(OSError):
            self._to.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._from.close()

    def took_all_its_time(self) -> bool:
        """Whether the system ended the process because it took more processor time than a picture may take."""
        try:
            return _OUT_OF_TIME is not None and self._process.wait(_STOP_SECONDS) == -_OUT_OF_TIME
        except subprocess.TimeoutExpired:
            return False

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return not self.killed and not self.ended and self._process.poll() is None

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._to, data)
        except OSError as error:
            raise DecoderStoppedError from error

    def _answer(self) -> tuple[Kind, int, int, int]:
        header = read_exactly(self._from, HEADER.size)
        if header is None:
            raise DecoderStoppedError
        number, height, width, amount = HEADER.unpack(header)
        kind = Kind(number)
        if kind < Kind.DAMAGED:
            return kind, height, width, amount
        reason = read_exactly(self._from, amount)
        if reason is None:
            raise DecoderStoppedError
        raise RefusalError(kind.status, reason.decode("utf-8", "replace"))


class Decoders:
    """Decodes pictures in some processes, and replaces those that end.

    Args:
        settings: limits and number of processes.
        metrics: count the processes that were replaced.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._memory = Budget(settings.max_memory)
        self._free: asyncio.Queue[Decoder] = asyncio.Queue()
        self._all: set[Decoder] = set()
        self._replacements: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(2 * settings.decoders, thread_name_prefix="octamark-decoder")

    async def start(self) -> None:
        """Start the processes, and return once all of them can decode."""
        await asyncio.gather(*(self._add() for _ in range(self._settings.decoders)))

    async def stop(self) -> None:
        """End the processes."""
        for task in self._replacements:
            task.cancel()
        await asyncio.gather(*self._replacements, return_exceptions=True)
        await asyncio.gather(*(self._in_thread(decoder.stop) for decoder in self._all))
        self._all.clear()
        self._threads.shutdown()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        return [decoder.process_id for decoder in self._all]

    @contextlib.asynccontextmanager
    async def picture(
        self, data: bytes, least_memory: Callable[[int], int] = lambda pixels: 0
    ) -> AsyncIterator[Picture]:
        """A picture, (H, W, 3) uint8 RGB, whose memory counts as long as the context lasts.

        Args:
            data: the encoded bytes.
            least_memory: from its number of pixels to the bytes that the context needs, the picture's own included.

        Raises:
            RefusalError: 400, 413 or 415: a damaged picture, one beyond the limits, or another format.
        """
        held = 0
        decoder = await self._free.get()
        while not decoder.alive:  # it ended while it had nothing to do
            self._return(decoder)
            decoder = await self._free.get()
        try:
            try:
                pixels, memory = await self._in_time(decoder, lambda: decoder.open(data))
                needed = max(memory, least_memory(pixels))
                if needed > self._memory.total:
                    await self._in_time(decoder, decoder.skip)
                    allowed = f"at most {self._memory.total / 1e6:,.0f} MB are allowed"
                    raise RefusalError(413, f"this takes {needed / 1e6:,.0f} MB; {allowed}")
                await self._memory.acquire(needed)
                held = needed
                picture = await self._in_time(decoder, decoder.decode)
            except DecoderStoppedError:
                decoder.ended = True  # which the system may not know yet
                raise await self._reason_of_end(decoder) from None
            finally:
                self._return(decoder)
            surplus = max(0, held - max(picture.nbytes, least_memory(picture.shape[0] * picture.shape[1])))
            held -= surplus
            self._memory.release(surplus)
            yield picture
        finally:
            self._memory.release(held)

    async def _in_time(self, decoder: Decoder, call: Callable[[], T]) -> T:
        """The result of a call in a thread; when the time is over the process is killed, and the call fails."""
        timer = asyncio.get_running_loop().call_later(self._seconds, decoder.kill)
        try:
            return await self._in_thread(call)
        except asyncio.CancelledError:
            decoder.kill()  # a thread still uses it
            raise
        finally:
            timer.cancel()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    @property
    def _seconds(self) -> float:
        """After which a process is killed: where the system limits its processor time, nobody waits any longer."""
        settings = self._settings
        return settings.decode_seconds if _OUT_OF_TIME is None else settings.request_seconds

    async def _reason_of_end(self, decoder: Decoder) -> RefusalError:
        if decoder.killed:
            return RefusalError(413, f"decoding takes longer than the {self._seconds:g} s that are allowed")
        if await self._in_thread(decoder.took_all_its_time):
            seconds = f"{self._settings.decode_seconds:g} s of processor time"
            return RefusalError(413, f"decoding takes more than the {seconds} that are allowed")
        return RefusalError(400, "the decoder ended at this picture, which is damaged or takes too much memory")

    def _return(self, decoder: Decoder) -> None:
        """Let the next picture have a decoder, or replace it."""
        if decoder.alive:
            self._free.put_nowait(decoder)
            return
        self._metrics.decoders_replaced.inc()
        task = asyncio.get_running_loop().create_task(self._replace(decoder))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self, decoder: Decoder) -> None:
        self._all.discard(decoder)
        await self._in_thread(decoder.stop)
        while True:
            try:
                return await self._add()
            except (OSError, DecoderStoppedError):  # such as too little memory for a process
                await asyncio.sleep(_RESTART_SECONDS)

    async def _add(self) -> None:
        """Start a process."""
        starting = asyncio.ensure_future(self._in_thread(lambda: Decoder(self._settings)))
        try:
            decoder = await asyncio.shield(starting)
        except asyncio.CancelledError:  # the service stops
            await self._in_thread((await starting).stop)
            raise
        self._all.add(decoder)
        timer = asyncio.get_running_loop().call_later(_START_SECONDS, decoder.kill)
        try:
            await self._in_thread(decoder.wait_until_ready)
        except BaseException:
            decoder.kill()
            self._all.discard(decoder)
            await asyncio.shield(self._in_thread(decoder.stop))
            raise
        finally:
            timer.cancel()
        self._free.put_nowait(decoder)
