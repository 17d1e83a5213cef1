"""The benchmark of old stores: what it makes is a sound store, and what it counts are requests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from benchmarks.counting import Counting
from benchmarks.history_store import make
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_made_store_is_sound_and_its_list_names_every_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # which making a store replaces
    listing = tmp_path / "list.parquet"
    make(str(tmp_path / "store"), listing, runs=9, rows=20, kind="hash", commit_every=1)
    report = verify_store(open_store(open_directory(str(tmp_path / "store"))))
    assert (report.problems, report.num_rows) == ([], 180)
    uris = pq.read_table(listing)["uri"].to_pylist()
    assert len(set(uris)) == 180


def test_requests_are_counted_by_kind(tmp_path: Path) -> None:
    directory = Counting(open_directory(str(tmp_path)))
    assert directory.create("a", b"1" * (3 * 2**20))
    assert directory.exists("a")
    assert list(directory.entries()) == ["a"]
    assert len(directory.read("a")) == 3 * 2**20
    with directory.open("a") as file:
        file.seek(-100, os.SEEK_END)
        file.read()  # came with the request that opened it
        file.seek(0)
        file.read(10)
    directory.remove("a")
    assert directory.requests == {"put": 1, "head": 1, "list": 1, "get": 3, "delete": 1}
