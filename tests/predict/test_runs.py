"""What one command does with the runs of a store: open ones first, a limit over all of them, records of their plans."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import JobFailedError, StoreInUseError
from imgcls_ray.predict.report import PredictReport, RunReport
from imgcls_ray.predict.runs import finish_run, work_off
from imgcls_ray.store.plan import PlanCounts, unanswered, write_plan
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.verify import verify_store
from tests.store.stores import answer_unit, even_sizes, info, infos, new_store, plan, rows_of, run_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.plan import Spool
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit


@dataclass
class Job:
    """Labels with a line each."""

    store: LabelStore
    errors: Mapping[str, str] = field(default_factory=dict)
    labelled: list[tuple[int, int]] = field(default_factory=list)

    def write_plan(self, planned: Spool, run: int) -> None:
        write_plan(self.store, planned, run=run, sizes=even_sizes(planned.num_images, 16), about={"input": "/in"})

    def label_units(self, units: list[Unit], report: RunReport) -> set[int]:
        for unit in units:
            answer_unit(self.store, unit, self.errors)
            self.labelled.append((unit.run, unit.num_rows))
            report.codes.update(row["error"] or row["status"] for row in rows_of(self.store, unit, self.errors))
        return set()

    def describe_run(self, report: RunReport) -> RunRecord:
        return run_record(report.run, num_images=report.num_images, counts=dict(report.codes), plan=report.plan)


def command(
    store: LabelStore, files: Iterator[FileInfo], *, limit: int | None = None, errors: Mapping[str, str] | None = None
) -> tuple[PredictReport, Job]:
    report, job = PredictReport(store.uri), Job(store, errors or {})

    @contextmanager
    def plans(left: int | None) -> Iterator[Iterator[Spool]]:
        with plan_ahead(unanswered(files, store, report.plan), limit=left) as spools:
            yield spools

    work_off(store, job, plans, report, limit=limit)
    return report, job


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return new_store(tmp_path / "store")


def test_a_command_labels_what_is_new_and_records_it(store: LabelStore) -> None:
    report, job = command(store, infos(40))
    assert job.labelled == [(1, 16), (1, 16), (1, 8)]
    assert [(run.run, run.num_images, run.num_labelled, run.is_finished) for run in report.runs] == [(1, 40, 40, True)]
    assert store.finished_runs() == [1]
    record: Any = store.run_record(1)
    assert record["plan"]["input"] == "/in"


def test_a_command_with_nothing_new_writes_a_plan_of_nothing_and_its_record(store: LabelStore) -> None:
    command(store, infos(40))
    report, job = command(store, infos(40))
    assert (job.labelled, report.plan) == (
        [],
        PlanCounts(listed=40, answered=40, answered_codes=report.plan.answered_codes),
    )
    assert (store.planned_runs(), store.finished_runs()) == ([1, 2], [1, 2])
    assert verify_store(store).is_sound


def test_what_is_open_is_finished_before_anything_new_is_planned(store: LabelStore) -> None:
    plan(store, infos(40))
    answer_unit(store, next(iter(store.units(1))))
    report, job = command(store, infos(60))
    assert job.labelled == [(1, 16), (1, 8), (2, 16), (2, 4)]
    assert report.num_finished_before == 1
    assert (report.runs[0].num_done_before, report.runs[0].num_labelled) == (16, 24)


# --- limit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "labelled"),
    [
        (1, [(1, 16)]),
        (16, [(1, 16)]),
        (31, [(1, 16)]),
        (32, [(1, 16), (1, 16)]),
        (40, [(1, 16), (1, 16), (1, 8)]),
        (45, [(1, 16), (1, 16), (1, 8), (2, 5)]),
        (1000, [(1, 16), (1, 16), (1, 8), (2, 16), (2, 16), (2, 16), (2, 12)]),
    ],
)
def test_a_limit_holds_for_an_open_run_too(limit: int, labelled: list[tuple[int, int]], store: LabelStore) -> None:
    """In whole units, and at least one of them: a small limit must not end all progress."""
    plan(store, infos(40))
    report, job = command(store, infos(100), limit=limit)
    assert job.labelled == labelled
    assert sum(run.num_labelled for run in report.runs) == sum(rows for _, rows in labelled)
    assert store.open_runs() == ([] if sum(rows for run, rows in labelled if run == 1) == 40 else [1])


def test_limited_commands_come_to_an_end(store: LabelStore) -> None:
    plan(store, infos(40))
    for _ in range(30):
        command(store, infos(100), limit=10)
    assert store.open_runs() == []
    report = verify_store(store)
    assert (report.is_sound, report.num_rows) == (True, 100)


def test_a_limit_over_several_open_runs(store: LabelStore) -> None:
    plan(store, infos(20))
    plan(store, infos(20, first=100))
    report, _ = command(store, infos(20), limit=25)
    assert [(run.run, run.num_labelled) for run in report.runs] == [(1, 20), (2, 16)]


def test_a_run_that_a_limit_left_open_has_no_record(store: LabelStore) -> None:
    plan(store, infos(40))
    report = finish_run(store, Job(store), 1, limit=20)
    assert (report.is_finished, report.num_labelled) == (False, 16)
    assert store.finished_runs() == []


# --- commands at once ------------------------------------------------------------------------------------------------


def test_a_command_that_was_taken_for_dead_while_it_listed_ends(store: LabelStore) -> None:
    def files() -> Iterator[FileInfo]:
        yield from infos(10)
        # Another command comes, closes the claimed run and labels everything.
        command(store, infos(30))
        yield from infos(20, first=10)

    with pytest.raises(StoreInUseError):
        command(store, files())
    report = verify_store(store)
    assert (report.is_sound, report.num_rows) == (True, 30)


def test_a_command_with_nothing_to_label_cannot_end_the_run_of_another(store: LabelStore) -> None:
    def nothing() -> Iterator[FileInfo]:
        # While this one looks for inputs, another command takes over, plans new ones and stands still.
        assert store.claim_next_run() == 2
        with plan_ahead(infos(40)) as spools:
            Job(store).write_plan(next(spools), 2)
        yield from ()

    with pytest.raises(StoreInUseError):
        command(store, nothing())
    assert store.open_runs() == [2]
    command(store, infos(40))
    report = verify_store(store)
    assert (report.is_sound, report.num_rows) == (True, 40)


# --- outcome ---------------------------------------------------------------------------------------------------------


def test_an_open_run_of_failures_fails_the_command_that_finishes_it(store: LabelStore) -> None:
    """Also where its inputs are not listed any more: a folder that is empty now, say."""
    plan(store, [info("/in/a.jpg"), info("/in/b.jpg")])
    errors = {"/in/a.jpg": "not_found", "/in/b.jpg": "not_found"}
    report, _ = command(store, iter(()), errors=errors)
    with pytest.raises(
        JobFailedError, match=r"all inputs of what an earlier command left open failed \(2\): not_found"
    ):
        report.check_errors(1.0)


def test_the_share_of_errors_of_an_open_run_counts(store: LabelStore) -> None:
    plan(store, infos(10))
    report, _ = command(store, infos(10), errors={"/in/00000003.jpg": "corrupt"})
    report.check_errors(0.1)
    with pytest.raises(JobFailedError, match=r"1 of 10 inputs of what an earlier command left open failed \(10.0%"):
        report.check_errors(0.05)


def test_what_the_same_command_cured_is_no_failure_of_the_open_run(store: LabelStore) -> None:
    run = plan(store, infos(10))
    answer_unit(store, next(iter(store.units(run))), {f"/in/{i:08d}.jpg": "fetch_failed" for i in range(10)})
    report, job = command(store, infos(10))
    assert job.labelled == [(2, 10)]
    report.check_errors(0.0)


def test_a_command_that_only_waits_for_failures_to_pass_has_failed(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {f"/in/{i:08d}.jpg": "fetch_failed" for i in range(10)}
    for _ in range(2):
        command(store, infos(10), errors=errors)
    report, job = command(store, infos(10), errors=errors)
    assert (job.labelled, report.plan.waiting) == ([], 10)
    with pytest.raises(JobFailedError, match=r"all inputs failed \(10\): fetch_failed 10"):
        report.check_errors(1.0)


def test_a_command_with_nothing_new_beside_old_failures_has_not_failed(store: LabelStore) -> None:
    command(store, infos(10), errors={f"/in/{i:08d}.jpg": "corrupt" for i in range(10)})
    report, _ = command(store, infos(10))
    report.check_errors(0.0)
