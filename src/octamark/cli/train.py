"""``octamark train`` and ``octamark export``: from labelled faces to a weight file."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octamark.cli.console import check_installed, counted, make_folder, note, progress
from octamark.errors import ConfigError, OutputError, listed
from octamark.images import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress

    from octamark.training.recipe import Recipe

_DATA = typer.Option(
    "--data",
    help="Folder (or file) of the labelled faces; for 300W the one that holds afw, helen and lfpw. For a recipe with "
    "several sets NAME=PATH, once for each set",
)


_PACKAGES = ("kornia", "lightning_fabric", "matplotlib", "onnx", "onnxscript", "safetensors", "tensorboard", "torch")


def need_packages() -> None:
    """Check that the packages for training are installed.

    Raises:
        OctamarkError: some are missing; the message says how to install them.
    """
    check_installed(_PACKAGES)


def data_paths(values: list[str]) -> Path | dict[str, Path] | None:
    """The values of ``--data``: one path, or paths by the names of the recipe's sets; None without any.

    Raises:
        ConfigError: several paths without names, or a name twice.
    """
    if len(values) == 1 and (Path(values[0]).exists() or not re.match(r"[a-zA-Z0-9_-]+=", values[0])):
        return Path(values[0])
    named: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or name in named:
            raise ConfigError(f"--data {value!r}: give NAME=PATH, each name once, for a recipe with several sets")
        named[name] = Path(path)
    return named or None


def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="The recipe, a .toml file such as configs/small.toml", show_default=False)
    ] = None,
    data: Annotated[list[str], _DATA] = [],  # noqa: B006, typer copies it
    unlabelled: Annotated[
        Path | None,
        typer.Option("--unlabelled", help="Folder of pictures without labels, or the folder that crops wrote"),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Released model, run or checkpoint to start from; without a recipe, the one to adapt to --unlabelled",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the run; runs/NAME by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder of --out")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda")] = "auto",
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="Processes that draw caricatures ahead, so that a CUDA device does not wait"
        ),
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Only draw 32 augmented samples into this picture, then stop")
    ] = None,
) -> None:
    """Train a network by a recipe.

    It learns from labelled faces and, with --unlabelled, from pictures without labels, too. Several processes: torchrun
    --nproc-per-node N -m octamark train ...
    """
    need_packages()
    from octamark.datasets.load import labelled_sets
    from octamark.layouts import layout
    from octamark.metrics import usual_normaliser
    from octamark.training.data import mirror_misfits
    from octamark.training.engine import Trainer
    from octamark.training.starting import margin_of_init
    from octamark.training.watcher import Epoch, Watcher

    paths = data_paths(data)
    settings = _recipe(recipe, init, paths if isinstance(paths, dict) else {}, unlabelled is not None)
    points = layout(settings.layout)
    sets = labelled_sets(settings.data, paths, points, settings.seed, settings.normaliser)
    held_out = sum(len(labelled.validation) for labelled in sets)
    if sheet is not None:
        from octamark.training.sheet import draw

        _png(sheet)
        make_folder(sheet.parent)
        if not (faces := [face for labelled in sets for face in labelled.training]):
            raise ConfigError(f"--sheet {sheet}: the recipe's training faces are all in shards; none can be drawn")
        note(f"{draw(faces, settings, sheet)} augmented samples: {sheet}")
        return
    if hint := calibration_hint(held_out, points.count):
        note(hint)
    faces = [face for labelled in sets for face in labelled.training]
    if settings.augment.mirror and (misfits := mirror_misfits(faces, points)):
        note(
            f"layout {points.name}: in mirrored faces {listed(misfits)} do not lie where their partners' labels are; "
            "correct mirror in the layout's file, or set augment.mirror = 0"
        )
    if (margin := margin_of_init(settings)) is not None and abs(margin / settings.margin - 1) > 0.15:
        note(
            f"the crops that {settings.init} was trained on show as much of a face as data.margin = {margin:.2f} does "
            f"around these points; the recipe has {settings.margin}"
        )

    class Bar(Watcher):
        """Draws the progress of a run."""

        def __init__(self, bar: Progress) -> None:
            self.bar = bar
            self.find_task = bar.add_task("finding faces", total=None, visible=False)
            self.align_task = bar.add_task("moving labels", total=None, visible=False)
            self.load_task = bar.add_task("decoding faces", total=None)
            self.step_task = bar.add_task("training", total=None, visible=False)

        def finding(self, done: int, total: int) -> None:
            self.bar.update(self.find_task, completed=done, total=total, visible=done < total)

        def found(self, counts: str) -> None:
            note(f"unlabelled: {counts}")

        def aligning(self, done: int, total: int) -> None:
            self.bar.update(self.align_task, completed=done, total=total, visible=done < total)

        def loading(self, done: int, total: int) -> None:
            self.bar.update(self.load_task, completed=done, total=total, visible=done < total)

        def started(self, total_steps: int, done_steps: int) -> None:
            self.bar.update(self.step_task, total=total_steps, completed=done_steps, visible=True)

        def stepped(self, loss: float) -> None:
            self.bar.advance(self.step_task)

        def finished_epoch(self, epoch: Epoch) -> None:
            line = f"epoch {epoch.number}/{epoch.total}  NME {epoch.nme:.2%}  best {epoch.best_nme:.2%}"
            self.bar.update(self.step_task, description=line)
            note(f"{line}  loss {epoch.loss:.4f}  failures at 8 % {epoch.failures:.1%}")

    folder = out or Path("runs") / settings.name
    with progress() as bar:
        trainer = Trainer(
            settings, sets, folder, unlabelled=unlabelled, device=device, workers=workers, resume=resume,
            watcher=Bar(bar),
        )  # fmt: skip
        best = trainer.run()
        if trainer.fabric.is_global_zero:
            from octamark.training.curves import plot

            plot({settings.name: trainer.rows}, folder / "curves.png", settings.normaliser or usual_normaliser(points))
    if trainer.fabric.is_global_zero:
        about = f"{settings.normaliser or usual_normaliser(points)}, boxes from labels, {held_out} faces"
        chosen = settings.caricature is None and settings.stages[-1].learns == "all"
        which = "best" if chosen else "last epoch's"
        note(f"{which} validation NME {best:.2%} ({about}): {folder}")


def calibration_hint(held_out: int, points: int) -> str:
    """A hint, before a run, that its export cannot calibrate every point; empty if enough faces are held out for it."""
    from octamark.release.calibration import calibration_kind

    if calibration_kind(held_out, points) == "per_point":
        return ""
    needed = next(faces for faces in range(held_out, 10**6) if calibration_kind(faces, points) == "per_point")
    return (
        f"{counted(held_out, 'face')} of {points} points are held out: octamark export will calibrate the spread of "
        f"all points together; to calibrate each point hold out {needed} faces (data.validation)"
    )


def _recipe(path: Path | None, init: str | None, sets: Collection[str], unlabelled: bool) -> Recipe:
    """The recipe with what the command line adds to it.

    Raises:
        ConfigError: neither a recipe nor a model to adapt; a recipe that needs unlabelled faces without them, or that
            does not take them.
    """
    from octamark.training.recipe import load, parse
    from octamark.training.starting import adaptation

    if path is None and (init is None or not unlabelled):
        raise ConfigError("name a recipe; or adapt a trained model: --init MODEL --unlabelled FOLDER")
    changes: dict[str, Any] = {} if init is None else {"init": init}
    recipe = adaptation(str(init), sets) if path is None else load(path, **changes)
    if recipe.regional is not None and unlabelled:
        raise ConfigError(f"{path}: a regional recipe takes no --unlabelled: regional networks learn from labels")
    added: dict[str, object] = {}
    if unlabelled and recipe.unlabelled is None:
        added["unlabelled"] = {} if recipe.distillation is not None else {"teacher": {}}
    if recipe.unlabelled is not None and not unlabelled:
        raise ConfigError(f"{path}: learns from unlabelled faces: name them with --unlabelled")
    return parse({**recipe.model_dump(), **added}, str(path or init))


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a released checkpoint (.safetensors)")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .onnx file to write")],
    data: Annotated[list[str], _DATA] = [],  # noqa: B006, typer copies it
    global_model: Annotated[
        str | None,
        typer.Option(
            "--global-model", help="For a regional run: the model that reads whole faces, a name or an .onnx file"
        ),
    ] = None,
    storage: Annotated[
        str, typer.Option("--storage", help="Precision of the stored weights: int4, int8, float16 or float32")
    ] = "int4",
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic",
            help="Of the convolutions: int8, float32, or auto: int8 where it is faster and costs at most 0.02 "
            "percentage points of NME on the validation faces",
        ),
    ] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="Also write the weights (float16) and the shape correction as this .safetensors file"
        ),
    ] = None,
) -> None:
    """Write a trained network as one .onnx file.

    It is calibrated and scored on the validation faces first; crop rule, calibration and scores are in its card.
    """
    need_packages()
    from octamark.models import ModelCard
    from octamark.release.model import check_arithmetic, release
    from octamark.release.quantization import STORAGES
    from octamark.release.regional import release_regions
    from octamark.training.regions import is_regional

    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: weight files end in .onnx")
    if storage not in STORAGES:
        raise ConfigError(f"storage {storage!r}; allowed: {listed(STORAGES)}")
    choice = check_arithmetic(arithmetic, storage)
    regional = is_regional(run)
    if global_model is not None and not regional:
        raise ConfigError(f"--global-model goes with a regional network; {run} is none")
    if checkpoint is not None and checkpoint.suffix != ".safetensors":
        raise ConfigError(f"{checkpoint}: checkpoints end in .safetensors")
    if checkpoint is not None and run.is_dir() and checkpoint.resolve().parent == run.resolve():
        raise OutputError(f"{checkpoint}: lies in the run's own folder; write it elsewhere")
    for file in (out, checkpoint or out):
        if file.is_dir():
            raise OutputError(f"{file}: is a folder; name the file to write")
    for folder in {out.parent, (checkpoint or out).parent}:
        make_folder(folder)
    with progress() as bar:
        task = bar.add_task("measuring", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        paths = data_paths(data)
        finished = (
            release_regions(run, paths, global_model=global_model, storage=storage, arithmetic=choice, advance=advance)
            if regional
            else release(run, paths, storage=storage, arithmetic=choice, advance=advance)
        )
    write_atomically(out, finished.onnx)
    if checkpoint is not None:
        write_atomically(checkpoint, finished.checkpoint)
    for name, value in finished.card.scores.items():
        note(f"{name}: {value:.2f}")
    if isinstance(finished.card, ModelCard) and not any(finished.card.crop.detector_residual):
        note("YuNet finds too few of the training faces to fit its boxes: give your own boxes, or --full-frame")
    if finished.card.calibration.kind == "global":
        note("too few labelled points are held out for more: the spread is calibrated with one factor for all points")
    note(f"{out}: {len(finished.onnx) / 1e6:.2f} MB, {finished.card.arithmetic} arithmetic")


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or checkpoints (.safetensors)")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .png file to write")],
) -> None:
    """Draw the training curves of runs as one picture."""
    need_packages()
    from octamark.training import checkpoints
    from octamark.training.curves import plot

    _png(out)
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        _, meta = checkpoints.load(run / "last.safetensors" if run.is_dir() else run)
        name = meta["config"]["name"]
        rows[name if name not in rows else f"{name} ({len(rows) + 1}: {run.name})"] = meta["rows"]
    make_folder(out.parent)
    plot(rows, out)
    note(f"curves of {counted(len(rows), 'run')}: {out}")


def _png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: this picture is written as .png")
