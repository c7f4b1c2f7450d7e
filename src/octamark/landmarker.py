"""Landmarker: picture in, Faces out. The one predictor; numpy outside, ONNX Runtime inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark import weights
from octamark.detector import FaceDetector
from octamark.errors import BoxError, DeviceError, PictureError, WeightsError, listed
from octamark.faces import Faces, confidence
from octamark.geometry import Picture, crop, crop_transform, detector_squares, squares
from octamark.imaging import PictureLike, read_picture
from octamark.layouts import Layout, layout
from octamark.weights import ModelCard

BoxKind = Literal["detector", "landmarks"]
Boxes = NDArray[np.floating] | Sequence[Sequence[float]]

_BATCH = 16
"""Crops per run of the network; more in one run costs memory and gains nothing on a CPU."""


class Landmarker:
    """Finds landmarks. Stateless after construction and safe to share between threads.

    Args:
        model: name of a model that ships, or path of an .onnx file that ``octamark export`` wrote.
        threads: processor threads of the landmark network; None lets ONNX Runtime choose. The detector runs in OpenCV,
            whose threads are the process's own (``cv2.setNumThreads``).
        device: ``"cpu"`` or ``"cuda"`` (needs onnxruntime-gpu).
        detector: finds faces where no boxes are given; None makes a :class:`FaceDetector`.

    Raises:
        WeightsError: unknown name, missing or damaged file.
        DeviceError: more threads than processors, or a device that is not there.

    Example:
        >>> from octamark import load
        >>> faces = load("nano")(np.zeros((64, 64, 3), np.uint8))
        >>> len(faces)
        0
    """

    def __init__(
        self,
        model: str | Path = "small",
        *,
        threads: int | None = None,
        device: str = "cpu",
        detector: FaceDetector | None = None,
    ) -> None:
        self._session = _session(weights.read(model), str(model), threads, device)
        self.card: ModelCard = weights.parse_card(
            self._session.get_modelmeta().custom_metadata_map.get(weights.METADATA_KEY), str(model)
        )
        self.layout: Layout = layout(self.card.layout)
        if (points := self._session.get_outputs()[0].shape[1]) != self.layout.count:
            raise WeightsError(f"{model}: gives {points} landmarks, but its layout {self.layout!r} has another count")
        self.detector = detector or FaceDetector()

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
            picture: path, encoded bytes, PIL image or array (see :func:`octamark.imaging.read_picture`), or a list
                or tuple of them; all crops of all pictures then share the network's runs.
            boxes: (n, 4) tight face boxes xyxy in pixels, as detectors give them; None looks for faces. For a list of
                pictures, a list with an entry for each.
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
        rule = self.card.crop
        located: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]] = []
        crops: list[Picture] = []
        for picture, given in zip(pictures, asked, strict=True):
            if given is None:
                boxes, scores = self.detector(picture)
            else:
                boxes = check_boxes(given, picture, f"picture {len(located)}: " if len(pictures) > 1 else "")
                scores = np.ones(len(boxes), np.float32)
            if box_kind == "landmarks" and given is not None:
                around = squares(boxes, rule.margin)
            else:
                around = detector_squares(boxes, rule.detector_scale, rule.detector_shift)
            transforms = np.array([crop_transform(square, rule.size) for square in around]).reshape(-1, 2, 3)
            crops.extend(crop(picture, transform, rule.size) for transform in transforms)
            located.append((boxes, scores, transforms))
        points, spreads, maps = self._run(crops, heatmaps)
        results, start = [], 0
        for picture, (boxes, scores, transforms) in zip(pictures, located, strict=True):
            part = slice(start, start + len(boxes))
            start = part.stop
            size = (picture.shape[1], picture.shape[0])
            linear, offset = transforms[:, :, :2], transforms[:, None, :, 2]
            landmarks = (points[part] @ linear.transpose(0, 2, 1) + offset).astype(np.float32)
            scale = np.hypot(transforms[:, 0, 0], transforms[:, 1, 0])[:, None, None]
            spread = (spreads[part] * scale).astype(np.float32)
            sure = confidence(landmarks, spread, self.layout)
            kept = None if maps is None else maps[part]
            results.append(Faces(self.layout, size, landmarks, spread, sure, boxes, scores, transforms, kept))
        return results

    def _run(
        self, crops: list[Picture], heatmaps: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        """Landmarks (n, M, 2) and spread (n, M, 2) in crop pixels, and heatmaps if asked for."""
        names = ["landmarks", "spread"] + (["heatmaps"] if heatmaps else [])
        runs = [
            self._session.run(names, {"crops": np.stack(crops[start : start + _BATCH])})
            for start in range(0, len(crops), _BATCH)
        ]
        count = self.layout.count
        if not runs:
            none = np.zeros((0, count, 2), np.float32)
            side = self.card.crop.size // 4
            return none, none, np.zeros((0, count, side, side), np.float32) if heatmaps else None
        outputs = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        return outputs[0], outputs[1], outputs[2] if heatmaps else None


def load(
    model: str | Path = "small",
    *,
    threads: int | None = None,
    device: str = "cpu",
    detector: FaceDetector | None = None,
) -> Landmarker:
    """A :class:`Landmarker`, by a shipped model's name (``nano``, ``tiny``, ``small``) or an .onnx file's path."""
    return Landmarker(model, threads=threads, device=device, detector=detector)


def check_boxes(boxes: Any, picture: Picture, where: str = "") -> NDArray[np.float32]:
    """Boxes as (n, 4) float32; ``where`` begins the messages of errors.

    Raises:
        BoxError: another shape, values that are not finite, x2 <= x1 or y2 <= y1, or a box wholly outside the picture.
    """
    try:
        checked = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise BoxError(f"{where}boxes must be (n, 4) numbers x1 y1 x2 y2 ({error})") from error
    if checked.size == 0:
        return np.zeros((0, 4), np.float32)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise BoxError(f"{where}boxes must be (n, 4), x1 y1 x2 y2 of each face; got shape {checked.shape}")
    height, width = picture.shape[:2]
    for index, (x1, y1, x2, y2) in enumerate(checked):
        said = f"{where}box {index} ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(checked[index]).all():
            raise BoxError(f"{said}: not finite")
        if x2 <= x1 or y2 <= y1:
            raise BoxError(f"{said}: boxes are x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        if x2 <= -0.5 or y2 <= -0.5 or x1 >= width - 0.5 or y1 >= height - 0.5:
            raise BoxError(f"{said}: outside the picture of {width}x{height} pixels")
        if max(x2 - x1, y2 - y1) > 20 * max(width, height):
            raise BoxError(f"{said}: more than 20 times the picture of {width}x{height} pixels")
    return checked


def _session(data: bytes, name: str, threads: int | None, device: str) -> onnxruntime.InferenceSession:
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    if device not in providers:
        raise DeviceError(f"unknown device {device!r}; devices: {listed(providers)}")
    if providers[device] not in onnxruntime.get_available_providers():
        raise DeviceError(f"device {device!r} is not available: the installed ONNX Runtime has no {providers[device]}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not isinstance(threads, int) or not 1 <= threads <= processors:
            raise DeviceError(f"threads={threads!r}: this process may use 1 to {processors}")
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=[providers[device]])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        if device != "cpu":
            raise DeviceError(f"device {device!r} cannot be used ({error})") from error
        raise WeightsError(f"{name}: damaged, or not an ONNX file ({error})") from error
