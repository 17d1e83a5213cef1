"""Count gaps, doubles and foreign files of a label store: G1 as a command.

Reads every plan and every part once, in order, holding the rows of one unit at a time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import ImageErrorCode, LabelStoreDamagedError
from imgcls_ray.store.answers import answers_by_input
from imgcls_ray.store.retrying import RetryRules
from imgcls_ray.store.schema import FINGERPRINT_KEY, PLAN_SCHEMA, STATUS_ERROR, STATUS_OK, parse_part_name
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.schema import Unit

_CODES = frozenset(code.value for code in ImageErrorCode)
_FILES = frozenset({"store.json", "lease.json", "progress.json"})
_FOLDERS = frozenset({"plans", "predictions", "runs", "exports", "samples"})


@dataclass
class VerifyReport:
    """What ``imgcls store verify`` found; a sound, finished store has no problems."""

    num_planned: int = 0
    num_rows: int = 0
    num_missing: int = 0
    """Planned inputs without a row."""
    num_doubled: int = 0
    """Rows beyond one per input version."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows per status."""
    problems: list[str] = field(default_factory=list)
    """In words, with file names; at most 1,000 are kept."""
    num_problems: int = 0

    @property
    def is_sound(self) -> bool:
        return self.num_problems == 0

    def add(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < 1000:
            self.problems.append(problem)


def verify_store(store: LabelStore) -> VerifyReport:
    """Check every file of a store against the plans.

    ``verify_store(store)`` of a finished, sound store returns ``VerifyReport(num_planned=N, num_rows=N, num_missing=0,
    num_doubled=0, ...)`` without problems.
    """
    report = VerifyReport()
    planned = {run: _units(store, run, report) for run in store.planned_runs()}
    _check_foreign_files(store, planned, report)
    finished = set(store.finished_runs())
    for run in sorted(finished):
        try:
            store.run_record(run)
        except LabelStoreDamagedError as error:
            report.add(str(error).removeprefix(f"{store.uri}: "))
    for run, units in planned.items():
        if units is not None:
            _check_run(store, run, units, report, is_finished=run in finished)
    if report.num_missing == 0 and report.is_sound:
        # Parts that are missing or damaged have been told; only whole ones can be read through.
        _check_doubles(store, report)
    return report


def _check_foreign_files(store: LabelStore, planned: Mapping[int, Sequence[Unit] | None], report: VerifyReport) -> None:
    for name in sorted(store.directory.entries()):
        if name not in _FILES | _FOLDERS and not name.startswith("."):
            report.add(f"{name}: does not belong to a label store")
    for name in sorted(store.directory.entries("predictions")):
        if name.startswith("."):
            continue  # left by a writer that was killed; never read
        number = parse_part_name(name)
        if number is None:
            report.add(f"predictions/{name}: is not a part file")
        elif (units := planned.get(number[0], ())) is not None and number[1] >= len(units):
            report.add(f"predictions/{name}: answers no unit of any plan")


def _units(store: LabelStore, run: int, report: VerifyReport) -> list[Unit] | None:
    """The units of a plan, or ``None`` if it cannot be read, which is one problem and not one per part."""
    try:
        return list(store.units(run))
    except LabelStoreDamagedError as error:
        report.add(str(error).removeprefix(f"{store.uri}: "))
    return None


def _check_run(store: LabelStore, run: int, units: Sequence[Unit], report: VerifyReport, *, is_finished: bool) -> None:
    num_planned = missing = 0
    answered = store.answered_units(run)
    for unit in units:
        num_planned += unit.num_rows
        if unit.number in answered:
            _check_part(store, unit, report)
        else:
            missing += unit.num_rows
            report.num_missing += unit.num_rows
            if is_finished:
                report.add(f"{unit.part_name}: is missing ({counted(unit.num_rows, 'input')} without a row)")
    report.num_planned += num_planned
    if (recorded := store.plan_record(run).get("num_images")) != num_planned:
        report.add(f"plans/{run:04d}: holds {num_planned:,} inputs, its record says {recorded:,}")
    if missing and not is_finished:
        report.add(
            f"run {run:04d} is not finished: {missing:,} of {counted(num_planned, 'input')} without a row; "
            "unless it is running, run its command again"
        )


def _check_part(store: LabelStore, unit: Unit, report: VerifyReport) -> None:
    try:
        with store.directory.open(unit.part_name) as file:
            part = pq.ParquetFile(file, page_checksum_verification=True).read()
        part.validate(full=True)  # text that is not UTF-8 would otherwise show only where it is used
    # A damaged name of a column is one that pyarrow does not decode.
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        report.num_missing += unit.num_rows
        report.add(f"{unit.part_name}: cannot be read ({error})")
        return
    report.num_rows += part.num_rows
    if part.schema.remove_metadata() != store.schema.remove_metadata():
        report.add(f"{unit.part_name}: has other columns than the store")
        return
    if (part.schema.metadata or {}).get(FINGERPRINT_KEY) != store.identity.fingerprint.encode():
        report.add(f"{unit.part_name}: was written by another model")
    _check_statuses(part, unit, report)
    try:
        planned = store.read_unit(unit).cast(PLAN_SCHEMA)
        planned.validate(full=True)
    except (LabelStoreDamagedError, ValueError, pa.ArrowException) as error:
        report.add(f"{unit.segment}: cannot be read ({error})")
        return
    _check_rows(planned, part, unit, report)


def _check_rows(planned: pa.Table, part: pa.Table, unit: Unit, report: VerifyReport) -> None:
    columns = ["image_id", "uri", "etag"]
    if part.select(columns).equals(planned.select(columns)):
        return
    want = Counter(planned.column("image_id").to_pylist())
    have = Counter(part.column("image_id").to_pylist())
    missing, foreign = (want - have).total(), sum(count for row, count in have.items() if row not in want)
    doubled = sum(count - 1 for row, count in have.items() if row in want and count > 1)
    report.num_missing += missing
    report.num_doubled += doubled
    if missing or doubled or foreign:
        report.add(f"{unit.part_name}: {missing:,} rows missing, {doubled:,} doubled, {foreign:,} not of its unit")
    else:
        report.add(f"{unit.part_name}: rows are out of order, or name other inputs than the plan")


def _check_statuses(part: pa.Table, unit: Unit, report: VerifyReport) -> None:
    for status, error, label in zip(*(part.column(n).to_pylist() for n in ("status", "error", "label")), strict=True):
        report.counts[error or status] += 1
        is_ok = status == STATUS_OK and error is None and label is not None
        is_error = status == STATUS_ERROR and error in _CODES and label is None
        if not (is_ok or is_error):
            report.add(f"{unit.part_name}: a row with status {status}, error {error} and label {label!r}")


def _check_doubles(store: LabelStore, report: VerifyReport) -> None:
    """One row per input version: two rows of one version stand only where the first failed and was asked again."""
    rules = RetryRules(store)
    for answers in answers_by_input(store):
        for older, newer in itertools.pairwise(answers):
            if newer.etag == older.etag and not rules.is_second_answer(older, newer):
                report.num_doubled += 1
                report.add(f"{newer.uri}: has a row in {older.part} and another of the same version in {newer.part}")
