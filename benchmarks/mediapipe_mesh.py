"""MediaPipe's face mesh network (TFLite), run by the LiteRT interpreter; for the benchmarks beside this file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from octamark.geometry import crop

VERTICES = 468


def load_mesh() -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]:
    """A function of picture (H, W, 3) and crop transform (2, 3) that gives the vertices (468, 2) in pixels of the crop
    (the corner of the first is the origin), on one thread; and the crop's side.

    Raises:
        ImportError: no mediapipe that carries the network, or no interpreter.
    """
    spec = importlib.util.find_spec("mediapipe")
    model = Path(spec.origin or "").parent / "modules/face_landmark/face_landmark.tflite" if spec else Path()
    if not model.is_file():
        raise ImportError("no mediapipe with face_landmark.tflite; releases up to 0.10.21 carry it")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    size = int(entry["shape"][1])
    (mesh,) = (one["index"] for one in interpreter.get_output_details() if np.prod(one["shape"]) == VERTICES * 3)

    def vertices(picture: np.ndarray, transform: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry["index"], crop(picture, transform, size).astype(np.float32)[None] / 255)
        interpreter.invoke()
        return interpreter.get_tensor(mesh).reshape(VERTICES, 3)[:, :2]

    return vertices, size
