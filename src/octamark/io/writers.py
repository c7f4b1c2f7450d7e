"""Writers: objects that take one record after another."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from octamark.errors import OutputError
from octamark.images import write_atomically
from octamark.io.records import Record

Target = Path | BinaryIO
"""Where results go: a folder, which must exist, or an open binary stream."""


class Writer(ABC):
    """Writes records of one format; a context manager that closes itself, also after an exception.

    Until the first record nothing is written, and files of an earlier run stay as they are.
    """

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write the prediction for one picture.

        Raises:
            OutputError: a file that cannot be written. OSError: a stream that cannot be written to.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what is still to be written. A second call does nothing.

        Raises: as ``write``.
        """

    def is_done(self, file: str, stem: str) -> bool:
        """Whether an earlier run already wrote the results of a picture; always False unless opened to resume."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class LineWriter(Writer):
    """Appends whole lines picture by picture: each record is one write, so a killed process leaves at most one
    unfinished line, and a failed write none. The file is locked until it is closed, so two processes cannot mix their
    lines in it (not on Windows, nor on file systems without locks)."""

    def __init__(
        self,
        target: Target,
        name: str,
        encode: Callable[[Record], bytes],
        head: bytes = b"",
        resume: Callable[[Path], tuple[int, set[str]]] | None = None,
    ) -> None:
        """Args:
        target: a folder or a stream.
        name: of the file in the folder.
        encode: record -> its lines.
        head: written before the first record of a new file.
        resume: goes on from an existing file: path -> (number of bytes to keep, pictures done); None starts anew.
        """
        self._path = target / name if isinstance(target, Path) else None
        self._stream: IO[bytes] | None = None if isinstance(target, Path) else target
        self._encode = encode
        self._head = head
        self._done: set[str] = set()
        self._size = 0  # bytes of the file that hold whole records
        if resume is not None and self._path is not None and self._path.exists():
            self._stream = open_locked(self._path)
            try:
                self._size, self._done = resume(self._path)
                _cut(self._path, self._size)
            except BaseException:
                self.close()
                raise

    def write(self, record: Record) -> None:
        data = (b"" if self._size else self._head) + self._encode(record)
        if self._path is None:
            assert self._stream is not None
            self._stream.write(data)
            self._stream.flush()
            self._size += len(data)
            return
        if self._stream is None:
            self._stream = open_locked(self._path)
        try:
            status = os.fstat(self._stream.fileno())
            if status.st_nlink == 0:
                raise OutputError(f"{self._path}: was deleted while it was being written")
            if not self._size and status.st_size:
                self._stream.truncate(0)
            self._stream.seek(self._size)
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[self._stream.write(rest) :]
            except BaseException:
                with suppress(OSError):
                    self._stream.truncate(self._size)
                raise
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
        self._size += len(data)

    def close(self) -> None:
        if self._path is not None and self._stream is not None:
            self._stream.close()
            self._stream = None

    def is_done(self, file: str, stem: str) -> bool:
        return file in self._done


class WholeFileWriter(Writer):
    """Collects records and writes one file, atomically, when closed."""

    def __init__(self, target: Target, name: str, add: Callable[[Record], None], whole: Callable[[], str]) -> None:
        """Args:
        target: a folder or a stream.
        name: of the file in the folder.
        add: takes a record. whole: the text of all records taken so far.
        """
        self._target, self._name, self._add, self._whole = target, name, add, whole
        self._pending = False

    def write(self, record: Record) -> None:
        self._add(record)
        self._pending = True

    def close(self) -> None:
        if not self._pending:
            return
        self._pending = False
        data = self._whole().encode("ascii")  # JSON escapes everything else
        if isinstance(self._target, Path):
            write_atomically(self._target / self._name, data)
        else:
            self._target.write(data)
            self._target.flush()


def open_locked(path: Path) -> IO[bytes]:
    """A file open for reading and writing, made if it is missing, that no other process may open in this way.

    Raises:
        OutputError: it cannot be opened, or another process writes to it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        stream = open(descriptor, "r+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    if fcntl is not None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise OutputError(
                f"{path}: another process is writing to it; wait for it, or name another folder"
            ) from error
        except OSError:  # a file system without locks
            pass
    return stream


def _cut(path: Path, size: int) -> None:
    """Shorten a file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        os.truncate(path, size)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
