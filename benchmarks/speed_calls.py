"""The calls that ``benchmarks.speed`` times, of one package, in a process of the environment that has it.

    python -m benchmarks.speed_calls {octamark,opencv,mediapipe,dlib} FOLDER     started by benchmarks.speed
    python -m benchmarks.speed_calls {octamark,mediapipe} FOLDER --peak          peak memory of one portrait, MB

FOLDER holds the pictures that ``benchmarks.speed`` made. Every call returns how many faces it found."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workers import serve, use_one_processor

Call = Callable[[int], int]
"""Takes the number of a view, returns the number of faces."""

Calls = Mapping[tuple[str, str], Call]
"""Group and name -> call."""

BATCH = 16
WHOLE = "whole call"
LARGE = "whole call, large face"
PORTRAIT = "whole call, 24 MP JPEG"
DETECTION = "detection"
LANDMARKS = "landmarks"
BATCHED = f"landmarks, {BATCH} at once"

LARGE_FACES = ("tiny-128", "small")
"""The models of octamark that read the large faces and the portrait: the fastest and the default."""


@dataclass(frozen=True)
class Inputs:
    """The pictures in a folder.

    Attributes:
        views, large: (n, 512, 512, 3) uint8 RGB, one face in each.
        boxes: (n, 4) xyxy of the faces in ``views``.
        portrait: the bytes of a JPEG.
    """

    views: Any
    large: Any
    boxes: Any
    portrait: bytes

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """The inputs that ``save`` wrote."""
        import numpy as np

        arrays = (np.load(folder / f"{name}.npy") for name in ("views", "large", "boxes"))
        return cls(*arrays, (folder / "portrait.jpg").read_bytes())

    def save(self, folder: Path) -> None:
        """Write the inputs into a folder."""
        import numpy as np

        for name in ("views", "large", "boxes"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "portrait.jpg").write_bytes(self.portrait)


def octamark_calls(inputs: Inputs) -> tuple[Calls, str]:
    """octamark, the version of this environment."""
    import cv2
    import numpy as np

    import octamark
    from octamark import models

    cv2.setNumThreads(1)
    refined = models.REGIONS_MODEL
    calls: dict[tuple[str, str], Call] = {}

    def add(name: str, model: str, refine: str, groups: tuple[str, ...]) -> octamark.Landmarker:
        landmarker = octamark.load(model, refine=refine, threads=1)  # type: ignore[arg-type]

        def read(view: int, count: int) -> int:
            return len(landmarker(inputs.views[view], np.repeat(inputs.boxes[view][None], count, axis=0)))

        every: Calls = {
            (WHOLE, name): lambda view: len(landmarker(inputs.views[view])),
            (LARGE, name): lambda view: len(landmarker(inputs.large[view])),
            (LANDMARKS, name): lambda view: read(view, 1),
            (BATCHED, name): lambda view: read(view, BATCH),
            (PORTRAIT, name): lambda view: len(landmarker(inputs.portrait)),
        }
        calls.update({key: call for key, call in every.items() if key[0] in groups})
        return landmarker

    for model in models.available():
        add(f"octamark {model}", model, "auto", (WHOLE, LARGE, PORTRAIT) if model in LARGE_FACES else (WHOLE,))
        add(f"octamark {model}", model, "never", (LANDMARKS, BATCHED))
    add(f"octamark {refined}, no refinement", refined, "never", (LARGE, PORTRAIT))
    landmarker = add(f"octamark {refined}, refined", refined, "always", (LANDMARKS, BATCHED))
    calls[DETECTION, "octamark"] = lambda view: len(landmarker.detector(inputs.views[view])[0])
    return calls, octamark.__version__


def opencv_calls(inputs: Inputs) -> tuple[Calls, str]:
    """OpenCV's own detection with YuNet, whose weights octamark carries."""
    import cv2

    import octamark

    cv2.setNumThreads(1)
    (weights,) = Path(octamark.__file__).parent.rglob("face_detection_yunet_2023mar.onnx")
    detector = cv2.FaceDetectorYN.create(str(weights), "", (512, 512), 0.6, 0.3)

    def detect(view: int) -> int:
        faces = detector.detect(cv2.cvtColor(inputs.views[view], cv2.COLOR_RGB2BGR))[1]
        return 0 if faces is None else len(faces)

    return {(DETECTION, "OpenCV YuNet"): detect}, cv2.__version__


def mediapipe_calls(inputs: Inputs) -> tuple[Calls, str]:
    """MediaPipe's FaceMesh, its face detection, and the network of FaceMesh alone, run by LiteRT."""
    import cv2
    import mediapipe

    cv2.setNumThreads(1)
    solutions = mediapipe.solutions
    calls: dict[tuple[str, str], Call] = {}

    def add_mesh(name: str, refine_landmarks: bool) -> None:
        mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=refine_landmarks)

        def faces(picture: Any) -> int:
            return len(mesh.process(picture).multi_face_landmarks or ())

        calls[WHOLE, name] = lambda view: faces(inputs.views[view])
        calls[LARGE, name] = lambda view: faces(inputs.large[view])
        calls[PORTRAIT, name] = lambda view: faces(decode(inputs.portrait))

    add_mesh("MediaPipe FaceMesh, 468 points", False)
    add_mesh("MediaPipe FaceMesh, 478 points", True)
    detector = solutions.face_detection.FaceDetection(model_selection=0)
    calls[DETECTION, "MediaPipe, short range"] = lambda view: len(detector.process(inputs.views[view]).detections or ())
    read = mesh_network(inputs)
    calls[LANDMARKS, "MediaPipe mesh network"] = lambda view: read(view, 1)
    calls[BATCHED, "MediaPipe mesh network"] = lambda view: read(view, BATCH)
    return calls, mediapipe.__version__


def decode(data: bytes) -> Any:
    """The picture (H, W, 3) uint8 RGB of a JPEG's bytes."""
    import cv2
    import numpy as np

    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def mesh_network(inputs: Inputs) -> Callable[[int, int], int]:
    """A function that reads the face of a view a number of times with MediaPipe's mesh network, crop included."""
    import cv2
    import numpy as np
    from benchmarks.mediapipe_mesh import load_mesh

    vertices, side = load_mesh()

    def read(view: int, count: int) -> int:
        x1, y1, x2, y2 = inputs.boxes[view]
        square = 1.5 * max(x2 - x1, y2 - y1)
        scale = side / square
        corner = np.array([(x1 + x2 - square) / 2, (y1 + y2 - square) / 2])
        matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
        for _ in range(count):
            vertices(cv2.warpAffine(inputs.views[view], matrix, (side, side)))
        return count

    return read


def dlib_calls(inputs: Inputs) -> tuple[Calls, str]:
    """dlib's HOG detector and its 68-point model."""
    import dlib
    import face_recognition_models

    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    rectangles = [dlib.rectangle(*(int(side) for side in box)) for box in inputs.boxes]

    def whole(picture: Any) -> int:
        return len([predictor(picture, box) for box in detector(picture, 0)])

    def read(view: int, count: int) -> int:
        return len([predictor(inputs.views[view], rectangles[view]) for _ in range(count)])

    return {
        (WHOLE, "dlib HOG, 68 points"): lambda view: whole(inputs.views[view]),
        (LARGE, "dlib HOG, 68 points"): lambda view: whole(inputs.large[view]),
        (DETECTION, "dlib HOG"): lambda view: len(detector(inputs.views[view], 0)),
        (LANDMARKS, "dlib, 68 points"): lambda view: read(view, 1),
        (BATCHED, "dlib, 68 points"): lambda view: read(view, BATCH),
    }, dlib.__version__


PACKAGES = {
    "octamark": octamark_calls, "opencv": opencv_calls, "mediapipe": mediapipe_calls, "dlib": dlib_calls,
}  # fmt: skip


def peak_memory(package: str, portrait: Path) -> float:
    """Peak memory in MB of this process after one portrait has gone through octamark's ``small`` or through FaceMesh.

    Linux only: elsewhere the peak of a process includes that of the one that started it.
    """
    if package == "octamark":
        import cv2

        import octamark

        cv2.setNumThreads(1)
        octamark.load("small", threads=1)(portrait)
    else:
        import mediapipe

        with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1) as mesh:
            mesh.process(decode(portrait.read_bytes()))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peak", action="store_true", help="print the peak memory of one portrait")
    arguments = parser.parse_args()
    if arguments.peak:
        use_one_processor()
        print(peak_memory(arguments.package, arguments.folder / "portrait.jpg"))
    else:
        serve(lambda: PACKAGES[arguments.package](Inputs.load(arguments.folder)))


if __name__ == "__main__":
    main()
