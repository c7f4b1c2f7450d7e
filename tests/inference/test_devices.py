"""Devices: which are there, and what is said about the others."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest

import octamark
from octamark import DeviceError
from octamark.inference.devices import DEVICES, available_devices, device_named


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
