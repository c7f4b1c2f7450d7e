"""The network that a run starts with: its shape from the recipe, its weights random or from a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from octamark import models
from octamark.errors import LayoutError, WeightsError, listed
from octamark.layouts import Layout, convert, layout
from octamark.nets.network import WIDTHS, NetworkConfig, OctaveNetwork
from octamark.nets.shape import ShapeCorrection
from octamark.training import checkpoints
from octamark.training.recipe import Recipe, parse

RELEASES = models.blobs()
"""Where the checkpoints of the released models lie, beside their .onnx files."""


def network_config(recipe: Recipe) -> NetworkConfig:
    """The network's shape from a recipe."""
    shape = recipe.network
    return NetworkConfig(
        landmarks=layout(recipe.layout).count,
        width=WIDTHS[shape.size],
        alpha=shape.alpha,
        attention=shape.attention,
        visibility=recipe.visibility is not None,
    )


def checkpoint_path(name: str, argument: str = "init", *, regional: bool | None = False) -> Path:
    """The checkpoint that an argument names: a .safetensors file, a run's folder (its best epoch) or a released model.

    Args:
        regional: whether the argument names a regional network, not one that reads whole faces; None: either.

    Raises:
        WeightsError: none of these; the message tells what there is.
    """
    released = {
        file.stem: file for file in RELEASES.glob("*.safetensors") if regional in (None, file.stem == models.REGIONS)
    }
    if name in released:
        return released[name]  # ./small is the folder of that name
    path = Path(name) / "best.safetensors" if name and Path(name).is_dir() else Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    raise WeightsError(
        f"{argument} {name!r}: no such checkpoint; give a .safetensors file, the folder of a run, or a released model: "
        f"{listed(sorted(released))}"
    )


def trained_network(path: Path) -> tuple[OctaveNetwork, Recipe, dict[str, Any]]:
    """A network with the averaged weights of a checkpoint, ready to predict, its recipe and the run's metadata.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    groups, meta = checkpoints.load(path)
    recipe = parse(meta["config"], str(path))
    if recipe.regional is not None:
        raise WeightsError(f"{path}: a regional network, which reads parts of faces; name one that reads whole faces")
    network = OctaveNetwork(network_config(recipe))
    checkpoints.fill(network, groups.get("ema", {}), path)
    return network.eval(), recipe, meta


def trained_shape(path: Path, group: Literal["shape", "shift"] = "shape") -> ShapeCorrection | None:
    """The shape correction that ``octamark export --checkpoint`` put beside the weights; a run's own files have none.

    Args:
        group: ``"shape"``: the one that moves points; ``"shift"``: one that moves none, of a model that is better
            without, and only tells how unusual a face is.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    state = checkpoints.load(path)[0].get(group)
    return ShapeCorrection(**state) if state else None


def adaptation(init: str, names: Collection[str] = ()) -> Recipe:
    """The recipe that adapts a trained network to unlabelled faces: its own, with one short stage and a mean teacher.

    It claims no commercial use: the terms of the unlabelled faces are unknown. Sets whose labels were moved to the
    convention of another network are moved to that of ``init``. If no set tells which landmarks are hidden, the
    adapted network does not tell it either.

    Args:
        init: a released model, run or checkpoint.
        names: of its recipe's labelled sets, those to go on with; without any, its first set alone.

    Raises:
        WeightsError: as ``checkpoint_path``, or a damaged checkpoint.
    """
    path = checkpoint_path(init)
    init_recipe = parse(checkpoints.metadata(path)["config"], str(path))
    sections = [section for section in init_recipe.data if section.title in names] or init_recipe.data[:1]
    if not set(names) <= {section.title for section in init_recipe.data}:
        sections = init_recipe.data  # a name is wrong: the reader of the sets says so, and lists all
    hidden = any(section.visibility in ("flags", "one-sided") for section in sections)
    data = [
        section.model_dump()
        | {"convention": section.convention and init, "visibility": section.visibility if hidden else None}
        for section in sections
    ]
    stage = init_recipe.stages[-1].model_dump() | {
        "epochs": 10, "steps_per_epoch": None, "learning_rate": 5e-4, "learns": "all"
    }  # fmt: skip
    changes: dict[str, Any] = {"name": f"{init_recipe.name}-adapted", "init": init, "data": data, "stages": [stage]}
    teacher: dict[str, Any] = {"teacher": {}, "crop_rule": init if init in models.available() else None}
    changes |= {"unlabelled": teacher, "distillation": None, "caricature": None, "commercial_use": False}
    changes["optimiser"] = {**init_recipe.optimiser.model_dump(), "init_weight": 0.0}
    changes["visibility"] = init_recipe.visibility if hidden else None
    return parse({**init_recipe.model_dump(), **changes}, str(path))


def starting_network(recipe: Recipe) -> OctaveNetwork:
    """The recipe's network, with the averaged weights of the checkpoint ``recipe.init`` if it names one.

    Weights of another layout are all taken but those of the head, the last layer, which has one heatmap per landmark:
    there, a landmark takes the weights of its counterparts in the other layout (``counterparts``), and one without
    any starts at random. So does the layer that tells what is visible, where the checkpoint has none.

    Raises:
        WeightsError: no such checkpoint, a damaged one, or one of another shape than the recipe's; one of another
            layout where the recipe gives its weights a share of the result.
    """
    if recipe.init is None:
        return OctaveNetwork(network_config(recipe))
    path = checkpoint_path(recipe.init)
    network, init_recipe, _ = trained_network(path)
    if init_recipe.network != recipe.network:
        before, now = init_recipe.network.model_dump(), recipe.network.model_dump()
        apart = [f"{key} {before[key]!r} (recipe: {now[key]!r})" for key in before if before[key] != now[key]]
        raise WeightsError(f"{path}: cannot start this recipe, it was trained with {listed(apart)}")
    same_layout = init_recipe.layout == recipe.layout
    if same_layout and network.config == network_config(recipe):
        return network
    if recipe.optimiser.init_weight and not same_layout:
        raise WeightsError(
            f"{path}: has layout {init_recipe.layout}, the recipe has {recipe.layout}, so that the last layers cannot "
            "be averaged; leave out optimiser.init_weight"
        )
    fresh = OctaveNetwork(network_config(recipe))
    rows = counterparts(layout(init_recipe.layout), layout(recipe.layout))
    state = fresh.state_dict()
    for name, value in network.state_dict().items():
        if name in state:
            per_landmark = name.startswith(("head.", "visibility."))
            state[name] = _head_rows(value, state[name], rows) if per_landmark and not same_layout else value
    fresh.load_state_dict(state)
    return fresh


def counterparts(source: Layout, target: Layout) -> Tensor:
    """How each point of one layout is made of the points of another: (N, M) weights, whose rows sum to 1.

    A point without a counterpart has a row of zeros. The weights are those of the conversion between the two layouts
    (octamark.layouts.convert); where there is none, points of the same name are counterparts.
    """
    single = np.zeros((source.count, source.count, 2))
    single[np.arange(source.count), np.arange(source.count)] = 1.0  # one face for each point, which alone is not at 0
    try:
        weights = np.asarray(convert(single, source, target)[0])[..., 0].T
    except LayoutError:
        weights = np.array(
            [[float(name == source_name) for source_name in source.point_names] for name in target.point_names]
        )
    return torch.from_numpy(np.nan_to_num(np.asarray(weights, np.float32)))


def margin_of_init(recipe: Recipe) -> float | None:
    """The margin at which crops around the recipe's landmarks show as much of a face as those of ``init``'s training.

    A box around other landmarks is larger or smaller. None where the recipe starts with nothing or with a network of
    its own layout, or where some of its landmarks have no counterpart in the other layout.

    Raises:
        WeightsError: as ``checkpoint_path``, or a damaged checkpoint.
    """
    if recipe.init is None:
        return None
    path = checkpoint_path(recipe.init)
    init_recipe = parse(checkpoints.metadata(path)["config"], str(path))
    source, target = layout(init_recipe.layout), layout(recipe.layout)
    rows = counterparts(source, target).numpy()
    if source.name == target.name or not source.has_diagram or not rows.sum(axis=1).all() or len(rows) < 2:
        return None
    side, target_side = (np.ptp(shape, axis=0).max() for shape in (source.diagram, rows @ source.diagram))
    return float(init_recipe.margin * side / target_side)


def _head_rows(value: Tensor, fresh: Tensor, rows: Tensor) -> Tensor:
    """Weights or biases of a head (N, ...): means of another layout's (M, ...), fresh ones without counterpart."""
    mixed = torch.tensordot(rows, value, dims=1)
    known = (rows.sum(dim=1) > 0).reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(known, mixed, fresh)
