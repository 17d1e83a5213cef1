"""The store's rows as one sorted stream, whatever the number of runs."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from imgcls_ray.storage import open_directory
from imgcls_ray.store.answers import Answer, all_answers, newest_answers
from imgcls_ray.store.opening import open_store
from tests.store.stores import answer_unit, info, infos, label, new_store, plan

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_an_empty_store_has_no_answers(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert list(all_answers(store)) == list(newest_answers(store)) == []


def test_all_answers_come_by_uri_and_then_by_run(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for etag in ("v1", "v2", "v3"):
        label(store, infos(100, etag=etag))
    found = [(answer.uri, answer.run, answer.etag) for answer in all_answers(store)]
    assert found == [(f"/in/{i:08d}.jpg", run, f"v{run}") for i in range(100) for run in (1, 2, 3)]


def test_the_newest_answer_is_the_last_runs(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, infos(100, etag="v1"))
    label(store, infos(20, etag="v2", step=5))
    newest = list(newest_answers(store))
    assert [answer.uri for answer in newest] == [file.uri for file in infos(100)]
    assert [answer.run for answer in newest] == [2 if i % 5 == 0 else 1 for i in range(100)]


def test_the_ten_thousandth_run_comes_after_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)
    for run in (9999, 10_000):
        monkeypatch.setattr(type(store), "next_run", lambda _, run=run: run)
        label(store, [info("/a", f"v{run}")])
    assert [answer.run for answer in newest_answers(store)] == [10_000]
    assert store.answered_units(9999) == store.answered_units(10_000) == {0}


def test_an_answer_names_its_file(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run = plan(store, infos(40))
    for unit in store.units(run):
        answer_unit(store, unit, {"/in/00000020.jpg": "corrupt"})
    answers = list(all_answers(store))
    assert answers[0] == Answer("/in/00000000.jpg", 1, "v1", None, "predictions/0001-000000.parquet")
    assert answers[20] == Answer("/in/00000020.jpg", 1, "v1", "corrupt", "predictions/0001-000001.parquet")


def test_open_runs_count_and_foreign_files_do_not(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    first, *_ = store.units(plan(store, infos(40)))
    answer_unit(store, first)
    for name in ("notes.txt", ".0001-000001.parquet.0123", "0001-000001.parquet.tmp"):
        (tmp_path / "predictions" / name).write_bytes(b"")
    assert sum(1 for _ in all_answers(store)) == 16


def test_there_may_be_more_runs_than_open_files(tmp_path: Path) -> None:
    """In a child process: its limit cannot be raised again."""
    store = new_store(tmp_path)
    for i in range(60):
        label(store, [info("/a", f"v{i}"), info("/b", f"v{i}")])
    if (child := os.fork()) == 0:
        status = 1
        try:
            limit = len(os.listdir("/proc/self/fd")) + 20
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            found = [answer.run for answer in newest_answers(open_store(open_directory(str(tmp_path))))]
            status = 0 if found == [60, 60] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
