"""A column of a Parquet file whose pages are bounded before Arrow unpacks them.

Arrow makes room for what the header of a page says that it holds, up to 2 GiB, though a page of a few kilobytes may say
so. The headers pass by as Arrow reads the column, so looking at them costs no request. Their form is Thrift's compact
protocol: fields in the order of their numbers, each with its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed.range_file import RangeFile
from imgcls_ray.storage import fetch_range

if TYPE_CHECKING:
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.files import FileInfo

# Writers put up to a row group of images into one page. Images hardly become smaller by being packed once more, so a
# page of more than this has the bytes in the file.
_MAX_PAGE_BYTES = 256 * 2**20
_MAX_RATIO = 8
_FIRST_BYTES, _MAX_HEADER_BYTES = 256, 16 * 2**20  # as much as Arrow reads
_UNPACKED, _PACKED = 2, 3
"""Numbers of fields of a page's header: its bytes as they are and in the file."""
_BOOLS, _BYTE, _INTS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_MAX_DEPTH = 8


class ColumnFile(RangeFile):
    """A file of which one column of one row group is read.

    Args:
        info: of the file.
        limits: how it is reached, and the bound of one image.
        max_read: as of ``RangeFile``.
        start: of the column's first page.
        end: of its last one.

    Raises:
        ImageError: too_many_bytes, when a page is reached that claims too much; or corrupt.
    """

    def __init__(self, info: FileInfo, limits: FetchLimits, *, max_read: int, start: int, end: int) -> None:
        super().__init__(info, limits, max_read=max_read)
        self.next_page = start
        """Where the header after the last one that was looked at begins."""
        self._end = min(end, self.size)

    def read(self, size: int | None = -1, /) -> bytes:
        position = self.position
        data = super().read(size)
        while self.next_page < min(position + len(data), self._end):
            self._check_page(position, data)
        return data

    def _check_page(self, position: int, data: bytes) -> None:
        length = _FIRST_BYTES
        while True:
            header = self._bytes_at(self.next_page, min(length, self._end - self.next_page), position, data)
            try:
                fields, num_bytes = page_header(header)
                unpacked, packed = fields[_UNPACKED], fields[_PACKED]
                break
            except IndexError:
                if len(header) < length or length >= _MAX_HEADER_BYTES:
                    raise ImageError(ImageErrorCode.CORRUPT, "the header of a page has no end") from None
                length *= 8
            except (KeyError, ValueError) as error:
                raise ImageError(ImageErrorCode.CORRUPT, f"the header of a page cannot be read: {error}") from error
        if min(unpacked, packed) < 0 or self.next_page + num_bytes + packed > self.size:
            raise ImageError(ImageErrorCode.CORRUPT, "a page is larger than the file")
        most = max(_MAX_PAGE_BYTES, self._limits.max_bytes)
        if unpacked > most and unpacked > _MAX_RATIO * packed:
            raise ImageError(
                ImageErrorCode.TOO_MANY_BYTES,
                f"its page has {unpacked:,} bytes, packed into {packed:,}; the limit is {most:,}",
            )
        self.next_page += num_bytes + packed

    def _bytes_at(self, start: int, length: int, position: int, data: bytes) -> bytes:
        if position <= start and start + length <= position + len(data):
            return data[start - position : start - position + length]
        return fetch_range(self._info.uri, start, length, self._info.etag, self._limits)


def page_header(data: bytes) -> tuple[dict[int, int], int]:
    """The whole numbers of a page's header by the numbers of their fields, and how many bytes it has.

    Raises:
        IndexError: it goes on behind the data.
        ValueError: it is none.
    """
    fields: dict[int, int] = {}
    return fields, _skip_struct(data, 0, 0, fields)


def _skip_struct(data: bytes, at: int, depth: int, fields: dict[int, int] | None = None) -> int:
    if depth > _MAX_DEPTH:
        raise ValueError("too many structures within each other")
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        if fields is not None and head & 15 in _INTS:
            fields[number], at = _zigzag(data, at)
        else:
            at = _skip(data, at, head & 15, depth)
    return at + 1


def _skip(data: bytes, at: int, kind: int, depth: int) -> int:
    if kind in _BOOLS:
        return at
    if kind in _INTS:
        return _varint(data, at)[1]
    if kind in (_BYTE, _DOUBLE):
        return at + (1 if kind == _BYTE else 8)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind in _LISTS:
        head, at = data[at], at + 1
        length, kind = head >> 4, head & 15
        if length == 15:
            length, at = _varint(data, at)
        if length > len(data) - at:  # of at least a byte each
            raise IndexError
        for _ in range(length):
            at = at + 1 if kind in _BOOLS else _skip(data, at, kind, depth + 1)
        return at
    if kind == _STRUCT:
        return _skip_struct(data, at, depth + 1)
    raise ValueError(f"there is no type {kind} in it")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
