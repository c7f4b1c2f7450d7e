"""Small face sets in the exact form of the original distributions, with drawn faces: no picture of a person.

Every writer returns what its files say, split -> name -> :class:`Truth`, in the order in which a reader should give it.
Pictures are .png, so that they come back exactly.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from drawn_faces import write_pts
from octamark.layouts import layout

WFLW_FLAGS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


class Truth(NamedTuple):
    picture: NDArray[np.uint8]  # (H, W, 3)
    points: NDArray[np.float32]  # (M, 2), 0-based
    occluded: NDArray[np.bool_] | None = None
    box: NDArray[np.float32] | None = None  # xyxy
    subsets: frozenset[str] = frozenset()


Splits = dict[str, dict[str, Truth]]


def draw(name: str, seed: int, grey: bool = False) -> Truth:
    """The schematic face of a layout in a picture 72 wide and 64 high, no two of a seed alike; all labels."""
    rng = np.random.default_rng(seed)
    one = layout(name)
    points = np.round(one.diagram * rng.uniform(30, 45) + rng.uniform(5, 15, 2), 2).astype(np.float32)
    picture = np.full((64, 72, 3), rng.integers(0, 90, 3), np.uint8)
    for first, second in one.edges:
        ends = [tuple(np.round(points[i]).astype(int).tolist()) for i in (first, second)]
        cv2.line(picture, ends[0], ends[1], rng.integers(120, 255, 3).tolist(), 1)
    if grey:
        picture[:] = picture[:, :, :1]
    box = np.round(np.concatenate([points.min(axis=0) - 2, points.max(axis=0) + 2]), 2).astype(np.float32)
    return Truth(picture, points, rng.random(one.count) < 0.3, box)


def save(path: Path, picture: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_wflw(root: Path) -> Splits:
    """train: two faces of one picture and a third; test: three faces, flags 0 and 5, flag 0, none."""
    folder = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True)
    splits: Splits = {f"test/{flag}": {} for flag in WFLW_FLAGS}
    faces = {
        "train": [("0--Parade/two faces", ()), ("0--Parade/two faces", (1, 2, 3)), ("1--Handshaking/b", (4,))],
        "test": [("0--Parade/c", (0, 5)), ("0--Parade/d", (0,)), ("2--X/e", ())],
    }
    for split, listed in faces.items():
        lines, splits[split], pictures = [], {}, {}
        for number, (stem, flags) in enumerate(listed):
            face = draw("wflw98", 10 * len(split) + number)
            picture = pictures.setdefault(stem, face.picture)
            save(root / "WFLW_images" / f"{stem}.png", picture)
            values = [f"{value:.6f}" for value in face.points.ravel()] + [f"{value:.2f}" for value in face.box]
            lines.append(" ".join([*values, *(str(int(flag in flags)) for flag in range(6)), f"{stem}.png"]))
            name = f"{stem}#2" if stem in splits[split] else stem
            subsets = frozenset(WFLW_FLAGS[flag] for flag in flags)
            splits[split][name] = face._replace(picture=picture, occluded=None, subsets=subsets)
            for flag in subsets if split == "test" else ():
                splits[f"test/{flag}"][name] = splits[split][name]
        (folder / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(lines) + "\n")
    return splits


def write_cofw(root: Path) -> Splits:
    """HDF5 as MATLAB v7.3 writes it: everything transposed, pictures behind references; the second is grey."""
    splits: Splits = {}
    for split, suffix in (("train", "Tr"), ("test", "T")):
        faces = [draw("cofw29", 20 * len(split) + number, grey=number == 1) for number in range(3)]
        phis = [np.concatenate([*(face.points.T + 1.0), face.occluded]) for face in faces]  # one row a face
        boxes = [np.concatenate([face.box[:2] + 1.0, face.box[2:] - face.box[:2]]) for face in faces]
        with h5py.File(root / f"COFW_{split}_color.mat", "w", userblock_size=512) as file:
            file[f"phis{suffix}"], file[f"bboxes{suffix}"] = np.array(phis).T, np.array(boxes).T
            cells = file.create_dataset(f"Is{suffix}", (1, len(faces)), dtype=h5py.ref_dtype)
            for number, face in enumerate(faces):
                pixels = face.picture[:, :, 0] if number == 1 else face.picture
                file[f"#refs#/{number}"] = pixels.T
                cells[0, number] = file[f"#refs#/{number}"].ref
        splits[split] = {f"{split}/{number + 1:04d}": face for number, face in enumerate(faces)}
    return splits


def write_aflw19(root: Path, training: int = 3) -> Splits:
    """Six faces, two of one picture; ``training`` of them, in the set's own order, train (20,000 in the original)."""
    stems = ["0/a", "0/b", "2/c", "3/d", "2/c", "3/e"]
    names = ["0/a", "0/b", "2/c", "3/d", "2/c#2", "3/e"]
    order = [4, 0, 3, 5, 1, 2]
    pictures: dict[str, NDArray[np.uint8]] = {}
    faces = []
    for number, stem in enumerate(stems):
        face = draw("aflw19", 70 + number)
        picture = pictures.setdefault(stem, face.picture)
        hidden = face.occluded & (number != 1)
        hidden[3] |= number != 1
        faces.append(face._replace(picture=picture, occluded=hidden))
        save(root / "data" / "flickr" / f"{stem}.png", picture)
    cells = np.empty((len(stems), 1), dtype=object)
    cells[:, 0] = [f"{stem}.png" for stem in stems]
    table = {
        "nameList": cells,
        "data": np.array([face.points.T.ravel() for face in faces], dtype=np.float64),
        "bbox": np.array([face.box[[0, 2, 1, 3]] for face in faces], dtype=np.float64),
        "mask_new": np.array([~face.occluded for face in faces]).astype(np.uint8),
        "ra": np.array([order], dtype=np.float64) + 1,
    }
    savemat(root / "AFLWinfo_release.mat", table)
    ordered = {names[i]: faces[i] for i in order}
    test = dict(list(ordered.items())[training:])
    frontal = {name: face for name, face in test.items() if not face.occluded.any()}
    return {"train": dict(list(ordered.items())[:training]), "test": test, "frontal": frontal}


def write_webcaricature(
    root: Path, names: Sequence[str] = ("Al Gore/C00001", "Al Gore/P00001", "Zidane/C00002")
) -> Splits:
    """Two persons, one with a blank in the name."""
    splits: Splits = {"all": {}, "caricatures": {}, "photographs": {}}
    for number, name in enumerate(names):
        face = draw("webcaricature17", 90 + number)
        save(root / "OriginalImages" / f"{name}.png", face.picture)
        path = root / "FacialPoints" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{x:.6f} {y:.6f}\n" for x, y in face.points))
        kind = "caricatures" if "/C" in name else "photographs"
        truth = Truth(face.picture, face.points, subsets=frozenset([kind]))
        splits["all"][name] = splits[kind][name] = truth
    return splits


def write_cariface(root: Path, faces: int = 2) -> Splits:
    """Lists as the authors keep them in ``exp``; train's paths are written from above it."""
    splits: Splits = {}
    for split, above in (("train", f"{root.name}/"), ("test", "")):
        splits[split] = {}
        for number in range(faces):
            face = draw("ibug68", 110 * len(split) + number)
            picture, points = f"images/{split}_{number}.png", f"landmarks/{split}_{number}.npy"
            save(root / picture, face.picture)
            (root / "landmarks").mkdir(exist_ok=True)
            np.save(root / points, face.points.astype(np.float64))
            for kind, name in (("images", picture), ("landmarks", points)):
                with (root / f"{split}_{kind}.txt").open("a") as file:
                    file.write(f"{above}{name}\n")
            splits[split][f"{above}{picture}".removesuffix(".png")] = Truth(face.picture, face.points)
    return splits


def coco_table(faces: Sequence[Truth], files: Sequence[str], count: int) -> dict[str, Any]:
    """One image and one annotation for each face; occluded points are v = 1, NaN points v = 0 at (0, 0)."""
    annotations = []
    for number, face in enumerate(faces):
        visible = np.where(np.isnan(face.points[:, 0]), 0, 2 - face.occluded)
        keypoints = np.concatenate([np.nan_to_num(face.points), visible[:, None]], axis=1).astype(float)
        x1, y1, x2, y2 = face.box.tolist()
        one = {"id": 5 + number, "image_id": 40 + number, "category_id": 1, "iscrowd": 0}
        annotations.append(one | {"keypoints": keypoints.ravel().tolist(), "bbox": [x1, y1, x2 - x1, y2 - y1]})
    return {
        "images": [{"id": 40 + number, "file_name": file} for number, file in enumerate(files)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "face", "keypoints": [f"p{i}" for i in range(count)], "skeleton": []}],
    }


def write_coco(root: Path) -> Splits:
    """Two faces of 19 points, one with an unlabelled point; and a crowd, a face without labels, a person: left out."""
    faces = [draw("aflw19", 130), draw("aflw19", 131)]
    faces[1].points[4], faces[1].occluded[4] = np.nan, False
    for number, face in enumerate(faces):
        save(root / "images" / f"{number}.png", face.picture)
    table = coco_table(faces, ["0.png", "1.png"], 19)
    table["categories"].append({"id": 2, "name": "person", "keypoints": ["head"]})
    extra = {"image_id": 40, "category_id": 1, "bbox": [0, 0, 1, 1], "keypoints": [3, 3, 2] * 19}
    table["annotations"] += [
        {**extra, "id": 90, "iscrowd": 1},
        {**extra, "id": 91, "keypoints": [0, 0, 0] * 19},
        {**extra, "id": 92, "category_id": 2, "keypoints": [3, 3, 2]},
        {"id": 93, "image_id": 40, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ]
    (root / "annotations").mkdir()
    (root / "annotations" / "faces.json").write_text(json.dumps(table))
    return {"all": {"0": faces[0], "1": faces[1]}}


def write_folder(root: Path) -> Splits:
    """A .pts beside each picture, one in a folder."""
    truths = {}
    for number, name in enumerate(("a.b", "more/c")):
        face = draw("cofw29", 150 + number)
        save(root / f"{name}.png", face.picture)
        write_pts(root / f"{name}.pts", face.points, header=number == 0)
        truths[name] = Truth(face.picture, face.points)
    return {"all": truths}


def write_csv(root: Path, *, pointwise: bool = False) -> Splits:
    """One .csv: a row for each face, or one for each point as octamark predict writes; one point has no label."""
    faces = [draw("webcaricature17", 170 + number) for number in range(3)]
    faces[1].points[3] = np.nan
    faces[1] = faces[1]._replace(picture=faces[0].picture)  # two faces of one picture
    files = ["pictures/a.png", "pictures/a.png", "b.png"]
    for file, face in zip(files, faces, strict=True):
        save(root / file, face.picture)
    box = ["box_x1", "box_y1", "box_x2", "box_y2"]
    rows: list[dict[str, Any]] = []
    for number, (file, face) in enumerate(zip(files, faces, strict=True)):
        row = {"file": file, **dict(zip(box, face.box.tolist(), strict=True))}
        points = [("", "") if np.isnan(x) else (f"{x:.4f}", f"{y:.4f}") for x, y in face.points]
        if pointwise:
            row |= {"face": number, "layout": "webcaricature17"}
            rows += [row | {"point": i, "x": x, "y": y} for i, (x, y) in enumerate(points) if x]
        else:
            rows.append(row | {f"{axis}{i}": xy[k] for i, xy in enumerate(points) for k, axis in enumerate("xy")})
    if pointwise:
        rows.append({"file": "nobody.png", "layout": "webcaricature17"})  # a picture without faces
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    names = ["pictures/a", "pictures/a#2", "b"]
    return {"all": {name: face._replace(occluded=None) for name, face in zip(names, faces, strict=True)}}


WRITERS: dict[str, Callable[[Path], Splits]] = {
    "wflw": write_wflw,
    "cofw": write_cofw,
    "aflw19": write_aflw19,
    "webcaricature": write_webcaricature,
    "cariface": write_cariface,
    "coco": write_coco,
    "folder": write_folder,
}
"""Format -> writer, but for 300w (drawn_faces.write_w300) and the .csv of folder."""
