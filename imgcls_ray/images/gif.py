"""Read a GIF's blocks up to its first picture, because Pillow reads every small block separately, in Python."""

from __future__ import annotations

import re
import struct

from imgcls_ray.errors import ImageError, ImageErrorCode

_SCREEN_BYTES, _SIZE_AT, _FLAGS_AT = 13, 6, 10
_HAS_PALETTE, _HAS_TRANSPARENCY = 0x80, 1
_EXTENSION, _PICTURE, _END = b"!,;"
_GRAPHIC_CONTROL, _GRAPHIC_CONTROL_BYTES = 0xF9, 4
# Junk between blocks is skipped in C, as it can fill a file.
_NEXT_BLOCK = re.compile(b"[!,;]")
# Before the first picture. Real files have a few extensions, of which one may hold megabytes of XMP or a profile.
_MAX_EXTENSIONS, _MAX_SUB_BLOCKS = 10_000, 500_000


def read_gif_size(gif: bytes) -> tuple[int, int]:
    """Width and height of the whole canvas."""
    width, height = struct.unpack_from("<HH", gif, _SIZE_AT)
    return width, height


def keep_first_picture(gif: bytes) -> bytes:
    """The file with nothing before its first picture but palette and transparency: no comments, no other extensions.

    Raises:
        ImageError: ``corrupt`` for more extensions than any file has; ``truncated`` where there is no picture.
    """
    flags = gif[_FLAGS_AT] if len(gif) > _FLAGS_AT else 0
    start = position = _SCREEN_BYTES + ((6 << (flags & 7)) if flags & _HAS_PALETTE else 0)
    control = b""
    length = len(gif)
    num_sub_blocks = 0
    for _ in range(_MAX_EXTENSIONS):
        found = _NEXT_BLOCK.search(gif, position)
        if found is None or gif[found.start()] == _END:
            raise ImageError(ImageErrorCode.TRUNCATED, "the GIF ends before its first picture")
        position = found.start()
        if gif[position] == _PICTURE:
            return b"".join([gif[:start], control, memoryview(gif)[position:]])
        first = position + 2
        end = first
        while end < length and gif[end]:
            end += gif[end] + 1
            num_sub_blocks += 1
            if num_sub_blocks > _MAX_SUB_BLOCKS:
                raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_SUB_BLOCKS} blocks before the GIF's picture")
        # Pillow takes the first sub-block alone. One without transparency does not undo an earlier one.
        is_control = gif[position + 1 : first + 1] == bytes([_GRAPHIC_CONTROL, _GRAPHIC_CONTROL_BYTES])
        if is_control and gif[first + 1] & _HAS_TRANSPARENCY:
            control = gif[position : first + 1 + _GRAPHIC_CONTROL_BYTES] + b"\0"
        position = end + 1
    raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_EXTENSIONS} extensions before the GIF's picture")
