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
from octamark.inference.session import check_threads, run, session
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
    network: Any = SimpleNamespace(run=lambda names, feeds: [values])
    with pytest.raises(PredictionError, match=f"^model mine: {problem}$"):
        run(network, ["landmarks"], np.zeros((3, 32, 32, 3), np.uint8), "mine")


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
