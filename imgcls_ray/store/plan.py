"""Decide what a run labels, write it down before work starts, and cut it into units.

A plan is immutable: its files are create-only, and a marker file written after them says that it is complete. An input
with a valid row is not planned again; a new version of it is.
"""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.inputs.sorting import ScratchTables
from imgcls_ray.inputs.tables import FileTables, of_size, only_array, tables_of
from imgcls_ray.json_files import encode_json
from imgcls_ray.store.answers import Found, answers_by_uri, answers_of
from imgcls_ray.store.records import now, plan_name, segment_name
from imgcls_ray.store.retrying import RetryRules, may_pass
from imgcls_ray.store.schema import PLAN_SCHEMA, STATUS_OK, image_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from imgcls_ray.json_files import Json
    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.answers import Answer, AnswersByUri
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.presence_changes import PresenceChanges
    from imgcls_ray.store.values import ValueChanges

MIN_UNIT_SIZE, MAX_UNIT_SIZE = 16, 2048
# One plan file is built in memory: a quarter of a million rows are some ten megabytes.
_ROWS_PER_SEGMENT = 262_144
_COMPARED_ROWS = 8192


@dataclass
class PlanCounts:
    """Counts of the inputs of a listing, by what the run does with them."""

    listed: int = 0
    new: int = 0
    changed: int = 0
    """New versions of inputs that have a row."""
    retried: int = 0
    """Inputs that failed before and are asked again."""
    answered: int = 0
    """Inputs with a valid row, which are not planned."""
    waiting: int = 0
    """Inputs, among ``answered``, that failed more than once for a temporary reason and are tried again later."""
    next_retry: datetime | None = None
    """Time of the first of these later tries."""
    answered_codes: Counter[str] = field(default_factory=Counter)
    """Number of ``answered`` inputs per status."""
    replaced: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Rows that are no longer valid, by run and status, because their inputs are planned as changed or retried."""

    @property
    def planned(self) -> int:
        return self.new + self.changed + self.retried


def unanswered(
    files: Iterable[FileInfo],
    store: LabelStore | None,
    counts: PlanCounts,
    rules: RetryRules | None = None,
    presence: PresenceChanges | None = None,
    values: ValueChanges | None = None,
) -> FileTables:
    """Keep the inputs without a valid row in the store: a merge of two sorted streams.

    Args:
        files: what is listed, sorted by URI.
        store: the store whose rows are compared; ``None`` if there is none yet.
        counts: receives the numbers of inputs of each kind. If it is known how many are taken at most, the inputs up to
            the last one of these are counted, otherwise those that have been looked at.
        rules: which failures are tried again; by default the temporary ones.
        presence: told which inputs of the store are not listed any more, or again.
        values: told what lists say of the files in other columns.
    """
    return FileTables(lambda limit: _unanswered(files, store, counts, rules, presence, values, limit))


def _unanswered(
    files: Iterable[FileInfo],
    store: LabelStore | None,
    counts: PlanCounts,
    rules: RetryRules | None,
    presence: PresenceChanges | None,
    values: ValueChanges | None,
    limit: int | None,
) -> Iterator[pa.Table]:
    if store is None:
        for table in tables_of(files, limit=limit):
            counts.listed += table.num_rows
            counts.new += table.num_rows
            yield table
        return
    rules = rules or RetryRules(store)
    with answers_by_uri(store, presence, values) as answers:
        for table in of_size(tables_of(files), _COMPARED_ROWS):
            if values is not None:
                values.see(table)
            planned = _compare(table, answers, counts, rules, limit)
            if planned.num_rows:
                yield planned
            if limit is not None and not (limit := limit - planned.num_rows):
                return
        if presence is not None:
            answers.see_rest()
            presence.end()


def _compare(
    files: pa.Table, answers: AnswersByUri, counts: PlanCounts, rules: RetryRules, limit: int | None
) -> pa.Table:
    """Those of the next files that have no valid row. Most have one, and cost nothing but columns of Arrow."""
    uris = only_array(files.column("uri"))
    rows = answers.find(uris)
    found = Found.of(uris, only_array(files.column("etag")), rows)
    failed = answers_of(uris.filter(pa.array(found.has_failed)), rows, answers.sources)
    is_retried = found.has_failed.copy()
    is_retried[found.has_failed] = [rules.is_asked_again(before) for before in failed]
    planned = np.flatnonzero(found.is_new | found.is_changed | is_retried)[:limit]
    # Behind the last input that is taken nothing is counted.
    end = len(uris) if limit is None or len(planned) < limit else int(planned[-1]) + 1
    _count(counts, found.up_to(end), is_retried[:end], failed, rules)
    return files if len(planned) == files.num_rows else files.take(pa.array(planned))


def _count(
    counts: PlanCounts, found: Found, is_retried: np.ndarray, failed: Sequence[Sequence[Answer]], rules: RetryRules
) -> None:
    """Count inputs.

    Args:
        counts: receives them.
        found: what the store has of them.
        is_retried: which failed ones are asked again.
        failed: all rows of those that have failed, and perhaps of more behind them.
        rules: which failures are tried again.
    """
    is_again = found.is_changed | is_retried
    num_ok = int(np.count_nonzero(~(found.is_new | found.is_changed | found.has_failed)))
    counts.listed += len(is_retried)
    counts.new += int(np.count_nonzero(found.is_new))
    counts.changed += int(np.count_nonzero(found.is_changed))
    counts.retried += int(np.count_nonzero(is_retried))
    counts.answered += num_ok
    if num_ok:
        counts.answered_codes[STATUS_OK] += num_ok
    for place, before in zip(np.flatnonzero(found.has_failed).tolist(), failed, strict=False):
        if not is_retried[place]:
            _count_left(counts, before, rules)
    if is_again.any():
        codes = (code or STATUS_OK for code in found.errors.filter(pa.array(is_again)).to_pylist())
        counts.replaced.update(zip(found.runs[is_again].tolist(), codes, strict=True))


def _count_left(counts: PlanCounts, before: Sequence[Answer], rules: RetryRules) -> None:
    """Count an input that has failed and is not asked again now."""
    counts.answered += 1
    counts.answered_codes[str(before[-1].error)] += 1
    if may_pass(before[-1]):
        counts.waiting += 1
        counts.next_retry = min(filter(None, (counts.next_retry, rules.time_of_retry(before))))


def images_in(seconds: float, ms_per_image: float) -> int:
    """Number of images that one worker labels in so many seconds, within the bounds of a unit's size."""
    return min(MAX_UNIT_SIZE, max(MIN_UNIT_SIZE, int(1000 * seconds / ms_per_image)))


def cpu_ms_per_image(weights_bytes: float) -> float:
    """Milliseconds of one core to label an image, from the size of the network.

    3 ms for decoding and 1.2 ms per million parameters fit PP-LCNet and ResNet50 within a factor of two, which is
    all that a unit's size, or the choice between CPU and GPU, needs.
    """
    million_parameters = weights_bytes / 4e6
    return 3 + 1.2 * million_parameters


def unit_sizes(num_images: int, *, num_workers: int, smallest: int, largest: int, batch_size: int) -> list[int]:
    """Cut a plan into units, each of which becomes one part file.

    Their number follows the work and not the workers: at most one for every ``smallest`` images, and whole rounds of
    the workers if there are several. Within that number, the first and the last units are as small as possible, down to
    a batch.

    Units are whole batches, because a short batch costs as much as a full one; only the last may be cut.

    Args:
        num_images: of the plan.
        num_workers: each takes the next unit when it has done its last.
        smallest: images that are worth a part file.
        largest: images of one unit; it wins over ``smallest``.
        batch_size: images per forward pass.
    """
    step = min(max(MIN_UNIT_SIZE, batch_size), largest)
    most = max(1, math.ceil(num_images / smallest))
    if most > num_workers:
        most -= most % num_workers
    for first in range(step, largest + 1, step):
        guided = _guided_sizes(num_images, num_workers, first=first, largest=largest, step=step)
        if len(sizes := list(itertools.islice(guided, most + 1))) <= most:
            return sizes
    return [*sizes, *guided]


def _guided_sizes(num_images: int, num_workers: int, *, first: int, largest: int, step: int) -> Iterator[int]:
    """The first units small, so that the first rows are durable soon; the last ones small, so that all workers end
    together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """
    left = num_images
    for number in itertools.count():
        if left <= 0:
            return
        ramp = first << min(number // num_workers, 16)
        size = max(first, min(ramp, left // (4 * num_workers), largest) // step * step)
        yield (size := min(size, left))
        left -= size


class Spool(ScratchTables):
    """Planned inputs on local disk, with their number: units can be cut only when the number is known."""

    def __init__(self) -> None:
        super().__init__("plan")
        self.presence: PresenceChanges | None = None
        """Of the last plan of a listing: what the listing found changed, if it was complete."""
        self.values: ValueChanges | None = None
        """What lists tell of inputs, of these and perhaps of more."""

    @property
    def num_images(self) -> int:
        return self.num_rows


def write_plan(
    store: LabelStore,
    planned: Spool,
    *,
    run: int,
    sizes: Sequence[int],
    about: Mapping[str, Json],
) -> None:
    """Write the plan of a run whose number was taken before its inputs were compared with the store's answers.

    If another run has written a plan with this number in the meantime, these inputs may have rows already.

    Args:
        store: where.
        planned: the inputs.
        run: number of the run.
        sizes: of the units, in order; their sum is the number of inputs.
        about: what else its record says.

    Raises:
        StoreInUseError: another run is writing a plan into this store.
    """
    units = _cut(planned.batches(), sizes)
    row = segment = 0
    while row < planned.num_images:
        data, row = _segment(units, run=run, first_row=row)
        store.create_of_plan(f"plans/{run:04d}/{segment_name(segment)}", data)
        segment += 1
    counts = {"num_images": planned.num_images, "num_units": len(sizes)}
    record: dict[str, object] = {"run": run, "created": now(), **counts, **about}
    if planned.presence is not None and (presence := planned.presence.write(store, run)) is not None:
        record["presence"] = presence
    if planned.values is not None and (values := planned.values.write(store, run)) is not None:
        record["values"] = values
    store.create_of_plan(plan_name(run), encode_json(record))


def _segment(units: Iterator[pa.Table], *, run: int, first_row: int) -> tuple[bytes, int]:
    """One plan file: whole units, each a row group. Returns its bytes and the row after its last."""
    buffer = io.BytesIO()
    row = first_row
    with pq.ParquetWriter(
        buffer, PLAN_SCHEMA, compression="zstd", write_page_checksum=True, write_statistics=False
    ) as writer:
        for unit in units:
            ids = pa.array(range(image_id(run, row), image_id(run, row + unit.num_rows)), pa.int64())
            table = unit.drop_columns("values").add_column(0, PLAN_SCHEMA.field("image_id"), ids)
            writer.write_table(table.cast(PLAN_SCHEMA), row_group_size=unit.num_rows)
            row += unit.num_rows
            if row - first_row >= _ROWS_PER_SEGMENT:
                break
    return buffer.getvalue(), row


def _cut(batches: Iterator[pa.RecordBatch], sizes: Sequence[int]) -> Iterator[pa.Table]:
    """Cut a stream of batches into tables of the given numbers of rows."""
    rest: pa.Table | None = None
    for size in sizes:
        while rest is None or rest.num_rows < size:
            batch = pa.Table.from_batches([next(batches)])
            rest = batch if rest is None else pa.concat_tables([rest, batch])
        yield rest.slice(0, size).combine_chunks()
        rest = rest.slice(size)
