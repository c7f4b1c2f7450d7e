"""Landmarks from 256 pixels to 4K: error, steadiness, time and memory of three ways to read a large face.

    python benchmarks/resolution.py PATH/TO/300w -o docs/resolution

Ways: (a) the global network on the face shrunk to its input, (b) the same network run whole on the face at full
resolution (fully convolutional, in torch, until memory ends), (c) octamark with attention-driven cropping.
Faces: the HELEN part of the validation split, from their labels' boxes. A face's size is the longer side of the box
around its landmarks. Smaller sizes are reduced by area averages; sizes beyond a face's own are enlarged (bicubic), and
say nothing of detail that was never there: the table tells how many faces are native. Steadiness needs no labels: the
picture is warped by a known small similarity at its full size (sub-pixel shift, 2 % scale, 2 degrees), both are read,
and the distance between the second reading and the moved first one is counted in pixels. Time: one thread, one face,
box given. Memory: peak of a fresh process over what it held with the picture decoded, in a process of its own each.
Writes OUT.json, OUT.md and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

cv2.setNumThreads(1)

import octamark.inference.refiner  # noqa: E402
from octamark import datasets  # noqa: E402
from octamark.datasets import Sample  # noqa: E402
from octamark.evaluation.steadiness import nudge  # noqa: E402
from octamark.geometry import Picture, crop, crop_transform, landmark_boxes, squares  # noqa: E402
from octamark.geometry import apply as moved  # noqa: E402
from octamark.inference.landmarker import shifted  # noqa: E402
from octamark.metrics import nme, part_nme  # noqa: E402

NATIVE = 0
SIZES = (NATIVE, 256, 512, 1024, 2048, 4096)
WAYS = {"a": "global network, face shrunk", "b": "global network at full resolution", "c": "octamark, cropping"}
ROOM = 2.0  # side of the picture that is kept around a face, over the face's size
MEMORY = 12 << 30  # bytes that way (b) may use

Read = Callable[[Picture, np.ndarray], np.ndarray]
"""Landmarks (M, 2) of the face in a box (4,) tight around its labels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with afw, helen, lfpw and splits")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("resolution"), help="path of the results, without suffix"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--faces", type=int, default=87, help="how many faces; 20 at most from 2,048 pixels on")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--whole", type=int, default=8, help="how many faces way (b) reads")
    parser.add_argument("--regions", default="regions", help="the regional network, a name or an .onnx file")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    faces = [one for one in datasets.read("300w", arguments.data, "val") if one.name.startswith("helen")]
    faces.sort(key=face_size, reverse=True)
    if arguments.measure:
        way, size = arguments.measure
        print(json.dumps(cost(reader(way, arguments.regions), way, faces[0], int(size))))
        return
    rows = []
    for size in arguments.sizes:
        for way in arguments.ways:
            most = {2048: 2, 4096: 1}.get(size, arguments.whole) if way == "b" else 20 if size >= 2048 else len(faces)
            count = min(arguments.faces, most)
            spent = measured(arguments, way, size)
            row = {
                "size": size,
                "way": way,
                "faces": count,
                "native": sum(face_size(one) >= size for one in faces[:count]),
            }
            if "error" not in spent:
                row |= errors(reader(way, arguments.regions), faces[:count], size)
            rows.append(row | spent)
            print(json.dumps(rows[-1]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    head = HEAD.format(faces=min(arguments.faces, len(faces)), whole=arguments.whole, memory=MEMORY >> 30)
    arguments.out.with_suffix(".md").write_text(table(rows, head))
    plot(rows, arguments.out.with_suffix(".png"))


def face_size(sample: Sample) -> float:
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
    if way == "b":
        return whole_reader()
    refine: octamark.inference.refiner.Refine = "never" if way == "a" else "always"
    landmarker = octamark.load("small", rotation="never", refine=refine, regions=regions, threads=1)

    def read(picture: Picture, box: np.ndarray) -> np.ndarray:
        return landmarker(picture, box[None], box_kind="landmarks").landmarks[0].astype(np.float64)

    return read


def whole_reader() -> Read:
    """The global network on an input as large as the face's crop is."""
    import torch

    from octamark.nets import heatmaps
    from octamark.nets.network import SIZE_MULTIPLE, STRIDE
    from octamark.training.starting import checkpoint_path, trained_network, trained_shape

    torch.set_num_threads(1)
    path, card = checkpoint_path("small"), octamark.load("small", refine="never").card
    network, config, _ = trained_network(path)
    shape = trained_shape(path)
    assert shape is not None

    def read(picture: Picture, box: np.ndarray) -> np.ndarray:
        square = squares(box, config.data.margin)[0]
        side = max(1, round(square[2] / SIZE_MULTIPLE)) * SIZE_MULTIPLE
        transform = crop_transform(square, side)
        pixels = torch.from_numpy(crop(picture, transform, side)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            points = heatmaps.decode(heatmaps.probabilities(network(pixels), config.loss.beta))
        inside = shape(heatmaps.to_input_pixels(points, STRIDE).position)[0].numpy()
        return shifted(moved(transform, inside)[None], card.offset, octamark.layout("ibug68"))[0]

    return read


def errors(read: Read, faces: list[Sample], size: int) -> dict[str, float]:
    """NME in percent, of the whole face, eyes and mouth; steadiness in pixels, the same."""
    layout, rng = octamark.layout("ibug68"), np.random.default_rng(0)
    found, truth, apart = [], [], []
    for sample in faces:
        picture, landmarks = at_size(sample, size)
        points = read(picture, landmark_boxes(landmarks))
        after, warp = nudge(picture, rng)
        again = read(after, landmark_boxes(moved(warp, landmarks)))
        found.append(points)
        truth.append(landmarks)
        apart.append(np.linalg.norm(again - moved(warp, points), axis=1))
    parts = part_nme(np.array(found), np.array(truth), layout)
    steadiness = np.array(apart)
    result = {"nme": 100 * float(nme(np.array(found), np.array(truth), layout).mean()), "px": float(steadiness.mean())}
    for part in ("eyes", "mouth", "outline"):
        result[f"nme {part}"] = 100 * float(parts[part].mean())
        result[f"px {part}"] = float(steadiness[:, list(layout.groups[part])].mean())
    return result


def cost(read: Read, way: str, sample: Sample, size: int) -> dict[str, float]:
    """Time of one face and peak memory over the decoded picture, in this process."""
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
        return {"error": f"needs more than {MEMORY >> 30} GiB"}  # type: ignore[dict-item]
    peak = peak_now()
    times = []
    for _ in range(1 if way == "b" else 15):
        began = time.perf_counter()
        read(picture, box)
        times.append(time.perf_counter() - began)
    return {"ms": 1e3 * float(np.median(times)), "peak MB": peak / 1e6, "working MB": (peak - before) / 1e6,
            "picture MB": picture.nbytes / 1e6}  # fmt: skip


def reset_peak() -> None:
    """Linux: start the high-water mark again."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def current() -> int:
    return _status("VmRSS:")


def peak_now() -> int:
    return _status("VmHWM:")


def measured(arguments: argparse.Namespace, way: str, size: int) -> dict[str, float]:
    """:func:`cost` in a fresh process."""
    given = [str(arguments.data), "--regions", arguments.regions]
    command = [sys.executable, __file__, *given, "--measure", way, str(size)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return {"error": f"ended: {run.stderr.strip().splitlines()[-1:] or run.returncode}"}  # type: ignore[dict-item]
    spent: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return spent


COLUMNS = {
    "nme": ("NME, %", "{:.2f}"), "nme eyes": ("eyes", "{:.2f}"), "nme mouth": ("mouth", "{:.2f}"),
    "px": ("steadiness, px", "{:.2f}"), "ms": ("ms a face", "{:.1f}"), "over": ("peak over the picture, MB", "{:.0f}"),
}  # fmt: skip


HEAD = """# From 256 pixels to 4K

Written by `python benchmarks/resolution.py PATH/TO/300w -o docs/resolution`, one run. Faces: the HELEN part of 300W's
validation split ({faces} faces; 20 from 2,048 pixels on; way b reads {whole}, 2 and 1), boxes from labels, no second
look. A face's size is the longer side of the box around its landmarks. Sizes below a face's own are made by area
averages, sizes beyond it by bicubic enlargement: they show time, memory and steadiness, but no detail that was not
there.

- **(a)** `small` on the face shrunk to its input of 224x224: `octamark.load("small", refine="never")`;
- **(b)** the same network run whole on the face at full resolution, in torch, with {memory} GiB at most;
- **(c)** octamark with attention-driven cropping: `octamark.load("small", refine="always")`.
- **NME**: inter-ocular, %; whole face, eyes, mouth. The labels themselves are uncertain by 1 to 2 %.
- **Steadiness** needs no labels and shows what they cannot: the picture is moved by a known small similarity (up to
  3 pixels, 2 degrees, 2 %), both are read, and the distance between the second reading and the moved first one is
  counted in pixels of the picture.
- **ms**: one thread, median, box given, crops included. **Peak**: of a fresh process, the decoded picture left out.

"""


def table(rows: list[dict[str, object]], head: str) -> str:
    """The rows as a page of Markdown."""
    heads = ["size, px", "way", "faces (native)", *(title for title, _ in COLUMNS.values())]
    lines = [head + "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [
            f"{row['size']:,}" if row["size"] else "native",
            f"({row['way']}) {WAYS[str(row['way'])]}",
            f"{row['faces']} ({row['native']})",
        ]
        if "error" in row:
            cells += [str(row["error"]), *("" for _ in range(len(COLUMNS) - 1))]
        else:
            values = {**row, "over": float(row["peak MB"]) - float(row["picture MB"])}  # type: ignore[arg-type]
            cells += [form.format(values[key]) for key, (_, form) in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n![the same as plots](resolution.png)\n"


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """NME, steadiness, time and memory by size, a line for each way."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    shown = [("nme", "NME, % of the inter-ocular distance"), ("px", "steadiness: pixels between two readings"),
             ("ms", "ms a face, one thread"), ("over", "peak memory over the picture, MB")]  # fmt: skip
    for axes, (key, title) in zip(panels, shown, strict=True):
        for way, said in WAYS.items():
            own = [row for row in rows if row["way"] == way and row["size"] and "error" not in row]
            values = [
                float(row["peak MB"]) - float(row["picture MB"]) if key == "over" else float(row[key]) for row in own
            ]  # type: ignore[arg-type]
            axes.plot([row["size"] for row in own], values, "o-", label=f"({way}) {said}", markersize=4)
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
