"""Files of finished runs are merged, and nobody sees a difference: not a reader, not a run, not a late writer."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.store import compact, merging
from imgcls_ray.store import rows as rows_module
from imgcls_ray.store.answers import all_answers
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.delta_log import commit_name, read_log
from imgcls_ray.store.history import Piece, commit_finished, pieces_of, read_history
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.plan import PlanCounts, unanswered
from imgcls_ray.store.retrying import RetryRules
from imgcls_ray.store.tiers import choose
from imgcls_ray.store.verify import verify_store
from tests.store.stores import answer_unit, infos, label, new_store, part_bytes, plan, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.store.label_store import LabelStore

NUM_RUNS = 9


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Nine runs of 40 inputs, whose versions and failures differ."""
    store = new_store(tmp_path)
    for run in range(NUM_RUNS):
        label(store, infos(40, etag=f"v{run}", first=run), {"/in/00000020.jpg": "fetch_failed"})
    return store


def rows_in(store: LabelStore) -> list[Any]:
    """All answers without the names of their files, and the newest rows whole."""
    answers: list[Any] = [(a.uri, a.run, a.etag, a.error, a.limits) for a in all_answers(store)]
    return answers + [row for table in latest_rows(store) for row in table.to_pylist()]


def data_files(store: LabelStore) -> list[str]:
    return sorted(name for name in store.directory.entries("predictions") if name.endswith(".parquet"))


def pieces(*rows: int) -> list[Piece]:
    return [Piece(run, run, (), num_rows) for run, num_rows in enumerate(rows, 1)]


# --- what is merged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([], None),
        ([100] * 7, None),
        ([100] * 8, slice(0, 8)),
        ([10_000_000, *[100] * 7], None),  # not written again for small new ones
        ([10_000_000, *[100] * 8], slice(1, 9)),
        ([100, 100, 10_000_000], slice(0, 2)),  # nothing can come between them any more
        ([100, 10_000_000], None),
        ([1000] * 7 + [100] * 7, None),
        ([1000] * 8 + [100] * 3, slice(0, 11)),
    ],
)
def test_neighbours_of_one_size_are_merged(rows: list[int], chosen: slice | None) -> None:
    assert choose(pieces(*rows)) == chosen


@pytest.mark.parametrize("kind", ["alike", "mixed"])
def test_pieces_stay_few_and_rows_are_seldom_written_again(kind: str) -> None:
    chance = random.Random(0)
    sizes = [100 if kind == "alike" else chance.choice((1, 10, 100, 1000, 50_000)) for _ in range(5000)]
    held: list[Piece] = []
    written = most = 0
    for run, size in enumerate(sizes):
        held.append(Piece(run, run, (), size))
        while (part := choose(held)) is not None:
            merged = held[part]
            num_rows = sum(piece.num_rows for piece in merged)
            written += num_rows
            held[part] = [Piece(merged[0].first_run, merged[-1].last_run, (), num_rows)]
        most = max(most, len(held))
    assert sum(piece.num_rows for piece in held) == sum(sizes)
    assert most <= 60
    assert written <= 8 * sum(sizes)


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("file_bytes", [1, 2**27])
def test_merged_files_hold_the_same_rows(
    store: LabelStore, whole: bool, file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_FILE_BYTES", file_bytes)
    monkeypatch.setattr(merging, "_GROUP_ROWS", 50)
    monkeypatch.setattr(rows_module, "_BATCH_ROWS", 7)
    before = rows_in(store)
    report = compact_store(store, whole=whole)
    assert (report.num_merged_files, report.num_rows, report.num_pieces) == (27, 360, 1)
    assert (report.num_new_files > 1) == (file_bytes == 1)
    assert rows_in(store) == before
    assert verify_store(store).is_sound
    # Once more changes nothing.
    assert compact_store(store, whole=whole).num_merged_files == 0


def test_earlier_versions_refuse_a_store_whose_files_are_merged(store: LabelStore) -> None:
    """They would look for rows in parts that are gone, and label everything again."""
    before = json.loads(store.directory.read("store.json"))
    assert before["format_version"] == 1
    compact_store(store, budget_s=0)
    assert json.loads(store.directory.read("store.json")) == before
    compact_store(store)
    assert json.loads(store.directory.read("store.json")) == {**before, "format_version": 2}
    assert open_store(store.directory).identity.format_version == 2


def test_merged_files_go_after_their_time(store: LabelStore) -> None:
    before = rows_in(store)
    compact_store(store)
    assert len(data_files(store)) == 28
    assert compact_store(store, keep_s=3600).num_removed_files == 0
    assert compact_store(store, keep_s=0).num_removed_files == 27
    [name] = data_files(store)
    assert name.startswith("merged-0001-0009-")
    assert rows_in(store) == before
    report = verify_store(store)
    assert (report.problems, report.num_planned, report.num_rows, report.ignored) == ([], 360, 360, [])


def test_a_run_on_a_merged_store_plans_as_before(store: LabelStore) -> None:
    def planned() -> Any:
        counts = PlanCounts()
        return [info.uri for info in unanswered(infos(60, etag="v8"), store, counts)], counts

    before = planned()
    compact_store(store, keep_s=0)
    compact_store(store, keep_s=0)
    assert planned() == before


def test_rows_keep_the_limits_that_they_were_made_under(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    limits = [{"max_image_bytes": 10}, {"max_image_bytes": 10}, None, {"max_image_bytes": 99}]
    for number, text in enumerate(limits):
        run = plan(store, infos(1, first=number))
        [unit] = store.units(run)
        schema = store.schema
        if text is not None:
            schema = schema.with_metadata({**schema.metadata, b"imgcls.limits": json.dumps(text).encode()})
        rows = rows_of(store, unit, {f"/in/{number:08d}.jpg": "too_many_bytes"})
        assert store.directory.create(unit.part_name, part_bytes(rows, schema))
        store.finish_run(run, {"num_images": 1, "counts": {}, "finished": "2026-01-01T00:00:00+00:00"})
    compact_store(store, whole=True)
    assert [answer.limits and json.loads(answer.limits) for answer in all_answers(store)] == limits
    rules = RetryRules(store, {"max_image_bytes": 50})
    found = [info.uri for info in unanswered(infos(4), store, PlanCounts(), rules)]
    assert found == [f"/in/{number:08d}.jpg" for number in (0, 1, 2)]


def test_a_run_with_nothing_new_reads_no_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G10: the requests of planning grow with the logarithm of the runs."""
    store = new_store(tmp_path)
    numbers = {}
    for run in range(1, 129):
        label(store, infos(2, first=2 * run))
        compact_store(store, budget_s=1e9)
        if run in (15, 127):
            again, asked = open_store(store.directory), Counter[str]()
            with monkeypatch.context() as patch:
                for name in ("read", "open", "exists", "entries"):
                    count_calls(patch, type(store.directory), name, asked)
                commit_finished(again)
                counts = PlanCounts()
                assert not list(unanswered(infos(2 * run, first=2), again, counts))
            assert counts.answered == 2 * run
            numbers[run] = asked.total()
    assert numbers[127] <= numbers[15] + 15


def count_calls(patch: pytest.MonkeyPatch, kind: type, name: str, asked: Counter[str]) -> None:
    function = getattr(kind, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        asked[name] += 1
        return function(*arguments, **options)

    patch.setattr(kind, name, counted)


def test_the_parts_of_a_single_run_are_merged_if_all_are(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    label(store, infos(40))
    assert compact_store(store).num_merged_files == 0
    assert compact_store(store, whole=True).num_merged_files == 3
    assert compact_store(store, whole=True).num_merged_files == 0
    assert verify_store(store).is_sound


def test_a_budget_leaves_out_what_takes_longer(store: LabelStore) -> None:
    assert compact_store(store, budget_s=0.0).num_merged_files == 0
    assert compact_store(store, budget_s=1e9).num_merged_files == 27


# --- late writers, deaths, and others at the same time ----------------------------------------------------------------


def test_a_part_that_comes_after_the_merge_is_ignored_and_told(store: LabelStore) -> None:
    before, unit = rows_in(store), next(store.units(1))
    compact_store(store, keep_s=0)
    compact_store(store, keep_s=0)
    answer_unit(store, unit)
    assert rows_in(store) == before
    report = verify_store(store)
    assert (report.problems, report.num_rows, report.ignored) == ([], 360, [unit.part_name])
    assert compact_store(store, keep_s=0).num_late_files == 1
    assert compact_store(store, keep_s=0).num_removed_files == 1
    assert not store.directory.exists(unit.part_name)
    assert rows_in(store) == before


def test_a_driver_that_finishes_a_merged_run_again_adds_nothing(store: LabelStore) -> None:
    compact_store(store, keep_s=0)
    compact_store(store, keep_s=0)
    version = read_log(store.directory).version
    for unit in store.units(1):
        answer_unit(store, unit)
    store.finish_run(1, {"num_images": 40, "counts": {}, "finished": "2026-01-01T00:00:00+00:00"})
    assert commit_finished(store).version == version
    assert verify_store(store).num_rows == 360


def test_of_two_that_merge_the_same_one_wins(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_in(store)
    commit = compact._commit_merged

    def commit_second(*arguments: Any) -> Any:
        monkeypatch.setattr(compact, "_commit_merged", commit)
        assert compact_store(store, budget_s=1e9).num_merged_files == 27
        return commit(*arguments)

    monkeypatch.setattr(compact, "_commit_merged", commit_second)
    assert compact_store(store).num_merged_files == 0
    assert rows_in(store) == before
    # What the other one wrote counts nowhere, and goes.
    assert len(verify_store(store).ignored) == 1
    assert compact_store(store).num_late_files == 1


def test_files_that_were_taken_for_a_dead_commands_are_not_used(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two steps of a merge somebody else found its file and is about to remove it."""
    before = rows_in(store)
    commit = compact._commit_merged

    def commit_late(*arguments: Any) -> Any:
        monkeypatch.setattr(compact, "_commit_merged", commit)
        assert compact_store(store, keep_s=0).num_late_files == 1
        return commit(*arguments)

    monkeypatch.setattr(compact, "_commit_merged", commit_late)
    monkeypatch.setattr(compact, "choose", choose_once())
    assert compact_store(store).num_merged_files == 0
    compact_store(store, keep_s=0)
    assert rows_in(store) == before


def choose_once() -> Any:
    """A choice that finds something the first time alone."""
    chosen = iter([slice(0, NUM_RUNS)])
    return lambda _: next(chosen, None)


def test_a_merge_that_dies_before_its_commit_leaves_the_store_as_it_was(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_in(store)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compact, "_commit_merged", die)
        with pytest.raises(KeyboardInterrupt):
            compact_store(store)
    assert rows_in(store) == before
    assert len(verify_store(store).ignored) == 1
    assert compact_store(store, keep_s=0).num_late_files == 1
    compact_store(store, keep_s=0)
    assert len(data_files(store)) == 1
    assert rows_in(store) == before


def test_open_runs_are_not_merged(store: LabelStore) -> None:
    first, *_ = store.units(plan(store, infos(40, etag="new")))
    answer_unit(store, first)
    before = rows_in(store)
    compact_store(store, whole=True, keep_s=0)
    assert compact_store(store, whole=True, keep_s=0).num_removed_files == 27
    assert store.directory.exists(first.part_name)
    assert rows_in(store) == before
    assert [piece.first_run for piece in read_history(store).tail] == [10]


# --- damage ----------------------------------------------------------------------------------------------------------


def damage(store: LabelStore, name: str) -> None:
    data = store.directory.read(name)
    store.directory.replace(name, data[:200] + bytes(100) + data[300:])


def test_damage_is_not_merged_away(store: LabelStore) -> None:
    commit_finished(store)
    damage(store, "predictions/0001-000000.parquet")
    with pytest.raises(LabelStoreDamagedError, match=r"predictions/0001-000000\.parquet cannot be read"):
        compact_store(store)
    assert read_log(store.directory).version == 0


@pytest.mark.parametrize("lost", [False, True])
def test_verify_finds_damage_in_merged_files(store: LabelStore, lost: bool) -> None:
    compact_store(store)
    [name] = [f"predictions/{name}" for name in data_files(store) if name.startswith("merged")]
    if lost:
        store.directory.remove(name)
    else:
        damage(store, name)
    report = verify_store(store)
    assert not report.is_sound
    assert report.num_missing == 360
    assert report.problems[0].startswith(f"{name}: cannot be read (")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1:], "1 rows of run 0001 missing"),
        (lambda rows: [*rows, rows[-1]], "out of order"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "out of order"),
        (lambda rows: [{**rows[0], "etag": "other"}, *rows[1:]], "1 rows name other inputs than the plan"),
        (lambda rows: [{**rows[0], "uri": "/in/0"}, *rows[1:]], "1 rows name other inputs than the plan"),
        (lambda rows: [{**rows[0], "etag": None}, *rows[1:]], "1 rows name other inputs than the plan"),
        (lambda rows: [{**rows[0], "image_id": 99 << 40}, *rows[1:]], "1 not of its runs"),
        (lambda rows: [{**rows[0], "label": None}, *rows[1:]], "a row with status ok, error None and label None"),
    ],
)
def test_verify_compares_merged_rows_with_the_plans(store: LabelStore, change: Any, told: str) -> None:
    compact_store(store)
    [name] = [f"predictions/{name}" for name in data_files(store) if name.startswith("merged")]
    table = pq.ParquetFile(io.BytesIO(store.directory.read(name))).read()
    changed = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    buffer = io.BytesIO()
    pq.write_table(changed, buffer)
    store.directory.replace(name, buffer.getvalue())
    assert any(told in problem for problem in verify_store(store).problems), verify_store(store).problems


def test_a_lost_log_is_told_where_files_are_merged(store: LabelStore) -> None:
    compact_store(store)
    for name in list(store.directory.entries("predictions/_delta_log")):
        store.directory.remove(f"predictions/_delta_log/{name}")
    store = open_store(store.directory)
    with pytest.raises(LabelStoreDamagedError, match="predictions/_delta_log is lost"):
        read_history(store)
    assert "_delta_log is lost" in verify_store(store).problems[0]


def test_what_another_tool_wrote_is_refused(store: LabelStore) -> None:
    version = commit_finished(store).version
    foreign = {"add": {"path": "part-0.parquet", "size": 1, "modificationTime": 0}}
    assert store.directory.create(commit_name(version + 1), json.dumps(foreign).encode())
    with pytest.raises(LabelStoreDamagedError, match="was written by another tool"):
        read_history(store)


def test_old_checkpoints_go_and_commits_stay(store: LabelStore) -> None:
    """Or a command that slept could write a commit whose name is free again."""
    for run in range(30):
        label(store, infos(1, etag=f"w{run}"))
        commit_finished(store)
    before = rows_in(store)
    compact_store(store, keep_s=0, whole=True)
    names = sorted(store.directory.entries("predictions/_delta_log"))
    commits = [int(name[:20]) for name in names if name.endswith(".json")]
    assert commits == list(range(read_log(store.directory).version + 1))
    assert sum(name.endswith(".checkpoint.parquet") for name in names) == 2
    assert rows_in(store) == before
    assert len(pieces_of(read_log(store.directory))) == 1
