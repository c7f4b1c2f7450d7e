"""Fixtures: small pictures, an object store in this process, and a Ray cluster of two processors for the session."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

PICTURES = 24
BAD = "bad.jpg"
EMPTY = "empty.png"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, photograph: NDArray[np.uint8]) -> Path:
    """A folder with views of one face, a picture without faces, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("cluster") / "pictures"
    folder.mkdir()
    face = Image.fromarray(photograph).crop((100, 0, 356, 256))
    for number in range(PICTURES - 2):
        face.rotate(number - 11).save(folder / f"{number:02}.png")
    Image.new("RGB", (90, 60)).save(folder / EMPTY)
    (folder / BAD).write_text("this is text")
    return folder


def names(folder: Path) -> list[str]:
    """The paths of the pictures of a folder, sorted."""
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Settings of a URI that lead to an S3 server in this process, which has the bucket ``bucket``."""
    server = pytest.importorskip("moto.server", reason="needs moto, flask and flask-cors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")  # noqa: S106
    running = server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    running.start()
    try:
        settings = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
        from octamark.io.places import place

        place(f"s3://bucket{settings}").filesystem.create_dir("bucket")
        yield settings
    finally:
        running.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def cluster(object_store: str) -> Iterator[Any]:
    """A Ray cluster on this machine with two processors, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'ray[data]'")
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100_000_000},
    )
    try:
        ray.init(started.address, log_to_driver=False, logging_level="ERROR")
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
