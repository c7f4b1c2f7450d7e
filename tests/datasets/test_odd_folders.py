"""Sets as they arrive: with what systems leave behind, names from elsewhere, sizes that do not fit the pictures."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_faces import write_pts, write_w300
from octamark.datasets import Sample, read
from octamark.errors import DataError
from octamark.evaluation.scoring import Truth, score_file
from octamark.geometry import landmark_boxes
from octamark.io.files import FileFinder, find_files
from octamark.layouts import layout
from set_fixtures import WRITERS, draw, save

IBUG = layout("ibug68")
COMPOSED, DECOMPOSED = (
    unicodedata.normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD")
)


def litter(folder: Path, name: str) -> None:
    """What macOS, Jupyter and archives leave beside a file of that name, in the folder and in folders of it."""
    for place in (folder, folder / "__MACOSX", folder / ".ipynb_checkpoints"):
        place.mkdir(exist_ok=True)
        (place / f"._{name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    stem, _, suffix = name.rpartition(".")
    (folder / ".ipynb_checkpoints" / f"{stem}-checkpoint.{suffix}").write_bytes(b"{")
    (folder / "__MACOSX" / name).write_bytes(b"\x00\x05\x16\x07")
    (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")


def test_what_systems_leave_behind_is_left_out(tmp_path: Path) -> None:
    face = draw("ibug68", 1)
    (tmp_path / "pts").mkdir()
    save(tmp_path / "pts" / "a.png", face.picture)
    write_pts(tmp_path / "pts" / "a.pts", face.points)
    litter(tmp_path / "pts", "a.pts")
    litter(tmp_path / "pts", "a.png")
    save(tmp_path / "csv" / "a.png", face.picture)
    cells = [f"{value:.3f}" for value in face.points.ravel()]
    columns = [f"{axis}{index}" for index in range(68) for axis in "xy"]
    (tmp_path / "csv" / "a.csv").write_text(",".join(["file", *columns]) + "\n" + ",".join(["a.png", *cells]) + "\n")
    litter(tmp_path / "csv", "a.csv")
    for folder in ("pts", "csv"):
        (sample,) = read("folder", tmp_path / folder, layout=IBUG)
        np.testing.assert_allclose(sample.landmarks, face.points, atol=1e-3)


def test_what_systems_leave_behind_in_the_sets(tmp_path: Path) -> None:
    root = write_w300(tmp_path / "300w", per_folder=1, side=64)
    litter(root / "ibug", "face_0.pts")
    assert [sample.name for sample in read("300w", root, "challenge")] == ["ibug/face_0"]
    (tmp_path / "coco").mkdir()
    WRITERS["coco"](tmp_path / "coco")
    litter(tmp_path / "coco" / "annotations", "faces.json")
    litter(tmp_path / "coco", "faces.json")
    assert len(read("coco", tmp_path / "coco", layout=layout("aflw19"))) == 2
    (tmp_path / "web").mkdir()
    WRITERS["webcaricature"](tmp_path / "web")
    litter(tmp_path / "web" / "FacialPoints" / "Zidane", "C00002.txt")
    litter(tmp_path / "web" / "FacialPoints", "Zidane.txt")
    assert len(read("webcaricature", tmp_path / "web")) == 3


def test_suffixes_of_any_case_are_found(tmp_path: Path) -> None:
    face = draw("ibug68", 2)
    for picture, labels in (("a.Jpeg", "a.pts"), ("b.PNG", "b.PTS"), ("c.d.Png", "c.d.Pts")):
        Image.fromarray(face.picture).save(tmp_path / picture, "JPEG" if picture == "a.Jpeg" else "PNG")
        write_pts(tmp_path / labels, face.points)
    samples = read("folder", tmp_path, layout=IBUG)
    assert {sample.name: sample.picture.name for sample in samples} == {"a": "a.Jpeg", "b": "b.PNG", "c.d": "c.d.Png"}
    root = write_w300(tmp_path / "300w", per_folder=1, side=64)
    (root / "ibug" / "face_0.pts").rename(root / "ibug" / "face_0.PTS")
    picture = next(path for path in (root / "ibug").iterdir() if path.suffix != ".PTS")
    picture.rename(picture.with_suffix(picture.suffix.title()))
    (sample,) = read("300w", root, "challenge")
    assert sample.read().shape == (64, 64, 3)
    save(tmp_path / "labels" / "a.png", face.picture)
    (tmp_path / "labels" / "LABELS.CSV").write_text("file,point,x,y\na.png,0,1,2\n")
    assert len(read("folder", tmp_path / "labels", layout=IBUG)) == 1


def csv_of(folder: Path, file: str, points: np.ndarray) -> None:
    rows = [f'"{file}",{index},{x:.3f},{y:.3f}' for index, (x, y) in enumerate(points)]
    (folder / "labels.csv").write_text("\n".join(["file,point,x,y", *rows]) + "\n", encoding="utf-8")


def coco_of(folder: Path, file: str, points: np.ndarray, **image: Any) -> Path:
    keypoints = np.column_stack([points, np.full(len(points), 2)]).astype(float).ravel().tolist()
    whole = {
        "images": [{"id": 1, "file_name": file, **image}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints}],
        "categories": [{"id": 1, "name": "face", "keypoints": list(IBUG.point_names)}],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.parametrize("name", ["sub\\a.png", "sub\\deeper\\a.png", ".\\sub\\a.png"])
def test_names_with_backslashes(tmp_path: Path, name: str) -> None:
    face = draw("ibug68", 3)
    for form, write in (("folder", csv_of), ("coco", coco_of)):
        root = tmp_path / form
        save(root / name.replace("\\", "/"), face.picture)
        write(root, name, face.points)
        (sample,) = read(form, root, layout=IBUG)
        assert np.array_equal(sample.read(), face.picture)
        assert sample.name == name.replace("\\", "/").removesuffix(".png")


def test_a_backslash_that_belongs_to_the_name(tmp_path: Path) -> None:
    face, other = draw("ibug68", 3), draw("ibug68", 4)
    save(tmp_path / "sub\\a.png", face.picture)
    save(tmp_path / "sub" / "a.png", other.picture)
    csv_of(tmp_path, "sub\\a.png", face.points)
    (sample,) = read("folder", tmp_path, layout=IBUG)
    assert np.array_equal(sample.read(), face.picture)


@pytest.mark.parametrize(("ours", "theirs"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_in_another_unicode_form(tmp_path: Path, ours: str, theirs: str) -> None:
    """``ours`` is the name on disk; also of folders."""
    face = draw("ibug68", 5)
    for form, write in (("folder", csv_of), ("coco", coco_of)):
        root = tmp_path / form
        save(root / ours / f"{ours}.png", face.picture)
        write(root, f"{theirs}/{theirs}.png", face.points)
        (sample,) = read(form, root, layout=IBUG)
        assert np.array_equal(sample.read(), face.picture)
        assert sample.name == f"{COMPOSED}/{COMPOSED}"
    root = tmp_path / "pts"
    save(root / f"{ours}.png", face.picture)
    write_pts(root / f"{theirs}.pts", face.points)
    (sample,) = read("folder", root, layout=IBUG)
    assert np.array_equal(sample.read(), face.picture)
    for name in (ours, theirs):
        assert len(read("folder", root, layout=IBUG, only=[name])) == 1
    with pytest.raises(DataError, match="has no face nobody"):
        read("folder", root, layout=IBUG, only=["nobody"])


def test_names_of_the_sets_in_another_unicode_form(tmp_path: Path) -> None:
    WRITERS["webcaricature"](tmp_path / "web", [f"{COMPOSED}/P00001"])  # type: ignore[call-arg]
    pictures = tmp_path / "web" / "OriginalImages"
    (pictures / COMPOSED).rename(pictures / DECOMPOSED)
    (sample,) = read("webcaricature", tmp_path / "web")
    assert sample.read().shape == (64, 72, 3)
    (tmp_path / "wflw").mkdir()
    WRITERS["wflw"](tmp_path / "wflw")
    pictures = tmp_path / "wflw" / "WFLW_images" / "0--Parade"
    listing = tmp_path / "wflw/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    listing.write_text(listing.read_text().replace("/c.png", f"/{COMPOSED}.png"))
    (pictures / "c.png").rename(pictures / f"{DECOMPOSED}.png")
    assert all(sample.picture.is_file() for sample in read("wflw", tmp_path / "wflw"))
    root = write_w300(tmp_path / "300w", per_folder=2, side=64)
    for path in list((root / "afw").glob("face_0.*")):
        path.rename(path.with_name(DECOMPOSED + path.suffix))
    (root / "splits" / "val.txt").write_text(f"afw/{COMPOSED}\n")
    assert [sample.name for sample in read("300w", root, "val")] == [f"afw/{DECOMPOSED}"]


def turned(path: Path, size: tuple[int, int]) -> None:
    """A picture that is ``size`` once its EXIF orientation is applied, stored on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size[::-1]).save(path, "JPEG", exif=exif)


HALF = r"says 30x20 pixels, but .*a\.png has 60x40: its points are not in the pixels of this picture"
TURNED = (
    r"says 40x60 pixels, but .*a\.png has 60x40: its points were made without the picture's EXIF orientation, which"
)


@pytest.mark.parametrize(("size", "message"), [((30, 20), HALF), ((40, 60), TURNED), ((61, 40), "says 61x40 pixels")])
def test_sizes_that_are_not_the_pictures(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    """Labels, and predictions of every format that has sizes."""
    turned(tmp_path / "a.png", (60, 40))
    points = draw("ibug68", 6).points
    right = coco_of(tmp_path, "a.png", points, width=60, height=40)
    (sample,) = read("coco", right, layout=IBUG)
    assert sample.read().shape == (40, 60, 3)
    truth = Truth("set", "all", [sample], IBUG)
    assert score_file(truth, right)[0].nme.max() == 0
    wrong = coco_of(tmp_path, "a.png", points, width=size[0], height=size[1])
    listing = tmp_path / "wrong.json"
    listing.write_text(
        json.dumps([{"file": "a.png", "width": size[0], "height": size[1], "landmarks": points.tolist()}])
    )
    table = tmp_path / "wrong.csv"
    rows = [f"a.png,{size[0]},{size[1]},{index},{x},{y}" for index, (x, y) in enumerate(points.tolist())]
    table.write_text("\n".join(["file,width,height,point,x,y", *rows]))
    with pytest.raises(DataError, match=message):
        read("coco", wrong, layout=IBUG)
    for path in (wrong, listing, table):
        with pytest.raises(DataError, match=message):
            read("folder", path, layout=IBUG)
        with pytest.raises(DataError, match=message):
            score_file(truth, path)


def test_sizes_that_are_not_said_or_cannot_be_compared(tmp_path: Path) -> None:
    points = draw("ibug68", 6).points
    (tmp_path / "a.png").write_bytes(b"no picture")
    for image in ({"width": 5, "height": 5}, {}, {"width": 0, "height": 0}, {"width": None}):
        path = coco_of(tmp_path, "a.png", points, **image)
        assert len(read("coco", path, layout=IBUG)) == 1
        truth = Truth("set", "all", [Sample("a.png", tmp_path / "nowhere.png", points)], IBUG)
        assert score_file(truth, path)[0].nme.max() == 0


def test_labels_may_be_missing_point_by_point(tmp_path: Path) -> None:
    """Boxes and figures take what is there."""
    face = draw("ibug68", 7)
    points = face.points.copy()
    points[20:] = np.nan
    Image.fromarray(face.picture).save(tmp_path / "a.png")
    keypoints = np.column_stack([np.nan_to_num(points), np.where(np.isnan(points[:, 0]), 0, 1)])
    whole = json.loads(coco_of(tmp_path, "a.png", face.points).read_text())
    whole["annotations"][0]["keypoints"] = keypoints.ravel().tolist()
    (tmp_path / "labels.json").write_text(json.dumps(whole))
    (sample,) = read("coco", tmp_path, layout=IBUG)
    np.testing.assert_array_equal(sample.landmarks, points)
    assert sample.occluded is not None
    assert sample.occluded.tolist() == [True] * 20 + [False] * 48
    np.testing.assert_allclose(
        landmark_boxes(sample.landmarks), np.concatenate([points[:20].min(axis=0), points[:20].max(axis=0)])
    )


def test_pictures_are_looked_for_once_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"{DECOMPOSED}{number}.png").touch()
    finder = FileFinder()
    listed: list[object] = []
    original = finder._listing

    def counting(folder: Path) -> dict[str, str]:
        if folder not in finder._listings:
            listed.append(folder)
        return original(folder)

    monkeypatch.setattr(finder, "_listing", counting)
    assert all(finder.find(tmp_path, f"{COMPOSED}{number}.png") for number in range(30))
    assert finder.find(tmp_path, "nobody.png") is None
    assert listed == [tmp_path]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.pts").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "set")
    assert find_files(tmp_path / "set", (".pts",)) == [tmp_path / "set" / "link" / "a.pts"]
    assert find_files(tmp_path, (".pts",)) == [tmp_path / "real" / "a.pts"]
    shutil.rmtree(tmp_path / "real")
    assert find_files(tmp_path / "set", (".pts",)) == []


def test_names_in_messages_are_the_files(tmp_path: Path) -> None:
    samples = [Sample("a", tmp_path / "a.png", draw("ibug68", 8).points)]
    csv_of(tmp_path, "b.png", samples[0].landmarks)
    with pytest.raises(DataError, match=r"labels\.csv: none of its 1 pictures is one of the truth; it has b\.png"):
        score_file(Truth("set", "all", samples, IBUG), tmp_path / "labels.csv")
