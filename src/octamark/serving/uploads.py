"""The bodies of requests: one picture as it is, or a form with several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from octamark.serving.budget import Budget
from octamark.serving.refusal import RefusalError, busy
from octamark.serving.settings import Settings

FORM = "multipart/form-data"
RAW = ("application/octet-stream", "image/")

UNNAMED = "-"
"""Name of a picture that is the body of its request, as the command line names standard input."""

MAX_NAME = 255
_MAX_FIELD = 1_000_000  # bytes


@dataclass(frozen=True, eq=False)
class Picture:
    """An encoded picture.

    Attributes:
        name: as the client calls it, without folders.
        data: the encoded bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True, eq=False)
class Upload:
    """What a request brought.

    Attributes:
        pictures: one or more.
        boxes: the form's field of that name; None if there is none.
        size: bytes of the body.
    """

    pictures: list[Picture]
    boxes: str | None
    size: int


class _FormParser(MultiPartParser):
    spool_max_size = 0  # never to a file


class Uploads:
    """Reads the bodies of requests, all of them together within ``Settings.max_uploads`` bytes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._memory = Budget(settings.max_uploads)

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Upload]:
        """The body of a request, whose memory counts as long as the context lasts.

        Raises:
            RefusalError: 400: an empty body or a broken form. 408: too slow. 413: too many bytes or pictures. 415:
                another type. 422: an unknown field. 503: too many bytes are held already.
            ClientDisconnect: the client went away.
        """
        body = _Body(request, self._settings, self._memory)
        try:
            try:
                async with asyncio.timeout(self._settings.upload_seconds):
                    upload = await self._upload(request, body)
            except TimeoutError:
                allowed = f"at most {self._settings.upload_seconds:g} s are allowed"
                raise RefusalError(
                    408, f"the body did not arrive in time; {allowed}", {"Connection": "close"}
                ) from None
            yield upload
        finally:
            self._memory.release(body.size)

    async def _upload(self, request: Request, body: _Body) -> Upload:
        kind = request.headers.get("content-type", RAW[0]).split(";")[0].strip().lower()
        if kind == FORM:
            return await self._form(request, body)
        if kind != RAW[0] and not kind.startswith(RAW[1]):
            raise RefusalError(415, f"Content-Type {kind[:100]!r}; allowed: image/..., {RAW[0]}, {FORM}")
        data = b"".join([chunk async for chunk in body.chunks()])
        if not data:
            raise RefusalError(400, f"the body is empty; send the bytes of a picture, or {FORM}")
        return Upload([Picture(UNNAMED, data)], None, body.size)

    async def _form(self, request: Request, body: _Body) -> Upload:
        allowed = self._settings.max_pictures
        parser = _FormParser(request.headers, body.chunks(), max_files=allowed, max_fields=1, max_part_size=_MAX_FIELD)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if parser._current_files > allowed:
                raise RefusalError(413, f"more than {allowed} pictures; at most {allowed} are allowed") from error
            raise RefusalError(400, f"the form cannot be read: {error.message}") from error
        except UnicodeError as error:
            raise RefusalError(400, "the form cannot be read: its headers are not text") from error
        pictures, boxes = list[Picture](), None
        for field, value in form.multi_items():
            if isinstance(value, UploadFile):
                name = _plain_name(value.filename or "") or f"picture-{len(pictures) + 1}"
                pictures.append(Picture(name, await value.read()))
                await value.close()
            elif field == "boxes":
                boxes = value
            else:
                reason = "allowed: pictures as files, and boxes; options go into the URL"
                raise RefusalError(422, f"form field {field[:100]!r}; {reason}")
        if not pictures:
            raise RefusalError(400, "the form has no picture; send each one as a file")
        if empty := [picture.name for picture in pictures if not picture.data]:
            raise RefusalError(400, f"{empty[0]}: empty, no picture")
        return Upload(pictures, boxes, body.size)


class _Body:
    """The bytes of a body.

    Attributes:
        size: of what came so far, which is taken from the memory.
    """

    def __init__(self, request: Request, settings: Settings, memory: Budget) -> None:
        self._request, self._limit, self._memory = request, settings.max_bytes, memory
        self.size = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The parts of the body as they come."""
        self._check(self._announced())
        async for chunk in self._request.stream():
            self._check(self.size + len(chunk))
            if not self._memory.try_acquire(len(chunk)):
                raise busy("the service holds as many uploads as it may; try again")
            self.size += len(chunk)
            yield chunk

    def _announced(self) -> int:
        length = self._request.headers.get("content-length", "0")
        return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise RefusalError(413, f"a body of more than {self._limit:,} bytes; at most {self._limit:,} are allowed")


def _plain_name(name: str) -> str:
    """The last part of a path, as text that can be shown."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[:MAX_NAME].strip()


__all__ = ["FORM", "RAW", "ClientDisconnect", "Picture", "Upload", "Uploads"]
