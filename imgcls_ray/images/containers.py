"""Find out from the outside whether a file is whole, before a decoder guesses what its missing part looked like."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE_BYTES = 8
# The chunks that make pixels. The rest is dropped unread: text that inflates to gigabytes, colour profiles, animation.
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})


def keep_pixel_chunks(png: bytes) -> bytes:
    """Return the PNG with only the chunks that its pixels and orientation need, checksums unchanged.

    Raises:
        ImageError: ``truncated`` where the file ends before its ``IEND`` chunk.
    """
    view = memoryview(png)
    kept = [view[:_PNG_SIGNATURE_BYTES]]
    for kind, start, end in _png_chunks(png):
        if kind in _PNG_PIXEL_CHUNKS:
            kept.append(view[start:end])
    return b"".join(kept)


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = _PNG_SIGNATURE_BYTES
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length
        if end > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends inside a chunk")
        yield kind, position, end
        position = end


def check_riff_complete(riff: bytes) -> None:
    """Raise ``truncated`` where a RIFF file (WebP) is shorter than it says."""
    declared = 8 + int.from_bytes(riff[4:8], "little")
    if declared > len(riff):
        raise ImageError(ImageErrorCode.TRUNCATED, f"{len(riff)} of {declared} bytes")


def check_bmff_complete(bmff: bytes) -> None:
    """Raise ``truncated`` where a box of an ISO media file (AVIF) reaches beyond the end."""
    position = 0
    while position < len(bmff):
        header = bmff[position : position + 16]
        size = int.from_bytes(header[:4], "big")
        if size == 0:  # up to the end of the file
            return
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        # Less than its own header would never advance; what it means is for the decoder to say.
        if len(header) >= 8 and size < 8:
            return
        if len(header) < 8 or position + size > len(bmff):
            raise ImageError(ImageErrorCode.TRUNCATED, "an AVIF box reaches beyond the end of the file")
        position += size
