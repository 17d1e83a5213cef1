"""Tell an image's format by its content, never by its name.

Decoders of this package get files of these formats only.
"""

from __future__ import annotations

import struct
from enum import Enum, auto

JXL_CODESTREAM_MAGIC = b"\xff\x0a"
JXL_CONTAINER_MAGIC = b"\0\0\0\x0cJXL \r\n\x87\n"


class ImageFormat(Enum):
    """The allow-list."""

    JPEG = auto()
    PNG = auto()
    WEBP = auto()
    AVIF = auto()
    GIF = auto()
    BMP = auto()
    TIFF = auto()
    HEIF = auto()
    """HEIC and its kin. Read with the extra ``heif``."""
    JXL = auto()
    """JPEG XL. Read with the extra ``jxl``."""


_MAGIC = (
    (b"\xff\xd8\xff", ImageFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", ImageFormat.PNG),
    (b"GIF87a", ImageFormat.GIF),
    (b"GIF89a", ImageFormat.GIF),
    (b"II*\0", ImageFormat.TIFF),
    (b"MM\0*", ImageFormat.TIFF),
    (b"II+\0", ImageFormat.TIFF),  # BigTIFF
    (b"MM\0+", ImageFormat.TIFF),
    (JXL_CODESTREAM_MAGIC, ImageFormat.JXL),
    (JXL_CONTAINER_MAGIC, ImageFormat.JXL),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# The last two say only that there is a still picture or a sequence, of any codec.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_ANY_CODEC_BRANDS = frozenset({b"mif1", b"msf1"})
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff_format(data: bytes) -> ImageFormat | None:
    """Name the format of an encoded image, or None for everything that is not on the allow-list."""
    for magic, image_format in _MAGIC:
        if data.startswith(magic):
            return image_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if data[4:8] == b"ftyp":
        return _bmff_format(data)
    if _is_bmp(data):
        return ImageFormat.BMP
    return None


def _bmff_format(data: bytes) -> ImageFormat | None:
    """The container is shared with MP4: only the brands of its first box tell what is in it."""
    words = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    # The second word is a version, not a brand.
    brands = [words[i : i + 4] for i in range(0, len(words), 4) if i != 4]
    # The first brand is what the file is best read as; files of any codec say their codec among the others.
    for candidates in (brands[:1], brands):
        if not _AVIF_BRANDS.isdisjoint(candidates):
            return ImageFormat.AVIF
        if not _HEIC_BRANDS.isdisjoint(candidates):
            return ImageFormat.HEIF
    return None if _ANY_CODEC_BRANDS.isdisjoint(brands) else ImageFormat.HEIF


def _is_bmp(data: bytes) -> bool:
    # Two letters begin many texts; the size of the header that follows does not.
    if data[:2] != b"BM" or len(data) < 18:
        return False
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    return header_bytes in _BMP_HEADER_BYTES
