"""Sessions: what is said when a file, a device or a number of threads cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import octamark
from octamark import DeviceError, WeightsError, models
from octamark.errors import PredictionError
from octamark.inference.session import check_threads, run, session, vector_instructions
from octamark.models import registry


class FailingSession:
    """An ONNX Runtime session that cannot be made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("nodes without names")


def give_up_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime as it is where it has CUDA but no driver: it takes the CPU and raises nothing."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    on_cpu = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *arguments, **options: on_cpu)


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
    give_up_on_cuda(monkeypatch)
    with pytest.raises(DeviceError, match=r"'cuda' cannot be used: .* could not start CUDAExecutionProvider"):
        session(models.read("nano"), "nano", None, "cuda")


def test_cuda_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"needs CUDAExecutionProvider .*-gpu.* has only CPUExecutionProvider$"):
        session(models.read("nano"), "nano", None, "cuda")


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(DeviceError, match="unknown device 'tpu'; devices: cpu, cuda"):
        session(models.read("nano"), "nano", None, "tpu")


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
