"""The command line of rendering: what it refuses before it renders, and a small set from start to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import run
from octamark.errors import ConfigError, DataError

REPOSITORY = Path(__file__).parents[2]


def test_a_layout_without_vertices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout cofw29: its file has no vertices"):
        run("render", "-o", tmp_path / "out", "--assets", tmp_path, "--layout", "cofw29")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["render", "heads"])
def test_missing_assets_are_named(tmp_path: Path, verb: str) -> None:
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    with pytest.raises(DataError, match=r"nowhere: no ict/ict16\.npz in this folder of assets"):
        run(verb, "-o", tmp_path / "out.png", "--assets", tmp_path / "nowhere")


def test_a_head_shows_a_layout_or_a_vertex_not_both(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    with pytest.raises(ConfigError, match="not both"):
        run("heads", "-o", tmp_path / "out.png", "--assets", tmp_path, "--layout", "five", "--at", "3", "4")


WORKER = """
import json, sys
from pathlib import Path
sys.path[:0] = {places!r}
from test_folder import write
from octamark.synthesis.rendering.folder import RenderFolder
job = json.loads(Path(sys.argv[1]).read_text())
folder = RenderFolder(Path(job["folder"]))
for seed in job["seeds"]:
    print(json.dumps({{"start": seed}}), flush=True)
    if job["crowd"]:
        folder.crowd_picture(seed).write_bytes(b"")
    else:
        write(folder, seed, side=job["size"])
    print(json.dumps({{"done": seed}}), flush=True)
"""


def test_a_set_is_rendered_extended_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the options to shards, with a worker that draws noise in place of heads."""
    import functools
    import sys

    import numpy as np

    from octamark.cli import render as verbs
    from octamark.datasets import read
    from octamark.layouts import layout
    from octamark.synthesis.rendering import farm
    from octamark.synthesis.rendering.assets import Assets
    from octamark.synthesis.rendering.folder import RenderFolder
    from octamark.training.shards import open_shards

    for name in Assets.NEEDED:
        place = tmp_path / "assets" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    np.savez(tmp_path / "assets/ict/ict16.npz", V=np.random.default_rng(0).normal(0, 5, (24591, 3)))
    script = tmp_path / "worker.py"
    places = [str(REPOSITORY / "tests/synthesis/rendering"), str(REPOSITORY / "src")]
    script.write_text(WORKER.format(places=places))
    monkeypatch.setattr(verbs, "need_renderer", lambda: None)
    monkeypatch.setattr(
        farm, "render_seeds", functools.partial(farm.render_seeds, command=(sys.executable, str(script)))
    )
    out = tmp_path / "faces"
    options = [
        "--assets",
        tmp_path / "assets",
        "--size",
        "64",
        "--workers",
        "2",
        "--input-size",
        "32",
        "--seed",
        "2",
        "--shards",
    ]
    for count in (3, 5):
        text = run("render", "-o", out, "--count", count, *options)
        assert f"{count} pictures" in text
        assert json.loads((out / "audit.json").read_text())["pictures"] == count
        landmarks = open_shards(out / "shards-ibug68").landmarks
        assert landmarks is not None
        assert tuple(landmarks.shape) == (count, 68, 2)
        faces = read("coco", out / "landmarks-ibug68.json", layout=layout("ibug68"))
        labels = {seed: found for seed, _, found in RenderFolder(out).landmarks(layout("ibug68"))}
        assert len(faces) == count
        for face, (seed, found) in zip(faces, labels.items(), strict=True):
            assert face.picture == RenderFolder(out).picture(seed)
            np.testing.assert_allclose(face.landmarks, found.landmarks, atol=0.006)
            assert face.occluded is not None
            assert (face.occluded == ~found.visible).all()
    assert sorted(path.stem for path in (out / "pictures").iterdir())[0] == f"{2 * 10**6:012d}"
    assert (out / "sheet.png").exists()
    with pytest.raises(ConfigError, match="was begun with size 64, now 96"):
        run("render", "-o", out, "--count", 5, *options, "--size", "96")
    with pytest.raises(ConfigError, match="was begun with caricatures"):
        run("render", "-o", out, "--count", 5, *options, "--caricatures", "0.5")
