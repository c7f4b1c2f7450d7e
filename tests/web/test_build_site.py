"""tools/build_site.py: the tarball of the runtime is checked, and no folder of somebody else is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from web.conftest import load_tool

build_site = load_tool("build_site")


def test_a_changed_tarball_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="integrity"):
        build_site.fetch_runtime(tmp_path)


def test_without_npm_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm is missing"):
        build_site.fetch_runtime(tmp_path)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="holds something else"):
        build_site.build(tmp_path, tmp_path / "cache")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_the_site_is_whole(site: Path) -> None:
    for name in ("index.html", "octamark.js", "octamark.d.ts", "sw.js", "ort/ort-wasm-simd-threaded.wasm"):
        assert (site / name).is_file()
    worker = (site / "sw.js").read_text()
    assert "OF_THE_SITE" not in worker
    assert '"models/tiny-128.onnx"' in worker
    assert '"models/small.onnx"' not in worker
    assert "webgpu" not in worker
