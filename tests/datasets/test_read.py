"""Every format, on a small set in exactly its form: labels and pictures come back, and what is wrong is named."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from drawn_faces import write_pts, write_w300
from landmark_files import write_all
from octamark import io as formats
from octamark import read_picture
from octamark.datasets import FORMATS, Sample, aflw19, read, w300
from octamark.errors import DataError, LayoutError, PictureError
from octamark.faces import Faces
from octamark.layouts import layout
from set_fixtures import WRITERS, Splits, coco_table, draw, save, write_csv

LAYOUTS = {"coco": "aflw19", "folder": "cofw29"}  # where the files do not say


def load(name: str, root: Path, split: str | None = None, **options: object) -> list[Sample]:
    said = {"layout": layout(LAYOUTS[name])} if name in LAYOUTS else {}
    return read(name, root, split, **(said | options))


@pytest.fixture(autouse=True)
def three_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflw19, "TRAINING", 3)


def check(samples: list[Sample], truths: dict, every_picture: bool = True) -> None:
    assert [sample.name for sample in samples] == list(truths)
    for sample, truth in zip(samples, truths.values(), strict=True):
        assert sample.landmarks.dtype == np.float32
        np.testing.assert_allclose(sample.landmarks, truth.points, atol=1e-3)
        for found, said in ((sample.occluded, truth.occluded), (sample.box, truth.box)):
            assert (found is None) == (said is None), sample.name
            if said is not None:
                assert found.dtype == said.dtype
                np.testing.assert_allclose(found, said, atol=1e-3)
        assert sample.subsets == truth.subsets
        assert np.array_equal(sample.read(), truth.picture), sample.name


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    splits: Splits = WRITERS[name](tmp_path)
    assert FORMATS[name].splits[0] in splits
    for split in FORMATS[name].splits:
        if splits[split]:
            check(load(name, tmp_path, split), splits[split])
            kept = list(splits[split])[-1]
            check(load(name, tmp_path, split, only=[kept]), {kept: splits[split][kept]})
        else:
            with pytest.raises(DataError, match=f"split {split} of {name} holds no faces"):
                load(name, tmp_path, split)
    check(load(name, tmp_path), splits[FORMATS[name].splits[0]])
    with pytest.raises(DataError, match=r"has no face nobody \(1 not found\)"):
        load(name, tmp_path, only=["nobody"])


@pytest.mark.parametrize("pointwise", [False, True])
def test_csv(tmp_path: Path, pointwise: bool) -> None:
    splits = write_csv(tmp_path, pointwise=pointwise)
    for root in (tmp_path, tmp_path / "labels.csv"):
        check(read("folder", root, layout=layout("webcaricature17")), splits["all"])


def test_predictions_come_back(tmp_path: Path) -> None:
    """What octamark predict writes as csv and coco is a labelled set."""
    truths = [draw("ibug68", 200 + number) for number in range(2)]
    save(tmp_path / "a.png", truths[0].picture)
    landmarks, boxes = np.stack([truth.points for truth in truths]), np.stack([truth.box for truth in truths])
    ones = np.ones((2, 68, 2), np.float32)
    faces = Faces(layout("ibug68"), (72, 64), landmarks, ones, ones[..., 0], boxes, ones[:, 0, 0], np.zeros((2, 2, 3)))
    for name in ("csv", "coco"):
        file = str(formats.FORMATS[name].file)
        write_all(name, tmp_path, [formats.Record("a.png", "a", "nano", faces)])
        form = "coco" if name == "coco" else "folder"
        samples = read(form, tmp_path / file, layout=layout("ibug68"))
        assert [sample.name for sample in samples] == ["a", "a#2"]
        for sample, truth in zip(samples, truths, strict=True):
            np.testing.assert_allclose(sample.landmarks, truth.points, atol=0.006)
            np.testing.assert_allclose(sample.box, truth.box, atol=0.011)


def test_300w_has_a_validation_split(tmp_path: Path) -> None:
    root = write_w300(tmp_path, per_folder=2, side=64)
    (root / "splits" / "val.txt").write_text("helen/trainset/face_1\nafw/face_0\n")
    samples = read("300w", root, "val")
    assert [sample.name for sample in samples] == ["afw/face_0", "helen/trainset/face_1"]
    assert len(read("300w", root)) == len(w300.read(root, "full")) == 6
    assert np.array_equal(samples[0].read(), read_picture(samples[0].picture))
    (root / "splits" / "val.txt").write_text("afw/nobody\n")
    with pytest.raises(DataError, match=r"val\.txt: lists afw/nobody \(1 names\), which do not exist"):
        read("300w", root, "val")
    (root / "splits" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt: cannot be read as a split file"):
        read("300w", root, "val")


def test_cofw_pictures_are_read_late_and_in_other_processes(tmp_path: Path) -> None:
    truth = WRITERS["cofw"](tmp_path)["train"]["train/0003"]
    sample = load("cofw", tmp_path, "train")[2]
    assert np.array_equal(pickle.loads(pickle.dumps(sample)).read(), truth.picture)
    path = tmp_path / "COFW_train_color.mat"
    with h5py.File(path, "r+") as file:
        del file["#refs#/2"]
    with pytest.raises(PictureError, match=r"COFW_train_color\.mat: IsTr, picture 3: "):
        sample.read()
    path.unlink()
    with pytest.raises(PictureError, match=r"COFW_train_color\.mat: IsTr, picture 3: "):
        sample.read()


# Errors that every format shares.


def test_unknown_format_split_and_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown format 'lfw'; formats: 300w, wflw, cofw, aflw19, webcaricature, cari"):
        read("lfw", tmp_path)
    with pytest.raises(DataError, match=r"wflw has no split 'val'; splits: test, test/pose, .*, test/blur, train"):
        read("wflw", tmp_path, "val")
    for name in ("coco", "folder"):
        with pytest.raises(LayoutError, match=f"{name} can hold any layout: say which one"):
            read(name, tmp_path)
    with pytest.raises(LayoutError, match="300w has 68 points, layout ibug68; layout wflw98 has 98"):
        read("300w", tmp_path, layout=layout("wflw98"))
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        read("300w", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: not a folder; wflw is read from its folder"):
        read("wflw", tmp_path / "file")


@pytest.mark.parametrize(("name", "said"), [
    ("wflw", r"list_98pt_rect_attr_test\.txt: cannot be read"),
    ("cofw", r"COFW_test_color\.mat: cannot be read"),
    ("aflw19", r"AFLWinfo_release\.mat: cannot be read"),
    ("webcaricature", "holds no folder FacialPoints"),
    ("cariface", r"test_images\.txt: cannot be read"),
    ("coco", r"expected one \.json .* found none"),
    ("folder", r"holds neither a \.csv, a \.jsonl or \.json nor \.pts files"),
])  # fmt: skip
def test_an_empty_folder(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(name, tmp_path)


@pytest.mark.parametrize(("name", "split", "gone", "counted"), [
    ("wflw", "train", "WFLW_images/0--Parade/two faces.png", "1 of 2"),
    ("aflw19", "test", "data/flickr/3/e.png", "1 of 3"),
    ("cariface", "test", "images/test_0.png", "1 of 2"),
    ("coco", "all", "images/1.png", "1 of 2"),
])  # fmt: skip
def test_absent_pictures_are_counted(tmp_path: Path, name: str, split: str, gone: str, counted: str) -> None:
    WRITERS[name](tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=f"{Path(gone).name}: no such picture \\({counted} pictures are missing\\)"):
        load(name, tmp_path, split)


@pytest.mark.parametrize(("name", "package"), [("cofw", "h5py"), ("aflw19", "scipy")])
def test_packages_that_are_missing(tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (package, "scipy.io"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"\.mat: reading it needs {package}: pip install {package}$"):
        load(name, tmp_path)


def test_reading_imports_neither_torch_nor_what_only_some_sets_need(tmp_path: Path) -> None:
    WRITERS["wflw"](tmp_path)
    code = (
        "import sys\nfor name in ('torch', 'h5py', 'scipy'): sys.modules[name] = None\n"
        "from octamark.datasets import read\nfrom pathlib import Path\n"
        f"assert len(read('wflw', Path({str(tmp_path)!r}))) == 3"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


# Errors of each format: what is done to the set, and what is said.

Damage = Callable[[Path], object]


def refused(tmp_path: Path, name: str, damage: Damage, said: str, split: str | None = None) -> None:
    WRITERS[name](tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        load(name, tmp_path, split)
    assert said in str(caught.value)


def edited(name: str, line: int, change: Callable[[list[str]], list[str]]) -> Damage:
    def damage(root: Path) -> None:
        path = root / name
        lines = path.read_text().split("\n")
        lines[line - 1] = " ".join(change(lines[line - 1].split(" ")))
        path.write_text("\n".join(lines))

    return damage


WFLW_TEST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"


@pytest.mark.parametrize(("change", "said"), [
    (lambda words: words[2:], "_test.txt:2: 205 columns; expected 207: 98 points (x y), 4 of a box, 6 flags"),
    (lambda words: ["nan", *words[1:]], "_test.txt:2: 'nan' is not a finite number"),
    (lambda words: [*words[:150], "x", *words[151:]], "_test.txt:2: 'x' is not a finite number"),
    (lambda words: [*words[:200], "2", *words[201:]], "_test.txt:2: flags 2 0 0 0 0 0; allowed: 0 and 1"),
])  # fmt: skip
def test_wflw_lines(tmp_path: Path, change: Callable[[list[str]], list[str]], said: str) -> None:
    refused(tmp_path, "wflw", edited(WFLW_TEST, 2, change), said)


def cofw(change: Callable[[h5py.File], object]) -> Damage:
    def damage(root: Path) -> None:
        with h5py.File(root / "COFW_test_color.mat", "r+") as file:
            change(file)

    return damage


def replaced(name: str, array: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = array(np.asarray(file[name]))
        del file[name]
        file[name] = values

    return change


def with_value(array: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[place] = value
    return changed


@pytest.mark.parametrize(("damage", "said"), [
    (cofw(lambda file: file.move("bboxesT", "other")), "_color.mat: holds no bboxesT; expected IsT, phisT, bboxesT"),
    (cofw(replaced("phisT", lambda phis: phis.T)), "_color.mat: phisT is (3, 87); expected (87, 3) for 3 pictures"),
    (cofw(replaced("phisT", lambda phis: phis[:, :2])), "_color.mat: phisT is (87, 2); expected (87, 3)"),
    (cofw(replaced("phisT", lambda phis: with_value(phis, (4, 1), np.nan))), "_color.mat: phisT, face 2: a value that"),
    (cofw(replaced("bboxesT", lambda box: with_value(box, (0, 2), np.inf))), "_color.mat: bboxesT, face 3: a value"),
    (cofw(replaced("phisT", lambda phis: with_value(phis, (60, 1), 7))), "_color.mat: phisT holds flags other than 0"),
    (lambda root: (root / "COFW_test_color.mat").write_bytes(b"x" * 999), "_color.mat: cannot be read as a MATLAB v7"),
])  # fmt: skip
def test_cofw_files(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "cofw", damage, said)


def aflw(**changes: Callable[[np.ndarray], np.ndarray] | None) -> Damage:
    def damage(root: Path) -> None:
        path = root / "AFLWinfo_release.mat"
        table = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        for name, change in changes.items():
            if change is None:
                del table[name]
            else:
                table[name] = change(table[name])
        savemat(path, table)

    return damage


@pytest.mark.parametrize(("damage", "said"), [
    (aflw(ra=None), "AFLWinfo_release.mat: holds no ra; expected nameList, data, bbox, mask_new, ra"),
    (aflw(data=lambda data: data[:, :36]), "AFLWinfo_release.mat: data is (6, 36); expected (6, 38) for 6 names"),
    (aflw(data=lambda data: with_value(data, (3, 0), np.nan)), "AFLWinfo_release.mat: data, face 4: a value that is"),
    (aflw(bbox=lambda box: box[:5]), "AFLWinfo_release.mat: bbox is (5, 4); expected (6, 4)"),
    (aflw(ra=lambda ra: ra - 1), "AFLWinfo_release.mat: ra must hold each of 1 to 6 once"),
    (lambda root: (root / "AFLWinfo_release.mat").write_bytes(b""), "release.mat: cannot be read as a MATLAB v5"),
    (lambda root: (root / "AFLWinfo_release.mat").write_bytes(b"x" * 999), "AFLWinfo_release.mat: cannot be read as"),
    (lambda root: (root / "data").rename(root / "d"), "no folder of pictures; expected one of data/flickr, aflw/data/"),
])  # fmt: skip
def test_aflw19_files(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "aflw19", damage, said)


POINTS = "FacialPoints/Al Gore/P00001.txt"


@pytest.mark.parametrize(("damage", "said"), [
    (edited(POINTS, 3, lambda words: ["inf", words[1]]), "P00001.txt:3: 'inf' is not a finite number"),
    (edited(POINTS, 3, lambda words: []), "P00001.txt: expected 17 points (x y), found 16"),
    (lambda root: (root / POINTS).rename(root / "FacialPoints/Zidane/X1.txt"), "X1.txt: names begin with C (caric"),
    (lambda root: (root / "OriginalImages/Al Gore/P00001.png").unlink(), "P00001.txt: no picture "),
    (lambda root: (root / "OriginalImages").rename(root / "pictures"), "holds no folder OriginalImages; expected"),
])  # fmt: skip
def test_webcaricature_files(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "webcaricature", damage, said)


def numpy_points(points: np.ndarray) -> Damage:
    return lambda root: np.save(root / "landmarks" / "test_1.npy", points)


@pytest.mark.parametrize(("damage", "said"), [
    (numpy_points(np.zeros((2, 68))), "test_1.npy: expected numbers of shape (68, 2), found (2, 68)"),
    (numpy_points(np.full((68, 2), np.nan)), "test_1.npy: point 0 is not finite"),
    (numpy_points(np.array([["a", "b"]] * 68)), "test_1.npy: expected numbers of shape (68, 2)"),
    (numpy_points(np.array([{}] * 68)), "test_1.npy: cannot be read as a .npy file"),
    (lambda root: (root / "landmarks" / "test_1.npy").write_bytes(b""), "test_1.npy: cannot be read as a .npy file"),
    (lambda root: (root / "landmarks" / "test_1.npy").unlink(), "test_landmarks.txt:2: "),
    (edited("test_images.txt", 2, lambda words: []), "test_landmarks.txt: lists 2 files of points for 1 pictures"),
])  # fmt: skip
def test_cariface_files(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "cariface", damage, said)


def test_cariface_points_as_text(tmp_path: Path) -> None:
    truth = WRITERS["cariface"](tmp_path)["test"]["images/test_1"]
    (tmp_path / "landmarks" / "one.txt").write_text("".join(f"{x} {y}\n" for x, y in truth.points))
    edited("test_landmarks.txt", 2, lambda words: ["landmarks/one.txt"])(tmp_path)
    np.testing.assert_allclose(load("cariface", tmp_path)[1].landmarks, truth.points, atol=1e-3)


def coco(**changes: object) -> Damage:
    """The file again, with other values in its second annotation."""

    def damage(root: Path) -> None:
        table = coco_table([draw("aflw19", 130), draw("aflw19", 131)], ["0.png", "1.png"], 19)
        table["annotations"][1] |= changes
        (root / "annotations" / "faces.json").write_text(json.dumps(table))

    return damage


def coco_text(text: str) -> Damage:
    return lambda root: (root / "annotations" / "faces.json").write_text(text)


TWO_IMAGES = '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [], "categories": '
ONE_CATEGORY = '{"images": [], "annotations": [], "categories": [{"id": 3, "name": "face", "keypoints": ["a", "b"]}]}'


@pytest.mark.parametrize(("damage", "said"), [
    (coco(keypoints=[1, 2, 2] * 18), "faces.json: annotation 6: keypoints (x y v of 19 points) must be 57"),
    (coco(keypoints=[1, 2, 3] * 19), "faces.json: annotation 6: visibility must be 0, 1 or 2"),
    (coco(keypoints=[1, float("nan"), 2] * 19), "faces.json: annotation 6: a labelled keypoint is not finite"),
    (coco(keypoints=[1, "two", 2] * 19), "faces.json: annotation 6: keypoints (x y v of 19 points) must be 57 num"),
    (coco(bbox=[1, 2, 3]), "faces.json: annotation 6: bbox (left top width height) must be 4 numbers"),
    (coco(image_id=7), "faces.json: annotation 6: no image 7"),
    (coco(id=5), "faces.json: annotation 5: the annotation id is used twice"),
    (coco_text("{"), "faces.json:1: not JSON"),
    (coco_text("[]"), "faces.json: not COCO keypoints"),
    (coco_text(ONE_CATEGORY), "no category has the 19 points of layout aflw19 (found 3: 2)"),
    (coco_text(ONE_CATEGORY.replace('["a", "b"]', "[]")), "split all of coco holds no faces"),
    (coco_text(TWO_IMAGES + '[{"id": 3, "keypoints": []}]}'), "faces.json: an image id is used twice"),
    (lambda root: (root / "annotations" / "more.json").touch(), "found annotations/faces.json, annotations/more.json"),
])  # fmt: skip
def test_coco_files(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "coco", damage, said)


def test_coco_without_boxes(tmp_path: Path) -> None:
    WRITERS["coco"](tmp_path)
    coco(bbox=None)(tmp_path)
    assert [sample.box is None for sample in load("coco", tmp_path / "annotations" / "faces.json")] == [False, True]


@pytest.mark.parametrize(("damage", "said"), [
    (lambda root: write_pts(root / "a.b.pts", np.zeros((28, 2), np.float32)), "a.b.pts: expected 29 points (x y), fo"),
    (edited("a.b.pts", 6, lambda words: [words[0], "nan"]), "a.b.pts:6: 'nan' is not a finite number"),
    (edited("more/c.pts", 2, lambda words: ["x", words[1]]), "more/c.pts:2: 'x' is not a finite number"),
    (lambda root: (root / "more" / "c.png").unlink(), "more/c.pts: no picture beside it"),
    (lambda root: (root / "one.csv").touch(), "holds one.csv, a.b.pts, more/c.pts; expected one .csv, "),
])  # fmt: skip
def test_folders(tmp_path: Path, damage: Damage, said: str) -> None:
    refused(tmp_path, "folder", damage, said)


def test_a_name_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["coco"](tmp_path)
    one, two = load("coco", tmp_path)
    twice = [one, two, Sample("0", two.picture, two.landmarks)]
    form = FORMATS["coco"]
    monkeypatch.setitem(FORMATS, "coco", type(form)(form.title, form.layout, form.splits, lambda *given: twice))
    with pytest.raises(DataError, match=r": 0: more than one face of this name \(1 names\)"):
        load("coco", tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ("file,x0,y0\na.png,1,2\n", ":1: 1 points; layout aflw19 has 19 (missing: x1, x10, x11)"),
    ("name,x,y\na.png,1,2\n", ":1: columns name, x, y; expected file, x0, y0, ... or file, point, x, y"),
    ("", ":1: columns missing; expected file, x0"),
    ("file,point,x,y\na.png,0,1\n", ":2: the number of cells differs from the number of columns (4)"),
    ("file,point,x,y\na.png,0,1,2\na.png,1,1,2,3\n", ":3: the number of cells differs from the number of columns (4)"),
    ("file,point,x,y\na.png,0,1,nan\n", ":2: 'nan' is not a finite number"),
    ("file,point,x,y\na.png,0,1,\n", ":2: '' is not a finite number"),
    ("file,file,point,x,y\na.png,b.png,0,1,2\n", ":1: more than one column is called file"),
    ("file,point,x,y\na.png,19,1,2\n", ":2: point 19; allowed: 0 to 18"),
    ("file,point,x,y\na.png,0.5,1,2\n", ":2: point 0.5; allowed: 0 to 18"),
    ("file,point,x,y\na.png,0,1,2\na.png,0,1,2\n", ":3: point 0 of this face a second time"),
    ("file,point,x,y\n,0,1,2\n", ":2: names no file"),
    ("file,point,x,y,layout\na.png,0,1,2,ibug68\n", ":2: layout ibug68; expected layout aflw19"),
    ("file,point,x,y,box_x1\na.png,0,1,2,3\n", ":2: '' is not a finite number"),
    ('file,point,x,y\n"a.png,0,1,2\n', "not a .csv file"),
    ("file,point,x,y\n", "holds no faces"),
    ("file,point,x,y\na.png,0,1,2\n", "a.png: no such picture (1 of 1"),
])  # fmt: skip
def test_csv_lines(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read("folder", tmp_path, layout=layout("aflw19"))
    assert said in str(caught.value)
    if said.startswith(":"):
        assert f"labels.csv{said}" in str(caught.value)


def test_csv_rows_of_another_layout(tmp_path: Path) -> None:
    write_csv(tmp_path)
    with pytest.raises(DataError, match=r"labels\.csv:1: 17 points; layout aflw19 has 19 \(missing: x17, x18, y17\)"):
        read("folder", tmp_path, layout=layout("aflw19"))


def test_a_face_in_another_layout() -> None:
    """Flags follow their points; a mean is hidden where half of its points are."""
    ibug, five = layout("ibug68"), layout("five")
    hidden = np.zeros(68, bool)
    hidden[[36, 37, 42, 43, 44, 30]] = True
    face = Sample("a", Path("a.png"), ibug.diagram * 100, hidden, np.array([0, 0, 99, 99], np.float32))
    moved = face.converted(ibug, five)
    assert (moved.landmarks.shape, moved.landmarks.dtype, moved.box is face.box) == ((5, 2), np.float32, True)
    assert moved.occluded is not None
    assert moved.occluded.tolist() == [False, True, True, False, False]
    assert Sample("a", Path("a.png"), ibug.diagram * 100).converted(ibug, five).occluded is None
    drawn = Sample("a", Path("a.png"), layout("manga60").diagram * 100, np.ones(60, bool))
    dense = drawn.converted(layout("manga60"), ibug)
    assert dense.occluded is not None
    assert not dense.occluded[np.isnan(dense.landmarks[:, 0])].any()
