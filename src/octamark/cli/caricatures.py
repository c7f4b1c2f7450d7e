"""``octamark caricatures``: labelled caricatures from labelled photographs, for a look or for scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import counted, fail, make_folder, note, progress
from octamark.cli.train import need_packages
from octamark.errors import ConfigError, OutputError, PictureError, listed
from octamark.images import SUFFIXES


def caricatures(
    data: Annotated[Path, typer.Option("--data", help="300W's folder, with splits/val.txt")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .png for a sheet of 32, or a folder for all faces")],
    strength: Annotated[str, typer.Option("--strength", help="weak, medium or strong")] = "medium",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the random shapes and styles")] = 0,
) -> None:
    """Turn 300W's validation faces into labelled caricatures.

    A folder gets pictures with .pts files beside them, which octamark evaluate FOLDER --format folder --layout ibug68
    reads. A picture that cannot be read is reported and skipped, and the exit code is then 1.
    """
    need_packages()
    import numpy as np

    from octamark.datasets import read
    from octamark.drawing import dotted, sheet
    from octamark.images import write_atomically, write_picture
    from octamark.io import pts_text
    from octamark.layouts import layout
    from octamark.synthesis.caricature import STRENGTHS, Caricaturist, stylised
    from octamark.training.data import FaceStore

    if strength not in STRENGTHS:
        raise ConfigError(f"strength {strength!r}; allowed: {listed(STRENGTHS)}")
    as_sheet = out.suffix.lower() == ".png"
    if out.suffix.lower() in SUFFIXES and (not as_sheet or out.is_dir()):
        raise OutputError(f"{out}: a sheet is written as a .png file; other names are folders")
    make_folder(out.parent if as_sheet else out)
    samples = sorted(read("300w", data, "val"), key=lambda sample: sample.name)
    if as_sheet:
        samples = samples[:: max(1, len(samples) // 32)][:32]
    points_of, tiles, failed, done = layout("ibug68"), [], 0, 0
    caricaturist = Caricaturist(points_of)
    try:
        with progress(visible=True) as bar:
            for place, sample in enumerate(bar.track(samples, total=len(samples))):
                try:
                    store = FaceStore.load([sample], 128 if as_sheet else 224, 1.25)
                except PictureError as error:
                    failed += 1
                    fail(str(error))
                    continue
                drawn, points = stylised(store.pictures[:], store.landmarks, caricaturist, strength, seed, place)
                picture = np.ascontiguousarray(drawn[0].permute(1, 2, 0).numpy())
                if as_sheet:
                    tiles.append(dotted(picture, points[0].numpy(), points_of))
                else:
                    stem = out / sample.name.replace("/", "_")
                    write_picture(stem.with_name(f"{stem.name}.png"), picture)
                    write_atomically(stem.with_name(f"{stem.name}.pts"), pts_text(points[0].numpy()).encode())
                done += 1
    except KeyboardInterrupt:
        fail(f"interrupted after {counted(done, 'face')}")
        raise typer.Exit(130) from None
    if tiles:
        write_picture(out, sheet(tiles))
    note(f"{done} caricatures, {strength}: {out}")
    if failed:
        fail(f"{counted(failed, 'picture')} failed" + ("; the rest are done" if done else ""))
        raise typer.Exit(1)
