"""Results on disk: results.json, pictures.csv, predictions.json, plots and the sheet of the worst faces."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any

from octamark.errors import DataError, PictureError
from octamark.evaluation import plots, sheet
from octamark.evaluation.results import Result, Scores
from octamark.evaluation.robustness import Curves
from octamark.images import write_atomically, write_picture

RESULTS = "results.json"
PLOTS = ("ced.png", "reliability.png", "robustness.png", "worst.png")


def write(result: Result, folder: Path, robustness: Curves | None = None) -> list[str]:
    """Write everything about a result; returns what could not be drawn, and why.

    Raises:
        OutputError: the folder cannot be written to.
    """
    rows = result.rows()
    whole = {**result.summary(), **({"robustness": robustness} if robustness else {}), "pictures": rows}
    write_atomically(folder / RESULTS, json.dumps(_finite(whole), indent=1).encode())
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "pictures.csv", table.getvalue().encode("utf-8", "backslashreplace"))
    write_atomically(folder / "predictions.json", _predictions(result).encode())
    for plot in PLOTS:  # none of an earlier result stays beside this one
        (folder / plot).unlink(missing_ok=True)
    missing = []
    if importlib.util.find_spec("matplotlib") is None:
        missing.append("plots need matplotlib: pip install matplotlib")
    else:
        write_atomically(folder / "ced.png", plots.ced([result]))
        if result.trust is not None:
            write_atomically(folder / "reliability.png", plots.reliability_plot(result.trust, result.about))
        if robustness:
            write_atomically(folder / "robustness.png", plots.robustness(robustness, result.about))
    try:
        write_picture(folder / "worst.png", sheet.worst(result))
    except PictureError as error:
        missing.append(f"no sheet of the worst faces: {error}")
    return missing


def read_scores(folder: Path) -> Scores:
    """The scores that :func:`write` left in a folder.

    Raises:
        DataError: no results there, or not ones that this version wrote.
    """
    path = folder / RESULTS if folder.is_dir() else folder
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["name"]: row["nme_percent"] for row in whole["pictures"] if row["scored"]}
        errors = {name: math.nan if value == "" else float(value) / 100 for name, value in rows.items()}
        if not errors:
            raise ValueError("no faces")
        return Scores(f"{whole['model']} ({folder})", whole["boxes"], whole["normaliser"], errors)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not results of octamark evaluate ({error})") from error


def _predictions(result: Result) -> str:
    """The predictions as :mod:`octamark.evaluation.predictions` reads them."""
    given = result.predictions
    entries = []
    for index, sample in enumerate(result.samples):
        entry: dict[str, Any] = {"image": sample.name, "landmarks": None}
        if given.found[index]:
            entry["landmarks"] = given.landmarks[index].astype(float).round(3).tolist()
            if given.spread is not None:
                entry["spread"] = given.spread[index].astype(float).round(4).tolist()
            if given.confidence is not None:
                entry["confidence"] = given.confidence[index].astype(float).round(4).tolist()
        entries.append(json.dumps(entry))
    return "[\n" + ",\n".join(entries) + "\n]\n"


def _finite(value: Any) -> Any:
    """The same with null for what is not a number, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
