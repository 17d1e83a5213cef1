"""``verify_store`` finds every way in which a store can break its promise, and names the file."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.store.verify import verify_store
from tests.store.stores import (
    answer,
    answer_unit,
    failed_row,
    good_row,
    info,
    infos,
    label,
    new_store,
    part_bytes,
    plan,
    rows_of,
    run_record,
)

if TYPE_CHECKING:
    from imgcls_ray.store.label_store import LabelStore

PART = "predictions/0001-000001.parquet"


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """One finished run of 40 inputs, of which one failed, in units of 16."""
    store = new_store(tmp_path)
    label(store, infos(40), {"/in/00000017.jpg": "corrupt"})
    return store


def part_rows(store: LabelStore) -> list[dict[str, Any]]:
    """The rows of ``PART``: inputs 16 to 31."""
    with store.directory.open(PART) as file:
        rows: list[dict[str, Any]] = pq.ParquetFile(file).read().to_pylist()
    return rows


def rewrite(store: LabelStore, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    store.directory.replace(PART, part_bytes(rows, schema or store.schema))


def problem_of(store: LabelStore) -> str:
    report = verify_store(store)
    assert not report.is_sound
    assert len(report.problems) == report.num_problems == 1, report.problems
    return report.problems[0]


# --- sound stores ----------------------------------------------------------------------------------------------------


def test_a_sound_store_has_no_problems(store: LabelStore) -> None:
    report = verify_store(store)
    assert report.is_sound
    assert (report.num_planned, report.num_rows, report.num_missing, report.num_doubled) == (40, 40, 0, 0)
    assert report.counts == {"ok": 39, "corrupt": 1}


def test_a_store_with_all_columns_and_a_long_history_is_sound(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(
        store,
        [info("/a"), info("/b"), info("/gone", None), info("http://h/x", None)],
        {
            "/a": "fetch_failed",
            "/gone": "not_found",
            "http://h/x": "not_found",
        },
    )
    label(store, [info("/a"), info("/b", "v2"), info("/gone", "v1"), info("http://h/x", None)], {"/a": "changed"})
    label(store, [info("/a"), info("/b", "v1")])  # a version that came back
    store.finish_run(4, run_record(4))
    files = ("lease.json", "progress.json", "exports/latest.csv", "samples/a.jpg", "report/report.html", ".hidden")
    for name in (*files, "predictions/.0001-000000.parquet.ab"):
        store.directory.replace(name, b"")
    report = verify_store(store)
    assert report.problems == []
    assert (report.num_planned, report.num_rows) == (10, 10)


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    assert verify_store(new_store(tmp_path)).is_sound


def test_an_open_run_is_told_with_what_is_left(store: LabelStore) -> None:
    first, *_ = store.units(plan(store, infos(40, etag="v2")))
    answer_unit(store, first)
    assert (
        problem_of(store)
        == "run 0002 is not finished: 24 of 40 inputs without a row; unless it is running, run its command again"
    )
    report = verify_store(store)
    assert (report.num_planned, report.num_rows, report.num_missing) == (80, 56, 24)


def test_an_open_run_with_all_parts_only_lacks_its_record(store: LabelStore) -> None:
    answer(store, plan(store, infos(40, etag="v2")), finish=False)
    assert verify_store(store).is_sound


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_removed_part_is_found(store: LabelStore) -> None:
    store.directory.remove(PART)
    assert problem_of(store) == f"{PART}: is missing (16 inputs without a row)"
    assert verify_store(store).num_missing == 16


@pytest.mark.parametrize("size", [0, 3, 100, -1, -8])
def test_a_cut_part_is_found(size: int, store: LabelStore) -> None:
    store.directory.replace(PART, store.directory.read(PART)[:size])
    assert problem_of(store).startswith(f"{PART}: cannot be read (")
    assert verify_store(store).num_missing == 16


def test_text_that_is_not_utf8_is_found(store: LabelStore) -> None:
    plain = io.BytesIO()
    table = pa.Table.from_pylist(part_rows(store), schema=store.schema)
    pq.write_table(table, plain, compression="none", use_dictionary=["uri"])
    store.directory.replace(PART, plain.getvalue().replace(b"other", b"oth\xffr"))
    assert problem_of(store).startswith(f"{PART}: cannot be read (")


def test_a_missing_row_is_found(store: LabelStore) -> None:
    rewrite(store, part_rows(store)[1:])
    assert problem_of(store) == f"{PART}: 1 rows missing, 0 doubled, 0 not of its unit"
    assert verify_store(store).num_missing == 1


def test_a_doubled_row_is_found(store: LabelStore) -> None:
    rows = part_rows(store)
    rewrite(store, [*rows, rows[-1]])
    assert problem_of(store) == f"{PART}: 0 rows missing, 1 doubled, 0 not of its unit"
    assert verify_store(store).num_doubled == 1


def test_a_row_of_another_unit_is_found(store: LabelStore) -> None:
    other, *_ = rows_of(store, next(store.units(1)))
    rewrite(store, [other, *part_rows(store)[1:]])
    assert problem_of(store) == f"{PART}: 1 rows missing, 0 doubled, 1 not of its unit"


def test_rows_out_of_order_are_found(store: LabelStore) -> None:
    rewrite(store, part_rows(store)[::-1])
    assert problem_of(store) == f"{PART}: rows are out of order, or name other inputs than the plan"


@pytest.mark.parametrize("changes", [{"uri": "/in/other.jpg"}, {"etag": "v2"}, {"etag": None}])
def test_a_row_under_another_inputs_name_is_found(changes: dict[str, Any], store: LabelStore) -> None:
    rows = part_rows(store)
    rewrite(store, [*rows[:5], {**rows[5], **changes}, *rows[6:]])
    assert problem_of(store) == f"{PART}: rows are out of order, or name other inputs than the plan"


def test_the_part_of_another_model_is_found(store: LabelStore) -> None:
    other = store.schema.with_metadata({b"imgcls.fingerprint": b"0" * 64})
    for schema in (other, store.schema.remove_metadata()):
        rewrite(store, part_rows(store), schema)
        assert problem_of(store) == f"{PART}: was written by another model"


def test_a_part_with_other_columns_is_found(store: LabelStore) -> None:
    rows = part_rows(store)
    fewer = store.schema.remove(store.schema.get_field_index("width"))
    wider = store.schema.append(pa.field("embedding", pa.list_(pa.float32())))
    for schema in (fewer, wider):
        rewrite(store, rows, schema)
        assert problem_of(store) == f"{PART}: has other columns than the store"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "error"}, "status error, error None and label "),
        ({"error": "corrupt"}, "status ok, error corrupt and label "),
        ({"label": None}, "status ok, error None and label None"),
        ({"status": "error", "error": "corrupt"}, "status error, error corrupt and label "),
        ({"status": "error", "error": None, "label": None}, "status error, error None and label None"),
        ({"status": "error", "error": "bad_luck", "label": None}, "status error, error bad_luck and label None"),
        ({"status": "", "error": None}, "status , error None and label "),
    ],
)
def test_a_row_that_contradicts_itself_is_found(changes: dict[str, Any], text: str, store: LabelStore) -> None:
    rows = part_rows(store)
    rewrite(store, [{**rows[0], **changes}, *rows[1:]])
    assert problem_of(store).startswith(f"{PART}: a row with {text}")


def test_two_parts_that_changed_places_are_found(store: LabelStore) -> None:
    one, two = store.directory.read("predictions/0001-000000.parquet"), store.directory.read(PART)
    store.directory.replace("predictions/0001-000000.parquet", two)
    store.directory.replace(PART, one)
    report = verify_store(store)
    assert [problem.partition(":")[0] for problem in report.problems] == ["predictions/0001-000000.parquet", PART]


def test_one_input_version_answered_in_two_runs_is_found(store: LabelStore) -> None:
    label(store, [info("/in/00000020.jpg")])
    assert problem_of(store) == (
        f"/in/00000020.jpg: has a row in {PART} and another of the same version in predictions/0002-000000.parquet"
    )
    assert verify_store(store).num_doubled == 1


def test_an_input_that_is_planned_twice_in_one_run_is_found(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, [info("/a"), info("/a")])
    assert problem_of(store).startswith("/a: has a row in predictions/0001-000000.parquet and another of the same")


# --- foreign files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["holiday.jpg", "predictions.old/0001-000000.parquet", "store.json.bak"])
def test_a_foreign_file_in_the_store_is_found(name: str, store: LabelStore) -> None:
    store.directory.create(name, b"")
    assert problem_of(store) == f"{name.partition('/')[0]}: does not belong to a label store"


@pytest.mark.parametrize("name", ["notes.txt", "0001-000001.parquet.bak", "0001-1.parquet", "folder/x"])
def test_a_foreign_file_among_the_parts_is_found(name: str, store: LabelStore) -> None:
    store.directory.create(f"predictions/{name}", b"")
    assert problem_of(store) == f"predictions/{name.partition('/')[0]}: is not a part file"


@pytest.mark.parametrize("name", ["0001-000003.parquet", "0002-000000.parquet", "0000-000000.parquet"])
def test_a_part_of_no_plan_is_found(name: str, store: LabelStore) -> None:
    store.directory.create(f"predictions/{name}", store.directory.read(PART))
    assert problem_of(store) == f"predictions/{name}: answers no unit of any plan"


# --- plans -----------------------------------------------------------------------------------------------------------


def test_an_edited_record_is_found(store: LabelStore) -> None:
    record = store.plan_record(1)
    store.directory.replace("plans/0001.json", json.dumps({**record, "num_images": 39}).encode())
    assert problem_of(store) == "plans/0001: holds 40 inputs, its record says 39"


def test_a_damaged_record_is_found(store: LabelStore) -> None:
    store.directory.replace("plans/0001.json", b"{")
    assert problem_of(store) == "plans/0001.json is damaged; bring it back from a copy"


def test_an_edited_plan_is_found(store: LabelStore) -> None:
    name = "plans/0001/000000.parquet"
    units = [store.read_unit(unit) for unit in store.units(1)]
    with pq.ParquetWriter(f"{store.uri}/{name}", units[0].schema) as writer:
        for unit in units:
            uris = pa.array([f"/other/{i}.jpg" for i in range(unit.num_rows)])
            writer.write_table(unit.set_column(1, unit.schema.field("uri"), uris))
    report = verify_store(store)
    assert report.num_problems == 3
    assert f"{PART}: rows are out of order, or name other inputs than the plan" in report.problems


def test_a_damaged_plan_is_found(store: LabelStore) -> None:
    content = store.directory.read("plans/0001/000000.parquet")
    store.directory.replace("plans/0001/000000.parquet", content[:-1])
    report = verify_store(store)
    assert report.problems[0].startswith("plans/0001/000000.parquet cannot be read (")
    assert not report.is_sound


def test_a_lost_plan_is_found(store: LabelStore) -> None:
    store.directory.remove("plans/0001.json")
    report = verify_store(store)
    assert report.problems == [f"predictions/0001-00000{i}.parquet: answers no unit of any plan" for i in range(3)]


def test_a_lost_file_of_a_plan_is_found(store: LabelStore) -> None:
    store.directory.remove("plans/0001/000000.parquet")
    assert "plans/0001/000000.parquet is lost; bring it back from a copy" in verify_store(store).problems


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PART, "plans/0001/000000.parquet"])
def test_flipped_bytes_are_told_or_harmless_and_end_nothing(name: str, store: LabelStore) -> None:
    rng = random.Random(0)
    content = store.directory.read(name)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        Path(store.uri, name).write_bytes(damaged)
        verify_store(store)


def test_problems_are_counted_beyond_what_is_kept(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for i in range(1100):
        (tmp_path / f"foreign-{i}").touch()
    report = verify_store(store)
    assert (report.num_problems, len(report.problems)) == (1100, 1000)


def test_rows_are_made_as_workers_make_them(store: LabelStore) -> None:
    """What the tests above change is sound before they change it."""
    planned = {"image_id": 1, "uri": "/a", "etag": None}
    assert good_row(planned, 1).keys() == failed_row(planned, "corrupt").keys() == set(store.schema.names)


def test_a_damaged_run_record_is_found(store: LabelStore) -> None:
    store.directory.replace("runs/0001.json", b"junk")
    assert problem_of(store) == "runs/0001.json is damaged; bring it back from a copy"
