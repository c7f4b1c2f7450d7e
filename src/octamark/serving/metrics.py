"""What ``/metrics`` reports, for Prometheus. None of it says anything about the pictures but numbers and sizes."""

from __future__ import annotations

import glob
import os
import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder in which several server processes add up their figures."""

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BYTES = (1e4, 1e5, 1e6, 1e7, 1e8)


class Metrics:
    """The figures of one server process; with ``FOLDER`` set, ``text`` has those of all processes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "octamark_{}".format
        self.requests = Counter(
            name("requests"), "Requests, by route and HTTP status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            name("request_seconds"), "From the headers to the answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.bytes = Histogram(name("request_bytes"), "Bodies of requests", buckets=_BYTES, registry=registry)
        self.stage_seconds = Histogram(
            name("stage_seconds"),
            "Time of a picture in each stage, waiting included",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter(name("pictures"), "Pictures that were answered", registry=registry)
        self.faces = Counter(name("faces"), "Faces in them", registry=registry)
        self.batch = Histogram(
            name("batch_pictures"),
            "Pictures that shared the runs of a network",
            buckets=(1, 2, 4, 8),
            registry=registry,
        )
        self.queued = Gauge(
            name("queued_pictures"), "Pictures held now", registry=registry, multiprocess_mode="livesum"
        )
        self.decoders_replaced = Counter(
            name("decoders_replaced"), "Decoding processes that ended and were replaced", registry=registry
        )

    def text(self) -> bytes:
        """The figures in Prometheus's text format."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        _forget_ended_processes(folder)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _forget_ended_processes(folder: str) -> None:
    """Remove what processes that ended hold now, which is nothing."""
    for path in glob.glob(os.path.join(folder, "gauge_live*.db")):
        match = re.search(r"_(\d+)\.db$", path)
        if match and not os.path.exists(f"/proc/{match[1]}") and os.path.isdir("/proc/self"):
            multiprocess.mark_process_dead(int(match[1]))  # type: ignore[no-untyped-call]
