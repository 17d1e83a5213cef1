"""Check the rows of merged files against the plans of their runs: every planned row once, with its uri and version.

A merged file is sorted by uri, its plans are in the order of the runs. So each plan is kept as one number a row: with
how often the row was found, nine bytes an input.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgcls_ray.store.row_hashes import hashes_of
from imgcls_ray.store.rows import ranges_in
from imgcls_ray.store.schema import FINGERPRINT_KEY, PRECISION_RANGES_KEY, run_and_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from imgcls_ray.store.history import DataFile, Piece
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.rows import Ranges


def check_merged(
    store: LabelStore,
    piece: Piece,
    plans: Mapping[int, npt.NDArray[np.uint64]],
    *,
    tell: Callable[[str], None],
    tell_lost: Callable[[str], None],
    check_statuses: Callable[[pa.Table, str], None],
    count_precisions: Callable[[dict[str, int]], None],
) -> tuple[int, int, int]:
    """Check a piece of merged files.

    Args:
        store: which.
        piece: what to check.
        plans: ``hashes_of`` the planned rows of its runs, in their order.
        tell: is told every problem.
        tell_lost: is told what rows are missing.
        check_statuses: is given every table, with the name of its file.
        count_precisions: is told numbers of rows by the number format that they were computed in.

    Returns:
        Numbers of rows, of planned inputs without a row, and of rows beyond one for each.
    """
    runs = np.array(sorted(plans), np.int64)
    sizes = np.array([len(plans[int(run)]) for run in runs], np.int64)
    firsts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    hashes = np.concatenate([plans[int(run)] for run in runs]) if len(runs) else np.zeros(0, np.uint64)
    seen = np.zeros(len(hashes), np.uint8)
    num_rows = num_foreign = 0
    last: tuple[str, int] | None = None
    for file, group, precisions in itertools.chain.from_iterable(
        ((file, *read) for read in _read(store, file, tell)) for file in piece.files
    ):
        num_rows += group.num_rows
        count_precisions(_by_range(group, precisions))
        check_statuses(group, file.name)
        last = _check_order(group, last, file, tell)
        run, row = run_and_row(group.column("image_id").to_numpy())
        place = np.searchsorted(runs, run)
        is_planned = np.zeros(group.num_rows, bool)
        inside = place < len(runs)
        is_planned[inside] = (runs[place[inside]] == run[inside]) & (row[inside] < sizes[place[inside]])
        where = firsts[place[is_planned]] + row[is_planned]
        is_other = hashes[where] != hashes_of(group)[is_planned]
        num_foreign += int((~is_planned).sum())
        np.add.at(seen, where, 1)
        if is_other.any():
            first = group.filter(pa.array(is_planned)).filter(pa.array(is_other)).column("uri")[0].as_py()
            tell(f"{file.name}: {int(is_other.sum()):,} rows name other inputs than the plan, the first is {first}")
    name = piece.files[0].name if piece.files else "predictions"
    missing = seen == 0
    for number, run in enumerate(runs):
        if count := int(missing[firsts[number] : firsts[number + 1]].sum()):
            tell_lost(f"{name}: {count:,} rows of run {int(run):04d} missing")
    num_doubled = int(np.maximum(seen.astype(np.int64) - 1, 0).sum())
    if num_doubled or num_foreign:
        tell(f"{name}: {num_doubled:,} rows doubled, {num_foreign:,} not of its runs")
    return num_rows, int(missing.sum()), num_doubled


def _by_range(group: pa.Table, ranges: Ranges) -> dict[str, int]:
    """Numbers of rows by what is said of them; those of which nothing is said are left out."""
    firsts = np.array([first for first, _ in ranges], np.int64)
    places = np.searchsorted(firsts, group.column("image_id").to_numpy(), side="right")
    counts = np.bincount(places, minlength=len(ranges) + 1)[1:]
    found: Counter[str] = Counter()
    for (_, text), count in zip(ranges, counts.tolist(), strict=True):
        if text is not None:
            found[text] += count
    return +found


def _read(store: LabelStore, file: DataFile, tell: Callable[[str], None]) -> Iterator[tuple[pa.Table, Ranges]]:
    """The rows of a file as far as it can be read, one row group at a time, and what they were computed in."""
    try:
        with store.directory.open(file.name) as opened:
            parquet = pq.ParquetFile(opened, page_checksum_verification=True, pre_buffer=True)
            if parquet.schema_arrow.remove_metadata() != store.schema.remove_metadata():
                tell(f"{file.name}: has other columns than the store")
                return
            if (parquet.schema_arrow.metadata or {}).get(FINGERPRINT_KEY) != store.identity.fingerprint.encode():
                tell(f"{file.name}: was written by another model")
            precisions = ranges_in((parquet.metadata.metadata or {}).get(PRECISION_RANGES_KEY))
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                table.validate(full=True)  # text that is not UTF-8 would otherwise show only where it is used
                yield table, precisions
    except (OSError, ValueError, pa.ArrowException) as error:
        tell(f"{file.name}: cannot be read ({' '.join(str(error).split())})")


def _check_order(
    group: pa.Table, last: tuple[str, int] | None, file: DataFile, tell: Callable[[str], None]
) -> tuple[str, int] | None:
    """Readers rely on the order. Returns the last uri and id."""
    if not group.num_rows:
        return last
    uris, ids = group.column("uri").combine_chunks(), group.column("image_id").to_numpy()
    is_above = pc.less(uris[:-1], uris[1:]).to_numpy(zero_copy_only=False)
    is_same = pc.equal(uris[:-1], uris[1:]).to_numpy(zero_copy_only=False)
    first = (uris[0].as_py(), int(ids[0]))
    if not (is_above | (is_same & (np.diff(ids) > 0))).all() or (last is not None and first <= last):
        tell(f"{file.name}: rows are out of order")
    return uris[-1].as_py(), int(ids[-1])
