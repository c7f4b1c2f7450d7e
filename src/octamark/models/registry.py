"""The model files that ship, in the folder ``blobs``, and reading them or any other model file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from octamark.errors import WeightsError, listed

REGIONS, REGIONS_MODEL = "regions", "small"
"""Names of the regional network that ships and of the model that it was trained with."""

MISSING_FILES = "install octamark again, or where PyInstaller built the application, add --collect-data octamark"
"""What to do about a file of the package that is not there."""


def blobs() -> Path:
    """The folder of the model files that ship and of the checkpoints behind them."""
    return Path(str(resources.files("octamark.models"))) / "blobs"


def _sums() -> dict[str, str]:
    """The sha256 of each model file that ships, by name.

    Raises:
        WeightsError: the file of checksums is missing, as in an application that was packed without data files.
    """
    path = blobs() / "sha256.json"
    try:
        sums: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {MISSING_FILES}") from error
    return sums


def is_released(data: bytes) -> bool:
    """Whether these are the bytes of a weight file that ships."""
    return hashlib.sha256(data).hexdigest() in _sums().values()


def available() -> list[str]:
    """Names of the models that ship, smallest first, without the regional network."""
    files = {name: blobs() / f"{name}.onnx" for name in _sums() if name != REGIONS}
    return sorted((name for name in files if files[name].is_file()), key=lambda name: files[name].stat().st_size)


def read(name: str | Path | bytes, known: Sequence[str] = ()) -> bytes:
    """The bytes of a model file.

    Args:
        name: of a model that ships, the path of an .onnx file, or its bytes, which are returned as they are.
        known: names that the message about an unknown one lists; all models by default.

    Raises:
        WeightsError: unknown name (the message lists the names), missing file, or a file that ships and was changed.
    """
    if isinstance(name, bytes):
        return name
    released = _sums().get(str(name))
    if released is not None:
        path = blobs() / f"{name}.onnx"
    elif isinstance(name, str | Path) and Path(name).suffix.lower() == ".onnx":
        path = Path(name)
    else:
        raise WeightsError(
            f"unknown model {str(name)!r}; models: {listed(known or available())}, or the path of an .onnx file"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if released is not None and hashlib.sha256(data).hexdigest() != released:
        raise WeightsError(f"{path}: damaged (its sha256 is not the released one); install octamark again")
    return data
