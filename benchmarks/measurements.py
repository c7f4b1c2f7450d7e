"""The one file of measured figures, docs/measurements/results.json, and the type of its entries.

A benchmark makes a :class:`Measurement`, prints it, and with ``--update`` puts it in the place of the entry of its
name; ``python -m benchmarks.report`` writes the pages of docs/measurements from the file."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from octamark.images import write_atomically

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "measurements"
RESULTS = DOCS / "results.json"

Value = float | int | str | Sequence[float] | None
"""A cell: a number, a text, ``[value, low, high]`` for a value with its 95 % interval, or None for an empty cell."""


@dataclass(frozen=True)
class Measurement:
    """A table of figures that were measured together, and under which conditions.

    Attributes:
        name: the entry's key in results.json.
        page: the page of docs/measurements that shows it, without suffix.
        title: of the table.
        text: Markdown; what was measured, and how to read it.
        columns: title and number format of each column, such as ``(("", ""), ("NME, %", ".2f"))``.
        rows: cells, as many per row as there are columns.
        command: that measures it, from the root of the clone.
        older: which older weights these are figures of; empty for the models that ship, and where no weights matter.
        data: set and split; ``boxes``: kind of the boxes; ``normaliser``: of the errors.
        plot: file name of a picture in docs/measurements, if there is one.
        processor, date, commit: where (if it is a time) and when it was measured, and with which version.
    """

    name: str
    page: str
    title: str
    text: str = ""
    columns: Sequence[Sequence[str]] = ()
    rows: Sequence[Sequence[Value]] = ()
    command: str = ""
    older: str = ""
    data: str = ""
    boxes: str = ""
    normaliser: str = ""
    plot: str = ""
    processor: str = ""
    date: str = ""
    commit: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.name}: a row has {len(row)} cells, there are {len(self.columns)} columns: {row}"
                )

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        formats = [form for _, form in self.columns]
        return [[text(value, form) for value, form in zip(row, formats, strict=True)] for row in self.rows]

    def print(self) -> None:
        """Print the table to the terminal."""
        conditions = ", ".join(filter(None, (self.data, self.boxes, self.normaliser)))
        title = f"{self.title} ({conditions})" if conditions else self.title
        table = Table(title=title, title_justify="left")
        for heading, form in self.columns:
            table.add_column(heading, justify="right" if form else "left")
        for row in self.cells():
            table.add_row(*row)
        Console(width=160).print(table, markup=False)


def text(value: Value, form: str) -> str:
    """A cell as text: ``3.07``, ``3.07 (2.92 to 3.23)`` with its interval, or nothing for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        middle, low, high = (format(part, form) for part in value)
        return f"{middle} ({low} to {high})"
    return format(value, form)


def load(path: Path = RESULTS) -> dict[str, Measurement]:
    """All measurements of the file by name."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {name: Measurement(name=name, **entry) for name, entry in entries.items()}


def save(measurements: dict[str, Measurement], path: Path = RESULTS) -> None:
    """Write the file: one line per row, so that a new figure is a change of one line."""
    entries = []
    for name, measurement in measurements.items():
        fields = {key: value for key, value in dataclasses.asdict(measurement).items() if value and key != "name"}
        lines = [f"  {json.dumps(key)}: {_lines(key, value)}" for key, value in fields.items()]
        entries.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    write_atomically(path, ("{\n " + ",\n ".join(entries) + "\n}\n").encode())


def _lines(key: str, value: Any) -> str:
    if key != "rows":
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(f"   {json.dumps(row, ensure_ascii=False)}" for row in value) + "\n  ]"


def add_update_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--update`` to a benchmark's options."""
    parser.add_argument(
        "--update", action="store_true", help="write the figures into docs/measurements, pages included"
    )


def finish(measurements: Sequence[Measurement], update: bool, path: Path = RESULTS) -> None:
    """Print measurements; with ``update`` also write them into the results file, and the pages anew."""
    for measurement in measurements:
        measurement.print()
    if update:
        from benchmarks.report import write_files

        known = load(path) if path.is_file() else {}
        for measurement in measurements:
            timed = any(title.split()[:1] == ["ms"] for title, _ in measurement.columns)
            stamp = {"date": f"{datetime.date.today()}", "commit": _commit(), "processor": processor() if timed else ""}
            known[measurement.name] = dataclasses.replace(measurement, **stamp)
        save(known, path)
        write_files(known, path.parent)


def _commit() -> str:
    """The short name of the version in hand, with ``+`` where files were changed since."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip()


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
