"""The commit log: what was committed is read again, by ours and by other hands, whoever writes at the same time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.storage import open_directory
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.delta_actions import LoggedFile
from imgcls_ray.store.delta_log import (
    checkpoint_name,
    commit,
    commit_name,
    read_log,
    read_summary,
)
from imgcls_ray.store.history import commit_finished
from tests.store.stores import infos, label, new_store, plan

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from imgcls_ray.storage import Directory
    from imgcls_ray.store.delta_log import Log

LONG = "a" * 255


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return open_directory(str(tmp_path))


@pytest.fixture
def schema(tmp_path: Path) -> pa.Schema:
    return new_store(tmp_path / "any", embedding=True, logits=True).schema


def commits(directory: Directory, schema: pa.Schema, count: int) -> Log:
    """So many commits: each adds a file, and takes out the one of ten commits before."""
    log = read_log(directory)
    for number in range(log.version + 1, log.version + 1 + count):
        added = LoggedFile(f"{number}.parquet", 100, 7, "a", "b", 0)
        removed = [f"{number - 10}.parquet"] if number >= 10 else []
        new = commit(directory, log, schema, "WRITE", added=[added], removed=removed, summary={"through": number + 1})
        assert new is not None
        log = new
    return log


def test_a_store_without_a_log_has_an_empty_one(directory: Directory) -> None:
    assert read_log(directory).version == read_summary(directory).version == -1
    assert read_log(directory).through == 0


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20, 101, 230])
def test_what_is_committed_is_read_again(count: int, directory: Directory, schema: pa.Schema) -> None:
    log = commits(directory, schema, count)
    assert (log.version, log.through, len(log.files)) == (count - 1, count, min(count, 10))
    assert read_log(directory) == log
    assert read_log(directory, read_log(directory)) == log
    assert read_summary(directory).through == count


def test_what_follows_a_version_that_is_known_is_read(directory: Directory, schema: pa.Schema) -> None:
    known = commits(directory, schema, 95)
    log = commits(directory, schema, 15)
    assert read_log(directory, known) == log


def test_of_two_commits_on_one_version_one_wins(directory: Directory, schema: pa.Schema) -> None:
    log = commits(directory, schema, 3)
    first = commit(directory, log, schema, "WRITE", summary={"through": 9})
    assert commit(directory, log, schema, "WRITE", summary={"through": 8}) is None
    assert read_log(directory) == first


@pytest.mark.parametrize("hint", [b"", b"{}", b'{"version": "1"}', b'{"version": 99}', b'{"version": 7}'])
def test_a_wrong_hint_costs_nothing_but_time(hint: bytes, directory: Directory, schema: pa.Schema) -> None:
    log = commits(directory, schema, 25)
    directory.replace("predictions/_delta_log/_last_checkpoint", hint)
    assert read_log(directory) == log


def test_a_lost_commit_is_told(directory: Directory, schema: pa.Schema) -> None:
    commits(directory, schema, 25)
    directory.remove(commit_name(22))
    with pytest.raises(LabelStoreDamagedError, match=r"00022\.json is lost; bring back predictions/_delta_log"):
        read_log(directory)


@pytest.mark.parametrize("name", [commit_name(22), checkpoint_name(20)])
def test_a_damaged_file_is_told(name: str, directory: Directory, schema: pa.Schema) -> None:
    commits(directory, schema, 25)
    directory.replace(name, directory.read(name)[:-30])
    with pytest.raises(LabelStoreDamagedError, match=os.path.basename(name)):
        read_log(directory)


@pytest.mark.parametrize(
    ("uri", "first", "last"),
    [
        (LONG, LONG, LONG),
        (LONG + "bcd", LONG + "b", LONG + "b\U0010ffff"),
        (LONG + "é" + "\U0010ffff" + "x", LONG + "é", None),
    ],
)
def test_bounds_of_long_names_stay_bounds(
    uri: str, first: str, last: str | None, directory: Directory, schema: pa.Schema
) -> None:
    log = read_log(directory)
    commit(directory, log, schema, "WRITE", added=[LoggedFile("a", 1, 1, uri, uri, 0)], summary={"through": 1})
    [file] = read_log(directory).files.values()
    assert (file.first_uri, file.last_uri) == (first, last)
    assert first <= uri
    assert last is None or uri <= last


def test_another_hand_reads_every_row_once(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    store = new_store(tmp_path)
    table = str(tmp_path / "predictions")

    def row_ids() -> list[int]:
        rows = deltalake.DeltaTable(table).to_pyarrow_table()
        assert rows.column_names == store.schema.names
        ids: list[int] = rows.column("image_id").to_pylist()
        return sorted(ids)

    expected: list[int] = []
    for run in range(1, 13):
        label(store, infos(20, etag=f"v{run}"))
        commit_finished(store)
        expected += [(run << 40) + row for row in range(20)]
        assert row_ids() == expected
    plan(store, infos(40, etag="open"))
    compact_store(store)
    assert row_ids() == expected
    compact_store(store, keep_s=0, whole=True)
    compact_store(store, keep_s=0)
    assert len(list((tmp_path / "predictions").glob("*.parquet"))) == 1
    assert row_ids() == expected
    assert deltalake.DeltaTable(table).metadata().configuration["delta.appendOnly"] == "true"
