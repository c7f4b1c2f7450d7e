"""The recipe of a training run: one short .toml file. Unknown keys and impossible values are refused."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from octamark.datasets.load import VisibilityKind
from octamark.errors import ConfigError, listed
from octamark.metrics import OWN_BOX_NORMALISERS
from octamark.models import SET_TERMS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_terms(terms: str, commercial_use: bool | None) -> None:
    """Check that a set whose commercial use is stated to be allowed has terms.

    Raises:
        ValueError: it has none.
    """
    if commercial_use and not terms.strip():
        raise ValueError("commercial_use = true: say in terms which licence allows it, and whom to name")


class Data(_Section):
    """One set of labelled faces, and how they are cropped. A recipe has one ``[data]`` table, or several ``[[data]]``.

    ``format = "shards"`` is a folder of stored crops; see octamark.training.shards.
    """

    name: str = Field("", pattern=r"^[a-zA-Z0-9_-]*$", description="of the set; its format by default")
    format: Literal["300w", "wflw", "cofw", "aflw19", "webcaricature", "cariface", "coco", "folder", "shards"] = Field(
        "300w", description="how labels and pictures are stored"
    )
    path: str | None = Field(None, description="folder or file of the set; --data on the command line comes first")
    split: str | None = Field(None, description='split of the set; by default its only one, or "train"')
    validation: str | float | None = Field(
        None,
        description="faces held out: a file of their names in the data folder, another split, or a random share (1.0: "
        "the whole set, which is then not trained on); by default splits/val.txt, and of several sets none",
    )
    layout: str | None = Field(None, description="layout of the set's labels, where it is not the recipe's")
    margin: float = Field(1.25, gt=1.0, le=3.0, description="side of the crop over the longer side of the landmark box")
    share: float = Field(1.0, gt=0.0, le=1.0, description="share of the training faces, drawn by the recipe's seed")
    weight: float | None = Field(
        None, gt=0.0, description="share of a step's faces, relative to the other sets; by default the number of faces"
    )
    visibility: VisibilityKind | None = Field(
        None,
        description="which landmarks can be seen: as the set's flags say; all labelled ones; or labelled ones, while "
        "those without label are hidden whose counterpart on the other side of the face has one, as in profiles; by "
        "default unknown",
    )
    convention: str | None = Field(
        None,
        description="released model, run or checkpoint whose reading of the set's pictures tells where its landmarks "
        "lie by the recipe's convention: the labels are moved there by a correction that is affine in the shape of "
        "the face; by default the labels are taken as they are",
    )
    terms: str = Field("", description="licence of pictures and labels, and whom to name; known for the public sets")
    commercial_use: bool | None = Field(
        None, description="whether these terms allow commercial use; false for the public sets"
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_name(cls, value: object) -> object:
        if value is None or isinstance(value, str) or (isinstance(value, float) and 0 < value <= 1):
            return value
        raise ValueError(
            "a share between 0 and 1, 1.0 for the whole set, a split of the set, or a file of names in the data folder"
        )

    @model_validator(mode="after")
    def _shards_hold_nothing_out(self) -> Data:
        if self.format == "shards" and (self.validation is not None or self.split is not None):
            raise ValueError("shards have no split and no validation faces: hold out faces of another set")
        return self

    @model_validator(mode="after")
    def _nothing_to_weigh(self) -> Data:
        if self.held_out and self.weight is not None:
            raise ValueError("a set that is held out as a whole has no weight")
        return self

    @model_validator(mode="after")
    def _terms_are_those_of_the_set(self) -> Data:
        known = SET_TERMS.get(self.format)
        if known is not None and (self.commercial_use or self.terms not in ("", known)):
            raise ValueError(f"the terms of {self.format} are known ({known}): leave out terms and commercial_use")
        _check_terms(self.terms, self.commercial_use)
        return self

    @property
    def held_out(self) -> bool:
        """Whether the whole set is held out, so that it is validated on only."""
        return self.validation == 1.0

    @property
    def title(self) -> str:
        """The set's name, or its format where it has no name."""
        return self.name or self.format


class Network(_Section):
    """The network's shape; see octamark.nets.network.NetworkConfig."""

    size: Literal["nano", "pico", "tiny", "small", "medium", "base"] = Field("small", description="number of channels")
    alpha: float = Field(0.25, ge=0.0, le=1.0, description="share of the channels that have low frequency")
    attention: bool = Field(True, description="attention from the low to the high frequency")

    @model_validator(mode="after")
    def _two_frequencies(self) -> Network:
        if self.attention and not 0.0 < self.alpha < 1.0:
            raise ValueError(
                "attention joins two frequencies: set attention = false, or alpha strictly between 0 and 1"
            )
        return self


class Loss(_Section):
    """The loss; see octamark.training.losses."""

    name: Literal["laplace_kl", "soft_argmax_l1"] = Field(
        "laplace_kl", description="LaplaceKL, or the distance of points from labels"
    )
    beta: float = Field(1.0, gt=0.0, description="factor of the heatmaps before the softmax")
    target_scale: float = Field(1.0, gt=0.0, description="scale of the target Laplace density, heatmap pixels")
    maps: float = Field(
        0.0, ge=0.0, description="weight of the KL divergence from that density, drawn as a map, to the predicted map"
    )
    openings: float = Field(
        0.0, ge=0.0, description="weight of the error of the distance between the lids, in units of the target scale"
    )
    shut_weight: float = Field(
        1.0, ge=1.0, description="weight of shut eyes in openings, against 1 for eyes that are open as usual"
    )


class Augment(_Section):
    """Strengths and shares of the augmentations; see octamark.training.augmentation. All zero switches them off."""

    rotation: float = Field(18.0, ge=0.0, le=180.0, description="standard deviation, degrees")
    scale: float = Field(0.12, ge=0.0, le=0.5, description="standard deviation of the logarithm")
    shift: float = Field(0.05, ge=0.0, le=0.5, description="standard deviation, share of the crop's side")
    mirror: float = Field(0.5, ge=0.0, le=1.0, description="share of pictures")
    brightness: float = Field(0.2, ge=0.0, le=1.0, description="standard deviation")
    contrast: float = Field(0.25, ge=0.0, le=1.0, description="standard deviation of the logarithm")
    colour: float = Field(0.25, ge=0.0, le=1.0, description="standard deviation of saturation and channel gains")
    grey: float = Field(0.1, ge=0.0, le=1.0, description="share of pictures")
    blur: float = Field(0.15, ge=0.0, le=1.0, description="share of pictures")
    low_resolution: float = Field(0.15, ge=0.0, le=1.0, description="share of pictures")
    sensor: float = Field(0.0, ge=0.0, le=1.0, description="share of pictures, taken by a small camera at night")
    noise: float = Field(0.15, ge=0.0, le=1.0, description="share of pictures")
    jpeg: float = Field(0.1, ge=0.0, le=1.0, description="share of pictures")
    sharpen: float = Field(0.0, ge=0.0, le=1.0, description="share of pictures")
    occlusion: float = Field(0.4, ge=0.0, le=1.0, description="share of pictures")


class Optimiser(_Section):
    """The optimiser (see octamark.training.muon), and the exponential moving average of the weights."""

    name: Literal["muon", "adamw"] = Field("muon", description="Muon with AdamW, or AdamW alone")
    weight_decay: float = Field(0.01, ge=0.0, description="decay of the weights per step, times the learning rate")
    clip: float = Field(5.0, gt=0.0, description="largest norm of the gradient")
    ema: float = Field(0.998, ge=0.0, lt=1.0, description="decay of the moving average, per step")
    init_weight: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the weights of init in the result, which is their average (WiSE-FT)"
    )


class Adversary(_Section):
    """The adversary of Laplace Landmark Localization; see octamark.training.objectives.adversary."""

    weight: float = Field(0.05, gt=0.0, description="lambda in equation 5 of the source")
    warm_up: float = Field(0.1, ge=0.0, lt=1.0, description="share of the run's steps in which the weight rises from 0")
    learning_rate: float = Field(2e-4, gt=0.0, description="of the discriminator's Adam")
    width: int = Field(32, ge=4, le=512, description="channels of the discriminator's first layer")


class Teacher(_Section):
    """The mean teacher; see octamark.training.objectives.teacher."""

    weight: float = Field(1.0, gt=0.0, description="of the distance between network and teacher")
    warm_up: float = Field(0.1, ge=0.0, lt=1.0, description="share of the run's steps in which the weight rises from 0")
    spread_at_half_weight: float = Field(
        1.0, gt=0.0, description="the teacher's spread, heatmap pixels, at which a point has half its weight"
    )
    maps: float = Field(
        0.0, ge=0.0, description="weight of the KL divergence from the teacher's densities, drawn as maps"
    )


class Distillation(_Section):
    """Another network's heatmaps as further targets; see octamark.training.objectives.distillation."""

    teacher: str = Field(description="released model, run or checkpoint (.safetensors), of the recipe's layout")
    weight: float = Field(2.0, gt=0.0, description="of the divergence from the teacher's heatmaps")
    sets: tuple[str, ...] | None = Field(
        None,
        description="names of the sets on whose faces the teacher teaches, such as those that it learned from itself; "
        "by default all, and faces without labels",
    )
    spread_at_half_weight: float = Field(
        1.0, gt=0.0, description="the teacher's spread, heatmap pixels, at which a point has half its weight"
    )


class Unlabelled(_Section):
    """How the network learns from faces without labels."""

    batch: int = Field(16, ge=1, description="unlabelled faces a step, over all processes")
    adversary: Adversary | None = None
    teacher: Teacher | None = None
    crop_rule: str | None = Field(
        None,
        description="released model or .onnx file whose crop rule is used where too few labelled faces are found to "
        "fit one; for a folder of pictures",
    )
    terms: str = Field("", description="licence of the pictures, and whom to name")
    commercial_use: bool | None = Field(None, description="whether these terms allow commercial use")

    @model_validator(mode="after")
    def _terms_are_given(self) -> Unlabelled:
        _check_terms(self.terms, self.commercial_use)
        return self


class Visibility(_Section):
    """The network also says of every landmark whether it can be seen.

    See octamark.training.objectives.visibility. The sets' ``visibility`` says which landmarks can be seen.
    """

    weight: float = Field(0.5, gt=0.0, description="of the cross-entropy of what is seen")


class Caricature(_Section):
    """Photographs turned into caricatures; see octamark.synthesis.caricature."""

    share: float = Field(0.3, gt=0.0, le=1.0, description="share of a step's faces")
    strength: float = Field(1.2, ge=0.0, le=3.0, description="largest; each face draws its own, down to a fifth of it")
    style: float = Field(
        0.8, ge=0.0, le=1.0, description="share of them that are drawn in a style, not left photographs"
    )


class Eyes(_Section):
    """Eyes of photographs that are shut, narrowed and opened wider; see octamark.synthesis.eyelids."""

    share: float = Field(0.0, ge=0.0, le=1.0, description="share of a step's faces whose eyes are changed")
    shut: float = Field(0.5, ge=0.0, le=1.0, description="share of them whose eyes are shut")


class Regional(_Section):
    """Attention-driven cropping: the recipe's network reads regions of faces; see octamark.training.regions.

    The size of each stage is then that of the regions' crops. The network starts with the weights of ``init``, a model
    that reads regions or whole faces; without it, with those of the global model if its shape is the same. The teacher
    of ``distillation`` is then another regional network.
    """

    global_model: str = Field("small", description="released model, run or checkpoint that reads the whole face")
    view: int = Field(448, ge=64, le=2048, description="side of the face's crop from which regions are cut, pixels")
    margin: float = Field(1.25, gt=1.0, le=3.0, description="side of a region's crop over the extent of its landmarks")
    spread: float = Field(4.0, ge=0.0, le=20.0, description="mean spreads of its landmarks that are added to the side")
    jitter: float = Field(0.06, ge=0.0, le=0.5, description="standard deviation of the crops' shift and log scale")
    turn: float = Field(5.0, ge=0.0, le=45.0, description="standard deviation of the crops' rotation, degrees")
    consistency: float = Field(
        0.0, ge=0.0, description="weight of the distance between what is read from two views of each face"
    )
    low_resolution: float = Field(0.5, ge=0.0, le=1.0, description="share of steps whose faces are reduced first")
    lowest: int = Field(128, ge=32, description="smallest side to which the face's crop is reduced")

    @model_validator(mode="after")
    def _lowest_below_view(self) -> Regional:
        if self.lowest > self.view:
            raise ValueError(f"lowest {self.lowest} is more than view {self.view}")
        return self


class Stage(_Section):
    """One pass of training at one input size; stages follow each other (progressive resizing)."""

    size: int = Field(256, ge=32, multiple_of=32, description="side of the input, pixels")
    epochs: int = Field(ge=1, description="passes over the training faces")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="in place of one pass over the faces, which then follow each other without end"
    )
    batch: int = Field(16, ge=1, description="pictures a step, over all processes")
    learning_rate: float = Field(
        2e-3, gt=0.0, description="the highest; it rises in the warm-up, then falls to 1 % of it"
    )
    warm_up: float = Field(0.05, ge=0.0, lt=1.0, description="share of the steps with a rising rate")
    target_scale: float | None = Field(None, gt=0.0, description="in place of loss.target_scale, in this stage")
    learns: Literal["all", "visibility"] = Field(
        "all",
        description="visibility: only which landmarks can be seen; all other weights stay as they are, and with them "
        "the landmarks",
    )


class Recipe(_Section):
    """The recipe of a training run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of the model: small letters, digits, - and _")
    layout: str = Field("ibug68", description="landmark layout, by name or as the path of a .toml file")
    normaliser: str | None = Field(
        None,
        description="what validation errors are divided by: a normaliser of the layout, box or diagonal; by default "
        "inter-ocular, which does not suit faces in profile, or box where the layout has none",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="fixes the first weights, the order of faces and augmentation")
    data: tuple[Data, ...] = Field((Data(),), min_length=1)
    network: Network = Network()
    loss: Loss = Loss()
    augment: Augment = Augment()
    optimiser: Optimiser = Optimiser()
    stages: tuple[Stage, ...] = Field(min_length=1)
    unlabelled: Unlabelled | None = None
    distillation: Distillation | None = None
    regional: Regional | None = None
    caricature: Caricature | None = None
    eyes: Eyes = Eyes()
    visibility: Visibility | None = None
    init: str | None = Field(None, description="released model, run or checkpoint (.safetensors) to start from")
    commercial_use: bool = Field(
        False, description="claim that the weights may be used commercially: refused unless all that they learn from "
        "is stated to allow it",
    )  # fmt: skip

    @model_validator(mode="after")
    def _claimed_with_its_own_crop_rule(self) -> Recipe:
        if self.commercial_use and self.unlabelled is not None and self.unlabelled.crop_rule is not None:
            raise ValueError(
                "commercial_use = true: leave out unlabelled.crop_rule, so that the rule is fitted on the labelled "
                "faces of the recipe"
            )
        return self

    @model_validator(mode="after")
    def _teacher_has_spreads(self) -> Recipe:
        if self.unlabelled is not None and self.unlabelled.teacher is not None and self.loss.name != "laplace_kl":
            raise ValueError(
                "unlabelled.teacher weighs points by their spreads, which only the loss laplace_kl trains: set "
                "loss.name to it, or leave the teacher out"
            )
        return self

    @model_validator(mode="after")
    def _visibility_is_labelled(self) -> Recipe:
        if self.visibility is not None and not any(section.visibility for section in self.data):
            raise ValueError("visibility: no set says which landmarks can be seen; give one of them a visibility")
        learns = [stage.learns for stage in self.stages]
        if "visibility" in learns and self.visibility is None:
            raise ValueError("stages.learns: visibility needs the section visibility")
        if learns != sorted(learns):
            raise ValueError("stages.learns: stages that learn all come before those that learn visibility alone")
        if "visibility" in learns and self.optimiser.init_weight:
            raise ValueError("optimiser.init_weight: leave it out where a stage learns visibility alone")
        if learns[0] == "visibility" and self.init is None:
            raise ValueError(
                "stages.learns: name the weights of the landmarks in init, or let a stage before learn all"
            )
        if self.visibility is not None and self.network.alpha == 1.0:
            raise ValueError("visibility: is read from the high frequency: set network.alpha below 1")
        return self

    @model_validator(mode="after")
    def _init_weight_has_init(self) -> Recipe:
        if self.optimiser.init_weight and self.init is None:
            raise ValueError("optimiser.init_weight: name the weights to average with, in init")
        return self

    @model_validator(mode="after")
    def _taught_sets_are_there(self) -> Recipe:
        if self.distillation is not None and self.distillation.sets is not None:
            titles = [section.title for section in self.data if not section.held_out]
            if unknown := [name for name in self.distillation.sets if name not in titles] or not self.distillation.sets:
                raise ValueError(f"distillation.sets: {unknown or 'none'}; sets to learn from: {listed(titles)}")
            if self.regional is not None:
                raise ValueError("distillation.sets: a regional network is taught on the faces of all sets")
        return self

    @field_validator("data", mode="before")
    @classmethod
    def _one_table_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, dict | Data) else value

    @model_validator(mode="after")
    def _sets_can_be_mixed(self) -> Recipe:
        titles = [section.title for section in self.data]
        if len(set(titles)) < len(titles):
            raise ValueError(f"data: give each set a name of its own; got {listed(titles)}")
        trained = [section for section in self.data if not section.held_out]
        if not trained:
            raise ValueError("data: every set is held out as a whole; none is left to train on")
        weighted = [section.weight is not None for section in trained]
        if any(weighted) and not all(weighted):
            raise ValueError("data: give every set a weight, or none of them")
        if all(section.format == "shards" for section in self.data):
            raise ValueError("data: shards hold no validation faces: add a set of which some can be held out")
        return self

    @model_validator(mode="after")
    def _normaliser_is_known(self) -> Recipe:
        if self.normaliser in OWN_BOX_NORMALISERS:
            raise ValueError(f"normaliser: {self.normaliser} needs the boxes of a set, which training does not read")
        return self

    @property
    def margin(self) -> float:
        """Side of the network's crop over the longer side of the landmark box: the margin of the first set."""
        return self.data[0].margin

    @model_validator(mode="after")
    def _regional_alone(self) -> Recipe:
        optional = {name: field for name, field in Recipe.model_fields.items() if field.default is None}
        sections = {name for name, field in optional.items() if _section_of(field.annotation)}
        others = sorted(sections - {"regional", "distillation"})
        if self.regional is not None and any(getattr(self, name) is not None for name in others):
            raise ValueError(f"regional: leave out the sections {listed(others)}")
        if self.regional is not None and self.loss.name != "laplace_kl":
            raise ValueError("regional: its loss is laplace_kl")
        if self.regional is not None and self.normaliser is not None:
            raise ValueError("regional: leave out normaliser")
        return self


OLD_NAMES: dict[tuple[str, ...], str] = {
    ("optimiser", "keep"): "init_weight",
    ("distillation", "trust"): "spread_at_half_weight",
    ("unlabelled", "teacher", "trust"): "spread_at_half_weight",
    ("regional", "look"): "global_model",
}
"""Keys of recipes written before version 2 -> their names today."""

OLD_VALUES: dict[tuple[str, ...], tuple[object, object]] = {("loss", "name"): ("sam", "soft_argmax_l1")}
"""Values of recipes written before version 2: (then, today)."""

REMOVED: dict[tuple[str, ...], object] = {
    ("network", "stem"): 0,
    ("network", "upsample"): "bilinear",
    ("optimiser", "betas"): [0.9, 0.999],
    ("regional", "joint"): False,
}
"""Keys that are no options any more -> the value that every network has today; a recipe may still say it."""


def renamed(table: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's table in which the keys and values of older versions have today's names."""
    table = copy.deepcopy(table)

    def section(place: tuple[str, ...]) -> dict[str, Any]:
        inner: Any = table
        for key in place[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        return inner if isinstance(inner, dict) else {}

    for place, name in OLD_NAMES.items():
        if place[-1] in (keys := section(place)) and name not in keys:
            keys[name] = keys.pop(place[-1])
    for place, (before, today) in OLD_VALUES.items():
        if section(place).get(place[-1]) == before:
            section(place)[place[-1]] = today
    for place, value in REMOVED.items():
        current = section(place).get(place[-1])
        if current is not None and (list(current) if isinstance(current, tuple) else current) == value:
            del section(place)[place[-1]]
    return table


def parse(table: dict[str, Any], source: str) -> Recipe:
    """A Recipe from a parsed table; ``source`` names it in errors. Keys of older versions are understood.

    Raises:
        ConfigError: unknown keys (the message lists the allowed ones) or impossible values.
    """
    try:
        return Recipe.model_validate(renamed(table) if isinstance(table, dict) else table)
    except ValidationError as error:
        problems = error.errors()
        if isinstance(table, dict) and isinstance(table.get("data"), dict):  # one table has no number
            for problem in problems:
                if problem["loc"][:2] == ("data", 0):
                    problem["loc"] = ("data", *problem["loc"][2:])
        places = [problem["loc"] for problem in problems]
        shown = [
            problem
            for problem in problems  # a list whose every entry is wrong is not too short as well
            if problem["type"] != "too_short"
            or not any(p[: len(problem["loc"])] == problem["loc"] != p for p in places)
        ]
        raise ConfigError(f"{source}: " + "; ".join(_explain(problem) for problem in shown)) from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the recipe"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {place}; allowed there: {listed(_allowed(problem['loc'][:-1]))}"
    value = "" if problem["type"] == "missing" or not problem["loc"] else f", got {problem['input']!r}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}{value}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation such as ``Teacher | None`` or ``tuple[Stage, ...]``; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_of(part)) is not None), None)


def _allowed(place: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at a place of the recipe."""
    section: type[BaseModel] = Recipe
    for name in place:
        if isinstance(name, str):
            section = _section_of(section.model_fields[name].annotation) or section
    return list(section.model_fields)


def load(path: Path, **changes: Any) -> Recipe:
    """The recipe in a .toml file, or in the config.json of a run, with changes to it.

    Raises:
        ConfigError: unreadable file, invalid TOML, unknown keys, impossible values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not a {path.suffix.lstrip('.').upper() or 'TOML'} file ({error})") from error
    return parse({**table, **changes} if isinstance(table, dict) else table, str(path))
