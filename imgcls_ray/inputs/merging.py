"""Merge sorted streams of tables into one, with a few rows of each in memory."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import upper_bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A stream with fewer rows than these in memory is read on, so that no step gives out only a handful.
_FEW_ROWS = 512


def merge_sorted(streams: Sequence[Iterator[pa.Table]], column: str = "uri") -> Iterator[pa.Table]:
    """The rows of streams that are sorted by a column, sorted.

    Of equal values the one of the first stream comes first.

    Args:
        streams: of tables that are not empty.
        column: of texts, none of them null.
    """
    begun = [_Stream(number, tables, column) for number, tables in enumerate(streams)]
    waiting = [(stream.first(), stream.number, stream) for stream in begun if stream.fill()]
    heapq.heapify(waiting)
    while waiting:
        bound: str | None = None
        taken = []
        # Streams that begin behind the bound are not touched.
        while waiting and (bound is None or waiting[0][0] <= bound):
            *_, stream = heapq.heappop(waiting)
            taken.append(stream)
            if not stream.is_at_end:
                bound = stream.last() if bound is None else min(bound, stream.last())
        taken.sort(key=lambda stream: stream.number)
        yield _sorted([stream.take(bound) for stream in taken], column)
        for stream in taken:
            if stream.fill():
                heapq.heappush(waiting, (stream.first(), stream.number, stream))


class _Stream:
    """A sorted stream, with its next rows."""

    def __init__(self, number: int, tables: Iterator[pa.Table], column: str) -> None:
        self.number, self.is_at_end = number, False
        self._tables, self._column = tables, column
        self._rows: pa.Table | None = None

    def fill(self) -> bool:
        """Have some rows; whether there are any left."""
        while not self.is_at_end and (self._rows is None or self._rows.num_rows < _FEW_ROWS):
            table = next(self._tables, None)
            if table is None:
                self.is_at_end = True
            else:
                self._rows = table if self._rows is None else pa.concat_tables([self._rows, table])
        return self._rows is not None and self._rows.num_rows > 0

    def first(self) -> str:
        return self._value(0)

    def last(self) -> str:
        return self._value(-1)

    def _value(self, row: int) -> str:
        assert self._rows is not None
        value: str = self._rows.column(self._column)[row].as_py()
        return value

    def take(self, bound: str | None) -> pa.Table:
        """Give out the rows up to a value."""
        assert self._rows is not None
        num_taken = self._rows.num_rows if bound is None else upper_bound(self._rows.column(self._column), bound)
        taken = self._rows.slice(0, num_taken)
        self._rows = self._rows.slice(num_taken)
        return taken


def _sorted(tables: Sequence[pa.Table], column: str) -> pa.Table:
    """The rows of sorted tables, sorted."""
    if len(tables) == 1:
        return tables[0]
    together = pa.concat_tables(tables).combine_chunks()
    # Stable: of equal values the one of the first table comes first.
    return together.take(pc.sort_indices(together.column(column)))
