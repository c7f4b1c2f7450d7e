"""``octamark devices``: what networks can run on here, and how long they take there."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from octamark.cli.console import DEVICE, fail, progress, stdout
from octamark.errors import DeviceError, WeightsError
from octamark.inference.device_times import DeviceTimes, device_times
from octamark.inference.devices import DEVICES, available_devices, device_named
from octamark.inference.session import check_threads
from octamark.models import REGIONS, available, read


def devices(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models, or .onnx files, to run; all that ship by default")
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads of the networks")] = 1,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Run the models on the devices that are there")] = True,
) -> None:
    """List the devices that networks run on, and what each model takes there.

    The first table says which devices can be used here, and what the others need. The second has the shortest of a few
    runs of each network alone: for one face, and per face where the device reads many together. A device that is
    there and does not start, or does not run a model, is reported, and the exit code is then 1.
    """
    check_threads(threads)
    chosen = list(DEVICES) if device is None else [device_named(device).name]
    table = Table(title="Devices", title_justify="left")
    for heading in ("device", "here", ""):
        table.add_column(heading)
    for name in chosen:
        problem = DEVICES[name].problem()
        table.add_row(name, "yes" if problem is None else "no", problem or "")
    stdout.print(table)
    if not run:
        return
    here = [name for name in available_devices() if name in chosen]
    models = names or [*available(), REGIONS]
    for model in models:
        read(model, [*available(), REGIONS])  # unknown names come before the work
    rows: list[tuple[str, str, DeviceTimes]] = []
    failed = False
    with progress() as bar:
        task = bar.add_task("running", total=len(here) * len(models))
        for name in here:
            for model in models:
                try:
                    rows.append((model, name, device_times(model, name, threads=threads)))
                except (DeviceError, WeightsError) as error:
                    failed = True
                    fail(f"{model}: {error}")
                bar.advance(task)
    stdout.print(_times(rows, models, threads))
    if failed:
        raise typer.Exit(1)


def _times(rows: list[tuple[str, str, DeviceTimes]], models: list[str], threads: int) -> Table:
    """A table of times, by model."""
    title = f"Milliseconds of the network, {threads} processor thread{'' if threads == 1 else 's'}"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    table.add_column("device")
    for heading in ("one face", "per face of many", "how many", "seconds to load"):
        table.add_column(heading, justify="right")
    for model, device, times in sorted(rows, key=lambda row: models.index(row[0])):
        table.add_row(
            model, device, f"{times.one:.2f}", f"{times.batch:.2f}", str(times.count), f"{times.load:.2f}"
        )  # fmt: skip
    return table
