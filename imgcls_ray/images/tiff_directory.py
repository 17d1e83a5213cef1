"""Read a TIFF's directories, in bounded time and without decoding anything.

Damaged numbers raise what ``struct`` and numpy do; what that means is up to the caller.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.tiff_tags import NEEDED_TAGS, SUB_IFDS, TAGS_OF_PIECES, TAGS_READ, among_all

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes of one value, by its type.
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Of one tag that is not a list of strips or tiles; a palette of 16 bits has 393,216 bytes.
MAX_TAG_BYTES = 1 << 19
_DTYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
SHORT, LONG, LONG8 = 3, 4, 16
# Directories have few children; a file must not buy more of our time by claiming more.
_MAX_SUB_IFDS = 16
_KINDS = among_all(set(VALUE_BYTES))
# There are no more tags.
_MAX_ENTRIES = 1 << 16

Tags = dict[int, np.ndarray]
Entries = dict[int, tuple[int, int, bytes]]
"""By tag: type, number of values, and the field that holds them or their offset."""
NONE = np.empty(0, np.uint8)


class Layout(NamedTuple):
    """How the two kinds of TIFF lay out their numbers."""

    order: str
    word: str
    num_entries: str
    first_ifd_at: int


class Page(NamedTuple):
    """A directory whose values are looked at one by one: one that is damaged must not cost the others."""

    tiff: bytes
    layout: Layout
    ifd: int
    """Where the directory begins."""
    entries: Entries

    def pack(self, number: int) -> bytes:
        return struct.pack(self.layout.order + self.layout.word, number)

    def values(self, tag: int) -> np.ndarray:
        """Empty where the tag is missing, of no integers, or lies behind the end."""
        kind, count, field = self.entries.get(tag, (0, 0, b""))
        if kind not in _DTYPES or not count:
            return NONE
        dtype = np.dtype(self.layout.order + _DTYPES[kind])
        if count * dtype.itemsize <= len(field):
            return np.frombuffer(field, dtype, count)
        (at,) = struct.unpack(self.layout.order + self.layout.word, field)
        if at + count * dtype.itemsize > len(self.tiff):
            return NONE
        return np.frombuffer(self.tiff, dtype, count, at)

    @overload
    def number(self, tag: int) -> int | None: ...

    @overload
    def number(self, tag: int, default: int) -> int: ...

    def number(self, tag: int, default: int | None = None) -> int | None:
        values = self.values(tag)
        return int(values[0]) if values.size else default

    def part(self, tag: int, first: int, count: int) -> tuple[int, int, bytes]:
        """The entry of some of a tag's values."""
        kind, num_values, field = self.entries[tag]
        size = VALUE_BYTES[kind]
        if num_values * size > len(field):
            (at,) = struct.unpack(self.layout.order + self.layout.word, field)
            if count * size > len(field):
                return kind, count, self.pack(at + first * size)
            field, first = self.tiff[at + first * size : at + (first + count) * size], 0
        return kind, count, field[first * size : (first + count) * size].ljust(len(self.pack(0)), b"\0")


def first_value(tags: Mapping[int, np.ndarray], tag: int, default: int = 0) -> int:
    """The one value of a tag, or its first; the default where the tag is missing or empty."""
    values = tags.get(tag)
    return int(values[0]) if values is not None and values.size else default


def coded_size(width: int, height: int, tile_width: int, tile_length: int) -> tuple[int, int]:
    """Width and height of the whole tiles that a picture is cut from, pixels."""
    return -(-width // tile_width) * tile_width, -(-height // tile_length) * tile_length


def read_page(tiff: bytes) -> Page:
    """The first page, with the tags that its pixels need.

    Raises:
        struct.error, ValueError, OverflowError: there is no directory to read.
        ImageError: ``corrupt`` for more entries than there are tags.
    """
    layout = _layout_of(tiff)
    (ifd,) = struct.unpack_from(layout.order + layout.word, tiff, layout.first_ifd_at)
    return Page(tiff, layout, ifd, _read_entries(tiff, layout, ifd, NEEDED_TAGS)[0])


def read_first_ifd(tiff: bytes) -> Tags:
    """The first page's tags that are looked at.

    Raises:
        struct.error, ValueError, OverflowError: they lie beyond the end, or there is no directory.
        ImageError: ``corrupt`` for more entries than there are tags.
    """
    layout = _layout_of(tiff)
    (ifd,) = struct.unpack_from(layout.order + layout.word, tiff, layout.first_ifd_at)
    return _read_ifd(tiff, layout, ifd)


def read_sub_ifds(tiff: bytes, first: Tags) -> list[Tags]:
    """Tags of the pages below the first one, of at most 16; without those that are damaged."""
    layout = _layout_of(tiff)
    sub_ifds = []
    for ifd in first.get(SUB_IFDS, np.empty(0, np.uint32))[:_MAX_SUB_IFDS]:
        try:
            sub_ifds.append(_read_ifd(tiff, layout, int(ifd)))
        except (struct.error, ValueError, OverflowError):
            continue
    return sub_ifds


def _layout_of(tiff: bytes) -> Layout:
    order = "<" if tiff[:2] == b"II" else ">"
    return Layout(order, "Q", "Q", 8) if 43 in tiff[2:4] else Layout(order, "I", "H", 4)


def _read_ifd(tiff: bytes, layout: Layout, ifd: int) -> Tags:
    """Read the tags that are looked at here; raises what struct and numpy do where they lie beyond the end."""
    word_bytes = struct.calcsize(layout.word)
    entries, is_cut = _read_entries(tiff, layout, ifd, TAGS_READ)
    if is_cut:
        raise ValueError("the directory ends behind the file")
    tags = {}
    for tag, (kind, count, field) in entries.items():
        if kind in _DTYPES:
            dtype = np.dtype(layout.order + _DTYPES[kind])
            if tag not in TAGS_OF_PIECES and count * dtype.itemsize > MAX_TAG_BYTES:
                raise ValueError(f"tag {tag} has {count} values")
            # Values that fit into the entry lie in its last word; of others it holds the offset.
            is_inline = count * dtype.itemsize <= word_bytes
            (value,) = struct.unpack(layout.order + layout.word, field)
            tags[tag] = np.frombuffer(field, dtype, count) if is_inline else np.frombuffer(tiff, dtype, count, value)
    return tags


def _read_entries(tiff: bytes, layout: Layout, ifd: int, wanted: np.ndarray) -> tuple[Entries, bool]:
    """The entries of these tags, of each tag the first one of a known type; and whether the file ends before them all.

    Raises:
        struct.error: the directory does not begin within the file.
        ImageError: ``corrupt`` for more entries than there are tags.
    """
    word_bytes = struct.calcsize(layout.word)
    dtype = np.dtype(
        {
            "names": ["tag", "kind", "count", "field"],
            "formats": [layout.order + "u2", layout.order + "u2", f"{layout.order}u{word_bytes}", f"V{word_bytes}"],
        }
    )
    (num_entries,) = struct.unpack_from(layout.order + layout.num_entries, tiff, ifd)
    if num_entries > _MAX_ENTRIES:
        raise ImageError(ImageErrorCode.CORRUPT, f"{num_entries} entries in a TIFF directory")
    start = ifd + struct.calcsize(layout.num_entries)
    num_there = min(num_entries, (len(tiff) - start) // dtype.itemsize)
    found = np.frombuffer(tiff, dtype, num_there, start)
    found = found[wanted[found["tag"]] & _KINDS[found["kind"]]]
    _, firsts = np.unique(found["tag"], return_index=True)
    entries = {int(tag): (int(kind), int(count), field.tobytes()) for tag, kind, count, field in found[firsts]}
    return entries, num_there < num_entries
