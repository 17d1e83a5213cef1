"""Rows of a list as columns: the ordinary ones become files at once, without an object for each of them.

What is ordinary is decided so that the rules for single rows would give the same. All others are left to these rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.boxes import with_boxes
from imgcls_ray.inputs.kept import with_texts
from imgcls_ray.inputs.list_rows import MAX_SIZE, ListRow
from imgcls_ray.inputs.tables import FILE_SCHEMA, table_of
from imgcls_ray.storage.crops import BOX_MARK
from imgcls_ray.storage.schemes import KIND_OF_SCHEME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgcls_ray.storage.files import FileInfo

MAX_ROWS = 4096
"""Rows that are looked at together."""
# Their values differ from what lists hold in names only: no path, no percent-encoding, no separators.
_ADDRESS = f"^(?:{'|'.join((*KIND_OF_SCHEME, 'https?'))})://"
_WHOLE_NUMBER = "^[0-9]{1,18}$"
_NOT_PLAIN = "[^!-~]"
_UTC = (None, "UTC")
# Microseconds of the years 1 to 9999, which a ``datetime`` can hold.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
# Whole numbers up to here are exact as floats.
_EXACT = 2.0**53


class ListColumns(NamedTuple):
    """Consecutive rows of a list, none of them without an image; of columns that the list does not have, ``None``."""

    numbers: Sequence[int] | np.ndarray
    """Line, row or entry of each, from 1."""
    uri: pa.Array
    size: pa.Array | None
    etag: pa.Array | None
    mtime: pa.Array | None
    originals: Sequence[ListRow] | None = None
    """The rows that the columns were made from, where there are such."""

    @classmethod
    def of_rows(cls, rows: Sequence[ListRow]) -> Self | None:
        """The columns of some rows; ``None`` if one of them has values of several types, or of none that Arrow has."""
        numbers, *columns, _, _, _ = zip(*rows, strict=True)
        try:
            uri, size, etag, mtime = (
                None if all(value is None for value in column) else pa.array(column) for column in columns
            )
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return None
        return cls(numbers, uri, size, etag, mtime, originals=rows)

    def rows(self, places: np.ndarray) -> Iterator[ListRow]:
        """Some of the rows one by one.

        Raises:
            ValueError: a text is not UTF-8, or a time is none.
        """
        if self.originals is not None:
            yield from (self.originals[place] for place in places.tolist())
            return
        columns = (
            [None] * len(places) if column is None else values_of(column.take(pa.array(places)))
            for column in (self.uri, self.size, self.etag, self.mtime)
        )
        numbers = np.asarray(self.numbers)[places].tolist()
        yield from (ListRow(*values) for values in zip(numbers, *columns, strict=True))


def values_of(column: pa.Array) -> list:  # type: ignore[type-arg]
    """The values of a column, as Python has them."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Of nanoseconds Python knows nothing; Spark writes them.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    values: list = column.to_pylist()  # type: ignore[type-arg]
    return values


def block_sizes() -> Iterator[int]:
    """How many rows to look at together: few at first, for those who want the first rows only."""
    size = 1
    while True:
        yield size
        size = min(2 * size, MAX_ROWS)


def blocks_of(rows: Iterator[ListRow]) -> Iterator[list[ListRow]]:
    """Rows in blocks; before an error come the rows before it."""
    block: list[ListRow] = []
    sizes = block_sizes()
    size = next(sizes)
    try:
        for row in rows:
            block.append(row)
            if len(block) == size:
                yield block
                block, size = [], next(sizes)
    except Exception:
        if block:
            yield block
        raise
    if block:
        yield block


def files_of(rows: ListColumns, file_of: Callable[[ListRow], FileInfo]) -> Iterator[pa.Table]:
    """Files of rows, in their order; before an error come the files before it.

    Args:
        rows: of the list.
        file_of: the rules for one row.
    """
    if (found := _ordinary_files(rows)) is None:
        places = np.arange(len(rows.uri))
        yield from _one_by_one(rows.rows(places), file_of, table_of)
        return
    table, is_ordinary = found
    places = np.flatnonzero(~is_ordinary)
    if not len(places):
        yield table
        return

    def put_back(files: Sequence[FileInfo]) -> pa.Table:
        order = np.arange(table.num_rows)
        order[places[: len(files)]] = table.num_rows + np.arange(len(files))
        end = places[len(files)] if len(files) < len(places) else table.num_rows
        return pa.concat_tables([table, table_of(files)]).take(pa.array(order[:end]))

    yield from _one_by_one(rows.rows(places), file_of, put_back)


def rows_to_files(rows: Sequence[ListRow], file_of: Callable[[ListRow], FileInfo]) -> Iterator[pa.Table]:
    """``files_of`` for rows that were read one by one, with their boxes and other columns."""
    columns = ListColumns.of_rows(rows)
    tables = files_of(columns, file_of) if columns is not None else _one_by_one(rows, file_of, table_of)
    if any(row.box is not None for row in rows):
        boxes = pa.array([row.box for row in rows], pa.string())
        tables = (with_boxes(table, boxes) for table in tables)
    if all(row.others is None for row in rows):
        yield from tables
        return
    texts = pa.array([row.others for row in rows], pa.string())
    yield from (with_texts(table, texts) for table in tables)


def _one_by_one(
    rows: Iterable[ListRow],
    file_of: Callable[[ListRow], FileInfo],
    together: Callable[[Sequence[FileInfo]], pa.Table],
) -> Iterator[pa.Table]:
    files: list[FileInfo] = []
    try:
        # What it has taken before an error stays.
        files.extend(map(file_of, rows))
    except Exception:
        if (table := together(files)).num_rows:
            yield table
        raise
    yield together(files)


def _ordinary_files(rows: ListColumns) -> tuple[pa.Table, np.ndarray] | None:
    """The files of ordinary rows, with anything in the places of the others, and which rows these are.

    Returns:
        ``None`` if no row can be told from its columns.
    """
    try:
        uri = _plain(rows.uri).cast(pa.string())
        # What is no UTF-8 is told where it is read row by row.
        uri.validate(full=True)
        size, is_size = _sizes(rows.size, len(uri))
        etag, is_etag = _etags(rows.etag, len(uri))
        mtime, is_time = _times(rows.mtime, len(uri))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    is_ordinary = _mask(pc.match_substring_regex(uri, _ADDRESS)) & is_size & is_etag & is_time
    # A box has one name, and may be written in another way.
    is_ordinary &= ~_mask(pc.match_substring(uri, BOX_MARK), of_null=False)
    if not is_ordinary.any():
        return None
    nothing = [pa.nulls(len(uri), FILE_SCHEMA.field(name).type) for name in ("source", "locator", "values")]
    return pa.table([uri, size, etag, mtime, *nothing], schema=FILE_SCHEMA), is_ordinary


def _plain(column: pa.Array) -> pa.Array:
    """The values themselves, where a dictionary holds them."""
    while pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def has_text(column: pa.Array) -> np.ndarray:
    """Which texts are neither null nor empty; of any type but views."""
    return _mask(pc.greater(pc.binary_length(_plain(column)), 0), of_null=False)


def _mask(column: pa.Array, *, of_null: bool = True) -> np.ndarray:
    is_so: np.ndarray = pc.fill_null(column, of_null).to_numpy(zero_copy_only=False)
    return is_so


def _only(column: pa.Array, is_so: np.ndarray) -> pa.Array:
    """A column with nulls for all other values."""
    return column if is_so.all() else pc.if_else(pa.array(is_so), column, pa.scalar(None, column.type))


def _nothing(kind: pa.DataType, length: int) -> tuple[pa.Array, np.ndarray]:
    return pa.nulls(length, kind), np.ones(length, bool)


def _sizes(column: pa.Array | None, length: int) -> tuple[pa.Array, np.ndarray]:
    """Numbers of bytes, and which of them are ordinary; see ``list_rows.size_of``."""
    if column is None or pa.types.is_null(column.type):
        return _nothing(pa.int64(), length)
    column = _plain(column)
    kind = column.type
    if pa.types.is_integer(kind):
        is_size = _mask(pc.greater_equal(column, pa.scalar(0, kind)))
        if pa.types.is_uint64(kind):
            is_size &= _mask(pc.less_equal(column, pa.scalar(MAX_SIZE, kind)))
    elif pa.types.is_float32(kind) or pa.types.is_float64(kind):
        column = _only(column, ~_mask(pc.is_nan(column), of_null=False)).cast(pa.float64())
        is_size = _mask(
            pc.and_(pc.equal(pc.floor(column), column), pc.and_(pc.greater_equal(column, 0.0), pc.less(column, _EXACT)))
        )
    elif is_text(kind):
        column = _only(column.cast(pa.string()), has_text(column))
        is_size = _mask(pc.match_substring_regex(column, _WHOLE_NUMBER))
    else:
        return pa.nulls(length, pa.int64()), np.zeros(length, bool)
    return _only(column, is_size).cast(pa.int64()), is_size


def _etags(column: pa.Array | None, length: int) -> tuple[pa.Array, np.ndarray]:
    """Versions, and which of them are ordinary; see ``list_rows.etag_of`` and ``storage.files.opaque_etag``."""
    if column is None or pa.types.is_null(column.type):
        return _nothing(pa.string(), length)
    column = _plain(column)
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()), np.ones(length, bool)
    if not is_text(column.type):
        return pa.nulls(length, pa.string()), np.zeros(length, bool)
    column = column.cast(pa.string())
    column.validate(full=True)
    is_plain = ~_mask(pc.match_substring_regex(column, _NOT_PLAIN), of_null=False)
    column = _only(column, has_text(column))
    is_weak = pc.starts_with(column, "W/")
    if is_weak.true_count:
        column = pc.if_else(is_weak, pc.utf8_slice_codeunits(column, 2), column)
    if pc.match_substring(column, '"').true_count:
        column = pc.ascii_trim(column, '"')
    return column, is_plain


def _times(column: pa.Array | None, length: int) -> tuple[pa.Array, np.ndarray]:
    """Times, and which of them are ordinary: all or none."""
    if column is None:
        return _nothing(FILE_SCHEMA.field("mtime").type, length)
    if not pa.types.is_timestamp(column.type) or column.type.tz not in _UTC:
        return pa.nulls(length, FILE_SCHEMA.field("mtime").type), np.zeros(length, bool)
    times = column.cast(pa.timestamp("us", column.type.tz), safe=column.type.unit != "ns").cast(pa.int64())
    limits = pc.min_max(times).as_py()
    if limits["min"] is not None and not _FIRST_TIME <= limits["min"] <= limits["max"] <= _LAST_TIME:
        return pa.nulls(length, FILE_SCHEMA.field("mtime").type), np.zeros(length, bool)
    return times.cast(FILE_SCHEMA.field("mtime").type), np.ones(length, bool)
