"""Places: files and folders by local path or by URI (``s3://bucket/key``), through the file systems of pyarrow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

from octamark.errors import ConfigError, OctamarkError, install_hint

SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")
"""The kinds of URI that pyarrow's file systems read."""

_URI = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters at least: C:// is a path of Windows
_SETTINGS = re.compile(r"\?\w+=[^/?]*$")  # such as ?region=eu-west-1&endpoint_override=localhost:9000


def is_uri(name: str) -> bool:
    """Whether a name is a URI rather than a local path."""
    return _URI.match(name) is not None


def absolute(name: str) -> str:
    """The name with which other processes and machines find the same file: a URI as it is, a path from the root."""
    return name if is_uri(name) else os.path.abspath(name)


@dataclass(frozen=True)
class Place:
    """A file or folder in one of pyarrow's file systems.

    Attributes:
        name: as people write it: a local path or a URI.
        filesystem: pyarrow's.
        path: in the file system.
    """

    name: str
    filesystem: Any
    path: str

    def __truediv__(self, below: str) -> Place:
        """A file or folder below this folder."""
        head, settings = split_settings(self.name)
        return replace(self, name=f"{head.rstrip('/')}/{below}{settings}", path=f"{self.path.rstrip('/')}/{below}")

    def sibling(self, path: str) -> Place:
        """The file at another path of the same file system."""
        head, settings = split_settings(self.name)
        scheme = _URI.match(head)
        local = scheme is None or scheme[1].lower() == "file"
        name = path if local else f"{head[: scheme.end()]}{path}{settings}"  # type: ignore[union-attr]
        return replace(self, name=name, path=path)

    @property
    def is_local(self) -> bool:
        return bool(self.filesystem.type_name == "local")

    def kind(self) -> str:
        """``"file"``, ``"folder"`` or ``"missing"``.

        Raises:
            OctamarkError: the file system cannot be reached.
        """
        from pyarrow.fs import FileType

        with errors(self.name):
            found = self.filesystem.get_file_info(self.path).type
        return {FileType.File: "file", FileType.Directory: "folder"}.get(found, "missing")

    def read(self, limit: int | None = None) -> bytes:
        """The bytes of the file, of at most one byte more than ``limit``.

        Raises:
            OSError: it cannot be read.
        """
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read() if limit is None else stream.read(limit + 1))


def place(name: str | os.PathLike[str]) -> Place:
    """The place of that name; nothing is looked up.

    Args:
        name: a local path, or a URI of ``SCHEMES``. Settings of the file system may follow a question mark, as
            pyarrow documents them: ``s3://bucket/key?region=eu-west-1``.

    Raises:
        ConfigError: a URI of another kind, or one that cannot be read.
        OctamarkError: pyarrow is not installed.
    """
    name = os.fspath(name)
    pyarrow()
    if not is_uri(name):
        return Place(name, _file_system("file:///")[0], os.path.abspath(name))
    head, settings = split_settings(name)
    scheme, rest = head.split("://", 1)
    if scheme.lower() not in SCHEMES:
        raise ConfigError(f"{name}: unknown kind {scheme}://; allowed: local paths, {'://, '.join(SCHEMES)}://")
    if scheme.lower() == "file":
        return Place(name, _file_system("file:///")[0], "/" + rest.lstrip("/"))
    authority, _, key = rest.partition("/")
    try:
        filesystem, root = _file_system(f"{scheme}://{authority}/{settings}")
    except (ValueError, NotImplementedError, OSError) as error:
        raise ConfigError(f"{name}: cannot be read ({error})") from error
    root = root.rstrip("/")  # the bucket
    return Place(name, filesystem, f"{root}/{key}" if key else root)


@cache
def _file_system(uri: str) -> tuple[Any, str]:
    """(file system, path in it) of a URI."""
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(uri)
    return filesystem, path


def split_settings(name: str) -> tuple[str, str]:
    """A URI without and with only the settings at its end, which begin with a question mark."""
    match = _SETTINGS.search(name) if is_uri(name) else None
    return (name, "") if match is None else (name[: match.start()], match[0])


def pyarrow() -> ModuleType:
    """The package pyarrow.

    Raises:
        OctamarkError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise OctamarkError(f"this needs packages that are not installed: {install_hint(['pyarrow'])}") from error
    return pyarrow  # type: ignore[no-any-return]


@contextmanager
def errors(name: str) -> Iterator[None]:
    """What pyarrow raises in here becomes an ``OctamarkError`` that begins with the name."""
    try:
        yield
    except OSError as error:
        raise OctamarkError(f"{name}: cannot be used ({error.strerror or error})") from error
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise OctamarkError(f"{name}: cannot be used ({error})") from error
