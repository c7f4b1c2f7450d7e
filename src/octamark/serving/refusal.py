"""Answers other than success, as RFC 9457 describes them (``application/problem+json``)."""

from __future__ import annotations

import http

from starlette.responses import JSONResponse

RETRY_AFTER = 1
"""Seconds after which a client may try again, when the service is busy."""


class RefusalError(Exception):
    """A request that is not answered with a result.

    Args:
        status: of HTTP.
        reason: one sentence for people: what was given, and what is allowed.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}

    def about(self, picture: str) -> RefusalError:
        """The same, with the name of a picture before the reason."""
        return RefusalError(self.status, f"{picture}: {self.reason}" if picture else self.reason, self.headers)

    def response(self) -> JSONResponse:
        """The answer."""
        return problem(self.status, self.reason, self.headers)


def busy(reason: str) -> RefusalError:
    """A refusal for now: status 503, with the time after which to try again."""
    return RefusalError(503, reason, {"Retry-After": str(RETRY_AFTER)})


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer with a status and a reason."""
    content = {"title": http.HTTPStatus(status).phrase, "status": status, "detail": reason}
    return JSONResponse(content, status, headers, media_type="application/problem+json")
