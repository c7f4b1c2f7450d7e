"""Decoding processes: their limits, their end, and who comes after them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import PngImagePlugin

from octamark import read_picture
from octamark.serving.decoding import Decoders
from octamark.serving.metrics import Metrics
from octamark.serving.refusal import RefusalError
from octamark.serving.settings import Settings
from running_service import Running, encoded, running

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are watched in /proc")


@pytest.fixture(scope="module")
def slow_picture() -> bytes:
    """A picture that takes a while to decode."""
    noise = np.random.default_rng(0).integers(0, 255, (1800, 1800, 3))
    return encoded(noise, "PNG", compress_level=0)


def with_decoders(scenario: Callable[[Decoders], Awaitable[None]], **settings: float) -> None:
    async def main() -> None:
        decoders = Decoders(Settings(**{"decoders": 1, **settings}), Metrics())  # type: ignore[arg-type]
        await decoders.start()
        try:
            await scenario(decoders)
        finally:
            await decoders.stop()

    asyncio.run(main())


def test_pictures_are_those_that_are_read_in_this_process(portrait: bytes, slow_picture: bytes) -> None:
    async def scenario(decoders: Decoders) -> None:
        for data in (portrait, slow_picture, encoded(np.zeros((1, 3), np.uint8), "GIF")):
            async with decoders.picture(data) as picture:
                assert np.array_equal(picture, read_picture(data))

    with_decoders(scenario)


@pytest.mark.slow
def test_large_pictures_one_after_another_stay_within_the_limit() -> None:
    white = np.full((4900, 4900, 3), 255, np.uint8)
    files = [encoded(white, "JPEG"), encoded(white, "PNG", compress_level=1)] * 3

    async def scenario(decoders: Decoders) -> None:
        for data in files:
            async with decoders.picture(data) as picture:
                assert picture.shape == (4900, 4900, 3)

    with_decoders(scenario, decode_seconds=60)


def test_memory_is_given_back_and_waited_for(portrait: bytes) -> None:
    async def scenario(decoders: Decoders) -> None:
        order: list[str] = []

        async def second() -> None:
            async with decoders.picture(portrait, lambda pixels: 900_000):
                order.append("second")

        async with decoders.picture(portrait, lambda pixels: 1_000_000):
            task = asyncio.create_task(second())
            await asyncio.sleep(0.3)
            order.append("first")
        await task
        assert order == ["first", "second"]
        for data in (b"text", portrait[:3000]):
            with pytest.raises(RefusalError):
                async with decoders.picture(data):
                    pass
        async with decoders.picture(portrait, lambda pixels: 1_800_000):  # all of it
            pass

    with_decoders(scenario, max_memory=1_800_000)


@needs_proc
def test_a_process_that_ends_costs_one_picture(slow_picture: bytes, portrait: bytes) -> None:
    async def scenario(decoders: Decoders) -> None:
        (victim,) = decoders.process_ids

        async def decode(data: bytes) -> str:
            try:
                async with decoders.picture(data) as picture:
                    return f"{picture.shape[0]}"
            except RefusalError as refusal:
                return f"{refusal.status}: {refusal.reason}"

        os.kill(victim, signal.SIGSTOP)  # so that it ends while it has the picture
        first = asyncio.create_task(decode(slow_picture))
        second = asyncio.create_task(decode(portrait))
        await asyncio.sleep(1.0)  # the picture is with the process, also on a busy machine
        os.kill(victim, signal.SIGKILL)
        assert (await first).startswith("400: the decoder ended at this picture")
        assert await second == "400"  # pixels
        assert victim not in decoders.process_ids
        (idle,) = decoders._all
        os.kill(idle.process_id, signal.SIGKILL)
        while idle.alive:  # all its threads have to end
            await asyncio.sleep(0.01)
        assert await decode(portrait) == "400"

    with_decoders(scenario)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system ends the process")
def test_a_picture_that_takes_too_much_processor_time_is_refused(portrait: bytes) -> None:
    """A progressive JPEG of 130 kB that goes over its 2.6 million pixels some thousand times."""
    image = encoded(np.full((1600, 1600), 90, np.uint8), "JPEG", progressive=True)
    last_scan = image[image.rfind(b"\xff\xda") : -2]
    scan_bomb = image[:-2] + 100_000 * last_scan + image[-2:]

    async def scenario(decoders: Decoders) -> None:
        (process,) = decoders.process_ids
        for data in 3 * [portrait]:  # the time is that of one picture
            async with decoders.picture(data):
                pass
        assert decoders.process_ids == [process]
        with pytest.raises(RefusalError, match=r"more than the 1 s of processor time that are allowed") as caught:
            async with decoders.picture(scan_bomb):
                pass
        assert caught.value.status == 413
        async with decoders.picture(portrait) as picture:
            assert picture.shape == (400, 400, 3)
        assert process not in decoders.process_ids

    with_decoders(scenario, decode_seconds=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read in /proc")
def test_damaged_pictures_leave_no_memory_behind(portrait: bytes) -> None:
    """Their exceptions hold the frames of all callers, and so the pixels, unless no cycle keeps them."""
    grey = np.full((2500, 2500, 3), 90, np.uint8)
    too_long = PngImagePlugin.PngInfo()
    too_long.add_text("comment", "x" * 2_000_000, zip=True)
    good = encoded(grey, "PNG", compress_level=0)
    broken_metadata = encoded(grey, "PNG", compress_level=1, pnginfo=too_long)

    async def scenario(decoders: Decoders) -> None:
        (process,) = decoders.process_ids

        async def held() -> int:
            async with decoders.picture(portrait):  # when this is read, what was before is over
                pages = int(Path(f"/proc/{process}/statm").read_text().split()[5])
            return pages * resource.getpagesize()

        async with decoders.picture(good):
            pass
        before = await held()
        async with decoders.picture(broken_metadata) as picture:
            assert picture.shape == grey.shape
        assert await held() - before < 2_000_000
        with pytest.raises(RefusalError, match="truncated"):
            async with decoders.picture(good[:-9_000_000]):
                pass
        assert await held() - before < 2_000_000

    with_decoders(scenario)


def test_a_picture_that_takes_too_long_is_refused(slow_picture: bytes, portrait: bytes) -> None:
    async def scenario(decoders: Decoders) -> None:
        (process,) = decoders.process_ids
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(RefusalError, match=r"decoding takes longer than the 5 s that are allowed") as caught:
            async with decoders.picture(slow_picture):
                pass
        assert caught.value.status == 413
        async with decoders.picture(portrait) as picture:
            assert picture.shape == (400, 400, 3)

    with_decoders(scenario, request_seconds=5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux")
def test_a_decoder_takes_no_more_address_space_than_allowed_and_writes_no_files() -> None:
    code = (
        "import os, signal\n"
        "from octamark.serving.decoder import restrict\n"
        "restrict(100_000_000)\n"
        "held = bytearray(50_000_000)\n"
        "try: bytearray(200_000_000)\n"
        "except MemoryError: print('refused')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: os.write(os.memfd_create('file'), b'x')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["refused", "File too large"], done.stderr


def test_requests_beside_a_crash_are_answered(slow_picture: bytes, portrait: bytes) -> None:
    with running(decoders=2) as service:
        first, second = service.service.decoders.process_ids
        os.kill(first, signal.SIGSTOP)

        async def scenario(service: Running = service) -> list[int]:
            headers = {"Content-Type": "image/png"}
            posts = [
                asyncio.create_task(service.client.post("/v1/landmarks", content=data, headers=headers))
                for data in (slow_picture, portrait, portrait, portrait)
            ]
            await asyncio.sleep(1.0)  # the picture is with the process, also on a busy machine
            os.kill(first, signal.SIGKILL)
            return [response.status_code for response in await asyncio.gather(*posts)]

        assert sorted(service.run(scenario)) == [200, 200, 200, 400]
        assert "octamark_decoders_replaced_total 1.0" in service.get("/metrics").text
        assert second in service.service.decoders.process_ids
