"""Hostile requests against `octamark serve`, and good ones in between, on this machine alone.

    python -m benchmarks.attack [--requests 2000] [--seed 0] [--update]

The requests are bombs, damaged files, files and bodies of other types, slow senders, huge headers, tricks in names and
paths, wrong options, and bodies of 300 MB. Meanwhile good requests go on, and their faces are compared with those from
before. The command fails if the service ends, answers one with status 500, loses a good request, or takes more memory
than ``MAX_MEMORY``."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from benchmarks.measurements import ROOT, Measurement, Value, add_update_option, finish
from benchmarks.service import Service, started
from PIL import Image

MAX_MEMORY = 700
"""Megabytes that the service and its decoders take together at most: the sum of their proportional set sizes."""

LARGE_BODY = 300_000_000

SHARES = {
    "bombs": 0.15, "truncated files": 0.2, "flipped bits": 0.15, "other types": 0.15, "names and paths": 0.1,
    "wrong options": 0.1, "broken HTTP and huge headers": 0.1, "slow senders": 0.04, "bodies of 300 MB": 0.01,
}  # fmt: skip
"""Kinds of hostile requests, and how many of all there are of each."""

HOSTILE, SLOW, GOOD = 12, 40, 2
"""Clients of each sort at a time."""

HEAD = b"POST /v1/landmarks HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


class Attacker:
    """Makes hostile requests, each from a generator of random numbers.

    Args:
        service: that is attacked.
        picture: a good picture, which is damaged.
    """

    def __init__(self, service: Service, picture: bytes) -> None:
        self.service = service
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        self.files = [picture, *(_file(image, form) for form in ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF"))]
        self.files.append(_file(image, "JPEG", progressive=True))
        white = Image.new("RGB", (4900, 4900), "white")
        frames = [Image.new("P", (1200, 1200), number % 250) for number in range(40)]
        animation = io.BytesIO()
        frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
        self.bombs = [
            png(20_000, 20_000, 20_000), png(2**31 - 1, 2**31 - 1, 0), png(5000, 5000, 5000), png(5000, 5000, 0),
            png(1, 25_000_000, 0), png(4000, 4000, 4000, text=50_000_000), _file(white, "WEBP"), _file(white, "PNG"),
            _file(white, "JPEG"), animation.getvalue(), tiff(60_000, 60_000), tiff(4000, 4000),
            slow_jpeg(4900, 20_000),
            b"P6 100000 100000 255\n", b"P6 4900 4900 255\n" + bytes(1000), b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
        ]  # fmt: skip

    def send(self, kind: str, chance: random.Random) -> str:
        """What came back for a request of that kind: the status, or ``closed``."""
        return str(getattr(self, "_" + kind.lower().replace(" ", "_"))(chance))

    def _bombs(self, chance: random.Random) -> str:
        path = chance.choice(["/v1/landmarks", "/v1/landmarks", "/v1/overlay"])
        return self.post(chance.choice(self.bombs), path=path)

    def _truncated_files(self, chance: random.Random) -> str:
        data = chance.choice(self.files)
        return self.post(data[: chance.randrange(1, len(data))])

    def _flipped_bits(self, chance: random.Random) -> str:
        data = bytearray(chance.choice(self.files))
        for _ in range(chance.choice([1, 10, 100, 1000])):
            data[min(int(chance.expovariate(1 / 2000)), len(data) - 1)] ^= 1 << chance.randrange(8)
        return self.post(bytes(data))

    def _other_types(self, chance: random.Random) -> str:
        body, kind = chance.choice([
            (b"", "image/jpeg"), (b"hello" * 100, "text/plain"), (b"{}", "application/json"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "image/svg+xml"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "image/eps"),
            (b"%PDF-1.7\n", "image/png"), (b"PK\x03\x04" + bytes(500), "image/png"), (bytes(100_000), "image/png"),
            (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "video/mp4"), (b"#EXTM3U\nfile:///etc/passwd", "image/png"),
            (b"--a\r\n", "multipart/form-data; boundary=a"), (b"x", "multipart/form-data"),
            (b"--a\r\n" * 20_000, "multipart/form-data; boundary=a"), (b"x=1&y=2", "application/x-www-form-urlencoded"),
            (b"--a\r\nContent-Disposition: form-data; name=\"p\"; filename=\"x\"\r\n" + b"X: y\r\n" * 20_000
             + b"\r\n\r\n--a--\r\n", "multipart/form-data; boundary=a"),
        ])  # fmt: skip
        return self.post(body, kind)

    def _names_and_paths(self, chance: random.Random) -> str:
        if chance.random() < 0.5:
            path = chance.choice([
                "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/../metrics", "//etc/passwd", "/%00", "/%ff%fe",
                "/v1/landmarks%00", "/.git/config", "/" + "a/" * 3000, "/openapi.json/..;/metrics", "\\windows",
            ])  # fmt: skip
            return self.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        name = chance.choice([
            "../../../etc/passwd", "/etc/passwd", "C:\\windows\\system32", "a\x00.jpg", "..", "", "x" * 10_000,
            "<script>alert(1)</script>", "$(reboot)", "';--", "\u202egnp.exe", "a\r\nSet-Cookie: x",
        ])  # fmt: skip
        part = f'--a\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'.encode()
        return self.post(part + self.files[0] + b"\r\n--a--\r\n", "multipart/form-data; boundary=a")

    def _wrong_options(self, chance: random.Random) -> str:
        query = chance.choice([
            "model=../../etc/passwd.onnx", "model=" + "x" * 5000, "boxes=" + "[" * 20_000, "boxes=[[1e999,0,1,1]]",
            "boxes=[[1,2,3]]", "boxes={}", "boxes=[[null,null,null,null]]", 'boxes=[["a","b","c","d"]]',
            "boxes=[[-1e30,-1e30,1e30,1e30]]", "boxes=" + "[[1,1,90,90]," * 1000, "refine=1", "min_confidence=nan",
            "full_frame=2", "format=exe", "x=" + "&x=" * 3000, "min_confidence=1e999", "boxes=%00", "model=%ff",
        ])  # fmt: skip
        return self.post(self.files[0], path=f"/v1/landmarks?{query}")

    def _broken_http_and_huge_headers(self, chance: random.Random) -> str:
        return self.raw(chance.choice([
            b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 1_000_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(50_000)) + b"\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", bytes(5000), b"\r\n" * 5000 + b"GET",
            HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n123456789",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", HEAD + b"Content-Length: 99\r\n\r\nshort",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
            b"Connection: upgrade, close\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        ]), end=True)  # fmt: skip

    def _slow_senders(self, chance: random.Random) -> str:
        parts = chance.choice([
            [b""], [b"G", b"E", b"T"], [HEAD[:20], HEAD[20:]],
            [HEAD + b"Content-Length: 5000\r\n\r\n", *[b"x"] * 60],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 60],
        ])  # fmt: skip
        return self.raw(*parts, pause=0.5)

    def _bodies_of_300_mb(self, chance: random.Random) -> str:
        piece = bytes(1_000_000)
        pieces = (piece for _ in range(LARGE_BODY // len(piece)))
        if chance.random() < 0.5:
            return self.raw(HEAD + b"Content-Length: %d\r\n\r\n" % LARGE_BODY, *pieces)
        chunk = b"%x\r\n" % len(piece) + piece + b"\r\n"
        chunks = (chunk for _ in range(LARGE_BODY // len(piece)))
        return self.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")

    def post(self, body: bytes, kind: str = "image/png", path: str = "/v1/landmarks") -> str:
        """The status of a request that is sent as it should be, but for what is in it."""
        connection = self.service.connect()
        try:
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            return str(response.status)
        except (OSError, http.client.HTTPException):
            return "closed"
        finally:
            connection.close()

    def raw(self, *parts: bytes, pause: float = 0.0, end: bool = False) -> str:
        """The status of an answer to bytes; ``end`` closes our side after them."""
        with socket.create_connection((self.service.host, self.service.port), timeout=60) as connection:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            try:
                start = connection.recv(64)
            except OSError:
                return "closed"
        return start.split()[1].decode() if start.startswith(b"HTTP/") else "closed"


def _file(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: int, text: int = 0) -> bytes:
    """A PNG file with that size in its header, so many rows of zeros, and a compressed text of so many bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(3 * width + 1) if rows else b""
    pixels = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    comment = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(text), 9)) if text else b""
    return b"\x89PNG\r\n\x1a\n" + header + comment + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def slow_jpeg(side: int, scans: int) -> bytes:
    """A grey progressive JPEG file of that size that repeats its last scan, so that decoding it takes long."""
    data = _file(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + scans * last + data[-2:]


def tiff(width: int, height: int) -> bytes:
    """A TIFF file that announces that many pixels of 8 bytes in one strip, of which nothing is there."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 5), (262, 3, 1, 1), (273, 4, 1, 8),
        (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + bytes(104)


class Watcher:
    """Measures the memory of a process and its children, as long as the context lasts.

    Attributes:
        peak: largest sum of proportional set sizes, MB.
    """

    def __init__(self, process: int) -> None:
        self.process, self.peak = process, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, sum(map(_megabytes, [self.process, *children(self.process)])))


def children(process: int) -> list[int]:
    """The processes that a process started."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    processes: list[int] = []
    for path in lists:
        with contextlib.suppress(OSError):
            processes += map(int, path.read_text().split())
    return processes


def _megabytes(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1000
    return 0.0


def good_requests(service: Service, picture: bytes, stop: Callable[[], bool]) -> Counter[str]:
    """How many good requests were answered with the right faces (``good``), and what happened to the others."""
    counts: Counter[str] = Counter()
    expected: np.ndarray | None = None
    while not stop() or not counts:
        for _ in range(100):  # a busy service is asked again
            connection = service.connect()
            try:
                connection.request("POST", "/v1/landmarks", picture, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                counts["closed"] += 1
                break
            finally:
                connection.close()
            if response.status == 503:
                counts["asked again"] += 1
                time.sleep(float(response.getheader("Retry-After", "1")))
                continue
            if response.status != 200:
                counts[str(response.status)] += 1
                break
            landmarks = np.array([face["landmarks"] for face in json.loads(content)[0]["faces"]])
            expected = landmarks if expected is None else expected
            same = landmarks.shape == expected.shape and np.abs(landmarks - expected).max() <= 0.05
            counts["good" if same else "other faces"] += 1
            break
        else:
            counts["lost"] += 1
        time.sleep(0.05)
    return counts


def attack(requests: int, seed: int, model: str) -> tuple[dict[str, Counter[str]], Counter[str], float, float]:
    """Statuses by kind, those of good requests, the peak of memory in MB, and the memory before, in MB."""
    picture = (ROOT / "docs" / "portrait.jpg").read_bytes()
    plan = [kind for kind, share in SHARES.items() for _ in range(round(share * requests))]
    random.Random(seed).shuffle(plan)
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with started("--model", model) as service:
        attacker = Attacker(service, picture)
        good_requests(service, picture, lambda: True)
        before = sum(map(_megabytes, [service.process.pid, *children(service.process.pid)]))
        done = threading.Event()
        with (
            Watcher(service.process.pid) as watcher,
            ThreadPoolExecutor(GOOD) as friends,
            ThreadPoolExecutor(HOSTILE) as quick,
            ThreadPoolExecutor(SLOW) as slow,
        ):
            asking = [friends.submit(good_requests, service, picture, done.is_set) for _ in range(GOOD)]
            try:
                sent = []
                for number, kind in enumerate(plan):
                    clients = slow if kind == "slow senders" else quick
                    sent.append((kind, clients.submit(attacker.send, kind, random.Random(f"{seed} {number}"))))
                for kind, future in sent:
                    statuses[kind][future.result()] += 1
            finally:
                done.set()
            good = sum((future.result() for future in asking), Counter())
        if service.process.poll() is not None:
            raise SystemExit(f"the service ended with exit code {service.process.returncode}")
    return dict(statuses), good, watcher.peak, before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="hostile requests")
    parser.add_argument("--seed", type=int, default=0, help="of their order and content")
    parser.add_argument("--model", default="tiny-128", help="the model that is served")
    add_update_option(parser)
    arguments = parser.parse_args()
    statuses, good, peak, before = attack(arguments.requests, arguments.seed, arguments.model)
    rows: list[list[Value]] = [
        [kind, sum(counts.values()), ", ".join(f"{status}: {n}" for status, n in sorted(counts.items()))]
        for kind, counts in sorted(statuses.items())
    ]
    rows.append(["good requests in between", good["good"], f"asked again after 503: {good['asked again']}"])
    measurement = Measurement(
        name="attack",
        page="service",
        title="Hostile requests",
        text=f"`octamark serve --model {arguments.model}` with its default limits took {peak:.0f} MB at most (the sum "
        f"of the proportional set sizes of all its processes), and {before:.0f} MB before. *closed*: the service "
        "closed the connection without an answer, such as that of a client that sends no headers. Damaged pictures "
        "that can still be read are answered with 200.",
        columns=(("kind", ""), ("requests", "d"), ("answers, by status", "")),
        rows=rows,
        command=f"python -m benchmarks.attack --requests {arguments.requests} --seed {arguments.seed}",
    )
    finish([measurement], arguments.update)
    print(f"memory: {peak:.0f} MB at most, {before:.0f} MB before")
    failed = [kind for kind, counts in statuses.items() if counts["500"]]
    bad = {status: count for status, count in good.items() if status not in ("good", "asked again")}
    if failed or bad or peak > MAX_MEMORY:
        raise SystemExit(f"status 500: {failed or 'none'}; good requests lost: {bad or 'none'}; memory: {peak:.0f} MB")


if __name__ == "__main__":
    main()
