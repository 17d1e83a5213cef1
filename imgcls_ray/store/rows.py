"""The rows of many sorted pieces as one stream, sorted by uri and run, in tables: nothing is one object a row.

Each piece gives one row group, or one part file, at a time. The rows up to the smallest last uri of these are the next
table. Row groups outside of what is asked for are skipped by their statistics. So memory is flat in the number of runs
and rows.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgcls_ray.storage.scratch import scratch_file
from imgcls_ray.store import parallel
from imgcls_ray.store.schema import LIMITS_KEY, RANGES_KEY, parse_part_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from imgcls_ray.store.history import DataFile, Piece
    from imgcls_ray.store.label_store import LabelStore

KEY_COLUMNS = ("image_id", "uri", "etag", "error")
SOURCE = "source"
"""Column with the number of a row's file in ``MergedRows.sources``."""
MAX_PIECES = 64
"""More pieces than these are first merged into temporary files."""
_SCRATCH_ROWS = 16_384


class Source(NamedTuple):
    """A file that rows came from."""

    name: str
    limits: tuple[tuple[int, str | None], ...]
    """The limits that rows were made under, as JSON: each for the rows from an ``image_id`` on; ``None``: not known."""

    def limits_of(self, image_id: int) -> str | None:
        place = bisect.bisect_right(self.limits, image_id, key=lambda entry: entry[0]) - 1
        return self.limits[place][1] if place >= 0 else None


class MergedRows:
    """Reads a store's pieces from the smallest uri to the largest, once."""

    def __init__(self, store: LabelStore, columns: Sequence[str] | None, executor: ThreadPoolExecutor | None) -> None:
        self.sources: list[Source] = []
        self._store, self._executor = store, executor
        self._columns = list(columns or store.schema.names)
        self._schema = pa.schema([store.schema.field(name) for name in self._columns])
        self._opened, self._lock = ExitStack(), threading.Lock()
        self._cursors: list[_Cursor] = []
        self._texts: dict[str | None, str | None] = {}

    def open(self, pieces: Sequence[Piece]) -> None:
        """Begin with these pieces, ascending by run."""
        cursors = [_Cursor(self._store_chunks(piece), self._executor) for piece in pieces if piece.files]
        while len(cursors) > MAX_PIECES:
            cursors = [self._merged_on_disk(group) for group in _groups(cursors)]
        self._cursors = cursors

    def close(self) -> None:
        self._opened.close()

    def next(self, at_least: str | None = None) -> tuple[pa.Table, str | None] | None:
        """The next rows, and the uri up to which they are all; ``None`` instead of it for all that are left.

        Args:
            at_least: rows of smaller uris may be left out.

        Returns:
            ``None`` behind the last row.
        """
        return _next(self._cursors, at_least)

    def __iter__(self) -> Iterator[pa.Table]:
        while (rows := self.next()) is not None:
            yield rows[0]

    def _merged_on_disk(self, cursors: list[_Cursor]) -> _Cursor:
        file = scratch_file("merge")
        self._opened.callback(file.close)
        writer: pq.ParquetWriter | None = None
        while (rows := _next(cursors, None)) is not None:
            table = rows[0]
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", write_statistics=["uri"])
            writer.write_table(table, row_group_size=_SCRATCH_ROWS)
        if writer is not None:
            writer.close()
        parquet = pq.ParquetFile(file) if writer is not None else None
        return _Cursor(_scratch_chunks(parquet) if parquet else iter(()), None)

    def _store_chunks(self, piece: Piece) -> Iterator[_Chunk]:
        for file in piece.files:
            if parse_part_name(file.path):
                yield _Chunk(file.first_uri, file.last_uri, self._part_reader(file))
            else:
                # A file is opened only if something in it may be wanted.
                yield _Chunk(file.first_uri, file.last_uri, None, functools.partial(self._merged_chunks, file))

    def _part_reader(self, file: DataFile) -> Callable[[], pa.Table]:
        def read() -> pa.Table:
            # Whole and closed: a store may have more parts than a process may have open files.
            table = self._store.read_part(file.name, self._columns)
            text = (table.schema.metadata or {}).get(LIMITS_KEY)
            first = table.column("image_id")[0].as_py() if table.num_rows else 0
            number = self._add_source(file.name, ((first, text.decode() if text is not None else None),))
            return self._with_source(table, number)

        return read

    def _merged_chunks(self, file: DataFile) -> list[_Chunk]:
        """The row groups of a merged file; it stays open until the last one is read, or the whole is closed."""
        with self._store.reading_rows(file.name):
            opened = self._store.directory.open(file.name)
            self._opened.callback(opened.close)
            parquet = pq.ParquetFile(opened, pre_buffer=True)
            footer = parquet.metadata
            ranges = json.loads(footer.metadata[RANGES_KEY])
            number = self._add_source(file.name, tuple((int(first), text) for first, text in ranges))
            uris = parquet.schema_arrow.names.index("uri")
            bounds = [bounds_of(footer.row_group(group).column(uris)) for group in range(footer.num_row_groups)]

        def reader(group: int) -> Callable[[], pa.Table]:
            def read() -> pa.Table:
                with self._store.reading_rows(file.name):
                    table = parquet.read_row_group(group, columns=self._columns)
                if group == len(bounds) - 1:
                    opened.close()
                return self._with_source(table, number)

            return read

        return [_Chunk(*bounds[group], reader(group)) for group in range(len(bounds))]

    def _with_source(self, table: pa.Table, number: int) -> pa.Table:
        with self._store.reading_rows(self.sources[number].name):
            # The metadata of files differ, and is looked at where they are read.
            table = table.replace_schema_metadata(None).cast(self._schema)
        return table.append_column(SOURCE, pa.array(np.full(table.num_rows, number, np.int32)))

    def _add_source(self, name: str, limits: tuple[tuple[int, str | None], ...]) -> int:
        # Thousands of parts have the same text.
        limits = tuple((first, self._texts.setdefault(text, text)) for first, text in limits)
        with self._lock:
            self.sources.append(Source(name, limits))
            return len(self.sources) - 1


@contextmanager
def merged_rows(
    store: LabelStore, pieces: Sequence[Piece], columns: Sequence[str] | None = None
) -> Iterator[MergedRows]:
    """The rows of pieces, ascending by run, as one sorted stream of tables with these columns and ``source``.

    Raises:
        LabelStoreDamagedError: a file is damaged or lost.
    """
    executor = ThreadPoolExecutor(parallel.THREADS, thread_name_prefix="store") if parallel.THREADS > 1 else None
    rows = MergedRows(store, columns, executor)
    try:
        rows.open(pieces)
        yield rows
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)
        rows.close()


class _Chunk(NamedTuple):
    """Some consecutive rows of a piece."""

    first_uri: str | None
    last_uri: str | None
    read: Callable[[], pa.Table] | None
    expand: Callable[[], list[_Chunk]] | None = None
    """In place of ``read``: the chunks that it consists of."""

    def is_below(self, uri: str | None) -> bool:
        return uri is not None and self.last_uri is not None and self.last_uri < uri


class _Cursor:
    """A place in a sorted piece: rows that are read and not given out, and the chunks behind them."""

    def __init__(self, chunks: Iterator[_Chunk], executor: ThreadPoolExecutor | None) -> None:
        self.rows: pa.Table | None = None
        self._chunks, self._executor = chunks, executor
        self._waiting: Future[pa.Table | None] | None = None
        self._num_read = 0
        self._is_done = False
        self._is_dense = True

    def begin(self, at_least: str | None) -> None:
        """Begin to read the next chunk."""
        if self._executor is not None and self._waiting is None and not self._is_done:
            self._waiting = self._executor.submit(self._read_next, at_least)

    def more(self, at_least: str | None) -> pa.Table | None:
        """The rows of the next chunk; ``None`` behind the last."""
        if self._is_done:
            return None
        if self._executor is None:
            table = self._read_next(at_least)
        else:
            self.begin(at_least)
            assert self._waiting is not None
            table = self._waiting.result()
            self._waiting = None
        self._num_read += 1
        if table is None:
            self._is_done = True
        elif self._num_read > 1 and self._is_dense:
            # It is read from one end to the other: the next chunk comes while this one is used.
            self.begin(None)
        return table

    def _read_next(self, at_least: str | None) -> pa.Table | None:
        self._is_dense = True
        for chunk in self._chunks:
            if chunk.is_below(at_least):
                self._is_dense = False
                continue
            if chunk.expand is not None:
                self._chunks = itertools.chain(chunk.expand(), self._chunks)
                return self._read_next(at_least)
            assert chunk.read is not None
            if (table := chunk.read()).num_rows:
                return table
        return None

    @property
    def is_done(self) -> bool:
        return self._is_done

    def fill(self, at_least: str | None) -> None:
        """Have rows, if there are any left."""
        while self.rows is None and not self._is_done:
            table = self.more(at_least)
            if table is not None and at_least is not None:
                table = table.slice(lower_bound(table.column("uri"), at_least))
            self.rows = table if table is not None and table.num_rows else None

    def last_uri(self) -> str:
        assert self.rows is not None
        last: str = self.rows.column("uri")[-1].as_py()
        return last

    def append(self, table: pa.Table) -> None:
        self.rows = table if self.rows is None else pa.concat_tables([self.rows, table])

    def take(self, up_to: str | None) -> pa.Table | None:
        """Give out the rows up to a uri."""
        if self.rows is None:
            return None
        stop = self.rows.num_rows if up_to is None else upper_bound(self.rows.column("uri"), up_to)
        taken = self.rows.slice(0, stop)
        self.rows = self.rows.slice(stop) if stop < self.rows.num_rows else None
        return taken


def _next(cursors: Sequence[_Cursor], at_least: str | None) -> tuple[pa.Table, str | None] | None:
    for cursor in cursors:
        if cursor.rows is None:
            cursor.begin(at_least)
    for cursor in cursors:
        cursor.fill(at_least)
    bound: str | None = None
    for cursor in cursors:
        if cursor.rows is not None and not cursor.is_done:
            last = cursor.last_uri()
            bound = last if bound is None else min(bound, last)
    if bound is not None:
        for cursor in cursors:
            # Rows of one uri may go on in the next chunk.
            while cursor.rows is not None and not cursor.is_done and cursor.last_uri() <= bound:
                if (table := cursor.more(None)) is not None:
                    cursor.append(table)
    tables = [table for cursor in cursors if (table := cursor.take(bound)) is not None and table.num_rows]
    if not tables:
        return None if bound is None else (_no_rows(cursors), bound)
    if len(tables) == 1:
        return tables[0], bound
    together = pa.concat_tables(tables).combine_chunks()
    # Stable: of one uri the older runs stay before the newer ones.
    return together.take(pc.sort_indices(together.column("uri"))), bound


def _no_rows(cursors: Sequence[_Cursor]) -> pa.Table:
    return next(cursor.rows for cursor in cursors if cursor.rows is not None).slice(0, 0)


def lower_bound(uris: pa.ChunkedArray | pa.Array, uri: str) -> int:
    """Number of sorted texts below one."""
    return bisect.bisect_left(range(len(uris)), uri, key=lambda i: uris[i].as_py())


def upper_bound(uris: pa.ChunkedArray | pa.Array, uri: str) -> int:
    """Number of sorted texts up to one."""
    return bisect.bisect_right(range(len(uris)), uri, key=lambda i: uris[i].as_py())


def newest_of_each(uris: pa.Array) -> np.ndarray:
    """Of sorted texts, whether each is the last one of its kind."""
    if len(uris) == 0:
        return np.zeros(0, bool)
    return np.append(pc.not_equal(uris[:-1], uris[1:]).to_numpy(zero_copy_only=False), True)


def bounds_of(column: Any) -> tuple[str | None, str | None]:
    """The smallest and largest value of a column of a row group, where they are known."""
    statistics = column.statistics
    return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else (None, None)


def _scratch_chunks(parquet: pq.ParquetFile) -> Iterator[_Chunk]:
    def reader(group: int) -> Callable[[], Any]:
        return lambda: parquet.read_row_group(group)

    uris = parquet.schema_arrow.names.index("uri")
    for group in range(parquet.num_row_groups):
        yield _Chunk(*bounds_of(parquet.metadata.row_group(group).column(uris)), reader(group))


def _groups(cursors: list[_Cursor]) -> Iterator[list[_Cursor]]:
    return (cursors[i : i + MAX_PIECES] for i in range(0, len(cursors), MAX_PIECES))
