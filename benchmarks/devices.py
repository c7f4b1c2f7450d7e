"""Milliseconds and points of the networks in ONNX Runtime and in OpenVINO, on one thread of the same process.

    pip install openvino
    python -m benchmarks.devices [--rounds 40] [--data PATH/TO/300w] [--update]

The runtimes take turns, one crop at a time; the figure is the fastest of all calls. Points are compared on faces of
--data (the validation faces of 300W), else on views of NASA's portrait, in pixels of the crop."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.speed import photograph, views
from benchmarks.timing import take_turns
from numpy.typing import NDArray
from rich.progress import track

import octamark
from octamark import models
from octamark.inference.devices import DEVICES
from octamark.inference.float_graph import without_quantization
from octamark.inference.landmarker import crops_of_boxes
from octamark.inference.session import session

OUTPUTS = ["landmarks", "spread", "confidence"]
ONNX, OPENVINO, PLAIN = "ONNX Runtime", "OpenVINO", "OpenVINO, file as it is"
BFLOAT, FLOAT = "OpenVINO, bfloat16 between", "ONNX Runtime, float32"


def faces(name: str, data: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Crops (n, S, S, 3) of a model, and how many pixels of the picture one of the crop's is (n,)."""
    landmarker = octamark.load(name, refine="never", rotation="never", threads=1)
    crop = landmarker.card.crop
    if data is None:
        located = [landmarker.locate(view).crops for view in views(photograph(), (0.8, 1.6), (224, 115))]
        chosen = [crops[0] for crops in located if crops]
    else:
        from octamark.datasets import read
        from octamark.datasets.w300 import read_split_file

        samples = read("300w", data, "train", only=read_split_file(data / "splits" / "val.txt"))
        chosen = []
        for sample in samples:
            points = sample.landmarks
            box = np.concatenate([np.nanmin(points, axis=0), np.nanmax(points, axis=0)])
            chosen += crops_of_boxes(sample.read(), box[None], crop, "landmarks")
    sizes = np.array([face.side(crop.size) / crop.size for face in chosen])
    return np.stack([face.pixels(crop.size) for face in chosen]), sizes


def points(network: Any, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The points of crops, (n, M, 2), one crop at a time."""
    parts = [network.run(OUTPUTS, {"crops": crops[index : index + 1]})[0] for index in range(len(crops))]
    return np.concatenate(parts).astype(np.float64)


class Compiled:
    """OpenVINO with other settings than ``device="openvino"`` has.

    Args:
        data: the bytes of an .onnx file.
        rewritten: whether OpenVINO gets the 8-bit arithmetic in the form that it knows.
        precision: of what is not computed in 8 bits, ``"f32"`` or ``"bf16"``.
    """

    def __init__(self, data: bytes, *, rewritten: bool, precision: str) -> None:
        import openvino

        from octamark.inference.openvino_network import rewrite

        core = openvino.Core()
        model = core.read_model(data)
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        model = openvino.Model([model.output(name) for name in OUTPUTS], model.get_parameters(), "network")
        if rewritten:
            rewrite(model)
        settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
        compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": precision})
        self._request = compiled.create_infer_request()

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """The outputs ``OUTPUTS`` for one crop."""
        assert list(names) == OUTPUTS
        self._request.infer({0: feeds["crops"]}, share_inputs=True)
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(OUTPUTS))]


def rows_of(name: str, rounds: int, data: Path | None) -> list[list[Value]]:
    """The rows of a model: runtime, milliseconds, ratio to ONNX Runtime, distances of its points from the others'."""
    file, (crops, sizes) = models.read(name), faces(name, data)
    networks: dict[str, Any] = {
        ONNX: session(file, name, 1, "cpu"),
        OPENVINO: session(file, name, 1, "openvino"),
        PLAIN: Compiled(file, rewritten=False, precision="f32"),
        BFLOAT: Compiled(file, rewritten=True, precision="bf16"),
        FLOAT: session(without_quantization(file), name, 1, "cpu"),
    }

    def timed(network: Any) -> Callable[[int], object]:
        return lambda number: network.run(OUTPUTS, {"crops": crops[number % len(crops)][None]})

    times = take_turns({title: timed(network) for title, network in networks.items()}, rounds, timed=5, untimed=1)
    fastest = {title: min(values) for title, values in times.items()}
    found = {title: points(network, crops) for title, network in networks.items()}
    result: list[list[Value]] = []
    for title in networks:
        apart = np.linalg.norm(found[title] - found[ONNX], axis=-1)
        exact = np.linalg.norm(found[title] - found[FLOAT], axis=-1)
        close = (apart * sizes[:, None] <= 0.3).mean() * 100
        moved: list[Value] = [float(apart.mean()), float(np.quantile(apart, 0.95)), float(apart.max()), float(close)]
        if title == ONNX:
            moved = [None, None, None, None]
        result.append([f"`{name}`", title, fastest[title], fastest[title] / fastest[ONNX], *moved, float(exact.mean())])
    return result


def measurement(rows: Sequence[Sequence[Value]], command: str, data: str) -> Measurement:
    """The entry for results.json."""
    import onnxruntime
    import openvino

    return Measurement(
        name="devices",
        page="speed",
        title="Devices: ONNX Runtime and OpenVINO",
        text="The network alone on one thread, one face at a time; all in one process, in turns, the fastest call. "
        f'ONNX Runtime {onnxruntime.__version__} (`device="cpu"`) and OpenVINO {openvino.__version__.split("-")[0]} '
        '(`device="openvino"`; the released file as it is; and with bfloat16 where maps do not have 8 bits). *float32* '
        "is the same network without 8-bit maps, which runs on graphics cards.\n\n"
        "Both runtimes round the same maps to 8 bits, in a slightly different order. *Moved* is how far a point lies "
        "from ONNX Runtime's, in pixels of the crop: the mean, what 95 % of the points do not exceed, and the most. "
        "*Within 0.3 px* counts pixels of the picture. *From float32* is the mean distance from the points without "
        "8-bit maps.",
        columns=(
            ("model", ""), ("runtime", ""), ("ms", ".2f"), ("ratio", ".2f"), ("moved, mean", ".3f"), ("95 %", ".3f"),
            ("most", ".2f"), ("within 0.3 px, %", ".1f"), ("from float32", ".3f"),
        ),
        rows=rows,
        command=command,
        data=data,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each runtime")
    parser.add_argument("--data", type=Path, help="the folder of 300W; without it, views of one portrait")
    parser.add_argument("--models", nargs="+", default=["pico", "tiny-128", "tiny", "small"], help="models to measure")
    add_update_option(parser)
    arguments = parser.parse_args()
    if problem := DEVICES["openvino"].problem():
        raise SystemExit(f"error: openvino {problem}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [
        row
        for name in track(arguments.models, "measuring", transient=True)
        for row in rows_of(name, arguments.rounds, arguments.data)
    ]
    data = "views of one portrait" if arguments.data is None else "300W, 201 validation faces, boxes around the labels"
    command = "python -m benchmarks.devices" + (" --data PATH/TO/300w" if arguments.data else "")
    finish([measurement(rows, command, data)], arguments.update)


if __name__ == "__main__":
    main()
