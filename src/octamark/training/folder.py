"""A run's folder: its recipe, log and checkpoints, from which a stopped run is resumed."""

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
from octamark.training.recipe import Recipe, parse

_KEPT = ("epoch", "best_nme", "average_updates")


class RunFolder:
    """The folder of a run.

    It holds ``config.json`` (the recipe), ``log.csv``, ``last.safetensors`` (from which a run is resumed),
    ``best.safetensors``, and during a run ``crops`` (shards of faces that do not fit into memory).

    Args:
        path: the folder.
        resume: whether the run in it is resumed.

    Raises:
        OutputError: it holds a run already and ``resume`` is false.
        ConfigError: nothing to resume.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.last, self.best, self.crops = path / "last.safetensors", path / "best.safetensors", path / "crops"
        if self.last.exists() and not resume:
            raise OutputError(f"{path}: holds a run already; --resume goes on with it, or choose another folder")
        if resume and not self.last.exists():
            raise ConfigError(f"{path}: nothing to resume, no last.safetensors there")

    def make(self, recipe: Recipe) -> None:
        """Make the folder and write the recipe into it.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror})") from error
        write_atomically(self.path / "config.json", recipe.model_dump_json(indent=2).encode())

    def save(
        self,
        columns: Sequence[str],
        groups: Mapping[str, Mapping[str, Tensor]],
        meta: Mapping[str, Any],
    ) -> None:
        """Write the log and the last checkpoint; ``meta`` has the log's rows, which may have further columns."""
        table = io.StringIO()
        further = dict.fromkeys(key for row in meta["rows"] for key in row if key not in columns)
        writer = csv.DictWriter(table, [*columns, *further])
        writer.writeheader()
        writer.writerows(meta["rows"])
        write_atomically(self.path / "log.csv", table.getvalue().encode())
        checkpoints.save(self.last, groups, meta)

    def load(self, recipe: Recipe, held_out: Iterable[Sample]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The tensors and the metadata that the run saved last.

        Raises:
            ConfigError: another recipe than the run's, but for stages at its end.
            DataError: faces are held out that the run has learned from.
            WeightsError: a damaged file.
        """
        groups, meta = checkpoints.load(self.last)
        before = parse(meta["config"], str(self.last))
        begun = recipe.model_copy(update={"stages": recipe.stages[: len(before.stages)]})
        if before != begun:
            raise ConfigError(
                f"{self.path}: was started with another recipe; resume with its own ({self.path}/config.json), "
                "or with stages added at its end"
            )
        checkpoints.check_held_out(meta, held_out, self.last)
        needed = ["ema", "moments", *(["start"] if recipe.optimiser.init_weight else [])]
        if lost := [name for name in needed if name not in groups] + [name for name in _KEPT if name not in meta]:
            raise WeightsError(f"{self.last}: damaged, it has no {listed(lost)}; nothing can go on from it")
        return groups, meta
