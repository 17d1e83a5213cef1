"""Copy a TIFF for Pillow and libtiff, which never get the original file.

The copy has a new directory with only the tags that the pixels need, and no more strips and tiles than the picture's
size explains. Otherwise a small file could block them for minutes, because both read every tag of a file, and Pillow
creates several objects for each strip.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.limits import check_pieces
from imgcls_ray.images.tiff_directory import LONG, LONG8, MAX_TAG_BYTES, VALUE_BYTES, coded_size, read_page
from imgcls_ray.images.tiff_tags import (
    BITS_PER_SAMPLE,
    COMPRESSION,
    DATA_TAGS,
    LENGTH,
    ORIENTATION,
    ROWS_PER_STRIP,
    SAMPLES_PER_PIXEL,
    STRIP_OFFSETS,
    TAGS_OF_LAYOUT,
    TAGS_OF_PIECES,
    TILE_LENGTH,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
)

if TYPE_CHECKING:
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.images.tiff_directory import Entries, Page

_UNCOMPRESSED = 1
# What Pillow reads has six samples and 64 bits a pixel at most.
_MAX_SAMPLES, _MAX_BITS_PER_PIXEL = 6, 128


def keep_picture(tiff: bytes, limits: DecodeLimits, entries: Entries | None = None) -> bytes:
    """The file with a new first directory, which has only the tags that the first page's pixels need.

    An uncompressed picture becomes one strip: Pillow reads each strip and tile by itself, in Python.

    Args:
        entries: those of one of its planes, instead of all that are needed.

    Raises:
        ImageError: ``too_many_pixels``; ``corrupt`` for more strips, tiles or values than the picture's size explains;
            ``truncated`` where a strip or tile lies behind the end.
    """
    try:
        page = read_page(tiff)
    except (struct.error, ValueError, OverflowError):
        return tiff  # there is no directory to read: Pillow says so
    if entries is not None:
        page = page._replace(entries=entries)
    width, height = page.number(WIDTH), page.number(LENGTH)
    if width is None or height is None:
        raise ValueError("its directory gives no width or no height")
    limits.check_size(*((height, width) if page.number(ORIENTATION) in (5, 6, 7, 8) else (width, height)))
    for tag, (kind, count, _) in page.entries.items():
        if tag in TAGS_OF_PIECES:
            check_pieces(count, "tiles" if tag in DATA_TAGS[1] else "strips", width, height)
        elif count * VALUE_BYTES[kind] > MAX_TAG_BYTES:
            raise ImageError(ImageErrorCode.CORRUPT, f"{count} values of TIFF tag {tag}")
    tile_width, tile_length = page.number(TILE_WIDTH, 0), page.number(TILE_LENGTH, 0)
    tile_size = (tile_width, tile_length) if tile_width and tile_length and TILE_OFFSETS in page.entries else None
    if tile_size is not None:
        limits.check_coded_size(*coded_size(width, height, *tile_size), width, height)
    is_raw = page.number(COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if not is_raw or not (tile_size or STRIP_OFFSETS in page.entries):
        return _with_entries(page, page.entries, [])
    at, body = _as_one_strip(page, width, height, None if STRIP_OFFSETS in page.entries else tile_size)
    rest = {tag: entry for tag, entry in page.entries.items() if tag not in (*TAGS_OF_PIECES, *TAGS_OF_LAYOUT)}
    kind = LONG if page.layout.word == "I" else LONG8
    return _with_entries(page, rest | {STRIP_OFFSETS: (kind, 1, page.pack(at))}, body)


def _with_entries(page: Page, entries: Entries, body: list[bytes | memoryview]) -> bytes:
    """The file with other entries in the place of its first directory, which has no fewer, and a body behind its end.

    In its place, because what stood behind the end of a file that was cut would be read as pixels.
    """
    layout = page.layout
    directory = struct.pack(layout.order + layout.num_entries, len(entries)) + b"".join(
        struct.pack(layout.order + "HH" + layout.word, tag, kind, count) + field
        for tag, (kind, count, field) in sorted(entries.items())
    )
    directory += b"\0" * struct.calcsize(layout.word)  # there is no further page
    tiff = memoryview(page.tiff)
    return b"".join([tiff[: page.ifd], directory, tiff[page.ifd + len(directory) :], *body])


def _as_one_strip(
    page: Page, width: int, height: int, tile_size: tuple[int, int] | None
) -> tuple[int, list[bytes | memoryview]]:
    """Where the rows of an uncompressed picture lie one behind the other; and them, where they have to be appended."""
    bits = [int(depth) for depth in page.values(BITS_PER_SAMPLE)[:_MAX_SAMPLES]] or [1]
    num_samples = page.number(SAMPLES_PER_PIXEL, 1)
    bits_per_pixel = bits[0] * num_samples if len(bits) == 1 else sum(bits[:num_samples])
    row_bytes = -(-width * bits_per_pixel // 8)
    if not 0 < bits_per_pixel <= _MAX_BITS_PER_PIXEL:
        raise ValueError(f"{bits_per_pixel} bits a pixel")
    if tile_size is not None:
        return len(page.tiff), [_gather_tiles(page, height, row_bytes, bits_per_pixel, (width, *tile_size)).data]
    offsets = page.values(STRIP_OFFSETS).astype(np.uint64)
    rows_per_strip = min(page.number(ROWS_PER_STRIP, 0) or height, height)
    num_strips = -(-height // rows_per_strip)
    if len(offsets) < num_strips:
        raise ImageError(ImageErrorCode.CORRUPT, f"{len(offsets)} of {num_strips} strips")
    strip_bytes = rows_per_strip * row_bytes
    offsets = offsets[:num_strips]
    starts = offsets.tolist()
    if num_strips == 1 or (offsets[1:] == offsets[:-1] + np.uint64(strip_bytes)).all():
        return starts[0], []
    last_bytes = (height - (num_strips - 1) * rows_per_strip) * row_bytes
    if max(starts[:-1]) + strip_bytes > len(page.tiff) or starts[-1] + last_bytes > len(page.tiff):
        raise ImageError(ImageErrorCode.TRUNCATED, "a strip of the TIFF lies behind its end")
    strips: list[bytes | memoryview] = [page.tiff[start : start + strip_bytes] for start in starts[:-1]]
    return len(page.tiff), [*strips, page.tiff[starts[-1] : starts[-1] + last_bytes]]


def _gather_tiles(
    page: Page, height: int, row_bytes: int, bits_per_pixel: int, widths: tuple[int, int, int]
) -> np.ndarray:
    """The rows of an uncompressed picture of tiles: uint8 (height, row_bytes)."""
    width, tile_width, tile_length = widths
    across, down = -(-width // tile_width), -(-height // tile_length)
    if across > 1 and tile_width * bits_per_pixel % 8:
        raise ValueError(f"tiles {tile_width} pixels wide, whose rows do not end on whole bytes")
    offsets = page.values(TILE_OFFSETS)
    if len(offsets) < across * down:
        raise ImageError(ImageErrorCode.CORRUPT, f"{len(offsets)} of {across * down} tiles")
    tile_row_bytes = -(-tile_width * bits_per_pixel // 8)
    data = np.frombuffer(page.tiff, np.uint8)
    rows = np.empty((height, row_bytes), np.uint8)
    starts = iter(offsets.tolist())
    for top in range(0, height, tile_length):
        num_rows = min(tile_length, height - top)
        for left in range(0, row_bytes, tile_row_bytes):
            start = next(starts)
            tile = data[start : start + num_rows * tile_row_bytes]
            if tile.size < num_rows * tile_row_bytes:
                raise ImageError(ImageErrorCode.TRUNCATED, "a tile of the TIFF lies behind its end")
            kept = tile.reshape(num_rows, tile_row_bytes)[:, : row_bytes - left]
            rows[top : top + num_rows, left : left + tile_row_bytes] = kept
    return rows
