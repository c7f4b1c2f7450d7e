"""What a service serves, and what it allows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from numbers import Integral
from pathlib import Path

from octamark.errors import ConfigError
from octamark.images import Limits

MIN_TOKEN = 16
"""Characters that a token has at least."""


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """The settings of a service. All limits hold for one server process.

    Attributes:
        models: names or paths of the models that requests may choose; the first is the default.
        decoders: processes that decode pictures.
        threads: threads that look for faces and run the networks, each network on one processor.
        max_bytes: of a request's body.
        max_pixels: of a picture, width times height.
        max_pictures: of a request.
        max_faces: of all pictures of a request.
        max_memory: bytes that pictures take together while they are decoded and read; further ones wait. A picture that
            alone needs more is refused.
        max_uploads: bytes of all bodies that are held at a time.
        queue: pictures that are held at a time, from the end of their upload to their answer.
        connections: that are open at a time.
        upload_seconds: from a connection's first byte to the end of the headers, and from there to the body's end.
        decode_seconds: of processor time for one picture, counted in whole seconds.
        request_seconds: from the end of the body to the answer.
        token: that requests have to carry; None lets everybody in.
        site: folder of the page at ``/``; None serves no page.
        root_path: path under which a proxy serves the service, such as ``/faces``.

    Raises:
        ConfigError: no model, a limit that is no whole number above 0, a time that is no number above 0, a token of
            less than ``MIN_TOKEN`` characters or of others than those of ASCII, or a folder without a page.

    Examples:
        >>> Settings(models=("tiny-128",)).max_pictures
        16
    """

    models: tuple[str, ...] = ("small",)
    decoders: int = field(default_factory=lambda: min(processors(), 4))
    threads: int = field(default_factory=lambda: min(processors(), 8))
    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_pictures: int = 16
    max_faces: int = 100
    max_memory: int = 260_000_000
    max_uploads: int = 64_000_000
    queue: int = 128
    connections: int = 512
    upload_seconds: float = 20.0
    decode_seconds: float = 5.0
    request_seconds: float = 30.0
    token: str | None = field(default=None, repr=False)
    site: Path | None = None
    root_path: str = ""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models (): name at least one")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type == "int" and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{entry.name} {value!r}; allowed: whole numbers above 0")
            if entry.type == "float" and (
                not isinstance(value, int | float) or isinstance(value, bool) or not value > 0
            ):
                raise ConfigError(f"{entry.name} {value!r}; allowed: numbers above 0")
        if self.token is not None and (
            len(self.token) < MIN_TOKEN or not (self.token.isascii() and self.token.isprintable())
        ):
            raise ConfigError(
                f"the token has {len(self.token)} characters; allowed: at least {MIN_TOKEN}, all of ASCII"
            )
        if self.site is not None and not (self.site / "index.html").is_file():
            raise ConfigError(f"site {self.site}: no folder with an index.html")

    @property
    def picture_limits(self) -> Limits:
        """The limits of one picture."""
        return Limits(bytes=self.max_bytes, pixels=self.max_pixels, memory=self.max_memory)
