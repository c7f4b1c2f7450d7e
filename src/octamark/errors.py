"""The exceptions of octamark.

    OctamarkError            everything octamark raises on purpose
    ├── PictureError         a picture or video that cannot be read or used
    ├── PredictionError      a picture that was read, but whose faces could not be found
    ├── BoxError             face boxes that cannot be used
    ├── LayoutError          an unknown layout or part, or a layout table with mistakes
    ├── WeightsError         an unknown model, a damaged or foreign weight file
    ├── DeviceError          a device or thread count that is not available
    ├── DataError            a data set with a missing or malformed file
    ├── ConfigError          a training recipe, or a setting, with unknown keys or impossible values
    ├── TrainingError        a training run that cannot continue
    ├── ServiceError         a service that cannot be reached, is busy, or refuses a request
    └── OutputError          a result that cannot be written

Messages say what was given, what is allowed, and which file.
"""

from __future__ import annotations

from collections.abc import Iterable


class OctamarkError(Exception):
    """Base of all errors that octamark raises on purpose."""


class PictureError(OctamarkError):
    """A picture or video that cannot be read or used."""


class PredictionError(OctamarkError):
    """A picture that was read, but whose faces could not be found."""


class BoxError(OctamarkError):
    """Face boxes that cannot be used."""


class LayoutError(OctamarkError):
    """An unknown layout or part, or a layout table with mistakes."""


class WeightsError(OctamarkError):
    """An unknown model, a damaged or foreign weight file."""


class DeviceError(OctamarkError):
    """A device or thread count that is not available."""


class DataError(OctamarkError):
    """A data set with a missing or malformed file."""


class ConfigError(OctamarkError):
    """A training recipe, or a setting, with unknown keys or impossible values."""


class TrainingError(OctamarkError):
    """A training run that cannot continue."""


class ServiceError(OctamarkError):
    """A service that cannot be reached, is busy, or refuses a request.

    Args:
        message: one sentence.
        status: of the answer, in HTTP; None without an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutputError(OctamarkError):
    """A result that cannot be written."""


def listed(names: Iterable[object]) -> str:
    """Names for an error message: ``a, b, c``."""
    return ", ".join(str(name) for name in names)


def install_hint(packages: Iterable[str]) -> str:
    """The command that installs missing packages, for error messages.

    The packages are named one by one: octamark is on no package index, so ``octamark[train]`` would not be found.
    """
    return f"pip install {' '.join(packages)}"
