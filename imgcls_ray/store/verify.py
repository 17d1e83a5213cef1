"""Count gaps, doubles and foreign files of a label store: G1 as a command.

Reads every plan and every part once, in order, holding the rows of one unit at a time.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgcls_ray.errors import ImageErrorCode, LabelStoreDamagedError
from imgcls_ray.storage.left_out import STORE_FILES, STORE_FOLDERS
from imgcls_ray.store.answers import answers_in
from imgcls_ray.store.history import is_merged_name, late_files, read_history, side_pieces
from imgcls_ray.store.parallel import in_parallel
from imgcls_ray.store.retrying import RetryRules
from imgcls_ray.store.row_hashes import hashes_of
from imgcls_ray.store.rows import KEY_COLUMNS, merged_rows
from imgcls_ray.store.schema import FINGERPRINT_KEY, STATUS_ERROR, STATUS_OK, parse_part_name, precision_of
from imgcls_ray.store.side_pieces import KINDS, openers
from imgcls_ray.store.verify_merged import check_merged
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from imgcls_ray.store.answers import Answer
    from imgcls_ray.store.history import DataFile, History
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import PlanRecord
    from imgcls_ray.store.rows import Source
    from imgcls_ray.store.schema import Unit

_CODES = pa.array([code.value for code in ImageErrorCode])
_NO_VERSION = "\0"
# The page of a store has no images, so those in a folder of its name are inputs: listing does not leave it out.
_NAMES = STORE_FILES | STORE_FOLDERS | {"report"}


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
    precisions: Counter[str] = field(default_factory=Counter)
    """Rows by the number format that they were computed in; without those of earlier versions, which did not tell."""
    problems: list[str] = field(default_factory=list)
    """In words, with file names; at most 1,000 are kept."""
    num_problems: int = 0
    num_forgotten: int = 0
    """Planned inputs whose rows were lost and forgotten (``store compact --forget-lost``): they are planned anew."""
    lost: list[str] = field(default_factory=list)
    """In words, what lacks of finished runs: problems, unless just that is forgotten."""
    num_lost: int = 0
    ignored: list[str] = field(default_factory=list)
    """Files of late writers and of merges that were killed: no reader looks at them, and ``compact`` removes them."""

    @property
    def is_sound(self) -> bool:
        return self.num_problems == 0

    def add(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < 1000:
            self.problems.append(problem)

    def include(self, other: VerifyReport) -> None:
        """Add what was found in a part of the store."""
        self.num_planned += other.num_planned
        self.num_rows += other.num_rows
        self.num_missing += other.num_missing
        self.num_doubled += other.num_doubled
        self.counts.update(other.counts)
        self.precisions.update(other.precisions)
        self.lost += other.lost
        self.num_lost += other.num_lost
        self.problems += other.problems[: 1000 - len(self.problems)]
        self.num_problems += other.num_problems


def verify_store(store: LabelStore) -> VerifyReport:
    """Check every file of a store against the plans.

    ``verify_store(store)`` of a finished, sound store returns ``VerifyReport(num_planned=N, num_rows=N, num_missing=0,
    num_doubled=0, ...)`` without problems.
    """
    report = VerifyReport()
    try:
        history = read_history(store)
    except LabelStoreDamagedError as error:
        report.add(_without_place(store, error))
        return report
    planned, finished = store.planned_runs(), set(store.finished_runs())
    merged = [piece for piece in history.pieces if any(is_merged_name(file.path) for file in piece.files)]
    files_of = {piece.first_run: piece.files for piece in history.all_pieces if piece not in merged}
    in_merged = {run: piece.first_run for piece in merged for run in range(piece.first_run, piece.last_run + 1)}
    plans: dict[int, dict[int, npt.NDArray[np.uint64]]] = {}

    def check(run: int) -> _OfRun:
        if run in in_merged:
            return _read_plan(store, run, is_finished=run in finished)
        return _check_run(store, run, files_of.get(run, ()), is_finished=run in finished)

    num_units: dict[int, int | None] = {}
    for run, of_run in zip(planned, in_parallel(store.directory, check, planned), strict=True):
        report.include(of_run.report)
        num_units[run] = of_run.num_units
        if run in in_merged and of_run.hashes is not None:
            plans.setdefault(in_merged[run], {})[run] = of_run.hashes
    for run in sorted(finished - set(planned)):
        _check_record(store, run, report)
    for piece in merged:
        of_piece = plans.pop(piece.first_run, {})
        if any(num_units.get(run, 0) is None for run in range(piece.first_run, piece.last_run + 1)):
            continue  # rows of a plan that cannot be read are not foreign ones
        num_rows, num_missing, num_doubled = check_merged(
            store,
            piece,
            of_piece,
            tell=report.add,
            tell_lost=report.lost.append,
            check_statuses=functools.partial(_check_statuses, report),
            count_precisions=report.precisions.update,
        )
        report.num_rows += num_rows
        report.num_missing += num_missing
        report.num_lost += num_missing
        report.num_doubled += num_doubled
    _judge_lost(history, report)
    _check_side_pieces(store, history, report)
    _check_foreign_files(store, history, num_units, report)
    if report.num_missing == 0 and report.is_sound:
        # Parts that are missing or damaged have been told; only whole ones can be read through.
        _check_doubles(store, history, report)
    return report


def _judge_lost(history: History, report: VerifyReport) -> None:
    if report.lost and report.num_lost == history.log.summary.get("forgotten", 0):
        report.num_forgotten = report.num_lost
        report.num_missing -= report.num_lost
        report.num_planned -= report.num_lost
        return
    for problem in report.lost:
        report.add(problem)


class _OfRun(NamedTuple):
    """What was found of one run."""

    report: VerifyReport
    num_units: int | None
    """``None``: its plan cannot be read, which is one problem and not one per part."""
    hashes: npt.NDArray[np.uint64] | None = None
    """``hashes_of`` its planned rows, for a run whose parts are merged."""


def _without_place(store: LabelStore, error: Exception) -> str:
    return str(error).removeprefix(f"{store.uri}: ")


def _check_record(store: LabelStore, run: int, report: VerifyReport) -> None:
    try:
        store.run_record(run)
    except LabelStoreDamagedError as error:
        report.add(_without_place(store, error))


def _check_side_pieces(store: LabelStore, history: History, report: VerifyReport) -> None:
    """Files that say what is not there any more, and what lists tell of inputs."""
    for kind in KINDS:
        try:
            for piece in side_pieces(store, history, kind):
                for opens in openers(store, piece, kind):
                    opens().read()
        except LabelStoreDamagedError as error:
            report.add(_without_place(store, error))


def _check_foreign_files(
    store: LabelStore, history: History, num_units: Mapping[int, int | None], report: VerifyReport
) -> None:
    for name in sorted(store.directory.entries()):
        if name not in _NAMES and not name.startswith("."):
            report.add(f"{name}: does not belong to a label store")
    late = set(late_files(store, history.log))
    for name in sorted(store.directory.entries("predictions")):
        if name.startswith(".") or name == "_delta_log":
            continue  # left by a writer that was killed; never read
        number = parse_part_name(name)
        if name in late:
            report.ignored.append(f"predictions/{name}")
        elif number is None and not is_merged_name(name):
            report.add(f"predictions/{name}: is not a part file")
        elif number is not None and (count := num_units.get(number[0], 0)) is not None and number[1] >= count:
            report.add(f"predictions/{name}: answers no unit of any plan")


def _read_plan(store: LabelStore, run: int, *, is_finished: bool) -> _OfRun:
    """The plan of a run whose rows are in merged files."""
    report = VerifyReport()
    if is_finished:
        _check_record(store, run, report)
    hashes, num_units = [np.zeros(0, np.uint64)], 0
    try:
        record = store.plan_record(run)
        for unit, rows in store.planned_rows(run, record):
            num_units += 1
            hashes.append(hashes_of(rows))
            report.num_planned += unit.num_rows
    except LabelStoreDamagedError as error:
        report.add(_without_place(store, error))
        return _OfRun(report, None)
    _check_count(record, run, report)
    return _OfRun(report, num_units, np.concatenate(hashes))


def _check_count(record: PlanRecord, run: int, report: VerifyReport) -> None:
    if (recorded := record["num_images"]) != report.num_planned:
        report.add(f"plans/{run:04d}: holds {report.num_planned:,} inputs, its record says {recorded:,}")


def _check_run(store: LabelStore, run: int, files: Sequence[DataFile], *, is_finished: bool) -> _OfRun:
    """A run whose parts stand for themselves."""
    report = VerifyReport()
    if is_finished:
        _check_record(store, run, report)
    answered = {part[1] for file in files if (part := parse_part_name(file.path))}
    missing = num_units = 0
    try:
        record = store.plan_record(run)
        for unit, rows in store.planned_rows(run, record):
            num_units += 1
            report.num_planned += unit.num_rows
            if unit.number in answered and _check_part(store, unit, rows, report):
                continue
            missing += unit.num_rows
            report.num_missing += unit.num_rows
            if is_finished:
                report.num_lost += unit.num_rows
                report.lost.append(f"{unit.part_name}: is missing ({counted(unit.num_rows, 'input')} without a row)")
    except LabelStoreDamagedError as error:
        report.add(_without_place(store, error))
        return _OfRun(report, None)
    _check_count(record, run, report)
    if missing and not is_finished:
        report.add(
            f"run {run:04d} is not finished: {missing:,} of {counted(report.num_planned, 'input')} without a row; "
            "unless it is running, run its command again"
        )
    return _OfRun(report, num_units)


def _check_part(store: LabelStore, unit: Unit, planned: pa.Table, report: VerifyReport) -> bool:
    """Whether the part is there."""
    try:
        with store.directory.open(unit.part_name) as file:
            part = pq.ParquetFile(file, page_checksum_verification=True).read()
        part.validate(full=True)  # text that is not UTF-8 would otherwise show only where it is used
    except FileNotFoundError:
        return False
    # A damaged name of a column is one that pyarrow does not decode.
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        report.num_missing += unit.num_rows
        report.add(f"{unit.part_name}: cannot be read ({error})")
        return True
    report.num_rows += part.num_rows
    if part.schema.remove_metadata() != store.schema.remove_metadata():
        report.add(f"{unit.part_name}: has other columns than the store")
        return True
    if (part.schema.metadata or {}).get(FINGERPRINT_KEY) != store.identity.fingerprint.encode():
        report.add(f"{unit.part_name}: was written by another model")
    if (precision := precision_of(part.schema)) is not None:
        report.precisions[precision] += part.num_rows
    _check_statuses(report, part, unit.part_name)
    _check_rows(planned, part, unit, report)
    return True


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


def _check_statuses(report: VerifyReport, rows: pa.Table, name: str) -> None:
    statuses, errors, labels = (rows.column(column) for column in ("status", "error", "label"))
    for found in pc.value_counts(pc.coalesce(errors, statuses)).to_pylist():
        report.counts[found["values"]] += found["counts"]
    is_ok = pc.and_(pc.equal(statuses, STATUS_OK), pc.and_(errors.is_null(), labels.is_valid()))
    is_known = pc.fill_null(pc.is_in(errors, value_set=_CODES), False)
    is_error = pc.and_(pc.equal(statuses, STATUS_ERROR), pc.and_(is_known, labels.is_null()))
    wrong = rows.select(["status", "error", "label"]).filter(pc.invert(pc.or_(is_ok, is_error)))
    for row in wrong.to_pylist():
        report.add(f"{name}: a row with status {row['status']}, error {row['error']} and label {row['label']!r}")


def _check_doubles(store: LabelStore, history: History, report: VerifyReport) -> None:
    """One row per input version: two rows of one version stand only where the first failed and was asked again."""
    rules = RetryRules(store)
    with merged_rows(store, history.all_pieces, KEY_COLUMNS) as rows:
        for table in rows:
            for older, newer in _of_one_version(table, rows.sources):
                if not rules.is_second_answer(older, newer):
                    report.num_doubled += 1
                    report.add(
                        f"{newer.uri}: has a row in {older.file} and another of the same version in {newer.file}"
                    )


def _of_one_version(table: pa.Table, sources: Sequence[Source]) -> Iterator[tuple[Answer, Answer]]:
    """Each row with the one before it, where both are of one version of an input."""
    if table.num_rows < 2:
        return
    uris, etags = (table.column(name).combine_chunks() for name in ("uri", "etag"))
    is_same = pc.and_(
        pc.equal(uris[:-1], uris[1:]),
        pc.equal(pc.fill_null(etags[:-1], _NO_VERSION), pc.fill_null(etags[1:], _NO_VERSION)),
    )
    places = pc.indices_nonzero(is_same)
    older, newer = table.take(places), table.take(pc.add(places, 1))
    yield from zip(answers_in(older, sources), answers_in(newer, sources), strict=True)
