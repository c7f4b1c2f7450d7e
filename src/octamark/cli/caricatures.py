"""``octamark caricatures``: labelled photographs as labelled caricatures, to look at or to score on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import make_folder, note
from octamark.cli.train import need_packages
from octamark.errors import ConfigError, listed


def caricatures(
    data: Annotated[Path, typer.Option("--data", help="300W's folder, with splits/val.txt")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .png for a sheet of 32, or a folder for all faces")],
    strength: Annotated[str, typer.Option("--strength", help="weak, medium or strong")] = "medium",
    seed: Annotated[int, typer.Option("--seed", help="Draws shapes and styles")] = 0,
) -> None:
    """Turn 300W's validation faces into caricatures, labels included.

    A folder gets pictures with .pts files beside them: octamark evaluate FOLDER --format folder --layout ibug68
    """
    need_packages()
    import numpy as np

    from octamark.datasets import w300
    from octamark.drawing import dotted, sheet
    from octamark.formats import pts_text
    from octamark.imaging import write_atomically, write_picture
    from octamark.layouts import layout
    from octamark.training.batches import FaceStore
    from octamark.training.caricature import STRENGTHS, Caricaturist, stylised

    if strength not in STRENGTHS:
        raise ConfigError(f"strength {strength!r}; allowed: {listed(STRENGTHS)}")
    samples = sorted(w300.read(data, only=w300.read_split_file(data / "splits/val.txt")), key=lambda one: one.name)
    as_sheet = out.suffix.lower() == ".png"
    if as_sheet:
        samples = samples[:: max(1, len(samples) // 32)][:32]
    one = layout("ibug68")
    store = FaceStore.load(samples, 128 if as_sheet else 224, 1.25)
    drawn, points = stylised(store.pictures, store.landmarks, Caricaturist(one), strength, seed)
    pictures = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in drawn]
    if as_sheet:
        make_folder(out.parent)
        write_picture(out, sheet([dotted(p, q, one) for p, q in zip(pictures, points.numpy(), strict=True)]))
    else:
        make_folder(out)
        for sample, picture, landmarks in zip(samples, pictures, points.numpy(), strict=True):
            stem = sample.name.replace("/", "_")
            write_picture(out / f"{stem}.png", picture)
            write_atomically(out / f"{stem}.pts", pts_text(landmarks).encode())
    note(f"{len(pictures)} caricatures, {strength}: {out}")
