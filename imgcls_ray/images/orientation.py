"""Turn pixels upright as EXIF orientation 1 to 8 says; anything else in the tag means that they already are."""

from __future__ import annotations

import struct

import numpy as np

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_EXIF_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_IFD_ENTRY_BYTES = 12


def read_orientation(exif: bytes) -> int:
    """Read the orientation from an EXIF block, with or without its ``Exif`` prefix.

    Only the one tag is looked at: a block that is damaged elsewhere still counts, one that is damaged before the tag
    reads as upright.

    Returns:
        1 to 8.
    """
    tiff = exif.removeprefix(_EXIF_PREFIX)
    byte_order = _BYTE_ORDERS.get(tiff[:4])
    if byte_order is None:
        return UPRIGHT
    try:
        (ifd,) = struct.unpack_from(byte_order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(byte_order + "H", tiff, ifd)
    except struct.error:
        return UPRIGHT
    first = ifd + 2
    # A damaged count must not cost the entries that are there.
    num_entries = min(num_entries, (len(tiff) - first) // _IFD_ENTRY_BYTES)
    entries = tiff[first : first + num_entries * _IFD_ENTRY_BYTES]
    for tag, kind, _count, value in struct.iter_unpack(byte_order + "HHIHxx", entries):
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and 1 <= value <= 8 else UPRIGHT
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
    return np.ascontiguousarray(pixels)
