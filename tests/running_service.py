"""Services that run while a test does: in this process without a network, or listening at a free port."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import uvicorn
from PIL import Image

from octamark.serving import server
from octamark.serving.app import create_app
from octamark.serving.service import Service
from octamark.serving.settings import Settings

T = TypeVar("T")

FEW: dict[str, Any] = {"models": ("tiny-128",), "decoders": 1, "threads": 2}
"""Settings with which a service starts soonest."""


class Running:
    """A service whose event loop runs in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._started = settings, threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    async def _main(self) -> None:
        try:
            app = create_app(self._settings)
            self.service: Service = app.state.service
            self.loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            transport = httpx.ASGITransport(app, root_path=self._settings.root_path)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as self.client,
            ):
                self._started.set()
                await self._stopped.wait()
        except BaseException as error:
            self._error = error
            self._started.set()
            raise

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a coroutine in the service's loop."""

        async def called() -> T:
            return await call()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(120)

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        return self.run(lambda: self.client.request(method, path, **content))

    def get(self, path: str, **content: Any) -> httpx.Response:
        return self.request("GET", path, **content)

    def post(self, path: str, data: bytes, **content: Any) -> httpx.Response:
        """Send one picture as the body."""
        headers = {"Content-Type": "image/jpeg", **content.pop("headers", {})}
        return self.request("POST", path, content=data, headers=headers, **content)

    def post_all(self, path: str, bodies: list[bytes]) -> list[httpx.Response]:
        """Send several requests at once."""

        async def all_of_them() -> list[httpx.Response]:
            headers = {"Content-Type": "image/jpeg"}
            return await asyncio.gather(*(self.client.post(path, content=body, headers=headers) for body in bodies))

        return self.run(all_of_them)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """A service in this process; the settings of ``FEW`` hold unless given."""
    service = Running(Settings(**{**FEW, **settings}))
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def listening(**settings: Any) -> Iterator[tuple[str, int, uvicorn.Server]]:
    """A service that listens at a free port of this machine: address, port and uvicorn's server."""
    listener = server.bind("127.0.0.1", 0)
    host, port = listener.getsockname()
    listening = uvicorn.Server(server.Config(Settings(**{**FEW, **settings})))
    thread = threading.Thread(target=listening.run, args=([listener],))
    thread.start()
    try:
        while not listening.started and thread.is_alive():
            thread.join(0.02)
        yield host, port, listening
    finally:
        listening.should_exit = True
        thread.join()


def encoded(picture: Any, form: str = "PNG", **options: Any) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG file of a few bytes whose header announces that many pixels, with so many rows of zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (3 * width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
