"""Listening: uvicorn with time limits for slow clients, in one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import tempfile
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from octamark.errors import ConfigError
from octamark.serving.app import create_app
from octamark.serving.metrics import FOLDER
from octamark.serving.refusal import RETRY_AFTER
from octamark.serving.settings import Settings

GRACE_SECONDS = 60
"""After a stop, requests that run have this time to end."""

_START_SECONDS = 60
"""After this time a server process that does not answer the first one is replaced. On a busy machine, importing takes
longer than uvicorn's 5 seconds."""

_BACKLOG = 256
_MAX_HEADERS = 32 * 1024

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"retry-after: %d\r\ncontent-length: 20\r\n\r\ntoo many connections" % RETRY_AFTER
)

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "octamark.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        "uvicorn.error": {"level": "ERROR"},
    },
}


class Config(uvicorn.Config):
    """uvicorn's configuration of a service.

    Args:
        settings: of the service.
        workers: processes.

    Attributes:
        settings: as given.
    """

    def __init__(self, settings: Settings, workers: int = 1) -> None:
        self.settings = settings
        super().__init__(
            functools.partial(create_app, settings),
            factory=True,
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            workers=workers,
            log_config=LOGGING,
            access_log=False,
            server_header=False,
            root_path=settings.root_path,
            proxy_headers=False,
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=_MAX_HEADERS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_worker_healthcheck=_START_SECONDS,
        )


class PatientProtocol(H11Protocol):
    """HTTP for clients that may be slow on purpose.

    A connection ends when the headers of a request take longer than ``Settings.upload_seconds``, or when the client
    takes nothing of its answer for as long. Connections beyond ``Settings.connections`` are answered with 503. The
    time for bodies is checked in ``octamark.serving.uploads``.
    """

    _headers_timer: asyncio.TimerHandle | None = None
    _writing_timer: asyncio.TimerHandle | None = None

    @property
    def _settings(self) -> Settings:
        assert isinstance(self.config, Config)
        return self.config.settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._settings.connections:
            transport.write(_FULL)
            transport.close()
            return
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._headers_timer, self._writing_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _MAX_HEADERS):  # the limit is checked where headers are not complete yet
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _MAX_HEADERS])
        self._watch_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing_timer = self.loop.call_later(self._settings.upload_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing_timer is not None:
            self._writing_timer.cancel()

    def _watch_headers(self) -> None:
        """Start the time for headers where a request is awaited, and end it where there is one."""
        awaited = self.cycle is None or self.cycle.response_complete
        if awaited and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self._settings.upload_seconds, self.transport.abort)
        elif not awaited and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one.

    Raises:
        ConfigError: an address that does not exist or is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"address {host}, port {port}: cannot be used ({error.strerror})") from error
    listener.set_inheritable(True)
    return listener


def run(settings: Settings, listener: socket.socket, workers: int = 1) -> None:
    """Serve until the process is told to stop (SIGTERM or Ctrl-C), and then finish what is running.

    Args:
        settings: of the service.
        listener: as ``bind`` gives it.
        workers: processes, each with its own models, decoders and limits.
    """
    config = Config(settings, workers)
    if workers == 1:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when all is done
            uvicorn.Server(config).run([listener])
        return
    with tempfile.TemporaryDirectory(prefix="octamark-metrics-") as folder:
        os.environ[FOLDER] = folder
        Multiprocess(config, [listener]).run()
