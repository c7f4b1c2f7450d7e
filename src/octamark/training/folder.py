"""A run's folder: what a stopped run leaves there, and what it needs to go on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from octamark.datasets import Sample
from octamark.errors import ConfigError, OutputError, WeightsError, listed
from octamark.images import write_atomically
from octamark.training import checkpoints
from octamark.training.recipe import Config, parse

_KEPT = ("epoch", "best_nme", "average_updates")


class RunFolder:
    """``config.json``, ``log.csv``, ``last.safetensors`` (what a resumed run goes on from) and ``best.safetensors``.

    Args:
        path: the folder.
        resume: whether a run in it goes on.

    Raises:
        OutputError: it holds a run already and ``resume`` is false.
        ConfigError: nothing to resume.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        if self.last.exists() and not resume:
            raise OutputError(f"{path}: holds a run already; --resume goes on with it, or choose another folder")
        if resume and not self.last.exists():
            raise ConfigError(f"{path}: nothing to resume, no last.safetensors there")

    def make(self, config: Config) -> None:
        """Make the folder and write the recipe, which shows that it can be written.

        Raises:
            OutputError: it cannot.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror})") from error
        write_atomically(self.path / "config.json", config.model_dump_json(indent=2).encode())

    def save(
        self,
        columns: Sequence[str],
        groups: Mapping[str, Mapping[str, Tensor]],
        meta: Mapping[str, Any],
    ) -> None:
        """What an epoch ends with; ``meta`` has the log's rows."""
        table = io.StringIO()
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(meta["rows"])
        write_atomically(self.path / "log.csv", table.getvalue().encode())
        checkpoints.save(self.last, groups, meta)

    def load(self, config: Config, held_out: Iterable[Sample]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What the run saved last, tensors and metadata.

        Raises:
            ConfigError: another recipe than the run's, but for stages at its end.
            DataError: faces are held out that the run has learned from.
            WeightsError: a damaged file.
        """
        groups, meta = checkpoints.load(self.last)
        before = parse(meta["config"], str(self.last))
        begun = config.model_copy(update={"stages": config.stages[: len(before.stages)]})
        if before != begun:
            raise ConfigError(
                f"{self.path}: was started with another recipe; resume with its own ({self.path}/config.json), "
                "or with stages added at its end"
            )
        checkpoints.check_held_out(meta, held_out, self.last)
        needed = ["ema", "moments", *(["start"] if config.optimiser.keep else [])]
        if lost := [name for name in needed if name not in groups] + [name for name in _KEPT if name not in meta]:
            raise WeightsError(f"{self.last}: damaged, it has no {listed(lost)}; nothing can go on from it")
        return groups, meta
