"""Take the screenshots of docs/how-to/browser.md: the page in Chromium, wide and light, and narrow and dark.

make site; python tools/take_screenshots.py build/site
"""

from __future__ import annotations

import functools
import io
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from octamark.images import write_picture

TARGET = Path(__file__).parent.parent / "docs" / "how-to" / "browser.jpg"
HEIGHT = 860


def screenshot(browser: Browser, url: str, width: int, scheme: str, view: str) -> Image.Image:
    """The page after its example was read, zoomed to the face."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready=true]")
    page.click("button[data-action=example]")
    page.wait_for_selector(".card")
    page.click(f"label:has(input[value={view}])")
    page.click(".card button")
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def main(site: Path) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        wide = screenshot(browser, url, 1000, "light", "errors")
        narrow = screenshot(browser, url, 390, "dark", "points")
        browser.close()
    server.shutdown()
    sheet = Image.new("RGB", (wide.width + narrow.width + 24, HEIGHT), "white")
    sheet.paste(wide, (0, 0))
    sheet.paste(narrow, (wide.width + 24, 0))
    write_picture(TARGET, np.asarray(sheet))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python tools/take_screenshots.py FOLDER")
    main(Path(sys.argv[1]))
