"""``octamark evaluate``: how good a detector is on labelled faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from octamark import models
from octamark.cli.console import (
    MODEL,
    REFINE,
    REGIONS,
    ROTATION,
    THREADS,
    counted,
    fail,
    make_folder,
    note,
    progress,
    stdout,
)
from octamark.errors import ConfigError, LayoutError
from octamark.layouts import layout

if TYPE_CHECKING:
    from octamark.datasets import Sample
    from octamark.evaluation.results import Result, Scores
    from octamark.evaluation.robustness import Curves
    from octamark.evaluation.scoring import Truth


def evaluate(
    data: Annotated[
        Path | None, typer.Argument(help="The set: its folder as distributed, or a COCO .json; none with --truth")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="300w, wflw, cofw, aflw19, webcaricature, cariface, coco or folder")
    ] = "300w",
    split: Annotated[str | None, typer.Option("--split", help="Split of the set; a wrong name lists them")] = None,
    only: Annotated[Path | None, typer.Option("--only", help="File of face names to keep, one a line")] = None,
    model: Annotated[str, MODEL] = "small",
    boxes: Annotated[
        str, typer.Option("--boxes", help="labels (tight around the labels), detector (YuNet) or own (the set's)")
    ] = "labels",
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm",
            help="inter-ocular, inter-pupil, box, diagonal (of the labels), face-box, face-diagonal (the set's)",
        ),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Score this file or folder of .pts in place of a model")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help='Labels as a json list of {"image": NAME, "landmarks": [[x, y], ...]}'),
    ] = None,
    named_layout: Annotated[
        str | None, typer.Option("--layout", help="Layout of the points, for --truth, coco and folder; or a .toml")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="Paired differences of two models, or of two result folders"),
    ] = None,
    box_jitter: Annotated[
        bool, typer.Option("--box-jitter", help="Also measure moved and scaled boxes and rotated faces")
    ] = False,
    rotation: Annotated[str, ROTATION] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for results, plots and the worst faces")] = Path(
        "octamark-evaluation"
    ),
    threads: Annotated[int | None, THREADS] = None,
) -> None:
    """Score a detector on labelled faces.

    Prints a table and writes results.json, pictures.csv, predictions.json, ced.png, reliability.png, worst.png. A
    picture that cannot be read is reported and left out, and the exit code is then 1.
    """
    from octamark.evaluation import report
    from octamark.evaluation.scoring import score_file

    saved = {name: report.read_scores(Path(name)) for name in compare or () if _is_saved(name)}
    if compare is not None and len(saved) == len(set(compare)):
        if data is not None or truth is not None or predictions is not None:
            raise ConfigError("two folders of results are compared as they are: leave out the set and --predictions")
        _print_difference(*(saved[name] for name in compare))
        return
    faces = _read_truth(data, form, split, only, truth, named_layout)
    failed: set[str] = set()
    run = _Run(faces, boxes, norm, rotation, refine, regions, threads, box_jitter, failed)
    if predictions is not None:
        if compare is not None or box_jitter:
            raise ConfigError("--predictions is a file of results: --compare and --box-jitter need a model to run")
        result, stray = score_file(faces, predictions, norm)
        if stray:
            note(f"{predictions}: {len(stray)} of its pictures are not in the truth and left out, such as {stray[0]}")
        _finish(result, out, None)
    elif compare is None:
        run.model(model, out)
    else:
        for place, name in zip("AB", compare, strict=True):
            if name not in saved:
                saved[name] = run.model(name, out / place)
        _print_difference(*(saved[name] for name in compare))
    if failed:
        fail(f"{counted(len(failed), 'picture')} could not be read and left out")
        raise typer.Exit(1)


def _is_saved(name: str) -> bool:
    return name not in models.available() and (Path(name).is_dir() or Path(name).suffix == ".json")


def _read_truth(
    data: Path | None, form: str, split: str | None, only: Path | None, truth: Path | None, named: str | None
) -> Truth:
    from octamark.datasets import FORMATS, read
    from octamark.datasets.w300 import read_split_file
    from octamark.evaluation.scoring import Truth, read_truth

    asked = None if named is None else layout(named)
    if truth is not None:
        if data is not None:
            raise ConfigError(f"give either a set ({data}) or --truth, not both")
        if split is not None or only is not None:
            raise ConfigError("--split and --only choose from a set; a file of truth is taken whole")
        if asked is None:
            raise LayoutError("--truth needs --layout, such as ibug68: the file does not say which points these are")
        return Truth(truth.name, "", read_truth(truth, asked), asked)
    if data is None:
        raise ConfigError("give the folder of a set, or --truth FILE")
    samples = read(form, data, split, layout=asked, only=() if only is None else read_split_file(only))
    own = FORMATS[form].layout
    one = layout(own) if own is not None else asked
    assert one is not None
    said = (split or FORMATS[form].splits[0]) + (f" ({only.name})" if only is not None else "")
    return Truth(form, said, samples, one)


@dataclass(frozen=True)
class _Run:
    """How models are run in one call of the command."""

    faces: Truth
    boxes: str
    normaliser: str | None
    rotation: str
    refine: str
    regions: str
    threads: int | None
    jitter: bool
    failed: set[str]

    def model(self, name: str, folder: Path) -> Scores:
        """Run one, print and write its result."""
        from octamark.evaluation.robustness import passes
        from octamark.evaluation.scoring import score_model
        from octamark.inference.landmarker import load

        looks = {"rotation": self.rotation, "refine": self.refine, "regions": self.regions}
        landmarker = load(name, **looks, threads=self.threads)  # type: ignore[arg-type]

        def broken(sample: Sample, problem: str) -> None:
            self.failed.add(sample.name)
            fail(f"{sample.name}: {problem}")

        make_folder(folder)
        with progress() as bar:
            total = len(self.faces.samples)
            tasks = {"faces": bar.add_task(f"{landmarker.card.name} on {self.faces.set}", total=total)}
            if self.jitter:
                tasks["disturbed"] = bar.add_task("moved boxes, rotated faces", total=total * passes(landmarker))
            result, curves = score_model(
                self.faces, landmarker, self.boxes, self.normaliser, jitter=self.jitter,  # type: ignore[arg-type]
                broken=broken, advance=lambda task: bar.advance(tasks[task]),
            )  # fmt: skip
        return _finish(result, folder, curves)


def _finish(result: Result, folder: Path, curves: Curves | None) -> Scores:
    """Print a result and write it."""
    from octamark.evaluation import report

    make_folder(folder)
    missing = report.write(result, folder, curves)
    _print(result.summary())
    if curves is not None:
        _print_curves(curves)
    for problem in missing:
        note(problem)
    note(f"results in {folder}")
    return result.scores


_TRUST = {
    "log_likelihood_per_axis": "log likelihood of the errors, per axis",
    "spearman_per_point": "Spearman of spread and error, per point",
    "spearman_per_picture": "Spearman of spread and error, per picture",
    "ause_per_point": "area between sparsification curves (AUSE)",
    "auroc_nme_over_8_percent": "AUROC of mean spread for NME over 8%",
    "pictures_over_8_percent": "faces over 8%",
    "confidence_mean": "mean confidence",
    "points_within_5_percent": "points within 5% of the inter-ocular distance",
    "confidence_calibration_error": "calibration error of the confidence",
}


def _interval(values: dict[str, float], digits: int = 2) -> tuple[str, str]:
    return f"{values['value']:.{digits}f}", f"{values['low']:.{digits}f} to {values['high']:.{digits}f}"


def _print(summary: dict[str, Any]) -> None:
    kept = f"{counted(summary['faces'], 'face')}, {summary['boxes']}, normaliser {summary['normaliser']}"
    named = f"{summary['set']} {summary['split']}".strip()
    table = Table(title=f"{summary['model']} on {named}: {kept}", title_justify="left")
    for column, side in (("", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    table.add_row("NME, %", *_interval(summary["nme_percent"]))
    for threshold, values in summary["failure_rate_percent"].items():
        table.add_row(f"failures at {threshold}, %", *_interval(values))
    for threshold, values in summary["auc"].items():
        table.add_row(f"AUC at {threshold} (0 to 1)", *_interval(values, 4))
    for part, values in summary["part_nme_percent"].items():
        table.add_row(f"NME of the {part}, %", *_interval(values))
    if "eye_opening_error" in summary:
        table.add_row("eye opening, error (lid distance / width)", *_interval(summary["eye_opening_error"], 4))
    for name, values in summary.get("subset_nme_percent", {}).items():
        table.add_row(f"NME of {name} ({counted(values['faces'], 'face')}), %", *_interval(values))
    for key, value in summary.get("trust", {}).items():
        if isinstance(value, dict):
            for share, real in value.items():
                table.add_row(f"regions of {share} hold the truth in, %", f"{real:.1f}", "")
        else:
            said = str(value) if isinstance(value, int) else "-" if value != value else f"{value:.3f}"
            table.add_row(_TRUST[key], said, "")
    stdout.print(table)
    if summary["faces_not_found"]:
        stdout.print(
            f"{counted(summary['faces_not_found'], 'face')} not found: in no NME, and failures at every threshold"
        )
    if summary["faces_not_scored"]:
        stdout.print(
            f"{counted(summary['faces_not_scored'], 'face')} not scored: without what {summary['normaliser']} needs"
        )
    if summary["approximate"]:
        stdout.print(f"approximate: points were converted to layout {summary['layout']}, whose places differ a little")


def _print_curves(curves: Curves) -> None:
    for axis, lines in curves.items():
        for name, (x, y) in lines.items():
            table = Table(title=f"NME, %; {axis}; {name}", title_justify="left")
            for value in x:
                table.add_column(f"{value:g}", justify="right", overflow="fold")
            table.add_row(*(f"{value:.2f}" for value in y))
            stdout.print(table)


def _print_difference(first: Scores, second: Scores) -> None:
    from octamark.evaluation.results import difference

    table = Table(title=f"{second.label} minus {first.label}, the same faces", title_justify="left")
    for column in ("", "difference", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for name, one in difference(first, second).items():
        table.add_row(name, f"{one.value:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}")
    stdout.print(table)
    if first.boxes != second.boxes:
        stdout.print(f"the boxes differ: {first.boxes} against {second.boxes}; part of the difference may be theirs")
