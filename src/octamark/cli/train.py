"""``octamark train`` and ``octamark export``: from labelled faces to a weight file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octamark.cli.console import counted, make_folder, note, progress
from octamark.errors import ConfigError, OctamarkError, OutputError, listed
from octamark.images import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress

    from octamark.training.recipe import Config

_DATA = typer.Option(
    "--data", help="The set's folder (or file) as evaluate reads it; for 300W that of afw, helen, lfpw"
)


_PACKAGES = ("kornia", "lightning_fabric", "matplotlib", "onnx", "onnxscript", "safetensors", "tensorboard", "torch")


def need_packages() -> None:
    """Say which of the packages for training are missing.

    Raises:
        OctamarkError: some are.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OctamarkError(f"this needs more packages ({listed(missing)}): pip install 'octamark[train]'")


def train(
    data: Annotated[Path, _DATA],
    recipe: Annotated[
        Path | None, typer.Argument(help="The recipe, a .toml file such as configs/small.toml", show_default=False)
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", help="Folder of pictures without labels, or what crops wrote of it")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="Released model, run or checkpoint to start from; without a recipe, to adapt"),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the run; runs/NAME by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda")] = "auto",
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Only draw 32 augmented samples into this picture, then stop")
    ] = None,
) -> None:
    """Train a network by a recipe, on labelled faces and, with --unlabelled, on pictures without labels too.

    Several processes: torchrun --nproc-per-node N -m octamark train ...
    """
    need_packages()
    from octamark.datasets.load import training_and_validation
    from octamark.layouts import layout
    from octamark.metrics import usual_normaliser
    from octamark.training.regional import RegionalTrainer
    from octamark.training.semi_supervised import SemiSupervisedTrainer
    from octamark.training.trainer import Trainer
    from octamark.training.watcher import Epoch, Watcher

    config = _recipe(recipe, init, unlabelled is not None)
    faces, held_out = training_and_validation(config.data, data, layout(config.layout), config.seed)
    if sheet is not None:
        from octamark.training.sheet import draw

        _png(sheet)
        make_folder(sheet.parent)
        note(f"{draw(faces, config, sheet)} augmented samples: {sheet}")
        return

    class Bar(Watcher):
        """Draws the progress of a run."""

        def __init__(self, bar: Progress) -> None:
            self.bar = bar
            self.find_task = bar.add_task("finding faces", total=None, visible=False)
            self.load_task = bar.add_task("decoding faces", total=None)
            self.step_task = bar.add_task("training", total=None, visible=False)

        def finding(self, done: int, total: int) -> None:
            self.bar.update(self.find_task, completed=done, total=total, visible=done < total)

        def found(self, counts: str) -> None:
            note(f"unlabelled: {counts}")

        def loading(self, done: int, total: int) -> None:
            self.bar.update(self.load_task, completed=done, total=total, visible=done < total)

        def started(self, total_steps: int, done_steps: int) -> None:
            self.bar.update(self.step_task, total=total_steps, completed=done_steps, visible=True)

        def stepped(self, loss: float) -> None:
            self.bar.advance(self.step_task)

        def finished_epoch(self, epoch: Epoch) -> None:
            said = f"epoch {epoch.number}/{epoch.total}  NME {epoch.nme:.2%}  best {epoch.best_nme:.2%}"
            self.bar.update(self.step_task, description=said)
            note(f"{said}  loss {epoch.loss:.4f}  failures at 8 % {epoch.failures:.1%}")

    folder = out or Path("runs") / config.name
    with progress() as bar:
        watcher = Bar(bar)
        supervised = Trainer if config.regional is None else RegionalTrainer
        trainer = (
            supervised(config, faces, held_out, folder, device=device, resume=resume, watcher=watcher)
            if unlabelled is None
            else SemiSupervisedTrainer(
                config, faces, held_out, unlabelled, folder, device=device, resume=resume, watcher=watcher
            )
        )
        best = trainer.run()
        if trainer.fabric.is_global_zero:
            from octamark.training.curves import plot

            plot({config.name: trainer.rows}, folder / "curves.png", usual_normaliser(trainer.layout))
    if trainer.fabric.is_global_zero:
        about = f"{usual_normaliser(trainer.layout)}, boxes from labels, {len(held_out)} faces"
        which = "best" if config.caricature is None else "last epoch's"
        note(f"{which} validation NME {best:.2%} ({about}): {folder}")


def _recipe(path: Path | None, init: str | None, unlabelled: bool) -> Config:
    """The recipe with what the command line adds to it.

    Raises:
        ConfigError: neither a recipe nor a start, or a recipe and unlabelled faces that do not go together.
    """
    from octamark.training.recipe import load, parse
    from octamark.training.starting import adaptation

    if path is None and (init is None or not unlabelled):
        raise ConfigError("name a recipe; or adapt a trained model: --init MODEL --unlabelled FOLDER")
    started: dict[str, Any] = {} if init is None else {"init": init}
    config = adaptation(str(init)) if path is None else load(path, **started)
    if config.regional is not None and (unlabelled or init is not None):
        raise ConfigError(
            f"{path}: a regional recipe takes neither --unlabelled nor --init; it starts from regional.look"
        )
    added: dict[str, object] = {}
    if unlabelled and config.unlabelled is None:
        added["unlabelled"] = {} if config.distillation is not None else {"teacher": {}}
    if config.unlabelled is not None and not unlabelled:
        raise ConfigError(f"{path}: learns from unlabelled faces: name them with --unlabelled")
    return parse({**config.model_dump(), **added}, str(path or init))


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a released checkpoint (.safetensors)")],
    data: Annotated[Path, _DATA],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .onnx file to write")],
    look: Annotated[
        str | None, typer.Option("--look", help="Of a regional run: the model that looks at whole faces, or its .onnx")
    ] = None,
    storage: Annotated[str, typer.Option("--storage", help="Of the weights: int4, int8, float16 or float32")] = "int4",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", help="Also write averaged weights (float16) and shape correction as a .safetensors"
        ),
    ] = None,
) -> None:
    """Write a trained network as one ONNX file: decoding inside, crop rule and scores in its card."""
    need_packages()
    from octamark.models import ModelCard
    from octamark.release.model import release
    from octamark.release.quantization import STORAGES
    from octamark.release.regional import is_regional, release_regions

    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: weight files end in .onnx")
    if storage not in STORAGES:
        raise ConfigError(f"storage {storage!r}; allowed: {listed(STORAGES)}")
    regional = is_regional(run)
    if look is not None and not regional:
        raise ConfigError(f"--look goes with a regional network; {run} is none")
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

        made = (
            release_regions(run, data, look=look, storage=storage, advance=advance)
            if regional
            else release(run, data, storage=storage, advance=advance)
        )
    write_atomically(out, made.onnx)
    if checkpoint is not None:
        write_atomically(checkpoint, made.checkpoint)
    for name, value in made.card.scores.items():
        note(f"{name}: {value:.2f}")
    if isinstance(made.card, ModelCard) and not any(made.card.crop.detector_residual):
        note("YuNet knows too few of the training faces to fit its boxes: give boxes of your own, or --box picture")
    note(f"{out}: {len(made.onnx) / 1e6:.2f} MB")


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or checkpoints (.safetensors)")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .png to write")],
) -> None:
    """Draw the training curves of runs into one picture."""
    need_packages()
    from octamark.training import checkpoints
    from octamark.training.curves import plot

    _png(out)
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        _, meta = checkpoints.load(run / "last.safetensors" if run.is_dir() else run)
        name = meta["config"]["name"]
        rows[name if name not in rows else f"{run} ({len(rows) + 1})"] = meta["rows"]
    make_folder(out.parent)
    plot(rows, out)
    note(f"curves of {counted(len(rows), 'run')}: {out}")


def _png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: this picture is written as .png")
