"""Devices: which are there, and what is said about the others."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import octamark
from octamark import DeviceError
from octamark.inference.devices import DEVICES, available_devices, device_named
from octamark.inference.session import CROPS_PER_BATCH


@pytest.fixture
def processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with the plain onnxruntime and without OpenVINO."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("processor_alone")
@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("cuda", "pip uninstall onnxruntime, then pip install onnxruntime-gpu, and an NVIDIA driver, CUDA and cuDNN"),
        ("tensorrt", "pip uninstall onnxruntime, then pip install onnxruntime-gpu, and .* TensorRT"),
        ("openvino", "the package openvino, which is not installed: pip install openvino"),
        ("coreml", "has only CPUExecutionProvider; it is there on macOS"),
        ("directml", "pip uninstall onnxruntime, then pip install onnxruntime-directml, and Windows"),
    ],
)
def test_a_device_that_is_not_there_is_one_error_that_says_what_to_install(device: str, advice: str) -> None:
    with pytest.raises(DeviceError, match=rf"^device '{device}' needs .*{advice}.*\. Devices here: cpu$"):
        octamark.load("nano", device=device)


@pytest.mark.parametrize("device", ["tpu", "", None, 3, ["cuda"]])
def test_an_unknown_device_is_an_error(device: object) -> None:
    with pytest.raises(
        DeviceError, match=r"unknown device .*; devices: cpu, cuda, tensorrt, openvino, coreml, directml"
    ):
        device_named(device)  # type: ignore[arg-type]


def test_the_processor_is_always_there() -> None:
    assert "cpu" in available_devices()
    assert set(available_devices()) <= set(DEVICES)


def test_the_device_is_an_option_that_is_kept(photograph: np.ndarray) -> None:
    landmarker = octamark.load("nano", device="cpu").with_options(threads=1)
    assert landmarker.options.device == "cpu"
    with pytest.raises(DeviceError, match="unknown device 'gpu'"):
        landmarker.with_options(device="gpu")


class Card:
    """A session that says that it runs on a graphics card, and runs on the processor."""

    batches: ClassVar[list[int]] = []

    def __init__(self, data: bytes, options: onnxruntime.SessionOptions, providers: list[Any]) -> None:
        self.session = _SESSION(data, options, providers=["CPUExecutionProvider"])
        self.on_card = providers != ["CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_providers(self) -> list[str]:
        return [*(["CUDAExecutionProvider"] if self.on_card else []), "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []

    def run(self, names: list[str], feeds: dict[str, NDArray[np.uint8]]) -> list[Any]:
        if self.on_card:
            self.batches.append(len(feeds["crops"]))
        return list(self.session.run(names, feeds))


_SESSION = onnxruntime.InferenceSession


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> type[Card]:
    """An environment with a graphics card."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", Card)
    monkeypatch.setattr(Card, "batches", [])
    return Card


def test_a_card_reads_many_faces_at_a_time_and_finds_the_same_points(
    card: type[Card], photograph: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    landmarker = octamark.load("nano", device="cuda", rotation="never", threads=1)
    rng = np.random.default_rng(0)
    boxes = np.array([[170, 60, 275, 190]]) + rng.uniform(-4, 4, (150, 4))
    faces = landmarker(photograph, boxes)
    assert card.batches == [64, 64, 22]
    assert CROPS_PER_BATCH[False] == 64
    monkeypatch.setattr(onnxruntime, "InferenceSession", _SESSION)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    expected = octamark.load("nano", rotation="never", threads=1)(photograph, boxes)
    distances = np.linalg.norm(faces.landmarks - expected.landmarks, axis=-1)
    assert distances.mean() < expected.spread.mean()  # one network in floats, the other in 8 bits


def test_a_stream_and_refinement_run_on_a_card(card: type[Card], photograph: NDArray[np.uint8]) -> None:
    landmarker = octamark.load("small", device="cuda", refine="always", threads=1)
    results = list(octamark.stream(landmarker, [photograph] * 6, batch=6))
    assert [result.error for result in results] == [None] * 6
    assert [len(result.faces) for result in results if result.faces is not None] == [1] * 6
    faces, regions = card.batches
    assert faces == 6
    assert regions >= 24  # of all six faces
