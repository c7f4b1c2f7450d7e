"""Readers of the assets' files, and errors that name what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octamark.errors import DataError
from octamark.synthesis.rendering.assets import Assets, read_fit, read_obj

OBJ = """# a square and a triangle
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
g one
f 1/1 2/2 3/3 4/4
g two
f 1 2 3
"""

FIT = """# hm08
name small
x_scale 0 1 2.0
verts 0
tag young
    0     1     2 0.5 0.25 0.25 0.1 0.2 0.3
    3
delete_verts
1 - 2 3 - 4 5 - 6
"""


def test_polygons_become_triangles_with_groups(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(OBJ)
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert mesh.uv_triangles[:2].tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.groups.tolist() == ["one", "one", "two"]


def test_a_fit_follows_the_base_mesh_and_ends_at_other_lists(tmp_path: Path) -> None:
    (tmp_path / "a.mhclo").write_text(FIT)
    fit = read_fit(tmp_path / "a.mhclo")
    base = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [7, 8, 9]])
    np.testing.assert_allclose(fit.place(base), [[1 + 0.1 * 4 / 2, 1 + 0.2, 0.3], [7, 8, 9]])


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no ict/ict16\.npz in this folder of assets; docs/how-to/render\.md"):
        Assets(tmp_path)
    with pytest.raises(DataError, match=r"b\.obj: cannot be read"):
        read_obj(tmp_path / "b.obj")
    (tmp_path / "c.obj").write_text("nothing\n")
    with pytest.raises(DataError, match=r"c\.obj: no vertices"):
        read_obj(tmp_path / "c.obj")
    (tmp_path / "d.mhclo").write_text("name x\n")
    with pytest.raises(DataError, match=r"d\.mhclo: lists no vertices"):
        read_fit(tmp_path / "d.mhclo")
