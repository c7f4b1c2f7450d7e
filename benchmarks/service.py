"""Requests per second of `octamark serve`, from one client and from many at a time, on this machine alone.

    python -m benchmarks.service [--model tiny-128] [--clients 50] [--requests 600] [--rounds 3] [--update]

Every client sends one 512x512 JPEG after the other over a connection that it keeps. Turns of one client and of all
clients alternate; the figures are those of all requests of a kind, the requests per second the median of the turns. The
clients run in this process and share the processors with the service."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.throughput import VIEWS, write_views

TIMEOUT = 120


@dataclass
class Service:
    """A service that runs in a process of its own.

    Attributes:
        process: of the service; its decoders are its children.
        host, port: where it listens.
    """

    process: subprocess.Popen[str]
    host: str
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)


@contextlib.contextmanager
def started(*options: str) -> Iterator[Service]:
    """A service at a free port of this machine, which is ready."""
    command = [sys.executable, "-m", "octamark", "serve", "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, text=True)
        try:
            match = None
            while match is None:
                time.sleep(0.1)
                log.seek(0)
                match = re.search(r"http://(127\.0\.0\.1):(\d+)", log.read())
                if process.poll() is not None:
                    raise SystemExit("the service did not start")
            service = Service(process, match[1], int(match[2]))
            while not is_ready(service):
                time.sleep(0.1)
            yield service
        finally:
            process.terminate()
            process.wait()


def is_ready(service: Service) -> bool:
    """Whether the service takes pictures."""
    try:
        connection = service.connect()
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


@dataclass
class Turn:
    """What the clients of one turn saw.

    Attributes:
        seconds: of each request that was answered with faces.
        lost: requests that were not.
        duration: of the turn, seconds.
    """

    seconds: list[float] = field(default_factory=list)
    lost: int = 0
    duration: float = 0.0


def turn(service: Service, pictures: Sequence[bytes], clients: int, requests: int) -> Turn:
    """Send that many requests from that many clients at a time."""
    result, numbers, lock = Turn(), iter(range(requests)), threading.Lock()

    def client() -> None:
        connection = service.connect()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                connection.close()
                return
            start = time.perf_counter()
            try:
                body = pictures[number % len(pictures)]
                connection.request("POST", "/v1/landmarks", body, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                content = response.read()
                answered = response.status == 200 and bool(json.loads(content)[0]["faces"])
            except OSError:
                answered = False
                connection = service.connect()
            elapsed = time.perf_counter() - start
            with lock:
                if answered:
                    result.seconds.append(elapsed)
                else:
                    result.lost += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.duration = time.perf_counter() - start
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-128", help="the model that is served")
    parser.add_argument("--clients", type=int, default=50, help="clients at a time")
    parser.add_argument("--requests", type=int, default=600, help="requests of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each kind")
    add_update_option(parser)
    arguments = parser.parse_args()
    counts = (1, arguments.clients)
    turns: dict[int, list[Turn]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as name, started("--model", arguments.model) as service:
        write_views(Path(name))
        pictures = [(Path(name) / f"{number}.jpg").read_bytes() for number in range(VIEWS)]
        turn(service, pictures, arguments.clients, len(pictures) * 4)  # the first ones do not count
        for _, count in itertools.product(range(arguments.rounds), counts):
            turns[count].append(turn(service, pictures, count, arguments.requests))
    rates = {
        count: statistics.median(len(measured.seconds) / measured.duration for measured in turns[count])
        for count in counts
    }
    rows: list[list[Value]] = []
    for count in counts:
        milliseconds = 1000 * np.concatenate([measured.seconds for measured in turns[count]])
        median, late = np.percentile(milliseconds, [50, 99])
        lost = sum(measured.lost for measured in turns[count])
        rows.append([
            count, len(milliseconds) + lost, lost, rates[count], rates[count] / rates[1], float(median), float(late),
            float(late / median),
        ])  # fmt: skip
    measurement = Measurement(
        name="service",
        page="service",
        title="Requests per second",
        text=f"`octamark serve --model {arguments.model}`; every request is one JPEG of 512x512 pixels with one face. "
        "Clients and service share the processors. *Lost* are requests without faces in the answer.",
        columns=(
            ("clients", "d"), ("requests", "d"), ("lost", "d"), ("requests per second", ".1f"),
            ("over one client's", ".2f"), ("ms median", ".1f"), ("ms 99th percentile", ".1f"),
            ("99th percentile over median", ".2f"),
        ),
        rows=rows,
        command=f"python -m benchmarks.service --model {arguments.model} --clients {arguments.clients} "
        f"--requests {arguments.requests} --rounds {arguments.rounds}",
        data="views of one portrait",
    )  # fmt: skip
    finish([measurement], arguments.update)


if __name__ == "__main__":
    main()
