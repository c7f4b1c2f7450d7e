"""The client: what it sends, what it gives back, and when it tries again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from octamark import BoxError, ConfigError, PictureError, ServiceError, drawing, load, read_picture
from octamark.client import PER_REQUEST, Client
from octamark.layouts import BUILTIN
from running_service import listening
from telling_model import telling_model

TOKEN = "0123456789abcdef"  # noqa: S105
PORTRAIT = Path(__file__).parent.parent / "docs" / "portrait.jpg"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with listening(token=TOKEN) as (host, port, _), Client(f"http://{host}:{port}/", token=TOKEN) as client:
        yield client


def test_faces_are_those_of_a_landmarker(client: Client) -> None:
    expected = load("tiny-128", threads=1)(PORTRAIT)
    pixels = read_picture(PORTRAIT)
    for picture in (PORTRAIT, str(PORTRAIT), PORTRAIT.read_bytes(), pixels, Image.fromarray(pixels)):
        faces = client.landmarks(picture)
        assert faces.layout.name == expected.layout.name
        assert faces.size == expected.size
        for name, digits in (("landmarks", 2), ("spread", 3), ("confidence", 4), ("boxes", 2)):
            assert np.abs(getattr(faces, name) - getattr(expected, name)).max() <= 0.52 * 10**-digits, name


def test_options_reach_the_service(client: Client) -> None:
    landmarker = load("tiny-128", threads=1)
    box = np.array([[140, 60, 230, 175]])
    faces = client.landmarks(PORTRAIT, box, box_kind="landmarks", rotation="never")
    expected = landmarker.with_options(rotation="never")(PORTRAIT, box, box_kind="landmarks")
    assert np.abs(faces.landmarks - expected.landmarks).max() <= 0.0052
    assert len(client.landmarks(PORTRAIT, min_confidence=1.0)) == 0
    faces, expected = client.landmarks(PORTRAIT, full_frame=True), landmarker(PORTRAIT, full_frame=True)
    assert np.abs(faces.landmarks - expected.landmarks).max() <= 0.0052


def test_lists_are_sent_in_parts(client: Client) -> None:
    boxes = [None, [[140, 60, 230, 175]], []] * 4
    results = client.landmarks([PORTRAIT] * 12, boxes)
    assert PER_REQUEST < 12
    assert [len(faces) for faces in results] == [1, 1, 0] * 4
    assert np.allclose(results[1].boxes, [[140, 60, 230, 175]])
    assert client.landmarks([]) == []
    with pytest.raises(BoxError, match="2 pictures but 1 lists of boxes"):
        client.landmarks([PORTRAIT, PORTRAIT], [None])


def test_an_overlay_comes_back_as_pixels(client: Client) -> None:
    picture = read_picture(PORTRAIT)
    expected = drawing.overlay(picture, load("tiny-128", threads=1)(picture))
    assert np.array_equal(client.overlay(PORTRAIT), expected)


def test_models_and_layouts(client: Client) -> None:
    assert [model["name"] for model in client.models()] == ["tiny-128"]
    assert {one["name"] for one in client.layouts()} == set(BUILTIN)


def test_refusals_are_errors_with_their_reason(client: Client, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"http://127.*: not a picture in a known format .*status 415"):
        client.landmarks(b"text")
    pictures: list[Any] = [PORTRAIT, read_picture(PORTRAIT)] * 5  # more than a request takes
    with pytest.raises(PictureError, match=r"http://127.*: picture 3 \(index 10\): not a picture in a known format"):
        client.landmarks([*pictures, b"text"])
    text = tmp_path / "notes.txt"
    text.write_text("text")
    with pytest.raises(PictureError, match=r"http://127.*: notes.txt: not a picture in a known format .*status 415"):
        client.overlay(text)
    with pytest.raises(PictureError, match=r"picture 2 \(index 1: notes.txt\): not a picture"):
        client.landmarks([PORTRAIT, text])
    with pytest.raises(ServiceError, match="model 'huge'; this service has tiny-128") as caught:
        client.landmarks(PORTRAIT, model="huge")
    assert caught.value.status == 422
    with pytest.raises(PictureError, match=r"missing.jpg: cannot be read"):
        client.landmarks("missing.jpg")
    with Client(client.url, token="wrong-wrong-wrong") as stranger, pytest.raises(ServiceError) as refused:  # noqa: S106
        stranger.models()
    assert refused.value.status == 401


def answering(answers: list[httpx.Response | Exception]) -> tuple[Client, Callable[[], int]]:
    """A client whose service gives these answers, and how many are left."""

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client(attempts=3, transport=httpx.MockTransport(handle)), lambda: len(answers)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client slept, which takes no time here."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def busy(after: str) -> httpx.Response:
    return httpx.Response(503, headers={"Retry-After": after}, json={"detail": "busy"})


def test_a_busy_service_is_asked_again_when_it_says(pauses: list[float]) -> None:
    good = httpx.Response(200, content=json.dumps([{"name": "small"}]))
    client, left = answering([busy("7"), httpx.ConnectError("refused"), good])
    assert client.models() == [{"name": "small"}]
    assert pauses == [7.0, 1.0]
    assert left() == 0


def test_a_service_that_stays_busy_is_an_error(pauses: list[float]) -> None:
    client, left = answering([busy("9999"), busy("soon"), busy("1"), busy("1")])
    with pytest.raises(ServiceError, match=r"busy \(status 503\)") as caught:
        client.models()
    assert caught.value.status == 503
    assert pauses == [30.0, 1.0]
    assert left() == 1


def test_a_service_that_is_not_there_is_an_error(pauses: list[float]) -> None:
    client, _ = answering([httpx.ConnectError("refused")] * 3)
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:8000: cannot be reached \(refused\)") as caught:
        client.models()
    assert caught.value.status is None


def test_the_answer_of_a_proxy_is_an_error_too(pauses: list[float]) -> None:
    client, _ = answering([httpx.Response(502, text="<html>")])
    with pytest.raises(ServiceError, match="Bad Gateway"):
        client.models()


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(ConfigError, match="allowed: http://"):
        Client("localhost:8000")
    with pytest.raises(ConfigError, match="url None; allowed: http://"):
        Client(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attempts 0"):
        Client(attempts=0)


def test_what_can_be_seen_comes_back(tmp_path: Path) -> None:
    """And counts in ``min_confidence``."""
    pytest.importorskip("onnx", reason="needs onnx")
    (tmp_path / "telling.onnx").write_bytes(telling_model())
    with listening(models=(str(tmp_path / "telling.onnx"),)) as (host, port, _), Client(f"http://{host}:{port}") as one:
        faces = one.landmarks(PORTRAIT)
        assert faces.visible is not None
        np.testing.assert_allclose(faces.visible, faces.confidence, atol=1e-4)
        plain, weighted = float(faces.confidence.mean()), float(faces.mean_confidence[0])
        assert len(one.landmarks(PORTRAIT, min_confidence=(plain + weighted) / 2)) == 1
        assert len(one.landmarks(PORTRAIT, min_confidence=weighted + 0.001)) == 0
