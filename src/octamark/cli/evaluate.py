"""``octamark evaluate``: scores of a model, or of a file of predictions, on labelled faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from octamark import models
from octamark.cli.console import (
    DEVICE,
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
        Path | None,
        typer.Argument(help="Folder of the data set as distributed, or a file of labels; none with --truth"),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="Format of DATA: 300w, wflw, cofw, aflw19, webcaricature, cariface, coco or folder"
        ),
    ] = "300w",
    split: Annotated[str | None, typer.Option("--split", help="Split of the set; an unknown name lists them")] = None,
    only: Annotated[
        Path | None, typer.Option("--only", help="File with the names of the faces to score, one per line")
    ] = None,
    model: Annotated[str, MODEL] = "small",
    boxes: Annotated[
        str,
        typer.Option(
            "--boxes",
            help="Boxes of the faces: labels (tight around the labels), detector (YuNet) or own (those of the set)",
        ),
    ] = "labels",
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm",
            help="Normaliser of errors: inter-ocular, inter-pupil, box, diagonal, face-box or face-diagonal",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Score this file (json, jsonl, csv, coco) or folder of .pts, not a model"),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help='Labels: json list of {"image": NAME, "landmarks": [[x, y], ...]}, or coco, csv'),
    ] = None,
    named_layout: Annotated[
        str | None,
        typer.Option("--layout", help="Layout of the points, for --truth, coco and folder: a name or a .toml file"),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare", metavar="A B", help="Paired differences between two models or two folders of results"
        ),
    ] = None,
    box_jitter: Annotated[
        bool, typer.Option("--box-jitter", help="Also score with moved and scaled boxes and with rotated faces")
    ] = False,
    rotation: Annotated[str, ROTATION] = "auto",
    refine: Annotated[str, REFINE] = "auto",
    regions: Annotated[str, REGIONS] = models.REGIONS,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for results, plots and a sheet of the worst faces")
    ] = Path("octamark-evaluation"),
    threads: Annotated[int | None, THREADS] = None,
    device: Annotated[str, DEVICE] = "cpu",
) -> None:
    """Score a model, or a file of predictions, on labelled faces.

    Prints a table and writes results.json, pictures.csv, predictions.json, ced.png, reliability.png and worst.png. A
    picture that cannot be read is reported and left out, and the exit code is then 1.
    """
    from octamark.evaluation import report
    from octamark.evaluation.scoring import score_file

    saved = {name: report.read_scores(Path(name)) for name in compare or () if _is_saved(name)}
    if compare is not None and len(saved) == len(set(compare)):
        if data is not None or truth is not None or predictions is not None:
            raise ConfigError(
                "two folders of results are compared without a set: leave out DATA, --truth, --predictions"
            )
        _print_difference(*(saved[name] for name in compare))
        return
    labelled = _read_truth(data, form, split, only, truth, named_layout)
    failed: set[str] = set()
    run = _Run(labelled, boxes, norm, rotation, refine, regions, threads, device, box_jitter, failed)
    if predictions is not None:
        if compare is not None or box_jitter:
            raise ConfigError("--predictions are scored without a model: leave out --compare and --box-jitter")
        result, stray = score_file(labelled, predictions, norm)
        if stray:
            note(f"{predictions}: {counted(len(stray), 'picture')} without labels left out, such as {stray[0]}")
        _finish(result, out, None)
    elif compare is None:
        run.model(model, out)
    else:
        for place, name in zip("AB", compare, strict=True):
            if name not in saved:
                saved[name] = run.model(name, out / place)
        _print_difference(*(saved[name] for name in compare))
    if failed:
        fail(f"{counted(len(failed), 'picture')} could not be read: left out")
        raise typer.Exit(1)


def _is_saved(name: str) -> bool:
    return name not in models.available() and (Path(name).is_dir() or Path(name).suffix == ".json")


def _read_truth(
    data: Path | None, form: str, split: str | None, only: Path | None, truth: Path | None, named: str | None
) -> Truth:
    from octamark.datasets import FORMATS, read
    from octamark.datasets.w300 import read_split_file
    from octamark.evaluation.scoring import Truth, read_truth

    chosen = None if named is None else layout(named)
    if truth is not None:
        if data is not None:
            raise ConfigError(f"give either a set ({data}) or --truth, not both")
        if split is not None or only is not None:
            raise ConfigError("--split and --only select faces of a data set; a file of --truth is scored whole")
        if chosen is None:
            raise LayoutError("--truth needs --layout, such as ibug68: the file does not say which points these are")
        return Truth(truth.name, "", read_truth(truth, chosen), chosen)
    if data is None:
        raise ConfigError("give the folder of a data set, or --truth FILE")
    samples = read(form, data, split, layout=chosen, only=() if only is None else read_split_file(only))
    fixed = FORMATS[form].layout
    label_layout = layout(fixed) if fixed is not None else chosen
    assert label_layout is not None
    name = (split or FORMATS[form].splits[0]) + (f" ({only.name})" if only is not None else "")
    return Truth(form, name, samples, label_layout)


@dataclass(frozen=True)
class _Run:
    """How models are run in one call of the command."""

    labelled: Truth
    boxes: str
    normaliser: str | None
    rotation: str
    refine: str
    regions: str
    threads: int | None
    device: str
    jitter: bool
    failed: set[str]

    def model(self, name: str, folder: Path) -> Scores:
        """Run a model, print and write its result; returns its scores."""
        from octamark.evaluation.robustness import passes
        from octamark.evaluation.scoring import score_model
        from octamark.inference.landmarker import load

        options = {"rotation": self.rotation, "refine": self.refine, "regions": self.regions}
        landmarker = load(name, **options, threads=self.threads, device=self.device)  # type: ignore[arg-type]

        def broken(sample: Sample, problem: str) -> None:
            self.failed.add(sample.name)
            fail(f"{sample.name}: {problem}")

        make_folder(folder)
        with progress() as bar:
            total = len(self.labelled.samples)
            tasks = {"faces": bar.add_task(f"{landmarker.card.name} on {self.labelled.set}", total=total)}
            if self.jitter:
                tasks["disturbed"] = bar.add_task("moved boxes, rotated faces", total=total * passes(landmarker))
            result, curves = score_model(
                self.labelled, landmarker, self.boxes, self.normaliser, jitter=self.jitter,  # type: ignore[arg-type]
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


_RELIABILITY_TITLES = {
    "log_likelihood_per_axis": "log likelihood of the errors, per axis",
    "spearman_per_point": "Spearman correlation of spread and error, per point",
    "spearman_per_picture": "Spearman correlation of spread and error, per face",
    "ause_per_point": "area between sparsification curves (AUSE)",
    "auroc_nme_over_8_percent": "AUROC of mean spread for NME over 8%",
    "pictures_over_8_percent": "faces with NME over 8%",
    "confidence_mean": "mean confidence",
    "points_within_5_percent": "points within 5% of the inter-ocular distance",
    "confidence_calibration_error": "calibration error of the confidence",
}


def _interval(values: dict[str, float], digits: int = 2) -> tuple[str, str]:
    return f"{values['value']:.{digits}f}", f"{values['low']:.{digits}f} to {values['high']:.{digits}f}"


def _print(summary: dict[str, Any]) -> None:
    faces = f"{summary['set']} {summary['split']}".strip()
    conditions = f"{faces}, {summary['boxes']}, normaliser {summary['normaliser']}"
    table = Table(
        title=f"{summary['model']} on {conditions}, {counted(summary['faces'], 'face')}", title_justify="left"
    )
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
    for key, value in summary.get("reliability", {}).items():
        if isinstance(value, dict):
            for share, observed in value.items():
                table.add_row(f"labels inside the {share} regions, %", f"{observed:.1f}", "")
        else:
            text = str(value) if isinstance(value, int) else "-" if value != value else f"{value:.3f}"
            table.add_row(_RELIABILITY_TITLES[key], text, "")
    if "visibility" in summary:
        figures = summary["visibility"]
        hidden = f"{figures['points_hidden']} of {counted(figures['points'], 'point')} hidden"
        auroc = figures["auroc"]
        table.add_row(f"AUROC of visible ({hidden})", "-" if auroc != auroc else f"{auroc:.3f}", "")
        table.add_row("calibration error of visible", f"{figures['calibration_error']:.3f}", "")
    stdout.print(table)
    stdout.print(f"NME {_interval(summary['nme_percent'])[0]} %: {summary['model']}, {conditions}")
    if summary["faces_not_found"]:
        stdout.print(
            f"{counted(summary['faces_not_found'], 'face')} not found: left out of NME, a failure at every threshold"
        )
    if summary["faces_not_scored"]:
        stdout.print(
            f"{counted(summary['faces_not_scored'], 'face')} not scored: no labels for normaliser "
            f"{summary['normaliser']}"
        )
    if summary["points_without_label"]:
        stdout.print(f"{summary['points_without_label']} of {summary['points']} points without a label, not scored")
    if summary["approximate"]:
        stdout.print(
            f"approximate: points were converted to layout {summary['layout']}, where their places differ a little"
        )


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

    conditions = f"{first.faces}, {first.boxes}, normaliser {first.normaliser}"
    table = Table(title=f"{second.label} minus {first.label}: {conditions}", title_justify="left")
    for column in ("", "difference", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for name, change in difference(first, second).items():
        table.add_row(name, f"{change.value:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}")
    stdout.print(table)
    if first.boxes != second.boxes:
        stdout.print(f"the boxes differ ({first.boxes}; {second.boxes}), which may explain part of the difference")
