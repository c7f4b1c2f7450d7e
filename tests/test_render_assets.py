"""tools/assemble_render_assets.py: a folder from originals, here tiny ones with the names of the real ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from octamark.synthesis.rendering.assets import Assets

TOOL = Path(__file__).parent.parent / "tools" / "assemble_render_assets.py"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def shape(height: float) -> str:
    return (
        f"v 0 0 {height}\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 1\nusemtl M_Face\nf 1/1 2/2 3/1 4/2\nf 1/1 2/2 3/1\n"
    )


def test_a_folder_is_assembled_from_the_originals(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("assemble_render_assets", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    ict, human, light = tmp_path / "FaceXModel", tmp_path / "makehuman", tmp_path / "light"
    for name, height in (("generic_neutral_mesh", 0.0), ("identity000", 0.5), ("identity001", 1), ("jawOpen", 2)):
        write(ict / f"{name}.obj", shape(height))
    write(ict / "vertex_indices.json", "{}")
    write(human / "data/3dobjs/base.obj", shape(0))
    write(human / "skins/young/young_lightskinned_male_diffuse.jpg", "picture")
    write(human / "eyebrows/eyebrow001/eyebrow001.mhclo", "verts 0\n1\n")
    write(human / "clothes/suit/male_casualsuit01.obj", shape(0))
    write(human / "data/targets/macrodetails/asian-male-old.target", "1 0.5 0 0\n")
    write(human / "data/targets/expression/units/caucasian/mouth-open.target", "2 0 1 0\n")
    write(human / "data/targets/head/head-fat-incr.target", "3 0 0 1\n")
    write(light / "city.exr", "light")
    out = tmp_path / "assets"
    tool.main([str(out), "--ict", str(ict), "--makehuman", str(human), "--hdri", str(light)])
    assets = Assets(out)
    assert assets.ict["I"][:, 0, 2].tolist() == [0.5, 1.0]
    assert assets.ict["names"].tolist() == ["jawOpen"]
    assert assets.ict["F"].tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]
    assert assets.ict["FT"].tolist() == [[0, 1, 0, 1], [0, 1, 0, -1]]
    assert assets.target("macrodetails/asian-male-old")[1].tolist() == [0.5, 0, 0]
    assert assets.target("head/head-fat-incr")[3].tolist() == [0, 0, 1]
    np.testing.assert_allclose(assets.obj("clothes/male_casualsuit01").vertices[1], [1, 0, 0])
    (ict / "jawOpen.obj").unlink()
    with pytest.raises(SystemExit, match="FaceXModel is expected"):
        tool.pack_head(ict, out)
