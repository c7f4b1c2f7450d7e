"""Cards: what every weight file says about itself.

A card is JSON in the ONNX metadata under ``octamark``: a :class:`ModelCard`, or the :class:`RegionCard` of a regional
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from octamark.errors import WeightsError
from octamark.models.calibration import Calibration

METADATA_KEY = "octamark"


class CropRule(BaseModel):
    """How the network's square input is cut around a face.

    Attributes:
        size: side of the input in pixels.
        margin: side of the crop over the longer side of the tight box around the landmarks.
        detector_scale, detector_shift: the same for a box of a face detector: side over the root of the box's area,
            and shift of the centre (x, y) in shares of that root; fitted on training faces with YuNet's boxes.
        detector_residual: standard deviation of that fit: centre x, centre y (shares of the crop's side) and
            logarithm of the side.
    """

    model_config = ConfigDict(frozen=True)

    size: int
    margin: float
    detector_scale: float
    detector_shift: tuple[float, float]
    detector_residual: tuple[float, float, float]


class RegionRule(BaseModel):
    """How regions are cut around landmarks.

    Attributes:
        size: side of a crop in pixels of the regional network's input.
        margin: side of the crop over the longer side of the upright box around the region's landmarks.
        spread: how many mean spreads of the region's landmarks are added to the side, at most its extent.
        least: least side over ``margin`` times the region's extent in the layout's diagram, at the face's scale: a side
            that is hidden, or a mouth seen from the side, is not cut to nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(160, ge=32, multiple_of=32)
    margin: float = Field(1.25, gt=1.0, le=3.0)
    spread: float = Field(4.0, ge=0.0, le=20.0)
    least: float = Field(0.7, ge=0.0, le=2.0)


class Card(BaseModel):
    """What the cards of all weight files say: what a file is, where it comes from and how good it is.

    Attributes:
        name, layout: of the network; ``parameters``: count; ``width``: C.
        calibration: from raw spreads to expected errors and probabilities.
        normaliser: of the scores.
        scores: figures on the validation split, each named with its set, boxes and normaliser.
        training_data, terms: what it learned from and what that allows.
        recipe: the whole training configuration.
        version: of octamark that exported it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    layout: str
    parameters: int
    width: int
    calibration: Calibration
    normaliser: str
    scores: Mapping[str, float]
    training_data: str
    terms: str
    recipe: Mapping[str, Any]
    version: str


class ModelCard(Card):
    """The card of a model; its calibration is applied inside the graph.

    Attributes:
        crop: how faces are cut.
        offset: (x, y) in shares of the inter-ocular distance, added to all points by the predictor: how far the labels
            of the set lie to one side of where faces and their mirror images agree, which no network that learns from
            mirrored pictures can know. 300W's lie about 1 % to the right.
    """

    crop: CropRule
    offset: tuple[float, float] = (0.0, 0.0)


class RegionCard(Card):
    """The card of a regional network (octamark.inference.refiner).

    Attributes:
        calibration: of the fused spreads, in units of a face's crop (its side over :data:`FACE_UNITS`).
        look: the model whose points it was trained to follow.
        rule: how crops are cut.
        bias: of each kind of region, in the order of its channels, and ``sharpness``: of the fusion; see
            octamark.inference.regions.fuse.
    """

    look: str
    rule: RegionRule
    bias: tuple[float, ...]
    sharpness: float


FACE_UNITS = 224
"""A face's crop has this many units of length, whatever the input of the network that looks at it."""


_Card = TypeVar("_Card", bound=Card)


def parse_card(text: str | None, source: str) -> ModelCard:
    """The card from a weight file's metadata.

    Raises:
        WeightsError: no card, or one that this version cannot read.
    """
    return _parse(text, source, ModelCard)


def parse_region_card(text: str | None, source: str) -> RegionCard:
    """The same of a regional network's file."""
    return _parse(text, source, RegionCard)


def _parse(text: str | None, source: str, kind: type[_Card]) -> _Card:
    if text is None:
        raise WeightsError(f"{source}: an ONNX file without octamark's model card; octamark export writes one")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        said = f"a model card that this version cannot read ({error.error_count()} errors)"
        if kind is ModelCard and _fits(text, RegionCard):
            said = "a regional network, which goes beside a model: --regions, or regions= in Python"
        if kind is RegionCard and _fits(text, ModelCard):
            said = "a model for whole faces, no regional network"
        raise WeightsError(f"{source}: {said}") from error


def _fits(text: str, kind: type[Card]) -> bool:
    try:
        kind.model_validate_json(text)
    except ValidationError:
        return False
    return True
