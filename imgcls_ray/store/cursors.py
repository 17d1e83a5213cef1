"""Places in sorted pieces of rows, and the step that takes the next rows of all of them.

The rows up to the smallest last uri of what is in memory are complete, and go on as the next table.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import lower_bound, upper_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor


class Chunk(NamedTuple):
    """Some consecutive rows of a piece."""

    first_uri: str | None
    last_uri: str | None
    read: Callable[[], Iterator[pa.Table]] | None
    expand: Callable[[], list[Chunk]] | None = None
    """In place of ``read``: the chunks that it consists of."""

    def is_below(self, uri: str | None) -> bool:
        return uri is not None and self.last_uri is not None and self.last_uri < uri


class Cursor:
    """A place in a sorted piece: rows that are read and not given out, and the chunks behind them."""

    def __init__(self, chunks: Iterator[Chunk], executor: ThreadPoolExecutor | None) -> None:
        self.rows: pa.Table | None = None
        self._chunks, self._executor = chunks, executor
        self._tables: Iterator[pa.Table] = iter(())
        """Of the chunk that is being read."""
        self._waiting: Future[pa.Table | None] | None = None
        self._num_read = 0
        self._is_done = False
        self._is_dense = True

    def begin(self, at_least: str | None) -> None:
        """Begin to read the next rows."""
        if self._executor is not None and self._waiting is None and not self._is_done:
            self._waiting = self._executor.submit(self._read_next, at_least)

    def more(self, at_least: str | None) -> pa.Table | None:
        """The next rows; ``None`` behind the last."""
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
            # It is read from one end to the other: the next rows come while these are used.
            self.begin(at_least)
        return table

    def _read_next(self, at_least: str | None) -> pa.Table | None:
        self._is_dense = True
        while (table := self._next_table(at_least)) is None:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            if chunk.is_below(at_least):
                self._is_dense = False
            elif chunk.expand is not None:
                self._chunks = itertools.chain(chunk.expand(), self._chunks)
            else:
                assert chunk.read is not None
                self._tables = chunk.read()
        return table

    def _next_table(self, at_least: str | None) -> pa.Table | None:
        """The next rows of the chunk that is being read, from a uri on; ``None`` behind its last."""
        for table in self._tables:
            wanted = table if at_least is None else table.slice(lower_bound(table.column("uri"), at_least))
            if wanted.num_rows:
                return wanted
        return None

    @property
    def is_done(self) -> bool:
        return self._is_done

    def skip(self, at_least: str | None) -> None:
        """Forget rows that are not wanted: what is behind them need not be read one after the other."""
        if self.rows is not None and at_least is not None:
            wanted = self.rows.slice(lower_bound(self.rows.column("uri"), at_least))
            self.rows = wanted if wanted.num_rows else None

    def fill(self, at_least: str | None) -> None:
        """Have rows, if there are any left."""
        if self.rows is not None:
            return
        # What was read ahead may lie below.
        while (table := self.more(at_least)) is not None and at_least is not None:
            table = table.slice(lower_bound(table.column("uri"), at_least))
            if table.num_rows:
                break
        self.rows = table

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


def next_rows(cursors: Sequence[Cursor], at_least: str | None) -> tuple[pa.Table, str | None] | None:
    """The next rows of sorted pieces, ascending by run, and the uri up to which they are all.

    Args:
        cursors: of the pieces.
        at_least: rows of smaller uris may be left out.

    Returns:
        With ``None`` for the uri all rows that are left; ``None`` behind the last row.
    """
    for cursor in cursors:
        cursor.skip(at_least)
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


def _no_rows(cursors: Sequence[Cursor]) -> pa.Table:
    return next(cursor.rows for cursor in cursors if cursor.rows is not None).slice(0, 0)
