"""Sort any number of files by their URIs: chunks are sorted in memory, kept on disk, and merged."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.merging import merge_sorted
from imgcls_ray.inputs.tables import FILE_SCHEMA, ROWS_PER_TABLE, FileTables, of_size, only_array, tables_of
from imgcls_ray.storage.scratch import scratch_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.storage.files import FileInfo

_ROWS_IN_MEMORY = 131_072
# A merge holds some rows of each run; what has more runs is merged in several steps.
_MAX_RUNS = 256
_ROWS_PER_BATCH = 1024


class ScratchTables:
    """Rows of ``FILE_SCHEMA`` in a temporary file without a name: first all are written, then they are read.

    Args:
        name: its purpose, as ``scratch_file`` takes it.
    """

    def __init__(self, name: str) -> None:
        self._file = scratch_file(name)
        self._writer = pa.ipc.new_file(self._file, FILE_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self.num_rows = self.num_batches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader = None
        self._file.close()

    def add(self, table: pa.Table, *, batch_size: int = ROWS_PER_TABLE) -> None:
        """Write rows, in batches of this size at most."""
        for batch in table.combine_chunks().to_batches(max_chunksize=batch_size):
            self._writer.write_batch(batch)
            self.num_batches += 1
        self.num_rows += table.num_rows

    def complete(self) -> Self:
        """End writing; from now on the file is read."""
        if self._reader is None:
            self._writer.close()
            self._reader = pa.ipc.open_file(self._file)
        return self

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[pa.RecordBatch]:
        """Some batches, by default all."""
        assert self._reader is not None
        return map(self._reader.get_batch, range(self.num_batches) if numbers is None else numbers)


class _Run(NamedTuple):
    """Sorted rows: some consecutive batches of a file."""

    rows: ScratchTables
    batches: range

    def tables(self) -> Iterator[pa.Table]:
        return (pa.Table.from_batches([batch]) for batch in self.rows.batches(self.batches))


def sort_files(files: Iterable[FileInfo]) -> FileTables:
    """External merge sort by URI; of the same URI the first file stays the first."""
    return FileTables(lambda _: of_size(_sorted_tables(files), ROWS_PER_TABLE))


def _sorted_tables(files: Iterable[FileInfo]) -> Iterator[pa.Table]:
    chunks = map(_sorted, of_size(tables_of(files), _ROWS_IN_MEMORY))
    first = next(chunks, None)
    if first is None or first.num_rows < _ROWS_IN_MEMORY:
        yield from [] if first is None else [first]
        return
    with ExitStack() as opened:
        # One file for all chunks: they meet no limit on open files, and a kill leaves nothing behind.
        rows = opened.enter_context(ScratchTables("sort"))
        runs = _write_runs(itertools.chain([first], chunks), rows)
        del first
        while len(runs) > _MAX_RUNS:
            runs = _merge_some(runs, opened.enter_context(ScratchTables("sort")))
        yield from merge_sorted([run.tables() for run in runs])


def _sorted(table: pa.Table) -> pa.Table:
    uris = only_array(table.column("uri"))
    # Most lists are written in order.
    if pc.all(pc.less_equal(uris[:-1], uris[1:])).as_py() is not False:
        return table
    return table.take(pc.sort_indices(uris))


def _write_runs(chunks: Iterable[pa.Table], rows: ScratchTables) -> list[_Run]:
    """Write sorted chunks; one that goes on where the last one ended is of the same run."""
    starts: list[int] = []
    last: str | None = None
    for chunk in chunks:
        uris = chunk.column("uri")
        if last is None or uris[0].as_py() < last:
            starts.append(rows.num_batches)
        last = uris[-1].as_py()
        rows.add(chunk, batch_size=_ROWS_PER_BATCH)
    rows.complete()
    return [_Run(rows, range(*bounds)) for bounds in itertools.pairwise([*starts, rows.num_batches])]


def _merge_some(runs: list[_Run], rows: ScratchTables) -> list[_Run]:
    """Merge neighbours, so that there are fewer runs."""
    ends = [0]
    for first in range(0, len(runs), _MAX_RUNS):
        for table in merge_sorted([run.tables() for run in runs[first : first + _MAX_RUNS]]):
            rows.add(table, batch_size=_ROWS_PER_BATCH)
        ends.append(rows.num_batches)
    rows.complete()
    return [_Run(rows, range(*bounds)) for bounds in itertools.pairwise(ends)]
