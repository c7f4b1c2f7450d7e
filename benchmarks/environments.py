"""Make the environments of what octamark's speed is compared with, and print the path of their interpreter.

    python -m benchmarks.environments baseline FOLDER [--commit e8aa95e]     octamark as of a commit of this repository
    python -m benchmarks.environments mediapipe FOLDER                       MediaPipe, with LiteRT
    python -m benchmarks.environments dlib FOLDER                            dlib, with its 68-point model

``benchmarks.speed`` takes the interpreters by options of the same names."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
BASELINE = "e8aa95e"  # octamark 0.1.0

PACKAGES = {
    "mediapipe": ("mediapipe==0.10.21", "ai-edge-litert"),
    "dlib": ("dlib-bin", "face_recognition_models", "setuptools<81", "numpy"),
}


def make_environment(name: str, folder: Path, commit: str = BASELINE) -> Path:
    """The interpreter of a new environment in a folder: of ``PACKAGES``, or ``"baseline"``: octamark as of a commit.

    Raises:
        FileExistsError: the folder exists.
        subprocess.CalledProcessError: the commit or a package is not there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: exists; name a folder that does not")
    with tempfile.TemporaryDirectory() as temporary:
        if name in PACKAGES:
            packages = PACKAGES[name]
        else:
            archive = subprocess.run(
                ["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True
            )
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
                files.extractall(temporary, filter="data")
            packages = ("--constraint", f"{temporary}/constraints.txt", temporary)
        venv.create(folder, with_pip=True)
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=("baseline", *PACKAGES))
    parser.add_argument("folder", type=Path, help="where to make it; does not exist yet")
    parser.add_argument("--commit", default=BASELINE, help="of the baseline")
    arguments = parser.parse_args()
    try:
        print(make_environment(arguments.environment, arguments.folder, arguments.commit))
    except (FileExistsError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None)
        raise SystemExit(f"error: {error}{': ' + stderr.decode().strip() if stderr else ''}") from error


if __name__ == "__main__":
    main()
