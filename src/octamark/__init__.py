"""octamark: facial landmarks with an expected error for every point, on a plain CPU.

Example:
    >>> import numpy as np, octamark
    >>> landmarker = octamark.load("nano")
    >>> faces = landmarker(np.zeros((64, 64, 3), np.uint8))  # a path, bytes, PIL image or RGB array
    >>> len(faces)
    0
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
    "TrainingError",
    "WeightsError",
    "__version__",
    "layout",
    "load",
    "read_picture",
    "stream",
]
