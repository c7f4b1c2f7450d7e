"""Fixtures: the photograph that may be used freely, and the labelled faces where they are at hand."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octamark import read_picture

REPOSITORY = Path(__file__).parent.parent

try:  # two pools of threads on two cores wait for each other
    import torch

    torch.set_num_threads(1)
except ImportError:
    pass


def astronaut_path() -> Path:
    """scikit-image's public-domain portrait of Eileen Collins (NASA), found without importing the package."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "astronaut.png"


@pytest.fixture(scope="session")
def photograph_path() -> Path:
    return astronaut_path()


@pytest.fixture(scope="session")
def photograph(photograph_path: Path) -> NDArray[np.uint8]:
    return read_picture(photograph_path)


DATA = Path(os.environ.get("OCTAMARK_DATA", REPOSITORY.parent / "shared" / "data"))
"""Labelled faces outside the repository, which tests use where they are there."""


@pytest.fixture(scope="session")
def labelled_data() -> Path:
    """The folder of labelled faces, which may be missing."""
    return DATA


@pytest.fixture(scope="session")
def w300_root() -> Path:
    """The labelled faces of 300W; OCTAMARK_DATA or ../shared/data."""
    root = DATA / "300w"
    if not root.is_dir():
        pytest.skip(f"needs the 300W faces in {root} (set OCTAMARK_DATA to the folder that holds 300w)")
    return root
