"""LandmarkPredictor: batches as Ray, Spark and Dask have them, from every kind of place, always the same rows."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.conftest import BAD, EMPTY, PICTURES, names
from octamark import load, read_picture
from octamark.cluster import LandmarkPredictor
from octamark.errors import DataError, WeightsError
from octamark.io.parquet import COLUMNS, schema, spark_schema, table
from octamark.io.places import place
from octamark.io.video import VideoWriter

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")


@pytest.fixture(scope="module")
def predictor() -> LandmarkPredictor:
    return LandmarkPredictor("nano")


@pytest.fixture(scope="module")
def rows(predictor: LandmarkPredictor, pictures: Path) -> Any:
    return predictor({"file": np.array(names(pictures))})


def test_rows_hold_what_the_landmarker_finds(predictor: LandmarkPredictor, rows: Any, pictures: Path) -> None:
    assert rows.schema == schema()
    by_name = {Path(row["file"]).name: row for row in rows.to_pylist()}
    assert len(by_name) == PICTURES == rows.num_rows
    landmarker = load("nano", threads=1)
    for name in ("00.png", "07.png"):
        faces = landmarker(pictures / name)
        row = by_name[name]
        assert (row["width"], row["height"], row["model"], row["layout"]) == (256, 256, "nano", "ibug68")
        np.testing.assert_allclose(np.reshape(row["landmarks"], (-1, 2)), faces.landmarks[0], atol=0.006)
        np.testing.assert_allclose(row["box"], faces.boxes[0], atol=0.006)
    assert (by_name[EMPTY]["faces"], by_name[EMPTY]["face"], by_name[EMPTY]["error"]) == (0, None, None)
    assert by_name[BAD]["faces"] is None
    assert by_name[BAD]["error"].startswith(f"{pictures / BAD}: not a picture in a known format")


def test_the_batch_does_not_change_the_rows(predictor: LandmarkPredictor, rows: Any, pictures: Path) -> None:
    files = names(pictures)
    apart = [predictor({"file": [file]}) for file in files[:5]]
    assert pa.concat_tables(apart).equals(rows.slice(0, 5))
    assert predictor({"file": files[3:9]}).equals(rows.slice(3, 6))
    assert pickle.loads(pickle.dumps(predictor))({"file": files[:4]}).equals(rows.slice(0, 4))


def test_tables_and_data_frames_come_back_as_they_came(predictor: LandmarkPredictor, rows: Any, pictures: Path) -> None:
    import pandas as pd

    files = names(pictures)
    assert LandmarkPredictor("nano", column="p")(pa.table({"p": files[:2], "n": [1, 2]})).equals(rows.slice(0, 2))
    frame = predictor(pd.DataFrame({"file": files}))
    assert list(frame.columns) == list(COLUMNS)
    assert str(frame["faces"].dtype) == "Int32"
    assert pa.Table.from_pandas(frame, schema=schema(), preserve_index=False).equals(rows.replace_schema_metadata())


def test_spark_gives_and_takes_an_iterator_of_data_frames(rows: Any, pictures: Path) -> None:
    """What ``mapInPandas`` calls: frames in, frames out, and a schema in Spark's words."""
    import pandas as pd

    def landmarks(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        predictor = LandmarkPredictor("nano")
        for frame in frames:
            yield predictor(frame)

    files = names(pictures)
    found = list(landmarks(iter([pd.DataFrame({"file": files[:3]}), pd.DataFrame({"file": files[3:6]})])))
    spark = {name: kind for name, _, kind in (item.partition(" ") for item in spark_schema().split(", "))}
    kinds = {"bigint": pa.int64(), "int": pa.int32(), "double": pa.float64(), "string": pa.string(),
             "float": pa.float32(), "array<float>": pa.list_(pa.float32())}  # fmt: skip
    for number, frame in enumerate(found):  # column by column, as Spark does
        for name, kind in spark.items():
            mask = None if hasattr(frame[name].array, "__arrow_array__") else frame[name].isnull()
            column = pa.Array.from_pandas(frame[name], mask=mask, type=kinds[kind])
            assert column.to_pylist() == rows.slice(3 * number, 3).column(name).to_pylist(), name


def test_dask_maps_partitions(predictor: LandmarkPredictor, rows: Any, pictures: Path) -> None:
    dataframe = pytest.importorskip("dask.dataframe", reason="needs dask and pandas")
    import pandas as pd

    frame = dataframe.from_pandas(pd.DataFrame({"file": names(pictures)[:6]}), npartitions=2)
    found = frame.map_partitions(predictor, meta=predictor(pd.DataFrame({"file": []}, dtype=object)))
    computed = found.compute(scheduler="synchronous")
    assert computed["file"].tolist() == rows.slice(0, 6).column("file").to_pylist()
    assert [None if pd.isna(count) else count for count in computed["faces"]] == rows.slice(0, 6).column(
        "faces"
    ).to_pylist()


def test_pictures_come_from_an_object_store(
    predictor: LandmarkPredictor, rows: Any, pictures: Path, object_store: str
) -> None:
    root = place(f"s3://bucket/predictor{object_store}")
    files = names(pictures)[:6]
    for file in files:
        with root.filesystem.open_output_stream((root / Path(file).name).path) as stream:
            stream.write(Path(file).read_bytes())
    uris = [(root / Path(file).name).name for file in files]
    missing = (root / "missing.png").name
    found = predictor({"file": [*uris, missing, f"file://{files[0]}", "http://example.org/a.png"]}).to_pylist()
    by_file = {row["file"]: row for row in found}
    for file, uri in zip(files, uris, strict=True):
        expected = next(row for row in rows.to_pylist() if row["file"] == file)
        if expected["error"] is None:
            assert {**by_file[uri], "file": file} == expected
        else:
            assert by_file[uri]["error"] == expected["error"].replace(file, uri)
    assert by_file[missing]["error"].startswith(f"{missing}: cannot be read (")
    assert by_file[f"file://{files[0]}"]["error"] or by_file[f"file://{files[0]}"]["faces"] == 1
    assert "unknown kind http://" in by_file["http://example.org/a.png"]["error"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, rate=25) as writer:
        for number in range(6):
            writer.write(read_picture(pictures / f"{number:02}.png"), time=number / 25)
    return path


def test_a_video_has_rows_for_each_frame(
    predictor: LandmarkPredictor, video: Path, pictures: Path, tmp_path: Path, object_store: str
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is text")
    still = str(pictures / "00.png")
    found = predictor({"file": [still, str(video), str(broken), still]}).to_pylist()
    assert [(row["file"], row["frame"]) for row in found] == [
        (still, None), *((str(video), frame) for frame in range(6)), (str(broken), None), (still, None),
    ]  # fmt: skip
    assert [row["id"] for row in found[1:7]] == [1] * 6
    assert [row["time"] for row in found[1:4]] == [0.0, 0.04, 0.08]
    assert found[7]["error"].startswith(f"{broken}: cannot be read as a video")
    remote = place(f"s3://bucket/clip.mp4{object_store}")
    with remote.filesystem.open_output_stream(remote.path) as stream:
        stream.write(video.read_bytes())
    assert [{**row, "file": str(video)} for row in predictor({"file": [remote.name]}).to_pylist()] == found[1:7]


def test_wrong_batches_and_models_are_one_clear_error(predictor: LandmarkPredictor) -> None:
    with pytest.raises(DataError, match="no column 'file'; columns: path, n"):
        predictor({"path": ["a.png"], "n": [1]})
    with pytest.raises(DataError, match=r"column 'file' holds 3 \(int\); allowed: paths and URIs as text"):
        predictor({"file": np.array([3])})
    with pytest.raises(WeightsError, match="unknown model 'none'"):
        LandmarkPredictor("none")
    assert table([]).schema == schema()


def test_a_model_file_travels_with_the_predictor(tmp_path: Path, rows: Any, pictures: Path) -> None:
    from octamark import models

    path = tmp_path / "own.onnx"
    path.write_bytes(models.read("nano"))
    sent = pickle.dumps(LandmarkPredictor(path))
    path.unlink()
    assert pickle.loads(sent)({"file": names(pictures)[:2]}).equals(rows.slice(0, 2))
