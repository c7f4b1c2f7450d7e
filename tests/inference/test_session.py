"""Sessions: what is said when a file, a device or a number of threads cannot be used."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import octamark
from octamark import DeviceError, WeightsError, models
from octamark.errors import PictureError, PredictionError
from octamark.inference.devices import DEVICES
from octamark.inference.float_graph import without_quantization
from octamark.inference.session import ahead, check_threads, run, session, vector_instructions
from octamark.models import registry


class FailingSession:
    """An ONNX Runtime session that cannot be made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("nodes without names")


class GraphicsSession:
    """ONNX Runtime where it has other providers than the processor; it records how it was started.

    Attributes:
        started: the providers that start; ONNX Runtime leaves out others without an error.
        places: by provider, the operators that it runs.
    """

    started: Sequence[str] = ()
    places: Mapping[str, Sequence[str]] = {}
    calls: list[tuple[bytes, list[Any], onnxruntime.SessionOptions]]
    falls_back = True

    def __init__(self, data: bytes, options: onnxruntime.SessionOptions, providers: list[Any]) -> None:
        self.calls.append((data, providers, options))
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.providers = [name for name in names if name in self.started or name == "CPUExecutionProvider"]

    def get_providers(self) -> list[str]:
        return [*self.providers, "CPUExecutionProvider"]

    def disable_fallback(self) -> None:
        self.falls_back = False

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        return []

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_modelmeta = get_inputs

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(
                ep_name=name, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=kind) for kind in kinds]
            )
            for name, kinds in self.places.items()
        ]


def graphics(
    monkeypatch: pytest.MonkeyPatch, started: Sequence[str], places: Mapping[str, Sequence[str]]
) -> type[GraphicsSession]:
    """ONNX Runtime that has all providers, of which these start and run these operators."""
    names = [device.provider for device in DEVICES.values() if device.provider is not None]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    kind = type("Session", (GraphicsSession,), {"started": started, "places": places, "calls": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
    return kind


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_an_intact_file_that_cannot_be_loaded_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FailingSession)
    with pytest.raises(WeightsError, match=f"^{name}: the file is intact, but .*{onnxruntime.__version__}") as caught:
        session(models.read(name), name, None, "cpu")
    assert "damaged" not in str(caught.value)
    assert "nodes without names" in str(caught.value)


def test_a_foreign_file_is_called_damaged_or_no_onnx_file() -> None:
    with pytest.raises(WeightsError, match=r"^mine\.onnx: damaged, not an ONNX file, or"):
        session(b"no graph", "mine.onnx", None, "cpu")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.full((3, 2), np.nan, np.float32), "landmarks holds values that are not finite"),
        (np.zeros((1, 2), np.float32), "landmarks for 1 crops, where 3 were read"),
    ],
)
def test_impossible_outputs_are_an_error(values: np.ndarray, problem: str) -> None:
    network: Any = SimpleNamespace(run=lambda names, feeds: [values], get_providers=lambda: ["CUDAExecutionProvider"])
    with pytest.raises(PredictionError, match=f"^model mine: {problem}$"):
        run(network, ["landmarks"], np.zeros((3, 32, 32, 3), np.uint8), "mine")


@pytest.mark.parametrize(("provider", "sizes"), [("CPUExecutionProvider", [2, 2, 1]), ("CUDAExecutionProvider", [5])])
def test_a_processor_reads_a_few_crops_at_a_time(provider: str, sizes: list[int]) -> None:
    seen: list[int] = []

    def call(names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(len(feeds["crops"]))
        return [feeds["crops"][:, 0, 0, 0].astype(np.float32), np.ones(len(feeds["crops"]), np.float32)]

    network: Any = SimpleNamespace(run=call, get_providers=lambda: [provider])
    crops = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    landmarks, spread = run(network, ["landmarks", "spread"], crops, "mine")
    assert seen == sizes
    np.testing.assert_array_equal(landmarks, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(spread, np.ones(5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: x\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", ["AVX2", "AVX512", "VNNI"]),
        ("flags\t\t: fpu avx2 avx_vnni\n", ["AVX2", "VNNI"]),
        ("flags\t\t: fpu avx2\n", ["AVX2"]),
        ("Features\t: neon\n", []),
        (None, []),
    ],
)
def test_vector_instructions_are_those_of_the_processor(
    text: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path, encoding: str) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert vector_instructions() == expected


def test_cuda_that_onnx_runtime_gives_up_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graphics(monkeypatch, started=(), places={})
    with pytest.raises(DeviceError, match=r"'cuda' cannot be used: .* could not start CUDAExecutionProvider"):
        session(models.read("nano"), "nano", None, "cuda")


GRAPHICS = [name for name, device in DEVICES.items() if device.provider is not None and name != "cpu"]


@pytest.mark.parametrize("device", GRAPHICS)
def test_other_devices_run_the_network_in_floats(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    provider = DEVICES[device].provider
    assert provider is not None
    runtime = graphics(monkeypatch, [provider], {provider: ["Conv", "Conv"], "CPUExecutionProvider": ["Shape"]})
    network = session(models.read("nano"), "nano", 1, device)
    assert provider in network.get_providers()
    data, providers, options = runtime.calls[-1]
    assert b"QuantizeLinear" in models.read("nano")
    assert data == without_quantization(models.read("nano"))
    assert providers[0] == provider or providers[0][0] == provider
    assert options.enable_mem_pattern is (device != "directml")
    assert options.intra_op_num_threads == 1


@pytest.mark.parametrize("device", GRAPHICS)
def test_convolutions_that_are_left_to_the_processor_are_an_error(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    provider = DEVICES[device].provider
    assert provider is not None
    graphics(monkeypatch, [provider], {provider: ["Conv"], "CPUExecutionProvider": ["Conv", "Conv", "Shape"]})
    with pytest.raises(DeviceError, match=f"{device!r} .*{provider} leaves 2 of the 3 conv.* of nano to CPUExecution"):
        session(models.read("nano"), "nano", None, device)


def test_an_older_onnx_runtime_does_not_tell_where_operators_run(monkeypatch: pytest.MonkeyPatch) -> None:
    graphics(monkeypatch, ["CUDAExecutionProvider"], {"CPUExecutionProvider": ["Conv"]})
    monkeypatch.delattr(GraphicsSession, "get_provider_graph_assignment_info")
    assert session(models.read("nano"), "nano", None, "cuda").get_providers()[0] == "CUDAExecutionProvider"


def test_a_run_that_fails_does_not_go_on_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    graphics(monkeypatch, ["CUDAExecutionProvider"], {"CUDAExecutionProvider": ["Conv"]})
    network: Any = session(models.read("nano"), "nano", None, "cuda")
    assert not network.falls_back


def test_a_damaged_file_is_not_the_devices_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession
    graphics(monkeypatch, ["CUDAExecutionProvider"], {})
    monkeypatch.setattr(onnxruntime, "InferenceSession", real)
    with pytest.raises(WeightsError, match=r"^mine\.onnx: damaged, not an ONNX file, or"):
        session(b"no graph", "mine.onnx", None, "cuda")


def test_directml_runs_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = graphics(monkeypatch, ["DmlExecutionProvider"], {"DmlExecutionProvider": ["Conv"]})
    running, most = 0, 0

    def call(self: Any, names: list[str], feeds: Any) -> list[Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return []

    monkeypatch.setattr(runtime, "run", call)
    network = session(models.read("nano"), "nano", None, "directml")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: network.run(["landmarks"], {}), range(8)))
    assert most == 1


@pytest.mark.parametrize(("device", "threaded"), [("cpu", False), ("openvino", False), ("cuda", True)])
def test_the_next_batch_is_cut_while_a_graphics_card_reads(device: str, threaded: bool) -> None:
    threads = []

    def cut(item: int) -> int:
        threads.append(threading.current_thread())
        return 10 * item

    assert list(ahead(cut, [1, 2, 3], device)) == [(1, 10), (2, 20), (3, 30)]
    assert all((thread is not threading.current_thread()) is threaded for thread in threads)


def test_an_error_of_a_batch_that_is_cut_ahead_is_passed_on() -> None:
    def cut(item: int) -> int:
        if item == 2:
            raise PictureError("a picture that is too large")
        return item

    batches = ahead(cut, [1, 2, 3], "cuda")
    assert next(batches) == (1, 1)
    with pytest.raises(PictureError, match="too large"):
        next(batches)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "coreml", "directml"])
def test_the_devices_of_this_machine_agree_with_its_processor(device: str, photograph: NDArray[np.uint8]) -> None:
    problem = DEVICES[device].problem()
    if problem is not None:
        pytest.skip(f"{device} {problem}")
    try:
        landmarker = octamark.load("small", device=device, refine="always")
    except DeviceError as error:
        pytest.skip(str(error))
    expected = octamark.load("small", refine="always")(photograph)
    faces = landmarker(photograph)
    assert len(faces) == len(expected) == 1
    error = np.linalg.norm(faces.landmarks - expected.landmarks, axis=-1)
    assert error.mean() < expected.spread.mean()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(landmarker))(photograph).landmarks, faces.landmarks)


@pytest.mark.parametrize("threads", [1, np.int64(1), np.uint8(1)])
def test_integers_of_any_type_are_numbers_of_threads(threads: Any) -> None:
    assert type(check_threads(threads)) is int
    assert session(models.read("nano"), "nano", threads, "cpu").get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("threads", [0, -1, True, False, np.True_, 1.0, "1", np.int64(0), (os.cpu_count() or 1) + 1])
def test_other_numbers_of_threads_are_refused(threads: Any) -> None:
    with pytest.raises(DeviceError, match="allowed: an integer from 1 to"):
        session(models.read("nano"), "nano", threads, "cpu")


def test_a_package_without_its_data_files_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "blobs", lambda: tmp_path)
    with pytest.raises(WeightsError, match=r"sha256\.json: cannot be read .*; .* --collect-data octamark"):
        octamark.load("nano")
