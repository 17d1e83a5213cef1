"""Read the sizes that AVIF and HEIF files declare, and the sizes of their coded pictures.

The container (ISO/IEC 14496-12 and 23008-12) declares a size for each picture. The coded picture has its own size, but
a decoder finds it only when it decodes. Both are compared before that. For HEIF, libheif does this comparison.
"""

from __future__ import annotations

import re
import struct
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.boxes import iter_boxes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.images.limits import DecodeLimits

T = TypeVar("T")

_ISPE = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)
_MAX_BOXES = 500
# How much of an index is looked at for sizes; one of a thousand tiles has some 50 kB.
_MAX_INDEX_BYTES = 1 << 18
_MAX_ITEMS = 10_000
_MAX_IPMAS, _MAX_TRACKS = 4, 16
_AV1 = b"av01"
# Where an item's data lie: in the file, or in a box of the index.
_IN_FILE, _IN_IDAT = 0, 1
# AV1 (its specification, 5.3 to 5.5): units up to the first frame, of which a header gives the largest size of a frame.
_MAX_UNITS, _HEADER_BYTES = 64, 64
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_HAS_EXTENSION, _HAS_SIZE = 4, 2


def read_bmff_size(bmff: bytes) -> tuple[int, int]:
    """Width and height of the largest picture that the file declares; 0 if it declares none."""
    for kind, start, end in islice(iter_boxes(bmff, 0, len(bmff)), _MAX_BOXES):
        if kind == b"meta":
            sizes = (
                struct.unpack(">II", found[1])
                for found in _ISPE.finditer(bmff, start, min(end, start + _MAX_INDEX_BYTES))
            )
            return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return 0, 0


def check_avif_sizes(avif: bytes, limits: DecodeLimits) -> None:
    """Refuse an AVIF whose coded pictures are larger than it declares, because a decoder would create them first.

    What is damaged is for the decoder to say.

    Raises:
        ImageError: ``too_many_pixels``; ``corrupt`` for more items than any file has.
    """
    try:
        for (width, height), start in _av1_pictures(avif):
            coded_width, coded_height = _read_av1_size(avif, start) or (0, 0)
            limits.check_coded_size(coded_width, coded_height, width, height)
            # Each of a grid's thousand tiles may not be as large as the limit.
            if coded_width * coded_height > 4 * width * height:
                raise ImageError(
                    ImageErrorCode.CORRUPT, f"{width} x {height} pixels coded as {coded_width} x {coded_height}"
                )
    except (struct.error, IndexError):
        return


def _av1_pictures(avif: bytes) -> Iterator[tuple[tuple[int, int], int]]:
    """Size as claimed, and where the coded picture begins, of each still picture and of each track's first one."""
    for kind, start, end in islice(iter_boxes(avif, 0, len(avif)), _MAX_BOXES):
        if kind == b"meta":
            yield from _av1_items(avif, start + 4, end)
        elif kind == b"moov":
            for track, track_start, track_end in islice(iter_boxes(avif, start, end), _MAX_TRACKS):
                if track == b"trak":
                    yield from _av1_track(avif, track_start, track_end)


def _av1_track(avif: bytes, start: int, end: int) -> Iterator[tuple[tuple[int, int], int]]:
    entry, offsets = avif.find(_AV1, start, end), re.compile(b"stco|co64").search(avif, start, end)
    if entry >= 0 and offsets is not None:
        size = struct.unpack_from(">HH", avif, entry + 28)
        (first,) = struct.unpack_from(">I" if offsets[0] == b"stco" else ">Q", avif, offsets.end() + 8)
        yield size, first


def _av1_items(avif: bytes, start: int, end: int) -> Iterator[tuple[tuple[int, int], int]]:
    boxes = list(islice(iter_boxes(avif, start, end), _MAX_BOXES))
    found = {kind: (first, last) for kind, first, last in boxes}
    if not {b"iloc", b"iinf", b"iprp"} <= set(found):
        return
    kinds = _item_kinds(avif, *found[b"iinf"])
    sizes = _item_sizes(avif, *found[b"iprp"])
    idat = found.get(b"idat", (0, 0))[0]
    for item, place, at in _item_places(avif, *found[b"iloc"]):
        if kinds.get(item) == _AV1 and item in sizes and place in (_IN_FILE, _IN_IDAT):
            yield sizes[item], at + (idat if place == _IN_IDAT else 0)


def _item_kinds(avif: bytes, start: int, end: int) -> dict[int, bytes]:
    kinds: dict[int, bytes] = {}
    first = start + (6 if avif[start] == 0 else 8)
    for _, at, _ in _limited(iter_boxes(avif, first, end)):
        is_wide = avif[at] > 2
        item = int.from_bytes(avif[at + 4 : at + (8 if is_wide else 6)], "big")
        kind_at = at + (10 if is_wide else 8)
        kinds[item] = avif[kind_at : kind_at + 4]
    return kinds


def _item_sizes(avif: bytes, start: int, end: int) -> dict[int, tuple[int, int]]:
    """By item: width and height of the first ``ispe`` among its properties."""
    boxes = list(islice(iter_boxes(avif, start, end), _MAX_BOXES))
    properties: list[tuple[int, int] | None] = []
    for kind, first, last in boxes:
        if kind == b"ipco":
            for name, at, _ in _limited(iter_boxes(avif, first, last)):
                properties.append(struct.unpack_from(">II", avif, at + 4) if name == b"ispe" else None)
    sizes: dict[int, tuple[int, int]] = {}
    for _, first, last in [box for box in boxes if box[0] == b"ipma"][:_MAX_IPMAS]:
        item_bytes, number_bytes = 4 if avif[first] else 2, 2 if avif[first + 3] & 1 else 1
        (num_items,) = struct.unpack_from(">I", avif, first + 4)
        at = first + 8
        for _ in _limited(range(num_items)):
            if at >= last:
                break
            item, num_numbers = int.from_bytes(avif[at : at + item_bytes], "big"), avif[at + item_bytes]
            at += item_bytes + 1
            numbers = struct.unpack_from(f">{num_numbers}{'H' if number_bytes == 2 else 'B'}", avif, at)
            at += num_numbers * number_bytes
            mask = 0x7FFF if number_bytes == 2 else 0x7F
            for number in numbers:
                size = properties[(number & mask) - 1] if 0 < number & mask <= len(properties) else None
                if size is not None:
                    sizes.setdefault(item, size)
                    break
    return sizes


def _item_places(avif: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Item, kind of place, and offset of its first extent."""
    version = avif[start]
    offset_bytes, length_bytes = avif[start + 4] >> 4, avif[start + 4] & 15
    base_bytes, index_bytes = avif[start + 5] >> 4, avif[start + 5] & 15 if version else 0
    item_bytes = 4 if version == 2 else 2
    num_items = int.from_bytes(avif[start + 6 : start + 6 + item_bytes], "big")
    at = start + 6 + item_bytes
    for _ in _limited(range(num_items)):
        if at >= end:
            return
        item = int.from_bytes(avif[at : at + item_bytes], "big")
        at += item_bytes
        place = avif[at + 1] & 15 if version else _IN_FILE
        at += (2 if version else 0) + 2
        base = int.from_bytes(avif[at : at + base_bytes], "big")
        num_extents = int.from_bytes(avif[at + base_bytes : at + base_bytes + 2], "big")
        at += base_bytes + 2
        if num_extents:
            yield item, place, base + int.from_bytes(avif[at + index_bytes : at + index_bytes + offset_bytes], "big")
        at += num_extents * (index_bytes + offset_bytes + length_bytes)


def _limited(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items):
        if number >= _MAX_ITEMS:
            raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_ITEMS} items in the AVIF")
        yield item


def _read_av1_size(data: bytes, position: int) -> tuple[int, int] | None:
    """The largest size that the sequence headers before the first frame give; None where there is no frame."""
    width = height = 0
    for _ in range(_MAX_UNITS):
        if position >= len(data):
            return None
        flags = data[position]
        kind = flags >> 3 & 15
        position += 2 if flags & _HAS_EXTENSION else 1
        size = 0
        if flags & _HAS_SIZE:
            for shift in range(0, 56, 7):
                size |= (data[position] & 0x7F) << shift
                position += 1
                if not data[position - 1] & 0x80:
                    break
        if kind == _SEQUENCE_HEADER:
            unit = _read_sequence_header(data[position : position + _HEADER_BYTES])
            width, height = max(width, unit[0]), max(height, unit[1])
        if kind in (_FRAME_HEADER, _FRAME) or not flags & _HAS_SIZE:
            return width, height
        position += size
    raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_UNITS} AV1 units before the first frame")


def _read_sequence_header(unit: bytes) -> tuple[int, int]:
    value, left = int.from_bytes(unit, "big"), 8 * len(unit)

    def read(num_bits: int) -> int:
        nonlocal left
        left -= num_bits
        if left < 0:
            raise IndexError("the AV1 sequence header is cut")
        return value >> left & ((1 << num_bits) - 1)

    read(3 + 1)  # profile, still picture
    if read(1):  # a reduced header
        read(5)
    else:
        delay_bits = 0
        if read(1):  # timing
            read(32 + 32)
            if read(1):
                num_zeros = 0
                while not read(1):
                    num_zeros += 1
                read(num_zeros)
            if read(1):  # decoder model
                delay_bits = read(5) + 1
                read(32 + 5 + 5)
        has_display_delay = read(1)
        for _ in range(read(5) + 1):  # operating points
            read(12)
            if read(5) > 7:  # level
                read(1)
            if delay_bits and read(1):
                read(2 * delay_bits + 1)
            if has_display_delay and read(1):
                read(4)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    return read(width_bits) + 1, read(height_bits) + 1
