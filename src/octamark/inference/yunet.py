"""The YuNet network: its weight file, one ONNX Runtime session for all threads, and the decoding of its outputs.

YuNet: W. Wu, H. Peng and S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.
Boxes and scores are those of OpenCV's ``FaceDetectorYN``.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark.errors import WeightsError
from octamark.inference.protobuf import bytes_field, fields
from octamark.inference.session import session
from octamark.models.registry import MISSING_FILES

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

STRIDES = (8, 16, 32)
"""Pixels between the places at which each of the network's three outputs looks for a face."""

MAX_IOU = 0.3
"""Of two boxes with a larger intersection over union, the one with the lower score is left out."""

MAX_CANDIDATES = 5000
"""Boxes of the highest scores that are compared with each other."""

Detections = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (n, 4), xyxy in pixels of the picture, and scores (n,)."""


def find_faces(pictures: NDArray[np.uint8], threshold: float, threads: int = 1) -> list[Detections]:
    """The faces of each picture, found in one run of the network, highest score first.

    Args:
        pictures: (n, H, W, 3) uint8, RGB.
        threshold: least score of a face.
        threads: processor threads of the run.

    Returns:
        For each picture boxes (m, 4), xyxy, and scores (m,), float32. The boxes are OpenCV's: the upper left corner of
        the first pixel is (0, 0), where it is (-0.5, -0.5) elsewhere in octamark.
    """
    count, height, width = pictures.shape[:3]
    rows, columns = (-(-side // STRIDES[-1]) * STRIDES[-1] for side in (height, width))
    planes = np.empty((count, 3, rows, columns), np.float32)
    planes[:, :, height:] = 0
    planes[:, :, :, width:] = 0
    planes[:, :, :height, :width] = pictures.transpose(0, 3, 1, 2)[:, ::-1]  # blue first
    names = [f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox")]
    outputs = yunet_session(threads).run(names, {"input": planes})
    boxes: list[list[NDArray[np.float32]]] = [[] for _ in pictures]
    scores: list[list[NDArray[np.float32]]] = [[] for _ in pictures]
    for stride, cls, obj, bbox in zip(STRIDES, outputs[0::3], outputs[1::3], outputs[2::3], strict=True):
        shape = (count, rows // stride, columns // stride)
        score = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1)).reshape(shape)
        offsets = bbox.reshape(*shape, 4)
        for picture in range(count):
            y, x = np.nonzero(score[picture] > threshold)
            values = offsets[picture, y, x]
            centres = (np.stack([x, y], axis=1) + values[:, :2]) * stride
            sizes = np.exp(values[:, 2:]) * stride
            boxes[picture].append(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1))
            scores[picture].append(score[picture, y, x])
    return [
        _suppressed(np.concatenate(of_strides).astype(np.float32), np.concatenate(scores_of_strides))
        for of_strides, scores_of_strides in zip(boxes, scores, strict=True)
    ]


def _suppressed(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Detections:
    """Boxes (n, 4) and scores (n,), highest score first, without boxes that overlap one of a higher score.

    As in OpenCV's detector, overlaps are those of boxes with whole numbers as corners and sizes.
    """
    corners_sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.int32)
    selected = cv2.dnn.NMSBoxes(corners_sizes, scores, 0.0, MAX_IOU, 1.0, MAX_CANDIDATES)  # type: ignore[arg-type]
    index = np.asarray(selected, np.int64)
    return boxes[index], scores[index]


@cache
def yunet_weights() -> bytes:
    """The bytes of YuNet's weight file, checked against its sha256 once per process.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(__file__).with_name(YUNET_FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {MISSING_FILES}") from error
    if hashlib.sha256(data).hexdigest() != YUNET_SHA256:
        raise WeightsError(f"{path}: damaged (its sha256 is not the released one); install octamark again")
    return data


@cache
def yunet_session(threads: int = 1) -> onnxruntime.InferenceSession:
    """The session that all detectors of a process with that number of threads share; it takes pictures of any size.

    Raises:
        DeviceError: an impossible number of threads.
        WeightsError: the file is missing or damaged, or ONNX Runtime cannot load it.
    """
    return session(with_free_shapes(yunet_weights()), YUNET_FILE, threads, "cpu")


def with_free_shapes(model: bytes) -> bytes:
    """An .onnx file (ONNX's ModelProto) without the sizes of its input, outputs and intermediate results.

    YuNet's file names the sizes for pictures of 640x640, and ONNX Runtime would take no others; its operators do not
    need them. The rank of the inputs stays.
    """
    graph, inputs, outputs, intermediate = 7, 11, 12, 13  # field numbers of ModelProto and GraphProto
    result = b""
    for field, content, whole in fields(model):
        if field != graph:
            result += whole
            continue
        parts = [
            bytes_field(part, _without_sizes(value)) if part in (inputs, outputs) else whole
            for part, value, whole in fields(content)
            if part != intermediate
        ]
        result += bytes_field(graph, b"".join(parts))
    return result


def _without_sizes(value_info: bytes) -> bytes:
    """A ValueInfoProto whose dimensions are all unknown."""
    path = (2, 1, 2, 1)  # ValueInfoProto.type, TypeProto.tensor_type, Tensor.shape, TensorShapeProto.dim

    def replaced(message: bytes, depth: int) -> bytes:
        if depth == len(path):
            return b""  # a Dimension with neither a number nor a name
        return b"".join(
            bytes_field(field, replaced(content, depth + 1)) if field == path[depth] else whole
            for field, content, whole in fields(message)
        )

    return replaced(value_info, 0)
