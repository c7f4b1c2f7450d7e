"""The devices that networks run on: their names, what each needs, and whether it is there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import onnxruntime

from octamark.errors import DeviceError, install_hint, listed


@dataclass(frozen=True)
class Device:
    """A device that networks run on.

    Attributes:
        name: as ``octamark.load`` takes it.
        provider: ONNX Runtime's name of it; None where another runtime is used.
        package: the package on PyPI that brings the runtime.
        needs: what has to be installed besides the package.
        on_processor: whether it is the processor, which reads a few crops at a time; others read large batches.
    """

    name: str
    provider: str | None
    package: str
    needs: str
    on_processor: bool = False

    def problem(self) -> str | None:
        """Why the device cannot be used, None if its runtime is installed.

        A runtime may still fail to start: ``octamark.load`` finds out.
        """
        if self.provider is None:
            if importlib.util.find_spec(self.package) is not None:
                return None
            return f"needs the package {self.package}, which is not installed: {install_hint([self.package])}"
        available = onnxruntime.get_available_providers()
        if self.provider in available:
            return None
        text = (
            f"needs {self.provider}; the installed ONNX Runtime {onnxruntime.__version__} has only {listed(available)}"
        )
        if self.package == "onnxruntime":
            return f"{text}; {self.needs}"
        return f"{text}; pip uninstall onnxruntime, then pip install {self.package}, and {self.needs}"


DEVICES = {
    device.name: device
    for device in (
        Device("cpu", "CPUExecutionProvider", "onnxruntime", "any ONNX Runtime has it", on_processor=True),
        Device("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "an NVIDIA driver, CUDA and cuDNN of its versions"),
        Device(
            "tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu",
            "an NVIDIA driver, CUDA, cuDNN and TensorRT of its versions",
        ),
        Device("openvino", None, "openvino", "", on_processor=True),
        Device("coreml", "CoreMLExecutionProvider", "onnxruntime", "it is there on macOS"),
        Device("directml", "DmlExecutionProvider", "onnxruntime-directml", "Windows with DirectX 12"),
    )
}  # fmt: skip
"""By name."""


def device_named(name: str) -> Device:
    """The device of that name, whose runtime is installed.

    Raises:
        DeviceError: an unknown name, or a runtime that is not installed; the message says which devices are there and
            what to install.
    """
    if not isinstance(name, str) or name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; devices: {listed(DEVICES)}")
    problem = DEVICES[name].problem()
    if problem is not None:
        raise DeviceError(f"device {name!r} {problem}. Devices here: {listed(available_devices())}")
    return DEVICES[name]


def available_devices() -> list[str]:
    """The names of the devices whose runtime is installed."""
    return [device.name for device in DEVICES.values() if device.problem() is None]
