"""Write the folder of static files that is octamark in the browser: the page, the module, the models.

python tools/build_site.py build/site

Any static host serves the folder. ONNX Runtime comes from npm, at a pinned version whose tarball is checked; YuNet and
the model files come from the package. ``octamark.json`` says what the module needs to know of the models.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from octamark import __version__, load, models
from octamark.inference.yunet import YUNET_FILE, YUNET_SHA256, yunet_weights
from octamark.layouts import BUILTIN, dumps, layout
from octamark.layouts.head import _reference_shape

REPOSITORY = Path(__file__).parent.parent
WEB = REPOSITORY / "web"
RESULTS = REPOSITORY / "docs" / "measurements" / "results.json"
EXAMPLE = REPOSITORY / "docs" / "portrait.jpg"

PACKAGE = "onnxruntime-web@1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""What npm's registry states of the tarball, and what is computed of the one that was fetched."""

RUNTIME_FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Of the package's folder ``dist``: the runtime on the CPU, and the one that also has WebGPU."""

DEFAULT_MODEL = "tiny-128"
"""The page's; it works offline after the first visit, the others once they were used."""

ON_DEMAND = (".webgpu.", ".asyncify.", "models/", ".d.ts", "index.html")
"""Parts of the names of files that are kept for offline use only once they were used; index.html is kept as ``./``."""


def fetch_runtime(cache: Path) -> Path:
    """The tarball of ONNX Runtime in a folder; npm fetches it if it is not there.

    Raises:
        SystemExit: npm is missing or cannot fetch it, or the tarball is not the pinned one.
    """
    path = cache / f"{PACKAGE.replace('@', '-')}.tgz"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is missing; it fetches onnxruntime-web (Debian: apt-get install npm)")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            done = subprocess.run(
                [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--pack-destination", folder],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"npm pack {PACKAGE}: {done.stderr.strip() or done.stdout.strip()}")
            next(Path(folder).glob("*.tgz")).replace(path)
    digest = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise SystemExit(f"{path}: its integrity is {digest}, not that of {PACKAGE}; delete it and try again")
    return path


def head() -> dict[str, Any]:
    """The generic head at the points of ibug68: (x, y, z) in centimetres, None without a place, and which count."""
    shape = _reference_shape()
    points = [None if np.isnan(point).any() else np.round(point, 3).tolist() for point in shape.points]
    return {
        "points": points,
        **{side: np.flatnonzero(getattr(shape, side)).tolist() for side in ("rigid", "right", "left")},
    }


def browser_milliseconds() -> dict[str, float]:
    """Milliseconds per face in a browser by model, as ``benchmarks.browser`` measured them; empty before it did."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if "browser" not in results:
        return {}
    column = [title for title, _ in results["browser"]["columns"]].index("ms per face")
    return {row[0].strip("`"): row[column] for row in results["browser"]["rows"]}


def catalogue() -> dict[str, Any]:
    """The content of ``octamark.json``."""
    milliseconds = browser_milliseconds()
    entries: dict[str, Any] = {}
    for name in [*models.available(), models.REGIONS]:
        content = models.read(name)
        entry: dict[str, Any] = {
            "file": f"models/{name}.onnx",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        if name == models.REGIONS:
            entry["regional"] = True
        else:
            card = load(name, refine="never").card
            entry |= {"parameters": card.parameters, "input": card.crop.size, "commercialUse": card.commercial_use}
        if name in milliseconds:
            entry["milliseconds"] = round(milliseconds[name], 1)
        entries[name] = entry
    return {
        "version": __version__,
        "models": entries,
        "regionsModel": models.REGIONS_MODEL,
        "detector": {"file": f"models/{YUNET_FILE}", "bytes": len(yunet_weights()), "sha256": YUNET_SHA256},
        "layouts": {name: json.loads(dumps(layout(name))) for name in BUILTIN},
        "heads": {"ibug68": head()},
    }


def build(target: Path, cache: Path) -> None:
    """Write the site into a folder, in place of what is there.

    Args:
        target: a folder that is missing, empty or a site.
        cache: folder in which the tarball of ONNX Runtime is kept.

    Raises:
        SystemExit: a folder that holds something else; and as ``fetch_runtime``.
    """
    if target.exists() and any(target.iterdir()) and not (target / "octamark.json").is_file():
        raise SystemExit(f"{target}: holds something else than a site; name another folder")
    runtime = fetch_runtime(cache)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(WEB, target)
    shutil.copy(EXAMPLE, target / "example.jpg")
    shutil.copy(REPOSITORY / "LICENSE", target / "LICENSE.txt")
    shutil.copy(REPOSITORY / "NOTICE.md", target / "NOTICE.txt")
    (target / "ort").mkdir()
    with tarfile.open(runtime) as archive:
        for name in RUNTIME_FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            (target / "ort" / name).write_bytes(member.read())
    (target / "models").mkdir()
    for name in [*models.available(), models.REGIONS]:
        (target / "models" / f"{name}.onnx").write_bytes(models.read(name))
    (target / "models" / YUNET_FILE).write_bytes(yunet_weights())
    (target / "octamark.json").write_text(json.dumps(catalogue(), separators=(",", ":")), encoding="utf-8")
    write_service_worker(target)


def write_service_worker(target: Path) -> None:
    """Put the list of files and a version, which changes with any of them, into the service worker."""
    version = hashlib.sha256()
    kept = ["./"]
    defaults = (f"models/{DEFAULT_MODEL}.onnx", f"models/{YUNET_FILE}")
    for path in sorted(path for path in target.rglob("*") if path.is_file() and path.name != "sw.js"):
        name = path.relative_to(target).as_posix()
        version.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        if name in defaults or not any(part in name for part in ON_DEMAND):
            kept.append(name)
    worker = target / "sw.js"
    text = worker.read_text(encoding="utf-8")
    for placeholder, value in (("VERSION_OF_THE_SITE", version.hexdigest()[:16]), ("FILES_OF_THE_SITE", kept)):
        assert text.count(f'"{placeholder}"') == 1
        text = text.replace(f'"{placeholder}"', json.dumps(value))
    worker.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("python tools/build_site.py FOLDER")
    build(Path(sys.argv[1]), REPOSITORY / "build" / "npm")
