"""The whole recipe of a model, as one short .toml file. Unknown keys and impossible values are refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from octamark.errors import ConfigError, listed

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Section):
    """Which faces, and how they are cropped."""

    format: Literal["300w", "wflw", "cofw", "aflw19", "webcaricature", "cariface", "coco", "folder"] = "300w"
    split: str = "train"
    validation: str | float = Field(
        "splits/val.txt",
        description="faces held out: a file of their names in the data folder, another split, or a share by lot",
    )
    margin: float = Field(1.25, gt=1.0, le=3.0, description="side of the crop over the longer side of the landmark box")
    share: float = Field(1.0, gt=0.0, le=1.0, description="share of the training faces, drawn by the recipe's seed")

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_name(cls, value: object) -> object:
        if isinstance(value, str) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError("a share between 0 and 1, a split of the set, or a file of names in the data folder")


class Network(_Section):
    """The network's shape; see octamark.nets.network.NetworkConfig."""

    size: Literal["nano", "tiny", "small", "medium", "base"] = "small"
    alpha: float = Field(0.25, ge=0.0, le=1.0)
    upsample: Literal["transposed", "bilinear"] = "bilinear"
    attention: bool = True
    stem: int = Field(0, ge=0, le=256)

    @model_validator(mode="after")
    def _two_frequencies(self) -> Network:
        if self.attention and not 0.0 < self.alpha < 1.0:
            raise ValueError(
                "attention joins two frequencies: set attention = false, or alpha strictly between 0 and 1"
            )
        return self


class Loss(_Section):
    """The loss; see octamark.training.losses."""

    name: Literal["laplace_kl", "sam"] = "laplace_kl"
    beta: float = Field(1.0, gt=0.0)
    target_scale: float = Field(1.0, gt=0.0, description="scale of the target Laplace density, heatmap pixels")
    maps: float = Field(0.0, ge=0.0, description="weight of KL from maps drawn of that density to the predicted ones")


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

    name: Literal["muon", "adamw"] = "muon"
    weight_decay: float = Field(0.01, ge=0.0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip: float = Field(5.0, gt=0.0, description="largest norm of the gradient")
    ema: float = Field(0.998, ge=0.0, lt=1.0, description="decay of the moving average, per step")
    keep: float = Field(0.0, ge=0.0, lt=1.0, description="share of init's weights in what the run comes to")


class Adversary(_Section):
    """The source's adversary; see octamark.training.adversary."""

    weight: float = Field(0.05, gt=0.0, description="lambda of the source's equation 5")
    warm_up: float = Field(0.1, ge=0.0, lt=1.0, description="share of the run's steps in which the weight rises from 0")
    learning_rate: float = Field(2e-4, gt=0.0, description="of the discriminator's Adam")
    width: int = Field(32, ge=4, le=512, description="channels of the discriminator's first layer")


class Teacher(_Section):
    """The mean teacher; see octamark.training.teacher."""

    weight: float = Field(1.0, gt=0.0)
    warm_up: float = Field(0.1, ge=0.0, lt=1.0, description="share of the run's steps in which the weight rises from 0")
    trust: float = Field(1.0, gt=0.0, description="the teacher's spread at which a point counts half, heatmap pixels")
    maps: float = Field(0.0, ge=0.0, description="weight of KL from maps drawn of its densities to the predicted ones")


class Distillation(_Section):
    """A larger network's heatmaps as further targets; see octamark.training.distillation."""

    teacher: str = Field(description="released model, run or checkpoint (.safetensors), of the recipe's layout")
    weight: float = Field(2.0, gt=0.0)
    trust: float = Field(1.0, gt=0.0, description="the teacher's spread at which a point counts half, heatmap pixels")


class Unlabelled(_Section):
    """How faces without labels are learned from; see octamark.training.semi_supervised."""

    batch: int = Field(16, ge=1, description="unlabelled faces a step, over all processes")
    adversary: Adversary | None = None
    teacher: Teacher | None = None


class Caricature(_Section):
    """Photographs turned into caricatures; see octamark.synthesis.caricature."""

    share: float = Field(0.3, gt=0.0, le=1.0, description="share of a step's faces")
    strength: float = Field(1.2, ge=0.0, le=3.0, description="largest; each face draws its own, down to a fifth of it")
    style: float = Field(
        0.8, ge=0.0, le=1.0, description="share of them that are drawn in a style, not left photographs"
    )


class Regional(_Section):
    """Attention-driven cropping: the recipe's network reads regions of faces; see octamark.training.regional.

    The stages' sizes are then those of the regions' crops. Where its size is that of the global network, it starts
    with the weights of that.
    """

    look: str = Field("small", description="released model, run or checkpoint that looks at the whole face")
    joint: bool = Field(False, description="train that network too, through the sampler")
    view: int = Field(448, ge=64, le=2048, description="side of the face's crop from which regions are cut, pixels")
    margin: float = Field(1.25, gt=1.0, le=3.0, description="side of a region's crop over the extent of its landmarks")
    spread: float = Field(4.0, ge=0.0, le=20.0, description="mean spreads of its landmarks that are added to the side")
    jitter: float = Field(0.06, ge=0.0, le=0.5, description="standard deviation of the crops' shift and log scale")
    turn: float = Field(5.0, ge=0.0, le=45.0, description="standard deviation of the crops' rotation, degrees")
    consistency: float = Field(
        0.0, ge=0.0, description="weight of the distance between the readings of two views of each face"
    )
    low_resolution: float = Field(0.5, ge=0.0, le=1.0, description="share of steps whose faces are shrunk first")
    lowest: int = Field(128, ge=32, description="side of the face's crop when shrunk most")

    @model_validator(mode="after")
    def _shrunk_below_view(self) -> Regional:
        if self.lowest > self.view:
            raise ValueError(f"lowest {self.lowest} is more than view {self.view}")
        return self


class Stage(_Section):
    """One pass of training at one input size; stages follow each other (progressive resizing)."""

    size: int = Field(256, ge=32, multiple_of=32, description="side of the input, pixels")
    epochs: int = Field(ge=1)
    steps_per_epoch: int | None = Field(
        None, ge=1, description="in place of one pass over the faces, which then follow each other without an end"
    )
    batch: int = Field(16, ge=1, description="pictures a step, over all processes")
    learning_rate: float = Field(2e-3, gt=0.0)
    warm_up: float = Field(0.05, ge=0.0, lt=1.0, description="share of the steps with a rising rate")
    target_scale: float | None = Field(None, gt=0.0, description="in place of loss.target_scale, in this stage")


class Config(_Section):
    """A recipe. ``seed`` fixes weights, order and augmentation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    layout: str = "ibug68"
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Data()
    network: Network = Network()
    loss: Loss = Loss()
    augment: Augment = Augment()
    optimiser: Optimiser = Optimiser()
    stages: tuple[Stage, ...] = Field(min_length=1)
    unlabelled: Unlabelled | None = None
    distillation: Distillation | None = None
    regional: Regional | None = None
    caricature: Caricature | None = None
    init: str | None = Field(None, description="released model, run or checkpoint (.safetensors) to start from")

    @model_validator(mode="after")
    def _teacher_has_spreads(self) -> Config:
        if self.unlabelled is not None and self.unlabelled.teacher is not None and self.loss.name != "laplace_kl":
            raise ValueError(
                "unlabelled.teacher weighs points by their spreads, which only the loss laplace_kl trains: set "
                "loss.name to it, or leave the teacher out"
            )
        return self

    @model_validator(mode="after")
    def _something_to_keep(self) -> Config:
        if self.optimiser.keep and self.init is None:
            raise ValueError("optimiser.keep: name the weights to keep a share of with init")
        return self

    @model_validator(mode="after")
    def _regional_alone(self) -> Config:
        if self.regional is not None and (self.unlabelled or self.distillation or self.caricature):
            raise ValueError("regional: leave out the sections unlabelled, distillation and caricature")
        if self.regional is not None and (self.init is not None or self.loss.name != "laplace_kl"):
            raise ValueError("regional: leave out init (it starts from regional.look); its loss is laplace_kl")
        return self


def parse(table: dict[str, Any], source: str) -> Config:
    """A Config from a parsed table; ``source`` names it in errors.

    Raises:
        ConfigError: unknown keys (the message lists the allowed ones) or impossible values.
    """
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        problems = error.errors()
        places = [problem["loc"] for problem in problems]
        own = [
            problem
            for problem in problems  # a list whose every entry is wrong is not too short as well
            if problem["type"] != "too_short"
            or not any(p[: len(problem["loc"])] == problem["loc"] != p for p in places)
        ]
        raise ConfigError(f"{source}: " + "; ".join(_explain(problem) for problem in own)) from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the recipe"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {place}; allowed there: {listed(_allowed(problem['loc'][:-1]))}"
    given = "" if problem["type"] == "missing" or not problem["loc"] else f", got {problem['input']!r}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}{given}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "data": Data,
    "network": Network,
    "loss": Loss,
    "augment": Augment,
    "optimiser": Optimiser,
    "stages": Stage,
    "unlabelled": Unlabelled,
    "adversary": Adversary,
    "teacher": Teacher,
    "distillation": Distillation,
    "regional": Regional,
    "caricature": Caricature,
}


def _allowed(place: tuple[str | int, ...]) -> list[str]:
    names = [part for part in place if isinstance(part, str)]
    return list(_SECTIONS[names[-1]].model_fields if names else Config.model_fields)


def load(path: Path, **changes: Any) -> Config:
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
