"""Jobs on a real Ray cluster: nothing is lost and nothing comes twice, whatever dies; and what runs without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster import poisoned
from cluster.conftest import BAD, PICTURES, names
from octamark.cluster import JobOptions, LandmarkPredictor, Progress, Summary, find_inputs, run
from octamark.cluster.job import UNFINISHED
from octamark.errors import ConfigError, OutputError
from octamark.io.parquet import read_batches, table
from octamark.io.places import place

pytest.importorskip("pyarrow", reason="needs pyarrow")
OPTIONS = JobOptions(workers=2, batch=2, part=6)


@pytest.fixture(scope="module")
def predictor() -> LandmarkPredictor:
    return LandmarkPredictor("nano")


@pytest.fixture(scope="module")
def expected(predictor: LandmarkPredictor, pictures: Path) -> list[str]:
    """The rows of an unbroken run, as text, sorted."""
    return texts(table(predictor.outcomes(names(pictures))).to_pylist())


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(str, rows))


def result(out: str | Path) -> list[str]:
    """The rows of a result, as text, sorted."""
    return texts([row for batch in read_batches(str(out)) for row in batch.to_pylist()])


def once(action: Callable[[], None], after: int) -> Callable[[Progress], None]:
    """Acts once, when as many pictures were read."""
    left = [action]

    def on_progress(progress: Progress) -> None:
        if progress.done >= after and left:
            left.pop()()

    return on_progress


def worker_processes() -> list[int]:
    """The processes of workers that have read something, by the name that Ray gives them."""
    found = []
    for place_of in Path("/proc").glob("[0-9]*"):
        try:
            command = (place_of / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::Worker"):
            found.append(int(place_of.name))
    return found


def by_value() -> None:
    """The code of ``Poisoned`` travels to the workers, which do not find it on their path."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(poisoned)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is reported at every answer."""
    monkeypatch.setattr("octamark.cluster.job._TURN", 0.05)


@pytest.mark.slow
def test_two_workers_give_what_one_predictor_gives(
    cluster: Any, predictor: LandmarkPredictor, pictures: Path, expected: list[str], tmp_path: Path
) -> None:
    failures: list[str] = []
    seen: list[Progress] = []
    out = tmp_path / "out"
    summary = run(names(pictures), out, predictor, OPTIONS, on_progress=seen.append, on_failure=failures.append)
    assert summary == Summary(PICTURES, PICTURES, PICTURES - 1, PICTURES - 2, 1, workers=2)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (PICTURES, PICTURES, 1)
    assert result(out) == expected
    assert len(failures) == 1
    assert failures[0].startswith(f"{pictures / BAD}: not a picture")
    assert {path.name[:5] for path in out.iterdir()} == {"part-"}
    again = run(names(pictures), out, predictor, JobOptions(resume=True))
    assert again == Summary(0, earlier=PICTURES, earlier_failed=1)
    assert result(out) == expected


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_from(
    cluster: Any, predictor: LandmarkPredictor, pictures: Path, expected: list[str], tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys, octamark.cluster.job as job\n"
        "job._TURN = 0.05\n"
        "def stop(progress):\n"
        "    if any(name.startswith('part-') for name in os.listdir(sys.argv[2])):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "options = job.JobOptions(sys.argv[1], workers=2, batch=2, part=6)\n"
        "job.run(sys.argv[3:], sys.argv[2], job.LandmarkPredictor('nano'), options, on_progress=stop)\n"
    )
    command = [sys.executable, "-c", code, cluster.address, str(tmp_path), *names(pictures)]
    killed = subprocess.run(command, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / UNFINISHED).is_dir()
    assert len(result(tmp_path)) < len(expected)
    with pytest.raises(OutputError, match=r"holds \d parts? of an earlier call; go on with --resume"):
        run(names(pictures), tmp_path, predictor, OPTIONS)
    resumed = run(names(pictures), tmp_path, predictor, JobOptions(workers=2, batch=2, part=6, resume=True))
    assert resumed.earlier > 0
    assert resumed.earlier + resumed.done == PICTURES
    assert result(tmp_path) == expected
    assert not (tmp_path / UNFINISHED).exists()


@pytest.mark.slow
def test_a_picture_that_ends_the_process_is_named(
    cluster: Any, pictures: Path, expected: list[str], tmp_path: Path
) -> None:
    by_value()
    files = names(pictures)
    poison = str(tmp_path / "poison.png")
    failures: list[str] = []
    summary = run(
        [*files[:5], poison, *files[5:]],
        tmp_path / "out",
        poisoned.Poisoned("nano"),
        OPTIONS,
        on_failure=failures.append,
    )
    message = f"{poison}: the process that reads it dies (crash)"
    assert message in failures
    assert (summary.done, summary.failed) == (PICTURES + 1, 2)
    assert summary.deaths == 3
    rows = [row for batch in read_batches(str(tmp_path / "out")) for row in batch.to_pylist()]
    assert [row["error"] for row in rows if row["file"] == poison] == [message]
    assert texts([row for row in rows if row["file"] != poison]) == expected
    # mended, and read again
    Image.new("RGB", (90, 60)).save(poison)
    retried = run([*files, poison], tmp_path / "out", LandmarkPredictor("nano"), JobOptions(
        workers=1, resume=True, retry_failed=True
    ))  # fmt: skip
    assert (retried.done, retried.failed, retried.earlier, retried.earlier_failed) == (2, 1, PICTURES - 1, 0)
    rows = [row for batch in read_batches(str(tmp_path / "out")) for row in batch.to_pylist()]
    assert [row["faces"] for row in rows if row["file"] == poison] == [0]
    assert texts([row for row in rows if row["file"] != poison]) == expected


@pytest.mark.slow
def test_a_picture_that_never_ends_is_named(cluster: Any, pictures: Path, tmp_path: Path) -> None:
    by_value()
    files = [*names(pictures)[:2], str(tmp_path / "endless.png")]
    failures: list[str] = []
    options = JobOptions(workers=1, batch=3, timeout=3)
    summary = run(files, tmp_path / "out", poisoned.Poisoned("nano"), options, on_failure=failures.append)
    assert f"{files[2]}: the process that reads it dies (ended after 3 seconds)" in failures
    assert summary.done == 3


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_a_killed_worker_and_a_lost_node_cost_nothing(
    cluster: Any, predictor: LandmarkPredictor, pictures: Path, expected: list[str], tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    kill = once(lambda: os.kill(worker_processes()[0], signal.SIGKILL), after=4)
    lose = once(lambda: cluster.remove_node(node, allow_graceful=False), after=10)

    def on_progress(progress: Progress) -> None:
        kill(progress)
        lose(progress)

    options = JobOptions(workers=3, batch=2, part=6)
    summary = run(names(pictures), tmp_path, predictor, options, on_progress=on_progress)
    assert summary.done == PICTURES
    assert summary.deaths >= 1
    assert result(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_an_interrupted_job_keeps_what_was_read(
    cluster: Any, predictor: LandmarkPredictor, pictures: Path, expected: list[str], tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    summary = run(
        names(pictures), tmp_path, predictor, JobOptions(workers=2, batch=2), on_progress=once(interrupt, after=4)
    )
    assert summary.interrupted
    kept = result(tmp_path)
    assert 4 <= summary.done == len(kept) < PICTURES
    assert set(kept) < set(expected)


@pytest.mark.slow
def test_an_object_store_takes_and_gives(
    cluster: Any, predictor: LandmarkPredictor, pictures: Path, expected: list[str], object_store: str
) -> None:
    root = place(f"s3://bucket/job{object_store}")
    for file in names(pictures):
        with root.filesystem.open_output_stream((root / "in" / Path(file).name).path) as stream:
            stream.write(Path(file).read_bytes())
    found = find_inputs([(root / "in").name])
    out = (root / "out").name
    summary = run(found.names, out, predictor, OPTIONS)
    assert (summary.done, summary.failed) == (PICTURES, 1)
    assert run(found.names, out, predictor, JobOptions(resume=True)).earlier == PICTURES
    rows = [row for batch in read_batches(out) for row in batch.to_pylist()]
    local = {(root / "in" / Path(file).name).name: file for file in names(pictures)}
    for row in rows:
        if row["error"] is not None:
            row["error"] = row["error"].replace(row["file"], local[row["file"]])
        row["file"] = local[row["file"]]
    assert texts(rows) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # Ray Data warns of its own default settings
def test_ray_data_takes_the_predictor(cluster: Any, pictures: Path, expected: list[str]) -> None:
    import ray

    files = ray.data.from_items([{"file": name} for name in names(pictures)])
    rows = files.map_batches(
        LandmarkPredictor, fn_constructor_args=("nano",), batch_size=8, num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip
    found = rows.take_all()
    assert [row["file"] for row in sorted(found, key=lambda row: row["file"])] == names(pictures)
    assert sum(row["face"] is not None for row in found) == PICTURES - 2
    assert len(found) == len(expected)


@pytest.mark.slow
def test_the_command_starts_as_many_workers_as_processors(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'ray[data]'")
    out = tmp_path / "out"
    processors = len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "octamark", "batch", str(pictures), "-o", str(out), "-m", "nano"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ran = subprocess.run(
        [*command, "--workers", str(processors)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert ran.returncode == 1, ran.stderr
    lines = ran.stderr.splitlines()
    assert lines[0].startswith(f"error: {pictures / BAD}: not a picture")
    assert lines[-2].startswith(f"{PICTURES - 2} faces in {PICTURES - 1} pictures, ")
    assert lines[-2].endswith(f" pictures per second, results in {out}")
    assert lines[-1] == "error: 1 input failed; the rest are done"
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300, env=environment)
    assert again.returncode == 1, again.stderr
    assert f"{PICTURES} inputs already in {out}" in again.stderr


def test_wrong_options_and_folders_are_one_clear_error(
    predictor: LandmarkPredictor, pictures: Path, tmp_path: Path
) -> None:
    for options, message in (
        ({"workers": 0}, "workers 0; allowed: whole numbers from 1"),
        ({"part": 1.5}, "part 1.5; allowed: whole numbers from 1"),
        ({"timeout": 0}, "timeout 0; allowed: seconds above 0"),
        ({"retry_failed": True}, "retry_failed goes with resume"),
    ):
        with pytest.raises(ConfigError, match=message):
            JobOptions(**options)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: the folder cannot be made"):
        run(names(pictures), tmp_path / "file", predictor)
    from octamark.io.parquet import open_part

    with open_part(place(tmp_path / "part-000007.parquet")) as part:
        part.write_table(table(predictor.outcomes(names(pictures))))
    with pytest.raises(OutputError, match="holds 1 part of an earlier call; go on with --resume"):
        run(names(pictures), tmp_path, predictor)
    with pytest.raises(OutputError, match=r"part-000007.parquet: written with model nano, not pico"):
        run(names(pictures), tmp_path, LandmarkPredictor("pico"), JobOptions(resume=True))
    assert run(names(pictures), tmp_path, predictor, JobOptions(resume=True)).earlier == PICTURES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "part-000007.parquet"]


def test_two_jobs_cannot_write_to_one_folder(predictor: LandmarkPredictor, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs locks of files")
    from octamark.cluster.job import _locked

    with _locked(place(tmp_path)), pytest.raises(OutputError, match="another process is writing to it"):
        run(names(pictures), tmp_path, predictor)
