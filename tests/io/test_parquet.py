"""Parquet: what is written comes back, the columns are those of the documentation, bad files are one clear error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landmark_files import IBUG, faces_at, records_of, rounded_record, with_visible
from octamark.errors import ConfigError, DataError
from octamark.faces import Faces
from octamark.io import Record, read_records
from octamark.io.parquet import (
    COLUMNS,
    Failure,
    open_part,
    parts,
    read_batches,
    schema,
    spark_schema,
    table,
)
from octamark.io.places import place, split_settings

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "io.md"
NAMES = ["in/a.png", "line\nbreak.png", "s3://bucket/\N{SNOWMAN}.png"]


def records() -> list[Record]:
    """Two faces, one, none."""
    return records_of(NAMES, [faces_at(0, 700), faces_at(5, seed=1), Faces.empty(IBUG, (90, 60))])


def write(path: Path, *outcomes: Record | Failure) -> Path:
    with open_part(place(path)) as part:
        part.write_table(table(outcomes))
    return path


def test_the_reference_lists_the_columns() -> None:
    rows = [f"| `{name}` | {column.type} | {column.text} |" for name, column in COLUMNS.items()]
    assert "\n".join(rows) in REFERENCE.read_text(encoding="utf-8")
    assert [str(field.type).replace("item: ", "") for field in schema()] == [column.type for column in COLUMNS.values()]
    assert spark_schema().startswith("file string, frame bigint, time double, face int, ")
    assert spark_schema().endswith(", spread array<float>, confidence array<float>, visible array<float>")


def test_records_come_back_from_a_file_and_from_a_folder(tmp_path: Path) -> None:
    failure = Failure("bad.png", "bad.png: empty", "nano", "ibug68")
    write(tmp_path / "part-0.parquet", records()[0], failure)
    write(tmp_path / "part-1.parquet", *records()[1:])
    write(tmp_path / "_unfinished.parquet", *records())
    for found in (read_records(tmp_path), read_records(tmp_path, IBUG)):
        assert [rounded_record(record) for record in found] == [rounded_record(record) for record in records()]
    assert [record.file for record in read_records(tmp_path / "part-0.parquet")] == NAMES[:1]


def test_there_is_a_row_for_each_face_each_empty_picture_and_each_failure() -> None:
    rows = table([*records(), Failure("bad.png", "bad.png: empty", "nano", "ibug68")]).to_pylist()
    assert [(row["file"], row["face"], row["faces"], row["error"]) for row in rows] == [
        (NAMES[0], 0, 2, None),
        (NAMES[0], 1, 2, None),
        (NAMES[1], 0, 1, None),
        (NAMES[2], None, 0, None),
        ("bad.png", None, None, "bad.png: empty"),
    ]
    assert [name for name, value in rows[2].items() if value is None] == ["frame", "time", "id", "error", "visible"]
    assert len(rows[0]["landmarks"]) == len(rows[0]["spread"]) == 2 * len(rows[0]["confidence"]) == 136
    x, y = rows[0]["landmarks"][2:4]
    np.testing.assert_allclose((x, y), records()[0].faces.landmarks[0, 1], atol=0.00501)


def test_frames_and_ids_come_back(tmp_path: Path) -> None:
    tracked = replace(faces_at(0, 700), ids=np.array([12, 3]))
    frames = [Record("a.mp4", "a", "nano", tracked, index, index / 25) for index in (4, 5)]
    found = read_records(write(tmp_path / "a.parquet", *frames))
    assert [(record.file, record.frame, record.time) for record in found] == [("a.mp4", 4, 0.16), ("a.mp4", 5, 0.2)]
    assert [record.faces.ids.tolist() for record in found if record.faces.ids is not None] == [[12, 3], [12, 3]]


def test_visible_comes_back(tmp_path: Path) -> None:
    written = records_of(["a.png", "b.png"], [with_visible(faces_at(0, 700)), faces_at(5)])
    found = read_records(write(tmp_path / "a.parquet", *written))
    assert [rounded_record(record) for record in found] == [rounded_record(record) for record in written]
    assert found[0].faces.visible is not None
    assert found[1].faces.visible is None
    (row, *_) = table(written).to_pylist()
    assert len(row["visible"]) == 68
    assert row["mean_confidence"] == pytest.approx(written[0].faces[0].mean_confidence, abs=6e-5)


def test_files_without_the_column_visible_are_read(tmp_path: Path) -> None:
    """As earlier versions wrote them, in one folder with a new one."""
    from pyarrow import parquet

    parquet.write_table(table(records()).drop_columns(["visible"]), tmp_path / "part-0.parquet")
    write(tmp_path / "part-1.parquet", *records_of(["d.png"], [with_visible(faces_at(0))]))
    batches = list(read_batches(str(tmp_path)))
    assert [batch.schema.names for batch in batches] == [list(COLUMNS)] * 2
    assert batches[0].schema.equals(schema())
    assert batches[0].column("visible").null_count == len(batches[0])
    old, new = read_records(tmp_path)[:3], read_records(tmp_path)[3]
    assert [rounded_record(record) for record in old] == [rounded_record(record) for record in records()]
    assert all(record.faces.visible is None for record in old)
    assert new.faces.visible is not None
    assert [batch.schema.names for batch in read_batches(str(tmp_path), ("file", "error"))] == [["file", "error"]] * 2


def test_a_name_that_is_no_unicode_is_written_with_escapes() -> None:
    (row,) = table([Failure("a\udcff.png", "a\udcff.png: empty", "nano", "ibug68")]).to_pylist()
    assert row["file"] == "a\\udcff.png"


def test_bad_files_are_one_clear_error(tmp_path: Path) -> None:
    from pyarrow import parquet

    with pytest.raises(DataError, match=r"no \.parquet files here"):
        parts(place(tmp_path))
    (tmp_path / "text.parquet").write_text("this is text")
    with pytest.raises(DataError, match=r"text\.parquet: cannot be read"):
        list(read_batches(str(tmp_path)))
    other = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"file": ["a.png"]}), other)
    with pytest.raises(DataError, match=r"other\.parquet: no column 'frame'"):
        list(read_batches(str(other)))
    later = schema().with_metadata({"octamark.columns": "2"})
    parquet.write_table(table(records()).cast(later), other)
    with pytest.raises(DataError, match="columns of version 2; this octamark reads version 1"):
        list(read_batches(str(other)))
    rows = table(records()).to_pylist()
    rows[0]["landmarks"] = rows[0]["landmarks"][:10]
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema()), other)
    with pytest.raises(DataError, match="10 numbers in landmarks; layout ibug68 needs 136"):
        read_records(other)


def test_places_keep_the_settings_of_a_uri() -> None:
    bucket = place("s3://bucket/in/?endpoint_override=localhost:1&scheme=http&region=x")
    assert bucket.path == "bucket/in/"
    below = bucket / "a b?.png"
    assert below.path == "bucket/in/a b?.png"
    assert below.name == "s3://bucket/in/a b?.png?endpoint_override=localhost:1&scheme=http&region=x"
    assert place(below.name).path == below.path
    assert bucket.sibling("bucket/c.png").name.startswith("s3://bucket/c.png?endpoint_override")
    assert split_settings("what?.png") == ("what?.png", "")
    assert place("file:///tmp/x.png").path == place("/tmp/x.png").path == "/tmp/x.png"  # noqa: S108
    with pytest.raises(ConfigError, match="unknown kind http://; allowed: local paths, s3://"):
        place("http://example.org/a.png")
