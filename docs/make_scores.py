"""Score the released models again, and write docs/scores.md and its plots: python docs/make_scores.py PATH/TO/300w

Needs the package's extra, evaluate. About four minutes on two cores.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

import octamark
from octamark import models
from octamark.datasets import read
from octamark.evaluation import plots
from octamark.evaluation.results import Result
from octamark.evaluation.scoring import Truth, score_model
from octamark.images import write_atomically
from octamark.inference.refiner import Refiner

HERE = Path(__file__).parent
HEAD = """# Scores

Written by `python docs/make_scores.py PATH/TO/300w`; nothing here is typed by hand. {faces} faces of 300W's training
pictures that no training step saw (`splits/val.txt`); they chose the epoch and fitted the calibration: no test set.
Normaliser inter-ocular; 95 % bootstrap intervals over faces; from the released ONNX files. What the figures
mean: [measuring.md](measuring.md). Models alone (`refine="never"`), and `small` with its regions read closely
(`refine="always"`; [resolution.md](resolution.md)).
"""


def row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join([row(head), row(["---"] * len(head)), *map(row, rows)]) + "\n"


def interval(values: dict[str, float], digits: int = 2) -> str:
    return f"{values['value']:.{digits}f} ({values['low']:.{digits}f} to {values['high']:.{digits}f})"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} PATH/TO/300w")
    data = Path(sys.argv[1])
    truth = Truth("300w", "val", read("300w", data, "val"), octamark.layout("ibug68"))
    results: dict[tuple[str, str], Result] = {}
    names = models.available()
    looks: dict[str, dict[str, Any]] = {name: {"model": name, "refine": "never"} for name in names}
    refined = f"{models.REGIONS_MODEL}, refined"
    looks[refined] = {"model": models.REGIONS_MODEL, "refine": "always"}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("scoring", total=len(truth.samples) * (2 * len(looks) + 2))
        for name, asked in looks.items():
            landmarker = octamark.load(**asked)
            for boxes in ("labels", "detector"):
                jitter = (name, boxes) == (names[-1], "labels")
                result, curves = score_model(
                    truth, landmarker, boxes, jitter=jitter, advance=lambda kind: bar.advance(task)
                )
                results[name, boxes] = result
                if curves is not None:
                    write_atomically(HERE / "robustness.png", plots.robustness(curves, result.about))
                    disturbed = curves
    best = results[names[-1], "labels"]
    assert best.trust is not None
    write_atomically(HERE / "reliability.png", plots.reliability_plot(best.trust, best.about))
    write_atomically(HERE / "ced.png", plots.ced([_named(results[name, "labels"], name) for name in looks]))

    summaries = {key: result.summary() for key, result in results.items()}
    text = [HEAD.format(faces=len(truth.samples)), "## Accuracy\n"]
    head = ["model", "boxes", "NME, %", "failures at 8 %, %", "at 10 %", "AUC at 8 %", "AUC at 10 %", "eye opening"]
    text.append(
        table(
            head,
            [
                [
                    f"`{name}`", boxes, interval(one["nme_percent"]), interval(one["failure_rate_percent"]["8%"], 1),
                    interval(one["failure_rate_percent"]["10%"], 1), interval(one["auc"]["8%"], 4),
                    interval(one["auc"]["10%"], 4), interval(one["eye_opening_error"], 3),
                ]
                for (name, boxes), one in summaries.items()
            ],
        )
    )  # fmt: skip
    parts = list(next(iter(summaries.values()))["part_nme_percent"])
    subsets = list(next(iter(summaries.values()))["subset_nme_percent"])
    text += ["NME of each part and of each source of pictures, %:\n"]
    text.append(
        table(
            ["model", "boxes", *parts, *subsets],
            [
                [
                    f"`{name}`", boxes, *(interval(one["part_nme_percent"][part]) for part in parts),
                    *(f"{one['subset_nme_percent'][subset]['value']:.2f}" for subset in subsets),
                ]
                for (name, boxes), one in summaries.items()
            ],
        )
    )  # fmt: skip
    text += ["![cumulative error curves](ced.png)\n", "## Trust\n"]
    text.append(
        "On faces that the calibration was not fitted on (fitted on four fifths, checked on the rest), from the "
        "models' cards; `python benchmarks/calibration.py DATA` also prints what it was before:\n"
    )
    cards = {name: octamark.load(name, refine="never").card.scores for name in names}
    cards[refined] = Refiner().card.scores
    figures = [key for key in cards[names[0]] if "cross-fitted" in key]
    rows = [[key.replace(" (cross-fitted)", ""), *(_short(one.get(key)) for one in cards.values())] for key in figures]
    text.append(table(["", *(f"`{name}`" for name in cards)], rows))
    text += [f"`{names[-1]}`, with the calibration that ships:\n", "![reliability](reliability.png)\n"]
    text += ["## Wrong boxes, leaning faces\n", f"`{names[-1]}`, NME in %:\n"]
    for axis, lines in disturbed.items():
        (x, _), *_ = lines.values()
        rows = [[name, *(f"{value:.2f}" for value in y)] for name, (_, y) in lines.items()]
        text.append(table([axis, *(f"{value:g}" for value in x)], rows))
    text += ["![robustness](robustness.png)\n"]
    write_atomically(HERE / "scores.md", "\n".join(text).encode())


def _named(result: Result, name: str) -> Result:
    """The result under another detector's name."""
    return dataclasses.replace(result, about=dataclasses.replace(result.about, model=name))


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value > 2 else f"{value:.3f}"


if __name__ == "__main__":
    main()
