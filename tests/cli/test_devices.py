"""``octamark devices`` tells what networks can run on, and how long they take there."""

from __future__ import annotations

import re

import onnxruntime
import pytest

from command_line import run
from octamark.cli import devices as verb
from octamark.errors import DeviceError, WeightsError
from octamark.inference import devices
from octamark.inference.device_times import device_times


@pytest.fixture(autouse=True)
def processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with the plain onnxruntime and without OpenVINO."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)


def test_devices_are_listed_with_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.stdout, "_width", 400)  # in workers of pytest, rich has taken COLUMNS already
    printed = run("devices", "--no-run")
    rows = dict(re.findall(r"(\w+) +│ (yes|no) ", printed))
    assert rows == {name: "yes" if name == "cpu" else "no" for name in devices.DEVICES}
    assert "pip install onnxruntime-gpu" in printed
    assert "pip install openvino" in printed
    assert "Milliseconds" not in printed


def test_models_are_run_on_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verb, "device_times", lambda *arguments, **options: device_times(*arguments, **options, seconds=0)
    )
    printed = run("devices", "regions", "nano")
    rows = re.findall(r"(regions|nano) +│ cpu +│ +([0-9.]+) +│ +([0-9.]+) +│ +16 ", printed)
    assert [name for name, _, _ in rows] == ["regions", "nano"]
    assert all(float(value) > 0 for _, *values in rows for value in values)


def test_a_device_that_does_not_start_is_reported_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime, "InferenceSession",
        lambda data, options, providers: real(data, options, providers=["CPUExecutionProvider"]),
    )  # fmt: skip
    monkeypatch.setattr(
        verb, "device_times", lambda *arguments, **options: device_times(*arguments, **options, seconds=0)
    )
    printed = run("devices", "nano", code=1)
    assert re.search(r"nano +│ cpu ", printed)
    assert not re.search(r"nano +│ cuda ", printed)
    assert "could not start" in printed + capsys.readouterr().err


def test_unknown_models_and_devices_are_errors_before_the_work() -> None:
    with pytest.raises(WeightsError, match="unknown model 'nono'; models: "):
        run("devices", "nono")
    with pytest.raises(DeviceError, match="device 'cuda' needs CUDAExecutionProvider"):
        run("devices", "--device", "cuda")
    with pytest.raises(DeviceError, match="allowed: an integer from 1 to"):
        device_times("nano", threads=0)
