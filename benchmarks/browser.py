"""octamark in Chromium: whether it finds what Python finds, how long a face takes, what the first picture transfers.

    make site
    python -m benchmarks.browser [FOLDER] [--site build/site] [--faces 40] [--rounds 5] [--only times] [--update]

FOLDER holds pictures whose terms allow any use, such as rendered ones of `octamark render`; faces are taken from
scikit-image's portrait of an astronaut, docs/portrait.jpg, docs/caricatures.jpg and then from the folder, by name.
Needs Chromium and playwright. Everything runs on one thread."""

from __future__ import annotations

import argparse
import base64
import functools
import gzip
import hashlib
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import skimage.data
from benchmarks.measurements import ROOT, Measurement, Value, add_update_option, finish
from numpy.typing import NDArray
from PIL import Image

import octamark
from octamark import Faces, models
from octamark.geometry import crop
from octamark.images import find_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Page

Picture = NDArray[np.uint8]

SIDE = 512
"""Distances are those in a picture whose longer side has this many pixels."""

SURE = 0.3
"""Mean confidence from which a face counts as read; below, small differences of pixels change everything."""

FIRST_VISIT = "tiny-128"
"""The model of the page's first picture."""

PREDICT = """async ([model, files, options]) => {
  const { load, toPicture } = await import("./octamark.js");
  const { cutCrop } = await import("./lib/picture.js");
  const landmarker = await load(model, options);
  const size = landmarker.card.crop.size;
  const sha256 = async (data) => Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
  const results = [];
  for (const file of files) {
    const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
    const picture = await toPicture(new Blob([bytes], { type: "image/png" }));
    const faces = [];
    for (const { landmarks, crop } of await landmarker(picture)) {
      const pixels = new Uint8Array(size * size * 3);
      cutCrop(picture, crop, size, pixels);
      faces.push({ landmarks, crop: await sha256(pixels) });
    }
    results.push(faces);
  }
  await landmarker.dispose();
  return results;
}"""

TIME = """async ([names, file, box, rounds, calls]) => {
  const { load, toPicture } = await import("./octamark.js");
  const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
  const picture = await toPicture(new Blob([bytes], { type: "image/png" }));
  const landmarkers = {};
  for (const name of names) landmarkers[name] = await load(name, { refine: "never" });
  const tasks = { face: { boxes: [box] }, picture: {} };
  const times = Object.fromEntries(names.map((name) => [name, { face: [], picture: [] }]));
  for (let round = 0; round < rounds; round++) {
    for (const name of names) {
      for (const [task, how] of Object.entries(tasks)) {
        for (let call = 0; call < calls + 3; call++) {
          const start = performance.now();
          await landmarkers[name](picture, how);
          if (call >= 3) times[name][task].push(performance.now() - start);
        }
      }
    }
  }
  return times;
}"""


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder as an origin of its own, whose clock has a resolution of 0.005 ms, without lines per request."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def visited(site: Path) -> Iterator[tuple[Page, str]]:
    """The site in a new Chromium: the page, and its address."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("needs Chromium (Debian: apt-get install chromium)")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        yield page, url
        browser.close()
    server.shutdown()


def png(picture: Picture) -> str:
    """A picture as a PNG file in base64, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pictures(folder: Path | None, count: int) -> list[Picture]:
    """Pictures with at least that many faces together, as far as there are."""
    files = [ROOT / "docs" / "portrait.jpg", ROOT / "docs" / "caricatures.jpg"]
    files += [] if folder is None else find_pictures(folder).paths
    chosen: list[Picture] = [np.asarray(skimage.data.astronaut())]
    detector = octamark.FaceDetector()
    faces = 1
    for file in files:
        if faces >= count:
            break
        picture = octamark.read_picture(file)
        found = len(detector(picture)[0])
        if found:
            chosen.append(picture)
            faces += found
    return chosen


def distances(faces: Faces, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of each point (n, M) of the faces of a picture to other points (n, M, 2), in pixels of ``SIDE``."""
    apart = np.linalg.norm(faces.landmarks.astype(np.float64) - points, axis=2)
    return np.asarray(apart * SIDE / max(faces.size))


def parity(page: Page, chosen: list[Picture]) -> Measurement:
    """How far the browser's points are from Python's."""
    encoded = [png(picture) for picture in chosen]
    rows: list[list[Value]] = []
    for name in models.available():
        results = page.evaluate(PREDICT, [name, encoded, {}])
        landmarker = octamark.load(name, threads=1)
        apart, sure, equal_crops, other_numbers = [], [], 0, 0
        for picture, others in zip(chosen, results, strict=True):
            faces = landmarker(picture)
            if len(faces) != len(others):
                other_numbers += 1
                continue
            if len(faces):
                apart.append(distances(faces, np.array([face["landmarks"] for face in others])))
                sure.append(faces.mean_confidence >= SURE)
            for transform, face in zip(faces.crops, others, strict=True):
                pixels = crop(picture, transform, landmarker.card.crop.size)
                equal_crops += hashlib.sha256(pixels.tobytes()).digest() == bytes(face["crop"])
        all_faces, is_sure = np.concatenate(apart), np.concatenate(sure)
        rows.append([
            f"`{name}`", len(all_faces), int((~is_sure).sum()), other_numbers, equal_crops, float(all_faces.mean()),
            float(all_faces[is_sure].max()), float(all_faces.max()),
        ])  # fmt: skip
    return Measurement(
        "browser_parity", "speed", "The browser beside Python: distance of the points, pixels",
        "The same pictures in Chromium and in Python: distance of each point, in a picture of "
        f"{SIDE} pixels. *Equal crops* are those of which every pixel is the same in both; what remains is the "
        f"arithmetic of the networks. *Unsure* faces have a mean confidence below {SURE}.",
        (
            ("model", ""), ("faces", ""), ("unsure", ""), ("pictures with another number of faces", ""),
            ("equal crops", ""), ("mean", ".4f"), ("largest, sure faces", ".2f"), ("largest, all", ".2f"),
        ),
        rows,
        command="python -m benchmarks.browser FOLDER",
        data=f"{len(chosen)} pictures with free terms, most of them rendered",
        boxes="those of each detector",
    )  # fmt: skip


def times(page: Page, rounds: int) -> Measurement:
    """Time of a face and of a picture, in the main thread of the page."""
    picture = np.asarray(skimage.data.astronaut())
    (box,) = octamark.FaceDetector()(picture)[0].tolist()
    measured = page.evaluate(TIME, [models.available(), png(picture), box, rounds, 12])
    rows: list[list[Value]] = [
        [f"`{name}`", len(models.read(name)) / 1e6, min(measured[name]["face"]), min(measured[name]["picture"])]
        for name in models.available()
    ]
    version = page.context.browser.version if page.context.browser else ""
    return Measurement(
        "browser", "speed", "In the browser, ms",
        f"Chromium {version}, onnxruntime-web in WebAssembly on one thread, models taking turns, fastest call. *Per "
        "face*: the landmarks of a face whose box is known; *per picture*: with the face detector. Both without "
        "refinement and without decoding the file.",
        (("model", ""), ("size, MB", ".2f"), ("ms per face", ".1f"), ("ms per picture", ".1f")),
        rows,
        command="python -m benchmarks.browser",
        data="one photograph of 512x512 pixels with one face",
        boxes="those of the detector",
    )  # fmt: skip


def first_visit(page: Page, url: str, site: Path) -> Measurement:
    """What the first picture transfers on a cold cache, if the host compresses."""
    requests: set[str] = set()
    page.on("request", lambda request: requests.add(request.url))
    page.goto(url)
    page.wait_for_selector("body[data-ready=true]")
    page.click("button[data-action=example]")
    page.wait_for_selector(".card")
    while page.evaluate("async () => (await caches.keys()).length") != 1:  # the page's policy refuses wait_for_function
        page.wait_for_timeout(100)
    files = {url.removeprefix(page.url) or "index.html" for url in requests if url.startswith(page.url)}
    groups = {"ONNX Runtime": "ort/", "models": "models/", "page and module": ""}
    rows: list[list[Value]] = []
    for title, prefix in groups.items():
        group = {file for file in files if file.startswith(prefix)}
        files -= group
        contents = [(site / file).read_bytes() for file in group]
        packed = sum(len(gzip.compress(content, 6)) for content in contents)
        rows.append([title, len(group), sum(map(len, contents)) / 1e6, packed / 1e6])
    rows.append(["together", *(sum(row[column] for row in rows) for column in (1, 2, 3))])  # type: ignore[misc]
    return Measurement(
        "browser_transfer", "speed", "The page's first visit, MB",
        f"All that the page fetches until the first picture was read by `{FIRST_VISIT}` and it works offline, as files "
        "and compressed with gzip, as static hosts send them.",
        (("", ""), ("files", ""), ("MB", ".2f"), ("MB compressed", ".2f")),
        rows,
        command="python -m benchmarks.browser",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="pictures of faces")
    parser.add_argument("--site", type=Path, default=ROOT / "build" / "site", help="what `make site` wrote")
    parser.add_argument("--faces", type=int, default=40, help="faces that are compared")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model")
    parser.add_argument(
        "--only", nargs="+", choices=("transfer", "parity", "times"), default=("transfer", "parity", "times"),
        help="what is measured; times need a machine that does nothing else",
    )  # fmt: skip
    add_update_option(parser)
    options = parser.parse_args()
    if not (options.site / "octamark.json").is_file():
        raise SystemExit(f"{options.site}: no site; run make site")
    measurements = []
    with visited(options.site) as (page, url):
        page.goto(url)
        if "parity" in options.only:
            measurements.append(parity(page, pictures(options.folder, options.faces)))
        if "times" in options.only:
            measurements.append(times(page, options.rounds))
    if "transfer" in options.only:
        with visited(options.site) as (page, url):
            measurements.append(first_visit(page, url, options.site))
    finish(measurements, options.update)


if __name__ == "__main__":
    main()
