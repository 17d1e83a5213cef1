"""Listed files as tables of Arrow: what a listing hands to planning, some thousand rows at a time.

One object for each file would cost more than all the rest of planning, so only what is odd in a listing is looked at
file by file. ``FileTables`` is both: an iterator of files for those who want one after the other, and their tables for
those who ask ``tables_of``.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow.parquet as pq

ROWS_PER_TABLE = 8192

# The fields of ``storage.files.FileInfo``, in its order.
FILE_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("mtime", pa.timestamp("us", tz="UTC")),
        pa.field("source", pa.string()),
        pa.field("locator", pa.string()),
        pa.field("values", pa.string()),
    ]
)


class FileTables(Iterator[FileInfo]):
    """Files that come in tables of ``FILE_SCHEMA``.

    Args:
        read: begins to read them; is told how many will be taken at most, where that is known.
    """

    def __init__(self, read: Callable[[int | None], Iterator[pa.Table]]) -> None:
        self._read = read
        self._files: Iterator[FileInfo] | None = None

    def __next__(self) -> FileInfo:
        if self._files is None:
            self._files = itertools.chain.from_iterable(map(files_in, self._read(None)))
        return next(self._files)

    def tables(self, limit: int | None = None) -> Iterator[pa.Table]:
        """The tables, in place of the files one by one; perhaps more rows than ``limit``."""
        return self._read(limit)


def tables_of(files: Iterable[FileInfo], *, rows: int = ROWS_PER_TABLE, limit: int | None = None) -> Iterator[pa.Table]:
    """Files as tables of ``FILE_SCHEMA``, none of them empty.

    Args:
        files: any; those that come one by one are put together.
        rows: of a table of files that came one by one.
        limit: take no more files than these.
    """
    if not isinstance(files, FileTables):
        files = itertools.islice(files, limit)
        while chunk := list(itertools.islice(files, rows)):
            yield table_of(chunk)
        return
    left = limit
    for table in files.tables(limit) if left != 0 else ():
        if (taken := table.slice(0, left)).num_rows:
            yield taken
        if left is not None and not (left := left - taken.num_rows):
            return


def table_of(files: Sequence[FileInfo]) -> pa.Table:
    """Files as rows of ``FILE_SCHEMA``."""
    columns = zip(*files, strict=True) if files else ((),) * len(FILE_SCHEMA)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, FILE_SCHEMA, strict=True)]
    return pa.table(arrays, schema=FILE_SCHEMA)


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, with nulls for those that a table lacks: plans of earlier versions have fewer.

    Raises:
        ValueError: it lacks one that every row has.
    """
    names = set(table.schema.names)
    if lacking := [field.name for field in schema if not field.nullable and field.name not in names]:
        raise ValueError(f"has no column {lacking[0]!r}")
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def files_in(table: pa.Table) -> Iterator[FileInfo]:
    """The rows of a table one by one."""
    return map(FileInfo._make, zip(*(column.to_pylist() for column in table.columns), strict=True))


def batches_of(
    file: pq.ParquetFile, *, batch_size: int = ROWS_PER_TABLE, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The file's batches, some row groups after the others, because Arrow would prefetch many row groups at once."""
    for groups in _groups_of(file, batch_size):
        yield from file.iter_batches(batch_size=batch_size, row_groups=groups, columns=columns)


def _groups_of(file: pq.ParquetFile, num_rows: int) -> Iterator[list[int]]:
    """Row groups with about so many rows together, at least one."""
    waiting: list[int] = []
    num_waiting = 0
    for group in range(file.num_row_groups):
        waiting.append(group)
        num_waiting += file.metadata.row_group(group).num_rows
        if num_waiting >= num_rows:
            yield waiting
            waiting, num_waiting = [], 0
    if waiting:
        yield waiting


def of_size(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of one size, each in one piece of memory; the last one may be smaller."""
    waiting: list[pa.Table] = []
    missing = num_rows
    for table in tables:
        while table.num_rows:
            waiting.append(table.slice(0, missing))
            table = table.slice(missing)
            missing -= waiting[-1].num_rows
            if not missing:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, missing = [], num_rows
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def only_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece of memory."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def lower_bound(uris: pa.ChunkedArray | pa.Array, uri: str) -> int:
    """Number of sorted texts below one."""
    return bisect.bisect_left(range(len(uris)), uri, key=lambda i: uris[i].as_py())


def upper_bound(uris: pa.ChunkedArray | pa.Array, uri: str) -> int:
    """Number of sorted texts up to one."""
    return bisect.bisect_right(range(len(uris)), uri, key=lambda i: uris[i].as_py())
