"""Cards: the description of a model that its weight file holds.

A card is JSON in the ONNX metadata under ``octamark``: a ``ModelCard``, or the ``RegionCard`` of a regional
network. The layout of the landmarks lies beside it, under ``octamark.layout``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from octamark import layouts
from octamark.errors import WeightsError, listed
from octamark.layouts import BUILTIN, Layout
from octamark.models.calibration import Calibration
from octamark.models.sources import Source, commercial_use, learns_from_known_set

METADATA_KEY = "octamark"
"""Metadata key of the card."""

LAYOUT_KEY = "octamark.layout"
"""Metadata key of the layout, as ``octamark.layouts.dumps`` writes it."""

Arithmetic = Literal["float32", "int8"]
"""What a network's convolutions are computed in."""

MAX_OFFSET = 0.5
"""Largest offset of a card, in shares of the inter-ocular distance."""

_Shift = Annotated[float, Field(ge=-5.0, le=5.0)]
_NotNegative = Annotated[float, Field(ge=0.0)]
_Offset = Annotated[float, Field(ge=-MAX_OFFSET, le=MAX_OFFSET)]


class CropRule(BaseModel):
    """How the network's square input is cut around a face.

    Attributes:
        size: side of the input in pixels.
        margin: side of the crop divided by the longer side of the tight box around the landmarks.
        detector_scale: side of the crop divided by the square root of the area of a face detector's box.
        detector_shift: shift (x, y) from the centre of the detector's box to the centre of the crop, divided by that
            root. Scale and shift are fitted on training faces with YuNet's boxes.
        detector_residual: standard deviation of that fit: centre x, centre y (divided by the crop's side) and logarithm
            of the side.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    size: int = Field(ge=32, multiple_of=32)
    margin: float = Field(gt=0.5, le=10.0)
    detector_scale: float = Field(gt=0.1, le=20.0)
    detector_shift: tuple[_Shift, _Shift]
    detector_residual: tuple[_NotNegative, _NotNegative, _NotNegative]


class RegionRule(BaseModel):
    """How the crops of a face's regions are cut around its landmarks.

    Attributes:
        size: side of a crop in pixels of the regional network's input.
        margin: side of the crop divided by the longer side of the upright box around the region's landmarks.
        spread: how many mean spreads of the region's landmarks are added to the side; never more than the extent.
        least: smallest side, divided by ``margin`` times the region's extent in the layout's diagram at the face's
            scale. A region that is hidden or seen from the side, such as a mouth in profile, keeps a usable crop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(160, ge=32, multiple_of=32)
    margin: float = Field(1.25, gt=1.0, le=3.0)
    spread: float = Field(4.0, ge=0.0, le=20.0)
    least: float = Field(0.7, ge=0.0, le=2.0)


class Card(BaseModel):
    """The card of a weight file: what the model is, what it was trained on and how accurate it is.

    Attributes:
        name: of the model; layout: name of the layout of its landmarks.
        parameters: number of weights; width: channels C of the network.
        calibration: from raw spreads to expected errors and probabilities.
        normaliser: what the errors in ``scores`` are divided by.
        scores: figures on the validation split, each named with its set, boxes and normaliser.
        training_data, terms: what the network was trained on, and what the licence of those pictures allows.
        recipe: the whole training configuration.
        version: of the octamark that exported the file.
        arithmetic: of the convolutions: ``"int8"``, with activations of 8 bits, or ``"float32"``.
        sources: all that the weights, the crop rule and the calibration were learned from, also through the models that
            the training began with or was taught by. Cards that older versions wrote have none.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    layout: str
    parameters: int = Field(ge=0)
    width: int = Field(ge=1)
    calibration: Calibration
    normaliser: str
    scores: Mapping[str, float]
    training_data: str
    terms: str
    recipe: Mapping[str, Any]
    version: str
    arithmetic: Arithmetic = "float32"
    sources: tuple[Source, ...] = ()

    @property
    def commercial_use(self) -> bool | None:
        """Whether the terms of all sources allow commercial use; None if nobody stated it of some.

        False for a card whose recipe names a public set of research terms, also where the card has no sources.
        """
        return False if learns_from_known_set(self.recipe) else commercial_use(self.sources)


class ModelCard(Card):
    """The card of a model for whole faces; its calibration is applied inside the graph.

    Attributes:
        crop: how faces are cut.
        offset: (x, y) in shares of the inter-ocular distance that the predictor adds to all points. A network that
            learns from mirrored pictures cannot learn that a data set's labels lie to one side; the offset is that
            shift, measured on validation faces. 300W's labels lie about 1 % to the right.
        visibility: (slope, intercept) of the probability that a point can be seen, a logistic function of the network's
            logit, fitted on validation faces; applied inside the graph. None of a model that does not tell it.
    """

    crop: CropRule
    offset: tuple[_Offset, _Offset] = (0.0, 0.0)
    visibility: tuple[_NotNegative, float] | None = None


class RegionCard(Card):
    """The card of a regional network (octamark.inference.refiner).

    Attributes:
        calibration: of the fused spreads, in units of a face's crop (its side divided by ``FACE_UNITS``).
        global_model: name of the model for whole faces whose points place the crops.
        rule: how crops are cut.
        bias: of each kind of region, in the order of its channels; see octamark.inference.regions.fuse.
        sharpness: of the fusion, see there.
    """

    global_model: str = Field(validation_alias=AliasChoices("global_model", "look"))  # octamark 0.1 wrote "look"
    rule: RegionRule
    bias: tuple[float, ...]
    sharpness: float = Field(gt=0.0)


FACE_UNITS = 224
"""The side of a face's crop in the unit of a regional calibration, whatever the network's input size."""


_Card = TypeVar("_Card", bound=Card)


def parse_card(text: str | None, source: str) -> ModelCard:
    """The card from a weight file's metadata; ``source`` names the file in errors.

    Raises:
        WeightsError: no card, a card that this version cannot read, or one with impossible values.
    """
    return _parse(text, source, ModelCard)


def parse_region_card(text: str | None, source: str) -> RegionCard:
    """The card from the metadata of a regional network's file; see ``parse_card``."""
    return _parse(text, source, RegionCard)


def _parse(text: str | None, source: str, kind: type[_Card]) -> _Card:
    if text is None:
        raise WeightsError(f"{source}: an ONNX file without octamark's model card; octamark export writes one")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problem = "a model card that this version cannot use: " + "; ".join(
            _explain(problem_entry) for problem_entry in error.errors()
        )
        if kind is ModelCard and _fits(text, RegionCard):
            problem = "a regional network, which is used beside a model: --regions, or regions= in Python"
        if kind is RegionCard and _fits(text, ModelCard):
            problem = "a model for whole faces, not a regional network"
        raise WeightsError(f"{source}: {problem}") from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the card"
    value_given = problem["input"]
    value = (
        f", got {value_given!r}" if isinstance(value_given, int | float | str) and len(str(value_given)) < 40 else ""
    )
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}{value}"


def _fits(text: str, kind: type[Card]) -> bool:
    try:
        kind.model_validate_json(text)
    except ValidationError:
        return False
    return True


def layout_of(metadata: Mapping[str, str], card: Card, source: str) -> Layout:
    """The layout of a weight file: the one that its metadata holds, else the built-in one that the card names.

    Args:
        metadata: of the ONNX file, key -> text.
        source: names the file in errors.

    Raises:
        WeightsError: neither is there, or the card names another layout than the one in the file.
        LayoutError: the metadata hold a layout with mistakes.
    """
    if (text := metadata.get(LAYOUT_KEY)) is not None:
        layout = layouts.loads(text, source)
        if layout.name != card.layout:
            raise WeightsError(
                f"{source}: its card names the layout {card.layout!r}, but the file holds {layout.name!r}"
            )
        return layout
    if card.layout in BUILTIN:
        return layouts.layout(card.layout)
    raise WeightsError(
        f"{source}: made for the layout {card.layout!r}, which is neither in the file nor built in "
        f"({listed(BUILTIN)}); export the model again with this version"
    )


class GraphValue(Protocol):
    """An input or output of an ONNX Runtime session."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...
    @property
    def type(self) -> str: ...


def check_graph(
    card: Card, layout: Layout, inputs: Iterable[GraphValue], outputs: Iterable[GraphValue], source: str
) -> None:
    """Check that a card describes the graph that it lies beside, before the first picture is read.

    Args:
        layout: of the file, see ``layout_of``.
        inputs, outputs: of the session: ``session.get_inputs()`` and ``session.get_outputs()``.
        source: names the file in errors.

    Raises:
        WeightsError: missing inputs or outputs, inputs besides the crops, other types of numbers, another input size
            than the card's, or graph, calibration and layout that disagree about the number of landmarks. One message
            names all differences.
    """
    inputs, outputs = list(inputs), list(outputs)
    shapes = {value.name: tuple(value.shape) for value in (*inputs, *outputs)}
    count, any_size = layout.count, None
    if isinstance(card, ModelCard):
        size, place = card.crop.size, "crop.size"
        expected: dict[str, tuple[int | None, ...]] = {
            "crops": (any_size, size, size, 3),
            "landmarks": (any_size, count, 2),
            "spread": (any_size, count, 2),
            "confidence": (any_size, count),
            "heatmaps": (any_size, count, size // 4, size // 4),
        }
        if card.visibility is not None or "visible" in shapes:
            expected["visible"] = (any_size, count)
    else:
        assert isinstance(card, RegionCard)
        size, place = card.rule.size, "rule.size"
        expected = {
            "crops": (any_size, size, size, 3),
            "readings": (any_size, any_size, 2),
            "spread": (any_size, any_size, 2),
        }
    if missing := expected.keys() - shapes.keys():
        raise WeightsError(f"{source}: a graph without {listed(sorted(missing))}; export it with this version")
    if further := [value.name for value in inputs if value.name != "crops"]:
        raise WeightsError(
            f"{source}: a graph with inputs besides crops: {listed(further)}; export it with this version"
        )
    types = {**{value.name: value.type for value in outputs}, **{value.name: value.type for value in inputs}}
    numbers = {name: "tensor(uint8)" if name == "crops" else "tensor(float)" for name in expected}
    if odd := [f"{name} is {types[name]}, not {numbers[name]}" for name in expected if types[name] != numbers[name]]:
        raise WeightsError(f"{source}: a graph of other types: {listed(odd)}; export it with this version")
    problems = [
        f"{name} is {_shape(shapes[name])} in the graph, {_shape(shape)} by the card"
        for name, shape in expected.items()
        if not _agree(shapes[name], shape)
    ]
    if isinstance(card, ModelCard) and card.visibility is None and "visible" in shapes:
        problems.append("the card has no calibration of visible")
    if (calibrated := len(card.calibration.gain)) != count:
        problems.append(f"the calibration is for {calibrated} points")
    if problems:
        raise WeightsError(
            f"{source}: its model card does not describe its graph ({place} {size}, layout {layout.name} of {count} "
            f"points): {'; '.join(problems)}"
        )


def _agree(shape: tuple[int | str | None, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted_side is None or not isinstance(side, int) or side == wanted_side
        for side, wanted_side in zip(shape, expected, strict=True)
    )


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return f"({', '.join('n' if side is None else str(side) for side in shape)})"
