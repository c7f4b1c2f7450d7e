"""Landmarker: picture in, Faces out. The one predictor; numpy outside, ONNX Runtime inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from octamark import models
from octamark.errors import BoxError, ConfigError, PictureError, WeightsError, listed
from octamark.faces import Faces
from octamark.geometry import (
    Picture,
    apply,
    check_boxes,
    crop,
    crop_transform,
    detector_squares,
    landmark_boxes,
    squares,
    transform_with_spread,
)
from octamark.images import PictureLike, read_picture
from octamark.inference.detector import FaceDetector
from octamark.inference.full_frame import PICTURE, framed
from octamark.inference.refiner import REFINE, WARRANTED, WORSE, Coarse, Refine, Refiner
from octamark.inference.rotation import UPRIGHT, Look, SecondLook, Shot, Upright
from octamark.inference.session import session
from octamark.layouts import Layout, layout
from octamark.models import ModelCard

BoxKind = Literal["detector", "landmarks"]
Boxes = NDArray[np.floating] | Sequence[Sequence[float]] | Literal["picture"]

_UNKNOWN_BOX, _UNKNOWN_SCORE = np.full((1, 4), np.nan, np.float32), np.full(1, np.nan, np.float32)

_BATCH = 16
"""Crops per run of the network; more in one run costs memory and gains nothing on a CPU."""


class Landmarker:
    """Finds landmarks. Stateless after construction and safe to share between threads.

    Args:
        model: name of a model that ships, or path (or bytes) of an .onnx file that ``octamark export`` wrote.
        upright: which faces get a second look with the crop turned upright: ``"auto"`` those that lean or of which the
            network is unsure, ``"always"`` all, ``"never"`` none (see octamark.inference.rotation).
        refine: which faces are then read again region by region at the picture's resolution: ``"auto"`` those that are
            larger than the network's input, where the model is the one that the regional network was trained beside
            (``small``), unless the closer look then expects larger errors; ``"always"`` all, ``"never"`` none (see
            octamark.inference.refiner).
        regions: name of a regional network that ships, or path (or bytes) of one that ``octamark export`` wrote, which
            ``"auto"`` then takes for any model of its layout.
        threads: processor threads of the landmark network; None lets ONNX Runtime choose. The detector runs in OpenCV,
            whose threads are the process's own (``cv2.setNumThreads``).
        device: ``"cpu"`` or ``"cuda"`` (needs onnxruntime-gpu).
        detector: finds faces where no boxes are given; None makes a :class:`FaceDetector`.

    Raises:
        WeightsError: unknown name, missing or damaged file.
        DeviceError: more threads than processors, or a device that is not there.
        ConfigError: another value of ``upright`` or ``refine``.

    Example:
        >>> from octamark import load
        >>> faces = load("nano")(np.zeros((64, 64, 3), np.uint8))
        >>> len(faces)
        0
    """

    def __init__(
        self,
        model: str | Path | bytes = "small",
        *,
        upright: Upright = "auto",
        refine: Refine = "auto",
        regions: str | Path | bytes = models.REGIONS,
        threads: int | None = None,
        device: str = "cpu",
        detector: FaceDetector | None = None,
    ) -> None:
        for argument, value, allowed in (("upright", upright, UPRIGHT), ("refine", refine, REFINE)):
            if value not in allowed:
                raise ConfigError(f"{argument} {value!r}; allowed: {listed(allowed)}")
        name = "the model's bytes" if isinstance(model, bytes) else str(model)
        self.upright = upright
        self._session = session(models.read(model), name, threads, device)
        self.card: ModelCard = models.parse_card(
            self._session.get_modelmeta().custom_metadata_map.get(models.METADATA_KEY), name
        )
        self.layout: Layout = layout(self.card.layout)
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        if missing := {"landmarks", "spread", "confidence", "heatmaps"} - outputs.keys():
            raise WeightsError(f"{name}: a graph without {listed(sorted(missing))}; export it with this version")
        if (points := outputs["landmarks"][1]) != self.layout.count:
            raise WeightsError(f"{name}: gives {points} landmarks, but its layout {self.layout!r} has another count")
        self.refine = refine
        self.refiner = self._chosen_refiner(regions, threads, device)
        self.detector = detector or FaceDetector()

    def _chosen_refiner(self, regions: str | Path | bytes, threads: int | None, device: str) -> Refiner | None:
        """The regional network, where this landmarker has a use for it.

        Raises:
            WeightsError: a network of another layout that was asked for, and as :class:`Refiner`.
        """
        released = regions == models.REGIONS
        if self.refine == "never" or (self.refine == "auto" and released and self.card.name != models.REGIONS_MODEL):
            return None
        refiner = Refiner(regions, threads=threads, device=device)
        if refiner.layout.name != self.layout.name and self.refine == "auto" and released:
            return None
        if refiner.layout.name != self.layout.name:
            raise WeightsError(
                f"{refiner.card.name}: reads regions of layout {refiner.layout.name}, but {self.card.name} finds "
                f'points of {self.layout.name}; refine="never" goes without'
            )
        return refiner

    def __repr__(self) -> str:
        return f"Landmarker({self.card.name!r}, layout={self.card.layout!r}, {self.card.parameters:,} parameters)"

    @overload
    def __call__(
        self,
        picture: PictureLike,
        boxes: Boxes | None = None,
        *,
        box_kind: BoxKind = "detector",
        heatmaps: bool = False,
    ) -> Faces: ...
    @overload
    def __call__(
        self,
        picture: list[Any] | tuple[Any, ...],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        box_kind: BoxKind = "detector",
        heatmaps: bool = False,
    ) -> list[Faces]: ...
    def __call__(
        self,
        picture: PictureLike | list[Any] | tuple[Any, ...],
        boxes: Boxes | Sequence[Boxes | None] | None = None,
        *,
        box_kind: BoxKind = "detector",
        heatmaps: bool = False,
    ) -> Faces | list[Faces]:
        """Landmarks of all faces in a picture, or in each picture of a list.

        Args:
            picture: path, encoded bytes, PIL image or array (see :func:`octamark.images.read_picture`), or a list
                or tuple of them; all crops of all pictures then share the network's runs.
            boxes: (n, 4) tight face boxes xyxy in pixels, as detectors give them; None looks for faces; ``"picture"``
                says that one face fills the picture, such as a drawing in which the detector sees none: of several
                guesses the surest counts, and its mean confidence is the score. For a list of pictures, a list with an
                entry for each.
            box_kind: what the boxes are: ``"detector"`` boxes of a face, or tight around the ``"landmarks"``, as
                labels give them. The crop rule of the model's card differs.
            heatmaps: keep the probability maps.

        Returns:
            Faces, or a list of them for a list of pictures. No face is an empty Faces.

        Raises:
            PictureError: a picture that cannot be read.
            BoxError: boxes of another shape, not finite, without area, outside the picture, or as many lists of them
                as there are no pictures.
        """
        if box_kind not in ("detector", "landmarks"):
            raise BoxError(f"box_kind {box_kind!r}; allowed: detector, landmarks")
        if not isinstance(picture, list | tuple):
            return self._predict([read_picture(picture)], [boxes], box_kind, heatmaps)[0]
        asked: Any = [None] * len(picture) if boxes is None else boxes
        if not isinstance(asked, list | tuple) or len(asked) != len(picture):
            given = f"{len(asked)} lists of boxes" if isinstance(asked, list | tuple) else f"a {type(asked).__name__}"
            raise BoxError(f"{len(picture)} pictures but {given}; give a list with boxes (or None) for each picture")
        pictures = []
        for index, source in enumerate(picture):
            try:
                pictures.append(read_picture(source))
            except PictureError as error:
                raise PictureError(f"picture {index} of the list: {error}") from error
        return self._predict(pictures, asked, box_kind, heatmaps)

    def _predict(self, pictures: list[Picture], asked: Sequence[Any], box_kind: BoxKind, heatmaps: bool) -> list[Faces]:
        results, shots = [], list[Shot]()
        for index, (picture, given) in enumerate(zip(pictures, asked, strict=True)):
            if isinstance(given, str):
                shots.append(self._framed(picture, given))
                results.append((picture, _UNKNOWN_BOX, _UNKNOWN_SCORE))
                continue
            if given is None:
                boxes, scores = self.detector(picture)
            else:
                boxes = check_boxes(given, picture, f"picture {index}: " if len(pictures) > 1 else "")
                scores = np.ones(len(boxes), np.float32)
            kind: BoxKind = "detector" if given is None else box_kind
            centres = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2
            shots.extend(Shot(picture, *where) for where in zip(self._transforms(boxes, kind), centres, strict=True))
            results.append((picture, boxes, scores))
        return self._assemble(results, shots, heatmaps)

    def _framed(self, picture: Picture, said: str) -> Shot:
        """The crop of the one face of a picture that it fills."""
        if said != PICTURE:
            raise BoxError(
                f"boxes {said!r}; allowed: (n, 4) numbers x1 y1 x2 y2, {PICTURE!r}, or None for the detector"
            )
        return framed(picture, self._look, self.card.crop)

    def in_crops(
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
            centres: (n, 2) of the faces' boxes, about which a second look turns; the crops' own by default.

        Returns:
            Faces; their boxes are the tight boxes around the crops, their scores 1.
        """
        made = np.asarray(transforms, np.float64).reshape(-1, 2, 3)
        last = self.card.crop.size - 0.5
        corners = np.array([[-0.5, -0.5], [last, -0.5], [last, last], [-0.5, last]])
        boxes = np.array([landmark_boxes(apply(one, corners)) for one in made], np.float32).reshape(-1, 4)
        about = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2 if centres is None else centres, np.float64)
        shots = [Shot(picture, *where) for where in zip(made, about, strict=True)]
        return self._assemble([(picture, boxes, np.ones(len(boxes), np.float32))], shots, heatmaps)[0]

    def _transforms(self, boxes: NDArray[np.float32], box_kind: BoxKind) -> list[NDArray[np.float64]]:
        rule = self.card.crop
        if box_kind == "landmarks":
            around = squares(boxes, rule.margin)
        else:
            around = detector_squares(boxes, rule.detector_scale, rule.detector_shift)
        return [crop_transform(square, rule.size) for square in around]

    def _assemble(
        self,
        located: list[tuple[Picture, NDArray[np.float32], NDArray[np.float32]]],
        shots: list[Shot],
        heatmaps: bool,
    ) -> list[Faces]:
        """Read the crops of all pictures together, then hand each picture its faces."""
        looks = self._look(shots, heatmaps)
        again = SecondLook(lambda some: self._look(some, heatmaps), self.layout, self.card.crop, self.upright)
        again.improve(shots, looks)
        self._refine(shots, looks)
        results, start = [], 0
        for picture, boxes, scores in located:
            own, taken = looks[start : start + len(boxes)], shots[start : start + len(boxes)]
            start += len(boxes)
            faces = Faces.empty(self.layout, (picture.shape[1], picture.shape[0]))
            if own:
                points = shifted(np.stack([look.landmarks for look in own]), self.card.offset, self.layout)
                if np.isnan(scores).any():  # a face that fills its picture
                    boxes = landmark_boxes(points).astype(np.float32)
                    scores = np.array([look.sureness for look in own], np.float32)
                faces = Faces(
                    self.layout,
                    faces.size,
                    landmarks=points.astype(np.float32),
                    spread=np.stack([look.spread for look in own]).astype(np.float32),
                    confidence=np.stack([look.confidence for look in own]),
                    boxes=boxes,
                    scores=scores,
                    crops=np.stack([shot.transform for shot in taken]),
                    heatmaps=np.stack([look.heatmaps for look in own]) if heatmaps else None,  # type: ignore[misc]
                )
            elif heatmaps:
                side = self.card.crop.size // 4
                faces = replace(faces, heatmaps=np.zeros((0, self.layout.count, side, side), np.float32))
            results.append(faces)
        return results

    def _refine(self, shots: list[Shot], looks: list[Look]) -> None:
        """Replace looks, in place, by what the regional network makes of them."""
        if self.refiner is None:
            return
        sides = [float(np.hypot(*shot.transform[:, 0])) * self.card.crop.size for shot in shots]
        least = 0.0 if self.refine == "always" else WARRANTED * self.card.crop.size
        chosen = [index for index, side in enumerate(sides) if side >= least]
        seen = [Coarse(shots[i].picture, looks[i].landmarks, looks[i].spread) for i in chosen]
        for index, refined in zip(chosen, self.refiner(seen, [sides[i] for i in chosen]), strict=True):
            if self.refine == "auto" and refined.spread.mean() > WORSE * looks[index].spread.mean():
                continue
            sure = refined.confidence.astype(np.float32)
            looks[index] = Look(refined.landmarks, refined.spread, sure, looks[index].heatmaps)

    def _look(self, shots: list[Shot], heatmaps: bool = False) -> list[Look]:
        """Run the network over crops, some at a time; points and spreads come back in pixels of the pictures."""
        names = ["landmarks", "spread", "confidence"] + (["heatmaps"] if heatmaps else [])
        looks = []
        for start in range(0, len(shots), _BATCH):
            some = shots[start : start + _BATCH]
            crops = np.stack([crop(shot.picture, shot.transform, self.card.crop.size) for shot in some])
            for shot, points, spread, sure, *maps in zip(
                some, *self._session.run(names, {"crops": crops}), strict=True
            ):
                moved, turned = transform_with_spread(
                    shot.transform, points.astype(np.float64), spread.astype(np.float64)
                )
                looks.append(Look(moved, turned, sure, *maps))
        return looks


def shifted(landmarks: NDArray[np.floating], offset: tuple[float, float], layout: Layout) -> NDArray[np.float64]:
    """Landmarks (n, M, 2) moved by an offset (x, y) in shares of each face's inter-ocular distance; see ModelCard."""
    unit = layout.reference_distance(landmarks)[:, None, None]
    return np.asarray(landmarks + unit * np.asarray(offset))


def load(
    model: str | Path | bytes = "small",
    *,
    upright: Upright = "auto",
    refine: Refine = "auto",
    regions: str | Path | bytes = models.REGIONS,
    threads: int | None = None,
    device: str = "cpu",
    detector: FaceDetector | None = None,
) -> Landmarker:
    """A :class:`Landmarker`, by a shipped model's name (``nano``, ``tiny``, ``small``) or an .onnx file's path."""
    return Landmarker(
        model, upright=upright, refine=refine, regions=regions, threads=threads, device=device, detector=detector
    )
