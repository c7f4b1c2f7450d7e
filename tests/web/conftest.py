"""Fixtures of the tests of octamark in the browser: the site, a server of it, Chromium, and the module under Node."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parent.parent.parent

Predict = Callable[[list[dict[str, Any]]], list[Any]]


def load_tool(name: str) -> Any:
    """The module of a script in ``tools/``."""
    specification = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line on the terminal for each request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    """A server of a folder on a free port of this machine; ``requests`` counts what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.requests = 0
        super().__init__(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.requests += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a browser that closes a connection early


def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``make site`` writes."""
    folder = tmp_path_factory.mktemp("site")
    try:
        load_tool("build_site").build(folder, REPOSITORY / "build" / "npm")
    except SystemExit as error:
        if not str(error).startswith("npm"):
            raise
        pytest.skip(str(error))  # npm is missing, or cannot reach its registry
    return folder


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[Server]:
    yield from serving(site)


@pytest.fixture(scope="session")
def served(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``octamark serve`` with the page."""
    options = ["--port", "0", "--model", "pico", "--decoders", "1", "--site", str(site)]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "octamark", "serve", *options], stderr=file)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) or not _is_ready(found[0]):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"{found[0]}/"
    finally:
        process.terminate()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of another origin."""
    yield from serving(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    return path


@pytest.fixture(scope="session")
def predict(site: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """Runs jobs (see node_predict.mjs) under Node; ``picture`` and the pictures of ``frames`` may be arrays."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node (Debian: apt-get install nodejs)")

    def run(jobs: list[dict[str, Any]]) -> list[Any]:
        folder = tmp_path_factory.mktemp("jobs")

        def stored(picture: NDArray[np.uint8]) -> dict[str, Any]:
            file = folder / f"{len(list(folder.iterdir()))}.rgb"
            file.write_bytes(np.ascontiguousarray(picture).tobytes())
            return {"file": str(file), "width": picture.shape[1], "height": picture.shape[0]}

        prepared = []
        for job in jobs:
            entry = dict(job)
            if "picture" in job:
                entry["picture"] = stored(job["picture"])
            if "frames" in job:
                entry["frames"] = [stored(picture) | {"time": time} for picture, time in job["frames"]]
            prepared.append(entry)
        output = folder / "results.json"
        script = Path(__file__).with_name("node_predict.mjs")
        done = subprocess.run(
            [node, str(script), str(site), server.url, str(output)],
            input=json.dumps(prepared), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results: list[Any] = json.loads(output.read_text(encoding="utf-8"))
        return results

    return run
