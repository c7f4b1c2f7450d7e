"""The map: which folders there are, which of them import which, no torch for prediction, the public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import octamark
from octamark.inference import yunet

SOURCE = Path(octamark.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# Imports point from later rooms to earlier ones only.
ROOMS = (
    "errors", "_version", "geometry", "layouts", "images", "faces", "models", "inference", "io", "tracking", "drawing",
    "signals", "metrics", "uncertainty", "datasets", "evaluation", "nets", "synthesis", "training", "release",
    "client", "serving", "cluster", "cli",
)  # fmt: skip
TOP_FOLDERS = {"benchmarks", "configs", "docs", "examples", "research", "tests", "tools", "web"}
TORCH = {"torch", "lightning_fabric", "kornia", "safetensors", "onnx", "onnxscript"}
EXTRA = TORCH | {
    "av", "matplotlib", "h5py", "scipy", "httpx", "fastapi", "starlette", "uvicorn", "prometheus_client", "openvino",
    "pyarrow", "ray", "pandas",
}  # fmt: skip


def room(module: str) -> str:
    """``octamark.nets.octave`` -> ``nets``."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules of a file, and whether the import stands at the top of the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "octamark":
            found += [(f"octamark.{alias.name}", top) for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, top))
    return found


def files() -> list[tuple[str, Path]]:
    """(room, file) of every module but the front door."""
    listed = [(path.relative_to(SOURCE).parts[0].removesuffix(".py"), path) for path in sorted(SOURCE.rglob("*.py"))]
    return [(name, path) for name, path in listed if name not in ("__init__", "__main__")]


def test_every_room_is_on_the_map() -> None:
    assert {name for name, _ in files()} == set(ROOMS)


DATA = {
    ("py.typed",),
    ("inference", yunet.YUNET_FILE),
    ("layouts", "*.toml"),
    ("models", "blobs", "*.onnx"),
    ("models", "blobs", "*.safetensors"),
    ("models", "blobs", "sha256.json"),
}


def test_files_that_are_no_modules_have_a_place() -> None:
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            place = path.relative_to(SOURCE)
            assert any(place.match("/".join(pattern)) for pattern in DATA if len(pattern) == len(place.parts)), path


def test_the_map_of_contributing_lists_every_room_in_order() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = [
        cell.removesuffix(".py").removesuffix("/")
        for row in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
        for cell in re.findall(r"`src/octamark/([\w.]+/?)`", row)
    ]
    assert listed == [name for name in ROOMS if name != "_version"]
    folders = re.findall(r"^\| `([\w.]+)/` \|", text, re.MULTILINE)
    tracked = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and path.name in TOP_FOLDERS}
    assert set(folders) == tracked == TOP_FOLDERS


def test_the_build_and_the_detector_agree_on_the_weight_file() -> None:
    tree = ast.parse((REPOSITORY / "hatch_build.py").read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert constants == {"FILE": yunet.YUNET_FILE, "SHA256": yunet.YUNET_SHA256}


def test_imports_point_one_way() -> None:
    for name, path in files():
        for module, _ in imports(path):
            if module.startswith("octamark."):
                assert ROOMS.index(room(module)) <= ROOMS.index(name), f"{path}: imports {module}"


def test_only_training_rooms_import_torch() -> None:
    for name, path in files():
        for module, top in imports(path):
            if module.split(".")[0] in TORCH:
                assert name in ("nets", "synthesis", "training", "release") or (name == "cli" and not top), (
                    f"{path}: imports {module}"
                )


def test_prediction_runs_without_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        f"for name in {sorted(EXTRA)}: sys.modules[name] = None\n"
        "import octamark\n"
        "picture = np.zeros((64, 64, 3), np.uint8)\n"
        "faces = octamark.load('nano')(picture, [[10, 10, 50, 50]])\n"
        "assert faces.landmarks.shape == (1, 68, 2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    assert octamark.__all__ == sorted(octamark.__all__)
    assert set(octamark.__all__) == {
        "BoxError", "ConfigError", "DataError", "Detector", "DeviceError", "Face", "FaceDetector", "Faces",
        "InferenceOptions", "Landmarker", "Landmarks", "Layout", "LayoutError", "ModelCard", "OctamarkError",
        "OutputError", "PictureError", "PredictionError", "Result", "ServiceError", "TrackedFrame", "TrainingError",
        "WeightsError", "__version__", "layout", "load", "read_picture", "stream", "track",
    }  # fmt: skip
    for name in octamark.__all__:
        assert getattr(octamark, name).__doc__, name
