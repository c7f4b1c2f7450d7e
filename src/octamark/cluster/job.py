"""A job: workers on Ray that read pictures and write parts, and a driver that deals out, commits and replaces.

How nothing is lost and nothing comes twice: a worker writes what it read into a file below ``_unfinished``. When the
worker has closed it, the driver, and it alone, renames it to a part of the result. Whatever a worker had read and not
yet handed over when it died is read again by another. ``resume`` looks at the parts alone.

How a picture that ends the process is found: the pictures that a worker was reading when it died are read again one at
a time, each by a worker that has nothing else to lose. The one with which a process dies alone, twice, becomes a
failure.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

import cv2

from octamark.cluster.inputs import is_video
from octamark.cluster.predictor import LandmarkPredictor, Outcome
from octamark.errors import ConfigError, OctamarkError, OutputError, install_hint
from octamark.io.parquet import SUFFIX, Failure, open_part, parts, printable, read_batches, table
from octamark.io.places import Place, errors, place
from octamark.io.writers import open_locked

UNFINISHED = "_unfinished"
"""Folder below the results for files that are being written; readers of Parquet pass over names with ``_``."""

_AHEAD = 2  # calls that a worker has before it, so that it never waits for the driver
_DEATHS = 3  # of the processes that read a picture: among others, alone, and alone once more
_FAILED_STARTS = 3  # in a row, of workers, after which the job ends
_ROWS = 1000  # of a part that a worker holds before it writes them
_GRACE = 60.0  # seconds that workers have to hand over what they read after an interruption
_TURN = 1.0  # seconds between two reports of progress
_OBJECTS = 100_000_000  # bytes of Ray's store on this machine; counts and paths are all it holds

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobOptions:
    """How a job is run.

    Attributes:
        address: of a Ray cluster, such as ``auto`` or ``ray://head:10001``; None starts Ray on this machine alone.
        workers: processes that read, each with one processor; None takes the processors of the cluster.
        resume: go on from the parts that are there.
        retry_failed: with ``resume``, read again what failed.
        batch: pictures that are sent to a worker together; None takes ``batch_size`` of the workers.
        part: pictures and frames after which a worker closes a part; a worker that dies loses at most about as many.
        timeout: seconds after which a worker that reads a batch of pictures is ended; videos may take any time.

    Raises:
        ConfigError: a value that is not allowed.
    """

    address: str | None = None
    workers: int | None = None
    resume: bool = False
    retry_failed: bool = False
    batch: int | None = None
    part: int = 1000
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("workers", "batch", "part"):
            value = getattr(self, name)
            if not (name != "part" and value is None) and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} {value!r}; allowed: whole numbers from 1")
        if not isinstance(self.timeout, Real) or not self.timeout > 0:
            raise ConfigError(f"timeout {self.timeout!r}; allowed: seconds above 0")
        if self.retry_failed and not self.resume:
            raise ConfigError("retry_failed goes with resume: it reads again what failed in an earlier call")


def batch_size(workers: int) -> int:
    """How many pictures are sent to one of so many workers together: enough that the driver keeps up with them."""
    return min(256, max(16, workers // 4))


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    Attributes:
        total: pictures and videos to be read in this call.
        done: of them, read; they may be read again if their worker dies now.
        frames: pictures and frames of videos read.
        faces: found. failed: pictures and videos.
        workers: that have started. deaths: workers that were lost.
    """

    total: int
    done: int = 0
    frames: int = 0
    faces: int = 0
    failed: int = 0
    workers: int = 0
    deaths: int = 0


@dataclass(frozen=True)
class Summary(Progress):
    """What a job did.

    Attributes:
        earlier: pictures and videos of earlier calls. earlier_failed: of them, failures.
        interrupted: whether it was ended before everything was read.
    """

    earlier: int = 0
    earlier_failed: int = 0
    interrupted: bool = False


@dataclass
class Counts:
    """What came of some pictures and videos."""

    files: int = 0
    frames: int = 0
    faces: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        self.files += other.files
        self.frames += other.frames
        self.faces += other.faces
        self.errors += other.errors


class Worker:
    """The actor: reads pictures into a part below ``_unfinished``."""

    def __init__(self, predictor: LandmarkPredictor, folder: str) -> None:
        cv2.setNumThreads(1)
        self._predictor, self._folder = predictor, place(folder)
        self._part: Place | None = None
        self._writer: Any = None

    def start(self) -> int:
        """The id of the process."""
        return os.getpid()

    def read(self, files: Sequence[str]) -> Counts:
        """Read pictures and videos; their rows are in the part when it is closed."""
        counts, held = Counts(len(files)), list[Outcome]()
        for outcome in self._predictor.outcomes(files):
            held.append(outcome)
            if isinstance(outcome, Failure):
                counts.errors.append(outcome.error)
            else:
                counts.frames += 1
                counts.faces += len(outcome.faces)
            if len(held) >= _ROWS:
                self._write(held)
        self._write(held)
        return counts

    def close_part(self) -> str | None:
        """The name of the file, in the folder, that holds all rows since the last call; None if there are none."""
        if self._part is None:
            return None
        with errors(self._part.name):
            self._writer.close()
        name = self._part.path.rpartition("/")[2]
        self._part = self._writer = None
        return name

    def _write(self, held: list[Outcome]) -> None:
        with errors(self._folder.name):
            if self._part is None:
                self._part = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
                self._writer = open_part(self._part)
            self._writer.write_table(table(held))
        held.clear()


@dataclass(eq=False)
class _Task:
    """Pictures, or one video, that are read in one call.

    Attributes:
        deaths: processes that died with it.
        reason: of the last death.
    """

    files: tuple[str, ...]
    video: bool = False
    deaths: int = 0
    reason: str = ""

    @property
    def suspect(self) -> bool:
        return self.deaths > 0


@dataclass(eq=False)
class _Call:
    """A call that an actor has not answered; ``task`` is None where it closes a part."""

    reference: Any
    task: _Task | None


@dataclass(eq=False)
class _Actor:
    """A worker as the driver sees it.

    Attributes:
        handle: Ray's. starting: the call that tells when it has started; None from then on.
        calls: in the order in which they are answered. since: when the first of them became the first.
        read: tasks that are answered and not yet in a part of the result, with their counts.
        overdue: whether it was ended because a call took too long.
    """

    handle: Any
    starting: Any
    calls: deque[_Call] = field(default_factory=deque)
    since: float = 0.0
    read: list[tuple[_Task, Counts]] = field(default_factory=list)
    overdue: bool = False

    @property
    def first(self) -> Any:
        """The reference that is answered next; None if there is none."""
        return self.starting if self.starting is not None else self.calls[0].reference if self.calls else None

    @property
    def closing(self) -> bool:
        return any(call.task is None for call in self.calls)


def run(
    names: Sequence[str],
    out: str | os.PathLike[str],
    predictor: LandmarkPredictor,
    options: JobOptions | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_failure: Callable[[str], None] = lambda message: None,
) -> Summary:
    """A job as its ``Summary``: the faces of pictures and videos as Parquet, by processes on Ray.

    If Ray is already running in this process, it is used; ``options.address`` is then not looked at. Ctrl-C, or what
    ``on_progress`` raises as ``KeyboardInterrupt``, ends the job early; what was read by then is kept.

    Args:
        names: paths and URIs, as ``find_inputs`` gives them; each once.
        out: folder of the results, by path or URI; it is made if it is missing. All workers, and this process, must
            reach it under this name.
        predictor: is built again in each worker.
        on_progress: called about every second.
        on_failure: called with a message for each picture or video that failed.

    Raises:
        OutputError: the folder cannot be written to, another job writes to it, holds results and ``resume`` is not
            asked for, or those of another model or layout.
        OctamarkError: Ray is not installed or not there, or no worker can be started.
        DataError: a part that cannot be read.
    """
    chosen = options or JobOptions()
    target = place(out)
    with ExitStack() as stack:
        if target.is_local:
            stack.enter_context(_locked(target))
        with errors(target.name):
            target.filesystem.create_dir((target / UNFINISHED).path, recursive=True)
            target.filesystem.delete_dir_contents((target / UNFINISHED).path)
        done = _Earlier()
        if target.is_local or target.kind() == "folder":
            done = _earlier(target, predictor, chosen)
        rest = [name for name in names if printable(name) not in done.files]
        summary = Summary(len(rest), earlier=len(names) - len(rest), earlier_failed=done.failed)
        if rest:
            ray = stack.enter_context(_connected(chosen, len(rest)))
            job = _Job(ray, target, predictor, chosen, done.next_part, on_progress, on_failure)
            summary = job.run(rest, summary)
        with suppress(OSError):  # of object stores
            target.filesystem.delete_dir((target / UNFINISHED).path)
    return summary


@dataclass
class _Earlier:
    """Results that are there: which pictures, how many failed, and the number of the next part."""

    files: set[str] = field(default_factory=set)
    failed: int = 0
    next_part: int = 0


def _earlier(target: Place, predictor: LandmarkPredictor, options: JobOptions) -> _Earlier:
    """The results of earlier calls.

    Raises:
        OutputError: there are some and they are not to be gone on from, or cannot be.
    """
    try:
        found = parts(target)
    except OctamarkError:
        return _Earlier()
    if not options.resume:
        raise OutputError(
            f"{target.name}: holds {len(found)} part{'' if len(found) == 1 else 's'} of an earlier call; go on with "
            "--resume, or name another folder"
        )
    numbers = [int(number) for part in found if (number := part.path.rpartition("-")[2][: -len(SUFFIX)]).isdecimal()]
    earlier = _Earlier(next_part=max(numbers, default=-1) + 1)
    expected = {"model": predictor.landmarker.card.name, "layout": predictor.landmarker.layout.name}
    for part in found:
        failed = set()
        for batch in read_batches(part, ("file", "error", *expected), 100_000):
            for key, value in expected.items():
                if others := set(batch.column(key).unique().to_pylist()) - {value}:
                    raise OutputError(
                        f"{part.name}: written with {key} {min(others)}, not {value}; resume with the same {key}, or "
                        "name another folder"
                    )
            files, reasons = batch.column("file").to_pylist(), batch.column("error").to_pylist()
            earlier.files.update(files)
            failed |= {file for file, reason in zip(files, reasons, strict=True) if reason is not None}
        if failed and options.retry_failed:
            _without(part, target, failed)
            earlier.files -= failed
        elif failed:
            earlier.failed += len(failed)
    return earlier


def _without(part: Place, target: Place, failed: set[str]) -> None:
    """Write a part anew without the rows of these pictures."""
    import pyarrow as pa
    from pyarrow import compute

    rewritten = target / UNFINISHED / f"{uuid.uuid4().hex}{SUFFIX}"
    with errors(part.name):
        with open_part(rewritten) as writer:
            for batch in read_batches(part):
                kept = compute.invert(compute.is_in(batch.column("file"), value_set=pa.array(sorted(failed))))
                writer.write_batch(batch.filter(kept))
        target.filesystem.move(rewritten.path, part.path)


@contextmanager
def _locked(target: Place) -> Iterator[None]:
    """The folder is made, and no other job writes to it.

    Raises:
        OutputError: another job does, or the folder cannot be written to.
    """
    folder = Path(target.path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target.name}: the folder cannot be made ({error.strerror})") from error
    path = folder / "_lock"
    with open_locked(path):
        yield
        path.unlink(missing_ok=True)


@contextmanager
def _connected(options: JobOptions, tasks: int) -> Iterator[Any]:
    """Ray, connected to a cluster or started on this machine; signals do what they did before.

    Raises:
        OctamarkError: Ray is not installed, or no cluster is at the address.
    """
    try:
        import ray
    except ImportError as error:
        hint = install_hint(['"ray[data]"'])
        raise OctamarkError(f"this needs packages that are not installed: {hint}") from error
    if ray.is_initialized():
        yield ray
        return
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later releases do; else Ray warns
    try:
        if options.address is None:
            processors = options.workers or _processors()
            ray.init(
                "local", num_cpus=min(processors, tasks), include_dashboard=False, object_store_memory=_OBJECTS,
                **settings,
            )  # fmt: skip
        else:
            ray.init(options.address, **settings)
    except Exception as error:  # Ray raises many kinds, some of them as Exception itself
        where = "Ray cannot be started" if options.address is None else f"no Ray cluster at {options.address}"
        raise OctamarkError(f"{where} ({_last_line(error)})") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Job:
    """The driver's side."""

    def __init__(
        self,
        ray: Any,
        target: Place,
        predictor: LandmarkPredictor,
        options: JobOptions,
        next_part: int,
        on_progress: Callable[[Progress], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._ray, self._target, self._options = ray, target, options
        self._model, self._layout = predictor.landmarker.card.name, predictor.landmarker.layout.name
        self._next_part, self._on_progress, self._on_failure = next_part, on_progress, on_failure
        self._queue: deque[_Task] = deque()
        self._actors: list[_Actor] = []
        self._predictor = ray.put(predictor)
        self._actor_class = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        self._committed = Counts()
        self._total = self._deaths = self._failed_starts = 0

    def run(self, names: Sequence[str], summary: Summary) -> Summary:
        """Read everything; a summary with the counts added to the one given."""
        self._total = len(names)
        processors = self._options.workers or int(self._ray.cluster_resources().get("CPU", 1))
        self._queue.extend(_tasks(names, self._options.batch or batch_size(processors)))
        interrupted = False
        try:
            for _ in range(max(1, min(processors, len(self._queue)))):
                self._actors.append(self._new_actor())
            reported = 0.0
            while self._queue or any(actor.calls or actor.read for actor in self._actors):
                self._deal()
                self._wait()
                if time.monotonic() - reported >= _TURN:
                    reported = time.monotonic()
                    self._on_progress(self._progress())
            self._on_progress(self._progress())
        except KeyboardInterrupt:
            interrupted = True
            self._hand_over()
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)
        counts = {item.name: getattr(self._progress(), item.name) for item in fields(Progress)}
        earlier = {"earlier": summary.earlier, "earlier_failed": summary.earlier_failed}
        return Summary(**counts, **earlier, interrupted=interrupted)

    def _new_actor(self) -> _Actor:
        handle = self._actor_class.remote(self._predictor, (self._target / UNFINISHED).name)
        return _Actor(handle, handle.start.remote(), since=time.monotonic())

    def _progress(self) -> Progress:
        counts = Counts()
        counts.add(self._committed)
        for actor in self._actors:
            for _, read in actor.read:
                counts.add(read)
        started = sum(actor.starting is None for actor in self._actors)
        return Progress(
            self._total, counts.files, counts.frames, counts.faces, len(counts.errors), started, self._deaths
        )

    def _deal(self) -> None:
        """Give each worker that has started as much as it should have before it."""
        for actor in self._actors:
            if actor.starting is not None:
                continue
            held = sum(counts.frames + len(counts.errors) for _, counts in actor.read)
            if held >= self._options.part and not actor.closing:
                self._call(actor, None)
            while self._queue and len(actor.calls) < _AHEAD:
                if any(call.task is not None and call.task.suspect for call in actor.calls):
                    break
                if self._queue[0].suspect and (actor.read or actor.calls):  # first hand over what a death would cost
                    if not actor.closing:
                        self._call(actor, None)
                    break
                self._call(actor, self._queue.popleft())
            if not self._queue and actor.read and not actor.calls:
                self._call(actor, None)

    def _call(self, actor: _Actor, task: _Task | None) -> None:
        if not actor.calls:
            actor.since = time.monotonic()
        reference = actor.handle.close_part.remote() if task is None else actor.handle.read.remote(task.files)
        actor.calls.append(_Call(reference, task))

    def _wait(self) -> None:
        """Take the answers that are there, within a second."""
        waiting = {actor.first: actor for actor in self._actors if actor.first is not None}
        if not waiting:
            time.sleep(0.05)
            return
        ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=_TURN)
        if ready:
            ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for reference in ready:
            self._take(waiting[reference])
        now = time.monotonic()
        for actor in self._actors:
            task = actor.calls[0].task if actor.calls and actor.starting is None else None
            if task is not None and not task.video and now - actor.since > self._options.timeout and not actor.overdue:
                actor.overdue = True
                self._ray.kill(actor.handle)

    def _take(self, actor: _Actor) -> None:
        """Take the answer to the first call of a worker, or its death.

        Raises:
            OctamarkError: what the worker raised.
        """
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = self._ray.get(actor.first)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, OctamarkError):
                raise cause from None
            raise OctamarkError(f"a worker failed: {type(cause).__name__}: {cause}") from error
        except RayError as error:
            self._replace(actor, error)
            return
        if actor.starting is not None:
            actor.starting, self._failed_starts = None, 0
            actor.since = time.monotonic()
            return
        call = actor.calls.popleft()
        actor.since = time.monotonic()
        if call.task is not None:
            actor.read.append((call.task, answer))
        elif answer is not None:
            self._commit(answer)
            for _, counts in actor.read:
                self._count(counts)
            actor.read.clear()

    def _commit(self, name: str) -> None:
        """Rename a finished file to the next part of the result.

        Raises:
            OutputError: it cannot be found, or not be renamed.
        """
        source = self._target / UNFINISHED / name
        try:
            self._target.filesystem.move(source.path, (self._target / f"part-{self._next_part:06d}{SUFFIX}").path)
        except OSError as error:
            raise OutputError(
                f"{source.name}: cannot be renamed ({error}); the workers and this machine must reach the folder of "
                "the results under the same name"
            ) from error
        self._next_part += 1

    def _count(self, counts: Counts) -> None:
        self._committed.add(counts)
        for message in counts.errors:
            self._on_failure(message)

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """Put back what a dead worker had not handed over, and start another one."""
        place_of = self._actors.index(actor)
        reason = _reason(error, actor.overdue, self._options.timeout)
        _LOG.info("a worker died: %s", error)
        if actor.starting is not None:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise OctamarkError(f"workers cannot be started ({_last_line(error)})") from error
        else:
            self._deaths += 1
        with suppress(Exception):
            self._ray.kill(actor.handle)  # where it can merely not be reached
        lost = [task for task, _ in actor.read]
        reading = [call.task for call in actor.calls if call.task is not None]
        if actor.calls and actor.calls[0].task is not None:
            lost += self._suspects(reading.pop(0), reason)
        self._queue.extendleft(reversed([*reading, *lost]))
        self._actors[place_of] = self._new_actor()

    def _suspects(self, task: _Task, reason: str) -> list[_Task]:
        """What is to be read again of a task with which a process died: each picture on its own."""
        deaths = task.deaths + 1
        if len(task.files) > 1 or deaths < _DEATHS:
            return [_Task((file,), task.video, deaths, reason) for file in task.files]
        (file,) = task.files
        message = f"{file}: the process that reads it dies ({reason})"
        failure = Failure(file, message, self._model, self._layout)
        part = self._target / UNFINISHED / f"{uuid.uuid4().hex}{SUFFIX}"
        with errors(self._target.name), open_part(part) as writer:
            writer.write_table(table([failure]))
        self._commit(part.path.rpartition("/")[2])
        self._count(Counts(1, errors=[printable(message)]))
        return []

    def _hand_over(self) -> None:
        """After an interruption: let workers finish the pictures before them, and keep what they read."""
        self._queue.clear()
        for actor in self._actors:
            if actor.starting is None and not any(call.task is not None and call.task.video for call in actor.calls):
                self._call(actor, None)
            else:
                actor.calls.clear()
                actor.starting = None
        end = time.monotonic() + _GRACE
        with suppress(KeyboardInterrupt):
            while any(actor.calls for actor in self._actors) and time.monotonic() < end:
                waiting = {actor.first: actor for actor in self._actors if actor.calls}
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=_TURN)
                for reference in ready:
                    self._last_answer(waiting[reference])

    def _last_answer(self, actor: _Actor) -> None:
        from ray.exceptions import RayError

        try:
            self._ray.get(actor.first)
        except RayError:
            actor.calls.clear()
            return
        self._take(actor)


def _tasks(names: Sequence[str], batch: int) -> Iterator[_Task]:
    """Pictures in batches of that size, each video on its own."""
    pictures: list[str] = []
    for name in names:
        if is_video(name):
            yield _Task((name,), video=True)
            continue
        pictures.append(name)
        if len(pictures) == batch:
            yield _Task(tuple(pictures))
            pictures.clear()
    if pictures:
        yield _Task(tuple(pictures))


def _reason(error: Exception, overdue: bool, timeout: float) -> str:
    """Why a worker died, in a few words."""
    from ray.exceptions import OutOfMemoryError

    if overdue:
        return f"ended after {timeout:g} seconds"
    return "out of memory" if isinstance(error, OutOfMemoryError) else "crash"


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
