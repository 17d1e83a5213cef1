"""What a list says of its inputs in other columns stays with their rows, in every kind of list and of export."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from imgcls_ray.errors import InputError, LabelStoreDamagedError
from imgcls_ray.inputs import kept as kept_module
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.list_ids import Ids
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.inputs.sampling import Sample, sampled
from imgcls_ray.inputs.tables import tables_of
from imgcls_ray.predict.like import list_like
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.store import planner, side_changes
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.delta_log import read_log
from imgcls_ray.store.export import write_latest
from imgcls_ray.store.latest import LatestTable
from imgcls_ray.store.plan import PlanCounts, unanswered, write_plan
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.side_pieces import VALUES, pieces_in
from imgcls_ray.store.values import ValueChanges
from imgcls_ray.store.verify import verify_store
from tests.store.stores import answer_unit, list_and_label, new_store

if TYPE_CHECKING:
    from imgcls_ray.store.label_store import LabelStore


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return new_store(tmp_path / "labels")


def label(store: LabelStore, *lists: Path, columns: tuple[str, ...] | None = None, **how: Any) -> ValueChanges:
    """What a command does. Returns what it found changed."""
    values = ValueChanges(Kept(columns))
    list_and_label(store, *lists, values=values, **how)
    return values


def exported(store: LabelStore) -> list[dict[str, Any]]:
    return [row for table in LatestTable(store).tables() for row in table.to_pylist()]


def told(store: LabelStore) -> list[tuple[str, Any]]:
    return [(row["uri"].rpartition("/")[2], row["input"]) for row in exported(store)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def num_planned(store: LabelStore, run: int) -> int:
    return store.plan_record(run)["num_images"]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_other_columns_and_the_uri_as_it_was_given_come_out_again(store: LabelStore, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    label(store, write(tmp_path / "list.csv", 'uri,sku,camera\ns3://b/1.jpg,"é, ""q""",c1\na.jpg,s2,\n'))
    by_name = dict(told(store))
    assert by_name == {
        "a.jpg": {"uri": "a.jpg", "sku": "s2", "camera": ""},
        "1.jpg": {"uri": "s3://b/1.jpg", "sku": 'é, "q"', "camera": "c1"},
    }
    assert {row["uri"] for row in exported(store)} == {str(tmp_path / "a.jpg"), "s3://b/1.jpg"}


def test_every_row_of_a_list_is_a_row_of_the_export_and_each_image_is_labelled_once(
    store: LabelStore, tmp_path: Path
) -> None:
    source = write(tmp_path / "list.csv", "uri,sku\ns3://b/1.jpg,x\ns3://b/2.jpg,y\ns3://b/1.jpg,z\ns3://b/1.jpg,x\n")
    label(store, source)
    rows = [(row["uri"], row["input"]["sku"], row["occurrence"], row["label"]) for row in exported(store)]
    one, two = "s3://b/1.jpg", "s3://b/2.jpg"
    of_one = [(one, sku, number, f"1:{one}") for number, sku in enumerate("xzx", 1)]
    assert rows == [*of_one, (two, "y", 1, f"1:{two}")]
    assert num_planned(store, 1) == 2
    assert DeltaTable(f"{store.uri}/predictions").to_pyarrow_table().num_rows == 2
    assert verify_store(store).is_sound


def test_two_lists_and_a_folder_may_name_the_same_input(store: LabelStore, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    first = write(tmp_path / "first.csv", "uri,sku\nin/a.jpg,x\nin/a.jpg,y\n")
    second = write(tmp_path / "second.csv", "uri,camera\nin/a.jpg,c\n")
    label(store, folder, first, second)
    assert [(row["sku"], row["camera"]) for _, row in told(store)] == [("x", None), ("y", None), (None, "c")]
    assert num_planned(store, 1) == 1


@pytest.mark.parametrize("rows", [3, 8192])
def test_rows_of_one_input_may_lie_in_several_tables(
    rows: int, store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.inputs.sorting.ROWS_PER_TABLE", rows)
    lines = [f"s3://b/{i % 4}.jpg,{i}" for i in range(40)]
    label(store, write(tmp_path / "list.csv", "\n".join(["uri,n", *lines])))
    assert [int(row["n"]) for _, row in told(store)] == [i + 4 * k for i in range(4) for k in range(10)]


def test_an_input_that_too_many_rows_name_is_refused(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "_MAX_ROWS_OF_ONE", 10)
    source = write(tmp_path / "list.csv", "uri,n\n" + "s3://b/1.jpg,x\n" * 11)
    with pytest.raises(InputError, match=r"s3://b/1\.jpg: has more than 10 rows in the list; --keep-columns names"):
        label(store, source)
    label(store, source, columns=())
    assert "input" not in exported(store)[0]


def test_an_input_with_too_many_values_is_refused(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in memory together, however few rows they are; those of several inputs are not."""
    monkeypatch.setattr(kept_module, "_MAX_BYTES_OF_ONE", 1000)
    of_each = "".join(f"s3://b/{i}.jpg,{'x' * 200}\n" for i in range(20))
    label(store, write(tmp_path / "list.csv", f"uri,n\n{of_each}"))
    of_one = f"s3://b/1.jpg,{'x' * 200}\n" * 6
    for rows in (of_one, f"{of_one}s3://b/2.jpg,x\n"):
        source = write(tmp_path / "list.csv", f"uri,n\n{rows}")
        with pytest.raises(InputError, match=r"s3://b/1\.jpg: has more than .* MiB of other columns in the list"):
            label(store, source)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_changed_values_are_shown_and_label_nothing_again(store: LabelStore, tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "uri,sku\ns3://b/1.jpg,x\ns3://b/2.jpg,y\n")
    assert label(store, source).num_changed == 2
    assert label(store, source).num_changed == 0
    assert "values" not in store.plan_record(2)
    write(source, "uri,sku\ns3://b/1.jpg,NEW\ns3://b/2.jpg,y\n")
    assert label(store, source).num_changed == 1
    assert num_planned(store, 3) == 0
    assert [row["sku"] for _, row in told(store)] == ["NEW", "y"]
    assert {row["run"] for row in exported(store)} == {1}
    # A list with fewer rows for an input has fewer; what no list names any more keeps its values.
    write(source, "uri,sku\ns3://b/2.jpg,z\n")
    label(store, source)
    assert [row["sku"] for _, row in told(store)] == ["NEW", "z"]
    assert verify_store(store).is_sound


def test_a_store_without_values_is_continued_with_them_and_without_them(store: LabelStore, tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "uri,sku\ns3://b/1.jpg,x\n")
    list_and_label(store, source)
    assert "input" not in exported(store)[0]
    label(store, source)
    list_and_label(store, source)
    label(store, write(tmp_path / "plain.txt", "s3://b/1.jpg\n"))
    assert [row["sku"] for _, row in told(store)] == ["x"]
    assert [num_planned(store, run) for run in (1, 2, 3, 4)] == [1, 0, 0, 0]


def test_after_many_runs_few_pieces_hold_the_newest_values(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_changes, "_FILE_ROWS", 7)
    monkeypatch.setattr(side_changes, "_GROUP_ROWS", 3)
    newest: dict[str, str] = {}
    for run in range(20):
        rows = {f"s3://b/{i:02d}.jpg": f"{run}" for i in range(run % 5, 30, run % 7 + 1)}
        newest |= rows
        label(store, write(tmp_path / "list.csv", "\n".join(["uri,run", *(f"{uri},{n}" for uri, n in rows.items())])))
    assert [(row["uri"], row["run"]) for _, row in told(store)] == sorted(newest.items())
    assert len(pieces_in(read_log(store.directory).summary, VALUES)) <= 6
    compact_store(store, whole=True)
    assert [(row["uri"], row["run"]) for _, row in told(store)] == sorted(newest.items())


def test_values_are_told_before_the_first_run_has_ended(store: LabelStore, tmp_path: Path) -> None:
    values = ValueChanges(Kept())
    source = write(tmp_path / "list.csv", "uri,n\n" + "".join(f"s3://b/{i}.jpg,{i}\n" for i in range(4)))
    files = list_inputs(str(source), ListingCounts(), kept=values.kept)
    with plan_ahead(unanswered(files, store, PlanCounts(), values=values), values=values) as plans:
        write_plan(store, next(plans), run=store.next_run(), sizes=[2, 2], about={})
    first, _ = store.units(1)
    answer_unit(store, first)
    assert read_log(store.directory).version < 0
    assert [row["n"] for _, row in told(store)] == ["0", "1"]


def test_a_sample_of_a_list_and_of_a_store_has_their_values(store: LabelStore, tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "uri,n\n" + "".join(f"s3://b/{i}.jpg,{i}\n" for i in range(9)))
    label(store, source)
    drawn = []
    for listed in (list_inputs(str(source), ListingCounts(), kept=Kept()), list_like(store, Kept())):
        tables = tables_of(sampled(listed, Sample(3, 0)))
        rows = [row for table in tables for row in table.to_pylist()]
        assert all(json.loads(row["values"])["uri"] == row["uri"] for row in rows)
        drawn.append([row["uri"] for row in rows])
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]


def test_a_limit_keeps_the_values_of_what_it_labels(store: LabelStore, tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "uri,n\n" + "".join(f"s3://b/{i}.jpg,{i}\n" for i in range(5)))
    label(store, source, limit=2)
    assert [row["n"] for _, row in told(store)] == ["0", "1"]


def test_each_plan_of_a_long_listing_brings_the_values_of_its_inputs(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_PLAN_AFTER_S", 0.0)
    monkeypatch.setattr(planner, "_PLAN_ROWS", 1)
    monkeypatch.setattr(planner, "_ROWS", 10)
    monkeypatch.setattr("imgcls_ray.store.plan._COMPARED_ROWS", 10)
    label(store, write(tmp_path / "list.csv", "uri,n\n" + "".join(f"s3://b/{i:03d}.jpg,{i}\n" for i in range(200))))
    assert [int(row["n"]) for _, row in told(store)] == list(range(200))
    assert label(store, tmp_path / "list.csv").num_changed == 0


@pytest.mark.parametrize("damage", [None, b"no parquet"])
def test_a_lost_or_damaged_piece_is_told_and_can_be_done_without(
    damage: bytes | None, store: LabelStore, tmp_path: Path
) -> None:
    source = write(tmp_path / "list.csv", "uri,sku\ns3://b/1.jpg,x\n")
    label(store, source)
    name = "plans/0001/values-000000.parquet"
    os.unlink(f"{store.uri}/{name}")
    if damage is not None:
        Path(store.uri, name).write_bytes(damage)
    with pytest.raises(LabelStoreDamagedError, match=f"{name} cannot be read .* the next run with the same list"):
        exported(store)
    assert any(name in problem for problem in verify_store(store).problems)
    if damage is not None:
        os.unlink(f"{store.uri}/{name}")
    compact_store(store, is_lost_forgotten=True)
    assert verify_store(store).is_sound
    label(store, source)
    assert [row["sku"] for _, row in told(store)] == ["x"]


def test_values_that_are_none_of_ours_are_told(store: LabelStore, tmp_path: Path) -> None:
    label(store, write(tmp_path / "list.jsonl", '{"uri": "s3://b/1.jpg", "n": 1}\n'))
    name = Path(store.uri, "plans/0001/values-000000.parquet")
    rows = pq.read_table(name)
    for text in ("{", '{"n": "no number"}', '["x"]'):
        pq.write_table(rows.set_column(2, VALUES.schema.field(2), pa.array([text])), name)
        with pytest.raises(LabelStoreDamagedError, match="what lists said of inputs is damaged"):
            exported(store)


# --- types -----------------------------------------------------------------------------------------------------------


def test_columns_of_parquet_keep_their_types(store: LabelStore, tmp_path: Path) -> None:
    time = datetime(2020, 1, 2, 3, 4, 5, 6)
    columns: dict[str, Any] = {
        "text": ['a "b"\n', None],
        "number": pa.array([-1, None], pa.int16()),
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
        "share": [0.1, float("-inf")],
        "small": pa.array([0.1, None], pa.float32()),
        "flag": [True, None],
        "time": pa.array([time, None], pa.timestamp("ns")),
        "moment": pa.array([time, None], pa.timestamp("us", "Europe/Berlin")),
        "word": pa.array(["u", "v"]).dictionary_encode(),
        "nothing": pa.nulls(2),
    }
    source = table(tmp_path / "list.parquet", uri=["s3://b/1.jpg", "s3://b/2.jpg"], **columns)
    label(store, source)
    write_latest(store, str(tmp_path / "out.parquet"), DEFAULT_STORAGE)
    found = pq.read_table(tmp_path / "out.parquet").column("input").combine_chunks()
    kinds = {field.name: str(field.type) for field in found.type}
    assert kinds == {
        "uri": "string",
        "text": "string",
        "number": "int64",
        "large": "uint64",
        "share": "double",
        "small": "float",
        "flag": "bool",
        "time": "timestamp[us]",
        "moment": "timestamp[us, tz=UTC]",
        "word": "string",
        "nothing": "string",
    }
    for name, values in columns.items():
        expected = pa.array(values).cast(found.field(name).type) if name != "nothing" else pa.nulls(2, pa.string())
        assert found.field(name).to_pylist() == expected.to_pylist(), name
    assert label(store, source).num_changed == 0


@pytest.mark.parametrize("kind", ["jsonl", "coco"])
def test_what_is_no_number_is_null_in_json(kind: str, store: LabelStore, tmp_path: Path) -> None:
    uris = [f"s3://b/{i}.jpg" for i in range(4)]
    label(store, table(tmp_path / "list.parquet", uri=uris, n=[float("nan"), float("inf"), float("-inf"), 1.5]))
    assert exported(store)[1]["input"]["n"] == float("inf")
    write_latest(store, str(tmp_path / "out"), DEFAULT_STORAGE, kind=kind)
    lines = (tmp_path / "out").read_text().splitlines() if kind == "jsonl" else [(tmp_path / "out").read_text()]
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    rows = read if kind == "jsonl" else read[0]["images"]
    assert [row["input"]["n"] for row in rows] == [None, None, None, 1.5]


def test_json_values_have_the_type_that_fits_all_of_them(store: LabelStore, tmp_path: Path) -> None:
    rows = [
        {"uri": "s3://b/1.jpg", "n": 1, "mixed": 1, "share": 1, "flag": True, "deep": {"a": [1]}},
        {"uri": "s3://b/2.jpg", "n": None, "mixed": "two", "share": 0.5, "half": "\ud800"},
    ]
    label(store, write(tmp_path / "list.jsonl", "\n".join(map(json.dumps, rows))))
    first, second = (row for _, row in told(store))
    assert (first["n"], first["mixed"], first["share"], first["flag"]) == (1, "1", 1.0, True)
    assert json.loads(first["deep"]) == {"a": [1]}
    assert (second["n"], second["mixed"], second["share"], second["half"]) == (None, "two", 0.5, "\\ud800")


def test_types_of_several_runs_are_brought_together(store: LabelStore, tmp_path: Path) -> None:
    label(store, table(tmp_path / "a.parquet", uri=["s3://b/1.jpg"], n=[1], m=[1]))
    label(store, table(tmp_path / "b.parquet", uri=["s3://b/2.jpg"], n=[0.5], m=["x"]))
    assert [(row["n"], row["m"]) for _, row in told(store)] == [(1.0, "1"), (0.5, "x")]


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_columns_may_be_called_as_those_of_the_store(store: LabelStore, tmp_path: Path) -> None:
    label(store, write(tmp_path / "list.csv", "uri,label,image_id,input,a.b\ns3://b/1.jpg,cat,7,i,d\n"))
    [row] = exported(store)
    assert row["label"] == "1:s3://b/1.jpg"
    assert row["input"] == {"uri": "s3://b/1.jpg", "label": "cat", "image_id": "7", "input": "i", "a.b": "d"}
    for end in ("csv", "jsonl"):
        write_latest(store, str(tmp_path / f"out.{end}"), DEFAULT_STORAGE)
    [cells] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (cells["label"], cells["input.label"], cells["input.a.b"]) == ("1:s3://b/1.jpg", "cat", "d")
    assert json.loads((tmp_path / "out.jsonl").read_text())["input"]["image_id"] == "7"
    write_latest(store, str(tmp_path / "out.json"), DEFAULT_STORAGE, kind="coco")
    assert json.loads((tmp_path / "out.json").read_text())["images"][0]["input"]["label"] == "cat"


def test_a_list_of_images_alone_leaves_no_values(store: LabelStore, tmp_path: Path) -> None:
    label(store, write(tmp_path / "list.csv", "uri,size,etag\ns3://b/1.jpg,3,x\ns3://b/1.jpg,3,x\n"))
    assert "values" not in store.plan_record(1)
    assert len(exported(store)) == 1
    assert "input" not in exported(store)[0]


def test_some_columns_or_none_can_be_chosen(store: LabelStore, tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "uri,sku,camera\ns3://b/1.jpg,x,c\n")
    label(store, source, columns=())
    assert "input" not in exported(store)[0]
    label(store, source, columns=("camera",))
    assert told(store) == [("1.jpg", {"uri": "s3://b/1.jpg", "camera": "c"})]
    for name in ("list.csv", "list.parquet"):
        if name.endswith("parquet"):
            table(tmp_path / name, uri=["s3://b/1.jpg"], sku=["x"])
        with pytest.raises(InputError, match=rf"{name}.*: has no column 'colour', it has uri, sku"):
            label(store, tmp_path / name, columns=("sku", "colour"))
    label(store, write(tmp_path / "list.jsonl", '{"uri": "s3://b/1.jpg", "sku": "x"}\n'), columns=("sku", "colour"))
    assert told(store)[0][1] == {"uri": "s3://b/1.jpg", "camera": None, "sku": "x", "colour": None}


def test_a_key_that_no_object_has_is_told(store: LabelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "list.jsonl", '{"uri": "s3://b/1.jpg"}\n{"uri": "s3://b/2.jpg", "sku": 1}\n')
    label(store, source, columns=("sku",))
    assert not caplog.messages
    label(store, source, columns=("sku", "skku"))
    assert caplog.messages == [f"{source}: no object has the key 'skku' of --keep-columns"]


def test_nested_columns_are_left_out_and_refused_if_they_are_named(
    store: LabelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = table(tmp_path / "list.parquet", uri=["s3://b/1.jpg"], deep=[[1.0, 2.0]], raw=[b"x"], n=[1])
    label(store, source)
    assert told(store) == [("1.jpg", {"uri": "s3://b/1.jpg", "n": 1})]
    assert "columns of lists, structures or bytes are not kept: 'deep' (list<element: double>), 'raw'" in caplog.text
    with pytest.raises(InputError, match=r"--keep-columns takes columns of texts, numbers and times, not 'deep'"):
        label(store, source, columns=("deep",))


@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
def test_of_a_thousand_columns_none_is_kept_unless_it_is_named(
    end: str, store: LabelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"uri": ["s3://b/1.jpg"], **{f"c{i}": [f"{i}"] for i in range(1000)}}
    source = tmp_path / f"list.{end}"
    if end == "parquet":
        table(source, **columns)
    elif end == "csv":
        write(source, f"{','.join(columns)}\n{','.join(value for [value] in columns.values())}\n")
    else:
        write(source, json.dumps({name: value for name, [value] in columns.items()}) + "\n")
    label(store, source)
    assert "input" not in exported(store)[0]
    assert caplog.text.count("has 1,000 columns beside the images, and none of them is kept: more than 256") == 1
    label(store, source, columns=("c7", "c999"))
    assert told(store)[0][1] == {"uri": "s3://b/1.jpg", "c7": "7", "c999": "999"}


def test_columns_without_a_name_of_their_own_are_left_out(
    store: LabelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(store, write(tmp_path / "list.csv", ",uri,a,a,b\n0,s3://b/1.jpg,1,2,3\n"))
    assert told(store)[0][1] == {"uri": "s3://b/1.jpg", "b": "3"}
    assert "columns without a name, or with the name of another, are not kept: '', 'a'" in caplog.text


@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
def test_huge_values_are_refused_with_their_row(end: str, store: LabelStore, tmp_path: Path) -> None:
    source, huge = tmp_path / f"list.{end}", "x" * (2**20 + 1)
    if end == "parquet":
        table(source, uri=["s3://b/1.jpg", "s3://b/2.jpg"], note=["", huge])
    elif end == "csv":
        # A value of CSV has at most 131,072 characters.
        names, parts = [f"note{i}" for i in range(11)], [huge[:100_000]] * 11
        write(source, f"uri,{','.join(names)}\ns3://b/1.jpg\ns3://b/2.jpg,{','.join(parts)}\n")
    else:
        rows = [{"uri": "s3://b/1.jpg"}, {"uri": "s3://b/2.jpg", "note": huge}]
        write(source, "".join(json.dumps(row) + "\n" for row in rows))
    where = {"csv": ":3", "jsonl": ":2", "parquet": ", row 2"}[end]
    with pytest.raises(InputError, match=rf"list\.{end}{where}: its columns are longer than 1,048,576 characters"):
        label(store, source)
    label(store, source, columns=())


@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
def test_two_rows_with_one_input_id_are_refused_with_their_lines(end: str, store: LabelStore, tmp_path: Path) -> None:
    ids = ["a", "b", "", "c", "", "b", "a"]
    uris = [f"s3://b/{i % 2}.jpg" for i in range(7)]
    source = tmp_path / f"list.{end}"
    if end == "parquet":
        table(source, uri=uris, input_id=ids)
    elif end == "csv":
        write(source, "uri,input_id\n" + "".join(f"{uri},{name}\n" for uri, name in zip(uris, ids, strict=True)))
    else:
        write(source, "".join(json.dumps({"uri": u, "input_id": n}) + "\n" for u, n in zip(uris, ids, strict=True)))
    first, second = {"csv": (":3", ":7"), "jsonl": (":2", ":6"), "parquet": (", row 2", ", row 6")}[end]
    expected = rf"list\.{end}{second}: has the same input_id as .*list\.{end}{first}; each row needs its own"
    with pytest.raises(InputError, match=expected):
        label(store, source)
    with pytest.raises(InputError, match=expected):
        label(new_store(tmp_path / "other"), source, columns=("input_id",))
    assert store.planned_runs() == []


def test_ids_of_a_long_list_take_ten_bytes_a_row() -> None:
    ids, size, count = Ids(), 1000, 1_000_000
    tracemalloc.start()
    try:
        for start in range(0, count, size):
            numbers = np.arange(start, start + size)
            ids.add(pa.array(numbers), numbers, str)
        ids.check()
        assert tracemalloc.get_traced_memory()[1] < 10 * count
    finally:
        tracemalloc.stop()
    ids.add(pa.array([None, "7", ""]), [count, count + 1, count + 2], str)
    ids.add(pa.array(["x", "5", "7"]), [count + 4, count + 6, count + 8], str)
    with pytest.raises(InputError, match="1000001: has the same input_id as 7;"):
        ids.check()


def test_times_in_utc_are_told_in_json(store: LabelStore, tmp_path: Path) -> None:
    moment = pa.array([datetime(2020, 1, 2, tzinfo=UTC)], pa.timestamp("ms", "UTC"))
    label(store, table(tmp_path / "list.parquet", uri=["s3://b/1.jpg"], at=moment))
    write_latest(store, str(tmp_path / "out.jsonl"), DEFAULT_STORAGE)
    assert json.loads((tmp_path / "out.jsonl").read_text())["input"]["at"] == "2020-01-02T00:00:00+00:00"
