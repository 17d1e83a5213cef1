"""The rows of many sorted pieces as one stream, sorted by uri and run, in tables: nothing is one object a row.

Each piece gives some thousand rows of a row group, or one part file, at a time (``cursors``). Row groups outside of
what is asked for are skipped by their statistics. So memory is flat in the number of runs and rows.
"""

from __future__ import annotations

import bisect
import functools
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
from imgcls_ray.store.cursors import Chunk, Cursor, next_rows
from imgcls_ray.store.schema import LIMITS_KEY, PRECISION_RANGES_KEY, RANGES_KEY, parse_part_name, precision_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgcls_ray.store.history import DataFile, Piece
    from imgcls_ray.store.label_store import LabelStore

KEY_COLUMNS = ("image_id", "uri", "etag", "error")
SOURCE = "source"
"""Column with the number of a row's file in ``MergedRows.sources``."""
MAX_PIECES = 64
"""More pieces than these are first merged into temporary files."""
# Every piece has two batches in memory, one in use and the next one.
_BATCH_ROWS, _BATCH_BYTES = 4096, 2**20


Ranges = tuple[tuple[int, str | None], ...]
"""Pairs of an ``image_id`` and what is said of the rows from there on, ascending."""


class Source(NamedTuple):
    """A file that rows came from."""

    name: str
    limits: Ranges
    """The limits that rows were made under, as JSON: each for the rows from an ``image_id`` on; ``None``: not known."""
    precisions: Ranges = ()
    """The number formats that they were computed in, likewise."""

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
        self._cursors: list[Cursor] = []
        self._texts: dict[str | None, str | None] = {}

    def open(self, pieces: Sequence[Piece]) -> None:
        """Begin with these pieces, ascending by run."""
        cursors = [Cursor(self._store_chunks(piece), self._executor) for piece in pieces if piece.files]
        while len(cursors) > MAX_PIECES:
            cursors = [self._merged_on_disk(group) for group in _groups(cursors)]
        self._cursors = cursors

    def close(self) -> None:
        # What they have read ahead goes now, and not when Python collects cycles.
        self._cursors = []
        self._opened.close()

    def next(self, at_least: str | None = None) -> tuple[pa.Table, str | None] | None:
        """The next rows, and the uri up to which they are all; ``None`` instead of it for all that are left.

        Args:
            at_least: rows of smaller uris may be left out.

        Returns:
            ``None`` behind the last row.
        """
        return next_rows(self._cursors, at_least)

    def __iter__(self) -> Iterator[pa.Table]:
        while (rows := self.next()) is not None:
            yield rows[0]

    def _merged_on_disk(self, cursors: list[Cursor]) -> Cursor:
        file = scratch_file("merge")
        self._opened.callback(file.close)
        writer: pq.ParquetWriter | None = None
        while (rows := next_rows(cursors, None)) is not None:
            table = rows[0]
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", write_statistics=["uri"])
            writer.write_table(table, row_group_size=_BATCH_ROWS)
        if writer is not None:
            writer.close()
        parquet = pq.ParquetFile(file) if writer is not None else None
        return Cursor(_scratch_chunks(parquet) if parquet else iter(()), None)

    def _store_chunks(self, piece: Piece) -> Iterator[Chunk]:
        for file in piece.files:
            if parse_part_name(file.path):
                yield Chunk(file.first_uri, file.last_uri, self._part_reader(file))
            else:
                # A file is opened only if something in it may be wanted.
                yield Chunk(file.first_uri, file.last_uri, None, functools.partial(self._merged_chunks, file))

    def _part_reader(self, file: DataFile) -> Callable[[], Iterator[pa.Table]]:
        def read() -> Iterator[pa.Table]:
            # Whole and closed: a store may have more parts than a process may have open files.
            table = self._store.read_part(file.name, self._columns)
            text = (table.schema.metadata or {}).get(LIMITS_KEY)
            first = table.column("image_id")[0].as_py() if table.num_rows else 0
            number = self._add_source(
                file.name,
                ((first, text.decode() if text is not None else None),),
                ((first, precision_of(table.schema)),),
            )
            yield self._with_source(table, number)

        return read

    def _merged_chunks(self, file: DataFile) -> list[Chunk]:
        """The row groups of a merged file; it stays open until the last one is read, or the whole is closed."""
        with self._store.reading_rows(file.name):
            opened = self._store.directory.open(file.name)
            self._opened.callback(opened.close)
            parquet = pq.ParquetFile(opened, pre_buffer=True)
            footer = parquet.metadata
            number = self._add_source(
                file.name, ranges_in(footer.metadata[RANGES_KEY]), ranges_in(footer.metadata.get(PRECISION_RANGES_KEY))
            )
            uris = parquet.schema_arrow.names.index("uri")
            bounds = [bounds_of(footer.row_group(group).column(uris)) for group in range(footer.num_row_groups)]

        def reader(group: int) -> Callable[[], Iterator[pa.Table]]:
            def read() -> Iterator[pa.Table]:
                rows = _rows_at_once(footer.row_group(group), self._columns)
                batches = parquet.iter_batches(rows, row_groups=[group], columns=self._columns)
                while True:
                    with self._store.reading_rows(file.name):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield self._with_source(pa.Table.from_batches([batch]), number)
                if group == len(bounds) - 1:
                    opened.close()

            return read

        return [Chunk(*bounds[group], reader(group)) for group in range(len(bounds))]

    def _with_source(self, table: pa.Table, number: int) -> pa.Table:
        with self._store.reading_rows(self.sources[number].name):
            # The metadata of files differ, and is looked at where they are read.
            table = table.replace_schema_metadata(None).cast(self._schema)
        return table.append_column(SOURCE, pa.array(np.full(table.num_rows, number, np.int32)))

    def _add_source(self, name: str, limits: Ranges, precisions: Ranges) -> int:
        # Thousands of parts have the same text.
        limits, precisions = (
            tuple((first, self._texts.setdefault(text, text)) for first, text in ranges)
            for ranges in (limits, precisions)
        )
        with self._lock:
            self.sources.append(Source(name, limits, precisions))
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


def ranges_in(text: bytes | None) -> Ranges:
    """Read what a merged file's metadata says of its rows; nothing if an earlier version wrote it."""
    return tuple((int(first), about) for first, about in json.loads(text or b"[]"))


class SortedFiles:
    """Parquet files with a column ``uri`` as one stream, sorted by it: pieces of them, of which each is sorted.

    Args:
        pieces: each opens its files, one after the other; of one uri the earlier pieces come first.
    """

    def __init__(self, pieces: Sequence[Sequence[Callable[[], pq.ParquetFile]]]) -> None:
        self._cursors = [Cursor((_file_chunk(opens) for opens in piece), None) for piece in pieces]

    def next(self, at_least: str | None = None) -> tuple[pa.Table, str | None] | None:
        """As of ``MergedRows``."""
        return next_rows(self._cursors, at_least)

    def __iter__(self) -> Iterator[pa.Table]:
        while (rows := self.next()) is not None:
            yield rows[0]


def newest_of_each(uris: pa.Array) -> np.ndarray:
    """Of sorted texts, whether each is the last one of its kind."""
    if len(uris) == 0:
        return np.zeros(0, bool)
    return np.append(pc.not_equal(uris[:-1], uris[1:]).to_numpy(zero_copy_only=False), True)


def bounds_of(column: Any) -> tuple[str | None, str | None]:
    """The smallest and largest value of a column of a row group, where they are known."""
    statistics = column.statistics
    return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else (None, None)


def _file_chunk(opens: Callable[[], pq.ParquetFile]) -> Chunk:
    return Chunk(None, None, None, lambda: list(_scratch_chunks(opens())))


def _rows_at_once(group: Any, columns: Sequence[str]) -> int:
    """How many rows of a row group to decode at once: embeddings are a thousand times larger than labels."""
    places = (group.column(number) for number in range(group.num_columns))
    num_bytes: int = sum(
        column.total_uncompressed_size for column in places if column.path_in_schema.split(".")[0] in columns
    )
    num_rows: int = group.num_rows
    return min(_BATCH_ROWS, max(1, _BATCH_BYTES * num_rows // max(num_bytes, 1)))


def _scratch_chunks(parquet: pq.ParquetFile) -> Iterator[Chunk]:
    def reader(group: int) -> Callable[[], Any]:
        return lambda: iter([parquet.read_row_group(group)])

    uris = parquet.schema_arrow.names.index("uri")
    for group in range(parquet.num_row_groups):
        yield Chunk(*bounds_of(parquet.metadata.row_group(group).column(uris)), reader(group))


def _groups(cursors: list[Cursor]) -> Iterator[list[Cursor]]:
    return (cursors[i : i + MAX_PIECES] for i in range(0, len(cursors), MAX_PIECES))
