"""The newest row of every input, as one stream and in files of three kinds, whole or not at all."""

from __future__ import annotations

import csv
import errno
import functools
import glob
import io
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from pyarrow import dataset

from imgcls_ray.config import PredictConfig
from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.predict.samples import save_samples
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory
from imgcls_ray.store import export, latest, rows, table_files, table_folders
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.export import export_latest
from imgcls_ray.store.latest import LatestTable, latest_rows
from imgcls_ray.store.merging import in_groups
from imgcls_ray.store.table_files import write_jsonl
from tests.store.stores import (
    FINGERPRINT,
    failed_row,
    info,
    infos,
    label,
    new_store,
    part_bytes,
    plan,
    run_record,
)
from tests.store.stores import rows_of as unit_rows

if TYPE_CHECKING:
    from imgcls_ray.store.label_store import LabelStore


MORE = ["present", "run", "time", "model", "fingerprint"]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Three runs: 100 inputs, new versions of every third, and of every tenth, of which some fail."""
    store = new_store(tmp_path / "labels")
    label(store, infos(100))
    label(store, infos(34, etag="v2", step=3))
    label(store, infos(10, etag="v3", step=10), {"/in/00000050.jpg": "truncated"})
    return store


def write_latest(store: LabelStore, path: Path, **how: Any) -> int:
    return export.write_latest(store, str(path), DEFAULT_STORAGE, **how)


def exported(store: LabelStore) -> list[dict[str, Any]]:
    return [row for table in LatestTable(store).tables() for row in table.to_pylist()]


def newest_run(i: int) -> int:
    return 3 if i % 10 == 0 else 2 if i % 3 == 0 else 1


def rows_of(store: LabelStore) -> list[dict[str, Any]]:
    return [row for table in latest_rows(store) for row in table.to_pylist()]


def check_rows(rows: list[dict[str, Any]]) -> None:
    uris = [f"/in/{i:08d}.jpg" for i in range(100)]
    labels = [f"{newest_run(i)}:{uri}" if i != 50 else None for i, uri in enumerate(uris)]
    assert [row["uri"] for row in rows] == uris
    assert [row["label"] for row in rows] == labels
    assert [row["etag"] for row in rows] == [f"v{newest_run(i)}" for i in range(100)]


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most_pieces", [2, 64])
def test_the_newest_row_of_every_input_comes_by_uri(
    most_pieces: int, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_PIECES", most_pieces)
    check_rows(rows_of(store))


def test_a_store_without_rows_gives_none(tmp_path: Path) -> None:
    assert rows_of(new_store(tmp_path)) == []


def test_inputs_of_many_runs_may_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run's inputs lie between those of all others; no part is read more than once."""
    store = new_store(tmp_path)
    for run in range(20):
        label(store, infos(30, first=run, step=20))
    opened: list[str] = []
    open_file = type(store.directory).open

    def open_and_tell(directory: Any, name: str) -> Any:
        opened.append(name)
        return open_file(directory, name)

    monkeypatch.setattr(type(store.directory), "open", open_and_tell)
    found = rows_of(store)
    assert [(row["uri"], row["label"]) for row in found] == [
        (f"/in/{i:08d}.jpg", f"{i % 20 + 1}:/in/{i:08d}.jpg") for i in range(600)
    ]
    assert len(opened) == len(set(opened)) == 40


# --- files -----------------------------------------------------------------------------------------------------------


def test_parquet_holds_the_rows_as_the_parts_do(store: LabelStore, tmp_path: Path) -> None:
    assert write_latest(store, tmp_path / "latest.parquet") == 100
    table = pq.read_table(tmp_path / "latest.parquet")
    assert table.schema.names == [*store.schema.names, *MORE]
    assert table.drop_columns(MORE).schema.equals(store.schema, check_metadata=False)
    assert table.schema.metadata == store.schema.metadata
    assert table.to_pylist() == exported(store)


def test_jsonl_holds_one_object_a_line(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels")
    nasty = '/in/line\nbreak "quoted" é🐈\u2028.jpg'
    label(store, [info(nasty), info("/in/z", None)], {"/in/z": "not_found"})
    assert write_latest(store, tmp_path / "latest.jsonl") == 2
    lines = (tmp_path / "latest.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in lines]
    assert [{**json.loads(line), "time": time} for line, time in zip(lines, times, strict=True)] == exported(store)
    assert json.loads(lines[0])["labels"] == [f"1:{nasty}", "other"]
    assert "é🐈" in lines[0]


def test_csv_holds_lists_as_json(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels")
    nasty = '/in/comma, "quote"\nline.jpg'
    label(store, [info(nasty), info("/in/z", None)], {"/in/z": "not_found"})
    assert write_latest(store, tmp_path / "latest.CSV") == 2
    with open(tmp_path / "latest.CSV", encoding="utf-8", newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good) == [*store.schema.names, *MORE]
    assert datetime.fromisoformat(good["time"]) == exported(store)[0]["time"]
    assert (good["uri"], good["status"], good["score"], good["error"]) == (nasty, "ok", "0.75", "")
    assert json.loads(good["labels"]) == [f"1:{nasty}", "other"]
    assert json.loads(good["scores"]) == [0.75, 0.25]
    assert (bad["error"], bad["label"], bad["labels"], bad["etag"]) == ("not_found", "", "", "")


@pytest.mark.parametrize("kind", export.FILE_KINDS[:3])
def test_every_kind_holds_every_row(kind: str, store: LabelStore) -> None:
    path = Path(export_latest(store, kind))
    assert path == Path(store.uri, "exports", f"latest.{kind}")
    if kind == "parquet":
        check_rows(pq.read_table(path).to_pylist())
    elif kind == "jsonl":
        check_rows([json.loads(line) for line in path.read_text().splitlines()])
    else:
        with open(path, newline="") as file:
            check_rows([{**row, "label": row["label"] or None} for row in csv.DictReader(file)])


def test_rows_go_to_any_stream(store: LabelStore) -> None:
    stream = io.StringIO()
    assert write_jsonl(LatestTable(store).tables(), stream) == 100
    check_rows([json.loads(line) for line in stream.getvalue().splitlines()])


@pytest.mark.parametrize("kind", export.FILE_KINDS[:3])
def test_a_store_without_rows_gives_a_file_without_rows(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"latest.{kind}"
    assert write_latest(new_store(tmp_path / "labels"), path) == 0
    assert path.exists()


def test_an_export_replaces_the_older_one_and_may_be_read_by_all(store: LabelStore, tmp_path: Path) -> None:
    path = tmp_path / "latest.jsonl"
    path.write_text("old")
    write_latest(store, path)
    check_rows([json.loads(line) for line in path.read_text().splitlines()])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["labels", "latest.jsonl"]


@pytest.mark.parametrize("name", ["latest.txt", "latest", "latest.parquet.gz", ".parquet"])
def test_another_suffix_is_refused(name: str, store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r": the newest rows are written as \.parquet, \.jsonl or \.csv; --format"):
        write_latest(store, tmp_path / name)
    assert os.listdir(tmp_path) == ["labels"]


@pytest.mark.parametrize("kind", export.FILE_KINDS[:3])
def test_an_export_that_fails_leaves_the_older_file(
    kind: str, store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"latest.{kind}"
    path.write_text("old")
    calls: list[int] = []

    def fail_later(table: Any) -> Any:
        calls.append(table.num_rows)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return newest_rows(table)

    monkeypatch.setattr(latest, "newest_rows", fail_later)
    with pytest.raises(StorageError, match="No space left on device"):
        write_latest(store, path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["labels", path.name]


def test_an_interrupted_export_leaves_the_older_file(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "latest.csv").write_text("old")
    monkeypatch.setattr(latest, "newest_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_latest(store, tmp_path / "latest.csv")
    assert (tmp_path / "latest.csv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["labels", "latest.csv"]


def test_a_path_that_is_no_place_for_a_file_is_refused(store: LabelStore, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"folder\.csv: cannot be written: it is a folder"):
        write_latest(store, tmp_path / "folder.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"latest\.csv: cannot be written: "):
        write_latest(store, tmp_path / "file" / "latest.csv")


# --- what is known of the run of each row ----------------------------------------------------------------------------


def test_run_time_model_and_fingerprint_are_columns(store: LabelStore) -> None:
    rows = exported(store)
    assert [row["run"] for row in rows] == [newest_run(i) for i in range(100)]
    assert {(row["model"], row["fingerprint"]) for row in rows} == {("small", FINGERPRINT)}
    for row in rows:
        assert row["time"] == datetime.fromisoformat(str(store.plan_record(row["run"])["created"]))
        assert timedelta() <= datetime.now(UTC) - row["time"] < timedelta(minutes=10)


@pytest.mark.parametrize("damage", ["{}", '{"run": 2, "num_images": 34, "num_units": 3, "created": 7}'])
def test_a_run_whose_plan_is_damaged_has_no_time(damage: str, store: LabelStore) -> None:
    Path(store.uri, "plans/0002.json").write_text(damage)
    assert {row["run"] for row in exported(store) if row["time"] is None} == {2}


# --- COCO, and folders -----------------------------------------------------------------------------------------------


def test_coco_has_an_image_for_each_row_and_an_annotation_for_each_label(store: LabelStore, tmp_path: Path) -> None:
    assert write_latest(store, tmp_path / "latest.json", kind="coco") == 100
    content = json.loads((tmp_path / "latest.json").read_text())
    images, annotations = content["images"], content["annotations"]
    assert [image["file_name"] for image in images] == [row["uri"] for row in rows_of(store)]
    assert [image["id"] for image in images] == list(range(1, 101))
    assert images[50]["error"] == "truncated"
    assert "width" not in images[50]
    assert [annotation["image_id"] for annotation in annotations] == [i for i in range(1, 101) if i != 51]
    assert len({annotation["id"] for annotation in annotations}) == 99
    first = {"id": 1, "image_id": 1, "category_id": 3, "score": 0.75, "bbox": [0, 0, 64, 48], "area": 3072}
    assert annotations[0] == {**first, "iscrowd": 0}
    assert [category["id"] for category in content["categories"]] == [3]


def test_coco_of_a_store_without_rows_is_json(tmp_path: Path) -> None:
    assert write_latest(new_store(tmp_path / "labels"), tmp_path / "latest.json", kind="coco") == 0
    assert json.loads((tmp_path / "latest.json").read_text()) == {"images": [], "annotations": [], "categories": []}


def test_a_dataset_of_hugging_face_has_a_card_that_names_its_files(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "in_groups", functools.partial(in_groups, most_rows=30))
    monkeypatch.setattr(table_folders, "_FILE_BYTES", 1)
    assert write_latest(store, tmp_path / "dataset", kind="huggingface") == 100
    card = DatasetCard.load(tmp_path / "dataset" / "README.md").data.to_dict()
    [config] = card["configs"]
    [files] = config["data_files"]
    assert files["split"] == "train"
    parts = sorted(glob.glob(str(tmp_path / "dataset" / files["path"])))
    assert len(parts) > 1
    check_rows([row for part in parts for row in pq.read_table(part).to_pylist()])


def test_hive_partitions_hold_the_rows_of_their_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cat", "a/b=c", "100 %", "été 猫", "x:y*?", "cat"]
    store = store_with_labels(tmp_path / "labels", [*names, None] * 20)
    monkeypatch.setattr(table_folders, "_ROWS_IN_MEMORY", 32)
    assert write_latest(store, tmp_path / "table", kind="hive") == 140
    table = dataset.dataset(tmp_path / "table", partitioning="hive", format="parquet").to_table().sort_by("uri")
    assert table.column("label").to_pylist() == [*names, None] * 20
    assert table.column("uri").to_pylist() == [row["uri"] for row in rows_of(store)]
    assert "label" not in pq.read_schema(tmp_path / "table" / "label=cat" / "part-00000.parquet").names
    assert (tmp_path / "table" / "_SUCCESS").exists()
    assert len(list((tmp_path / "table").rglob("*.parquet"))) == 6
    uris = pq.read_table(tmp_path / "table" / "label=cat" / "part-00000.parquet").column("uri").to_pylist()
    assert uris == sorted(uris)


def store_with_labels(folder: Path, labels: list[str | None]) -> LabelStore:
    store = new_store(folder)
    run = plan(store, infos(len(labels)))
    for unit in store.units(run):
        rows = unit_rows(store, unit)
        for row, name in zip(rows, labels[unit.first_row :], strict=False):
            row.update({"label": name} if name else failed_row(row, "corrupt"))
        assert store.directory.create(unit.part_name, part_bytes(rows, store.schema))
    store.finish_run(run, run_record(run))
    return store


@pytest.mark.parametrize("kind", export.FOLDER_KINDS)
def test_a_folder_of_no_rows_is_complete_and_another_export_into_it_is_refused(kind: str, tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels")
    assert write_latest(store, tmp_path / "out", kind=kind) == 0
    assert {"README.md", "_SUCCESS"} & set(os.listdir(tmp_path / "out"))
    with pytest.raises(UsageError, match=rf"out: is not empty, and --format {kind} writes a folder"):
        write_latest(store, tmp_path / "out", kind=kind)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file: cannot be written: File exists"):
        write_latest(store, tmp_path / "file", kind=kind)


def test_a_folder_that_was_not_completed_has_no_mark(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("no")

    monkeypatch.setattr(table_folders, "_put_files", fail)
    for kind in export.FOLDER_KINDS:
        with pytest.raises(StorageError):
            write_latest(store, tmp_path / kind, kind=kind)
        assert os.listdir(tmp_path / kind) == []


def test_all_kinds_go_to_a_bucket(store: LabelStore, bucket: str) -> None:
    for kind in (*export.FILE_KINDS, *export.FOLDER_KINDS):
        place = f"s3://{bucket}/out/{kind}"
        assert export.write_latest(store, place, DEFAULT_STORAGE, kind=kind) == 100
    directory = open_directory(f"s3://{bucket}/out")
    check_rows(pq.read_table(io.BytesIO(directory.read("parquet"))).to_pylist())
    assert len(json.loads(directory.read("coco"))["images"]) == 100
    assert set(directory.entries("huggingface")) == {"README.md", "data"}
    assert directory.exists("hive/_SUCCESS")
    with pytest.raises(UsageError, match="is not empty"):
        export.write_latest(store, f"s3://{bucket}/out/hive", DEFAULT_STORAGE, kind="hive")
    for place in (f"s3://{bucket}/", "s3://alone", "gs://alone"):
        with pytest.raises(UsageError, match="it is a folder; give the name of a file in it"):
            export.write_latest(store, place, DEFAULT_STORAGE, kind="csv")


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "left"), [(1, 1), (3, 3), (5, 5), (9, 5)])
def test_as_many_samples_are_left_as_asked_for(wanted: int, left: int, tmp_path: Path) -> None:
    """The inputs of this store do not exist: each sample is a card that says so."""
    store = new_store(tmp_path / "labels")
    label(store, infos(5), {"/in/00000002.jpg": "corrupt"})
    config = PredictConfig(input="/in", model="small", output=store.uri, save_images=wanted)
    assert len(os.listdir(save_samples(store, config))) == left
