"""Listening: slow and rude clients, addresses, and a stop that finishes what is running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from command_line import run
from octamark.cli.serve import is_loopback, read_token
from octamark.errors import ConfigError, WeightsError
from octamark.serving import server
from octamark.serving.server import PatientProtocol
from running_service import encoded, listening

PNG = b"Content-Type: image/png\r\n"


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A service that gives clients half a second."""
    with listening(upload_seconds=0.5, max_bytes=2_000_000, connections=30) as (host, port, _):
        yield host, port


def exchange(address: tuple[str, int], *parts: bytes, pause: float = 0.0) -> bytes:
    """What a connection receives until it is closed, after parts were sent with a pause between them."""
    received = b""
    with socket.create_connection(address, timeout=60) as connection:
        for part in parts:
            with contextlib.suppress(OSError):
                connection.sendall(part)
            time.sleep(pause)
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                received += data
    return received


def head(length: int, extra: bytes = b"") -> bytes:
    return b"POST /v1/landmarks HTTP/1.1\r\nHost: a\r\n" + PNG + extra + b"Content-Length: %d\r\n\r\n" % length


def test_slow_senders_are_left_and_others_answered(address: tuple[str, int], portrait: bytes) -> None:
    silent = [socket.create_connection(address, timeout=60) for _ in range(8)]
    headers = [socket.create_connection(address, timeout=60) for _ in range(8)]
    for connection in headers:
        connection.sendall(b"POST /v1/landmarks HTTP/1.1\r\nHost:")
    answer = httpx.post(f"http://{address[0]}:{address[1]}/v1/landmarks", files={"p": ("a.jpg", portrait)}, timeout=60)
    assert answer.status_code == 200
    for connection in (*silent, *headers):
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        connection.close()


def test_a_slow_body_is_408(address: tuple[str, int]) -> None:
    answer = exchange(address, head(10_000), *[b"x"] * 3, pause=0.25)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"at most 0.5 s are allowed" in answer


def test_a_second_request_of_a_connection_has_its_time_too(address: tuple[str, int]) -> None:
    answer = exchange(address, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /health", b"/li", pause=0.1)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_a_refused_body_does_not_cut_off_the_answer(address: tuple[str, int]) -> None:
    body = bytes(30_000_000)
    answer = exchange(address, head(len(body)), body)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'at most 2,000,000 are allowed"}')
    chunked = b"POST /v1/landmarks HTTP/1.1\r\nHost: a\r\n" + PNG + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = exchange(address, chunked, b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_sends_nothing_in_vain(address: tuple[str, int]) -> None:
    answer = exchange(address, head(30_000_000, b"Expect: 100-continue\r\nConnection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET /\r\n\r\n",
        b"POST /v1/landmarks HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/landmarks HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/landmarks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["huge header", "many headers", "TLS", "no version", "negative", "two lengths", "bad chunk", "long path"],
)
def test_what_is_no_http_is_400(address: tuple[str, int], request_bytes: bytes) -> None:
    answer = exchange(address, request_bytes)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"http://{address[0]}:{address[1]}/health/ready", timeout=60).status_code == 200


def test_connections_beyond_the_limit_are_503(address: tuple[str, int]) -> None:
    held = [socket.create_connection(address, timeout=60) for _ in range(40)]
    answers = []
    for connection in held[30:]:
        with contextlib.suppress(ConnectionResetError):
            answers.append(connection.recv(1000))
    for connection in held:
        connection.close()
    assert any(answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer for answer in answers)


def test_a_client_that_takes_no_answer_is_left(monkeypatch: pytest.MonkeyPatch, portrait: bytes) -> None:
    aborted = threading.Event()
    original = PatientProtocol.connection_lost

    def lost(self: PatientProtocol, error: Exception | None) -> None:
        aborted.set()
        original(self, error)

    monkeypatch.setattr(PatientProtocol, "connection_lost", lost)
    noise = encoded(np.random.default_rng(0).integers(0, 255, (900, 900, 3)), "PNG", compress_level=0)
    with listening(upload_seconds=1.0) as (host, port, _), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, port))
        request = b"POST /v1/overlay HTTP/1.1\r\nHost: a\r\n" + PNG + b"Content-Length: %d\r\n\r\n" % len(noise)
        connection.sendall(request + noise)
        assert aborted.wait(60)  # without a byte of the answer taken


def test_a_stop_finishes_what_is_running(portrait: bytes) -> None:
    with listening() as (host, port, running):
        url, answers = f"http://{host}:{port}/v1/landmarks", list[int]()

        def post() -> None:
            answers.append(httpx.post(url, files={"p": ("a.jpg", portrait)}, timeout=60).status_code)

        threads = [threading.Thread(target=post) for _ in range(6)]
        for thread in threads:
            thread.start()
        while len(running.server_state.tasks) + len(answers) < len(threads):
            time.sleep(0.001)
        running.should_exit = True
        for thread in threads:
            thread.join()
        assert answers == [200] * len(threads)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_serves_until_it_is_told_to_stop(workers: int, portrait: bytes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    command = [
        sys.executable, "-m", "octamark", "serve", "--port", "0", "-m", "pico", "--decoders", "1", "--threads", "1",
        "--workers", str(workers), "--token-file", str(token),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert match, line
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        with httpx.Client(base_url=match[0], headers=headers, timeout=120) as client:
            for _ in range(1200):
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health/ready").status_code == 200:
                        break
                time.sleep(0.1)
            for _ in range(4):
                assert client.post("/v1/landmarks", files={"p": ("a.jpg", portrait)}).status_code == 200
            assert "octamark_pictures_total 4.0" in client.get("/metrics").text
            answer = list[int]()
            thread = threading.Thread(
                target=lambda: answer.append(client.post("/v1/overlay", files={"p": ("a", portrait)}).status_code)
            )
            thread.start()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            thread.join()
        assert process.wait(120) == 0
        assert answer == [200]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_other_machines_need_a_token_or_a_word() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.com"):  # noqa: S104
        with pytest.raises(ConfigError, match=f"host {host}: reachable from other machines; give --token-file"):
            run("serve", "--host", host)
        assert not is_loopback(host)
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.9.9.9")))


def test_a_token_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "missing")
    (tmp_path / "token").write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="ASCII"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16"):
        run("serve", "--token-file", tmp_path / "token")


def test_an_unknown_model_is_an_error_before_anything_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match="unknown model 'huge'; models: pico"):
        run("serve", "--port", "0", "--model", "pico", "--model", "huge")
    assert "octamark serves" not in capfd.readouterr().err


def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            server.bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot be used"):
        server.bind("no-such-host.invalid", 8000)
