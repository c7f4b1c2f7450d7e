"""ONNX Runtime sessions of weight files."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark.errors import DeviceError, PredictionError, WeightsError, listed
from octamark.models.registry import is_released

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""ONNX Runtime's name of each device."""

CROPS_PER_RUN = 2
"""Crops that a processor reads at a time. The maps of 16 faces do not fit into its second-level cache: ``small`` then
takes 14 % longer per face than with one or two; with two, ``tiny-128`` takes 10 % less than with one."""


def session(data: bytes, name: str, threads: SupportsIndex | None, device: str) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session that runs the given weight file on the given device.

    Args:
        data: the bytes of an .onnx file.
        name: the file's name in error messages.
        threads: number of processor threads; None lets ONNX Runtime choose.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        DeviceError: an impossible number of threads, or a device that is unknown or cannot be used.
        WeightsError: ONNX Runtime cannot load the file.
    """
    if not isinstance(device, str) or device not in PROVIDERS:
        raise DeviceError(f"unknown device {device!r}; devices: {listed(PROVIDERS)}")
    provider, available = PROVIDERS[device], onnxruntime.get_available_providers()
    if provider not in available:
        package = " (it comes with the package onnxruntime-gpu)" if device == "cuda" else ""
        raise DeviceError(
            f"device {device!r} needs {provider}{package}; the installed ONNX Runtime has only {listed(available)}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = check_threads(threads)
    try:
        result = onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        if device != "cpu":
            raise DeviceError(f"device {device!r} cannot be used ({error})") from error
        raise WeightsError(f"{name}: {_reason(data)} ({error})") from error
    if provider not in result.get_providers():  # ONNX Runtime then takes the CPU instead, without an error
        raise DeviceError(
            f"device {device!r} cannot be used: ONNX Runtime {onnxruntime.__version__} could not start {provider} "
            "(are the driver and the CUDA and cuDNN libraries of its version installed?)"
        )
    return result


def run(
    network: onnxruntime.InferenceSession, names: Sequence[str], crops: NDArray[np.uint8], source: str
) -> list[NDArray[np.float32]]:
    """The outputs of those names for crops (n, ...): arrays whose first axis has n entries.

    A processor reads ``CROPS_PER_RUN`` crops at a time, any other device all of them.

    Args:
        source: the network's name in error messages.

    Raises:
        PredictionError: outputs for another number of crops, or values that are not finite, as of damaged weights.
    """
    step = CROPS_PER_RUN if network.get_providers() == [PROVIDERS["cpu"]] else len(crops)
    parts = [network.run(list(names), {"crops": crops[start : start + step]}) for start in range(0, len(crops), step)]
    outputs: list[NDArray[np.float32]] = parts[0]
    if len(parts) > 1:
        outputs = [np.concatenate(values) for values in zip(*parts, strict=True)]
    for name, values in zip(names, outputs, strict=True):
        if len(values) != len(crops):
            raise PredictionError(f"model {source}: {name} for {len(values)} crops, where {len(crops)} were read")
        if not np.isfinite(values).all():
            raise PredictionError(f"model {source}: {name} holds values that are not finite")
    return outputs


def vector_instructions() -> list[str]:
    """Which of AVX2, AVX512 and VNNI this processor has; empty where that is unknown (other than Linux on x86-64).

    ONNX Runtime chooses its kernels by them. VNNI multiplies and adds 8-bit integers in one step; without it int8
    convolutions give the same result in more steps.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    names = {"AVX2": {"avx2"}, "AVX512": {"avx512f"}, "VNNI": {"avx512_vnni", "avx_vnni"}}
    return [name for name, wanted in names.items() if flags & wanted]


def check_threads(threads: SupportsIndex) -> int:
    """The number of threads as an int.

    Raises:
        DeviceError: not an integer, less than 1, or more than the processors that this process may use.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        number = 0 if isinstance(threads, bool | np.bool_) else operator.index(threads)
    except TypeError:
        number = 0
    if not 1 <= number <= processors:
        raise DeviceError(f"threads={threads!r}; allowed: an integer from 1 to {processors}")
    return number


def _reason(data: bytes) -> str:
    """Why ONNX Runtime did not load the file, as far as octamark can tell."""
    version = onnxruntime.__version__
    if is_released(data):
        return f"the file is intact, but the installed ONNX Runtime {version} cannot load it"
    return f"damaged, not an ONNX file, or not for the installed ONNX Runtime {version}"
