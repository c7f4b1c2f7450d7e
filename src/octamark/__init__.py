"""octamark: facial landmarks with an expected error for every point, on a plain CPU.

Examples:
    >>> import numpy as np, octamark
    >>> landmarker = octamark.load("nano")
    >>> picture = np.zeros((256, 256, 3), np.uint8)  # or a path, encoded bytes, a PIL image
    >>> len(landmarker(picture))  # no face in a black picture
    0
    >>> faces = landmarker(picture, boxes=[[60, 60, 190, 190]])
    >>> faces.landmarks.shape, faces.spread.shape, faces["left_eye"].shape
    ((1, 68, 2), (1, 68, 2), (1, 6, 2))
"""

from octamark._version import __version__
from octamark.errors import (
    BoxError,
    ConfigError,
    DataError,
    DeviceError,
    LayoutError,
    OctamarkError,
    OutputError,
    PictureError,
    PredictionError,
    ServiceError,
    TrainingError,
    WeightsError,
)
from octamark.faces import Face, Faces, Landmarks
from octamark.images import read_picture
from octamark.inference.detector import Detector, FaceDetector
from octamark.inference.landmarker import InferenceOptions, Landmarker, load
from octamark.inference.stream import Result, stream
from octamark.layouts import Layout, layout
from octamark.models import ModelCard
from octamark.tracking import TrackedFrame, track

__all__ = [
    "BoxError",
    "ConfigError",
    "DataError",
    "Detector",
    "DeviceError",
    "Face",
    "FaceDetector",
    "Faces",
    "InferenceOptions",
    "Landmarker",
    "Landmarks",
    "Layout",
    "LayoutError",
    "ModelCard",
    "OctamarkError",
    "OutputError",
    "PictureError",
    "PredictionError",
    "Result",
    "ServiceError",
    "TrackedFrame",
    "TrainingError",
    "WeightsError",
    "__version__",
    "layout",
    "load",
    "read_picture",
    "stream",
    "track",
]
