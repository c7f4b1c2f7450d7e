"""How far the pose of heads is off, on rendered heads whose pose is known.

    python -m benchmarks.pose PATH/TO/RENDERED [--models tiny small small-open] [--faces 400] [--update]

The folder is one that ``octamark render`` writes. *Exact landmarks* are those of the render's labels, so that only the
difference between a person's head and the generic one is left. The heads of the renders and the generic head come from
the same head model; people's heads differ in other ways too."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from benchmarks.measurements import Measurement, Value, add_update_option, finish

import octamark
from octamark.geometry import landmark_boxes
from octamark.layouts import head_pose, layout
from octamark.synthesis.rendering.labels import Labels, landmarks_of

YAWS = ((0, 30), (30, 60), (60, 110))
"""Bands of the absolute yaw, degrees."""


def measurement(rows: Sequence[Sequence[Value]], faces: int) -> Measurement:
    """The entry for results.json."""
    return Measurement(
        name="pose",
        page="accuracy",
        title="Pose of rendered heads, mean absolute error in degrees",
        text="*Exact landmarks*: what the generic head alone costs. `tiny` never saw full profiles; "
        "`small` and `small-open` learned from other rendered heads of this kind.",
        columns=(
            ("landmarks", ""), ("yaw of the head", ""), ("faces", "d"),
            ("yaw", ".1f"), ("pitch", ".1f"), ("roll", ".1f"),
        ),
        rows=rows,
        command="python -m benchmarks.pose PATH/TO/RENDERED",
        data=f"rendered heads, {faces} faces",
        boxes="labels",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of octamark render")
    parser.add_argument("--models", nargs="*", default=["tiny", "small", "small-open"])
    parser.add_argument("--faces", type=int, help="so many, evenly spaced; all by default")
    add_update_option(parser)
    arguments = parser.parse_args()
    ibug68 = layout("ibug68")
    mean = np.load(arguments.data / "mean.npy").astype(np.float64)
    files = sorted((arguments.data / "labels").glob("*.npz"))
    step = max(1, len(files) // (arguments.faces or len(files)))
    labels = [Labels.read(file) for file in files[::step]]
    landmarks = np.array([landmarks_of(label, ibug68, mean).landmarks for label in labels])
    truth = np.array([[label.person[name] for name in ("yaw", "pitch", "roll")] for label in labels], np.float64)
    table = [*rows("exact", head_pose(landmarks, ibug68), truth)]
    for name in arguments.models:
        landmarker = octamark.load(name, refine="never")
        poses = []
        for file, points in zip(files[::step], landmarks, strict=True):
            picture = arguments.data / "pictures" / f"{file.stem}.png"
            poses.append(landmarker(picture, landmark_boxes(points)[None]).pose()[0])
        table += rows(f"`{name}`", np.array(poses), truth)
    finish([measurement(table, len(labels))], arguments.update)


def rows(name: str, poses: np.ndarray, truth: np.ndarray) -> Iterator[list[Value]]:
    """One row for each band of yaw: name, band, faces, mean absolute errors of yaw, pitch and roll."""
    errors = np.abs((poses - truth + 180) % 360 - 180)
    for low, high in YAWS:
        inside = (np.abs(truth[:, 0]) >= low) & (np.abs(truth[:, 0]) < high)
        if inside.any():
            yield [name, f"{low} to {high}", int(inside.sum()), *np.nanmean(errors[inside], axis=0).tolist()]


if __name__ == "__main__":
    main()
