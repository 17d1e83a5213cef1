"""Images in Parquet: which column has them, its rows as members, and row groups read from one end to the other.

Known are a struct with ``bytes`` (and ``path``), as Hugging Face writes images, and plain binary columns. A row group
cannot be read from its middle: what a group has before the first row that is wanted is read, too. Some hundred rows a
group, as Hugging Face writes them, are a good size.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed.members import PackedMember, broken
from imgcls_ray.packed.parquet_pages import ColumnFile
from imgcls_ray.packed.range_file import RangeFile
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.storage import FetchLimits

_MAX_READ_BYTES = 256 * 2**20
_REQUEST_BYTES = 8 * 2**20
# Rows of a dictionary's value are copies of it, and only the file itself says how large it is: one row at a time. That
# takes 6 us a row more than 200 rows at a time.
_BATCH_ROWS = 1
# No images: a row of one has some bytes, and planning would go on for ever.
_MAX_ROWS_PER_BYTE = 1
# Of several binary columns these come first.
_USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data", "picture")
_FILES_KEPT = 16


def image_column(schema: pa.Schema) -> str | None:
    """The column with images as Parquet calls it, ``image.bytes`` of a struct; ``None`` if there is none.

    With several of them that have no usual name it is not clear which one is meant: there is none, either.
    """
    found = {field.name: path for field in schema if (path := _path_of(field)) is not None}
    usual = next((found[name] for name in _USUAL_NAMES if name in found), None)
    return usual or (next(iter(found.values())) if len(found) == 1 else None)


def _path_of(field: pa.Field) -> str | None:
    if _is_binary(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type):
        index = field.type.get_field_index("bytes")
        if index >= 0 and _is_binary(field.type.field(index).type):
            return f"{field.name}.bytes"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def row_name(row: int, num_rows: int) -> str:
    """``row=0017`` of a file with some thousand rows: then names sort as rows do, and neighbours stay neighbours."""
    return f"row={row:0{len(str(max(0, num_rows - 1)))}d}"


def parquet_members(info: FileInfo, limits: FetchLimits) -> Iterator[PackedMember]:
    """The rows of a Parquet file with images; of a file without them a broken member alone.

    Raises:
        ImageError: it cannot be read.
        StorageError: its storage cannot.
    """
    try:
        metadata = footer(info, limits)
        column = image_column(metadata.schema.to_arrow_schema())
    except (pa.ArrowException, OSError, ValueError) as error:
        yield broken(None, ImageErrorCode.CORRUPT, f"is no Parquet file: {' '.join(str(error).split())}")
        return
    if column is None:
        yield broken(None, ImageErrorCode.UNSUPPORTED_FORMAT, "has no column of images, or several")
        return
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    if (num_rows := sum(rows.num_rows for rows in groups)) > _MAX_ROWS_PER_BYTE * (info.size or 0):
        yield broken(None, ImageErrorCode.CORRUPT, f"it claims {num_rows:,} rows in {info.size or 0:,} bytes")
        return
    number = 0
    for group, rows in enumerate(groups):
        about = _column_bytes(rows, column) // max(1, rows.num_rows)
        for row in range(rows.num_rows):
            name = row_name(number, metadata.num_rows)
            yield PackedMember(name, None, f"parquet:{info.size}:{group}:{row}:{about}")
            number += 1


def _column_bytes(rows: pq.RowGroupMetaData, column: str) -> int:
    found = _chunk(rows, column)
    return 0 if found is None else int(found.total_uncompressed_size)


def _chunk(rows: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData | None:
    columns = (rows.column(i) for i in range(rows.num_columns))
    return next((found for found in columns if found.path_in_schema == column), None)


def footer(info: FileInfo, limits: FetchLimits) -> pq.FileMetaData:
    """What the end of a Parquet file says of it.

    Raises:
        ImageError, StorageError: it cannot be read.
        pa.ArrowException, OSError: it is no Parquet file.
    """
    return _footer(info.uri, info.size, info.etag, limits)


@functools.lru_cache(maxsize=_FILES_KEPT)
def _footer(uri: str, size: int | None, etag: str | None, limits: FetchLimits) -> pq.FileMetaData:
    return pq.read_metadata(RangeFile(FileInfo(uri, size, etag, None), limits, max_read=_MAX_READ_BYTES))


def open_parquet(info: FileInfo, limits: FetchLimits) -> pq.ParquetFile:
    """The file, read in few large requests as it is iterated.

    Raises:
        as ``footer``.
    """
    return _opened(RangeFile(info, limits, max_read=_MAX_READ_BYTES), footer(info, limits))


def _opened(file: RangeFile, metadata: pq.FileMetaData) -> pq.ParquetFile:
    return pq.ParquetFile(file, metadata=metadata, buffer_size=_REQUEST_BYTES, pre_buffer=False)


class GroupScan:
    """The images of one row group, for readers in several threads that each have a turn.

    Args:
        info: of the file.
        group: number of the row group.
        limits: bounds of one image.
    """

    def __init__(self, info: FileInfo, group: int, limits: FetchLimits) -> None:
        self._info, self._group, self._limits = info, group, limits
        self._turn = 0
        self._changed = threading.Condition()
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._values: pa.Array | None = None
        self._first = self._end = 0
        self._failure: ImageError | None = None
        """Why no row behind ``_end`` can be read."""

    def take(self, turn: int, rows: Sequence[int]) -> list[bytes | ImageError]:
        """Some rows of the group. Turns count from 0; each one waits for the one before."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == turn)
        try:
            return [self._row(row) for row in rows]
        finally:
            with self._changed:
                self._turn += 1
                self._changed.notify_all()

    def _row(self, row: int) -> bytes | ImageError:
        if self._batches is None or row < self._first:
            self._batches, self._first, self._end, self._failure = self._read(), 0, 0, None
        while row >= self._end and self._failure is None:
            try:
                batch = next(self._batches)
                self._first, self._end, self._values = self._end, self._end + batch.num_rows, _values(batch)
            except StopIteration:
                self._failure = ImageError(ImageErrorCode.NOT_FOUND, f"its row group has {self._end:,} rows")
            except ImageError as error:
                self._failure = error.as_value()
            except (pa.ArrowException, OSError, ValueError) as error:
                self._failure = ImageError(ImageErrorCode.CORRUPT, " ".join(str(error).split()))
        if row >= self._end or self._values is None:
            assert self._failure is not None
            return self._failure
        value = self._values[row - self._first]
        if not value.is_valid:
            return ImageError(ImageErrorCode.EMPTY, "the row has no image")
        if (size := value.as_buffer().size) > self._limits.max_bytes:
            most = self._limits.max_bytes
            return ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{size:,} bytes, the limit is {most:,}")
        content: bytes = value.as_py()
        return content

    def _read(self) -> Iterator[pa.RecordBatch]:
        metadata = footer(self._info, self._limits)
        column = image_column(metadata.schema.to_arrow_schema())
        if column is None or self._group >= metadata.num_row_groups:
            raise ImageError(ImageErrorCode.CHANGED, "the row is not there any more")
        if (chunk := _chunk(metadata.row_group(self._group), column)) is None:
            raise ImageError(ImageErrorCode.CORRUPT, f"its row group has no column {column!r}")
        start = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
        end = start + chunk.total_compressed_size
        file = ColumnFile(self._info, self._limits, max_read=_MAX_READ_BYTES, start=start, end=end)
        yield from _opened(file, metadata).iter_batches(
            _BATCH_ROWS, row_groups=[self._group], columns=[column], use_threads=False
        )


def _values(batch: pa.RecordBatch) -> pa.Array:
    values = batch.column(0)
    return values.flatten()[0] if pa.types.is_struct(values.type) else values
