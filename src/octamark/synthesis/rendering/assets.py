"""The folder of public assets that rendered heads are made of, and readers of its file formats."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octamark.errors import DataError

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

BASE_VERTICES = 19158
"""Vertices of MakeHuman's base mesh, hm08; fits and targets refer to them by index."""


@dataclass(frozen=True, eq=False)
class ObjMesh:
    """A triangulated .obj file.

    Attributes:
        vertices: (n, 3).
        triangles: (t, 3) indices of vertices.
        uv: (k, 2) texture coordinates; v points up.
        uv_triangles: (t, 3) indices of ``uv``.
        groups: (t,) name of each triangle's group.
    """

    vertices: F64
    triangles: Ints
    uv: F64
    uv_triangles: Ints
    groups: NDArray[np.str_]


def read_obj(path: Path) -> ObjMesh:
    """The mesh in a Wavefront .obj file; polygons are cut into fans of triangles.

    Raises:
        DataError: no such file, or one that is no mesh.
    """
    vertices: list[list[str]] = []
    uv: list[list[str]] = []
    triangles: list[tuple[int, int, int]] = []
    uv_triangles: list[tuple[int, int, int]] = []
    groups: list[str] = []
    group = ""
    for line in _text(path).splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append(words[1:4])
        elif words[0] == "vt":
            uv.append(words[1:3])
        elif words[0] == "g":
            group = words[1]
        elif words[0] == "f":
            corners = [word.split("/") for word in words[1:]]
            places = [int(corner[0]) - 1 for corner in corners]
            textures = [int(corner[1]) - 1 if len(corner) > 1 and corner[1] else 0 for corner in corners]
            for k in range(1, len(places) - 1):
                triangles.append((places[0], places[k], places[k + 1]))
                uv_triangles.append((textures[0], textures[k], textures[k + 1]))
                groups.append(group)
    if not vertices or not triangles:
        raise DataError(f"{path}: no vertices or no faces; a Wavefront .obj mesh is expected")
    return ObjMesh(
        np.array(vertices, np.float64),
        np.array(triangles, np.int64),
        np.array(uv or [["0", "0"]], np.float64),
        np.array(uv_triangles, np.int64),
        np.array(groups),
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """Where the vertices of a MakeHuman proxy lie on the base mesh (a .mhclo file).

    Attributes:
        corners: (n, 3) vertices of the base mesh.
        weights: (n, 3) barycentric weights.
        offsets: (n, 3) offsets, in units of ``scales``.
        scales: three (first vertex, second vertex, distance on the undeformed base); an axis's offset is multiplied by
            the present distance over that one. None where the file gives no scale for an axis.
    """

    corners: Ints
    weights: F64
    offsets: F64
    scales: tuple[tuple[int, int, float] | None, ...]

    def place(self, base: F64) -> F64:
        """The proxy's vertices (n, 3) on a base mesh (19158, 3)."""
        offsets = self.offsets.copy()
        for axis, scale in enumerate(self.scales):
            if scale is not None:
                first, second, distance = scale
                offsets[:, axis] *= abs(base[first, axis] - base[second, axis]) / distance
        return np.asarray((base[self.corners] * self.weights[..., None]).sum(axis=1) + offsets)


def read_fit(path: Path) -> Fit:
    """The fit in a .mhclo file.

    Raises:
        DataError: no such file, or one that lists no vertices.
    """
    scales: dict[str, tuple[int, int, float]] = {}
    rows: list[list[float]] = []
    reading = False
    for line in _text(path).splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            scales[words[0][0]] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0] in ("verts", "delete_verts"):
            reading = words[0] == "verts"
        elif reading and len(words) == 9:
            rows.append([float(word) for word in words])
        elif reading and len(words) == 1 and words[0].isdigit():
            rows.append([float(words[0])] * 3 + [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    if not rows:
        raise DataError(f"{path}: lists no vertices; a .mhclo file of MakeHuman is expected")
    table = np.array(rows)
    return Fit(table[:, :3].astype(np.int64), table[:, 3:6], table[:, 6:], tuple(scales.get(axis) for axis in "xyz"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DataError(f"{path}: cannot be read ({reason}); docs/how-to/render.md says how the assets are assembled")


class Assets:
    """The assets in one folder; a file is read when it is needed.

    The folder is made by ``tools/assemble_render_assets.py``: ``ict/ict16.npz`` is the head model, ``mh/`` holds
    MakeHuman's base mesh, skins, hair, brows and clothes, ``hdri/`` environments for light.

    Args:
        folder: where they are.

    Raises:
        DataError: the folder lacks one of the files without which nothing can be rendered; the message names it.
    """

    NEEDED = (
        "ict/ict16.npz", "ict/vertex_indices.json", "mh/base.obj", "mh/skins", "mh/eyebrows", "mh/clothes",
        "mh/targets/macrodetails", "mh/targets/expression/units/caucasian/mouth-open.target.gz", "hdri",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        for name in self.NEEDED:
            if not (self.folder / name).exists():
                raise DataError(
                    f"{self.folder}: no {name} in this folder of assets; docs/how-to/render.md says how to assemble it"
                )

    def __reduce__(self) -> tuple[type[Assets], tuple[Path]]:
        return Assets, (self.folder,)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted stems of the files with a suffix in a folder of the assets, such as ``mh/hair``, ``.mhclo``."""
        return sorted(path.stem for path in (self.folder / folder).glob(f"*{suffix}"))

    def obj(self, name: str) -> ObjMesh:
        """The mesh ``mh/NAME.obj``."""
        return read_obj(self.folder / "mh" / f"{name}.obj")

    def fit(self, name: str) -> Fit:
        """The fit ``mh/NAME.mhclo``."""
        return read_fit(self.folder / "mh" / f"{name}.mhclo")

    @cached_property
    def ict(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the head model."""
        path = self.folder / "ict/ict16.npz"
        try:
            with np.load(path) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    @cached_property
    def mean(self) -> F64:
        """Vertices (26719, 3) of the mean head."""
        return np.asarray(self.ict["V"], np.float64)

    def target(self, name: str) -> F64:
        """Displacements (19158, 3) of the base mesh in ``mh/targets/NAME.target.gz``, base mesh units."""
        path = self.folder / "mh/targets" / f"{name}.target.gz"
        moved = np.zeros((BASE_VERTICES, 3))
        try:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    words = line.split()
                    if len(words) == 4 and not words[0].startswith("#"):
                        moved[int(words[0])] = [float(word) for word in words[1:]]
        except (OSError, ValueError, IndexError) as error:
            raise _unreadable(path, error) from error
        return moved

    def picture(self, name: str) -> NDArray[np.uint8]:
        """A texture as RGB or RGBA, (H, W, 3 or 4) uint8."""
        path = self.folder / name
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise DataError(f"{path}: missing, or no picture; docs/how-to/render.md says how to assemble the assets")
        if picture.ndim == 2:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        code = cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB
        return np.asarray(cv2.cvtColor(picture, code), np.uint8)

    def first(self, names: Sequence[str]) -> str | None:
        """The first of several files that exists, or None."""
        return next((name for name in names if (self.folder / name).is_file()), None)
