"""Many pictures through one landmarker: order, bounds, and errors that stay with their picture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import octamark
from octamark import ConfigError, Faces, Landmarker, OctamarkError, PictureError, PredictionError, stream
from octamark.inference import stream as module

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def nano() -> Landmarker:
    return octamark.load("nano", threads=1)


@pytest.mark.slow
def test_results_are_those_of_single_calls_in_order(nano: Landmarker, photograph: Picture, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nonsense")
    rolled = [np.roll(photograph, shift, axis=1) for shift in range(0, 200, 20)]
    inputs: list[Any] = [*rolled[:3], broken, *rolled[3:], "nowhere.png", np.zeros((40, 60, 3), np.uint8)]
    for batch in (1, 4, 100):
        results = list(stream(nano, inputs, batch=batch))
        assert [result.index for result in results] == list(range(len(inputs)))
        assert all(result.source is source for result, source in zip(results, inputs, strict=True))
        assert [i for i, result in enumerate(results) if result.error] == [3, 11]
        assert "broken.jpg" in str(results[3].error)
        assert isinstance(results[11].error, PictureError)
        for source, result in zip(inputs, results, strict=True):
            assert (result.faces is None) is (result.error is not None)
            assert result.picture is None
            if result.faces is not None:
                np.testing.assert_allclose(result.faces.landmarks, nano(source).landmarks, atol=2e-3)
    assert list(stream(nano, [])) == []
    kept = list(stream(nano, [photograph, "nowhere.png"], keep_pictures=True, heatmaps=True, full_frame=True))
    np.testing.assert_array_equal(kept[0].picture, photograph)
    assert kept[0].faces is not None
    assert kept[0].faces.heatmaps is not None
    assert kept[1].picture is None


class _Failing:
    """A detector that fails on dark pictures, with an error that is not octamark's."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not picture.any():
            raise self.error
        return np.array([[10, 10, 60, 60]], np.float32), np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), PictureError, "too large for the memory at hand"),
        (RuntimeError("odd"), PredictionError, "RuntimeError: odd"),
        (ValueError("[ONNXRuntimeError] : 6 : std::bad_alloc"), PictureError, "too large for the memory at hand"),
    ],
)
def test_an_error_stays_with_its_picture(
    photograph: Picture, error: Exception, kind: type[OctamarkError], message: str
) -> None:
    landmarker = octamark.load("nano", threads=1, detector=_Failing(error))
    inputs = [photograph, photograph, np.zeros((64, 64, 3), np.uint8), photograph]
    results = list(stream(landmarker, inputs))
    assert [len(result.faces) if result.faces else None for result in results] == [1, 1, None, 1]
    assert isinstance(results[2].error, kind)
    assert message in str(results[2].error)


def test_inputs_are_read_ahead_within_bounds(nano: Landmarker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more pictures in memory than a batch and those that are decoded ahead; pixels bound them too."""
    alive, most, lock = 0, 0, threading.Lock()

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    def read(source: Picture, **_: object) -> Picture:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return source.copy().view(Counted)

    def pictures(count: int, side: int) -> Iterator[Picture]:
        for _ in range(count):
            yield np.zeros((side, side, 3), np.uint8)

    monkeypatch.setattr(Landmarker, "decode", staticmethod(read))
    quick = octamark.load("nano", threads=1, detector=lambda picture: (np.zeros((0, 4), np.float32), np.zeros(0)))
    assert sum(1 for _ in stream(quick, pictures(60, 64), batch=4)) == 60
    assert 4 <= most <= 16
    monkeypatch.setattr(module, "MAX_PIXELS", 3 * 64 * 64)
    most = 0
    assert sum(1 for _ in stream(quick, pictures(60, 64), batch=20)) == 60
    assert most <= 10


def working_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("octamark-stream")]


def test_a_detector_of_ones_own_is_called_on_the_thread_of_the_caller(photograph: Picture) -> None:
    """It may not be safe to share. The networks run on other threads all the same."""
    threads: list[str] = []

    def detector(picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        threads.append(threading.current_thread().name)
        return np.array([[180, 60, 270, 175]], np.float32), np.ones(1, np.float32)

    landmarker = octamark.load("nano", threads=1, detector=detector)
    assert all(result.faces for result in stream(landmarker, [photograph] * 5, batch=2))
    assert threads == [threading.current_thread().name] * 5


def test_octamark_s_own_detector_and_networks_run_on_other_threads(
    nano: Landmarker, photograph: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"locate": set(), "read_located": set()}
    for name in threads:
        method = getattr(Landmarker, name)

        def noted(*arguments: Any, name: str = name, method: Any = method, **options: Any) -> Any:
            threads[name].add(threading.current_thread().name)
            return method(*arguments, **options)

        monkeypatch.setattr(Landmarker, name, noted)
    assert all(result.faces for result in stream(nano, [photograph] * 5, batch=2))
    for names in threads.values():
        assert names
        assert all(name.startswith("octamark-stream") for name in names)


def test_pictures_are_located_together_and_while_the_network_reads(
    nano: Landmarker, photograph: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pictures meet in the detector, and the first two are not read before the next two are located."""
    together, later = threading.Barrier(2), threading.Event()
    locate, read = Landmarker.locate, Landmarker.read_located
    located: list[object] = []

    def locate_in_pairs(*arguments: Any, **options: Any) -> Any:
        together.wait(timeout=60)
        result = locate(*arguments, **options)
        located.append(result)
        if len(located) >= 4:
            later.set()
        return result

    def read_after_four(*arguments: Any) -> Any:
        assert later.wait(timeout=60)
        return read(*arguments)

    monkeypatch.setattr(Landmarker, "locate", locate_in_pairs)
    monkeypatch.setattr(Landmarker, "read_located", read_after_four)
    results = list(stream(nano, [photograph] * 6, batch=2, decoders=3))
    assert [result.error for result in results] == [None] * 6


def test_what_the_inputs_raise_is_passed_on_and_leaves_no_thread(nano: Landmarker, photograph: Picture) -> None:
    def inputs() -> Iterator[Picture]:
        yield photograph
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(nano, inputs()))
    assert not working_threads()


def test_results_come_before_the_inputs_end(nano: Landmarker, photograph: Picture) -> None:
    """A generator of inputs may never end: results are not kept until then."""
    results = stream(nano, (photograph for _ in iter(int, 1)), batch=2)
    assert [next(results).index for _ in range(5)] == list(range(5))
    results.close()  # type: ignore[attr-defined]
    assert not working_threads()


def test_a_stream_that_is_left_early_stops_decoding(nano: Landmarker, photograph: Picture) -> None:
    taken: list[int] = []

    def inputs() -> Iterator[Picture]:
        for index in range(1000):
            taken.append(index)
            yield photograph

    results = stream(nano, inputs(), batch=2)
    assert isinstance(next(results).faces, Faces)
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 10
    assert not working_threads()


@pytest.mark.parametrize("inputs", ["picture.jpg", Path("picture.jpg"), b"bytes", np.zeros((64, 64, 3), np.uint8)])
def test_one_picture_is_no_iterable_of_pictures(inputs: Any) -> None:
    """A path would be read as its letters, an array as its rows."""
    with pytest.raises(ConfigError, match="give a list, or another iterable, of pictures"):
        next(stream(octamark.load("nano"), inputs))
