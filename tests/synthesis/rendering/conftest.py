"""A small head: a bowl of vertices with a layout on it, and the folder of assets where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def assets_folder() -> Path:
    """The folder of assets; tests that need it are skipped without it."""
    data = Path(os.environ.get("OCTAMARK_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / "heads" / "ict" / "ict16.npz").exists():
        pytest.skip(f"no assets of rendered heads in {data / 'heads'}; OCTAMARK_DATA names the folder of data")
    return data / "heads"


@pytest.fixture(scope="session")
def rendering_assets(assets_folder: Path) -> Path:
    """The folder of assets where they can be rendered; tests that need it are skipped without Mitsuba."""
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    return assets_folder
