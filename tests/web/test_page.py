"""The page in Chromium: pictures, files, camera, offline, keyboard; and that no request leaves its origin."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import octamark
from octamark.io import read_records
from web.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.slow

READY = "body[data-ready=true]"
WAIT = 120_000  # milliseconds: a machine that does other things too


def encoded(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def clip(path: Path, picture: NDArray[np.uint8], frames: int = 30) -> None:
    """Write a video of a face that moves to and fro, as Chromium's fake camera reads it: YUV 4:2:0 with headers."""
    height, width = picture.shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(frames):
            moved = np.roll(picture, round(6 * np.sin(2 * np.pi * number / frames)), axis=1)
            file.write(b"FRAME\n" + np.asarray(cv2.cvtColor(moved, cv2.COLOR_RGB2YUV_I420)).tobytes())


@pytest.fixture(scope="module")
def browser(
    chromium: str, photograph: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    clip(camera, np.ascontiguousarray(photograph[:320, 60:460]))
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


class Visit:
    """A page of its own context, what it asked for and what went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.requests: list[str] = []
        self.problems: list[str] = []
        context.on("request", lambda request: self.requests.append(request.url))
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => console.error(event.violatedDirective))"
        )
        self.page.goto(url)
        self.page.wait_for_selector(READY)

    def choose(self, *pictures: tuple[str, str, bytes]) -> None:
        """Choose files: (name, media type, bytes) each."""
        payload: Any = [{"name": name, "mimeType": kind, "buffer": content} for name, kind, content in pictures]
        self.page.set_input_files("#files", payload)

    def read(self, picture: NDArray[np.uint8], name: str = "photo.png") -> None:
        """Choose a picture and wait until it was read."""
        self.choose((name, "image/png", encoded(picture)))
        self.page.wait_for_selector(f"#status:has-text('{name}: ')")

    def drop(self, *pictures: tuple[str, str, bytes]) -> None:
        """Drop files: (name, media type, bytes) each."""
        self.page.evaluate(
            """(files) => {
              const data = new DataTransfer();
              for (const [name, type, content] of files) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], name, { type }));
              }
              const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true });
              document.querySelector("#stage").dispatchEvent(drop);
            }""",
            [(name, kind, base64.b64encode(content).decode()) for name, kind, content in pictures],
        )

    def wait_until(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds; the policy of the page refuses playwright's own way to do so."""
        for _ in range(WAIT // 100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(condition)

    def check(self, url: str) -> None:
        """Check that nothing went wrong and no request left the origin."""
        assert self.problems == []
        assert self.requests
        outside = [asked for asked in self.requests if not asked.startswith((url, f"blob:{url}", "data:"))]
        assert outside == []

    def saved(self, kind: str) -> tuple[str, bytes]:
        """The name and the content of the file that a button saves."""
        with self.page.expect_download() as waiting:
            self.page.click(f"button[data-save={kind}]")
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1024, "height": 768})
    visit = Visit(context, server.url)
    yield visit
    context.close()
    visit.check(server.url)


def test_a_dropped_picture_has_the_points_of_python(
    visit: Visit, photograph: NDArray[np.uint8], tmp_path: Path
) -> None:
    visit.drop(("dropped.png", "image/png", encoded(photograph)))
    visit.page.wait_for_selector(".card")
    expected = octamark.load("tiny-128")(photograph)
    assert visit.page.locator(".card").count() == len(expected) == 1
    for kind, reread in (("json", True), ("csv", True), ("coco", True), ("pts", False)):
        name, content = visit.saved(kind)
        path = tmp_path / name
        path.write_bytes(content)
        if reread:
            (record,) = read_records(path)
            assert record.file == "dropped.png"
            assert record.model == ("tiny-128" if kind != "coco" else record.model)
            assert record.faces.size == (512, 512)
            points = record.faces.landmarks
            np.testing.assert_allclose(record.faces.spread, expected.spread, rtol=0.2, atol=0.01)
        else:
            points = octamark.io.read_pts(path, 68)[None]
        apart = np.linalg.norm(points - expected.landmarks, axis=2)
        assert apart.mean() < 0.3
        assert apart.max() < 1
    name, content = visit.saved("png")
    with Image.open(io.BytesIO(content)) as drawn:
        assert name == "dropped.overlay.png"
        assert drawn.size == (1024, 1024)  # twice the picture, which is small
        pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    for colour in ((255, 176, 0), (0, 220, 255)):  # of the outline and of the inner points
        assert (pixels == colour).all(axis=1).any()


def test_json_is_what_the_command_line_writes(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    visit.read(photograph)
    visit.page.wait_for_selector(".card")
    (picture,) = json.loads(visit.saved("json")[1])
    assert list(picture) == ["file", "width", "height", "layout", "model", "faces"]
    assert list(picture["faces"][0]) == [
        "box",
        "score",
        "mean_confidence",
        "landmarks",
        "spread",
        "confidence",
        "visible",
    ]


def test_several_pictures_a_model_and_the_views(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    page = visit.page
    two = np.ascontiguousarray(np.hstack([photograph, photograph[:, ::-1]]))
    visit.choose(("one.png", "image/png", encoded(photograph)), ("two.png", "image/png", encoded(two)))
    page.wait_for_selector("#status:has-text('one.png: 1 face')")
    page.click("#strip button[aria-label='two.png']")
    page.wait_for_selector("#status:has-text('two.png: 2 faces')")
    assert page.locator(".card").count() == 2

    def drawn() -> bytes:
        return page.locator("#view").screenshot()

    points = drawn()
    page.click("label:has(input[value=errors])")
    errors = drawn()
    page.click("label:has(input[value=heatmap])")
    heatmap = drawn()
    assert len({points, errors, heatmap}) == 3
    page.select_option("#model", "pico")
    page.wait_for_selector("#status:has-text('by pico')")
    assert "pico" in page.inner_text("#terms")
    page.click("#strip button[aria-label='one.png']")
    page.wait_for_selector("#status:has-text('one.png: 1 face')")
    page.check("#drawing")
    page.wait_for_selector("#status:has-text('by small-art')")
    assert page.locator("#model").is_disabled()


def test_a_picture_without_a_face_and_one_that_a_face_fills(visit: Visit) -> None:
    page = visit.page
    visit.read(np.full((200, 240, 3), 200, np.uint8), "grey.png")
    page.wait_for_selector("#status:has-text('No faces found')")
    page.check("#full-frame")
    page.wait_for_selector("#status:has-text('1 face')")
    (picture,) = json.loads(visit.saved("json")[1])
    assert len(picture["faces"]) == 1


def test_files_that_cannot_be_read_are_named(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    good = encoded(photograph)
    bad = {
        ("notes.txt", "text/plain", b"not a picture"): "not a picture that this browser reads",
        ("empty.jpg", "image/jpeg", b""): "not a picture that this browser reads",
        ("damaged.png", "image/png", good[:30] + bytes(3000)): "not a picture that this browser reads",
        ("thin.png", "image/png", encoded(np.zeros((3, 20_000, 3), np.uint8))): "a picture of 20000x3 pixels; allowed:",
        ("broken.mp4", "video/mp4", b"no video"): "not a video that this browser plays",
    }
    for file, message in bad.items():
        visit.choose(file)
        visit.page.wait_for_selector(f"#status.error:has-text('{file[0]}: {message}')")
        visit.read(photograph, "good.png")
    visit.choose(("clip.mp4", "video/mp4", b"no video"), ("beside.png", "image/png", good))
    visit.page.wait_for_selector("#status.error:has-text('clip.mp4: a video; choose it alone')")
    visit.page.click("#strip button[aria-label='beside.png']")
    visit.page.wait_for_selector("#status:has-text('beside.png: 1 face')")


def test_twenty_pictures_dropped_at_once_are_all_read(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    good = encoded(photograph)
    name = "<img src=x onerror=alert(1)> & 'ü'.png"
    visit.drop(*((f"{number} {name}", "image/png", b"bad" if number == 7 else good) for number in range(20)))
    visit.page.wait_for_selector(f'#status:has-text("0 {name}: 1 face")')
    visit.wait_until(
        "document.querySelectorAll('#strip canvas').length === 19 && document.querySelector('#busy').hidden"
    )
    assert visit.page.inner_text("#strip li:nth-child(8)") == "no picture"
    assert [picture["file"] for picture in json.loads(visit.saved("json")[1])] == [
        f"{number} {name}" for number in range(20) if number != 7
    ]


def test_a_large_picture_is_read(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    large = np.asarray(cv2.resize(photograph, (12_000, 8_000)), np.uint8)
    visit.choose(("large.jpg", "image/jpeg", cv2.imencode(".jpg", large[:, :, ::-1])[1].tobytes()))
    visit.page.wait_for_selector("#status:has-text('large.jpg: 1 face')")


def test_a_refused_camera_is_said(visit: Visit) -> None:
    refuse = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('Denied', 'NotAllowedError'); }"
    )
    visit.page.evaluate(f"() => {{ {refuse} }}")
    visit.page.click("#invite button[data-action=camera]")
    visit.page.wait_for_selector("#status.error:has-text('The camera cannot be used: Denied')")
    assert visit.page.is_visible("#invite")


def test_wrong_inputs_of_the_module_are_named(visit: Visit) -> None:
    cases = [
        ("load(null)", "WeightsError: unknown model null; models: pico"),
        ("load(new Uint8Array(100))", "WeightsError: the model's bytes: "),
        ("load('pico', { detector: 3 })", "ConfigError: detector 3; allowed: a function"),
        ("load('pico', { detector: () => null }).then((l) => l(GREY))", "BoxError: detector: boxes must be an array"),
        (
            "load('pico', { detector: () => ({ boxes: [[1, 2, NaN, 9]], scores: [1] }) }).then((l) => l(GREY))",
            "BoxError: detector: box 0 (1, 2, NaN, 9): not four finite numbers",
        ),
        (
            "load('pico', { detector: () => ({ boxes: [[1, 2, 8, 9]], scores: [] }) }).then((l) => l(GREY))",
            "BoxError: detector: scores (); allowed: 1 finite numbers, one for each box",
        ),
        ("load('pico').then((l) => l(GREY, { boxes: [[NaN, 1, 2, 3]] }))", "BoxError: box 0 (NaN, 1, 2, 3): not four"),
        ("load('pico').then((l) => l(GREY, { boxes: [null] }))", "BoxError: box 0 (): not four finite numbers"),
        ("load('pico').then((l) => l('photo.jpg'))", "PictureError: a picture of type String; allowed: ImageData"),
        ("load('pico').then((l) => l(new Image()))", "PictureError: a picture of 0x0 pixels; allowed: 1 to 16384"),
        ("load('pico').then((l) => l({ ...GREY, width: 7 }))", "PictureError: 300 bytes for a picture of 7x10 pixels"),
        ("load('pico').then((l) => l({ ...GREY, width: 1e9 }))", "PictureError: a picture of 1000000000x10 pixels"),
        ("load('pico').then((l) => l(new Blob(['text'])))", "PictureError: not a picture that this browser reads"),
    ]
    for code, message in cases:
        error = visit.page.evaluate(
            """async () => {
              const { load } = await import("./octamark.js");
              const GREY = { data: new Uint8Array(300).fill(128), width: 10, height: 10 };
              return CODE.then(() => "none", (error) => `${error.name}: ${error.message}`);
            }""".replace("CODE", code)
        )
        assert error.startswith(message), code


def test_the_camera_gives_tracks(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.click("#invite button[data-action=camera]")
    page.wait_for_selector("#status:has-text('frames per second')")
    page.wait_for_timeout(1500)
    page.click("#stop")
    page.wait_for_selector("#status:has-text('camera: 1 face')")
    name, content = visit.saved("csv")
    (tmp_path / name).write_bytes(content)
    records = read_records(tmp_path / name)
    assert len(records) >= 3
    found = [record.faces.ids.tolist() for record in records if record.faces.ids is not None and len(record.faces)]
    assert found
    assert all(ids == found[0] for ids in found)
    times = [record.time for record in records if record.time is not None]
    assert times == sorted(times)
    running = "() => document.querySelector('#video').srcObject === null"
    assert page.evaluate(running)


def test_a_video_file_is_read_to_its_end(visit: Visit, photograph: NDArray[np.uint8], tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 400, 320, "yuv420p"
        for number in range(20):
            moved = np.roll(photograph[:320, 60:460], number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")))
        container.mux(stream.encode())
    visit.choose(("clip.webm", "video/webm", (tmp_path / "clip.webm").read_bytes()))
    visit.page.wait_for_selector("#status:has-text('clip.webm: 1 face')")
    (tmp_path / "saved.json").write_bytes(visit.saved("json")[1])
    records = read_records(tmp_path / "saved.json")
    assert len(records) >= 3
    assert all(record.file.startswith("clip.webm#") for record in records)
    assert all(record.faces.ids is not None and record.faces.ids.tolist() == [1] for record in records)
    times = [record.time for record in records if record.time is not None]
    assert times == sorted(times)
    assert times[-1] <= 2
    first, last = (record.faces.landmarks[0, :, 0].mean() for record in (records[0], records[-1]))
    assert last - first == pytest.approx(10 * (times[-1] - times[0]), abs=3)  # ten pixels a second to the right


def test_the_keyboard_alone_is_enough(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    for _ in range(10):
        if page.evaluate("document.activeElement.dataset.action") == "example":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    page.focus("#view")
    before = page.inner_text("#zoom-value")
    page.keyboard.press("+")
    assert page.inner_text("#zoom-value") != before
    moved = page.locator("#view").screenshot()
    page.keyboard.press("ArrowDown")
    assert page.locator("#view").screenshot() != moved
    page.keyboard.press("0")
    assert page.inner_text("#zoom-value") == before
    page.keyboard.press("2")
    assert page.is_checked("input[value=errors]")


def test_every_control_has_a_name(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    visit.read(photograph)
    visit.page.wait_for_selector(".card")
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[role]")]
          .filter((one) => one.offsetParent !== null)
          .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert visit.page.get_attribute("#view", "aria-label") == "photo.png: 1 face"


@pytest.mark.parametrize("width", [390, 1024, 1600])
def test_nothing_is_wider_than_the_window(visit: Visit, photograph: NDArray[np.uint8], width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert visit.page.evaluate(overflow) == 0
    visit.read(photograph)
    visit.page.wait_for_selector(".card")
    assert visit.page.evaluate(overflow) == 0


def test_it_works_offline_after_the_first_visit(visit: Visit, photograph: NDArray[np.uint8]) -> None:
    page = visit.page
    visit.wait_until("async () => (await caches.keys()).length === 1 && navigator.serviceWorker.controller !== null")
    visit.context.set_offline(True)
    page.reload()
    page.wait_for_selector(READY)
    visit.read(photograph)
    page.wait_for_selector("#status:has-text('1 face')")
    visit.context.set_offline(False)


def test_the_policy_refuses_other_hosts(browser: Browser, server: Server, elsewhere: Server) -> None:
    """The page, and a worker made as the page makes its own, cannot reach another origin."""
    context = browser.new_context()
    visit = Visit(context, server.url)
    attempt = "fetch(URL, { mode: 'no-cors' }).then(() => 'reached', () => 'refused')"
    assert visit.page.evaluate(f"() => {attempt}".replace("URL", json.dumps(elsewhere.url))) == "refused"
    in_worker = """(url) => new Promise((resolve) => {
      const code = `fetch(${JSON.stringify(url)}, { mode: "no-cors" })
        .then(() => postMessage("reached"), () => postMessage("refused"))`;
      const worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = () => resolve("not started");
    })"""
    assert visit.page.evaluate(in_worker, elsewhere.url) == "refused"
    assert elsewhere.requests == 0
    context.close()


def test_the_service_serves_the_page(
    browser: Browser, served: str, elsewhere: Server, photograph: NDArray[np.uint8], tmp_path: Path
) -> None:
    """With the policies in its headers, and again from the service worker's cache, beside the service's own paths."""
    context = browser.new_context()
    visit = Visit(context, served)
    page = visit.page
    expected = octamark.load("tiny-128")(photograph)
    for number in range(2):
        assert page.evaluate("crossOriginIsolated && typeof SharedArrayBuffer === 'function'")
        visit.drop((f"{number}.png", "image/png", encoded(photograph)))
        page.wait_for_selector(f"#status:has-text('{number}.png: 1 face')")
        path = tmp_path / f"{number}.json"
        path.write_bytes(visit.saved("json")[1])
        (record,) = read_records(path)
        apart = np.linalg.norm(record.faces.landmarks - expected.landmarks, axis=2)
        assert apart.mean() < 0.3
        assert apart.max() < 1
        visit.wait_until("navigator.serviceWorker.controller !== null")
        page.reload()
        page.wait_for_selector(READY)
    assert page.evaluate("fetch('v1/models').then((response) => response.json())")[0]["name"] == "pico"
    visit.check(served)
    reached = "(url) => fetch(url, { mode: 'no-cors' }).then(() => true, () => false)"
    assert not page.evaluate(reached, elsewhere.url)
    assert elsewhere.requests == 0
    assert any("connect-src" in problem for problem in visit.problems)  # which the check above would have seen
    context.close()


def test_the_first_picture_needs_less_than_six_megabytes(
    site: Path, visit: Visit, photograph: NDArray[np.uint8]
) -> None:
    """Counted with the compression that static hosts use; none is used by the server of the tests."""
    import gzip

    visit.read(photograph)
    visit.page.wait_for_selector(".card")
    paths = {re.sub(r"[?#].*", "", url.removeprefix(visit.page.url)) or "index.html" for url in visit.requests}
    files = [site / path for path in paths if not path.startswith(("blob:", "data:"))]
    assert site / "models" / "tiny-128.onnx" in files
    assert sum(len(gzip.compress(file.read_bytes(), 6)) for file in files) < 6e6
