"""``status`` tells the same of a store before and after its runs are in the log, and reads none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls_ray.store.compact import compact_after_run, compact_store
from imgcls_ray.store.history import commit_finished
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.status import all_runs, read_status
from tests.store.stores import answer, answer_unit, infos, new_store, plan, run_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from imgcls_ray.store.label_store import LabelStore


def finished(store: LabelStore, day: int, count: int = 40, cost: float | None = None) -> None:
    run = plan(store, infos(count, etag=f"v{day}"))
    answer(store, run, finish=False)
    counts = {"ok": count - 1, "corrupt": 1} if count else {}
    priced = {} if cost is None else {"cost_per_million_images": cost}
    when = f"2026-01-{day:02d}T00:00:00+00:00"
    store.finish_run(run, run_record(run, num_images=count, counts=counts, finished=when, **priced))


def told(store: LabelStore) -> dict[str, Any]:
    record = read_status(store).to_record()
    return {key: value for key, value in record.items() if key not in ("num_files", "num_bytes")}


def test_the_log_tells_what_the_records_tell(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for day in range(1, 12):
        finished(store, day, cost=day / 2 if day < 10 else None)
    finished(store, 12, count=0)
    before = told(store)
    assert before["cost_per_million_images"] == 4.5
    assert (before["num_runs"], before["num_rows"]) == (11, 440)
    assert before["codes"] == {"ok": 429, "corrupt": 11}
    assert before["last_finished"] == "2026-01-12T00:00:00+00:00"
    assert before["images_per_day"] == 40.0
    commit_finished(store)
    assert told(store) == before
    compact_store(store)
    assert told(store) == before
    status = read_status(store)
    assert status.num_files == sum(1 for _ in (tmp_path / "predictions").glob("merged-*"))
    assert status.num_bytes == sum(path.stat().st_size for path in (tmp_path / "predictions").glob("merged-*"))


def test_runs_in_the_log_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)
    for day in range(1, 25):
        finished(store, day, count=1)
        commit_finished(store)
    read: list[str] = []
    directory = type(store.directory)
    for name in ("read", "open", "exists"):
        monkeypatch.setattr(directory, name, noted(getattr(directory, name), read))
    assert read_status(open_store(store.directory)).num_rows == 24
    assert not [path for path in read if path.startswith(("runs/", "plans/")) and path != "plans/0025.json"]
    assert len(read) < 10


def noted(function: Callable[[Any, str], Any], names: list[str]) -> Callable[[Any, str], Any]:
    def call(directory: Any, name: str) -> Any:
        names.append(name)
        return function(directory, name)

    return call


def test_an_open_run_is_told_with_its_rows(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    finished(store, 1)
    commit_finished(store)
    first, *_ = store.units(plan(store, infos(40, etag="new")))
    answer_unit(store, first)
    [run] = read_status(store).open_runs
    assert (run.run, run.num_images, run.num_done) == (2, 40, 16)
    assert [run.to_record()["state"] for run in all_runs(store)] == ["finished", "open"]


def test_a_merge_at_the_end_of_a_run_never_fails_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = new_store(tmp_path)
    for day in range(1, 9):
        finished(store, day)
    commit_finished(store)
    part = "predictions/0003-000000.parquet"
    whole = store.directory.read(part)
    store.directory.replace(part, whole[:-30])
    compact_after_run(store, 60.0)
    assert f"the files of the label store were not merged: {store.uri}: {part} cannot be read" in caplog.text
    store.directory.replace(part, whole)
    compact_after_run(store, 60.0)
    assert read_status(store).num_files == 1
