"""The runs of one command on a label store: finish what is open, then claim, plan, label and record what is new.

Everything here rests on create-only files and nothing on the lease: commands that run at once, die at any step or wake
up late repeat each other's work at most. No input of theirs is lost, and none gets two rows.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from imgcls_ray.predict.report import RunReport
from imgcls_ray.store.drift import drift_of_run
from imgcls_ray.store.history import commit_finished
from imgcls_ray.store.schema import STATUS_OK, precision_of, profile_of_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.plan import Spool
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit

logger = logging.getLogger(__name__)


class Job(Protocol):
    """What a command does with its runs."""

    def write_plan(self, planned: Spool, run: int) -> None:
        """Cut the inputs into units and write the plan of a claimed run.

        Raises:
            StoreInUseError: another command took the claim for a dead one's and closed the run.
        """

    def label_units(self, units: list[Unit], report: RunReport) -> set[int]:
        """Label the units, tell the report, and return the numbers of those that another worker had labelled."""

    def describe_run(self, report: RunReport) -> RunRecord:
        """The record of a finished run."""


def work_off(
    store: LabelStore,
    job: Job,
    plans: Callable[[int | None], AbstractContextManager[Iterator[Spool]]],
    report: PredictReport,
    *,
    limit: int | None = None,
) -> None:
    """Finish the open runs of a store, then plan and label everything that it does not answer.

    Args:
        store: where.
        job: how.
        plans: begins to compare the inputs with the store's answers; given how many inputs it may plan at most.
        report: told every run.
        limit: label at most this many images. Of an open run whole units are labelled, and at least one.

    Raises:
        StoreInUseError: another command works on the store at the same time.
    """
    left = limit
    # Also what a command finished that died before it could put it into the log, and the whole history of a store of an
    # earlier version.
    log = commit_finished(store)
    while (run := store.claim_next_run(log.through)) is None:
        for open_run in store.open_runs(log.through):
            finished = finish_run(store, job, open_run, limit=left)
            report.runs.append(finished)
            report.num_finished_before += 1
            if left is not None:
                left -= finished.num_labelled
                if left <= 0 or not finished.is_finished:
                    return
        log = commit_finished(store)
    commit_finished(store)
    with plans(left) as spools:
        for number, planned in enumerate(spools):
            if number:
                store.claim_run(run := run + 1)
            job.write_plan(planned, run)
            report.runs.append(finish_run(store, job, run))
            commit_finished(store)


def finish_run(store: LabelStore, job: Job, run: int, *, limit: int | None = None) -> RunReport:
    """Label the units of a planned run that have no answer, and record the run if none is left.

    Args:
        limit: label no more images than this, in whole units, but at least one unit.
    """
    start = time.monotonic()
    plan = store.plan_record(run)
    num_images = plan["num_images"]
    answered = store.answered_units(run)
    left = [unit for unit in store.units(run) if unit.number not in answered]
    todo = left if limit is None else _within(left, limit)
    report = RunReport(run, num_images, num_images - sum(unit.num_rows for unit in left), plan=plan)
    if todo:
        _count_precision_begun(store, report, answered)
        answered |= job.label_units(todo, report)
        report.seconds = time.monotonic() - start
    report.num_labelled = sum(unit.num_rows for unit in todo)
    report.is_finished = len(todo) == len(left)
    _count_other_parts(store, report, answered)
    if report.is_finished:
        report.drift = drift_of_run(store, report.profile)
        if len(report.precisions) > 1:
            logger.warning(
                "run %04d has rows that were computed in %s: their scores differ in the last digits, and a few labels "
                "may; `imgcls store verify` counts them. --precision fp32 computes alike on every machine",
                run,
                " and ".join(sorted(report.precisions)),
            )
        store.finish_run(run, job.describe_run(report))
    return report


def _within(units: list[Unit], limit: int) -> list[Unit]:
    """The first units that hold at most so many images, and at least one unit: a limit must not end all progress."""
    taken: list[Unit] = []
    for unit in units:
        if taken and unit.num_rows > limit:
            break
        taken.append(unit)
        limit -= unit.num_rows
    return taken


def _count_precision_begun(store: LabelStore, report: RunReport, answered: set[int]) -> None:
    """What an earlier command, perhaps on another machine, began the run in: of one part, which stands for all."""
    first = next((unit for unit in store.units(report.run) if unit.number in answered), None)
    if first is not None and (precision := store.part_precision(first.part_name)) is not None:
        report.precisions.add(precision)


def _count_other_parts(store: LabelStore, report: RunReport, numbers: set[int]) -> None:
    for unit in store.units(report.run):
        if unit.number in numbers:
            part = store.read_part(unit.part_name, ["error"])
            report.codes.update(code or STATUS_OK for code in part.column("error").to_pylist())
            report.profile += profile_of_part(part.schema)
            if (precision := precision_of(part.schema)) is not None:
                report.precisions.add(precision)
