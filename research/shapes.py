"""What the choices in the network's shape cost: ms per face in ONNX Runtime on one thread, and parameters.

    python benchmarks/shapes.py          (needs octamark[train]; networks are untrained, which costs the same)

Compares a full-resolution octave convolution before the first layer (``stem = 8``) with none, and transposed
convolutions in the decoder with bilinear interpolation. Rounds alternate between the variants; medians are printed.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from octamark.nets.network import WIDTHS, NetworkConfig, OctaveNetwork
from octamark.release.predictor import flops
from octamark.release.sizes import untrained_onnx

VARIANTS = {
    "as released": {},
    "stem of 8 channels at 256x256": {"stem": 8},
    "transposed convolutions": {"upsample": "transposed"},
    "no attention": {"attention": False},
}
RUNS = 60


def session(network: OctaveNetwork) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = untrained_onnx("x", network.eval())
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def main() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    table = Table(title=f"256x256 input, one thread, median of {RUNS} alternating runs", title_justify="left")
    for column in ("size", "variant", "parameters", "GFLOPs", "ms"):
        table.add_column(column, justify="left" if column in ("size", "variant") else "right")
    for size in ("nano", "tiny", "small"):
        networks = {
            name: OctaveNetwork(NetworkConfig(width=WIDTHS[size], **change)) for name, change in VARIANTS.items()
        }
        sessions = {name: session(network) for name, network in networks.items()}
        times: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for turn in range(RUNS + 5):
            for name, one in sessions.items():
                start = time.perf_counter()
                one.run(["landmarks", "spread"], {"crops": crops})
                if turn >= 5:
                    times[name].append((time.perf_counter() - start) * 1000)
        for name, network in networks.items():
            parameters = sum(parameter.numel() for parameter in network.parameters())
            cost = f"{flops(network, 256) / 1e9:.2f}"
            table.add_row(size, name, f"{parameters:,}", cost, f"{statistics.median(times[name]):.2f}")
        table.add_section()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
