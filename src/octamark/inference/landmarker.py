"""Landmarker: picture in, Faces out. The one predictor; numpy outside, ONNX Runtime inside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from octamark import models
from octamark.errors import BoxError, ConfigError, PictureError, WeightsError, listed
from octamark.faces import Faces, Landmarks, mean_confidence
from octamark.geometry import (
    Crop,
    Picture,
    ReducedPicture,
    apply,
    check_boxes,
    crop_transform,
    detector_squares,
    landmark_boxes,
    squares,
    transform_with_spread,
)
from octamark.images import DEFAULT_LIMITS, Limits, PictureLike, open_picture, read_picture
from octamark.inference.detector import Detector, FaceDetector, detections
from octamark.inference.devices import DEVICES
from octamark.inference.full_frame import search_full_frame
from octamark.inference.last_look import confirmed_faces
from octamark.inference.refiner import MIN_CROP_RATIO, REFINE, Refine, Refiner
from octamark.inference.rotation import ROTATION, Rotation, RotationSearch
from octamark.inference.search import Candidates
from octamark.inference.session import CROPS_PER_BATCH, ahead, run, session
from octamark.inference.yunet import Detections
from octamark.layouts import Layout
from octamark.models import Calibration, CropRule, ModelCard

BoxKind = Literal["detector", "landmarks"]
BOX_KINDS: tuple[BoxKind, ...] = ("detector", "landmarks")
Boxes = NDArray[np.floating] | Sequence[Sequence[float]]

_PICTURES = 8
"""Pictures of a list that are in memory, and share the network's runs, at once."""


@dataclass(frozen=True)
class InferenceOptions:
    """How a model is run. ``load`` takes the same names as keyword arguments.

    Attributes:
        rotation: which faces are read again in a crop that is turned upright: ``"auto"`` those that lean or of which
            the network is unsure, ``"always"`` all, ``"never"`` none (see octamark.inference.rotation). Models of a
            layout without a diagram do not know which way is up, and read every face once.
        refine: which faces are then read again region by region at the picture's resolution: ``"auto"`` those that are
            larger than the network's input, where the model is the one that the regional network was trained with
            (``small``); ``"always"`` all, ``"never"`` none (see octamark.inference.refiner).
        regions: name of a regional network that ships, or path (or bytes) of one that ``octamark export`` wrote, which
            ``"auto"`` then uses with any model of its layout.
        min_confidence: faces whose mean confidence is lower are left out of the result, 0 to 1. Where the model tells
            ``visible``, it is the mean of the points that can be seen: each counts by its ``visible``.
        threads: processor threads of the networks; None lets ONNX Runtime choose those of the landmark networks, and
            gives the face detector one. A detector of one's own has its own.
        device: what runs the networks: ``"cpu"``, ``"openvino"`` (the processor, with Intel's runtime), ``"cuda"``,
            ``"tensorrt"``, ``"coreml"`` or ``"directml"``. Each but the first needs a package; what is not there is an
            error. The face detector runs on the processor.

    Raises:
        ConfigError: another value of ``rotation``, ``refine`` or ``min_confidence``.
    """

    rotation: Rotation = "auto"
    refine: Refine = "auto"
    regions: str | Path | bytes = models.REGIONS
    min_confidence: float = 0.0
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, allowed in (("rotation", self.rotation, ROTATION), ("refine", self.refine, REFINE)):
            if not isinstance(value, str) or value not in allowed:
                raise ConfigError(f"{name} {value!r}; allowed: {listed(allowed)}")
        if not isinstance(self.min_confidence, Real | np.floating) or not 0.0 <= self.min_confidence <= 1.0:
            raise ConfigError(f"min_confidence {self.min_confidence!r}; allowed: 0 to 1")


@dataclass(frozen=True, eq=False)
class Located:
    """Where the faces of one picture are, before the landmark network has read them.

    Attributes:
        picture: as it was decoded.
        boxes, scores: (n, 4) xyxy in pixels and (n,); None with ``full_frame``, where both come from the landmarks.
        crops: of the n faces, which the network reads.
    """

    picture: Picture | ReducedPicture
    boxes: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    crops: Sequence[Crop]


class Landmarker:
    """Finds landmarks. Immutable, safe to share between threads, and picklable: another process builds it anew.

    Args:
        model: name of a model that ships, or path (or bytes) of an .onnx file that ``octamark export`` wrote.
        options: how the model is run.
        detector: finds faces where no boxes are given: a function from a picture (H, W, 3) to boxes (n, 4) and scores
            (n,); None makes a ``FaceDetector``.
        changes: options by name, in place of those in ``options``.

    Attributes:
        card: what the model file says about itself.
        layout: which landmarks the model finds.
        options, detector: as given.
        refiner: the regional network, None where this landmarker does not use one.

    Raises:
        WeightsError: unknown name, missing or damaged file.
        DeviceError: more threads than processors, or a device that is not there.
        ConfigError: an unknown option, or a value that is not allowed; a detector that cannot be called.

    Examples:
        >>> from octamark import load
        >>> faces = load("nano")(np.zeros((64, 64, 3), np.uint8))
        >>> len(faces)
        0
    """

    card: ModelCard
    layout: Layout
    options: InferenceOptions
    detector: Detector
    refiner: Refiner | None

    def __init__(
        self,
        model: str | Path | bytes = "small",
        options: InferenceOptions | None = None,
        *,
        detector: Detector | None = None,
        **changes: Any,
    ) -> None:
        options = _changed(options or InferenceOptions(), _renamed(changes))
        if detector is not None and not callable(detector):
            raise ConfigError(f"detector {detector!r}; allowed: a function from a picture to boxes and scores, or None")
        name = "the model's bytes" if isinstance(model, bytes) else str(model)
        network = session(models.read(model), name, options.threads, options.device)
        metadata = network.get_modelmeta().custom_metadata_map
        card = models.parse_card(metadata.get(models.METADATA_KEY), name)
        points = models.layout_of(metadata, card, name)
        models.check_graph(card, points, network.get_inputs(), network.get_outputs(), name)
        for attribute, value in (
            ("_model", model),
            ("_session", network),
            ("options", options),
            ("card", card),
            ("layout", points),
            ("detector", FaceDetector(threads=options.threads or 1) if detector is None else detector),
            ("refiner", _refiner(options, card, points)),
        ):
            object.__setattr__(self, attribute, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Landmarker is immutable; make another one to set {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._model, self.options, self.detector)  # type: ignore[attr-defined]

    def with_options(self, **changes: Any) -> Landmarker:
        """A landmarker of the same model with other options, given by name."""
        usual = self.detector == FaceDetector(threads=self.options.threads or 1)  # whose threads follow the options
        detector = None if usual else self.detector
        return Landmarker(self._model, self.options, detector=detector, **_renamed(changes))  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"Landmarker({self.card.name!r}, layout={self.card.layout!r}, {self.card.parameters:,} parameters)"

    @overload
    def __call__(
        self,
        picture: PictureLike,
        boxes: Boxes | Literal["picture"] | None = None,
        *,
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        heatmaps: bool = False,
    ) -> Faces: ...
    @overload
    def __call__(
        self,
        picture: list[Any] | tuple[Any, ...],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        heatmaps: bool = False,
    ) -> list[Faces]: ...
    def __call__(
        self,
        picture: PictureLike | list[Any] | tuple[Any, ...],
        boxes: Boxes | Sequence[Boxes | None] | Literal["picture"] | None = None,
        *,
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        heatmaps: bool = False,
    ) -> Faces | list[Faces]:
        """Landmarks of all faces in a picture, or in each picture of a list.

        Args:
            picture: path, encoded bytes, PIL image or array (see ``octamark.read_picture``), or a list or tuple of
                them, of which a few at a time are decoded and share the network's runs. ``octamark.stream`` goes on
                where one of many pictures fails.
            boxes: (n, 4) face boxes xyxy in pixels; None lets the detector look for faces. For a list of pictures, a
                list with an entry for each.
            box_kind: what the boxes are: ``"detector"`` boxes of a face, or tight around the ``"landmarks"``, as
                labels give them. The crop rule of the model's card differs.
            full_frame: one face fills each picture, such as a drawing in which the detector sees none: several guesses
                are read, and the one with the highest mean confidence counts. It takes no boxes; the face's box is the
                one around its landmarks, its score the mean confidence.
            heatmaps: also return the probability maps, as ``faces.heatmaps``.

        Returns:
            Faces, or a list of them for a list of pictures. No face is an empty Faces.

        Raises:
            PictureError: a picture that cannot be read.
            PredictionError: a network that gives values that are not finite.
            BoxError: boxes of another shape, not finite, without area or outside the picture, whether they are given
                or come from a detector of one's own; a list of boxes whose length differs from the number of pictures;
                boxes together with ``full_frame``; an unknown ``box_kind``.
        """
        if box_kind not in BOX_KINDS:
            raise BoxError(f"box_kind {box_kind!r}; allowed: {listed(BOX_KINDS)}")
        if isinstance(boxes, str):
            if boxes != "picture":
                raise BoxError(
                    f"boxes {boxes!r}; allowed: (n, 4) numbers x1 y1 x2 y2, or None for the detector; full_frame=True "
                    "for a face that fills the picture"
                )
            warnings.warn('boxes="picture" is now full_frame=True', DeprecationWarning, stacklevel=2)
            boxes, full_frame = None, True
        if full_frame and boxes is not None:
            raise BoxError("full_frame takes no boxes: the face fills the picture")
        if not isinstance(picture, list | tuple):
            decoded = self.decode(picture, reduce=boxes is not None or full_frame or self.detects_reduced)
            return self.read_located([self.locate(decoded, boxes, box_kind, full_frame)], heatmaps)[0]
        picture_boxes: Any = [None] * len(picture) if boxes is None else boxes
        if not isinstance(picture_boxes, list | tuple) or len(picture_boxes) != len(picture):
            received = (
                f"{len(picture_boxes)} lists of boxes"
                if isinstance(picture_boxes, list | tuple)
                else f"a {type(picture_boxes).__name__}"
            )
            raise BoxError(f"{len(picture)} pictures but {received}; give a list with boxes (or None) for each picture")
        results: list[Faces] = []
        for start in range(0, len(picture), _PICTURES):
            located = []
            for index in range(start, min(start + _PICTURES, len(picture))):
                reduce = picture_boxes[index] is not None or full_frame or self.detects_reduced
                try:
                    decoded = self.decode(picture[index], reduce=reduce)
                except PictureError as error:
                    raise PictureError(f"picture {index} of the list: {error}") from error
                where = f"picture {index}: " if len(picture) > 1 else ""
                located.append(self.locate(decoded, picture_boxes[index], box_kind, full_frame, where=where))
            results += self.read_located(located, heatmaps)
        return results

    def predict(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[Any] | None = None,
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        heatmaps: bool = False,
    ) -> list[Faces]:
        """The faces of decoded pictures (H, W, 3) uint8 RGB, whose crops share the network's runs.

        Args:
            boxes: for each picture, (n, 4) boxes or None; the rest is as in ``__call__``.

        Raises:
            PictureError: a picture of another form. The rest is as in ``__call__``.
        """
        located = []
        for index, picture in enumerate(pictures):
            if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
                form = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
                raise PictureError(
                    f"picture {index}: {form}; predict takes decoded pictures, uint8 (H, W, 3): read_picture "
                    "gives them, or call the landmarker itself"
                )
            where = f"picture {index}: " if len(pictures) > 1 else ""
            picture_boxes = None if boxes is None else boxes[index]
            located.append(self.locate(picture, picture_boxes, box_kind, full_frame, where=where))
        return self.read_located(located, heatmaps)

    @property
    def detects_reduced(self) -> bool:
        """Whether the detector needs no more than reduced pictures: a ``FaceDetector`` without tiles."""
        return type(self.detector) is FaceDetector and not self.detector.tiles

    @staticmethod
    def decode(source: PictureLike, *, reduce: bool, limits: Limits = DEFAULT_LIMITS) -> Picture | ReducedPicture:
        """The picture as ``locate`` takes it.

        Args:
            source, limits: as in ``octamark.read_picture``.
            reduce: whether a large JPEG may be decoded at the size at which it is needed
                (``octamark.images.open_picture``).
        """
        return open_picture(source, limits=limits) if reduce else read_picture(source, limits=limits)

    def locate(
        self,
        picture: Picture | ReducedPicture,
        boxes: Any = None,
        box_kind: BoxKind = "detector",
        full_frame: bool = False,
        *,
        where: str = "",
    ) -> Located:
        """The first half of a prediction: the faces of one picture, from the detector or in boxes, as crops.

        Args:
            picture: (H, W, 3) uint8 RGB, or one that gives its parts reduced; a detector of one's own gets the
                full array.
            boxes, box_kind, full_frame: as in ``__call__``.
            where: begins the messages about boxes.

        Raises:
            BoxError: as in ``__call__``. What the detector raises is passed on.
        """
        if full_frame:
            return Located(picture, None, None, [search_full_frame(picture, self.read, self.card.crop)])
        if boxes is None:
            face_boxes, scores = self._detected(picture)
            box_kind = "detector"
        else:
            face_boxes = check_boxes(boxes, picture, where)
            scores = np.ones(len(face_boxes), np.float32)
        return Located(picture, face_boxes, scores, crops_of_boxes(picture, face_boxes, self.card.crop, box_kind))

    def read_located(
        self, pictures: Sequence[Located], heatmaps: bool = False, *, rotation: Rotation | None = None
    ) -> list[Faces]:
        """The second half of a prediction: the faces of located pictures, whose crops share the network's runs.

        Args:
            rotation: in place of the option of that name.

        Raises:
            PredictionError: a network that gives values that are not finite.
            PictureError: a picture that is too large for the memory at hand when a finer part of it is needed.
        """
        placed = [crop for located in pictures for crop in located.crops]
        crops, landmarks = self._landmarks(placed, heatmaps, rotation)
        results, start = [], 0
        for located in pictures:
            part = slice(start, start + len(located.crops))
            start += len(located.crops)
            results.append(
                self._faces(located.picture, crops[part], landmarks[part], located.boxes, located.scores, heatmaps)
            )
        return results

    def read_crops(
        self,
        picture: Picture,
        transforms: NDArray[np.floating],
        centres: NDArray[np.floating] | None = None,
        *,
        heatmaps: bool = False,
    ) -> Faces:
        """Landmarks of faces whose crops are given.

        Args:
            picture: (H, W, 3) uint8 RGB.
            transforms: (n, 2, 3) similarities from pixels of the network's input to pixels of the picture.
            centres: (n, 2) of the faces' boxes, about which crops are turned; the crops' own by default.

        Returns:
            Faces; their boxes are the tight boxes around the crops, their scores 1.

        Raises:
            BoxError: transforms that are not finite.
        """
        placed = np.asarray(transforms, np.float64).reshape(-1, 2, 3)
        if not np.isfinite(placed).all():
            raise BoxError("transforms hold values that are not finite")
        last = self.card.crop.size - 0.5
        corners = np.array([[-0.5, -0.5], [last, -0.5], [last, last], [-0.5, last]])
        boxes = np.array([landmark_boxes(apply(transform, corners)) for transform in placed], np.float32).reshape(-1, 4)
        turn_centres = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2 if centres is None else centres, np.float64)
        crops = [Crop(picture, *placement) for placement in zip(placed, turn_centres, strict=True)]
        return self._faces(picture, *self._landmarks(crops, heatmaps), boxes, np.ones(len(boxes), np.float32), heatmaps)

    def read(self, crops: Sequence[Crop], heatmaps: bool = False) -> list[Landmarks]:
        """The landmarks of each crop, in pixels of its picture; ``CROPS_PER_BATCH`` of them are cut at a time."""
        tells_visible = self.card.visibility is not None
        names = ["landmarks", "spread", "confidence", *(["visible"] if tells_visible else [])]
        if heatmaps:
            names.append("heatmaps")
        results = []
        count = CROPS_PER_BATCH[DEVICES[self.options.device].on_processor]
        batches = [crops[start : start + count] for start in range(0, len(crops), count)]

        def cut(batch: Sequence[Crop]) -> NDArray[np.uint8]:
            return np.stack([crop.pixels(self.card.crop.size) for crop in batch])

        for batch, pixels in ahead(cut, batches, self.options.device):
            outputs = run(self._session, names, pixels, self.card.name)  # type: ignore[attr-defined]
            for crop, *values in zip(batch, *outputs, strict=True):
                output = dict(zip(names, values, strict=True))
                wide = (output[name].astype(np.float64) for name in ("landmarks", "spread"))
                moved, turned = transform_with_spread(crop.transform, *wide)
                further = {name: output.get(name) for name in ("heatmaps", "visible")}
                results.append(Landmarks(moved, turned, output["confidence"], **further))
        return results

    def _detected(self, picture: Picture | ReducedPicture) -> Detections:
        """The detector's boxes and scores; where ``FaceDetector`` is unsure, the landmark network decides."""
        if type(self.detector) is not FaceDetector:
            return detections(self.detector, picture)

        def crops(candidates: Candidates) -> list[Crop]:
            return crops_of_boxes(picture, candidates.boxes, self.card.crop)

        return confirmed_faces(self.detector.candidates(picture), self.detector.threshold, crops, self.read)

    def _landmarks(
        self, crops: Sequence[Crop], heatmaps: bool, rotation: Rotation | None = None
    ) -> tuple[list[Crop], list[Landmarks]]:
        """The final crops and landmarks: read once, read again where a turned crop helps, then refined by region."""

        def read(batch: Sequence[Crop]) -> list[Landmarks]:
            return self.read(batch, heatmaps)

        options, rule = self.options, self.card.crop
        rotation = rotation or options.rotation
        if not self.layout.has_diagram:  # which tells what is upright
            rotation = "never"
        turned, landmarks = RotationSearch(read, self.layout, rule, rotation)(crops, read(crops))
        if self.refiner is not None:
            landmarks = self.refiner.refine(turned, landmarks, rule.size, options.refine)
        return turned, landmarks

    def _faces(
        self,
        picture: Picture | ReducedPicture,
        crops: Sequence[Crop],
        landmarks: Sequence[Landmarks],
        boxes: NDArray[np.float32] | None,
        scores: NDArray[np.float32] | None,
        heatmaps: bool,
    ) -> Faces:
        """The faces of one picture; without boxes and scores, these come from the landmarks and their confidence."""
        tells_visible = self.card.visibility is not None
        faces = Faces.empty(self.layout, (picture.shape[1], picture.shape[0]), visible=tells_visible)
        if not landmarks:
            if not heatmaps:
                return faces
            side = self.card.crop.size // 4
            return replace(faces, heatmaps=np.zeros((0, self.layout.count, side, side), np.float32))
        points = shifted(np.stack([face.points for face in landmarks]), self.card.offset, self.layout)
        confidence = np.stack([face.confidence for face in landmarks]).astype(np.float32)
        visible = np.asarray([face.visible for face in landmarks], np.float32) if tells_visible else None
        certain = mean_confidence(confidence, visible).astype(np.float32)
        result = Faces(
            self.layout,
            faces.size,
            landmarks=points.astype(np.float32),
            spread=np.stack([face.spread for face in landmarks]).astype(np.float32),
            confidence=confidence,
            boxes=landmark_boxes(points).astype(np.float32) if boxes is None else boxes,
            scores=certain if scores is None else scores,
            crops=np.stack([crop.transform for crop in crops]),
            heatmaps=np.stack([face.heatmaps for face in landmarks]) if heatmaps else None,  # type: ignore[misc]
            radius_ratios=self._calibration(crops).ratios,
            visible=visible,
        )
        confident = certain >= self.options.min_confidence
        return result if confident.all() else result[confident]

    def _calibration(self, crops: Sequence[Crop]) -> Calibration:
        """The calibration of these faces: the regional network's where all of them were refined, else the model's."""
        if self.refiner is None:
            return self.card.calibration
        size = self.card.crop.size
        refined = self.options.refine == "always" or all(crop.side(size) >= MIN_CROP_RATIO * size for crop in crops)
        return self.refiner.card.calibration if refined else self.card.calibration


def crops_of_boxes(
    picture: Picture | ReducedPicture, boxes: NDArray[np.floating], rule: CropRule, box_kind: BoxKind = "detector"
) -> list[Crop]:
    """The crops of the faces in boxes (n, 4), by the crop rule of a network's card; see ``Landmarker.__call__``."""
    boxes = np.asarray(boxes).reshape(-1, 4)
    if box_kind == "landmarks":
        around = squares(boxes, rule.margin)
    else:
        around = detector_squares(boxes, rule.detector_scale, rule.detector_shift)
    centres = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2
    return [
        Crop(picture, crop_transform(square, rule.size), centre) for square, centre in zip(around, centres, strict=True)
    ]


def _rebuild(model: str | Path | bytes, options: InferenceOptions, detector: Detector) -> Landmarker:
    """The landmarker that a pickle describes."""
    return Landmarker(model, options, detector=detector)


def _changed(options: InferenceOptions, changes: dict[str, Any]) -> InferenceOptions:
    """The options with changes by name.

    Raises:
        ConfigError: an unknown name; the message lists the names.
    """
    names = [field.name for field in fields(InferenceOptions)]
    if unknown := [name for name in changes if name not in names]:
        raise ConfigError(f"unknown option {listed(unknown)}; options: {listed(names)}, detector")
    return replace(options, **changes) if changes else options


def _renamed(changes: dict[str, Any]) -> dict[str, Any]:
    """Options by their present names; a warning at the caller's caller about an old one.

    Raises:
        ConfigError: an option under both names.
    """
    if "upright" not in changes:
        return changes
    warnings.warn("upright= is now rotation=", DeprecationWarning, stacklevel=3)
    if "rotation" in changes:
        raise ConfigError("upright= is the old name of rotation=; give rotation= alone")
    return {"rotation": changes["upright"], **{name: value for name, value in changes.items() if name != "upright"}}


def _refiner(options: InferenceOptions, card: ModelCard, points: Layout) -> Refiner | None:
    """The regional network that a landmarker of this card uses, or None.

    Raises:
        WeightsError: the options name a network of another layout; and as ``Refiner``.
    """
    released = options.regions == models.REGIONS
    if options.refine == "never" or (options.refine == "auto" and released and card.name != models.REGIONS_MODEL):
        return None
    refiner = Refiner(options.regions, threads=options.threads, device=options.device)
    if refiner.layout.name != points.name and options.refine == "auto" and released:
        return None
    if refiner.layout.name != points.name:
        raise WeightsError(
            f"{refiner.card.name}: reads regions of layout {refiner.layout.name}, but {card.name} finds "
            f'points of {points.name}; refine="never" goes without'
        )
    return refiner


def shifted(landmarks: NDArray[np.floating], offset: tuple[float, float], layout: Layout) -> NDArray[np.float64]:
    """Landmarks (n, M, 2) moved by an offset (x, y) in shares of each face's inter-ocular distance; see ModelCard."""
    unit = layout.reference_distance(landmarks)[:, None, None]
    return np.asarray(landmarks + unit * np.asarray(offset))


def load(
    model: str | Path | bytes = "small",
    *,
    rotation: Rotation = "auto",
    refine: Refine = "auto",
    regions: str | Path | bytes = models.REGIONS,
    min_confidence: float = 0.0,
    threads: int | None = None,
    device: str = "cpu",
    detector: Detector | None = None,
    **changes: Any,
) -> Landmarker:
    """A ``Landmarker``, by a shipped model's name (``nano``, ``tiny``, ``small``) or an .onnx file's path.

    The options are those of ``InferenceOptions``; ``detector`` is as in ``Landmarker``.
    """
    both = "upright" in changes and str(rotation) != "auto"
    changes = _renamed({"rotation": rotation, **changes} if both else changes)
    options = InferenceOptions(rotation, refine, regions, min_confidence, threads, device)
    return Landmarker(model, options, detector=detector, **changes)
