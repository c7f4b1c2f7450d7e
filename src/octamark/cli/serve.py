"""``octamark serve``: the REST service."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from octamark import models
from octamark.cli.console import check_installed, note
from octamark.errors import ConfigError

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")

SITE = Path("build/site")
"""The folder that ``make site`` writes."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--model", help="Model, or path of an .onnx file; may be repeated, the first is the default"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Server processes; the limits hold for each of them")
    ] = 1,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with a token that requests have to carry")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody in who reaches the address, without a token")
    ] = False,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site", help=f"Folder of the page at /, as `make site` writes it; by default {SITE}, if it exists"
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option("--root-path", help="Path under which a proxy serves it, such as /faces")
    ] = "",
    decoders: Annotated[
        int | None,
        typer.Option("--decoders", min=1, help="Processes that decode pictures; by default one per core, 4 at most"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Threads that run the networks; by default one per core, 8 at most"),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Pictures that are held at a time; then 503")] = 128,
    max_megabytes: Annotated[
        float, typer.Option("--max-megabytes", min=0.001, help="Largest body of a request")
    ] = 20.0,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", min=0.001, help="Largest picture")] = 25.0,
    max_pictures: Annotated[int, typer.Option("--max-pictures", min=1, help="Pictures of a request")] = 16,
    max_faces: Annotated[int, typer.Option("--max-faces", min=1, help="Faces of a request")] = 100,
    max_memory: Annotated[
        float, typer.Option("--max-memory", min=1, help="Megabytes that pictures take while they are decoded and read")
    ] = 260.0,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=0.1, help="Time of a request after its upload")
    ] = 30.0,
) -> None:
    """Serve landmarks over HTTP.

    Without --token-file or --public the service listens at this machine alone. It keeps nothing, and logs sizes and
    times only. It stops on Ctrl-C or SIGTERM, after the requests that run.
    """
    check_installed(_PACKAGES)
    from octamark.serving import server
    from octamark.serving.settings import Settings

    token = None if token_file is None else read_token(token_file)
    if token is None and not public and not is_loopback(host):
        raise ConfigError(
            f"host {host}: reachable from other machines; give --token-file, or --public to let everybody in"
        )
    if site is None and (SITE / "index.html").is_file():
        site = SITE
    counts = {"decoders": decoders, "threads": threads}
    settings = Settings(
        models=tuple(model or ["small"]),
        queue=queue,
        max_bytes=round(max_megabytes * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        max_pictures=max_pictures,
        max_faces=max_faces,
        max_memory=round(max_memory * 1e6),
        request_seconds=max_seconds,
        token=token,
        site=site,
        root_path=root_path,
        **{name: count for name, count in counts.items() if count is not None},
    )
    settings = dataclasses.replace(settings, max_uploads=max(settings.max_uploads, settings.max_bytes))
    for source in settings.models:
        models.read(source)  # what is not there is an error before anything is served
    listener = server.bind(host, port)
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    page = f", with the page of {site}" if site is not None else ""
    note(f"octamark serves {', '.join(settings.models)} at http://{shown}:{bound}{page}; Ctrl-C stops it")
    server.run(settings, listener, workers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """The token in a file, without white space around it.

    Raises:
        ConfigError: the file cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"token file {path}: cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        raise ConfigError(f"token file {path}: allowed: characters of ASCII") from error
