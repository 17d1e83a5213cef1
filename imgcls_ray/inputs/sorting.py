"""Sort any number of files by their URIs: chunks are sorted in memory, kept on disk, and merged."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.scratch import ScratchFile, scratch_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ROWS_IN_MEMORY = 100_000
# A merge holds one group of each chunk.
_ROWS_PER_GROUP = 1024
_ROWS_PER_BATCH = 16_384

# The fields of ``storage.local.FileInfo``, in its order.
FILE_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("mtime", pa.timestamp("us", tz="UTC")),
    ]
)


class ScratchWriter(pq.ParquetWriter):  # type: ignore[misc]
    """Writes rows of ``FILE_SCHEMA`` to a temporary file."""

    def __init__(self, file: ScratchFile) -> None:
        super().__init__(file, FILE_SCHEMA, compression="zstd", write_statistics=False)

    def close(self) -> None:
        try:
            super().close()
        finally:
            # A writer whose end could not be written tries once more when it is forgotten, and prints a stack then.
            self.is_open = False


def sort_files(files: Iterable[FileInfo]) -> Iterator[FileInfo]:
    """External merge sort by URI: chunks are sorted in memory, kept on disk, and merged."""
    files = iter(files)
    chunk = _sorted_chunk(files)
    if len(chunk) < _ROWS_IN_MEMORY:
        yield from chunk
        return
    # One file without a name, however many chunks: it meets no limit on open files, and a kill leaves nothing behind.
    with scratch_file("sort") as file:
        ends = [0]
        with ScratchWriter(file) as writer:
            while chunk:
                writer.write_table(table_of(chunk), row_group_size=_ROWS_PER_GROUP)
                ends.append(ends[-1] + -(-len(chunk) // _ROWS_PER_GROUP))
                chunk.clear()  # before the next one is there, not after
                chunk = _sorted_chunk(files)
        with pq.ParquetFile(file) as chunks:
            readers = (_read_groups(chunks, range(*bounds)) for bounds in itertools.pairwise(ends))
            yield from heapq.merge(*readers, key=_by_uri)


def _sorted_chunk(files: Iterator[FileInfo]) -> list[FileInfo]:
    return sorted(itertools.islice(files, _ROWS_IN_MEMORY), key=_by_uri)


def _by_uri(info: FileInfo) -> str:
    return info.uri


def table_of(files: Sequence[FileInfo]) -> pa.Table:
    """Files as rows of ``FILE_SCHEMA``."""
    columns = zip(*files, strict=True)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, FILE_SCHEMA, strict=True)]
    return pa.table(arrays, schema=FILE_SCHEMA)


def batches_of(
    file: pq.ParquetFile, *, batch_size: int = _ROWS_PER_BATCH, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The file's batches, one row group after the other, because Arrow would prefetch many row groups at once."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=batch_size, row_groups=[group], columns=columns)


def _read_groups(chunks: pq.ParquetFile, groups: range) -> Iterator[FileInfo]:
    for group in groups:
        columns = chunks.read_row_group(group).columns
        yield from map(FileInfo._make, zip(*(column.to_pylist() for column in columns), strict=True))
