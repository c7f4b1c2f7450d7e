"""The queue, the time of a request, and clients that leave."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octamark.errors import ConfigError
from octamark.serving.service import Options, Work
from octamark.serving.settings import Settings
from octamark.serving.uploads import Picture
from running_service import encoded, running


def test_a_full_queue_is_503_with_a_time_to_try_again(portrait: bytes) -> None:
    with running(queue=2) as service:
        answers = service.post_all("/v1/landmarks", [portrait] * 5)
        assert sorted(response.status_code for response in answers) == [200, 200, 503, 503, 503]
        for response in answers:
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["detail"] == "2 pictures wait already; the service holds at most 2"
        assert service.post("/v1/landmarks", portrait).status_code == 200
        assert service.get("/health/ready").status_code == 200
        files = [("p", (str(number), portrait)) for number in range(3)]
        assert service.request("POST", "/v1/landmarks", files=files).status_code == 503


def test_uploads_have_a_common_limit(portrait: bytes) -> None:
    with running(max_uploads=80_000) as service:  # one portrait and a half
        answers = service.post_all("/v1/landmarks", [portrait] * 3)
        assert sorted(response.status_code for response in answers) == [200, 503, 503]
        assert service.post("/v1/landmarks", portrait).status_code == 200


def test_a_request_that_takes_too_long_is_503_and_leaves_nothing_behind(portrait: bytes) -> None:
    large = encoded(np.random.default_rng(0).integers(0, 255, (1500, 1500, 3)), "PNG", compress_level=0)
    with running(request_seconds=0.001) as service:
        response = service.post("/v1/landmarks", large)
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "not done within the 0.001 s" in response.json()["detail"]

        async def all_done() -> int:
            while service.service._tasks:
                await asyncio.sleep(0.01)
            return service.service.decoders._memory.free

        assert service.run(all_done) == service.service.settings.max_memory


def test_the_pictures_of_a_client_that_left_are_not_read(portrait: bytes) -> None:
    with running() as service:
        work, inner = Work(), service.service

        async def gone() -> None:
            return None

        async def leave() -> list[Any]:
            pictures = [Picture(str(number), portrait) for number in range(8)]
            result = await asyncio.gather(inner.faces(pictures, None, Options(), work, gone), return_exceptions=True)
            while inner._tasks:
                await asyncio.sleep(0.01)
            return result

        (error,) = service.run(leave)
        assert type(error).__name__ == "ClientDisconnect"
        assert work.pictures == 0
        assert inner.predictor._expected == 0
        assert service.post("/v1/landmarks", portrait).status_code == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": ()}, "name at least one"),
        ({"queue": 0}, "queue 0; allowed: whole numbers above 0"),
        ({"max_faces": 1.5}, "max_faces 1.5"),
        ({"decode_seconds": -1}, "decode_seconds -1; allowed: numbers above 0"),
        ({"request_seconds": float("nan")}, "request_seconds nan"),
        ({"token": "short"}, "the token has 5 characters; allowed: at least 16"),
        ({"token": "ä" * 20}, "all of ASCII"),
        ({"site": Path("missing")}, "site missing: no folder with an index.html"),
    ],
)
def test_wrong_settings_are_errors(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        Settings(**settings)


def test_settings_do_not_show_the_token() -> None:
    settings = Settings(token="0123456789abcdef")  # noqa: S106
    assert "0123456789abcdef" not in repr(settings)
    assert dataclasses.replace(settings, queue=3).token == "0123456789abcdef"  # noqa: S105
