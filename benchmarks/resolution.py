"""Landmarks from 256 pixels to 4K: error, steadiness, time and memory of three ways to read a large face.

    python -m benchmarks.resolution PATH/TO/300w [--sizes 0 1024] [--ways a c] [--update]

Ways: (a) the global network on the face shrunk to its input, (b) the same network run whole on the face at full
resolution (fully convolutional, in torch, until memory ends), (c) octamark with attention-driven cropping. Faces: the
HELEN part of the validation split, from their labels' boxes. A face's size is the longer side of the box around its
landmarks. Smaller sizes are reduced by area averages; larger ones are enlarged (bicubic) and hold no detail that was
not there, so the table tells how many faces are native. Steadiness needs no labels: the picture is warped by a known
small similarity at its full size (sub-pixel shift, 2 % scale, 2 degrees), both are read, and the distance between the
second reading and the moved first one is counted in pixels. Time: one thread, one face, box given. Memory: peak of a
fresh process above the decoded picture."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

cv2.setNumThreads(1)

from benchmarks.measurements import DOCS, ROOT, Measurement, Value, add_update_option, finish  # noqa: E402

import octamark  # noqa: E402
from octamark import datasets  # noqa: E402
from octamark.datasets import Sample  # noqa: E402
from octamark.evaluation.steadiness import nudge  # noqa: E402
from octamark.geometry import Picture, apply, crop, crop_transform, landmark_boxes, squares  # noqa: E402
from octamark.metrics import nme, part_nme  # noqa: E402

NATIVE = 0
SIZES = (NATIVE, 256, 512, 1024, 2048, 4096)
WAYS = {"a": "global network, face shrunk", "b": "global network at full resolution", "c": "octamark, cropping"}
ROOM = 2.0  # side of the part of the picture that is kept, over the face's size
MEMORY = 12 << 30  # bytes that way (b) can use

Read = Callable[[Picture, np.ndarray], np.ndarray]
"""Landmarks (M, 2) of the face in a box (4,) tight around its labels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="300W's folder, with splits/val.txt")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the faces, pixels; 0 is their own size")
    parser.add_argument("--faces", type=int, default=87, help="how many faces; 20 at most from 2,048 pixels on")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), help="a, b, c; all by default")
    parser.add_argument("--whole", type=int, default=8, help="how many faces way (b) reads")
    parser.add_argument("--regions", default="regions", help="the regional network, a name or an .onnx file")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "SIZE"), help=argparse.SUPPRESS)
    add_update_option(parser)
    arguments = parser.parse_args()
    faces = [sample for sample in datasets.read("300w", arguments.data, "val") if sample.name.startswith("helen")]
    faces.sort(key=face_size, reverse=True)
    if arguments.measure:
        way, size = arguments.measure
        print(json.dumps(cost(reader(way, arguments.regions), way, faces[0], int(size))))
        return
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for way in arguments.ways:
            most = {2048: 2, 4096: 1}.get(size, arguments.whole) if way == "b" else 20 if size >= 2048 else len(faces)
            count = min(arguments.faces, most)
            row: dict[str, Any] = {"size": size, "way": way, "faces": count}
            row["native"] = sum(face_size(sample) >= size for sample in faces[:count])
            row |= cost_in_new_process(arguments, way, size)
            if "error" not in row:
                row |= errors(reader(way, arguments.regions), faces[:count], size)
            rows.append(row)
            print(json.dumps(row), flush=True)
    options = "" if arguments.sizes == SIZES else f" --sizes {' '.join(map(str, arguments.sizes))}"
    options += "" if arguments.ways == list(WAYS) else f" --ways {' '.join(arguments.ways)}"
    finish([measurement(rows, min(arguments.faces, len(faces)), arguments.whole, options)], arguments.update)
    if arguments.update and not options:
        plot(rows, DOCS / "resolution.png")


COLUMNS = (
    ("NME, %", ".2f", "nme"), ("eyes, %", ".2f", "nme eyes"), ("mouth, %", ".2f", "nme mouth"),
    ("outline, %", ".2f", "nme outline"), ("steadiness, px", ".2f", "px"), ("eyes, px", ".2f", "px eyes"),
    ("mouth, px", ".2f", "px mouth"), ("outline, px", ".2f", "px outline"),
    ("ms per face", ".1f", "ms"), ("peak above the picture, MB", ".0f", "above"),
)  # fmt: skip


def measurement(rows: Sequence[dict[str, Any]], faces: int, whole: int, options: str) -> Measurement:
    """The entry for results.json."""
    table: list[list[Value]] = []
    for row in rows:
        size = f"{row['size']:,}" if row["size"] else "native"
        start: list[Value] = [size, f"({row['way']}) {WAYS[row['way']]}", row["faces"], row["native"]]
        if "error" in row:
            table.append([*start, row["error"], *([None] * (len(COLUMNS) - 1))])
        else:
            values = {**row, "above": row["peak MB"] - row["picture MB"]}
            table.append([*start, *(values[key] for _, _, key in COLUMNS)])
    return Measurement(
        name="large-faces" if options else "resolution",
        page="resolution",
        title="Selected sizes" if options else "By size of the face",
        text=TEXT.format(faces=faces, whole=whole, memory=MEMORY >> 30),
        columns=(
            ("size, px", ""), ("way", ""), ("faces", "d"), ("native", "d"),
            *((name, form) for name, form, _ in COLUMNS),
        ),
        rows=table,
        command=f"python -m benchmarks.resolution PATH/TO/300w{options}",
        data=f"300W, validation split, the {faces} faces of HELEN",
        boxes="labels",
        normaliser="inter-ocular",
        plot="" if options else "resolution.png",
    )  # fmt: skip


TEXT = """Way (b) reads {whole} of the largest faces, two at 2,048 and one at 4,096 pixels; the others read all, and 20
from 2,048 pixels on. No search over rotations. A face's size is the longer side of the box around its landmarks. Sizes
below a face's own are made by area averages, sizes beyond it by bicubic enlargement: those show time, memory and
steadiness, but no detail that was not there. *Native*: how many of the faces are at least that large.

- **(a)** `small` on the face shrunk to its input of 224x224: `octamark.load("small", refine="never")`;
- **(b)** the same network run whole on the face at full resolution, in torch, with {memory} GiB at most;
- **(c)** octamark with attention-driven cropping: `octamark.load("small", refine="always")`.

The labels themselves are uncertain by 1 to 2 %. *Steadiness* needs no labels and shows what they cannot: the picture
is moved by a known small similarity (up to 3 pixels, 2 degrees, 2 %), both are read, and the distance between the
second reading and the moved first one is counted in pixels of the picture. Milliseconds are medians on one thread, box
given, crops included. The peak is that of a fresh process, without the decoded picture."""


def face_size(sample: Sample) -> float:
    """The longer side of the box around a face's landmarks, pixels."""
    x1, y1, x2, y2 = landmark_boxes(sample.landmarks)
    return float(max(x2 - x1, y2 - y1))


def at_size(sample: Sample, size: int) -> tuple[Picture, np.ndarray]:
    """The face at that size (NATIVE: its own) with room around it, and its landmarks there."""
    scale = size / face_size(sample) if size != NATIVE else 1.0
    picture = sample.read()
    x, y, side = squares(landmark_boxes(sample.landmarks), ROOM)[0]
    low = np.clip(np.floor([x - side / 2, y - side / 2]), 0, None).astype(int)
    high = np.ceil([x + side / 2, y + side / 2]).astype(int)
    part = picture[low[1] : high[1], low[0] : high[0]]
    shape = tuple(round(length * scale) for length in (part.shape[1], part.shape[0]))
    resized = cv2.resize(part, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    real = np.array([shape[0] / part.shape[1], shape[1] / part.shape[0]])
    return np.asarray(resized, np.uint8), (sample.landmarks - low + 0.5) * real - 0.5


def reader(way: str, regions: str) -> Read:
    """A function that reads a face in one of the ways."""
    if way == "b":
        return whole_reader()
    refine = "never" if way == "a" else "always"
    landmarker = octamark.load("small", rotation="never", refine=refine, regions=regions, threads=1)  # type: ignore[arg-type]

    def read(picture: Picture, box: np.ndarray) -> np.ndarray:
        return landmarker(picture, box[None], box_kind="landmarks").landmarks[0].astype(np.float64)

    return read


def whole_reader() -> Read:
    """A function that reads a face with the global network on an input as large as the face's crop."""
    import torch

    from octamark.nets import heatmaps
    from octamark.nets.network import SIZE_MULTIPLE, STRIDE
    from octamark.training.starting import checkpoint_path, trained_network, trained_shape

    torch.set_num_threads(1)
    path, card = checkpoint_path("small"), octamark.load("small", refine="never").card
    network, recipe, _ = trained_network(path)
    shape = trained_shape(path)
    assert shape is not None

    def read(picture: Picture, box: np.ndarray) -> np.ndarray:
        square = squares(box, recipe.margin)[0]
        side = max(1, round(square[2] / SIZE_MULTIPLE)) * SIZE_MULTIPLE
        transform = crop_transform(square, side)
        pixels = torch.from_numpy(crop(picture, transform, side)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            points = heatmaps.decode(heatmaps.probabilities(network(pixels), recipe.loss.beta))
        inside = shape(heatmaps.to_input_pixels(points, STRIDE).position)[0].numpy()
        points = apply(transform, inside)
        return points + octamark.layout("ibug68").reference_distance(points) * np.asarray(card.offset)

    return read


def errors(read: Read, faces: list[Sample], size: int) -> dict[str, float]:
    """NME in percent, and steadiness in pixels: of the whole face, of eyes, mouth and outline."""
    layout, rng = octamark.layout("ibug68"), np.random.default_rng(0)
    found, truth, distances = [], [], []
    for sample in faces:
        picture, landmarks = at_size(sample, size)
        points = read(picture, landmark_boxes(landmarks))
        after, warp = nudge(picture, rng)
        again = read(after, landmark_boxes(apply(warp, landmarks)))
        found.append(points)
        truth.append(landmarks)
        distances.append(np.linalg.norm(again - apply(warp, points), axis=1))
    parts = part_nme(np.array(found), np.array(truth), layout)
    steadiness = np.array(distances)
    result = {"nme": 100 * float(nme(np.array(found), np.array(truth), layout).mean()), "px": float(steadiness.mean())}
    for part in ("eyes", "mouth", "outline"):
        result[f"nme {part}"] = 100 * float(parts[part].mean())
        result[f"px {part}"] = float(steadiness[:, list(layout.groups[part])].mean())
    return result


def cost(read: Read, way: str, sample: Sample, size: int) -> dict[str, Any]:
    """Milliseconds of one face and the memory of this process, MB; or ``error``, where way (b) needs too much of it."""
    if way == "b":
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    picture, landmarks = at_size(sample, size)
    box = landmark_boxes(landmarks)
    small, points = at_size(sample, 64)
    read(small, landmark_boxes(points))  # what any face needs
    reset_peak()
    before = current()
    try:
        read(picture, box)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return {"error": f"needs more than {MEMORY >> 30} GiB"}
    peak = peak_now()
    times = []
    for _ in range(1 if way == "b" else 15):
        began = time.perf_counter()
        read(picture, box)
        times.append(time.perf_counter() - began)
    return {"ms": 1e3 * float(np.median(times)), "peak MB": peak / 1e6, "working MB": (peak - before) / 1e6,
            "picture MB": picture.nbytes / 1e6}  # fmt: skip


def reset_peak() -> None:
    """Set the high-water mark of this process's memory back (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def current() -> int:
    """Bytes that this process holds now."""
    return _status("VmRSS:")


def peak_now() -> int:
    """The most bytes that it held since :func:`reset_peak`."""
    return _status("VmHWM:")


def cost_in_new_process(arguments: argparse.Namespace, way: str, size: int) -> dict[str, Any]:
    """:func:`cost` in a new process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.resolution",
        str(arguments.data.resolve()),
        "--regions",
        arguments.regions,
    ]
    run = subprocess.run([*command, "--measure", way, str(size)], capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode:
        return {"error": f"ended: {run.stderr.strip().splitlines()[-1:] or run.returncode}"}
    spent: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return spent


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a plot of NME, steadiness, time and memory by size, a line for each way."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    titles = {
        "nme": "NME, % of the inter-ocular distance",
        "px": "steadiness: pixels between two readings",
        "ms": "ms per face, one thread",
        "above": "peak memory above the picture, MB",
    }
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for way, name in WAYS.items():
            shown = [row for row in rows if row["way"] == way and row["size"] and "error" not in row]
            values = [row["peak MB"] - row["picture MB"] if key == "above" else row[key] for row in shown]
            axes.plot([row["size"] for row in shown], values, "o-", label=f"({way}) {name}", markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(SIZES[1:], [str(size) for size in SIZES[1:]])
        axes.set_xlabel("size of the face, pixels")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
