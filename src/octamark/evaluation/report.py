"""Files of results: results.json, pictures.csv, predictions.json, plots and the sheet of the worst faces."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any

from octamark.errors import DataError, PictureError, install_hint
from octamark.evaluation import plots, sheet
from octamark.evaluation.results import Result, Scores
from octamark.evaluation.robustness import Curves
from octamark.images import write_atomically, write_picture
from octamark.io.records import rounded

RESULTS = "results.json"
PLOTS = ("ced.png", "reliability.png", "robustness.png", "worst.png")


def write(result: Result, folder: Path, robustness: Curves | None = None) -> list[str]:
    """Messages about what could not be drawn, after all files of a result were written to a folder.

    Raises:
        OutputError: the folder cannot be written to.
    """
    rows = result.rows()
    content = {**result.summary(), **({"robustness": robustness} if robustness else {}), "pictures": rows}
    write_atomically(folder / RESULTS, json.dumps(_finite(content), indent=1).encode())
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "pictures.csv", table.getvalue().encode("utf-8", "backslashreplace"))
    write_atomically(folder / "predictions.json", _predictions(result).encode())
    for plot in PLOTS:  # plots of an earlier result would not belong to this one
        (folder / plot).unlink(missing_ok=True)
    missing = []
    if importlib.util.find_spec("matplotlib") is None:
        missing.append(f"plots need matplotlib: {install_hint(['matplotlib'])}")
    else:
        write_atomically(folder / "ced.png", plots.ced([result]))
        if result.reliability is not None:
            write_atomically(folder / "reliability.png", plots.reliability_plot(result.reliability, result.about))
        if robustness:
            write_atomically(folder / "robustness.png", plots.robustness(robustness, result.about))
    try:
        write_picture(folder / "worst.png", sheet.worst(result))
    except PictureError as error:
        missing.append(f"no sheet of the worst faces: {error}")
    return missing


def read_scores(folder: Path) -> Scores:
    """The scores in a folder that ``write`` wrote.

    Raises:
        DataError: no results in the folder, or results of another form.
    """
    path = folder / RESULTS if folder.is_dir() else folder
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["name"]: row["nme_percent"] for row in content["pictures"] if row["scored"]}
        errors = {name: math.nan if value == "" else float(value) / 100 for name, value in rows.items()}
        if not errors:
            raise ValueError("no faces")
        faces = f"{content['set']} {content['split']}".strip()
        return Scores(f"{content['model']} ({folder})", faces, content["boxes"], content["normaliser"], errors)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not results of octamark evaluate ({error})") from error


def _predictions(result: Result) -> str:
    """The predictions in the json form that ``octamark.io`` reads, so that they can be scored again."""
    predictions = result.predictions
    entries = []
    for index, sample in enumerate(result.samples):
        entry: dict[str, Any] = {"image": sample.name, "landmarks": None}
        if predictions.found[index]:
            entry["landmarks"] = rounded(predictions.landmarks[index], 3)
            if predictions.spread is not None:
                entry["spread"] = rounded(predictions.spread[index], 4)
            if predictions.confidence is not None:
                entry["confidence"] = rounded(predictions.confidence[index], 4)
            if predictions.visible is not None:
                entry["visible"] = rounded(predictions.visible[index], 4)
        entries.append(json.dumps(entry))
    return "[\n" + ",\n".join(entries) + "\n]\n"


def _finite(value: Any) -> Any:
    """The same values with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
