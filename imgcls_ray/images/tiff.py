"""Look at a TIFF without decoding it, to find incomplete files and files that Pillow would read wrongly."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.tiff_directory import NONE, coded_size, first_value, read_first_ifd, read_sub_ifds
from imgcls_ray.images.tiff_tags import (
    COMPRESSION,
    DATA_TAGS,
    DNG_VERSION,
    INK_SET,
    LENGTH,
    NEW_SUBFILE_TYPE,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    SEPARATED,
    SUB_IFDS,
    TILE_LENGTH,
    TILE_WIDTH,
    WIDTH,
)

if TYPE_CHECKING:
    from imgcls_ray.images.tiff_directory import Tags

_COLOUR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892
_REDUCED = 1
_CMYK_INKS = 1
# Unsigned integers, and "undefined", which those who write it mean by nothing.
_UNSIGNED_FORMATS = frozenset({1, 4})
# Grey, RGB, palette, CMYK, YCbCr.
_PHOTOMETRICS = frozenset({0, 1, 2, 3, 5, 6})
# None, fax, LZW, JPEG old and new, deflate, packbits, LZMA and Zstandard: what Pillow's libtiff is built with. Not 2,
# fax without ends of lines: libtiff 4.7 reads the last line of a strip wrongly.
_COMPRESSIONS = frozenset({1, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000})
_BIG_ENDIAN_BIGTIFF = b"MM\0+"
# Where Canon's files say what they are.
_CR2_MAGIC, _CR2_MAGIC_AT = b"CR\x02", 8


def is_tiff_complete(tiff: bytes) -> bool:
    """Whether the first page's directory, and the strips or tiles that it lists, lie within the file.

    Use it to explain a failed decoding, not to refuse a file: byte counts beyond the end are common and often harmless.
    """
    try:
        tags = read_first_ifd(tiff)
    except (struct.error, ValueError, OverflowError):
        return False
    for offsets_tag, counts_tag in DATA_TAGS:
        offsets, counts = tags.get(offsets_tag, NONE), tags.get(counts_tag, NONE)
        num_pieces = min(len(offsets), len(counts))
        # Floats, because hostile integers of 64 bits would wrap around to a sum within the file.
        ends = offsets[:num_pieces].astype(float) + counts[:num_pieces].astype(float)
        if (ends > len(tiff)).any():
            return False
    return True


def check_tiff(tiff: bytes) -> None:
    """Refuse files whose pixels Pillow would read wrongly.

    A camera's raw file (NEF, DNG, CR2, ARW, ...) is a TIFF whose first page is a thumbnail. Pages for zooming out (a
    pyramid's SubIFDs, which are smaller than the first page) are none of that.

    Raises:
        ImageError: ``unsupported_format``.
    """
    reason = _reason_to_refuse(tiff)
    if reason:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, reason)


def _reason_to_refuse(tiff: bytes) -> str:
    if tiff.startswith(_BIG_ENDIAN_BIGTIFF):
        return "a big-endian BigTIFF"  # Pillow looks for its first directory in the wrong place
    raw_reason = "it is marked as Canon's CR2" if tiff.startswith(_CR2_MAGIC, _CR2_MAGIC_AT) else ""
    try:
        first = read_first_ifd(tiff)
        raw_reason = raw_reason or _raw_reason(tiff, first)
    except (struct.error, ValueError, OverflowError):
        first = {}  # damaged: Pillow says how
    if raw_reason:
        return f"a camera raw file: {raw_reason}; convert it to JPEG, PNG or plain TIFF"
    if first_value(first, COMPRESSION, 1) not in _COMPRESSIONS:
        return f"a TIFF of compression {first_value(first, COMPRESSION)}"
    if first_value(first, PHOTOMETRIC) not in _PHOTOMETRICS:
        return f"a TIFF of photometric {first_value(first, PHOTOMETRIC)}"
    if not {int(kind) for kind in first.get(SAMPLE_FORMAT, ())} <= _UNSIGNED_FORMATS:
        return "a TIFF of signed integers or floats, which have no agreed black and white"
    if first_value(first, PHOTOMETRIC) == SEPARATED and first_value(first, INK_SET, _CMYK_INKS) != _CMYK_INKS:
        return "a TIFF of other inks than CMYK"
    return ""


def _raw_reason(tiff: bytes, first: Tags) -> str:
    if DNG_VERSION in first:
        return "it has a DNG version"
    pages = [first, *read_sub_ifds(tiff, first)]
    if any(first_value(page, PHOTOMETRIC) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW) for page in pages):
        return "it holds a sensor's samples"
    if SUB_IFDS not in first:
        return ""
    sizes = [_num_pixels(page) for page in pages[1:]]
    is_reduced = bool(first_value(first, NEW_SUBFILE_TYPE) & _REDUCED)
    # One that calls itself reduced is no thumbnail where all that lies below it is smaller still.
    smallest_whole = _num_pixels(first) + (0 if is_reduced else 1)
    if any(size >= smallest_whole for size in sizes) or (is_reduced and not sizes):
        return "its first page is a thumbnail of what lies in SubIFDs"
    return ""


def _num_pixels(tags: Tags) -> int:
    return first_value(tags, WIDTH) * first_value(tags, LENGTH)


def read_coded_size(tiff: bytes) -> tuple[int, int]:
    """Width and height of what has to be decoded for the first page: whole tiles.

    Raises:
        ValueError, struct.error, OverflowError: there is no such page.
    """
    tags = read_first_ifd(tiff)
    width, height = first_value(tags, WIDTH), first_value(tags, LENGTH)
    tile_width, tile_length = max(1, first_value(tags, TILE_WIDTH)), max(1, first_value(tags, TILE_LENGTH))
    return coded_size(width, height, tile_width, tile_length)
