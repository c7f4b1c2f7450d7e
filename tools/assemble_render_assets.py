"""Assemble the folder of assets that ``octamark render`` reads from copies of the public originals.

    python tools/assemble_render_assets.py OUT --ict FOLDER --makehuman FOLDER [--makehuman FOLDER] --hdri FOLDER

docs/how-to/render.md says where each comes from and what its terms are. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octamark.synthesis.rendering.assets import Assets
from octamark.synthesis.rendering.heads import DETAILS

IDENTITIES = 100
COPIED = {
    "skins": ("*skinned*_diffuse*.jpg", "*skinned*_diffuse*.png"),
    "eyebrows": ("eyebrow[0-9]*.mhclo", "eyebrow[0-9]*.obj", "eyebrow[0-9]*.png"),
    "clothes": (
        "fedora*.mhclo", "fedora*.obj", "*male_*suit[0-9]*.mhclo", "*male_*suit[0-9]*.obj",
        "*male_*suit[0-9]*_diffuse.png",
    ),
}  # fmt: skip
"""Folder of ``mh`` -> patterns of the names of MakeHuman's files."""


def read_shape(path: Path) -> tuple[list[list[float]], list[list[float]], list[tuple[list[int], list[int], str]]]:
    """Vertices, texture coordinates, and faces (vertices, texture coordinates, material) of an .obj file."""
    vertices, uv, faces, material = [], [], [], ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] == "v":
                vertices.append([float(word) for word in words[1:4]])
            elif words[0] == "vt":
                uv.append([float(word) for word in words[1:3]])
            elif words[0] == "usemtl":
                material = words[1]
            elif words[0] == "f":
                corners = [[int(number or 0) - 1 for number in word.split("/")[:2]] for word in words[1:]]
                padded = corners + [[-1, -1]] * (4 - len(corners))
                faces.append(([corner[0] for corner in padded], [corner[1] for corner in padded], material))
    return vertices, uv, faces


def pack_head(source: Path, out: Path) -> None:
    """Write ``ict16.npz`` and ``vertex_indices.json`` from ICT-FaceKit's folder FaceXModel."""
    neutral = source / "generic_neutral_mesh.obj"
    vertices, uv, faces = read_shape(neutral)
    mean = np.array(vertices, np.float32)

    def difference(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        moved = np.array(read_shape(path)[0], np.float32)
        if moved.shape != mean.shape:
            raise SystemExit(f"{path}: {len(moved)} vertices; {neutral.name} has {len(mean)}")
        return (moved - mean).astype(np.float16)

    identities = sorted(source.glob("identity[0-9]*.obj"))[:IDENTITIES]
    skipped = {neutral, *source.glob("identity[0-9]*.obj")}
    expressions = [path for path in sorted(source.glob("*.obj")) if path not in skipped]
    if not identities or not expressions:
        raise SystemExit(f"{source}: no identity000.obj or no expressions; ICT-FaceKit's folder FaceXModel is expected")
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "ict16.npz",
        V=mean,
        uv=np.array(uv, np.float32),
        F=np.array([face[0] for face in faces], np.int32),
        FT=np.array([face[1] for face in faces], np.int32),
        mat=np.array([face[2] for face in faces]),
        I=np.stack([difference(path) for path in identities]),
        E=np.stack([difference(path) for path in expressions]),
        names=np.array([path.stem for path in expressions]),
    )
    shutil.copy(source / "vertex_indices.json", out / "vertex_indices.json")


def find(sources: Sequence[Path], pattern: str) -> list[Path]:
    """Files of that name pattern below the folders, each name once: the first folder that has it counts."""
    found: dict[str, Path] = {}
    for source in sources:
        for path in sorted(source.rglob(pattern)):
            found.setdefault(path.name, path)
    return list(found.values())


def copy_makehuman(sources: Sequence[Path], out: Path) -> None:
    """Copy base mesh, skins, brows, clothes and shapes from MakeHuman's folders; shapes are compressed."""
    base = find(sources, "base.obj")
    if not base:
        raise SystemExit("no base.obj in MakeHuman's folders")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(base[0], out / "base.obj")
    for folder, patterns in COPIED.items():
        (out / folder).mkdir(exist_ok=True)
        for pattern in patterns:
            for path in find(sources, pattern):
                shutil.copy(path, out / folder / path.name)
    details = [f"{file}.target*" for files in DETAILS.values() for file in files]
    for pattern in ("macrodetails/*-*-*.target*", "expression/units/caucasian/mouth-open.target*", *details):
        for source in sources:
            for path in sorted(source.rglob(pattern)):
                name = path.name.removesuffix(".gz")
                place = out / "targets" / Path(pattern).parent / f"{name}.gz"
                place.parent.mkdir(parents=True, exist_ok=True)
                data = path.read_bytes()
                place.write_bytes(data if path.suffix == ".gz" else gzip.compress(data, mtime=0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Assemble a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ict", type=Path, required=True, help="FaceXModel of ICT-FaceKit")
    parser.add_argument("--makehuman", type=Path, action="append", required=True, help="MakeHuman and its assets")
    parser.add_argument("--hdri", type=Path, action="append", required=True, help="folders of environments, .exr")
    options = parser.parse_args(arguments)
    pack_head(options.ict, options.out / "ict")
    copy_makehuman(options.makehuman, options.out / "mh")
    (options.out / "hdri").mkdir(parents=True, exist_ok=True)
    for path in find(options.hdri, "*.exr"):
        shutil.copy(path, options.out / "hdri" / path.name)
    Assets(options.out)  # names what is missing
    print(f"{options.out}: {sum(path.is_file() for path in options.out.rglob('*'))} files")


if __name__ == "__main__":
    main()
