"""What adapting a released model to pictures without labels brings, where they differ from what it was trained on.

    python benchmarks/adaptation.py PATH/TO/300w FOLDER_OF_PICTURES -o runs/adaptation

A night camera that nobody labelled: the pictures of the folder, and 300W's validation faces, are reduced until a face
measures 48 pixels, turned grey, blurred by motion, drowned in the noise of a sensor, and stored as poor JPEG. Then the
README's commands do the rest: crops, train --init --unlabelled, export, evaluate --compare, on the night's validation
faces and on the plain ones: the last epoch, so that none is chosen, without the closer look, which only `small` has. A
step that is done is skipped when called again; a stopped training run is resumed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from octamark import FaceDetector, OctamarkError, datasets, read_picture
from octamark.datasets import Sample
from octamark.geometry import Picture, crop, crop_transform, invert, landmark_boxes, squares
from octamark.geometry import apply as moved
from octamark.images import write_picture
from octamark.io import pts_text
from octamark.models import available

FACE = 48  # pixels, the longer side of the box around its points or of the detector's
ROOM = 2.0  # side of the picture that is kept around a face, over the face's size
PHOTONS = 160.0  # that make white: the noise of a pixel is that of their number
READ_NOISE = 0.01  # standard deviation of the sensor's own noise, as a share of white
STREAK = 2.0  # pixels that the face moves while the shutter is open
QUALITY = 50  # of JPEG


def night(picture: Picture, rng: np.random.Generator) -> Picture:
    """A small picture as a cheap camera takes and keeps it at night: grey, (h, w, 3) uint8."""
    light = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255) ** 2.2
    angle, steps = rng.uniform(0, np.pi), np.linspace(-0.5, 0.5, 7) * STREAK
    shifts = [np.float32([[1, 0, s * np.cos(angle)], [0, 1, s * np.sin(angle)]]) for s in steps]
    side = light.shape[::-1]
    light = np.mean([cv2.warpAffine(light, s, side, borderMode=cv2.BORDER_REFLECT) for s in shifts], axis=0)
    seen = rng.poisson(light * PHOTONS) / PHOTONS + rng.normal(0, READ_NOISE, light.shape)
    grey = (255 * np.clip(seen, 0, 1) ** (1 / 2.2)).astype(np.uint8)  # the camera turns up its gain
    kept = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_GRAYSCALE)
    return np.repeat(kept[..., None], 3, axis=2)


def around(picture: Picture, box: np.ndarray) -> tuple[Picture, np.ndarray]:
    """The surroundings of a face, reduced to ``FACE`` pixels, and the matrix from them to the picture."""
    size = round(FACE * ROOM)
    matrix = crop_transform(squares(box[None], ROOM)[0], size)
    return crop(picture, matrix, size), matrix


def at_night(sample: Sample, number: int) -> tuple[Picture, np.ndarray]:
    """A labelled face as :func:`night` takes it (``number`` is the seed), and its landmarks there."""
    small, matrix = around(read_picture(sample.picture), landmark_boxes(sample.landmarks))
    return night(small, np.random.default_rng(number)), moved(invert(matrix), sample.landmarks)


def write_validation(data: Path, out: Path) -> None:
    """Night's validation faces with their labels, a folder of .png and .pts."""
    for number, sample in enumerate(datasets.read("300w", data, "val")):
        picture, points = at_night(sample, number)
        name = sample.name.replace("/", "_")
        write_picture(out / f"{name}.png", picture)
        (out / f"{name}.pts").write_text(pts_text(points))


def write_unlabelled(folder: Path, out: Path) -> None:
    """Night's other faces: the surest of each picture, if it is large enough to be reduced."""
    detector = FaceDetector()
    for number, file in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
        try:
            picture = read_picture(file)
        except OctamarkError:
            continue
        boxes, scores = detector(picture)
        if len(boxes) and min(boxes[scores.argmax(), 2:] - boxes[scores.argmax(), :2]) >= FACE:
            small, _ = around(picture, boxes[scores.argmax()])
            write_picture(out / f"{number:06d}.png", night(small, np.random.default_rng(10**6 + number)))


def once(write: Callable[[Path, Path], None], source: Path, out: Path) -> None:
    """Fill a folder, unless it is there; one that was left half full is filled anew."""
    if not out.is_dir():
        part = out.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(source, part)
        part.rename(out)


def call(*arguments: str | Path) -> None:
    print("octamark", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "octamark", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W: afw, helen, lfpw, splits")
    parser.add_argument("pictures", type=Path, help="folder of faces without labels")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--init", default="small", choices=available(), help="the released model to adapt")
    asked = parser.parse_args()
    if not asked.pictures.is_dir():
        parser.error(f"{asked.pictures}: no such folder")
    out, faces, run = asked.out, asked.out / "faces.safetensors", asked.out / asked.init
    once(write_validation, asked.data, out / "night")
    once(write_unlabelled, asked.pictures, out / "unlabelled")
    if not faces.exists():
        call("crops", out / "unlabelled", "-o", faces)
    adapted = run / "adapted.onnx"
    if not adapted.exists():
        again = ["--resume"] if (run / "last.safetensors").exists() else []
        call("train", "--init", asked.init, "--data", asked.data, "--unlabelled", faces, "-o", run, *again)
        call("export", run / "last.safetensors", "--data", asked.data, "-o", adapted)
    compared = ["--boxes", "labels", "--refine", "never", "--compare", asked.init, adapted]
    night_set = [out / "night", "--format", "folder", "--layout", "ibug68"]
    call("evaluate", *night_set, *compared, "-o", run / "at-night")
    call("evaluate", asked.data, "--format", "300w", "--split", "val", *compared, "-o", run / "by-day")


if __name__ == "__main__":
    main()
