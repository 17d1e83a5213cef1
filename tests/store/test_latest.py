"""The newest row of every input, as one stream and in files of three kinds, whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from imgcls_ray.config import PredictConfig
from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.predict.samples import save_samples
from imgcls_ray.store import latest, rows
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.latest import export_latest, latest_rows, write_jsonl, write_latest
from tests.store.stores import info, infos, label, new_store

if TYPE_CHECKING:
    from imgcls_ray.store.label_store import LabelStore


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Three runs: 100 inputs, new versions of every third, and of every tenth, of which some fail."""
    store = new_store(tmp_path / "labels")
    label(store, infos(100))
    label(store, infos(34, etag="v2", step=3))
    label(store, infos(10, etag="v3", step=10), {"/in/00000050.jpg": "truncated"})
    return store


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
    assert table.schema.names == [*store.schema.names, "present"]
    assert table.drop_columns(["present"]).schema.equals(store.schema, check_metadata=False)
    assert table.schema.metadata == store.schema.metadata
    assert table.to_pylist() == rows_of(store)


def test_jsonl_holds_one_object_a_line(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels")
    nasty = '/in/line\nbreak "quoted" é🐈\u2028.jpg'
    label(store, [info(nasty), info("/in/z", None)], {"/in/z": "not_found"})
    assert write_latest(store, tmp_path / "latest.jsonl") == 2
    lines = (tmp_path / "latest.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert [json.loads(line) for line in lines] == rows_of(store)
    assert json.loads(lines[0])["labels"] == [f"1:{nasty}", "other"]
    assert "é🐈" in lines[0]


def test_csv_holds_lists_as_json(tmp_path: Path) -> None:
    store = new_store(tmp_path / "labels")
    nasty = '/in/comma, "quote"\nline.jpg'
    label(store, [info(nasty), info("/in/z", None)], {"/in/z": "not_found"})
    assert write_latest(store, tmp_path / "latest.CSV") == 2
    with open(tmp_path / "latest.CSV", encoding="utf-8", newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good) == [*store.schema.names, "present"]
    assert (good["uri"], good["status"], good["score"], good["error"]) == (nasty, "ok", "0.75", "")
    assert json.loads(good["labels"]) == [f"1:{nasty}", "other"]
    assert json.loads(good["scores"]) == [0.75, 0.25]
    assert (bad["error"], bad["label"], bad["labels"], bad["etag"]) == ("not_found", "", "", "")


@pytest.mark.parametrize("kind", latest.FORMATS)
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
    assert write_jsonl(store, stream) == 100
    check_rows([json.loads(line) for line in stream.getvalue().splitlines()])


@pytest.mark.parametrize("kind", latest.FORMATS)
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
    with pytest.raises(UsageError, match=r": the newest rows are written as \.parquet, \.jsonl or \.csv$"):
        write_latest(store, tmp_path / name)
    assert os.listdir(tmp_path) == ["labels"]


@pytest.mark.parametrize("kind", latest.FORMATS)
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
    with pytest.raises(StorageError, match=rf"latest\.{kind}: was not written: .*No space left on device"):
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


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "left"), [(1, 1), (3, 3), (5, 5), (9, 5)])
def test_as_many_samples_are_left_as_asked_for(wanted: int, left: int, tmp_path: Path) -> None:
    """The inputs of this store do not exist: each sample is a card that says so."""
    store = new_store(tmp_path / "labels")
    label(store, infos(5), {"/in/00000002.jpg": "corrupt"})
    config = PredictConfig(input="/in", model="small", output=store.uri, save_images=wanted)
    assert len(os.listdir(save_samples(store, config))) == left
