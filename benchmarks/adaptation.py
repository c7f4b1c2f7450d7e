"""What adapting a released model to unlabelled pictures brings, where they differ from its training pictures.

    python -m benchmarks.adaptation PATH/TO/300w FOLDER_OF_PICTURES -o runs/adaptation [--update]

The unlabelled pictures are those of a simulated night camera: the pictures of the folder, and 300W's validation faces,
are reduced until a face measures 48 pixels, turned grey, blurred by motion, covered with the noise of a sensor, and
stored as JPEG of low quality. Then octamark's own commands do the rest: crops, train --init --unlabelled, export,
evaluate --compare, on the night's validation faces and on the plain ones. The last epoch counts, so that none is
chosen, and faces are read without refinement, which only `small` has. A finished step is skipped when the script is
called again; a stopped training run is resumed."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish

from octamark import FaceDetector, OctamarkError, datasets, read_picture
from octamark.datasets import Sample
from octamark.evaluation.report import read_scores
from octamark.evaluation.results import difference
from octamark.geometry import Picture, apply, crop, crop_transform, invert, landmark_boxes, squares
from octamark.images import write_picture
from octamark.io import pts_text
from octamark.metrics import failure_rate
from octamark.models import available

FACE = 48  # pixels, the longer side of the box around its points or of the detector's
ROOM = 2.0  # side of the part of the picture that is kept, over the face's size
PHOTONS = 160.0  # of a white pixel; their number is Poisson distributed
READ_NOISE = 0.01  # standard deviation of the sensor's own noise, as a share of white
STREAK = 2.0  # pixels by which the face moves while the shutter is open
QUALITY = 50  # of JPEG


def night(picture: Picture, rng: np.random.Generator) -> Picture:
    """A small picture as a cheap camera would take it at night: grey, (h, w, 3) uint8."""
    light = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255) ** 2.2
    angle, steps = rng.uniform(0, np.pi), np.linspace(-0.5, 0.5, 7) * STREAK
    shifts = [np.float32([[1, 0, s * np.cos(angle)], [0, 1, s * np.sin(angle)]]) for s in steps]
    side = light.shape[::-1]
    light = np.mean([cv2.warpAffine(light, s, side, borderMode=cv2.BORDER_REFLECT) for s in shifts], axis=0)
    noisy = rng.poisson(light * PHOTONS) / PHOTONS + rng.normal(0, READ_NOISE, light.shape)
    grey = (255 * np.clip(noisy, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    stored = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_GRAYSCALE)
    return np.repeat(stored[..., None], 3, axis=2)


def face_part(picture: Picture, box: np.ndarray) -> tuple[Picture, np.ndarray]:
    """The surroundings of a face, reduced to ``FACE`` pixels, and the matrix from them to the picture."""
    size = round(FACE * ROOM)
    matrix = crop_transform(squares(box[None], ROOM)[0], size)
    return crop(picture, matrix, size), matrix


def at_night(sample: Sample, number: int) -> tuple[Picture, np.ndarray]:
    """A labelled face as :func:`night` takes it (``number`` is the seed), and its landmarks there."""
    small, matrix = face_part(read_picture(sample.picture), landmark_boxes(sample.landmarks))
    return night(small, np.random.default_rng(number)), apply(invert(matrix), sample.landmarks)


def write_validation(data: Path, out: Path) -> None:
    """Write the validation faces at night with their labels, as a folder of .png and .pts files."""
    for number, sample in enumerate(datasets.read("300w", data, "val")):
        picture, points = at_night(sample, number)
        name = sample.name.replace("/", "_")
        write_picture(out / f"{name}.png", picture)
        (out / f"{name}.pts").write_text(pts_text(points))


def write_unlabelled(folder: Path, out: Path) -> None:
    """Write the unlabelled faces at night: the one of the highest score of each picture, if it is large enough."""
    detector = FaceDetector()
    for number, file in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
        try:
            picture = read_picture(file)
        except OctamarkError:
            continue
        boxes, scores = detector(picture)
        if len(boxes) and min(boxes[scores.argmax(), 2:] - boxes[scores.argmax(), :2]) >= FACE:
            small, _ = face_part(picture, boxes[scores.argmax()])
            write_picture(out / f"{number:06d}.png", night(small, np.random.default_rng(10**6 + number)))


def once(write: Callable[[Path, Path], None], source: Path, out: Path) -> None:
    """Fill a folder, unless it exists; one that was left unfinished is filled again."""
    if not out.is_dir():
        part = out.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(source, part)
        part.rename(out)


def call(*arguments: str | Path) -> None:
    """Run a command of octamark."""
    print("octamark", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "octamark", *map(str, arguments)], check=True)


def measurement(rows: Sequence[Sequence[Value]], model: str, unlabelled: int) -> Measurement:
    """The entry for results.json."""
    return Measurement(
        name="adaptation",
        page="adaptation",
        title=f"Adapting `{model}` to a night camera",
        text="A released model goes on from its checkpoint for ten epochs, taught by the moving average of its own "
        "weights on ",
        columns=(
            ("faces", ""), ("NME before, %", ".2f"), ("NME adapted, %", ".2f"), ("difference", "+.2f"),
            ("failures at 8 % before, %", ".1f"), ("failures adapted, %", ".1f"), ("difference", "+.1f"),
        ),
        rows=rows,
        command="python -m benchmarks.adaptation PATH/TO/300w FOLDER_OF_PICTURES -o runs/adaptation",
        data="300W, validation split, 201 faces",
        boxes="labels",
        normaliser="inter-ocular",
    )  # fmt: skip


def compared(folder: Path, faces: str) -> list[Value]:
    """The row of two models whose scores lie in the subfolders A and B."""
    before, after = read_scores(folder / "A"), read_scores(folder / "B")
    nme, failures = ([estimate.value, estimate.low, estimate.high] for estimate in difference(before, after).values())
    errors = [np.array(list(scores.nme.values())) for scores in (before, after)]
    means = [100 * float(np.nanmean(values)) for values in errors]
    failed = [100 * failure_rate(values) for values in errors]
    return [faces, *means, nme, *failed, failures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder: afw, helen, lfpw, splits")
    parser.add_argument("pictures", type=Path, help="folder of faces without labels")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/adaptation"), help="folder of all that is made")
    parser.add_argument("--init", default="small", choices=available(), help="the released model to adapt")
    add_update_option(parser)
    arguments = parser.parse_args()
    if not arguments.pictures.is_dir():
        parser.error(f"{arguments.pictures}: no such folder")
    data, out, run = arguments.data, arguments.out, arguments.out / arguments.init
    faces, adapted = out / "faces", run / "adapted.onnx"
    once(write_validation, data, out / "night")
    once(write_unlabelled, arguments.pictures, out / "unlabelled")
    if not faces.exists():
        call("crops", out / "unlabelled", "-o", faces)
    if not adapted.exists():
        resume = ["--resume"] if (run / "last.safetensors").exists() else []
        call("train", "--init", arguments.init, "--data", data, "--unlabelled", faces, "-o", run, *resume)
        call("export", run / "last.safetensors", "--data", data, "-o", adapted)
    options = ["--boxes", "labels", "--refine", "never", "--compare", arguments.init, adapted]
    night_set = [out / "night", "--format", "folder", "--layout", "ibug68"]
    call("evaluate", *night_set, *options, "-o", run / "at-night")
    call("evaluate", data, "--format", "300w", "--split", "val", *options, "-o", run / "by-day")
    rows = [compared(run / "at-night", "at night"), compared(run / "by-day", "by day")]
    unlabelled = sum(1 for _ in (out / "unlabelled").iterdir())
    finish([measurement(rows, arguments.init, unlabelled)], arguments.update)


if __name__ == "__main__":
    main()
