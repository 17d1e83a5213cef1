"""Tell an image's format by its content, never by its name.

The formats named here are the only ones that any decoder of this package is ever given.
"""

from __future__ import annotations

import struct
from enum import Enum, auto


class ImageFormat(Enum):
    """The allow-list."""

    JPEG = auto()
    PNG = auto()
    WEBP = auto()
    AVIF = auto()
    GIF = auto()
    BMP = auto()
    TIFF = auto()


_MAGIC = (
    (b"\xff\xd8\xff", ImageFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", ImageFormat.PNG),
    (b"GIF87a", ImageFormat.GIF),
    (b"GIF89a", ImageFormat.GIF),
    (b"II*\0", ImageFormat.TIFF),
    (b"MM\0*", ImageFormat.TIFF),
    (b"II+\0", ImageFormat.TIFF),  # BigTIFF
    (b"MM\0+", ImageFormat.TIFF),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff_format(data: bytes) -> ImageFormat | None:
    """Name the format of an encoded image, or None for everything that is not on the allow-list."""
    for magic, image_format in _MAGIC:
        if data.startswith(magic):
            return image_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if _is_avif(data):
        return ImageFormat.AVIF
    if _is_bmp(data):
        return ImageFormat.BMP
    return None


def _is_avif(data: bytes) -> bool:
    # The container is shared with HEIC and MP4: only the brands of its first box tell them apart.
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    # The second word is a version, not a brand.
    return any(brands[i : i + 4] in _AVIF_BRANDS for i in range(0, len(brands), 4) if i != 4)


def _is_bmp(data: bytes) -> bool:
    # Two letters begin many texts; the size of the header that follows does not.
    if data[:2] != b"BM" or len(data) < 18:
        return False
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    return header_bytes in _BMP_HEADER_BYTES
