"""Make image files, whole and broken, from a few lines each.

Nothing is downloaded, and nothing is stored but two tiny files that no encoder at hand can make.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

EOI = b"\xff\xd9"

# jpegtran -arithmetic (libjpeg-turbo 2.1.5) on the 24 x 16 picture of `slopes`, quality 60.
ARITHMETIC_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYV"
    "pQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//yQARCAAQ"
    "ABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AG2oyGgB1M8cK7dl6+/HuROF1kAD03cyB5G56MZCVGyoaomjZcTla8q0/9"
    "k="
)
# avifenc -d 10 -s 10 --min 20 --max 40 (libavif 0.11.1) on the same picture.
AVIF_10_BIT = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADybWV0YQAAAAAAAAAoaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAGxpYmF2aW"
    "YAAAAADnBpdG0AAAAAAAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAABGgAAAE8AAAAoaWluZgAAAAAAAQAAABppbmZlAgAAAAABAABhdjAxQ29s"
    "b3IAAAAAamlwcnAAAABLaXBjbwAAABRpc3BlAAAAAAAAABgAAAAQAAAAEHBpeGkAAAAAAwoKCgAAAAxhdjFDgSBAAAAAABNjb2xybmNseAABAA"
    "0ABoAAAAAXaXBtYQAAAAAAAAABAAEEAQKDBAAAAFdtZGF0EgAKCDgQ7+xgIaDSMkEXgAwwwwQAxcKlX4COODttLG2LADbbP//8yeo33wJmj+9/"
    "95Tyzn1+FCFsLvTavWqwZRRTnQxDumsIHQqqUDbaIA=="
)


def slopes(width: int = 24, height: int = 16) -> np.ndarray:
    """A picture that has no symmetry and compresses well: red grows rightwards, green downwards, blue leftwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 240 // width, y * 240 // height, 255 - x * 240 // width]).astype(np.uint8)


def encode(pixels: np.ndarray, image_format: str, mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, image_format, **options)
    return file.getvalue()


def encode_frames(frames: list[np.ndarray], image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(file, image_format, save_all=True, append_images=rest, **options)
    return file.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with this orientation and nothing else, without its ``Exif`` prefix."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


# JPEG


def jpeg(pixels: np.ndarray | None = None, mode: str | None = None, **options: object) -> bytes:
    return encode(slopes() if pixels is None else pixels, "JPEG", mode, **{"quality": 95, **options})


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def insert_segments(encoded: bytes, *segments: bytes) -> bytes:
    """Put segments directly behind a JPEG's start."""
    return encoded[:2] + b"".join(segments) + encoded[2:]


def app1_exif(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


def find_frame(encoded: bytes) -> int:
    """Offset of the payload of a JPEG's frame header: precision, height, width, components."""
    position = 2
    while encoded[position + 1] not in (0xC0, 0xC1, 0xC2, 0xC9):
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return position + 4


def overwrite(encoded: bytes, offset: int, replacement: bytes) -> bytes:
    return encoded[:offset] + replacement + encoded[offset + len(replacement) :]


def set_jpeg_size(encoded: bytes, width: int, height: int) -> bytes:
    return overwrite(encoded, find_frame(encoded) + 1, struct.pack(">HH", height, width))


def set_luma_sampling(encoded: bytes, sampling: int) -> bytes:
    """Say other sampling factors, e.g. 0x41 for 4:1:1, which Pillow does not write.

    A valid file where the number of blocks stays the same: sides of multiples of 32, and 4:2:0 (0x22) becomes 4:1:1
    (0x41), or 4:2:2 (0x21) becomes 4:4:0 (0x12). Its blocks are in other places then.
    """
    return overwrite(encoded, find_frame(encoded) + 7, bytes([sampling]))


def jpeg_with_scans(num_scans: int) -> bytes:
    """A progressive JPEG that refines the same coefficients over and over."""
    encoded = jpeg(progressive=True)
    last_scan = encoded[encoded.rindex(b"\xff\xda") : -len(EOI)]
    return encoded[: -len(EOI)] + last_scan * (num_scans - encoded.count(b"\xff\xda")) + EOI


def ycck_jpeg(width: int, height: int) -> bytes:
    """All red, as Photoshop writes it: YCCK of inverted CMYK, Adobe marker with transform 2."""
    # Red is no cyan, all magenta, all yellow, no black. Stored: Y, Cb, Cr of (0, 255, 255), and 255 - K.
    stored = np.array([179, 171, 0, 255], dtype=np.uint8)
    # Pillow inverts what it writes as CMYK.
    cmyk = Image.fromarray(np.broadcast_to(255 - stored, (height, width, 4)).copy(), "CMYK")
    file = io.BytesIO()
    cmyk.save(file, "JPEG", quality=100)
    encoded = file.getvalue()
    adobe = encoded.index(b"Adobe")
    return overwrite(encoded, adobe + 11, b"\x02")


def lossless_jpeg(grey: np.ndarray) -> bytes:
    """Encode uint8 (H, W) as the lossless process of the standard (SOF3), predicting from the left.

    Every category of differences has a code of four bits.
    """
    height, width = grey.shape
    bits = ""
    for y in range(height):
        for x in range(width):
            above_or_start = int(grey[y - 1, 0]) if y else 128
            difference = int(grey[y, x]) - (int(grey[y, x - 1]) if x else above_or_start)
            category = abs(difference).bit_length()
            bits += f"{category:04b}"
            if category:
                bits += f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return (
        b"\xff\xd8"
        + segment(0xC3, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0))
        + segment(0xC4, b"\0" + bytes([0, 0, 0, 9] + [0] * 12) + bytes(range(9)))
        + segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
        + scan
        + EOI
    )


# PNG


def png_chunk(kind: bytes, payload: bytes, *, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + payload) if crc is None else crc
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", crc)


def png(
    size: tuple[int, int], bit_depth: int, colour_type: int, rows: bytes, *before_data: bytes, interlaced: bool = False
) -> bytes:
    """A PNG of packed rows, each with its filter byte, with further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", *size, bit_depth, colour_type, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *before_data,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


def png_rows(*rows: bytes) -> bytes:
    return b"".join(b"\0" + row for row in rows)


# Others


def bmp(width: int, height: int, bits: int, compression: int, body: bytes, palette: bytes = b"") -> bytes:
    """A BMP with the 40-byte header; a negative height means top-down."""
    start = 14 + 40 + len(palette)
    colours = len(palette) // 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 2835, 2835, colours, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def tiff(
    size: tuple[int, int],
    bits: tuple[int, ...],
    photometric: int,
    body: bytes,
    *extra: tuple[int, int, int],
    order: str = "<",
    next_ifd: int = 0,
) -> bytes:
    """An uncompressed TIFF of one strip; further entries as (tag, type, value)."""
    width, height = size
    start = 8
    bits_at = start + len(body)
    packed_bits = struct.pack(f"{order}{len(bits)}H", *bits)
    # Up to four bytes lie in the entry itself, a single short as it is.
    bits_value = bits[0] if len(bits) == 1 else bits_at
    if len(bits) == 2:
        (bits_value,) = struct.unpack(order + "I", packed_bits)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, len(bits), bits_value),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, start),
        (277, 3, 1, len(bits)),
        (278, 4, 1, height),
        (279, 4, 1, len(body)),
        *((tag, kind, 1, value) for tag, kind, value in extra),
    ]
    ifd = bits_at + len(packed_bits)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "I", ifd)
        + body
        + packed_bits
        + struct.pack(order + "H", len(entries))
        + b"".join(_tiff_entry(*entry, order) for entry in sorted(entries))
        + struct.pack(order + "I", next_ifd)
    )


def _tiff_entry(tag: int, kind: int, count: int, value: int, order: str) -> bytes:
    # A single short lies in the first half of the value's word, whatever the byte order.
    packed = struct.pack(order + "HH", value, 0) if (kind, count) == (3, 1) else struct.pack(order + "I", value)
    return struct.pack(order + "HHI", tag, kind, count) + packed


def riff_webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(k + struct.pack("<I", len(p)) + p + b"\0" * (len(p) % 2) for k, p in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
