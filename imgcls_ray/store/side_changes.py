"""Collect what a listing found changed, in the order of the URIs and on disk, and write it as a piece beside a plan."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgcls_ray.storage.scratch import scratch_file
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.rows import SortedFiles
from imgcls_ray.store.side_pieces import SidePiece, openers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.side_pieces import PieceKind

_GROUP_ROWS, _GROUP_BYTES = 16_384, 4 * 2**20
_FILE_ROWS, _FILE_BYTES = 262_144, 64 * 2**20
_THIS_RUN = 0
"""In place of a number that is not known before the plan is written."""


class SideChanges:
    """Changes of one kind on disk; they are added in the order of their URIs."""

    def __init__(self, kind: PieceKind) -> None:
        self.kind = kind
        self._waiting: list[pa.Table] = []
        self._file = scratch_file(kind.name)
        self._writer = pq.ParquetWriter(self._file, kind.schema, compression="zstd")
        self.num_rows = self._num_waiting = self._bytes_waiting = 0

    def __enter__(self) -> SideChanges:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def add(self, uris: pa.Array, told: pa.Array) -> None:
        """Add what is told of some inputs."""
        runs = pa.repeat(pa.scalar(_THIS_RUN, pa.int64()), len(uris))
        table = pa.table([uris, runs, told], schema=self.kind.schema)
        self._waiting.append(table)
        self.num_rows += table.num_rows
        self._num_waiting += table.num_rows
        self._bytes_waiting += table.nbytes
        if self._num_waiting >= _GROUP_ROWS or self._bytes_waiting >= _GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=self._num_waiting)
        self._waiting, self._num_waiting, self._bytes_waiting = [], 0, 0

    def opened(self) -> pq.ParquetFile:
        """All of them; nothing is added afterwards."""
        self._write()
        self._writer.close()
        return pq.ParquetFile(self._file)

    def tables(self) -> Iterator[pa.Table]:
        """All of them, some thousand at a time."""
        file = self.opened()
        yield from map(file.read_row_group, range(file.num_row_groups))


def write_piece(
    store: LabelStore,
    run: int,
    pieces: Sequence[SidePiece],
    found: SideChanges,
    *,
    of_first: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> SidePiece:
    """Write a run's piece, which takes in those of the last pieces that are not much larger.

    Args:
        store: where.
        run: beside whose plan.
        pieces: that count until now.
        found: by its listing.
        of_first: what need be said where no older piece says otherwise.

    Raises:
        StoreInUseError: another command has written there.
    """
    older, num_rows = list(pieces), found.num_rows
    merged: list[SidePiece] = []
    while older and older[-1].num_rows <= 2 * num_rows:
        merged.insert(0, older.pop())
        num_rows += merged[0].num_rows
    since_run = merged[0].since_run if merged else run
    changes = _merged(store, run, merged, found)
    if not older:
        changes = map(of_first, changes)
    num_rows = num_files = 0
    for number, table in enumerate(_files(changes, found.kind)):
        _write_file(store, SidePiece(since_run, run, 0, number + 1).names(found.kind)[number], table)
        num_rows, num_files = num_rows + table.num_rows, number + 1
    return SidePiece(since_run, run, num_rows, num_files)


def _merged(store: LabelStore, run: int, pieces: Sequence[SidePiece], found: SideChanges) -> Iterator[pa.Table]:
    """The changes of pieces and those that a run found, of each input the last one."""
    kind = found.kind
    for table in SortedFiles([*(openers(store, piece, kind) for piece in pieces), [found.opened]]):
        newest = newest_rows(table)
        runs = newest.column("run")
        runs = pc.if_else(pc.equal(runs, _THIS_RUN), pa.scalar(run, pa.int64()), runs)
        yield newest.set_column(1, kind.schema.field("run"), runs)


def _files(tables: Iterable[pa.Table], kind: PieceKind) -> Iterator[pa.Table]:
    """Tables of the size of a file."""
    waiting = kind.schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= _FILE_ROWS or waiting.nbytes >= _FILE_BYTES:
            yield waiting.slice(0, _FILE_ROWS)
            waiting = waiting.slice(_FILE_ROWS)
    if waiting.num_rows:
        yield waiting


def _write_file(store: LabelStore, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    group = max(1, min(_GROUP_ROWS, _GROUP_BYTES * table.num_rows // table.nbytes))
    pq.write_table(table, buffer, compression="zstd", row_group_size=group, write_page_checksum=True)
    store.create_of_plan(name, buffer.getvalue())
