"""Read the boxes of which AVIF, HEIF and JPEG XL files are made (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

# A file has some ten boxes.
_MAX_BOXES = 10_000


class Box(NamedTuple):
    """Where the content of one box lies."""

    kind: bytes
    start: int
    end: int
    """According to its header: in a damaged file, it may lie behind the end of the file, or before ``start``."""


def iter_boxes(data: bytes, position: int, stop: int) -> Iterator[Box]:
    """The boxes between ``position`` and ``stop``, up to one that makes no sense."""
    while (box := _read_box(data, position, stop)) is not None and box.start <= box.end <= stop:
        yield box
        position = box.end


def iter_file_boxes(data: bytes, name: str) -> Iterator[Box]:
    """The boxes of a whole file of the format ``name``. One that is smaller than its header is the last.

    Raises:
        ImageError: ``truncated`` where the file ends inside a box; ``corrupt`` for more boxes than any file has.
    """
    position = num_boxes = 0
    while position < len(data):
        num_boxes += 1
        if num_boxes > _MAX_BOXES:
            raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_BOXES} boxes in the {name}")
        box = _read_box(data, position, len(data))
        if box is None:
            raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} ends inside the header of a box")
        if box.end > len(data):
            raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} has {len(data)} of at least {box.end} bytes")
        yield box
        if box.end < box.start:
            return
        position = box.end


def _read_box(data: bytes, position: int, stop: int) -> Box | None:
    """None where ``stop`` lies inside its header."""
    start = position + 8
    if start > stop:
        return None
    size, kind = struct.unpack_from(">I4s", data, position)
    if size == 1:  # the real size follows
        start += 8
        if start > stop:
            return None
        (size,) = struct.unpack_from(">Q", data, position + 8)
    # Zero: it reaches to the end of the file, or of the box around it.
    return Box(kind, start, position + size if size else stop)
