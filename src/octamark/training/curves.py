"""Training curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from octamark.images import write_atomically


def plot(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, normaliser: str = "inter-ocular") -> None:
    """Draw loss and validation NME over epochs, one line a run, a mark where the input size changes, as PNG.

    Args:
        runs: name -> the rows of the run's log (octamark.training.engine.COLUMNS).
        normaliser: of their NME.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss_axes, nme_axes = figure.subplots(1, 2)
    for name, rows in runs.items():
        epochs = [row["epoch"] for row in rows]
        errors = [100 * row["validation_nme"] for row in rows]
        (line,) = loss_axes.plot(epochs, [row["loss"] for row in rows], label=name)
        last = [(error, epoch) for error, epoch, row in zip(errors, epochs, rows, strict=True)
                if row["stage"] == rows[-1]["stage"]]  # fmt: skip
        least, at = min(last)
        nme_axes.plot(
            epochs, errors, color=line.get_color(), label=f"{name}: best {least:.2f} %, last {errors[-1]:.2f} %"
        )
        nme_axes.plot([at], [least], "o", color=line.get_color(), markersize=4)
        for before, after in pairwise(rows):
            if before["size"] != after["size"]:
                for axes in (loss_axes, nme_axes):
                    axes.axvline(before["epoch"] + 0.5, color=line.get_color(), linestyle=":", linewidth=0.8)
    loss_axes.set(xlabel="epoch", ylabel="training loss, augmented faces", yscale="log")
    nme_axes.set(xlabel="epoch", ylabel=f"validation NME, %, {normaliser}, label boxes", yscale="log")
    ticks = [3, 3.5, 4, 5, 6, 8, 10, 15]
    nme_axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    nme_axes.minorticks_off()
    for axes in (loss_axes, nme_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
