"""Checkpoints: one .safetensors file each, JSON in its metadata, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor, nn

from octamark.datasets import Sample
from octamark.errors import DataError, WeightsError, listed
from octamark.images import write_atomically
from octamark.models import Source

_KEY = "octamark"


def dump(groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> bytes:
    """Groups of tensors (``weights``, ``ema``, ...) and JSON-able metadata as the bytes of one file."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(meta)})


def save(path: Path, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> None:
    """Write what ``dump`` gives, whole or not at all."""
    write_atomically(path, dump(groups, meta))


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors of a checkpoint into a network.

    Raises:
        WeightsError: tensors of another network; ``path`` names the file.
    """
    try:
        network.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        )
    except RuntimeError as error:
        raise WeightsError(f"{path}: holds the weights of another network than its recipe's ({error})") from error


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups and the metadata of a checkpoint.

    Raises:
        WeightsError: missing, damaged or foreign file.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    with _opened(path) as (file, meta):
        for key in file.keys():  # noqa: SIM118, not a dict
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return groups, meta


def metadata(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, without its tensors.

    Raises:
        WeightsError: missing, damaged or foreign file.
    """
    with _opened(path) as (_, meta):
        return meta


def sources(meta: Mapping[str, Any], path: Path) -> tuple[Source, ...]:
    """What a checkpoint's metadata says that its weights learned from; empty where an older version wrote it.

    Raises:
        WeightsError: a list of sources that cannot be read; ``path`` names the file.
    """
    try:
        return tuple(Source.model_validate(entry) for entry in meta.get("sources", ()))
    except (ValidationError, TypeError) as error:
        raise WeightsError(f"{path}: the list of what it learned from cannot be read ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file and the metadata of a checkpoint.

    Raises:
        WeightsError: missing, damaged or foreign file, also where its tensors cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
            if not isinstance(meta, dict) or not isinstance(meta.get("config"), dict) or not meta.get("rows"):
                raise ValueError("its metadata holds no recipe and log")
            yield file, meta
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such checkpoint") from error
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: damaged, or not a checkpoint of octamark ({error})") from error


def check_held_out(meta: Mapping[str, Any], faces: Iterable[Sample], path: Path) -> None:
    """Check by their names that a run has not learned from faces that are held out now.

    Args:
        meta: the metadata of the run's checkpoint.
        faces: those held out.
        path: the checkpoint, for the message.

    Raises:
        DataError: it has learned from some: the set is divided otherwise than it was.
    """
    if learned := sorted({face.name for face in faces} & set(meta.get("learned_from", ()))):
        raise DataError(
            f"{path}: has learned from {len(learned)} of the faces that are held out now, such as "
            f"{listed(learned[:3])}; hold out others"
        )
