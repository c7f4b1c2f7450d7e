"""ONNX Runtime sessions of weight files."""

from __future__ import annotations

import os

import onnxruntime

from octamark.errors import DeviceError, WeightsError, listed


def session(data: bytes, name: str, threads: int | None, device: str) -> onnxruntime.InferenceSession:
    """A session of the file's bytes; ``name`` stands in errors.

    Raises:
        DeviceError: more threads than processors, or a device that is unknown or not there.
        WeightsError: damaged, or not an ONNX file.
    """
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    if device not in providers:
        raise DeviceError(f"unknown device {device!r}; devices: {listed(providers)}")
    if providers[device] not in onnxruntime.get_available_providers():
        raise DeviceError(f"device {device!r} is not available: the installed ONNX Runtime has no {providers[device]}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not isinstance(threads, int) or not 1 <= threads <= processors:
            raise DeviceError(f"threads={threads!r}: this process may use 1 to {processors}")
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=[providers[device]])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        if device != "cpu":
            raise DeviceError(f"device {device!r} cannot be used ({error})") from error
        raise WeightsError(f"{name}: damaged, or not an ONNX file ({error})") from error
