"""What several tests of evaluation share."""

from __future__ import annotations

import pytest

import octamark
from octamark.inference.landmarker import Landmarker


@pytest.fixture(scope="session")
def nano() -> Landmarker:
    return octamark.load("nano", threads=1)
