"""A folder of rendered pictures: resumed, skipped, audited, packed; and processes that die while they render."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from octamark.errors import ConfigError, DataError
from octamark.geometry import Picture
from octamark.layouts import layout
from octamark.synthesis.rendering.farm import render_seeds
from octamark.synthesis.rendering.folder import MOST_PICTURES, RenderFolder, audit, contact_sheet, picture_seeds
from octamark.synthesis.rendering.labels import Labels

COUNT = 24591
"""Vertices of the head model up to the last that a point may lie on."""


def write(folder: RenderFolder, seed: int, yaw: float = 0.0, broken: bool = False, side: int = 64) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(20, 44, (COUNT, 2))
    brows = rng.uniform(20, 44, (2, 9, 2, 2))
    if broken:
        brows[:] = np.nan
    camera: dict[str, Any] = {
        "position": [0, 0, 50],
        "right": [1, 0, 0],
        "up": [0, 1, 0],
        "forward": [0, 0, -1],
        "angle": 20,
    }
    options = {"tone": 2.5, "age": 0.0, "things": {"hat": {}} if yaw > 20 else {}}
    person = {"seed": seed, "yaw": yaw, "pitch": 5.0, "roll": -3.0, "options": options}
    hidden = np.full(COUNT, 1.0 if yaw > 20 else 0.0)
    labels = Labels(
        side,
        points,
        np.full(COUNT, 50.0),
        np.zeros(COUNT),
        hidden,
        np.arange(COUNT),
        brows,
        np.zeros((2, 9, 2, 2)),
        camera,
        person,
    )
    labels.write(folder.labels(seed))
    cv2.imwrite(str(folder.picture(seed)), rng.integers(0, 255, (side, side, 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> RenderFolder:
    made = RenderFolder(tmp_path / "set")
    made.prepare({"seed": 0}, np.random.default_rng(0).normal(0, 5, (COUNT, 3)))
    return made


def test_seeds_of_different_sets_differ() -> None:
    assert list(picture_seeds(0, 3)) == [0, 1, 2]
    assert not set(picture_seeds(3, 1000)) & set(picture_seeds(4, 1000))
    with pytest.raises(ConfigError, match="pictures; a set has"):
        picture_seeds(0, MOST_PICTURES + 1)


def test_only_missing_pictures_are_rendered_again(folder: RenderFolder) -> None:
    for seed in (1, 4):
        write(folder, seed)
    folder.picture(4).unlink()  # labels alone: the process died between the two
    folder.skip(3, "no reason")
    assert folder.missing(range(6)) == [0, 2, 4, 5]
    assert folder.skipped == {3: "no reason"}


def test_a_set_goes_on_with_its_settings_only(folder: RenderFolder) -> None:
    folder.prepare({"seed": 0}, np.zeros((3, 3)))
    assert folder.mean().shape == (COUNT, 3)  # the first one stays
    with pytest.raises(ConfigError, match="begun with seed 0, now 1"):
        folder.prepare({"seed": 1}, np.zeros((3, 3)))
    folder.prepare({"seed": 0, "caricatures": 0.0}, np.zeros((3, 3)))  # as sets begun before there were any
    with pytest.raises(ConfigError, match="begun with caricatures"):
        folder.prepare({"seed": 0, "caricatures": 0.5}, np.zeros((3, 3)))
    with pytest.raises(DataError, match="octamark render makes them"):
        RenderFolder(folder.path / "elsewhere").mean()


def test_the_audit_counts_poses_and_faults(folder: RenderFolder) -> None:
    for seed, yaw in enumerate((0.0, -50.0, 95.0, 10.0)):
        write(folder, seed, yaw, broken=seed == 3)
    folder.skip(9, "no reason")
    cv2.imwrite(str(folder.picture(0)), np.full((64, 64, 3), 90, np.uint8))
    steps: list[int] = []

    def whole_picture(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        """Finds a face in every picture that is not of one colour."""
        count = int(picture.std() > 0)
        return np.array([[0, 0, 64, 64]] * count, np.float32).reshape(count, 4), np.ones(count, np.float32)

    found = audit(folder, layout("ibug68"), whole_picture, lambda: steps.append(1))
    assert len(steps) == 4
    by_yaw = found["share that the face detector finds, by yaw"]
    assert (by_yaw["under 15"], by_yaw["45 to 60"], by_yaw["15 to 30"]) == (
        0.0,
        1.0,
        None,
    )  # one of them is grey
    assert {key: found[key] for key in ("pictures", "skipped", "nan", "empty", "outside")} == {
        "pictures": 4, "skipped": 1, "nan": 1, "empty": 1, "outside": 0,
    }  # fmt: skip
    yaw = found["yaw, degrees to either side"]
    assert (yaw["under 15"], yaw["45 to 60"], yaw["90 or more"]) == (0.5, 0.25, 0.25)
    assert found["things"] == {"hat": 0.25, "nothing": 0.75}
    assert found["share of points behind things"]["0.6 or more"] == 0.25
    json.dumps(found)
    with pytest.raises(DataError, match="no rendered pictures"):
        audit(RenderFolder(folder.path.parent / "other"), layout("ibug68"))


def test_sheets_show_every_picture(folder: RenderFolder) -> None:
    for seed in range(3):
        write(folder, seed)
    clean, drawn = contact_sheet(folder, layout("five"), [0, 1, 2], columns=2)
    assert clean.shape == (128, 128, 3)
    assert drawn.shape == (256, 256, 3)
    assert not np.array_equal(drawn[::2, ::2], clean)


def test_shards_hold_the_landmarks_of_another_layout(folder: RenderFolder, tmp_path: Path) -> None:
    from octamark.training.rendered import pack
    from octamark.training.shards import open_shards

    for seed in range(3):
        write(folder, seed)
    for name, out in (("five", tmp_path / "a"), ("ibug68", tmp_path / "b"), ("ibug68", tmp_path / "b")):
        assert pack(folder, layout(name), out, size=32) == 3
        shards = open_shards(out)
        assert shards.layout == name
        assert shards.landmarks is not None
        assert tuple(shards.landmarks.shape) == (3, layout(name).count, 2)
        boxes = shards.landmarks.amax(1) - shards.landmarks.amin(1)
        assert boxes.amax(1).numpy() == pytest.approx(51 / (1.25 * 1.6), rel=0.02)


def test_points_that_the_head_hides_lose_their_labels_where_that_is_wanted(folder: RenderFolder) -> None:
    from octamark.training.rendered import rendered_samples

    write(folder, 0)
    labels = Labels.read(folder.labels(0))
    labels.behind_head[:] = 1.0
    labels.write(folder.labels(0))
    five = layout("five")
    assert np.isfinite(rendered_samples(folder, five)[0].landmarks).all()
    dropped = rendered_samples(folder, five, "drop")[0]
    assert np.isnan(dropped.landmarks).all()
    assert dropped.occluded is not None
    assert dropped.occluded.all()


WORKER = """
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
out = Path(job["folder"])
for seed in job["seeds"]:
    print(json.dumps({"start": seed}), flush=True)
    tries = out / f"tries-{seed}"
    with tries.open("a") as file:
        file.write("x")
    if seed == 3 or (seed == 5 and len(tries.read_text()) == 1):
        print("a kernel crashed", file=sys.stderr, flush=True)
        os._exit(139)
    if seed == 7:
        print(json.dumps({"failed": seed, "why": "ValueError: nothing"}), flush=True)
        continue
    print("noise of a library")
    print(json.dumps({"done": seed}), flush=True)
"""


def test_crashes_and_failures_cost_one_picture_each(folder: RenderFolder, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    steps: list[int] = []
    skipped = render_seeds(
        folder,
        tmp_path,
        range(10),
        size=8,
        samples=1,
        workers=2,
        advance=lambda: steps.append(1),
        command=(sys.executable, str(script)),
    )
    assert set(skipped) == {3, 7}
    assert "a kernel crashed" in skipped[3]
    assert skipped[7] == "ValueError: nothing"
    assert folder.skipped == skipped
    assert len(steps) == 10
    tries = {int(path.name.split("-")[1]): len(path.read_text()) for path in folder.path.glob("tries-*")}
    assert tries == {seed: 2 if seed in (3, 5, 7) else 1 for seed in range(10)}


@pytest.mark.parametrize(
    "script",
    [
        "import sys; sys.exit('no such module')",
        "import json, sys\n"
        "for seed in json.load(open(sys.argv[1]))['seeds']:\n"
        "    print(json.dumps({'failed': seed, 'why': 'no such module'}), flush=True)",
    ],
)
def test_a_run_in_which_nothing_works_ends_with_the_reason(folder: RenderFolder, tmp_path: Path, script: str) -> None:
    file = tmp_path / "worker.py"
    file.write_text(script)
    with pytest.raises(ConfigError, match="no picture could be rendered: no such module"):
        render_seeds(folder, tmp_path, range(40), size=8, samples=1, workers=1, command=(sys.executable, str(file)))
