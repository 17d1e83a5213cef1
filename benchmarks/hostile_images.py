"""Images that cost a decoder far more than their size: each begins as an honest file of its format does.

Most are small for what they do. A few lines make each, and none is stored. No picture in them is worth looking at. The
tests of the decoder (`tests/images/bombs.py`) are made of them too.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIDE_88MP = 9459
"""Of a square just within Pillow's limit of 89,478,485 pixels."""
_ZEROS = bytes(1 << 20)
_TILE_SIDE_OF_MANY = 16
# Types of TIFF values.
_BYTE, _SHORT, _LONG = 1, 3, 4
_RAW, DEFLATE = 1, 8
# (tag, type, number of values, value or offset)
Tag = tuple[int, int, int, int]
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Where the passes of an interlaced PNG begin and how far their pixels are apart: x, y, x step, y step."""


class HostileImage(NamedTuple):
    """How to make one, and what a caller would say that it is."""

    make: Callable[[], bytes]
    content_type: str


# --- TIFF -------------------------------------------------------------------------------------------------------------


def tiff(tags: Sequence[Tag], data: bytes = b"", *, is_big: bool = False) -> bytes:
    """A little-endian TIFF, or BigTIFF, of one directory.

    Args:
        tags: tag, type, count, and value or offset.
        data: what the offsets point into; it begins at byte 8, in a BigTIFF at 16.
        is_big: whether it is a BigTIFF.
    """
    data += bytes(len(data) % 2)
    if is_big:
        head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(data)) + data + struct.pack("<Q", len(tags))
        return head + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + bytes(8)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4)


def _describe(
    width: int, height: int, *, samples: int = 1, bits: int = 8, compression: int = _RAW, planar: int = 1
) -> list[Tag]:
    """The tags that every picture has; ``bits`` is an offset where there are several samples."""
    photometric = 2 if samples == 3 else 1
    return [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, samples, bits),
        (259, _SHORT, 1, compression),
        (262, _SHORT, 1, photometric),
        (277, _SHORT, 1, samples),
        (284, _SHORT, 1, planar),
    ]


def tiff_strips(num_strips: int, compression: int = _RAW) -> bytes:
    """Strips of one pixel that all lie at the same place: two bytes a strip."""
    strip = bytes(8) if compression == _RAW else zlib.compress(bytes(1))
    # Offsets and lengths are the same numbers.
    at = len(strip)
    head = strip.rjust(at + at - 8, b"\0")
    head += bytes(len(head) % 2)
    data = head + struct.pack("<H", at) * num_strips
    lists = 8 + len(head)
    strips = [(273, _SHORT, num_strips, lists), (278, _LONG, 1, 1), (279, _SHORT, num_strips, lists)]
    return tiff([*_describe(1, num_strips, compression=compression), *strips], data)


def tiff_tiles(
    width: int, height: int, side: int = _TILE_SIDE_OF_MANY, tile: bytes | None = None, compression: int = _RAW
) -> bytes:
    """Square tiles that all lie at the same place: eight bytes a tile. By default each is black."""
    tile = bytes(side * side) if tile is None else tile
    count = -(-width // side) * -(-height // side)
    data = tile + bytes(-len(tile) % 4)
    offsets = 8 + len(data)
    data += struct.pack("<I", 8) * count + struct.pack("<I", len(tile)) * count
    tiles = [
        (322, _LONG, 1, side),
        (323, _LONG, 1, side),
        # A single number stands in the tag itself.
        (324, _LONG, count, offsets if count > 1 else 8),
        (325, _LONG, count, offsets + 4 * count if count > 1 else len(tile)),
    ]
    return tiff([*_describe(width, height, compression=compression), *tiles], data)


def tiff_tags(num_tags: int, num_bytes: int) -> bytes:
    """Private tags whose values are all the same bytes: twelve bytes a tag."""
    strip = [(273, _LONG, 1, 8), (278, _LONG, 1, 10), (279, _LONG, 1, 100)]
    private = [(tag, _BYTE, num_bytes, 8) for tag in range(1000, 1000 + num_tags)]
    return tiff([*_describe(10, 10), *strip, *private], bytes(num_bytes))


def tiff_giant_tile(side: int) -> bytes:
    """A picture of 10 x 10 in one tile of side x side."""
    pixels = deflated_zeros(3 * side * side)
    data = struct.pack("<HHHH", 8, 8, 8, 0) + pixels
    tile = [(322, _LONG, 1, side), (323, _LONG, 1, side), (324, _LONG, 1, 16), (325, _LONG, 1, len(pixels))]
    return tiff([*_describe(10, 10, samples=3, bits=8, compression=DEFLATE), *tile], data)


def tiff_planes(side: int) -> bytes:
    """Red, green and blue apart, in one strip each, which all lie at the same place."""
    plane = deflated_zeros(side * side)
    head = struct.pack("<HHHH", 8, 8, 8, 0) + struct.pack("<III", *[40] * 3) + struct.pack("<III", *[len(plane)] * 3)
    strips = [(273, _LONG, 3, 16), (278, _LONG, 1, side), (279, _LONG, 3, 28)]
    return tiff([*_describe(side, side, samples=3, bits=8, compression=DEFLATE, planar=2), *strips], head + plane)


# --- PNG --------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, *, colour_type: int, is_interlaced: bool = False) -> bytes:
    """All pixels zero, 8 bits a sample; ``colour_type`` 2 is RGB, 6 is RGBA."""
    num_samples = {0: 1, 2: 3, 6: 4}[colour_type]
    passes = _ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    num_bytes = sum(
        max(0, -(-(height - y) // y_step)) * (1 + num_samples * max(0, -(-(width - x) // x_step)))
        for x, y, x_step, y_step in passes
    )
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, int(is_interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", deflated_zeros(num_bytes)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def png_empty_chunks(count: int) -> bytes:
    """Empty pieces of pixel data before the one that has all of it: twelve bytes each."""
    return png_with(png(8, 8, colour_type=0), _png_chunk(b"IDAT", b"") * count)


def png_with(encoded: bytes, chunks: bytes) -> bytes:
    """A PNG with more chunks before its pixel data."""
    at = encoded.index(b"IDAT") - 4
    return encoded[:at] + chunks + encoded[at:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# --- GIF, BMP, WebP, AVIF, JPEG ---------------------------------------------------------------------------------------


def gif_comments(count: int) -> bytes:
    """Comments of one letter: five bytes each."""
    return gif_with(_small_gif(), b"!\xfe\x01a\0" * count)


def gif_sub_blocks(count: int) -> bytes:
    """One comment in pieces of one letter: two bytes each."""
    return gif_with(_small_gif(), b"!\xfe" + b"\x01a" * count + b"\0")


def gif_unknown_extensions(count: int) -> bytes:
    """Extensions of one letter that no standard names: five bytes each."""
    return gif_with(_small_gif(), b"!\x02\x01a\0" * count)


def gif_frames(side: int, count: int) -> bytes:
    """The same large frame over and over."""
    encoded = _encode("P", (side, side), "GIF")
    start = _gif_blocks_at(encoded)
    return encoded[:start] + encoded[start:-1] * count + encoded[-1:]


def gif_with(encoded: bytes, blocks: bytes) -> bytes:
    """A GIF with more blocks between its palette and its picture."""
    start = _gif_blocks_at(encoded)
    return encoded[:start] + blocks + encoded[start:]


def _small_gif() -> bytes:
    return _encode("P", (8, 8), "GIF")


def _gif_blocks_at(encoded: bytes) -> int:
    """Where the blocks begin: behind signature, screen and the palette that the screen speaks of."""
    flags = encoded[10]
    return 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)


def bmp_runs(width: int, height: int) -> bytes:
    """Runs of one pixel: two bytes each, which a decoder in Python reads one by one."""
    runs = (b"\x01\x05" * width + b"\0\0") * height + b"\0\x01"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def webp_chunks(count: int) -> bytes:
    """Empty chunks that nobody knows behind the picture: eight bytes each."""
    chunks = _encode("RGB", (64, 64), "WEBP")[12:] + (b"abcd" + bytes(4)) * count
    return _riff(chunks)


def webp_frames(side: int, count: int) -> bytes:
    """The same large frame over and over."""
    picture = _encode("RGB", (side, side), "WEBP", lossless=True)[12:]
    size = (side - 1).to_bytes(3, "little") * 2
    frame = bytes(6) + size + (40).to_bytes(3, "little") + b"\0" + picture
    header = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return _riff(header + animation + (b"ANMF" + struct.pack("<I", len(frame)) + frame) * count)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def avif_larger_than_it_says(side: int, claimed: int = 64) -> bytes:
    """Squares: the container says claimed x claimed; the coded picture within is side x side."""
    encoded = _encode("RGB", (side, side), "AVIF", speed=10)
    says = struct.pack(">4sIII", b"ispe", 0, side, side)
    assert says in encoded
    return encoded.replace(says, struct.pack(">4sIII", b"ispe", 0, claimed, claimed))


def jpeg_scans(side: int, num_scans: int) -> bytes:
    """A progressive JPEG that refines the same coefficients over and over."""
    encoded = _encode("RGB", (side, side), "JPEG", progressive=True, quality=50)
    end = encoded[-2:]
    last_scan = encoded[encoded.rindex(b"\xff\xda") : -2]
    return encoded[:-2] + last_scan * (num_scans - encoded.count(b"\xff\xda")) + end


def _encode(mode: str, size: tuple[int, int], image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, image_format, **options)
    return file.getvalue()


def deflated_zeros(num_bytes: int) -> bytes:
    """So many zeros in zlib's form, a thousandth of that, without holding them all."""
    compressor = zlib.compressobj(9)
    whole, rest = divmod(num_bytes, len(_ZEROS))
    parts = [compressor.compress(_ZEROS) for _ in range(whole)]
    return b"".join([*parts, compressor.compress(_ZEROS[:rest]), compressor.flush()])


HOSTILE_IMAGES = {
    "TIFF, strips, 8 MB": HostileImage(lambda: tiff_strips(4_000_000), "image/tiff"),
    "TIFF, strips, 300 kB": HostileImage(lambda: tiff_strips(150_000), "image/tiff"),
    "TIFF, tiles": HostileImage(lambda: tiff_tiles(8192, 8192), "image/tiff"),
    "TIFF, tags": HostileImage(lambda: tiff_tags(1000, 1_000_000), "image/tiff"),
    "TIFF, giant tile": HostileImage(lambda: tiff_giant_tile(20_000), "image/tiff"),
    "TIFF, planes of 88 MP": HostileImage(lambda: tiff_planes(SIDE_88MP), "image/tiff"),
    "PNG, empty chunks": HostileImage(lambda: png_empty_chunks(350_000), "image/png"),
    "PNG, RGBA of 88 MP": HostileImage(lambda: png(SIDE_88MP, SIDE_88MP, colour_type=6), "image/png"),
    "PNG, interlaced, 88 MP": HostileImage(
        lambda: png(SIDE_88MP, SIDE_88MP, colour_type=2, is_interlaced=True), "image/png"
    ),
    "GIF, comments": HostileImage(lambda: gif_comments(1_000_000), "image/gif"),
    "GIF, sub-blocks": HostileImage(lambda: gif_sub_blocks(2_500_000), "image/gif"),
    "GIF, unknown extensions": HostileImage(lambda: gif_unknown_extensions(1_000_000), "image/gif"),
    "GIF, frames": HostileImage(lambda: gif_frames(4000, 200), "image/gif"),
    "BMP, runs": HostileImage(lambda: bmp_runs(1024, 2000), "image/bmp"),
    "WebP, chunks": HostileImage(lambda: webp_chunks(500_000), "image/webp"),
    "WebP, frames": HostileImage(lambda: webp_frames(4000, 8000), "image/webp"),
    "AVIF, larger than it says": HostileImage(lambda: avif_larger_than_it_says(8000), "image/avif"),
    "JPEG, scans of 88 MP": HostileImage(lambda: jpeg_scans(SIDE_88MP, 100), "image/jpeg"),
}
"""By name, as they are measured: a few megabytes at most, which cost seconds or gigabytes where nothing bounds them."""
