"""The routes: results, refusals, options."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from octamark import drawing, load, read_picture
from octamark.cli import app as command
from octamark.layouts import BUILTIN
from running_service import Running, bomb, encoded, running


def detail(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == response.status_code
    return str(content["detail"])


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "coco"])
def test_results_are_what_the_command_line_prints(service: Running, portrait: bytes, form: str) -> None:
    arguments = ["predict", "-", "-m", "tiny-128", "-f", form, "--threads", "1"]
    printed = CliRunner().invoke(command, arguments, input=portrait)
    response = service.post(f"/v1/landmarks?format={form}", portrait)
    assert response.status_code == 200
    assert response.text == printed.stdout
    assert response.text.count("tiny-128")


def test_a_form_has_several_pictures_in_their_order(service: Running, portrait: bytes, crowd: bytes) -> None:
    files = [("picture", ("a.jpg", portrait)), ("other", ("b.jpg", crowd)), ("picture", ("a.jpg", portrait))]
    first, second, third = service.request("POST", "/v1/landmarks", files=files).json()
    assert [one["file"] for one in (first, second, third)] == ["a.jpg", "b.jpg", "a.jpg"]
    assert first["width"] == 400
    assert first == third
    assert len(second["faces"]) > len(first["faces"]) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\secret\\a.jpg", "a.jpg"),
        ("/", "picture-1"),
        ("a\u200bb.jpg", "ab.jpg"),
        ("n" * 400, "n" * 255),
    ],
)
def test_names_lose_their_folders(service: Running, portrait: bytes, name: str, shown: str) -> None:
    (result,) = service.request("POST", "/v1/landmarks", files={"picture": (name, portrait)}).json()
    assert result["file"] == shown


def test_options_are_those_of_a_landmarker(service: Running, portrait: bytes) -> None:
    for query, expected in (
        ("model=small", load("small", threads=1)(portrait)),
        ("model=small&refine=never", load("small", threads=1, refine="never")(portrait)),
        ("refine=always", load("tiny-128", threads=1, refine="always")(portrait)),
        ("rotation=never", load("tiny-128", threads=1, rotation="never")(portrait)),
        ("min_confidence=0.99", load("tiny-128", threads=1, min_confidence=0.99)(portrait)),
        ("full_frame=true", load("tiny-128", threads=1)(portrait, full_frame=True)),
    ):
        (result,) = service.post(f"/v1/landmarks?{query}", portrait).json()
        assert result["faces"] == expected.to_dict()["faces"], query


def test_boxes_replace_the_detector(service: Running, portrait: bytes) -> None:
    boxes = [[140, 60, 230, 175], [100, 100, 200, 200]]
    expected = load("tiny-128", threads=1)(portrait, boxes, box_kind="landmarks").to_dict()["faces"]
    query = {"boxes": json.dumps(boxes), "box_kind": "landmarks"}
    assert service.post("/v1/landmarks", portrait, params=query).json()[0]["faces"] == expected
    files = [("picture", ("a", portrait)), ("picture", ("b", portrait))]
    answer = service.request(
        "POST", "/v1/landmarks?box_kind=landmarks", files=files, data={"boxes": json.dumps([None, boxes])}
    )
    first, second = answer.json()
    assert second["faces"] == expected
    assert len(first["faces"]) == 1
    assert service.post("/v1/landmarks", portrait, params={"boxes": "[]"}).json()[0]["faces"] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("model=huge", ("'huge'", "tiny-128, small")),
        ("model=../../etc/passwd.onnx", ("tiny-128, small",)),
        ("refine=perhaps", ("refine", "'perhaps'", "always")),
        ("format=xml", ("format", "'xml'", "jsonl")),
        ("min_confidence=2", ("min_confidence", "'2'", "less than or equal to 1")),
        ("full_frame=maybe", ("full_frame", "'maybe'")),
        ("modl=small", ("unknown parameter 'modl'", "model, refine")),
        ("model=small&format=csv&model=tiny-128", ("parameter 'model' 2 times; give it once",)),
        ("boxes=1,2,3,4", ("boxes are not JSON", "[x1, y1, x2, y2]")),
        ("boxes=" + "[" * 30000, ("boxes are not JSON",)),
        ("boxes=7", ("boxes: int", "a list of")),
        ("boxes=[1,2,3,4]", ("boxes must be (n, 4)",)),
        ('boxes=[["a",2,3,4]]', ("boxes must be (n, 4)",)),
        ("boxes=[[1,2,3]]", ("boxes must be (n, 4)",)),
        ("boxes=[[1,2,NaN,4]]", ("not finite",)),
        ("boxes=[[1,2,1e400,4]]", ("not finite",)),
        ("boxes=[[5000,5000,6000,6000]]", ("outside the picture of 400x400",)),
        ("boxes=[[1,1,9,9]]&full_frame=true", ("boxes together with full_frame",)),
    ],
)
def test_wrong_options_are_422_with_what_is_allowed(
    service: Running, portrait: bytes, query: str, words: tuple[str, ...]
) -> None:
    response = service.post(f"/v1/landmarks?{query}", portrait)
    assert response.status_code == 422
    for word in words:
        assert word in detail(response)


def test_boxes_of_several_pictures_need_an_entry_for_each(service: Running, portrait: bytes) -> None:
    files = [("picture", ("a", portrait)), ("picture", ("b", portrait))]
    for boxes in ("[[1,2,30,40]]", '[null, "x"]'):
        response = service.request("POST", "/v1/landmarks", files=files, data={"boxes": boxes})
        assert response.status_code == 422
        assert "a list of 2 such lists" in detail(response)
    both = service.request("POST", "/v1/landmarks?boxes=[]", files=files[:1], data={"boxes": "[]"})
    assert "give them once" in detail(both)


def bad_pictures() -> dict[str, tuple[bytes, int, str]]:
    """Bodies that are no pictures to use, with status and words of the reason."""
    noise = encoded(np.random.default_rng(0).integers(0, 255, (200, 200, 3)), "JPEG")
    return {
        "empty": (b"", 400, "the body is empty"),
        "text": (b"hello, " * 50, 415, "not a picture in a known format (JPEG"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "known format"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "known format"),
        "zip": (b"PK\x03\x04" + bytes(100), 415, "known format"),
        "truncated": (noise[: len(noise) // 2], 400, "damaged or truncated"),
        "header alone": (b"\x89PNG\r\n\x1a\n", 400, "damaged or truncated"),
        "bomb": (bomb(20000, 20000, 20000), 413, "20000x20000 pixels; at most 25 megapixels"),
        "bomb without pixels": (bomb(4000, 4000), 400, "damaged or truncated"),
        "endless": (bomb(2**31 - 1, 2**31 - 1), 413, "at most 25 megapixels"),
        "memory": (encoded(np.zeros((4900, 4900, 3)), "WEBP", quality=1, method=0), 413, "at most 260 MB"),
    }


@pytest.mark.parametrize("kind", list(bad_pictures()))
def test_bad_pictures_are_refused_with_a_reason(service: Running, kind: str) -> None:
    data, status, words = bad_pictures()[kind]
    response = service.post("/v1/landmarks", data)
    assert response.status_code == status
    assert words in detail(response)


def test_a_bad_picture_of_several_is_named(service: Running, portrait: bytes) -> None:
    files = [("picture", ("a.jpg", portrait)), ("picture", ("b.jpg", b"text"))]
    response = service.request("POST", "/v1/landmarks", files=files)
    assert response.status_code == 415
    assert detail(response).startswith("picture 2 (b.jpg): not a picture")


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("text/plain", b"x", 415, "'text/plain'; allowed: image/..."),
        ("application/json", b"{}", 415, "application/octet-stream"),
        ("multipart/form-data", b"x", 400, "boundary"),
        ("multipart/form-data; boundary=a", b"--b\r\n", 400, "the form cannot be read"),
        ("multipart/form-data; boundary=a", b"--a--\r\n", 400, "the form has no picture"),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\nx\r\n--a--\r\n", 400, "the form cannot be read"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="model"\r\n\r\nsmall\r\n--a--\r\n',
            422,
            "form field 'model'; allowed: pictures as files, and boxes",
        ),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="p"; filename="e.jpg"\r\n\r\n\r\n--a--\r\n',
            400,
            "e.jpg: empty",
        ),
    ],
)
def test_bodies_of_other_types_are_refused(service: Running, kind: str, body: bytes, status: int, words: str) -> None:
    response = service.post("/v1/landmarks", body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert words in detail(response)


def test_more_than_the_limits_is_413(service: Running, portrait: bytes) -> None:
    large = bytes(3_000_001)
    for response in (
        service.post("/v1/landmarks", large),
        service.request("POST", "/v1/landmarks", content=parts(large), headers={"Content-Type": "image/png"}),
        service.request("POST", "/v1/landmarks", files={"picture": ("a", large)}),
    ):
        assert response.status_code == 413
        assert "at most 3,000,000 are allowed" in detail(response)
    pictures = service.request("POST", "/v1/landmarks", files=[("p", (str(n), portrait)) for n in range(4)])
    assert (pictures.status_code, detail(pictures)) == (413, "more than 3 pictures; at most 3 are allowed")
    boxes = service.post("/v1/landmarks", portrait, params={"boxes": json.dumps([[1, 1, 50, 50]] * 21)})
    assert (boxes.status_code, detail(boxes)) == (413, "21 boxes; at most 20 are allowed")


async def parts(data: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


def test_faces_of_all_pictures_count(portrait: bytes, crowd: bytes) -> None:
    with running(max_faces=2) as service:
        files = [("picture", (str(number), portrait)) for number in range(3)]
        assert service.request("POST", "/v1/landmarks", files=files[:2]).status_code == 200
        response = service.request("POST", "/v1/landmarks", files=files)
        assert response.status_code == 413
        assert "3 faces in the pictures of this request; at most 2 are allowed" in detail(response)


def test_an_overlay_is_that_of_python(service: Running, portrait: bytes) -> None:
    response = service.request("POST", "/v1/overlay", files={"picture": ("a.jpg", portrait)})
    assert response.headers["content-type"] == "image/png"
    picture = read_picture(portrait)
    expected = drawing.overlay(picture, load("tiny-128", threads=1)(picture))
    assert np.array_equal(read_picture(response.content), expected)
    two = service.request("POST", "/v1/overlay", files=[("p", ("a", portrait)), ("p", ("b", portrait))])
    assert (two.status_code, detail(two)) == (422, "2 pictures; an overlay is drawn of one")
    form = service.post("/v1/overlay?format=csv", portrait)
    assert detail(form).startswith("unknown parameter 'format'; allowed: model, refine")


def test_an_overlay_counts_what_drawing_takes(portrait: bytes) -> None:
    with running(max_memory=40_000_000) as service:
        picture = encoded(np.zeros((2200, 2200, 3)), "JPEG")
        assert service.post("/v1/landmarks", picture).status_code == 200
        response = service.post("/v1/overlay", picture)
        assert (response.status_code, detail(response)) == (413, "this takes 44 MB; at most 40 MB are allowed")
        assert service.post("/v1/landmarks", portrait).status_code == 200


def test_models_and_layouts_are_described(service: Running) -> None:
    models = service.get("/v1/models").json()
    assert [model["name"] for model in models] == ["tiny-128", "small"]
    assert models[0]["input"] == 128
    assert models[0]["commercial_use"] is False
    layouts = {one["name"]: one for one in service.get("/v1/layouts").json()}
    assert set(layouts) == set(BUILTIN)
    assert len(layouts["ibug68"]["points"]) == len(layouts["ibug68"]["mirror"]) == 68
    assert layouts["ibug68"]["parts"]["left_eye"]


def test_the_description_has_every_route_and_real_examples(service: Running, portrait: bytes) -> None:
    description = service.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/landmarks", "/v1/overlay", "/v1/models", "/v1/layouts", "/health/live", "/health/ready", "/metrics",
    }  # fmt: skip
    answers = description["paths"]["/v1/landmarks"]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "415", "422", "503"} <= set(answers)
    (example,) = answers["200"]["content"]["application/json"]["example"]
    (result,) = service.post("/v1/landmarks?model=small", portrait).json()
    (face,), (found,) = example.pop("faces"), result.pop("faces")
    assert example == result
    assert list(face) == list(found)
    assert np.allclose(face["landmarks"], found["landmarks"][:2], atol=5)
    for path, name in (("/v1/models", "small"), ("/v1/layouts", "five")):
        (example,) = description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        (actual,) = [entry for entry in service.get(path).json() if entry["name"] == name]
        assert example == {key: actual[key] for key in example}


def test_other_paths_and_methods_are_problems_too(service: Running) -> None:
    for path in ("/", "/v1", "/v1/landmarks/..", "/%00", "/v1/" + "x" * 5000, "/docs", "/redoc"):
        assert detail(service.get(path)).startswith("no such"), path
    response = service.get("/v1/landmarks")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


def test_pages_of_other_hosts_get_no_permission(service: Running) -> None:
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    response = service.request("OPTIONS", "/v1/landmarks", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_health_and_metrics(service: Running, portrait: bytes) -> None:
    assert service.get("/health/live").json() == {"status": "live"}
    assert service.get("/health/ready").json() == {"status": "ready"}

    def figure(name: str) -> float:
        lines = service.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = figure("octamark_faces_total"), figure('octamark_requests_total{route="/v1/landmarks",status="415"}')
    service.post("/v1/landmarks", portrait)
    service.post("/v1/landmarks", b"text")
    after = figure("octamark_faces_total"), figure('octamark_requests_total{route="/v1/landmarks",status="415"}')
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    assert figure("octamark_queued_pictures") == 0


def test_a_token_is_needed_everywhere_but_for_health(portrait: bytes) -> None:
    token = "0123456789abcdef-secret"  # noqa: S105
    with running(token=token) as service:
        open_paths = {"/health/live", "/health/ready"}
        for path, methods in service.get("/openapi.json").json()["paths"].items():
            for method in methods:
                response = service.request(method.upper(), path)
                assert response.status_code == (200 if path in open_paths else 401), path
        for header in (f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", token, "Bearer", "Bearer \xe9"):
            response = service.post("/v1/landmarks", portrait, headers={"Authorization": header.encode("latin-1")})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        header = {"Authorization": f"Bearer {token}"}
        assert service.post("/v1/landmarks", portrait, headers=header).status_code == 200
        assert token not in repr(service.service.settings)


def test_the_log_has_sizes_and_times_alone(service: Running, portrait: bytes) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("octamark.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        files = {"picture": ("my-secret-name.jpg", portrait)}
        service.request("POST", "/v1/landmarks?model=secret-model", files=files)
        service.request("POST", "/v1/landmarks", files=files)
        service.get("/secret-path")
        service.request("SECRET-METHOD", "/v1/landmarks")
    finally:
        logger.removeHandler(handler)
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert "secret" not in text.getvalue().lower()
    assert lines[1].startswith("POST /v1/landmarks 200 bytes=")
    assert "pictures=1 megapixels=0.16 faces=1" in lines[1]


def test_an_error_of_the_service_is_500_without_details(
    service: Running, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> bytes:
        raise RuntimeError("secret")

    monkeypatch.setattr("octamark.serving.app._written", broken)
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger("octamark.serving").addHandler(handler)
    try:
        response = service.post("/v1/landmarks", portrait)
    finally:
        logging.getLogger("octamark.serving").removeHandler(handler)
    assert (response.status_code, detail(response)) == (500, "an error of the service; its log has more")
    assert "RuntimeError in " in text.getvalue()
    assert "secret" not in text.getvalue()


def test_a_proxy_may_serve_it_under_a_path(portrait: bytes) -> None:
    with running(root_path="/faces") as service:
        for path in ("/v1/landmarks", "/faces/v1/landmarks"):  # with the path taken off by the proxy, and without
            assert service.post(path, portrait).status_code == 200
        assert service.get("/openapi.json").json()["servers"] == [{"url": "/faces"}]


def test_no_address_is_redirected(service: Running, portrait: bytes) -> None:
    """Behind a proxy, the address in a redirection would be that of the service."""
    for response in (service.get("/v1/models/"), service.post("/v1/landmarks/", portrait)):
        assert response.status_code == 404
        assert "location" not in response.headers


def test_the_page_may_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>page</h1>")
    (site / "models").mkdir()
    with running(site=site) as service:
        response = service.get("/")
        assert response.text == "<h1>page</h1>"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe-inline" not in policy
        tricks = ("/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/%00", "/" + "x" * 3000, "//etc/passwd")
        for path in (*tricks, "/models", "/missing"):
            response = service.get(path)
            assert response.status_code == 404, path
            assert "secret" not in response.text
        assert service.get("/v1/models").status_code == 200
