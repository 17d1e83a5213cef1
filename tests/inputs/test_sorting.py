"""Any number of files is sorted like a list in memory, with a bounded part of them in memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from imgcls_ray.inputs import merging, sorting
from imgcls_ray.inputs.kept import together
from imgcls_ray.inputs.merging import merge_sorted
from imgcls_ray.inputs.sorting import sort_files
from imgcls_ray.inputs.tables import FileTables, of_size, table_of, tables_of
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Iterator


def info(uri: str, number: int = 0) -> FileInfo:
    """A file whose size tells which one of several of the same URI it is."""
    return FileInfo(uri, number, None, None)


def tables(files: list[FileInfo], chance: random.Random) -> Iterator[pa.Table]:
    while files:
        count = chance.randint(1, 9)
        yield table_of(files[:count])
        files = files[count:]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, batches and steps of a few rows."""
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 10)
    monkeypatch.setattr(sorting, "_ROWS_PER_BATCH", 3)
    monkeypatch.setattr(sorting, "_MAX_RUNS", 3)
    monkeypatch.setattr(merging, "_FEW_ROWS", 2)


@pytest.mark.parametrize("seed", range(30))
def test_files_are_sorted_and_the_first_of_equal_ones_stays_the_first(seed: int, small: None) -> None:
    chance = random.Random(seed)
    count, kinds = chance.choice((0, 1, 9, 10, 11, 100, 400)), chance.choice((1, 3, 50, 10**6))
    files = [info(f"{'é' * chance.randint(0, 2)}{chance.randrange(kinds):06d}", number) for number in range(count)]
    if chance.random() < 0.3:  # a list of sorted lists
        files = sorted(files[: count // 2]) + sorted(files[count // 2 :])
    found = list(sort_files(FileTables(lambda _: tables(files, chance))))
    assert [file.uri for file in found] == sorted(file.uri for file in files)
    assert sorted(found) == sorted(files)
    first = {file.uri: file for file in reversed(files)}
    dropped: list[int] = []
    left = together(tables_of(sort_files(iter(files))), dropped.append)
    assert list(FileTables(lambda _: left)) == sorted(first.values())
    assert sum(dropped) == count - len(first)


def test_a_sorted_list_is_one_run(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    num_streams = []

    def merge(streams: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
        num_streams.append(len(streams))
        return merge_sorted(streams)

    monkeypatch.setattr(sorting, "merge_sorted", merge)
    files = [info(f"{number:06d}") for number in range(100)]
    assert list(sort_files(iter(files))) == files
    assert num_streams == [1]


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_values_the_first_streams_comes_first(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(merging, "_FEW_ROWS", chance.choice((1, 5)))
    streams = []
    for number in range(chance.randint(0, 7)):
        # Some lie behind others, some among them.
        start = chance.choice((0, 0, 1000))
        uris = sorted({f"{start + chance.randrange(40):04d}" for _ in range(chance.randint(0, 40))})
        streams.append([info(uri, number) for uri in uris])
    merged = merge_sorted([tables(files, chance) for files in streams])
    assert list(FileTables(lambda _: merged)) == sorted(file for files in streams for file in files)


def test_what_is_sorted_is_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", 2000)
    monkeypatch.setattr(sorting, "_ROWS_PER_BATCH", 50)
    monkeypatch.setattr(sorting, "_MAX_RUNS", 8)
    monkeypatch.setattr(merging, "_FEW_ROWS", 25)

    def peak(count: int) -> int:
        before: int = pa.total_allocated_bytes()
        most = before
        files = FileTables(
            lambda _: (
                table_of([info(f"s3://bucket/{(first + i) * 7919 % 10**6:020d}.jpg") for i in range(1000)])
                for first in range(0, count, 1000)
            )
        )
        num_rows = 0
        for table in tables_of(sort_files(files)):
            num_rows += table.num_rows
            most = max(most, pa.total_allocated_bytes())
        assert num_rows == count
        return most - before

    assert peak(100_000) < 1.5 * peak(20_000)


def test_tables_of_one_size_hold_the_same_rows() -> None:
    chance = random.Random(0)
    files = [info(f"{number:04d}") for number in range(100)]
    found = list(of_size(tables(files, chance), 16))
    assert [table.num_rows for table in found] == [16] * 6 + [4]
    assert list(FileTables(lambda _: iter(found))) == files


@pytest.mark.parametrize("limit", [None, 0, 1, 7, 1000])
def test_a_limit_takes_no_more(limit: int | None) -> None:
    files = [info(f"{number:04d}") for number in range(100)]
    asked: list[int | None] = []

    def read(limit: int | None) -> Iterator[pa.Table]:
        asked.append(limit)
        yield from tables(files, random.Random(0))

    for source in (iter(files), FileTables(read)):
        taken = tables_of(source, rows=8, limit=limit)
        assert [uri for table in taken for uri in table.column("uri").to_pylist()] == [
            file.uri for file in files[:limit]
        ]
    assert asked == ([] if limit == 0 else [limit])
