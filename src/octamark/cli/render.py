"""``octamark render``: labelled faces nobody photographed. ``octamark heads``: the points of a layout on the head."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from octamark.cli.console import check_installed, counted, fail, make_folder, note, progress
from octamark.errors import ConfigError

ASSETS = typer.Option("--assets", help="The folder of assets; docs/how-to/render.md says how it is assembled")
_PACKAGES = ("mitsuba", "pyoidn", "scipy")


def need_renderer() -> None:
    """Check that the packages for rendering are installed.

    Raises:
        OctamarkError: some are missing; the message says how to install them.
    """
    check_installed(_PACKAGES)


def render(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder; one that is there is continued")],
    assets: Annotated[Path, ASSETS],
    count: Annotated[int, typer.Option("--count", min=1, max=10**6, help="Pictures")] = 48,
    layout: Annotated[str, typer.Option("--layout", help="Layout of the landmarks: a name, or a .toml")] = "ibug68",
    seed: Annotated[int, typer.Option("--seed", min=0, max=10**5, help="Base seed: another one, other persons")] = 0,
    size: Annotated[int, typer.Option("--size", min=32, max=1024, help="Side of the pictures, pixels")] = 256,
    samples: Annotated[int, typer.Option("--samples", min=1, max=1024, help="Rays per pixel, before denoising")] = 8,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Processes; by default one per processor")
    ] = max(1, os.cpu_count() or 1),
    input_size: Annotated[
        int, typer.Option("--input-size", min=32, help="Input of the networks, for the shards")
    ] = 160,
    margin: Annotated[float, typer.Option("--margin", min=1.01, max=3.0, help="data.margin of the recipe")] = 1.25,
    caricatures: Annotated[
        float,
        typer.Option(
            "--caricatures",
            min=0.0,
            max=1.0,
            help="Share of caricatures: features far outside the human range, half of them drawn in ink",
        ),
    ] = 0.0,
    hidden: Annotated[
        str, typer.Option("--hidden", help="Points that the head hides: keep, or drop their labels")
    ] = "keep",
    shards: Annotated[
        bool, typer.Option("--shards/--no-shards", help="Also pack the pictures as shards, for sets larger than memory")
    ] = False,
) -> None:
    """Render labelled heads to train on.

    OUT gets pictures and labels for every layout, audit.json, two contact sheets, and landmarks-LAYOUT.json, which a
    recipe reads with format = "coco"; with --shards also shards-LAYOUT for format = "shards". Pictures that are there
    are kept. Those that cannot be rendered are named, and the exit code is then 1.
    """
    from octamark.images import write_atomically, write_picture
    from octamark.layouts import layout as named
    from octamark.synthesis.rendering.folder import (
        CROWD_SEEDS,
        GENERATOR,
        Hidden,
        RenderFolder,
        audit,
        coco_table,
        contact_sheet,
        picture_seeds,
    )

    if hidden not in ("keep", "drop"):
        raise ConfigError(f"--hidden {hidden!r}; allowed: keep, drop")
    points = named(layout)
    if not points.places:
        raise ConfigError(
            f"layout {points.name}: its file has no vertices, so that its points have no place on the head"
        )
    need_renderer()
    if shards:
        from octamark.cli.train import need_packages

        need_packages()
    from octamark.synthesis.rendering.assets import Assets
    from octamark.synthesis.rendering.farm import render_seeds

    sources = Assets(assets)
    folder = RenderFolder(make_folder(out))
    settings = {"seed": seed, "size": size, "samples": samples, "generator": GENERATOR, "caricatures": caricatures}
    folder.prepare(settings, sources.mean)
    try:
        with progress() as bar:
            crowd = [number for number in CROWD_SEEDS if not folder.crowd_picture(number).exists()]
            task = bar.add_task("crowd", total=len(crowd))
            render_seeds(
                folder,
                assets,
                crowd,
                size=size,
                samples=samples,
                workers=workers,
                crowd=True,
                advance=lambda: bar.advance(task),
            )
            seeds = picture_seeds(seed, count)
            missing = folder.missing(seeds)
            task = bar.add_task("pictures", total=count, completed=count - len(missing))
            started, finished = time.monotonic(), 0

            def advance() -> None:
                nonlocal finished
                finished += 1
                bar.advance(task)
                if bar.disable and finished % 100 == 0:  # a log in place of the bar
                    hourly = finished / (time.monotonic() - started) * 3600
                    note(f"{count - len(missing) + finished} of {count} pictures, {hourly:.0f} an hour")

            render_seeds(
                folder,
                assets,
                missing,
                size=size,
                samples=samples,
                workers=workers,
                caricatures=caricatures,
                advance=advance,
            )
    except KeyboardInterrupt:
        fail(f"interrupted after {counted(len(folder.finished()), 'picture')}; the same command goes on")
        raise typer.Exit(130) from None
    done = [number for number in folder.finished() if number in seeds]
    with progress() as bar:
        task = bar.add_task("audit", total=len(folder.finished()))
        summary = audit(folder, points, advance=lambda: bar.advance(task))
    write_atomically(out / "audit.json", json.dumps(summary, indent=1).encode())
    clean, drawn = contact_sheet(folder, points, done[:: max(1, len(done) // 48)][:48])
    write_picture(out / "sheet.png", clean)
    write_picture(out / "sheet-points.png", drawn)
    kept: Hidden = "drop" if hidden == "drop" else "keep"
    write_atomically(out / f"landmarks-{points.name}.json", json.dumps(coco_table(folder, points, kept)).encode())
    if shards:
        from octamark.training.rendered import pack

        pack(
            folder,
            points,
            out / f"shards-{points.name}",
            size=input_size,
            margin=margin,
            hidden=kept,
        )
    note(f"{counted(len(done), 'picture')}: {out}; see audit.json, sheet.png and sheet-points.png")
    skipped = {number: why for number, why in folder.skipped.items() if number in seeds}
    for number, why in skipped.items():
        fail(f"seed {number} skipped: {why}")
    if skipped:
        raise typer.Exit(1)


def heads(
    assets: Annotated[Path, ASSETS],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .png to write")],
    layout: Annotated[
        str | None, typer.Option("--layout", help="Draw this layout: a name, or a .toml with vertices")
    ] = None,
    at: Annotated[
        tuple[float, float] | None, typer.Option("--at", help="X Y: tell the vertex at this pixel of a view")
    ] = None,
    view: Annotated[str, typer.Option("--view", help="front, half-left, left, half-right or right")] = "front",
    part: Annotated[
        str, typer.Option("--part", help="What the view shows: head, right_eye, left_eye, nose or mouth")
    ] = "head",
    size: Annotated[int, typer.Option("--size", min=64, max=2048, help="Side of a view, pixels")] = 768,
) -> None:
    """Draw a layout on the rendered head, or tell which vertex lies at a pixel.

    Without --layout and --at, the view is written as it is, to find pixels in it.
    """
    need_renderer()
    from octamark.images import write_picture
    from octamark.layouts import layout as named
    from octamark.synthesis.rendering.assets import Assets
    from octamark.synthesis.rendering.scene import Renderer
    from octamark.synthesis.rendering.views import (
        layout_picture,
        mirrored_vertex,
        nearest_vertex,
        numbered,
    )
    from octamark.synthesis.rendering.views import view as view_of

    if layout is not None and at is not None:
        raise ConfigError("give --layout to draw a layout, or --at to find a vertex, not both")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: a .png file is written")
    points = None if layout is None else named(layout)
    make_folder(out.absolute().parent)
    renderer = Renderer(Assets(assets), size, 24)
    if points is not None:
        write_picture(out, layout_picture(renderer, points, part))
        note(f"{points.name} on the head: {out}")
        return
    shown = view_of(renderer, view, part)
    picture = shown.picture
    if at is not None:
        vertex = nearest_vertex(shown, *at)
        place = shown.labels.points[shown.labels.vertices == vertex].astype("float32")
        picture = numbered(picture, place, [str(vertex)])
        print(
            f"vertex {vertex} at ({place[0][0]:.1f}, {place[0][1]:.1f}); on the other side "
            f"{mirrored_vertex(renderer, vertex)}"
        )
    write_picture(out, picture)
