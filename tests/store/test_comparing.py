"""Comparing a listing with a store, as columns, decides and counts as one input after the other would."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from imgcls_ray.inputs.tables import FileTables, tables_of
from imgcls_ray.store import merging
from imgcls_ray.store import plan as plan_module
from imgcls_ray.store import rows as rows_module
from imgcls_ray.store.answers import all_answers
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.history import commit_finished, read_history
from imgcls_ray.store.plan import PlanCounts, unanswered
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.retrying import RetryRules, may_pass
from imgcls_ray.store.rows import KEY_COLUMNS, merged_rows
from tests.store.stores import info, infos, label, new_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.label_store import LabelStore

CODES = ["truncated", "fetch_failed", "not_found", "too_many_bytes", "access_denied"]
VERSIONS = ["v1", "v1", "v1", "v2", None]


def random_store(folder: Path, chance: random.Random) -> LabelStore:
    """Some runs of some inputs each, of which some fail; what is not final may have several rows of one version."""
    store = new_store(folder)
    for _ in range(chance.randint(0, 4)):
        files = listing(chance, 0.5)
        failed = {file.uri: chance.choice(CODES) for file in files if chance.random() < 0.3}
        label(store, files, failed)
        if chance.random() < 0.3:
            commit_finished(store)
            compact_store(store, whole=chance.random() < 0.5)
    return store


def listing(chance: random.Random, share: float) -> list[FileInfo]:
    return [info(f"/in/{i:04d}.jpg", chance.choice(VERSIONS)) for i in range(60) if chance.random() < share]


def one_by_one(
    files: Iterable[FileInfo], store: LabelStore, counts: PlanCounts, rules: RetryRules
) -> Iterator[FileInfo]:
    answers = {uri: list(group) for uri, group in itertools.groupby(all_answers(store), key=lambda answer: answer.uri)}
    for file in files:
        counts.listed += 1
        before = answers.get(file.uri)
        if before is None:
            counts.new += 1
            yield file
            continue
        newest = before[-1]
        status = newest.error or "ok"
        if file.etag is not None and file.etag != newest.etag:
            counts.changed += 1
        elif newest.error is not None and rules.is_asked_again(before):
            counts.retried += 1
        else:
            counts.answered += 1
            counts.answered_codes[status] += 1
            if may_pass(newest):
                counts.waiting += 1
                counts.next_retry = min(filter(None, (counts.next_retry, rules.time_of_retry(before))))
            continue
        counts.replaced[newest.run, status] += 1
        yield file


@pytest.mark.parametrize("seed", range(40))
def test_a_listing_is_compared_as_one_input_after_the_other(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(merging, "_GROUP_ROWS", 20)
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", chance.choice((3, 4096)))
    monkeypatch.setattr(plan_module, "_COMPARED_ROWS", chance.choice((1, 7, 8192)))
    store = random_store(tmp_path, chance)
    files = listing(chance, 0.8)
    codes = frozenset(chance.sample(CODES, chance.randint(0, 2)))
    rules = RetryRules(store, {}, codes, time=datetime.now(UTC) + timedelta(hours=chance.choice((0, 3))))
    for limit in (None, 1, 5, 20, 1000):
        wanted, counted = PlanCounts(), PlanCounts()
        expected = list(itertools.islice(one_by_one(files, store, wanted, rules), limit))
        with plan_ahead(unanswered(iter(files), store, counted, rules), limit=limit) as spools:
            found = [tuple(row.values()) for spool in spools for batch in spool.batches() for row in batch.to_pylist()]
        assert found == expected
        if limit is None or len(expected) == limit:
            # What lies between the last input that is taken and the end is looked at by both, or by neither.
            assert counted == wanted
        assert list(unanswered(iter(files), store, PlanCounts(), rules)) == list(
            one_by_one(files, store, PlanCounts(), rules)
        )


def test_no_more_than_the_limit_is_counted_without_a_store() -> None:
    counts = PlanCounts()
    with plan_ahead(unanswered(infos(100), None, counts), limit=7) as plans:
        assert [spool.num_images for spool in plans] == [7]
    assert (counts.listed, counts.new) == (7, 7)


def test_reading_pieces_holds_a_small_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row group a few rows, and the pages that they are in."""
    monkeypatch.setattr(merging, "_PAGE_BYTES", 1024)
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", 256)
    monkeypatch.setattr(plan_module, "_COMPARED_ROWS", 256)
    store = new_store(tmp_path)
    for first in (0, 1):
        label(store, infos(4000, first=first, step=2))
    compact_store(store, whole=True)
    [piece] = read_history(store).pieces
    assert (piece.num_rows, len(piece.files)) == (8000, 1)
    before: int = pa.total_allocated_bytes()
    size = most = 0
    with merged_rows(store, [piece], KEY_COLUMNS) as rows:
        for table in rows:
            size += table.nbytes
            most = max(most, pa.total_allocated_bytes() - before)
    assert size > 300_000
    assert most < size / 3
    most = 0
    listed = FileTables(lambda _: tables_of(infos(8000, etag="v2"), rows=256))
    for planned in tables_of(unanswered(listed, store, PlanCounts())):
        assert planned.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < size / 3
    # Nothing waits for Python's garbage collection.
    del table, planned, rows
    assert pa.total_allocated_bytes() - before < size / 20
