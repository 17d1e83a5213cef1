"""Small files that once took minutes: containers of very many pieces, and pictures that are larger than they claim."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pillow_heif
from PIL import Image

from tests.images import bad_images as make

# (tag, type, number of values, value or offset)
Tag = tuple[int, int, int, int]


def tiff(tags: list[Tag], blob: bytes, *, big: bool = False) -> bytes:
    """A TIFF, or BigTIFF, whose blob lies at offset 8 or 16, with the directory behind it."""
    blob += b"\0" * (len(blob) % 2)
    if big:
        head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(blob)) + blob + struct.pack("<Q", len(tags))
        return head + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + b"\0" * 8
    head = b"II*\0" + struct.pack("<I", 8 + len(blob)) + blob + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + b"\0" * 4


def grey_tags(width: int, height: int, compression: int = 1) -> list[Tag]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]


def tiff_of_strips(num_strips: int, *, compression: int = 1) -> bytes:
    """One row of one pixel each, and all at one place."""
    strip = b"\x80" * 8 if compression == 1 else zlib.compress(b"\x80")
    blob = strip.ljust(64, b"\0") + struct.pack("<I", 8) * num_strips + struct.pack("<I", len(strip)) * num_strips
    lists = [(273, 4, num_strips, 72), (278, 4, 1, 1), (279, 4, num_strips, 72 + 4 * num_strips)]
    return tiff([*grey_tags(1, num_strips, compression), *lists], blob)


def tiff_of_planes(num_strips: int) -> bytes:
    blob = b"\x80" * 8 + struct.pack("<H", 8) * (3 * num_strips) + struct.pack("<HHH", 8, 8, 8)
    tags = [
        *((256, 4, 1, 1), (257, 4, 1, num_strips), (258, 3, 3, 16 + 6 * num_strips), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 3, 3 * num_strips, 16), (277, 3, 1, 3), (278, 4, 1, 1), (279, 3, 3 * num_strips, 16), (284, 3, 1, 2)),
    ]
    return tiff(tags, blob)


def tiff_of_tiles(width: int, height: int, side: int, tile: bytes, compression: int) -> bytes:
    """Tiles that all lie at one place."""
    num_tiles = -(-width // side) * -(-height // side)
    blob = tile + b"\0" * (-len(tile) % 4)
    lists_at = 8 + len(blob)
    blob += struct.pack("<I", 8) * num_tiles + struct.pack("<I", len(tile)) * num_tiles
    offsets = (324, 4, num_tiles, lists_at if num_tiles > 1 else 8)
    counts = (325, 4, num_tiles, lists_at + 4 * num_tiles if num_tiles > 1 else len(tile))
    return tiff([*grey_tags(width, height, compression), (322, 4, 1, side), (323, 4, 1, side), offsets, counts], blob)


def tiff_of_private_tags(num_tags: int, num_bytes: int) -> bytes:
    """All of whose values are the same bytes."""
    private = [(tag, 1, num_bytes, 8) for tag in range(1000, 1000 + num_tags)]
    return tiff([*grey_tags(10, 10), (273, 4, 1, 8), (279, 4, 1, 100), *private], b"\0" * num_bytes)


def tiff_of_one_tag(tag: int, num_values: int, *others: Tag) -> bytes:
    return tiff([*grey_tags(10, 10), (273, 4, 1, 8), (279, 4, 1, 100), (tag, 3, num_values, 8), *others],
                b"\1\0" * num_values)  # fmt: skip


def bigtiff_of_entries(num_entries: int) -> bytes:
    return tiff([*grey_tags(10, 10), (273, 4, 1, 16), (279, 4, 1, 100), *[(1000, 3, 1, 5)] * num_entries],
                b"\0" * 100, big=True)  # fmt: skip


def png_of_chunks(num_chunks: int, chunk: bytes, mode: str = "L") -> bytes:
    encoded = make.encode(make.slopes(8, 8), "PNG", mode)
    at = encoded.index(b"IDAT") - 4
    return encoded[:at] + chunk * num_chunks + encoded[at:]


def gif_with(blocks: bytes) -> bytes:
    """Blocks between the palette and the picture."""
    encoded = make.encode(make.slopes(8, 8), "GIF")
    at = 13 + (6 << (encoded[10] & 7))
    return encoded[:at] + blocks + encoded[at:]


def jpeg_with(junk: bytes, mode: str = "CMYK") -> bytes:
    """Bytes before the tables. CMYK is not for the fast decoder."""
    encoded = make.jpeg(make.slopes(16, 16), mode)
    at = encoded.index(b"\xff\xdb")
    return encoded[:at] + junk + encoded[at:]


def bmp_of_runs(width: int, height: int) -> bytes:
    row = b"\1\5" * width + b"\0\0"
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    return make.bmp(width, height, 8, 1, row * height + b"\0\1", palette)


def box_file(image_format: str) -> bytes:
    pixels = make.slopes(64, 64)
    if image_format == "JXL":
        return bytes(imagecodecs.jpegxl_encode(pixels, usecontainer=True))
    if image_format == "AVIF":
        return make.encode(pixels, "AVIF", speed=10)
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=60)
    return file.getvalue()


def boxes(num_boxes: int) -> bytes:
    return struct.pack(">I4s", 8, b"free") * num_boxes


def avif_of_another_size(claimed: int, coded: int) -> bytes:
    """Square pictures: what the container says, and what it holds."""
    encoded = make.encode(np.zeros((coded, coded, 3), np.uint8), "AVIF", speed=10)
    size = struct.pack(">4sIII", b"ispe", 0, coded, coded)
    assert size in encoded
    return encoded.replace(size, struct.pack(">4sIII", b"ispe", 0, claimed, claimed))


def webp_of_chunks(num_chunks: int) -> bytes:
    encoded = make.encode(make.slopes(64, 64), "WEBP")
    body = encoded[12:] + (b"abcd" + struct.pack("<I", 0)) * num_chunks
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


N = 200_000
PREFIXES = b"Exif\0\0" * N
BOMBS = {
    "tiff-strips": lambda: tiff_of_strips(N),
    "tiff-strips-deflate": lambda: tiff_of_strips(N, compression=8),
    "tiff-strips-of-planes": lambda: tiff_of_planes(N),
    "tiff-tiles": lambda: tiff_of_tiles(450, 450, 1, b"\0" * 16, 1),
    "tiff-small-tiles-of-a-large-picture": lambda: tiff_of_tiles(3000, 3000, 16, b"\0" * 256, 1),
    "tiff-huge-tile": lambda: tiff_of_tiles(10, 10, 20_000, zlib.compress(b"\0" * 1000), 8),
    "tiff-private-tags": lambda: tiff_of_private_tags(40_000, 100_000),
    "tiff-sample-formats": lambda: tiff_of_one_tag(339, 10 * N),
    "tiff-extra-samples": lambda: tiff_of_one_tag(338, 10 * N, (277, 3, 1, 2), (284, 3, 1, 2)),
    "bigtiff-entries": lambda: bigtiff_of_entries(N),
    "png-data": lambda: png_of_chunks(N, make.png_chunk(b"IDAT", b"")),
    "png-text": lambda: png_of_chunks(N, make.png_chunk(b"tEXt", b"")),
    "png-palettes": lambda: png_of_chunks(N, make.png_chunk(b"PLTE", b"abc"), "P"),
    "png-exif-prefixes": lambda: png_of_chunks(1, make.png_chunk(b"eXIf", PREFIXES)),
    "webp-exif-prefixes": lambda: make.encode(make.slopes(64, 64), "WEBP", exif=PREFIXES),
    "webp-chunks": lambda: webp_of_chunks(N),
    "jpeg-exif-prefixes": lambda: jpeg_with(make.segment(0xE1, PREFIXES[:60_000]) * 20, "RGB"),
    "jpeg-segments": lambda: jpeg_with(make.segment(0xFE, b"") * N),
    "jpeg-junk": lambda: jpeg_with(b"\0" * N),
    "jpeg-fill-bytes": lambda: jpeg_with(b"\xff" * N),
    "jpeg-tables": lambda: jpeg_with(make.segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 40),
    "gif-comments": lambda: gif_with(b"!\xfe\1a\0" * N),
    "gif-blocks-of-one-comment": lambda: gif_with(b"!\xfe" + b"\1a" * N * 4 + b"\0"),
    "gif-extensions": lambda: gif_with(b"!\1\1a\0" * N),
    "gif-controls": lambda: gif_with(b"!\xf9\4\1\0\0\0\0" * N),
    "gif-junk": lambda: gif_with(b"\0" * N),
    "bmp-runs": lambda: bmp_of_runs(1000, 400),
    "avif-boxes": lambda: box_file("AVIF") + boxes(N),
    "avif-of-another-size": lambda: avif_of_another_size(16, 1000),
    "heif-boxes": lambda: box_file("HEIF") + boxes(N),
    "jxl-boxes": lambda: box_file("JXL") + boxes(N),
}
