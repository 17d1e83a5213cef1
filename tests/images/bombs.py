"""Small files that once took minutes: containers of very many pieces, and pictures that are larger than they claim.

Those that an attack on a service is measured with are made in `benchmarks/hostile_images.py`.
"""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import pillow_heif
from PIL import Image

from benchmarks import hostile_images as hostile
from tests.images import bad_images as make


def grey_tags(width: int, height: int, compression: int = 1) -> list[hostile.Tag]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]


def tiff_of_planes(num_strips: int) -> bytes:
    blob = b"\x80" * 8 + struct.pack("<H", 8) * (3 * num_strips) + struct.pack("<HHH", 8, 8, 8)
    tags = [
        *((256, 4, 1, 1), (257, 4, 1, num_strips), (258, 3, 3, 16 + 6 * num_strips), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 3, 3 * num_strips, 16), (277, 3, 1, 3), (278, 4, 1, 1), (279, 3, 3 * num_strips, 16), (284, 3, 1, 2)),
    ]
    return hostile.tiff(tags, blob)


def tiff_of_one_tag(tag: int, num_values: int, *others: hostile.Tag) -> bytes:
    return hostile.tiff([*grey_tags(10, 10), (273, 4, 1, 8), (279, 4, 1, 100), (tag, 3, num_values, 8), *others],
                b"\1\0" * num_values)  # fmt: skip


def bigtiff_of_entries(num_entries: int) -> bytes:
    return hostile.tiff([*grey_tags(10, 10), (273, 4, 1, 16), (279, 4, 1, 100), *[(1000, 3, 1, 5)] * num_entries],
                b"\0" * 100, is_big=True)  # fmt: skip


def png_of_chunks(num_chunks: int, chunk: bytes, mode: str = "L") -> bytes:
    return hostile.png_with(make.encode(make.slopes(8, 8), "PNG", mode), chunk * num_chunks)


def gif_with(blocks: bytes) -> bytes:
    return hostile.gif_with(make.encode(make.slopes(8, 8), "GIF"), blocks)


def jpeg_with(junk: bytes, mode: str = "CMYK") -> bytes:
    """Bytes before the tables. CMYK is not for the fast decoder."""
    encoded = make.jpeg(make.slopes(16, 16), mode)
    at = encoded.index(b"\xff\xdb")
    return encoded[:at] + junk + encoded[at:]


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


N = 200_000
PREFIXES = b"Exif\0\0" * N
BOMBS = {
    "tiff-strips": lambda: hostile.tiff_strips(N),
    "tiff-strips-deflate": lambda: hostile.tiff_strips(N, hostile.DEFLATE),
    "tiff-strips-of-planes": lambda: tiff_of_planes(N),
    "tiff-tiles": lambda: hostile.tiff_tiles(450, 450, 1),
    "tiff-small-tiles-of-a-large-picture": lambda: hostile.tiff_tiles(3000, 3000),
    "tiff-huge-tile": lambda: hostile.tiff_tiles(10, 10, 20_000, zlib.compress(bytes(1000)), hostile.DEFLATE),
    "tiff-private-tags": lambda: hostile.tiff_tags(40_000, 100_000),
    "tiff-sample-formats": lambda: tiff_of_one_tag(339, 10 * N),
    "tiff-extra-samples": lambda: tiff_of_one_tag(338, 10 * N, (277, 3, 1, 2), (284, 3, 1, 2)),
    "bigtiff-entries": lambda: bigtiff_of_entries(N),
    "png-data": lambda: hostile.png_empty_chunks(N),
    "png-text": lambda: png_of_chunks(N, make.png_chunk(b"tEXt", b"")),
    "png-palettes": lambda: png_of_chunks(N, make.png_chunk(b"PLTE", b"abc"), "P"),
    "png-exif-prefixes": lambda: png_of_chunks(1, make.png_chunk(b"eXIf", PREFIXES)),
    "webp-exif-prefixes": lambda: make.encode(make.slopes(64, 64), "WEBP", exif=PREFIXES),
    "webp-chunks": lambda: hostile.webp_chunks(N),
    "jpeg-exif-prefixes": lambda: jpeg_with(make.segment(0xE1, PREFIXES[:60_000]) * 20, "RGB"),
    "jpeg-segments": lambda: jpeg_with(make.segment(0xFE, b"") * N),
    "jpeg-junk": lambda: jpeg_with(b"\0" * N),
    "jpeg-fill-bytes": lambda: jpeg_with(b"\xff" * N),
    "jpeg-tables": lambda: jpeg_with(make.segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 40),
    "gif-comments": lambda: hostile.gif_comments(N),
    "gif-blocks-of-one-comment": lambda: hostile.gif_sub_blocks(4 * N),
    "gif-extensions": lambda: hostile.gif_unknown_extensions(N),
    "gif-controls": lambda: gif_with(b"!\xf9\4\1\0\0\0\0" * N),
    "gif-junk": lambda: gif_with(b"\0" * N),
    "bmp-runs": lambda: hostile.bmp_runs(1000, 400),
    "avif-boxes": lambda: box_file("AVIF") + boxes(N),
    "avif-of-another-size": lambda: hostile.avif_larger_than_it_says(1000, claimed=16),
    "heif-boxes": lambda: box_file("HEIF") + boxes(N),
    "jxl-boxes": lambda: box_file("JXL") + boxes(N),
}
