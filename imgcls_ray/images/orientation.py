"""Turn pixels upright by their EXIF orientation, 1 to 8; any other value means that they are upright.

Only EXIF counts, as in OpenCV and in browsers: an orientation in XMP, or in a PNG's text, is not looked at.
"""

from __future__ import annotations

import re
import struct

import numpy as np

UPRIGHT = 1
EXIF_PREFIX = b"Exif\0\0"
_PREFIXES = re.compile(rb"(?:Exif\0\0)*")
_ORIENTATION_TAG = 0x0112
# Cameras write SHORT, and libraries every other integer. In a big-endian file a value lies in the first bytes of its
# field, however short it is.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# A block has tens of entries, in the order of their tags, of which orientation is among the first.
_MAX_ENTRIES = 1_000
_IFD_ENTRY_BYTES, _VALUE_BYTES = 12, 4


def find_orientation(exif: bytes) -> int | None:
    """Read the orientation from an EXIF block, with or without its ``Exif`` prefix.

    Only this tag is read, so a block that is damaged elsewhere is still used. Of several values the first one is used.

    Returns:
        1 to 8: what the block says, 1 for a value that does not exist. None: it says nothing, or is damaged before the
        tag.
    """
    # Some writers put it twice; a block that is full of them must not cost a copy for each.
    prefixes = _PREFIXES.match(exif)
    tiff = exif[prefixes.end() :] if prefixes else exif
    byte_order = _BYTE_ORDERS.get(tiff[:4])
    if byte_order is None:
        return None
    try:
        (ifd,) = struct.unpack_from(byte_order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(byte_order + "H", tiff, ifd)
        first = ifd + 2
        # A damaged count must not cost the entries that are there.
        num_entries = min(num_entries, (len(tiff) - first) // _IFD_ENTRY_BYTES, _MAX_ENTRIES)
        entries = tiff[first : first + num_entries * _IFD_ENTRY_BYTES]
        for index, (tag, kind, count) in enumerate(struct.iter_unpack(byte_order + "HHI4x", entries)):
            if tag == _ORIENTATION_TAG and kind in _INTEGERS:
                return _read_value(tiff, byte_order, _INTEGERS[kind], count, first + index * _IFD_ENTRY_BYTES + 8)
    except struct.error:
        return None
    return None


def _read_value(tiff: bytes, byte_order: str, code: str, count: int, at: int) -> int:
    # What does not fit into the field lies where the field says. A count of 0 is a common mistake for 1.
    if count * struct.calcsize(byte_order + code) > _VALUE_BYTES:
        (at,) = struct.unpack_from(byte_order + "I", tiff, at)
    (value,) = struct.unpack_from(byte_order + code, tiff, at)
    return value if 1 <= value <= 8 else UPRIGHT


def read_orientation(*blocks: bytes) -> int:
    """Read the orientation from the first EXIF block that gives one: 1 to 8, 1 where none does."""
    for block in blocks:
        orientation = find_orientation(block)
        if orientation is not None:
            return orientation
    return UPRIGHT


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation.

    Args:
        pixels: (H, W, C) as stored.
        orientation: 1 to 8.

    Returns:
        C-contiguous; (W, H, C) for the orientations 5 to 8. The input itself where nothing had to move.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # A side of one pixel counts as contiguous whatever its stride, and torch takes no negative ones.
    return pixels.copy() if min(pixels.strides) < 0 else np.ascontiguousarray(pixels)
