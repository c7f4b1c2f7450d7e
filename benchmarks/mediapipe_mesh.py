"""MediaPipe's face mesh network (TFLite), run by the LiteRT interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

VERTICES = 468


def load_mesh() -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """The mesh network as a function, and the side of the crop that it reads.

    The function takes a crop (side, side, 3) uint8 RGB and returns the vertices (468, 2) in pixels of the crop, whose
    origin is the corner of the first pixel. It runs on one thread.

    Raises:
        ImportError: no installed mediapipe has the network's file, or there is no interpreter.
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
    outputs = interpreter.get_output_details()
    (mesh,) = (output["index"] for output in outputs if np.prod(output["shape"]) == VERTICES * 3)

    def vertices(crop: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry["index"], crop.astype(np.float32)[None] / 255)
        interpreter.invoke()
        return interpreter.get_tensor(mesh).reshape(VERTICES, 3)[:, :2]

    return vertices, size
