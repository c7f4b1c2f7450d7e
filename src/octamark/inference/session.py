"""Networks of weight files, in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark.errors import DeviceError, PredictionError, WeightsError, listed
from octamark.inference.devices import DEVICES, Device, available_devices, device_named
from octamark.inference.float_graph import without_quantization
from octamark.models.registry import is_released

CROPS_PER_RUN = 2
"""Crops that a processor reads at a time. The maps of 16 faces do not fit into its second-level cache: ``small`` then
takes 14 % longer per face than with one or two; with two, ``tiny-128`` takes 10 % less than with one."""

CROPS_PER_BATCH = {True: 16, False: 64}
"""Crops that are in memory together, by whether the device is the processor. Others read all of them in one run."""


Item = TypeVar("Item")
Cut = TypeVar("Cut")


class Network(Protocol):
    """A network that is loaded: the methods of ``onnxruntime.InferenceSession`` that octamark uses."""

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[np.uint8]], /
    ) -> list[NDArray[np.float32]]: ...
    def get_inputs(self) -> Sequence[Any]: ...
    def get_outputs(self) -> Sequence[Any]: ...
    def get_modelmeta(self) -> Any: ...
    def get_providers(self) -> list[str]: ...


def session(data: bytes, name: str, threads: SupportsIndex | None, device: str) -> Network:
    """A network that runs the given weight file on the given device.

    Processors compute in 8 bits where the file does; the other devices have no kernels for that and compute in float32.
    Nothing is computed in 16 bits.

    Args:
        data: the bytes of an .onnx file.
        name: the file's name in error messages.
        threads: number of processor threads; None lets the runtime choose.
        device: a name in ``octamark.inference.devices.DEVICES``.

    Raises:
        DeviceError: an impossible number of threads; a device that is unknown or cannot be used, or on which the
            network would not run but for a part of it.
        WeightsError: the file cannot be loaded.
    """
    chosen = device_named(device)
    count = None if threads is None else check_threads(threads)
    if chosen.provider is None:
        from octamark.inference.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork(data, name, count)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if count is not None:
        options.intra_op_num_threads = count
    on_processor: Network = _started(data, name, options, [DEVICES["cpu"].provider], DEVICES["cpu"])
    if device == "cpu":
        return on_processor
    del on_processor  # a damaged file is an error of the file, not of the device
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # weights are widened when the file is loaded
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if device == "directml":
        options.enable_mem_pattern = False  # as DirectML demands
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    network = _started(without_quantization(data), name, options, _PROVIDERS[device], chosen)
    network.disable_fallback()  # to the processor, when a run fails
    _check_placement(network, name, chosen)
    return _Alone(network) if device == "directml" else network


def _started(
    data: bytes, name: str, options: onnxruntime.SessionOptions, providers: Sequence[Any], device: Device
) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime that uses the device.

    Raises:
        DeviceError: the device cannot be used.
        WeightsError: the file cannot be loaded.
    """
    try:
        result = onnxruntime.InferenceSession(data, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        if device.name != "cpu":
            raise DeviceError(f"device {device.name!r} cannot be used ({error})") from error
        raise WeightsError(f"{name}: {_reason(data)} ({error})") from error
    if device.provider not in result.get_providers():  # ONNX Runtime then takes the CPU instead, without an error
        raise DeviceError(
            f"device {device.name!r} cannot be used: ONNX Runtime {onnxruntime.__version__} could not start "
            f"{device.provider}, which needs {device.needs}. Devices here: "
            f"{listed(other for other in available_devices() if other != device.name)}"
        )
    return result


_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 has 10 bits after the point, as float16 has
_PROVIDERS: Mapping[str, list[Any]] = {
    "cuda": [_CUDA],
    "tensorrt": [("TensorrtExecutionProvider", {}), _CUDA],
    "coreml": [("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"})],
    "directml": ["DmlExecutionProvider"],
}
"""ONNX Runtime's providers for the devices other than the processor, the first choice first, with their settings."""


def _check_placement(network: onnxruntime.InferenceSession, name: str, device: Device) -> None:
    """Check that the convolutions run on the device, as far as the installed ONNX Runtime tells.

    A provider that has started may still leave operators to others.

    Raises:
        DeviceError: another provider runs convolutions.
    """
    if not hasattr(network, "get_provider_graph_assignment_info"):
        return
    places = Counter(
        part.ep_name
        for part in network.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.op_type in ("Conv", "FusedConv")
    )
    elsewhere = places.total() - places[device.provider or ""]
    if elsewhere:
        others = listed(other for other in places if other != device.provider)
        raise DeviceError(
            f"device {device.name!r} cannot be used: {device.provider} leaves {elsewhere} of the {places.total()} "
            f"convolutions of {name} to {others}"
        )


class _Alone:
    """A network that one thread at a time runs, as DirectML demands."""

    def __init__(self, network: Network) -> None:
        self._network, self._lock = network, threading.Lock()
        self.get_inputs, self.get_outputs = network.get_inputs, network.get_outputs
        self.get_modelmeta, self.get_providers = network.get_modelmeta, network.get_providers

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[np.uint8]], /) -> list[NDArray[np.float32]]:
        with self._lock:
            return self._network.run(names, feeds)


def run(network: Network, names: Sequence[str], crops: NDArray[np.uint8], source: str) -> list[NDArray[np.float32]]:
    """The outputs of those names for crops (n, ...): arrays whose first axis has n entries.

    A processor reads ``CROPS_PER_RUN`` crops at a time, any other device all of them.

    Args:
        source: the network's name in error messages.

    Raises:
        PredictionError: outputs for another number of crops, or values that are not finite, as of damaged weights.
    """
    step = CROPS_PER_RUN if network.get_providers() == [DEVICES["cpu"].provider] else len(crops)
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


def ahead(cut: Callable[[Item], Cut], items: Sequence[Item], device: str) -> Iterator[tuple[Item, Cut]]:
    """Each item with what ``cut`` makes of it; where the device is not the processor, the next one is cut meanwhile.

    Args:
        cut: cuts the crops of a batch.
        items: batches.
    """
    if DEVICES[device].on_processor or len(items) < 2:
        for item in items:
            yield item, cut(item)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="octamark-crops") as pool:
        following = pool.submit(cut, items[0])
        for index, item in enumerate(items):
            ready = following.result()
            if index + 1 < len(items):
                following = pool.submit(cut, items[index + 1])
            yield item, ready


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
