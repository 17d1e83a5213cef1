"""Files that are small and cost a decoder much: time under the interpreter's lock, or memory.

Each builder takes the size that matters; a few kilobytes show the same as the megabytes of an attack.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT, _LONG = 3, 4
Tag = tuple[int, int, int, int]
"""Number, type, count, value or offset."""


def tiff(tags: Sequence[Tag], content: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; ``content`` begins at byte 8."""
    content += b"\0" * (len(content) % 2)
    entries = b"".join(
        struct.pack("<HHI", number, kind, count)
        + (struct.pack("<HH", value, 0) if (kind, count) == (_SHORT, 1) else struct.pack("<I", value))
        for number, kind, count, value in sorted(tags)
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    return head + content + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def tiff_of_strips(num_strips: int) -> bytes:
    """One column of pixels, a strip for each, all at the same place: four bytes a strip."""
    content = b"\x80" * 8
    offsets_at = 8 + len(content)
    content += struct.pack("<H", 8) * num_strips
    lengths_at = 8 + len(content)
    content += struct.pack("<H", 1) * num_strips
    tags = [
        (256, _SHORT, 1, 1),
        (257, _LONG, 1, num_strips),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1),
        (273, _SHORT, num_strips, offsets_at),
        (277, _SHORT, 1, 1),
        (278, _LONG, 1, 1),
        (279, _SHORT, num_strips, lengths_at),
    ]
    return tiff(tags, content)


def tiff_of_tiles(side: int, tile: int) -> bytes:
    """A square picture in tiles that all lie at the same place."""
    pixels = b"\x80" * (tile * tile)
    num_tiles = (-(-side // tile)) ** 2
    offsets_at = 8 + len(pixels)
    content = pixels + struct.pack("<I", 8) * num_tiles + struct.pack("<I", len(pixels)) * num_tiles
    tags = [
        (256, _LONG, 1, side),
        (257, _LONG, 1, side),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1),
        (277, _SHORT, 1, 1),
        (322, _LONG, 1, tile),
        (323, _LONG, 1, tile),
        (324, _LONG, num_tiles, offsets_at),
        (325, _LONG, num_tiles, offsets_at + 4 * num_tiles),
    ]
    return tiff(tags, content)


def tiff_of_one_large_tile(tile: int, side: int = 10) -> bytes:
    """A picture of a few pixels in one compressed tile of ``tile`` times ``tile``."""
    packed = zlib.compress(bytes(3 * tile * tile), 9)
    content = struct.pack("<HHHH", 8, 8, 8, 0) + packed
    tags = [
        (256, _LONG, 1, side),
        (257, _LONG, 1, side),
        (258, _SHORT, 3, 8),
        (259, _SHORT, 1, 8),
        (262, _SHORT, 1, 2),
        (277, _SHORT, 1, 3),
        (284, _SHORT, 1, 1),
        (322, _LONG, 1, tile),
        (323, _LONG, 1, tile),
        (324, _LONG, 1, 16),
        (325, _LONG, 1, len(packed)),
    ]
    return tiff(tags, content)


def tiff_of_tags(num_tags: int, num_bytes: int) -> bytes:
    """Private tags that all point at the same bytes."""
    tags = [
        (256, _SHORT, 1, 10),
        (257, _SHORT, 1, 10),
        (258, _SHORT, 1, 8),
        (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1),
        (273, _LONG, 1, 8),
        (277, _SHORT, 1, 1),
        (278, _SHORT, 1, 10),
        (279, _LONG, 1, 100),
    ]
    return tiff([*tags, *((number, 1, num_bytes, 8) for number in range(1000, 1000 + num_tags))], bytes(num_bytes))


def bmp_of_runs(width: int, height: int) -> bytes:
    """A run length for each pixel."""
    rows = (b"\1\5" * width + b"\0\0") * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    pixels_at = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", pixels_at + len(rows), 0, 0, pixels_at) + header + palette + rows


def gif_of_comments(num_comments: int) -> bytes:
    """Comments of one letter before the picture."""
    return _insert_into_gif(b"!\xfe\x01a\0" * num_comments)


def gif_of_blocks(num_blocks: int) -> bytes:
    """One comment in blocks of one letter."""
    return _insert_into_gif(b"!\xfe" + b"\x01a" * num_blocks + b"\0")


def _insert_into_gif(blocks: bytes) -> bytes:
    data = _encoded("P", "GIF")
    flags = data[10]
    start = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    return data[:start] + blocks + data[start:]


def png_of_chunks(num_chunks: int, kind: bytes = b"IDAT") -> bytes:
    """Empty chunks before the pixels."""
    data = _encoded("L", "PNG")
    start = data.index(b"IDAT") - 4
    return (
        data[:start] + (struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))) * num_chunks + data[start:]
    )


def avif_of_boxes(num_boxes: int) -> bytes:
    """Empty boxes behind the picture."""
    return _encoded("RGB", "AVIF") + struct.pack(">I4s", 8, b"free") * num_boxes


def webp_of_chunks(num_chunks: int) -> bytes:
    """Empty chunks behind the picture."""
    body = _encoded("RGB", "WEBP")[12:] + (b"abcd" + struct.pack("<I", 0)) * num_chunks
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _encoded(mode: str, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, image_format)
    return file.getvalue()
