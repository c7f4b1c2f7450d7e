"""Services that several tests ask, and the picture that they send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from running_service import Running, running

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="session")
def portrait() -> bytes:
    return (DOCS / "portrait.jpg").read_bytes()


@pytest.fixture(scope="session")
def crowd() -> bytes:
    """A picture in which the detector sees three faces."""
    return (DOCS / "astronaut.jpg").read_bytes()


@pytest.fixture(scope="session")
def service() -> Iterator[Running]:
    """A service with two models and the usual limits, a few of them smaller."""
    with running(models=("tiny-128", "small"), max_pictures=3, max_bytes=3_000_000, max_faces=20) as started:
        yield started
