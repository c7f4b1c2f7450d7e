"""The application: its routes, and what all of them share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import io
import logging
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octamark import __version__
from octamark.faces import Faces
from octamark.io import Record, open_writer
from octamark.layouts import BUILTIN, Layout, layout
from octamark.models import ModelCard
from octamark.serving import openapi
from octamark.serving.refusal import RefusalError, problem
from octamark.serving.service import Options, ResultOptions, Service, Work
from octamark.serving.settings import Settings
from octamark.serving.uploads import Upload

logger = logging.getLogger("octamark.serving")

MEDIA_TYPES = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "coco": "application/json",
}

CONTENT_SECURITY_POLICY = "; ".join([
    "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "worker-src 'self' blob:", "style-src 'self'",
    "img-src 'self' blob: data:", "media-src 'self' blob: mediastream:", "connect-src 'self'", "manifest-src 'self'",
     "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
])  # fmt: skip
"""What the page may load: nothing from another host."""

LINGER = 2.0
"""Seconds for which the rest of a refused body is read and dropped, so that the client sees the answer."""

_QUIET = ("/health/live", "/health/ready", "/metrics")
"""Routes that are not logged."""


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: what it serves, and what it allows.

    Raises:
        WeightsError: an unknown model, or a missing or damaged file.

    Examples:
        >>> app = create_app(Settings(models=("pico",)))
        >>> sorted(path for path in app.openapi()["paths"] if path.startswith("/v1"))
        ['/v1/landmarks', '/v1/layouts', '/v1/models', '/v1/overlay']
    """
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="octamark",
        version=__version__,
        summary="Facial landmarks with an expected error for every point.",
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy, the address that a redirection names is not the client's
        lifespan=lifespan,
        responses=openapi.REFUSALS,
    )
    app.state.service = service
    app.include_router(_results(service), dependencies=[Depends(_token_check(settings.token)), Depends(_check_query)])
    app.include_router(_health(service))
    if settings.site is not None:
        app.mount("/", _Site(directory=settings.site, html=True), name="site")
    app.add_exception_handler(RefusalError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(_Gate, service=service)
    return app


def _results(service: Service) -> APIRouter:
    """The routes that need the token, if there is one."""
    router = APIRouter()

    @router.post("/v1/landmarks", tags=["faces"], **openapi.LANDMARKS)
    async def landmarks(request: Request, options: Annotated[ResultOptions, Query()]) -> Response:
        """The faces of one or several pictures, in the formats of `octamark predict`.

        The body is one picture as it is, or a form (`multipart/form-data`) with pictures as files. If one picture of
        several cannot be used, the request is refused, and the reason names the picture.
        """
        work = request.state.work
        async with _upload(service, request) as upload:
            boxes = _boxes(options, upload)
            faces = await service.faces(upload.pictures, boxes, options, work, request.receive)
            names = [picture.name for picture in upload.pictures]
        model = options.model or service.predictor.default
        target = service.predictor.models[model].layout
        content = _written(options.format, names, model, target, faces)
        return Response(content, media_type=MEDIA_TYPES[options.format])

    @router.post("/v1/overlay", tags=["faces"], **openapi.OVERLAY)
    async def overlay(request: Request, options: Annotated[Options, Query()]) -> Response:
        """One picture with its landmarks drawn on it, as PNG. Small pictures are enlarged."""
        async with _upload(service, request) as upload:
            if len(upload.pictures) > 1:
                raise RefusalError(422, f"{len(upload.pictures)} pictures; an overlay is drawn of one")
            boxes = _boxes(options, upload)
            drawn = await service.overlay(upload.pictures[0], boxes, options, request.state.work, request.receive)
        return Response(drawn, media_type="image/png")

    @router.get("/v1/models", tags=["about"], **openapi.MODELS)
    async def models() -> list[dict[str, Any]]:
        """The models that requests may choose; the first is the default."""
        return [_described(landmarker.card) for landmarker in service.predictor.models.values()]

    @router.get("/v1/layouts", tags=["about"], **openapi.LAYOUTS)
    async def layouts() -> list[dict[str, Any]]:
        """The landmark layouts: names of the points, parts, edges and mirror partners."""
        served = {landmarker.layout.name: landmarker.layout for landmarker in service.predictor.models.values()}
        builtin = {name: layout(name) for name in BUILTIN}
        return [_described_layout(each) for each in {**builtin, **served}.values()]

    @router.get("/metrics", tags=["operation"], **openapi.METRICS)
    async def metrics() -> Response:
        """Counts, sizes and times for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _health(service: Service) -> APIRouter:
    """The routes for whoever watches over the service."""
    router = APIRouter(tags=["operation"])

    @router.get("/health/live", responses={200: {"content": {"application/json": {"example": {"status": "live"}}}}})
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "live"}

    @router.get("/health/ready", responses={200: {"content": {"application/json": {"example": {"status": "ready"}}}}})
    async def ready() -> Response:
        """Whether pictures are taken: models and decoders are there, and the queue has room."""
        service.check_queue(1)
        return JSONResponse({"status": "ready"})

    return router


@contextlib.asynccontextmanager
async def _upload(service: Service, request: Request) -> AsyncIterator[Upload]:
    """The body of a request, unless the queue is full already."""
    service.check_queue(1)
    async with service.uploads.read(request) as upload:
        service.metrics.bytes.observe(upload.size)
        request.state.work.bytes = upload.size
        yield upload


def _boxes(options: Options, upload: Upload) -> str | None:
    if options.boxes is not None and upload.boxes is not None:
        raise RefusalError(422, "boxes in the URL and in the form; give them once")
    return options.boxes if upload.boxes is None else upload.boxes


def _written(form: str, names: Sequence[str], model: str, used: Layout, faces: Sequence[Faces]) -> bytes:
    """Predictions as ``octamark predict`` prints them."""
    target = io.BytesIO()
    with open_writer(form, target, model=model, layout=used) as writer:
        for name, picture_faces in zip(names, faces, strict=True):
            writer.write(Record(name, name, model, picture_faces))
    return target.getvalue()


def _described(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "layout": card.layout,
        "input": card.crop.size,
        "parameters": card.parameters,
        "scores": card.scores,
        "normaliser": card.normaliser,
        "training_data": card.training_data,
        "terms": card.terms,
        "commercial_use": card.commercial_use,
    }


def _described_layout(layout: Layout) -> dict[str, Any]:
    return {
        "name": layout.name,
        "title": layout.title,
        "points": list(layout.point_names),
        "parts": {name: list(indices) for name, indices in layout.parts.items()},
        "edges": [[int(first), int(second)] for first, second in layout.edges],
        "mirror": [int(index) for index in layout.mirror],
        "outline": [int(index) for index in layout.outline],
    }


def _token_check(token: str | None) -> Any:
    """A dependency that refuses requests without the token."""
    expected = None if token is None else hashlib.sha256(token.encode()).digest()

    async def check(request: Request) -> None:
        if expected is None:
            return
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        sent = hashlib.sha256(value.strip().encode("latin-1", "replace")).digest()
        if not hmac.compare_digest(sent, expected) or scheme.lower() != "bearer":
            raise RefusalError(
                401, "this service needs a token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )

    return check


async def _check_query(request: Request) -> None:
    """Refuse a parameter that stands in the URL more than once."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.most_common(1):
        if count > 1:
            raise RefusalError(422, f"parameter {name[:100]!r} {count} times; give it once")


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    return error.response()


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """Parameters of the URL that are unknown or have another value."""
    assert isinstance(error, RequestValidationError)
    reasons = []
    for entry in error.errors():
        name = str(entry["loc"][-1])[:100]
        if entry["type"] == "extra_forbidden":
            route = request.scope.get("route")
            known = ResultOptions if getattr(route, "path", "") == "/v1/landmarks" else Options
            reasons.append(f"unknown parameter {name!r}; allowed: {', '.join(known.model_fields)}")
        else:
            reasons.append(f"{name} {str(entry['input'])[:100]!r}: {entry['msg'].lower()}")
    return problem(422, "; ".join(reasons))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """404 and 405."""
    assert isinstance(error, HTTPException)
    reason = {404: "no such path; /openapi.json lists them", 405: "no such method at this path"}
    return problem(error.status_code, reason.get(error.status_code, error.detail), dict(error.headers or {}))


class _Site(StaticFiles):
    """The page, which may load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Embedder-Policy"] = "require-corp"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


class _Gate:
    """Counts and logs requests, answers after an error, and reads what is left of a body that was refused.

    The log has method, route, status, sizes and times; no names, no addresses, no parameters.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, exchange = time.perf_counter(), _Exchange(receive, send)
        work = scope.setdefault("state", {})["work"] = Work()
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = 499
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s in %s line %s", type(error).__name__, place.filename, place.lineno)
            exchange.status = exchange.status or 500
            if not exchange.answered:
                await problem(500, "an error of the service; its log has more")(scope, receive, exchange.send)
        route = getattr(scope.get("route"), "path", None) or "-"
        seconds = time.perf_counter() - started
        self.service.metrics.requests.labels(route, exchange.status).inc()
        self.service.metrics.seconds.labels(route).observe(seconds)
        if route not in _QUIET:
            logger.info(
                "%s %s %d bytes=%d pictures=%d megapixels=%.2f faces=%d sent=%d ms=%.0f",
                scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "-", route, exchange.status,
                work.bytes, work.pictures, work.pixels / 1e6, work.faces, exchange.sent, 1000 * seconds,
            )  # fmt: skip


class _Exchange:
    """One request and its answer.

    Attributes:
        status: of the answer; 0 before it.
        answered: whether the answer has begun.
        sent: bytes of its body.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._more = True
        self.status = self.sent = 0
        self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._more = bool(message["type"] == "http.request" and message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.answered = message["status"], True
            message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            if self.status >= 400 and not message.get("more_body", False) and self._more:
                await self._send({**message, "more_body": True})
                await self._drop_body()
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drop_body(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self._more:
                    await self.receive()
