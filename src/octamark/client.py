"""``Client``: faces from a service that ``octamark serve`` started, on this machine or another."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from PIL import Image

from octamark.errors import BoxError, ConfigError, OctamarkError, PictureError, ServiceError, install_hint
from octamark.faces import Faces
from octamark.geometry import Picture
from octamark.images import PictureLike, read_picture
from octamark.inference.landmarker import Boxes, BoxKind
from octamark.inference.refiner import Refine
from octamark.inference.rotation import Rotation
from octamark.io.json import pictures as picture_entries
from octamark.layouts import Layout

if TYPE_CHECKING:
    import httpx

PER_REQUEST = 8
"""Pictures of a list that are sent together."""

BYTES_PER_REQUEST = 8_000_000
"""Bytes of encoded pictures that are sent together; a larger picture is sent alone."""

_Upload = tuple[str, bytes]
"""The name of a picture for messages of errors, another one for each of a list, and its encoded bytes."""

_MAX_PAUSE = 30.0
"""Seconds that a client waits at most before it tries again, whatever the service asks for."""


class Client:
    """Asks a service for faces. A context manager that closes its connections; safe to share between threads.

    Args:
        url: of the service, with the path under which a proxy serves it.
        token: that the service asks for.
        timeout: seconds for connecting, sending, and waiting for the answer, each.
        attempts: how often a request is sent while the service is busy (503) or cannot be reached.
        layout: of the service's models, where it is not one of octamark's own.
        transport: of httpx, such as one for tests; None uses the network.

    Raises:
        OctamarkError: httpx is not installed.
        ConfigError: no URL of http or https, or less than one attempt.

    Examples:
        >>> with Client("http://127.0.0.1:8000", token="0123456789abcdef") as client:
        ...     print(client.url)
        http://127.0.0.1:8000
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout: float = 60.0,
        attempts: int = 5,
        layout: Layout | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise OctamarkError(
                f"the client needs a package that is not installed: {install_hint(['httpx'])}"
            ) from None
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ConfigError(f"url {url!r}; allowed: http://... or https://...")
        if attempts < 1:
            raise ConfigError(f"attempts {attempts!r}; allowed: whole numbers above 0")
        self.url, self._attempts, self._layout = url.rstrip("/"), attempts, layout
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, transport=transport)
        self._unreachable: type[Exception] = httpx.TransportError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @overload
    def landmarks(
        self,
        picture: PictureLike,
        boxes: Boxes | None = None,
        *,
        model: str | None = None,
        refine: Refine = "auto",
        rotation: Rotation = "auto",
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        min_confidence: float = 0.0,
    ) -> Faces: ...
    @overload
    def landmarks(
        self,
        picture: list[Any] | tuple[Any, ...],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        model: str | None = None,
        refine: Refine = "auto",
        rotation: Rotation = "auto",
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        min_confidence: float = 0.0,
    ) -> list[Faces]: ...
    def landmarks(
        self,
        picture: PictureLike | list[Any] | tuple[Any, ...],
        boxes: Boxes | Sequence[Boxes | None] | None = None,
        *,
        model: str | None = None,
        refine: Refine = "auto",
        rotation: Rotation = "auto",
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        min_confidence: float = 0.0,
    ) -> Faces | list[Faces]:
        """The faces in a picture, or in each picture of a list, as a ``Landmarker`` gives them.

        Numbers are rounded as in files of predictions; ``crops`` and the calibration of ``radius`` are not known.

        Args:
            picture: path or encoded bytes, which are sent as they are; PIL image or array, which are sent as PNG.
            boxes, box_kind, full_frame: as in calling a ``Landmarker``.
            model: a name that the service has; by default its first one.
            refine, rotation, min_confidence: as in ``octamark.InferenceOptions``.

        Raises:
            PictureError: a picture that cannot be read, or that the service refuses.
            BoxError: a list of boxes whose length differs from the number of pictures.
            ServiceError: anything else that the service refuses, or a service that is busy or cannot be reached.
        """
        options = {
            "model": model, "refine": refine, "rotation": rotation, "box_kind": box_kind, "full_frame": full_frame,
            "min_confidence": min_confidence,
        }  # fmt: skip
        if not isinstance(picture, list | tuple):
            return self._faces([_upload(picture)], None if boxes is None else [boxes], options)[0]
        if boxes is not None and len(boxes) != len(picture):
            raise BoxError(
                f"{len(picture)} pictures but {len(boxes)} lists of boxes; give one (or None) for each picture"
            )
        results: list[Faces] = []
        for start, chunk in _chunks(picture):
            chosen = None if boxes is None else list(boxes[start : start + len(chunk)])
            results += self._faces(chunk, chosen, options)
        return results

    def overlay(self, picture: PictureLike, boxes: Boxes | None = None, **options: Any) -> Picture:
        """A picture with its landmarks drawn on it, (H, W, 3) uint8 RGB, larger for small faces.

        Args:
            picture, boxes: as in ``landmarks``.
            options: as in ``landmarks``.

        Raises:
            PictureError, ServiceError: as ``landmarks``.
        """
        data = self._post("/v1/overlay", [_upload(picture)], None if boxes is None else [boxes], options)
        return read_picture(data)

    def models(self) -> list[dict[str, Any]]:
        """The models of the service, the default first: name, layout, scores, terms.

        Raises:
            ServiceError: as ``landmarks``.
        """
        values: list[dict[str, Any]] = json.loads(self._send("GET", "/v1/models"))
        return values

    def layouts(self) -> list[dict[str, Any]]:
        """The layouts that the service knows: names of the points, parts, edges, mirror partners.

        Raises:
            ServiceError: as ``landmarks``.
        """
        values: list[dict[str, Any]] = json.loads(self._send("GET", "/v1/layouts"))
        return values

    def _faces(self, pictures: Sequence[_Upload], boxes: Sequence[Any] | None, options: dict[str, Any]) -> list[Faces]:
        content = json.loads(self._post("/v1/landmarks", pictures, boxes, options))
        entries = picture_entries(
            ((f"{self.url}: picture {n}", value) for n, value in enumerate(content)), self._layout
        )
        return [entry.record(entry.file).faces for entry in entries]

    def _post(
        self, path: str, pictures: Sequence[_Upload], boxes: Sequence[Any] | None, options: dict[str, Any]
    ) -> bytes:
        query = {name: value for name, value in options.items() if value is not None}
        fields = {}
        if boxes is not None:
            plain = [None if of_picture is None else np.asarray(of_picture).tolist() for of_picture in boxes]
            fields["boxes"] = json.dumps(plain[0] if len(pictures) == 1 else plain)
        files = [("picture", (name or "picture", data)) for name, data in pictures]
        source = pictures[0][0] if len(pictures) == 1 else ""  # of several, the service names the one that it refuses
        return self._send("POST", path, source, params=query, data=fields, files=files)

    def _send(self, method: str, path: str, source: str = "", **content: Any) -> bytes:
        """The body of the answer to a request, which is sent again while the service is busy.

        Args:
            source: what is sent, for the messages of errors.
        """
        for remaining in reversed(range(self._attempts)):
            try:
                response = self._http.request(method, path, **content)
            except self._unreachable as error:
                if not remaining:
                    raise ServiceError(f"{self.url}: cannot be reached ({error})") from error
                time.sleep(1.0)
                continue
            if response.status_code == 200:
                return response.content
            if response.status_code != 503 or not remaining:
                raise _refusal(f"{self.url}: {source}" if source else self.url, response)
            time.sleep(_pause(response.headers.get("Retry-After", "")))
        raise AssertionError


def _pause(text: str) -> float:
    """Seconds in a header ``Retry-After``."""
    return min(float(text), _MAX_PAUSE) if text.isascii() and text.isdecimal() else 1.0


def _refusal(source: str, response: httpx.Response) -> OctamarkError:
    """The error for an answer other than success; ``source`` begins its message."""
    try:
        reason = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):  # of a proxy
        reason = response.reason_phrase
    message = f"{source}: {reason} (status {response.status_code})"
    if response.status_code in (400, 413, 415):
        return PictureError(message)
    return ServiceError(message, response.status_code)


def _chunks(pictures: Sequence[Any]) -> Iterator[tuple[int, list[_Upload]]]:
    """Pictures that are sent together, with the index of the first."""
    start, chunk, size = 0, list[_Upload](), 0
    for index, picture in enumerate(pictures):
        upload = _upload(picture, index)
        size += len(upload[1])
        if chunk and (len(chunk) == PER_REQUEST or size > BYTES_PER_REQUEST):
            yield start, chunk
            start, chunk, size = index, [], len(upload[1])
        chunk.append(upload)
    if chunk:
        yield start, chunk


def _upload(picture: PictureLike, index: int | None = None) -> _Upload:
    """The name of a picture and its encoded bytes.

    Args:
        index: in the caller's list; None for a single picture.
    """
    file = Path(picture).name if isinstance(picture, str | os.PathLike) else ""
    place = "" if index is None else f"index {index}"
    return ": ".join(filter(None, (place, file))), _encoded(picture)


def _encoded(picture: PictureLike) -> bytes:
    """The bytes of a picture file."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise PictureError(f"{os.fspath(picture)}: cannot be read ({error.strerror})") from error
    buffer = io.BytesIO()
    Image.fromarray(read_picture(picture)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
