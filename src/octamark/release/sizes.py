"""The table of sizes: what each width costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from octamark._version import __version__
from octamark.layouts import layout
from octamark.models import CropRule, ModelCard
from octamark.models.calibration import Calibration
from octamark.nets.network import WIDTHS, NetworkConfig, OctaveNetwork
from octamark.release.graph import to_onnx
from octamark.release.predictor import Predictor, flops


@dataclass(frozen=True)
class Size:
    """One row: width C, parameters, multiply-adds times two in 1e9, exported file in 1e6 bytes."""

    name: str
    width: int
    parameters: int
    gflops: float
    megabytes: float


def untrained_onnx(name: str, network: OctaveNetwork, size: int = 256) -> bytes:
    """A network that was never released as a weight file: its cost is real, its card says nothing."""
    rule = CropRule(size=size, margin=1.25, detector_scale=1.0, detector_shift=(0, 0), detector_residual=(0, 0, 0))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = ModelCard(
        name=name, layout="ibug68", parameters=parameters, width=network.config.width, crop=rule,
        calibration=Calibration.identity(network.config.landmarks), normaliser="", scores={}, training_data="",
        terms="", recipe={}, version=__version__,
    )  # fmt: skip
    return to_onnx(Predictor(network, 1.0, layout(card.layout), card.calibration), card)


def rows(landmarks: int = 68, size: int = 256) -> Iterator[Size]:
    """A row for each named width, smallest first; file sizes are those of really exported (untrained) networks."""
    for name, width in WIDTHS.items():
        network = OctaveNetwork(NetworkConfig(landmarks=landmarks, width=width)).eval()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        data = untrained_onnx(name, network, size)
        yield Size(name, width, parameters, flops(network, size) / 1e9, len(data) / 1e6)
