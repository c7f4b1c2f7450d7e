"""Which pictures share the network's runs, and how long they wait for each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from octamark import ConfigError, Faces, Landmarker, PredictionError, read_picture
from octamark.inference.landmarker import Located
from octamark.serving import prediction
from octamark.serving.metrics import Metrics
from octamark.serving.prediction import BATCH, Predictor, Reading
from octamark.serving.settings import Settings
from running_service import Running

TINY = Reading("tiny-128")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures in each call of ``Landmarker.read_located``."""
    counts: list[int] = []
    original = Landmarker.read_located

    def counted(self: Landmarker, pictures: Sequence[Located], *arguments: Any, **options: Any) -> list[Faces]:
        counts.append(len(pictures))
        return original(self, pictures, *arguments, **options)

    monkeypatch.setattr(Landmarker, "read_located", counted)
    return counts


def with_predictor(scenario: Callable[[Predictor, Located], Awaitable[None]], portrait: bytes) -> None:
    async def main() -> None:
        predictor = Predictor(Settings(models=("tiny-128",), threads=1), Metrics())
        try:
            located = await predictor.locate(read_picture(portrait), TINY, None, "detector", False)
            await scenario(predictor, located)
        finally:
            predictor.stop()

    asyncio.run(main())


def test_two_models_of_one_name_are_an_error() -> None:
    with pytest.raises(ConfigError, match="model nano: named nano, as another one"):
        Predictor(Settings(models=("nano", "nano")), Metrics())


def test_pictures_that_come_together_are_read_together(reads: list[int], portrait: bytes) -> None:
    async def scenario(predictor: Predictor, located: Located) -> None:
        for _ in range(BATCH + 2):
            predictor.expect()
        results = await asyncio.gather(*(predictor.read(located, TINY) for _ in range(BATCH + 2)))
        assert all(np.array_equal(faces.landmarks, results[0].landmarks) for faces in results)
        assert reads == [BATCH, 2]

    with_predictor(scenario, portrait)


def test_a_picture_alone_does_not_wait(reads: list[int], portrait: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MAX_WAIT", 1e6)

    async def scenario(predictor: Predictor, located: Located) -> None:
        predictor.expect()
        await asyncio.wait_for(predictor.read(located, TINY), 60)
        predictor.expect()
        predictor.expect()
        waiting = asyncio.create_task(predictor.read(located, TINY))
        await asyncio.sleep(0.05)
        assert reads == [1]
        predictor.miss()  # such as a picture that cannot be decoded
        await asyncio.wait_for(waiting, 60)
        assert reads == [1, 1]

    with_predictor(scenario, portrait)


def test_no_picture_waits_longer_than_the_limit(reads: list[int], portrait: bytes) -> None:
    async def scenario(predictor: Predictor, located: Located) -> None:
        predictor.expect()
        predictor.expect()  # and never comes
        await asyncio.wait_for(predictor.read(located, TINY), 60)
        assert reads == [1]
        assert prediction.MAX_WAIT <= 0.010

    with_predictor(scenario, portrait)


def test_other_options_are_not_mixed(reads: list[int], portrait: bytes) -> None:
    async def scenario(predictor: Predictor, located: Located) -> None:
        for _ in range(3):
            predictor.expect()
        turned = Reading("tiny-128", rotation="never")
        await asyncio.gather(*(predictor.read(located, reading) for reading in (TINY, turned, TINY)))
        assert sorted(reads) == [1, 2]

    with_predictor(scenario, portrait)


def test_a_picture_that_fails_does_not_fail_the_others(portrait: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Landmarker.read_located

    async def scenario(predictor: Predictor, located: Located) -> None:
        broken = Located(located.picture, located.boxes, located.scores, located.crops)

        def fails(self: Landmarker, pictures: Sequence[Located], **options: Any) -> list[Faces]:
            if any(picture is broken for picture in pictures):
                raise PredictionError("not finite")
            return original(self, pictures, **options)

        monkeypatch.setattr(Landmarker, "read_located", fails)
        for _ in range(3):
            predictor.expect()
        calls = (predictor.read(one, TINY) for one in (located, broken, located))
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(second, PredictionError)
        assert isinstance(first, Faces)
        assert isinstance(third, Faces)

    with_predictor(scenario, portrait)


def test_requests_share_runs_and_get_what_they_would_get_alone(
    service: Running, reads: list[int], portrait: bytes, crowd: bytes
) -> None:
    alone = {data: service.post("/v1/landmarks", data).content for data in (portrait, crowd)}
    reads.clear()
    bodies = [portrait, crowd] * 8
    answers = service.post_all("/v1/landmarks", bodies)
    assert [response.status_code for response in answers] == [200] * 16
    assert sum(reads) == 16
    assert len(reads) < 16
    for body, response in zip(bodies, answers, strict=True):
        (result,), (expected,) = response.json(), json.loads(alone[body])
        for face, other in zip(result["faces"], expected["faces"], strict=True):
            assert np.abs(np.subtract(face["landmarks"], other["landmarks"])).max() <= 0.05
