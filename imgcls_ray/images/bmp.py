"""Read what Pillow leaves out of a BMP: the transparency of pixels of 16 bits."""

from __future__ import annotations

import struct

import numpy as np

_INFO_HEADER_AT = 14
# From this header on, a fourth mask says which bits are alpha.
_ALPHA_HEADER_BYTES = 56
_BITFIELDS = 3


def read_alpha_of_16_bits(bmp: bytes) -> np.ndarray | None:
    """Alpha of a BMP that Pillow has decoded: bool (H, W), top row first; None where there is none.

    Pillow decodes such pixels with 5 bits a colour only, which leave one for alpha.
    """
    if int.from_bytes(bmp[_INFO_HEADER_AT : _INFO_HEADER_AT + 4], "little") < _ALPHA_HEADER_BYTES:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", bmp, _INFO_HEADER_AT + 4)
    if bits != 16 or compression != _BITFIELDS:
        return None
    (pixels_at,) = struct.unpack_from("<I", bmp, 10)
    (mask,) = struct.unpack_from("<I", bmp, _INFO_HEADER_AT + 52)
    if not mask & 0xFFFF:
        return None
    row_words = -(-width // 2) * 2  # rows end on whole words of 32 bits
    rows = np.frombuffer(bmp, "<u2", row_words * abs(height), pixels_at).reshape(abs(height), row_words)
    is_opaque: np.ndarray = (rows[:, :width] & mask) != 0
    if not is_opaque.any():
        return None  # bits that nobody set
    return is_opaque if height < 0 else is_opaque[::-1]
