"""The network that a run starts with: its shape from the recipe, its weights drawn or taken from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octamark import models
from octamark.errors import WeightsError, listed
from octamark.layouts import layout
from octamark.nets.network import WIDTHS, NetworkConfig, OctaveNetwork
from octamark.nets.shape import ShapeCorrection
from octamark.training import checkpoints
from octamark.training.recipe import Config, parse

RELEASES = models.blobs()
"""Where the checkpoints of the released models lie, beside their .onnx files."""


def network_config(config: Config) -> NetworkConfig:
    """The network's shape from a recipe."""
    shape = config.network
    return NetworkConfig(
        landmarks=layout(config.layout).count,
        width=WIDTHS[shape.size],
        alpha=shape.alpha,
        upsample=shape.upsample,
        attention=shape.attention,
        stem=shape.stem,
    )


def checkpoint_path(name: str, argument: str = "init") -> Path:
    """The checkpoint that an argument names: a .safetensors file, a run's folder (its best epoch) or a released model.

    Raises:
        WeightsError: none of these; the message tells what there is.
    """
    released = {file.stem: file for file in RELEASES.glob("*.safetensors") if file.stem != models.REGIONS}
    if name in released:
        return released[name]  # ./small is the folder of that name
    path = Path(name) / "best.safetensors" if name and Path(name).is_dir() else Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    raise WeightsError(
        f"{argument} {name!r}: no such checkpoint; give a .safetensors file, the folder of a run, or a released model: "
        f"{listed(sorted(released))}"
    )


def trained_network(path: Path) -> tuple[OctaveNetwork, Config, dict[str, Any]]:
    """The averaged weights that a checkpoint holds, ready to predict, with their recipe and the run's metadata.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    groups, meta = checkpoints.load(path)
    config = parse(meta["config"], str(path))
    if config.regional is not None:
        raise WeightsError(
            f"{path}: a regional network, which reads parts of faces; name one that looks at whole faces"
        )
    network = OctaveNetwork(network_config(config))
    checkpoints.fill(network, groups.get("ema", {}), path)
    return network.eval(), config, meta


def trained_shape(path: Path) -> ShapeCorrection | None:
    """The shape correction that ``octamark export --checkpoint`` put beside the weights; a run's own files have none.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    state = checkpoints.load(path)[0].get("shape")
    return ShapeCorrection(**state) if state else None


def adaptation(init: str) -> Config:
    """The recipe for a trained network and a user's own unlabelled faces: its own, one short stage, a mean teacher.

    Raises:
        WeightsError: as :func:`checkpoint_path`, or a damaged checkpoint.
    """
    path = checkpoint_path(init)
    theirs = parse(checkpoints.load(path)[1]["config"], str(path))
    stage = {**theirs.stages[-1].model_dump(), "epochs": 10, "learning_rate": 5e-4}
    changes: dict[str, Any] = {"name": f"{theirs.name}-adapted", "init": init, "stages": [stage]}
    changes |= {"unlabelled": {"teacher": {}}, "distillation": None, "caricature": None}
    changes["optimiser"] = {**theirs.optimiser.model_dump(), "keep": 0.0}
    return parse({**theirs.model_dump(), **changes}, str(path))


def starting_network(config: Config) -> OctaveNetwork:
    """The recipe's network, with the averaged weights of the checkpoint ``config.init`` if it names one.

    Weights of another layout are taken but for the head, the last layer, whose maps stand for other points.

    Raises:
        WeightsError: no such checkpoint, a damaged one, or one of another shape than the recipe's; one of another
            layout of which the recipe wants to keep a share.
    """
    if config.init is None:
        return OctaveNetwork(network_config(config))
    path = checkpoint_path(config.init)
    network, theirs, _ = trained_network(path)
    if theirs.network != config.network:
        given, asked = theirs.network.model_dump(), config.network.model_dump()
        apart = [f"{key} {given[key]!r} (recipe: {asked[key]!r})" for key in given if given[key] != asked[key]]
        raise WeightsError(f"{path}: cannot start this recipe, it was trained with {listed(apart)}")
    if theirs.layout == config.layout:
        return network
    if config.optimiser.keep:
        raise WeightsError(
            f"{path}: is of layout {theirs.layout}, the recipe's is {config.layout}, whose last layer starts anew: "
            "there is nothing to keep a share of; leave out optimiser.keep"
        )
    fresh = OctaveNetwork(network_config(config))
    body = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    fresh.load_state_dict({**fresh.state_dict(), **body})
    return fresh
