"""What reaches a terminal that cannot show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from octamark.layouts import layout


def test_names_beyond_the_encoding_are_escaped(tmp_path: Path) -> None:
    points = (layout("ibug68").diagram * 100).tolist()
    for name in ("ünï.json", "truth.json"):
        (tmp_path / name).write_text(json.dumps([{"image": "a", "landmarks": points}]))
    command = [sys.executable, "-m", "octamark", "evaluate", "--predictions", "ünï.json", "--truth", "truth.json"]
    ran = subprocess.run(
        [*command, "--layout", "ibug68", "-o", "out"], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "\\xfcn\\xef.json on truth.json" in ran.stdout
